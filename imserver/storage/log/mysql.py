"""Writes to the log on MySQL and MariaDB, on its own connection, in the writer's greenlet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pymysql
from sqlalchemy.exc import SQLAlchemyError

from imserver.storage.log.driver import LogDriver
from imserver.storage.log.rows import ConversationState
from imserver.storage.statements import Row

if TYPE_CHECKING:
    from imserver.storage.database import Database


class MysqlDriver(LogDriver):
    """Names are bytes here. The driver turns many rows into one list of values."""

    engine = "mysql"
    content_errors = (pymysql.err.DataError, pymysql.err.IntegrityError, ValueError, OverflowError)
    errors = (pymysql.err.Error, SQLAlchemyError, OSError)

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def begin(self) -> None:
        self._connection.begin()

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, _own(values))
            return list(cursor.fetchall())

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        with self._connection.cursor() as cursor:
            return int(cursor.execute(statement, _own(values)))

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(statement, [_own(row) for row in rows])

    def update_conversations(self, log: int, states: Sequence[ConversationState]) -> None:
        # The rows exist. An upsert is the only statement that can set different values per row.
        self.execute_many(
            "INSERT INTO conversation (log, id, kind, name, last_seq, last_id, created) "
            "VALUES (%s, %s, %s, '', %s, %s, 0) "
            "ON DUPLICATE KEY UPDATE last_seq = VALUES(last_seq), last_id = VALUES(last_id)",
            [(log, state.id, state.kind, state.last_seq, state.last_id) for state in states],
        )


def _own(values: Sequence[Any]) -> list[Any]:
    return [value.encode() if type(value) is str else value for value in values]
