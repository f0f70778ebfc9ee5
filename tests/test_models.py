"""What every architecture does alike: arguments, defaults, padding, dropout, heads and sizes."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert.execution import Execution
from jbert.losses import loss
from jbert.models import model_class, presets

each_architecture = pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
HEADS = {"bert": 4, "distilbert": 4, "mobilebert": 4, "convbert": 2}


@functools.cache
def encoder(arch):
    return tiny.model(arch)


def run(arch, rngs=None, **inputs):
    """One forward pass, not compiled: after the first of its shape that is the fastest."""
    module, params = encoder(arch)
    return module.apply({"params": params}, rngs=rngs, **inputs)


def same(found, expected, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=0), found, expected)


@each_architecture
def test_compiled_equals_eager(arch):
    inputs = tiny.batch(arch)
    module, params = encoder(arch)
    compiled = jax.jit(lambda p, x: module.apply({"params": p}, **x, output_attentions=True))
    expected = run(arch, **inputs, output_attentions=True)
    found = compiled(params, inputs)
    assert found.keys() == expected.keys()
    scale = float(jnp.abs(expected.last_hidden_state).max())
    same(found, expected, atol=1e-5 * scale)


# -- arguments --------------------------------------------------------------------------------


@each_architecture
def test_embeddings_may_be_given_in_place_of_ids(arch):
    inputs = tiny.batch(arch)
    table = encoder(arch)[1]["embeddings"]["word"]["embedding"]
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    found = run(arch, **rest, inputs_embeds=table[inputs["input_ids"]])
    same(found, run(arch, **inputs))


@each_architecture
def test_defaults_are_positions_in_order_one_segment_and_no_padding(arch):
    ids = tiny.batch(arch)["input_ids"]
    positions = np.tile(np.arange(tiny.LENGTH), (tiny.BATCH, 1))
    explicit = {"position_ids": positions, "attention_mask": np.ones_like(ids)}
    if arch != "distilbert":
        explicit["token_type_ids"] = np.zeros_like(ids)
    expected = run(arch, input_ids=ids)
    same(run(arch, input_ids=ids, **explicit), expected)
    same(run(arch, input_ids=ids, position_ids=positions[:1]), expected)
    moved = run(arch, input_ids=ids, position_ids=positions + 1)
    assert not np.allclose(moved.last_hidden_state, expected.last_hidden_state, atol=1e-2)


@each_architecture
def test_mask_of_pairs_with_equal_rows_is_the_mask_of_tokens(arch):
    inputs = tiny.batch(arch)
    mask = inputs.pop("attention_mask")
    expected = run(arch, **inputs, attention_mask=mask)
    pairs = np.repeat(mask[:, None, :], tiny.LENGTH, axis=1)
    same(run(arch, **inputs, attention_mask=pairs), expected)
    # And each query has its own row of it.
    pairs[0, 3, :] = 0
    pairs[0, 3, 5] = 1
    weights = run(arch, **inputs, attention_mask=pairs, output_attentions=True).attentions[0]
    np.testing.assert_array_equal(weights[0, :, 3, 5], 1)


@each_architecture
def test_head_mask_silences_heads(arch):
    inputs, heads = tiny.batch(arch), HEADS[arch]
    plain = run(arch, **inputs, output_attentions=True)
    ones = run(arch, **inputs, head_mask=np.ones((2, heads)), output_attentions=True)
    same(ones, plain)
    mask = np.ones(heads)
    mask[1] = 0
    found = run(arch, **inputs, head_mask=mask, output_attentions=True)
    for weights in found.attentions:
        assert np.abs(weights[:, 1]).max() == 0 and np.abs(weights[:, 0]).max() > 0
    same(run(arch, **inputs, head_mask=np.stack([mask, mask]), output_attentions=True), found)
    assert not np.allclose(found.last_hidden_state, plain.last_hidden_state, atol=1e-3)
    last_layer = run(arch, **inputs, head_mask=np.stack([np.ones(heads), mask]),
                     output_attentions=True)  # fmt: skip
    same(last_layer.attentions[0], plain.attentions[0])
    assert np.abs(last_layer.attentions[1][:, 1]).max() == 0


@each_architecture
def test_hidden_states_and_attentions_come_when_asked_for(arch):
    inputs = tiny.batch(arch)
    plain = run(arch, **inputs)
    assert plain.hidden_states is None and plain.attentions is None
    full = run(arch, **inputs, output_hidden_states=True, output_attentions=True)
    same(full.last_hidden_state, plain.last_hidden_state, atol=1e-6)
    assert [h.shape for h in full.hidden_states] == [(3, 11, 32)] * 3
    np.testing.assert_array_equal(full.hidden_states[-1], full.last_hidden_state)
    assert [a.shape for a in full.attentions] == [(3, HEADS[arch], 11, 11)] * 2
    for weights in full.attentions:
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
        padding = np.broadcast_to(inputs["attention_mask"][:, None, None] == 0, weights.shape)
        assert np.abs(weights[padding]).max() == 0


@each_architecture
def test_configuration_can_ask_for_hidden_states_and_an_argument_overrules_it(arch):
    module, params = tiny.model(arch, output_hidden_states=True, output_attentions=True)
    out = module.apply({"params": params}, **tiny.batch(arch))
    assert len(out.hidden_states) == 3 and len(out.attentions) == 2
    out = module.apply({"params": params}, **tiny.batch(arch), output_attentions=False)
    assert out.attentions is None and len(out.hidden_states) == 3


# -- padding ----------------------------------------------------------------------------------


def with_other_padding(inputs):
    padding = inputs["attention_mask"] == 0
    return {**inputs, "input_ids": np.where(padding, 7, inputs["input_ids"])}


@pytest.mark.parametrize("arch", ["bert", "distilbert"])
def test_padding_cannot_influence_text(arch):
    inputs = tiny.batch(arch)
    real = inputs["attention_mask"] == 1
    expected = run(arch, **inputs).last_hidden_state
    found = run(arch, **with_other_padding(inputs)).last_hidden_state
    np.testing.assert_array_equal(found[real], expected[real])
    assert not np.allclose(found[~real], expected[~real], atol=1e-2)
    alone = run(arch, **{name: value[1:2, :7] for name, value in inputs.items()})
    np.testing.assert_allclose(alone.last_hidden_state[0], expected[1, :7], atol=1e-5)


@pytest.mark.parametrize("arch", ["mobilebert", "convbert"])
def test_text_beside_padding_reads_it_as_in_the_reference(arch):
    inputs = tiny.batch(arch)
    expected = run(arch, **inputs).last_hidden_state
    found = run(arch, **with_other_padding(inputs)).last_hidden_state
    np.testing.assert_array_equal(found[0], expected[0])  # a row without padding
    assert not np.allclose(found[1, 6], expected[1, 6], atol=1e-3)


@each_architecture
def test_row_of_padding_alone_is_harmless(arch):
    module, params = encoder(arch)
    inputs = tiny.batch(arch)
    empty = {**inputs, "attention_mask": inputs["attention_mask"] * np.array([[1], [0], [1]])}

    @jax.jit
    def of(params, inputs):
        def scalar(params):
            hidden = module.apply({"params": params}, **inputs).last_hidden_state
            return jnp.sum(hidden[jnp.array([0, 2])] ** 2), hidden

        return jax.grad(scalar, has_aux=True)(params)

    expected_grads, expected = of(params, inputs)
    grads, found = of(params, empty)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[::2], expected[::2])
    same(grads, expected_grads)
    assert np.abs(found[1] - expected[1]).max() > 1e-3


# -- dropout ----------------------------------------------------------------------------------


@each_architecture
def test_dropout_follows_its_key_and_is_off_by_default(arch):
    inputs = tiny.batch(arch)
    plain, again = run(arch, **inputs), run(arch, **inputs)
    same(plain, again)

    def drop(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return run(arch, rngs=rngs, **inputs, deterministic=False).last_hidden_state

    np.testing.assert_array_equal(drop(1), drop(1))
    for other in (drop(2), plain.last_hidden_state):
        assert not np.allclose(drop(1), other, atol=1e-3)
    with pytest.raises(flax.errors.InvalidRngError):
        run(arch, **inputs, deterministic=False)


# -- heads ------------------------------------------------------------------------------------

V, N, B, L = tiny.VOCAB, 3, tiny.BATCH, tiny.LENGTH
SHAPES = {
    "pretraining": {"prediction_logits": (B, L, V), "seq_relationship_logits": (B, 2)},
    "masked_lm": {"logits": (B, L, V)},
    "causal_lm": {"logits": (B, L, V)},
    "next_sentence": {"logits": (B, 2)},
    "sequence_classification": {"logits": (B, N)},
    "multiple_choice": {"logits": (B, 2)},
    "token_classification": {"logits": (B, L, N)},
    "question_answering": {"start_logits": (B, L), "end_logits": (B, L)},
    "replaced_token_detection": {"logits": (B, L)},
}


@pytest.mark.parametrize(("arch", "task"), [pair for pair in tiny.PAIRS if pair[1]])
def test_head_has_its_outputs_and_its_loss_reaches_every_parameter(arch, task):
    module, params = tiny.model(arch, task, num_labels=N)
    inputs = tiny.batch(arch, task)
    labels = tiny.labels(task, inputs, num_labels=2 if task == "replaced_token_detection" else N)

    def of(params):
        out = module.apply({"params": params}, **inputs)
        return loss(task, module.config, out, labels), out

    run = jax.value_and_grad(of, has_aux=True)
    # The choices' own shape would cost more to run step by step than to compile.
    (value, out), grads = (jax.jit(run) if task == "multiple_choice" else run)(params)
    assert {name: out[name].shape for name in out.keys()} == SHAPES[task]
    assert np.isfinite(value) and value.dtype == jnp.float32
    for path, gradient in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        if task == "multiple_choice" and name == "['classifier']['bias']":
            continue  # adds the same to every choice
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, name
    padding_row = _word_table(grads)[module.config.pad_token_id]
    assert task in ("masked_lm", "pretraining", "causal_lm") or np.abs(padding_row).max() == 0


def _word_table(params):
    return params["encoder"]["embeddings"]["word"]["embedding"]


@each_architecture
def test_encoder_has_its_outputs(arch):
    out = run(arch, **tiny.batch(arch))
    pooled = {"pooler_output"} if arch in ("bert", "mobilebert") else set()
    assert set(out.keys()) == {"last_hidden_state"} | pooled
    assert out.last_hidden_state.shape == (3, 11, 32)


@each_architecture
def test_choices_are_read_one_by_one(arch):
    module, params = tiny.model(arch, "multiple_choice")
    inputs = tiny.batch(arch, "multiple_choice")
    apply = lambda x: module.apply({"params": params}, **x).logits  # noqa: E731
    swapped = apply({name: value[:, ::-1] for name, value in inputs.items()})
    np.testing.assert_allclose(swapped[:, ::-1], apply(inputs), atol=1e-5, rtol=1e-4)
    table = _word_table(params)
    given = {**inputs, "inputs_embeds": table[inputs["input_ids"]], "input_ids": None}
    np.testing.assert_array_equal(apply(given), apply(inputs))


@each_architecture
def test_head_may_have_a_table_of_its_own(arch):
    for tied in (True, False):
        module, params = tiny.model(arch, "masked_lm", tie_word_embeddings=tied)
        assert ("decoder" in params["mlm"]) is not tied
        scale = lambda p, factor, head: {  # noqa: E731
            **p, "mlm": {**p["mlm"], **({"decoder": p["mlm"]["decoder"] * factor} if head else {})}
        }  # fmt: skip
        apply = lambda p, m=module: m.apply({"params": p}, **tiny.batch(arch)).logits  # noqa: E731
        moved = np.abs(apply(scale(params, 2.0, not tied)) - apply(params)).max()
        assert (moved > 1e-3) is not tied


# -- published models -------------------------------------------------------------------------

# Of the model without a head, pooler included; the same as in transformers.
PARAMETERS = {
    "bert-base-uncased": 109_482_240,
    "bert-large-uncased": 335_141_888,
    "bert-base-cased": 108_310_272,
    "bert-large-cased": 333_579_264,
    "bert-base-multilingual-uncased": 167_356_416,
    "bert-base-multilingual-cased": 177_853_440,
    "bert-base-chinese": 102_267_648,
    "bert-tiny": 4_385_920,
    "bert-mini": 11_170_560,
    "bert-small": 28_763_648,
    "bert-medium": 41_373_184,
    "distilbert-base-uncased": 66_362_880,
    "distilbert-base-cased": 65_190_912,
    "distilbert-base-multilingual-cased": 134_734_080,
    "mobilebert-uncased": 24_581_888,
    "ib-bert-large-uncased": 294_467_840,
    "conv-bert-base": 105_680_520,
    "conv-bert-medium-small": 17_475_888,
    "conv-bert-small": 13_143_768,
}


def count(config, task, scan):
    if task == "causal_lm":
        config = config.replace(is_decoder=True)
    module = model_class(config, task)(config, Execution(scan_layers=scan))
    shape = (1, 2, 8) if task == "multiple_choice" else (1, 8)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), ids)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", presets())
def test_published_model_builds_with_every_head_and_the_published_size(name):
    config = presets()[name].config
    base = count(config, None, scan=False)
    assert base == PARAMETERS[name]
    assert count(config, None, scan=True) == base
    pooler = config.hidden_size * (config.hidden_size + 1)
    for arch, task in tiny.PAIRS:
        if arch == config.model_type and task is not None:
            assert count(config, task, scan=True) > base - pooler


def test_every_preset_has_its_size_here():
    assert set(PARAMETERS) == set(presets())
