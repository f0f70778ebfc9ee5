"""`jbert.save`, and reading back what it wrote: same bits, on any devices, for any task."""

import dataclasses
import json
import re
import warnings
from pathlib import Path

import disk
import jax
import numpy as np
import pytest
import tiny

import jbert
from jbert import checkpoint
from jbert.execution import Execution
from jbert.manifest import DamagedError
from jbert.restore import HeadWarning
from jbert.sharding import EVERYTHING
from jbert.trees import flatten


@pytest.mark.parametrize(("arch", "task"), tiny.PAIRS, ids=lambda x: x or "model")
def test_saved_models_load_with_no_other_argument(arch, task, tmp_path):
    model = disk.bert(arch, task, num_labels=3)
    jbert.save(model, tmp_path / "m")
    loaded = jbert.load(tmp_path / "m")
    disk.assert_same(loaded.params, model.params)
    # What is not a field, such as `architectures`, comes back as extra.
    assert dataclasses.replace(loaded.config, extra={}) == model.config
    assert (loaded.task, type(loaded.module)) == (task, type(model.module))
    assert loaded.source == str(tmp_path / "m") and loaded.tokenizer is None


def test_saved_models_answer_as_before(tmp_path):
    """Once through the forward pass; the other tests compare parameters."""
    model = disk.bert("bert", "sequence_classification")
    jbert.save(model, tmp_path / "m")
    inputs = tiny.batch("bert")
    expected = model(**inputs).logits
    np.testing.assert_array_equal(jbert.load(tmp_path / "m")(**inputs).logits, expected)
    changed = jax.tree.map(lambda x: x * 2, model.params)
    other = dataclasses.replace(model, params=changed)(**inputs).logits
    assert np.abs(other - expected).max() > 0.01


def test_configuration_labels_and_tokenizer_come_back(tmp_path):
    labels = {0: "no", 1: "yes", 2: "läuft"}
    extra = {"my_note": {"a": [1, 2]}, "transformers_version": "4.0"}
    model = disk.bert(
        task="token_classification", tokenizer=disk.tokenizer(tmp_path), id2label=labels,
        problem_type="single_label_classification", extra=extra,
    )  # fmt: skip
    jbert.save(model, tmp_path / "m")
    loaded = jbert.load(tmp_path / "m")
    assert loaded.config.id2label == labels and loaded.config.num_labels == 3
    assert loaded.config.label2id == {"no": 0, "yes": 1, "läuft": 2}
    assert loaded.config.problem_type == "single_label_classification"
    assert {key: loaded.config.extra[key] for key in extra} == extra
    text = "The capital, unwanted"
    for name, ids in loaded.tokenizer(text).items():
        np.testing.assert_array_equal(ids, model.tokenizer(text)[name])
    described = json.loads((tmp_path / "m" / "config.json").read_text())
    assert described["architectures"] == ["BertForTokenClassification"]
    assert described["model_type"] == "bert"


# -- devices --------------------------------------------------------------------------------


PRESETS = ("data", "fsdp", "tensor", "data+fsdp", "data+tensor", "fsdp+tensor", EVERYTHING)
SIZES = {"data": {"data": 2}, "fsdp": {"fsdp": 2}, "tensor": {"tensor": 2}}


def mesh_for(preset: str, count: int):
    """Two ways on each axis of the preset, and what is left of the devices on its last."""
    names = preset.split("+")
    sizes = {"data": 1, **dict.fromkeys(names, 2)}
    sizes[names[-1]] = count // 2 ** (len(names) - 1)
    return jbert.make_mesh(**sizes, devices=disk.devices(count))


@pytest.fixture(scope="module")
def small():
    """Sizes that divide by eight on every axis that a rule shards."""
    return disk.bert("bert", "masked_lm", num_attention_heads=8, intermediate_size=64)


@pytest.mark.parametrize("preset", PRESETS)
def test_any_devices_read_what_any_devices_wrote(preset, small, tmp_path):
    jbert.save(small, tmp_path / "1")
    eight = jbert.load(tmp_path / "1", mesh=mesh_for(preset, 8), rules=preset)
    disk.assert_same(eight.params, small.params)
    spread = disk.assert_spread(eight.params)
    assert (spread == []) == (preset == "data")
    assert all(leaf.sharding.device_set == set(jax.devices()) for leaf in leaves(eight))

    jbert.save(eight, tmp_path / "8")
    one = jbert.load(tmp_path / "8")
    disk.assert_same(one.params, small.params)
    assert all(leaf.sharding.device_set == {jax.devices()[0]} for leaf in leaves(one))
    four = jbert.load(tmp_path / "8", mesh=mesh_for(preset, 4), rules=preset)
    disk.assert_same(four.params, small.params)
    assert all(len(leaf.sharding.device_set) == 4 for leaf in leaves(four))


def leaves(model) -> list[jax.Array]:
    return jax.tree.leaves(model.params)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_every_architecture_spreads_over_eight_devices(arch, tmp_path):
    model = disk.bert(arch, "masked_lm")
    jbert.save(model, tmp_path / "m")
    mesh = mesh_for("fsdp", 8)
    loaded = jbert.load(tmp_path / "m", mesh=mesh, rules="fsdp")
    disk.assert_same(loaded.params, model.params)
    assert "encoder/embeddings/word/embedding" in disk.assert_spread(loaded.params)


@pytest.mark.parametrize("count", [1, 8])
def test_scanned_and_unrolled_models_share_checkpoints(count, small, tmp_path):
    mesh = None if count == 1 else mesh_for("fsdp+tensor", count)
    jbert.save(small, tmp_path / "unrolled")
    scanned = jbert.load(tmp_path / "unrolled", scan_layers=True, mesh=mesh)
    disk.assert_same(scanned.params, jbert.stack_layers(small.params))
    assert bool(disk.assert_spread(scanned.params)) == (count == 8)
    jbert.save(scanned, tmp_path / "scanned")
    disk.assert_same(jbert.load(tmp_path / "scanned").params, small.params)
    again = jbert.load(tmp_path / "scanned", scan_layers=True)
    disk.assert_same(again.params, jbert.stack_layers(small.params))


def test_another_dtype_on_load(small, tmp_path):
    jbert.save(small, tmp_path / "m")
    half = jbert.load(tmp_path / "m", param_dtype="bfloat16")
    expected = jax.tree.map(lambda x: x.astype("bfloat16"), small.params)
    disk.assert_same(half.params, expected)
    jbert.save(half, tmp_path / "half")
    kept = jbert.load(tmp_path / "half", param_dtype="bfloat16")
    disk.assert_same(kept.params, expected)
    wide = jbert.load(tmp_path / "half")
    disk.assert_same(wide.params, jax.tree.map(lambda x: x.astype("float32"), expected))


def test_values_beyond_float16_are_refused_by_name(small, tmp_path):
    params = jax.tree.map(lambda x: x, small.params)
    params["mlm"]["bias"] = params["mlm"]["bias"].at[3].set(1e6)
    jbert.save(dataclasses.replace(small, params=params), tmp_path / "m")
    with pytest.raises(ValueError, match=r"mlm/bias: 1 of its values"):
        jbert.load(tmp_path / "m", param_dtype="float16")
    disk.assert_same(jbert.load(tmp_path / "m").params, params)


# -- other tasks ----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_another_head_is_new_and_named_once(arch, tmp_path):
    model = disk.bert(arch, "masked_lm")
    jbert.save(model, tmp_path / "m")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = jbert.load(tmp_path / "m", "question_answering", seed=3)
    heads = [w for w in caught if w.category is HeadWarning]
    assert len(heads) == len(caught) == 1
    assert heads[0].filename == __file__
    found, stored = flatten(other.params), flatten(model.params)
    new = {path for path in found if not path.startswith("encoder/")}
    assert new == {"qa_outputs/kernel", "qa_outputs/bias"}
    assert all(path in str(heads[0].message) for path in new)
    encoder = {path: leaf for path, leaf in found.items() if path not in new}
    disk.assert_same(encoder, {path: stored[path] for path in encoder})
    # The seed decides, and not the process.
    with pytest.warns(HeadWarning):
        same = jbert.load(tmp_path / "m", "question_answering", seed=3)
    disk.assert_same(same.params, other.params)


def test_the_bare_encoder_and_a_head_on_top_of_it(tmp_path):
    model = disk.bert("bert", "sequence_classification")
    jbert.save(model, tmp_path / "m")
    encoder = jbert.load(tmp_path / "m", "encoder")
    assert encoder.task is None
    disk.assert_same(encoder.params, model.params["encoder"])
    jbert.save(encoder, tmp_path / "e")
    assert jbert.load(tmp_path / "e").task is None
    with pytest.warns(HeadWarning, match="classifier/bias, classifier/kernel"):
        again = jbert.load(tmp_path / "e", "sequence_classification")
    disk.assert_same(again.params["encoder"], model.params["encoder"])


def test_heads_that_two_tasks_share_stay(tmp_path):
    model = disk.bert("bert", "pretraining")
    jbert.save(model, tmp_path / "m")
    language = jbert.load(tmp_path / "m", "masked_lm")
    disk.assert_same(language.params["mlm"], model.params["mlm"])
    # One logit a choice does not fit a classifier of two labels, though both have its name.
    jbert.save(disk.bert("bert", "sequence_classification"), tmp_path / "c")
    with pytest.warns(HeadWarning, match="classifier/kernel"):
        choices = jbert.load(tmp_path / "c", "multiple_choice")
    assert choices.params["classifier"]["kernel"].shape == (32, 1)


def test_other_labels_make_a_new_head_and_the_same_labels_keep_it(tmp_path):
    labels = {0: "a", 1: "b", 2: "c"}
    model = disk.bert("bert", "token_classification", id2label=labels)
    jbert.save(model, tmp_path / "m")
    kept = jbert.load(tmp_path / "m", num_labels=3)
    disk.assert_same(kept.params, model.params)
    assert kept.config.id2label == labels
    renamed = jbert.load(tmp_path / "m", id2label={0: "x", 1: "y", 2: "z"})
    disk.assert_same(renamed.params, model.params)
    assert renamed.config.label2id == {"x": 0, "y": 1, "z": 2}
    with pytest.warns(HeadWarning, match="classifier/bias, classifier/kernel"):
        other = jbert.load(tmp_path / "m", num_labels=5)
    assert other.params["classifier"]["kernel"].shape == (32, 5)
    disk.assert_same(other.params["encoder"], model.params["encoder"])


def test_a_configuration_that_does_not_fit_is_refused(tmp_path):
    jbert.save(disk.bert(), tmp_path / "m")
    for change, words in (
        ({"num_hidden_layers": 1}, r"layer_1/attention/key/bias: expected no such weight"),
        ({"num_hidden_layers": 3}, r"layer_2/attention/key/bias: expected \(4, 8\), found nothing"),
        ({"vocab_size": 98}, r"embeddings/word/embedding: expected \(98, 32\), found \(99, 32\)"),
    ):
        with pytest.raises(ValueError, match=words):
            jbert.load(tmp_path / "m", **change)


# -- directories ----------------------------------------------------------------------------


def test_directories_that_are_not_ours_stay_as_they_are(tmp_path):
    model = disk.bert()
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("x")
    with pytest.raises(FileExistsError, match="no saved jbert model"):
        jbert.save(model, foreign)
    assert [path.name for path in foreign.iterdir()] == ["chapter1.tex"]
    with pytest.raises(NotADirectoryError, match="is a file"):
        jbert.save(model, foreign / "chapter1.tex")
    assert (foreign / "chapter1.tex").read_text() == "x"
    jbert.save(model, foreign, force=True)
    disk.assert_same(jbert.load(foreign).params, model.params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis"]


def test_saving_again_replaces_the_model_also_through_a_link(tmp_path):
    first, second = disk.bert(seed=1), disk.bert("distilbert", "masked_lm", seed=2)
    (tmp_path / "empty").mkdir()
    jbert.save(first, tmp_path / "empty")
    (tmp_path / "link").symlink_to("empty")
    jbert.save(second, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    for name in ("link", "empty"):
        loaded = jbert.load(tmp_path / name)
        disk.assert_same(loaded.params, second.params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


def test_relative_and_home_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    model = disk.bert()
    jbert.save(model, "deep/er/m")
    disk.assert_same(jbert.load("./deep/er/m").params, model.params)
    jbert.save(model, "~/m")
    disk.assert_same(jbert.load("~/m").params, model.params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "home"]


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    jbert.save(disk.bert(), tmp_path / "m")
    (tmp_path / "m" / "jbert.json").write_text('{"format": 2, "all": "new"}')
    with pytest.raises(ValueError, match=r"format 2 is newer .* pip install --upgrade jbert"):
        jbert.load(tmp_path / "m")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "1"}', '{"format": 1, "files": {}}'])
def test_a_damaged_description_is_named(text, tmp_path):
    jbert.save(disk.bert(), tmp_path / "m")
    (tmp_path / "m" / "jbert.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "m" / "jbert.json"))):
        jbert.load(tmp_path / "m")


def test_every_file_is_verified(tmp_path):
    model = disk.bert(tokenizer=disk.tokenizer(tmp_path))
    jbert.save(model, tmp_path / "m")
    listed = set(json.loads((tmp_path / "m" / "jbert.json").read_text())["files"])
    there = {
        path.relative_to(tmp_path / "m").as_posix()
        for path in (tmp_path / "m").rglob("*")
        if path.is_file()
    }
    assert listed == there - {"jbert.json"}
    assert {"config.json", "vocab.txt", "tokenizer.json"} <= listed
    (tmp_path / "m" / "vocab.txt").write_text("[PAD]")
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(DamagedError, match="vocab.txt: its contents have changed") as caught:
        jbert.load(tmp_path / "m")
    assert "tokenizer.json: missing" in str(caught.value)


def test_parameters_are_restored_in_portions():
    part = checkpoint.PORTION // 16
    sizes = {"a": 5, "b": 40 * part, "c": 10 * part, "d": 5 * part, "e": 6 * part}
    portions = checkpoint._portions(sizes)
    assert portions == [["b"], ["c", "e"], ["d", "a"]]
    assert checkpoint._portions({}) == []
    many = checkpoint._portions({str(i): 10 * part for i in range(1000)})
    assert len(many) <= 1.1 * checkpoint.MOST_PORTIONS
    with pytest.raises(TypeError, match="needs a sharding"):
        checkpoint.restore_params(Path("x"), {"a": jax.ShapeDtypeStruct((2,), np.float32)})


def test_options_of_execution_are_not_saved(tmp_path):
    execution = Execution(dtype="bfloat16", remat="full", scan_layers=True)
    jbert.save(disk.bert(execution=execution), tmp_path / "m")
    assert jbert.load(tmp_path / "m").execution == Execution()
    again = jbert.load(tmp_path / "m", dtype="bfloat16", remat="full", scan_layers=True)
    assert again.execution == execution


def test_parameters_may_be_plain_arrays(small, tmp_path):
    plain = jax.tree.map(np.asarray, small.params)
    jbert.save(dataclasses.replace(small, params=plain), tmp_path / "m")
    disk.assert_same(jbert.load(tmp_path / "m").params, small.params)
