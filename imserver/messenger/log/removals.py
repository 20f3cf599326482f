"""Messages that are removed for everybody, and may come back for a time.

A removal is a recall that keeps a copy of what it takes away. A restored
message is an ``edit`` with the old content: clients that have seen the recall
get the message back by it. If its author recalls a removed message, it does not
come back. ``meta`` of the recall, of the removed message and of the edit say so.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from imserver.gateway.storage.numbers import beyond
from imserver.gateway.storage.statements import Condition, Row, Statements, text_of
from imserver.messenger.log.commands import SearchFilter
from imserver.messenger.log.contract import Draft, Entry
from imserver.messenger.log.meta import (
    REMOVED,
    MessageMeta,
    fields_of,
    with_keys,
    without_reactions,
)
from imserver.messenger.log.read import end_of_look, time_window
from imserver.messenger.log.rows import (
    NUMBERS,
    LogHead,
    in_log,
    read_log,
)
from imserver.messenger.log.transaction import AppTransaction
from imserver.messenger.log.writer import WritingPart

MOST_AT_ONCE: Final = 50
"""Messages that one transaction removes or restores."""
_LOOK: Final = 20_000
"""Ids among which one query looks for the messages of a sender."""
_COPIES: Final = "removed_message"


class RemovalWriter(WritingPart):
    """Removes messages, and restores them. Each method may switch and raise
    StorageUnavailable."""

    def remove(
        self,
        app: str,
        act: str,
        messages: Sequence[int],
        condition: Condition | None = None,
    ) -> list[int] | None:
        """Remove some of these messages, at most :data:`MOST_AT_ONCE`, and keep what they were for
        :meth:`restore`. Returns the ids that were looked at, in order; the others are left for the next call.
        Recalled messages stay as they are. ``condition``: checked in the transaction; None: it failed.
        """

        def work(transaction: AppTransaction) -> list[int] | None:
            if condition is not None and not condition(transaction.sql):
                return None
            size = 0
            done = list[int]()
            for message in sorted(messages)[:MOST_AT_ONCE]:
                if size > 4 * 1024 * 1024:
                    break
                size += _remove(transaction, act, message)
                done.append(message)
            return done

        return self._writer.run(app, work)

    def restore(self, app: str, act: str) -> int:
        """Restore some messages of a removal. Returns their number; 0: none is
        left."""

        def work(transaction: AppTransaction) -> int:
            statement = (
                f"SELECT DISTINCT message FROM {_COPIES} WHERE log = %s AND act = %s "
                "ORDER BY message LIMIT %s"
            )
            values = (transaction.log, act, MOST_AT_ONCE)
            messages = [row[0] for row in transaction.sql.query(statement, values)]
            if not messages:
                return 0
            # One query has all copies: no index leads to those of one message.
            copies: dict[int, list[Row]] = {}
            values = (transaction.log, act, messages[-1])
            of_these = f"FROM {_COPIES} WHERE log = %s AND act = %s AND message <= %s"
            columns = "message, id, recall, kind, type, about, meta, body, annotations"
            for message, *row in transaction.sql.query(
                f"SELECT {columns} {of_these}", values
            ):
                copies.setdefault(message, []).append(tuple(row))
            transaction.sql.execute(f"DELETE {of_these}", values)
            for message in messages:
                _restore(transaction, message, copies[message])
            return len(messages)

        return self._writer.run(app, work)

    @in_log(int, writes=True)
    def finish(self, sql: Statements, head: LogHead, act: str) -> int:
        """Erase some copies of a removal: what they were is gone. Returns their
        number; 0: none is left."""
        ids = f"SELECT id FROM {_COPIES} WHERE log = %s AND act = %s ORDER BY id LIMIT 1000"
        rows = sql.query(ids, (head.number, act))
        if rows:
            statement = (
                f"DELETE FROM {_COPIES} WHERE log = %s AND act = %s AND id <= %s"
            )
            sql.execute(statement, (head.number, act, rows[-1][0]))
        return len(rows)

    @in_log(int, writes=True)
    def move(
        self, sql: Statements, head: LogHead, messages: Sequence[int], act: str
    ) -> int:
        """Let copies of earlier removals belong to this one. Returns the number
        of messages."""
        statement = f"UPDATE {_COPIES} SET act = %s WHERE log = %s AND message = %s AND act <> %s"
        return sum(
            bool(sql.execute(statement, (act, head.number, each, act)))
            for each in messages
        )

    @in_log()
    def copy(self, sql: Statements, head: LogHead, message: int) -> Entry | None:
        """A removed message as it was; None: it was not removed, or it is
        gone."""
        statement = (
            f"SELECT m.id, m.conversation, m.seq, m.sender, c.type, c.body, m.time_ms FROM {_COPIES} c "
            "JOIN message m ON m.log = c.log AND m.id = c.id "
            f"WHERE c.log = %s AND c.id = %s AND c.message = %s AND m.kind = {NUMBERS['recall']}"
        )
        for id, conversation, seq, sender, type, body, time in sql.query(
            statement, (head.number, message, message)
        ):
            return Entry(
                id,
                conversation,
                seq,
                text_of(sender),
                type=text_of(type),
                body=bytes(body),
                time_ms=time,
            )
        return None

    # --- the messages of a user -----------------------------------------------

    @in_log(lambda: (0, 0))
    def extent(
        self, sql: Statements, head: LogHead, since: int, until: int
    ) -> tuple[int, int]:
        """The ids (after, last) between which the messages of a time are, in
        Unix milliseconds; 0: no limit."""
        return time_window(
            head, head.last_id, SearchFilter(since=since, until=until), sql
        )

    def size(self, app: str, since: int, until: int) -> int:
        """How many ids the messages of a time have, without the gaps that
        restores have made."""
        after, last = self.extent(app, since, until)

        def work(sql: Statements, head: LogHead) -> int:
            begin = "SELECT id FROM message WHERE log = %s AND id > %s AND id <= %s ORDER BY id LIMIT 1"
            end = "SELECT id FROM message WHERE log = %s AND id <= %s ORDER BY id DESC LIMIT 1"
            size = 0
            reached = after
            while rows := sql.query(begin, (head.number, reached, last)):
                # After a restore no id is nearer than this; without one, no
                # entry is so far from another.
                first = rows[0][0]
                reached = sql.query(
                    end, (head.number, min(beyond(first, 0) - 1, last))
                )[0][0]
                size += reached - first + 1
            return size

        return read_log(self._store, app, work, 0)

    def sent(
        self, app: str, user: str, since: int, until: int, after: int, last: int
    ) -> tuple[list[tuple[int, int]], int]:
        """The next messages of a user after an id: (id, conversation), at most
        :data:`MOST_AT_ONCE`, and the id up to which it was looked."""
        statement = (
            "SELECT id, conversation FROM message WHERE log = %s AND id > %s AND id <= %s AND sender = %s "
            f"AND kind = {NUMBERS['message']} AND time_ms >= %s AND time_ms < %s ORDER BY id LIMIT %s"
        )

        def work(sql: Statements, head: LogHead) -> tuple[list[tuple[int, int]], int]:
            upto = end_of_look(sql, head.number, after, last, _LOOK)
            values = (
                head.number,
                after,
                upto,
                user,
                since,
                until or 2**62,
                MOST_AT_ONCE,
            )
            rows = [
                (int(id), int(conversation))
                for id, conversation in sql.query(statement, values)
            ]
            return rows, rows[-1][0] if len(rows) == MOST_AT_ONCE else upto

        return read_log(self._store, app, work, (list[tuple[int, int]](), last))

    def count(self, app: str, user: str, since: int, until: int) -> Counter[int]:
        """Conversation → the number of the user's messages of a time, which are
        not recalled."""
        counts: Counter[int] = Counter()
        statement = (
            "SELECT conversation, count(*) FROM message WHERE log = %s AND id > %s AND id <= %s "
            f"AND sender = %s AND kind = {NUMBERS['message']} AND time_ms >= %s AND time_ms < %s "
            "GROUP BY conversation"
        )
        after, last = self.extent(app, since, until)

        def work(sql: Statements, head: LogHead) -> tuple[list[Row], int]:
            upto = end_of_look(sql, head.number, after, last, _LOOK)
            return sql.query(
                statement, (head.number, after, upto, user, since, until or 2**62)
            ), upto

        nothing: list[Row] = []
        while after < last:
            rows, after = read_log(self._store, app, work, (nothing, last))
            for conversation, count in rows:
                counts[conversation] += count
        return counts

    @in_log(int)
    def copies(self, sql: Statements, head: LogHead, act: str) -> int:
        """How many messages a removal may still restore."""
        statement = (
            f"SELECT count(DISTINCT message) FROM {_COPIES} WHERE log = %s AND act = %s"
        )
        return int(sql.query(statement, (head.number, act))[0][0])

    @in_log(list)
    def senders(self, sql: Statements, head: LogHead, act: str) -> list[str]:
        """Whose messages a removal may still restore."""
        statement = f"SELECT DISTINCT sender FROM {_COPIES} WHERE log = %s AND act = %s"
        return [text_of(row[0]) for row in sql.query(statement, (head.number, act))]


# --- in the transaction -------------------------------------------------------


def _remove(transaction: AppTransaction, act: str, message: int) -> int:
    """Remove a message. Returns the size of its copies."""
    sql = transaction.sql
    log = transaction.log
    columns = "id, conversation, sender, kind, type, about, meta, body"
    one = f"SELECT {columns} FROM message WHERE log = %s AND id = %s AND kind = {NUMBERS['message']}"
    rows = sql.query(one, (log, message))
    if not rows:
        return 0
    conversation = rows[0][1]
    state = transaction.conversations((conversation,))().get(conversation)
    if state is None:
        return 0
    edits = (
        f"SELECT {columns.replace('id,', 'm.id,', 1)} FROM hidden h JOIN message m ON m.log = h.log "
        f"AND m.id = h.id WHERE h.log = %s AND h.member = '' AND h.version = %s "
        f"AND m.kind = {NUMBERS['edit']}"
    )
    rows += sql.query(edits, (log, message))
    reactions = sql.query(
        "SELECT emoji, member, id FROM reaction WHERE log = %s AND message = %s",
        (log, message),
    )
    pins = sql.query(
        "SELECT conversation, id FROM pin WHERE log = %s AND message = %s",
        (log, message),
    )
    annotations = msgspec.json.encode(
        {
            "reactions": [
                (text_of(emoji), text_of(member), id) for emoji, member, id in reactions
            ],
            "pins": [tuple(row) for row in pins],
        }
    )
    recall = transaction.enter(
        state,
        Draft(
            sender="",
            kind="recall",
            type="",
            about=message,
            meta=REMOVED,
            conversation=conversation,
        ),
    )
    transaction.settle()
    sql.execute_many(
        f"INSERT INTO {_COPIES} (log, act, id, message, recall, sender, kind, type, about, meta, body, "
        "annotations) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            (
                log,
                act,
                id,
                message,
                recall.id,
                text_of(sender),
                kind,
                text_of(type),
                about,
                bytes(meta),
                bytes(body),
                annotations if id == message else b"",
            )
            for id, _, sender, kind, type, about, meta, body in rows
        ],
    )
    return sum(len(row[-1]) + len(row[-2]) for row in rows) + len(annotations)


def _restore(transaction: AppTransaction, message: int, rows: Sequence[Row]) -> None:
    """Bring a removed message back, unless its author has recalled it since.
    ``rows``: its copies."""
    sql = transaction.sql
    log = transaction.log
    now = sql.query(
        "SELECT conversation, meta FROM message WHERE log = %s AND id = %s",
        (log, message),
    )
    if not now or MessageMeta.of(bytes(now[0][1])).recalled:
        return
    original = next(row for row in rows if row[0] == message)
    recalled = (
        "UPDATE message SET kind = %s, type = %s, about = %s, meta = %s, body = %s "
        f"WHERE log = %s AND id = %s AND kind = {NUMBERS['recall']}"
    )
    for id, _, kind, type, about, meta, body, _ in rows:
        changed = sql.execute(
            recalled, (kind, text_of(type), about, bytes(meta), bytes(body), log, id)
        )
        if id == message and not changed:
            return  # it has expired
    conversation = now[0][0]
    state = transaction.conversations((conversation,))()[conversation]
    sql.execute(
        "DELETE FROM hidden WHERE log = %s AND member = '' AND id = %s", (log, message)
    )
    # The recall becomes an edit: who reads the log from an older position finds
    # nothing of the removal.
    _, recall, _, type, about, meta, body, annotations = original
    as_edit = (
        f"UPDATE message SET kind = {NUMBERS['edit']} "
        f"WHERE log = %s AND id = %s AND kind = {NUMBERS['recall']}"
    )
    if sql.execute(as_edit, (log, recall)):
        sql.execute(
            "INSERT INTO hidden (log, member, version, id) VALUES (%s, '', %s, %s)",
            (log, message, recall),
        )
    annotated = fields_of(bytes(annotations))
    sql.execute_many(
        "INSERT INTO reaction (log, message, emoji, member, id) VALUES (%s, %s, %s, %s, %s)",
        [(log, message, *row) for row in annotated.get("reactions", ())],
    )
    sql.execute_many(
        "INSERT INTO pin (log, message, conversation, id) VALUES (%s, %s, %s, %s)",
        [(log, message, *row) for row in annotated.get("pins", ())],
    )
    restored = with_keys(
        without_reactions(bytes(meta)), MessageMeta(restored=int(about))
    )
    transaction.enter(
        state,
        Draft(
            sender="",
            kind="edit",
            type=text_of(type),
            body=bytes(body),
            about=message,
            meta=restored,
            conversation=conversation,
        ),
    )
    transaction.settle()
