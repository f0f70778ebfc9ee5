"""BERT as a decoder: cross-attention, and decoding with a cache, one token or several at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import torch
import variants

from jbert.models import REGISTRY, bert

pytestmark = pytest.mark.parity

STATES = 6
CROSS = {"is_decoder": True, "add_cross_attention": True}


def encoder_states(width: int = 32) -> np.ndarray:
    shape = (variants.ROWS, STATES, width)
    return np.random.default_rng(8).standard_normal(shape).astype(np.float32)


def encoder_mask(dimensions: int) -> np.ndarray:
    rng = np.random.default_rng(9)
    if dimensions == 2:
        return (np.arange(STATES) < np.array([[6], [4], [1], [3]])).astype(np.int32)
    mask = (rng.random((variants.ROWS, variants.LENGTH, STATES)) < 0.6).astype(np.int32)
    mask[..., 0] = 1
    return mask


@pytest.mark.parametrize("mask", [None, 2, 3])
@pytest.mark.parametrize("task", [None, "causal_lm"])
def test_cross_attention(task, mask):
    fields = {**variants.BASE["bert"], **CROSS}
    config = REGISTRY["bert"].config_class(**fields)
    inputs = variants.batch("bert", task, config)
    labels = variants.labels(task, config, inputs)
    inputs["encoder_hidden_states"] = encoder_states()
    prepared = {}
    if mask is not None:
        inputs["encoder_attention_mask"] = encoder_mask(mask)
    if mask == 3:
        hidden = np.finfo(np.float32).min
        visible = inputs["encoder_attention_mask"][:, None] == 1
        prepared["encoder_attention_mask"] = np.where(visible, 0, hidden).astype(np.float32)
    pair = oracle.run_both("bert", task, fields, inputs, labels, prepared)
    assert len(pair.output.cross_attentions) == 2
    pair.assert_outputs_agree()
    pair.assert_losses_agree()
    pair.assert_gradients_agree()


def test_decoder_without_an_encoder_skips_its_cross_attention():
    fields = {**variants.BASE["bert"], **CROSS}
    config = REGISTRY["bert"].config_class(**fields)
    inputs = variants.batch("bert", "causal_lm", config)
    labels = variants.labels("causal_lm", config, inputs)
    pair = oracle.run_both("bert", "causal_lm", fields, inputs, labels)
    pair.assert_outputs_agree()
    pair.assert_gradients_agree()


@functools.cache
def decoders(cross: bool):
    """torch's decoder and jbert's, with one compiled step for tokens at any position."""
    fields = {**variants.BASE["bert"], **(CROSS if cross else {"is_decoder": True})}
    config = REGISTRY["bert"].config_class(**fields)
    reference = oracle.torch_model("bert", "causal_lm", fields)
    ids = np.zeros((variants.ROWS, variants.LENGTH), np.int32)
    module, flat = oracle.build(config, "causal_lm", {"input_ids": ids})
    arrays = oracle.named(reference, "bert")
    matched = oracle.paired(arrays, "bert", "causal_lm", flat)
    params = oracle.to_jbert(arrays, matched, flat)

    @jax.jit
    def step(cache, **inputs):
        output = module.apply({"params": params}, **inputs, cache=cache)
        return output.logits, output.cache

    return reference, config, step


def encoder_arguments(cross: bool) -> dict[str, np.ndarray]:
    if not cross:
        return {}
    return {"encoder_hidden_states": encoder_states(), "encoder_attention_mask": encoder_mask(2)}


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("pieces", [[1] * 11, [5, 1, 1, 4]], ids=["by_token", "by_piece"])
def test_cached_decoding(cross, pieces):
    reference, config, step = decoders(cross)
    ids = variants.batch("bert", "causal_lm", config)["input_ids"]
    fixed = encoder_arguments(cross)
    with torch.no_grad():
        given = oracle.tensors({"input_ids": ids, **fixed})
        whole = reference(**given, use_cache=False).logits
    cache, past, at = bert.init_cache(config, variants.ROWS, 16), None, 0
    for length in pieces:
        now = {"input_ids": ids[:, at : at + length], **fixed}
        logits, cache = step(cache, **{k: jnp.asarray(v) for k, v in now.items()})
        with torch.no_grad():
            stepped = reference(**oracle.tensors(now), past_key_values=past, use_cache=True)
        past = stepped.past_key_values
        part = f"token {at} on"
        oracle.assert_close(logits, stepped.logits, oracle.MODEL, f"{part}, beside torch's cache")
        oracle.assert_close(logits, whole[:, at : at + length], oracle.MODEL, part)
        at += length
    assert at == variants.LENGTH == int(cache["index"])


@pytest.mark.parametrize("cross", [False, True])
def test_cached_decoding_of_texts_padded_on_the_left(cross):
    reference, config, step = decoders(cross)
    inputs = variants.batch("bert", "causal_lm", config)
    ids, mask = (np.ascontiguousarray(inputs[n][:, ::-1]) for n in ("input_ids", "attention_mask"))
    # Each text counts from its own first token.
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)
    fixed = encoder_arguments(cross)
    cache, past = bert.init_cache(config, variants.ROWS, variants.LENGTH), None
    for t in range(variants.LENGTH):
        now = {"input_ids": ids[:, t : t + 1], "position_ids": positions[:, t : t + 1], **fixed}
        logits, cache = step(
            cache, attention_mask=jnp.asarray(mask[:, t : t + 1]),
            **{k: jnp.asarray(v) for k, v in now.items()},
        )  # fmt: skip
        seen = {**now, "attention_mask": mask[:, : t + 1]}
        with torch.no_grad():
            stepped = reference(**oracle.tensors(seen), past_key_values=past, use_cache=True)
        past = stepped.past_key_values
        # A padding token that sees nothing averages over all the slots there are, and jbert's
        # cache has those of later tokens already; no real token reads it.
        real = mask[:, t] == 1
        oracle.assert_close(
            np.asarray(logits)[real], stepped.logits[torch.from_numpy(real)], oracle.MODEL,
            f"token {t}",
        )  # fmt: skip


def test_gradient_reaches_the_encoder():
    fields = {**variants.BASE["bert"], **CROSS}
    config = REGISTRY["bert"].config_class(**fields)
    inputs = variants.batch("bert", None, config)
    reference = oracle.torch_model("bert", None, fields)
    module, flat = oracle.build(config, None, inputs)
    arrays = oracle.named(reference, "bert")
    params = oracle.to_jbert(arrays, oracle.paired(arrays, "bert", None, flat), flat)
    weights = np.random.default_rng(2).standard_normal((*inputs["input_ids"].shape, 32))

    def loss(states):
        output = module.apply({"params": params}, **inputs, encoder_hidden_states=states)
        return jnp.mean(output.last_hidden_state * jnp.asarray(weights, jnp.float32))

    states = torch.from_numpy(encoder_states()).requires_grad_()
    output = reference(**oracle.tensors(inputs), encoder_hidden_states=states, use_cache=False)
    (output.last_hidden_state * torch.from_numpy(weights).float()).mean().backward()
    found = jax.grad(loss)(jnp.asarray(encoder_states()))
    oracle.assert_close(found, states.grad, oracle.MODEL, "the gradient of the states")
