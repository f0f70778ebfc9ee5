"""`jbert.load`: where from (paths, the hub), where to (devices), and in how much memory."""

import dataclasses
import gc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import disk
import jax
import numpy as np
import pytest
from hub_server import HubServer, Repo

import jbert
from jbert import restore
from jbert.restore import HeadWarning
from jbert.trees import flatten

# -- where from -----------------------------------------------------------------------------


def test_directories_and_names_that_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (tmp_path / "gone", str(tmp_path / "gone"), "./gone", "~/gone-for-good"):
        with pytest.raises(FileNotFoundError, match="expected a model's directory, found nothing"):
            jbert.load(name)
    with pytest.raises(FileNotFoundError, match="Nearest names: mobilebert-uncased"):
        jbert.load("mobilbert-uncased")


HUB_CHILD = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
import jbert
out = []
for name, options in json.load(sys.stdin):
    bert = jbert.load(name, "masked_lm", **options)
    total = float(sum(abs(leaf).sum() for leaf in jax.tree.leaves(bert.params)))
    out.append([bert.source, total, type(bert.tokenizer).__name__])
print(json.dumps(out))
"""


def test_from_the_hub_by_alias_and_by_id_then_without_a_network(tmp_path):
    model = disk.bert("mobilebert", "masked_lm")
    disk.publish(tmp_path / "m", model)
    disk.vocabulary(tmp_path / "m")
    total = float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(model.params)))
    with HubServer() as server:
        repo = Repo({path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()})
        server.repos["google/mobilebert-uncased"] = server.repos["me/mine"] = repo
        calls = [("mobilebert-uncased", {}), ("me/mine", {"revision": repo.commit})]
        first = load_from(server, tmp_path / "home", calls)
        asked = len(server.log)
        offline = [("mobilebert-uncased", {"local_files_only": True}), calls[1]]
        second = load_from(server, tmp_path / "home", offline, HF_HUB_OFFLINE="1")
        assert len(server.log) == asked > 0
    names = ["google/mobilebert-uncased", "me/mine"]
    for results in (first, second):
        assert [source for source, *_ in results] == [f"{n}@{repo.commit}" for n in names]
        assert [kind for *_, kind in results] == ["Tokenizer", "Tokenizer"]
        np.testing.assert_allclose([found for _, found, _ in results], total, rtol=1e-5)


def load_from(server: HubServer, home: Path, calls: list, **environ: str) -> list:
    """What a fresh process of a user with this home loads."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
    fixed = {"HF_HOME": str(home), "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", HUB_CHILD],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=120,
        env={**kept, **fixed, **environ},
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


# -- where to -------------------------------------------------------------------------------


@pytest.mark.parametrize("scan", [False, True])
def test_no_device_ever_holds_a_full_copy(scan, tmp_path, monkeypatch):
    """Of all arrays alive at any step, none that the rules spread lies whole on a device."""
    # A vocabulary that no other test's arrays have.
    disk.publish(tmp_path, disk.bert("bert", "masked_lm", vocab_size=123))
    seen = set()

    def watched(values, sharding):
        placed = place(values, sharding)
        alive = [array for array in jax.live_arrays() if array.shape == (123, 32)]
        seen.update(shard.data.shape for array in alive for shard in array.addressable_shards)
        return placed

    place = restore._place
    monkeypatch.setattr(restore, "_place", watched)
    gc.collect()
    mesh = jbert.make_mesh(data=1, fsdp=4, tensor=2)
    loaded = jbert.load(tmp_path, "masked_lm", mesh=mesh, scan_layers=scan)
    assert "encoder/embeddings/word/embedding" in disk.assert_spread(loaded.params)
    assert seen == {(123, 8)}


def test_each_device_is_handed_its_own_part_only(monkeypatch):
    mesh = jbert.make_mesh(data=1, fsdp=8)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    handed = []
    make = jax.make_array_from_callback

    def watched(shape, sharding, callback):
        def call(index):
            handed.append(callback(index))
            return handed[-1]

        return make(shape, sharding, call)

    monkeypatch.setattr(jax, "make_array_from_callback", watched)
    restore._place(np.zeros((16, 3), np.float32), sharding)
    assert [part.shape for part in handed] == [(2, 3)] * 8


def test_new_heads_are_spread_too(tmp_path):
    disk.publish(tmp_path, disk.bert("bert"))
    mesh = jbert.make_mesh(data=1, fsdp=8)
    with pytest.warns(HeadWarning):
        loaded = jbert.load(tmp_path, "masked_lm", mesh=mesh)
    with pytest.warns(HeadWarning):
        one = jbert.load(tmp_path, "masked_lm")
    assert "mlm/transform/dense/kernel" in disk.assert_spread(loaded.params)
    for path, leaf in flatten(loaded.params).items():
        np.testing.assert_allclose(leaf, flatten(one.params)[path], rtol=1e-6, err_msg=path)


def test_replacing_the_parameters_keeps_the_model(tmp_path):
    disk.publish(tmp_path, disk.bert("bert"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = jbert.load(tmp_path)
    doubled = dataclasses.replace(model, params=jax.tree.map(lambda x: x * 2, model.params))
    assert doubled.module is model.module and doubled.source == model.source
    disk.assert_same(jax.tree.map(lambda x: x / 2, doubled.params), model.params)


# -- copying --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_copies_are_the_same_in_any_order_of_memory(dtype):
    """In blocks along the file's order, with what is not finite counted on the way."""
    values = np.random.default_rng(0).standard_normal((140, 96)).astype(np.float32)
    values[3, 5], values[137, 90], values[70, 0] = np.nan, -np.inf, 1e30
    ways = [
        values, values.T, values[::3, ::2], values.T[::-1], values.reshape(-1), values[0, 0],
        values[:0], values.T.reshape(96, 10, 14), values.reshape(10, 14, 96).transpose(2, 0, 1),
        values.reshape(10, 14, 96).transpose(1, 2, 0), np.broadcast_to(values[0], (40, 96)),
        np.tile(values, (8, 1)).reshape(-1),
    ]  # fmt: skip
    for way in ways:
        copy, not_finite = restore._cast(way, np.dtype(dtype), "x")
        with np.errstate(over="ignore"):
            expected = way.astype(dtype)
        assert copy.shape == way.shape and copy.dtype == dtype and copy.flags.c_contiguous
        assert copy.tobytes() == expected.tobytes()
        assert not_finite == (~np.isfinite(expected.astype(np.float32))).sum()


# -- memory ---------------------------------------------------------------------------------

MEASURE = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
import jbert

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

jbert.load(sys.argv[1])  # what is imported on the way is not weighed
before = peak()
bert = jbert.load(sys.argv[2])
print((peak() - before) / bert.num_bytes())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_loading_takes_little_more_memory_than_the_file(tmp_path):
    small, size = disk.bert(), {"hidden_size": 512, "intermediate_size": 2048}
    large = disk.bert(vocab_size=20000, num_hidden_layers=6, **size)
    ratios = {}
    disk.publish(tmp_path / "small", small)
    disk.publish(tmp_path / "safetensors", large)
    disk.publish(tmp_path / "bin", large, file="pytorch_model.bin")
    jbert.save(small, tmp_path / "saved_small")
    jbert.save(large, tmp_path / "orbax")
    for kind in ("safetensors", "bin", "orbax"):
        warm = tmp_path / ("saved_small" if kind == "orbax" else "small")
        finished = subprocess.run(
            [sys.executable, "-c", MEASURE, str(warm), str(tmp_path / kind)],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        ratios[kind] = float(finished.stdout.split()[-1])
    assert max(ratios.values()) <= 1.3, ratios
