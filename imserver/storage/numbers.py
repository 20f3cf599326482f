"""Numbers that are given once: where a database has lost the last ones, it continues far beyond them."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any, Final

from msgspec import Struct

from imserver.storage.statements import Statements

MANY: Final = 1 << 32
"""Upper bound for the numbers of one kind that are given between two copies of a database."""


class GivenNumbers(Struct, frozen=True):
    """Numbers that a restored database does not give again: clients know the greatest that they have seen.

    ``tables`` have them. A copy without these tables is older than they are. ``read`` returns the last
    numbers of the SQLite database that is replaced, and its copy continues after them (``continue_after``).
    ``skip`` lets a database continue far beyond its own numbers (``far``: :func:`far_number`), because others
    are not known.
    """

    tables: frozenset[str]
    read: Callable[[Statements], Any]
    continue_after: Callable[[Statements, Any], object]
    skip: Callable[[Statements, int], object]


def far_number() -> int:
    """A number beyond all that were given, and small enough for JavaScript.

    It grows by 65,536 per second, so it is also beyond those given after an earlier loss.
    """
    return int(time() * 65_536)


def beyond(number: int, far: int) -> int:
    """A number far beyond this one. In SQL: :func:`raised`."""
    return max(far, number + MANY)


def raised(column: str, far: int) -> str:
    """An assignment that makes a number continue far beyond its own, in the SQL of all engines."""
    return f"{column} = CASE WHEN {column} + {MANY} < {far} THEN {far} ELSE {column} + {MANY} END"


def move_keys_on(table: str, sql: Statements, far: int) -> None:
    """Let the ids that the database gives the rows of a table continue far beyond. MySQL commits with it."""
    if sql.engine == "postgresql":
        sequence = f"pg_get_serial_sequence('{table}', 'id')"
        sql.query(f"SELECT setval({sequence}, greatest({far}, nextval({sequence}) + {MANY}))")
    elif sql.engine == "mysql":
        (last,) = sql.query(f"SELECT coalesce(max(id), 0) FROM {table}")[0]
        sql.execute(f"ALTER TABLE {table} AUTO_INCREMENT = {beyond(last, far)}")
    else:
        sql.execute(
            f"INSERT INTO sqlite_sequence SELECT '{table}', 0 WHERE NOT EXISTS "
            f"(SELECT 1 FROM sqlite_sequence WHERE name = '{table}')"
        )
        sql.execute(f"UPDATE sqlite_sequence SET {raised('seq', far)} WHERE name = '{table}'")
