"""The index of words of each log: filled a whole segment at a time, changed with the messages.

A *segment* is a range of :data:`SEGMENT` ids. For each of its terms (:mod:`imserver.messages.log.words`) the
index has in which of its messages the term is, as offsets from its first id. The terms lie in buckets by
their first two characters, a row each. One more row says in which conversation each message is.

The newest segment is not in the index before it is whole: a search looks through its messages itself. So a
stored message costs nothing before its commit, and a row of the index serves many messages.

Whoever changes or deletes messages calls :func:`revise_words` or :func:`expire_words` in the same
transaction.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.clock import is_long_turn, serve_others
from imserver.messages.log.rows import NUMBERS, ROOM, LogHead, LogTables, head_of
from imserver.messages.log.words import Term, searched_text, terms_of
from imserver.storage.statements import Row, Statements, text_of

SEGMENT: Final = 2048
"""Ids of a segment; at most 65,536."""
LEASE_SECONDS: Final = 60
"""How long a node has a segment for itself. Two may work on one: the second one's work is dropped."""
_BLOCK: Final = 256
"""Ids whose messages one query reads."""
MOST_POSTINGS: Final = 200_000
"""Terms of messages that are collected before they are written: 30 MB at most."""
_GROUPS: Final = 32
_PARTS: Final = 8
_CONVERSATIONS: Final = _GROUPS * _PARTS
"""The bucket with the conversations of a segment."""
_NO_CONVERSATION: Final = 0xFFFF
_decode: Final = msgspec.msgpack.Decoder(dict[str, list[int]]).decode
_encode: Final = msgspec.msgpack.Encoder().encode

_BODIES: Final = (
    f"SELECT id, type, body FROM message WHERE log = %s AND kind = {NUMBERS['message']} AND id IN {{}}"
)
_COLUMNS: Final = "log, segment, bucket, terms"
_DELETED_AT_ONCE: Final = 32
"""Segments that one transaction deletes."""

Terms = dict[str, list[int]]
"""Term → the offsets of its messages."""


class SegmentClaim(Struct, frozen=True):
    """A segment that this node adds to the index."""

    log: int
    segment: int
    changes: int

    @property
    def after(self) -> int:
        """The id before its first one."""
        return self.segment * SEGMENT - 1


def _pause() -> None:
    if is_long_turn():
        serve_others()


class WordIndex:
    """Fills the index. All methods switch and may raise StorageUnavailable.

    ``most_postings``: terms of messages that are collected before they are written. ``pause`` is called after
    each message.
    """

    def __init__(
        self, tables: LogTables, most_postings: int = MOST_POSTINGS, pause: Callable[[], object] = _pause
    ) -> None:
        self._tables = tables
        self._most_postings = most_postings
        self._pause = pause

    def next_end(self, app: str) -> int:
        """The last id of the segment that comes next into the index; 0: the app has no log."""
        return self._tables.read_log(app, lambda sql, head: _next_end(sql, head), 0)

    def fill(self, app: str) -> bool:
        """Add the next segment. False: it is not whole yet, or another node adds it."""
        if not self._tables.read_log(app, lambda sql, head: _next_end(sql, head) <= head.last_id, False):
            return False
        claim: SegmentClaim | None = self._tables.change(partial(_claim, app), None)
        if claim is None:
            return False
        segment = _Segment(claim.after)
        for after in range(claim.after, claim.after + SEGMENT, _BLOCK):
            rows: list[Row] = self._tables.read(partial(_messages, claim.log, after), [])
            for row in rows:
                segment.add(*row)
                self._pause()
            if segment.count > self._most_postings and not self._write(claim, segment, is_last=False):
                return False
        return self._write(claim, segment, is_last=True)

    def _write(self, claim: SegmentClaim, segment: _Segment, is_last: bool) -> bool:
        rows, is_first = segment.rows(is_last), segment.is_first
        segment.is_first = False
        return self._tables.change(lambda sql: _store(sql, claim, rows, is_first, is_last), False)

    def erase(self, app: str) -> None:
        """Delete the index, so that it is filled anew."""
        claim = self._tables.change_log(app, lambda sql, head: _restart(sql, head.number), None)
        while claim is not None and self._tables.change(partial(_delete_some, claim), 0):
            pass
        if claim is not None:
            self._tables.change(lambda sql: _release(sql, claim), None)


class _Segment:
    """Collects the terms of the messages of a segment."""

    def __init__(self, after: int) -> None:
        self.is_first = True
        """Whether nothing of it was written."""
        self.count = 0
        self._first = after + 1
        self._terms: defaultdict[str, list[int]] = defaultdict(list)
        self._conversations: dict[int, int] = {}
        self._numbers = [_NO_CONVERSATION] * SEGMENT

    def add(self, id: int, conversation: int, type: Any, body: bytes) -> None:
        offset = id - self._first
        self._numbers[offset] = self._conversations.setdefault(conversation, len(self._conversations))
        terms = terms_of(searched_text(text_of(type), body))
        self.count += len(terms)
        all_terms = self._terms
        for term in terms:
            all_terms[term].append(offset)

    def rows(self, is_last: bool) -> list[tuple[int, bytes]]:
        """(bucket, terms) of what was added since the last call; at the end also the conversations."""
        by_beginning: defaultdict[str, Terms] = defaultdict(dict)
        for term, offsets in self._terms.items():
            by_beginning[term[:2]][term] = offsets
        buckets: defaultdict[int, Terms] = defaultdict(dict)
        for beginning, terms in by_beginning.items():
            buckets[bucket_of(beginning)].update(terms)
        self._terms.clear()
        self.count = 0
        rows = [(bucket, _encode(terms)) for bucket, terms in buckets.items()]
        if is_last:
            ids = self._conversations
            row = struct.pack(f"<H{len(ids)}q{SEGMENT}H", len(ids), *ids, *self._numbers)
            rows.append((_CONVERSATIONS, row))
        return rows


def bucket_of(term: str) -> int:
    """The bucket of a term. Those of the terms with the same first character follow each other."""
    second = ord(term[1]) % _PARTS if len(term) > 1 else 0
    return ord(term[0]) % _GROUPS * _PARTS + second


def _buckets_of(term: Term) -> tuple[int, int]:
    """The buckets in which a search finds a term: (first, one after the last)."""
    first = bucket_of(term.text)
    return (first, first + _PARTS) if term.is_prefix and len(term.text) == 1 else (first, first + 1)


# --- reading ------------------------------------------------------------------------------------------------

Found = dict[int, set[int]]
"""Segment → the offsets of messages."""


def indexed_before(sql: Statements, log: int) -> int:
    """The id before which all messages are in the index."""
    rows = sql.query("SELECT segment FROM word_position WHERE log = %s", (log,))
    return int(rows[0][0]) * SEGMENT if rows else 0


def newest_segment(sql: Statements, log: int, upto: int) -> int | None:
    """The newest segment of the index that has ids up to this one. After a restore the ids have a gap."""
    statement = "SELECT max(segment) FROM word WHERE log = %s AND segment <= %s"
    return sql.query(statement, (log, upto // SEGMENT))[0][0]  # type: ignore[no-any-return]


def rows_with(sql: Statements, log: int, term: Term, segments: Sequence[int]) -> list[Row]:
    """The rows in which a term may be: (segment, terms)."""
    statement = (
        "SELECT b.segment, b.terms FROM word b WHERE b.log = %s AND b.bucket >= %s AND b.bucket < %s "
        "AND b.segment IN {}"
    )
    return sql.query_in(statement, (log, *_buckets_of(term)), segments, many=True)


def offsets_with(terms: bytes, term: Term) -> set[int]:
    """The messages with a term in one of these rows."""
    if term.text.encode() not in terms:  # most rows have no rare word, and need not be decoded
        return set()
    all_terms = _decode(terms)
    if not term.is_prefix:
        return set(all_terms.get(term.text, ()))
    found: set[int] = set()
    for text, offsets in all_terms.items():
        if text.startswith(term.text):
            found.update(offsets)
    return found


def conversation_rows(sql: Statements, log: int, segments: Sequence[int]) -> list[Row]:
    """The conversations of these segments: (segment, row)."""
    statement = "SELECT b.segment, b.terms FROM word b WHERE b.log = %s AND b.bucket = %s AND b.segment IN {}"
    return sql.query_in(statement, (log, _CONVERSATIONS), segments)


def in_conversations(row: bytes, offsets: Iterable[int], conversations: Collection[int]) -> set[int]:
    """Those of the messages of a segment that are in these conversations."""
    (count,) = struct.unpack_from("<H", row)
    named = struct.unpack_from(f"<{count}q", row, 2)
    wanted = {number for number, conversation in enumerate(named) if conversation in conversations}
    numbers = struct.unpack_from(f"<{SEGMENT}H", row, 2 + 8 * count) if wanted else ()
    return {offset for offset in offsets if numbers[offset] in wanted} if wanted else set()


# --- filling ------------------------------------------------------------------------------------------------


def _next_end(sql: Statements, head: LogHead) -> int:
    """The last id of the next segment that has messages; a segment without any is passed over."""
    first = max(indexed_before(sql, head.number), head.floor + 1)
    statement = "SELECT id FROM message WHERE log = %s AND id >= %s ORDER BY id LIMIT 1"
    rows = sql.query(statement, (head.number, first))
    following = rows[0][0] if rows else max(first, head.last_id + 1)
    return int(following) // SEGMENT * SEGMENT + SEGMENT - 1


def _claim(app: str, sql: Statements) -> SegmentClaim | None:
    head = head_of(sql, app)
    if head is None:
        return None
    segment, changes, is_leased = _position(sql, head.number)
    end = _next_end(sql, head)
    if is_leased or end > head.last_id:
        return None
    segment = end // SEGMENT
    statement = f"UPDATE word_position SET segment = %s, leased = {sql.now} + %s WHERE log = %s"
    sql.execute(statement, (segment, LEASE_SECONDS, head.number))
    return SegmentClaim(head.number, segment, changes)


def _position(sql: Statements, log: int) -> tuple[int, int, bool]:
    """The position of the index, which is locked until the transaction ends: (segment, changes, whether a
    node works on it)."""
    statement = (
        f"SELECT segment, changes, CASE WHEN leased > {sql.now} THEN 1 ELSE 0 END FROM word_position "
        f"WHERE log = %s{sql.for_update}"
    )
    rows = sql.query(statement, (log,))
    if not rows:
        # Two may do so at once: then the second one waits, and reads what the first one has made.
        sql.insert_new("word_position", "log, segment, changes, leased", [(log, 0, 0, 0)])
        rows = sql.query(statement, (log,))
    segment, changes, is_leased = rows[0]
    return segment, changes, bool(is_leased)


def _messages(log: int, after: int, sql: Statements) -> list[Row]:
    """The messages of a block: (id, conversation, type, body). Rooms have no members, so nobody searches
    them."""
    return sql.query(
        "SELECT m.id, m.conversation, m.type, m.body FROM message m "
        "JOIN conversation c ON c.log = m.log AND c.id = m.conversation "
        f"WHERE m.log = %s AND m.id > %s AND m.id <= %s AND m.kind = {NUMBERS['message']} "
        f"AND c.kind <> {ROOM} ORDER BY m.id",
        (log, after, after + _BLOCK),
    )


def _store(
    sql: Statements, claim: SegmentClaim, rows: Sequence[tuple[int, bytes]], is_first: bool, is_last: bool
) -> bool:
    """Write rows of a segment. False: its messages were changed meanwhile, or another node has added it."""
    log, segment = claim.log, claim.segment
    at, changes, _ = _position(sql, log)
    if (at, changes) != (segment, claim.changes):
        if at == segment:
            _release(sql, claim)
        return False
    if is_first:
        sql.execute("DELETE FROM word WHERE log = %s AND segment = %s", (log, segment))
        sql.insert_new("word", _COLUMNS, [(log, segment, *row) for row in rows])
    else:
        _merge(sql, log, segment, rows)
    if is_last:
        statement = "UPDATE word_position SET segment = %s, leased = 0 WHERE log = %s"
        sql.execute(statement, (segment + 1, log))
    return True


def _merge(sql: Statements, log: int, segment: int, rows: Sequence[tuple[int, bytes]]) -> None:
    """Add to a segment of which a part was written. Its messages follow those of the part."""
    changed = {
        bucket: (_terms_in(sql, log, segment, bucket), _decode(terms))
        for bucket, terms in rows
        if bucket != _CONVERSATIONS
    }
    for bucket, (terms, more) in changed.items():
        for term, offsets in more.items():
            terms[term] = terms.get(term, []) + offsets
        _put(sql, log, segment, bucket, terms)
    sql.insert_new("word", _COLUMNS, [(log, segment, *row) for row in rows if row[0] == _CONVERSATIONS])


def _terms_in(sql: Statements, log: int, segment: int, bucket: int) -> Terms:
    statement = "SELECT terms FROM word WHERE log = %s AND segment = %s AND bucket = %s"
    rows = sql.query(statement, (log, segment, bucket))
    return _decode(rows[0][0]) if rows else {}


def _put(sql: Statements, log: int, segment: int, bucket: int, terms: Terms) -> None:
    """Write a row anew; none without terms."""
    statement = "DELETE FROM word WHERE log = %s AND segment = %s AND bucket = %s"
    sql.execute(statement, (log, segment, bucket))
    if terms:
        sql.insert_new("word", _COLUMNS, [(log, segment, bucket, _encode(terms))])


def _restart(sql: Statements, log: int) -> SegmentClaim:
    """Let a search use nothing of the index, and no node fill it for a time."""
    _position(sql, log)
    statement = (
        f"UPDATE word_position SET segment = 0, changes = changes + 1, leased = {sql.now} + %s WHERE log = %s"
    )
    sql.execute(statement, (LEASE_SECONDS, log))
    return SegmentClaim(log, 0, 0)


def _delete_some(claim: SegmentClaim, sql: Statements) -> int:
    """Delete the oldest segments of the index. Returns the number of rows."""
    _restart(sql, claim.log)
    first = sql.query("SELECT min(segment) FROM word WHERE log = %s", (claim.log,))[0][0]
    if first is None:
        return 0
    statement = "DELETE FROM word WHERE log = %s AND segment < %s"
    return sql.execute(statement, (claim.log, first + _DELETED_AT_ONCE))


def _release(sql: Statements, claim: SegmentClaim) -> None:
    sql.execute("UPDATE word_position SET leased = 0 WHERE log = %s", (claim.log,))


# --- changes of messages ------------------------------------------------------------------------------------


def revise_words(sql: Statements, log: int, contents: Mapping[int, tuple[str, bytes] | None]) -> None:
    """Change the index before messages are changed in the same transaction.

    ``contents``: id of a message → its (type, body) from then on; None: it has none.
    """
    segment, _, _ = _position(sql, log)
    ids = [id for id in contents if id < segment * SEGMENT]
    if pending := [id for id in contents if id // SEGMENT == segment]:
        # Whoever adds this segment now has read what is no longer there.
        sql.execute("UPDATE word_position SET changes = changes + 1 WHERE log = %s", (log,))
        if sql.query("SELECT 1 FROM word WHERE log = %s AND segment = %s LIMIT 1", (log, segment)):
            ids += pending  # a part of it was written
    removed: dict[tuple[int, int], list[tuple[str, int]]] = {}
    added: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for id, type, body in sql.query_in(_BODIES, (log,), ids):
        content, (number, offset) = contents[id], divmod(id, SEGMENT)
        before = terms_of(searched_text(text_of(type), bytes(body)))
        after = terms_of(searched_text(*content)) if content is not None else set()
        for term in before - after:
            removed.setdefault((number, bucket_of(term)), []).append((term, offset))
        for term in after if number < segment else ():
            added.setdefault((number, bucket_of(term)), []).append((term, offset))
    for row in sorted({*removed, *added}):
        present = _terms_in(sql, log, *row)
        terms = dict(present)
        for term, offset in removed.get(row, ()):
            terms[term] = [each for each in terms.get(term, ()) if each != offset]
        for term, offset in added.get(row, ()):
            terms[term] = sorted({*terms.get(term, ()), offset})
        if terms != present:
            _put(sql, log, *row, {term: offsets for term, offsets in terms.items() if offsets})


def expire_words(sql: Statements, log: int, first: int, last: int) -> None:
    """Take the messages from ``first`` to ``last`` out of the index, before which none is left; before they
    are deleted in the same transaction."""
    begin = (last + 1) // SEGMENT
    sql.execute("DELETE FROM word WHERE log = %s AND segment < %s", (log, begin))
    revise_words(sql, log, dict.fromkeys(range(max(first, begin * SEGMENT), last + 1)))
