"""The parts of a distillation's loss, which layers go together, and whose turn it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbert.training.config import RunError
from jbert.training.distill import losses
from jbert.training.distill.config import (
    InitialConfig,
    ProgressConfig,
    TransferConfig,
)
from jbert.training.distill.layers import pair_layers, spread_layers
from jbert.training.distill.progress import Turns


def draw(*shape, seed=0, scale=2.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def softmax(x):
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=tolerance, atol=tolerance)


# -- predictions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_divergence_is_that_of_the_softened_predictions(temperature):
    student, teacher = draw(3, 4, 7), draw(3, 4, 7, seed=1)
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    expected = (p * (np.log(p) - np.log(q))).sum(axis=-1) * temperature**2
    close(losses.divergence(student, teacher, temperature), expected)
    close(losses.divergence(teacher, teacher, temperature), np.zeros((3, 4)))


def test_of_two_classes_one_logit_is_enough():
    student, teacher = draw(3, 4), draw(3, 4, seed=1)
    pairs = (np.stack([x, np.zeros_like(x)], axis=-1) for x in (student, teacher))
    close(losses.binary_divergence(student, teacher, 2.0), losses.divergence(*pairs, 2.0))


@pytest.mark.parametrize("chunk", [1, 40, 1 << 24])
def test_chunks_give_the_divergence_and_gradients_of_all_positions_at_once(monkeypatch, chunk):
    monkeypatch.setattr("jbert.cross_entropy.CHUNK", chunk)
    student, teacher = draw(2, 5, 4), draw(2, 5, 6, seed=1)
    tables = draw(4, 9, seed=2), draw(6, 9, seed=3)

    def whole(student):
        return losses.divergence(student @ tables[0], teacher @ tables[1], 2.0)

    def chunked(student):
        logits = (lambda x: x @ tables[0]), (lambda x: x @ tables[1])
        return losses.chunked_divergence(*logits, student, teacher, 2.0, 9)

    close(chunked(student), whole(student))
    gradients = (jax.grad(lambda x, f=f: f(x).sum())(student) for f in (chunked, whole))
    close(*gradients)


def test_what_is_not_kept_does_not_count_even_if_it_is_no_number():
    values = jnp.array([[1.0, np.nan], [3.0, np.inf]])
    term = losses.total(values, jnp.array([[1.0, 0.0], [0.5, 0.0]]), 4.0)
    assert (float(term.total), float(term.count), term.scale) == (2.5, 1.5, 4.0)


# -- hidden states --------------------------------------------------------------------------------


def test_cosine_distance_ignores_length_and_survives_what_float32_cannot_square():
    student, teacher = draw(5, 8), draw(5, 8, seed=1)
    cosine = (student * teacher).sum(-1)
    cosine /= np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    close(losses.cosine_distance(student, teacher), 1 - cosine)
    # As large as MobileBERT's activations.
    close(losses.cosine_distance(student * 1e9, teacher * 1e9), 1 - cosine)
    gradient = jax.grad(lambda x: losses.cosine_distance(x, teacher).sum())
    assert np.isfinite(gradient(jnp.zeros((5, 8)))).all()


def test_means_and_variances_are_what_normalising_takes_away():
    student, teacher = draw(5, 8), draw(5, 8, seed=1) * 3 + 1
    close(losses.mean_error(student, teacher), (student.mean(-1) - teacher.mean(-1)) ** 2)
    close(losses.variance_error(student, teacher), np.abs(student.var(-1) - teacher.var(-1)))
    close(losses.normalised(teacher), losses.normalised(teacher * 5 - 2), 1e-4)
    assert float(losses.squared_error(student, student + 2)[0]) == pytest.approx(4.0)


# -- attention ------------------------------------------------------------------------------------


def maps(seed):
    scores = draw(2, 3, 4, 4, seed=seed)
    visible = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)[:, None, :]
    return softmax(np.where(visible[:, None], scores, -1e9)).astype(np.float32), scores, visible


def test_attention_divergence_is_that_of_each_query_s_weights():
    (student, *_), (teacher, *_) = maps(0), maps(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(teacher > 0, teacher * (np.log(teacher) - np.log(student)), 0.0)
    close(losses.attention_divergence(student, teacher), parts.sum(-1))
    gradient = jax.grad(lambda x: losses.attention_divergence(x, teacher).sum())(student)
    assert np.isfinite(gradient).all()


def test_scores_are_known_from_weights_but_for_a_constant():
    (student, s, visible), (teacher, t, _) = maps(0), maps(1)
    found = losses.score_error(student, teacher, visible)
    there = visible[:, None] & np.ones_like(s, bool)
    count = there.sum(-1, keepdims=True)

    def centred(x):
        return x - np.where(there, x, 0).sum(-1, keepdims=True) / count

    expected = np.where(there, centred(s) - centred(t), 0)
    close(found, (expected**2).sum(-1) / count[..., 0], 1e-4)


# -- layers ---------------------------------------------------------------------------------------


def test_six_of_twelve_layers_are_those_that_distilbert_took():
    assert spread_layers(6, 12) == (0, 2, 4, 7, 9, 11)
    assert spread_layers(3, 3) == (0, 1, 2)
    assert spread_layers(1, 4) == (0,)


def test_a_student_s_layer_is_compared_with_the_last_of_its_block():
    assert pair_layers("uniform", 4, 12) == ((0, 2), (1, 5), (2, 8), (3, 11))
    assert pair_layers("uniform", 4, 6) == ((0, 0), (1, 2), (2, 3), (3, 5))
    assert pair_layers("last", 2, 5) == ((0, 3), (1, 4))
    assert pair_layers((-1, 2, 2), 3, 4) == ((1, 2), (2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spread_layers(4, 3), "4 layers, more than the 3"),
        (lambda: pair_layers("uniform", 4, 3), "only 3; expected a teacher at least as deep"),
        (lambda: pair_layers((0, 1), 3, 4), "names 2 layers of the teacher; expected 3"),
        (lambda: pair_layers((0, 4), 2, 4), "layer 4 of a teacher with 4 layers.*-1 to 3"),
        (lambda: pair_layers((-1, -1), 2, 4), "compares nothing"),
        (lambda: TransferConfig(temperature=0.0), "temperature is 0.0; expected more than 0"),
        (lambda: TransferConfig(hidden=-1.0), "hidden is -1.0; expected at least 0"),
        (lambda: TransferConfig(task=0, soft=0), "nothing is learned"),
        (lambda: TransferConfig(layers=(0, -2)), "expected layers from 0, -1 for none"),
        (lambda: TransferConfig(maps="scores", heads="mean"), "heads is 'mean' and"),
        (lambda: InitialConfig(layers=(0,)), "--initial.take layers"),
        (lambda: ProgressConfig(below=2.0), "below is 2.0; expected 0 to 1"),
        (lambda: Turns(ProgressConfig(), 3, 4), "steps are 3, but 4 layers"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(RunError, match=message):
        call()


# -- turns ----------------------------------------------------------------------------------------


def test_every_layer_has_its_turn_and_those_below_learn_a_little():
    turns = Turns(ProgressConfig(below=0.1, warmup=0.0), 10, 3)
    assert [int(turns.turn(step)) for step in range(10)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    close(turns.gate(4), [0, 1, 0])
    wave = float(turns.wave(4))
    rates = [turns.rate(4, f"encoder/layer_{i}/ffn/in/kernel", 2) for i in range(3)]
    close(rates, [0.1 * wave, wave, 0.0])
    scanned = turns.rate(4, "encoder/layers/ffn/in/kernel", 3)
    close(scanned.reshape(-1), rates)
    assert float(turns.rate(4, "encoder/embeddings/word/embedding", 2)) == 0
    assert float(turns.rate(4, "mapping/hidden/kernel", 2)) == wave


def test_the_learning_rate_rises_and_falls_in_every_turn():
    turns = Turns(ProgressConfig(warmup=0.25), 16, 2)
    waves = [float(turns.wave(step)) for step in range(16)]
    assert waves[:8] == waves[8:]
    assert waves[0] == pytest.approx(0.5) and max(waves) == waves[1]
    assert all(after <= before for before, after in zip(waves[1:7], waves[2:8], strict=True))
    assert 0.9 < waves[7] < 1
