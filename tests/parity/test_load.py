"""What PyTorch and transformers write, `jbert.load` reads: the same outputs, labels and tokens."""

import json
import warnings

import disk
import numpy as np
import pytest
import tiny
import torch
import transformers
import variants
from published import LABELS, run, same_outputs, written

import jbert

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("arch", "task"), tiny.PAIRS, ids=lambda x: x or "model")
def test_a_model_as_transformers_saves_it(arch, task, tmp_path):
    reference = written(arch, task, tmp_path)
    model = jbert.load(tmp_path, task)
    assert model.config.id2label == reference.config.id2label
    inputs = variants.batch(arch, task, model.config)
    same_outputs(model(**inputs), run(reference, inputs), arch)


FORMS = ("zip", "legacy", "sharded_bin", "sharded_safetensors")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_every_form_that_pytorch_weights_come_in(arch, form, tmp_path):
    """Names and bits only: the outputs are the test's above."""
    plain, other = tmp_path / "plain", tmp_path / form
    reference = written(arch, "masked_lm", plain)
    reference.config.save_pretrained(other)
    state = reference.state_dict()
    if form == "sharded_safetensors":
        reference.save_pretrained(other, max_shard_size="20kB")
        assert len(list(other.glob("model-*.safetensors"))) > 1
    elif form == "sharded_bin":
        names = sorted(state)
        parts = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
        for file, part in parts.items():
            torch.save({name: state[name] for name in part}, other / file)
        weight_map = {name: file for file, part in parts.items() for name in part}
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (other / "pytorch_model.bin.index.json").write_text(text)
    else:
        new = form == "zip"
        torch.save(state, other / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    expected = jbert.load(plain, "masked_lm").params
    disk.assert_same(jbert.load(other, "masked_lm").params, expected)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_checkpoints_of_half_precision(dtype, form, tmp_path):
    reference = written("bert", "sequence_classification", tmp_path / "full")
    half = reference.to(getattr(torch, dtype))
    half.save_pretrained(tmp_path / "half")
    if form == "bin":
        (tmp_path / "half" / "model.safetensors").unlink()
        torch.save(half.state_dict(), tmp_path / "half" / "pytorch_model.bin")
    model = jbert.load(tmp_path / "half", "sequence_classification")
    assert {str(leaf.dtype) for leaf in disk.flatten(model.params).values()} == {"float32"}
    kept = jbert.load(tmp_path / "half", "sequence_classification", param_dtype=dtype)
    stored = disk.arrays(kept)
    for name, value in half.state_dict().items():
        found = stored[name].astype(np.float32)
        np.testing.assert_array_equal(found, value.float().numpy(), err_msg=name)
    inputs = variants.batch("bert", None, model.config)
    same_outputs(model(**inputs), run(half.float(), inputs), "bert")


def test_labels_and_the_kind_of_problem_are_carried(tmp_path):
    fields = {**variants.BASE["bert"], "id2label": LABELS, "problem_type": "regression"}
    config = transformers.BertConfig(**fields)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    model = jbert.load(tmp_path, "sequence_classification")
    assert (model.config.num_labels, model.config.problem_type) == (3, "regression")
    assert model.config.label2id == {v: k for k, v in LABELS.items()}


@pytest.mark.parametrize("name", ["BertTokenizer", "DistilBertTokenizer", "MobileBertTokenizer"])
def test_tokenizers_that_transformers_saves(name, tmp_path):
    vocabulary = str(disk.vocabulary(tmp_path))
    theirs = getattr(transformers, name)(vocab=vocabulary)
    arch = name.removesuffix("Tokenizer").lower()
    written(arch, None, tmp_path / "m")
    theirs.save_pretrained(tmp_path / "m")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = jbert.load(tmp_path / "m").tokenizer
    texts = ["The capital of France is Paris.", "unwanted, UNWANTED"]
    expected = theirs(texts, padding=True, return_tensors="np")
    found = tokenizer(texts)
    for key in found:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
