"""ConvBERT (Jiang et al. 2020, arXiv:2008.02496); transformers' models/convbert.

Half of each layer's heads are span-based dynamic convolutions. They read padding as if it were
text, as in the reference, so outputs depend on padding; `segment_ids` gate every tap.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jbert.activations import ACTIVATIONS, ActivationField, activation
from jbert.attention import attend
from jbert.config import ModelConfig, divides
from jbert.convolution import DepthwiseKernel, depthwise, dynamic, tap_gate
from jbert.dropout import Dropout
from jbert.execution import Execution
from jbert.heads import MaskedLMHead, Output
from jbert.inputs import Inputs
from jbert.layers import (
    Context,
    Dense,
    Embed,
    FeedForward,
    HeadsIn,
    HeadsOut,
    LayerOutput,
    add_shared,
    weight_dropout,
    word_table,
)
from jbert.models import tasks
from jbert.models.base import Model, embed_words
from jbert.models.presets import Preset
from jbert.norms import LayerNorm
from jbert.stack import run_layers

SUMMARY_TYPES = ("last", "first", "mean", "cls_index")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvBertConfig(ModelConfig):
    model_type: ClassVar[str] = "convbert"
    positive: ClassVar[tuple[str, ...]] = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings", "type_vocab_size", "embedding_size",
        "head_ratio", "conv_kernel_size", "num_groups",
    )  # fmt: skip
    probabilities: ClassVar[tuple[str, ...]] = (
        "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
        "summary_first_dropout", "summary_last_dropout",
    )  # fmt: skip
    flags: ClassVar[tuple[str, ...]] = ("summary_use_proj", "summary_proj_to_labels")

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: ActivationField = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    embedding_size: int = 768
    head_ratio: int = 2
    conv_kernel_size: int = 9
    num_groups: int = 1
    classifier_dropout: float | None = None
    # How multiple choice sums up a sequence: transformers' ConvBertSequenceSummary reads these
    # from the configuration, where published files have them, and defaults to the last token.
    summary_type: str = "last"
    summary_use_proj: bool = False
    summary_proj_to_labels: bool = False
    summary_activation: str | None = None
    summary_first_dropout: float = 0.0
    summary_last_dropout: float = 0.0

    def relation_problems(self) -> list[str]:
        problems = []
        for whole in ("hidden_size", "intermediate_size"):
            problems += divides(whole, "num_groups", self)
        if self.hidden_size % (2 * self.attention_heads):
            problems.append(
                f"hidden_size is {self.hidden_size}, which does not split into attention and "
                f"convolution halves of {self.attention_heads} heads each "
                f"(num_attention_heads={self.num_attention_heads}, head_ratio={self.head_ratio})"
            )
        if self.conv_kernel_size % 2 == 0:
            problems.append(
                f"conv_kernel_size is {self.conv_kernel_size}; expected an odd number, so that a "
                "token lies in the middle of its taps"
            )
        if self.summary_type not in SUMMARY_TYPES:
            problems.append(
                f"summary_type is {self.summary_type!r}; expected one of {SUMMARY_TYPES}"
            )
        if self.summary_activation is not None and self.summary_activation not in ACTIVATIONS:
            problems.append(
                f"summary_activation is {self.summary_activation!r}; expected null or one of "
                f"{sorted(ACTIVATIONS)}"
            )
        if self.summary_use_proj and self.summary_proj_to_labels:
            problems.append(
                "summary_proj_to_labels is true; multiple choice then has nothing to classify, "
                "expected false"
            )
        return problems

    @property
    def attention_heads(self) -> int:
        """The heads left to attention; one at least, when head_ratio exceeds their number."""
        return max(self.num_attention_heads // self.head_ratio, 1)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.attention_heads // 2

    @property
    def embedding_width(self) -> int:
        return self.embedding_size

    @property
    def head_dropout(self) -> float:
        chosen = self.classifier_dropout
        return self.hidden_dropout_prob if chosen is None else chosen


# The published files pad with id 0, the [PAD] of BERT's vocabulary, not with the class's default.
PRESETS: dict[str, Preset] = {
    "conv-bert-base": Preset(ConvBertConfig(pad_token_id=0), "YituTech/conv-bert-base"),
    "conv-bert-medium-small": Preset(
        ConvBertConfig(
            hidden_size=384, num_attention_heads=8, intermediate_size=1536, embedding_size=128,
            num_groups=2, pad_token_id=0,
        ),
        "YituTech/conv-bert-medium-small",
    ),
    "conv-bert-small": Preset(
        ConvBertConfig(
            hidden_size=256, num_attention_heads=4, intermediate_size=1024, embedding_size=128,
            pad_token_id=0,
        ),
        "YituTech/conv-bert-small",
    ),
}  # fmt: skip


class ConvBertEmbeddings(nn.Module):
    config: ConvBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        c, run, std = self.config, self.execution, self.config.initializer_range
        word = Embed(c.vocab_size, c.embedding_size, std, run, c.pad_token_id, name="word")
        x = embed_words(word, inputs)
        position = Embed(
            c.max_position_embeddings, c.embedding_size, std, run, role="position",
            name="position",
        )  # fmt: skip
        x = add_shared(x, position(inputs.position_ids))
        x = x + Embed(
            c.type_vocab_size, c.embedding_size, std, run, role="segment", name="segment"
        )(inputs.token_type_ids)
        x = LayerNorm(c.layer_norm_eps, run, name="norm")(x)
        return Dropout(c.hidden_dropout_prob, deterministic=inputs.context.deterministic)(x)


class MixedAttention(nn.Module):
    """Attention heads beside span-based dynamic convolutions, joined by one output projection."""

    config: ConvBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, hidden, context: Context, head_mask):
        c, run, std = self.config, self.execution, self.config.initializer_range
        heads, size = c.attention_heads, c.head_dim
        project = lambda name: HeadsIn(heads, size, std, run, name=name)  # noqa: E731
        query = project("query")(hidden)
        attended, weights = attend(
            query, project("key")(hidden), project("value")(hidden), context.visible,
            head_mask=head_mask,
            dropout=weight_dropout(c.attention_probs_dropout_prob, context),
            return_weights=context.return_attentions,
            implementation=run.attention,
        )  # fmt: skip
        gate = tap_gate(context.segment_ids, c.conv_kernel_size)
        kernel = DepthwiseKernel(c.conv_kernel_size, c.hidden_size, std, run, name="depthwise")()
        span = project("key_conv")(depthwise(hidden, kernel, gate))
        taps = self._taps(span * query)
        convolved = dynamic(project("conv_value")(hidden), taps, gate)
        both = jnp.concatenate([attended, convolved], axis=1)
        out = HeadsOut(c.hidden_size, std, run, name="out")(both)
        return out, weights if context.return_attentions else None

    def _taps(self, x):
        """The kernel of each head and position: [b, h, l, e] to [b, h, l, w], each adding to 1."""
        c = self.config
        b, h, length, e = x.shape
        joined = jnp.swapaxes(x, 1, 2).reshape(b, length, h * e)
        dense = Dense(
            h * c.conv_kernel_size, "inner", c.initializer_range, self.execution, name="taps"
        )
        logits = dense(joined).reshape(b, length, h, c.conv_kernel_size)
        taps = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(x.dtype)
        return jnp.swapaxes(taps, 1, 2)


class ConvBertLayer(nn.Module):
    config: ConvBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, hidden, context: Context, head_mask, cache):
        c, run = self.config, self.execution
        drop = Dropout(c.hidden_dropout_prob, deterministic=context.deterministic)
        mixed = MixedAttention(c, run, name="attention")
        attended, weights = mixed(hidden, context, head_mask)
        hidden = LayerNorm(c.layer_norm_eps, run, name="attention_norm")(hidden + drop(attended))
        ffn = FeedForward(
            c.intermediate_size, c.hidden_size, c.hidden_act, c.initializer_range, run,
            c.num_groups, name="ffn",
        )(hidden)  # fmt: skip
        hidden = LayerNorm(c.layer_norm_eps, run, name="ffn_norm")(hidden + drop(ffn))
        return hidden, LayerOutput(attention=weights)


class ConvBertModel(Model):
    """The encoder without a head."""

    pooler: bool = False  # it has none; here so that every encoder is made alike

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        c, run, context = self.config, self.execution, inputs.context
        embedded = ConvBertEmbeddings(c, run, name="embeddings")(inputs)
        if c.embedding_size != c.hidden_size:
            widen = Dense(c.hidden_size, "inner", c.initializer_range, run, name="projection")
            embedded = widen(embedded)
        hidden, report = run_layers(
            ConvBertLayer, c.num_hidden_layers, c, run, embedded, context, inputs.head_mask, None
        )
        return Output(
            last_hidden_state=hidden,
            hidden_states=(embedded, *report.hidden) if context.return_hidden else None,
            attentions=report.attention,
        )


class _ConvBertTask(Model):
    encoder_class = ConvBertModel


class ConvBertForMaskedLM(_ConvBertTask, tasks.ForMaskedLM):
    """The generator of replaced-token detection: its activation is GELU, whatever hidden_act is."""

    def predict(self, encoder, hidden, targets=None):
        c = self.config
        head = MaskedLMHead(
            c.embedding_size, c.vocab_size, "gelu", c.layer_norm_eps, c.initializer_range,
            c.tie_word_embeddings, self.execution, name="mlm",
        )  # fmt: skip
        return head(hidden, word_table(encoder), targets)


class ConvBertForSequenceClassification(_ConvBertTask, tasks.ForSequenceClassification):
    """Reads the first token through a dense layer of its own, in place of a pooler."""

    needs_pooler = False

    def summary(self, output: Output, inputs: Inputs):
        c = self.config
        x = self.drop(output.last_hidden_state[:, 0], c.head_dropout, inputs)
        dense = Dense(
            c.hidden_size, "inner", c.initializer_range, self.execution.wide(),
            name="pre_classifier",
        )  # fmt: skip
        return self.drop(activation(c.hidden_act)(dense(x)), c.head_dropout, inputs)


class ConvBertForMultipleChoice(_ConvBertTask, tasks.ForMultipleChoice):
    """Sums the sequence up as the configuration's summary_* fields say."""

    needs_pooler = False

    def summary(self, output: Output, inputs: Inputs):
        c, hidden = self.config, output.last_hidden_state
        # Without an index "cls_index" means the last token, as in the reference.
        x = {"first": lambda: hidden[:, 0], "mean": lambda: hidden.mean(axis=1)}.get(
            c.summary_type, lambda: hidden[:, -1]
        )()
        x = self.drop(x, c.summary_first_dropout, inputs)
        if c.summary_use_proj:
            x = Dense(
                c.hidden_size, "inner", c.initializer_range, self.execution.wide(), name="summary"
            )(x)
        if c.summary_activation is not None:
            x = activation(c.summary_activation)(x)
        return self.drop(x, c.summary_last_dropout, inputs)


class ConvBertForTokenClassification(_ConvBertTask, tasks.ForTokenClassification):
    pass


class ConvBertForQuestionAnswering(_ConvBertTask, tasks.ForQuestionAnswering):
    pass


class ConvBertForReplacedTokenDetection(_ConvBertTask, tasks.ForReplacedTokenDetection):
    pass


TASKS: dict[str | None, type[Model]] = {
    None: ConvBertModel,
    "masked_lm": ConvBertForMaskedLM,
    "sequence_classification": ConvBertForSequenceClassification,
    "multiple_choice": ConvBertForMultipleChoice,
    "token_classification": ConvBertForTokenClassification,
    "question_answering": ConvBertForQuestionAnswering,
    "replaced_token_detection": ConvBertForReplacedTokenDetection,
}
