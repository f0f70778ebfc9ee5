"""A model's parameters as the original TensorFlow 1 repositories name and lay out their variables.

Written from those repositories' code, apart from `jbert.convert`:
google-research/bert, google-research/google-research/mobilebert, yitu-opensource/ConvBert.
"""

import re
from collections.abc import Mapping

import numpy as np

# Modules by our path, without the encoder's prefix, and the variable scope in the repository.
SHARED = {
    "embeddings/norm": "{root}/embeddings/LayerNorm",
    "layer_{i}/attention/query": "{root}/encoder/layer_{i}/attention/self/query",
    "layer_{i}/attention/key": "{root}/encoder/layer_{i}/attention/self/key",
    "layer_{i}/attention/value": "{root}/encoder/layer_{i}/attention/self/value",
    "layer_{i}/attention/out": "{root}/encoder/layer_{i}/attention/output/dense",
    "layer_{i}/attention_norm": "{root}/encoder/layer_{i}/attention/output/LayerNorm",
    "layer_{i}/ffn/in": "{root}/encoder/layer_{i}/intermediate/dense",
    "layer_{i}/ffn/out": "{root}/encoder/layer_{i}/output/dense",
    "layer_{i}/ffn_norm": "{root}/encoder/layer_{i}/output/LayerNorm",
    "pooler/dense": "{root}/pooler/dense",
    "mlm/transform/dense": "cls/predictions/transform/dense",
    "mlm/transform/norm": "cls/predictions/transform/LayerNorm",
}
MOBILEBERT = {
    "embeddings/transformation": "bert/embeddings/embedding_transformation",
    "layer_{i}/bottleneck_input/dense": "bert/encoder/layer_{i}/bottleneck/input/dense",
    "layer_{i}/bottleneck_input/norm": "bert/encoder/layer_{i}/bottleneck/input/FakeLayerNorm",
    "layer_{i}/bottleneck_attention/dense": "bert/encoder/layer_{i}/bottleneck/attention/dense",
    "layer_{i}/bottleneck_attention/norm":
        "bert/encoder/layer_{i}/bottleneck/attention/FakeLayerNorm",
    "layer_{i}/bottleneck_output/dense": "bert/encoder/layer_{i}/output/bottleneck/dense",
    "layer_{i}/bottleneck_output/norm": "bert/encoder/layer_{i}/output/bottleneck/FakeLayerNorm",
    "layer_{i}/ffn_{j}/in": "bert/encoder/layer_{i}/ffn_layer_{j}/intermediate/dense",
    "layer_{i}/ffn_{j}/out": "bert/encoder/layer_{i}/ffn_layer_{j}/output/dense",
    "layer_{i}/ffn_{j}_norm": "bert/encoder/layer_{i}/ffn_layer_{j}/output/FakeLayerNorm",
}  # fmt: skip
CONVBERT = {
    "projection": "electra/embeddings_project",
    "layer_{i}/attention/taps": "electra/encoder/layer_{i}/attention/self/conv_attn_kernel",
    "layer_{i}/attention/conv_value": "electra/encoder/layer_{i}/attention/self/conv_attn_point",
    "mlm/transform/dense": "generator_predictions/dense",
    "mlm/transform/norm": "generator_predictions/LayerNorm",
    "discriminator/dense": "discriminator_predictions/dense",
    "discriminator/out": "discriminator_predictions/dense_1",
}
# Single weights, and what is done to our array.
WEIGHTS = {
    "embeddings/word/embedding": ("{root}/embeddings/word_embeddings", None),
    "embeddings/position/embedding": ("{root}/embeddings/position_embeddings", None),
    "embeddings/segment/embedding": ("{root}/embeddings/token_type_embeddings", None),
    "mlm/bias": ("cls/predictions/output_bias", None),
    "mlm/extra": ("cls/predictions/extra_output_weights", np.transpose),
    "seq_relationship/kernel": ("cls/seq_relationship/output_weights", np.transpose),
    "seq_relationship/bias": ("cls/seq_relationship/output_bias", None),
    "classifier/kernel": ("output_weights", np.transpose),
    "classifier/bias": ("output_bias", None),
    "qa_outputs/kernel": ("cls/squad/output_weights", np.transpose),
    "qa_outputs/bias": ("cls/squad/output_bias", None),
}
CONVBERT_WEIGHTS = {
    "mlm/bias": ("generator_predictions/output_bias", None),
    "layer_{i}/attention/depthwise/kernel": (
        "electra/encoder/layer_{i}/attention/self/conv_attn_key/depthwise_kernel",
        lambda x: x[:, :, None],
    ),
    "layer_{i}/attention/key_conv/kernel": (
        "electra/encoder/layer_{i}/attention/self/conv_attn_key/pointwise_kernel",
        lambda x: x.reshape(1, x.shape[0], -1),
    ),
    "layer_{i}/attention/key_conv/bias": (
        "electra/encoder/layer_{i}/attention/self/conv_attn_key/bias", np.ravel,
    ),
}  # fmt: skip
LEAVES = {"kernel": "kernel", "bias": "bias"}
NORM_LEAVES = {"scale": "gamma", "bias": "beta"}


def tf1_variables(model_type: str, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The variables of the repository that `model_type` comes from, for parameters flat by path."""
    grouped = any(path.endswith("ffn/in/kernel") and np.ndim(x) == 3 for path, x in flat.items())
    variables = {}
    for path, x in flat.items():
        name, value = _variable(model_type, path, np.asarray(x))
        if grouped and re.search(r"ffn/(in|out)/", path):
            name = name.replace("/dense/", "/g_dense/")
        variables[name] = value
    return variables


def _variable(model_type: str, path: str, x: np.ndarray) -> tuple[str, np.ndarray]:
    path = path.removeprefix("encoder/")
    general = re.sub(r"ffn_\d+", "ffn_{j}", re.sub(r"layer_\d+", "layer_{i}", path))
    numbers = {key: re.findall(rf"{key}_(\d+)", path) for key in ("layer", "ffn")}
    fill = {"root": "electra" if model_type == "convbert" else "bert",
            "i": (numbers["layer"] or [""])[0], "j": (numbers["ffn"] or [""])[0]}  # fmt: skip
    own = CONVBERT_WEIGHTS if model_type == "convbert" else {}
    if general in (weights := WEIGHTS | own):
        name, change = weights[general]
        return name.format(**fill), np.ascontiguousarray(x if change is None else change(x))
    module, _, leaf = general.rpartition("/")
    name = (SHARED | {"mobilebert": MOBILEBERT, "convbert": CONVBERT}.get(model_type, {}))[module]
    is_norm = module.endswith("norm")
    if is_norm and model_type == "mobilebert" and name.startswith("{root}/"):
        name = name.replace("LayerNorm", "FakeLayerNorm")
    if module.endswith(("ffn/in", "ffn/out")) and leaf == "kernel" and x.ndim == 3:
        pass  # in groups, (group, in, out) on either side
    elif leaf == "kernel":
        inner = x.shape[0] * x.shape[1] if module.endswith("attention/out") else x.shape[0]
        x = x.reshape(inner, -1)
    else:
        x = x.reshape(-1)
    return f"{name.format(**fill)}/{(NORM_LEAVES if is_norm else LEAVES)[leaf]}", x
