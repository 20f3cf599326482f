"""Writes to the log on SQLite, on its own connection, in the database's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from imserver.storage.log.driver import LogDriver
from imserver.storage.log.rows import ConversationState
from imserver.storage.statements import Row

if TYPE_CHECKING:
    from imserver.storage.database import Database

_BUSY_SECONDS: Final = 5.0
_STATEMENTS: Final = 256
_WAL_PAGES: Final = 4000
"""Pages of 4 KiB after which SQLite checkpoints the write-ahead log: four times its default. A commit with a
checkpoint waits for two more fsyncs and writes index pages again."""


class SqliteDriver(LogDriver):
    """``BEGIN IMMEDIATE`` locks the whole file, and with it the head."""

    engine = "sqlite"
    content_errors = (sqlite3.DataError, sqlite3.IntegrityError, OverflowError, ValueError)
    errors = (sqlite3.Error,)

    few_conversations = 1 << 30  # a statement is very cheap here

    _connection: sqlite3.Connection

    def __init__(self, database: Database) -> None:
        file = database.place.file
        assert file is not None
        self._connection = sqlite3.connect(
            file,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS,
        )
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={_WAL_PAGES}"):
            self._connection.execute(f"PRAGMA {pragma}")

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(_own(statement), values).fetchall()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        return self._connection.execute(_own(statement), values).rowcount

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        self._connection.executemany(_own(statement), rows)

    def update_conversations(self, log: int, states: Sequence[ConversationState]) -> None:
        self.execute_many(
            "UPDATE conversation SET last_seq = %s, last_id = %s WHERE log = %s AND id = %s",
            [(state.last_seq, state.last_id, log, state.id) for state in states],
        )


@cache
def _own(statement: str) -> str:
    return statement.replace("%s", "?")
