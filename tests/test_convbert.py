"""What ConvBERT alone has: mixed heads, grouped layers, ways to sum up a sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert.execution import Execution
from jbert.layers import GroupedDense


@pytest.mark.parametrize(("ratio", "heads", "size"), [(1, 4, 4), (2, 2, 8), (4, 1, 16), (9, 1, 16)])
def test_head_ratio_divides_the_heads_and_leaves_at_least_one(ratio, heads, size):
    module, params = tiny.model("convbert", head_ratio=ratio)
    attention = params["layer_0"]["attention"]
    for name in ("query", "key", "value", "conv_value", "key_conv"):
        assert attention[name]["kernel"].shape == (32, heads, size)
    # Attention and convolutions share the output projection half and half.
    assert attention["out"]["kernel"].shape == (2 * heads, size, 32)
    assert attention["taps"]["kernel"].shape == (16, heads * 5)
    shapes = jax.eval_shape(
        lambda p: module.apply({"params": p}, **tiny.batch("convbert"), output_attentions=True),
        params,
    )
    assert shapes.attentions[0].shape == (3, heads, 11, 11)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_layer_is_a_dense_one_with_a_kernel_of_blocks(groups):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    kernel = rng.standard_normal((groups, 8 // groups, 12 // groups)).astype(np.float32)
    bias = rng.standard_normal(12).astype(np.float32)
    whole = np.zeros((8, 12))
    for g in range(groups):
        rows, columns = 8 // groups, 12 // groups
        whole[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = kernel[g]
    layer = GroupedDense(12, groups, "up", 0.02, Execution())
    found = layer.apply({"params": {"kernel": kernel, "bias": bias}}, jnp.asarray(x))
    np.testing.assert_allclose(found, x @ whole + bias, atol=1e-5)


def test_embedding_is_projected_only_where_its_width_differs():
    _, narrow = tiny.model("convbert")
    assert narrow["projection"]["kernel"].shape == (16, 32)
    assert "projection" not in tiny.model("convbert", embedding_size=32)[1]


SUMMARIES = {
    "first": lambda hidden: hidden[:, 0],
    "last": lambda hidden: hidden[:, -1],
    "mean": lambda hidden: hidden.mean(axis=1),
    "cls_index": lambda hidden: hidden[:, -1],  # as the reference where no index is given
}


@pytest.mark.parametrize("kind", SUMMARIES)
@pytest.mark.parametrize("projected", [False, True])
def test_choices_are_summed_up_as_configured(kind, projected):
    changes = {"summary_use_proj": True, "summary_activation": "tanh"} if projected else {}
    module, params = tiny.model("convbert", "multiple_choice", summary_type=kind, **changes)
    inputs = tiny.batch("convbert")  # two rows of it as the choices of one question
    inputs = {name: value[None, :2] for name, value in inputs.items()}
    encoder, _ = tiny.model("convbert")

    @jax.jit
    def run(params):
        flat = {name: value[0] for name, value in inputs.items()}
        hidden = encoder.apply({"params": params["encoder"]}, **flat).last_hidden_state
        return module.apply({"params": params}, **inputs).logits, hidden

    found, hidden = run(params)
    x = SUMMARIES[kind](np.asarray(hidden))

    def dense(name, x):
        return x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])

    if projected:
        x = np.tanh(dense("summary", x))
    np.testing.assert_allclose(found, dense("classifier", x).reshape(1, 2), atol=2e-5)


def test_generator_uses_gelu_whatever_the_configured_activation():
    # transformers' ConvBertGeneratorPredictions names it.
    def logits(act):
        module, params = tiny.model("convbert", "masked_lm", hidden_act=act)
        head = dict(params["mlm"])
        encoder = jax.tree.map(lambda x: x, params["encoder"])
        for i in range(2):
            # With idle feed-forward layers the activation is used in the head alone.
            out = encoder[f"layer_{i}"]["ffn"]["out"]
            encoder[f"layer_{i}"]["ffn"]["out"] = jax.tree.map(jnp.zeros_like, out)
        return module.apply(
            {"params": {"encoder": encoder, "mlm": head}}, **tiny.batch("convbert")
        ).logits

    np.testing.assert_array_equal(logits("relu"), logits("tanh"))
