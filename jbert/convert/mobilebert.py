"""MobileBERT's weights: transformers' names and jbert's paths."""

from jbert.convert.bert import CLASSIFIER, DISCRIMINATOR, MASKED_LM, NEXT_SENTENCE
from jbert.convert.rules import NameTable, Rule, dense, heads_in, heads_out, norm, table

LAYER = "encoder.layer.{i}"
ATTENTION = "layer_{i}/attention"
# The rows of the output table beyond the width of the token embeddings.
MOBILE_MASKED_LM = (*MASKED_LM, Rule("cls.predictions.dense.weight", "mlm/extra"))


def _bottleneck(hf: str, path: str) -> tuple[Rule, ...]:
    return (*dense(f"{hf}.dense", f"{path}/dense"), *norm(f"{hf}.LayerNorm", f"{path}/norm"))


NAMES = NameTable(
    prefix="mobilebert",
    encoder=(
        *table("embeddings.word_embeddings", "embeddings/word"),
        *table("embeddings.position_embeddings", "embeddings/position"),
        *table("embeddings.token_type_embeddings", "embeddings/segment"),
        *dense("embeddings.embedding_transformation", "embeddings/transformation"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
        *_bottleneck(f"{LAYER}.bottleneck.input", "layer_{i}/bottleneck_input"),
        *_bottleneck(f"{LAYER}.bottleneck.attention", "layer_{i}/bottleneck_attention"),
        *heads_in(f"{LAYER}.attention.self.query", f"{ATTENTION}/query"),
        *heads_in(f"{LAYER}.attention.self.key", f"{ATTENTION}/key"),
        *heads_in(f"{LAYER}.attention.self.value", f"{ATTENTION}/value"),
        *heads_out(f"{LAYER}.attention.output.dense", f"{ATTENTION}/out"),
        *norm(f"{LAYER}.attention.output.LayerNorm", "layer_{i}/attention_norm"),
        *dense(f"{LAYER}.ffn.{{j}}.intermediate.dense", "layer_{i}/ffn_{j}/in"),
        *dense(f"{LAYER}.ffn.{{j}}.output.dense", "layer_{i}/ffn_{j}/out"),
        *norm(f"{LAYER}.ffn.{{j}}.output.LayerNorm", "layer_{i}/ffn_{j}_norm"),
        *dense(f"{LAYER}.intermediate.dense", "layer_{i}/ffn/in"),
        *dense(f"{LAYER}.output.dense", "layer_{i}/ffn/out"),
        *norm(f"{LAYER}.output.LayerNorm", "layer_{i}/ffn_norm"),
        *_bottleneck(f"{LAYER}.output.bottleneck", "layer_{i}/bottleneck_output"),
    ),
    pooler=dense("pooler.dense", "pooler/dense"),
    heads={
        "pretraining": (*MOBILE_MASKED_LM, *NEXT_SENTENCE),
        "masked_lm": MOBILE_MASKED_LM,
        "next_sentence": NEXT_SENTENCE,
        "sequence_classification": CLASSIFIER,
        "multiple_choice": CLASSIFIER,
        "token_classification": CLASSIFIER,
        "question_answering": dense("qa_outputs", "qa_outputs"),
        "replaced_token_detection": DISCRIMINATOR,
    },
)
