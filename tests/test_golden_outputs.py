"""Relative positions and head masks, against what transformers 4.57.6 computed.

transformers 5 has neither, so no run beside it can check them; golden/make_golden.py wrote these
files. They hold no weights: both sides fill every parameter from its Hugging Face name.
"""

import json
from collections import defaultdict
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from golden.make_golden import cotangent, values

from jbert.convert import TABLES
from jbert.models import bert, config_from_dict, model_class

GOLDEN = Path(__file__).parent / "golden"
# As for a layer beside torch itself; a share of the largest value where that is beyond 1, as it is
# in MobileBERT, and of a gradient's.
TOLERANCE = 1e-5
KINDS = ("relative_key", "relative_key_query")


class Golden:
    """A file's model, with the weights it was made with, and its cases."""

    def __init__(self, name: str, task: str | None):
        with np.load(GOLDEN / f"{name}.npz") as file:
            self.config = config_from_dict(json.loads(str(file["config"])))
            assert json.loads(str(file["origin"]))["transformers"] == "4.57.6"
            self.inputs, self.expected = defaultdict(dict), defaultdict(dict)
            for key in file.files:
                if key.count("/") == 2:
                    case, side, field = key.split("/")
                    side = self.inputs if side == "in" else self.expected
                    side[case][field] = file[key]
        self.module = model_class(self.config, task)(self.config)
        ids = jnp.zeros((2, 7), jnp.int32)
        tree = nn.unbox(jax.eval_shape(self.module.init, jax.random.key(0), ids))["params"]
        flat = flatten_dict(tree, sep="/")
        self.rules = TABLES[self.config.model_type].rules(task, flat)
        params = {}
        for rule in self.rules:
            shape = flat[rule.path].shape
            drawn = values(rule.hf, rule.transform.hf_shape(shape))
            params[rule.path] = jnp.asarray(rule.transform.to_jbert(drawn, shape))
        self.params = unflatten_dict(params, sep="/")

    def run(self, params, **inputs):
        return self.module.apply(
            {"params": params}, **inputs, output_hidden_states=True, output_attentions=True
        )


def assert_agrees(output, expected) -> None:
    found = {}
    for name in output.keys():
        value = output[name]
        parts = {f"{name}.{i}": v for i, v in enumerate(value)}
        found |= parts if isinstance(value, tuple) else {name: value}
    names = {name for name in expected if not name.startswith("gradient.")}
    assert set(found) == names
    for name in names:
        allowed = TOLERANCE * max(1.0, np.abs(expected[name]).max())
        np.testing.assert_allclose(found[name], expected[name], 0, allowed, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_relative_positions_of_an_encoder(kind):
    golden = Golden(f"{kind}_encoder", None)
    assert golden.config.position_embedding_type == kind
    inputs, expected = golden.inputs["plain"], golden.expected["plain"]
    weights = cotangent(expected["last_hidden_state"].shape)

    @jax.jit
    def run(params):
        def loss(params):
            output = golden.run(params, **inputs)
            return jnp.sum(output.last_hidden_state * weights), output

        return jax.grad(loss, has_aux=True)(params)

    gradients, output = run(golden.params)
    assert_agrees(output, expected)
    by_path = flatten_dict(gradients, sep="/")
    checked = {name.removeprefix("gradient.") for name in expected if name.startswith("gradient.")}
    assert sum("distance_embedding" in name for name in checked) == 2
    for rule in golden.rules:
        if rule.hf in checked:
            wanted = expected[f"gradient.{rule.hf}"]
            found = rule.transform.to_hf(np.asarray(by_path[rule.path]))
            largest = np.abs(wanted).max()
            assert largest > 1e-3
            np.testing.assert_allclose(
                found, wanted, 0, TOLERANCE * largest, err_msg=f"the gradient of {rule.hf}"
            )


@pytest.mark.parametrize("cross", ["decoder", "cross_attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_relative_positions_of_a_decoder(kind, cross):
    golden = Golden(f"{kind}_{cross}", "causal_lm")
    assert golden.config.add_cross_attention == (cross == "cross_attention")
    output = jax.jit(golden.run)(golden.params, **golden.inputs["plain"])
    assert_agrees(output, golden.expected["plain"])


@pytest.mark.parametrize("cross", ["decoder", "cross_attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_relative_positions_with_a_cache(kind, cross):
    golden = Golden(f"{kind}_{cross}", "causal_lm")
    inputs = golden.inputs["cached"]
    encoder = {name: x for name, x in inputs.items() if name.startswith("encoder_")}
    tokens = {name: inputs[name] for name in ("input_ids", "token_type_ids")}

    @jax.jit
    def step(cache, tokens):
        output = golden.module.apply({"params": golden.params}, **tokens, **encoder, cache=cache)
        return output.cache, output.logits

    cache = bert.init_cache(golden.config, 2, 9)  # two slots stay empty
    found = []
    for t in range(7):
        now = {name: jnp.asarray(x[:, t : t + 1]) for name, x in tokens.items()}
        cache, logits = step(cache, now)
        found.append(logits)
    np.testing.assert_allclose(
        np.concatenate(found, axis=1), golden.expected["cached"]["logits"], 0, TOLERANCE
    )


@pytest.mark.parametrize(
    ("name", "task"),
    [("bert", None), ("distilbert", None), ("mobilebert", None), ("convbert", None),
     ("cross_attention", "causal_lm")],
)  # fmt: skip
def test_head_masks(name, task):
    golden = Golden(f"head_mask_{name}", task)
    run = jax.jit(golden.run)
    assert sorted(golden.inputs) == ["by_head", "by_layer"]
    for case, inputs in golden.inputs.items():
        assert_agrees(run(golden.params, **inputs), golden.expected[case])
