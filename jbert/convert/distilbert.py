"""DistilBERT's weights: transformers' names and jbert's paths."""

from jbert.convert.bert import CLASSIFIER, DISCRIMINATOR
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

LAYER = "transformer.layer.{i}"
ATTENTION = "layer_{i}/attention"
READS_FIRST_TOKEN = (*dense("pre_classifier", "pre_classifier"), *CLASSIFIER)

NAMES = NameTable(
    prefix="distilbert",
    encoder=(
        *table("embeddings.word_embeddings", "embeddings/word"),
        *table("embeddings.position_embeddings", "embeddings/position"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
        *heads_in(f"{LAYER}.attention.q_lin", f"{ATTENTION}/query"),
        *heads_in(f"{LAYER}.attention.k_lin", f"{ATTENTION}/key"),
        *heads_in(f"{LAYER}.attention.v_lin", f"{ATTENTION}/value"),
        *heads_out(f"{LAYER}.attention.out_lin", f"{ATTENTION}/out"),
        *norm(f"{LAYER}.sa_layer_norm", "layer_{i}/attention_norm"),
        *dense(f"{LAYER}.ffn.lin1", "layer_{i}/ffn/in"),
        *dense(f"{LAYER}.ffn.lin2", "layer_{i}/ffn/out"),
        *norm(f"{LAYER}.output_layer_norm", "layer_{i}/ffn_norm"),
    ),
    pooler=(),
    heads={
        "masked_lm": (
            *dense("vocab_transform", "mlm/transform/dense"),
            *norm("vocab_layer_norm", "mlm/transform/norm"),
            Rule("vocab_projector.bias", "mlm/bias"),
            Rule("vocab_projector.weight", "mlm/decoder", TRANSPOSED),
        ),
        "sequence_classification": READS_FIRST_TOKEN,
        "multiple_choice": READS_FIRST_TOKEN,
        "token_classification": CLASSIFIER,
        "question_answering": dense("qa_outputs", "qa_outputs"),
        "replaced_token_detection": DISCRIMINATOR,
    },
)
