"""The words of texts, as a search compares them; pure functions.

A text is a list of *units*: words, and runs of characters of scripts that do not put spaces between words, in
which any part may be searched for. Case, accents and the width of characters make no difference. The index
has *terms*: a word, cut to :data:`TERM_LENGTH`; of a run each two characters that follow each other, and the
last one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import add
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.storage.statements import Statements

TEXT_TYPE: Final = "text"
WORD_FIELDS: Final = frozenset(("name", "title", "text", "caption"))
"""The fields of JSON content, at any depth, in which words are found: of files, pictures and links."""
TERM_LENGTH: Final = 16
"""Characters of the longest term. Longer words with the same beginning share a term."""
SEARCHED: Final = 32_768
"""Characters of a text in which words are found."""
MOST_TERMS: Final = 8
"""Terms that one search looks up. The text of what is found says whether it has the others."""

_OF_RUNS: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30fa\u30fc-\u312f\u31f0-\u31ff"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"  # Han, Hangul
)
_PICTURES: Final = "\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001f3fa\U0001f400-\U0001faff"
_INDIC: Final = "\u0900-\u0963\u0966-\u0dff"
"""Scripts whose vowels are marks, which a regular expression does not take for letters."""
_units: Final = re.compile(
    f"[{_OF_RUNS}]+|[{_PICTURES}]|(?:[^\\W_{_OF_RUNS}{_PICTURES}]|[{_INDIC}])+"
).findall
_ascii_units: Final = re.compile("[a-z0-9]+").findall
_ascii_terms: Final = re.compile(f"[a-z0-9]{{1,{TERM_LENGTH}}}").findall
_is_run: Final = re.compile(f"[{_OF_RUNS}]").match
_parts: Final = re.compile(r'"([^"]*)("?)|([^\s"]+)').finditer
_QUOTES: Final = str.maketrans("“”„«»＂", '""""""')


def units_of(text: str) -> list[str]:
    """The units of the first :data:`SEARCHED` characters of a text, in order."""
    text = text[:SEARCHED]
    if text.isascii():
        return _ascii_units(text.lower())
    return _units(Statements.folded(text))


def terms_of(text: str) -> set[str]:
    """The terms of a text; of words that are cut also the rest."""
    if text.isascii():
        # Half of the time of the way below.
        return set(_ascii_terms(text[:SEARCHED].lower()))
    terms: set[str] = set()
    for unit in units_of(text):
        if _is_run(unit):
            terms.update(map(add, unit, unit[1:]))
            terms.add(unit[-1])
        else:
            terms.add(unit[:TERM_LENGTH])
    return terms


def searched_text(type: str, body: bytes) -> str:
    """What a search finds in a message: what a reader sees."""
    if type == TEXT_TYPE:
        return body.decode(errors="replace")
    return "\n".join(_texts_in(body))


def _texts_in(body: bytes) -> Iterator[str]:
    try:
        waiting: list[tuple[str, Any]] = [("text", msgspec.json.decode(body))]
    except (ValueError, RecursionError):
        return
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += ((name, each) for each in value)
        elif isinstance(value, str) and name in WORD_FIELDS:
            yield value


class Term(Struct, frozen=True):
    """What a search looks up: a term, or all terms with this beginning."""

    text: str
    is_prefix: bool = False


class WordQuery:
    """What is wanted of a text: words in any order, the last one perhaps unfinished, and phrases in quotes.

    A part without spaces that has several units, such as an address, is a phrase, too.
    """

    def __init__(self, text: str) -> None:
        phrases: list[list[str]] = []
        is_open = False
        for match in _parts(text.translate(_QUOTES)):
            quoted, end, plain = match.groups()
            if units := units_of(plain or quoted or ""):
                phrases.append(units)
                is_open = not end
        self.units = list(dict.fromkeys(unit for units in phrases for unit in units))
        """The units, each once; the last may be the beginning of one."""
        self._needles: list[str] = []
        terms: dict[Term, None] = {}
        for number, units in enumerate(phrases, 1):
            ends_open = is_open and number == len(phrases)
            begin = "" if _is_run(units[0]) else " "
            end = "" if ends_open or _is_run(units[-1]) else " "
            self._needles.append(f"{begin}{' '.join(units)}{end}")
            for unit in units[:-1]:
                terms.update(dict.fromkeys(_terms_of_unit(unit, False)))
            terms.update(dict.fromkeys(_terms_of_unit(units[-1], ends_open)))
        self.terms = sorted(terms, key=lambda term: (term.is_prefix, -len(term.text)))[:MOST_TERMS]
        """What the index is searched for: the longest first, which are the rarest, more or less."""

    def is_in(self, text: str) -> bool:
        """Whether a text has all that is wanted."""
        units = f" {' '.join(units_of(text))} "
        return all(needle in units for needle in self._needles)


def _terms_of_unit(unit: str, is_open: bool) -> Iterator[Term]:
    if not _is_run(unit):
        yield Term(unit[:TERM_LENGTH], is_open and len(unit) < TERM_LENGTH)
    elif len(unit) == 1:
        yield Term(unit, is_prefix=True)
    else:
        yield from map(Term, map(add, unit, unit[1:]))
