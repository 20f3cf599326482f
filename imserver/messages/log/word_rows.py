"""The rows of the index of words: their buckets, the terms in them, and how a search looks these up.

A row has the terms of a bucket of a segment, as MessagePack, with the offsets of their messages.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

from imserver.messages.log.words import Term
from imserver.storage.statements import Row, Statements, marks_of

SEGMENT: Final = 2048
"""Ids of a segment; at most 65,536."""
_GROUPS: Final = 32
_PARTS: Final = 8
CONVERSATIONS: Final = _GROUPS * _PARTS
"""The bucket with the conversations of a segment."""
LONG: Final = CONVERSATIONS + 1
"""The bucket with the long messages of a segment, if it has any."""
LONG_MESSAGE: Final = struct.Struct("<Hq")
"""Offset and conversation."""
decode_terms: Final = msgspec.msgpack.Decoder(dict[str, int | list[int]]).decode
encode_terms: Final = msgspec.msgpack.Encoder().encode

Terms = dict[str, int | list[int]]
"""Term → the offsets of its messages. Most terms have one, without a list: that takes less memory, and leaves
the garbage collector nothing to look at."""


def merged_terms(terms: Terms, gone: set[int], more: Terms) -> Terms:
    """Terms without some messages, and with others."""
    merged: Terms = {}
    for term, offsets in terms.items():
        if isinstance(offsets, int):
            if offsets not in gone:
                merged[term] = offsets
        elif gone.isdisjoint(offsets):
            merged[term] = offsets
        elif rest := [each for each in offsets if each not in gone]:
            merged[term] = rest if len(rest) > 1 else rest[0]
    for term, offsets in more.items():
        if term in merged:
            offsets = sorted({*listed(merged[term]), *listed(offsets)})
        merged[term] = offsets
    return merged


def listed(offsets: int | list[int]) -> Sequence[int]:
    return (offsets,) if isinstance(offsets, int) else offsets


def bucket_of(term: str) -> int:
    """The bucket of a term. Those of the terms with the same first character follow each other."""
    second = ord(term[1]) % _PARTS if len(term) > 1 else 0
    return ord(term[0]) % _GROUPS * _PARTS + second


def buckets_of(term: Term) -> range:
    """The buckets in which a search finds a term."""
    first = bucket_of(term.text)
    return range(first, first + (_PARTS if term.is_prefix and len(term.text) == 1 else 1))


def long_in(row: bytes) -> list[tuple[int, int]]:
    """The long messages of a segment: (offset, conversation)."""
    return list(LONG_MESSAGE.iter_unpack(row))


def conversation_at(row: bytes, offset: int) -> int:
    """The conversation of one of the messages of a segment."""
    (count,) = struct.unpack_from("<H", row)
    (number,) = struct.unpack_from("<H", row, 2 + 8 * count + 2 * offset)
    return int(struct.unpack_from("<q", row, 2 + 8 * number)[0])


# --- look-ups -----------------------------------------------------------------------------------------------


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
