"""Names and layouts of Flax and TensorFlow 1, in the words of PyTorch that the name tables use.

Flax: transformers' Flax classes (BERT, DistilBERT). TensorFlow 1: google-research's BERT and
MobileBERT and yitu-opensource's ConvBert, pretraining or fine-tuned, and the forks of their code.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from jbert.convert.weights import ConversionError
from jbert.formats import Tensor, Weights

logger = logging.getLogger("jbert")

Layout = Callable[[np.ndarray], np.ndarray]
# A stored name's name in PyTorch, and what makes its array lie as PyTorch's does.
Spelled = tuple[str, Layout]


def in_pytorch_words(weights: Weights, model_type: str) -> Mapping[str, Tensor]:
    """The tensors under PyTorch's names and in its layout, whatever wrote them.

    Nothing is read: shapes are those that `read` will give. What is no weight of the model (slots
    of an optimiser, step counters, ELECTRA's generator) is left out; a name that is not understood
    stays as it is stored, for the name tables to refuse.
    """
    # Flax classes also wrote safetensors: the same names, joined by dots.
    writer = weights.metadata.get("format")
    if weights.format == "flax" or (weights.format == "safetensors" and writer == "flax"):
        spelled = _from_flax(weights)
    elif weights.format == "tf":
        spelled = _from_tf1(weights, model_type)
    elif weights.format == "safetensors" and writer == "tf":
        raise _keras(weights)
    else:
        return weights
    result: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for stored, (name, layout) in spelled.items():
        if name in result:
            raise ConversionError(
                f"{weights.source}: {origin[name]} and {stored} would both be {name}; expected "
                "one of them. Save the checkpoint again from a single model"
            )
        result[name], origin[name] = _laid_out(weights[stored], layout), stored
    left_out = [name for name in weights if name not in spelled]
    if left_out:
        logger.info("%s: left out as no weights of this model: %s", weights.source,
                    ", ".join(left_out))  # fmt: skip
    return result


# -- layouts --------------------------------------------------------------------------------


def _laid_out(tensor: Tensor, layout: Layout) -> Tensor:
    # The shape comes from a view that occupies no memory.
    shape = layout(np.broadcast_to(np.float32(0), tensor.shape)).shape
    read = tensor.read
    return Tensor(tensor.name, shape, tensor.dtype, lambda: layout(read()), tensor.storage)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _reversed(x: np.ndarray) -> np.ndarray:
    """(in, out) to (out, in), and a pointwise convolution's (1, in, out) to (out, in, 1)."""
    return x.T


def _taps_last(x: np.ndarray) -> np.ndarray:
    """A depthwise convolution's (taps, channels, 1) to (channels, 1, taps)."""
    return np.moveaxis(x, 0, -1) if x.ndim else x


def _column(x: np.ndarray) -> np.ndarray:
    return x[..., None]


# -- transformers' Flax classes -------------------------------------------------------------

_FLAX_LEAVES: dict[str, Spelled] = {
    "kernel": ("weight", _reversed),
    "embedding": ("weight", _same),
    "scale": ("weight", _same),
}


def _from_flax(names: Iterable[str]) -> dict[str, Spelled]:
    paths = {name: name.replace(".", "/") for name in names}
    # Variables of `module.init`, or a whole train state, whose other entries are no parameters.
    while any(path.startswith("params/") for path in paths.values()):
        paths = {
            name: path.removeprefix("params/")
            for name, path in paths.items()
            if path.startswith("params/")
        }
    result = {}
    for name, path in paths.items():
        *modules, leaf = path.split("/")
        word, layout = _FLAX_LEAVES.get(leaf, (leaf, _same))
        result[name] = ".".join([*modules, word]), layout
    return result


# -- TensorFlow 1 ---------------------------------------------------------------------------

# Slots that optimisers keep beside each variable, last in its name or as a scope of their own.
_SLOTS = re.compile(r"(.*/)?((adam|lamb)_[mv]|(Adam|LAMB)\w*|Momentum|RMSProp\w*)(/.*)?")
# MobileBERT's distillation keeps its teacher in the checkpoint. ConvBert's fine-tuned heads are
# single dense layers, which none of transformers' ConvBERT heads is.
_OTHER_MODELS = ("teacher/", "task_specific/")
# ELECTRA's generator is a model of its own size that shares no layer with the discriminator.
_GENERATOR = ("generator/", "generator_predictions/")

_TF1_PATHS = (
    (r"^output_(weights|bias)$", r"classifier/output_\1"),
    (r"^cls/squad/", "qa_outputs/"),
    # TensorFlow numbers the layers that the original code leaves without a name.
    (r"^discriminator_predictions/dense_1/", "discriminator_predictions/dense_prediction/"),
    (r"^generator_predictions/output_bias$", "generator_lm_head/output_bias"),
    (r"/layer_(\d+)(?=/)", r"/layer/\1"),
    (r"/ffn_layer_(\d+)(?=/)", r"/ffn/\1"),
)
_TF1_HEADS = (
    "cls", "classifier", "qa_outputs",
    "discriminator_predictions", "generator_predictions", "generator_lm_head",
)  # fmt: skip
_TF1_MODULES = {
    "FakeLayerNorm": "LayerNorm",
    "conv_attn_key": "key_conv_attn_layer",
    "conv_attn_kernel": "conv_kernel_layer",
    "conv_attn_point": "conv_out_layer",
    "g_dense": "dense",
}
# By the last word of a name, or the last two where they say more.
_TF1_LEAVES: dict[str, Spelled] = {
    "kernel": ("weight", _reversed),
    "bias": ("bias", _same),
    "gamma": ("weight", _same),
    "beta": ("bias", _same),
    # Classifiers multiply by the transpose, so they lie as PyTorch's do.
    "output_weights": ("weight", _same),
    "output_bias": ("bias", _same),
    "word_embeddings": ("word_embeddings.weight", _same),
    "position_embeddings": ("position_embeddings.weight", _same),
    "token_type_embeddings": ("token_type_embeddings.weight", _same),
    # (vocabulary, width), where PyTorch's MobileBERT has (width, vocabulary).
    "extra_output_weights": ("dense.weight", _reversed),
    "g_dense/kernel": ("weight", _same),
    "conv_attn_key/depthwise_kernel": ("depthwise.weight", _taps_last),
    "conv_attn_key/pointwise_kernel": ("pointwise.weight", _reversed),
    "conv_attn_key/bias": ("bias", _column),
}


def _from_tf1(weights: Weights, model_type: str) -> dict[str, Spelled]:
    if any("/.ATTRIBUTES/" in name for name in weights):
        raise _keras(weights)
    others = _OTHER_MODELS
    if any(name.startswith("generator/") for name in weights):
        others += _GENERATOR
    result = {}
    for name, tensor in weights.items():
        # Scalars count steps or scale losses.
        if tensor.shape and not _SLOTS.fullmatch(name) and not name.startswith(others):
            result[name] = _tf1_words(name, model_type)
    return result


def _tf1_words(name: str, model_type: str) -> Spelled:
    path = re.sub(r"^(bert|electra)/", f"{model_type}/", name)
    for pattern, replacement in _TF1_PATHS:
        path = re.sub(pattern, replacement, path)
    *modules, leaf = path.split("/")
    if not modules or modules[0] not in (model_type, *_TF1_HEADS):
        return name, _same
    spelled = _TF1_LEAVES.get(f"{modules[-1]}/{leaf}") or _TF1_LEAVES.get(leaf)
    if spelled is None:
        return name, _same
    word, layout = spelled
    return ".".join([*(_TF1_MODULES.get(module, module) for module in modules), word]), layout


def _keras(weights: Weights) -> ConversionError:
    return ConversionError(
        f"{weights.source}: expected a TensorFlow 1 checkpoint (bert/encoder/layer_0/…), found one "
        "of TensorFlow 2 or Keras. Use the model's safetensors, PyTorch, Flax or TensorFlow 1 files"
    )
