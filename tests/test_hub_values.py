"""Published numbers of published models, through the public API; needs a network.

    python -m pytest -m hub tests/test_hub_values.py

The slices are those of the test suites of transformers and keras-hub (both Apache-2.0); the losses
and answers those of the examples in transformers' documentation.
"""

import numpy as np
import pytest

import jbert

pytestmark = pytest.mark.hub

MASKED_FIRST = {
    "input_ids": np.array([[0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]], np.int32),
    "attention_mask": np.array([[0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]], np.int32),
}
FIRST_SIX = {"input_ids": np.arange(6, dtype=np.int32)[None]}
CORNER, INNER = (0, slice(3), slice(3)), (0, slice(1, 4), slice(1, 4))
RELATIVE = "zhiheng-huang/bert-base-uncased-embedding-relative-key"

# (model, task, inputs, output, where in it, expected)
SLICES = [
    ("bert-base-uncased", None, MASKED_FIRST, "last_hidden_state", INNER,
     [[0.4249, 0.1008, 0.7531], [0.3771, 0.1188, 0.7467], [0.4152, 0.1098, 0.7108]]),
    (RELATIVE, None, MASKED_FIRST, "last_hidden_state", INNER,
     [[0.0756, 0.3142, -0.5128], [0.3761, 0.3462, -0.5477], [0.2052, 0.3760, -0.1240]]),
    (f"{RELATIVE}-query", None, MASKED_FIRST, "last_hidden_state", INNER,
     [[0.6496, 0.3784, 0.8203], [0.8148, 0.5656, 0.2636], [-0.0681, 0.5597, 0.7045]]),
    ("lysandre/tiny-bert-random", "pretraining", FIRST_SIX, "prediction_logits", CORNER,
     [[-0.05243197, -0.04498899, 0.05512108], [-0.07444685, -0.01064632, 0.04352357],
      [-0.05020351, 0.05530146, 0.00700043]]),
    ("distilbert-base-uncased", None, MASKED_FIRST, "last_hidden_state", INNER,
     [[-0.1639, 0.3299, 0.1648], [-0.1746, 0.3289, 0.1710], [-0.1884, 0.3357, 0.1810]]),
    ("distilbert-base-uncased", None, FIRST_SIX, "last_hidden_state", CORNER,
     [[0.19261885, -0.13732955, 0.4119799], [0.22150156, -0.07422661, 0.39037204],
      [0.22756018, -0.0896414, 0.3701467]]),
    ("mobilebert-uncased", "pretraining", FIRST_SIX, "prediction_logits", CORNER,
     [[-4.5919547, -9.248295, -9.645256], [-6.7306175, -6.440284, -6.6052837],
      [-7.2743506, -6.7847915, -6.024673]]),
    ("conv-bert-base", None, {"input_ids": FIRST_SIX["input_ids"] + 1}, "last_hidden_state", CORNER,
     [[-0.0864, -0.4898, -0.3677], [0.1434, -0.2952, -0.7640], [-0.0112, -0.4432, -0.5432]]),
    ("conv-bert-base", None, FIRST_SIX, "last_hidden_state", CORNER,
     [[-0.03475493, -0.4686034, -0.30638832], [0.22637248, -0.26988646, -0.7423424],
      [0.10324868, -0.45013508, -0.58280784]]),
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded():
    """Each model once, of any number of tests."""
    models: dict = {}

    def load(name: str, task: str | None = None) -> jbert.Bert:
        if (name, task) not in models:
            models.clear()  # one at a time: they are large
            models[name, task] = jbert.load(name, task)
        return models[name, task]

    return load


@pytest.mark.parametrize(
    ("name", "task", "inputs", "output", "where", "expected"),
    sorted(SLICES, key=lambda case: (case[0], case[1] or "")),
)
def test_slices_of_outputs(name, task, inputs, output, where, expected, loaded):
    found = np.asarray(loaded(name, task)(**inputs)[output], np.float32)
    np.testing.assert_allclose(found[where], expected, rtol=1e-4, atol=1e-4)


def test_mobilebert_within_its_eight_orders_of_magnitude(loaded):
    ids = np.array([[101, 7110, 1005, 1056, 2023, 11333, 17413, 1029, 102]], np.int32)
    expected = [[-2.4736526e07, 8.2691656e04, 1.6521838e05],
                [-5.7541704e-01, 3.9056022e00, 4.4011507e00],
                [2.6047359e00, 1.5677652e00, -1.7324188e-01]]  # fmt: skip
    found = loaded("mobilebert-uncased")(input_ids=ids).last_hidden_state
    np.testing.assert_allclose(np.asarray(found)[CORNER], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "sequence", "pooled"),
    [
        ("bert-tiny", [-1.38173, 0.16598, -2.92788, -2.66958, -0.61556],
         [-0.99999, 0.07777, -0.99955, -0.00982, -0.99967]),
        ("distilbert-base-uncased", [-0.2381, -0.1965, 0.1053, -0.0847, -0.145], None),
    ],
)  # fmt: skip
def test_what_keras_hub_finds(name, sequence, pooled, loaded):
    output = loaded(name)(input_ids=np.array([[101, 1996, 4248, 102]], np.int32))
    found = np.asarray(output.last_hidden_state)[0, 0, :5]
    np.testing.assert_allclose(found, sequence, rtol=0.01, atol=0.01)
    if pooled:
        found = np.asarray(output.pooler_output)[0, :5]
        np.testing.assert_allclose(found, pooled, rtol=0.01, atol=0.01)


def test_five_professions(loaded):
    bert = loaded("mobilebert-uncased", "masked_lm")
    inputs = bert.tokenizer(["the man worked as a [MASK]."], padding="max_length", max_length=512)
    best = np.argsort(-np.asarray(bert(**inputs).logits)[0, 6])[:5]
    assert bert.tokenizer.convert_ids_to_tokens(best) == [
        "carpenter", "waiter", "mechanic", "teacher", "clerk",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "loss"), [("bert-base-uncased", 0.88), ("mobilebert-uncased", 0.57)]
)
def test_the_capital_of_france(name, loss, loaded):
    bert = loaded(name, "masked_lm")
    inputs = bert.tokenizer(["The capital of France is [MASK]."])
    output = bert(**inputs)
    mask = inputs["input_ids"] == bert.tokenizer.convert_tokens_to_ids("[MASK]")
    best = np.asarray(output.logits).argmax(-1)[mask]
    assert bert.tokenizer.decode(best) == "paris"
    labels = bert.tokenizer(["The capital of France is Paris."])["input_ids"]
    found = jbert.losses.loss(
        bert.task, bert.config, output, {"labels": np.where(mask, labels, -100)}
    )
    assert round(float(found), 2) == loss


@pytest.mark.parametrize(
    ("name", "start", "end", "loss"),
    [
        ("deepset/bert-base-cased-squad2", 14, 15, 7.41),
        ("csarron/mobilebert-uncased-squad-v2", 12, 13, 3.98),
    ],
)
def test_who_was_jim_henson(name, start, end, loss, loaded):
    bert = loaded(name, "question_answering")
    inputs = bert.tokenizer(["Who was Jim Henson?"], ["Jim Henson was a nice puppet"])
    output = bert(**inputs)
    first, last = (int(np.argmax(logits)) for logits in (output.start_logits, output.end_logits))
    answer = inputs["input_ids"][0, first : last + 1]
    assert bert.tokenizer.decode(answer, skip_special_tokens=True) == "a nice puppet"
    labels = {"start_positions": np.array([start]), "end_positions": np.array([end])}
    assert round(float(jbert.losses.loss(bert.task, bert.config, output, labels)), 2) == loss


@pytest.mark.parametrize(
    ("text", "word", "logit"),
    [
        ("Looks like one [MASK] is missing", "thing", 10.0558),
        ("It was a very nice and [MASK] day", "sunny", 14.2708),
    ],
)
def test_what_rust_bert_fills_in(text, word, logit, loaded):
    """Its numbers are of both texts in one batch: MobileBERT reads what follows a text."""
    bert = loaded("mobilebert-uncased", "masked_lm")
    texts = ["Looks like one [MASK] is missing", "It was a very nice and [MASK] day"]
    inputs = bert.tokenizer(texts)
    row = texts.index(text)
    (place,) = np.flatnonzero(
        inputs["input_ids"][row] == bert.tokenizer.convert_tokens_to_ids("[MASK]")
    )
    logits = np.asarray(bert(**inputs).logits)[row, place]
    assert bert.tokenizer.convert_ids_to_tokens([int(logits.argmax())]) == [word]
    np.testing.assert_allclose(logits.max(), logit, atol=1e-3)
