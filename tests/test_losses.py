"""Losses against their definitions in numpy, and labels that cannot be right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbert.heads import Output
from jbert.losses import LossError, cross_entropy, loss, problem_type, sum_terms, terms
from jbert.models.bert import BertConfig

B, L, C = 3, 5, 4


def config(**changes):
    return BertConfig(**{"num_labels": C, **changes})


def normal(*shape):
    return (3 * np.random.default_rng(len(shape)).standard_normal(shape)).astype(np.float32)


def mean_of_negative_log_probabilities(logits, labels, ignore=-100):
    """Cross-entropy as written in a textbook, one position at a time."""
    found = []
    flat = logits.reshape(-1, logits.shape[-1]).astype(np.float64)
    for row, label in zip(flat, labels.reshape(-1), strict=True):
        if label != ignore:
            found.append(-np.log(np.exp(row[label]) / np.exp(row).sum()))
    return np.mean(found) if found else 0.0


def binary(logits, target):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


TOKEN_LABELS = np.array([[0, 1, -100, 3, 2], [-100] * 5, [2, 2, 0, -100, 1]], np.int32)


def test_token_losses_are_the_mean_over_labelled_positions():
    logits = normal(B, L, C)
    expected = mean_of_negative_log_probabilities(logits, TOKEN_LABELS)
    for task in ("masked_lm", "token_classification"):
        found = loss(task, config(), Output(logits=logits), {"labels": TOKEN_LABELS})
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_causal_loss_compares_each_position_with_the_next_label():
    logits = normal(B, L, C)
    found = loss("causal_lm", config(), Output(logits=logits), {"labels": TOKEN_LABELS})
    expected = mean_of_negative_log_probabilities(logits[:, :-1], TOKEN_LABELS[:, 1:])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(B,), (B, 1)])
def test_one_label_a_text_may_have_a_second_dimension(shape):
    logits, labels = normal(B, C), np.array([3, 0, 2]).reshape(shape)
    expected = mean_of_negative_log_probabilities(logits, labels)
    for task in ("next_sentence", "multiple_choice", "sequence_classification"):
        found = loss(task, config(), Output(logits=logits), {"labels": labels})
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_pretraining_loss_is_the_sum_of_both_objectives():
    words, sentences, next_sentence = normal(B, L, C), normal(B, 2), np.array([0, 1, 1])
    found = loss(
        "pretraining",
        config(),
        Output(prediction_logits=words, seq_relationship_logits=sentences),
        {"labels": TOKEN_LABELS, "next_sentence_label": next_sentence},
    )
    expected = mean_of_negative_log_probabilities(words, TOKEN_LABELS)
    expected += mean_of_negative_log_probabilities(sentences, next_sentence)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_span_positions_beyond_the_text_are_ignored_and_negative_ones_are_the_first_token():
    start, end = normal(B, L), normal(B, L)[::-1]
    labels = {"start_positions": np.array([1, L, 900]), "end_positions": np.array([-7, 2, 4])}
    found = loss("question_answering", config(), Output(start_logits=start, end_logits=end), labels)
    from_start = mean_of_negative_log_probabilities(start, np.array([1, -100, -100]))
    from_end = mean_of_negative_log_probabilities(end, np.array([0, 2, 4]))
    np.testing.assert_allclose(found, (from_start + from_end) / 2, rtol=1e-6)


def test_replaced_token_loss_leaves_out_ignored_labels_and_padding():
    logits = normal(B, L)
    labels = np.array([[0, 1, 1, 0, -100], [1] * 5, [0, 0, 1, 1, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    losses = binary(logits, labels)
    for given, kept in (({}, labels != -100),
                        ({"attention_mask": mask}, (labels != -100) & (mask == 1))):  # fmt: skip
        found = loss(
            "replaced_token_detection", config(), Output(logits=logits), {"labels": labels, **given}
        )
        np.testing.assert_allclose(found, losses[kept].mean(), rtol=1e-6)


# -- the three problem types ------------------------------------------------------------------


@pytest.mark.parametrize("logits_shape", [(B, 1), (B,)])
@pytest.mark.parametrize("labels_shape", [(B, 1), (B,)])
def test_regression_on_one_value_does_not_broadcast(logits_shape, labels_shape):
    logits, labels = normal(B), np.array([0.5, -1.0, 2.0], np.float32)
    found = loss(
        "sequence_classification",
        config(num_labels=1),
        Output(logits=logits.reshape(logits_shape)),
        {"labels": labels.reshape(labels_shape)},
    )
    np.testing.assert_allclose(found, np.mean((logits - labels) ** 2), rtol=1e-6)


def test_regression_on_several_values_is_the_mean_over_all():
    logits, labels = normal(B, C), normal(B, C)[::-1]
    cfg = config(problem_type="regression")
    found = loss("sequence_classification", cfg, Output(logits=logits), {"labels": labels})
    np.testing.assert_allclose(found, np.mean((logits - labels) ** 2), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_multi_label_loss_is_the_mean_over_all_labels(dtype):
    logits, labels = normal(B, C), (normal(B, C)[::-1] > 0).astype(dtype)
    cfg = config(problem_type="multi_label_classification")
    found = loss("sequence_classification", cfg, Output(logits=logits), {"labels": labels})
    np.testing.assert_allclose(found, binary(logits, labels).mean(), rtol=1e-6)


def test_problem_type_is_guessed_as_transformers_does():
    integers, floats = jnp.zeros(3, jnp.int32), jnp.zeros((3, 4))
    assert problem_type(config(num_labels=1), integers) == "regression"
    assert problem_type(config(), integers) == "single_label_classification"
    assert problem_type(config(), floats) == "multi_label_classification"
    assert problem_type(config(problem_type="regression"), integers) == "regression"


# -- numerics ---------------------------------------------------------------------------------


def test_everything_ignored_gives_zero_and_a_zero_gradient():
    labels = {"labels": np.full((B, L), -100)}

    def of(logits, task):
        return loss(task, config(), Output(logits=logits), labels)

    for task, shape in (("masked_lm", (B, L, C)), ("causal_lm", (B, L, C)),
                        ("replaced_token_detection", (B, L))):  # fmt: skip
        value, gradient = jax.value_and_grad(of)(jnp.asarray(normal(*shape)), task)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_large_logits_give_finite_losses_and_gradients():
    logits = jnp.array([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]])

    def single(x):
        return loss("masked_lm", config(), Output(logits=x[None]), {"labels": np.array([[1, 2]])})

    def several(x):
        cfg = config(num_labels=3, problem_type="multi_label_classification")
        target = {"labels": np.array([[0.0, 1, 1], [1, 0, 1]])}
        return loss("sequence_classification", cfg, Output(logits=x), target)

    for of, expected in ((single, 2e4), (several, 4e4 / 6)):
        value, gradient = jax.value_and_grad(of)(logits)
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        assert np.isfinite(gradient).all()


def test_losses_of_bfloat16_logits_are_float32():
    logits = jnp.asarray(normal(B, L, C), jnp.bfloat16)
    found = loss("masked_lm", config(), Output(logits=logits), {"labels": TOKEN_LABELS})
    assert found.dtype == jnp.float32
    wide = np.asarray(logits, np.float32)
    expected = mean_of_negative_log_probabilities(wide, TOKEN_LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_terms_of_parts_add_up_to_the_loss_of_the_whole():
    logits = normal(B, L, C)
    one, two = (
        terms("masked_lm", config(), Output(logits=logits[rows]), {"labels": TOKEN_LABELS[rows]})
        for rows in (slice(0, 1), slice(1, 3))
    )
    added = [a._replace(total=a.total + b.total, count=a.count + b.count)
             for a, b in zip(one, two, strict=True)]  # fmt: skip
    whole = loss("masked_lm", config(), Output(logits=logits), {"labels": TOKEN_LABELS})
    np.testing.assert_allclose(sum_terms(added), whole, rtol=1e-6)


# -- labels that cannot be right --------------------------------------------------------------

TOKENS = Output(logits=np.zeros((B, L, C), np.float32))
TEXTS = Output(logits=np.zeros((B, C), np.float32))
FLAGS = Output(logits=np.zeros((B, L), np.float32))
BOTH = Output(prediction_logits=TOKENS.logits, seq_relationship_logits=np.zeros((B, 2), np.float32))
SPAN = Output(start_logits=FLAGS.logits, end_logits=FLAGS.logits)
ZEROS = np.zeros((B, L), np.int32)


def at(value, where, dtype=np.int32, shape=(B, L)):
    labels = np.zeros(shape, dtype)
    labels[where] = value
    return labels


REFUSED = [
    ("masked_lm", TOKENS, {"labels": at(C, (1, 2))}, ["labels[1, 2] is 4", "0 <= label < 4"]),
    ("masked_lm", TOKENS, {"labels": at(-1, (2, 0))}, ["labels[2, 0] is -1", "-100"]),
    ("masked_lm", TOKENS, {"labels": at(2**40 + 1, (0, 0), np.int64)}, ["labels", str(2**40 + 1)]),
    ("causal_lm", TOKENS, {"labels": at(C, (0, 4))}, ["is 4", "0 <= label < 4"]),
    ("causal_lm", TOKENS, {"labels": ZEROS[:, :3]}, ["(3, 3)", "(3, 5)"]),
    ("token_classification", TOKENS, {"labels": ZEROS[:, :3]}, ["labels", "(3, 3)", "(3, 5)"]),
    ("token_classification", TOKENS, {"labels": ZEROS * 1.0}, ["labels", "float", "integers"]),
    ("masked_lm", TOKENS, {"label": ZEROS}, ["need 'labels'", "['label']"]),
    ("masked_lm", TOKENS, {"labels": None}, ["need 'labels'"]),
    ("masked_lm", TOKENS, ZEROS, ["labels is a ndarray", "dict"]),
    ("pretraining", BOTH, {"labels": ZEROS}, ["need 'next_sentence_label'", "['labels']"]),
    ("pretraining", BOTH, {"labels": ZEROS, "next_sentence_label": np.array([0, 1, 2])},
     ["next_sentence_label[2] is 2", "0 <= label < 2"]),
    ("next_sentence", TEXTS, {"labels": np.zeros(2, np.int32)}, ["(2,)", "(3,)"]),
    ("multiple_choice", TEXTS, {"labels": np.array([0, 1, C])}, ["labels[2] is 4"]),
    ("sequence_classification", TEXTS, {"labels": np.array([0, 9, 1])}, ["labels[1] is 9"]),
    ("sequence_classification", TEXTS, {"labels": np.zeros((B, 2), np.float32)},
     ["(3, 2)", "(3, 4)", "multi_label_classification"]),
    ("question_answering", SPAN, {"start_positions": np.zeros(B, np.int32)},
     ["need 'end_positions'", "['start_positions']"]),
    ("question_answering", SPAN, {"start_positions": np.zeros(2, np.int32),
                                  "end_positions": np.zeros(B, np.int32)},
     ["start_positions", "(2,)", "(3,)"]),
    ("question_answering", SPAN, {"start_positions": np.zeros(B), "end_positions": np.zeros(B)},
     ["start_positions", "float", "integers"]),
    ("replaced_token_detection", FLAGS, {"labels": at(2, (1, 1))}, ["labels[1, 1] is 2"]),
    ("replaced_token_detection", FLAGS, {"labels": ZEROS[:1]}, ["(1, 5)", "(3, 5)"]),
    ("replaced_token_detection", FLAGS, {"labels": ZEROS, "attention_mask": ZEROS[:, :1]},
     ["attention_mask", "(3, 1)", "(3, 5)"]),
    (None, TOKENS, {"labels": ZEROS}, ["None has no loss", "masked_lm"]),
    ("masked-lm", TOKENS, {"labels": ZEROS}, ["'masked-lm' has no loss", "masked_lm"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "output", "labels", "told"), REFUSED, ids=[f"{r[0]}-{r[3][0]}" for r in REFUSED]
)
def test_labels_that_cannot_be_right_are_refused_by_name(task, output, labels, told):
    with pytest.raises(LossError) as caught:
        loss(task, config(), output, labels)
    for part in told:
        assert part in str(caught.value)


def test_two_regression_targets_for_three_texts_are_refused():
    with pytest.raises(LossError, match=r"\(2,\).*\(3,\) for regression"):
        loss("sequence_classification", config(num_labels=1),
             Output(logits=np.zeros((B, 1), np.float32)), {"labels": np.zeros(2)})  # fmt: skip


@pytest.mark.parametrize("bad", [C, C + 7, -1, -5])
def test_traced_label_out_of_range_gives_nan(bad):
    @jax.jit
    def of(labels):
        return cross_entropy(jnp.asarray(normal(B, L, C)), labels).total

    assert np.isfinite(of(TOKEN_LABELS))
    assert np.isnan(of(at(bad, (1, 2))))


def test_traced_replaced_token_label_out_of_range_gives_nan():
    @jax.jit
    def of(labels):
        return loss("replaced_token_detection", config(), FLAGS, {"labels": labels})

    assert np.isfinite(of(ZEROS))
    assert np.isnan(of(at(2, (1, 2))))


# -- weights ----------------------------------------------------------------------------------

SPANS = {"start_positions": np.array([1, L, 2]), "end_positions": np.array([L, 3, 2])}
VECTORS = {"labels": np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], np.float32)}
NUMBERS = {"labels": np.array([[0.5], [-1.0], [2.0]], np.float32)}
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
WEIGHED = [
    ("masked_lm", {"logits": normal(B, L, C)}, {"labels": TOKEN_LABELS}, {}),
    ("causal_lm", {"logits": normal(B, L, C)}, {"labels": TOKEN_LABELS}, {}),
    ("token_classification", {"logits": normal(B, L, C)}, {"labels": TOKEN_LABELS}, {}),
    ("pretraining", {"prediction_logits": normal(B, L, C), "seq_relationship_logits": normal(B, 2)},
     {"labels": TOKEN_LABELS, "next_sentence_label": np.array([[0], [1], [1]])}, {}),
    ("next_sentence", {"logits": normal(B, 2)}, {"labels": np.array([0, 1, 1])}, {}),
    ("multiple_choice", {"logits": normal(B, C)}, {"labels": np.array([[3], [0], [2]])}, {}),
    ("question_answering", {"start_logits": normal(B, L), "end_logits": normal(B, L)}, SPANS, {}),
    ("sequence_classification", {"logits": normal(B, C)}, {"labels": np.array([3, 0, 2])}, {}),
    ("sequence_classification", {"logits": normal(B, C)}, VECTORS,
     {"problem_type": "multi_label_classification"}),
    ("sequence_classification", {"logits": normal(B, C)}, VECTORS, {"problem_type": "regression"}),
    ("sequence_classification", {"logits": normal(B, 1)}, NUMBERS, {"num_labels": 1}),
    ("replaced_token_detection", {"logits": normal(B, L)},
     {"labels": np.tile([0, 1, 1, 0, -100], (B, 1)), "attention_mask": MASK}, {}),
]  # fmt: skip
each_loss = pytest.mark.parametrize(
    ("task", "output", "labels", "changes"), WEIGHED, ids=[f"{w[0]}-{w[3]}" for w in WEIGHED]
)


def rows_of(arrays, rows):
    return {name: values[rows] for name, values in arrays.items()}


@each_loss
def test_an_example_that_weighs_nothing_is_as_if_it_were_not_there(task, output, labels, changes):
    cfg = config(**changes)
    for kept in ([0, 2], [1], []):
        weights = np.isin(np.arange(B), kept).astype(np.float32)
        found = terms(task, cfg, Output(**output), labels, weights)
        few = terms(task, cfg, Output(**rows_of(output, kept)), rows_of(labels, kept))
        for one, other in zip(found, few, strict=True):
            np.testing.assert_allclose(one.total, other.total, rtol=1e-6)
            assert (one.count, one.scale) == (other.count, other.scale)


@each_loss
def test_weights_multiply_totals_and_counts(task, output, labels, changes):
    cfg, order = config(**changes), [0, 1, 1, 2, 2, 2]
    found = terms(task, cfg, Output(**output), labels, np.array([1.0, 2.0, 3.0]))
    often = terms(task, cfg, Output(**rows_of(output, order)), rows_of(labels, order))
    for one, other in zip(found, often, strict=True):
        np.testing.assert_allclose(one.total, other.total, rtol=1e-6)
        assert one.count == other.count


def test_an_example_that_weighs_nothing_may_hold_anything():
    logits = normal(B, L, C)
    expected = terms("masked_lm", config(), Output(logits=logits[:2]), {"labels": TOKEN_LABELS[:2]})
    logits[2] = np.nan
    found = terms("masked_lm", config(), Output(logits=logits), {"labels": TOKEN_LABELS},
                  np.array([1, 1, 0]))  # fmt: skip
    np.testing.assert_allclose(found[0].total, expected[0].total, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (B + 1,), (B, L), ()])
def test_weights_are_one_for_each_example(shape):
    with pytest.raises(LossError, match=r"weights has shape .*; expected \(3,\)"):
        terms("masked_lm", config(), TOKENS, {"labels": ZEROS}, np.ones(shape))
