"""BERT's weights: transformers' names and jbert's paths."""

from jbert.convert.rules import (
    TRANSPOSED,
    NameTable,
    Rule,
    dense,
    heads_in,
    heads_out,
    norm,
    table,
)

LAYER = "encoder.layer.{i}"


def _attention(hf: str, path: str) -> tuple[Rule, ...]:
    return (
        *heads_in(f"{hf}.self.query", f"{path}/query"),
        *heads_in(f"{hf}.self.key", f"{path}/key"),
        *heads_in(f"{hf}.self.value", f"{path}/value"),
        *table(f"{hf}.self.distance_embedding", f"{path}/relative"),
        *heads_out(f"{hf}.output.dense", f"{path}/out"),
        *norm(f"{hf}.output.LayerNorm", f"{path}_norm"),
    )


ENCODER = (
    *table("embeddings.word_embeddings", "embeddings/word"),
    *table("embeddings.position_embeddings", "embeddings/position"),
    *table("embeddings.token_type_embeddings", "embeddings/segment"),
    *norm("embeddings.LayerNorm", "embeddings/norm"),
    *_attention(f"{LAYER}.attention", "layer_{i}/attention"),
    *_attention(f"{LAYER}.crossattention", "layer_{i}/cross_attention"),
    *dense(f"{LAYER}.intermediate.dense", "layer_{i}/ffn/in"),
    *dense(f"{LAYER}.output.dense", "layer_{i}/ffn/out"),
    *norm(f"{LAYER}.output.LayerNorm", "layer_{i}/ffn_norm"),
)
MASKED_LM = (
    *dense("cls.predictions.transform.dense", "mlm/transform/dense"),
    *norm("cls.predictions.transform.LayerNorm", "mlm/transform/norm"),
    Rule("cls.predictions.bias", "mlm/bias", copies=("cls.predictions.decoder.bias",)),
    Rule("cls.predictions.decoder.weight", "mlm/decoder", TRANSPOSED),
)
NEXT_SENTENCE = dense("cls.seq_relationship", "seq_relationship")
CLASSIFIER = dense("classifier", "classifier")
# transformers has this head for ELECTRA alone; these are ELECTRA's names.
DISCRIMINATOR = (
    *dense("discriminator_predictions.dense", "discriminator/dense"),
    *dense("discriminator_predictions.dense_prediction", "discriminator/out"),
)

NAMES = NameTable(
    prefix="bert",
    encoder=ENCODER,
    pooler=dense("pooler.dense", "pooler/dense"),
    heads={
        "pretraining": (*MASKED_LM, *NEXT_SENTENCE),
        "masked_lm": MASKED_LM,
        "causal_lm": MASKED_LM,
        "next_sentence": NEXT_SENTENCE,
        "sequence_classification": CLASSIFIER,
        "multiple_choice": CLASSIFIER,
        "token_classification": CLASSIFIER,
        "question_answering": dense("qa_outputs", "qa_outputs"),
        "replaced_token_detection": DISCRIMINATOR,
    },
)
