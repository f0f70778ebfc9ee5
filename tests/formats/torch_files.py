"""Builds torch files byte by byte, so that tests can lie in any field without having torch."""

import io
import struct
import warnings
import zipfile
from collections.abc import Sequence

MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}(X\x0d\x00\x00\x00little_endian\x88u."


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def integers(values: Sequence[int]) -> bytes:
    return tuple_(*map(integer, values))


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_(*arguments) + b"R"


def storage(
    key: str = "0", count: int = 6, kind: str = "FloatStorage", view: bytes | None = None
) -> bytes:
    """A persistent id; `view` adds the sixth item of the old layout."""
    items = [text("storage"), name("torch", kind), text(key), text("cpu"), integer(count)]
    return tuple_(*items, *([] if view is None else [view])) + b"Q"


def tensor(
    stored: bytes | None = None,
    offset: bytes = integer(0),
    shape: bytes = integers((2, 3)),
    strides: bytes = integers((3, 1)),
    *more: bytes,
) -> bytes:
    hooks = call(name("collections", "OrderedDict"))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    stored = storage() if stored is None else stored
    return call(rebuild, stored, offset, shape, strides, b"\x89", hooks, *more)


def table(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


DATA = struct.pack("<6f", *range(6))
STATE = pickled(table(w=tensor()))


def zipped(
    pickle: bytes = STATE,
    storages: dict[str, bytes] | None = None,
    extra: Sequence[tuple[str, bytes]] = (),
    compression: int = zipfile.ZIP_STORED,
    root: str = "archive",
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of duplicate names
        archive.writestr(f"{root}/data.pkl", pickle)
        for key, data in ({"0": DATA} if storages is None else storages).items():
            archive.writestr(f"{root}/data/{key}", data)
        for entry, data in extra:
            archive.writestr(entry, data)
    return buffer.getvalue()


def legacy(
    pickle: bytes | None = None,
    keys: Sequence[str] = ("0",),
    storages: bytes | None = None,
    magic: bytes = MAGIC,
    protocol: bytes = PROTOCOL,
    system: bytes = SYSTEM,
    listed: bytes | None = None,
) -> bytes:
    if pickle is None:
        pickle = pickled(table(w=tensor(storage(view=b"N"))))
    if storages is None:
        storages = struct.pack("<q", 6) + DATA
    if listed is None:
        listed = pickled(b"](" + b"".join(map(text, keys)) + b"e")
    return magic + protocol + system + pickle + listed + storages
