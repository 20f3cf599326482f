"""Reads the documents: code blocks, tables, links and headings of the Markdown
that they are written in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.support import ROOT

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
EXAMPLE_PAGES = [page for page in PAGES if page.parent.name != "recipes"]
"""The pages whose code blocks run as they are; :mod:`tests.docs.test_recipes`
applies those of the recipes."""

_FENCE = re.compile(r"^```([\w-]+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One code block: its language, the words behind it, its text, and where it
    stands."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


Row = dict[str, str]


def blocks(page: Path, *languages: str) -> list[Block]:
    """The code blocks of a page in one of these languages."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language = match[1] or ""
        words = match[2].split()
        body = match[3]
        if language in languages:
            found.append(
                Block(
                    page,
                    text.count("\n", 0, match.start()) + 1,
                    language,
                    tuple(words),
                    body,
                )
            )
    return found


def filled_in(text: str) -> str:
    """``text`` with a secret in place of each placeholder, which a server would
    refuse."""
    return re.sub(
        r"replace-me[^\"'\n]*",
        lambda found: sha256(found[0].encode()).hexdigest(),
        text,
    )


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def tables(page: Path) -> list[list[Row]]:
    """The tables of a page; a row is a mapping from heading to cell, code marks
    left out."""
    found: list[list[Row]] = []
    lines = prose(page).splitlines()
    for number, line in enumerate(lines[:-1]):
        if line.startswith("|") and re.fullmatch(r"[|\s:-]+", lines[number + 1]):
            heads = _cells(line)
            rows = []
            for row in lines[number + 2 :]:
                if not row.startswith("|"):
                    break
                rows.append(dict(zip(heads, _cells(row), strict=True)))
            found.append(rows)
    return found


def table_with(page: Path, *heads: str) -> list[Row]:
    """The only table of a page that has exactly these headings."""
    fitting = [rows for rows in tables(page) if rows and tuple(rows[0]) == heads]
    assert len(fitting) == 1, f"{page.name} has {len(fitting)} tables headed {heads}"
    return fitting[0]


def links(page: Path) -> Iterator[str]:
    """Where the links and pictures of a page point."""
    return (match[1] for match in re.finditer(r"\]\(([^)\s]+)\)", prose(page)))


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page are linked to, as GitHub
    makes them."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading).lower())
        found.add(re.sub(r"\s", "-", words.strip()))
    return found


def _cells(line: str) -> list[str]:
    return [
        cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")
    ]
