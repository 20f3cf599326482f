"""The terms of the messages of a segment, as they are collected for the index
of words."""

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct

from imserver.messenger.log.changes import SEGMENT
from imserver.messenger.log.rows import NUMBERS
from imserver.messenger.search.words import (
    CONVERSATIONS,
    TERM_LENGTH,
    TEXT_TYPE,
    Terms,
    bucket_of,
    encode_terms,
    listed,
    merged_terms,
    searched_text,
    terms_of,
)

MOST_TERMS: Final = 512
"""A message with more terms is long."""
LONG_TEXT: Final = 4 * MOST_TERMS
"""A text with more characters is long: nobody looks for its terms."""
LONG_BODY: Final = 4 * LONG_TEXT
"""Bytes of a body with which a message is long: nobody reads it."""
_OWN_TERMS: Final = 16
"""Each message has room for so many terms in its segment. More are taken from
:data:`_SPARE_TERMS`."""
_SPARE_TERMS: Final = 65_536
"""What the messages of a segment may have above :data:`_OWN_TERMS`, all
together; who comes later is long. So collecting a segment takes 25 MB at most,
and nobody's long messages keep the others out of the index."""
MOST_ROW_BYTES: Final = 65_536
"""A row is no larger. Messages with many terms in one bucket become long
instead."""
_PAUSE_CHARACTERS: Final = 2048
"""After so many characters the terms of messages let others run."""
SEPARATOR: Final = b"\x80"
_SPACED: Final = bytes(
    byte if chr(byte).isalnum() or byte == SEPARATOR[0] else ord(" ")
    for byte in bytes(range(129)).lower()
).ljust(256, b" ")
"""What stands in place of each byte, so that ``split`` finds the words of ASCII
texts."""

ContentRow = tuple[int, int, int, str, bytes | None]
"""(id, conversation, number of the kind, type, body; None: it is too long)."""
Pause = Callable[[], object]
"""Called in long work, again and again. May switch."""


def _spaced(texts: bytes) -> list[str]:
    """The words in ASCII texts that a separator joins, with spaces between. To
    split them takes a third of the time of :func:`terms_of`."""
    return texts.translate(_SPACED).decode("latin-1").split(SEPARATOR.decode("latin-1"))


class ContentPart(Struct, frozen=True):
    """What the index needs of entries of a segment that follow each other."""

    first: int
    """The id of the first one."""
    conversations: list[int]
    """Of each entry; 0: nobody searches it."""
    ids: list[int]
    """The messages with short ASCII texts, and these texts, for
    :func:`_spaced`."""
    texts: bytes
    others: list[ContentRow]
    """The other messages."""
    changed: list[int]
    """What the entries edit or recall."""
    size: int
    """Bytes of memory, approximately."""


class SegmentContent:
    """Collects the terms of messages of a segment."""

    def __init__(self, first: int) -> None:
        self.long: set[int] = set()
        """The offsets of messages of which the index has not all terms."""
        self.conversation_of: dict[int, int] = {}
        """Offset → the conversation of the entry. Rooms have no members, so
        nobody searches them."""
        self._first = first
        self._spare = _SPARE_TERMS
        self._terms: Terms = {}

    def add(self, rows: Iterable[ContentRow], pause: Pause) -> None:
        """Add entries."""
        offsets: list[int] = []
        bodies: list[bytes] = []
        characters = 0
        for id, conversation, kind, type, body in rows:
            offset = id - self._first
            self.conversation_of[offset] = conversation
            if kind != NUMBERS["message"]:
                continue
            if (
                type == TEXT_TYPE
                and body is not None
                and len(body) <= LONG_TEXT
                and body.isascii()
            ):
                offsets.append(offset)
                bodies.append(body)
                characters += len(body)
            else:
                if body is None:
                    text = ""
                else:
                    text = searched_text(type, body)
                characters += len(text)
                is_long = body is None or len(text) > LONG_TEXT
                self._put(
                    offset,
                    self._admitted(offset, () if is_long else terms_of(text), is_long),
                )
            if characters > _PAUSE_CHARACTERS:
                self._put_lines(offsets, _spaced(SEPARATOR.join(bodies)))
                offsets = []
                bodies = []
                characters = 0
                pause()
        self._put_lines(offsets, _spaced(SEPARATOR.join(bodies)))

    def add_part(self, part: ContentPart, gone: Collection[int], pause: Pause) -> None:
        """Add entries, but not the texts of the messages ``gone``."""
        begin = part.first - self._first
        for offset, conversation in enumerate(part.conversations, begin):
            if conversation:
                self.conversation_of[offset] = conversation
        lines = _spaced(part.texts)
        together = _PAUSE_CHARACTERS * len(lines) // max(len(part.texts), 1) + 1
        for begin in range(0, len(part.ids), together):
            ids = part.ids[begin : begin + together]
            some = lines[begin : begin + together]
            if gone:
                some = [
                    "" if id in gone else line
                    for id, line in zip(ids, some, strict=True)
                ]
            self._put_lines([id - self._first for id in ids], some)
            pause()
        if part.others:
            self.add((row for row in part.others if row[0] not in gone), pause)

    def _admitted(
        self, offset: int, terms: Collection[str], is_long: bool = False
    ) -> list[str]:
        """The terms of a message; none if it is long."""
        more = max(len(terms) - _OWN_TERMS, 0)
        if is_long or len(terms) > MOST_TERMS or more > self._spare:
            self.long.add(offset)
            return []
        self._spare -= more
        return list(terms)

    def _put_lines(self, offsets: Sequence[int], lines: Iterable[str]) -> None:
        """Add the terms of messages with short ASCII texts, which
        :func:`_spaced` has returned."""
        # without a text there is one line, too
        for offset, line in zip(offsets, lines, strict=False):
            words = line.split()
            # there may be as many terms
            if len(words) + len(line) // TERM_LENGTH > _OWN_TERMS:
                words = self._admitted(offset, terms_of(line))
            self._put(offset, words)

    def _put(self, offset: int, words: list[str]) -> None:
        """Add the terms of a message; words are cut."""
        known = self._terms
        for term in words:
            if len(term) > TERM_LENGTH:
                words.append(term[TERM_LENGTH:])
                term = term[:TERM_LENGTH]
            before = known.setdefault(term, offset)
            if before is offset:
                continue
            if not isinstance(before, list):
                known[term] = [before, offset]
            elif before[-1] is not offset:  # a word that the message has again
                before.append(offset)

    def buckets(self, pause: Pause) -> dict[int, Terms]:
        """The terms by their buckets."""
        buckets: defaultdict[int, Terms] = defaultdict(dict)
        of_beginning: dict[str, Terms] = {}
        terms = iter(self._terms.items())
        while some := list(islice(terms, 4096)):
            for term, offsets in some:
                beginning = term[:2]
                bucket = of_beginning.get(beginning)
                if bucket is None:
                    bucket = buckets[bucket_of(beginning)]
                    of_beginning[beginning] = bucket
                bucket[term] = offsets
            pause()
        self._terms.clear()
        return buckets

    def rows(self, pause: Pause) -> Iterator[tuple[int, bytes]]:
        """(bucket, terms) of a segment that is new."""
        for bucket, terms in self.buckets(pause).items():
            yield bucket, self.packed(terms)
            pause()
        ids: dict[int, int] = {}
        numbers = [0xFFFF] * SEGMENT  # of no conversation
        for offset, conversation in self.conversation_of.items():
            numbers[offset] = ids.setdefault(conversation, len(ids))
        yield (
            CONVERSATIONS,
            struct.pack(f"<H{len(ids)}q{SEGMENT}H", len(ids), *ids, *numbers),
        )

    def packed(self, terms: Terms) -> bytes:
        """A row; ``b""`` without terms."""
        row = encode_terms(terms) if terms else b""
        # So many terms in one bucket let a message become long if the row is
        # too large.
        for most in (16, 4, 1, 0) if len(row) > MOST_ROW_BYTES else ():
            counts = Counter(
                offset for offsets in terms.values() for offset in listed(offsets)
            )
            gone = {offset for offset, count in counts.items() if count > most}
            self.long |= gone
            terms = merged_terms(terms, gone, {})
            row = encode_terms(terms) if terms else b""
            if len(row) <= MOST_ROW_BYTES:
                break
        return row
