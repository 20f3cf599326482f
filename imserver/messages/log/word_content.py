"""The terms of the messages of a segment, as they are collected for the index of words."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from imserver.messages.log.rows import NUMBERS, ROOM
from imserver.messages.log.word_rows import (
    CONVERSATIONS,
    SEGMENT,
    Terms,
    bucket_of,
    encode_terms,
    listed,
    merged_terms,
)
from imserver.messages.log.words import searched_text, terms_of
from imserver.storage.statements import Row, text_of

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
_PAUSE_TERMS: Final = 512
_NO_CONVERSATION: Final = 0xFFFF

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
        self._terms: Terms = {}
        self._kinds: dict[int, int] = {}
        """Conversation → its kind."""

    def add(self, rows: Iterable[Row], kinds: Iterable[Row], pause: Pause) -> None:
        """Add entries: (id, conversation, kind, type, body; None: it is too long). ``kinds``: (conversation,
        kind)."""
        self._kinds.update(kinds)
        kind_of, all_terms, first, characters = self._kinds, self._terms, self._first, 0
        for id, conversation, kind, type, body in rows:
            if kind_of.get(conversation, ROOM) == ROOM:
                continue
            offset = id - first
            self.conversation_of[offset] = conversation
            if kind != NUMBERS["message"]:
                continue
            text = "" if body is None else searched_text(text_of(type), body)
            characters += len(text)
            if characters > _PAUSE_CHARACTERS:
                characters = 0
                pause()
            terms = terms_of(text) if len(text) <= _LONG_TEXT else ()
            if len(terms) > _OWN_TERMS or not terms:
                more = len(terms) - _OWN_TERMS
                if body is None or len(text) > _LONG_TEXT or len(terms) > MOST_TERMS or more > self._spare:
                    self.long.add(offset)
                    continue
                self._spare -= max(more, 0)
            for term in terms:
                before = all_terms.setdefault(term, offset)
                if isinstance(before, list):
                    before.append(offset)
                elif before is not offset:
                    all_terms[term] = [before, offset]

    def buckets(self, pause: Pause) -> dict[int, Terms]:
        """The terms by their buckets."""
        buckets: defaultdict[int, Terms] = defaultdict(dict)
        of_beginning: dict[str, Terms] = {}
        for number, (term, offsets) in enumerate(self._terms.items()):
            beginning = term[:2]
            if beginning not in of_beginning:
                of_beginning[beginning] = buckets[bucket_of(beginning)]
            of_beginning[beginning][term] = offsets
            if number % _PAUSE_TERMS == 0:
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
