"""The zip container of torch 1.6 and later, read strictly.

torch writes one folder of uncompressed, uniquely named entries. Everything else that a zip file can
be (compressed, encrypted, overlapping, spanning, polyglot) is refused before any of it is read, so
nothing can expand and no entry can hide behind another.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from jbert.formats.errors import FormatError, clip
from jbert.formats.mapped import MappedFile

END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
MAX_PICKLE = 1 << 28
ENCRYPTED = 0x1 | 0x40 | 0x2000
AGAIN = "Download or copy the file again, or re-save it with torch.save(model.state_dict(), ...)"


@dataclass(frozen=True)
class Entry:
    name: str
    offset: int
    size: int
    crc: int


class TorchZip:
    """The entries of a torch zip file, found without reading their contents."""

    def __init__(self, file: MappedFile, check_crc: bool):
        self.file = file
        self.check_crc = check_crc
        self._checked: set[str] = set()
        self.entries = {entry.name: entry for entry in _entries(file)}
        self.root = _root(file, list(self.entries))
        self._refuse_big_endian()

    def pickle(self) -> memoryview:
        entry = self.entries[f"{self.root}/data.pkl"]
        if entry.size > MAX_PICKLE:
            raise _bad(self.file, f"a data.pkl of {entry.size} bytes")
        self.verify(entry)
        return self.file.view(entry.offset, entry.size)

    def find(self, key: str, size: int) -> Entry:
        """The entry of one storage, which must have exactly the size that the pickle gives."""
        entry = self.entries.get(f"{self.root}/data/{key}")
        if entry is None:
            raise _bad(self.file, f"no entry for the storage {clip(key)}")
        if entry.size != size:
            raise _bad(
                self.file,
                f"{entry.size} bytes for storage {clip(key)}, where the pickle has {size}",
            )
        return entry

    def verify(self, entry: Entry) -> None:
        """Compare the entry's CRC-32, once; a flipped bit would otherwise be a wrong weight."""
        if not self.check_crc or entry.name in self._checked:
            return
        if zlib.crc32(self.file.view(entry.offset, entry.size)) != entry.crc:
            if entry.crc == 0 and all(other.crc == 0 for other in self.entries.values()):
                raise FormatError(
                    self.file.path,
                    "the checksums that torch.save writes",
                    "none: it was saved with torch.serialization.set_crc32_options(False)",
                    "Pass check_crc=False to read it without this check",
                )
            raise FormatError(
                self.file.path,
                f"CRC-32 {entry.crc:08x} for {clip(entry.name)}",
                "other bytes: the file is damaged",
                "Download or copy the file again (check_crc=False reads it as it is)",
            )
        self._checked.add(entry.name)

    def _refuse_big_endian(self) -> None:
        order = self.entries.get(f"{self.root}/byteorder")
        if order is not None:
            self.verify(order)
            if order.size > 16 or self.file.read(order.offset, order.size) != b"little":
                raise FormatError(
                    self.file.path,
                    "little-endian tensors",
                    "another byte order",
                    "Load and save the model on a little-endian machine",
                )


def _root(file: MappedFile, names: list[str]) -> str:
    """The one folder that everything lies in."""
    roots = [name[: -len("/data.pkl")] for name in names if name.endswith("/data.pkl")]
    roots = [root for root in roots if "/" not in root]
    if len(roots) > 1:
        raise _bad(file, f"{len(roots)} pickles in one archive")
    if not roots:
        kind = "a NumPy archive" if any(n.endswith(".npy") for n in names) else "another zip file"
        raise FormatError(
            file.path,
            "a torch.save archive with a data.pkl",
            kind,
            "Give the pytorch_model.bin or model.safetensors inside it, unpacked",
        )
    outside = [name for name in names if not name.startswith(roots[0] + "/")]
    if outside:
        raise _bad(file, f"the entry {clip(outside[0])} outside the archive's folder")
    return roots[0]


def _entries(file: MappedFile) -> list[Entry]:
    position, end, count = _directory(file)
    records = list(_central_records(file, position, end))
    if len(records) != count:
        raise _bad(file, f"{len(records)} entries where {count} are declared")
    # Asked first, since such an archive compresses its code.
    if any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", record[0]) for record in records):
        raise FormatError(
            file.path,
            "a state dict",
            "a TorchScript archive",
            "Save the weights alone: torch.save(torch.jit.load(path).state_dict(), ...)",
        )
    entries: list[Entry] = []
    used: list[tuple[int, int]] = []
    names: set[str] = set()
    for name, method, flags, crc, packed, size, local in records:
        _check_kind(file, name, method, flags, packed, size)
        if name in names:
            raise _bad(file, f"two entries named {clip(name)}")
        names.add(name)
        start = _data_start(file, name, local)
        if start + size > position:
            raise _bad(file, f"the entry {clip(name)}, which runs into the zip directory")
        used.append((local, start + size))
        if not name.endswith("/"):
            entries.append(Entry(name, start, size, crc))
        elif size:
            raise _bad(file, f"a folder {clip(name)} with contents")
    used.sort()
    if any(left[1] > right[0] for left, right in zip(used, used[1:], strict=False)):
        raise _bad(file, "entries that overlap")
    return entries


def _directory(file: MappedFile) -> tuple[int, int, int]:
    """(start, end, number of entries) of the central directory."""
    at = _end_record(file)
    _, disk, first, here, count, size, offset, _ = END.unpack(file.view(at, END.size))
    end = at
    locator_at = at - END64_LOCATOR.size
    if locator_at >= 0 and file.read(locator_at, 4) == b"PK\x06\x07":
        _, _, end, _ = END64_LOCATOR.unpack(file.view(locator_at, END64_LOCATOR.size))
        if end + END64.size > locator_at or file.read(end, 4) != b"PK\x06\x06":
            raise _bad(file, "a zip64 record that is not where it should be")
        fields = END64.unpack(file.view(end, END64.size))
        disk, first, here, count, size, offset = fields[4:]
    if disk or first or here != count:
        raise _bad(file, "one part of a zip split over several files")
    if offset + size != end:
        raise _bad(file, "a zip directory that does not end where its records begin")
    return offset, end, count


def _end_record(file: MappedFile) -> int:
    start = max(0, file.size - END.size - 0xFFFF)
    tail = file.read(start, file.size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        raise _bad(file, "no zip directory at the end: the file is truncated")
    comment = END.unpack_from(tail, at)[7]
    if at + END.size + comment != len(tail):
        raise _bad(file, "bytes behind the end of the zip archive")
    return start + at


def _central_records(file: MappedFile, position: int, end: int) -> Iterator[tuple]:
    while position < end:
        if end - position < CENTRAL.size or file.read(position, 4) != b"PK\x01\x02":
            raise _bad(file, "a damaged zip directory")
        fields = CENTRAL.unpack(file.view(position, CENTRAL.size))
        _, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size = fields[:12]
        comment_size, disk, _, _, local = fields[12:]
        stop = position + CENTRAL.size + name_size + extra_size + comment_size
        if stop > end:
            raise _bad(file, "a damaged zip directory")
        name = _name(file, file.read(position + CENTRAL.size, name_size))
        extra = file.read(position + CENTRAL.size + name_size, extra_size)
        size, packed, local, disk = _widen(file, extra, size, packed, local, disk)
        if disk:
            raise _bad(file, "one part of a zip split over several files")
        yield name, method, flags, crc, packed, size, local
        position = stop


def _widen(
    file: MappedFile, extra: bytes, size: int, packed: int, local: int, disk: int
) -> tuple[int, int, int, int]:
    """Replace the fields that a zip64 extra record carries in 64 bits."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind != 1:
            continue
        wide = [size == 0xFFFFFFFF, packed == 0xFFFFFFFF, local == 0xFFFFFFFF]
        if len(body) < 8 * sum(wide):
            raise _bad(file, "a damaged zip64 record")
        values = iter(struct.unpack_from(f"<{sum(wide)}Q", body))
        size = next(values) if wide[0] else size
        packed = next(values) if wide[1] else packed
        local = next(values) if wide[2] else local
        return size, packed, local, 0 if disk == 0xFFFF else disk
    return size, packed, local, disk


def _name(file: MappedFile, raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(file, f"an entry name that is not UTF-8, {clip(raw)}") from error
    parts = name.removesuffix("/").split("/")
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise _bad(file, f"the unsafe entry name {clip(name)}")
    return name


def _check_kind(
    file: MappedFile, name: str, method: int, flags: int, packed: int, size: int
) -> None:
    if flags & ENCRYPTED:
        raise FormatError(
            file.path,
            "a plain torch.save archive",
            "an encrypted zip file",
            "Decrypt it first; the reader never asks for a password",
        )
    if method != 0 or packed != size:
        raise _bad(file, f"the compressed entry {clip(name)} (torch.save never compresses)")


def _data_start(file: MappedFile, name: str, local: int) -> int:
    if local + LOCAL.size > file.size or file.read(local, 4) != b"PK\x03\x04":
        raise _bad(file, f"no local header for {clip(name)}")
    fields = LOCAL.unpack(file.view(local, LOCAL.size))
    flags, method, name_size, extra_size = fields[2], fields[3], fields[9], fields[10]
    if flags & ENCRYPTED or method != 0:
        raise _bad(file, f"two headers for {clip(name)} that disagree")
    if file.read(local + LOCAL.size, name_size) != name.encode():
        raise _bad(file, f"two names for the entry {clip(name)}")
    return local + LOCAL.size + name_size + extra_size


def _bad(file: MappedFile, found: str) -> FormatError:
    return FormatError(file.path, "a torch.save zip archive", found, AGAIN)
