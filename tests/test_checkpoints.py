"""The checkpoints of a run: bits, devices, retention, refusals and failures."""

import json
import math
import os
import socket
import sys
import threading

import disk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import assert_step, placed, state, target, whole

import jbert
from jbert.lock import LockedError
from jbert.manifest import DamagedError, seal
from jbert.training import checkpoints as module
from jbert.training.checkpoints import Checkpoints
from jbert.training.step_files import open_step

# -- bits and devices -----------------------------------------------------------------------


def test_what_was_saved_comes_back(tmp_path):
    info = {"epoch": 1.5, "seen": [1, 2], "nested": {"loss": math.inf}, "läuft": None}
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() is None
        assert checkpoints.steps() == [] and checkpoints.best() is None
        checkpoints.save(7, state(7), info, metric=0.25)
        checkpoints.wait()
        found = checkpoints.latest()
        assert found is not None
        assert (found.step, found.metric, found.info) == (7, 0.25, info)
        assert checkpoints.info(7) == info
        disk.assert_same(found.restore(target(state(7))), state(7))
        disk.assert_same(checkpoints.restore(7, target(state(7))), state(7))
    # Without a lock, or any right to write.
    files = open_step(tmp_path / "c" / "7")
    files.verify()
    assert {name: leaf.shape for name, leaf in files.leaves.items()} == {
        name: leaf.shape for name, leaf in state(7).items()
    }
    disk.assert_same(files.restore(target(state(7))), state(7))
    with pytest.raises(FileNotFoundError, match="8: expected the directory of a checkpoint"):
        open_step(tmp_path / "c" / "8")


def test_any_number_of_devices_reads_what_any_number_wrote(tmp_path):
    step, held = 0, placed(state(3), 8)
    for count in (1, 2, 8):
        with Checkpoints(tmp_path / "c") as checkpoints:
            step += 1
            checkpoints.save(step, held, {})
            checkpoints.wait()
            held = checkpoints.restore(step, target(held, count))
        disk.assert_same(held, state(3))
        assert all(len(leaf.sharding.device_set) == count for leaf in held.values())
        split = held["params/encoder/kernel"].addressable_shards
        assert [shard.data.shape for shard in split] == [(64 // count,)] * count


@pytest.mark.parametrize(("count", "on_devices"), [(1, placed), (8, placed), (8, whole)])
def test_arrays_may_be_donated_or_deleted_while_they_are_written(
    count, on_devices, tmp_path, monkeypatch
):
    go_on = threading.Event()
    begin = module.begin_saving

    def slow(path, params):
        finish = begin(path, params)
        return lambda: (go_on.wait(30), finish())

    monkeypatch.setattr(module, "begin_saving", slow)
    overwrite = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf * 0 - 1, x), donate_argnums=0)
    large = on_devices(state(5, 1 << 19), count)
    overwrite(on_devices(state(1, 1 << 19), count))  # compiled
    jax.block_until_ready(large)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(5, large, {})
        over = overwrite(large)
        for _ in range(3):
            over = jax.block_until_ready(overwrite(over))
        for leaf in large.values():
            if not leaf.is_deleted():
                leaf.delete()
        del large
        go_on.set()
        checkpoints.wait()
        expected = state(5, 1 << 19)
        disk.assert_same(checkpoints.restore(5, target(expected)), expected)


def test_replicated_arrays_are_written_whole_each_from_one_device(tmp_path, monkeypatch):
    def cut(*_, **__):
        raise AssertionError("an array was cut into a piece for every device")

    monkeypatch.setattr(jax.lax, "slice_in_dim", cut)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, whole(state(1), 8), {})
        checkpoints.wait()
        disk.assert_same(checkpoints.restore(1, target(state(1))), state(1))


def test_a_model_can_be_saved_while_a_checkpoint_is(tmp_path):
    model = disk.bert("distilbert")
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1, 1 << 18), {})
        jbert.save(model, tmp_path / "m")
        checkpoints.save(2, state(2), {})
    disk.assert_same(jbert.load(tmp_path / "m").params, model.params)
    assert_step(tmp_path / "c", 2, state(2))


# -- what is kept ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "metrics", "kept", "best"),
    [
        ({"keep": 1, "keep_best": False}, [3, 2, 1], [3], 3),
        ({"keep": 2, "keep_best": False}, [3, None, None, None], [3, 4], None),
        ({}, [1, 2, 2, 0, 1], [2, 4, 5], 2),
        ({}, [1, math.nan, None, 0, math.nan], [1, 4, 5], 1),
        ({}, [math.nan, None, math.nan], [2, 3], None),
        ({"greater_is_better": False}, [2, 1, 1, 5, math.nan], [2, 4, 5], 2),
        ({"keep": 9}, [0, 1], [1, 2], 2),
    ],
    ids=str,
)
def test_the_newest_and_the_best_are_kept(options, metrics, kept, best, tmp_path):
    with Checkpoints(tmp_path / "c", **options) as checkpoints:
        for step, metric in enumerate(metrics, start=1):
            checkpoints.save(step, {"x": jnp.full(3, step)}, {}, metric=metric)
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best()) == (kept, best)
        assert [path.name for path in tmp_path.glob("c/.*")] == [".lock"]
    # The best is remembered on disk.
    with Checkpoints(tmp_path / "c", **options) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best()) == (kept, best)


def test_a_step_is_saved_once_and_in_order(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(5, state(5), {})
        for step in (5, 4):
            with pytest.raises(ValueError, match=f"holds step 5, and step {step} is to be saved"):
                checkpoints.save(step, state(0), {})
        checkpoints.save(6, state(6), {})
    for step in (5, 6):
        assert_step(tmp_path / "c", step, state(step))
    with pytest.raises(ValueError, match="closed"):
        checkpoints.save(7, state(7), {})
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path / "c", keep=0)


def test_what_is_known_of_a_step_can_be_amended(tmp_path):
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {"seen": step}, metric=-step)
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best()) == ([1, 3], 1)
        checkpoints.latest()
        before = open_step(tmp_path / "c" / "3")
        checkpoints.amend(3, {"seen": 4}, metric=0)
        assert (checkpoints.steps(), checkpoints.best()) == ([3], 3)
        found = checkpoints.latest()
        assert found is not None and (found.info, found.metric) == ({"seen": 4}, 0)
        assert (found.files, found.leaves) == (before.files, before.leaves)
        disk.assert_same(checkpoints.restore(3, target(state(3))), state(3))
        # Damage done before is still damage.
        (tmp_path / "c" / "3" / "state" / "_METADATA").write_text("")
        checkpoints.amend(3, {})
        with pytest.raises(DamagedError, match="_METADATA"):
            checkpoints.restore(3, target(state(3)))
        with pytest.raises(FileNotFoundError, match="4: expected the directory"):
            checkpoints.amend(4, {})
    assert {path.name for path in (tmp_path / "c" / "3").iterdir()} == {"state", "step.json"}


def test_entries_that_are_no_steps_are_left_alone(tmp_path):
    place = tmp_path / "c"
    for name in ("notes", "07", "8.bak", "-1", "٣"):
        (place / name).mkdir(parents=True)
    (place / "9").write_text("a file")
    (place / "README").write_text("x")
    before = {path.name for path in place.iterdir()}
    with Checkpoints(place, keep=1) as checkpoints:
        assert checkpoints.steps() == [] and checkpoints.latest() is None
        checkpoints.save(1, state(1), {})
        checkpoints.save(2, state(2), {})
    assert {path.name for path in place.iterdir()} == before | {"2", ".lock"}


def test_a_deleted_step_is_forgotten(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), {}, metric=9)
        checkpoints.save(2, state(2), {}, metric=1)
        checkpoints.wait()
        module.remove(tmp_path / "c" / "1")
        assert (checkpoints.steps(), checkpoints.best()) == ([2], 2)


# -- what is refused ------------------------------------------------------------------------


def test_another_target_is_refused_with_every_difference(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), {})
        checkpoints.wait()
        other = target(state(1))
        sharding = other["opt_state/0/count"].sharding
        del other["params/encoder/bias"]
        for name, shape, dtype in (
            ("params/encoder/kernel", (8, 8), jnp.float32),
            ("opt_state/0/count", (), jnp.float32),
            ("params/head/kernel", (2,), jnp.float32),
        ):
            other[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        with pytest.raises(ValueError) as caught:
            checkpoints.restore(1, other)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0].startswith(str(tmp_path / "c" / "1"))
    assert lines[1:-1] == [
        "opt_state/0/count: expected float32 (), found int32 ()",
        "params/encoder/bias: expected nothing, found bfloat16 (8,)",
        "params/encoder/kernel: expected float32 (8, 8), found float32 (64,)",
        "params/head/kernel: expected float32 (2,), found nothing",
    ]


def test_the_parameters_alone_can_be_read(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), {})
    files = open_step(tmp_path / "c" / "1")
    params = {name: leaf for name, leaf in state(1).items() if name.startswith("params/")}
    with pytest.raises(ValueError, match="opt_state/0/count: expected nothing, found int32"):
        files.restore(target(params))
    disk.assert_same(files.restore(target(params), partial=True), params)
    wrong = {name: leaf.astype(jnp.float16) for name, leaf in params.items()}
    with pytest.raises(ValueError, match="expected float16 .8,., found bfloat16"):
        files.restore(target(wrong), partial=True)


def test_what_is_no_state_is_refused_and_the_next_save_works(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for leaf in (np.ones(3), 1.0, jax.random.key(0)):
            with pytest.raises(TypeError, match="rng: expected an array of jax"):
                checkpoints.save(1, {"rng": leaf}, {})
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(1, state(1), {"x": object()})
        info = {"seen": [1]}
        checkpoints.save(1, state(1), info)
        info["seen"].append(2)
        checkpoints.wait()
        assert checkpoints.info(1) == {"seen": [1]}


def test_relative_and_home_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for place in ("deep/er/c", "~/c"):
        with Checkpoints(place) as checkpoints:
            checkpoints.save(1, state(1), {})
        disk.assert_same(open_step(f"{place}/1").restore(target(state(1))), state(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "home"]


def test_a_newer_format_asks_for_an_upgrade_and_stays(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), {})
        checkpoints.wait()
        path = tmp_path / "c" / "1" / "step.json"
        description = json.loads(path.read_text()) | {"format": 2}
        path.write_text(json.dumps(description | {"checksum": seal(description)}))
        with pytest.raises(ValueError, match="format 2 is newer .* pip install --upgrade jbert"):
            checkpoints.latest()
        assert checkpoints.steps() == [1]


# -- one writer -----------------------------------------------------------------------------


def test_a_second_writer_is_kept_out_and_told_by_whom(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), {})
        with pytest.raises(LockedError) as caught:
            Checkpoints(tmp_path / "c")
        assert f"process {os.getpid()} on {socket.gethostname()} since 2" in str(caught.value)
        checkpoints.wait()  # as if nothing had been
        assert_step(tmp_path / "c", 1, state(1))  # and readers need no lock
    with Checkpoints(tmp_path / "c"):
        pass


def test_an_owner_that_wrote_no_name_keeps_its_lock(tmp_path):
    with Checkpoints(tmp_path / "c"):
        (tmp_path / "c" / ".lock").write_text("{")
        with pytest.raises(LockedError, match="written by another process"):
            Checkpoints(tmp_path / "c")


# -- failures ------------------------------------------------------------------------------


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A save that fails in the background, with the disk full for what comes after Orbax."""
    full = [True]
    describe = module.describe

    def describe_or_fail(*arguments):
        if full[0]:
            raise OSError(28, "No space left on device")
        describe(*arguments)

    monkeypatch.setattr(module, "describe", describe_or_fail)
    return full


def test_an_error_in_the_background_is_raised_once_and_saving_goes_on(failing, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for next_call in (checkpoints.wait, checkpoints.latest, checkpoints.close):
            checkpoints.save(1, state(1), {})
            with pytest.raises(OSError, match="step 1 could not be written .*No space") as caught:
                next_call()
            assert caught.value.errno == 28 and str(tmp_path / "c") in str(caught.value)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), {})
        with pytest.raises(OSError, match="step 1 could not be written"):
            checkpoints.save(2, state(2), {})
        assert checkpoints.steps() == []
        assert [path.name for path in (tmp_path / "c").iterdir()] == [".lock"]
        failing[0] = False
        # As a thread of the failed save would that was not yet at its end.
        (tmp_path / "c" / ".writing.1.0").mkdir()
        checkpoints.save(1, state(1), {})
    assert_step(tmp_path / "c", 1, state(1))
    assert {path.name for path in (tmp_path / "c").iterdir()} == {".lock", "1"}


def test_an_exception_on_its_way_is_not_hidden_by_a_failed_save(failing, tmp_path):
    with pytest.raises(KeyError) as caught, Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(1), {})
        raise KeyError("the reason")
    (note,) = caught.value.__notes__
    assert "step 1 could not be written" in note
    # A process that ends as if all were well must not.
    with pytest.raises(OSError, match="step 2 could not"), Checkpoints(tmp_path / "c") as again:
        again.save(2, state(2), {})
        sys.exit(0)
