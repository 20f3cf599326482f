"""Bots in the log: which entries of their groups they read, their slash
commands and buttons.

The column ``bots`` of a group lists its bots, and their memberships have ``bot
= 1``. A bot reads only the entries of the group that name the bot. ``meta`` of
such an entry lists the bots that read it, and the table ``bot_entry`` has a row
for each of these bots. Groups without bots, and conversations of two, need no
such lists and rows.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Final, Literal

import msgspec
from msgspec import field
from msgspec.structs import replace

from imserver.gateway.storage.statements import Statements, text_of
from imserver.messenger.log.contract import OPTIONS, Draft, Entry
from imserver.messenger.log.meta import (
    BUTTONS_KEY,
    MessageMeta,
    SlashCommand,
    with_bots,
    with_keys,
)
from imserver.messenger.log.rows import (
    ConversationState,
    LogHead,
)
from imserver.plugin.runtime import Service

MOST_BOTS: Final = 20
"""The most bots of one group."""
EVERYBODY: Final = "all"
"""The name that mentions everybody in the conversation."""
_slash: Final = re.compile(
    r"/(?P<name>[a-z0-9_]{1,32})(?:@(?P<bot>[A-Za-z][A-Za-z0-9_.-]{2,31}))?"
    r"(?:\s+(?P<text>.*))?",
    re.DOTALL,
)
"""A slash command. Its parts are its name, the name of its bot, and the rest of
the text."""
_ACCOUNT_DIGITS: Final = 18
"""The most digits of the id of an account."""


class _Command(msgspec.Struct):
    name: str


_decode_commands: Final = msgspec.json.Decoder(tuple[_Command, ...]).decode


def with_command(
    sql: Statements, app: str, state: ConversationState, draft: Draft
) -> Draft:
    """Add the slash command in a text to its draft, and return the draft.

    A *slash command* is ``/weather Bern``, or ``/weather@meteo Bern`` with the
    name of its bot. If a bot of the conversation has such a command, the
    command is added to the ``meta``. Otherwise the draft stays as it is.
    """
    match = _slash.fullmatch(draft.body.decode("utf-8", "replace"))
    if match is None:
        return draft

    # In a conversation of two, only the other user can be a bot.
    users = state.bots or tuple(user for user in state.members if user != draft.sender)
    name = match["name"]
    named_bot = (match["bot"] or "").lower()
    bot = _bot_with(sql, app, users, name, named_bot)
    if bot is None:
        return draft
    command = SlashCommand(bot=str(bot), name=name, text=match["text"] or "")
    meta = with_keys(draft.meta, MessageMeta(command=command))
    return replace(draft, meta=meta)


def _bot_with(
    sql: Statements, app: str, users: Sequence[str], command: str, named_bot: str
) -> int | None:
    """Return the first bot among these users that has a command, or None.

    ``named_bot`` is the name that the bot must have, in small letters. If it is
    ``""``, the bot may have any name.
    """
    ids = [int(user) for user in users if _may_be_account(user)]
    if not ids:
        return None
    statement = (
        "SELECT b.id, b.commands, a.name FROM bot b JOIN account a ON a.id = b.id "
        "WHERE b.app = %s AND b.id IN {}"
    )
    rows = sql.query_in(statement, (app,), ids)
    # The rows come in any order, so they are sorted: the first bot of the group
    # counts.
    for id, column, bot_name in sorted(rows, key=lambda row: ids.index(row[0])):
        if named_bot and (bot_name is None or text_of(bot_name) != named_bot):
            continue
        if _has_command(bytes(column), command):
            return int(id)
    return None


def _has_command(commands: bytes, name: str) -> bool:
    """Tell whether a bot has a command. ``commands`` are JSON."""
    return any(each.name == name for each in _decode_commands(commands))


def values_of(meta: bytes) -> set[str]:
    """Return the values of the buttons of a message.

    When a user presses a button, the client sends such a value back.
    """
    if BUTTONS_KEY not in meta:
        return set()
    rows = MessageMeta.of(meta).buttons
    return {button.value for button in chain.from_iterable(rows)}


def accounts_among(
    sql: Statements,
    app: str,
    users: Iterable[str],
    which: Literal["", "AND bot = 1", "AND guest = 1"] = "",
) -> list[str]:
    """Return the users who have accounts, in the order of ``users``.

    ``which`` is a condition of SQL. ``"AND bot = 1"`` selects only bots, and
    ``"AND guest = 1"`` only guests.
    """
    # Ids of accounts are numbers. Other users need no query.
    ids = {int(user): user for user in users if _may_be_account(user)}
    if not ids:
        return []
    statement = f"SELECT id FROM account WHERE app = %s {which} AND id IN {{}}"
    accounts = {row[0] for row in sql.query_in(statement, (app,), list(ids))}
    return [user for id, user in ids.items() if id in accounts]


def are_friends(sql: Statements, user: str, other: str) -> bool:
    """Tell whether an account has another account as a friend.

    Users without accounts have no friends.
    """
    if not (_may_be_account(user) and _may_be_account(other)):
        return False
    friend = (
        "SELECT 1 FROM relation WHERE account = %s AND other = %s AND state = 'friend'"
    )
    return bool(sql.query(friend, (int(user), int(other))))


def owners_among(sql: Statements, app: str, users: Iterable[str]) -> dict[str, str]:
    """Return bot → its owner, for the bots among these users.

    Bots without an owner, which belong to a back end, are left out.
    """
    ids = [int(user) for user in users if _may_be_account(user)]
    statement = "SELECT id, owner FROM bot WHERE app = %s AND owner > 0 AND id IN {}"
    return {str(row[0]): str(row[1]) for row in sql.query_in(statement, (app,), ids)}


def hooks_among(
    sql: Statements, app: str, state: ConversationState, users: Collection[str]
) -> list[str]:
    """Return the given users who are incoming webhooks of a group.

    An *incoming webhook* is an URL by which another program writes to the
    group. Its messages come from a bot of its own.
    """
    ids = [int(user) for user in users if user in state.bots]
    if not ids:
        return []
    statement = (
        "SELECT id FROM incoming_hook WHERE app = %s AND conversation = %s AND id IN {}"
    )
    return [str(row[0]) for row in sql.query_in(statement, (app, state.id), ids)]


def _may_be_account(user: str) -> bool:
    """Tell whether the id of a user is a number, and so can be the id of an
    account."""
    is_number = user.isascii() and user.isdecimal()
    return is_number and len(user) <= _ACCOUNT_DIGITS and user[0] != "0"


def readers_of(sql: Statements, log: int, id: int) -> list[str]:
    """Return the bots that read an entry of an earlier transaction."""
    statement = "SELECT member FROM bot_entry WHERE log = %s AND id = %s"
    return [text_of(row[0]) for row in sql.query(statement, (log, id))]


class BotReaders(Service):
    """The bots that read the entries of one transaction.

    ``head``: the head of the log. ``before``: the last id before the
    transaction. ``entries``: the entries of the transaction. The transaction
    adds entries to this list.
    """

    _sql: Statements
    _head: LogHead
    _before: int
    _entries: Sequence[Entry]
    _of: dict[int, list[str]] = field(default_factory=dict)
    """Id of an entry of this transaction, or of a message that it edits → the
    bots that read this entry."""
    _rows: list[tuple[str, int, int]] = field(default_factory=list)
    """New rows of the table ``bot_entry``: (bot, conversation, entry)."""

    def draft_with_readers(self, state: ConversationState, draft: Draft) -> Draft:
        """Decide which bots read the next entry of a group with bots.

        Returns the draft of this entry, whose ``meta`` then lists these bots.
        """
        readers = self._readers(state, draft)
        next_id = self._head.last_id + 1
        self._of[next_id] = readers
        self._rows += [(bot, state.id, next_id) for bot in readers]
        if draft.kind == "edit":
            # A bot that is first mentioned by the edit reads the message, too.
            former_readers = self._readers_of(draft.about)
            new = [bot for bot in readers if bot not in former_readers]
            self._rows += [(bot, state.id, draft.about) for bot in new]
            self._of[draft.about] = [*former_readers, *new]
        if not readers:
            return draft
        return replace(draft, meta=with_bots(draft.meta, readers))

    def write(self) -> None:
        """Write the rows of the entries that bots read."""
        if self._rows:
            log = self._head.number
            self._sql.execute_many(
                "INSERT INTO bot_entry (log, member, conversation, id) "
                "VALUES (%s, %s, %s, %s)",
                [(log, *row) for row in self._rows],
            )
            self._rows = []

    def _readers(self, state: ConversationState, draft: Draft) -> list[str]:
        """Return the bots of a group that read the entry of this draft.

        If the group's option ``bots`` lets its bots read everything, the result
        is all bots. Otherwise it is the sender and the bots that the draft
        mentions, commands or answers, if they are bots. The readers of a
        message also read its edits, its recall and other entries about it.
        """
        reads_all = state.options & OPTIONS["bots"][0] != 0
        # Changes of the group concern all of its bots.
        if reads_all or draft.kind in ("join", "leave", "group"):
            return list(state.bots)
        meta = MessageMeta.of(draft.meta)
        users = {draft.sender, *meta.mentions}
        if EVERYBODY in users:
            return list(state.bots)

        if draft.kind != "message":
            users.update(self._readers_of(draft.about))
        if meta.command is not None:
            users.add(meta.command.bot)
        # The sender of the message that a reply answers reads the reply.
        if draft.kind == "message" and draft.about:
            users.add(self._sender_of(state, draft.about))
        return [bot for bot in state.bots if bot in users]

    def _readers_of(self, id: int) -> list[str]:
        """Return the bots that read an earlier entry, perhaps of this
        transaction."""
        readers = self._of.get(id)
        if readers is None:
            return readers_of(self._sql, self._head.number, id)
        return readers

    def _sender_of(self, state: ConversationState, id: int) -> str:
        """Return the sender of an earlier entry of a conversation.

        Returns ``""`` if the conversation has no such entry.
        """
        # Entries of this transaction are not in the database yet. Their ids
        # follow `_before` without gaps.
        index = id - self._before - 1
        if 0 <= index < len(self._entries):
            entry = self._entries[index]
            if entry.conversation == state.id:
                return entry.sender
            return ""
        statement = (
            "SELECT sender FROM message "
            "WHERE log = %s AND id = %s AND conversation = %s"
        )
        rows = self._sql.query(statement, (self._head.number, id, state.id))
        if not rows:
            return ""
        return text_of(rows[0][0])
