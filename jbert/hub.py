"""Where files come from: model names, the Hugging Face hub and its cache on disk.

`resolve` turns a name into a repository and a pinned revision; `fetch` answers with a local folder
that holds the configuration, the tokenizer and exactly one kind of weights. `huggingface_hub` does
the storing, so its settings hold (`HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_ENDPOINT`, ...). It is
imported inside the functions: `import jbert` stays quick, and a variable set after it still counts.
"""

import contextlib
import difflib
import hashlib
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Want = Literal["model", "config", "tokenizer"]

CONFIG_FILES = ("config.json", "bert_config.json")  # the second is what TF1 releases call it
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
SENTENCE_FILES = (
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
# In order of preference; the first that exists is the only kind fetched, with its `_parts`. jbert's
# own directories would be one more row at the top: a manifest whose parts are the files it names.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
    "bert_model.ckpt.index",
)

ATTEMPTS, PAUSE = 3, 0.5  # a refused connection is reported after PAUSE * (1 + 2) seconds
GRACE = 2.0  # beyond HF_HUB_ETAG_TIMEOUT, which neither name resolution nor trickled bytes obey
QUICK = 5.0  # huggingface_hub itself has already retried a download that failed later than this

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPO_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_SHARD = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


class HubError(FileNotFoundError):
    """A name, repository, revision or file that cannot be had; the message says what to do."""


class HubUnavailable(HubError):
    """The hub does not answer, or refuses. Raised only where the cache has no complete copy."""


class HubWarning(UserWarning):
    """What was returned is complete, but did not come about as asked."""


def resolve(name: str, aliases: Mapping[str, tuple[str, str | None]]) -> tuple[str, str | None]:
    """(repository, pinned revision) of an alias; (`name`, None) for a hub id like "google/bert"."""
    if name in aliases:
        return aliases[name]
    if "/" in name and _REPO_ID.fullmatch(name):
        return name, None
    spelled = {repo.split("/")[-1].lower(): alias for alias, (repo, _) in aliases.items()}
    spelled |= {alias.lower(): alias for alias in aliases}
    near = difflib.get_close_matches(name.lower(), spelled, n=5, cutoff=0.5)
    known = ", ".join(dict.fromkeys(spelled[match] for match in near)) or ", ".join(sorted(aliases))
    raise HubError(
        f"{name!r} is neither an existing directory or file, nor a known name, nor a hub id of the "
        f"form 'owner/name'. {'Nearest' if near else 'Known'} names: {known}."
    )


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    want: Want = "model",
) -> Path:
    """The local folder of one commit of `repo_id`, whose name is that commit's hash.

    Downloads only what the cache lacks. The hub is not asked at all if `revision` is a full commit
    hash and the cache is complete. If it cannot be asked, a complete cache is used, with a warning.
    """
    from huggingface_hub import constants

    revision = "main" if revision is None else revision
    _check_arguments(repo_id, revision, want)
    cache = Path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir).expanduser()
    # Also the environment as it is now: a notebook may set it after the import that reads it.
    now = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    trouble, offline = None, "HF_HUB_OFFLINE is set" if now or constants.HF_HUB_OFFLINE else None
    offline = "local_files_only=True" if local_files_only else offline
    if offline is None:
        try:
            commit = revision if _COMMIT.fullmatch(revision) else _ask(repo_id, revision)[0]
            snapshot = _Snapshot(repo_id, commit, cache)
            first = _collect(snapshot, want)
            snapshot.remember(revision, first.name)
            return first.parent
        except HubUnavailable as error:
            trouble, offline = error, ""
    try:
        folder = _collect(_Snapshot(repo_id, revision, cache, offline), want).parent
    except HubError as error:
        if trouble is None:
            raise
        raise HubUnavailable(f"{trouble} Nor does the cache help: {error}") from trouble
    if trouble is not None:
        _warn(f"{trouble} Using the cached copy of {repo_id!r}, commit {folder.name[:12]}.")
    return folder


def shard_names(index: Path) -> list[str]:
    """The files that a `*.index.json` lists, each checked to be its sibling and of its kind."""
    suffix = "." + index.name.removesuffix(".index.json").rsplit(".", 1)[-1]
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = list(dict.fromkeys(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HubError(
            f"{index}: expected a JSON object whose 'weight_map' maps parameters to files, found "
            f"none ({_one_line(error)}). Download or export it again."
        ) from error
    # A path could leave the directory; a pickle named in a safetensors index would pass as safe.
    bad = [n for n in map(str, names) if not (_SHARD.fullmatch(n) and n.endswith(suffix))]
    if bad or not names:
        raise HubError(
            f"{index}: expected 'weight_map' to name {suffix} files beside it, found "
            f"{', '.join(map(repr, bad[:5])) or 'no file at all'}. None of it was fetched."
        )
    return names


def _check_arguments(repo_id: str, revision: str, want: str) -> None:
    if want not in get_args(Want):
        raise ValueError(f"want: expected 'model', 'config' or 'tokenizer', found {want!r}.")
    # Both become paths below the cache.
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise HubError(f"expected a hub id of the form 'owner/name', found {repo_id!r}.")
    unsafe = re.search(r"[\s\\:\x00-\x1f]", revision)
    if unsafe or any(part in ("", ".", "..") for part in revision.split("/")):
        raise HubError(f"revision: expected a branch, tag or commit hash, found {revision!r}.")


@dataclass(frozen=True)
class _Snapshot:
    """One commit of one repository: in the cache and, unless `offline` says why not, on the hub."""

    repo_id: str
    revision: str  # online always a commit hash, so that all files are of one commit
    cache: Path
    offline: str | None = None  # "": the hub has been tried in vain

    def get(self, name: str) -> Path | None:
        """The file, downloaded if need be; None if the repository (offline: the cache) has none."""
        path = self._cached(name)
        if isinstance(path, Path):
            sha256 = _recorded_sha256(path)
            if sha256 is None or (found := _other_sha256(path, sha256)) is None:
                return path
            _discard(path, self.cache)
            text = f"{path} is damaged: expected sha256 {sha256}, found {found}. It was removed"
            if self.offline is not None:
                raise HubError(f"{text}; load again with a network.")
            _warn(f"{text} and is downloaded again.")
        elif path == "absent" or self.offline is not None:
            return None
        etag = _ask(self.repo_id, self.revision, name)[1]
        if etag is not None:
            return self._download(name, etag)
        with contextlib.suppress(Exception):  # writes the cache's .no_exist; else it is asked again
            self._hf_hub_download(name, self.revision)
        return None

    def remember(self, revision: str, name: str) -> None:
        """Name this commit `revision` in the cache: last, so that the name means a whole one."""
        if self._cached(name, revision) == self._cached(name):
            return
        try:
            self._hf_hub_download(name, revision)
        except Exception as error:  # only a later offline load suffers
            _warn(f"{self.repo_id!r}: offline, ask for {self.revision} ({_one_line(error)}).")

    def _cached(self, name: str, revision: str = "") -> Path | Literal["absent"] | None:
        from huggingface_hub import try_to_load_from_cache as load

        path = load(self.repo_id, name, cache_dir=self.cache, revision=revision or self.revision)
        return Path(path) if isinstance(path, str) else None if path is None else "absent"

    def _hf_hub_download(self, name: str, revision: str) -> Path:
        from huggingface_hub import hf_hub_download

        where: dict[str, Any] = {"revision": revision, "cache_dir": self.cache}
        return Path(hf_hub_download(self.repo_id, name, library_name="jbert", **where))

    def _download(self, name: str, etag: str) -> Path:
        what, text = f"{name!r} of {self.repo_id!r}", ""
        for last in (False, True):
            begun = time.monotonic()
            try:
                path = self._hf_hub_download(name, self.revision)
            except Exception as error:  # httpx, xet and disk errors share no base class
                if isinstance(error, OSError) and error.errno is not None:
                    raise HubError(
                        f"cannot store {what} in the cache {self.cache}: {error}. Free some space, "
                        "or set HF_HOME or cache_dir to a directory that can be written."
                    ) from error
                if last or time.monotonic() - begun > QUICK:
                    text = f"downloading {what} failed ({_one_line(error)}); load again."
                    raise HubUnavailable(text) from error
                continue
            if not _SHA256.fullmatch(etag) or (found := _other_sha256(path, etag)) is None:
                return path
            _discard(path, self.cache)
            text = f"{what} arrived damaged and was removed: expected sha256 {etag}, found {found}."
            if not last:
                _warn(f"{text} It is downloaded again.")
        raise HubError(f"{text} This was the second time: check the proxy and HF_ENDPOINT.")


def _collect(snapshot: _Snapshot, want: Want) -> Path:
    """Get every file that `want` stands for; the first, at the top level, is returned. The weights
    come last, so that a cache which has them has all the rest.
    """
    where, remedy = f"{snapshot.repo_id!r} at revision {snapshot.revision!r}", ""
    if snapshot.offline is not None:
        where += f", in the cache {snapshot.cache},"
    if snapshot.offline:
        remedy = f" Load it with a network once (now {snapshot.offline}), or check cache_dir."
    found = [path for name in CONFIG_FILES if (path := snapshot.get(name))][:1]
    if not found and want != "tokenizer":
        raise HubError(f"{where} has no {' or '.join(CONFIG_FILES)}.{remedy}")
    if want != "config":
        found += [path for name in TOKENIZER_FILES if (path := snapshot.get(name))]
        if want == "tokenizer" and not {*TOKENIZER_FILES[:2]} & {path.name for path in found}:
            raise HubError(f"{where} has no {' or '.join(TOKENIZER_FILES[:2])}.{remedy}")
    if want != "model":
        return found[0]
    for name in SENTENCE_FILES:
        snapshot.get(name)
    for name in WEIGHT_FILES:
        if path := snapshot.get(name):
            if missing := [part for part in _parts(path) if not snapshot.get(part)]:
                raise HubError(f"{where} has {name} without its {', '.join(missing)}.{remedy}")
            return found[0]
    raise HubError(f"{where} has no weights; tried {', '.join(WEIGHT_FILES)}.{remedy}")


def _parts(path: Path) -> list[str]:
    if path.name.endswith(".index.json"):
        return shard_names(path)
    # Every published TF1 BERT has its tensors in one data file.
    return ["bert_model.ckpt.data-00000-of-00001"] if path.name.endswith(".ckpt.index") else []


class _NoAnswer(Exception): ...  # worth another attempt


def _ask(repo_id: str, revision: str, name: str = CONFIG_FILES[0]) -> tuple[str, str | None]:
    """(commit, ETag) of a file; ETag None: the commit lacks it. Asked before any download, since
    `hf_hub_download` takes 23 s to give up a refused connection and minutes a hanging server.
    """
    from huggingface_hub import constants

    until, reason = time.monotonic() + constants.HF_HUB_ETAG_TIMEOUT, None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _ask_once(repo_id, revision, name)
        except _NoAnswer as error:
            reason = error
        if attempt == ATTEMPTS or time.monotonic() > until:
            break
        time.sleep(PAUSE * attempt)
    raise HubUnavailable(
        f"{constants.ENDPOINT} {reason} when asked for {name!r} of {repo_id!r}. Check the network, "
        "the proxy and HF_ENDPOINT; to work without a network set HF_HUB_OFFLINE=1."
    ) from reason


def _ask_once(repo_id: str, revision: str, name: str) -> tuple[str, str | None]:
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    url, patience = hf_hub_url(repo_id, name, revision=revision), constants.HF_HUB_ETAG_TIMEOUT
    head = lambda: get_hf_file_metadata(url, timeout=patience, library_name="jbert")  # noqa: E731
    try:
        meta = _within(patience + GRACE, head)
        commit, etag, known = meta.commit_hash, meta.etag, meta.etag is not None
    except errors.EntryNotFoundError as error:
        headers = error.response.headers  # pyright: ignore[reportAttributeAccessIssue]
        commit, etag, known = headers.get("X-Repo-Commit", revision), None, True
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status < 500 and status not in (408, 429):
            raise _refusal(error, repo_id, revision) from error
        hint = " (too many requests: wait, or set HF_TOKEN)" if status == 429 else ""
        raise _NoAnswer(f"answered {status}{hint}") from error
    except Exception as error:  # httpx or httpx2: every way not to get an answer
        raise _NoAnswer(f"could not be reached ({_one_line(error)})") from error
    # The commit becomes a directory's name. A captive portal or a wrong HF_ENDPOINT sends none.
    if not known or commit is None or not _COMMIT.fullmatch(commit):
        raise _NoAnswer("does not answer as a Hugging Face hub does (no commit, or no ETag)")
    return commit, etag


def _refusal(error: Any, repo_id: str, revision: str) -> HubError:
    """The error for an answer that says no: without access what is cached can still be used."""
    from huggingface_hub import constants, errors

    page, status = f"{constants.ENDPOINT}/{repo_id}", error.response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{repo_id!r} has no revision {revision!r}; see its branches on {page}.")
    if isinstance(error, errors.GatedRepoError):
        advice = f"is gated: accept its licence on {page} and set HF_TOKEN to that account's token."
    elif isinstance(error, errors.RepositoryNotFoundError):
        advice = "does not exist, or is private: check the spelling, or set HF_TOKEN."
    elif status in (401, 403):
        advice = f"is refused: set HF_TOKEN to a token that may read it; its terms: {page}."
    else:
        advice = f"is refused: {_one_line(error)}."
    return HubUnavailable(f"{constants.ENDPOINT} answered {status}: {repo_id!r} {advice}")


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """call(), given up after `seconds`: in a daemon thread, which cannot keep the process alive."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    value, error = outcome[0] if outcome else (None, TimeoutError(f"silent for {seconds:g} s"))
    if error is not None:
        raise error
    return value


def _recorded_sha256(path: Path) -> str | None:
    """What a cached file's sha256 should be: the cache names the blob of an LFS file by it."""
    blob = Path(os.readlink(path)) if path.is_symlink() else path
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def _other_sha256(path: Path, sha256: str) -> str | None:
    """The file's sha256 if it is another one. Hashed once for each size and time of change."""
    status = path.stat()
    seen = f"{status.st_size} {status.st_mtime_ns}"
    storage = next(folder.parent for folder in path.parents if folder.name == "snapshots")
    note = storage / ".jbert" / sha256
    with contextlib.suppress(OSError):
        if note.read_text() == seen:
            return None
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        return found
    with contextlib.suppress(OSError):  # a read-only cache is hashed every time
        note.parent.mkdir(exist_ok=True)
        note.write_text(seen)
    return None


def _discard(path: Path, cache: Path) -> None:
    """Remove a file: the snapshot's link, the blob, and the blob that other repositories share."""
    real = path.resolve()
    blob = path.parent / os.readlink(path) if path.is_symlink() else path
    for place in (path, blob, real):
        if place != real or real.is_relative_to(cache.resolve()):
            with contextlib.suppress(OSError):  # read-only: the caller reports the damage anyway
                place.unlink()


def _warn(text: str) -> None:
    warnings.warn(text, HubWarning, stacklevel=3)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
