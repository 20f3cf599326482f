"""Statements of a write transaction on the log, executed directly on the driver.

SQLAlchemy would double the cost of a stored message. :class:`LogDriver` holds what the engines share; each
engine has a subclass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from imserver.storage.log.contract import Entry
from imserver.storage.log.rows import (
    ENTRY_COLUMNS,
    FROM_MESSAGES,
    GROUP,
    LAST_SESSION,
    MESSAGE_COLUMNS,
    SELECT_STATE,
    ConversationState,
    LogHead,
    conversation_state_of,
    entry_of,
    head_of,
)
from imserver.storage.statements import Row, Statements, chunks, marks_of, padded, text_of

if TYPE_CHECKING:
    from imserver.storage.database import Database

_INSERT_MESSAGE: Final = (
    f"INSERT INTO message ({MESSAGE_COLUMNS}) VALUES {marks_of(len(MESSAGE_COLUMNS.split(',')))}"
)
_UPLINK_SESSIONS: Final = "SELECT session FROM uplink_session WHERE log = %s AND member IN {}"
_MOST_KNOWN: Final = 10_000
"""Senders that a connection remembers."""
_NEW_SESSION: Final = "ON CONFLICT (log, member) DO UPDATE SET session = excluded.session"
_NEW_SESSION_ON_MYSQL: Final = "ON DUPLICATE KEY UPDATE session = VALUES(session)"
_BLOCKS_ON_SQLITE: Final = (
    "WITH w(account, other) AS (VALUES {}) SELECT r.account, r.other "
    "FROM w CROSS JOIN relation r ON r.account = w.account AND r.other = w.other "
    "CROSS JOIN account a ON a.id = r.account WHERE r.state = 'blocked' AND a.app = %s"
)


class LogDriver(Statements):
    """A writing connection. All statements belong to the transaction begun last."""

    _known: tuple[int, list[Row]] = (0, [])
    """The log, and its last uplink session, for which the next two hold."""
    _known_users: frozenset[str] = frozenset()
    _known_sessions: frozenset[int] = frozenset()

    few_conversations = 4
    """Up to this number of conversations, one statement per conversation is faster than one statement for all
    pairs of users and conversations."""

    content_errors: ClassVar[tuple[type[Exception], ...]]
    """Errors caused by the content of a row."""
    errors: ClassVar[tuple[type[Exception], ...]]
    """All other errors: faults of the database."""

    def __init__(self, database: Database) -> None:
        self._connection = database.raw_connection()

    def commit(self) -> None:
        """Commit the transaction."""
        self._connection.commit()

    def rollback(self) -> None:
        """Roll the transaction back."""
        self._connection.rollback()

    def close(self) -> None:
        """Close the connection, in any state."""
        self._connection.close()

    # --- per engine -----------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction."""

    @abstractmethod
    def update_conversations(self, log: int, states: Sequence[ConversationState]) -> None:
        """Write the last seq and id of conversations."""

    # --- heads ----------------------------------------------------------------------------------------------

    def lock(self, app: str) -> LogHead:
        """Lock the head of an app's log until this transaction ends."""
        head = head_of(self, app, lock=True)
        if head is None:
            self.insert_new("log", "app, part, last_id, last_conversation, floor", [(app, 0, 0, 0, 0)])
            head = head_of(self, app, lock=True)
            assert head is not None
        return head

    def update_head(self, head: LogHead) -> None:
        """Write the head."""
        self.execute(
            "UPDATE log SET last_id = %s, last_conversation = %s WHERE number = %s",
            (head.last_id, head.last_conversation, head.number),
        )

    def batch_of(self, log: int, id: int) -> int | None:
        """The number of the transaction that stored an entry; None if the entry does not exist."""
        rows = self.query("SELECT batch FROM message WHERE log = %s AND id = %s", (log, id))
        return int(rows[0][0]) if rows else None

    # --- look-ups -------------------------------------------------------------------------------------------

    def repeats(self, log: int, resends: Sequence[bytes]) -> dict[bytes, Entry]:
        """Entries stored earlier with these digests."""
        statement = f"SELECT m.resend, {ENTRY_COLUMNS} {FROM_MESSAGES}m.resend IN {{}}"
        return {bytes(row[0]): entry_of(row[1:]) for row in self.query_in(statement, (log,), resends)}

    def conversations(self, log: int, ids: Sequence[int]) -> dict[int, ConversationState]:
        """The existing conversations with these ids."""
        rows = self.query_in(f"{SELECT_STATE}id IN {{}}", (log,), ids)
        return {row[0]: conversation_state_of(row) for row in rows}

    def conversations_of_pairs(self, log: int, pairs: Sequence[bytes]) -> dict[bytes, ConversationState]:
        """The existing conversations with these keys."""
        rows = self.query_in(f"{SELECT_STATE}pair IN {{}}", (log,), pairs)
        return {bytes(row[2]): conversation_state_of(row) for row in rows}

    def mutes(self, log: int, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """(user, conversation) → Unix second at which the mute ends. Users who are not members are
        missing."""
        users: dict[int, list[str]] = {}
        for user, conversation in wanted:
            users.setdefault(conversation, []).append(user)
        if len(users) > self.few_conversations:
            return self._mutes_one_by_one(log, wanted)
        found: dict[tuple[str, int], int] = {}
        statement = (
            "SELECT member, muted_until FROM membership "
            "WHERE log = %s AND conversation = %s AND left_id IS NULL AND member IN {}"
        )
        for conversation, some in users.items():
            for user, until in self.query_in(statement, (log, conversation), some):
                found[text_of(user), conversation] = until
        return found

    def _mutes_one_by_one(self, log: int, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        one = (
            "SELECT member, conversation, muted_until FROM membership "
            "WHERE log = %s AND member = %s AND conversation = %s AND left_id IS NULL"
        )
        for some in chunks(wanted, 64):
            some = padded(some, some[-1])
            values = [value for user, conversation in some for value in (log, user, conversation)]
            for user, conversation, until in self.query(" UNION ALL ".join([one] * len(some)), values):
                found[text_of(user), conversation] = until
        return found

    def blocks(self, app: str, pairs: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """The pairs of users of which the first has blocked the second. Only accounts can block."""
        wanted = [
            (int(one), int(other))
            for one, other in pairs
            if one.isdecimal() and one.isascii() and other.isdecimal() and other.isascii()
        ]
        wanted = [pair for pair in wanted if max(pair) < 2**63]
        found: set[tuple[str, str]] = set()
        for some in chunks(wanted):
            some = padded(some, some[-1])
            if self.engine == "sqlite":
                # With two lists SQLite looks up each user of the one with each of the other.
                marks = ", ".join(["(%s, %s)"] * len(some))
                rows = self.query(_BLOCKS_ON_SQLITE.format(marks), (*chain.from_iterable(some), app))
            else:
                marks = marks_of(len(some))
                rows = self.query(
                    "SELECT r.account, r.other FROM relation r JOIN account a ON a.id = r.account WHERE "
                    f"a.app = %s AND r.state = 'blocked' AND r.account IN {marks} AND r.other IN {marks}",
                    (app, *(one for one, _ in some), *(other for _, other in some)),
                )
            found.update((str(one), str(other)) for one, other in rows)
        return found

    def members(self, log: int, conversation: int, users: Sequence[str]) -> dict[str, tuple[int, str]]:
        """User → (joined_id, role), for the users who are members."""
        statement = (
            "SELECT member, joined_id, role FROM membership "
            "WHERE log = %s AND conversation = %s AND left_id IS NULL AND member IN {}"
        )
        rows = self.query_in(statement, (log, conversation), users)
        return {text_of(row[0]): (row[1], text_of(row[2])) for row in rows}

    def uplink_sessions(self, log: int, users: Sequence[str]) -> set[int]:
        """The newest uplink sessions of these users."""
        return {row[0] for row in self.query_in(_UPLINK_SESSIONS, (log,), users)}

    def known_uplink_sessions(self, log: int, users: set[str]) -> frozenset[int]:
        """The newest uplink sessions of these users, and of others. Each user is looked up once, until the
        session of any user of the log begins, on any node, or is forgotten."""
        last = self.query(_UPLINK_SESSIONS.format("(%s)"), (log, LAST_SESSION))
        if not last or (log, last) != self._known or len(self._known_users) > _MOST_KNOWN:
            self._known, self._known_users, self._known_sessions = (log, last), frozenset(), frozenset()
        unknown = users - self._known_users
        if unknown:
            self._known_sessions |= self.uplink_sessions(log, list(unknown))
            self._known_users |= unknown
        return self._known_sessions

    # --- changes --------------------------------------------------------------------------------------------

    def set_uplink_sessions(self, log: int, sessions: Mapping[str, int]) -> None:
        """Write the newest uplink session of users, and which one was the last of the log."""
        sessions = {**sessions, LAST_SESSION: list(sessions.values())[-1]}
        on_mysql = self.engine == "mysql"
        self.execute_many(
            "INSERT INTO uplink_session (log, member, session) VALUES (%s, %s, %s) "
            + (_NEW_SESSION_ON_MYSQL if on_mysql else _NEW_SESSION),
            [(log, user, session) for user, session in sessions.items()],
        )

    def add_conversations(
        self, log: int, rows: Sequence[tuple[ConversationState, bytes | None, str, int]]
    ) -> None:
        """Insert conversations: (state, key, name, Unix seconds)."""
        self.execute_many(
            "INSERT INTO conversation (log, id, kind, pair, name, last_seq, last_id, created) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (log, state.id, state.kind, pair, name, state.last_seq, state.last_id, created)
                for state, pair, name, created in rows
            ],
        )

    def add_members(self, log: int, rows: Sequence[tuple[str, int, int, str, int | None, int, int]]) -> None:
        """Insert memberships: (user, conversation, joined_id, role, readable_after, bot, muted_until)."""
        self.execute_many(
            "INSERT INTO membership "
            "(log, member, conversation, joined_id, role, readable_after, bot, muted_until) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [(log, *row) for row in rows],
        )

    def end_members(self, log: int, conversation: int, users: Sequence[str], left_id: int) -> None:
        """End memberships."""
        self.execute_many(
            "UPDATE membership SET left_id = %s "
            "WHERE log = %s AND member = %s AND conversation = %s AND left_id IS NULL",
            [(left_id, log, user, conversation) for user in users],
        )

    def change_member(self, log: int, conversation: int, user: str, role: str, muted_until: int) -> None:
        """Write the role and mute of a membership."""
        self.execute(
            "UPDATE membership SET role = %s, muted_until = %s "
            "WHERE log = %s AND member = %s AND conversation = %s AND left_id IS NULL",
            (role, muted_until, log, user, conversation),
        )

    def set_group(
        self,
        log: int,
        conversation: int,
        column: Literal["name", "open", "options", "bots"],
        value: str | int | None,
    ) -> None:
        """Write one column of a group."""
        self.execute(
            f"UPDATE conversation SET {column} = %s WHERE log = %s AND id = %s AND kind = %s",
            (value, log, conversation, GROUP),
        )

    def add_messages(self, rows: Sequence[Row]) -> None:
        """Insert entries."""
        self.execute_many(_INSERT_MESSAGE, rows)

    def metas(self, log: int, ids: Sequence[int]) -> dict[int, bytes]:
        """Id → ``meta`` of the existing entries with these ids."""
        statement = "SELECT id, meta FROM message WHERE log = %s AND id IN {}"
        return {row[0]: bytes(row[1]) for row in self.query_in(statement, (log,), ids)}

    def add_mentions(self, log: int, rows: Sequence[tuple[str, int, int]]) -> None:
        """Insert mentions: (user, conversation, message)."""
        if rows:
            self.execute_many(
                "INSERT INTO mention (log, member, conversation, id) VALUES (%s, %s, %s, %s)",
                [(log, *row) for row in rows],
            )

    def forget_mentions(self, log: int, messages: Sequence[int]) -> None:
        """Delete the mentions in messages whose content has changed."""
        statement = "DELETE FROM mention WHERE log = %s AND id = %s"
        self.execute_many(statement, [(log, message) for message in messages])

    def forget_annotations(self, log: int, messages: Sequence[int]) -> None:
        """Delete the reactions to recalled messages, and their pins."""
        for table in ("reaction", "pin"):
            statement = f"DELETE FROM {table} WHERE log = %s AND message = %s"
            self.execute_many(statement, [(log, message) for message in messages])

    def edits(self, log: int, message: int) -> list[int]:
        """Ids of the edits of a message."""
        statement = "SELECT id FROM hidden WHERE log = %s AND member = '' AND version = %s"
        return [row[0] for row in self.query(statement, (log, message))]

    def count_edits(self, log: int, message: int, most: int) -> int:
        """The number of edits of a message, at most ``most``."""
        edits = "SELECT id FROM hidden WHERE log = %s AND member = '' AND version = %s LIMIT %s"
        return int(self.query(f"SELECT count(*) FROM ({edits}) e", (log, message, most))[0][0])

    def add_edits(self, log: int, edits: Sequence[tuple[int, int]]) -> None:
        """Hide edits, (message, edit), from all searches. A search finds the message itself."""
        if edits:
            self.execute_many(
                "INSERT INTO hidden (log, member, version, id) VALUES (%s, '', %s, %s)",
                [(log, message, edit) for message, edit in edits],
            )

    def hide_recalled(self, log: int, ids: Sequence[int]) -> None:
        """Hide recalled entries from all searches."""
        self.execute_many(
            "INSERT INTO hidden (log, member, id, version) SELECT number, '', %s, 0 FROM log "
            "WHERE number = %s AND NOT EXISTS (SELECT 1 FROM hidden h WHERE h.log = %s AND h.member = '' "
            "AND h.id = %s)",
            [(id, log, log, id) for id in dict.fromkeys(ids)],
        )
