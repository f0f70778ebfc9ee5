"""The TPU chips there are, and the slices of them that can be rented."""

import dataclasses
import difflib
import math

GIB = 2**30


class PlanError(ValueError):
    """A plan that cannot be made as it was asked for."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a generation offers, per device: a program sees two devices on a chip of some.

    flops:        of bfloat16 products, a second, as published.
    memory:       bytes of HBM that the compiler lets a program have, a little below the published.
    bandwidth:    bytes a second between HBM and the chip, as published.
    links:        bytes a second that the device sends to its neighbours over all of its links.
    clock:        cycles a second, in which the compiler states what each operation takes. It is
                  what makes the published FLOPs of the matrix units' flops a cycle.
    shapes:       of the slices.
    optimal_seconds: whether the compiler's figure of this name has been seen to be plausible.
    megacore:     two cores that work as one device, which the compiler has to be told.
    cores:        of a device.
    tile:         rows and columns of a matrix unit.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float
    clock: float
    shapes: tuple[str, ...]
    devices_per_chip: int = 1
    optimal_seconds: bool = False
    megacore: bool = False
    cores: int = 1
    tile: int = 128


_SQUARES = ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32")
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
)  # fmt: skip

# Published: cloud.google.com/tpu/docs, and of v2 and v3 Jouppi et al., CACM 63 (7), 2020.
CHIPS: dict[str, Chip] = {
    "v2": Chip(22.5e12, 7.48 * GIB, 350e9, 124e9, 0.70e9, _SQUARES[:6], 2),
    "v3": Chip(61.5e12, 15.48 * GIB, 450e9, 164e9, 0.94e9, _SQUARES, 2),
    "v4": Chip(
        275e12, 30.75 * GIB, 1228e9, 300e9, 1.05e9, _CUBES, megacore=True, cores=2
    ),
    "v5e": Chip(197e12, 15.75 * GIB, 819e9, 200e9, 1.50e9, _FLAT),
    "v5p": Chip(
        459e12, 95.74 * GIB, 2765e9, 600e9, 1.75e9, _CUBES, optimal_seconds=True, cores=2
    ),
    "v6e": Chip(918e12, 31.25 * GIB, 1640e9, 400e9, 1.75e9, _FLAT, tile=256),
    "tpu7x": Chip(1153e12, 94.75 * GIB, 3690e9, 600e9, 2.20e9, _CUBES, 2, tile=256),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some chips of one generation, wired as `shape` says: v5e:2x4 is eight of them."""

    generation: str
    shape: str

    @property
    def name(self) -> str:
        return f"{self.generation}:{self.shape}"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        return math.prod(int(size) for size in self.shape.split("x"))

    @property
    def devices(self) -> int:
        return self.chips * self.chip.devices_per_chip


def slice_of(name: str) -> Slice:
    """The slice of that name, or an error that lists those there are.

    v5e:2x4 is a generation and a shape; v5litepod-8, v6e-8 and v5p-8 are what the cloud calls
    slices, by chips or, up to v5p, by cores.
    """
    asked = name.strip().lower().replace("v7x", "tpu7x").replace("v5litepod", "v5e")
    generation, colon, shape = asked.partition(":")
    if not colon:
        generation, shape = _by_number(asked)
    if generation in CHIPS and shape in CHIPS[generation].shapes:
        return Slice(generation, shape)
    if generation in CHIPS and _is_torus(CHIPS[generation], shape):
        return Slice(generation, shape)
    known = [f"{one}:{size}" for one, chip in CHIPS.items() for size in chip.shapes]
    near = difflib.get_close_matches(asked, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    rows = "\n".join(f"  {one}: {', '.join(chip.shapes)}" for one, chip in CHIPS.items())
    raise PlanError(
        f"topology {name!r}{hint}: expected a generation and the shape of a slice, such as "
        f"v5e:2x4; there are\n{rows}\nand of those in three dimensions any other that is made of "
        "blocks of 4x4x4 chips, such as v5p:4x4x12"
    )


def _by_number(name: str) -> tuple[str, str]:
    """The shape with so many chips or cores; "" where there is none."""
    generation, _, number = name.rpartition("-")
    if generation not in CHIPS or not number.isdecimal():
        return name, ""
    chips = int(number) // (2 if generation in ("v2", "v3", "v4", "v5p") else 1)
    shapes = {Slice(generation, shape).chips: shape for shape in CHIPS[generation].shapes}
    return generation, shapes.get(chips, "")


def _is_torus(chip: Chip, shape: str) -> bool:
    """Whether a shape is made of the blocks of 4 × 4 × 4 chips of which large slices are."""
    sizes = shape.split("x")
    if chip.shapes is not _CUBES or len(sizes) != 3 or not all(map(str.isdecimal, sizes)):
        return False
    blocks = [int(size) for size in sizes]
    return blocks == sorted(blocks) and all(size and size % 4 == 0 for size in blocks)
