"""Messages that are removed for everybody, and can be restored for some time.

A removal is a recall that stores a copy of the message. A message is restored
by an ``edit`` with the old content, so clients that have seen the recall get
the message back. If its author recalls a removed message, it cannot be
restored. The ``meta`` of the recall, of the removed message and of the edit
contain this state.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

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
"""The most messages that one transaction removes or restores."""
_LOOK: Final = 20_000
"""The number of ids in which one query looks for the messages of a sender."""
_COPIES: Final = "removed_message"
_ENOUGH_BYTES: Final = 4 * 1024 * 1024
"""A transaction ends when its copies have this size."""
_ERASED_AT_ONCE: Final = 1000
"""The most copies that one transaction erases."""
_FOREVER_MS: Final = 2**62
"""A time after all messages."""


class RemovalWriter(WritingPart):
    """Removes messages for everybody, and restores them.

    A removed message becomes a recall, an entry without content. Copies of its
    content are kept in a table of their own until they are erased. Each method
    may switch greenlets and raise StorageUnavailable.
    """

    def remove(
        self,
        app: str,
        act: str,
        messages: Sequence[int],
        condition: Condition | None = None,
    ) -> list[int] | None:
        """Remove some of these messages, and store copies for :meth:`restore`.

        At most :data:`MOST_AT_ONCE` messages are processed. Recalled messages
        stay as they are. ``act`` is the name of the removal. ``condition`` is
        checked in the transaction.

        Returns the ids that were processed, in order. Pass the other ids to the
        next call. If the condition is not met, nothing is removed, and the
        result is None.
        """

        def work(transaction: AppTransaction) -> list[int] | None:
            """Remove messages until the transaction is large enough."""
            if condition is not None and not condition(transaction.sql):
                return None
            size = 0
            processed: list[int] = []
            # Large copies end the transaction early, so that other writers need
            # not wait.
            for message in sorted(messages)[:MOST_AT_ONCE]:
                if size > _ENOUGH_BYTES:
                    break
                size += _remove(transaction, act, message)
                processed.append(message)
            return processed

        return self._writer.run(app, work)

    def restore(self, app: str, act: str) -> int:
        """Restore some messages of a removal, at most :data:`MOST_AT_ONCE`.

        Returns the number of restored messages, or 0 if no message is left.
        """

        def work(transaction: AppTransaction) -> int:
            """Find some removed messages, and restore them."""
            statement = (
                f"SELECT DISTINCT message FROM {_COPIES} WHERE log = %s AND act = %s "
                "ORDER BY message LIMIT %s"
            )
            values = (transaction.log, act, MOST_AT_ONCE)
            messages = [row[0] for row in transaction.sql.query(statement, values)]
            if not messages:
                return 0

            copies = _take_copies(transaction, act, messages[-1])
            for message in messages:
                _restore(transaction, message, copies[message])
            return len(messages)

        return self._writer.run(app, work)

    @in_log(int, writes=True)
    def finish(self, sql: Statements, head: LogHead, act: str) -> int:
        """Erase some copies of a removal.

        Without a copy, a message can no longer be restored. Returns the number
        of erased copies, or 0 if no copy is left.
        """
        select = (
            f"SELECT id FROM {_COPIES} WHERE log = %s AND act = %s "
            f"ORDER BY id LIMIT {_ERASED_AT_ONCE}"
        )
        rows = sql.query(select, (head.number, act))
        if rows:
            # A range of ids is quicker to delete than a list of ids.
            last = rows[-1][0]
            delete = f"DELETE FROM {_COPIES} WHERE log = %s AND act = %s AND id <= %s"
            sql.execute(delete, (head.number, act, last))
        return len(rows)

    @in_log(int, writes=True)
    def move(
        self, sql: Statements, head: LogHead, messages: Sequence[int], act: str
    ) -> int:
        """Move the copies of these messages to the removal ``act``.

        If the messages have copies of earlier removals, these copies become
        part of this removal. Returns the number of messages that had such
        copies.
        """
        statement = (
            f"UPDATE {_COPIES} SET act = %s "
            "WHERE log = %s AND message = %s AND act <> %s"
        )
        count = 0
        for message in messages:
            moved = sql.execute(statement, (act, head.number, message, act))
            if moved:
                count += 1
        return count

    @in_log()
    def copy(self, sql: Statements, head: LogHead, message: int) -> Entry | None:
        """Return a removed message as it was before the removal.

        Returns None if the message was not removed, or if its copy was erased.
        """
        # The recall still has the number and the time of the message. Only the
        # content comes from the copy.
        statement = (
            "SELECT m.id, m.conversation, m.seq, m.sender, c.type, c.body, m.time_ms "
            f"FROM {_COPIES} c JOIN message m ON m.log = c.log AND m.id = c.id "
            "WHERE c.log = %s AND c.id = %s AND c.message = %s "
            f"AND m.kind = {NUMBERS['recall']}"
        )
        rows = sql.query(statement, (head.number, message, message))
        for id, conversation, seq, sender, type, body, time in rows:
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
        """Return the range of ids of the messages of a time span.

        The range has the ids after the first number, up to the second number.
        ``since`` and ``until`` are Unix milliseconds; 0 means no limit.
        """
        filter = SearchFilter(since=since, until=until)
        return time_window(head, head.last_id, filter, sql)

    def size(self, app: str, since: int, until: int) -> int:
        """Count the ids in a time span, without the gaps that restores have
        made.

        The log is measured run by run. A *run* is a range of ids without a gap.
        """
        after, last = self.extent(app, since, until)

        def work(sql: Statements, head: LogHead) -> int:
            return _count_ids(sql, head.number, after, last)

        return read_log(self._store, app, work, nothing=0)

    def sent(
        self, app: str, user: str, since: int, until: int, after: int, last: int
    ) -> tuple[list[tuple[int, int]], int]:
        """Return the next messages of a user in a time span.

        ``since`` and ``until`` are Unix milliseconds; 0 means no limit. Only
        ids after ``after`` and up to ``last`` are searched. Returns pairs (id,
        conversation), at most :data:`MOST_AT_ONCE`, and the id up to which the
        log was searched.
        """
        statement = (
            "SELECT id, conversation FROM message "
            "WHERE log = %s AND id > %s AND id <= %s AND sender = %s "
            f"AND kind = {NUMBERS['message']} AND time_ms >= %s AND time_ms < %s "
            "ORDER BY id LIMIT %s"
        )

        def work(sql: Statements, head: LogHead) -> tuple[list[tuple[int, int]], int]:
            """Search the next piece of the log."""
            # One query reads only a piece of the log.
            upto = end_of_look(sql, head.number, after, last, _LOOK)
            times = (since, until or _FOREVER_MS)
            values = (head.number, after, upto, user, *times, MOST_AT_ONCE)
            messages = [
                (int(id), int(conversation))
                for id, conversation in sql.query(statement, values)
            ]
            if len(messages) == MOST_AT_ONCE:  # more may follow the last message
                upto, _ = messages[-1]
            return messages, upto

        return read_log(self._store, app, work, (list[tuple[int, int]](), last))

    def count(self, app: str, user: str, since: int, until: int) -> Counter[int]:
        """Return conversation → the number of a user's messages in a time span.

        Recalled messages do not count. ``since`` and ``until`` are Unix
        milliseconds; 0 means no limit.
        """
        counts: Counter[int] = Counter()
        statement = (
            "SELECT conversation, count(*) FROM message "
            "WHERE log = %s AND id > %s AND id <= %s AND sender = %s "
            f"AND kind = {NUMBERS['message']} AND time_ms >= %s AND time_ms < %s "
            "GROUP BY conversation"
        )
        after, last = self.extent(app, since, until)

        def work(sql: Statements, head: LogHead) -> tuple[list[Row], int]:
            """Count the messages in the next piece of the log."""
            upto = end_of_look(sql, head.number, after, last, _LOOK)
            times = (since, until or _FOREVER_MS)
            rows = sql.query(statement, (head.number, after, upto, user, *times))
            return rows, upto

        # The log is read in pieces, so that no query takes long.
        no_rows: list[Row] = []
        while after < last:
            rows, after = read_log(self._store, app, work, nothing=(no_rows, last))
            for conversation, count in rows:
                counts[conversation] += count
        return counts

    @in_log(int)
    def copies(self, sql: Statements, head: LogHead, act: str) -> int:
        """Return how many messages a removal may still restore."""
        statement = (
            f"SELECT count(DISTINCT message) FROM {_COPIES} WHERE log = %s AND act = %s"
        )
        return int(sql.query(statement, (head.number, act))[0][0])

    @in_log(list)
    def senders(self, sql: Statements, head: LogHead, act: str) -> list[str]:
        """Return the senders of the messages that a removal may still
        restore."""
        statement = f"SELECT DISTINCT sender FROM {_COPIES} WHERE log = %s AND act = %s"
        return [text_of(row[0]) for row in sql.query(statement, (head.number, act))]


# --- in the transaction -------------------------------------------------------


def _remove(transaction: AppTransaction, act: str, message: int) -> int:
    """Remove a message: store copies of it and of its edits, and add a recall.

    Returns the size of the copies in bytes. The result is 0 if there is no such
    message, or if it was recalled.
    """
    sql = transaction.sql
    log = transaction.log
    rows = sql.query(_MESSAGE, (log, message))
    if not rows:
        return 0
    conversation = rows[0][1]
    state = transaction.conversations((conversation,))().get(conversation)
    if state is None:
        return 0

    # The recall removes the content of the edits, too, so they are copied.
    rows += sql.query(_EDITS, (log, message))
    annotations = _annotations_of(sql, log, message)
    # `rows` still have the old content. The recall removes it from the log.
    recall = transaction.enter(state, _recall_of(message, conversation))
    transaction.write_conversations()

    copies = [
        (log, act, *_copy_of(row, message, recall.id, annotations)) for row in rows
    ]
    sql.execute_many(_NEW_COPY, copies)
    contents = sum(len(body) + len(meta) for *_, meta, body in rows)
    return len(annotations) + contents


_NEW_COPY: Final = (
    f"INSERT INTO {_COPIES} (log, act, id, message, recall, sender, kind, type, about, meta, body, "
    "annotations) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)


def _recall_of(message: int, conversation: int) -> Draft:
    """Return the recall of a removed message. Its sender is the server."""
    return Draft(
        sender="",
        kind="recall",
        type="",
        about=message,
        meta=REMOVED,
        conversation=conversation,
    )


def _copy_of(
    row: Row, message: int, recall: int, annotations: bytes
) -> tuple[Any, ...]:
    """Return the columns of a copy, from ``id`` to ``annotations``.

    ``row`` has the columns :data:`_COPIED` of the message or of one of its
    edits. ``recall`` is the id of the entry that removes the message.
    """
    id, _, sender, kind, type, about, meta, body = row
    # Reactions and pins are stored once, with the copy of the message.
    if id != message:
        annotations = b""
    return (
        id,
        message,
        recall,
        text_of(sender),
        kind,
        text_of(type),
        about,
        bytes(meta),
        bytes(body),
        annotations,
    )


def _count_ids(sql: Statements, log: int, after: int, last: int) -> int:
    """Count the ids after ``after``, up to ``last``, without wide gaps.

    A restore of the database makes a wide gap in the ids. The result is the sum
    of the runs of ids between such gaps.
    """
    select_first = (
        "SELECT id FROM message WHERE log = %s AND id > %s AND id <= %s "
        "ORDER BY id LIMIT 1"
    )
    select_last = (
        "SELECT id FROM message WHERE log = %s AND id <= %s ORDER BY id DESC LIMIT 1"
    )
    size = 0
    run_end = after
    while rows := sql.query(select_first, (log, run_end, last)):
        # A restore makes gaps of at least this size. Without a restore, no two
        # neighbouring entries are so far apart.
        run_begin = rows[0][0]
        upto = min(beyond(run_begin, far=0) - 1, last)
        run_end = sql.query(select_last, (log, upto))[0][0]
        size += run_end - run_begin + 1
    return size


_COPIED: Final = (
    "m.id, m.conversation, m.sender, m.kind, m.type, m.about, m.meta, m.body"
)
_MESSAGE: Final = (
    f"SELECT {_COPIED} FROM message m "
    f"WHERE m.log = %s AND m.id = %s AND m.kind = {NUMBERS['message']}"
)
_EDITS: Final = (
    f"SELECT {_COPIED} FROM hidden h JOIN message m ON m.log = h.log "
    "AND m.id = h.id WHERE h.log = %s AND h.member = '' AND h.version = %s "
    f"AND m.kind = {NUMBERS['edit']}"
)
"""Selects the edits of a message, which are hidden from everybody."""


def _annotations_of(sql: Statements, log: int, message: int) -> bytes:
    """Return the reactions to a message, and its pins, as JSON.

    Example: ``{"reactions": [["👍", "7", 41]], "pins": [[3, 42]]}``. A reaction
    has its emoji, user and id; a pin has its conversation and id.
    """
    reactions = sql.query(
        "SELECT emoji, member, id FROM reaction WHERE log = %s AND message = %s",
        (log, message),
    )
    pins = sql.query(
        "SELECT conversation, id FROM pin WHERE log = %s AND message = %s",
        (log, message),
    )
    annotations = {
        "reactions": [
            (text_of(emoji), text_of(member), id) for emoji, member, id in reactions
        ],
        "pins": [tuple(row) for row in pins],
    }
    return msgspec.json.encode(annotations)


def _take_copies(
    transaction: AppTransaction, act: str, last: int
) -> dict[int, list[Row]]:
    """Read and delete the copies of a removal, of messages up to ``last``.

    Returns message → the rows of its copies: (id, recall, kind, type, about,
    meta, body, annotations).
    """
    # One query reads all copies, because there is no index by message.
    values = (transaction.log, act, last)
    where = f"FROM {_COPIES} WHERE log = %s AND act = %s AND message <= %s"
    columns = "message, id, recall, kind, type, about, meta, body, annotations"
    rows = transaction.sql.query(f"SELECT {columns} {where}", values)
    copies: dict[int, list[Row]] = {}
    for message, *copy in rows:
        copies.setdefault(message, []).append(tuple(copy))
    transaction.sql.execute(f"DELETE {where}", values)
    return copies


def _restore(transaction: AppTransaction, message: int, copies: Sequence[Row]) -> None:
    """Bring a removed message back, with its edits, reactions and pins.

    A new edit with the old content tells clients about the restored message.
    Nothing happens if the message has expired, or if its author has recalled it
    since. ``copies`` are the copies of the message and of its edits, as rows
    (id, recall, kind, type, about, meta, body, annotations).
    """
    sql = transaction.sql
    log = transaction.log
    conversation = _conversation_of_removed(sql, log, message)
    if conversation is None:
        return
    if not _bring_back(sql, log, message, copies):
        return  # the message has expired

    state = transaction.conversations((conversation,))()[conversation]
    sql.execute(
        "DELETE FROM hidden WHERE log = %s AND member = '' AND id = %s", (log, message)
    )
    # The other copies are copies of its edits.
    original = next(copy for copy in copies if copy[0] == message)
    _, recall, _, type, about, meta, body, annotations = original
    _turn_into_edit(sql, log, message, recall)
    _restore_annotations(sql, log, message, fields_of(bytes(annotations)))

    # An edit by the server, which has no name, shows the content again.
    restored = MessageMeta(restored=int(about))
    edit = Draft(
        sender="",
        kind="edit",
        type=text_of(type),
        body=bytes(body),
        about=message,
        meta=with_keys(without_reactions(bytes(meta)), restored),
        conversation=conversation,
    )
    transaction.enter(state, edit)
    transaction.write_conversations()


def _conversation_of_removed(sql: Statements, log: int, message: int) -> int | None:
    """Return the conversation of a removed message that can be restored.

    Returns None if the message has expired, or if its author has recalled it
    since.
    """
    rows = sql.query(
        "SELECT conversation, meta FROM message WHERE log = %s AND id = %s",
        (log, message),
    )
    if not rows:
        return None
    # A recall by the author is final.
    conversation, recall_meta = rows[0]
    if MessageMeta.of(bytes(recall_meta)).recalled:
        return None
    return int(conversation)


def _bring_back(sql: Statements, log: int, message: int, copies: Sequence[Row]) -> bool:
    """Write the content of a removed message and of its edits back.

    Returns False if the message has expired. ``copies`` are the rows of
    :func:`_restore`.
    """
    statement = (
        "UPDATE message SET kind = %s, type = %s, about = %s, meta = %s, body = %s "
        f"WHERE log = %s AND id = %s AND kind = {NUMBERS['recall']}"
    )
    for id, _, kind, type, about, meta, body, _ in copies:
        values = (kind, text_of(type), about, bytes(meta), bytes(body), log, id)
        # A row that has expired is not inserted again.
        changed = sql.execute(statement, values)
        if id == message and not changed:
            return False
    return True


def _turn_into_edit(sql: Statements, log: int, message: int, recall: int) -> None:
    """Turn the recall of a message into an edit.

    A client with an older cursor then finds no trace of the removal. Like all
    edits, this edit is hidden from searches.
    """
    as_edit = (
        f"UPDATE message SET kind = {NUMBERS['edit']} "
        f"WHERE log = %s AND id = %s AND kind = {NUMBERS['recall']}"
    )
    if sql.execute(as_edit, (log, recall)):
        sql.execute(
            "INSERT INTO hidden (log, member, version, id) VALUES (%s, '', %s, %s)",
            (log, message, recall),
        )


def _restore_annotations(
    sql: Statements, log: int, message: int, annotations: Mapping[str, Any]
) -> None:
    """Store the reactions and pins of a message again.

    ``annotations`` is the decoded result of :func:`_annotations_of`.
    """
    sql.execute_many(
        "INSERT INTO reaction (log, message, emoji, member, id) "
        "VALUES (%s, %s, %s, %s, %s)",
        [(log, message, *row) for row in annotations.get("reactions", ())],
    )
    sql.execute_many(
        "INSERT INTO pin (log, message, conversation, id) VALUES (%s, %s, %s, %s)",
        [(log, message, *row) for row in annotations.get("pins", ())],
    )
