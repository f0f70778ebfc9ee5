"""What fine-tuning with transformers' Flax classes left, moved by `jbert convert`.

The directories are transformers 4.57.6's own, see tests/formats/make_tuned.py.
"""

import json
import shutil
from pathlib import Path

import flax.serialization
import numpy as np
import pytest

import jbert
from jbert.cli import main

TUNED = Path(__file__).parent / "formats" / "corpus" / "tuned"
TASKS = {"bert": "sequence_classification", "distilbert": "token_classification"}
TEXTS = ["The sea was calm and warm.", "Anna wrote from Oslo"]


def answers(family: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tokens and the logits that transformers had."""
    with np.load(TUNED / family / "answers.npz") as found:
        arrays = dict(found)
    logits = arrays.pop("logits")
    return {name: x.astype(np.int32) for name, x in arrays.items()}, logits


def check(bert: jbert.Bert, family: str) -> None:
    inputs, logits = answers(family)
    assert bert.task == TASKS[family]
    assert bert.config.id2label == {0: "bad", 1: "good", 2: "neither"}
    tokens = bert.tokenizer(TEXTS)
    assert tokens.keys() == inputs.keys()
    for name, value in inputs.items():
        np.testing.assert_array_equal(tokens[name], value)
    real = inputs["attention_mask"].astype(bool) if logits.ndim == 3 else ...
    np.testing.assert_allclose(bert(**inputs).logits[real], logits[real], atol=1e-5)


@pytest.mark.parametrize("family", TASKS)
def test_a_tuned_directory_moves_with_head_labels_and_tokenizer(family, tmp_path):
    """To jbert's files, and from there or at once to what transformers 5 loads."""
    steps = [(TUNED / family, "orbax"), (TUNED / family, "safetensors"), ("0", "safetensors")]
    for number, (source, format) in enumerate(steps):
        place = str(tmp_path / str(number))
        assert main(["convert", str(tmp_path / source), place, "--to", format]) == 0
        # A Hugging Face directory says its task only as a class, which load does not guess from.
        check(jbert.load(place, None if format == "orbax" else TASKS[family]), family)
    first, second = (tmp_path / name / "model.safetensors" for name in "12")
    assert first.read_bytes() == second.read_bytes()
    about = json.loads((tmp_path / "1" / "config.json").read_text())
    assert about["architectures"] == [type(jbert.load(tmp_path / "0").module).__name__]


def test_a_decoder_is_known_by_the_name_that_flax_gave_it(tmp_path):
    source = TUNED.parent / "flax" / "bert_causal_lm"
    assert json.loads((source / "config.json").read_text())["architectures"] == ["BertForCausalLM"]
    assert main(["convert", str(source), str(tmp_path / "m")]) == 0
    assert jbert.load(tmp_path / "m").task == "causal_lm"


def test_a_state_with_a_weight_missing_is_not_converted(tmp_path, capsys):
    shutil.copytree(TUNED / "bert", tmp_path / "old")
    path = tmp_path / "old" / "flax_model.msgpack"
    params = flax.serialization.msgpack_restore(path.read_bytes())
    del params["bert"]["encoder"]["layer"]["0"]["output"]
    path.write_bytes(flax.serialization.to_bytes(params))
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    assert "bert.encoder.layer.0.output.dense.weight" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
