"""What a model is called with: defaults filled in, and bad inputs refused by name."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import struct

from jbert.attention import Visible
from jbert.layers import Context


class InputError(ValueError):
    """An argument of a model call that the model cannot be right about."""


@struct.dataclass
class Inputs:
    """The arguments of one call, ready for the layers."""

    input_ids: Any
    inputs_embeds: Any
    token_type_ids: Any
    position_ids: Any
    head_mask: Any
    logits_at: Any
    targets: Any
    cache: Any
    context: Context


def prepare(
    config: Any,
    *,
    input_ids,
    attention_mask,
    token_type_ids,
    position_ids,
    head_mask,
    inputs_embeds,
    segment_ids,
    encoder_hidden_states,
    encoder_attention_mask,
    cache,
    output_hidden_states: bool | None,
    output_attentions: bool | None,
    deterministic: bool,
    logits_at=None,
    targets=None,
) -> Inputs:
    """Check the arguments against the configuration and each other, and fill in the defaults."""
    shape = check(
        config, input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
        segment_ids, encoder_hidden_states, encoder_attention_mask, cache,
    )  # fmt: skip
    keys, pairs = _read_mask(attention_mask)
    if segment_ids is not None:
        segment_ids = jnp.asarray(segment_ids)
        keys = (segment_ids > 0) if keys is None else keys & (segment_ids > 0)
    if position_ids is None:
        position_ids = _positions(shape[1], segment_ids, cache)
    if cache is not None:
        cache = {**cache, "mask": _written(cache, keys, *shape)}
    context = Context(
        visible=_visible(config, shape, keys, pairs, segment_ids, cache),
        segment_ids=segment_ids,
        encoder_states=encoder_hidden_states,
        encoder_visible=_encoder_visible(encoder_hidden_states, encoder_attention_mask, shape),
        cache_index=None if cache is None else cache["index"],
        deterministic=deterministic,
        return_hidden=_flag(output_hidden_states, config.output_hidden_states),
        return_attentions=_flag(output_attentions, config.output_attentions),
    )
    return Inputs(
        input_ids=None if input_ids is None else jnp.asarray(input_ids),
        inputs_embeds=None if inputs_embeds is None else jnp.asarray(inputs_embeds),
        token_type_ids=(
            jnp.zeros(shape, jnp.int32) if token_type_ids is None else jnp.asarray(token_type_ids)
        ),
        position_ids=jnp.asarray(position_ids),
        head_mask=_head_mask(config, head_mask),
        logits_at=_places(logits_at, shape),
        targets=_targets(targets, shape if logits_at is None else np.shape(logits_at)),
        cache=cache,
        context=context,
    )


def check(
    config: Any,
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
) -> tuple[int, int]:
    """Refuse arguments that do not fit the configuration or each other; returns (batch, length).

    Shapes and types are always checked, values wherever they are known: not while tracing.
    """
    if (input_ids is None) == (inputs_embeds is None):
        what = "neither" if input_ids is None else "both"
        raise InputError(f"expected either input_ids or inputs_embeds, found {what}; pass one")
    _check_decoder(config, encoder_hidden_states, encoder_attention_mask, cache, segment_ids)
    shape = _check_tokens(config, input_ids, inputs_embeds)
    _check_ids(token_type_ids, "token_type_ids", shape, _token_types(config, token_type_ids))
    _check_ids(position_ids, "position_ids", shape, config.max_position_embeddings, rows=1)
    _check_ids(segment_ids, "segment_ids", shape, 2**31 - 1)
    _check_length(config, shape[1], position_ids, segment_ids)
    _check_cache(cache, shape)
    _check_states(config, encoder_hidden_states, shape[0])
    _check_mask(attention_mask, shape, cache)
    _check_head_mask(config, head_mask)
    return shape


def _flag(argument: bool | None, default: bool) -> bool:
    return default if argument is None else bool(argument)


# -- masks ----------------------------------------------------------------------------------


def _read_mask(mask):
    """The argument as (keys [b, k], pairs [b, q, k]) of booleans, at most one of them given."""
    if mask is None:
        return None, None
    mask = jnp.asarray(mask).astype(bool)
    return (mask, None) if mask.ndim == 2 else (None, mask)


def _visible(config, shape, keys, pairs, segment_ids, cache) -> Visible:
    b, length = shape
    causal = getattr(config, "is_decoder", False)
    if cache is not None:
        written = cache["mask"]
        order = jnp.arange(written.shape[1])[None] <= cache["index"] + jnp.arange(length)[:, None]
        mask = written[:, None, None, :] & order[None, None]
        return Visible(mask=mask if pairs is None else mask & pairs[:, None], simple=False)
    parts = []
    if keys is not None:
        parts.append(keys[:, None, None, :])
    if pairs is not None:
        parts.append(pairs[:, None])
    if segment_ids is not None:
        parts.append((segment_ids[:, :, None] == segment_ids[:, None, :])[:, None])
    if causal:
        parts.append(jnp.tril(jnp.ones((length, length), bool))[None, None])
    mask = None
    for part in parts:
        mask = part if mask is None else mask & part
    simple = pairs is None and not causal
    return Visible(mask=mask, keys=keys, segments=segment_ids, simple=simple)


def _written(cache, keys, b: int, length: int):
    """Which slots of the cache hold a real token, the tokens of this call included."""
    total = cache["mask"].shape[1]
    if keys is not None and keys.shape == (b, total) and total != length:
        return keys
    new = jnp.ones((b, length), bool) if keys is None else keys
    return jax.lax.dynamic_update_slice(cache["mask"], new, (0, cache["index"]))


def _encoder_visible(states, mask, shape) -> Visible:
    if states is None or mask is None:
        return Visible()
    b, k_len = states.shape[:2]
    mask = jnp.asarray(mask).astype(bool)
    if mask.shape == (b, k_len):
        return Visible(mask=mask[:, None, None, :], keys=mask)
    if mask.shape == (b, shape[1], k_len):
        return Visible(mask=mask[:, None], simple=False)
    raise InputError(
        f"encoder_attention_mask has shape {mask.shape}; expected {(b, k_len)} or "
        f"{(b, shape[1], k_len)}"
    )


def _positions(length: int, segment_ids, cache):
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    if cache is not None:
        return positions + cache["index"]
    if segment_ids is None:
        return positions
    # Each packed sequence counts from its own first token.
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    starts = jnp.where(segment_ids != before, positions, 0)
    # Padding may be longer than the table of positions, and a NaN there would spread: 0 · NaN.
    return jnp.where(segment_ids > 0, positions - jax.lax.cummax(starts, axis=1), 0)


def _head_mask(config, head_mask):
    if head_mask is None:
        return None
    shape = (config.num_hidden_layers, config.attention_heads)
    return jnp.broadcast_to(jnp.atleast_2d(jnp.asarray(head_mask)), shape)


# -- checks ---------------------------------------------------------------------------------


def _check_decoder(config, states, states_mask, cache, segment_ids) -> None:
    decoder = getattr(config, "is_decoder", False)
    name = config.model_type
    if cache is not None and not decoder:
        raise InputError(
            f"a cache is for decoders, and this {name} configuration is none; "
            "only BERT with is_decoder=True (task='causal_lm') takes one"
        )
    if cache is not None and segment_ids is not None:
        raise InputError("segment_ids cannot be used with a cache; decode each sequence in its row")
    if states is None and states_mask is not None:
        raise InputError("encoder_attention_mask was given without encoder_hidden_states")
    if states is not None and not getattr(config, "add_cross_attention", False):
        raise InputError(
            f"encoder_hidden_states need cross-attention layers, which this {name} configuration "
            "lacks; only BERT with is_decoder=True and add_cross_attention=True has them"
        )


def _token_types(config, token_type_ids) -> int:
    sizes = getattr(config, "type_vocab_size", 0)
    if token_type_ids is not None and not sizes:
        raise InputError(
            f"{config.model_type} has no token types; leave token_type_ids out (its tokenizer does)"
        )
    return sizes


def _check_tokens(config, input_ids, inputs_embeds) -> tuple[int, int]:
    if input_ids is not None:
        shape = np.shape(input_ids)
        if len(shape) != 2:
            raise InputError(f"input_ids has shape {shape}; expected (batch, length)")
        _check_ids(input_ids, "input_ids", shape, config.vocab_size)
    else:
        full = np.shape(inputs_embeds)
        if len(full) != 3 or full[2] != config.embedding_width:
            raise InputError(
                f"inputs_embeds has shape {full}; "
                f"expected (batch, length, {config.embedding_width})"
            )
        shape = full[:2]
    if shape[1] == 0:
        raise InputError(f"the inputs have shape {shape}: a length of 0; pass at least one token")
    return shape  # pyright: ignore[reportReturnType]


def _check_ids(ids, name: str, shape, size: int, rows: int | None = None) -> None:
    """Ids of the right kind and shape; and, unless they are being traced, within the table."""
    if ids is None:
        return
    found = np.shape(ids)
    if found != tuple(shape) and found != (rows, *shape[1:]):
        raise InputError(f"{name} has shape {found}; expected {tuple(shape)}, as the tokens")
    dtype = ids.dtype if hasattr(ids, "dtype") else np.asarray(ids).dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        raise InputError(f"{name} is of type {dtype}; expected integers")
    values = concrete(ids)
    if values is None or values.size == 0:
        return
    bad = (values < 0) | (values >= size)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{name}{list(where)} is {values[where]}; expected 0 <= id < {size}. "
            + _ADVICE.get(name, "")
        )


_ADVICE = {
    "input_ids": "Do the tokenizer and the model belong together?",
    "position_ids": "Truncate the text (max_length=…), or pack it with segment_ids.",
}


def _check_length(config, length: int, position_ids, segment_ids) -> None:
    limit = config.max_position_embeddings
    # Relative positions are distances within the row, whatever position_ids say.
    relative = getattr(config, "position_embedding_type", "absolute") != "absolute"
    if segment_ids is not None:
        length = min(length, limit) if position_ids is not None else _longest_segment(segment_ids)
    elif position_ids is not None and not relative:
        return
    if length > limit:
        raise InputError(
            f"the input has {length} positions; this model has {limit} "
            "(max_position_embeddings). Truncate the text (max_length=…) or split it into windows"
        )


def _longest_segment(segment_ids) -> int:
    """The length of the longest packed sequence; 0 while it is being traced."""
    values = concrete(segment_ids)
    if values is None or values.size == 0:
        return 0
    borders = np.diff(values, prepend=-1, axis=1) != 0
    index = np.arange(values.shape[1])[None]
    since = index - np.maximum.accumulate(np.where(borders, index, 0), axis=1)
    return int(np.max(np.where(values > 0, since + 1, 0)))


def _check_cache(cache, shape) -> None:
    if cache is None:
        return
    (b, length), (rows, total) = shape, cache["mask"].shape
    if b != rows:
        raise InputError(f"the cache is for a batch of {rows}, but the inputs have {b} rows")
    index = concrete(cache["index"])
    used = 0 if index is None else int(index)
    if used + length > total:
        raise InputError(
            f"the cache has {total} slots and {used} are used: no room for {length} more tokens; "
            "make it with a larger max_length"
        )


def _check_states(config, states, b: int) -> None:
    if states is None:
        return
    found = np.shape(states)
    if len(found) != 3 or found[0] != b or found[1] == 0 or found[2] != config.hidden_size:
        raise InputError(
            f"encoder_hidden_states has shape {found}; "
            f"expected ({b}, encoder length, {config.hidden_size})"
        )


def _check_mask(mask, shape, cache) -> None:
    if mask is None:
        return
    b, length = shape
    k_len = length if cache is None else cache["mask"].shape[1]
    if np.shape(mask) not in ((b, length), (b, k_len), (b, length, k_len)):
        raise InputError(
            f"attention_mask has shape {np.shape(mask)}; expected {(b, length)}, one value a "
            f"token, or {(b, length, k_len)}, one a pair of query and key"
        )


def _check_head_mask(config, head_mask) -> None:
    layers, heads = config.num_hidden_layers, config.attention_heads
    if head_mask is not None and np.shape(head_mask) not in ((heads,), (layers, heads)):
        raise InputError(
            f"head_mask has shape {np.shape(head_mask)}; expected {(heads,)} or {(layers, heads)}"
        )


def _places(logits_at, shape):
    if logits_at is None:
        return None
    found = np.shape(logits_at)
    if len(found) != 2 or found[0] != shape[0]:
        raise InputError(f"logits_at has shape {found}; expected ({shape[0]}, positions)")
    _check_ids(logits_at, "logits_at", found, shape[1])
    return jnp.asarray(logits_at)


def _targets(targets, shape):
    if targets is None:
        return None
    if np.shape(targets) != tuple(shape):
        raise InputError(
            f"targets has shape {np.shape(targets)}; expected {tuple(shape)}, one for each logit"
        )
    return jnp.asarray(targets)


def concrete(x: Any) -> np.ndarray | None:
    """The values of an array that has them here and now: not traced, nor on other hosts."""
    if isinstance(x, jax.core.Tracer):
        return None
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return None
    return np.asarray(x)
