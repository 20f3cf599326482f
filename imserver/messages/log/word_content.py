"""The terms of the messages of a segment, as they are collected for the index of words."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from imserver.messages.log.rows import NUMBERS
from imserver.messages.log.word_rows import (
    CONVERSATIONS,
    SEGMENT,
    Terms,
    bucket_of,
    encode_terms,
    listed,
    merged_terms,
)
from imserver.messages.log.words import TERM_LENGTH, TEXT_TYPE, searched_text, spaced, terms_of

MOST_TERMS: Final = 512
"""A message with more terms is long."""
_LONG_TEXT: Final = 4 * MOST_TERMS
"""A text with more characters is long: nobody looks for its terms."""
LONG_BODY: Final = 4 * _LONG_TEXT
"""Bytes of a body with which a message is long: nobody reads it."""
_OWN_TERMS: Final = 16
"""Each message has room for so many terms in its segment. More are taken from :data:`_SPARE_TERMS`."""
_SPARE_TERMS: Final = 65_536
"""What the messages of a segment may have above :data:`_OWN_TERMS`, all together; who comes later is long. So
collecting a segment takes 25 MB at most, and nobody's long messages keep the others out of the index."""
MOST_ROW_BYTES: Final = 65_536
"""A row is no larger. Messages with many terms in one bucket become long instead."""
_PARTS_OF_ROWS: Final = (16, 4, 1, 0)
"""Terms in one bucket that let a message become long if the row is too large, in this order."""
_PAUSE_CHARACTERS: Final = 2048
"""After so many characters the terms of messages let others run."""
_PAUSE_TERMS: Final = 4096
_NO_CONVERSATION: Final = 0xFFFF
_MESSAGE: Final = NUMBERS["message"]

ContentRow = tuple[int, int, int, str, bytes | None]
"""(id, conversation, number of the kind, type, body; None: it is too long)."""
Pause = Callable[[], object]
"""Called in long work, again and again. May switch."""


class SegmentContent:
    """Collects the terms of messages of a segment."""

    def __init__(self, first: int) -> None:
        self.long: set[int] = set()
        """The offsets of messages of which the index has not all terms."""
        self.conversation_of: dict[int, int] = {}
        """Offset → the conversation of the entry. Rooms have no members, so nobody searches them."""
        self._first = first
        self._spare = _SPARE_TERMS
        self._terms: defaultdict[str, Terms] = defaultdict(dict)
        """By the first two characters of the terms."""

    def add(self, rows: Iterable[ContentRow], pause: Pause) -> None:
        """Add entries."""
        offsets: list[int] = []
        bodies: list[bytes] = []
        characters = 0
        for id, conversation, kind, type, body in rows:
            offset = id - self._first
            self.conversation_of[offset] = conversation
            if kind != _MESSAGE:
                continue
            if type == TEXT_TYPE and body is not None and body.isascii() and len(body) <= _LONG_TEXT:
                offsets.append(offset)
                bodies.append(body)
                characters += len(body)
            else:
                text = "" if body is None else searched_text(type, body)
                characters += len(text)
                is_long = body is None or len(text) > _LONG_TEXT
                self._put(((offset, self._admitted(offset, () if is_long else terms_of(text), is_long)),))
            if characters > _PAUSE_CHARACTERS:
                self._put(self._words_of(offsets, bodies))
                offsets, bodies, characters = [], [], 0
                pause()
        self._put(self._words_of(offsets, bodies))

    def _words_of(self, offsets: Sequence[int], bodies: Sequence[bytes]) -> Iterator[tuple[int, list[str]]]:
        """The words of short ASCII texts."""
        for offset, line in zip(offsets, spaced(bodies) if bodies else (), strict=True):
            words = line.split()
            if len(words) + len(line) // TERM_LENGTH > _OWN_TERMS:  # there may be as many terms
                words = self._admitted(offset, terms_of(line))
            yield offset, words

    def _admitted(self, offset: int, terms: Collection[str], is_long: bool = False) -> list[str]:
        """The terms of a message; none if it is long."""
        more = max(len(terms) - _OWN_TERMS, 0)
        if is_long or len(terms) > MOST_TERMS or more > self._spare:
            self.long.add(offset)
            return []
        self._spare -= more
        return list(terms)

    def _put(self, messages: Iterable[tuple[int, list[str]]]) -> None:
        """Add the terms of messages, (offset, words); words are cut."""
        of_beginning = self._terms
        for offset, words in messages:
            for term in words:
                if len(term) > TERM_LENGTH:
                    words.append(term[TERM_LENGTH:])
                    term = term[:TERM_LENGTH]
                before = of_beginning[term[:2]].setdefault(term, offset)
                if before is offset:
                    continue
                if not isinstance(before, list):
                    of_beginning[term[:2]][term] = [before, offset]
                elif before[-1] is not offset:  # a word that the message has again
                    before.append(offset)

    def buckets(self, pause: Pause) -> dict[int, Terms]:
        """The terms by their buckets."""
        buckets: defaultdict[int, Terms] = defaultdict(dict)
        count = 0
        for beginning, terms in self._terms.items():
            buckets[bucket_of(beginning)].update(terms)
            count += len(terms)
            if count > _PAUSE_TERMS:
                count = 0
                pause()
        self._terms.clear()
        return buckets

    def rows(self, pause: Pause) -> Iterator[tuple[int, bytes]]:
        """(bucket, terms) of a segment that is new."""
        for bucket, terms in self.buckets(pause).items():
            yield bucket, self.packed(terms)
            pause()
        ids: dict[int, int] = {}
        numbers = [_NO_CONVERSATION] * SEGMENT
        for offset, conversation in self.conversation_of.items():
            numbers[offset] = ids.setdefault(conversation, len(ids))
        yield CONVERSATIONS, struct.pack(f"<H{len(ids)}q{SEGMENT}H", len(ids), *ids, *numbers)

    def packed(self, terms: Terms) -> bytes:
        """A row; ``b""`` without terms."""
        row = encode_terms(terms) if terms else b""
        for most in _PARTS_OF_ROWS if len(row) > MOST_ROW_BYTES else ():
            counts = Counter(offset for offsets in terms.values() for offset in listed(offsets))
            gone = {offset for offset, count in counts.items() if count > most}
            self.long |= gone
            terms = merged_terms(terms, gone, {})
            row = encode_terms(terms) if terms else b""
            if len(row) <= MOST_ROW_BYTES:
                break
        return row
