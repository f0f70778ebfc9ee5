"""What DistilBERT alone has: sinusoidal positions, and a classifier without a pooler."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jbert.models import model_class
from jbert.models.distilbert import sinusoids


def test_sinusoids_are_sines_beside_cosines_of_the_same_angle():
    table = sinusoids(6, 8)
    for position in range(6):
        for pair in range(4):
            angle = position / 10000 ** (2 * pair / 8)
            np.testing.assert_allclose(table[position, 2 * pair], math.sin(angle), atol=1e-6)
            np.testing.assert_allclose(table[position, 2 * pair + 1], math.cos(angle), atol=1e-6)


def test_sinusoidal_positions_are_the_initial_values_and_are_not_trained():
    cfg = tiny.config("distilbert", sinusoidal_pos_embds=True, n_layers=1)
    module = model_class(cfg, None)(cfg)
    inputs = tiny.batch("distilbert")

    @jax.jit
    def run(key):
        params = jax.tree.map(lambda x: x, module.init(key, **inputs)["params"])
        of = lambda p: jnp.sum(module.apply({"params": p}, **inputs).last_hidden_state ** 2)  # noqa: E731
        return params, jax.grad(of)(params)

    params, grads = run(jax.random.key(5))
    unboxed = lambda tree: tree["embeddings"]["position"]["embedding"].value  # noqa: E731
    np.testing.assert_array_equal(unboxed(params), sinusoids(32, 32))
    np.testing.assert_array_equal(unboxed(grads), 0)
    assert np.abs(grads["embeddings"]["word"]["embedding"].value).max() > 0


def test_classifier_reads_the_first_token_through_a_layer_of_its_own():
    module, params = tiny.model("distilbert", "sequence_classification")
    encoder, _ = tiny.model("distilbert")
    inputs = tiny.batch("distilbert")
    first = encoder.apply({"params": params["encoder"]}, **inputs).last_hidden_state[:, 0]
    dense = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"][None]  # noqa: E731
    expected = dense("classifier", jnp.maximum(dense("pre_classifier", first), 0))
    found = module.apply({"params": params}, **inputs).logits
    np.testing.assert_allclose(found, expected, atol=1e-5)
