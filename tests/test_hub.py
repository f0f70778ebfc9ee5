"""`jbert.hub` against a hub on loopback. Settings are read at import: each client is a process."""

import json
import os
import time
from pathlib import Path

import pytest
from hub_server import Client, HubServer, Repo, failed, files, hash_of

from jbert import hub

CONFIG = b'{"model_type": "bert"}'
WEIGHTS = bytes(range(256)) * 40  # long enough for the CDN
SMALL = {"config.json": CONFIG, "vocab.txt": b"[PAD]\n[UNK]\n", "tokenizer_config.json": b"{}"}
SHARDS = ("{}-00001-of-00002.{}", "{}-00002-of-00002.{}")


def index(stem: str, suffix: str) -> dict[str, bytes]:
    names = [shard.format(stem, suffix) for shard in SHARDS]
    listed = json.dumps({"weight_map": dict(zip("abc", [*names, names[0]], strict=True))})
    shards = {name: WEIGHTS + name.encode() for name in names}
    return {f"{stem}.{suffix}.index.json": listed.encode(), **shards}


@pytest.fixture(scope="module")
def server():
    with HubServer() as running:
        yield running


@pytest.fixture
def client(server, tmp_path):
    server.log.clear()
    server.repos.clear()
    return Client(server, tmp_path)


def test_fetches_what_is_needed_once_and_asks_little(server, client):
    sentence = {"modules.json": b"[]", "1_Pooling/config.json": b"{}"}
    other = {"README.md": b"x", "tf_model.h5": WEIGHTS, "onnx/model.onnx": WEIGHTS}
    both = {"model.safetensors": WEIGHTS, "pytorch_model.bin": WEIGHTS}
    repo = server.repos["o/bert"] = Repo({**SMALL, **sentence, **other, **both})
    cold, warm = client.run({"repo_id": "o/bert"}, {"repo_id": "o/bert"})
    assert files(cold) == files(warm) == {*SMALL, *sentence, "model.safetensors"}
    assert Path(cold["path"]).name == repo.commit
    assert Path(cold["path"], "model.safetensors").read_bytes() == WEIGHTS
    assert len(server.asked("o/bert", "GET", "model.safetensors")) == 1
    assert {e["name"] for e in server.asked("o/bert")} & {"pytorch_model.bin", *other} == set()
    assert all(e["agent"].startswith("jbert/") for e in server.asked("o/bert"))
    assert [e for e in server.log if e["repo"] is None] == []  # no listing, no model info

    server.log.clear()
    first, pinned = client.run(
        {"repo_id": "o/bert"}, {"repo_id": "o/bert", "revision": repo.commit}
    )
    assert first["path"] == pinned["path"] == cold["path"]
    # What is absent is remembered too: one question on a branch, none on a commit.
    assert [(e["method"], e["name"]) for e in server.log] == [("HEAD", "config.json")]
    assert pinned["network"] == []


def test_prefers_safetensors_then_bin_then_flax_then_tf1(server, client):
    kinds = [
        {"model.safetensors": WEIGHTS},
        index("model", "safetensors"),
        {"pytorch_model.bin": WEIGHTS},
        index("pytorch_model", "bin"),
        {"flax_model.msgpack": WEIGHTS},
        index("flax_model", "msgpack"),
        {"bert_model.ckpt.index": b"x", "bert_model.ckpt.data-00000-of-00001": WEIGHTS},
    ]
    calls = []
    for rank in range(len(kinds)):
        rest = {name: data for worse in kinds[rank:] for name, data in worse.items()}
        server.repos[f"o/from{rank}"] = Repo({**SMALL, **rest})
        calls.append({"repo_id": f"o/from{rank}"})
    for result, kind in zip(client.run(*calls), kinds, strict=True):
        assert files(result) == {*SMALL, *kind}


def test_fetches_less_when_less_is_wanted(server, client):
    server.repos["o/bert"] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    server.repos["o/only-vocab"] = Repo({"vocab.txt": b"a\n"})
    server.repos["o/tf1"] = Repo({"bert_config.json": CONFIG, "pytorch_model.bin": WEIGHTS})
    config, tokenizer, vocab, nothing, tf1 = client.run(
        {"repo_id": "o/bert", "want": "config"},
        {"repo_id": "o/bert", "want": "tokenizer"},
        {"repo_id": "o/only-vocab", "want": "tokenizer"},
        {"repo_id": "o/tf1", "want": "tokenizer"},
        {"repo_id": "o/tf1"},
    )
    assert files(config) >= {"config.json"} and files(tokenizer) == {*SMALL}
    assert files(vocab) == {"vocab.txt"}
    failed(nothing, "HubError", "o/tf1", "vocab.txt")
    assert files(tf1) == {"bert_config.json", "pytorch_model.bin"}
    assert server.asked("o/bert", "GET", "model.safetensors") == []


def test_offline_uses_the_cache_and_touches_no_network(server, client):
    server.repos["o/bert"] = Repo({**SMALL, "model.safetensors": WEIGHTS}, ["main", "v1"])
    server.repos["o/part"] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    bert, part = {"repo_id": "o/bert"}, {"repo_id": "o/part"}
    online, _ = client.run(bert, {**part, "want": "config"})
    server.log.clear()
    results = client.run(
        {**bert, "local_files_only": True},
        {**bert, "local_files_only": True, "revision": "v1"},
        {**part, "local_files_only": True},
        {"repo_id": "o/never", "local_files_only": True},
        {**bert, "environ": {"HF_HUB_OFFLINE": "1"}},  # after huggingface_hub was imported
    )
    results += client.run(bert, part, HF_HUB_OFFLINE="1")
    for result in (results[0], results[4], results[5]):
        assert result["path"] == online["path"] and result["warnings"] == []
    failed(results[1], "HubError", "'v1'", str(client.cache), "local_files_only")
    failed(results[2], "HubError", "no weights", "model.safetensors", "network")
    failed(results[3], "HubError", "o/never", str(client.cache), "local_files_only")
    failed(results[6], "HubError", "no weights", "HF_HUB_OFFLINE")
    assert all(result["network"] == [] for result in results) and not server.log


def test_no_network_answers_in_seconds_and_uses_a_complete_cache(server, client):  # H1
    server.repos["o/bert"] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    online, _ = client.run({"repo_id": "o/bert"}, {"repo_id": "o/bert", "want": "config"})
    cached, absent = client.run(
        {"repo_id": "o/bert"},
        {"repo_id": "o/never"},
        settings={"PAUSE": hub.PAUSE},
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    assert cached["path"] == online["path"]
    assert (
        "could not be reached" in cached["warnings"][0] and "cached copy" in cached["warnings"][0]
    )
    failed(absent, "HubUnavailable", "could not be reached", "HF_HUB_OFFLINE", str(client.cache))
    assert absent["seconds"] < 5 and cached["seconds"] < 5


def test_a_hanging_or_foreign_server_is_bounded(server, client):  # H2
    server.repos["o/hang"] = Repo(SMALL, faults={("HEAD", "*"): ["hang"]}, lasting=True)
    server.repos["o/portal"] = Repo(SMALL, faults={("HEAD", "*"): ["portal"]}, lasting=True)
    weights = {**SMALL, "model.safetensors": WEIGHTS}
    server.repos["o/stall"] = Repo(weights, faults={("GET", "model.safetensors"): ["hang"]})
    calls = [{"repo_id": name} for name in ("o/hang", "o/portal", "o/stall")]
    limits = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    hang, portal, stall = client.run(*calls, **limits)
    failed(hang, "HubUnavailable", "could not be reached", server.url)
    assert hang["seconds"] < 5
    failed(portal, "HubUnavailable", "does not answer as a Hugging Face hub", "HF_ENDPOINT")
    assert "model.safetensors" in files(stall) and stall["seconds"] < 10


def test_a_call_that_never_returns_is_given_up():
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="0.1 s"):
        hub._within(0.1, lambda: time.sleep(3))
    assert time.monotonic() - begun < 2
    with pytest.raises(ZeroDivisionError):
        hub._within(5, lambda: 1 / 0)
    assert hub._within(5, lambda: 7) == 7


def test_damaged_downloads_are_resumed_repeated_or_refused(server, client):  # H3, H4, H5
    def repo(*faults: str, lasting: bool = False) -> Repo:
        data = {**SMALL, "model.safetensors": WEIGHTS}
        return Repo(data, faults={("GET", "model.safetensors"): [*faults]}, lasting=lasting)

    server.repos |= {"o/drop": repo("drop"), "o/cut": repo("cut", lasting=True)}
    server.repos |= {"o/short1": repo("short"), "o/short": repo("short", lasting=True)}
    server.repos |= {"o/wrong1": repo("wrong"), "o/wrong": repo("wrong", lasting=True)}
    names = ["o/drop", "o/cut", "o/short1", "o/short", "o/wrong1", "o/wrong"]
    results = client.run(*({"repo_id": name} for name in names), settings={"chunk": 1024})
    drop, cut, short1, short, wrong1, wrong = results
    for result in (drop, short1, wrong1):
        files(result)
        assert Path(result["path"], "model.safetensors").read_bytes() == WEIGHTS
    ranges = [e["range"] for e in server.asked("o/drop", "GET", "model.safetensors")]
    assert ranges[-1] == f"bytes={len(WEIGHTS) // 2}-"
    failed(cut, "HubUnavailable", "downloading 'model.safetensors'", "o/cut")
    failed(short, "HubUnavailable", "Consistency check failed")
    failed(wrong, "HubError", "damaged", hash_of(WEIGHTS), "removed")
    assert "damaged" in wrong1["warnings"][0] and "again" in wrong1["warnings"][0]
    for name, result in zip(names, results, strict=True):
        assert client.leftovers(name) == []
        if result["error"]:  # nothing that looks complete
            folder = client.cache / f"models--{name.replace('/', '--')}"
            assert not list(folder.rglob("model.safetensors"))
            assert not (folder / "blobs" / hash_of(WEIGHTS)).exists()


def test_a_damaged_cache_is_noticed_and_repaired(server, client):  # H5
    server.repos["o/bert"] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    (online,) = client.run({"repo_id": "o/bert"})
    weights = Path(online["path"], "model.safetensors")
    weights.write_bytes(WEIGHTS[:-1] + b"?")
    (repaired,) = client.run({"repo_id": "o/bert"})
    assert "damaged" in repaired["warnings"][0] and weights.read_bytes() == WEIGHTS
    weights.write_bytes(WEIGHTS[:100])
    offline, again = client.run(*[{"repo_id": "o/bert", "local_files_only": True}] * 2)
    failed(offline, "HubError", "damaged", hash_of(WEIGHTS), "removed", "network")
    failed(again, "HubError", "no weights")


def test_a_file_is_hashed_once_unless_it_changes(tmp_path):
    path = tmp_path / "snapshots" / "commit" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"good")
    then = path.stat().st_mtime_ns
    assert hub._other_sha256(path, hash_of(b"good")) is None
    path.write_bytes(b"evil")
    os.utime(path, ns=(then, then))
    assert (
        hub._other_sha256(path, hash_of(b"good")) is None
    )  # trusted: neither size nor time changed
    os.utime(path, ns=(then, then + 1))
    assert hub._other_sha256(path, hash_of(b"good")) == hash_of(b"evil")


def test_a_failing_hub_is_replaced_by_a_complete_cache_only(server, client):  # H6
    repo = server.repos["o/bert"] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    server.repos["o/down"] = Repo(SMALL, faults={("HEAD", "*"): [503]}, lasting=True)
    server.repos["o/busy"] = Repo(SMALL, faults={("HEAD", "*"): [429]}, lasting=True)
    weights = {**SMALL, "pytorch_model.bin": WEIGHTS}
    server.repos["o/hiccup"] = Repo(weights, faults={("HEAD", "*"): [500, 502]})
    (online,) = client.run({"repo_id": "o/bert"})
    old = repo.commit
    repo.faults, repo.lasting = {("HEAD", "config.json"): [500]}, True
    names = ("o/bert", "o/down", "o/busy", "o/hiccup")
    cached, down, busy, hiccup = client.run(*({"repo_id": name} for name in names))
    assert cached["path"] == online["path"]
    assert "500" in cached["warnings"][0] and old[:12] in cached["warnings"][0]
    failed(down, "HubUnavailable", "503", "o/down")
    failed(busy, "HubUnavailable", "429", "HF_TOKEN")
    assert "pytorch_model.bin" in files(hiccup)

    # The branch moves and the new commit's weights cannot be had: the old commit stays usable.
    repo.files = {**repo.files, "model.safetensors": WEIGHTS[::-1]}
    repo.faults = {("GET", "model.safetensors"): [500]}
    moved, offline = client.run(
        {"repo_id": "o/bert"}, {"repo_id": "o/bert", "local_files_only": True}
    )
    assert moved["path"] == offline["path"] == online["path"] and moved["warnings"]
    repo.faults = {}
    new, offline = client.run(
        {"repo_id": "o/bert"}, {"repo_id": "o/bert", "local_files_only": True}
    )
    assert new["path"] == offline["path"] and Path(new["path"]).name == repo.commit != old


def test_errors_name_what_was_tried(server, client):  # H7
    server.repos["o/tf-only"] = Repo({**SMALL, "tf_model.h5": WEIGHTS})
    server.repos["o/no-config"] = Repo({"pytorch_model.bin": WEIGHTS})
    lost = index("model", "safetensors")
    del lost["model-00002-of-00002.safetensors"]
    server.repos["o/lost-shard"] = Repo({**SMALL, **lost})
    smuggled = {"model.safetensors.index.json": b'{"weight_map": {"a": "pytorch_model.bin"}}'}
    server.repos["o/smuggle"] = Repo({**SMALL, **smuggled, "pytorch_model.bin": WEIGHTS})
    weights, config, shard, smuggle, typo, unpinned = client.run(
        {"repo_id": "o/tf-only"},
        {"repo_id": "o/no-config"},
        {"repo_id": "o/lost-shard"},
        {"repo_id": "o/smuggle"},
        {"repo_id": "o/bret"},
        {"repo_id": "o/tf-only", "revision": "v9"},
    )
    failed(weights, "HubError", "o/tf-only", *hub.WEIGHT_FILES)
    failed(config, "HubError", "o/no-config", "config.json")
    failed(shard, "HubError", "model-00002-of-00002.safetensors")
    failed(smuggle, "HubError", "'pytorch_model.bin'", ".safetensors")
    assert server.asked("o/smuggle", name="pytorch_model.bin") == []
    failed(typo, "HubUnavailable", "o/bret", "does not exist", "spelling", "HF_TOKEN")
    failed(unpinned, "HubError", "o/tf-only", "'v9'", "revision")


def test_two_processes_share_one_download(server, client):  # H8
    faults = {("GET", "pytorch_model.bin"): ["slow", "slow"]}
    server.repos["o/bert"] = Repo({**SMALL, "pytorch_model.bin": WEIGHTS}, faults=faults)
    children = [client.start({"repo_id": "o/bert"}) for _ in range(2)]
    (one,), (two,) = (client.finish(child) for child in children)
    assert files(one) == files(two) == {*SMALL, "pytorch_model.bin"}
    assert one["path"] == two["path"]
    assert len(server.asked("o/bert", "GET", "pytorch_model.bin")) == 1


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "C:x.safetensors", "C:\\x"]
    + [
        "..\\x.safetensors",
        "sub/x.safetensors",
        ".x.safetensors",
        "x.bin",
        "x.safetensors\0",
        "",
        5,
    ]
    + ["x.safetensors.bin", "x.safetensors\n", None, ["x.safetensors"]],
)
def test_shards_may_not_leave_the_directory_or_change_kind(tmp_path, name):  # H9
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": name}}))
    with pytest.raises(hub.HubError, match="model.safetensors.index.json"):
        hub.shard_names(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "{"])
def test_a_malformed_index_is_refused(tmp_path, text):
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(text)
    with pytest.raises(hub.HubError, match="weight_map"):
        hub.shard_names(path)


def test_shard_names_are_listed_once_in_order(tmp_path):
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "s-2.bin", "b": "s-1.bin", "c": "s-2.bin"}}))
    assert hub.shard_names(path) == ["s-2.bin", "s-1.bin"]


def test_revisions_tags_pull_requests_and_renamed_repositories(server, client):  # H10
    revisions = ["main", "v1", "refs/pr/8"]
    repo = server.repos["o/bert"] = Repo({**SMALL, "model.safetensors": WEIGHTS}, revisions)
    server.repos["old/name"] = Repo({}, moved_to="o/bert")
    request, offline, moved = client.run(
        {"repo_id": "o/bert", "revision": "refs/pr/8"},
        {"repo_id": "o/bert", "revision": "refs/pr/8", "local_files_only": True},
        {"repo_id": "old/name"},
    )
    assert request["path"] == offline["path"]
    assert Path(request["path"]).name == Path(moved["path"]).name == repo.commit
    assert files(moved) == {*SMALL, "model.safetensors"}


def test_closed_repositories_say_how_to_open_them(server, client):
    data = {**SMALL, "model.safetensors": WEIGHTS}
    server.repos["o/gated"] = Repo(data, token="good", gated=True)
    server.repos["o/private"] = Repo(data, token="good")
    gated, private = client.run({"repo_id": "o/gated"}, {"repo_id": "o/private"})
    failed(gated, "HubUnavailable", "gated", "licence", "HF_TOKEN", f"{server.url}/o/gated")
    failed(private, "HubUnavailable", "private", "HF_TOKEN")
    (refused,) = client.run({"repo_id": "o/gated"}, HF_TOKEN="bad")
    failed(refused, "HubUnavailable", "HF_TOKEN")
    server.log.clear()
    gated, private = client.run({"repo_id": "o/gated"}, {"repo_id": "o/private"}, HF_TOKEN="good")
    assert files(gated) == files(private) == {*data}
    # The token goes to the hub and not to the CDN.
    sent = {(entry["role"], entry["authorization"]) for entry in server.log}
    assert sent == {("hub", "Bearer good"), ("cdn", None)}
    server.repos["o/gated"].token = "changed"
    (kept,) = client.run({"repo_id": "o/gated"}, HF_TOKEN="good")
    assert kept["path"] == gated["path"] and "HF_TOKEN" in kept["warnings"][0]


def test_bad_arguments_and_an_unusable_cache(server, client, tmp_path):
    server.repos["o/bert"] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    (tmp_path / "file").write_text("")
    bad_ids = ["../x", "a/b/c", "/etc", "o/../x", "o\\x", "", "o/x y", "o--x", "o/"]
    bad_revisions = ["../../x", "/etc", "a\\b", "", "a//b", "C:x", "a\nb"]
    calls = [{"repo_id": name} for name in bad_ids]
    calls += [{"repo_id": "o/bert", "revision": revision} for revision in bad_revisions]
    calls += [{"repo_id": "o/bert", "cache_dir": str(tmp_path / "file")}]
    *results, unusable = client.run(*calls)
    for result in results:
        failed(result, "HubError", "expected")
        assert result["network"] == []
    failed(unusable, "HubError", "cannot store", str(tmp_path / "file"), "HF_HOME")
    (want,) = client.run({"repo_id": "o/bert", "want": "weights"})
    assert want["error"][0] == "ValueError" and "'weights'" in want["message"]


ALIASES = {
    "bert-base-uncased": ("google-bert/bert-base-uncased", None),
    "mobilebert-uncased": ("google/mobilebert-uncased", "refs/pr/8"),
    "convbert-base": ("YituTech/conv-bert-base", "refs/pr/1"),
}


def test_names_resolve_to_a_repository_and_its_pinned_revision():
    assert hub.resolve("mobilebert-uncased", ALIASES) == ("google/mobilebert-uncased", "refs/pr/8")
    assert hub.resolve("bert-base-uncased", ALIASES) == ("google-bert/bert-base-uncased", None)
    assert hub.resolve("someone/bert_tiny.v2", ALIASES) == ("someone/bert_tiny.v2", None)


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("mobilbert-uncased", "mobilebert-uncased"), ("BERT-base-uncased", "bert-base-uncased")]
    + [("conv-bert-base", "convbert-base"), ("convbert", "convbert-base")],
)
def test_an_unknown_name_suggests_the_nearest(name, suggested):
    with pytest.raises(hub.HubError, match=f"Nearest names: {suggested}"):
        hub.resolve(name, ALIASES)


@pytest.mark.parametrize(
    "name", ["./out", "/tmp/x", "~/x", "a/b/c", "", "C:\\x", "zzz", "../x", "o/"]
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(hub.HubError, match="directory"):
        hub.resolve(name, ALIASES)
