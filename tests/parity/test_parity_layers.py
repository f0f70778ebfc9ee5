"""One layer, attention or embedding at a time, where a deviation has nowhere to hide."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import torch
import variants
from flax.traverse_util import flatten_dict
from transformers.activations import ACT2FN

from jbert.activations import ACTIVATIONS
from jbert.attention import Visible
from jbert.execution import Execution
from jbert.layers import Context
from jbert.models import REGISTRY, bert, convbert, distilbert, mobilebert

pytestmark = pytest.mark.parity

LAYERS = {
    "bert": bert.BertLayer,
    "distilbert": distilbert.DistilBertLayer,
    "mobilebert": mobilebert.MobileBertLayer,
    "convbert": convbert.ConvBertLayer,
}
EMBEDDINGS = {
    "bert": bert.BertEmbeddings,
    "distilbert": distilbert.DistilBertEmbeddings,
    "mobilebert": mobilebert.MobileBertEmbeddings,
    "convbert": convbert.ConvBertEmbeddings,
}
CASES = [
    ("bert", "default"),
    ("distilbert", "default"),
    *[("mobilebert", name) for name in (
        "default", "no_bottleneck", "bottleneck_attention", "neither", "ffn_4",
        "layer_norm_bottleneck_attention", "layer_norm_default_eps")],
    *[("convbert", name) for name in ("default", "ratio_1", "ratio_beyond_heads", "taps_9")],
]  # fmt: skip
MORE = {"layer_norm_default_eps": {"normalization_type": "layer_norm"}}


class Both:
    """One architecture twice, with all its weights shrunk by `scale`.

    Small activations are where a norm's epsilon shows: 1e-12, or torch's default of 1e-5.
    """

    def __init__(self, arch: str, variant: str, scale: float):
        changes = MORE.get(variant) or variants.VARIANTS[arch][variant]
        fields = {**variants.BASE[arch], **changes}
        self.arch, self.config = arch, REGISTRY[arch].config_class(**fields)
        self.reference = oracle.torch_model(arch, None, fields)
        with torch.no_grad():
            for parameter in self.reference.parameters():
                parameter.mul_(scale)
        self.inputs = variants.batch(arch, None, self.config)
        self.module, self.flat = oracle.build(self.config, None, self.inputs)
        arrays = oracle.named(self.reference, arch)
        self.matched = oracle.paired(arrays, arch, None, self.flat)
        self.params = oracle.to_jbert(arrays, self.matched, self.flat)

    def torch_layer(self):
        stack = "transformer" if self.arch == "distilbert" else "encoder"
        return getattr(self.reference, stack).layer[0]

    def torch_attention(self, hidden, mask):
        """The attention block before its residual and norm, and its weights."""
        layer = self.torch_layer()
        if self.arch == "distilbert":
            return layer.attention(hidden, mask)
        if self.arch == "mobilebert":
            parts = layer.bottleneck(hidden) if layer.use_bottleneck else [hidden] * 4
            mixed, weights = layer.attention.self(*parts[:3], mask)
        else:
            mixed, weights = layer.attention.self(hidden, mask)
        return layer.attention.output.dense(mixed), weights

    def gradients(self, root: str):
        """torch's, of the parameters under one path."""
        arrays = oracle.gradients(self.reference, self.arch)
        flat = flatten_dict(oracle.to_jbert(arrays, self.matched, self.flat), sep="/")
        return {k.removeprefix(root): np.asarray(v) for k, v in flat.items() if k.startswith(root)}


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize(("arch", "variant"), CASES)
def test_one_layer(arch, variant, scale):
    both = Both(arch, variant, scale)
    relative = arch == "mobilebert"
    mask = both.inputs["attention_mask"] == 1
    shape = (*mask.shape, both.config.hidden_size)
    rng = np.random.default_rng(1)
    hidden = (rng.standard_normal(shape) * scale).astype(np.float32)
    weights = rng.standard_normal(shape).astype(np.float32)
    context = Context(visible=Visible(mask=jnp.asarray(mask)[:, None, None]),
                      return_attentions=True)  # fmt: skip
    layer = LAYERS[arch](both.config, Execution())

    def run(params, hidden):
        (out, report), state = layer.apply(
            {"params": params}, hidden, context, None, None, capture_intermediates=True,
            mutable=["intermediates"],
        )  # fmt: skip
        attention = state["intermediates"]["attention"]["__call__"][0][0]
        return jnp.sum(out * weights), (out, report.attention, attention)

    run = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)
    (_, found), (by_param, by_hidden) = run(both.params["layer_0"], jnp.asarray(hidden))

    lowest = torch.finfo(torch.float32).min
    additive = torch.from_numpy(np.where(mask[:, None, None], 0.0, lowest).astype(np.float32))
    given = torch.from_numpy(hidden).requires_grad_()
    with torch.no_grad():
        attention, maps = both.torch_attention(given, additive)
    out = both.torch_layer()(given, additive)
    out = out[0] if isinstance(out, tuple) else out
    (out * torch.from_numpy(weights)).sum().backward()

    expected = {"the layer": out, "the attention map": maps, "the attention": attention}
    for actual, (what, value) in zip(found, expected.items(), strict=True):
        oracle.assert_close(actual, value, oracle.LAYER, what, relative)
    oracle.assert_close(by_hidden, given.grad, oracle.LAYER, "the gradient of the input", True)
    actual = flatten_dict(by_param, sep="/")
    wanted = both.gradients("layer_0/")
    assert sorted(actual) == sorted(wanted)
    largest = max(np.abs(g).max() for g in wanted.values())
    for path, gradient in wanted.items():
        # A key's bias moves all scores of a query alike, which softmax takes back: what both sides
        # have there is the rounding of a sum that cancels.
        floor = largest * oracle.LAYER * (0.1 if path.endswith("key/bias") else 0.01)
        difference = np.abs(np.asarray(actual[path]) - gradient).max()
        allowed = oracle.LAYER * np.abs(gradient).max() + floor
        assert difference <= allowed, f"{path} deviates by {difference:.1e}, beyond {allowed:.1e}"


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize(("arch", "variant"), [
    *[(arch, "default") for arch in LAYERS], ("mobilebert", "layer_norm_default_eps"),
    ("mobilebert", "no_trigram"), ("distilbert", "sinusoidal"), ("bert", "types_4"),
])  # fmt: skip
def test_embeddings(arch, variant, scale):
    both = Both(arch, variant, scale)
    inputs = both.inputs

    found = both.module.apply(
        {"params": both.params}, **inputs, capture_intermediates=True, mutable=["intermediates"]
    )[1]["intermediates"]["embeddings"]["__call__"][0]
    given = oracle.tensors({k: v for k, v in inputs.items() if k != "attention_mask"})
    with torch.no_grad():
        expected = both.reference.embeddings(**given)
    oracle.assert_close(found, expected, oracle.LAYER, "the embeddings", arch == "mobilebert")


def test_sinusoids_are_those_of_transformers():
    fields = {**variants.BASE["distilbert"], "sinusoidal_pos_embds": True}
    reference = oracle.torch_model("distilbert", None, fields)
    table = reference.embeddings.position_embeddings.weight
    found = distilbert.sinusoids(*table.shape)
    np.testing.assert_array_equal(found, table.detach().numpy())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name):
    x = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -30.0, 30.0, 100.0]]).astype(np.float32)
    given = torch.from_numpy(x).requires_grad_()
    # SELU is in TensorFlow's list of names and not in transformers'.
    reference = torch.nn.SELU() if name == "selu" else ACT2FN[name]
    expected = reference(given)
    expected.sum().backward()
    value, pull = jax.vjp(ACTIVATIONS[name], jnp.asarray(x))
    oracle.assert_close(value, expected, oracle.LAYER, name, True)
    # At a kink any slope between the two sides is right.
    smooth = ~np.isin(np.abs(x), (0.0, 6.0))
    (slope,) = pull(jnp.ones_like(value))
    oracle.assert_close(
        np.asarray(slope)[smooth], given.grad.numpy()[smooth], oracle.LAYER, f"{name}'s slope"
    )
