"""What kind of weights a path holds, judged by its first bytes; a suffix is only a claim."""

import re
import struct
from pathlib import Path

from jbert.formats.errors import FormatError, WeightsNotFoundError, clip, listing
from jbert.formats.mapped import MappedFile
from jbert.formats.safetensors import MAX_HEADER
from jbert.formats.sstable import MAGIC as TABLE_MAGIC

# What a directory is searched for, best first.
PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)
TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle")
CLAIMS = {".safetensors": "safetensors", ".msgpack": "flax", ".index": "tf"}
READ = "safetensors, PyTorch .bin, Flax .msgpack, TensorFlow .ckpt.index or a *.index.json"

FOREIGN = {
    b"\x89HDF\r\n\x1a\n": ("a Keras HDF5 file", "Use the checkpoint's safetensors or .bin file"),
    b"GGUF": ("a GGUF file", "Use the original checkpoint, before it was converted"),
    b"\x93NUMPY": ("a NumPy array", "Save the weights as safetensors"),
    b"\x1f\x8b": ("a gzip archive", "Unpack it and give the file inside"),
    b"BZh": ("a bzip2 archive", "Unpack it and give the file inside"),
    b"\xfd7zXZ\x00": ("an xz archive", "Unpack it and give the file inside"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "Unpack it and give the file inside"),
    b"Rar!": ("a rar archive", "Unpack it and give the file inside"),
    b"\x28\xb5\x2f\xfd": ("a zstandard archive", "Unpack it and give the file inside"),
}
HEAD = 1024
# White space and the UTF-8 byte order mark.
BLANK = b" \t\r\n\xef\xbb\xbf"
LFS = b"version https://git-lfs"
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error", b"<!--")


def kind_of(path: Path) -> str:
    """One of "safetensors", "torch", "flax", "tf", "index", or a FormatError that says why not."""
    file = MappedFile(path)
    refuse_not_downloaded(file)
    head = file.read(0, min(file.size, HEAD))
    found = _by_content(file, head)
    file.close()
    claim = next((kind for suffix, kind in CLAIMS.items() if path.name.endswith(suffix)), None)
    if found is None:
        # The reader that the name asks for explains best what is wrong with the contents.
        found = claim or ("torch" if _may_be_old_pickle(path, head) else None)
    if found is None:
        raise FormatError(
            path, READ, f"a file that begins with {clip(head[:16])}", "Check the path"
        )
    if claim is not None and found != claim:
        raise FormatError(
            path,
            f"a {claim} file, as its name says",
            f"the contents of a {found} file",
            "Do not trust it; if it is meant, give it the name of what it is",
        )
    return found


def _by_content(file: MappedFile, head: bytes) -> str | None:
    for magic, (what, action) in FOREIGN.items():
        if head.startswith(magic):
            raise FormatError(file.path, READ, what, action)
    if head[257:262] == b"ustar":
        action = "If torch.save wrote it, load it with that torch and save it again; else unpack it"
        raise FormatError(
            file.path, READ, "a tar archive (torch before 0.1.10 wrote those)", action
        )
    if file.size >= 48 and file.read(file.size - 8, 8) == TABLE_MAGIC:
        return "tf"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "torch"
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] <= MAX_HEADER:
        return "safetensors"
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "torch"
    # Protocols 0 and 1 have no header; those that name a global first are worth recognising.
    if re.match(rb"[(\]}]{0,3}[ci][\w.]+\n[\w.]+\n", head):
        return "torch"
    if head.lstrip(BLANK)[:1] in (b"{", b"["):
        return "index"
    if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return "flax"
    return None


def _may_be_old_pickle(path: Path, head: bytes) -> bool:
    """Protocols 0 and 1 have no header, so here the name counts; the machine says what it asks."""
    return path.name.endswith(TORCH_SUFFIXES) and head[:1] in (b"(", b"c", b"]", b"}", b"l", b"d")


def refuse_not_downloaded(file: MappedFile) -> None:
    path = file.path
    text = file.read(0, min(file.size, HEAD)).lstrip(BLANK).lower()
    if text.startswith(LFS):
        raise FormatError(
            path,
            "weights",
            "a Git LFS pointer: the file was not downloaded",
            "Run `git lfs pull` in the repository, or download the file itself",
        )
    answers = (b'{"error"', b"entry not found", b"repository not found", b"access to model")
    if text.startswith(MARKUP + answers):
        raise FormatError(
            path,
            "weights",
            "a web page or a server's error message: the file was not downloaded",
            "Download it again, and check that the address and your access to it are right",
        )


def find_weights(directory: Path) -> Path:
    """The weights in a directory: safetensors, else .bin, else Flax, else a TensorFlow index."""
    try:
        names = {entry.name for entry in directory.iterdir()}
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(directory, "a readable directory", reason, "Check its rights") from error
    for name in PREFERRED:
        if name in names:
            return directory / name
    tables = sorted(name for name in names if name.endswith(".index"))
    if len(tables) == 1:
        return directory / tables[0]
    if tables:
        raise FormatError(
            directory,
            "one checkpoint",
            f"several: {listing(tables)}",
            "Give the path of one of them",
        )
    others = [
        name
        for name in names
        if name.endswith((".safetensors", ".h5", ".msgpack", ".onnx", ".ot", *TORCH_SUFFIXES))
    ]
    found = f"only {listing(others)}" if others else "no weights"
    raise WeightsNotFoundError(
        directory,
        f"one of {', '.join(PREFERRED)} or a TensorFlow *.ckpt.index",
        found,
        "Give the path of the weight file itself"
        if others
        else "Check the path, or download again",
    )
