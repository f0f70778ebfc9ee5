"""Sequences packed into one row compute what each computes alone, without padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert.inputs import prepare

each_architecture = pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
# Two rows of two sequences and padding; every sequence once: (row, start, length).
SEQUENCES = [(0, 0, 7), (0, 7, 4), (1, 0, 4), (1, 4, 7)]
LENGTH = 12
VARIANTS = {
    **{arch: {} for arch in tiny.ARCHITECTURES},
    # A kernel longer than the shorter sequences, and shorter projections in more groups.
    "convbert": {"conv_kernel_size": 9, "head_ratio": 1},
}


def packed(arch):
    rng = np.random.default_rng(1)
    names = ["input_ids", "segment_ids", "position_ids"]
    names += [] if arch == "distilbert" else ["token_type_ids"]
    rows = {name: np.zeros((2, LENGTH), np.int32) for name in names}
    rows["input_ids"] += 5  # padding is not id 0, so that reading it shows
    for number, (row, start, length) in enumerate(SEQUENCES):
        at = (row, slice(start, start + length))
        rows["input_ids"][at] = rng.integers(3, tiny.VOCAB, length)
        rows["segment_ids"][at] = 1 + number % 2
        rows["position_ids"][at] = np.arange(length)
        if arch != "distilbert":
            rows["token_type_ids"][row, start + length // 2 : start + length] = 1
    # Nothing is masked by it: it is here for the control below to run the same program.
    rows["attention_mask"] = np.ones((2, LENGTH, LENGTH), np.int32)
    return rows


def alone(rows, length):
    """The sequences of one length, as a batch of their own."""
    inputs = {}
    for name in set(rows) - {"segment_ids", "position_ids", "attention_mask"}:
        inputs[name] = np.stack([rows[name][r, s : s + n] for r, s, n in SEQUENCES if n == length])
    return inputs


@functools.cache
def model(arch):
    return tiny.model(arch, **VARIANTS[arch])


def weights(length):
    return np.random.default_rng(length).standard_normal((2, length, 32)).astype(np.float32)


@functools.cache
def program(arch):
    """Gradients and hidden states of a sum that weighs every number of the last layer."""
    module, _ = model(arch)

    def of(params, inputs, weight):
        def scalar(params):
            hidden = module.apply({"params": params}, **inputs).last_hidden_state
            return jnp.sum(hidden * weight), hidden

        return jax.grad(scalar, has_aux=True)(params)

    return jax.jit(of)


@each_architecture
def test_packed_equals_alone_in_outputs_and_gradients(arch):
    _, params = model(arch)
    rows = packed(arch)
    weight = np.zeros((2, LENGTH, 32), np.float32)
    expected, total = np.zeros((2, LENGTH, 32), np.float32), None
    for length in (7, 4):
        grads, hidden = program(arch)(params, alone(rows, length), weights(length))
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
        for i, (row, start, _) in enumerate(s for s in SEQUENCES if s[2] == length):
            weight[row, start : start + length] = weights(length)[i]
            expected[row, start : start + length] = hidden[i]
    grads, found = program(arch)(params, rows, weight)
    real = rows["segment_ids"] > 0
    np.testing.assert_allclose(found[real], expected[real], atol=2e-5 * np.abs(expected).max())
    # Some gradients are zero but for rounding: a key's bias moves all scores of a query alike.
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(total))

    def close(path, a, b):
        tolerance = 5e-5 * max(float(np.abs(b).max()), 1e-2 * largest)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0, err_msg=name)

    jax.tree_util.tree_map_with_path(close, grads, total)


@each_architecture
def test_sequences_of_a_row_do_not_see_each_other(arch):
    _, params = model(arch)
    rows = packed(arch)
    weight = np.ones((2, LENGTH, 32), np.float32)
    _, expected = program(arch)(params, rows, weight)
    changed = {**rows, "input_ids": rows["input_ids"].copy()}
    changed["input_ids"][0, 7:11] += 3
    changed["input_ids"][:, 11:] = 60  # padding
    _, found = program(arch)(params, changed, weight)
    np.testing.assert_array_equal(found[0, :7], expected[0, :7])
    np.testing.assert_array_equal(found[1, :11], expected[1, :11])
    assert (np.abs(found[0, 7:11] - expected[0, 7:11]).max(-1) > 1e-3).all()


@each_architecture
def test_without_segments_they_would(arch):
    # The control: attention, and each reader of neighbours, is gated by the segments alone.
    _, params = model(arch)
    rows = packed(arch)
    weight = np.ones((2, LENGTH, 32), np.float32)
    run = lambda **changes: program(arch)(params, {**rows, **changes}, weight)[1][0]  # noqa: E731
    expected = run()
    one_segment = np.minimum(rows["segment_ids"], 1)
    assert np.abs(run(segment_ids=one_segment) - expected)[:11].max() > 1e-2
    same = (rows["segment_ids"][:, :, None] == rows["segment_ids"][:, None, :]).astype(np.int32)
    moved = np.abs(run(segment_ids=one_segment, attention_mask=same) - expected).max(-1)
    reads_neighbours = arch in ("mobilebert", "convbert")
    assert (moved[6] > 1e-3) == (moved[7] > 1e-3) == reads_neighbours


def test_positions_restart_in_each_sequence():
    rows = packed("bert")
    expected = rows.pop("position_ids")
    names = ("head_mask", "inputs_embeds", "encoder_hidden_states", "encoder_attention_mask",
             "cache", "position_ids", "output_hidden_states", "output_attentions")  # fmt: skip
    inputs = prepare(tiny.config("bert"), **rows, **dict.fromkeys(names), deterministic=True)
    np.testing.assert_array_equal(inputs.position_ids, expected)


def test_row_may_be_longer_than_the_table_of_positions():
    # 4 sequences of 10 and 40 of padding, in a model of 32 positions.
    module, params = model("bert")
    segments = np.concatenate([np.repeat(np.arange(1, 5), 10), np.zeros(40)])[None].astype(np.int32)
    ids = np.tile(np.arange(3, 13, dtype=np.int32), 8)[None]
    run = jax.jit(lambda *rows: module.apply({"params": params}, rows[0], segment_ids=rows[1]))
    hidden = run(ids, segments).last_hidden_state[0]
    assert np.isfinite(hidden).all()
    for start in (10, 20, 30):
        np.testing.assert_allclose(hidden[start : start + 10], hidden[:10], atol=1e-5)


def test_mask_still_counts_inside_a_segment():
    module, params = model("bert")
    rows = packed("bert")
    mask = np.ones((2, LENGTH), np.int32)
    mask[0, 5:7] = 0
    rows = {**rows, "attention_mask": mask}
    run = jax.jit(lambda x: module.apply({"params": params}, **x, output_attentions=True))
    weights = np.asarray(run(rows).attentions[0])
    assert np.abs(weights[0, :, :7, 5:]).max() == 0
    np.testing.assert_allclose(weights[0, :, :7, :5].sum(-1), 1, atol=1e-5)
