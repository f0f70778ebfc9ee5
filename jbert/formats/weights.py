"""What every reader returns: tensors of known name and shape whose bytes are not yet read."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np


class Closeable(Protocol):
    def close(self) -> None: ...


class Tensor:
    """One stored tensor: `name`, `shape` and `dtype` cost nothing, `read` fetches the bytes.

    Two tensors of a file with equal `storage` are views of the same stored bytes: tied weights,
    or slices of one buffer.
    """

    __slots__ = ("name", "shape", "dtype", "storage", "_load")

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        load: Callable[[], np.ndarray],
        storage: Hashable,
    ):
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.storage = storage
        self._load = load

    @property
    def size(self) -> int:
        return element_count(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The values, read-only: a view of the mapped file where its alignment allows, else a copy.

        A view may be strided, stays valid after the file is closed, and gives its memory back
        when it is deleted; the file must not be modified while a view of it lives.
        """
        return self._load()

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, shape={self.shape}, dtype={self.dtype})"


class Weights(Mapping[str, Tensor]):
    """The tensors of one checkpoint under the names that the file gives them.

    `source` is the file that was opened (the index, for sharded weights), `format` is one of
    "safetensors", "torch", "flax", "tf", and `metadata` holds the file's own notes, if any.
    """

    def __init__(
        self,
        source: Path,
        format: str,
        tensors: Mapping[str, Tensor],
        files: tuple[Closeable, ...],
        metadata: Mapping[str, str] | None = None,
    ):
        self.source = source
        self.format = format
        self.metadata = dict(metadata or {})
        self._tensors = dict(tensors)
        self._files = files

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def close(self) -> None:
        """Let go of the files. Arrays already read stay valid; reading more raises."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Weights {self.source} ({self.format}, {len(self)} tensors)>"


def element_count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
