"""Webhooks of bots, and incoming webhooks, in the database.

Each method is one transaction, may switch, and raises StorageUnavailable.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.storage.statements import Row, Statements, marks_of, text_of
from imserver.storage.store import Store

_INCOMING: Final = "SELECT id, app, conversation, created FROM incoming_hook WHERE "


class IncomingHook(Struct, frozen=True):
    """A URL whose requests become messages in a group. ``id``: the account of the bot that sends them.

    ``created``: Unix seconds.
    """

    id: int
    app: str
    group: int
    created: int


class BotHook(Struct, frozen=True):
    """The webhook of a bot. ``position``: its receiver has the entries of the log up to this id."""

    app: str
    bot: str
    url: str
    secret: str
    position: int


class HookStore:
    """The webhooks in a store. Without a database there are none."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- incoming -------------------------------------------------------------------------------------------

    def add_incoming(self, new: IncomingHook, token_hash: str) -> None:
        """Store an incoming webhook."""
        statement = (
            f"INSERT INTO incoming_hook (id, app, conversation, token_hash, created) VALUES {marks_of(5)}"
        )
        row = new.id, new.app, new.group, token_hash, new.created
        self._store.write(lambda sql: sql.execute(statement, row))

    def incoming_with(self, token_hash: str) -> IncomingHook | None:
        """The incoming webhook with this token."""
        rows: list[Row] = self._store.read_or(
            [], lambda sql: sql.query(f"{_INCOMING}token_hash = %s", (token_hash,))
        )
        return _incoming(rows[0]) if rows else None

    def incoming(self, app: str, id: int) -> IncomingHook | None:
        """One incoming webhook."""
        rows: list[Row] = self._store.read_or(
            [], lambda sql: sql.query(f"{_INCOMING}app = %s AND id = %s", (app, id))
        )
        return _incoming(rows[0]) if rows else None

    def incoming_to(self, app: str, group: int) -> list[IncomingHook]:
        """The incoming webhooks of a group, ordered by id."""
        statement = f"{_INCOMING}app = %s AND conversation = %s ORDER BY id"
        rows: list[Row] = self._store.read_or([], lambda sql: sql.query(statement, (app, group)))
        return list(map(_incoming, rows))

    # --- of bots --------------------------------------------------------------------------------------------

    def set_url(self, app: str, bot: int, url: str, secret: str) -> bool:
        """Set the webhook of a bot (``""``: none). It begins with the next entry of the log. False: the app
        has no such bot."""

        def work(sql: Statements) -> bool:
            if not sql.query(f"SELECT id FROM bot WHERE id = %s AND app = %s{sql.for_update}", (bot, app)):
                return False
            rows = sql.query("SELECT last_id FROM log WHERE app = %s AND part = 0", (app,))
            sql.execute(
                "UPDATE bot SET hook_url = %s, hook_secret = %s, hook_entry = %s WHERE id = %s",
                (url, secret, rows[0][0] if rows else 0, bot),
            )
            return True

        return self._store.write_or(False, work)

    def of_bots(self) -> list[BotHook]:
        """The webhooks of all bots of all apps."""
        statement = "SELECT app, id, hook_url, hook_secret, hook_entry FROM bot WHERE hook_url <> ''"
        rows: list[Row] = self._store.read_or([], lambda sql: sql.query(statement))
        return [
            BotHook(text_of(app), str(id), text_of(url), text_of(secret), position)
            for app, id, url, secret, position in rows
        ]

    def advance(self, hook: BotHook, position: int) -> None:
        """Store a position, unless the webhook was set anew."""
        statement = "UPDATE bot SET hook_entry = %s WHERE id = %s AND hook_secret = %s"
        self._store.write_or(0, lambda sql: sql.execute(statement, (position, int(hook.bot), hook.secret)))


def _incoming(row: Row) -> IncomingHook:
    id, app, group, created = row
    return IncomingHook(id, text_of(app), group, created)
