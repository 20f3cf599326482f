"""Bots in the log: which entries of their groups they read, their slash
commands and buttons.

A member who is a bot has ``bot`` in its membership, and its group has it in
``bots``. Such a member reads the entries of the group that name it: ``meta``
has the bots that read an entry, and ``bot_entry`` has a row for each of them.
Groups without bots, and conversations of two, need neither.
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
"""Bots of one group."""
EVERYBODY: Final = "all"
"""Mentions everybody in the conversation."""
_slash: Final = re.compile(
    r"/([a-z0-9_]{1,32})(?:@([A-Za-z][A-Za-z0-9_.-]{2,31}))?(?:\s+(.*))?", re.DOTALL
)
"""A slash command: its name, the name of its bot, and the rest."""


class _Command(msgspec.Struct):
    name: str


def with_command(
    sql: Statements, app: str, state: ConversationState, draft: Draft
) -> Draft:
    """A draft whose text begins with ``/``. If a bot of the conversation has
    this command, ``meta`` says so."""
    match = _slash.fullmatch(draft.body.decode("utf-8", "replace"))
    if match is None:
        return draft
    name = match.group(1)
    bot = (match.group(2) or "").lower()
    text = match.group(3) or ""
    users = state.bots or tuple(user for user in state.members if user != draft.sender)
    ids = [int(user) for user in users if _may_be_account(user)]
    statement = (
        "SELECT b.id, b.commands, a.name FROM bot b JOIN account a ON a.id = b.id "
        "WHERE b.app = %s AND b.id IN {}"
    )
    if ids:
        rows = sql.query_in(statement, (app,), ids)
    else:
        rows = []
    for id, commands, own_name in sorted(rows, key=lambda row: ids.index(row[0])):
        if bot and (own_name is None or text_of(own_name) != bot):
            continue
        if any(
            each.name == name
            for each in msgspec.json.decode(bytes(commands), type=tuple[_Command, ...])
        ):
            command = SlashCommand(str(id), name, text)
            meta = with_keys(draft.meta, MessageMeta(command=command))
            return replace(draft, meta=meta)
    return draft


def values_of(meta: bytes) -> set[str]:
    """The values of the buttons of a message."""
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
    """The accounts among these users, in their order, or only the bots or the
    guests."""
    ids = {int(user): user for user in users if _may_be_account(user)}
    statement = f"SELECT id FROM account WHERE app = %s {which} AND id IN {{}}"
    found = (
        {row[0] for row in sql.query_in(statement, (app,), list(ids))} if ids else ()
    )
    return [user for id, user in ids.items() if id in found]


def are_friends(sql: Statements, user: str, other: str) -> bool:
    """Whether an account has another one as a friend."""
    if not (_may_be_account(user) and _may_be_account(other)):
        return False
    friend = (
        "SELECT 1 FROM relation WHERE account = %s AND other = %s AND state = 'friend'"
    )
    return bool(sql.query(friend, (int(user), int(other))))


def owners_among(sql: Statements, app: str, users: Iterable[str]) -> dict[str, str]:
    """Bot → its owner, for those of these users that are bots of accounts."""
    ids = [int(user) for user in users if _may_be_account(user)]
    statement = "SELECT id, owner FROM bot WHERE app = %s AND owner > 0 AND id IN {}"
    return {str(row[0]): str(row[1]) for row in sql.query_in(statement, (app,), ids)}


def hooks_among(
    sql: Statements, app: str, state: ConversationState, users: Collection[str]
) -> list[str]:
    """The bots of incoming webhooks of a group among these users."""
    ids = [int(user) for user in users if user in state.bots]
    statement = (
        "SELECT id FROM incoming_hook WHERE app = %s AND conversation = %s AND id IN {}"
    )
    if ids:
        return [str(row[0]) for row in sql.query_in(statement, (app, state.id), ids)]
    return []


def _may_be_account(user: str) -> bool:
    return user.isascii() and user.isdecimal() and len(user) <= 18 and user[0] != "0"


def readers_of(sql: Statements, log: int, id: int) -> list[str]:
    """The bots that read an entry of an earlier transaction."""
    statement = "SELECT member FROM bot_entry WHERE log = %s AND id = %s"
    return [text_of(row[0]) for row in sql.query(statement, (log, id))]


class BotReaders(Service):
    """Ids of the bots that must be notified of the entries of one transaction.
    The transaction adds to ``entries``.

    ``head``: of their log. ``before``: the last id before the transaction.
    """

    _sql: Statements
    _head: LogHead
    _before: int
    _entries: Sequence[Entry]
    _of: dict[int, list[str]] = field(default_factory=dict)
    """Entry of this transaction → the bots that read it."""
    _rows: list[tuple[str, int, int]] = field(default_factory=list)

    def name(self, state: ConversationState, draft: Draft) -> Draft:
        """The draft of the next entry of a group with bots, with those in
        ``meta`` that read it."""
        readers = self._readers(state, draft)
        self._of[self._head.last_id + 1] = readers
        self._rows += [(bot, state.id, self._head.last_id + 1) for bot in readers]
        if draft.kind == "edit":
            # A bot that the edit mentions first reads the message, too.
            before = self._readers_of(draft.about)
            new = [bot for bot in readers if bot not in before]
            self._rows += [(bot, state.id, draft.about) for bot in new]
            self._of[draft.about] = [*before, *new]
        if not readers:
            return draft
        return replace(draft, meta=with_bots(draft.meta, readers))

    def write(self) -> None:
        """Write the rows of the entries."""
        if self._rows:
            log = self._head.number
            self._sql.execute_many(
                "INSERT INTO bot_entry (log, member, conversation, id) VALUES (%s, %s, %s, %s)",
                [(log, *row) for row in self._rows],
            )
            self._rows = []

    def _readers(self, state: ConversationState, draft: Draft) -> list[str]:
        if state.options & OPTIONS["bots"][0] or draft.kind in (
            "join",
            "leave",
            "group",
        ):
            return list(state.bots)
        meta = MessageMeta.of(draft.meta)
        named = {draft.sender, *meta.mentions}
        if EVERYBODY in named:
            return list(state.bots)
        if draft.kind != "message":
            named.update(self._readers_of(draft.about))
        if meta.command is not None:
            named.add(meta.command.bot)
        if draft.kind == "message" and draft.about:
            named.add(self._sender_of(state, draft.about))
        return [bot for bot in state.bots if bot in named]

    def _readers_of(self, id: int) -> list[str]:
        """The bots that read an earlier entry."""
        readers = self._of.get(id)
        if readers is None:
            return readers_of(self._sql, self._head.number, id)
        return readers

    def _sender_of(self, state: ConversationState, id: int) -> str:
        """The sender of an earlier entry of a conversation; ``""``: it has
        none."""
        index = id - self._before - 1
        if 0 <= index < len(self._entries):
            entry = self._entries[index]
            if entry.conversation == state.id:
                return entry.sender
            return ""
        statement = "SELECT sender FROM message WHERE log = %s AND id = %s AND conversation = %s"
        rows = self._sql.query(statement, (self._head.number, id, state.id))
        return text_of(rows[0][0]) if rows else ""
