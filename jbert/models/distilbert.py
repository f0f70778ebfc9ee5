"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108); transformers' models/distilbert.

No token types and no pooler. Every norm has an epsilon of 1e-12, whatever the configuration says.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

from jbert.activations import ActivationField
from jbert.config import ModelConfig, divides
from jbert.dropout import Dropout
from jbert.execution import Execution
from jbert.heads import MaskedLMHead, Output
from jbert.inputs import Inputs
from jbert.layers import (
    Attention,
    Context,
    Dense,
    Embed,
    FeedForward,
    LayerOutput,
    add_shared,
    word_table,
)
from jbert.models import tasks
from jbert.models.base import Model, embed_words
from jbert.models.presets import Preset
from jbert.norms import LayerNorm
from jbert.stack import run_layers

EPS = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilBertConfig(ModelConfig):
    model_type: ClassVar[str] = "distilbert"
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }
    positive: ClassVar[tuple[str, ...]] = (
        "vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim",
    )  # fmt: skip
    probabilities: ClassVar[tuple[str, ...]] = (
        "dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout",
    )  # fmt: skip
    flags: ClassVar[tuple[str, ...]] = ("sinusoidal_pos_embds",)
    activations: ClassVar[tuple[str, ...]] = ("activation",)

    sinusoidal_pos_embds: bool = False
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: ActivationField = "gelu"
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2

    def relation_problems(self) -> list[str]:
        return divides("dim", "n_heads", self)

    # The names that the other architectures use.
    @property
    def hidden_size(self) -> int:
        return self.dim

    @property
    def num_hidden_layers(self) -> int:
        return self.n_layers

    @property
    def num_attention_heads(self) -> int:
        return self.n_heads

    @property
    def intermediate_size(self) -> int:
        return self.hidden_dim

    @property
    def hidden_act(self) -> ActivationField:
        return self.activation

    @property
    def attention_heads(self) -> int:
        return self.n_heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def embedding_width(self) -> int:
        return self.dim

    @property
    def head_dropout(self) -> float:
        return self.dropout


PRESETS: dict[str, Preset] = {
    "distilbert-base-uncased": Preset(DistilBertConfig(), "distilbert/distilbert-base-uncased"),
    "distilbert-base-cased": Preset(
        DistilBertConfig(vocab_size=28996), "distilbert/distilbert-base-cased"
    ),
    "distilbert-base-multilingual-cased": Preset(
        DistilBertConfig(vocab_size=119547),
        "distilbert/distilbert-base-multilingual-cased",
    ),
}


def sinusoids(num: int, features: int) -> np.ndarray:
    """Sines in the even columns and cosines of the same angles in the odd ones."""
    rates = 1.0 / np.power(10000.0, 2 * (np.arange(features) // 2) / features)
    angles = np.arange(num)[:, None] * rates[None, :]
    table = np.where(np.arange(features) % 2 == 0, np.sin(angles), np.cos(angles))
    return table.astype(np.float32)


class DistilBertEmbeddings(nn.Module):
    config: DistilBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        c, run, std = self.config, self.execution, self.config.initializer_range
        word = Embed(c.vocab_size, c.dim, std, run, c.pad_token_id, name="word")
        position = Embed(
            c.max_position_embeddings, c.dim, std, run, role="position",
            table_init=sinusoids if c.sinusoidal_pos_embds else None,
            trainable=not c.sinusoidal_pos_embds, name="position",
        )  # fmt: skip
        x = add_shared(embed_words(word, inputs), position(inputs.position_ids))
        x = LayerNorm(EPS, run, name="norm")(x)
        return Dropout(c.dropout, deterministic=inputs.context.deterministic)(x)


class DistilBertLayer(nn.Module):
    config: DistilBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, hidden, context: Context, head_mask, cache):
        c, run, std = self.config, self.execution, self.config.initializer_range
        attention = Attention(
            c.n_heads, c.head_dim, c.dim, c.attention_dropout, std, run, name="attention"
        )
        attended, weights, _ = attention(
            hidden, hidden, hidden, context.visible, context, head_mask
        )
        # Unlike BERT's, the attention output has no dropout before its norm.
        hidden = LayerNorm(EPS, run, name="attention_norm")(hidden + attended)
        ffn = FeedForward(c.hidden_dim, c.dim, c.activation, std, run, name="ffn")(hidden)
        ffn = Dropout(c.dropout, deterministic=context.deterministic)(ffn)
        hidden = LayerNorm(EPS, run, name="ffn_norm")(hidden + ffn)
        return hidden, LayerOutput(attention=weights)


class DistilBertModel(Model):
    """The encoder without a head."""

    pooler: bool = False  # it has none; here so that every encoder is made alike

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        c, run, context = self.config, self.execution, inputs.context
        embedded = DistilBertEmbeddings(c, run, name="embeddings")(inputs)
        hidden, report = run_layers(
            DistilBertLayer, c.n_layers, c, run, embedded, context, inputs.head_mask, None
        )
        return Output(
            last_hidden_state=hidden,
            hidden_states=(embedded, *report.hidden) if context.return_hidden else None,
            attentions=report.attention,
        )


class _DistilBertTask(Model):
    encoder_class = DistilBertModel


class DistilBertForMaskedLM(_DistilBertTask, tasks.ForMaskedLM):
    def predict(self, encoder, hidden, targets=None):
        c = self.config
        head = MaskedLMHead(
            c.dim, c.vocab_size, c.activation, EPS, c.initializer_range,
            c.tie_word_embeddings, self.execution, name="mlm",
        )  # fmt: skip
        return head(hidden, word_table(encoder), targets)


class DistilBertForSequenceClassification(_DistilBertTask, tasks.ForSequenceClassification):
    """Reads the first token through a dense layer of its own, in place of the pooler."""

    needs_pooler = False

    def summary(self, output: Output, inputs: Inputs):
        c = self.config
        dense = Dense(
            c.dim, "inner", c.initializer_range, self.execution.wide(), name="pre_classifier"
        )
        x = jax.nn.relu(dense(output.last_hidden_state[:, 0]))
        return self.drop(x, c.seq_classif_dropout, inputs)


class DistilBertForMultipleChoice(DistilBertForSequenceClassification, tasks.ForMultipleChoice):
    num_outputs = tasks.ForMultipleChoice.num_outputs


class DistilBertForTokenClassification(_DistilBertTask, tasks.ForTokenClassification):
    pass


class DistilBertForQuestionAnswering(_DistilBertTask, tasks.ForQuestionAnswering):
    def before_span(self, hidden, inputs: Inputs):
        return self.drop(hidden, self.config.qa_dropout, inputs)


class DistilBertForReplacedTokenDetection(_DistilBertTask, tasks.ForReplacedTokenDetection):
    pass


TASKS: dict[str | None, type[Model]] = {
    None: DistilBertModel,
    "masked_lm": DistilBertForMaskedLM,
    "sequence_classification": DistilBertForSequenceClassification,
    "multiple_choice": DistilBertForMultipleChoice,
    "token_classification": DistilBertForTokenClassification,
    "question_answering": DistilBertForQuestionAnswering,
    "replaced_token_detection": DistilBertForReplacedTokenDetection,
}
