"""The message log of every app, in a database. All services read and write
stored messages through it."""

from collections.abc import Callable, Sequence
from time import time
from typing import Final

from imserver.gateway.storage.statements import Row, Statements
from imserver.messenger.log.annotations import AnnotationWriter
from imserver.messenger.log.asks import AskLog
from imserver.messenger.log.contract import Change
from imserver.messenger.log.conversations import ConversationReader
from imserver.messenger.log.erasure import UserEraser
from imserver.messenger.log.groups import GroupWriter
from imserver.messenger.log.log_import import LogImport
from imserver.messenger.log.marks import MarkStore
from imserver.messenger.log.read import EntryReader
from imserver.messenger.log.removals import RemovalWriter
from imserver.messenger.log.rows import (
    SQLITE_BY_CONVERSATION,
    LogHead,
    head_of,
    in_log,
    read_log,
)
from imserver.messenger.log.threads import ThreadStore
from imserver.messenger.log.transaction import AppTransaction
from imserver.messenger.log.writer import LogWriter
from imserver.plugin.storage import Store

_FIRST_LOOK: Final = 50
_NEXT_LOOK: Final = 5000
"""The number of entries that each step of the search for old entries reads.
Usually few have expired since the last time."""
_DELETED_IDS: Final = 1000
"""The number of ids whose entries one transaction deletes."""
_BY_MESSAGE: Final = (
    ("reaction", "message"),
    ("pin", "message"),
    ("mention", "id"),
    ("bot_entry", "id"),
    ("thread_reply", "id"),
    ("thread_reader", "root"),
    ("ask_deadline", "id"),
    ("ask_tally", "id"),
    ("ask_vote", "id"),
)
"""The tables whose rows are deleted with their message, and the column with the
message."""


class MessageLog(Store.Rows):
    """The log of every app, divided into parts by subject. All methods of the
    parts may switch greenlets and may raise StorageUnavailable, which is
    temporary, unless their docstring says otherwise.

    A store has one message log: ``store.part(MessageLog)``. It opens an
    existing database at the first read, and creates a database at the first
    message or change of a group.

    ``entries`` reads entries: ``entries.readable(app, user, [id])`` has the
    message if the user may read it. ``conversations`` reads conversations and
    their members: ``conversations.member(app, conversation, user)`` is None if
    the user is no member. ``annotations`` adds reactions and pins. ``asks``
    answers and closes questions. ``marks`` has the read positions of users,
    ``threads`` the followers of threads. ``removals`` removes messages for
    everybody. ``import_past`` imports the messages of another server.
    """

    def __init__(self, store: Store) -> None:
        """Make the parts of the log. The database is not opened yet."""
        super().__init__(store)
        self.writer = LogWriter(
            lambda: store.database().writer_connection(), store.seconds
        )
        self.groups = GroupWriter(self.writer, store)
        self.annotations = AnnotationWriter(self.writer, store)
        self.asks = AskLog(self.writer, store)
        self.entries = EntryReader(store)
        self.conversations = ConversationReader(store)
        self.marks = MarkStore(store)
        self.threads = ThreadStore(store)
        self.removals = RemovalWriter(self.writer, store)
        self._eraser = UserEraser(self.writer, store)

    def close(self) -> None:
        """Store the waiting drafts, and refuse new requests. Switches
        greenlets."""
        self.writer.close()

    @Store.writing
    def continue_after(self, sql: Statements, app: str, last_id: int) -> None:
        """Give the next entry of an app an id above ``last_id``.

        Nothing changes if the log already has a greater id.
        """
        if sql.engine == "mysql":
            clause = "DUPLICATE KEY UPDATE last_id = GREATEST(last_id, VALUES(last_id))"
        else:
            greater = "excluded.last_id WHERE log.last_id < excluded.last_id"
            clause = f"CONFLICT (app, part) DO UPDATE SET last_id = {greater}"
        values = "VALUES (%s, 0, %s, 0, 0)"
        statement = f"INSERT INTO log (app, part, last_id, last_conversation, floor) {values} ON {clause}"
        sql.execute(statement, (app, last_id))

    def import_past(
        self, app: str, keys: Sequence[str], work: Callable[[LogImport], object]
    ) -> None:
        """Import messages and groups of another server, in one transaction. No
        connection is notified, so this is only for commands.

        ``keys``: all keys that ``work`` uses. ``work`` may run again, and in
        another thread. If the result is unknown, the method raises
        StorageUnsure. You can then call it again.
        """

        def change(transaction: AppTransaction) -> Change:
            past = LogImport(transaction, keys)
            work(past)
            past.finish()
            return Change(conversation=0)

        self.writer.change(app, change)

    def erase_user(self, app: str, user: str, name: str) -> None:
        """Erase a user: the messages that they wrote, their reactions and
        marks, and their name. They leave all groups, which get entries about
        that. ``name`` replaces the id of the user from then on. If ``name`` is
        ``""``, the messages stay under the id of the user.

        The method may be called again after an error. The index of words keeps
        the words of the user until it is updated. ``Core.erase_user`` does
        both.
        """
        # The user leaves first, so that the entries about that are renamed with
        # all others.
        for row in self.conversations.memberships(app, user):
            if row.left_id is None and row.kind_of_conversation == "group":
                self.groups.leave(app, row.conversation, [user], user, heir=True)
        if name and self.entries.head(app):
            self._eraser.erase(app, user, name)
        self.marks.forget(app, user)

    def expire(
        self,
        app: str,
        *,
        older_than_seconds: float = 0,
        more_than: int = 0,
        upto: int | None = None,
    ) -> int:
        """Delete entries older than ``older_than_seconds``, and all but the
        newest ``more_than`` entries. A limit of 0 does not count. Entries after
        the id ``upto`` stay. Returns the number of deleted entries.

        Deletes in small transactions, so that writers wait only briefly.
        """
        last_expired = 0
        if older_than_seconds > 0:
            last_expired = self._last_old(app, older_than_seconds)
        if more_than > 0:
            last_expired = max(last_expired, self._last_above(app, more_than))
        if upto is not None:
            last_expired = min(last_expired, upto)

        # Readers must ignore the entries before the entries are deleted.
        log_and_floor = self._raise_floor(app, last_expired)
        if log_and_floor is None:  # the app has no log
            return 0
        log, floor = log_and_floor
        return self._delete_expired(log, floor)

    def _delete_expired(self, log: int, floor: int) -> int:
        """Delete the entries up to an id, and return their number.

        Small transactions let writers wait only briefly.
        """
        deleted = 0
        while (count := self._delete_some(log, floor)) is not None:
            deleted += count
        if deleted:
            # This statement scans the table, so it runs once.
            self._store.execute(
                "DELETE FROM hidden WHERE log = %s AND id <= %s", (log, floor)
            )
        return deleted

    def _last_old(self, app: str, seconds: float) -> int:
        """Return the last id of the entries older than ``seconds``, or 0 if no
        entry is older.

        The clocks of nodes differ, so ``stored_at`` may decrease. The method
        therefore reads the entries in order, and stops at the first young
        entry. So a wrong clock deletes nothing early. Entries from the future
        are ignored.
        """
        now = int(time())
        statement = (
            "SELECT id, stored_at FROM message WHERE log = %s AND id > %s "
            "ORDER BY id LIMIT %s"
        )
        last_old = 0
        # In most cases the first entries are already young, so the first query
        # reads only a few.
        after = 0
        limit = _FIRST_LOOK

        def read_next(sql: Statements, head: LogHead) -> list[Row]:
            return sql.query(statement, (head.number, max(after, head.floor), limit))

        while True:
            rows = read_log(self._store, app, read_next, list[Row]())
            for id, stored_at in rows:
                if stored_at < now - seconds:
                    last_old = id
                elif stored_at <= now:
                    return last_old
            if len(rows) < limit:
                return last_old
            after = rows[-1][0]
            limit = _NEXT_LOOK

    @in_log(int)
    def _last_above(self, sql: Statements, head: LogHead, most: int) -> int:
        """Return the id of the newest entry beyond a limit of ``most`` entries.

        Returns 0 if the limit is not exceeded. Entries are counted, because ids
        have a gap after a restore.
        """
        if head.last_id - head.floor <= most:
            return 0
        last = head.last_id - most
        # Without a gap, there are as many entries as ids.
        if _count_after(sql, head.number, last) >= most:
            return last

        statement = (
            "SELECT id FROM message WHERE log = %s ORDER BY id DESC LIMIT 1 OFFSET %s"
        )
        rows = sql.query(statement, (head.number, most))
        if not rows:
            return 0
        return int(rows[0][0])

    @Store.writing_or(None)
    def _raise_floor(
        self, sql: Statements, app: str, last_expired: int
    ) -> tuple[int, int] | None:
        """Let entries up to an id expire: readers ignore them from now on.

        Returns the number of the log and its *floor*, the last expired id.
        Returns None if the app has no log.
        """
        head = head_of(sql, app, lock=True)
        if head is None:
            return None
        # The floor never goes down, because entries below it may be deleted
        # already.
        floor = max(head.floor, last_expired)
        if floor > head.floor:
            sql.execute(
                "UPDATE log SET floor = %s WHERE number = %s", (floor, head.number)
            )
        return head.number, floor

    @Store.writing_or(None)
    def _delete_some(self, sql: Statements, log: int, floor: int) -> int | None:
        """Delete some expired entries, with the rows about them.

        Returns their number, or None if no expired entry is left.
        """
        statement = "SELECT min(id) FROM message WHERE log = %s AND id <= %s"
        first = sql.query(statement, (log, floor))[0][0]
        if first is None:
            return None
        # Only a few ids are deleted at a time, so that each transaction is
        # short.
        upto = min(floor, first + _DELETED_IDS - 1)
        for table, column in _BY_MESSAGE:
            statement = f"DELETE FROM {table} WHERE log = %s AND {column} <= %s"
            sql.execute(statement, (log, upto))
        statement = "DELETE FROM message WHERE log = %s AND id <= %s"
        return sql.execute(statement, (log, upto))


def _count_after(sql: Statements, log: int, id: int) -> int:
    """Return the number of entries with greater ids."""
    # Counting with this index takes a sixth of the time, because it does not
    # read the bodies.
    hint = sql.on_sqlite(SQLITE_BY_CONVERSATION)
    statement = f"SELECT count(*) FROM message {hint} WHERE log = %s AND id > %s"
    return int(sql.query(statement, (log, id))[0][0])
