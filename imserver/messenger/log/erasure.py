"""Removes an erased user from the log of an app: the user's messages, the
messages of the server to this user alone, the user's reactions, and the user's
name.

Ids and seqs stay contiguous: each entry keeps its place, but loses its content,
and gets another name as its sender. Clients get a recall for each message. The
sender of the recall is the other name, and its ``meta`` has ``erased``. Each
transaction changes only a few entries, so that other requests can write in
between. The erasure may be repeated.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.storage.statements import Row, Statements, text_of
from imserver.messenger.log.annotations import withdraw
from imserver.messenger.log.changes import note_changes
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.meta import (
    ERASED,
    fields_of,
    with_other_name,
    without_group_texts,
)
from imserver.messenger.log.read import end_of_look
from imserver.messenger.log.rows import (
    NUMBERS,
    USER,
    ConversationState,
    LogHead,
    count_members,
    in_log,
    members_of,
    pair_of,
)
from imserver.messenger.log.transaction import AppTransaction
from imserver.messenger.log.writer import WritingPart
from imserver.plugin.runtime import Service

AT_ONCE: Final = 50
"""The most entries that one transaction changes."""
_LOOK: Final = 10_000
"""The number of ids in which one query looks for entries of a user."""


class UserEraser(WritingPart):
    """Erases users from the log. May switch greenlets and raise
    StorageUnavailable."""

    def erase(self, app: str, user: str, name: str) -> None:
        """Erase a user from the log of an app.

        The user has left all groups before. ``name`` replaces the id of the
        user in the log. The method works in many small transactions, and may be
        called again after an error.
        """
        # Pairs come first: `_begin` finds the conversations under the new name.
        self._change(app, partial(_rename_pairs, user, name))
        self._change(app, partial(_withdraw_some, user))
        self._change(app, partial(_rename_votes, user, name))

        # Entries that others write about this user later have greater ids.
        last, notices = self._begin(app, name)
        needles = _spellings_of(user)

        # Then change the entries, piece by piece.
        after = 0
        while after < last:
            ids, after = self._find_some(app, user, notices, needles, after, last)
            if ids:
                self._change(app, partial(_erase_some, user, name, notices, ids))
            if is_long_turn():
                serve_others()

        # Memberships come last, because `_rename_pairs` needs them.
        self._change(app, partial(_forget_copies, user, name, needles))
        self._change(app, partial(_forget_memberships, user))

    def _change(self, app: str, work: Callable[[AppTransaction], bool]) -> None:
        """Run ``work`` in one transaction after another, until nothing is left
        to do.

        ``work`` returns whether it must be called again.
        """
        while self._writer.run(app, work):
            pass

    @in_log(lambda: (0, (0, 0)))
    def _begin(
        self, sql: Statements, head: LogHead, name: str
    ) -> tuple[int, tuple[int, int]]:
        """Return the last id of the log, and the user's own two conversations.

        Only the user reads these two: the conversation with the server, and the
        conversation of the user with themselves. 0 means that there is no such
        conversation. ``name`` is the new name of the user.
        """
        statement = "SELECT id FROM conversation WHERE log = %s AND pair IN (%s, %s)"
        with_server = pair_of("", name)
        with_self = pair_of(name, name)
        rows = sql.query(statement, (head.number, with_server, with_self))
        ids = [int(row[0]) for row in rows]
        # Add zeros until there are two. No entry is in the conversation 0.
        ids += [0, 0]
        return head.last_id, (ids[0], ids[1])

    @in_log()
    def _find_some(
        self,
        sql: Statements,
        head: LogHead,
        user: str,
        notices: tuple[int, int],
        needles: Sequence[bytes],
        after: int,
        last: int,
    ) -> tuple[list[int], int]:
        """Return the next entries that name a user, at most :data:`AT_ONCE`.

        An entry is included if the user is its sender, if its ``meta`` names
        the user, or if it is in one of the conversations ``notices``. The
        second value is the id up to which the log was searched. ``needles`` are
        the spellings of the user in ``meta``. The search covers the ids after
        ``after``, up to ``last``.
        """
        after = max(after, head.floor)
        # There is no index of names in `meta`, so the log is read in pieces.
        upto = end_of_look(sql, head.number, after, last, _LOOK)
        named = " OR ".join([sql.contains("meta")] * len(needles))
        rows = sql.query(
            "SELECT id FROM message WHERE log = %s AND id > %s AND id <= %s "
            f"AND (sender = %s OR conversation IN (%s, %s) OR {named}) "
            "ORDER BY id LIMIT %s",
            (head.number, after, upto, user, *notices, *needles, AT_ONCE),
        )
        ids = [int(id) for (id,) in rows]
        if len(ids) == AT_ONCE:  # there may be more after the last entry
            upto = ids[-1]
        return ids, upto


def _spellings_of(user: str) -> list[bytes]:
    """Return the spellings of a user id in ``meta``: as plain letters, and with
    the escapes of JSON."""
    spellings = (msgspec.json.encode(user), json.dumps(user).encode())
    return list(dict.fromkeys(spellings))


# --- in the transaction -------------------------------------------------------


def _rename_pairs(user: str, name: str, transaction: AppTransaction) -> bool:
    """Rename the user in some conversations of two.

    Returns whether there may be more. The pair of users is the key of such a
    conversation, so the key is written anew.
    """
    sql = transaction.sql
    log = transaction.log
    rows = sql.query(
        "SELECT c.id, c.pair FROM membership s JOIN conversation c ON c.log = s.log "
        "AND c.id = s.conversation "
        f"WHERE s.log = %s AND s.member = %s AND c.kind = {USER} LIMIT %s",
        (log, user, AT_ONCE),
    )

    for id, pair in rows:
        # If the conversation is of the user with themselves, both are the user.
        one, other = members_of(pair)
        if one == user:
            one = name
        if other == user:
            other = name
        sql.execute(_NEW_PAIR, (pair_of(one, other), log, id))
        sql.execute(_NEW_MEMBER, (name, log, user, id))
    return bool(rows)


_NEW_PAIR: Final = "UPDATE conversation SET pair = %s WHERE log = %s AND id = %s"
_NEW_MEMBER: Final = (
    "UPDATE membership SET member = %s "
    "WHERE log = %s AND member = %s AND conversation = %s"
)


def _withdraw_some(user: str, transaction: AppTransaction) -> bool:
    """Withdraw some reactions of the user.

    Returns whether there may be more.
    """
    sql = transaction.sql
    log = transaction.log
    rows = sql.query(
        "SELECT message, emoji FROM reaction WHERE log = %s AND member = %s LIMIT %s",
        (log, user, AT_ONCE),
    )
    for message, emoji in rows:
        withdraw(transaction, user, message, text_of(emoji))
    return bool(rows)


def _rename_votes(user: str, name: str, transaction: AppTransaction) -> bool:
    """Rename the user in all votes. The votes still count.

    Returns False, because nothing is left to do.
    """
    statement = "UPDATE ask_vote SET member = %s WHERE log = %s AND member = %s"
    transaction.sql.execute(statement, (name, transaction.log, user))
    return False


class _Entry(Struct):
    """The fields of an entry that an erasure needs."""

    id: int
    conversation: int
    sender: str
    kind: int
    about: int
    meta: bytes


class _OwnEntries(Service):
    """Erases the entries that one user has written, or that only this user
    reads."""

    transaction: AppTransaction
    name: str
    """The name that replaces the user."""
    messages: Collection[int]
    """The entries that are messages with readers."""
    states: Mapping[int | bytes, ConversationState]
    """The conversations of these messages."""
    empty: Collection[int]
    """The groups without members."""

    def erase(self, entry: _Entry, renamed: bytes) -> None:
        """Remove the content of an entry.

        ``renamed`` is the ``meta`` of the entry, with the new name in place of
        the user. Changes of groups keep their content for the members.
        """
        sql = self.transaction.sql
        log = self.transaction.log
        # Readers must learn of the erasure, so a recall is added to the log.
        if entry.id in self.messages and entry.conversation in self.states:
            self._recall(entry)
        elif entry.kind in _WITH_CONTENT and entry.about not in self.messages:
            # A message without its conversation, or an edit without its
            # message, has no readers.
            self._empty(entry)
        elif entry.kind == NUMBERS["group"]:
            # The texts of a group belong to its members. If a group has no
            # members, its texts are removed.
            if entry.conversation in self.empty:
                renamed = without_group_texts(renamed)
            _set(sql, log, entry.id, body=b"", meta=renamed)
        elif renamed != entry.meta:
            _set(sql, log, entry.id, meta=renamed)

    def _empty(self, entry: _Entry) -> None:
        """Remove the content of an entry that has no readers.

        The row then looks like a recall. A press of a button remains a press.
        """
        sql = self.transaction.sql
        log = self.transaction.log
        last_id = self.transaction.head.last_id
        changes = [(entry.id, entry.conversation, last_id)]
        note_changes(sql, log, changes, first=0)
        kind = entry.kind
        if kind != NUMBERS["press"]:
            kind = NUMBERS["recall"]
        _set(sql, log, entry.id, kind=kind, body=b"", meta=b"")

    def _recall(self, entry: _Entry) -> None:
        """Add the recall of a message.

        At the end of the transaction, the log removes the content of the
        message and of its edits.
        """
        recall = Draft(
            sender=self.name,
            kind="recall",
            type="",
            about=entry.id,
            meta=ERASED,
            conversation=entry.conversation,
        )
        self.transaction.enter(self.states[entry.conversation], recall)


def _erase_some(
    user: str,
    name: str,
    notices: tuple[int, int],
    ids: Sequence[int],
    transaction: AppTransaction,
) -> bool:
    """Erase the user's own entries with these ids, and rename the user in the
    other entries.

    Only the user reads the conversations ``notices``, so their entries count as
    the user's own. Returns False, because nothing is left to do.
    """
    sql = transaction.sql
    log = transaction.log
    entries = _entries(sql, log, ids)
    empty = _empty_groups(sql, log, entries)
    messages = _messages_of(user, entries, notices)
    states = transaction.conversations({entry.conversation for entry in entries})()
    own_entries = _OwnEntries(transaction, name, messages, states, empty)

    new_senders: list[Row] = []
    # The entries are changed in the order of the log.
    for entry in entries:
        renamed = with_other_name(entry.meta, user, name)
        if _is_own(entry, user, notices):
            sender = name if entry.sender else ""  # the server keeps its empty name
            new_senders.append((sender, log, entry.id))
            own_entries.erase(entry, renamed)
        elif renamed != entry.meta:
            _set(sql, log, entry.id, meta=renamed)
    sql.execute_many(_NEW_SENDER, new_senders)
    for conversation in empty:
        sql.execute(_NO_TEXTS, (log, conversation))
    return False


def _is_own(entry: _Entry, user: str, notices: tuple[int, int]) -> bool:
    """Tell whether an entry counts as the user's own.

    It does if the user has sent the entry, or is its only reader. Only the user
    reads the conversations ``notices``.
    """
    is_notice = entry.conversation in notices and entry.kind in _WITH_CONTENT
    return is_notice or entry.sender == user


_NEW_SENDER: Final = (
    "UPDATE message SET sender = %s, client_msg_id = '', resend = NULL "
    "WHERE log = %s AND id = %s"
)
"""Gives an entry another sender. The digest of a resend is made from the old
sender, so it is removed, too."""
_NO_TEXTS: Final = (
    "UPDATE conversation SET name = '', avatar = NULL, description = NULL "
    "WHERE log = %s AND id = %s"
)
"""Removes the texts of a group."""


def _messages_of(
    user: str, entries: Sequence[_Entry], notices: tuple[int, int]
) -> set[int]:
    """Return the user's messages among these entries that others have read.

    Only the user reads the conversations ``notices``.
    """
    return {
        entry.id
        for entry in entries
        if entry.kind == NUMBERS["message"]
        and entry.sender == user
        and entry.conversation not in notices
    }


def _empty_groups(sql: Statements, log: int, entries: Sequence[_Entry]) -> set[int]:
    """Return the groups of these entries that have no members any more.

    Only entries that change a group or tell of a leave are considered, because
    only these can belong to such a group.
    """
    changed_groups = {
        entry.conversation
        for entry in entries
        if entry.kind in (NUMBERS["group"], NUMBERS["leave"])
    }
    return {id for id in changed_groups if not count_members(sql, log, id)}


def _entries(sql: Statements, log: int, ids: Sequence[int]) -> list[_Entry]:
    """Read some entries, ordered by id."""
    statement = (
        "SELECT id, conversation, sender, kind, about, meta FROM message "
        "WHERE log = %s AND id IN {}"
    )
    rows = sorted(sql.query_in(statement, (log,), ids))
    return [
        _Entry(id, conversation, text_of(sender), kind, about, bytes(meta))
        for id, conversation, sender, kind, about, meta in rows
    ]


_WITH_CONTENT: Final = (NUMBERS["message"], NUMBERS["edit"], NUMBERS["press"])


def _set(sql: Statements, log: int, id: int, **values: Any) -> None:
    """Set columns of an entry.

    ``values`` has column → value, for example ``body=b""``.
    """
    columns = ", ".join(f"{column} = %s" for column in values)
    sql.execute(
        f"UPDATE message SET {columns} WHERE log = %s AND id = %s",
        (*values.values(), log, id),
    )


def _forget_copies(
    user: str, name: str, needles: Sequence[bytes], transaction: AppTransaction
) -> bool:
    """Remove the user from the copies of removed messages of others.

    A copy names the user in its ``meta``, or in its reactions. Returns False,
    because nothing is left to do.
    """
    sql = transaction.sql
    log = transaction.log
    # Other copies may contain the same text by accident. Their text stays as it
    # is.
    rows = _copies_with(sql, log, user, needles)
    for act, id, meta, annotations in rows:
        renamed = _renamed_copy(bytes(meta), user, name)
        remaining = _without_reactions_of(bytes(annotations), user)
        sql.execute(
            "UPDATE removed_message SET meta = %s, annotations = %s "
            "WHERE log = %s AND act = %s AND id = %s",
            (renamed, remaining, log, text_of(act), id),
        )
    return False


def _copies_with(
    sql: Statements, log: int, user: str, needles: Sequence[bytes]
) -> list[Row]:
    """Return the copies of others' messages that contain one of ``needles``.

    Each row is (act, id, meta, annotations).
    """
    conditions = [sql.contains("meta")] * len(needles)
    conditions += [sql.contains("annotations")] * len(needles)
    has_user = " OR ".join(conditions)
    return sql.query(
        "SELECT act, id, meta, annotations FROM removed_message "
        f"WHERE log = %s AND sender <> %s AND ({has_user})",
        (log, user, *needles, *needles),
    )


def _without_reactions_of(annotations: bytes, user: str) -> bytes:
    """Return the annotations of a removed message without a user's reactions.

    Annotations are JSON with reactions and pins. ``b""`` means that there are
    no annotations.
    """
    if not annotations:
        return b""
    copies = fields_of(annotations)
    if "reactions" in copies:
        copies["reactions"] = [row for row in copies["reactions"] if row[1] != user]
    return msgspec.json.encode(copies)


def _renamed_copy(meta: bytes, user: str, name: str) -> bytes:
    """Return the ``meta`` of a copy with another name in place of a user.

    An empty ``meta`` stays empty.
    """
    fields = fields_of(with_other_name(meta, user, name))
    if meta:
        return msgspec.json.encode(fields)
    return b""


def _forget_memberships(user: str, transaction: AppTransaction) -> bool:
    """Delete some memberships of the user.

    A later user with the same id then sees nothing of the groups. Returns
    whether there may be more.
    """
    sql = transaction.sql
    log = transaction.log
    rows = sql.query(
        "SELECT conversation, joined_id FROM membership "
        "WHERE log = %s AND member = %s LIMIT %s",
        (log, user, AT_ONCE),
    )
    sql.execute_many(
        "DELETE FROM membership "
        "WHERE log = %s AND member = %s AND conversation = %s AND joined_id = %s",
        [(log, user, conversation, joined) for conversation, joined in rows],
    )
    return bool(rows)
