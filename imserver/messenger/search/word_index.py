"""The index of words of each log. It is filled a complete segment at a time,
and updated after messages have changed.

A *segment* is a range of :data:`SEGMENT` ids. For each term
(:mod:`imserver.messenger.search.words`) of a segment, the index has the
messages with the term, as offsets from the first id of the segment. The terms
are in buckets by their first two characters, with a row for each bucket. One
more row has the conversation of each message. Another row lists the *long*
messages. The index does not have all terms of these messages, so a search
compares their texts.

The newest segment is not in the index before it is complete. Until then, a
search scans its messages. So a stored message costs nothing before its commit,
and a row of the index serves many messages.

Code that changes messages calls
:func:`imserver.messenger.log.changes.note_changes` in the same transaction,
which adds a small row for each message. A search always compares the texts of
these messages. :meth:`WordIndex.merge` updates the index later. So only the
node that has claimed the index writes it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Final, Literal

import gevent
from msgspec import Struct

from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Row, Statements, chunks, text_of
from imserver.messenger.log.changes import SEGMENT
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.rows import (
    ROOM,
    LogHead,
    change_log,
    in_log,
    read_log,
)
from imserver.messenger.search.recent_entries import RecentEntries
from imserver.messenger.search.word_content import (
    LONG_BODY,
    ContentRow,
    Pause,
    SegmentContent,
)
from imserver.messenger.search.words import (
    CONVERSATIONS,
    LONG,
    LONG_MESSAGE,
    Terms,
    conversation_at,
    decode_terms,
    indexed_before,
    long_in,
    merged_terms,
)
from imserver.plugin.storage import Store

LEASE_SECONDS: Final = 60
"""How long a node may work on the index of a log alone. After that another node
may claim it, and later writes of the first node are dropped."""
_BLOCK: Final = 1024
"""The number of ids whose messages one query reads. These have at most 8 MB. A
transaction costs as much as 150 messages."""
_BUCKETS_AT_ONCE: Final = 16
_WRITTEN_BYTES: Final = 256 * 1024
"""The number of bytes that one transaction writes."""
_CHANGES_AT_ONCE: Final = 4 * SEGMENT
"""The most changes of messages that one claim merges into the index."""
_DELETED_SEGMENTS: Final = 32
"""The most segments that one transaction deletes."""
_SETTLE_SECONDS: Final = 0.05
"""The time between two checks whether another node has finished."""
_COLUMNS: Final = "log, segment, bucket, terms"
_HAS_CHANGES: Final = (
    "(p.floor < %s OR EXISTS (SELECT 1 FROM word_change c WHERE c.log = p.log "
    f"AND c.id < p.segment * {SEGMENT}))"
)
"""The SQL condition that :meth:`WordIndex.merge` has something to do in the
index ``p`` of a log with this floor."""


class SegmentClaim(Struct, frozen=True):
    """The right to change the index of a log, for one segment.

    A *segment* is a range of ids that are indexed together. The claim also has
    the changes of messages of this segment.
    """

    log: int
    number: int
    """The column ``changes`` of the position. Each claim has another number."""
    segment: int
    changes: Sequence[Row]
    """Changes of messages of the segment: (message, the entry that changed
    it)."""
    floor: int
    """The id up to which all messages have expired."""

    @property
    def first(self) -> int:
        """The first id of the segment."""
        return self.segment * SEGMENT


def _pause() -> None:
    """Let other greenlets run if this greenlet has worked for long."""
    if is_long_turn():
        serve_others()


class WordIndex(Store.Rows):
    """Fills the index of words, and updates it.

    One node at a time has the claim to write the index of a log. A store has
    one such part: ``store.part(WordIndex)``. All methods except :meth:`close`
    switch greenlets, and may raise StorageUnavailable.
    """

    def __init__(self, store: Store) -> None:
        """Remember the entries that this node stores from now on, for the
        index."""
        super().__init__(store)
        self._recent = RecentEntries()
        store.part(MessageLog).writer.report_commits_to(self._recent.add)

    def close(self) -> None:
        """Do nothing, because the messages that are not in the index are in the
        log."""

    @in_log(lambda: (0, False))
    def next_end(self, sql: Statements, head: LogHead) -> tuple[int, bool]:
        """Return the last id of the next segment for the index, or 0 if there
        is no log.

        The second value says whether all messages of this segment are stored.
        """
        end = _next_end(sql, head)
        return end, end <= head.last_id

    def changed(self) -> list[str]:
        """Return the apps whose indexes need a :meth:`merge`."""
        statement = (
            "SELECT l.app FROM word_position p "
            "JOIN log l ON l.number = p.log AND l.part = 0 "
            f"WHERE {_HAS_CHANGES % 'l.floor'}"
        )
        return [text_of(row[0]) for row in self._store.rows(statement)]

    def fill(self, app: str, pause: Pause = _pause) -> bool:
        """Add the next segment to the index.

        Returns False if the segment is not complete yet, or if another node
        works on the index or has taken over the claim. ``pause`` is called
        again and again, so that other greenlets run.
        """
        claim = change_log(self._store, app, _claim_next, nothing=None)
        if claim is None:
            return False
        content = self._content_of(app, claim, pause)

        def finish(sql: Statements) -> None:
            """Write the list of long messages, and set the next segment."""
            # This runs after all rows were made, because making them can turn
            # messages into long ones.
            long = {offset: content.conversation_of[offset] for offset in content.long}
            _finish(sql, claim, long)
            _set_position(sql, claim.log, "segment", claim.segment + 1)

        return self._write(content.rows(pause), partial(_add, claim), finish)

    def _content_of(
        self, app: str, claim: SegmentClaim, pause: Pause
    ) -> SegmentContent:
        """Collect the words of all messages of a claimed segment."""
        content = SegmentContent(claim.first)
        end = claim.first + SEGMENT
        # Entries that this node has stored lately need not be read again.
        parts, changed = self._recent.take(app, max(claim.first, 1), end)
        if not parts or claim.floor >= parts[0].first:
            self._add_segment(app, claim.first, content, pause)
            return content

        # `changed` has the changes by this node until the last message of the
        # segment was stored. Other nodes cannot have stored entries until then.
        # Later changes were noted in the database.
        changed.update(id for id, _ in claim.changes)
        for part in parts:
            content.add_part(part, changed, pause)
        # The texts of changed messages are read from the database.
        self._add_messages(app, sorted(changed), content, pause)
        return content

    def _add_segment(
        self, app: str, first: int, content: SegmentContent, pause: Pause
    ) -> None:
        """Read the messages of the segment that begins at ``first``, and add
        them to ``content``."""
        nothing: list[ContentRow] = []
        for block in range(first, first + SEGMENT, _BLOCK):
            rows = read_log(self._store, app, partial(_block, block), nothing)
            content.add(rows, pause)

    def merge(self, app: str, pause: Pause = _pause) -> bool:
        """Update one segment of the index, or remove expired segments.

        A segment is updated if some of its messages have changed or expired.
        Returns False if nothing is left to do, or if another node works on the
        index.
        """
        if not read_log(self._store, app, _has_changes, nothing=False):
            return False
        if change_log(self._store, app, _expire_some, nothing=False):
            return True
        claim = change_log(self._store, app, _claim_changes, nothing=None)
        if claim is None:
            return False
        content = SegmentContent(claim.first)
        ids = sorted({id for id, _ in claim.changes})
        self._add_messages(app, ids, content, pause)

        gone = _gone_offsets(claim, ids)
        rows = self._changed_rows(claim, content, gone, pause)
        finish = partial(_finish_merge, claim=claim, content=content, gone=gone)
        return self._write(rows, partial(_replace, claim), finish)

    def settle(self, app: str, patience: float = 0.0) -> bool:
        """Merge all changes until now. Switches greenlets.

        If another node works on the index, wait for it at most ``patience``
        seconds. A node that has died keeps its claim for :data:`LEASE_SECONDS`.
        Returns False if the index still has old words.
        """
        deadline = monotonic() + patience
        while True:
            while self.merge(app):
                pass
            if not read_log(self._store, app, _has_changes, nothing=False):
                return True
            if monotonic() >= deadline:
                return False
            gevent.sleep(_SETTLE_SECONDS)

    def erase(self, app: str) -> None:
        """Delete the index, so that it is filled anew."""
        while change_log(self._store, app, _erase_some, nothing=0):
            pass
        change_log(self._store, app, _end_lease, nothing=None)

    def _add_messages(
        self, app: str, ids: Sequence[int], content: SegmentContent, pause: Pause
    ) -> None:
        """Read the messages with these ids, and add them to ``content``."""
        nothing: list[ContentRow] = []
        for block in chunks(ids, _BLOCK):
            rows = read_log(self._store, app, partial(_rows_with, block), nothing)
            content.add(rows, pause)

    def _changed_rows(
        self, claim: SegmentClaim, content: SegmentContent, gone: set[int], pause: Pause
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of a segment that change: (bucket, terms).

        A *bucket* is a part of the terms of a segment, in one row. ``content``
        has the messages with new texts. ``gone`` has the offsets of messages
        whose old terms are removed.
        """
        added = content.buckets(pause)
        nothing: list[Row] = []
        for begin in range(0, CONVERSATIONS, _BUCKETS_AT_ONCE):
            end = begin + _BUCKETS_AT_ONCE
            read_rows = partial(_rows_of, claim, begin, end)
            row_of: dict[int, bytes] = dict(self._store.read_or(nothing, read_rows))
            # Rows that have not changed need not be written.
            for bucket in range(begin, end):
                terms = _terms_in(row_of.get(bucket))
                merged = merged_terms(terms, gone, added.get(bucket, {}))
                if merged != terms:
                    yield bucket, content.packed(merged)
                pause()

    def _write(
        self,
        rows: Iterator[tuple[int, bytes]],
        put: Callable[[Sequence[tuple[int, bytes]], Statements], bool],
        finish: Callable[[Statements], None],
    ) -> bool:
        """Write rows of a segment, (bucket, terms), in short transactions.

        ``put`` writes some rows. ``finish`` runs in the last transaction.
        Returns False if another node has the claim.
        """
        batch: list[tuple[int, bytes]] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += len(row[1])
            # Transactions are short, because writers of messages wait for them.
            if size > _WRITTEN_BYTES:
                if not self._store.write_or(False, partial(put, batch)):
                    return False
                batch = []
                size = 0

        def end(sql: Statements) -> bool:
            """Write the last rows, and finish if this node still has the
            claim."""
            is_ours = put(batch, sql)
            if is_ours:
                finish(sql)
            return is_ours

        return self._store.write_or(False, end)


def _terms_in(row: bytes | None) -> Terms:
    """Decode the terms of a row. ``row`` is None if there is no such row."""
    if row is None:
        return {}
    return decode_terms(row)


def _gone_offsets(claim: SegmentClaim, changed: Iterable[int]) -> set[int]:
    """Return the offsets of the messages whose old terms are removed.

    These are the messages that have ``changed``, and the expired messages of
    the segment.
    """
    gone = {id - claim.first for id in changed}
    gone.update(range(claim.floor + 1 - claim.first))
    return gone


# --- the claim ----------------------------------------------------------------


class _Position(Struct, frozen=True):
    """The position of an index, locked until the transaction ends."""

    segment: int
    number: int
    """The number of the last claim."""
    floor: int
    is_leased: bool


def _position(sql: Statements, log: int) -> _Position:
    """Lock the position of an index until the transaction ends.

    A missing position is created.
    """
    statement = (
        "SELECT segment, changes, floor, "
        f"CASE WHEN leased > {sql.now} THEN 1 ELSE 0 END "
        f"FROM word_position WHERE log = %s{sql.for_update}"
    )
    rows = sql.query(statement, (log,))
    if not rows:
        # Two transactions may do this at once. The second transaction then
        # waits, and reads the row that the first transaction has made.
        sql.insert_new(
            "word_position", "log, segment, changes, leased, floor", [(log, 0, 0, 0, 0)]
        )
        rows = sql.query(statement, (log,))
    segment, number, floor, is_leased = rows[0]
    return _Position(segment, number, floor, bool(is_leased))


def _claim(
    sql: Statements, head: LogHead, position: _Position, segment: int
) -> SegmentClaim:
    """Claim a segment, and read the changes of its messages.

    Each claim has a greater number. So this claim ends an earlier claim, even
    if its node is still working.
    """
    number = position.number + 1
    # A new number ends all earlier claims.
    lease = (
        f"UPDATE word_position SET changes = %s, leased = {sql.now} + %s WHERE log = %s"
    )
    sql.execute(lease, (number, LEASE_SECONDS, head.number))
    select_changes = (
        "SELECT id, entry FROM word_change WHERE log = %s AND id >= %s AND id < %s "
        "ORDER BY id, entry LIMIT %s"
    )
    first = segment * SEGMENT
    changes = sql.query(
        select_changes, (head.number, first, first + SEGMENT, _CHANGES_AT_ONCE)
    )
    return SegmentClaim(head.number, number, segment, changes, head.floor)


def _claim_next(sql: Statements, head: LogHead) -> SegmentClaim | None:
    """Claim the next complete segment.

    Returns None if the segment is not complete yet, or if another node works on
    the index.
    """
    position = _position(sql, head.number)
    end = _next_end(sql, head)
    if position.is_leased or end > head.last_id:
        return None
    # Another node may have written some rows of the segment, but did not finish
    # it.
    segment = end // SEGMENT
    statement = "DELETE FROM word WHERE log = %s AND segment = %s"
    sql.execute(statement, (head.number, segment))
    return _claim(sql, head, position, segment)


def _claim_changes(sql: Statements, head: LogHead) -> SegmentClaim | None:
    """Claim the oldest segment that must be updated.

    Such a segment has expired in part, or has changed messages. Returns None if
    there is no such segment, or if another node works on the index.
    """
    log = head.number
    position = _position(sql, log)
    if position.is_leased:
        return None

    first = head.floor + 1
    end = position.segment * SEGMENT
    has_expired = position.floor < head.floor and first < end
    if has_expired and first % SEGMENT:  # the segment of `first` has, in part
        return _claim(sql, head, position, first // SEGMENT)

    # No segment has expired in part, so the index has the same floor as the
    # log.
    _set_position(sql, log, "floor", head.floor)
    changed = _first_changed(sql, log, end)
    if changed is None:
        return None
    return _claim(sql, head, position, changed // SEGMENT)


def _first_changed(sql: Statements, log: int, end: int) -> int | None:
    """Return the oldest changed message before the id ``end``, if any."""
    statement = (
        "SELECT id FROM word_change WHERE log = %s AND id < %s ORDER BY id LIMIT 1"
    )
    rows = sql.query(statement, (log, end))
    if rows:
        return int(rows[0][0])
    return None


def _set_position(
    sql: Statements, log: int, column: Literal["leased", "floor", "segment"], value: int
) -> None:
    """Write a column of the position of an index.

    - ``leased``: the end of the lease in Unix seconds; 0 means no lease.
    - ``floor``: the id up to which expired messages are removed.
    - ``segment``: the next segment to fill.
    """
    sql.execute(f"UPDATE word_position SET {column} = %s WHERE log = %s", (value, log))


# --- filling ------------------------------------------------------------------


def _next_end(sql: Statements, head: LogHead) -> int:
    """Return the last id of the next segment with messages.

    Segments without messages are skipped, because ids have wide gaps after a
    restore.
    """
    first = max(indexed_before(sql, head.number), head.floor + 1)
    statement = "SELECT id FROM message WHERE log = %s AND id >= %s ORDER BY id LIMIT 1"
    rows = sql.query(statement, (head.number, first))
    # If there are no messages, the segment at the end of the log is next.
    if rows:
        next_id = rows[0][0]
    else:
        next_id = max(first, head.last_id + 1)
    segment = int(next_id) // SEGMENT
    return (segment + 1) * SEGMENT - 1


_ENTRIES: Final = (
    "SELECT m.id, m.conversation, m.kind, m.type, "
    f"CASE WHEN length(m.body) <= {LONG_BODY} THEN m.body END FROM message m "
    "WHERE m.log = %s AND "
)


def _block(first: int, sql: Statements, head: LogHead) -> list[ContentRow]:
    """Read the entries of a block that users may find.

    ``first`` is the first id of the block.
    """
    values = (head.number, max(first, head.floor + 1), first + _BLOCK)
    rows = sql.query(f"{_ENTRIES}m.id >= %s AND m.id < %s", values)
    return _in_conversations_with_members(sql, head, rows)


def _rows_with(ids: Sequence[int], sql: Statements, head: LogHead) -> list[ContentRow]:
    """Read the entries with these ids that users may find."""
    ids_left = [id for id in ids if id > head.floor]
    rows = sql.query_in(f"{_ENTRIES}m.id IN {{}}", (head.number,), ids_left)
    return _in_conversations_with_members(sql, head, rows)


def _in_conversations_with_members(
    sql: Statements, head: LogHead, rows: list[Row]
) -> list[ContentRow]:
    """Return the entries of conversations with members.

    Rooms have no members, so nobody searches them.
    """
    statement = (
        "SELECT c.id FROM conversation c "
        f"WHERE c.log = %s AND c.kind <> {ROOM} AND c.id IN {{}}"
    )
    conversations = list({row[1] for row in rows})
    with_members = sql.query_in(statement, (head.number,), conversations)
    searched = {row[0] for row in with_members}
    return [
        (id, conversation, kind, text_of(type), body)
        for id, conversation, kind, type, body in rows
        if conversation in searched
    ]


def _rows_of(claim: SegmentClaim, begin: int, end: int, sql: Statements) -> list[Row]:
    """Return the rows of a segment in a range of buckets: (bucket, terms).

    The range is from ``begin`` to before ``end``.
    """
    statement = (
        "SELECT bucket, terms FROM word "
        "WHERE log = %s AND segment = %s AND bucket >= %s AND bucket < %s"
    )
    return sql.query(statement, (claim.log, claim.segment, begin, end))


def _add(
    claim: SegmentClaim, rows: Sequence[tuple[int, bytes]], sql: Statements
) -> bool:
    """Add rows of a segment: (bucket, terms).

    Returns False, and adds nothing, if another node has the claim.
    """
    statement = f"SELECT changes FROM word_position WHERE log = %s{sql.for_update}"
    number = sql.query(statement, (claim.log,))[0][0]
    # Another node has claimed the index meanwhile.
    if number != claim.number:
        return False
    new_rows = [(claim.log, claim.segment, *row) for row in rows if row[1]]
    sql.insert_new("word", _COLUMNS, new_rows)
    return True


def _replace(
    claim: SegmentClaim, rows: Sequence[tuple[int, bytes]], sql: Statements
) -> bool:
    """Replace rows of a segment: (bucket, terms).

    If a row has no terms, it is only deleted. Returns False if another node has
    the claim.
    """
    statement = "DELETE FROM word WHERE log = %s AND segment = %s AND bucket = %s"
    old_rows = [(claim.log, claim.segment, bucket) for bucket, _ in rows]
    sql.execute_many(statement, old_rows)
    return _add(claim, rows, sql)


def _finish_merge(
    sql: Statements, claim: SegmentClaim, content: SegmentContent, gone: Collection[int]
) -> None:
    """Write the new list of long messages of a segment, and end the claim.

    A *long* message has more terms than the index takes, so searches compare
    its text. The list has the former long messages that are not ``gone``, and
    the long messages of ``content``.
    """
    row_of: dict[int, bytes] = dict(_rows_of(claim, CONVERSATIONS, LONG + 1, sql))
    former_long = long_in(row_of.get(LONG, b""))
    long = {
        offset: conversation
        for offset, conversation in former_long
        if offset not in gone
    }
    # Add the messages that have become long.
    for offset in content.long:
        conversation = content.conversation_of.get(offset)
        # The text of the message was not read. The message has become long,
        # because a row with its terms would be too large.
        if conversation is None:
            conversation = conversation_at(row_of[CONVERSATIONS], offset)
        long[offset] = conversation
    _finish(sql, claim, long)
    _set_position(sql, claim.log, "floor", claim.floor)


def _finish(sql: Statements, claim: SegmentClaim, long: Mapping[int, int]) -> None:
    """Write the list of long messages, and end the claim.

    ``long`` has offset → conversation. The changes of the claim are in the
    index now, so they are deleted.
    """
    row = b"".join(LONG_MESSAGE.pack(*message) for message in sorted(long.items()))
    _replace(claim, [(LONG, row)], sql)
    statement = "DELETE FROM word_change WHERE log = %s AND id = %s AND entry = %s"
    sql.execute_many(statement, [(claim.log, *change) for change in claim.changes])
    _set_position(sql, claim.log, "leased", 0)


# --- deleting -----------------------------------------------------------------


def _has_changes(sql: Statements, head: LogHead) -> bool:
    """Tell whether the index has something for :meth:`WordIndex.merge` to
    do."""
    statement = f"SELECT 1 FROM word_position p WHERE p.log = %s AND {_HAS_CHANGES}"
    return bool(sql.query(statement, (head.number, head.floor)))


def _expire_some(sql: Statements, head: LogHead) -> bool:
    """Delete some of the completely expired segments.

    Changes of expired messages are deleted, too. Returns False if no such
    segment is left, or if another node works on the index.
    """
    if _position(sql, head.number).is_leased:
        return False
    sql.execute(
        "DELETE FROM word_change WHERE log = %s AND id <= %s", (head.number, head.floor)
    )
    return bool(_delete_before(sql, head.number, (head.floor + 1) // SEGMENT))


def _delete_before(sql: Statements, log: int, end: int) -> int:
    """Delete the oldest segments of the index that are before ``end``.

    At most 32 segments are deleted at a time. Returns the number of deleted
    rows.
    """
    first = sql.query("SELECT min(segment) FROM word WHERE log = %s", (log,))[0][0]
    if first is None:
        return 0
    statement = "DELETE FROM word WHERE log = %s AND segment < %s"
    return sql.execute(statement, (log, min(first + _DELETED_SEGMENTS, end)))


def _erase_some(sql: Statements, head: LogHead) -> int:
    """Delete some of the index. Returns the number of deleted rows, or 0 if the
    index is empty.

    The claim keeps other nodes from filling the index meanwhile, and the
    position 0 keeps searches from using it.
    """
    _claim(sql, head, _position(sql, head.number), segment=0)
    _set_position(sql, head.number, "segment", 0)
    return _delete_before(sql, head.number, Limit.ID)


def _end_lease(sql: Statements, head: LogHead) -> None:
    """Let any node work on the index again."""
    _set_position(sql, head.number, "leased", 0)
