"""MobileBERT (Sun et al. 2020, arXiv:2004.02984); transformers' models/mobilebert.

The trigram of the last real token reads the first padding token, as in the reference, so outputs
depend on padding; `segment_ids` gate it. With "no_norm" activations reach 1e8: never float16.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jbert import backend
from jbert.activations import ActivationField
from jbert.config import ModelConfig
from jbert.cross_entropy import chunked_losses
from jbert.dropout import Dropout
from jbert.execution import PRODUCT, Execution
from jbert.heads import Output, Pooler, TransformHead
from jbert.inputs import Inputs
from jbert.layers import (
    Attention,
    Context,
    Dense,
    Embed,
    FeedForward,
    LayerOutput,
    add_bias,
    add_shared,
    dot,
    vocab_bias,
    vocab_table,
    word_table,
)
from jbert.models import tasks
from jbert.models.base import Model, embed_words
from jbert.models.presets import Preset
from jbert.norms import LayerNorm, NoNorm
from jbert.sharding import on_own_rows, own_tokens
from jbert.stack import run_layers

NORMS = ("no_norm", "layer_norm")
# Two of the reference's norms leave torch's default epsilon in place:
# MobileBertEmbeddings.LayerNorm and MobileBertOutput.LayerNorm.
TORCH_EPS = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileBertConfig(ModelConfig):
    model_type: ClassVar[str] = "mobilebert"
    positive: ClassVar[tuple[str, ...]] = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings", "type_vocab_size", "embedding_size",
        "intra_bottleneck_size", "num_feedforward_networks",
    )  # fmt: skip
    probabilities: ClassVar[tuple[str, ...]] = (
        "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
    )  # fmt: skip
    flags: ClassVar[tuple[str, ...]] = (
        "trigram_input", "use_bottleneck", "use_bottleneck_attention",
        "key_query_shared_bottleneck", "classifier_activation",
    )  # fmt: skip

    hidden_size: int = 512
    num_hidden_layers: int = 24
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_act: ActivationField = "relu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.1
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    embedding_size: int = 128
    trigram_input: bool = True
    use_bottleneck: bool = True
    intra_bottleneck_size: int = 128
    use_bottleneck_attention: bool = False
    key_query_shared_bottleneck: bool = True
    num_feedforward_networks: int = 4
    normalization_type: str = "no_norm"
    classifier_activation: bool = True
    classifier_dropout: float | None = None

    def relation_problems(self) -> list[str]:
        problems = []
        if self.normalization_type not in NORMS:
            problems.append(
                f"normalization_type is {self.normalization_type!r}; expected one of {NORMS}"
            )
        if self.true_hidden_size % self.num_attention_heads:
            name = "intra_bottleneck_size" if self.use_bottleneck else "hidden_size"
            problems.append(
                f"{name} is {self.true_hidden_size}, which is not a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.embedding_size > self.hidden_size:
            problems.append(
                f"embedding_size is {self.embedding_size}; expected at most hidden_size"
                f"={self.hidden_size}, which the masked-LM head splits"
            )
        return problems

    @property
    def true_hidden_size(self) -> int:
        """The width inside a layer: that of the bottleneck, if there is one."""
        return self.intra_bottleneck_size if self.use_bottleneck else self.hidden_size

    @property
    def attention_heads(self) -> int:
        return self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.true_hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        return self.embedding_size

    @property
    def head_dropout(self) -> float:
        chosen = self.classifier_dropout
        return self.hidden_dropout_prob if chosen is None else chosen


# The published file has no pooler weights: its pooled output is the bare first token.
PRESETS: dict[str, Preset] = {
    "mobilebert-uncased": Preset(
        MobileBertConfig(classifier_activation=False), "google/mobilebert-uncased"
    ),
    # The teacher: BERT large with a bottleneck the other way round, twice as wide within a layer
    # as between layers (google-research/mobilebert, config/uncased_L-24_H-1024_B-512_A-4.json).
    # transformers has no such model: its queries always read what is as wide as a layer's inside.
    "ib-bert-large-uncased": Preset(
        MobileBertConfig(
            intra_bottleneck_size=1024,
            intermediate_size=4096,
            hidden_act="gelu",
            hidden_dropout_prob=0.1,
            key_query_shared_bottleneck=False,
            num_feedforward_networks=1,
            normalization_type="layer_norm",
        ),
        None,
    ),
}


def _norm(config: MobileBertConfig, execution: Execution, name: str, eps: float | None = None):
    if config.normalization_type == "no_norm":
        return NoNorm(execution, name=name)
    return LayerNorm(config.layer_norm_eps if eps is None else eps, execution, name=name)


class MobileBertEmbeddings(nn.Module):
    config: MobileBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        c, run, std = self.config, self.execution, self.config.initializer_range
        word = Embed(c.vocab_size, c.embedding_size, std, run, c.pad_token_id, name="word")
        x = embed_words(word, inputs)
        if c.trigram_input:
            x = trigrams(x, inputs.context.segment_ids)
        widened = Dense(c.hidden_size, "inner", std, run, name="transformation")(x)
        if c.trigram_input or c.embedding_size != c.hidden_size:
            x = widened
        position = Embed(
            c.max_position_embeddings, c.hidden_size, std, run, role="position",
            name="position",
        )  # fmt: skip
        x = add_shared(x, position(inputs.position_ids))
        x = x + Embed(c.type_vocab_size, c.hidden_size, std, run, role="segment", name="segment")(
            inputs.token_type_ids
        )
        x = _norm(c, run, "norm", TORCH_EPS)(x)
        return Dropout(c.hidden_dropout_prob, deterministic=inputs.context.deterministic)(x)


def trigrams(x: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Each token's embedding between those of its right and left neighbours, in that order."""
    after = jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
    before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    if segment_ids is not None:
        joined = segment_ids[:, 1:] == segment_ids[:, :-1]
        after = jnp.where(jnp.pad(joined, ((0, 0), (0, 1)))[..., None], after, 0)
        before = jnp.where(jnp.pad(joined, ((0, 0), (1, 0)))[..., None], before, 0)
    return jnp.concatenate([after, x, before], axis=-1)


class Bottleneck(nn.Module):
    """norm(dense(x)), from the hidden size to the layer's own or back."""

    config: MobileBertConfig
    execution: Execution
    features: int
    role: str

    @nn.compact
    def __call__(self, x, residual=None, drop=None):
        c = self.config
        x = Dense(self.features, self.role, c.initializer_range, self.execution, name="dense")(x)
        x = x if drop is None else drop(x)
        x = x if residual is None else x + residual
        return _norm(c, self.execution, "norm")(x)


class MobileBertLayer(nn.Module):
    config: MobileBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, hidden, context: Context, head_mask, cache):
        c, run, std = self.config, self.execution, self.config.initializer_range
        width = c.true_hidden_size
        drop = Dropout(c.hidden_dropout_prob, deterministic=context.deterministic)
        drop_inside = (lambda x: x) if c.use_bottleneck else drop
        query, key, value, x = self._narrow(hidden)
        attention = Attention(
            c.num_attention_heads, c.head_dim, width, c.attention_probs_dropout_prob, std, run,
            name="attention",
        )  # fmt: skip
        attended, weights, _ = attention(query, key, value, context.visible, context, head_mask)
        x = _norm(c, run, "attention_norm")(x + drop_inside(attended))
        x = self._feed_forwards(x, drop_inside, context.deterministic)
        if c.use_bottleneck:
            widen = Bottleneck(c, run, c.hidden_size, "outer", name="bottleneck_output")
            x = widen(x, residual=hidden, drop=drop)
        return x, LayerOutput(attention=weights)

    def _narrow(self, hidden):
        """What the queries, keys, values and the residual are made from."""
        c, run = self.config, self.execution
        if not c.use_bottleneck:
            return hidden, hidden, hidden, hidden
        width = c.intra_bottleneck_size
        x = Bottleneck(c, run, width, "inner", name="bottleneck_input")(hidden)
        shared = None
        if c.key_query_shared_bottleneck:
            # The reference has these weights even where use_bottleneck_attention leaves them idle.
            shared = Bottleneck(c, run, width, "inner", name="bottleneck_attention")(hidden)
        if c.use_bottleneck_attention:
            return x, x, x, x
        if shared is not None:
            return shared, shared, hidden, x
        return hidden, hidden, hidden, x

    def _feed_forwards(self, x, drop, deterministic: bool):
        c, run = self.config, self.execution
        *others, last = [f"ffn_{i}" for i in range(c.num_feedforward_networks - 1)] + ["ffn"]
        if not deterministic and self._is_for_the_kernel(x):
            return self._fused([*others, last], x)
        for name in others:
            x = _norm(c, run, f"{name}_norm")(x + self._feed_forward(name)(x))
        return _norm(c, run, f"{last}_norm", TORCH_EPS)(x + drop(self._feed_forward(last)(x)))

    def _feed_forward(self, name: str) -> FeedForward:
        c = self.config
        return FeedForward(
            c.intermediate_size, c.true_hidden_size, c.hidden_act, c.initializer_range,
            self.execution, name=name,
        )  # fmt: skip

    def _is_for_the_kernel(self, x) -> bool:
        """Where what is kept for a backward pass is worth a kernel that keeps none of it."""
        c, hidden = self.config, self.config.intermediate_size
        plain = c.use_bottleneck and c.normalization_type == "no_norm" and c.hidden_act == "relu"
        if backend.current() != "tpu" or not plain or self.is_initializing():
            return False
        tokens = own_tokens(x, hidden)
        if not tokens:
            return False
        # Pallas, which takes a moment to import, is only for those who have a TPU.
        from jbert.fused_feed_forward import takes

        layers = c.num_feedforward_networks
        return takes(self.execution.dtype, x.shape[-1], hidden, layers, tokens, backend.kind())

    def _fused(self, names: list[str], x):
        from jbert.fused_feed_forward import Weights, feed_forward

        params = nn.meta.unbox(self.variables["params"])
        layers = [
            (params[name]["in"]["kernel"], params[name]["in"]["bias"],
             params[name]["out"]["kernel"], params[name]["out"]["bias"],
             params[f"{name}_norm"]["scale"], params[f"{name}_norm"]["bias"])
            for name in names
        ]  # fmt: skip
        weights = Weights(*(jnp.stack(one) for one in zip(*layers, strict=True)))
        y = on_own_rows(lambda x, *w: feed_forward(x, Weights(*w)), x, *weights)
        return checkpoint_name(y, PRODUCT)


class MobileBertModel(Model):
    """The encoder without a head."""

    pooler: bool = True

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        c, run, context = self.config, self.execution, inputs.context
        embedded = MobileBertEmbeddings(c, run, name="embeddings")(inputs)
        hidden, report = run_layers(
            MobileBertLayer, c.num_hidden_layers, c, run, embedded, context, inputs.head_mask, None
        )
        return Output(
            last_hidden_state=hidden,
            pooler_output=self._pool(hidden) if self.pooler else None,
            hidden_states=(embedded, *report.hidden) if context.return_hidden else None,
            attentions=report.attention,
        )

    def _pool(self, hidden):
        c = self.config
        if not c.classifier_activation:
            return hidden[:, 0]
        return Pooler(c.hidden_size, c.initializer_range, self.execution, name="pooler")(hidden)


class MobileBertLMHead(nn.Module):
    """Token table over the first `embedding_size` features, a table of its own over the rest."""

    config: MobileBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, hidden, words, targets=None):
        """Logits, or the losses of `targets`."""
        c, run, std = self.config, self.execution, self.config.initializer_range
        x = TransformHead(
            c.hidden_size, c.hidden_act, c.layer_norm_eps, std, run, name="transform"
        )(hidden)
        split, rest = c.embedding_size, c.hidden_size - c.embedding_size
        kernel, over = words, 1
        if not c.tie_word_embeddings:
            kernel, over = vocab_table(self, "decoder", std, (split, c.vocab_size)), 0
        extra = vocab_table(self, "extra", std, (rest, c.vocab_size)) if rest else None
        bias = vocab_bias(self, c.vocab_size)

        def logits(x):
            found = dot(x[..., :split], kernel, run.dtype, over)
            if extra is not None:
                found = found + dot(x[..., split:], extra, run.dtype)
            return add_bias(found, bias)

        return logits(x) if targets is None else chunked_losses(logits, x, targets, len(bias))


class _MobileBertTask(Model):
    encoder_class = MobileBertModel


class MobileBertForMaskedLM(_MobileBertTask, tasks.ForMaskedLM):
    def predict(self, encoder, hidden, targets=None):
        head = MobileBertLMHead(self.config, self.execution, name="mlm")
        return head(hidden, word_table(encoder), targets)


class MobileBertForPreTraining(MobileBertForMaskedLM, tasks.ForPreTraining):
    forward = tasks.ForPreTraining.forward


class MobileBertForNextSentencePrediction(_MobileBertTask, tasks.ForNextSentencePrediction):
    pass


class MobileBertForSequenceClassification(_MobileBertTask, tasks.ForSequenceClassification):
    pass


class MobileBertForMultipleChoice(_MobileBertTask, tasks.ForMultipleChoice):
    pass


class MobileBertForTokenClassification(_MobileBertTask, tasks.ForTokenClassification):
    pass


class MobileBertForQuestionAnswering(_MobileBertTask, tasks.ForQuestionAnswering):
    pass


class MobileBertForReplacedTokenDetection(_MobileBertTask, tasks.ForReplacedTokenDetection):
    pass


TASKS: dict[str | None, type[Model]] = {
    None: MobileBertModel,
    "pretraining": MobileBertForPreTraining,
    "masked_lm": MobileBertForMaskedLM,
    "next_sentence": MobileBertForNextSentencePrediction,
    "sequence_classification": MobileBertForSequenceClassification,
    "multiple_choice": MobileBertForMultipleChoice,
    "token_classification": MobileBertForTokenClassification,
    "question_answering": MobileBertForQuestionAnswering,
    "replaced_token_detection": MobileBertForReplacedTokenDetection,
}
