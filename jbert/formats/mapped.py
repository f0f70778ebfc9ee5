"""A file mapped into memory read-only, and numpy arrays over parts of it."""

import mmap
import os
import stat
import weakref
from pathlib import Path

import numpy as np

from jbert.formats.errors import FormatError, WeightsNotFoundError
from jbert.formats.weights import element_count

# Below this the kernel calls to give pages back cost more than the pages.
RELEASE_FROM = 1 << 16
# A page fault maps its neighbours too, up to a large page on either side.
AROUND = 1 << 21
# numpy's own limits: it raises on more dimensions, or on a byte count that overflows a signed word.
MAX_DIMENSIONS = 64
MAX_BYTES = 2**63 - 1


class MappedFile:
    """The bytes of `path`. Every offset and length is checked, in exact integers."""

    def __init__(self, path: Path):
        self.path = path
        try:
            # Checked before opening: open() on a pipe waits for a writer, perhaps for ever.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise FormatError(path, "a file", "not a regular file", "Give the path of a file")
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                if self.size == 0:
                    raise FormatError(
                        path, "weights", "an empty file", "Download or copy the file again"
                    )
                self._map: mmap.mmap | None = mmap.mmap(
                    file.fileno(), self.size, access=mmap.ACCESS_READ
                )
        except FileNotFoundError as error:
            found = "a link to a missing file" if path.is_symlink() else "no such file"
            raise WeightsNotFoundError(
                path, "a weight file", found, "Check the path, or download the file again"
            ) from error
        except (OSError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            reason = getattr(error, "strerror", None) or str(error)
            raise FormatError(
                path, "a readable file", reason, "Check the path and its permissions"
            ) from error

    def close(self) -> None:
        # The mapping itself goes when the last array over it does.
        self._map = None

    def view(self, offset: int, length: int) -> memoryview:
        if self._map is None:
            raise FormatError(
                self.path, "an open file", "a closed one", "Read tensors before closing the weights"
            )
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.truncated(offset + length)
        return memoryview(self._map)[offset : offset + length]

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.view(offset, length))

    def release(self) -> None:
        """Give back the pages that reading headers all over the file has mapped."""
        if self._map is not None:
            _release(self._map, 0, self.size)

    def truncated(self, needed: int) -> FormatError:
        return FormatError(
            self.path,
            f"at least {needed} bytes",
            f"{self.size} bytes: the file is truncated or its lengths are wrong",
            "Download or copy the file again",
        )

    def array(
        self,
        dtype: np.dtype,
        shape: tuple[int, ...],
        offset: int,
        strides: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        """A read-only array of `shape` at `offset`; `strides` in bytes, C order when omitted."""
        if element_count(shape) == 0:
            return _frozen(np.empty(shape, dtype))
        length = element_count(shape) * dtype.itemsize
        if strides is not None:
            reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            length = reach + dtype.itemsize
        stored = flat = np.frombuffer(self.view(offset, length), np.uint8)
        if dtype == np.bool_:
            # Any byte but 0 and 1 breaks numpy's arithmetic on booleans.
            flat = (flat != 0).view(np.uint8)
        elif flat.ctypes.data % dtype.alignment:
            flat = flat.copy()
        if length >= RELEASE_FROM and self._map is not None:
            # Of a copied array the mapped pages go now, else with the last view of them.
            weakref.finalize(stored, _release, self._map, offset, length).atexit = False
        return _frozen(np.ndarray(shape, dtype, buffer=flat, strides=strides))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _release(mapping: mmap.mmap, offset: int, length: int) -> None:
    """Give the pages back: they count as this process's memory until then.

    They are clean pages of a shared mapping, so another array over them reads them again.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = max(0, offset - offset % mmap.PAGESIZE - AROUND)
    try:
        mapping.madvise(mmap.MADV_DONTNEED, start, min(length + 2 * AROUND, len(mapping) - start))
    except (OSError, ValueError):
        pass


def shape_problem(shape: object, itemsize: int) -> str | None:
    """Why numpy could not hold `shape`, or None; a shape is a list or tuple of plain integers."""
    if not isinstance(shape, list | tuple) or any(type(size) is not int for size in shape):
        return "a shape that is not a list of integers"
    if any(size < 0 for size in shape):
        return "a negative size in a shape"
    if len(shape) > MAX_DIMENSIONS:
        return f"a shape of {len(shape)} dimensions"
    if element_count(tuple(max(size, 1) for size in shape)) * itemsize > MAX_BYTES:
        return "a shape whose byte count overflows"
    return None
