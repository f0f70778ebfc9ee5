"""The parameters alone out of a training's checkpoints: by step, or by the directory of a run."""

import dataclasses
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import disk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jbert
from jbert import checkpoint
from jbert.cli import main
from jbert.execution import Execution
from jbert.loaded import Bert
from jbert.manifest import DamagedError
from jbert.restore import HeadWarning
from jbert.training.checkpoints import Checkpoints
from jbert.training.state import to_flat
from jbert.training.step import State
from jbert.training.step_files import open_step
from jbert.trees import flatten


def state_of(model: Bert, average: dict[str, jax.Array] | None = None) -> dict[str, jax.Array]:
    """What a run saves of a model: moments beside its parameters, all with layers one by one."""
    params = flatten(model.params)
    moments = {name: {path: leaf + 7 for path, leaf in params.items()} for name in ("mu", "nu")}
    return to_flat(State(jnp.int32(3), params, moments, average))


def info_of(model: Bert, best: float | None = None) -> dict[str, Any]:
    described = {"config": model.config.to_dict(), "task": model.task}
    return {"model": described, "progress": {"best": best}}


def model(task: str | None = "masked_lm", **changes: Any) -> Bert:
    """Sizes that divide by eight on every axis that a rule shards."""
    return disk.bert("bert", task, num_attention_heads=8, intermediate_size=64, **changes)


def write(run: Path, saved: dict[int, tuple[Bert, float | None, float | None]]) -> Path:
    """A run's checkpoints: by step the model, its metric, and the best metric until then."""
    with Checkpoints(run / "checkpoints", keep=9) as checkpoints:
        for step, (bert, metric, best) in saved.items():
            checkpoints.save(step, state_of(bert), info_of(bert, best), metric)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Step 20 was the best, in a run whose metric is better when it is less."""
    directory = tmp_path_factory.mktemp("runs") / "x"
    models = {step: model(seed=step) for step in (10, 20, 30)}
    metrics = {10: (0.5, 0.5), 20: (0.1, 0.1), 30: (0.4, 0.1)}
    write(directory, {step: (models[step], *metrics[step]) for step in models})
    return directory, models


# -- a step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_a_step_is_a_model_of_its_task(arch, tmp_path):
    trained = disk.bert(arch, "token_classification", id2label={0: "a", 1: "b", 2: "c"})
    step = write(tmp_path, {7: (trained, None, None)}) / "checkpoints" / "7"
    loaded = jbert.load(step)
    disk.assert_same(loaded.params, trained.params)
    assert loaded.config == trained.config
    assert (loaded.task, type(loaded.module)) == (trained.task, type(trained.module))
    assert (loaded.source, loaded.tokenizer) == (str(step), None)


def test_only_the_parameters_are_read(run, monkeypatch):
    directory, models = run
    asked = []
    restore = checkpoint.restore_params

    def recorded(path, target):
        asked.extend(flatten(target))
        return restore(path, target)

    monkeypatch.setattr("jbert.stored.restore_params", recorded)
    jbert.load(directory / "checkpoints" / "10")
    assert sorted(asked) == sorted(f"params/{path}" for path in flatten(models[10].params))


@pytest.mark.parametrize("scanned", [False, True])
def test_averages_win_where_there_are_any(scanned, tmp_path):
    """They are kept of what is trained; the embeddings here are frozen."""
    execution = Execution(scan_layers=scanned)
    trained = model(execution=execution)
    params = flatten(trained.params)
    average = {path: x * 3 for path, x in params.items() if "/embeddings/" not in path}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state_of(trained, average), info_of(trained))
    names = open_step(tmp_path / "checkpoints" / "1").leaves
    assert "average/encoder/layer_1/attention/query/kernel" in names
    loaded = jbert.load(tmp_path / "checkpoints" / "1", scan_layers=scanned)
    disk.assert_same(loaded.params, params | average)


def test_scanned_and_unrolled_readers_of_a_scanned_run(tmp_path):
    trained = model(execution=Execution(scan_layers=True))
    step = write(tmp_path, {1: (trained, None, None)}) / "checkpoints" / "1"
    disk.assert_same(jbert.load(step, scan_layers=True).params, trained.params)
    disk.assert_same(jbert.load(step).params, jbert.unstack_layers(trained.params))


def test_any_devices_read_a_step_that_any_devices_wrote(run, tmp_path):
    directory, models = run
    step = directory / "checkpoints" / "10"
    eight = jbert.load(step, mesh=jbert.make_mesh(fsdp=4, tensor=2))
    disk.assert_same(eight.params, models[10].params)
    assert disk.assert_spread(eight.params)
    again = write(tmp_path, {1: (eight, None, None)}) / "checkpoints" / "1"
    for mesh in (None, jbert.make_mesh(fsdp=4, devices=disk.devices(4))):
        loaded = jbert.load(again, mesh=mesh, rules="fsdp")
        disk.assert_same(loaded.params, models[10].params)
        assert bool(disk.assert_spread(loaded.params)) == (mesh is not None)


def test_another_dtype(run, tmp_path):
    directory, models = run
    half = jbert.load(directory / "checkpoints" / "20", param_dtype="bfloat16")
    expected = jax.tree.map(lambda x: x.astype("bfloat16"), models[20].params)
    disk.assert_same(half.params, expected)
    large = jax.tree.map(lambda x: x * 1e6, models[20].params)
    beyond = dataclasses.replace(models[20], params=large)
    step = write(tmp_path, {1: (beyond, None, None)}) / "checkpoints" / "1"
    with pytest.raises(ValueError, match=r"mlm/bias: \d+ of its values"):
        jbert.load(step, param_dtype="float16")


def test_another_task(run):
    directory, models = run
    step = directory / "checkpoints" / "30"
    with pytest.warns(HeadWarning, match="no weights for pooler/dense/bias, pooler/dense/kernel:"):
        encoder = jbert.load(step, "encoder")
    assert encoder.task is None
    del encoder.params["pooler"]
    disk.assert_same(encoder.params, models[30].params["encoder"])
    with pytest.warns(HeadWarning, match="classifier/bias, classifier/kernel") as caught:
        other = jbert.load(step, "token_classification", num_labels=5)
    assert [w.filename for w in caught] == [__file__]
    assert other.params["classifier"]["kernel"].shape == (32, 5)
    disk.assert_same(other.params["encoder"], models[30].params["encoder"])
    with pytest.raises(ValueError, match="layer_1/attention/key/bias: expected no such weight"):
        jbert.load(step, num_hidden_layers=1)


# -- a run ----------------------------------------------------------------------------------


def test_a_run_is_its_best_step_and_once_finished_its_model(run, tmp_path):
    directory, models = run
    for name in (directory, directory / "checkpoints", f"{directory}/"):
        loaded = jbert.load(name)
        disk.assert_same(loaded.params, models[20].params)
        assert loaded.source == str(directory / "checkpoints" / "20")
    finished = tmp_path / "x"
    shutil.copytree(directory, finished)
    jbert.save(models[10], finished / "model")
    assert jbert.load(finished).source == str(finished / "model")
    disk.assert_same(jbert.load(finished).params, models[10].params)
    assert jbert.load(finished / "checkpoints").source == str(finished / "checkpoints" / "20")


@pytest.mark.parametrize("best", [None, 0.3, float("nan")])
def test_without_a_best_step_the_newest(best, tmp_path):
    """Nothing was evaluated, the best was not kept, or every metric was NaN."""
    models = {step: model(seed=step) for step in (9, 10)}
    metric = best if best != 0.3 else 0.2
    directory = write(tmp_path / "x", {step: (models[step], metric, best) for step in models})
    assert jbert.load(directory).source == str(directory / "checkpoints" / "10")


def test_of_equal_steps_the_first_is_the_best(tmp_path):
    models = {step: model(seed=step) for step in (9, 10)}
    directory = write(tmp_path / "x", {step: (models[step], 0.25, 0.25) for step in models})
    assert jbert.load(directory).source == str(directory / "checkpoints" / "9")


def test_weights_win_over_checkpoints_beside_them(run, tmp_path):
    directory, models = run
    published = disk.publish(tmp_path / "m", models[10])
    shutil.copytree(directory / "checkpoints", published / "checkpoints")
    assert jbert.load(published, "masked_lm").source == str(published)


def test_the_runs_tokenizer_comes_along(run, tmp_path, caplog):
    directory, models = run
    copied = tmp_path / "x"
    shutil.copytree(directory, copied)
    with caplog.at_level(logging.INFO, "jbert"):
        assert jbert.load(copied / "checkpoints" / "10").tokenizer is None
    assert "bert.tokenizer is None" in caplog.text
    tokenizer = disk.tokenizer(tmp_path)
    jbert.save(dataclasses.replace(models[10], tokenizer=tokenizer), copied / "model")
    assert len(jbert.load(copied / "checkpoints" / "10").tokenizer) == len(tokenizer)
    (copied / "tokenizer").mkdir()
    (copied / "tokenizer" / "vocab.txt").write_text("\n".join(disk.VOCABULARY[:-1]))
    assert len(jbert.load(copied / "checkpoints" / "10").tokenizer) == len(tokenizer) - 1


def test_a_run_without_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="expected a checkpoint of a run, found none"):
        jbert.load(tmp_path)


# -- damage, and other writers --------------------------------------------------------------


def largest(directory: Path) -> Path:
    return max(directory.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())


def tree(directory: Path) -> dict[str, tuple[int, int]]:
    stats = {path: path.stat() for path in sorted(directory.rglob("*"))}
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


def test_damage_is_named_and_left_alone(run, tmp_path, caplog):
    directory, models = run
    copied = tmp_path / "x"
    shutil.copytree(directory, copied)
    flipped = largest(copied / "checkpoints" / "20" / "state")
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    before = tree(copied)
    with pytest.raises(DamagedError, match=re.escape(flipped.name)):
        jbert.load(copied / "checkpoints" / "20")
    # Of a run the next best that is whole, and a word about it.
    loaded = jbert.load(copied)
    assert loaded.source == str(copied / "checkpoints" / "30")
    disk.assert_same(loaded.params, models[30].params)
    assert "its contents have changed" in caplog.text and "30 is used instead" in caplog.text
    assert tree(copied) == before
    for step in ("10", "30"):
        (copied / "checkpoints" / step / "step.json").unlink()
    with pytest.raises(DamagedError, match=r"(?s)none of its checkpoints is whole:.*30.*10.*20"):
        jbert.load(copied)
    with pytest.raises(DamagedError, match="expected step.json"):
        jbert.load(copied / "checkpoints" / "10")


def test_steps_that_are_no_models(tmp_path):
    trained = model()
    state = state_of(trained)
    del state["params/mlm/bias"]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)}, {})
        checkpoints.save(2, state, info_of(trained))
    with pytest.raises(ValueError, match="1: expected the checkpoint of a model's training"):
        jbert.load(tmp_path / "1")
    with pytest.raises(ValueError, match=r"found none of these:\n  mlm/bias"):
        jbert.load(tmp_path / "2")


def test_reading_beside_a_running_writer_takes_no_lock_and_writes_nothing(run, tmp_path):
    directory, models = run
    copied = tmp_path / "x"
    shutil.copytree(directory, copied)
    with Checkpoints(copied / "checkpoints", keep=9) as writer:
        (copied / "checkpoints" / ".writing.40.0").mkdir()
        before = tree(copied)
        assert jbert.load(copied).source == str(copied / "checkpoints" / "20")
        assert tree(copied) == before
        writer.save(40, state_of(models[10]), info_of(models[10], 0.1), 0.3)


def test_a_directory_that_may_only_be_read(run, tmp_path):
    directory, models = run
    shutil.copytree(directory, tmp_path / "x")
    places = [tmp_path / "x", *(p for p in (tmp_path / "x").rglob("*") if p.is_dir())]
    # pytest's directories, which are their owner's alone.
    for place in (tmp_path, *tmp_path.parents):
        if "pytest" in place.as_posix():
            place.chmod(0o755)
    for place in places:
        place.chmod(0o555)
    try:
        if os.getuid() == 0:
            os.seteuid(65534)
        assert not os.access(tmp_path / "x", os.W_OK, effective_ids=True)
        loaded = jbert.load(tmp_path / "x")
        disk.assert_same(loaded.params, models[20].params)
    finally:
        os.seteuid(os.getuid())
        for place in places:
            place.chmod(0o755)


def test_a_step_that_is_deleted_meanwhile(run, tmp_path, monkeypatch):
    directory, _ = run
    shutil.copytree(directory / "checkpoints" / "10", tmp_path / "10")

    def deleting(path, target):
        shutil.rmtree(tmp_path / "10")
        return checkpoint.restore_params(path, target)

    monkeypatch.setattr("jbert.stored.restore_params", deleting)
    with pytest.raises(FileNotFoundError, match="10 was deleted while it was read.*load again"):
        jbert.load(tmp_path / "10")


# -- the command line -----------------------------------------------------------------------


@pytest.mark.parametrize("to", ["orbax", "safetensors"])
def test_convert_takes_steps_and_runs(to, run, tmp_path):
    directory, models = run
    for name, step in ((directory, 20), (directory / "checkpoints" / "10", 10)):
        out = tmp_path / f"{to}-{step}"
        assert main(["convert", str(name), str(out), "--to", to]) == 0
        loaded = jbert.load(out, None if to == "orbax" else "masked_lm")
        assert loaded.task == "masked_lm"
        disk.assert_same(loaded.params, models[step].params)
        assert json.loads((out / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]


def test_info_says_which_step(run, capsys):
    directory, models = run
    assert main(["info", str(directory), "--task", "token_classification"]) == 0
    said = capsys.readouterr().out
    assert f"source        {directory}/checkpoints/20\n" in said
    assert "stored as     task masked_lm, step 20 of a training\n" in said
    assert "would be new  classifier/kernel" in said and "would be new  encoder" not in said
    assert main(["info", str(directory / "checkpoints" / "10")]) == 0
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(models[10].params))
    assert f"parameters    {count:,}" in capsys.readouterr().out
