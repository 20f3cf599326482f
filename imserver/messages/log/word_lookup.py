"""Look-ups of a search in the index of words."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from msgspec import Struct

from imserver.messages.log.word_rows import (
    LONG,
    SEGMENT,
    buckets_of,
    decode_terms,
    encode_terms,
    listed,
    long_in,
)
from imserver.messages.log.words import Term
from imserver.storage.statements import Row, Statements, marks_of


class IndexPart(Struct, frozen=True):
    """Segments of the index that a search looks through.

    ``others``: (message, conversation) of those whose texts decide, whatever the index has.
    ``rows``: those in which some terms may be, as :func:`rows_of` returns them.
    """

    segments: range
    others: Sequence[Row]
    rows: Sequence[Row]


def indexed_before(sql: Statements, log: int) -> int:
    """The id before which all messages are in the index."""
    rows = sql.query("SELECT segment FROM word_position WHERE log = %s", (log,))
    return int(rows[0][0]) * SEGMENT if rows else 0


def newest_part(
    sql: Statements, log: int, after: int, upto: int, most: int, terms: Sequence[Term]
) -> tuple[int, IndexPart | None]:
    """The id before which all messages are in the index; and its newest segments with ids up to ``upto``, at
    most so many, with the rows of these terms. After a restore the ids have a gap. None: there are no
    segments above ``after``.

    What was changed is either among ``others``, or in rows that are read later.
    """
    statement = (
        "SELECT p.segment, (SELECT max(w.segment) FROM word w WHERE w.log = p.log AND w.segment <= %s) "
        "FROM word_position p WHERE p.log = %s"
    )
    positions = sql.query(statement, (upto // SEGMENT, log))
    indexed, newest = positions[0] if positions else (0, None)
    if newest is None or (newest + 1) * SEGMENT <= after:
        return indexed * SEGMENT, None
    begin = max(newest - most + 1, after // SEGMENT, 0)
    statement = (
        "SELECT DISTINCT id, conversation FROM word_change WHERE log = %s AND id >= %s AND id < %s "
        "ORDER BY id DESC LIMIT %s"
    )
    others = sql.query(statement, (log, begin * SEGMENT, (newest + 1) * SEGMENT, SEGMENT + 1))
    if len(others) > SEGMENT:  # of the last one's segment there may be more
        begin = others[-1][0] // SEGMENT + 1
        others = [row for row in others if row[0] >= begin * SEGMENT]
    segments = range(begin, newest + 1)
    rows = []
    for row in rows_of(sql, log, buckets_with(terms) | {LONG}, segments):
        if row[1] == LONG:
            others += ((row[0] * SEGMENT + offset, conversation) for offset, conversation in long_in(row[2]))
        else:
            rows.append(row)
    return indexed * SEGMENT, IndexPart(segments, others, rows)


def buckets_with(terms: Iterable[Term]) -> set[int]:
    """The buckets in which these terms may be."""
    return {bucket for term in terms for bucket in buckets_of(term)}


def rows_of(sql: Statements, log: int, buckets: Collection[int], segments: Sequence[int]) -> list[Row]:
    """The rows of these buckets of some segments: (segment, bucket, terms)."""
    statement = (
        "SELECT b.segment, b.bucket, b.terms FROM word b WHERE b.log = %s "
        f"AND b.bucket IN {marks_of(len(buckets))} AND b.segment IN {{}}"
    )
    return sql.query_in(statement, (log, *buckets), segments, many=True)


def offsets_with(terms: bytes, term: Term) -> set[int]:
    """The messages with a term in one of these rows, and perhaps some others: texts decide."""
    found: set[int] = set()
    if term.is_prefix:
        if term.text.encode() not in terms:
            return found
        for text, offsets in decode_terms(terms).items():
            if text.startswith(term.text):
                found.update(listed(offsets))
        return found
    # To decode a row takes six times as long. A longer term may end with the bytes of this one.
    key = encode_terms(term.text)
    at = terms.find(key)
    while at >= 0:
        found.update(_offsets_at(terms, at + len(key)))
        at = terms.find(key, at + 1)
    return found


def _offsets_at(row: bytes, at: int) -> list[int]:
    """Decode a number of MessagePack, or a list of them; perhaps fewer where there is none."""
    offsets: list[int] = []
    with suppress(IndexError):
        count, head = 1, row[at]
        if head & 0xF0 == 0x90:
            count, at = head & 0x0F, at + 1
        elif head == 0xDC:
            count, at = row[at + 1] << 8 | row[at + 2], at + 3
        while len(offsets) < count:
            head = row[at]
            if head == 0xCD:
                offsets.append((row[at + 1] << 8 | row[at + 2]) % SEGMENT)
                at += 3
            elif head < 0x80:
                offsets.append(head)
                at += 1
            elif head == 0xCC:
                offsets.append(row[at + 1])
                at += 2
            else:
                break
    return offsets


def in_conversations(row: bytes, offsets: Iterable[int], conversations: Collection[int]) -> set[int]:
    """Those of the messages of a segment that are in these conversations."""
    (count,) = struct.unpack_from("<H", row)
    named = struct.unpack_from(f"<{count}q", row, 2)
    wanted = {number for number, conversation in enumerate(named) if conversation in conversations}
    numbers = struct.unpack_from(f"<{SEGMENT}H", row, 2 + 8 * count) if wanted else ()
    return {offset for offset in offsets if numbers[offset] in wanted} if wanted else set()
