"""`jbert.save`, `load` and `export` of models that two real processes hold together."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import disk
import pytest
import save_pair

import jbert

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The directory that two processes worked in, and what each saw; see save_pair.py."""
    directory = tmp_path_factory.mktemp("pair")
    jbert.save(save_pair.model(), directory / "one")
    disk.publish(directory / "published", save_pair.model())
    (directory / "foreign").mkdir()
    (directory / "foreign" / "thesis.tex").write_text("x")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    places = [str(TESTS), str(Path(jbert.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "save_pair.py"), address, str(i), str(directory)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return directory, [json.loads(said.splitlines()[-1]) for said, _ in outputs]


def test_both_load_what_one_and_what_two_wrote(pair):
    for seen in pair[1]:
        for what in ("one", "published", "spread", "alone", "again", "scanned"):
            assert seen[what] is True, what


@pytest.mark.parametrize("name", ["two", "scanned", "mine"])
def test_one_loads_what_two_saved(name, pair):
    directory, _ = pair
    expected = save_pair.model().params
    loaded = jbert.load(directory / name)
    assert loaded.task == "masked_lm"
    disk.assert_same(loaded.params, expected)
    spread = jbert.load(directory / name, mesh=jbert.make_mesh(fsdp=8), rules="fsdp")
    disk.assert_same(spread.params, expected)
    writers = len(list((directory / name / "params").glob("ocdbt.process_*")))
    assert writers == (1 if name == "mine" else 2)


def test_one_exports_what_two_hold(pair):
    directory, _ = pair
    assert (directory / "exported" / "model.safetensors").is_file()
    loaded = jbert.load(directory / "exported", "masked_lm")
    disk.assert_same(loaded.params, save_pair.model().params)


def test_an_error_of_one_is_an_error_of_both_and_leaves_all_as_it_was(pair):
    directory, (first, second) = pair
    for what, said in {
        "foreign": "FileExistsError: .*/foreign holds files that are no saved jbert model",
        "exists": "FileExistsError: .*/foreign is not empty",
        "full": r"OSError: \[Errno 28\] No space left",
    }.items():
        assert re.match(said, first[what]), first[what]
        assert second[what].startswith("OSError: process 0: "), second[what]
    assert "could not be written: File too large" in second["shards"]
    assert "could not be written" in first["shards"]
    assert max(first["waited"], second["waited"]) < 30
    assert second["damaged"].startswith("DamagedError: ") and "config.json" in second["damaged"]
    assert first["damaged"].startswith("DamagedError: process 1: ")
    names = {"one", "two", "scanned", "mine", "published", "foreign", "exported"}
    assert {path.name for path in directory.iterdir()} == names
    assert [path.name for path in (directory / "foreign").iterdir()] == ["thesis.tex"]
