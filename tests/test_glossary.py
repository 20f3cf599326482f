"""The words of docs/glossary.md: no retired word is part of a name, and each
public class has its own."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGINS = tuple(
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.glob("plugins/*/imserver_*"))
)
PACKAGES = ("imserver", "imserver_client", "bench")
FOLDERS = (*PACKAGES, *PLUGINS, "tools", "tests")
ALLOWED = {
    "PlaceMsg": "the schema of the protobuf dialect",
    "_keep_files_in_memory": "the usual meaning",
    "_keep_running": "the usual meaning",
    "held_bytes": "a size, and an adjective",
    "keep_alive": "HTTP",
    "keep_alive_response": "HTTP",
    "keep_blank_values": "urllib",
    "keep_folder": "the usual meaning",
    "noted_id": "a column",
}
"""Names with a retired word → why they have it."""
ALLOWED_IN = {
    ("asked", "backends/webhooks/"): "metrics end in _asked_total",
    ("place", "imserver/dialects/protobuf/wire.py"): "a field of the protobuf dialect",
    ("tell", "plugins/arrivals/imserver_arrivals/"): "the position in a file of io",
    (
        "keep_talks",
        "tests/messenger/messages/test_retention.py",
    ): "an old name of a setting",
}
"""Names with a retired word, and where they may be → why."""
RETIRED_IN_TESTS = {
    "comer",
    "courier",
    "door",
    "doors",
    "intake",
    "rig",
    "told",
    "world",
}
_CODE = re.compile(
    r"""[rRbBuUfF]{0,2}(?P<long>\"{3}|'{3})(?:\\.|(?!(?P=long)).)*(?P=long)"""
    r"""|[rRbBuUfF]{0,2}(?P<quote>["'])(?:\\.|(?!(?P=quote))[^\\\n])*(?P=quote)"""
    r"""|\#[^\n]*|(?P<name>[^\W\d]\w*)""",
    re.DOTALL,
)
"""A string, a comment or a word of code."""


@cache
def _retired() -> set[str]:
    """The single words in the last column of the glossary's tables: names of
    classes, and lower-case words that are no part of a name.

    Words that are retired for one meaning only, "peer (of a client)", are left
    out.
    """
    found: set[str] = set()
    for line in (ROOT / "docs/glossary.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3:
            found |= {
                word for word in cells[2].split(", ") if re.fullmatch("[A-Za-z]+", word)
            }
    return found - {"retired"}  # the head of the column


def _sources(folder: str) -> Iterator[tuple[str, str]]:
    """Path and text of the modules of a folder that were not generated."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if path.relative_to(ROOT / folder).parts[0] != "build" and not name.endswith(
            "_pb2.py"
        ):
            yield name, path.read_text(encoding="utf-8")


def _words(name: str) -> set[str]:
    """``StoredPush``, ``_STORED_PUSH`` and ``stored_push`` → stored, push."""
    return {word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


@cache
def _public_classes(package: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path, text in _sources(package):
        for name in re.findall(r"^class ([A-Za-z]\w*)", text, re.MULTILINE):
            found[name].append(path)
    return found


def test_retired_words_name_no_class() -> None:
    assert {"AckWheel", "talk"} <= _retired()
    names = {name for package in PACKAGES for name in _public_classes(package)}
    assert names & _retired() == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_retired_words_are_no_part_of_a_name(folder: str) -> None:
    """Of a function, class, argument, variable, attribute or setting. Names of
    tests are sentences."""
    retired = {word for word in _retired() if word.islower()}
    assert {"asked", "place", "keep"} <= retired
    wrong: dict[str, list[str]] = defaultdict(list)
    for path, text in _sources(folder):
        for name in (
            {match["name"] for match in _CODE.finditer(text)} - ALLOWED.keys() - {None}
        ):
            if _words(name) & retired and not name.startswith("test_"):
                wrong[name].append(path)
    for name, where in ALLOWED_IN:
        wrong[name] = [path for path in wrong.pop(name, ()) if where not in path]
    assert {name: paths for name, paths in wrong.items() if paths} == {}


@pytest.mark.parametrize("package", [*PACKAGES, *PLUGINS])
def test_public_class_names_are_unique_in_a_package(package: str) -> None:
    twice = {
        name: paths
        for name, paths in _public_classes(package).items()
        if len(paths) > 1
    }
    assert twice == {}


def test_retired_words_name_no_test_or_helper() -> None:
    wrong = []
    for path, text in _sources("tests"):
        for name in re.findall(
            r"^ *(?:async )?(?:def|class) (\w+)", text, re.MULTILINE
        ):
            if _words(name) & RETIRED_IN_TESTS:
                wrong.append(f"{path} {name}")
    assert not wrong


def _terms(page: str) -> list[str]:
    rows = re.findall(
        r"^\| ([^|]+) \|",
        (ROOT / "docs" / page).read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return [
        term.strip()
        for row in rows
        for term in row.split(",")
        if row not in ("---", "word", "term")
    ]


def test_each_term_is_once_among_the_first_words_those_of_users_and_those_of_the_code() -> (
    None
):
    pages = [_terms(page) for page in ("words.md", "reference/words.md", "glossary.md")]
    assert len(pages[0]) == 15
    assert len(pages[1]) > 20
    first, words, terms = map(set, pages)
    assert first & words == words & terms == terms & first == set()


_LEANS = re.compile(
    r"(The same\b|Of (these|those)\b|That of\b|Those of (?!these\b|them\b))"
)
"""How a docstring begins that says nothing without the name before it. Moved to
another place, it would be false."""


def _docstrings(path: Path) -> Iterator[ast.Expr]:
    """The texts below modules, classes, functions and assignments."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr):
                yield statement


def test_a_docstring_stands_alone() -> None:
    plugins = ROOT.glob("plugins/*/imserver_*/**/*.py")
    leaning = [
        f"{path.relative_to(ROOT)}:{text.lineno}"
        for path in (*(ROOT / "imserver").rglob("*.py"), *plugins)
        for text in _docstrings(path)
        if isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
        and _LEANS.match(text.value.value.strip())
    ]
    assert leaning == []
