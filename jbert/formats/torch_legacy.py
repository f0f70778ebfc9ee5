"""The container that torch wrote before 1.6: five pickles, then the storages one after another."""

import struct
from typing import Any

from jbert.formats.errors import FormatError, clip
from jbert.formats.mapped import MappedFile
from jbert.formats.restricted_pickle import RESAVE, Unpickler
from jbert.formats.torch_rebuild import Storage

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
AGAIN = "Download or copy the file again, or re-save it with torch.save(model.state_dict(), ...)"


class TorchLegacy:
    """Reads the pickles in order; `root` is the saved object."""

    def __init__(self, file: MappedFile, machine: Unpickler, storages: dict[str, Storage]):
        self.file = file
        magic, position = machine.load(0)
        if type(magic) is not int or magic != MAGIC:
            raise FormatError(
                file.path,
                "a file written by torch.save",
                "a pickle that torch did not write",
                RESAVE,
            )
        protocol, position = machine.load(position)
        if type(protocol) is not int or protocol != PROTOCOL:
            raise _bad(file, f"the protocol version {clip(protocol)}")
        system, position = machine.load(position)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise FormatError(
                file.path,
                "little-endian tensors",
                "another byte order",
                "Load and save the model on a little-endian machine",
            )
        self.root, position = machine.load(position)
        keys, position = machine.load(position)
        self.offsets = self._locate(keys, position, storages)

    def _locate(self, keys: Any, position: int, storages: dict[str, Storage]) -> dict[str, int]:
        if type(keys) is not list or any(type(key) is not str for key in keys):
            raise _bad(self.file, "a list of storages that is not a list of names")
        if len(set(keys)) != len(keys):
            raise _bad(self.file, "a storage that is listed twice")
        if set(keys) != storages.keys():
            odd = sorted(set(keys) ^ storages.keys())[0]
            raise _bad(self.file, f"the storage {clip(odd)} on one side of the pickle alone")
        offsets = {}
        for key in keys:
            (count,) = struct.unpack("<q", self.file.view(position, 8))
            size = storages[key].size
            if count != size // storages[key].kind.itemsize:
                raise _bad(
                    self.file,
                    f"{count} elements in storage {clip(key)}, where the pickle has another number",
                )
            offsets[key] = position + 8
            position += 8 + size
            if position > self.file.size:
                raise self.file.truncated(position)
        if position != self.file.size:
            raise _bad(self.file, f"{self.file.size - position} bytes behind the last storage")
        return offsets


def _bad(file: MappedFile, found: str) -> FormatError:
    return FormatError(file.path, "a torch.save file of the old layout", found, AGAIN)
