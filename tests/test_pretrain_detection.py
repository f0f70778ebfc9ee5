"""Replaced-token detection: what is put where, what learns from it, and what is shared."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jbert
from jbert.loaded import abstract_params
from jbert.losses import IGNORE
from jbert.sharding import make_mesh
from jbert.training.config import RunError
from jbert.training.pretrain.config import GeneratorConfig
from jbert.training.pretrain.detection import ReplacedTokens, fill_in, keep, score
from jbert.training.pretrain.generator import (
    PREFIX,
    PROJECTION,
    generator_config,
    new_generator,
)
from jbert.trees import flatten, unflatten

ROWS, LENGTH, MASK = 4, 12, 3
SIZES = {"bert": 0.5, "distilbert": 1.0, "mobilebert": 0.5, "convbert": 0.5}


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def built(request):
    """An objective, its parameters, and the discriminator."""
    return build(request.param)


@functools.cache
def build(arch):
    mesh = make_mesh(devices=jax.devices()[:1])
    layers = {"n_layers" if arch == "distilbert" else "num_hidden_layers": 1}
    config = tiny.config(arch, pad_token_id=0, **layers)
    task = "replaced_token_detection"
    discriminator = jbert.from_config(config, task, mesh=mesh, seed=1)
    generator, companions = new_generator(discriminator, GeneratorConfig(SIZES[arch]), seed=1)
    params = flatten(discriminator.params) | companions
    # Large enough for every weight to matter.
    params = {path: leaf * (5 if leaf.ndim > 1 else 1) for path, leaf in params.items()}
    return ReplacedTokens(discriminator.module, generator), params, discriminator


def batch(gathered: bool = True) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    ids = random.integers(5, tiny.VOCAB, (ROWS, LENGTH)).astype(np.int32)
    segments = np.repeat([[1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0]], ROWS, axis=0).astype(np.int32)
    segments[0, 9:] = 3
    masked = np.zeros(ids.shape, bool)
    masked[:, [1, 3, 6]] = True
    masked[1, 6] = False
    labels = np.where(masked, ids, IGNORE).astype(np.int32)
    inputs = {"input_ids": np.where(masked, MASK, ids).astype(np.int32), "segment_ids": segments}
    inputs["weights"] = np.ones(ROWS, np.float32)
    if not gathered:
        return inputs | {"labels": labels}
    places = np.array([[1, 3, 6, 0], [1, 3, 0, 0], [1, 3, 6, 0], [1, 3, 6, 0]], np.int32)
    at = np.take_along_axis(labels, places, axis=1)
    at[:, 3] = IGNORE
    at[1, 2] = IGNORE
    return inputs | {"logits_at": places, "labels": at}


def originals() -> np.ndarray:
    found = batch(gathered=False)
    return np.where(found["labels"] != IGNORE, found["labels"], found["input_ids"])


@pytest.mark.parametrize("gathered", [True, False])
def test_what_was_chosen_stands_at_the_masked_positions_alone(gathered):
    found = {name: jnp.asarray(value) for name, value in batch(gathered).items()}
    chosen = jnp.full(found["labels"].shape, 98, jnp.int32)
    original, corrupted = fill_in(found, found["labels"], chosen)
    np.testing.assert_array_equal(original, originals())
    masked = batch(gathered=False)["labels"] != IGNORE
    np.testing.assert_array_equal(corrupted, np.where(masked, 98, originals()))


@pytest.mark.parametrize("arch", ["bert", "convbert"])
def test_both_learn_and_what_was_drawn_passes_no_gradient(arch):
    objective, params, _ = build(arch)
    data = batch()

    @jax.jit
    def run(params):
        def part(params, number):
            return objective(params, data, jax.random.key(0))[number].mean()

        return [jax.value_and_grad(part)(params, number) for number in (0, 1)]

    (loss, of_generator), (_, of_discriminator) = run(params)
    assert loss > 0
    moved = [
        {path for path, leaf in found.items() if np.abs(leaf).max() > 0}
        for found in (of_generator, of_discriminator)
    ]
    own = {path for path in params if path.startswith(PREFIX)}
    assert moved[0] & own and not moved[1] & own
    tables = {path for path in params if path.startswith("encoder/embeddings/word")}
    assert tables <= moved[0] & moved[1]
    assert not {path for path in moved[0] if path.startswith("encoder/layer_")}


def test_embeddings_are_shared_and_projected_where_widths_differ(built):
    objective, params, discriminator = built
    generator = objective.generator
    mine, width = generator.params(params), generator.config.hidden_size
    word = mine["encoder/embeddings/word/embedding"]
    theirs = params["encoder/embeddings/word/embedding"]
    if word.shape == theirs.shape:
        assert word is theirs
    else:
        np.testing.assert_allclose(word, theirs @ params[PROJECTION], rtol=1e-5)
    assert (PROJECTION in params) == bool(generator.projected)
    hash(objective)  # pmap asks for it
    assert not [path for path in params if path.startswith(f"{PREFIX}encoder/embeddings/word")]
    # It is a model of its own: these are all of its parameters, in their shapes.
    shapes = flatten(abstract_params(generator.module))
    assert {path: leaf.shape for path, leaf in mine.items()} == {
        path: leaf.shape for path, leaf in shapes.items()
    }
    assert width <= discriminator.config.hidden_size


def test_an_evaluation_of_a_row_depends_on_nothing_else():
    objective, params, _ = build("bert")
    data = batch()
    output = jax.jit(objective.output)
    whole = output(params, data)
    again = output(params, {name: value[::-1] for name, value in data.items()})
    np.testing.assert_array_equal(whole.replaced, again.replaced[::-1])
    np.testing.assert_allclose(
        whole.discriminator.logits, again.discriminator.logits[::-1], atol=1e-5
    )
    assert (np.asarray(whole.replaced) == IGNORE).sum() == 9  # padding
    # The discriminator reads what was filled in, and never a [MASK].
    own = unflatten({path: leaf for path, leaf in params.items() if PREFIX not in path})
    inputs = {name: data[name] for name in ("input_ids", "segment_ids")}
    masked = objective.discriminator.apply({"params": own}, **inputs).logits
    assert np.abs(masked - whole.discriminator.logits).max() > 1e-3
    unmasked = batch(gathered=False)["labels"] == IGNORE
    assert not (np.asarray(whole.replaced)[unmasked] == 1).any()
    found = {name: np.asarray(value) for name, value in keep(whole, data).items()}
    assert found["mlm_count"].tolist() == [3, 2, 3, 3]
    assert found["tokens"].tolist() == [12, 9, 9, 9]


def test_gathered_or_not_the_loss_is_the_same():
    objective, params, _ = build("bert")
    run = jax.jit(lambda params, data: objective.output(params, data).generator)
    some, every = run(params, batch()), run(params, batch(gathered=False))
    places = batch()["logits_at"]
    expected = np.take_along_axis(np.asarray(every.logits), places[..., None], axis=1)
    np.testing.assert_allclose(some.logits, expected, atol=1e-5)


def test_tokens_are_drawn_as_the_generator_thinks():
    """The share of each token among many draws is its probability."""
    objective, params, _ = build("bert")
    data, count = batch(), 4000

    @jax.jit
    def run(keys):
        logits = objective.output(params, data).generator.logits[0, 0]
        draws = jax.vmap(lambda key: jnp.argmax(logits + jax.random.gumbel(key, logits.shape)))
        return jax.nn.softmax(logits), draws(keys)

    chances, drawn = run(jax.random.split(jax.random.key(0), count))
    shares = np.bincount(drawn, minlength=tiny.VOCAB) / count
    spread = np.sqrt(np.asarray(chances) / count)
    assert (np.abs(shares - chances) < 5 * spread + 1e-3).all()


def test_figures_count_verdicts_over_all_tokens():
    found = {
        "mlm_loss": np.array([2.0, 4.0], np.float32), "mlm_count": np.array([1, 2]),
        "tokens": np.array([10, 10]), "replaced": np.array([3, 1]), "called": np.array([2, 3]),
        "found": np.array([2, 0]), "right": np.array([9, 6]),
    }  # fmt: skip
    figures = score(found, 0.0)
    assert figures == {
        "perplexity": pytest.approx(np.exp(2)), "accuracy": 0.75, "precision": 0.4,
        "recall": 0.5, "replaced": 0.2,
    }  # fmt: skip
    none = score({name: np.zeros_like(value) for name, value in found.items()}, 0.0)
    assert none["precision"] == none["recall"] == 0


def test_a_generator_is_narrower_by_whole_heads():
    base = jbert.models.presets()["bert-base-uncased"].config
    third = generator_config(base, GeneratorConfig(width=1 / 3, layers=0.5))
    assert (third.hidden_size, third.num_attention_heads) == (256, 4)
    assert (third.intermediate_size, third.num_hidden_layers) == (1024, 6)
    quarter = generator_config(base, GeneratorConfig(width=0.01))
    assert (quarter.hidden_size, quarter.num_hidden_layers) == (64, 12)
    conv = jbert.models.presets()["conv-bert-medium-small"].config
    assert generator_config(conv, GeneratorConfig()).hidden_size == 96
    with pytest.raises(RunError, match="no convbert that narrow"):
        odd = {"num_attention_heads": 2, "hidden_size": 36, "intermediate_size": 72}
        generator_config(conv.replace(num_groups=4, **odd), GeneratorConfig())
    assert dataclasses.asdict(GeneratorConfig())["discriminator_weight"] == 50
