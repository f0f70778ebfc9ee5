"""docs/, README and CONTRIBUTING: their examples are run, page by page and offline, and the
reference names what there is.

In a page, `<!-- file: NAME -->` before a block writes it to a file, and `<!-- not run: REASON -->`
leaves it out. All other Python runs in one namespace a page, in a directory of the page's own, and
so do commands.
"""

import dataclasses
import importlib
import re
import shlex
import shutil
import socket
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest
import stand_ins

import jbert
from jbert.cli import main
from jbert.sharding import make_mesh
from jbert.training import finetune

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
README = "../README.md"
WITH_EXAMPLES = (*PAGES, README, "../CONTRIBUTING.md")
# All that a block may lack here. "elsewhere" says which test or step of .ci/run runs it.
REASONS = (
    "needs a network",
    "needs several machines",
    "installs packages",
    "takes minutes",
    "elsewhere: ",
)
# What a reader of the page has, and the test has to put there.
THEIRS = {"migrating.md": {"my-flax-model": "formats/corpus/tuned/bert"}}
# The pages whose runs use all eight devices.
MESHES = ("scale.md", README)
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>file|not run): (?P<what>.+?) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str
    mark: str | None
    what: str


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text("utf-8")
    return [
        Block(text[: found.start("text")].count("\n"), found["language"], found["text"],
              found["mark"], found["what"] or "")
        for found in FENCE.finditer(text)
    ]  # fmt: skip


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# -- examples ----------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path_factory):
    def refuse(*_):
        raise AssertionError("an example that is run reaches for a network; mark it as not run")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("JBERT_NO_COMPILE_CACHE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("page", [page for page in WITH_EXAMPLES if blocks(page)])
def test_the_examples_of_a_page_run(page, offline, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if page not in MESHES:
        one = make_mesh(devices=jax.devices()[:1])
        monkeypatch.setattr(finetune, "mesh_of", lambda run: (one, run.mesh.rules))
    for name, source in THEIRS.get(page, {}).items():
        shutil.copytree(HERE / source, name)
    names: dict = {"__name__": "__main__"}
    if page == README:
        stand_ins.publish(tmp_path / "hub", monkeypatch)
        names |= stand_ins.belongings(tmp_path)
    for block in blocks(page):
        if block.mark == "not run":
            continue
        if block.mark == "file":
            Path(block.what).write_text(block.text, "utf-8")
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, str(DOCS / page), "exec"), names)
        elif block.language in ("bash", "sh"):
            for words in commands(block.text):
                run(words, f"docs/{page}:{block.line}")


def run(words: list[str], where: str) -> None:
    program, *arguments = words
    if program != "jbert":
        pytest.fail(f"{where}: {program} is not run here; mark the block: <!-- not run: REASON -->")
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code or 0
    assert status == 0, f"{where}: {shlex.join(words)} ended with {status}"


def test_what_is_not_run_says_why():
    left_out = {
        f"docs/{page}:{block.line}: {block.what}"
        for page in WITH_EXAMPLES
        for block in blocks(page)
        if block.mark == "not run" and not block.what.startswith(REASONS)
    }
    assert not left_out, f"expected a reason that begins with one of {REASONS}"


def test_every_mark_stands_before_a_block():
    for page in WITH_EXAMPLES:
        text = (DOCS / page).read_text("utf-8")
        marks = len(re.findall(r"^<!-- (?:file|not run):", text, re.MULTILINE))
        assert marks == sum(block.mark is not None for block in blocks(page)), page
        fences, directives = (
            len(re.findall(start, text, re.MULTILINE)) for start in ("^```", r"^```\{")
        )
        found = 2 * (len(blocks(page)) + directives)
        assert fences == found, f"{page}: a block without a language, or that does not end"


# -- the reference -----------------------------------------------------------------------------


def documented() -> set[str]:
    text = "\n".join(path.read_text("utf-8") for path in (DOCS / "api").glob("*.md"))
    return set(re.findall(r"^\.\. auto(?:function|class|module):: ([\w.]+)", text, re.MULTILINE))


def resolve(name: str):
    for cut in range(name.count(".") + 1, 0, -1):
        parts = name.split(".")
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def test_the_reference_names_what_there_is():
    names = documented()
    assert len(names) > 40
    for name in sorted(names):
        assert resolve(name).__doc__, f"{name} has no docstring"


def test_every_public_name_is_in_the_reference():
    public = {
        f"jbert.{name}"
        for name, value in vars(jbert).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public <= documented()


def test_every_page_is_in_a_list_of_contents():
    listed: set[str] = set()
    toctree = re.compile(r"^```\{toctree\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for page in PAGES:
        for text in toctree.findall((DOCS / page).read_text("utf-8")):
            lines = [line for line in text.splitlines() if line and not line.startswith(":")]
            entries = [re.sub(r".*<(.*)>", r"\1", line) for line in lines]
            listed |= {(Path(page).parent / f"{entry}.md").as_posix() for entry in entries}
    assert listed == set(PAGES) - {"index.md"}


def test_docstrings_become_what_sphinx_reads(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    monkeypatch.delitem(sys.modules, "docstrings", raising=False)
    to_rest = importlib.import_module("docstrings").to_rest
    found = to_rest(["Reads `x_`, *all* of it.", "name: |it|", "      and more", "Then this."])
    assert found == [
        r"Reads ``x_``, \*all\* of it.", "", "``name``", r"    \|it\|", "    and more", "",
        "Then this.",
    ]  # fmt: skip
    assert to_rest(["One.", "", "Args:", "    a, b: two", "        of them"]) == [
        "One.", "", "``a``, ``b``", "    two", "    of them",
    ]  # fmt: skip
