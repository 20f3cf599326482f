"""The index of words of each log: filled a whole segment at a time, and mended after messages have changed.

A *segment* is a range of :data:`SEGMENT` ids. For each of its terms (:mod:`imserver.messages.log.words`) the
index has in which of its messages the term is, as offsets from its first id. The terms lie in buckets by
their first two characters, a row each. One more row says in which conversation each message is, and one which
messages are *long*: the index has not all of their terms, so a search compares their texts.

The newest segment is not in the index before it is whole: a search looks through its messages itself. So a
stored message costs nothing before its commit, and a row of the index serves many messages.

Whoever changes messages calls :func:`note_changes` in the same transaction, which adds a small row for each.
A search compares the texts of these messages, whatever the index has. :meth:`WordIndex.merge` brings the
index up to date later. So only who has the claim writes the index itself.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
from msgspec import Struct

from imserver.clock import is_long_turn, serve_others
from imserver.messages.log.rows import NUMBERS, ROOM, LogHead, LogTables, head_of
from imserver.messages.log.words import Term, searched_text, terms_of
from imserver.model import Limit
from imserver.storage.statements import Row, Statements, chunks, text_of

SEGMENT: Final = 2048
"""Ids of a segment; at most 65,536."""
LEASE_SECONDS: Final = 60
"""How long a node has the index of a log for itself. Then another one may claim it, and what the first one
writes is dropped."""
MOST_TERMS: Final = 512
"""A message with more terms is long."""
_LONG_TEXT: Final = 4 * MOST_TERMS
"""A text with more characters is long: nobody looks for its terms."""
_LONG_BODY: Final = 4 * _LONG_TEXT
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
_BLOCK: Final = 1024
"""Ids whose messages one query reads: 8 MB at most. A transaction costs as much as 150 messages."""
_PAUSE_CHARACTERS: Final = 2048
"""After so many characters the terms of messages let others run."""
_PAUSE_TERMS: Final = 512
_BUCKETS_AT_ONCE: Final = 16
_WRITTEN_AT_ONCE: Final = 256 * 1024
"""Bytes of rows that one transaction writes."""
_MOST_CHANGES: Final = 4 * SEGMENT
_GROUPS: Final = 32
_PARTS: Final = 8
_CONVERSATIONS: Final = _GROUPS * _PARTS
"""The bucket with the conversations of a segment."""
_LONG: Final = _CONVERSATIONS + 1
"""The bucket with the long messages of a segment, if it has any."""
_LONG_MESSAGE: Final = struct.Struct("<Hq")
"""Offset and conversation."""
_NO_CONVERSATION: Final = 0xFFFF
_decode: Final = msgspec.msgpack.Decoder(dict[str, int | list[int]]).decode
_encode: Final = msgspec.msgpack.Encoder().encode

_COLUMNS: Final = "log, segment, bucket, terms"
_DELETED_AT_ONCE: Final = 32
"""Segments that one transaction deletes."""
_HAS_CHANGES: Final = (
    "(p.floor < %s OR EXISTS (SELECT 1 FROM word_change c WHERE c.log = p.log "
    f"AND c.id < p.segment * {SEGMENT}))"
)
"""Condition: the index ``p`` of a log with this floor has what :meth:`WordIndex.merge` takes out."""

Terms = dict[str, int | list[int]]
"""Term → the offsets of its messages. Most terms have one, without a list: that takes less memory, and leaves
the garbage collector nothing to look at."""


class SegmentClaim(Struct, frozen=True):
    """The right to change the index of a log, and the segment that this node adds or mends."""

    log: int
    number: int
    """The column ``changes`` of the position; another claim has another number."""
    segment: int

    @property
    def first(self) -> int:
        """The first id of the segment."""
        return self.segment * SEGMENT


class _SegmentWork(Struct, frozen=True):
    """What a node has to do with one segment."""

    claim: SegmentClaim
    changes: Sequence[Row]
    """(message, the entry that changed it)."""
    floor: int
    """Up to which id all messages have expired."""


def _pause() -> None:
    if is_long_turn():
        serve_others()


Pause = Callable[[], object]
"""Called in long work, again and again. May switch."""


class WordIndex:
    """Fills the index, and brings it up to date. All methods switch and may raise StorageUnavailable."""

    def __init__(self, tables: LogTables) -> None:
        self._tables = tables

    def next_end(self, app: str) -> tuple[int, bool]:
        """The last id of the segment that comes next into the index, and whether all its messages are stored.
        Without a log it is 0."""

        def work(sql: Statements, head: LogHead) -> tuple[int, bool]:
            end = _next_end(sql, head)
            return end, end <= head.last_id

        return self._tables.read_log(app, work, (0, False))

    def changed(self) -> list[str]:
        """The apps whose index has something to :meth:`merge`."""
        statement = (
            "SELECT l.app FROM word_position p JOIN log l ON l.number = p.log AND l.part = 0 "
            f"WHERE {_HAS_CHANGES % 'l.floor'}"
        )
        return self._tables.read(lambda sql: [text_of(row[0]) for row in sql.query(statement)], [])

    def fill(self, app: str, pause: Pause = _pause) -> bool:
        """Add the next segment. False: it is not whole yet, or another node works on the index."""
        work: _SegmentWork | None = self._tables.change(partial(_claim_next, app), None)
        if work is None:
            return False
        claim, changes = work.claim, work.changes
        nothing: list[Row] = []
        content = _Content(claim.first)
        for first in range(claim.first, claim.first + SEGMENT, _BLOCK):
            block = self._tables.read_log(app, partial(_block, first), (nothing, nothing))
            content.add(*block, pause)
        put = partial(_add, claim)
        return self._write(content.rows(pause), put, lambda sql: _finish_new(sql, claim, changes, content))

    def merge(self, app: str, pause: Pause = _pause) -> bool:
        """Take what has expired out of the index, and bring the changes of messages of one segment into it.
        False: nothing is left, or another node works on the index."""
        if not self._tables.read_log(app, _has_changes, False):
            return False
        if self._tables.change(partial(_expire_some, app), False):
            return True
        mending: _SegmentWork | None = self._tables.change(partial(_claim_changes, app), None)
        if mending is None:
            return False
        claim = mending.claim
        content = _Content(claim.first)
        nothing: list[Row] = []
        ids = sorted({id for id, _ in mending.changes})
        for some in chunks(ids, _BLOCK):
            content.add(*self._tables.read_log(app, partial(_some, some), (nothing, nothing)), pause)
        gone = {id - claim.first for id in ids}.union(range(mending.floor + 1 - claim.first))
        rows, put = self._mended(claim, content, gone, pause), partial(_replace, claim)
        return self._write(rows, put, lambda sql: _finish_mending(sql, mending, content, gone))

    def settle(self, app: str) -> None:
        """Merge all that was changed until now, unless another node does so."""
        while self.merge(app):
            pass

    def erase(self, app: str) -> None:
        """Delete the index, so that it is filled anew."""
        while self._tables.change_log(app, _erase_some, 0):
            pass
        self._tables.change_log(app, lambda sql, head: _release(sql, head.number), None)

    def _mended(
        self, claim: SegmentClaim, content: _Content, gone: set[int], pause: Pause
    ) -> Iterator[tuple[int, bytes]]:
        """The rows of a segment that change."""
        added = content.buckets(pause)
        nothing: list[Row] = []
        for begin in range(0, _CONVERSATIONS, _BUCKETS_AT_ONCE):
            end = begin + _BUCKETS_AT_ONCE
            rows: dict[int, bytes] = dict(self._tables.read(partial(_rows_of, claim, begin, end), nothing))
            for bucket in range(begin, end):
                terms = _decode(rows[bucket]) if bucket in rows else {}
                after = _merged(terms, gone, added.get(bucket, {}))
                if after != terms:
                    yield bucket, content.packed(after)
                pause()

    def _write(
        self,
        rows: Iterator[tuple[int, bytes]],
        put: Callable[[Sequence[tuple[int, bytes]], Statements], bool],
        finish: Callable[[Statements], None],
    ) -> bool:
        """Write rows of a segment, in short transactions. False: another node has the claim."""
        some: list[tuple[int, bytes]] = []
        size = 0
        for row in rows:
            some.append(row)
            size += len(row[1])
            if size > _WRITTEN_AT_ONCE:
                if not self._tables.change(partial(put, some), False):
                    return False
                some, size = [], 0

        def end(sql: Statements) -> bool:
            if is_ours := put(some, sql):
                finish(sql)
            return is_ours

        return self._tables.change(end, False)


class _Content:
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
        yield _CONVERSATIONS, struct.pack(f"<H{len(ids)}q{SEGMENT}H", len(ids), *ids, *numbers)

    def packed(self, terms: Terms) -> bytes:
        """A row; ``b""`` without terms."""
        row = _encode(terms) if terms else b""
        for most in _PARTS_OF_ROWS if len(row) > MOST_ROW_BYTES else ():
            counts = Counter(offset for offsets in terms.values() for offset in _listed(offsets))
            gone = {offset for offset, count in counts.items() if count > most}
            self.long |= gone
            terms = _merged(terms, gone, {})
            row = _encode(terms) if terms else b""
            if len(row) <= MOST_ROW_BYTES:
                break
        return row


def _merged(terms: Terms, gone: set[int], more: Terms) -> Terms:
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
            offsets = sorted({*_listed(merged[term]), *_listed(offsets)})
        merged[term] = offsets
    return merged


def _listed(offsets: int | list[int]) -> Sequence[int]:
    return (offsets,) if isinstance(offsets, int) else offsets


def bucket_of(term: str) -> int:
    """The bucket of a term. Those of the terms with the same first character follow each other."""
    second = ord(term[1]) % _PARTS if len(term) > 1 else 0
    return ord(term[0]) % _GROUPS * _PARTS + second


def buckets_of(term: Term) -> int:
    """The number of buckets in which a search finds a term. They follow each other."""
    return _PARTS if term.is_prefix and len(term.text) == 1 else 1


# --- reading ------------------------------------------------------------------------------------------------


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
        for segment, row in sql.query_in(statement, (log, _LONG), segments)
        for offset, conversation in _long_in(row)
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
        for text, offsets in _decode(terms).items():
            if text.startswith(term.text):
                found.update(_listed(offsets))
        return found
    # To decode a row takes six times as long. A longer term may end with the bytes of this one.
    key = _encode(term.text)
    at = terms.find(key)
    while at >= 0:
        value = terms[at + len(key) : at + len(key) + 1]
        if value == _LIST_16:
            return set(_listed(_decode(terms).get(term.text, [])))
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
    return sql.query_in(statement, (log, _CONVERSATIONS), segments)


def in_conversations(row: bytes, offsets: Iterable[int], conversations: Collection[int]) -> set[int]:
    """Those of the messages of a segment that are in these conversations."""
    (count,) = struct.unpack_from("<H", row)
    named = struct.unpack_from(f"<{count}q", row, 2)
    wanted = {number for number, conversation in enumerate(named) if conversation in conversations}
    numbers = struct.unpack_from(f"<{SEGMENT}H", row, 2 + 8 * count) if wanted else ()
    return {offset for offset in offsets if numbers[offset] in wanted} if wanted else set()


def _long_in(row: bytes) -> list[tuple[int, int]]:
    """The long messages of a segment: (offset, conversation)."""
    return list(_LONG_MESSAGE.iter_unpack(row))


def _conversation_at(row: bytes, offset: int) -> int:
    """The conversation of one of the messages of a segment."""
    (count,) = struct.unpack_from("<H", row)
    (number,) = struct.unpack_from("<H", row, 2 + 8 * count + 2 * offset)
    return int(struct.unpack_from("<q", row, 2 + 8 * number)[0])


# --- changes of messages ------------------------------------------------------------------------------------


def note_changes(sql: Statements, log: int, changes: Sequence[tuple[int, int, int]], first: int) -> None:
    """Messages get another text in the same transaction: (message, conversation, the entry that changes it).

    ``first``: the first id that the transaction adds. Messages of its segment are not in the index: it was
    not whole before, and who adds it later reads what they have then.
    """
    whole = first // SEGMENT * SEGMENT
    rows = [(log, id, entry, conversation) for id, conversation, entry in changes if id < whole]
    if rows:
        sql.insert_new("word_change", "log, id, entry, conversation", rows)


# --- the claim ----------------------------------------------------------------------------------------------


class _Position(Struct, frozen=True):
    """The position of an index, locked until the transaction ends."""

    segment: int
    number: int
    """Of the last claim."""
    floor: int
    is_leased: bool


def _position(sql: Statements, log: int) -> _Position:
    statement = (
        f"SELECT segment, changes, floor, CASE WHEN leased > {sql.now} THEN 1 ELSE 0 END FROM word_position "
        f"WHERE log = %s{sql.for_update}"
    )
    rows = sql.query(statement, (log,))
    if not rows:
        # Two may do so at once: then the second one waits, and reads what the first one has made.
        sql.insert_new("word_position", "log, segment, changes, leased, floor", [(log, 0, 0, 0, 0)])
        rows = sql.query(statement, (log,))
    segment, number, floor, is_leased = rows[0]
    return _Position(segment, number, floor, bool(is_leased))


def _claim(sql: Statements, log: int, position: _Position, segment: int) -> SegmentClaim:
    statement = f"UPDATE word_position SET changes = %s, leased = {sql.now} + %s WHERE log = %s"
    sql.execute(statement, (position.number + 1, LEASE_SECONDS, log))
    return SegmentClaim(log, position.number + 1, segment)


def _claim_next(app: str, sql: Statements) -> _SegmentWork | None:
    """Claim the next segment that is whole."""
    head = head_of(sql, app)
    if head is None:
        return None
    position, end = _position(sql, head.number), _next_end(sql, head)
    if position.is_leased or end > head.last_id:
        return None
    claim = _claim(sql, head.number, position, end // SEGMENT)
    # What somebody has written who did not finish.
    sql.execute("DELETE FROM word WHERE log = %s AND segment = %s", (head.number, claim.segment))
    return _SegmentWork(claim, _changes(claim, sql), head.floor)


def _claim_changes(app: str, sql: Statements) -> _SegmentWork | None:
    """Claim the oldest segment that has expired in part, or of which messages were changed."""
    head = head_of(sql, app)
    if head is None:
        return None
    log, position = head.number, _position(sql, head.number)
    if position.is_leased:
        return None
    first, end = head.floor + 1, position.segment * SEGMENT
    if position.floor < head.floor and first < end and first % SEGMENT:
        segment = first // SEGMENT
    else:
        _set_floor(sql, log, head.floor)
        statement = "SELECT id FROM word_change WHERE log = %s AND id < %s ORDER BY id LIMIT 1"
        rows = sql.query(statement, (log, end))
        if not rows:
            return None
        segment = rows[0][0] // SEGMENT
    claim = _claim(sql, log, position, segment)
    return _SegmentWork(claim, _changes(claim, sql), head.floor)


def _release(sql: Statements, log: int) -> None:
    sql.execute("UPDATE word_position SET leased = 0 WHERE log = %s", (log,))


def _set_floor(sql: Statements, log: int, floor: int) -> None:
    sql.execute("UPDATE word_position SET floor = %s WHERE log = %s", (floor, log))


# --- filling ------------------------------------------------------------------------------------------------


def _next_end(sql: Statements, head: LogHead) -> int:
    """The last id of the next segment that has messages; a segment without any is passed over."""
    first = max(indexed_before(sql, head.number), head.floor + 1)
    statement = "SELECT id FROM message WHERE log = %s AND id >= %s ORDER BY id LIMIT 1"
    rows = sql.query(statement, (head.number, first))
    following = rows[0][0] if rows else max(first, head.last_id + 1)
    return int(following) // SEGMENT * SEGMENT + SEGMENT - 1


_ENTRIES: Final = (
    "SELECT m.id, m.conversation, m.kind, m.type, "
    f"CASE WHEN length(m.body) <= {_LONG_BODY} THEN m.body END FROM message m WHERE m.log = %s AND "
)


def _block(first: int, sql: Statements, head: LogHead) -> tuple[list[Row], list[Row]]:
    """The entries of a block, and the kinds of their conversations: see :meth:`_Content.add`."""
    values = (head.number, max(first, head.floor + 1), first + _BLOCK)
    return _with_kinds(sql, head, sql.query(f"{_ENTRIES}m.id >= %s AND m.id < %s", values))


def _some(ids: Sequence[int], sql: Statements, head: LogHead) -> tuple[list[Row], list[Row]]:
    """As :func:`_block`, of these messages."""
    some = [id for id in ids if id > head.floor]
    return _with_kinds(sql, head, sql.query_in(f"{_ENTRIES}m.id IN {{}}", (head.number,), some))


def _with_kinds(sql: Statements, head: LogHead, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    statement = "SELECT c.id, c.kind FROM conversation c WHERE c.log = %s AND c.id IN {}"
    return rows, sql.query_in(statement, (head.number,), list({row[1] for row in rows}))


def _changes(claim: SegmentClaim, sql: Statements) -> list[Row]:
    """Changes of messages of a segment: (message, entry)."""
    statement = (
        "SELECT id, entry FROM word_change WHERE log = %s AND id >= %s AND id < %s "
        "ORDER BY id, entry LIMIT %s"
    )
    return sql.query(statement, (claim.log, claim.first, claim.first + SEGMENT, _MOST_CHANGES))


def _rows_of(claim: SegmentClaim, begin: int, end: int, sql: Statements) -> list[Row]:
    """(bucket, terms) of some buckets of a segment."""
    statement = (
        "SELECT bucket, terms FROM word WHERE log = %s AND segment = %s AND bucket >= %s AND bucket < %s"
    )
    return sql.query(statement, (claim.log, claim.segment, begin, end))


def _add(claim: SegmentClaim, rows: Sequence[tuple[int, bytes]], sql: Statements) -> bool:
    """Add rows of a segment. False: another node has the claim."""
    statement = f"SELECT changes FROM word_position WHERE log = %s{sql.for_update}"
    if sql.query(statement, (claim.log,))[0][0] != claim.number:
        return False
    sql.insert_new("word", _COLUMNS, [(claim.log, claim.segment, *row) for row in rows if row[1]])
    return True


def _replace(claim: SegmentClaim, rows: Sequence[tuple[int, bytes]], sql: Statements) -> bool:
    """As :func:`_add`, in place of the rows that the segment has."""
    statement = "DELETE FROM word WHERE log = %s AND segment = %s AND bucket = %s"
    sql.execute_many(statement, [(claim.log, claim.segment, bucket) for bucket, _ in rows])
    return _add(claim, rows, sql)


def _finish_new(sql: Statements, claim: SegmentClaim, changes: Sequence[Row], content: _Content) -> None:
    """A segment is in the index, with these changes of its messages."""
    long = {offset: content.conversation_of[offset] for offset in content.long}
    _finish(sql, claim, changes, long)
    statement = "UPDATE word_position SET segment = %s WHERE log = %s"
    sql.execute(statement, (claim.segment + 1, claim.log))


def _finish_mending(sql: Statements, mending: _SegmentWork, content: _Content, gone: Collection[int]) -> None:
    """A segment is up to date."""
    claim = mending.claim
    rows: dict[int, bytes] = dict(_rows_of(claim, _CONVERSATIONS, _LONG + 1, sql))
    before = _long_in(rows.get(_LONG, b""))
    long = {offset: conversation for offset, conversation in before if offset not in gone}
    for offset in content.long:
        known = content.conversation_of.get(offset)
        long[offset] = _conversation_at(rows[_CONVERSATIONS], offset) if known is None else known
    _finish(sql, claim, mending.changes, long)
    _set_floor(sql, claim.log, mending.floor)


def _finish(sql: Statements, claim: SegmentClaim, changes: Sequence[Row], long: Mapping[int, int]) -> None:
    _replace(claim, [(_LONG, b"".join(_LONG_MESSAGE.pack(*each) for each in sorted(long.items())))], sql)
    statement = "DELETE FROM word_change WHERE log = %s AND id = %s AND entry = %s"
    sql.execute_many(statement, [(claim.log, *each) for each in changes])
    _release(sql, claim.log)


# --- deleting -----------------------------------------------------------------------------------------------


def _has_changes(sql: Statements, head: LogHead) -> bool:
    statement = f"SELECT 1 FROM word_position p WHERE p.log = %s AND {_HAS_CHANGES}"
    return bool(sql.query(statement, (head.number, head.floor)))


def _expire_some(app: str, sql: Statements) -> bool:
    """Delete some of the segments that have expired as a whole. False: there are none."""
    head = head_of(sql, app)
    if head is None or _position(sql, head.number).is_leased:
        return False
    sql.execute("DELETE FROM word_change WHERE log = %s AND id <= %s", (head.number, head.floor))
    return bool(_delete_before(sql, head.number, (head.floor + 1) // SEGMENT))


def _delete_before(sql: Statements, log: int, end: int) -> int:
    """Delete the oldest segments of the index before one. Returns the number of rows."""
    first = sql.query("SELECT min(segment) FROM word WHERE log = %s", (log,))[0][0]
    if first is None:
        return 0
    statement = "DELETE FROM word WHERE log = %s AND segment < %s"
    return sql.execute(statement, (log, min(first + _DELETED_AT_ONCE, end)))


def _erase_some(sql: Statements, head: LogHead) -> int:
    """Let a search use nothing of the index, and no node fill it for a time; and delete some of it."""
    _claim(sql, head.number, _position(sql, head.number), 0)
    sql.execute("UPDATE word_position SET segment = 0 WHERE log = %s", (head.number,))
    return _delete_before(sql, head.number, Limit.ID)
