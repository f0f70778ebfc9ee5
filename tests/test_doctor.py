"""`jbert doctor`: a line for each thing that it looks at, and what mends what is not well."""

import json
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jax
import pytest
from huggingface_hub import constants

from jbert import backend, doctor, required
from jbert.cli import main
from jbert.doctor import OPT_OUT, Finding

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv(OPT_OUT, raising=False)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def named(found, name: str) -> Finding:
    (one,) = [finding for finding in found if finding.name == name]
    return one


def test_every_line_says_how_it_is_and_the_exit_status_whether_all_is_well(capsys, monkeypatch):
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    states = {line[8:28].strip(): line.split()[0] for line in lines}
    assert set(states.values()) <= {"ok", "absent"} and status == 0
    for name in ("jbert", "python", "jax", "jaxlib", "devices", "hub files", *doctor.PARTS):
        assert name in states
    assert "hub" not in states  # which needs a network
    assert f"{jax.__version__}, needs >=" in next(line for line in lines if " jax  " in line)
    monkeypatch.setattr(required, "PACKAGES", ("jax>=99.1",))
    assert main(["doctor"]) == 1
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("wrong")]
    assert line.endswith(f"{jax.__version__}, needs >=99.1: pip install --upgrade 'jax>=99.1'")


# -- devices --------------------------------------------------------------------------------------


def test_devices_are_counted_and_tried(monkeypatch):
    (found,) = doctor.devices()
    assert found == Finding("ok", "devices", f"{jax.local_device_count()} × cpu (cpu)")

    def refuse():
        raise backend.DeviceError("JAX cannot start")

    monkeypatch.setattr(doctor, "check_devices", refuse)
    assert list(doctor.devices()) == [Finding("wrong", "devices", "JAX cannot start")]


def test_an_accelerator_that_jax_does_not_use(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(doctor, "has_tpu", lambda: False)
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    found = named(doctor.devices(), "GPU")
    assert found.state == "wrong" and found.text.endswith(": pip install 'jbert[gpu]'")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert [finding.name for finding in doctor.devices()] == ["devices"]


def test_a_jax_for_gpus_where_there_is_none(monkeypatch):
    monkeypatch.setattr(doctor, "has_tpu", lambda: False)
    monkeypatch.setattr(doctor, "has_gpu", lambda: False)
    assert list(doctor.unused()) == []
    monkeypatch.setattr(required, "installed", lambda name: "1.0" if "cuda12" in name else None)
    (found,) = doctor.unused()
    assert found.state == "wrong" and found.text.startswith("jax-cuda12-plugin is installed, and")
    assert found.text.endswith("export JAX_PLATFORMS=cpu")


# -- caches ---------------------------------------------------------------------------------------


def test_caches_have_a_place_and_a_size(tmp_path, monkeypatch):
    place = tmp_path / "caches" / "jbert" / "compiled"
    assert f"{place}: 0 files, 0.0 MB" in named(doctor.caches(), "compiled programs").text
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "a").write_bytes(bytes(1_500_000))
    (place / "link").symlink_to(place / "deep" / "a")
    assert f"{place}: 2 files, 1.5 MB" in named(doctor.caches(), "compiled programs").text
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert f"{tmp_path / 'mine'}: 0 files" in named(doctor.caches(), "compiled programs").text
    monkeypatch.setenv(OPT_OUT, "1")
    assert named(doctor.caches(), "compiled programs").text == f"not kept, by {OPT_OUT}"


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    found = doctor.cache("hub files", tmp_path / "file" / "hub", "HF_HOME")
    assert found.state == "wrong"
    assert found.text.endswith(f"{tmp_path / 'file'} cannot be written: export HF_HOME=DIR")
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: False)  # root may write anywhere
    assert doctor.cache("hub files", tmp_path / "hub", "HF_HOME").state == "wrong"


# -- optional parts -------------------------------------------------------------------------------


def test_a_part_that_is_absent_and_one_that_is_broken(tmp_path, monkeypatch):
    assert doctor.part("x", ("json",), "data") == Finding("ok", "x", "works")
    absent = doctor.part("x", ("json", "no_such.module"), "data")
    text = "no_such.module is not installed: pip install 'jbert[data]'"
    assert absent == Finding("absent", "x", text)
    (tmp_path / "broken_part.py").write_text("import warnings\nwarnings.warn('x')\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    broken = doctor.part("x", ("broken_part",), "data")
    assert broken.state == "wrong"
    assert broken.text == (
        "broken_part cannot be imported (ZeroDivisionError: division by zero): "
        "pip install --upgrade --force-reinstall 'jbert[data]'"
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert doctor.part("x", ("tensorboardX",), "tensorboard").state == "absent"


def test_every_extra_that_is_recommended_exists():
    extras = PROJECT["project"]["optional-dependencies"]
    assert {extra for _, extra in doctor.PARTS.values()} | {"gpu", "tpu"} <= extras.keys()


@pytest.fixture
def hub(monkeypatch):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"id": doctor.MODEL, "siblings": []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hub_is_asked_on_demand(hub, monkeypatch):
    (found,) = [finding for finding in doctor.findings(network=True) if finding.name == "hub"]
    assert found == Finding("ok", "hub", f"{constants.ENDPOINT} answers")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    found = doctor.hub()
    assert found.state == "wrong" and "http://127.0.0.1:1 does not answer" in found.text
    assert found.text.endswith("export HF_HUB_OFFLINE=1") and "\n" not in found.text
