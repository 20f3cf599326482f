"""Users' marks: read positions and hidden entries. Each change is a transaction
of its own.

Each change raises the version of the user's marks. A device asks for the
changes after its last version.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Final

from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Row, Statements, text_objection, text_of
from imserver.messenger.log.contract import (
    MOST_RECEIPTED,
    MarkResult,
    Marks,
    Receipt,
    ReceiptCount,
)
from imserver.messenger.log.lost import next_after_loss
from imserver.messenger.log.read import VISIBLE, readable_sizes
from imserver.messenger.log.rows import (
    ANNOTATIONS,
    LAST_SESSION,
    NUMBERS,
    SQLITE_BY_CONVERSATION,
    SQLITE_BY_GROUP,
    USER,
    LogHead,
    in_log,
    members_among,
    members_of,
)
from imserver.plugin.storage import Store

MOST_MARKS: Final = 2 * Limit.HIDDEN
"""The most changes of one kind in an answer. The limit is greater than the
number of changes that can have the same version."""


class MarkStore(Store.Rows):
    """The marks of all users."""

    @in_log(writes=True)
    def note(
        self,
        sql: Statements,
        head: LogHead,
        user: str,
        conversation: int,
        read: int = 0,
        received: int = 0,
    ) -> MarkResult | None:
        """Advance the read or received position of a user. The position never
        goes back. It never passes the end of the log, or the end of the user's
        last membership.

        If ``read`` is 0, the user has received entries, but not read them. A
        read entry also counts as received. Returns None if the user was never
        in this conversation.
        """
        access = _access_of(sql, head, user, conversation)
        if access is None:
            return None
        members, upto = access
        read = min(read, upto)
        received = max(min(received, upto), read)
        # Most calls change nothing, and need no lock.
        before = _position(sql, head, user, conversation)
        if before and read <= before[0] and received <= before[1]:
            receipt = Receipt(conversation, user, *before)
            return MarkResult(receipt, _version(sql, head, user))

        # In a conversation of two, the other user sees the position, too. The
        # versions are always raised in the order of the names, to avoid
        # deadlocks.
        users = sorted({user, *members})
        versions = {name: _raise_version(sql, head, name) for name in users}
        version = versions.pop(user)
        peer_version = next(iter(versions.values()), 0)  # 0 if there is no other user
        # Now that the marks are locked, read the position again: another device
        # may have moved it.
        before = _position(sql, head, user, conversation)
        key = (head.number, user, conversation)
        _move(sql, key, (read, received, version, peer_version), before)

        # Authors are notified only if the position has really moved.
        old_read, old_received = before or (0, 0)
        moved = True
        authors: tuple[str, ...] = ()
        if read > old_read:
            authors = _authors(sql, head, user, conversation, old_read, read)
        elif received > old_received:
            authors = _authors(sql, head, user, conversation, old_received, received)
        else:
            moved = False
        receipt = Receipt(
            conversation, user, max(read, old_read), max(received, old_received)
        )
        return MarkResult(receipt, version, moved, authors)

    @in_log(writes=True)
    def advance(
        self, sql: Statements, head: LogHead, group: int, reads: Mapping[str, int]
    ) -> None:
        """Advance the read positions of members of a group. ``reads``: member →
        the entry up to which the member has read. Positions do not go back.
        Nobody gets a receipt."""
        log = head.number
        statement = (
            "SELECT member, read_id, received_id FROM read_position "
            "WHERE log = %s AND conversation = %s "
            "AND member IN {}"
        )
        rows = sql.query_in(statement, (log, group), list(reads), many=True)
        before = {text_of(user): (read, received) for user, read, received in rows}
        users = []  # users whose positions advance
        for user, read in reads.items():
            if user not in before or before[user][0] < read:
                users.append(user)
        # The versions are always raised in this order, to avoid deadlocks.
        users.sort()
        versions = _raise_versions(sql, head, users)

        new_rows = []
        for user in users:
            if user not in before:
                read = reads[user]
                new_rows.append((log, user, group, read, versions[user], read, 0))
        sql.execute_many(_NEW_POSITION, new_rows)
        # The other users already have a row, which is updated.
        for user in users:
            if user in before:
                read = reads[user]
                position = (read, read, versions[user], 0)
                _move(sql, (log, user, group), position, before[user])

    @in_log(int, writes=True)
    def hide(
        self, sql: Statements, head: LogHead, user: str, ids: Sequence[int]
    ) -> int:
        """Hide entries from a user. Entries that the user cannot read are
        ignored. Returns the new version of the user's marks."""
        if text_objection(user, MAX_USER_BYTES):
            return 0  # such a user has no entries
        version = _raise_version(sql, head, user)
        new_ids = readable_sizes(sql, head, user, list(dict.fromkeys(ids)))
        sql.execute_many(
            "INSERT INTO hidden (log, member, id, version) VALUES (%s, %s, %s, %s)",
            [(head.number, user, id, version) for id in new_ids],
        )
        return version

    @in_log(writes=True)
    def forget(self, sql: Statements, head: LogHead, user: str) -> None:
        """Delete all marks of a deleted user, and the user's uplink session."""
        tables = (
            "read_position",
            "hidden",
            "mark_version",
            "mention",
            "bot_entry",
            "uplink_session",
            "thread_reader",
        )
        if user:  # rows of the user "" belong to everybody
            for table in tables:
                statement = f"DELETE FROM {table} WHERE log = %s AND member = %s"
                sql.execute(statement, (head.number, user))
        statement = "DELETE FROM uplink_session WHERE log = %s AND member = %s"
        # Because this row is deleted, all nodes look up the sessions of users
        # again.
        sql.execute(statement, (head.number, LAST_SESSION))

    @in_log(lambda: Marks(version=0, reads={}))
    def since(self, sql: Statements, head: LogHead, user: str, after: int) -> Marks:
        """Return the changes of the user's marks after a version: the first
        :data:`MOST_MARKS` changes of each kind."""
        # The version is read first. Marks that change meanwhile are then
        # returned again next time.
        version = _version(sql, head, user)
        changed = (
            "WHERE log = %s AND member = %s AND version > %s "
            "ORDER BY version, 1 LIMIT %s"
        )
        values = (head.number, user, after, MOST_MARKS + 1)
        # The last column of each row is the version of the change.
        reads = sql.query(
            f"SELECT conversation, read_id, version FROM read_position {changed}",
            values,
        )
        hidden = sql.query(f"SELECT id, version FROM hidden {changed}", values)
        peers = sql.query(_positions_of_peers(sql), values)

        upto, has_more = _complete_version((reads, hidden, peers), version)
        reads = [row for row in reads if row[-1] <= upto]
        hidden = [row for row in hidden if row[-1] <= upto]
        peers = [row for row in peers if row[-1] <= upto]
        return Marks(
            upto,
            {conversation: read for conversation, read, _ in reads},
            tuple(sorted(id for id, _ in hidden)),
            tuple(map(_receipt, sorted(peers))),
            more=has_more,
        )

    @in_log(list)
    def receipts(
        self,
        sql: Statements,
        head: LogHead,
        user: str,
        conversation: int,
        after: str,
        limit: int,
        message: int = 0,
    ) -> list[Receipt]:
        """Return the receipts of the other members with an id after ``after``,
        ordered by id. If ``message`` is not 0, only users who have read this
        message are included. The result is empty if the user is not a
        member."""
        statement = (
            "SELECT r.conversation, r.member, r.read_id, r.received_id "
            "FROM read_position r WHERE r.log = %s AND r.conversation = %s "
            "AND r.member > %s AND r.member <> %s AND r.read_id >= %s "
            "AND EXISTS (SELECT 1 FROM membership s "
            "WHERE s.log = r.log AND s.member = r.member "
            "AND s.conversation = r.conversation AND s.left_id IS NULL "
            "AND coalesce(s.readable_after, s.joined_id) < %s) "
            "ORDER BY r.member LIMIT %s"
        )
        if not members_among(sql, head.number, conversation, [user]):
            return []
        # If a message is given, its reader must have been a member when the
        # message was stored.
        values = (
            head.number,
            conversation,
            after,
            user,
            message,
            message or Limit.ID,
            limit,
        )
        return [_receipt(row) for row in sql.query(statement, values)]

    @in_log(list)
    def count_receipts(
        self,
        sql: Statements,
        head: LogHead,
        user: str,
        conversation: int,
        ids: Sequence[int],
    ) -> list[ReceiptCount]:
        """Return how many of the other members may read each of these messages,
        have received it and have read it. The result has the order of ``ids``.
        It is empty if the user is not a member."""
        if not members_among(sql, head.number, conversation, [user]):
            return []
        statement = _POSITIONS.format(sql.on_sqlite(SQLITE_BY_GROUP))
        rows = sql.query(statement, (head.number, conversation, user))
        return _receipt_counts(rows, ids)


def _receipt_counts(rows: Sequence[Row], ids: Iterable[int]) -> list[ReceiptCount]:
    """Count the members who may read, have received and have read each message.

    ``rows`` have members with the same positions: (start of the membership,
    read, received, number of members).
    """
    # A member who joined after an entry cannot have read it, so a position is
    # at least the start of the membership.
    starts = _Positions((start, count) for start, _, _, count in rows)
    reads = _Positions((max(start, read), count) for start, read, _, count in rows)
    received = _Positions(
        (max(start, received), count) for start, _, received, count in rows
    )

    counts = []
    for id in ids:
        members = starts.below(id)
        # From all members, the members with a smaller position are subtracted.
        have_received = members - received.below(id)
        have_read = members - reads.below(id)
        counts.append(ReceiptCount(id, members, have_received, have_read))
    return counts


def _complete_version(kinds: Iterable[Sequence[Row]], version: int) -> tuple[int, bool]:
    """Return the version up to which all kinds of changes were read.

    If there are too many changes of a kind, the result is before the version of
    the first change that is left out. Otherwise it is ``version``, the newest
    version. The second value says whether there are more changes. The last
    column of each row is the version of the change.
    """
    last_versions = [rows[-1][-1] - 1 for rows in kinds if len(rows) > MOST_MARKS]
    return min(last_versions, default=version), bool(last_versions)


def _positions_of_peers(sql: Statements) -> str:
    """Return the statement for changed positions of the other users.

    It selects positions in a user's conversations of two that changed after a
    version.
    """
    # SQLite uses this name for the index `read_position_by_conversation`.
    # Without this hint, SQLite scans the positions of all users.
    hint = sql.on_sqlite("INDEXED BY sqlite_autoindex_read_position_2")
    return (
        "SELECT r.conversation, r.member, r.read_id, r.received_id, r.peer_version "
        "FROM membership s CROSS JOIN conversation c "
        f"CROSS JOIN read_position r {hint} "
        "WHERE s.log = %s AND s.member = %s "
        f"AND c.log = s.log AND c.id = s.conversation AND c.kind = {USER} "
        "AND r.log = s.log AND r.conversation = s.conversation "
        "AND r.member <> s.member AND r.peer_version > %s "
        "ORDER BY r.peer_version LIMIT %s"
    )


_POSITIONS: Final = (
    "SELECT coalesce(s.readable_after, s.joined_id), coalesce(r.read_id, 0), coalesce(r.received_id, 0), "
    "count(*) FROM membership s {} LEFT JOIN read_position r ON r.log = s.log "
    "AND r.conversation = s.conversation AND r.member = s.member "
    "WHERE s.log = %s AND s.conversation = %s "
    "AND s.left_id IS NULL AND s.bot = 0 AND s.member <> %s GROUP BY 1, 2, 3"
)
"""Selects the positions of the other members: the id after which they may read,
their read and received positions, and how many members have these three values.
``{}`` is the place of an index hint."""


class _Positions:
    """The positions of members, sorted, with the number of members at each."""

    def __init__(self, counts: Iterable[tuple[int, int]]) -> None:
        """Sort pairs (position, number of members), and add the numbers up."""
        pairs = sorted(counts)
        self._positions = [position for position, _ in pairs]
        self._sums = [0, *accumulate(count for _, count in pairs)]

    def below(self, id: int) -> int:
        """Return how many members have a position before this id."""
        return self._sums[bisect_left(self._positions, id)]


def _access_of(
    sql: Statements, head: LogHead, user: str, conversation: int
) -> tuple[tuple[str, ...], int] | None:
    """Return the part of a conversation that a user may read, or None if the
    user was never in it.

    The first value is the two users of the conversation, or ``()`` for a group.
    The second value is the last id that the user may read.
    """
    statement = (
        f"SELECT c.pair, (SELECT max(coalesce(s.left_id, {Limit.ID})) "
        "FROM membership s WHERE s.log = c.log "
        "AND s.conversation = c.id AND s.member = %s) "
        "FROM conversation c WHERE c.log = %s AND c.id = %s"
    )
    for pair, last_id in sql.query(statement, (user, head.number, conversation)):
        if last_id is not None:
            return members_of(pair), min(last_id, head.last_id)
    return None


def _position(
    sql: Statements, head: LogHead, user: str, conversation: int
) -> tuple[int, int] | None:
    """Return the read and the received position of a user in a conversation.

    Returns None if no position was stored yet.
    """
    statement = (
        "SELECT read_id, received_id FROM read_position "
        "WHERE log = %s AND member = %s AND conversation = %s"
    )
    for read, received in sql.query(statement, (head.number, user, conversation)):
        return read, received
    return None


_NEW_POSITION: Final = (
    "INSERT INTO read_position (log, member, conversation, read_id, version, received_id, peer_version) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


def _move(
    sql: Statements,
    key: tuple[int, str, int],
    to: tuple[int, int, int, int],
    before: tuple[int, int] | None,
) -> None:
    """Write a position.

    - ``key``: (log, user, conversation).
    - ``to``: (read, received, version of the user's marks, version of the other
      user's marks).
    - ``before``: the stored (read, received), or None if there is no row yet.

    If only the received position is new, the user's own marks do not change, so
    the row keeps its version.
    """
    read, received, version, peer_version = to
    if before is None:
        if not read:
            version = 0
        sql.execute(_NEW_POSITION, (*key, read, version, received, peer_version))
        return

    old_read, old_received = before
    # Another device may have moved either position further.
    received = max(received, old_received)
    where = "WHERE log = %s AND member = %s AND conversation = %s"
    if read > old_read:
        sql.execute(
            f"UPDATE read_position SET read_id = %s, version = %s, received_id = %s, peer_version = %s {where}",
            (read, version, received, peer_version, *key),
        )
    else:
        sql.execute(
            "UPDATE read_position "
            f"SET read_id = %s, received_id = %s, peer_version = %s {where}",
            (old_read, received, peer_version, *key),
        )


def _authors(
    sql: Statements, head: LogHead, user: str, conversation: int, after: int, upto: int
) -> tuple[str, ...]:
    """Return the other users who wrote the messages with ``after < id <=
    upto``.

    These users are told that their messages were read or received. The author
    of the newest message comes first. Only users who are still members are
    returned. If the user has left, the result is empty.
    """
    hint = sql.on_sqlite(SQLITE_BY_CONVERSATION)
    statement = (
        f"SELECT m.id FROM membership s, message m {hint} "
        "WHERE s.log = %s AND s.member = %s AND s.conversation = %s "
        f"AND {VISIBLE} AND m.id > %s AND m.id <= %s AND m.kind NOT IN {ANNOTATIONS} "
        f"ORDER BY m.id DESC LIMIT {MOST_RECEIPTED}"
    )
    rows = sql.query(statement, (head.number, user, conversation, after, upto))
    ids = [row[0] for row in rows]

    # This is a separate statement. If it were joined with the statement above,
    # an engine might scan the whole log.
    authors = _senders_of(sql, head.number, ids)
    authors.pop(user, None)
    if not authors:
        return ()

    members = members_among(sql, head.number, conversation, [user, *authors])
    if user not in members:
        return ()
    return tuple(author for author in authors if author in members)


def _senders_of(sql: Statements, log: int, ids: Sequence[int]) -> dict[str, None]:
    """Return the senders of these messages, in order, the newest sender first.

    Other entries among the ids, such as recalls, are left out. A dict keeps the
    order and has each sender once.
    """
    statement = (
        "SELECT m.id, m.sender FROM message m "
        "WHERE m.kind = %s AND m.log = %s AND m.id IN {}"
    )
    messages = sql.query_in(statement, (NUMBERS["message"], log), ids)
    messages.sort(key=itemgetter(0), reverse=True)
    return dict.fromkeys(text_of(sender) for _, sender in messages)


def _receipt(row: Row) -> Receipt:
    """Return a receipt from a row (conversation, user, read, received).

    Other columns may follow.
    """
    conversation, user, read, received, *_ = row
    return Receipt(conversation, text_of(user), read, received)


def _version(sql: Statements, head: LogHead, user: str) -> int:
    """Return the version of a user's marks, or 0 if they have never changed."""
    statement = "SELECT version FROM mark_version WHERE log = %s AND member = %s"
    rows = sql.query(statement, (head.number, user))
    if not rows:
        return 0
    return int(rows[0][0])


def _raise_version(sql: Statements, head: LogHead, user: str) -> int:
    """Raise the version of a user's marks for a new change, and return it.

    The marks are locked until the transaction ends. After a loss of entries,
    the version continues beyond the versions that may have been lost.
    """
    sql.execute(_raise_statement(sql, head), (head.number, user))
    return _version(sql, head, user)


def _raise_versions(
    sql: Statements, head: LogHead, users: Sequence[str]
) -> dict[str, int]:
    """Raise the versions of these users' marks. Returns user → the new version.

    The users must be sorted, so that two transactions never wait for each
    other.
    """
    log = head.number
    sql.execute_many(_raise_statement(sql, head), [(log, user) for user in users])
    statement = (
        "SELECT member, version FROM mark_version WHERE log = %s AND member IN {}"
    )
    raised = sql.query_in(statement, (log,), users, many=True)
    return {text_of(user): version for user, version in raised}


def _raise_statement(sql: Statements, head: LogHead) -> str:
    """Return the statement that raises the version of a user's marks.

    Its values are (log, user). The first change of a user makes the row.
    """
    # The number is part of the text of the statement, because MySQL allows no
    # parameters after the parameters of a row.
    first = next_after_loss(head.lost) or 1
    if sql.engine == "mysql":
        conflict = "DUPLICATE KEY UPDATE"
    else:
        conflict = "CONFLICT (log, member) DO UPDATE SET"
    return (
        "INSERT INTO mark_version (log, member, version) "
        f"VALUES (%s, %s, {first}) ON {conflict} version = "
        f"CASE WHEN mark_version.version < {first} THEN {first} ELSE mark_version.version + 1 END"
    )
