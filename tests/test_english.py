"""How often a sentence stops its reader, in documents and in docstrings.

The ratchet has a limit for each measure (:mod:`tests.test_ratchet`). The rules
and their reasons are in ``docs/how-we-write.md``. A match is a place to look; a
reader decides. ``python -m tests.test_english FILE …`` prints the places, and
``make style`` those of the files that were changed.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from .support import ROOT
from .test_style import product

MOST_WORDS: Final = 30
"""Of a sentence. Beyond that, readers go back to its start."""
LONG: Final = "sentence of more than 30 words"
PATTERNS: Final = {
    "statement that begins with What": re.compile(r"^What\b(?!.*\?$)"),
    "of which, of whom": re.compile(r"\bof (?:which|whom|whose)\b"),
    "those that, those who": re.compile(r"\b[Tt]hose (?:that|who|which|whose|of)\b"),
    "is none, has none": re.compile(r"\b(?:is|are|has|have|had) none\b"),
    "beginning that leans on a neighbour": re.compile(
        r"^(?:The same|Of these|Of those|Those|That of|The others|So (?:are|is|do|does))\b"
    ),
    "chain of passives": re.compile(
        r"\b(?:is|are|was|were|been|being) \w+(?:ed|en)\b[^,;:.]*"
        r"\b(?:is|are|was|were|been|being) \w+(?:ed|en)\b"
    ),
}
"""Kind of sentence → how it is found."""
KINDS: Final = (LONG, *PATTERNS)
GENERATED: Final = ("docs/reference/plugin.md", "docs/judges.md")
"""Documents that a tool writes."""
SENTENCE_END: Final = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`\"(])")
PARAGRAPH_END: Final = re.compile(r"\n\s*\n|\n(?=\s*- )")
"""An item of a list is a paragraph, too."""
TABLE: Final = re.compile(r"^\s*=+ =+$.*?^\s*=+ =+$", re.MULTILINE | re.DOTALL)
"""A table in a docstring."""
FENCE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")
WORD: Final = re.compile(r"[A-Za-z][\w'’-]*|`[^`]*`")


class Sentence(NamedTuple):
    location: str
    text: str


def kinds_of(sentence: str) -> Iterator[str]:
    """The reasons why a sentence stops its reader."""
    if len(WORD.findall(sentence)) > MOST_WORDS:
        yield LONG
    for kind, pattern in PATTERNS.items():
        if pattern.search(sentence):
            yield kind


def sentences_of(text: str) -> Iterator[str]:
    for paragraph in PARAGRAPH_END.split(TABLE.sub("", text)):
        line = " ".join(paragraph.split())
        yield from (each for each in SENTENCE_END.split(line) if WORD.search(each))


@cache
def sentences_of_page(page: Path) -> list[Sentence]:
    """The sentences of a document, without its code. An item of a list and a
    cell of a table stand alone."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    text = LINK.sub(r"\1", text)
    text = re.sub(r"^#+ .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\|(.*)\|$", r"\n\n\1\n\n", text, flags=re.MULTILINE)
    text = re.sub(r" \| ", "\n\n", text)
    name = page.relative_to(ROOT).as_posix()
    return [Sentence(name, each) for each in sentences_of(text)]


@cache
def sentences_of_module(module: Path) -> list[Sentence]:
    """The sentences of the docstrings of a module, also of its fields."""
    name = module.relative_to(ROOT).as_posix()
    sentences = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        match node:
            case ast.Expr(ast.Constant(str(text))):
                location = f"{name}:{node.lineno}"
                sentences += [Sentence(location, each) for each in sentences_of(text)]
    return sentences


@cache
def documents() -> list[Sentence]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    pages += sorted((ROOT / "docs").rglob("*.md"))
    return [
        sentence
        for page in pages
        if page.relative_to(ROOT).as_posix() not in GENERATED
        for sentence in sentences_of_page(page)
    ]


@cache
def docstrings() -> list[Sentence]:
    return [
        sentence for module in product() for sentence in sentences_of_module(module)
    ]


def stops(sentences: Iterable[Sentence]) -> Counter[str]:
    """How often each kind occurs among 10,000 sentences, rounded up."""
    counts: Counter[str] = Counter()
    many = 0
    for sentence in sentences:
        many += 1
        counts.update(kinds_of(sentence.text))
    return Counter({kind: -(-counts[kind] * 10_000 // max(1, many)) for kind in KINDS})


# --- the measures see what they are for ----------------------------------------


@pytest.mark.parametrize(
    ("sentence", "kinds"),
    [
        ("word " * 31 + ".", [LONG]),
        ("word " * 30 + ".", []),
        ("What holds now for these users.", ["statement that begins with What"]),
        ("What is a node?", []),
        ("Groups, of which each has an owner.", ["of which, of whom"]),
        (
            "Those that wait are sent.",
            [
                "those that, those who",
                "beginning that leans on a neighbour",
            ],
        ),
        ("The ban of a lock is none.", ["is none, has none"]),
        ("The same, for a group.", ["beginning that leans on a neighbour"]),
        ("A row that was deleted is counted.", ["chain of passives"]),
        ("The server counts deleted rows.", []),
    ],
)
def test_a_sentence_that_stops_its_reader_is_seen(
    sentence: str, kinds: list[str]
) -> None:
    assert sorted(kinds_of(sentence)) == sorted(kinds)


def test_sentences_of_a_document_are_those_of_its_prose() -> None:
    text = "One idea. Another:\n\n- an item\n- a second\n"
    assert [*sentences_of(text)] == ["One idea.", "Another:", "- an item", "- a second"]


def main(names: list[str]) -> None:
    """Print the places in these files; without names, the sums."""
    for name in names:
        path = ROOT / name
        of_file = sentences_of_module if path.suffix == ".py" else sentences_of_page
        for sentence in of_file(path):
            for kind in kinds_of(sentence.text):
                print(f"{sentence.location}: {kind}: {sentence.text}")
    if names:
        return
    for title, sentences in (("documents", documents()), ("docstrings", docstrings())):
        sums = ", ".join(f"{kind} {many}" for kind, many in stops(sentences).items())
        print(f"{title}: {len(sentences)} sentences; among 10,000: {sums}")


if __name__ == "__main__":
    main(sys.argv[1:])
