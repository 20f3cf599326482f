"""Events that a receiver has refused: those that are dead after three days, and those that are tried again.

The command ``imserver app events`` reads them where no node runs. Functions raise StorageUnavailable.
"""

from typing import Final

from msgspec import Struct

from imserver.plugin.storage import RowsOf, Statements, Store


class RetryRow(Struct, frozen=True):
    """An event that the receiver refused, or that waits behind such a one of the same user.

    ``event`` is its id, ``body`` what is sent. ``first_failed``: when it was put aside, Unix seconds; 0: not
    tried yet since a replay.
    """

    number: int
    event: str
    user: str
    attempts: int
    first_failed: int
    body: bytes


RETRIES: Final = RowsOf(RetryRow, "event_retry", user="member")
FIRST_WAITING: Final = "SELECT min(number) AS n FROM event_retry WHERE app = %s AND dead = 0 GROUP BY member"
"""The event of each user that is tried next."""


def list_retries(store: Store, app: str, dead: bool, after: int, limit: int) -> list[RetryRow]:
    """The dead events of an app, or those that wait, behind a number. Switches. Raises StorageUnavailable."""
    which = "WHERE app = %s AND dead = %s AND number > %s ORDER BY number LIMIT %s"
    return RETRIES.find(store.rows, which, app, int(dead), after, limit)


def next_try(sql: Statements, app: str) -> int:
    """When the next event is tried that was put aside, Unix seconds; 0: at once, or there is none."""
    statement = f"SELECT min(next_try) FROM event_retry JOIN ({FIRST_WAITING}) f ON f.n = number"
    return sql.query(statement, (app,))[0][0] or 0


def send_again(store: Store, app: str, event: str = "") -> int:
    """Try one event again, or (``""``) all: at once those that were put aside, dead ones for three days more.

    Returns how many: none of those that only wait behind others of their users. Switches.
    """
    which, values = ("AND event = %s", (app, event)) if event else ("", (app,))
    waiting = f"UPDATE event_retry SET next_try = 0 WHERE app = %s AND dead = 0 AND next_try > 0 {which}"
    dead = (
        "UPDATE event_retry SET dead = 0, attempts = 0, next_try = 0, first_failed = 0 "
        f"WHERE app = %s AND dead = 1 {which}"
    )
    return store.write(lambda sql: sql.execute(waiting, values) + sql.execute(dead, values))
