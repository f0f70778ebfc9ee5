"""The call that every model shares."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jbert.execution import Execution
from jbert.heads import Output
from jbert.inputs import InputError, Inputs, prepare
from jbert.layers import Embed

# The arguments that have one entry a token, and in multiple choice a dimension for the choices.
PER_TOKEN = (
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "segment_ids",
)  # fmt: skip


class Model(nn.Module):
    """A module with Hugging Face's call arguments; subclasses say what they compute in `forward`.

    All arguments are arrays of shape (batch, length) unless their name says otherwise:
    `attention_mask` is 1 for real tokens (or (batch, length, length) for pairs), `head_mask` has
    shape (heads,) or (layers, heads), `segment_ids` number the sequences packed into a row from 1,
    with 0 for padding. `logits_at` (batch, k) are the positions at which a masked language model's
    logits are wanted, where not at all; `targets`, as many labels, ask for the loss of each
    instead, for which the logits of all never exist at once. Dropout is off unless
    `deterministic=False` and a "dropout" rng is given.
    """

    config: Any
    execution: Execution = Execution()

    # Multiple choice: every argument has a second dimension, the choices.
    has_choices: ClassVar[bool] = False
    # A masked language model.
    fills_in: ClassVar[bool] = False
    encoder_class: ClassVar[Any] = None

    def __call__(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        segment_ids=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        cache=None,
        *,
        logits_at=None,
        targets=None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        deterministic: bool = True,
    ) -> Output:
        self.execution.check_model_type(self.config.model_type)
        per_token = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "segment_ids": segment_ids,
        }
        choices = None
        if self.has_choices:
            per_token, choices = flatten_choices(per_token)
        if (logits_at is not None or targets is not None) and not self.fills_in:
            raise InputError(
                f"logits_at and targets are for masked language models; {type(self).__name__} "
                "takes neither"
            )
        inputs = prepare(
            self.config,
            **per_token,
            logits_at=logits_at,
            targets=targets,
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            cache=cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            deterministic=deterministic,
        )
        output = self.forward(inputs)
        if choices is not None:
            output = output.headed(logits=output.logits.reshape(-1, choices))
        return output

    def forward(self, inputs: Inputs) -> Output:
        raise NotImplementedError

    def encode(self, inputs: Inputs, pooler: bool = False) -> Output:
        """Run the encoder that this head sits on, as the child `encoder`."""
        return self.make_encoder(pooler).forward(inputs)

    def make_encoder(self, pooler: bool = False) -> Any:
        return self.encoder_class(self.config, self.execution, pooler=pooler, name="encoder")


def flatten_choices(per_token: dict[str, Any]) -> tuple[dict[str, Any], int]:
    name = "input_ids" if per_token["input_ids"] is not None else "inputs_embeds"
    tokens = per_token[name]
    extra = 1 if name == "inputs_embeds" else 0
    if tokens is None or jnp.ndim(tokens) != 3 + extra:
        found = None if tokens is None else jnp.shape(tokens)
        raise ValueError(
            f"{name} has shape {found}; multiple choice expects (batch, choices, length"
            + (", features)" if extra else ")")
        )
    flat = {}
    for key, value in per_token.items():
        if value is not None:
            value = jnp.asarray(value) if not hasattr(value, "reshape") else value
            value = value.reshape(-1, *value.shape[2:])
        flat[key] = value
    return flat, tokens.shape[1]


def embed_words(word: Embed, inputs: Inputs) -> jax.Array:
    """The word embeddings of a call, looked up or given; the table exists either way."""
    if inputs.inputs_embeds is None:
        return word(inputs.input_ids)
    if word.is_initializing():
        word(jnp.zeros((1, 1), jnp.int32))
    return inputs.inputs_embeds.astype(word.execution.dtype)
