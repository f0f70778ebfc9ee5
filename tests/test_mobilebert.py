"""What MobileBERT alone has: trigrams, bottlenecks, norms that do not normalise, a split head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert.execution import Execution
from jbert.models.mobilebert import MobileBertLMHead, trigrams
from jbert.norms import NoNorm


def test_trigrams_are_the_next_the_own_and_the_previous_embedding():
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    segments = np.array([[1, 1, 2, 2, 0], [1, 2, 3, 3, 3]])
    for given in (None, segments):
        found = np.asarray(trigrams(jnp.asarray(x), None if given is None else jnp.asarray(given)))
        for b in range(2):
            for t in range(5):

                def at(place, b=b, t=t, given=given):
                    inside = 0 <= place < 5
                    same = given is None or (inside and given[b, place] == given[b, t])
                    return x[b, place] if inside and same else np.zeros(3)

                expected = np.concatenate([at(t + 1), x[b, t], at(t - 1)])
                np.testing.assert_array_equal(found[b, t], expected)


def test_no_norm_is_a_scale_and_a_bias():
    x, scale, bias = (np.random.default_rng(i).standard_normal(s) for i, s in
                      enumerate([(2, 3, 4), (4,), (4,)]))  # fmt: skip
    found = NoNorm(Execution()).apply({"params": {"scale": scale, "bias": bias}}, jnp.asarray(x))
    np.testing.assert_allclose(found, x * scale + bias, rtol=1e-5)


# use_bottleneck_attention, key_query_shared_bottleneck: what each projection reads, by its width,
# and whether the shared bottleneck is there and trained.
BOTTLENECKS = {
    (False, True): ({"query": 16, "key": 16, "value": 32}, True),
    (False, False): ({"query": 32, "key": 32, "value": 32}, None),
    (True, True): ({"query": 16, "key": 16, "value": 16}, False),
    (True, False): ({"query": 16, "key": 16, "value": 16}, None),
}


def grads_of(**changes):
    module, params = tiny.model("mobilebert", num_hidden_layers=1, **changes)
    inputs = tiny.batch("mobilebert")

    @jax.jit
    def run(params):
        of = lambda p: jnp.sum(module.apply({"params": p}, **inputs).last_hidden_state ** 2)  # noqa: E731
        return jax.grad(of)(params)

    return run(params)


@pytest.mark.parametrize("choice", BOTTLENECKS)
def test_bottleneck_decides_what_attention_reads(choice):
    widths, shared = BOTTLENECKS[choice]
    grads = grads_of(use_bottleneck_attention=choice[0], key_query_shared_bottleneck=choice[1])
    layer = grads["layer_0"]
    for name, width in widths.items():
        assert layer["attention"][name]["kernel"].shape == (width, 4, 4)
    assert ("bottleneck_attention" in layer) is (shared is not None)
    if shared is not None:
        # Where both are on, the reference has these weights and does not read them.
        trained = np.abs(layer["bottleneck_attention"]["dense"]["kernel"]).max() > 0
        assert trained == shared


def test_without_bottleneck_a_layer_is_as_wide_as_the_model():
    layer = grads_of(use_bottleneck=False)["layer_0"]
    assert not any(name.startswith("bottleneck") for name in layer)
    assert layer["attention"]["query"]["kernel"].shape == (32, 4, 8)
    assert layer["ffn"]["in"]["kernel"].shape == (32, 36)


@pytest.mark.parametrize("networks", [1, 2, 4])
def test_number_of_feed_forward_networks(networks):
    _, params = tiny.model("mobilebert", num_feedforward_networks=networks)
    layer = params["layer_0"]
    found = {name for name in layer if name.startswith("ffn") and "norm" not in name}
    assert found == {"ffn", *(f"ffn_{i}" for i in range(networks - 1))}


def test_layer_norm_in_place_of_no_norm_normalises():
    module, params = tiny.model("mobilebert", normalization_type="layer_norm")
    norms = lambda p: {**p, "scale": jnp.ones_like(p["scale"]), "bias": jnp.zeros_like(p["bias"])}  # noqa: E731
    last = params["layer_1"]["bottleneck_output"]
    layer = {**params["layer_1"], "bottleneck_output": {**last, "norm": norms(last["norm"])}}
    run = lambda p: module.apply({"params": p}, **tiny.batch("mobilebert")).last_hidden_state  # noqa: E731
    hidden = np.asarray(run({**params, "layer_1": layer}))
    np.testing.assert_allclose(hidden.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(hidden.std(-1), 1, atol=1e-4)


def test_without_trigrams_and_of_the_same_width_the_embedding_is_not_transformed():
    grads = grads_of(trigram_input=False, embedding_size=32)["embeddings"]
    assert grads["transformation"]["kernel"].shape == (32, 32)
    np.testing.assert_array_equal(grads["transformation"]["kernel"], 0)
    grads = grads_of(trigram_input=False)["embeddings"]
    assert grads["transformation"]["kernel"].shape == (16, 32)
    assert np.abs(grads["transformation"]["kernel"]).max() > 0


def test_pooled_output_without_activation_is_the_first_token():
    module, params = tiny.model("mobilebert", classifier_activation=False)
    assert "pooler" not in params
    out = module.apply({"params": params}, **tiny.batch("mobilebert"))
    np.testing.assert_array_equal(out.pooler_output, out.last_hidden_state[:, 0])


def test_vocabulary_is_read_from_the_token_table_and_one_more():
    cfg = tiny.config("mobilebert")
    rng = np.random.default_rng(0)
    x, words = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 32), (tiny.VOCAB, 16)))
    head = MobileBertLMHead(cfg, Execution())
    _, params = tiny.model("mobilebert", "masked_lm")
    mlm = params["mlm"]
    found = head.apply({"params": mlm}, x, words)
    dense, norm = mlm["transform"]["dense"], mlm["transform"]["norm"]
    y = np.maximum(x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), 0)
    y = (y - y.mean(-1, keepdims=True)) / y.std(-1, keepdims=True)
    y = y * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
    whole = np.concatenate([words.T, np.asarray(mlm["extra"])], axis=0)
    np.testing.assert_allclose(found, y @ whole + np.asarray(mlm["bias"]), atol=1e-4)
