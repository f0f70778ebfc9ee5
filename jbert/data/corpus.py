"""A corpus of text as memory-mapped token ids, tokenised once.

Text is read as BERT's programs read it: a sentence (or any other stretch of text) a line, and a
blank line between documents. `open_corpus` tokenises what it has not seen and keeps it in a
directory named after the contents of the files and the tokenizer, so that a change of either is
another corpus and not a stale one. An interrupted build goes on behind the last whole file.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jbert import atomic, manifest
from jbert.data.cache import digest
from jbert.data.rows import OnBadRow, warn_of_skipped
from jbert.data.table import DataError, DataNotFoundError, DataWarning
from jbert.data.token_file import DOCUMENTS, SENTENCES, TOKENS, write_tokens
from jbert.data.tokenise import fingerprint
from jbert.manifest import DamagedError
from jbert.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

FORMAT = 1
CONTENTS = "contents.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens end to end.

    Attributes:
        tokens: the ids, memory-mapped, without special tokens around them.
        sentences: where each sentence begins in `tokens`, and their end.
        documents: where each document begins in `sentences`, and their end.
        tokenizer: what made the ids.
        skipped: where and why, for each line that was left out.
        fingerprint: of the text and the tokenizer together.
        chosen: the documents that count, by their numbers, where not all of them do.
    """

    tokens: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    tokenizer: Tokenizer
    skipped: tuple[str, ...]
    fingerprint: str
    chosen: np.ndarray | None = None

    @functools.cached_property
    def begins(self) -> np.ndarray:
        """The first sentence of each document that counts."""
        begins = self.documents[:-1]
        return begins if self.chosen is None else begins[self.chosen]

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """The sentence behind the last one of each document that counts."""
        ends = self.documents[1:]
        return ends if self.chosen is None else ends[self.chosen]

    def __repr__(self) -> str:
        bounds = self.sentences
        return (
            f"Corpus({int((bounds[self.ends] - bounds[self.begins]).sum()):,} tokens, "
            f"{int((self.ends - self.begins).sum()):,} sentences, {len(self.begins):,} documents)"
        )


def open_corpus(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    tokenizer: Tokenizer,
    cache_dir: str | os.PathLike[str],
    *,
    on_bad_row: OnBadRow = "error",
) -> Corpus:
    """The corpus in these files, plain or gzip, in this order; tokenised first if need be.

    A directory stands for its *.txt and *.txt.gz files, sorted by name. on_bad_row: a line that is
    not UTF-8 is an error that names file and line, or left out, counted and warned of.
    """
    files = list_files(paths)
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"on_bad_row is {on_bad_row!r}, expected 'error' or 'skip'")
    recipe = [FORMAT, fingerprint(tokenizer)]
    keys = [digest(*recipe, manifest.sha256(path)) for path in files]
    key = digest(keys)
    directory = Path(cache_dir).expanduser() / key
    corpus = _open(directory, tokenizer)
    if corpus is None:
        with _only_builder(directory.with_name(f"{key}.building")) as building:
            corpus = _open(directory, tokenizer)
            if corpus is None:
                places = [building / "files" / key for key in keys]
                _build(directory, files, places, tokenizer, on_bad_row)
                corpus = _opened(directory, tokenizer)
            shutil.rmtree(building, ignore_errors=True)
    if corpus.skipped and on_bad_row == "error":
        raise DataError(f'{corpus.skipped[0]}. Correct the line, or pass on_bad_row="skip"')
    if corpus.skipped:
        lines = len(corpus.sentences) - 1 + len(corpus.skipped)
        warn_of_skipped(", ".join(map(str, files)), list(corpus.skipped), lines)
    if not len(corpus.tokens):
        raise no_text(files)
    logger.info("%s in %s", corpus, directory)
    return corpus


def no_text(files: list[Path]) -> DataError:
    return DataError(
        f"{', '.join(map(str, files))}: no token in {len(files)} files; expected text, one "
        "sentence a line and a blank line between documents"
    )


def list_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that `open_corpus` reads."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    files: list[Path] = []
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.name.endswith((".txt", ".txt.gz")))
            if not found:
                raise DataNotFoundError(f"{path}: expected *.txt or *.txt.gz files, found none")
        files += found
    if not files:
        raise DataError("expected files or directories of text, found none. Name at least one")
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise DataNotFoundError(f"there is no file {', '.join(missing)}. Check the paths")
    return files


def _dtype(tokenizer: Tokenizer) -> str:
    return "uint16" if len(tokenizer) <= 2**16 else "uint32"


def _open(directory: Path, tokenizer: Tokenizer) -> Corpus | None:
    """The corpus in a directory, or None if there is none, or none that is whole."""
    atomic.recover(directory)
    if not directory.exists():
        return None
    try:
        contents = json.loads((directory / CONTENTS).read_text(encoding="utf-8"))
        manifest.verify(directory, contents["sha256"])
        if contents["skipped_sha256"] != digest(contents["skipped"]):
            raise DamagedError(f"{directory / CONTENTS} has changed since it was written")
        return Corpus(
            tokens=_mapped(directory / TOKENS, _dtype(tokenizer)),
            sentences=_mapped(directory / SENTENCES, "int64"),
            documents=_mapped(directory / DOCUMENTS, "int64"),
            tokenizer=tokenizer,
            skipped=tuple(contents["skipped"]),
            fingerprint=directory.name,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"{directory} cannot be used and is made again from the text ({error})",
            DataWarning,
            stacklevel=3,
        )
        return None


def _opened(directory: Path, tokenizer: Tokenizer) -> Corpus:
    corpus = _open(directory, tokenizer)
    if corpus is None:
        raise DataError(f"{directory}: damaged while it was being written; check the disk")
    return corpus


def _mapped(path: Path, dtype: str) -> np.ndarray:
    if not path.stat().st_size:
        return np.zeros(0, dtype)  # an empty file cannot be mapped
    # A view of the mapped file as a plain array, which is quicker to index.
    return np.asarray(np.memmap(path, dtype, "r"))


@contextlib.contextmanager
def _only_builder(directory: Path) -> Iterator[Path]:
    """Makes a directory and holds a lock on it: of processes that start together, one builds."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # where there are no locks, each builds for itself
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(descriptor)


def _build(directory: Path, files, places: list[Path], tokenizer, on_bad_row: OnBadRow) -> None:
    """Tokenises each file into a part of its own, unless it is there already, and joins them."""
    parts = []
    size = sum(path.stat().st_size for path in files)
    # How much text is in a packed file is not known before.
    total = None if any(path.suffix == ".gz" for path in files) else size
    with tqdm(
        desc="tokenising", total=total, unit="B", unit_scale=True, delay=1.0, disable=None
    ) as progress:
        for path, place in zip(files, places, strict=True):
            part = _open(place, tokenizer)
            if part is None:
                with atomic.replacing(place) as staging:
                    dtype = _dtype(tokenizer)
                    skipped = write_tokens(path, tokenizer, staging, dtype, on_bad_row, progress)
                    _finish(staging, skipped)
                part = _opened(place, tokenizer)
            else:
                progress.update(path.stat().st_size)
            parts.append(part)
    size = sum(part.tokens.nbytes + part.sentences.nbytes + part.documents.nbytes for part in parts)
    with atomic.replacing(directory, size) as staging:
        _join(parts, staging)
        _finish(staging, [line for part in parts for line in part.skipped])


def _join(parts: list[Corpus], directory: Path) -> None:
    tokens = sentences = 0
    with (
        (directory / TOKENS).open("wb") as token_file,
        (directory / SENTENCES).open("wb") as sentence_file,
        (directory / DOCUMENTS).open("wb") as document_file,
    ):
        for part in parts:
            # The end of one part is the beginning of the next.
            last = part is parts[-1]
            part.tokens.tofile(token_file)
            (part.sentences[: None if last else -1] + tokens).tofile(sentence_file)
            (part.documents[: None if last else -1] + sentences).tofile(document_file)
            tokens += len(part.tokens)
            sentences += len(part.sentences) - 1


def _finish(directory: Path, skipped: list[str]) -> None:
    """Says what the bytes of the files must be."""
    contents = {
        "sha256": manifest.checksums(directory),
        "skipped": skipped,
        "skipped_sha256": digest(skipped),
    }
    (directory / CONTENTS).write_text(json.dumps(contents), encoding="utf-8")
