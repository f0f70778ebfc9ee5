"""JSON from strangers: UTF-8, no duplicate keys, and every way of failing is one exception."""

import json
import re
from typing import Any

from jbert.formats.errors import clip

HALF = re.compile("[\ud800-\udfff]")


class JsonError(ValueError):
    """The text is not JSON, or says one thing twice."""


def parse(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except JsonError:
        raise
    except UnicodeDecodeError as error:
        raise JsonError("text that is not UTF-8") from error
    except RecursionError as error:
        raise JsonError("JSON nested too deeply") from error
    except MemoryError as error:
        raise JsonError("JSON too large for memory") from error
    except ValueError as error:
        raise JsonError(f"text that is not JSON ({clip(str(error))})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Parsers disagree on which of two equal keys counts, so a file could mean two things.
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise JsonError(f"the key {clip(twice)} twice")
    # An escaped half of a surrogate pair is a string that cannot be printed or saved.
    half = next((key for key in result if HALF.search(key)), None)
    if half is not None:
        raise JsonError(f"the key {clip(half)}, which is not Unicode")
    return result


def _refuse(constant: str) -> None:
    raise JsonError(f"the constant {constant}, which is not JSON")
