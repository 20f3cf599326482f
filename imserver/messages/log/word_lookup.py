"""Look-ups of a search in the index of words."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from imserver.messages.log.word_rows import (
    CONVERSATIONS,
    LONG,
    SEGMENT,
    bucket_of,
    buckets_of,
    decode_terms,
    encode_terms,
    listed,
    long_in,
)
from imserver.messages.log.words import Term
from imserver.storage.statements import Row, Statements


class IndexPart(Struct, frozen=True):
    """Segments of the index that a search looks through.

    ``others``: (message, conversation) of those whose texts decide, whatever the index has.
    """

    segments: range
    others: Sequence[Row]


def indexed_before(sql: Statements, log: int) -> int:
    """The id before which all messages are in the index."""
    rows = sql.query("SELECT segment FROM word_position WHERE log = %s", (log,))
    return int(rows[0][0]) * SEGMENT if rows else 0


def newest_part(sql: Statements, log: int, after: int, upto: int, most: int) -> IndexPart | None:
    """The newest segments of the index with ids up to this one, at most so many. After a restore the ids have
    a gap. None: there are none above ``after``.

    Read it before the rows: what was changed before is in one of them.
    """
    statement = "SELECT max(segment) FROM word WHERE log = %s AND segment <= %s"
    newest = sql.query(statement, (log, upto // SEGMENT))[0][0]
    if newest is None or (newest + 1) * SEGMENT <= after:
        return None
    begin = max(newest - most + 1, after // SEGMENT, 0)
    statement = (
        "SELECT DISTINCT id, conversation FROM word_change WHERE log = %s AND id >= %s AND id < %s "
        "ORDER BY id DESC LIMIT %s"
    )
    changed = sql.query(statement, (log, begin * SEGMENT, (newest + 1) * SEGMENT, SEGMENT + 1))
    if len(changed) > SEGMENT:  # of the last one's segment there may be more
        begin = changed[-1][0] // SEGMENT + 1
        changed = [row for row in changed if row[0] >= begin * SEGMENT]
    segments = range(begin, newest + 1)
    statement = "SELECT b.segment, b.terms FROM word b WHERE b.log = %s AND b.bucket = %s AND b.segment IN {}"
    long = [
        (segment * SEGMENT + offset, conversation)
        for segment, row in sql.query_in(statement, (log, LONG), segments)
        for offset, conversation in long_in(row)
    ]
    return IndexPart(segments, changed + long)


def rows_with(sql: Statements, log: int, term: Term, segments: Sequence[int]) -> list[Row]:
    """The rows in which a term may be: (segment, terms)."""
    statement = (
        "SELECT b.segment, b.terms FROM word b WHERE b.log = %s AND b.bucket >= %s AND b.bucket < %s "
        "AND b.segment IN {}"
    )
    first = bucket_of(term.text)
    return sql.query_in(statement, (log, first, first + buckets_of(term)), segments, many=True)


def offsets_with(terms: bytes, term: Term) -> set[int]:
    """The messages with a term in one of these rows, and perhaps some others: texts decide."""
    if term.text.encode() not in terms:  # most rows have no rare word
        return set()
    found: set[int] = set()
    if term.is_prefix:
        for text, offsets in decode_terms(terms).items():
            if text.startswith(term.text):
                found.update(listed(offsets))
        return found
    # To decode a row takes six times as long. A longer term may end with the bytes of this one.
    key = encode_terms(term.text)
    at = terms.find(key)
    while at >= 0:
        value = terms[at + len(key) : at + len(key) + 1]
        if value == _LIST_16:
            return set(listed(decode_terms(terms).get(term.text, [])))
        with suppress(IndexError):
            found.update(_offsets_at(terms, at + len(key)))
        at = terms.find(key, at + 1)
    return found


_LIST_16: Final = b"\xdc"
"""A list of MessagePack with more than 15 numbers begins so."""


def _offsets_at(row: bytes, at: int) -> Iterator[int]:
    """Decode a number of MessagePack, or a short list of them. Raises IndexError where there is none."""
    count = 1
    if row[at] & 0xF0 == 0x90:
        count, at = row[at] & 0x0F, at + 1
    for _ in range(count):
        head = row[at]
        if head < 0x80:
            yield head
            at += 1
        elif head == 0xCC:
            yield row[at + 1]
            at += 2
        elif head == 0xCD:
            yield (row[at + 1] << 8 | row[at + 2]) % SEGMENT
            at += 3
        else:
            return


def conversation_rows(sql: Statements, log: int, segments: Sequence[int]) -> list[Row]:
    """The conversations of these segments: (segment, row)."""
    statement = "SELECT b.segment, b.terms FROM word b WHERE b.log = %s AND b.bucket = %s AND b.segment IN {}"
    return sql.query_in(statement, (log, CONVERSATIONS), segments)


def in_conversations(row: bytes, offsets: Iterable[int], conversations: Collection[int]) -> set[int]:
    """Those of the messages of a segment that are in these conversations."""
    (count,) = struct.unpack_from("<H", row)
    named = struct.unpack_from(f"<{count}q", row, 2)
    wanted = {number for number, conversation in enumerate(named) if conversation in conversations}
    numbers = struct.unpack_from(f"<{SEGMENT}H", row, 2 + 8 * count) if wanted else ()
    return {offset for offset in offsets if numbers[offset] in wanted} if wanted else set()
