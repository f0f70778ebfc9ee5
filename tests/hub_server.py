"""A hub on 127.0.0.1 (resolve protocol, a second server as CDN, scripted faults) and its client."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jbert import hub

# Loads hub.py alone: the client needs neither jax nor the rest of the package.
CHILD = """
import importlib.util, json, sys, time, warnings
job = json.load(sys.stdin)
spec = importlib.util.spec_from_file_location("jbert_hub", job["hub_py"])
hub = importlib.util.module_from_spec(spec)
sys.modules["jbert_hub"] = hub
spec.loader.exec_module(hub)
lazy = "huggingface_hub" not in sys.modules
vars(hub).update(job["settings"])
if "chunk" in job["settings"]:  # huggingface_hub keeps what it received in whole chunks only
    import huggingface_hub.constants
    huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = job["settings"]["chunk"]
network = []
def watch(event, args):
    if event == "socket.connect":
        network.append(str(args[1]))
        if args[1][0] != "127.0.0.1":
            raise RuntimeError(f"the test reached for {args[1]}")
    elif event == "socket.getaddrinfo":
        network.append(str(args[0]))
sys.addaudithook(watch)
results = []
for call in job["calls"]:
    import os
    os.environ.update(call.pop("environ", {}))
    del network[:]
    begun, result = time.monotonic(), {"path": None, "error": None, "message": ""}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result["path"] = str(hub.fetch(**call))
        except BaseException as error:
            result["error"] = [c.__name__ for c in type(error).__mro__]
            result["message"] = str(error)
    result["seconds"] = time.monotonic() - begun
    result["warnings"] = [str(w.message) for w in caught if w.category is hub.HubWarning]
    result["network"] = list(network)
    results.append(result)
print(json.dumps({"lazy": lazy, "results": results}))
"""

LFS_FROM = 1000  # bytes; the real hub keeps smaller files in git and larger ones on its CDN


@dataclass
class Repo:
    files: dict[str, bytes]
    revisions: list[str] = field(default_factory=lambda: ["main"])
    # (method, file or "*") -> faults, one a request, in order; if `lasting` the last one stays.
    # A status code; "hang"; "portal": a page that is no hub's; and, of the bytes, "drop": half and
    # no more; "cut": none; "short": half, said to be all; "wrong"; "slow".
    faults: dict[tuple[str, str], list[int | str]] = field(default_factory=dict)
    lasting: bool = False
    token: str | None = None  # the only token that may read it
    gated: bool = False
    moved_to: str | None = None

    @property
    def commit(self) -> str:
        state = repr(sorted((name, hash_of(data)) for name, data in self.files.items()))
        return hashlib.sha1(state.encode()).hexdigest()

    def next_fault(self, method: str, name: str) -> int | str | None:
        for key in ((method, name), (method, "*")):
            if queue := self.faults.get(key):
                return queue[0] if self.lasting and len(queue) == 1 else queue.pop(0)
        return None


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def etag_of(data: bytes) -> str:
    if len(data) >= LFS_FROM:
        return hash_of(data)
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    """Fill `repos`, point HF_ENDPOINT at `url`, and read the requests in `log`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: deque[dict[str, Any]] = deque()
        self.stopping = threading.Event()
        self._servers = [self._listen("hub"), self._listen("cdn")]
        self.url, self.cdn_url = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)

    def _listen(self, role: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "role": role})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def asked(self, repo: str, method: str | None = None, name: str | None = None) -> list[dict]:
        """The requests about one repository, on both servers."""
        return [
            entry
            for entry in list(self.log)
            if entry["repo"] == repo
            and (method is None or entry["method"] == method)
            and (name is None or entry["name"] == name)
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    role: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer(self) -> None:
        if "/resolve/" not in self.path:
            self.hub.log.append({"method": self.command, "repo": None, "name": self.path})
            return self._send(404)
        repo_id, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        revision, name = unquote(revision), unquote(name)
        entry = {
            "method": self.command,
            "repo": repo_id,
            "revision": revision,
            "name": name,
            "role": self.role,
            "authorization": self.headers.get("Authorization"),
            "range": self.headers.get("Range"),
            "agent": self.headers.get("User-Agent", ""),
        }
        self.hub.log.append(entry)
        repo = self.hub.repos.get(repo_id)
        if repo is None:
            return self._send(404, {"X-Error-Code": "RepoNotFound"})
        if repo.moved_to is not None:
            return self._send(307, {"Location": f"/{repo.moved_to}/resolve/{rest}"})
        if self.role == "hub" and repo.token is not None:
            if entry["authorization"] != f"Bearer {repo.token}":
                code = {"X-Error-Code": "GatedRepo"} if repo.gated else {}
                return self._send(403 if repo.gated and entry["authorization"] else 401, code)
        if revision not in (*repo.revisions, repo.commit):
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        self._send_file(repo, name)

    def _send_file(self, repo: Repo, name: str) -> None:
        data = repo.files.get(name)
        known = {"X-Repo-Commit": repo.commit}
        redirects = self.role == "hub" and data is not None and len(data) >= LFS_FROM
        # A fault on a GET strikes where the bytes are.
        fault = None
        if self.command == "HEAD" or not redirects:
            fault = repo.next_fault(self.command, name)
        if isinstance(fault, int):
            return self._send(fault)
        if fault == "hang":
            self.hub.stopping.wait(30)
            self.close_connection = True
            return None
        if fault == "portal":
            return self._send(200, {}, b"Welcome to the airport's network")
        if data is None:
            return self._send(404, {**known, "X-Error-Code": "EntryNotFound"})
        if redirects:
            linked = {"X-Linked-Etag": f'"{etag_of(data)}"', "X-Linked-Size": str(len(data))}
            return self._send(302, {**known, **linked, "Location": self.hub.cdn_url + self.path})
        self._send_bytes(data, {**known, "ETag": f'"{etag_of(data)}"'}, fault)

    def _send_bytes(self, data: bytes, headers: dict[str, str], fault: str | None) -> None:
        status, start = 200, 0
        if (span := self.headers.get("Range")) is not None:
            status, start = 206, int(span.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if fault == "slow":
            self.hub.stopping.wait(1)
        if fault == "wrong":
            body = bytes(255 - byte for byte in body)
        if fault == "short":
            body = body[: len(body) // 2]
        if fault in ("drop", "cut"):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2 if fault == "drop" else 0])
            self.close_connection = True
            return
        if self.command == "HEAD":
            headers["Content-Length"] = str(len(body))
        self._send(status, headers, body)


class Client:
    """One user: a cache of their own, and processes started in it one after another or at once."""

    def __init__(self, server: HubServer, home: Path):
        self.home, self.server = home, server
        self.cache = home / "hub"

    def start(self, *calls: dict, settings: dict | None = None, **environ: str) -> subprocess.Popen:
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        kept = {k: v for k, v in kept.items() if not k.startswith(("HF_", "HUGGING"))}
        fixed = {"HF_HOME": str(self.home), "HF_ENDPOINT": self.server.url}
        fixed |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, **fixed, **environ},
        )
        job = {
            "hub_py": hub.__file__,
            "calls": calls,
            "settings": {"PAUSE": 0.02, **(settings or {})},
        }
        assert child.stdin is not None
        child.stdin.write(json.dumps(job))
        child.stdin.close()
        child.stdin = None
        return child

    def finish(self, child: subprocess.Popen, seconds: float = 30) -> list[dict]:
        try:
            out, err = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        assert child.returncode == 0, err
        answer = json.loads(out.splitlines()[-1])
        assert answer["lazy"], "importing jbert.hub imported huggingface_hub"
        return answer["results"]

    def run(self, *calls: dict, settings: dict | None = None, **environ: str) -> list[dict]:
        return self.finish(self.start(*calls, settings=settings, **environ))

    def leftovers(self, repo_id: str) -> list[str]:
        blobs = self.cache / f"models--{repo_id.replace('/', '--')}" / "blobs"
        return [path.name for path in blobs.glob("*.incomplete")]


def files(result: dict) -> set[str]:
    assert result["error"] is None, result["message"]
    root = Path(result["path"])
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def failed(result: dict, kind: str, *words: str) -> None:
    """The error is one of jbert's, is a FileNotFoundError and says `words`."""
    assert result["error"] is not None, f"expected {kind}, got {result['path']}"
    assert result["error"][0] == kind and "FileNotFoundError" in result["error"], result
    for word in words:
        assert word in result["message"], result["message"]
