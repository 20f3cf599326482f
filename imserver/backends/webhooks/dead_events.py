"""Events that a receiver has refused: those that are dead after three days, and
those that are tried again.

The command ``imserver app events`` reads them where no node runs. Functions
raise StorageUnavailable.
"""

from typing import Final

from msgspec import Struct

from imserver.plugin.storage import RowsOf, Statements, Store


class RetryRow(Struct, frozen=True):
    """An event that the receiver refused, or that waits behind such a one of
    the same user.

    ``event`` is its id, ``body`` its JSON. ``first_failed``: when it was put
    aside, Unix seconds; 0: not tried yet since a replay.
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


def list_retries(
    store: Store, app: str, dead: bool, after: int, limit: int
) -> list[RetryRow]:
    """The dead events of an app, or those that wait, behind a number. Switches.
    Raises StorageUnavailable."""
    which = "WHERE app = %s AND dead = %s AND number > %s ORDER BY number LIMIT %s"
    return RETRIES.find(store.rows, which, app, int(dead), after, limit)


NEXT_TRY: Final = "SELECT next_try FROM event_retry WHERE app = %s AND dead = 0 AND next_try > 0 ORDER BY next_try LIMIT 1"
"""When the first of the events that wait is tried. Only the event of each user
that is tried next has a time; those behind it have 0, as have those that are
due."""
DUE_AT_ONCE: Final = (
    "SELECT 1 FROM (SELECT member, number FROM event_retry WHERE app = %s AND dead = 0 AND next_try = 0 "
    "ORDER BY number LIMIT 100) r WHERE number = (SELECT min(e.number) FROM event_retry e WHERE e.app = %s "
    "AND e.dead = 0 AND e.member = r.member) LIMIT 1"
)
"""Looks through the oldest 100."""
MOST_COUNTED: Final = 10_000


def next_try(sql: Statements, app: str) -> int:
    """When the next event is tried that was put aside, Unix seconds; 0: at
    once, or there is none."""
    if sql.query(DUE_AT_ONCE, (app, app)):
        return 0
    rows = sql.query(NEXT_TRY, (app,))
    if not rows:
        return 0
    seconds: int = rows[0][0]
    return seconds


_POSITIONS: Final = (
    "SELECT entry_id, event_id FROM event_feed WHERE app = %s AND lease_until > 0"
)
"""How far the receiver of an app is, if it has one."""
_COUNT_EVENTS: Final = (
    "SELECT count(*) FROM (SELECT id FROM event WHERE app = %s AND id > %s LIMIT %s) e"
)
_LAST_ENTRY: Final = "SELECT last_id FROM log WHERE part = 0 AND app = %s"
_COUNT_RETRIES: Final = "SELECT count(*) FROM (SELECT 1 FROM event_retry WHERE app = %s AND dead = %s LIMIT %s) r"


def waiting(sql: Statements, app: str) -> tuple[int, int]:
    """How many events wait until the receiver answers (at most MOST_COUNTED
    count), and how many entries of the log, of which the receiver may want some
    only. Positions are stored after a batch, so a receiver that answers may
    have had some of them."""
    feeds = sql.query(_POSITIONS, (app,))
    if not feeds:
        return 0, 0
    ((entry_id, event_id),) = feeds
    ((events,),) = sql.query(_COUNT_EVENTS, (app, event_id, MOST_COUNTED))
    logs = sql.query(_LAST_ENTRY, (app,))
    if not logs:
        return events, 0
    ((last_entry,),) = logs
    return events, max(0, last_entry - entry_id)


def counts(sql: Statements, app: str) -> tuple[int, int, int]:
    """How many events wait that were put aside, how many are dead (of both at most MOST_COUNTED count), and
    :func:`next_try`."""
    ((aside,),) = sql.query(_COUNT_RETRIES, (app, 0, MOST_COUNTED))
    ((dead,),) = sql.query(_COUNT_RETRIES, (app, 1, MOST_COUNTED))
    return aside, dead, next_try(sql, app)


def send_again(store: Store, app: str, event: str = "") -> int:
    """Try one event again, or (``""``) all: at once those that were put aside,
    dead ones for three days more.

    Returns how many, also of those that wait behind others of their users.
    Switches.
    """
    # A dead event begins anew; the others keep their attempts.
    statement = (
        "UPDATE event_retry SET next_try = 0, attempts = attempts * (1 - dead), "
        "first_failed = first_failed * (1 - dead), dead = 0 WHERE app = %s"
    )
    values: tuple[str, ...] = (app,)
    if event:
        statement += " AND event = %s"
        values = (app, event)

    def work(sql: Statements) -> int:
        return sql.execute(statement, values)

    return store.write(work)
