"""The outbox table in a back end's own PostgreSQL. A row waits there until it is pushed.

The back end inserts a row in the transaction that the push reports. ``id`` orders the rows. ``push`` is the
body of ``POST /api/v1/push``. ``refused`` is the reason why the server will never accept it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from imserver.errors import ImserverError

CONNECT_SECONDS: Final = 10
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS {table} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    push jsonb NOT NULL,
    refused text
);
CREATE INDEX IF NOT EXISTS {index} ON {table} (id) WHERE refused IS NULL;
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify({channel}, ''); RETURN NULL; END $$;
DROP TRIGGER IF EXISTS {function} ON {table};
CREATE TRIGGER {function} AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}();
"""


class OutboxUnavailable(ImserverError):
    """The database of the outbox does not answer or refuses a statement. The text gives the reason."""


class OutboxRow(Struct, frozen=True):
    """A waiting row. ``push`` is the JSON of the column."""

    id: int
    push: bytes

    def body(self) -> dict[str, Any]:
        """The push as a mapping. Raises ValueError if it is not one."""
        return msgspec.json.decode(self.push, type=dict[str, Any])


def check_place(url: str, name: str) -> None:
    """Raise ValueError if this cannot be the address of a database and the name of a table."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a table named by a-z, 0-9 and _, got {name!r}")
    try:
        conninfo_to_dict(url)
    except psycopg.Error:  # its text could show the password
        raise ValueError("the address of the database: expected postgresql://…") from None


class OutboxTable:
    """A connection to the table ``name``. Only one process at a time gets :meth:`lock`.

    Every method waits for the database and may raise :class:`OutboxUnavailable`.
    """

    def __init__(self, url: str, name: str) -> None:
        check_place(url, name)
        self.name = name
        self._table = sql.Identifier(name)
        try:
            self._connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS)
            self._connection.execute(sql.SQL("LISTEN {}").format(self._table))
        except psycopg.Error as error:
            raise _unavailable(error) from None

    def create(self) -> None:
        """Create the table, and the trigger that notifies waiting readers."""
        self._execute(
            sql.SQL(_TABLE).format(
                table=self._table,
                index=sql.Identifier(f"{self.name}_waiting"),
                function=sql.Identifier(f"{self.name}_notify"),
                channel=sql.Literal(self.name),
            )
        )

    def lock(self) -> bool:
        """Become the only reader of the table until the connection ends; False if another reader exists."""
        rows = self._execute(
            sql.SQL("SELECT pg_try_advisory_lock(hashtext({}))").format(sql.Literal(self.name))
        )
        return bool(rows[0][0])

    def waiting(self, limit: int) -> list[OutboxRow]:
        """The oldest waiting rows, at most ``limit``."""
        statement = "SELECT id, push::text FROM {} WHERE refused IS NULL ORDER BY id LIMIT %s"
        return [
            OutboxRow(row[0], row[1].encode())
            for row in self._execute(sql.SQL(statement).format(self._table), (limit,))
        ]

    def settle(self, pushed: Sequence[int], refused: Sequence[tuple[int, str]]) -> None:
        """Delete pushed rows and store the reason in refused ones."""
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                if pushed:
                    statement = sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._table)
                    cursor.execute(statement, (list(pushed),))
                if refused:
                    statement = sql.SQL("UPDATE {} SET refused = %s WHERE id = %s").format(self._table)
                    cursor.executemany(statement, [(reason, number) for number, reason in refused])
        except psycopg.Error as error:
            raise _unavailable(error) from None

    def wait(self, seconds: float) -> None:
        """Wait for an insert, at most ``seconds``."""
        try:
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                pass
        except psycopg.Error as error:
            raise _unavailable(error) from None

    def close(self) -> None:
        """End the connection, which releases the lock."""
        self._connection.close()

    def _execute(self, statement: sql.Composed, values: Sequence[Any] = ()) -> list[Any]:
        try:
            cursor = self._connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise _unavailable(error) from None


def _unavailable(error: psycopg.Error) -> OutboxUnavailable:
    return OutboxUnavailable(str(error).strip().partition("\n")[0] or type(error).__name__)
