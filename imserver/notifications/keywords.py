"""Words of a user that count as a mention where they stand in messages to groups."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from imserver.plugin.messages import Entry

MOST_KEYWORDS: Final = 20
KEYWORD_CHARACTERS: Final = 50
LOOKED_CHARACTERS: Final = 4000
"""Of a message so much is looked through."""
_WITHOUT_SPACES: Final = "\u0e00-\u0eff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff"
"""Signs of scripts that put no spaces between words: there, a part of a text is a word."""


def clean_keywords(given: Collection[str]) -> tuple[str, ...]:
    """Each keyword once, without spaces around it and without regard to case; empty ones are left out."""
    words = {" ".join(each.split()).casefold(): " ".join(each.split()) for each in given}
    return tuple([word for key, word in words.items() if key])


def has_keyword(entry: Entry, keywords: Sequence[str]) -> bool:
    """Whether a text has one of these words, in any case."""
    if not keywords or entry.type != "text":
        return False
    text = entry.body[: 4 * LOOKED_CHARACTERS].decode(errors="ignore")[:LOOKED_CHARACTERS]
    return _pattern(tuple(keywords)).search(text.casefold()) is not None


@lru_cache(1000)
def _pattern(keywords: tuple[str, ...]) -> re.Pattern[str]:
    spaceless = re.compile(f"[{_WITHOUT_SPACES}]")
    words = [
        ("" if spaceless.match(word[0]) else r"(?<!\w)")
        + re.escape(word)
        + ("" if spaceless.match(word[-1]) else r"(?!\w)")
        for word in map(str.casefold, keywords)
    ]
    return re.compile("|".join(words))
