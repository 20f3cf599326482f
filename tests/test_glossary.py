"""The words of docs/glossary.md: no retired word names a class or a test, and no public class name is defined
twice."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("imserver", "imserver_client", "bench")
RETIRED_IN_TESTS = {"comer", "courier", "door", "doors", "house", "intake", "rig", "told", "world"}


@cache
def _retired() -> set[str]:
    """The single words in the last column of the glossary's tables: names of classes, and lower-case words
    that are no part of one.

    Words that are retired for one meaning only, "peer (of a client)", are left out.
    """
    found: set[str] = set()
    for line in (ROOT / "docs/glossary.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3:
            found |= {word for word in cells[2].split(", ") if re.fullmatch("[A-Za-z]+", word)}
    return found - {"retired"}  # the head of the column


def _is_retired(name: str) -> bool:
    parts = {part.lower() for part in re.findall("[A-Z][a-z]*", name)}
    return bool(_retired() & {name, *parts})


@cache
def _public_classes(package: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.relative_to(ROOT / package).parts[0] == "build":
            continue
        for name in re.findall(r"^class ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
            found[name].append(str(path.relative_to(ROOT)))
    return found


def test_retired_words_name_no_class() -> None:
    assert {"AckWheel", "talk"} <= _retired()
    names = {name for package in PACKAGES for name in _public_classes(package)}
    assert {name for name in names if _is_retired(name)} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_public_class_names_are_unique_in_a_package(package: str) -> None:
    twice = {name: paths for name, paths in _public_classes(package).items() if len(paths) > 1}
    assert twice == {}


def test_retired_words_name_no_test_or_helper() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^ *(?:async )?(?:def|class) (\w+)", text, re.MULTILINE):
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+", name)}
            if words & RETIRED_IN_TESTS:
                wrong.append(f"{path.relative_to(ROOT)} {name}")
    assert not wrong


def test_no_term_is_in_the_words_of_users_and_in_those_of_the_code() -> None:
    pages = [ROOT / "docs" / name for name in ("words.md", "glossary.md")]
    rows = [re.findall(r"^\| ([^|]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE) for page in pages]
    words, terms = (
        {term.strip() for row in page for term in row.split(",")} - {"---", "word", "term"} for page in rows
    )
    assert len(words) > 20
    assert words & terms == set()
