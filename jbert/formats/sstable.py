"""LevelDB's sorted table, in which TensorFlow keeps the index of a checkpoint; and snappy."""

import struct
from collections.abc import Iterator

from jbert.formats.crc32c import masked_crc32c
from jbert.formats.errors import FormatError, clip
from jbert.formats.mapped import MappedFile

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER = 48
# An index of BERT-large with its optimizer slots takes a hundred kilobytes.
MAX_TABLE = 1 << 24
MAX_BLOCK = 1 << 24
MAX_ENTRIES = 200_000
# Keys share what they repeat, so without a bound a small table unrolls into a huge one.
MAX_KEY = 1024
MAX_VALUE = 1 << 16
# No snappy element makes more than 64 bytes out of 3.
MAX_SNAPPY_GROWTH = 22
AGAIN = "Download or copy the .index file again"


class Damaged(ValueError):
    """A field that cannot be; the caller adds the file."""


class Reader:
    """A cursor over bytes that refuses to run past their end."""

    def __init__(self, data: bytes):
        self.data = data
        self.position = 0

    @property
    def finished(self) -> bool:
        return self.position >= len(self.data)

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise Damaged("a length that runs past the end of its record")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
        raise Damaged("a number that does not end")


def table_entries(file: MappedFile, check_crc: bool) -> dict[bytes, bytes]:
    """Every key and value of the table, in order."""
    try:
        return dict(_entries(file, check_crc))
    except Damaged as error:
        raise FormatError(file.path, "a TensorFlow checkpoint index", str(error), AGAIN) from error


def _entries(file: MappedFile, check_crc: bool) -> Iterator[tuple[bytes, bytes]]:
    if file.size > MAX_TABLE:
        raise Damaged(f"{file.size} bytes, over the limit of {MAX_TABLE}")
    if file.size < FOOTER or file.read(file.size - 8, 8) != MAGIC:
        raise Damaged("no table footer at the end: the file is truncated or not an index")
    footer = Reader(file.read(file.size - FOOTER, FOOTER - 8))
    _block(file, footer.varint(), footer.varint(), check_crc)  # the meta-index, always empty
    index = _block(file, footer.varint(), footer.varint(), check_crc)
    last, behind, count = None, 0, 0
    for _, handle in _records(index):
        place = Reader(handle)
        offset, size = place.varint(), place.varint()
        # In order and apart, or a small file could name one block without end.
        if offset < behind:
            raise Damaged("blocks that overlap")
        behind = offset + size
        for key, value in _records(_block(file, offset, size, check_crc)):
            if last is not None and key <= last:
                raise Damaged(f"the key {clip(key)} out of order or twice")
            last = key
            count += 1
            if count > MAX_ENTRIES:
                raise Damaged(f"more than {MAX_ENTRIES} entries")
            yield key, value


def _block(file: MappedFile, offset: int, size: int, check_crc: bool) -> bytes:
    if offset + size + 5 > file.size - FOOTER:
        raise Damaged("a block outside the file")
    stored = file.read(offset, size + 1)
    (crc,) = struct.unpack("<I", file.read(offset + size + 1, 4))
    if check_crc and masked_crc32c(stored) != crc:
        raise Damaged(f"a block at byte {offset} whose checksum is wrong: the file is damaged")
    if stored[-1] == 0:
        return stored[:-1]
    if stored[-1] == 1:
        return unsnappy(stored[:-1])
    raise Damaged(f"a block of the unknown compression {stored[-1]}")


def _records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The block's pairs; each key stores only what differs from the key before it."""
    if len(block) < 4:
        raise Damaged("a block without a trailer")
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise Damaged("a block without a trailer")
    reader, key = Reader(block[:end]), b""
    while not reader.finished:
        shared, fresh, length = reader.varint(), reader.varint(), reader.varint()
        if shared > len(key) or shared + fresh > MAX_KEY or length > MAX_VALUE:
            raise Damaged("an entry with lengths that cannot be")
        key = key[:shared] + reader.take(fresh)
        yield key, reader.take(length)


def unsnappy(data: bytes) -> bytes:
    """Decompress one raw snappy block."""
    reader = Reader(data)
    length = reader.varint()
    if length > min(MAX_BLOCK, MAX_SNAPPY_GROWTH * len(data)):
        raise Damaged(f"a snappy block of {len(data)} bytes that claims {length}")
    output = bytearray()
    while not reader.finished:
        tag = reader.take(1)[0]
        count = tag >> 2
        if tag & 3 == 0:
            if count >= 60:
                count = int.from_bytes(reader.take(count - 59), "little")
            output += reader.take(count + 1)
        elif tag & 3 == 1:
            _copy(output, (tag >> 5) << 8 | reader.take(1)[0], (count & 7) + 4)
        else:
            width = 2 if tag & 3 == 2 else 4
            _copy(output, int.from_bytes(reader.take(width), "little"), count + 1)
        if len(output) > length:
            break
    if len(output) != length:
        raise Damaged("a snappy block of another length than it claims")
    return bytes(output)


def _copy(output: bytearray, distance: int, count: int) -> None:
    if not 0 < distance <= len(output):
        raise Damaged("a snappy copy from before the block")
    # The copy may overlap what it writes, which then repeats.
    piece = output[-distance:]
    output += (piece * (count // distance + 1))[:count]
