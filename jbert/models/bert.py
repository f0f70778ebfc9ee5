"""BERT (Devlin et al. 2018, arXiv:1810.04805), encoder and decoder; transformers' models/bert.

With relative positions the table of absolute ones still exists and is not read, as in
transformers 4's BertEmbeddings; and cross-attention always uses absolute ones.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jbert.activations import ActivationField
from jbert.config import ModelConfig, divides
from jbert.dropout import Dropout
from jbert.execution import Execution
from jbert.heads import MaskedLMHead, Output, Pooler
from jbert.inputs import Inputs
from jbert.layers import (
    Attention,
    Context,
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

POSITION_TYPES = ("absolute", "relative_key", "relative_key_query")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(ModelConfig):
    model_type: ClassVar[str] = "bert"
    positive: ClassVar[tuple[str, ...]] = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings", "type_vocab_size",
    )  # fmt: skip
    probabilities: ClassVar[tuple[str, ...]] = (
        "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
    )  # fmt: skip
    flags: ClassVar[tuple[str, ...]] = ("use_cache", "is_decoder", "add_cross_attention")

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: ActivationField = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"
    use_cache: bool = True
    classifier_dropout: float | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False

    def relation_problems(self) -> list[str]:
        problems = divides("hidden_size", "num_attention_heads", self)
        if self.position_embedding_type not in POSITION_TYPES:
            problems.append(
                f"position_embedding_type is {self.position_embedding_type!r}; "
                f"expected one of {POSITION_TYPES}"
            )
        if self.add_cross_attention and not self.is_decoder:
            problems.append("add_cross_attention is true; that needs is_decoder to be true as well")
        return problems

    @property
    def attention_heads(self) -> int:
        return self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        return self.hidden_size

    @property
    def head_dropout(self) -> float:
        chosen = self.classifier_dropout
        return self.hidden_dropout_prob if chosen is None else chosen


def _sized(layers: int, hidden: int, vocab_size: int = 30522) -> BertConfig:
    # Every published BERT has heads of size 64 and a feed-forward layer four times as wide.
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )


PRESETS: dict[str, Preset] = {
    "bert-base-uncased": Preset(_sized(12, 768), "google-bert/bert-base-uncased"),
    "bert-large-uncased": Preset(_sized(24, 1024), "google-bert/bert-large-uncased"),
    "bert-base-cased": Preset(_sized(12, 768, 28996), "google-bert/bert-base-cased"),
    "bert-large-cased": Preset(_sized(24, 1024, 28996), "google-bert/bert-large-cased"),
    "bert-base-multilingual-uncased": Preset(
        _sized(12, 768, 105879), "google-bert/bert-base-multilingual-uncased"
    ),
    "bert-base-multilingual-cased": Preset(
        _sized(12, 768, 119547), "google-bert/bert-base-multilingual-cased"
    ),
    "bert-base-chinese": Preset(_sized(12, 768, 21128), "google-bert/bert-base-chinese"),
    "bert-tiny": Preset(_sized(2, 128), "google/bert_uncased_L-2_H-128_A-2"),
    "bert-mini": Preset(_sized(4, 256), "google/bert_uncased_L-4_H-256_A-4"),
    "bert-small": Preset(_sized(4, 512), "google/bert_uncased_L-4_H-512_A-8"),
    "bert-medium": Preset(_sized(8, 512), "google/bert_uncased_L-8_H-512_A-8"),
}


class BertEmbeddings(nn.Module):
    config: BertConfig
    execution: Execution

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        c, run, std = self.config, self.execution, self.config.initializer_range
        word = Embed(c.vocab_size, c.hidden_size, std, run, c.pad_token_id, name="word")
        x = embed_words(word, inputs)
        x = x + Embed(c.type_vocab_size, c.hidden_size, std, run, role="segment", name="segment")(
            inputs.token_type_ids
        )
        position = Embed(
            c.max_position_embeddings, c.hidden_size, std, run, role="position",
            name="position",
        )(inputs.position_ids)  # fmt: skip
        if c.position_embedding_type == "absolute":
            x = add_shared(x, position)
        x = LayerNorm(c.layer_norm_eps, run, name="norm")(x)
        return Dropout(c.hidden_dropout_prob, deterministic=inputs.context.deterministic)(x)


class BertLayer(nn.Module):
    config: BertConfig
    execution: Execution

    @nn.compact
    def __call__(self, hidden, context: Context, head_mask, cache):
        c, run = self.config, self.execution
        drop = Dropout(c.hidden_dropout_prob, deterministic=context.deterministic)
        attention = Attention(
            c.num_attention_heads, c.head_dim, c.hidden_size, c.attention_probs_dropout_prob,
            c.initializer_range, run, c.position_embedding_type, c.max_position_embeddings,
            name="attention",
        )  # fmt: skip
        attended, weights, cache = attention(
            hidden, hidden, hidden, context.visible, context, head_mask, cache
        )
        hidden = LayerNorm(c.layer_norm_eps, run, name="attention_norm")(hidden + drop(attended))
        hidden, cross_weights = self._cross(hidden, context, drop, head_mask)
        ffn = FeedForward(
            c.intermediate_size, c.hidden_size, c.hidden_act, c.initializer_range, run, name="ffn"
        )(hidden)
        hidden = LayerNorm(c.layer_norm_eps, run, name="ffn_norm")(hidden + drop(ffn))
        report = LayerOutput(attention=weights, cross_attention=cross_weights, cache=cache)
        return hidden, report

    def _cross(self, hidden, context: Context, drop, head_mask):
        c, run = self.config, self.execution
        if not c.add_cross_attention:
            return hidden, None
        attention = Attention(
            c.num_attention_heads, c.head_dim, c.hidden_size, c.attention_probs_dropout_prob,
            c.initializer_range, run, name="cross_attention",
        )  # fmt: skip
        norm = LayerNorm(c.layer_norm_eps, run, name="cross_attention_norm")
        states = context.encoder_states
        if states is None and not self.is_initializing():
            # As transformers: without an encoder's states a decoder skips its cross-attention.
            return hidden, None
        if states is None:
            states = hidden
        # As transformers 4, whose head_mask silences the same heads here as in self-attention.
        attended, weights, _ = attention(
            hidden, states, states, context.encoder_visible, context, head_mask
        )
        return norm(hidden + drop(attended)), weights


class BertModel(Model):
    """The encoder (or, with is_decoder, the decoder) without a head."""

    pooler: bool = True

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        c, run, context = self.config, self.execution, inputs.context
        embedded = BertEmbeddings(c, run, name="embeddings")(inputs)
        layer_cache = None if inputs.cache is None else inputs.cache["layers"]
        hidden, report = run_layers(
            BertLayer, c.num_hidden_layers, c, run, _fits(inputs, embedded), context,
            inputs.head_mask, layer_cache,
        )  # fmt: skip
        pooled = None
        if self.pooler:
            pooled = Pooler(c.hidden_size, c.initializer_range, run, name="pooler")(hidden)
        return Output(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=(embedded, *report.hidden) if context.return_hidden else None,
            attentions=report.attention,
            cross_attentions=report.cross_attention,
            cache=_advance(inputs, hidden.shape[1], report.cache),
        )


def init_cache(config: BertConfig, batch_size: int, max_length: int, dtype: str = "float32"):
    """An empty key-value cache for `max_length` tokens, to pass as `cache=` to a decoder."""
    if not config.is_decoder:
        raise ValueError("a cache is for decoders; this configuration has is_decoder=False")
    if not 1 <= max_length <= config.max_position_embeddings:
        raise ValueError(
            f"max_length is {max_length}; expected 1 to max_position_embeddings"
            f"={config.max_position_embeddings}"
        )
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    empty = jnp.zeros((layers, batch_size, heads, max_length, config.head_dim), dtype)
    return {
        "layers": {"key": empty, "value": empty},
        "mask": jnp.zeros((batch_size, max_length), bool),
        "index": jnp.zeros((), jnp.int32),
    }


def _fits(inputs: Inputs, embedded: jax.Array) -> jax.Array:
    """NaN instead of a silently overwritten cache, when its position is known only at run time."""
    if inputs.cache is None:
        return embedded
    total = inputs.cache["mask"].shape[1]
    fits = inputs.cache["index"] + embedded.shape[1] <= total
    return jnp.where(fits, embedded, jnp.nan)


def _advance(inputs: Inputs, length: int, layers):
    if inputs.cache is None:
        return None
    return {**inputs.cache, "layers": layers, "index": inputs.cache["index"] + length}


class _BertTask(Model):
    encoder_class = BertModel


class BertForMaskedLM(_BertTask, tasks.ForMaskedLM):
    def predict(self, encoder, hidden, targets=None):
        c = self.config
        head = MaskedLMHead(
            c.hidden_size, c.vocab_size, c.hidden_act, c.layer_norm_eps, c.initializer_range,
            c.tie_word_embeddings, self.execution, name="mlm",
        )  # fmt: skip
        return head(hidden, word_table(encoder), targets)


class BertForPreTraining(BertForMaskedLM, tasks.ForPreTraining):
    forward = tasks.ForPreTraining.forward


class BertForCausalLM(BertForMaskedLM):
    """Logits for the next token, each position seeing only those before it."""

    fills_in = False

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        if not self.config.is_decoder:
            raise ValueError(
                "BertForCausalLM needs is_decoder=True in its configuration; without it every "
                "token would see the ones it is to predict"
            )
        encoder = self.make_encoder()
        output = encoder.forward(inputs)
        return output.headed(logits=self.predict(encoder, output.last_hidden_state))


class BertForNextSentencePrediction(_BertTask, tasks.ForNextSentencePrediction):
    pass


class BertForSequenceClassification(_BertTask, tasks.ForSequenceClassification):
    pass


class BertForMultipleChoice(_BertTask, tasks.ForMultipleChoice):
    pass


class BertForTokenClassification(_BertTask, tasks.ForTokenClassification):
    pass


class BertForQuestionAnswering(_BertTask, tasks.ForQuestionAnswering):
    pass


class BertForReplacedTokenDetection(_BertTask, tasks.ForReplacedTokenDetection):
    pass


TASKS: dict[str | None, type[Model]] = {
    None: BertModel,
    "pretraining": BertForPreTraining,
    "masked_lm": BertForMaskedLM,
    "causal_lm": BertForCausalLM,
    "next_sentence": BertForNextSentencePrediction,
    "sequence_classification": BertForSequenceClassification,
    "multiple_choice": BertForMultipleChoice,
    "token_classification": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
    "replaced_token_detection": BertForReplacedTokenDetection,
}
