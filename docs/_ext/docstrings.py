"""Docstrings as this package writes them, made into what Sphinx reads.

They are plain text, in which `code` stands between single backticks and a line that begins with
"name:" or "name, other:" says what an argument or a field is.
"""

import re
from collections.abc import Iterator

_ENTRY = re.compile(r"(\w+(?:, \w+)*):\s+(?=\S)")
_CODE = re.compile(r"(`+[^`]+`+)")
_MARKUP = re.compile(r"([\\*|]|_(?!\w))")


def setup(app):
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}


def _process(app, what, name, obj, options, lines):
    lines[:] = to_rest(lines)


def to_rest(lines: list[str]) -> list[str]:
    """Entries as definitions, with an empty line where they begin and end."""
    result: list[str] = []
    before = ""
    for kind, line in _translated(lines):
        if {kind, before} == {"entry", "text"}:
            result.append("")
        result.append(line)
        before = kind
    return result


def _translated(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each line, and whether it is text, of an entry, or empty. What hangs below an entry goes on
    with it, and `Args:` is only a heading."""
    in_entry, heading = False, False
    for line in lines:
        text = line.strip()
        if text == "Args:":
            heading = True
            continue
        depth = len(line) - len(line.lstrip())
        shallow = depth == 0 or (heading and depth == 4)
        entry = _ENTRY.match(text) if shallow else None
        if not text:
            yield "", ""
        elif entry:
            in_entry = True
            yield "entry", ", ".join(f"``{name}``" for name in entry[1].split(", "))
            yield "entry", f"    {_plain(text[entry.end() :])}"
        elif in_entry and not shallow:
            yield "entry", f"    {_plain(text)}"
        else:
            in_entry = False
            yield "text", _plain(text)


def _plain(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(
        f"``{part.strip('`')}``" if number % 2 else _MARKUP.sub(r"\\\1", part)
        for number, part in enumerate(parts)
    )
