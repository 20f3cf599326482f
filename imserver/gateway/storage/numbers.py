"""Numbers that are given only once. If a database has lost the last numbers, it
continues far beyond them."""

import re
from collections.abc import Callable
from time import time
from typing import Any, Final

from msgspec import Struct

from imserver.gateway.errors import StartError
from imserver.gateway.storage.statements import Statements

MANY: Final = 1 << 32
"""Between two copies of a database, fewer numbers of one kind are given than
this."""
MAX_NUMBER: Final = (1 << 53) - 1
"""The greatest number that JavaScript represents exactly."""
_FAR_PER_SECOND: Final = 65_536
"""By how much :func:`far_number` grows per second."""


class GivenNumbers(Struct, frozen=True):
    """Numbers that a restored database must not give again, because clients
    remember the greatest number that they have seen.

    - ``tables``: the tables that have the numbers. A copy of a database without
      these tables was made before they existed.
    - ``read``: returns the last numbers of the SQLite database that a restore
      replaces.
    - ``continue_after``: lets the restored database continue after these
      numbers.
    - ``skip``: lets a database continue far beyond its own numbers, because the
      numbers given since are not known. The function gets the result of
      :func:`far_number`.
    """

    tables: frozenset[str]
    read: Callable[[Statements], Any]
    continue_after: Callable[[Statements, Any], object]
    skip: Callable[[Statements, int], object]


def far_number() -> int:
    """Return a number beyond all numbers that were given, and small enough for
    JavaScript.

    It grows by 65,536 per second, so it is also beyond the numbers that were
    given after an earlier loss.
    """
    return int(time() * _FAR_PER_SECOND)


def beyond(number: int, far: int) -> int:
    """Return a number far beyond ``number``. :func:`raise_all` does the same in
    SQL."""
    return max(far, number + MANY)


def raise_all(sql: Statements, far: int, table: str, *columns: str) -> None:
    """Raise the numbers in these columns of all rows, so that no number is
    given twice.

    Each number becomes ``far`` (see :func:`far_number`), but grows at least by
    :data:`MANY`. :func:`beyond` does the same in Python. Raises StartError for
    a number that no server has given.
    """
    for column in columns:
        rows = sql.query(f"SELECT max({column}) FROM {table}")
        _refuse_forged(table, rows[0][0])
    # Each column gets the greater of two numbers: far, and its value + MANY.
    raised = "{0} = CASE WHEN {0} + {1} < {2} THEN {2} ELSE {0} + {1} END"
    changes = [raised.format(column, MANY, far) for column in columns]
    sql.execute(f"UPDATE {table} SET {', '.join(changes)}")


def _refuse_forged(table: str, last: Any) -> None:
    """Raise StartError if no server has given this last number of a table.

    No number could follow such a number. ``last`` is None if the table has no
    rows.
    """
    if last is None:
        return
    if type(last) is not int or last > MAX_NUMBER:
        raise StartError(
            f"the database is damaged: the last number of {table} is {last!a}"
        )


# --- numbers that the database gives ------------------------------------------


def last_given(sql: Statements, table: str, column: str = "id") -> int | None:
    """Return the last number that the database has given a row of a table.

    The result is 0 if it has given no number yet, and None if it does not
    number the rows.
    """
    if sql.engine == "sqlite":
        # A row may have a greater number that the database has not given.
        recorded = (
            "coalesce((SELECT max(CAST(seq AS INTEGER)) "
            "FROM sqlite_sequence WHERE name = %s), 0)"
        )
        greatest = f'coalesce(max("{column}"), 0)'
        statement = f'SELECT max({recorded}, {greatest}) FROM "{table}"'
        rows = sql.query(statement, (table,))
        return int(rows[0][0])
    if sql.engine == "postgresql":
        return _last_of_postgresql(sql, table, column)
    return _last_of_mysql(sql, table)


def _last_of_postgresql(sql: Statements, table: str, column: str) -> int | None:
    """Return the result of :func:`last_given`, from the sequence of the
    column."""
    sequence = _sequence_of(sql, table, column)
    if sequence is None:
        return None
    last, is_called = sql.query(f"SELECT last_value, is_called FROM {sequence}")[0]
    if is_called:
        return int(last)
    return int(last) - 1  # an unused sequence gives ``last`` itself next


def _last_of_mysql(sql: Statements, table: str) -> int | None:
    """Return the result of :func:`last_given`, from the definition of the
    table.

    MySQL writes the next number behind the columns, if it is not 1, as in
    ``) ENGINE=InnoDB AUTO_INCREMENT=42``.
    """
    _, definition = sql.query(f"SHOW CREATE TABLE `{table}`")[0]
    if "AUTO_INCREMENT" not in str(definition):
        return None
    # No name of a column comes after the last bracket.
    next_number = re.search(r"\) .*\bAUTO_INCREMENT=(\d+)", str(definition))
    if next_number is None:
        return 0
    return int(next_number[1]) - 1


def give_after(sql: Statements, table: str, last: int, column: str = "id") -> None:
    """Let the database number the rows of a table from ``last + 1`` on.

    Does nothing if the database does not number these rows. On MySQL this ends
    the transaction with a commit.
    """
    if sql.engine == "sqlite":
        _give_after_in_sqlite(sql, table, last)
    elif sql.engine == "postgresql":
        sequence = _sequence_of(sql, table, column)
        if sequence is not None:
            # A sequence cannot be at 0. With false as the last value, it gives
            # the number 1 next.
            sql.query("SELECT setval(%s, %s, %s)", (sequence, max(last, 1), last > 0))
    elif last_given(sql, table, column) is not None:
        sql.execute(f"ALTER TABLE `{table}` AUTO_INCREMENT = {last + 1}")


def _give_after_in_sqlite(sql: Statements, table: str, last: int) -> None:
    """Let SQLite number the rows of a table from ``last + 1`` on, if it numbers
    them."""
    definitions = sql.query(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = %s", (table,)
    )
    # SQLite keeps the last number only of tables with AUTOINCREMENT.
    if "AUTOINCREMENT" in definitions[0][0].upper():
        sql.execute("DELETE FROM sqlite_sequence WHERE name = %s", (table,))
        sql.execute(
            "INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", (table, last)
        )


def give_above(sql: Statements, table: str, least: str, more: int = 0) -> None:
    """Let the ids of a table of PostgreSQL continue above the expression
    ``least``.

    The ids continue at least ``more`` above the last id. This is one statement,
    because other transactions take ids meanwhile.
    """
    sequence = _sequence_of(sql, table, "id")
    # nextval() takes the next id, and so tells the last one.
    if sequence is not None:
        sql.query(
            f"SELECT setval('{sequence}', greatest({least}, "
            f"nextval('{sequence}') + {more}))"
        )


def move_keys_on(table: str, sql: Statements, far: int) -> None:
    """Let the ids of a table continue far beyond the last one.

    Only tables whose ids the database gives have such ids. For ``far`` see
    :func:`far_number`. On MySQL this ends the transaction with a commit. Raises
    StartError for an id that no server has given.
    """
    last = last_given(sql, table) or 0
    _refuse_forged(table, last)
    if sql.engine == "postgresql":
        give_above(sql, table, str(far), MANY)
    else:
        give_after(sql, table, beyond(last, far))


def _sequence_of(sql: Statements, table: str, column: str) -> str | None:
    """Return the sequence that numbers the rows of a table of PostgreSQL.

    The result is None if no sequence numbers them.
    """
    statement = "SELECT pg_get_serial_sequence(%s, %s)"
    name = sql.query(statement, (f'"{table}"', column))[0][0]
    if name is None:
        return None
    return str(name)
