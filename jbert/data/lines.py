"""The lines of a text file, plain or gzip, each with its number; what is not text is found here."""

import difflib
import gzip
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from jbert.data.table import DataError, DataNotFoundError

GZIP = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
# What a file that is no UTF-8 text starts with, and what that means.
NOT_TEXT = {
    b"\xff\xfe": "UTF-16. Convert it, as with: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16. Convert it, as with: iconv -f UTF-16 -t UTF-8",
    b"PK\x03\x04": "a zip archive. Unpack it",
    b"PAR1": 'parquet. Pass format="parquet"',
    b"version https://git-lfs": "a Git LFS pointer. Fetch the file itself, as with: git lfs pull",
    b"<!DOCTYPE": "a web page. Download the file itself",
    b"<html": "a web page. Download the file itself",
}
LONGEST_START = max(map(len, NOT_TEXT))


def check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path}: expected a file, found a directory. Name one of its files")
    if path.is_file():
        return
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    hint = f"Beside it there is {', '.join(near)}" if near else "Check the path"
    raise DataNotFoundError(f"{path}: there is no such file. {hint}")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines from 1, with their line ends, of plain text or gzip, without a byte order mark.

    What is not UTF-8 is there as lone surrogates. Only a line feed ends a line: a text may hold the
    other separators that Unicode knows.
    """
    check_file(path)
    try:
        with path.open("rb") as file, _unpacked(path, file) as data:
            start = data.peek(LONGEST_START)
            _check_start(path, start)
            if start.startswith(UTF8_BOM):
                data.read(len(UTF8_BOM))
            for number, line in enumerate(data, 1):
                yield number, line.decode("utf-8", "surrogateescape")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: expected a whole gzip file, found it cut short or damaged ({error}). "
            "Copy or download it again"
        ) from error


def _unpacked(path: Path, file: BufferedReader) -> BufferedReader | gzip.GzipFile:
    start = file.peek(len(GZIP))
    if start.startswith(GZIP):
        return gzip.GzipFile(fileobj=file)
    if start and path.suffix == ".gz":
        raise DataError(f"{path}: expected gzip by its name, found something else. Rename it")
    return file


def _check_start(path: Path, start: bytes) -> None:
    if not start:
        raise DataError(f"{path}: expected data, found an empty file. Download or write it")
    for magic, meaning in NOT_TEXT.items():
        if start.startswith(magic):
            raise DataError(f"{path}: expected text in UTF-8, found {meaning}")


def without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def not_text(line: str) -> str | None:
    """Why a line of `numbered_lines` is no text, or None."""
    if "\0" in line:
        return f"expected text, found a NUL byte (character {line.index(chr(0)) + 1})"
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) & 0xFF
        return f"expected UTF-8, found the byte 0x{byte:02x} (character {error.start + 1})"
    return None
