"""Writes to the log on PostgreSQL, on its own connection, in the writer's greenlet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from imserver.storage.log.driver import LogDriver
from imserver.storage.log.rows import MESSAGE_COLUMNS, ConversationState
from imserver.storage.statements import Row

if TYPE_CHECKING:
    from imserver.storage.database import Database

# A plan cached while the tables were empty would scan them forever.
_SETTINGS: Final = ("plan_cache_mode = force_custom_plan", "enable_seqscan = off")

_COPY: Final = f"COPY message ({MESSAGE_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_TYPES: Final = (
    *("int4", "int8", "int8", "int8"),
    *("varchar", "int2", "varchar", "varchar", "bytea"),
    *("int8", "int8", "int8", "int8"),
    *("bytea", "bytea"),
)


class PostgresqlDriver(LogDriver):
    """Inserts entries by COPY."""

    engine = "postgresql"
    content_errors = (psycopg.DataError, psycopg.IntegrityError, ValueError, OverflowError)
    errors = (psycopg.Error, SQLAlchemyError, OSError)

    few_conversations = 16

    _connection: psycopg.Connection[Any]

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        for setting in _SETTINGS:
            self._connection.execute(f"SET {setting}".encode())
        self._connection.commit()

    def begin(self) -> None:
        """The first statement begins the transaction."""

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(statement.encode(), values).fetchall()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        return self._connection.execute(statement.encode(), values).rowcount

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(statement.encode(), rows)

    def _mutes_one_by_one(self, log: int, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        rows = self.query(
            "SELECT x.* FROM unnest(%s::text[], %s::bigint[]) AS w(member, conversation) CROSS JOIN LATERAL "
            "(SELECT s.member, s.conversation, s.muted_until FROM membership s WHERE s.log = %s "
            "AND s.member = w.member AND s.conversation = w.conversation AND s.left_id IS NULL LIMIT 1) x",
            ([user for user, _ in wanted], [conversation for _, conversation in wanted], log),
        )
        return {(row[0], row[1]): row[2] for row in rows}

    def update_conversations(self, log: int, states: Sequence[ConversationState]) -> None:
        self.execute(
            "UPDATE conversation c SET last_seq = w.seq, last_id = w.last "
            "FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(id, seq, last) "
            "WHERE c.log = %s AND c.id = w.id",
            (
                [state.id for state in states],
                [state.last_seq for state in states],
                [state.last_id for state in states],
                log,
            ),
        )

    def add_messages(self, rows: Sequence[Row]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(_COPY.encode()) as copy:
            copy.set_types(_TYPES)
            for row in rows:
                copy.write_row(row)
