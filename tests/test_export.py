"""`jbert.export`: Hugging Face directories, and StableHLO that runs with nothing but jax."""

import dataclasses
import json
import os
import subprocess
import sys

import disk
import jax
import numpy as np
import pytest
import tiny
from safetensors import safe_open

import jbert
from jbert.execution import Execution
from jbert.stablehlo import PROGRAM, SIGNATURE, WEIGHTS

# -- safetensors ----------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "task"), tiny.PAIRS, ids=lambda x: x or "model")
def test_exported_models_load_bit_for_bit_and_export_the_same_bytes(arch, task, tmp_path):
    model = disk.bert(arch, task, num_labels=3)
    jbert.export(model, tmp_path / "a")
    loaded = jbert.load(tmp_path / "a", task)
    disk.assert_same(loaded.params, model.params)
    jbert.export(loaded, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_an_exported_directory_holds(tmp_path):
    labels = {0: "no", 1: "yes"}
    model = disk.bert(
        task="sequence_classification", tokenizer=disk.tokenizer(tmp_path), id2label=labels,
        problem_type="multi_label_classification", extra={"torch_dtype": "float16", "note": 3},
    )  # fmt: skip
    jbert.export(model, tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    }  # fmt: skip
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "no", "1": "yes"} and config["note"] == 3
    assert config["label2id"] == {"no": 0, "yes": 1}
    assert config["problem_type"] == "multi_label_classification"
    assert config["dtype"] == "float32" and "torch_dtype" not in config
    with safe_open(tmp_path / "m" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert "classifier.weight" in list(file.keys())
    # Whoever may read the one file may read the other.
    modes = {path.stat().st_mode for path in (tmp_path / "m").iterdir()}
    assert len(modes) == 1
    back = jbert.load(tmp_path / "m", "sequence_classification")
    assert back.config.id2label == labels and back.tokenizer is not None
    assert back.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_of_half_size_are_exported_as_they_are(dtype, tmp_path):
    model = disk.bert("bert", "masked_lm", execution=Execution(param_dtype=dtype))
    jbert.export(model, tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == dtype
    loaded = jbert.load(tmp_path / "m", "masked_lm", param_dtype=dtype)
    disk.assert_same(loaded.params, model.params)


def test_sharded_and_scanned_models_are_exported_whole(tmp_path):
    model = disk.bert("bert", "masked_lm", num_attention_heads=8)
    jbert.export(model, tmp_path / "one")
    mesh = jbert.make_mesh(data=1, fsdp=4, tensor=2)
    spread = jbert.load(tmp_path / "one", "masked_lm", mesh=mesh, scan_layers=True)
    assert disk.assert_spread(spread.params)
    jbert.export(spread, tmp_path / "eight")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes()
                     for name in ("one", "eight"))  # fmt: skip
    assert first == second


def test_directories_that_hold_something_stay(tmp_path):
    model = disk.bert()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("x")
    for format in ("safetensors", "stablehlo"):
        with pytest.raises(FileExistsError, match="is not empty"):
            jbert.export(model, tmp_path / "m", format)
    with pytest.raises(NotADirectoryError):
        jbert.export(model, tmp_path / "m" / "notes.txt")
    with pytest.raises(ValueError, match="format is 'onnx'"):
        jbert.export(model, tmp_path / "m", "onnx")
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["notes.txt"]
    jbert.export(model, tmp_path / "m", force=True)
    assert "notes.txt" not in {path.name for path in (tmp_path / "m").iterdir()}


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    model = disk.bert(tokenizer=disk.tokenizer(tmp_path))

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model.tokenizer), "save", fails)
    for write in (jbert.save, jbert.export):
        with pytest.raises(KeyboardInterrupt):
            write(model, tmp_path / "m")
        assert [path.name for path in tmp_path.iterdir()] == ["vocab.txt"]


# -- StableHLO ------------------------------------------------------------------------------

# Runs the copied loader where jbert and flax cannot be imported.
ALONE = """
import pathlib, sys

class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("jbert", "flax", "optax", "orbax", "tokenizers"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import jax
jax.config.update("jax_platforms", "cpu")
import numpy as np
from load_model import load_stablehlo

for directory in sys.argv[2:]:
    model = load_stablehlo(directory)
    for path in sorted(pathlib.Path(directory).glob("in*.npz")):
        found = {name: np.asarray(value) for name, value in model(**np.load(path)).items()}
        np.savez(path.with_name(path.name.replace("in", "out")), **found)
assert "jbert" not in sys.modules
"""

CASES = {
    "bert": "masked_lm",
    "bert_decoder": "causal_lm",
    "distilbert": "question_answering",
    "mobilebert": "pretraining",
    "convbert": "multiple_choice",
}


def test_any_batch_and_length_without_jbert(tmp_path):
    expected: dict = {}
    for name, task in CASES.items():
        arch = name.removesuffix("_decoder")
        model, directory = disk.bert(arch, task), tmp_path / name
        jbert.export(model, directory, "stablehlo")
        batch = tiny.batch(arch, task, length=14)
        shortest = {key: values[:1, ..., :1] for key, values in batch.items()}
        for i, inputs in enumerate([batch, shortest]):
            np.savez(directory / f"in{i}.npz", **inputs)
            expected[directory / f"out{i}.npz"] = apply(model, inputs)
    run_alone(tmp_path / "bert", [str(tmp_path / name) for name in CASES])
    for path, output in expected.items():
        found = np.load(path)
        assert sorted(found) == sorted(output.keys())
        for name in found:
            np.testing.assert_allclose(found[name], output[name], rtol=2e-5, atol=2e-5)


def apply(model, inputs: dict):
    return jax.jit(lambda x: model.module.apply({"params": model.params}, **x))(inputs)


def run_alone(loader, directories: list[str]) -> None:
    """The loader that was copied beside a model, in a process that has only jax."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, "-P", "-c", ALONE, str(loader), *directories],
        capture_output=True, text=True, timeout=300, cwd=loader, env=clean,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported")
    execution = Execution(dtype="bfloat16", param_dtype="bfloat16", scan_layers=True)
    model = disk.bert("bert", "sequence_classification", execution=execution)
    params = jbert.stack_layers(jbert.unstack_layers(model.params))
    model = dataclasses.replace(model, params=params)
    jbert.export(model, directory / "m", "stablehlo")
    return model, directory / "m"


def test_half_precision_parameters_travel_as_their_bits(exported):
    model, directory = exported
    batch = tiny.batch("bert")
    logits = jbert.load_stablehlo(directory)(**batch)["logits"]
    np.testing.assert_allclose(logits, model(**batch).logits, rtol=0.02, atol=0.02)
    signature = json.loads((directory / SIGNATURE).read_text())
    assert set(signature["params"].values()) == {"bfloat16"}
    assert "encoder/layer_1/ffn/in/kernel" in signature["params"]


def test_masks_and_segments_have_defaults(exported):
    run = jbert.load_stablehlo(exported[1])
    ids = tiny.batch("bert")["input_ids"]
    full = run(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
    np.testing.assert_array_equal(run(input_ids=ids)["logits"], full["logits"])
    np.testing.assert_array_equal(run(input_ids=ids.tolist())["logits"], full["logits"])
    masked = run(input_ids=ids, attention_mask=tiny.batch("bert")["attention_mask"])
    assert np.abs(np.asarray(masked["logits"] - full["logits"], np.float32)).max() > 0


IDS = np.ones((2, 5), np.int32)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "expected input_ids"),
        ({"input_ids": IDS, "position_ids": IDS}, "position_ids"),
        ({"input_ids": IDS[0]}, "expected 2 dimensions"),
        ({"input_ids": IDS[:0]}, "none of them empty"),
        ({"input_ids": np.ones((1, 33), int)}, "at most 32"),
        ({"input_ids": IDS * 1.5}, "dtype float64; expected integers"),
        ({"input_ids": IDS * 99}, "from 99 to 99; expected 0 to 98"),
        ({"input_ids": -IDS}, "from -1 to -1"),
        ({"input_ids": IDS.astype(np.int64) << 40}, "expected 0 to 98"),
        ({"input_ids": IDS, "token_type_ids": IDS * 2}, "token_type_ids has values from 2"),
        ({"input_ids": IDS, "attention_mask": IDS[:, :3]}, "attention_mask has shape"),
    ],
)
def test_inputs_that_the_program_would_misread_are_refused(inputs, words, exported):
    with pytest.raises(ValueError, match=words):
        jbert.load_stablehlo(exported[1])(**inputs)


def test_damaged_exports_are_named(exported, tmp_path):
    _, directory = exported
    with pytest.raises(FileNotFoundError, match="model.stablehlo"):
        jbert.load_stablehlo(tmp_path)
    for name in (PROGRAM, WEIGHTS, SIGNATURE):
        data = (directory / name).read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 64]) + data[middle + 1 :]
        for damaged in (b"", data[:middle], flipped):
            try:
                (directory / name).write_bytes(damaged)
                with pytest.raises(ValueError, match="damaged, use another copy"):
                    jbert.load_stablehlo(directory)
            finally:
                (directory / name).write_bytes(data)
    jbert.load_stablehlo(directory)


def test_a_model_on_a_mesh_is_exported_for_any_machine(tmp_path):
    mesh = jbert.make_mesh(data=1, fsdp=8)
    jbert.save(disk.bert("bert", "next_sentence"), tmp_path / "saved")
    model = jbert.load(tmp_path / "saved", mesh=mesh)
    jbert.export(model, tmp_path / "m", "stablehlo")
    batch = tiny.batch("bert")
    found = jbert.load_stablehlo(tmp_path / "m")(**batch)["logits"]
    assert len(found.devices()) == 1
    np.testing.assert_allclose(found, jax.device_get(model(**batch).logits), atol=2e-5)
