"""Edits, recalls, mentions and deadlines of questions, in the transaction that
stores them.

Edits and recalls rewrite the message and its earlier edits in place. Later
reads cannot see the old content.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from imserver.gateway.storage.statements import Statements
from imserver.messenger.log import polls
from imserver.messenger.log.bots import EVERYBODY
from imserver.messenger.log.changes import note_changes
from imserver.messenger.log.contract import Entry, Rejected, RejectReason
from imserver.messenger.log.meta import ask_in
from imserver.messenger.log.rows import NUMBERS, decode_meta
from imserver.messenger.log.threads import mentions_in, thread_fields

FIXED: Final = Rejected(
    RejectReason.FIXED, "a question that was answered, or is fixed, keeps its text"
)
MOST_EDITS: Final = 100
"""Edits of one message. Each edit and a recall rewrite all earlier ones under
the log's lock."""
_OF_CONTENT: Final = (
    f"WHERE log = %s AND id = %s AND kind IN ({NUMBERS['message']}, {NUMBERS['edit']})"
)
_EDITS: Final = "SELECT id FROM hidden WHERE log = %s AND member = '' AND version = %s"
"""Ids of the edits of a message."""
_MARKS: Final = {
    mark: msgspec.json.encode({mark: True}) for mark in ("erased", "removed")
}


def recalled_among(sql: Statements, log: int, ids: Collection[int]) -> set[int]:
    """Those of these messages that were recalled."""
    statement = "SELECT id FROM hidden WHERE log = %s AND member = '' AND version = 0 AND id IN {}"
    return {row[0] for row in sql.query_in(statement, (log,), list(ids))}


def fixed_among(sql: Statements, log: int, ids: Collection[int]) -> set[int]:
    """The questions among these messages that keep their text: each answer is
    one to what was asked.

    They were asked as ``fixed``, or somebody has answered them. Asked under the
    log's lock, after the answers of the same transaction.
    """
    statement = "SELECT id, meta FROM message WHERE log = %s AND id IN {}"
    fixed: set[int] = set()
    for id, meta in sql.query_in(statement, (log,), list(ids)):
        ask = ask_in(bytes(meta))
        if ask is None:
            continue
        counts_later = ask.poll is not None and not ask.state
        is_answered = polls.has_votes(sql, log, id) if counts_later else ask.count > 0
        if ask.fixed or is_answered:
            fixed.add(id)
    return fixed


def revise(sql: Statements, log: int, entries: Sequence[Entry]) -> None:
    """Apply new edits and recalls. The last edit of a message counts; recalls
    are final. Note mentions and deadlines."""
    _note_deadlines(sql, log, entries)
    last: dict[int, Entry] = {}
    edits = []
    mentions: dict[int, Entry] = {}
    for entry in entries:
        if entry.kind in ("recall", "edit"):
            last[entry.about] = entry
            if entry.kind == "edit":
                edits.append((entry.about, entry.id))
        elif entry.meta and entry.kind == "message" and not entry.room:
            mentions[entry.id] = entry
    if not last:
        if mentions:
            _add_mentions(sql, log, _mentions(mentions))
        return
    changes = [
        (about, entry.conversation, entry.id)
        for about, entry in last.items()
        if not entry.room
    ]
    note_changes(sql, log, changes, entries[0].id)
    if edits:  # no search finds them: it finds the message itself
        sql.execute_many(
            "INSERT INTO hidden (log, member, version, id) VALUES (%s, '', %s, %s)",
            [(log, message, edit) for message, edit in edits],
        )
    mentions |= {
        about: entry
        for about, entry in last.items()
        if entry.kind == "edit" and not entry.room
    }
    sql.execute_many(
        "DELETE FROM mention WHERE log = %s AND id = %s",
        [(log, about) for about in last],
    )
    statement = "SELECT id, meta FROM message WHERE log = %s AND id IN {}"
    before = {
        id: bytes(meta) for id, meta in sql.query_in(statement, (log,), list(last))
    }
    recalls: list[tuple[Any, ...]] = []
    withdrawn: list[tuple[Any, ...]] = []
    edited: list[tuple[Any, ...]] = []
    for about, entry in last.items():
        of_it = [row[0] for row in sql.query(_EDITS, (log, about))]
        if entry.kind == "recall":
            mark, meta = _mark(entry), decode_meta(before.get(about, b""))
            # by its author, too: so it does not come back
            if not mark and meta.get("removed"):
                withdrawn.append(
                    (msgspec.json.encode({**meta, "recalled": True}), log, about)
                )
            # it keeps its place in a thread, and the totals of its own
            thread = thread_fields(meta)
            marked = (
                msgspec.json.encode({**decode_meta(mark), **thread}) if thread else mark
            )
            recalls.append((b"", marked, about, log, about))
            recalls += [(b"", mark, about, log, id) for id in of_it]
        else:
            edited.append(
                (
                    entry.type,
                    entry.body,
                    _with_edit(entry, before.get(about, b"")),
                    log,
                    about,
                )
            )
            edited += [
                (entry.type, entry.body, entry.meta, log, id)
                for id in of_it
                if id != entry.id
            ]
    if recalls:
        gone = [about for about, entry in last.items() if entry.kind == "recall"]
        sql.execute_many(  # from all searches
            "INSERT INTO hidden (log, member, id, version) SELECT number, '', %s, 0 FROM log "
            "WHERE number = %s AND NOT EXISTS (SELECT 1 FROM hidden h WHERE h.log = %s AND h.member = '' "
            "AND h.id = %s)",
            [(id, log, log, id) for id in gone],
        )
        for table in ("reaction", "pin"):
            statement = f"DELETE FROM {table} WHERE log = %s AND message = %s"
            sql.execute_many(statement, [(log, about) for about in gone])
        polls.forget(
            sql,
            log,
            [about for about in gone if _mark(last[about]) != _MARKS["removed"]],
        )
        withdraw = "UPDATE message SET meta = %s WHERE log = %s AND id = %s AND kind = "
        sql.execute_many(f"{withdraw}{NUMBERS['recall']}", withdrawn)
        recall = f"UPDATE message SET kind = {NUMBERS['recall']}, type = '', body = %s, meta = %s, about = %s"
        sql.execute_many(f"{recall} {_OF_CONTENT}", recalls)
    if edited:
        sql.execute_many(
            f"UPDATE message SET type = %s, body = %s, meta = %s {_OF_CONTENT}", edited
        )
    _add_mentions(sql, log, _mentions(mentions))


def _with_edit(edit: Entry, before: bytes) -> bytes:
    """The ``meta`` of an edited message: that of the edit, its id, and the
    reactions. The message is not forwarded any more: its content is that of the
    editor. A question stays one, with its options. A message that came back is
    as it was."""
    new = decode_meta(edit.meta)
    if not edit.sender and "restored" in new:
        return before
    old = decode_meta(before)
    same = (
        ("reacted", "reactions", "ask", "pressed", "buttons")
        if "ask" in old
        else ("reacted", "reactions")
    )
    stays = {key: old[key] for key in same if key in old}
    new.pop("ask", None)
    return msgspec.json.encode(
        {**new, "edited": edit.id, **stays, **thread_fields(old)}
    )


def _mark(recall: Entry) -> bytes:
    """What a recalled message still says: that others than its author have
    removed it, or that its author was erased."""
    meta = decode_meta(recall.meta)
    return next((_MARKS[mark] for mark in _MARKS if meta.get(mark) is True), b"")


def _mentions(entries: Mapping[int, Entry]) -> list[tuple[str, int, int]]:
    """(user, conversation, message) of all whom these messages mention. The
    user is ``""`` for everybody."""
    return [
        ("" if user == EVERYBODY else user, entry.conversation, id)
        for id, entry in entries.items()
        for user in mentions_in(decode_meta(entry.meta))
    ]


def _note_deadlines(sql: Statements, log: int, entries: Sequence[Entry]) -> None:
    """Note when the new questions among these entries end, also those of
    messages that came back."""
    due: dict[str, list[tuple[int, int, int]]] = {"ask_deadline": [], "ask_tally": []}
    for entry in entries:
        if (entry.kind == "message" and not entry.room) or (
            entry.kind == "edit" and not entry.sender
        ):
            ask, id = (
                ask_in(entry.meta),
                entry.about if entry.kind == "edit" else entry.id,
            )
            if ask is not None and ask.until and not ask.state:
                due["ask_deadline"].append((log, id, ask.until))
            if (
                ask is not None
                and ask.poll is not None
                and not ask.state
                and entry.kind == "edit"
            ):
                due["ask_tally"].append((log, id, 0))
    for table, rows in due.items():
        if rows:
            sql.insert_new(table, "log, id, due", rows)


# --- statements ---------------------------------------------------------------


def count_edits(sql: Statements, log: int, message: int, most: int) -> int:
    """The number of edits of a message, at most ``most``."""
    return int(
        sql.query(f"SELECT count(*) FROM ({_EDITS} LIMIT %s) e", (log, message, most))[
            0
        ][0]
    )


def _add_mentions(
    sql: Statements, log: int, rows: Sequence[tuple[str, int, int]]
) -> None:
    """Insert mentions: (user, conversation, message)."""
    if rows:
        sql.execute_many(
            "INSERT INTO mention (log, member, conversation, id) VALUES (%s, %s, %s, %s)",
            [(log, *row) for row in rows],
        )
