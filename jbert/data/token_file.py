"""One text file as three flat files: token ids, where sentences begin, where documents begin."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jbert import windows
from jbert.data.lines import not_text, numbered_lines
from jbert.data.rows import OnBadRow, Rows
from jbert.data.table import DataWarning
from jbert.tokenizer import Tokenizer

TOKENS, SENTENCES, DOCUMENTS = "tokens.bin", "sentences.bin", "documents.bin"
# Characters that the tokenizer gets at once: enough for all cores, in little memory.
BATCH = 2**21
# Longer lines are tokenised in pieces: the tokenizer takes some hundred bytes a character.
LONGEST = 2**16


def write_tokens(
    path: Path,
    tokenizer: Tokenizer,
    directory: Path,
    dtype: str,
    on_bad_row: OnBadRow,
    progress: tqdm,
) -> list[str]:
    """Writes the three files, and returns where and why lines were skipped."""
    rows = Rows(str(path), on_bad_row)
    with contextlib.closing(_Writer(tokenizer, directory, dtype)) as writer:
        for number, line in _lines(path):
            progress.update(len(line.encode("utf-8", "surrogateescape")))
            if why := not_text(line):
                rows.bad(number, why)
            elif line.isspace():
                writer.document += 1
            else:
                writer.add(line)
        writer.finish()
    return rows.skipped


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if path.stat().st_size:
        return numbered_lines(path)
    warnings.warn(f"{path} is empty", DataWarning, stacklevel=5)
    return iter(())


def pieces(line: str) -> Iterator[str]:
    """A line in parts that can be tokenised apart: cut at spaces, wherever there are any."""
    begin = 0
    while len(line) - begin > LONGEST:
        end = line.rfind(" ", begin + 1, begin + LONGEST)
        end = begin + LONGEST if end < 0 else end
        yield line[begin:end]
        begin = end
    yield line[begin:]


class _Writer:
    """Collects lines into batches for the tokenizer, and writes what comes back."""

    def __init__(self, tokenizer: Tokenizer, directory: Path, dtype: str) -> None:
        self.encode = tokenizer.backend.encode_batch_fast
        self.dtype = dtype
        self.document = 0
        self.written_document = -1
        self.tokens = self.sentences = 0
        self.files = {
            name: (directory / name).open("wb") for name in (TOKENS, SENTENCES, DOCUMENTS)
        }
        self._start_batch()
        self._write(SENTENCES, [0])

    def _start_batch(self) -> None:
        self.pieces: list[str] = []
        self.line_of_piece: list[int] = []
        self.document_of_line: list[int] = []
        self.characters = 0

    def _write(self, name: str, values) -> None:
        dtype = self.dtype if name == TOKENS else "int64"
        self.files[name].write(np.asarray(values).astype(dtype).tobytes())

    def add(self, line: str) -> None:
        for piece in pieces(line):
            self.pieces.append(piece)
            self.line_of_piece.append(len(self.document_of_line))
        self.document_of_line.append(self.document)
        self.characters += len(line)
        if self.characters >= BATCH:
            self._flush()

    def _flush(self) -> None:
        encodings = self.encode(self.pieces, add_special_tokens=False)
        found = windows.flatten(encodings, offsets=False, word_ids=False)
        lines = len(self.document_of_line)
        lengths = np.bincount(self.line_of_piece, found.lengths, lines).astype(np.int64)
        # Some lines have no token: control characters, for instance.
        documents = np.array(self.document_of_line, np.int64)[lengths > 0]
        lengths = lengths[lengths > 0]
        begins = np.flatnonzero(np.diff(documents, prepend=self.written_document))
        self._write(TOKENS, found.ids)
        self._write(SENTENCES, self.tokens + np.cumsum(lengths))
        self._write(DOCUMENTS, self.sentences + begins)
        if len(documents):
            self.written_document = int(documents[-1])
        self.tokens += len(found.ids)
        self.sentences += len(lengths)
        self._start_batch()

    def finish(self) -> None:
        if self.pieces:
            self._flush()
        self._write(DOCUMENTS, [self.sentences])

    def close(self) -> None:
        for file in self.files.values():
            file.close()
