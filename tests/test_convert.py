"""Weights between Hugging Face's names and ours: complete, bit-exact and strict."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert.convert import TABLES, ConversionError
from jbert.convert.weights import canonical_names, export, match
from jbert.models import model_class
from jbert.trees import flatten

each_architecture = pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
# Configurations whose parameters differ from the plain ones, by the weights that come or go.
VARIANTS = [
    *[(arch, task, {}) for arch, task in tiny.PAIRS],
    *[(arch, "masked_lm", {"tie_word_embeddings": False}) for arch in tiny.ARCHITECTURES],
    ("bert", None, {"position_embedding_type": "relative_key"}),
    ("bert", "causal_lm", {"add_cross_attention": True}),
    ("distilbert", None, {"sinusoidal_pos_embds": True}),
    ("mobilebert", None, {"use_bottleneck": False, "intra_bottleneck_size": 32}),
    ("mobilebert", None, {"key_query_shared_bottleneck": False}),
    ("mobilebert", None, {"use_bottleneck_attention": True}),
    ("mobilebert", None, {"num_feedforward_networks": 1, "normalization_type": "layer_norm"}),
    ("mobilebert", None, {"trigram_input": False, "classifier_activation": False}),
    ("mobilebert", "masked_lm", {"embedding_size": 32}),
    ("convbert", None, {"embedding_size": 32, "num_groups": 1}),
    ("convbert", None, {"head_ratio": 9}),
    ("convbert", "multiple_choice", {"summary_use_proj": True}),
]


@functools.cache
def abstract(arch, task, changes=()):
    cfg = tiny.config(arch, task, **dict(changes))
    module = model_class(cfg, task)(cfg)
    init = functools.partial(module.init, jax.random.key(0))
    return nn.unbox(jax.eval_shape(init, **tiny.batch(arch, task)))["params"]


def params_of(arch, task, **changes):
    shapes = abstract(arch, task, tuple(changes.items()))
    return flatten(jax.tree.map(np.asarray, tiny.random_params(shapes)))


def bring_back(weights, arch, task, params):
    shapes = {name: value.shape for name, value in weights.items()}
    matched = match(shapes, TABLES[arch], task, params, "here")
    return matched, {
        path: rule.transform.to_jbert(weights[name], params[path].shape)
        for path, (rule, name) in matched.sources.items()
    }


@pytest.mark.parametrize(("arch", "task", "changes"), VARIANTS, ids=str)
def test_every_weight_has_a_name_and_survives_the_round_trip_bit_for_bit(arch, task, changes):
    params = params_of(arch, task, **changes)
    weights = export(params, TABLES[arch], task)
    assert len(weights) >= len(params)
    matched, again = bring_back(weights, arch, task, params)
    assert not matched.absent and not matched.unused
    assert set(again) == set(params)
    for path, value in params.items():
        np.testing.assert_array_equal(again[path], value, err_msg=path)
    for name, value in export(again, TABLES[arch], task).items():
        np.testing.assert_array_equal(value, weights[name], err_msg=name)


def test_linear_weights_are_transposed():
    params = params_of("bert", None)
    weights = export(params, TABLES["bert"], None)
    kernel = params["layer_1/ffn/in/kernel"]
    np.testing.assert_array_equal(weights["encoder.layer.1.intermediate.dense.weight"], kernel.T)
    query = params["layer_0/attention/query/kernel"]  # [d, h, e]
    np.testing.assert_array_equal(
        weights["encoder.layer.0.attention.self.query.weight"], query.reshape(32, 32).T
    )
    out = params["layer_0/attention/out/kernel"]  # [h, e, d]
    np.testing.assert_array_equal(
        weights["encoder.layer.0.attention.output.dense.weight"], out.reshape(32, 32).T
    )


def test_parameter_without_a_rule_is_an_error_of_the_table():
    params = {**params_of("bert", None), "layer_0/novelty/kernel": np.ones(1)}
    with pytest.raises(LookupError, match="no rule.*layer_0/novelty/kernel"):
        export(params, TABLES["bert"], None)


# -- strictness -------------------------------------------------------------------------------


def weights_of(arch, task="masked_lm"):
    params = params_of(arch, task)
    return params, export(params, TABLES[arch], task)


def encoder_norm(weights):
    return next(name for name in weights if name.endswith("embeddings.LayerNorm.weight"))


@each_architecture
def test_missing_encoder_weight_is_refused_by_name(arch):
    params, weights = weights_of(arch)
    lost = [encoder_norm(weights), next(name for name in weights if ".layer.1." in name)]
    for name in lost:
        del weights[name]
    with pytest.raises(ConversionError, match=r"missing \(2\)") as caught:
        bring_back(weights, arch, "masked_lm", params)
    assert all(name in str(caught.value) for name in (*lost, "here does not fit"))


@each_architecture
def test_unexpected_weight_is_refused_by_name(arch):
    params, weights = weights_of(arch)
    prefix = TABLES[arch].prefix
    layer = next(name for name in weights if ".layer.1." in name)
    for name in ("novelty.weight", layer.replace(".layer.1.", ".layer.2.")):
        more = {**weights, name: np.ones(1, np.float32)}
        with pytest.raises(ConversionError, match=r"unexpected \(1\)") as caught:
            bring_back(more, arch, "masked_lm", params)
        assert name.removeprefix(prefix) in str(caught.value)


@each_architecture
def test_weight_of_another_shape_is_refused_with_both_shapes(arch):
    params, weights = weights_of(arch)
    name = encoder_norm(weights)
    wide = {**weights, name: np.ones(7, np.float32)}
    expected = str(weights[name].shape)
    with pytest.raises(ConversionError, match=r"of another shape \(1\)") as caught:
        bring_back(wide, arch, "masked_lm", params)
    for part in (name, f"expected {expected}", "found (7,)"):
        assert part in str(caught.value)


@each_architecture
def test_weight_set_twice_is_refused_with_both_names(arch):
    params, weights = weights_of(arch)
    name = encoder_norm(weights)
    for other in (name.replace("weight", "gamma"), name.removeprefix(TABLES[arch].prefix + ".")):
        both = {**weights, other: weights[name]}
        with pytest.raises(ConversionError, match=r"set twice \(1\)") as caught:
            bring_back(both, arch, "masked_lm", params)
        assert name in str(caught.value) and other in str(caught.value)


def test_all_four_kinds_of_misfit_are_listed_at_once():
    params, weights = weights_of("bert")
    name = encoder_norm(weights)
    del weights["bert.embeddings.LayerNorm.bias"]
    weights["novelty"] = np.ones(1)
    weights[name.replace("weight", "gamma")] = weights[name]
    weights["bert.embeddings.position_embeddings.weight"] = np.ones((2, 2))
    with pytest.raises(ConversionError) as caught:
        bring_back(weights, "bert", "masked_lm", params)
    for label in ("missing", "unexpected", "set twice", "of another shape"):
        assert f"{label} (1)" in str(caught.value)


# -- what published files do ------------------------------------------------------------------


@each_architecture
def test_wrappers_and_old_spellings_are_understood(arch):
    params, weights = weights_of(arch)

    def spelled(rename):
        return {rename(name): value for name, value in weights.items()}

    norm = lambda n: n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")  # noqa: E731
    variants = [norm, lambda n: f"module.{n}", lambda n: f"_orig_mod.module.{n}"]
    for rename in variants:
        _, again = bring_back(spelled(rename), arch, "masked_lm", params)
        for path, value in params.items():
            np.testing.assert_array_equal(again[path], value)


@each_architecture
def test_encoder_is_read_with_and_without_its_prefix(arch):
    bare, headed = params_of(arch, None), params_of(arch, "sequence_classification")
    encoder = {path: headed[f"encoder/{path}"] for path in bare if f"encoder/{path}" in headed}
    weights = export(headed, TABLES[arch], "sequence_classification")
    matched, again = bring_back(weights, arch, None, bare)
    for path, value in encoder.items():
        np.testing.assert_array_equal(again[path], value)
    assert all("classifier" in name for name in matched.unused)
    # The other way round the head is new.
    matched, again = bring_back(export(bare, TABLES[arch], None), arch, "sequence_classification",
                                headed)  # fmt: skip
    assert set(matched.absent) == {path for path in headed if not path.startswith("encoder/")}
    assert set(again) | set(matched.absent) == set(headed)


@each_architecture
def test_index_buffers_and_a_tied_table_are_left_alone(arch):
    params, weights = weights_of(arch)
    buffer = f"{TABLES[arch].prefix}.embeddings.position_ids"
    decoder = {"bert": "cls.predictions.decoder.weight",
               "mobilebert": "cls.predictions.decoder.weight",
               "distilbert": "vocab_projector.weight",
               "convbert": "generator_lm_head.weight"}[arch]  # fmt: skip
    assert decoder not in weights
    more = {**weights, buffer: np.arange(32)[None], decoder: np.ones((tiny.VOCAB, 32))}
    matched, again = bring_back(more, arch, "masked_lm", params)
    assert matched.unused == [decoder] and set(again) == set(params)


@pytest.mark.parametrize("arch", ["bert", "mobilebert"])
def test_missing_pooler_is_new_and_a_superfluous_one_unused(arch):
    bare = params_of(arch, None)
    weights = export(bare, TABLES[arch], None)
    pooler = [name for name in weights if name.startswith("pooler.")]
    rest = {name: value for name, value in weights.items() if name not in pooler}
    matched, _ = bring_back(rest, arch, None, bare)
    assert matched.absent == ["pooler/dense/bias", "pooler/dense/kernel"]
    masked = params_of(arch, "masked_lm")
    matched, _ = bring_back(weights, arch, "masked_lm", masked)
    assert sorted(matched.unused) == sorted(pooler)


def test_wrapper_is_removed_only_where_every_name_has_it():
    assert canonical_names(["module.a", "b"]) == {"module.a": "module.a", "b": "b"}
    assert canonical_names(["module.a.gamma", "module.b"]) == {
        "module.a.gamma": "a.weight", "module.b": "b"
    }  # fmt: skip
    assert canonical_names([]) == {}


@each_architecture
def test_bfloat16_weights_survive(arch):
    shapes = abstract(arch, None)
    narrow = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.bfloat16) + 1.5, shapes)
    params = {path: np.asarray(value) for path, value in flatten(narrow).items()}
    for value in export(params, TABLES[arch], None).values():
        assert value.dtype == jnp.bfloat16
