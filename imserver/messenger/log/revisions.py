"""Edits, recalls, mentions and deadlines of questions, in the transaction that
stores them.

Edits and recalls rewrite the message and its earlier edits in place. Later
reads cannot see the old content.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import UNSET, Struct

from imserver.gateway.storage.statements import Statements
from imserver.messenger.log import polls
from imserver.messenger.log.bots import EVERYBODY
from imserver.messenger.log.changes import note_changes
from imserver.messenger.log.contract import Entry, Rejected, RejectReason
from imserver.messenger.log.meta import (
    ERASED,
    REMOVED,
    Ask,
    MessageMeta,
    ask_in,
    with_edit,
    with_keys,
    with_recall,
)
from imserver.messenger.log.rows import NUMBERS
from imserver.messenger.log.threads import mentions_in

FIXED: Final = Rejected(
    RejectReason.FIXED, "a question that was answered, or is fixed, keeps its text"
)
MOST_EDITS: Final = 100
"""The most edits of one message. There is a limit because each edit, and a
recall, rewrites all earlier edits under the log's lock."""
_OF_CONTENT: Final = (
    f"WHERE log = %s AND id = %s AND kind IN ({NUMBERS['message']}, {NUMBERS['edit']})"
)
_EDITS: Final = "SELECT id FROM hidden WHERE log = %s AND member = '' AND version = %s"
"""Selects the ids of the edits of a message."""


def recalled_among(sql: Statements, log: int, ids: Collection[int]) -> set[int]:
    """Return the messages with these ids that were recalled.

    A recalled message is hidden from everybody, in version 0.
    """
    statement = (
        "SELECT id FROM hidden "
        "WHERE log = %s AND member = '' AND version = 0 AND id IN {}"
    )
    return {row[0] for row in sql.query_in(statement, (log,), list(ids))}


def fixed_among(sql: Statements, log: int, ids: Collection[int]) -> set[int]:
    """Return the messages with these ids that are questions with a fixed text.

    Each answer belongs to the text that was asked. So the text is fixed once
    somebody has answered, or if the author has set ``fixed``. Call this under
    the log's lock, after the answers of the same transaction are stored.
    """
    statement = "SELECT id, meta FROM message WHERE log = %s AND id IN {}"
    fixed: set[int] = set()
    for id, meta in sql.query_in(statement, (log,), list(ids)):
        ask = ask_in(bytes(meta))
        if ask is not None and (_is_answered(sql, log, id, ask) or ask.fixed):
            fixed.add(id)
    return fixed


def _is_answered(sql: Statements, log: int, message: int, ask: Ask) -> bool:
    """Tell whether somebody has answered a question, or voted in a poll."""
    is_open_poll = ask.poll is not None and not ask.state
    if is_open_poll:  # the last votes may not be counted yet
        return polls.has_votes(sql, log, message)
    return ask.count > 0


def revise(sql: Statements, log: int, entries: Sequence[Entry]) -> None:
    """Apply the new edits and recalls of a transaction to their messages.

    The last edit of a message counts. Recalls are final. The function also
    stores the mentions and deadlines of all new entries.
    """
    _note_deadlines(sql, log, entries)
    # Message → its last edit or its recall.
    last = {entry.about: entry for entry in entries if entry.kind in ("recall", "edit")}
    if last:
        # These changes tell the index of words about the new texts. The index
        # has no messages of rooms.
        changes = [
            (message, entry.conversation, entry.id)
            for message, entry in last.items()
            if not entry.room
        ]
        note_changes(sql, log, changes, entries[0].id)
        _hide_edits(sql, log, entries)
        _rewrite(sql, log, last)
    _note_mentions(sql, log, entries, last)


# --- edits and recalls --------------------------------------------------------


class _EditedRow(Struct, frozen=True):
    """A message, or one of its earlier edits, with the content of the last
    edit."""

    id: int
    type: str
    body: bytes
    meta: bytes


class _RecalledRow(Struct, frozen=True):
    """A message, or one of its edits, without content, because ``message`` was
    recalled."""

    id: int
    message: int
    meta: bytes


def _hide_edits(sql: Statements, log: int, entries: Sequence[Entry]) -> None:
    """Hide the new edits from searches, which find the messages themselves."""
    edits = [entry for entry in entries if entry.kind == "edit"]
    if edits:
        sql.execute_many(
            "INSERT INTO hidden (log, member, version, id) VALUES (%s, '', %s, %s)",
            [(log, edit.about, edit.id) for edit in edits],
        )


def _rewrite(sql: Statements, log: int, last: Mapping[int, Entry]) -> None:
    """Give messages and their earlier edits their new content.

    ``last`` has message → its last edit or its recall. An edited message and
    all its edits get the content of the last edit. So no row keeps an old text.
    """
    statement = "SELECT id, meta FROM message WHERE log = %s AND id IN {}"
    rows = sql.query_in(statement, (log,), list(last))
    metas = {id: bytes(meta) for id, meta in rows}
    # These are the new rows of the messages and of their edits.
    edited: list[_EditedRow] = []
    recalled: list[_RecalledRow] = []
    for message, entry in last.items():
        meta = metas.get(message, b"")
        edits = [row[0] for row in sql.query(_EDITS, (log, message))]
        if entry.kind == "edit":
            edited += _edited_rows(entry, meta, edits)
        else:
            recalled += _recalled_rows(entry, meta, edits)

    # A recalled message loses its reactions and pins, too.
    recalls = [entry for entry in last.values() if entry.kind == "recall"]
    if recalls:
        _delete_annotations(sql, log, recalls)
        _forbid_restoring(sql, log, recalls, metas)
        _write_recalled(sql, log, recalled)
    if edited:
        _write_edited(sql, log, edited)


def _edited_rows(edit: Entry, before: bytes, edits: Sequence[int]) -> list[_EditedRow]:
    """Return the new rows of an edited message and of its earlier edits.

    ``before`` is the ``meta`` of the message until now. ``edits`` are the ids
    of all its edits.
    """
    # An edit of the server with `restored` brings a removed message back.
    if not edit.sender and MessageMeta.of(edit.meta).restored is not UNSET:
        meta = before  # a restored message is as it was
    else:
        meta = with_edit(before, edit.meta, edit.id)
    rows = [_EditedRow(edit.about, edit.type, edit.body, meta)]
    for id in edits:
        if id != edit.id:
            rows.append(_EditedRow(id, edit.type, edit.body, edit.meta))
    return rows


def _recalled_rows(
    recall: Entry, before: bytes, edits: Sequence[int]
) -> list[_RecalledRow]:
    """Return the new rows of a recalled message and of its edits.

    ``before`` is the ``meta`` of the message until now.
    """
    message = recall.about
    new_meta = _meta_after(recall)
    rows = [_RecalledRow(message, message, with_recall(before, new_meta))]
    rows += [_RecalledRow(id, message, new_meta) for id in edits]
    return rows


def _meta_after(recall: Entry) -> bytes:
    """Return the ``meta`` of a recalled message.

    The ``meta`` has ``removed`` if somebody other than the author has removed
    the message, and ``erased`` if the author was erased. It is empty if the
    author has recalled the message.
    """
    meta = MessageMeta.of(recall.meta)
    if meta.erased:
        return ERASED
    if meta.removed:
        return REMOVED
    return b""


def _delete_annotations(sql: Statements, log: int, recalls: Sequence[Entry]) -> None:
    """Delete the reactions, pins and votes of recalled messages.

    This also hides the messages from all searches. A removed poll keeps its
    votes, because the poll may be restored.
    """
    messages = [recall.about for recall in recalls]
    # A row with the user "" hides a message from everybody. A repeated recall
    # adds no second row.
    sql.execute_many(
        "INSERT INTO hidden (log, member, id, version) "
        "SELECT number, '', %s, 0 FROM log WHERE number = %s "
        "AND NOT EXISTS (SELECT 1 FROM hidden h "
        "WHERE h.log = %s AND h.member = '' AND h.id = %s)",
        [(message, log, log, message) for message in messages],
    )
    for table in ("reaction", "pin"):
        statement = f"DELETE FROM {table} WHERE log = %s AND message = %s"
        sql.execute_many(statement, [(log, message) for message in messages])
    final = [recall.about for recall in recalls if _meta_after(recall) != REMOVED]
    polls.forget(sql, log, final)


def _forbid_restoring(
    sql: Statements, log: int, recalls: Sequence[Entry], metas: Mapping[int, bytes]
) -> None:
    """Mark removed messages that their authors have now recalled, too.

    Such messages cannot be restored. ``metas`` has message → its ``meta`` until
    now.
    """
    changes: list[tuple[bytes, int, int]] = []
    for recall in recalls:
        meta = metas.get(recall.about, b"")
        # A recall of the author has an empty `meta`.
        is_by_author = _meta_after(recall) == b""
        if is_by_author and MessageMeta.of(meta).removed:
            new_meta = with_keys(meta, MessageMeta(recalled=True))
            changes.append((new_meta, log, recall.about))
    sql.execute_many(
        "UPDATE message SET meta = %s WHERE log = %s AND id = %s "
        f"AND kind = {NUMBERS['recall']}",
        changes,
    )


def _write_recalled(sql: Statements, log: int, rows: Sequence[_RecalledRow]) -> None:
    """Turn these rows into recalls without content."""
    recalled = (
        f"kind = {NUMBERS['recall']}, type = '', body = %s, meta = %s, about = %s"
    )
    sql.execute_many(
        f"UPDATE message SET {recalled} {_OF_CONTENT}",
        [(b"", row.meta, row.message, log, row.id) for row in rows],
    )


def _write_edited(sql: Statements, log: int, rows: Sequence[_EditedRow]) -> None:
    """Write the content of the last edit into these rows."""
    sql.execute_many(
        f"UPDATE message SET type = %s, body = %s, meta = %s {_OF_CONTENT}",
        [(row.type, row.body, row.meta, log, row.id) for row in rows],
    )


# --- mentions and deadlines ---------------------------------------------------


class _MentionRow(Struct, frozen=True):
    """A message that mentions a user. The user ``""`` stands for everybody."""

    user: str
    conversation: int
    message: int


def _note_mentions(
    sql: Statements, log: int, entries: Sequence[Entry], last: Mapping[int, Entry]
) -> None:
    """Store which users the new messages mention.

    ``last`` has recalled or edited message → its recall or last edit. From now
    on, the mentions of the edit count.
    """
    # The mentions of the old content no longer count.
    if last:
        sql.execute_many(
            "DELETE FROM mention WHERE log = %s AND id = %s",
            [(log, message) for message in last],
        )

    contents = _newest_contents(entries, last)
    rows: list[_MentionRow] = []
    for message, entry in contents.items():
        for user in mentions_in(entry.message_meta()):
            member = "" if user == EVERYBODY else user
            rows.append(_MentionRow(member, entry.conversation, message))
    if rows:
        sql.execute_many(
            "INSERT INTO mention (log, member, conversation, id) "
            "VALUES (%s, %s, %s, %s)",
            [(log, row.user, row.conversation, row.message) for row in rows],
        )


def _newest_contents(
    entries: Sequence[Entry], last: Mapping[int, Entry]
) -> dict[int, Entry]:
    """Return message → the entry with its newest content.

    The keys are the new messages that may have mentions, and the edited
    messages. Messages of rooms have no mentions.
    """
    contents = {
        entry.id: entry
        for entry in entries
        if entry.meta and entry.kind == "message" and not entry.room
    }
    contents |= {
        message: entry
        for message, entry in last.items()
        if entry.kind == "edit" and not entry.room
    }
    return contents


def _note_deadlines(sql: Statements, log: int, entries: Sequence[Entry]) -> None:
    """Store the deadlines of the questions among these entries.

    This concerns new questions and restored questions. If a poll is restored,
    its votes will be counted.
    """
    deadlines: list[tuple[int, int, int]] = []
    counts: list[tuple[int, int, int]] = []
    for entry in entries:
        is_new = entry.kind == "message" and not entry.room
        # A removed message comes back by an edit without a sender.
        is_restored = entry.kind == "edit" and not entry.sender
        if not (is_new or is_restored):
            continue
        ask = ask_in(entry.meta)
        if ask is None or ask.state:  # not a question, or closed
            continue

        message = entry.about if is_restored else entry.id
        if ask.until:
            deadlines.append((log, message, ask.until))
        if ask.poll is not None and is_restored:
            counts.append((log, message, 0))  # due at once

    if deadlines:
        sql.insert_new("ask_deadline", "log, id, due", deadlines)
    if counts:
        sql.insert_new("ask_tally", "log, id, due", counts)


# --- statements ---------------------------------------------------------------


def count_edits(sql: Statements, log: int, message: int, most: int) -> int:
    """Return the number of edits of a message, counted up to ``most``."""
    statement = f"SELECT count(*) FROM ({_EDITS} LIMIT %s) e"
    count = sql.query(statement, (log, message, most))[0][0]
    return int(count)
