"""ConvBERT's weights: transformers' names and jbert's paths."""

from jbert.convert.bert import CLASSIFIER, DISCRIMINATOR
from jbert.convert.rules import (
    COLUMN,
    DEPTHWISE,
    POINTWISE,
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
SELF = f"{LAYER}.attention.self"
ATTENTION = "layer_{i}/attention"

NAMES = NameTable(
    prefix="convbert",
    encoder=(
        *table("embeddings.word_embeddings", "embeddings/word"),
        *table("embeddings.position_embeddings", "embeddings/position"),
        *table("embeddings.token_type_embeddings", "embeddings/segment"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
        *dense("embeddings_project", "projection"),
        *heads_in(f"{SELF}.query", f"{ATTENTION}/query"),
        *heads_in(f"{SELF}.key", f"{ATTENTION}/key"),
        *heads_in(f"{SELF}.value", f"{ATTENTION}/value"),
        Rule(f"{SELF}.key_conv_attn_layer.depthwise.weight", f"{ATTENTION}/depthwise/kernel",
             DEPTHWISE),
        Rule(f"{SELF}.key_conv_attn_layer.pointwise.weight", f"{ATTENTION}/key_conv/kernel",
             POINTWISE),
        Rule(f"{SELF}.key_conv_attn_layer.bias", f"{ATTENTION}/key_conv/bias", COLUMN),
        *dense(f"{SELF}.conv_kernel_layer", f"{ATTENTION}/taps"),
        *heads_in(f"{SELF}.conv_out_layer", f"{ATTENTION}/conv_value"),
        *heads_out(f"{LAYER}.attention.output.dense", f"{ATTENTION}/out"),
        *norm(f"{LAYER}.attention.output.LayerNorm", "layer_{i}/attention_norm"),
        *dense(f"{LAYER}.intermediate.dense", "layer_{i}/ffn/in"),
        *dense(f"{LAYER}.output.dense", "layer_{i}/ffn/out"),
        *norm(f"{LAYER}.output.LayerNorm", "layer_{i}/ffn_norm"),
    ),
    pooler=(),
    heads={
        "masked_lm": (
            *dense("generator_predictions.dense", "mlm/transform/dense"),
            *norm("generator_predictions.LayerNorm", "mlm/transform/norm"),
            Rule("generator_lm_head.bias", "mlm/bias"),
            Rule("generator_lm_head.weight", "mlm/decoder", TRANSPOSED),
        ),
        "sequence_classification": (
            *dense("classifier.dense", "pre_classifier"),
            *dense("classifier.out_proj", "classifier"),
        ),
        "multiple_choice": (*dense("sequence_summary.summary", "summary"), *CLASSIFIER),
        "token_classification": CLASSIFIER,
        "question_answering": dense("qa_outputs", "qa_outputs"),
        "replaced_token_detection": DISCRIMINATOR,
    },
)  # fmt: skip
