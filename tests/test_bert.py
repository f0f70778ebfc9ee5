"""What BERT alone has: relative positions, and layers of cross-attention that may be skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert.execution import Execution
from jbert.layers import RelativeScores


@pytest.mark.parametrize("keys_too", [False, True])
@pytest.mark.parametrize("first", [0, 3])
def test_relative_scores_are_products_with_the_row_of_the_distance(keys_too, first):
    rng = np.random.default_rng(0)
    query, key = (rng.standard_normal((2, 3, n, 4)).astype(np.float32) for n in (2, 5))
    table = rng.standard_normal((2 * 8 - 1, 4)).astype(np.float32)
    expected = np.zeros((2, 3, 2, 5))
    for q in range(2):
        for k in range(5):
            row = table[first + q - k + 8 - 1]
            expected[:, :, q, k] = query[:, :, q] @ row
            if keys_too:
                expected[:, :, q, k] += key[:, :, k] @ row
    scores = RelativeScores(8, keys_too, 0.02, Execution())
    found = scores.apply({"params": {"embedding": table}}, query, key, first)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_replace_the_absolute_ones(kind):
    module, params = tiny.model("bert", position_embedding_type=kind)
    inputs = tiny.batch("bert")

    @jax.jit
    def run(params, inputs):
        of = lambda p: module.apply({"params": p}, **inputs).last_hidden_state  # noqa: E731
        return of(params), jax.grad(lambda p: jnp.sum(of(p) ** 2))(params)

    hidden, grads = run(params, {**inputs, "position_ids": np.zeros((3, tiny.LENGTH), np.int32)})
    # The absolute table is there, as in the reference's checkpoints, and is not read.
    np.testing.assert_array_equal(grads["embeddings"]["position"]["embedding"], 0)
    for i in range(2):
        table = grads[f"layer_{i}"]["attention"]["relative"]["embedding"]
        assert table.shape == (63, 8)
        read = np.abs(table).max(axis=1) > 0
        # The distances -10..10 lie around the middle row.
        np.testing.assert_array_equal(np.flatnonzero(read), 31 + np.arange(-10, 11))
    shifted = {**inputs, "position_ids": np.full((3, tiny.LENGTH), 9, np.int32)}
    np.testing.assert_array_equal(run(params, shifted)[0], hidden)


def test_decoder_without_encoder_states_skips_its_cross_attention():
    module, params = tiny.model("bert", "causal_lm", add_cross_attention=True)
    plain, plain_params = tiny.model("bert", "causal_lm")
    encoder = {}
    for name, value in params["encoder"].items():
        if name.startswith("layer_"):
            value = {key: part for key, part in value.items() if not key.startswith("cross")}
        encoder[name] = value
    assert jax.tree.structure(encoder) == jax.tree.structure(plain_params["encoder"])
    ids = tiny.batch("bert")["input_ids"]
    expected = plain.apply({"params": {**params, "encoder": encoder}}, ids)
    np.testing.assert_array_equal(module.apply({"params": params}, ids).logits, expected.logits)


def test_next_sentence_is_judged_by_the_pooled_first_token():
    module, params = tiny.model("bert", "next_sentence")
    encoder, _ = tiny.model("bert")
    inputs = tiny.batch("bert")
    pooled = encoder.apply({"params": params["encoder"]}, **inputs).pooler_output
    head = params["seq_relationship"]
    expected = np.asarray(pooled) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    found = module.apply({"params": params}, **inputs).logits
    np.testing.assert_allclose(found, expected, atol=1e-5)
