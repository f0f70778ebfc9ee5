"""Logits at some positions, and losses in their place: the numbers that all logits give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert import cross_entropy, losses
from jbert.cross_entropy import IGNORE, chunked_losses, chunks_of, token_losses
from jbert.inputs import InputError
from jbert.sharding import activations_on, batch_sharding, make_mesh

MODELS = [("bert", "pretraining"), ("distilbert", "masked_lm"), ("mobilebert", "pretraining"),
          ("convbert", "masked_lm")]  # fmt: skip


def gathered(labels: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the labels in each row, filled up with places that have none."""
    places = np.argsort(labels == IGNORE, axis=1, kind="stable")[:, :room].astype(np.int32)
    return places, np.take_along_axis(labels, places, axis=1)


@pytest.mark.parametrize(("arch", "task"), MODELS)
def test_the_loss_and_its_gradient_do_not_depend_on_what_is_computed(arch, task, monkeypatch):
    # Small enough for several chunks, of which the last is not full.
    monkeypatch.setattr(cross_entropy, "CHUNK", 2 * tiny.BATCH * tiny.VOCAB)
    module, params = tiny.model(arch, task)
    inputs, labels = tiny.batch(arch, task), tiny.labels(task, tiny.batch(arch, task))
    room = int((labels["labels"] != IGNORE).sum(axis=1).max()) + 1
    places, at_places = gathered(labels["labels"], room)
    ways = {
        "all": ({}, labels["labels"]),
        "some": ({"logits_at": places}, at_places),
        "losses of some": ({"logits_at": places, "targets": at_places}, at_places),
        "losses of all": ({"targets": labels["labels"]}, labels["labels"]),
    }

    @jax.jit
    def run(params):
        def loss(params, options, wanted):
            output = module.apply({"params": params}, **inputs, **options)
            return losses.loss(task, module.config, output, {**labels, "labels": wanted})

        return {name: jax.value_and_grad(loss)(params, *way) for name, way in ways.items()}

    found = run(params)
    value, gradient = found.pop("all")
    for name, (other, its_gradient) in found.items():
        np.testing.assert_allclose(other, value, rtol=2e-6, err_msg=name)
        for one, two in zip(jax.tree.leaves(its_gradient), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(one, two, atol=2e-6, err_msg=name)


def test_the_logits_are_those_of_the_positions():
    module, params = tiny.model("bert", "masked_lm")
    inputs, places = tiny.batch("bert"), np.array([[3, 0], [1, 1], [2, 0]], np.int32)
    everywhere = module.apply({"params": params}, **inputs).logits
    output = module.apply({"params": params}, **inputs, logits_at=places)
    np.testing.assert_allclose(
        output.logits, np.take_along_axis(everywhere, places[..., None], axis=1), atol=1e-6
    )
    assert output.token_losses is None


def test_memory_of_chunks_does_not_grow_with_the_vocabulary():
    def temporary(vocab: int, chunked: bool) -> int:
        def loss(x, kernel, labels):
            logits = lambda x: x @ kernel  # noqa: E731
            each = chunked_losses(logits, x, labels, vocab) if chunked else token_losses(
                logits(x), labels
            )  # fmt: skip
            return each.sum()

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 512, 8), (8, vocab))]
        labels = jax.ShapeDtypeStruct((4, 512), jnp.int32)
        program = jax.jit(jax.grad(loss)).lower(*shapes, labels).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(250_000, True) < 1.1 * temporary(30_522, True)
    assert temporary(250_000, False) > 5 * temporary(30_522, False)


def test_chunks_are_equal_and_as_large_as_each_device_can_have_them(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK", 7 * 2 * 100)
    assert chunks_of(2, 5, 100) == (1, 5)
    assert chunks_of(2, 8, 100) == (2, 4)
    assert chunks_of(2, 0, 100) == (1, 0)
    assert chunks_of(16, 8, 100) == chunks_of(2, 8, 10**6) == (8, 1)
    with activations_on(make_mesh(data=4, fsdp=2)):
        assert chunks_of(16, 8, 100) == (2, 4)
        # Rows that eight devices cannot share are on all of them.
        assert chunks_of(15, 8, 100) == (8, 1)


def test_on_many_devices_a_loss_in_chunks_is_that_of_one_piece(monkeypatch):
    mesh, draw = make_mesh(), np.random.default_rng(0).normal
    kernel, x = draw(size=(5, 11)).astype("float32"), draw(size=(16, 9, 5)).astype("float32")
    labels = np.arange(16 * 9, dtype=np.int32).reshape(16, 9) % 11
    arrays = kernel, *(jax.device_put(rows, batch_sharding(mesh)) for rows in (x, labels))

    def traced(size):
        monkeypatch.setattr(cross_entropy, "CHUNK", size)

        def loss(kernel, x, labels):
            with activations_on(mesh):
                return chunked_losses(lambda x: x @ kernel, x, labels, 11).sum()

        return jax.jit(jax.value_and_grad(loss)).trace(*arrays)

    whole, three = traced(1 << 24), traced(2 * 4 * 11)
    assert "length=3" in str(three.jaxpr) and "length" not in str(whole.jaxpr)
    found = (jax.tree.leaves(step.lower().compile()(*arrays)) for step in (whole, three))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-6, atol=2e-6)


def test_ignored_labels_cost_nothing_and_labels_out_of_range_are_nan():
    logits = jnp.zeros((1, 3, 4))
    np.testing.assert_allclose(
        token_losses(logits, jnp.array([[IGNORE, 1, 4]])), [[0.0, np.log(4), np.nan]], rtol=1e-6
    )


def test_what_does_not_fit_is_refused():
    module, params = tiny.model("bert", "masked_lm")
    inputs = tiny.batch("bert")

    def call(module=module, params=params, **options):
        module.apply({"params": params}, **inputs, **options)

    with pytest.raises(InputError, match=r"logits_at has shape \(2, 1\); expected \(3, positions"):
        call(logits_at=np.zeros((2, 1), np.int32))
    with pytest.raises(InputError, match=r"logits_at\[0, 0\] is 11; expected 0 <= id < 11"):
        call(logits_at=np.full((3, 1), 11))
    with pytest.raises(InputError, match=r"targets has shape \(3, 2\); expected \(3, 1\)"):
        call(logits_at=np.zeros((3, 1), np.int32), targets=np.zeros((3, 2), np.int32))
    for arch, task in (("bert", "causal_lm"), ("bert", "token_classification")):
        other, its_params = tiny.model(arch, task)
        with pytest.raises(InputError, match="are for masked language models"):
            call(other, its_params, targets=np.zeros((3, 11), np.int32))
