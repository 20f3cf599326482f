"""Bots in the database. Each method is one transaction, may switch, and raises StorageUnavailable."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from imserver.storage.accounts import accounts_in, add_account
from imserver.storage.contract import Account, Bot, BotCommand, commands_of
from imserver.storage.statements import PooledStatements, Row, marks_of, text_of
from imserver.storage.store import Store

_BOTS: Final = "SELECT id, owner, commands, hook_url FROM bot WHERE"
_NO_PASSWORD: Final = ""
"""In place of the hash of a password. No password has it."""
_encode: Final = msgspec.json.Encoder().encode


class BotStore:
    """The bots in a store. Without a database there are none."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, new: Account, owner: int, token_hash: str, most: int, report: bool) -> Bot | None:
        """Store a bot with its account; None if its owner (0: the back end, without a limit) has ``most``, or
        does not exist any more.

        ``report``: as in AccountStore. Raises Taken.
        """
        made = replace(new, created=int(time()), bot=True)

        def work(sql: PooledStatements) -> Bot | None:
            if owner:
                # After the deletion of its owner nobody would delete the bot.
                if not sql.query(f"SELECT id FROM account WHERE id = %s{sql.for_update}", (owner,)):
                    return None
                count = "SELECT count(*) FROM bot WHERE app = %s AND owner = %s"
                if sql.query(count, (made.app, owner))[0][0] >= most:
                    return None
            account = add_account(sql, made, _NO_PASSWORD, report)
            sql.execute(
                "INSERT INTO bot (id, app, owner, token_hash, commands, hook_url, hook_secret) "
                f"VALUES {marks_of(7)}",
                (account.id, account.app, owner, token_hash, b"[]", "", ""),
            )
            return Bot(account, owner)

        return self._store.write(work)

    def holder(self, id: int, token_hash: str) -> Account | None:
        """The account of a bot, if its token has this hash."""

        def work(sql: PooledStatements) -> Account | None:
            rows = sql.query("SELECT app FROM bot WHERE id = %s AND token_hash = %s", (id, token_hash))
            found = accounts_in(sql, text_of(rows[0][0]), [id]) if rows else []
            return found[0] if found else None

        return self._store.read_or(None, work)

    def get(self, app: str, ids: Sequence[int]) -> list[Bot]:
        """Those of these accounts that are bots, ordered by id."""

        def work(sql: PooledStatements) -> list[Bot]:
            return _bots(sql, app, sql.query_in(f"{_BOTS} app = %s AND id IN {{}}", (app,), ids))

        return self._store.read_or([], work) if ids else []

    def page(self, app: str, owner: int | None, after: int, limit: int) -> list[Bot]:
        """Bots with an id after ``after``, ordered by id. ``owner`` None: of all owners."""
        whose, values = (
            ("", (app, after, limit)) if owner is None else ("AND owner = %s ", (app, after, owner, limit))
        )

        def work(sql: PooledStatements) -> list[Bot]:
            statement = f"{_BOTS} app = %s AND id > %s {whose}ORDER BY id LIMIT %s"
            return _bots(sql, app, sql.query(statement, values))

        return self._store.read_or([], work)

    def set_token(self, app: str, id: int, token_hash: str) -> bool:
        """Replace the token of a bot; False if the bot does not exist."""
        return self._set(app, id, "token_hash", token_hash)

    def set_commands(self, app: str, id: int, commands: Sequence[BotCommand]) -> bool:
        """Replace the commands of a bot; False if the bot does not exist."""
        return self._set(app, id, "commands", _encode(commands))

    def _set(self, app: str, id: int, column: str, value: Any) -> bool:
        def work(sql: PooledStatements) -> bool:
            # MySQL counts only rows that have changed.
            there = sql.query(f"SELECT id FROM bot WHERE id = %s AND app = %s{sql.for_update}", (id, app))
            sql.execute(f"UPDATE bot SET {column} = %s WHERE id = %s AND app = %s", (value, id, app))
            return bool(there)

        return self._store.write_or(False, work)


def _bots(sql: PooledStatements, app: str, rows: Sequence[Row]) -> list[Bot]:
    """Bots from rows of :data:`_BOTS`, ordered by id."""
    accounts = {each.id: each for each in accounts_in(sql, app, [row[0] for row in rows])} if rows else {}
    return [
        Bot(accounts[id], owner, commands_of(commands), text_of(url))
        for id, owner, commands, url in sorted(rows, key=lambda row: row[0])
        if id in accounts
    ]
