"""BERT as a decoder: causal, and with a cache equal to the full forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import lax

from jbert.execution import Execution
from jbert.models.bert import init_cache
from jbert.stack import stack_layers

B, L, SLOTS = 3, 9, 12
POSITIONS = ("absolute", "relative_key", "relative_key_query")
IDS = np.random.default_rng(2).integers(3, tiny.VOCAB, (B, L)).astype(np.int32)


@functools.cache
def decoder(position_type="absolute", scan=False):
    """A decoder with its full forward pass and one step of cached decoding, both compiled."""
    module, params = tiny.model(
        "bert", "causal_lm", Execution(scan_layers=scan), position_embedding_type=position_type
    )
    if scan:
        params = stack_layers(tiny.model("bert", "causal_lm")[1])
    full = jax.jit(lambda **x: module.apply({"params": params}, **x).logits)

    def step(ids, cache, **rest):
        out = module.apply({"params": params}, ids, cache=cache, **rest)
        return out.logits, out.cache

    return module, params, full, jax.jit(step)


def in_chunks(step, cache, sizes, ids=IDS, **per_token):
    logits, at = [], 0
    for size in sizes:
        part = slice(at, at + size)
        rest = {name: value[:, part] for name, value in per_token.items()}
        chunk, cache = step(ids[:, part], cache, **rest)
        logits.append(chunk)
        at += size
    assert at == ids.shape[1] and int(cache["index"]) == at
    return np.concatenate(logits, axis=1)


@pytest.mark.parametrize(
    ("position_type", "scan"), [*((kind, False) for kind in POSITIONS), ("absolute", True)]
)
def test_cached_decoding_equals_the_full_forward_pass(position_type, scan):
    module, _, full, step = decoder(position_type, scan)
    expected = full(input_ids=IDS)
    for sizes in ([4, 1, 1, 1, 1, 1], [4, 4, 1]):
        found = in_chunks(step, init_cache(module.config, B, SLOTS), sizes)
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_prompts_decode_as_in_the_full_forward_pass(side):
    module, _, full, step = decoder()
    lengths = np.array([[4], [2], [3]])
    prompt = np.arange(4)[None] < lengths if side == "right" else np.arange(4)[None] >= 4 - lengths
    mask = np.concatenate([prompt, np.ones((B, L - 4), bool)], axis=1).astype(np.int32)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)
    expected = full(input_ids=IDS, attention_mask=mask, position_ids=positions)
    cache = init_cache(module.config, B, SLOTS)
    sizes = [4, 1, 1, 1, 1, 1]
    found = in_chunks(step, cache, sizes, attention_mask=mask, position_ids=positions)
    real = mask == 1
    np.testing.assert_allclose(found[real], expected[real], atol=2e-5)
    # And as the same text without its padding.
    row = IDS[1][real[1]][None]
    alone = full(input_ids=np.tile(row, (B, 1)))[0]
    np.testing.assert_allclose(found[1][real[1]], alone, atol=2e-5)


def test_mask_of_the_whole_cache_is_accepted():
    module, _, full, step = decoder()
    mask = np.ones((B, L), np.int32)
    mask[1, :2] = 0
    whole = np.pad(mask, ((0, 0), (0, SLOTS - L)))
    cache = init_cache(module.config, B, SLOTS)
    logits = []
    for part in (slice(0, 4), slice(4, 8), slice(8, 9)):
        seen = whole * (np.arange(SLOTS) < part.stop)
        chunk, cache = step(IDS[:, part], cache, attention_mask=seen)
        logits.append(chunk)
    expected = full(input_ids=IDS, attention_mask=mask)
    real = mask == 1
    np.testing.assert_allclose(np.concatenate(logits, 1)[real], expected[real], atol=2e-5)


def test_generation_in_a_while_loop_equals_generation_without_a_cache():
    module, params, full, _ = decoder()

    @jax.jit
    def generate(prompt):
        cache = init_cache(module.config, B, SLOTS)
        out = module.apply({"params": params}, prompt, cache=cache)
        tokens = jnp.zeros((B, L), jnp.int32).at[:, :4].set(prompt)

        def grow(state):
            tokens, logits, cache, at = state
            chosen = jnp.argmax(logits[:, -1:], axis=-1).astype(jnp.int32)
            tokens = lax.dynamic_update_slice(tokens, chosen, (0, at))
            out = module.apply({"params": params}, chosen, cache=cache)
            return tokens, out.logits, out.cache, at + 1

        state = (tokens, out.logits[:, -1:], out.cache, jnp.asarray(4))
        return lax.while_loop(lambda state: state[3] < L, grow, state)[0]

    found = np.asarray(generate(IDS[:, :4]))
    expected = np.array(IDS)
    for at in range(4, L):
        # Causal: what follows the last chosen token does not matter.
        expected[:, at] = np.argmax(full(input_ids=expected)[:, at - 1], axis=-1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("position_type", POSITIONS)
def test_position_depends_on_no_later_one(position_type):
    module, params, *_ = decoder(position_type)
    table = params["encoder"]["embeddings"]["word"]["embedding"]

    @jax.jit
    def influence(embeds):
        """Of each position (column) on the logits of position 5."""

        def scalar(embeds):
            out = module.apply({"params": params}, inputs_embeds=embeds)
            return jnp.sum(out.logits[:, 5] ** 2)

        return jnp.abs(jax.grad(scalar)(embeds)).max(axis=(0, 2))

    found = influence(table[IDS])
    assert (found[:6] > 0).all()
    np.testing.assert_array_equal(found[6:], 0)


def test_cross_attention_reads_the_encoder_states_through_their_mask():
    module, params = tiny.model("bert", "causal_lm", add_cross_attention=True)
    states = np.random.default_rng(0).standard_normal((B, 5, 32)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])

    @jax.jit
    def run(states, mask):
        out = module.apply({"params": params}, IDS, encoder_hidden_states=states,
                           encoder_attention_mask=mask, output_attentions=True)  # fmt: skip
        return out.logits, out.cross_attentions

    logits, crossed = run(states, mask)
    assert [a.shape for a in crossed] == [(B, 4, L, 5)] * 2
    assert np.abs(np.where(mask[:, None, None] == 0, crossed[0], 0)).max() == 0
    hidden = np.where(mask[..., None] == 0, 9.0, states).astype(np.float32)
    np.testing.assert_array_equal(run(hidden, mask)[0], logits)
    pairs = np.repeat(mask[:, None], L, axis=1)
    np.testing.assert_allclose(run(states, pairs)[0], logits, atol=1e-6)
    assert np.abs(run(states + 1, mask)[0] - logits).max() > 1e-2
    # With a cache the states are read anew at each step.
    cache = init_cache(module.config, B, SLOTS)
    step = jax.jit(
        lambda ids, cache: module.apply({"params": params}, ids, cache=cache,
                                        encoder_hidden_states=states, encoder_attention_mask=mask)
    )  # fmt: skip
    first = step(IDS[:, :5], cache)
    second = step(IDS[:, 5:9], first.cache)
    found = np.concatenate([first.logits, second.logits], axis=1)
    np.testing.assert_allclose(found, logits, atol=2e-5)


def test_full_cache_is_refused_and_while_tracing_gives_nan():
    module, params, _, step = decoder()
    cache = init_cache(module.config, B, SLOTS)
    for size in (4, 4, 4):
        logits, cache = step(IDS[:, :size], cache)
        assert np.isfinite(logits).all()
    with pytest.raises(ValueError, match="12 slots and 12 are used: no room for 4 more"):
        module.apply({"params": params}, IDS[:, :4], cache=cache)
    logits, _ = step(IDS[:, :4], cache)
    assert np.isnan(logits).all()
    # One slot too many is as bad as four.
    almost = {**cache, "index": jnp.asarray(SLOTS - 3, jnp.int32)}
    assert np.isnan(step(IDS[:, :4], almost)[0]).all()
