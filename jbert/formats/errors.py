"""What the readers raise: one line with the file, what was expected, what was found, what to do."""

from collections.abc import Iterable
from pathlib import Path


class FormatError(ValueError):
    """A weight file is damaged, hostile, or of a kind that is not read."""

    def __init__(self, file: str | Path, expected: str, found: str, action: str):
        super().__init__(str(file), expected, found, action)
        self.file = Path(file)
        self.expected = expected
        self.found = found
        self.action = action

    def __str__(self) -> str:
        return f"{self.file}: expected {self.expected}; found {self.found}. {self.action}."


class WeightsNotFoundError(FormatError, FileNotFoundError):
    """The path, or a file that it refers to, does not exist."""


def clip(text: object, limit: int = 120) -> str:
    """`text` made safe for an error message: one line, printable ASCII, bounded."""
    shown = ascii(text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def listing(names: Iterable[object], limit: int = 20) -> str:
    """The names, sorted and quoted; all of them up to `limit`, then how many more."""
    ordered = sorted(map(str, names))
    shown = ", ".join(clip(name) for name in ordered[:limit])
    return shown + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")
