"""The terms of the messages of a segment, as they are collected for the index
of words."""

import string
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
"""A text with more characters is long, and its terms are not collected."""
LONG_BODY: Final = 4 * LONG_TEXT
"""A message with a larger body, in bytes, is long, and its body is not read."""
_OWN_TERMS: Final = 16
"""The number of terms for which each message has room in its segment. Further
terms are taken from :data:`_SPARE_TERMS`."""
_SPARE_TERMS: Final = 65_536
"""The most terms above :data:`_OWN_TERMS` that all messages of a segment
together may have. A message that exceeds the limit is long. So collecting a
segment takes at most 25 MB, and long messages cannot keep other messages out of
the index."""
MOST_ROW_BYTES: Final = 65_536
"""The most bytes of a row. If a row would be larger, messages with many terms
in its bucket become long."""
_PAUSE_CHARACTERS: Final = 2048
"""After this number of characters, collecting terms lets other greenlets
run."""
SEPARATOR: Final = b"\x80"
_TERMS_AT_ONCE: Final = 4096
"""After this number of terms, the division into buckets lets other greenlets
run."""
_BYTES: Final = 256
"""The number of different bytes."""
_NO_CONVERSATION: Final = 0xFFFF
"""Stands for the number of a conversation if nobody searches the entry."""
_FEWER_TERMS: Final = (16, 4, 1, 0)
"""If a row is too large, messages with more than this number of terms in it
become long. The limits are tried in this order."""


def _spaced_bytes() -> bytes:
    """Make a table for ``bytes.translate``, so that ``split`` finds words.

    It is for ASCII texts. Letters become small, digits and the separator stay,
    all other characters become spaces.
    """
    table = bytearray(b" " * _BYTES)
    for letter in string.ascii_letters + string.digits:
        table[ord(letter)] = ord(letter.lower())
    table[SEPARATOR[0]] = SEPARATOR[0]
    return bytes(table)


_SPACED: Final = _spaced_bytes()

ContentRow = tuple[int, int, int, str, bytes | None]
"""(id, conversation, number of the kind, type, body). The body is None if it is
too long."""
Pause = Callable[[], object]
"""A function that long work calls again and again. It may switch greenlets."""


def _spaced(texts: bytes) -> list[str]:
    """Return the words of each text, with spaces in between.

    ``texts`` are ASCII texts, joined by a separator. Splitting the results
    takes a third of the time of :func:`terms_of`.
    """
    return texts.translate(_SPACED).decode("latin-1").split(SEPARATOR.decode("latin-1"))


class ContentPart(Struct, frozen=True):
    """The data for the index about consecutive entries of a segment."""

    first: int
    """The id of the first entry."""
    conversations: list[int]
    """The conversation of each entry, or 0 if nobody searches the entry."""
    ids: list[int]
    """The messages with short ASCII texts. ``texts`` has these texts, as
    :func:`_spaced` takes them."""
    texts: bytes
    others: list[ContentRow]
    """The other messages."""
    changed: list[int]
    """The messages that the entries edit or recall."""
    size: int
    """The approximate memory of the part, in bytes."""


class SegmentContent:
    """Collects the terms of the messages of a segment, for the index.

    A *long* message has too many terms. For such a message, the index only
    notes that its text must be compared.
    """

    def __init__(self, first: int) -> None:
        """Begin without messages. ``first`` is the first id of the segment."""
        self.long: set[int] = set()
        """The offsets of long messages. The index does not have all their
        terms."""
        self.conversation_of: dict[int, int] = {}
        """Offset → the conversation of the entry. Rooms have no members, so
        nobody searches them."""
        self._first = first
        """The first id of the segment."""
        self._spare = _SPARE_TERMS
        """The number of terms above :data:`_OWN_TERMS` that may still be
        added."""
        self._terms: Terms = {}

    def add(self, rows: Iterable[ContentRow], pause: Pause) -> None:
        """Add entries to the segment.

        Short ASCII texts are collected, and divided into words in one step,
        which is faster. ``pause`` is called again and again, so that other
        greenlets run.
        """
        offsets: list[int] = []
        bodies: list[bytes] = []
        characters = 0  # the number since the last pause
        for id, conversation, kind, type, body in rows:
            offset = id - self._first
            self.conversation_of[offset] = conversation
            if kind != NUMBERS["message"]:
                continue
            if body is None:
                self.long.add(offset)
            elif type == TEXT_TYPE and len(body) <= LONG_TEXT and body.isascii():
                offsets.append(offset)
                bodies.append(body)
                characters += len(body)
            else:
                text = searched_text(type, body)
                characters += len(text)
                self._put_text(offset, text)

            if characters > _PAUSE_CHARACTERS:
                self._put_lines(offsets, _spaced(SEPARATOR.join(bodies)))
                offsets = []
                bodies = []
                characters = 0
                pause()

        self._put_lines(offsets, _spaced(SEPARATOR.join(bodies)))

    def _put_text(self, offset: int, text: str) -> None:
        """Add the terms of a text, or note that its message is long."""
        if len(text) > LONG_TEXT:
            self.long.add(offset)
        else:
            self._put(offset, self._within_limits(offset, terms_of(text)))

    def add_part(self, part: ContentPart, gone: Collection[int], pause: Pause) -> None:
        """Add the entries of a part, which this node has prepared in advance.

        The texts of the messages ``gone`` are left out, because these texts
        have changed since.
        """
        first_offset = part.first - self._first
        for offset, conversation in enumerate(part.conversations, first_offset):
            if conversation:
                self.conversation_of[offset] = conversation

        lines = _spaced(part.texts)
        # This number of texts has about as many characters as fit between two
        # pauses.
        at_once = _PAUSE_CHARACTERS * len(lines) // max(len(part.texts), 1) + 1
        for begin in range(0, len(part.ids), at_once):
            ids = part.ids[begin : begin + at_once]
            lines_of_ids = lines[begin : begin + at_once]
            if gone:
                _blank_lines(lines_of_ids, ids, gone)
            self._put_lines([id - self._first for id in ids], lines_of_ids)
            pause()
        if part.others:
            self.add((row for row in part.others if row[0] not in gone), pause)

    def _within_limits(self, offset: int, terms: Collection[str]) -> list[str]:
        """Return the terms of a message, if they are within the limits.

        There is a limit for each message, and a limit for all messages of the
        segment together. If a limit is exceeded, the message is noted as long,
        and the result is empty.
        """
        spare = max(len(terms) - _OWN_TERMS, 0)
        if len(terms) > MOST_TERMS or spare > self._spare:
            self.long.add(offset)
            return []
        self._spare -= spare
        return list(terms)

    def _put_lines(self, offsets: Sequence[int], lines: Iterable[str]) -> None:
        """Add the terms of messages with short ASCII texts.

        ``lines`` are the results of :func:`_spaced`, one for each offset.
        """
        # Without any text, there is one empty line.
        for offset, line in zip(offsets, lines, strict=False):
            words = line.split()
            # This is the most terms that the line can have, because a long word
            # is split into several terms.
            if len(words) + len(line) // TERM_LENGTH > _OWN_TERMS:
                words = self._within_limits(offset, terms_of(line))
            self._put(offset, words)

    def _put(self, offset: int, words: list[str]) -> None:
        """Add the terms of a message. Long words are cut."""
        # This is written for speed, because it runs for each word of each
        # message. Comparing objects is faster than comparing numbers.
        offsets_of = self._terms
        for term in words:
            if len(term) > TERM_LENGTH:
                words.append(term[TERM_LENGTH:])  # its rest comes later in this loop
                term = term[:TERM_LENGTH]
            before = offsets_of.setdefault(term, offset)
            if before is offset:
                continue
            if not isinstance(before, list):
                offsets_of[term] = [before, offset]
            elif before[-1] is not offset:  # not a repeated word
                before.append(offset)

    def buckets(self, pause: Pause) -> dict[int, Terms]:
        """Return bucket → its terms. The collected terms are then forgotten."""
        buckets: defaultdict[int, Terms] = defaultdict(dict)
        # The first two characters of a term → the terms of their bucket.
        of_beginning: dict[str, Terms] = {}
        terms = iter(self._terms.items())
        while pairs := list(islice(terms, _TERMS_AT_ONCE)):
            for term, offsets in pairs:
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
        """Yield the rows of a new segment: (bucket, terms).

        The last row has the conversations of the entries.
        """
        for bucket, terms in self.buckets(pause).items():
            yield bucket, self.packed(terms)
            pause()
        yield CONVERSATIONS, self._conversations_row()

    def _conversations_row(self) -> bytes:
        """Return the row with the conversations of the entries.

        The row has each conversation once, and for each entry the number of its
        conversation.
        """
        number_of: dict[int, int] = {}
        numbers = [_NO_CONVERSATION] * SEGMENT
        for offset, conversation in self.conversation_of.items():
            numbers[offset] = number_of.setdefault(conversation, len(number_of))
        count = len(number_of)
        return struct.pack(f"<H{count}q{SEGMENT}H", count, *number_of, *numbers)

    def packed(self, terms: Terms) -> bytes:
        """Return the row with these terms, or ``b""`` if there are no terms.

        If the row is too large, messages with many terms in it become long, and
        are left out. The limit is lowered until the row is small enough.
        """
        row = _row_of(terms)
        if len(row) <= MOST_ROW_BYTES:
            return row
        for most in _FEWER_TERMS:
            counts = _term_counts(terms)
            gone = {offset for offset, count in counts.items() if count > most}
            self.long |= gone
            terms = merged_terms(terms, gone, {})
            row = _row_of(terms)
            if len(row) <= MOST_ROW_BYTES:
                break
        return row


def _term_counts(terms: Terms) -> Counter[int]:
    """Return the offset of each message → the number of its terms."""
    counts: Counter[int] = Counter()
    for offsets in terms.values():
        counts.update(listed(offsets))
    return counts


def _blank_lines(lines: list[str], ids: Sequence[int], gone: Collection[int]) -> None:
    """Empty the lines of the messages ``gone``. ``ids`` has the id of each
    line."""
    for index, id in enumerate(ids):
        if id in gone:
            lines[index] = ""


def _row_of(terms: Terms) -> bytes:
    """Encode the terms of a bucket. If there are no terms, the result is
    ``b""``."""
    if not terms:
        return b""
    return encode_terms(terms)
