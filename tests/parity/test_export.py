"""What `jbert.export` writes, transformers reads: every key, the same outputs, the same tokens."""

import disk
import numpy as np
import oracle
import pytest
import tiny
import torch
import transformers
import variants
from published import run, same_outputs, written
from safetensors import safe_open

import jbert
from jbert.execution import Execution

pytestmark = pytest.mark.parity


def names(directory) -> set[str]:
    with safe_open(directory / "model.safetensors", "numpy") as file:
        return set(file.keys())


OUTPUT_TABLES = ("masked_lm", "pretraining", "causal_lm")
CASES = [(arch, task, True) for arch, task in tiny.PAIRS]
CASES += [(arch, task, False) for arch, task in tiny.PAIRS if task in OUTPUT_TABLES]


@pytest.mark.parametrize(("arch", "task", "tied"), CASES)
def test_there_and_back(arch, task, tied, tmp_path):
    """transformers → jbert → transformers: zero keys missing or too many, and the same outputs."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    reference = written(arch, task, theirs, tied)
    model = jbert.load(theirs, task)
    jbert.export(model, ours)
    disk.assert_same(jbert.load(ours, task).params, model.params)
    if task == "replaced_token_detection":
        return encoder_alone(arch, model, reference, ours)
    returned, report = type(reference).from_pretrained(
        ours, output_loading_info=True, attn_implementation="eager"
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not report[kind], (kind, report[kind])
    assert names(ours) == names(theirs)
    for name, value in reference.state_dict().items():
        # Without tied embeddings transformers has this parameter and does not use it.
        if tied or name != "cls.predictions.bias":
            assert torch.equal(returned.state_dict()[name], value), name
    inputs = variants.batch(arch, task, model.config)
    expected = run(reference, inputs)
    same_outputs(model(**inputs), run(returned.eval(), inputs), arch)
    for name in oracle.outputs(expected):
        assert torch.equal(expected[name], run(returned, inputs)[name]), name
    assert returned.config.id2label == reference.config.id2label
    assert returned.config.architectures == reference.config.architectures
    assert returned.config.tie_word_embeddings == tied


def encoder_alone(arch: str, model, reference, directory) -> None:
    """transformers has no class for this head; its encoder is what others can use."""
    extra = {"add_pooling_layer": False} if arch in oracle.POOLERS else {}
    encoder, report = getattr(transformers, f"{oracle.NAMES[arch]}Model").from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager", **extra
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert all(name.startswith("discriminator_predictions") for name in report["unexpected_keys"])
    inputs = variants.batch(arch, None, model.config)
    expected = run(reference.electra, inputs).last_hidden_state
    assert torch.equal(run(encoder.eval(), inputs).last_hidden_state, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_arrives_as_such(dtype, tmp_path):
    model = disk.bert("bert", "masked_lm", execution=Execution(param_dtype=dtype))
    jbert.export(model, tmp_path)
    returned = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert returned.dtype == getattr(torch, dtype)
    expected = disk.arrays(model)
    for name, value in returned.state_dict().items():
        if name in expected:
            found = expected[name].astype(np.float32)
            np.testing.assert_array_equal(value.float().numpy(), found, err_msg=name)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_the_tokenizer_and_the_labels_come_along(arch, tmp_path):
    model = disk.bert(
        arch, "sequence_classification", tokenizer=disk.tokenizer(tmp_path),
        id2label={0: "no", 1: "maybe", 2: "yes"}, problem_type="single_label_classification",
    )  # fmt: skip
    jbert.export(model, tmp_path / "m")
    returned = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    assert returned.config.id2label == model.config.id2label
    assert returned.config.label2id == model.config.label2id
    assert returned.config.problem_type == "single_label_classification"
    assert returned.config.num_labels == 3
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    texts = ["The capital of France is [MASK].", "unwanted, UNWANTED"]
    found, expected = tokenizer(texts, padding=True, return_tensors="np"), model.tokenizer(texts)
    assert set(expected) <= set(found)
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


def test_an_answer_has_two_ends_whatever_the_labels(tmp_path):
    """transformers sizes this head by the number of labels, jbert does not."""
    jbert.export(disk.bert("distilbert", "question_answering", num_labels=5), tmp_path)
    returned, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["mismatched_keys"] and not report["missing_keys"]
    assert returned.qa_outputs.out_features == 2


def test_auto_classes_find_the_model(tmp_path):
    jbert.export(disk.bert("mobilebert", "question_answering"), tmp_path)
    returned = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert type(returned).__name__ == "MobileBertForQuestionAnswering"
