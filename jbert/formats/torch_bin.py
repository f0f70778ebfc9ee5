"""The reader of `pytorch_model.bin`: a pickled state dict in either of torch's containers.

A file may hold more than a state dict. If one of the usual keys of a training checkpoint
(`WRAPPERS`) leads to a dict with tensors in it, that is the state dict; otherwise the whole object
is taken, nested dicts and lists flattened with dots. Values that are no tensors have no name here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jbert.formats.errors import FormatError, clip, listing
from jbert.formats.mapped import MappedFile
from jbert.formats.restricted_pickle import RESAVE, Refused, Unpickler, type_of
from jbert.formats.torch_legacy import TorchLegacy
from jbert.formats.torch_rebuild import Storage, StorageClass, TensorLayout, find_global
from jbert.formats.torch_zip import TorchZip
from jbert.formats.weights import Tensor, Weights

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
MAX_DEPTH = 64
# Parts may be shared, so a small pickle can describe an endless tree.
MAX_NODES = 500_000
MAX_TENSORS = 100_000
MAX_NAME = 512
# Expanded and tied tensors may describe more than the file holds, but not without bound.
GROWTH = 8
SMALL = 1 << 26


def open_torch(path: Path, check_crc: bool = True) -> Weights:
    file = MappedFile(path)
    storages: dict[str, Storage] = {}
    zipped = file.size >= 2 and file.read(0, 2) == b"PK"

    def find_storage(identity: Any) -> Storage:
        return _storage(identity, storages, zipped)

    if zipped:
        archive = TorchZip(file, check_crc)
        machine = Unpickler(path, archive.pickle(), find_global, find_storage)
        root, end = machine.load()
        if end != len(machine.data):
            raise _bad(path, "bytes behind the end of data.pkl")
        entries = {key: archive.find(key, storage.size) for key, storage in storages.items()}
        offsets = {key: entry.offset for key, entry in entries.items()}

        def verify(key: str) -> None:
            archive.verify(entries[key])
    else:
        machine = Unpickler(path, file.view(0, file.size), find_global, find_storage)
        legacy = TorchLegacy(file, machine, storages)
        root, offsets = legacy.root, legacy.offsets

        def verify(key: str) -> None:
            """The old layout carries no checksums."""

    layouts = _name_tensors(path, root)
    _check_growth(file, layouts)
    tensors = {}
    for name, layout in layouts.items():

        def load(layout: TensorLayout = layout) -> np.ndarray:
            verify(layout.storage.key)
            start = offsets[layout.storage.key] + layout.start
            return file.array(layout.dtype, layout.shape, start, layout.strides)

        identity = (str(path), layout.storage.key)
        tensors[name] = Tensor(name, layout.shape, layout.dtype, load, identity)
    file.release()
    return Weights(path, "torch", tensors, (file,))


def _storage(identity: Any, storages: dict[str, Storage], zipped: bool) -> Storage:
    """('storage', class, key, device, count), and in the old layout a view of it or None."""
    length = 5 if zipped else 6
    if type(identity) is not tuple or len(identity) != length or identity[0] != "storage":
        raise Refused("a persistent object that is not a storage")
    _, kind, key, _, count = identity[:5]
    if not isinstance(kind, StorageClass) or type(key) is not str or "/" in key:
        raise Refused("a storage without a class and a key")
    if type(count) is not int or count < 0:
        raise Refused(f"a storage of {clip(count)} elements")
    storage = Storage(key, kind, count * kind.itemsize)
    known = storages.setdefault(key, storage)
    if (known.kind, known.size) != (storage.kind, storage.size):
        raise Refused(f"the storage {clip(key)} described in two ways")
    if zipped or identity[5] is None:
        return storage
    view = identity[5]
    if type(view) is not tuple or len(view) != 3 or any(type(n) is not int for n in view[1:]):
        raise Refused("a storage view that is not a key, an offset and a size")
    start, size = view[1] * kind.itemsize, view[2] * kind.itemsize
    if start < 0 or size < 0 or start + size > storage.size:
        raise Refused(f"a view that reaches outside the storage {clip(key)}")
    return Storage(key, kind, size, start)


def _name_tensors(path: Path, root: Any) -> dict[str, TensorLayout]:
    if not isinstance(root, dict):
        raise _bad(path, f"{type_of(root)} at the top")
    found: dict[str, TensorLayout] = {}
    for name, layout in _walk(path, _state_dict(path, root)):
        if name in found:
            raise _bad(path, f"two tensors that would both be called {clip(name)}")
        if len(found) == MAX_TENSORS:
            raise _bad(path, f"more than {MAX_TENSORS} tensors")
        found[name] = layout
    if root and not found:
        raise _bad(path, f"no tensor under the keys {listing(root)}")
    return found


def _state_dict(path: Path, root: dict[Any, Any]) -> dict[Any, Any]:
    candidates = {
        key: root[key]
        for key in WRAPPERS
        if isinstance(root.get(key), dict)
        and any(isinstance(value, TensorLayout) for value in root[key].values())
    }
    if len({id(value) for value in candidates.values()}) > 1:
        raise _bad(path, f"several state dicts, under the keys {listing(candidates)}")
    return next(iter(candidates.values()), root)


def _walk(path: Path, root: dict[Any, Any]) -> Iterator[tuple[str, TensorLayout]]:
    """Every tensor below `root` with its dotted name, in stored order."""
    nodes = 0
    pending: list[tuple[str, Any, int]] = [("", root, 0)]
    while pending:
        prefix, value, depth = pending.pop()
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise _bad(path, "objects nested too deeply, or inside themselves")
        if isinstance(value, TensorLayout):
            yield prefix, value
            continue
        nodes += len(value)
        children = value.items() if isinstance(value, dict) else enumerate(value)
        inner = [
            (f"{prefix}.{key}" if depth else str(key), child, depth + 1)
            for key, child in children
            if isinstance(child, TensorLayout | dict | list | tuple)
        ]
        if any(len(name) > MAX_NAME for name, _, _ in inner):
            raise _bad(path, f"a tensor's name of more than {MAX_NAME} characters")
        pending.extend(reversed(inner))


def _check_growth(file: MappedFile, layouts: dict[str, TensorLayout]) -> None:
    total = sum(layout.nbytes for layout in layouts.values())
    if total > GROWTH * file.size + SMALL:
        raise FormatError(
            file.path,
            f"tensors of about the file's {file.size} bytes",
            f"expanded tensors that would take {total} bytes",
            "Save contiguous tensors: {name: tensor.contiguous() for ...}",
        )


def _bad(path: Path, found: str) -> FormatError:
    return FormatError(path, "a state dict (names to tensors)", found, RESAVE)
