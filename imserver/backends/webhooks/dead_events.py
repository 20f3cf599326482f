"""Events that a receiver has refused: those that are dead after three days, and those that are tried again.

The command ``imserver app events`` reads them where no node runs. Functions raise StorageUnavailable.
"""

from typing import Final

from msgspec import Struct

from imserver.plugin.storage import RowsOf, Store


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


def list_retries(store: Store, app: str, dead: bool, after: int, limit: int) -> list[RetryRow]:
    """The dead events of an app, or those that wait, behind a number. Switches. Raises StorageUnavailable."""
    which = "WHERE app = %s AND dead = %s AND number > %s ORDER BY number LIMIT %s"
    return RETRIES.find(store.rows, which, app, int(dead), after, limit)


def replay_dead(store: Store, app: str, event: str = "") -> int:
    """Try dead events again, for three days more: one, or (``""``) all; how many. Switches."""
    one = " AND event = %s" if event else ""
    statement = (
        "UPDATE event_retry SET dead = 0, attempts = 0, next_try = 0, first_failed = 0 "
        f"WHERE app = %s AND dead = 1{one}"
    )
    return store.execute(statement, (app, event) if event else (app,))
