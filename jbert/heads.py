"""What a model returns, and the heads whose parameters and maths every architecture shares."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jbert.activations import ActivationField, activation
from jbert.cross_entropy import chunked_losses
from jbert.execution import Execution
from jbert.layers import Dense, add_bias, dot, vocab_bias, vocab_table
from jbert.norms import LayerNorm


@struct.dataclass
class Output:
    """The results of a call, under Hugging Face's names; None for what the model does not have.

    last_hidden_state:       (batch, length, hidden), of models without a head
    pooler_output:           (batch, hidden), of models without a head that have a pooler
    logits:                  of the model's one head
    prediction_logits, seq_relationship_logits:  of the two heads of pretraining
    start_logits, end_logits:                    of question answering
    hidden_states:           the embeddings and each layer's output, if asked for
    attentions, cross_attentions:                each layer's weights, if asked for
    token_losses:            (batch, k), the loss of each of `targets`, in place of their logits
    cache:                   to pass to the next call of a decoder
    """

    last_hidden_state: Any = None
    pooler_output: Any = None
    logits: Any = None
    prediction_logits: Any = None
    seq_relationship_logits: Any = None
    start_logits: Any = None
    end_logits: Any = None
    hidden_states: Any = None
    attentions: Any = None
    token_losses: Any = None
    cross_attentions: Any = None
    cache: Any = None

    def keys(self) -> tuple[str, ...]:
        """The names of the fields that are there."""
        return tuple(name for name in self.__dataclass_fields__ if self[name] is not None)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def headed(self, **logits: Any) -> "Output":
        """The output of a head on this encoder output, without the encoder's own results."""
        return self.replace(last_hidden_state=None, pooler_output=None, **logits)  # pyright: ignore


class Pooler(nn.Module):
    """tanh(dense(first token))."""

    features: int
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(self, hidden: Float[Array, "b l d"]) -> Float[Array, "b d"]:
        wide = self.execution.wide()
        return jnp.tanh(
            Dense(self.features, "inner", self.stddev, wide, name="dense")(hidden[:, 0])
        )


class TransformHead(nn.Module):
    """norm(act(dense(x))): what every language-model head does before the vocabulary."""

    features: int
    act: ActivationField
    eps: float
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l f"]:
        x = Dense(self.features, "inner", self.stddev, self.execution, name="dense")(x)
        return LayerNorm(self.eps, self.execution, name="norm")(activation(self.act)(x))


class MaskedLMHead(nn.Module):
    """Logits over the vocabulary from the token table (or, untied, a table of its own)."""

    features: int
    vocab_size: int
    act: ActivationField
    eps: float
    stddev: float
    tied: bool
    execution: Execution

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "b l d"], words: Float[Array, "v f"], targets=None
    ) -> Float[Array, "b l *v"]:
        """Logits, or the losses of `targets`."""
        x = TransformHead(
            self.features, self.act, self.eps, self.stddev, self.execution, name="transform"
        )(hidden)
        kernel, over = words, 1
        if not self.tied:
            shape = (self.features, self.vocab_size)
            kernel, over = vocab_table(self, "decoder", self.stddev, shape), 0
        bias = vocab_bias(self, self.vocab_size)

        def logits(x):
            return add_bias(dot(x, kernel, self.execution.dtype, over), bias)

        return logits(x) if targets is None else chunked_losses(logits, x, targets, len(bias))


class Discriminator(nn.Module):
    """ELECTRA's head: for each token, the logit of "this was replaced"."""

    features: int
    act: ActivationField
    stddev: float
    execution: Execution

    @nn.compact
    def __call__(self, hidden: Float[Array, "b l d"]) -> Float[Array, "b l"]:
        x = Dense(self.features, "inner", self.stddev, self.execution, name="dense")(hidden)
        x = activation(self.act)(x)
        return Dense(1, "inner", self.stddev, self.execution, name="out")(x)[..., 0]
