"""Events that a receiver has refused: events that are tried again, and events
that are dead after three days.

The command ``imserver app events`` also reads them where no node runs.
Functions raise StorageUnavailable.
"""

from typing import Final

from msgspec import Struct

from imserver.plugin.storage import RowsOf, Statements, Store


class RetryRow(Struct, frozen=True):
    """An event that was refused, or waits behind a refused one.

    ``number``: of the row; 0: the row is not stored yet. ``event`` is its id,
    ``body`` its JSON. ``attempts``: how often it was tried alone.
    ``first_failed``: when it was put aside, in Unix seconds; 0 if it was not
    tried yet since a replay.
    """

    number: int
    event: str
    user: str
    attempts: int
    first_failed: int
    body: bytes


RETRIES: Final = RowsOf(RetryRow, "event_retry", user="member")
FIRST_WAITING: Final = (
    "SELECT min(number) AS n FROM event_retry "
    "WHERE app = %s AND dead = 0 "
    "GROUP BY member"
)
"""The numbers of the events that are tried next: of each user the oldest."""


def list_retries(
    store: Store, app: str, dead: bool, after: int, limit: int
) -> list[RetryRow]:
    """List the dead events of an app, or the waiting ones, after a number.

    ``dead``: list the events that are not tried any more. Switches greenlets.
    Raises StorageUnavailable.
    """
    clauses = "WHERE app = %s AND dead = %s AND number > %s ORDER BY number LIMIT %s"
    return RETRIES.find(store.rows, clauses, app, int(dead), after, limit)


NEXT_TRY: Final = (
    "SELECT next_try FROM event_retry "
    "WHERE app = %s AND dead = 0 AND next_try > 0 "
    "ORDER BY next_try LIMIT 1"
)
"""The time of the next attempt, in Unix seconds. Only the oldest event of each
user has a time. Events behind it have 0, and events that are due have 0, too.
"""
DUE_AT_ONCE: Final = (
    "SELECT 1 FROM ("
    "SELECT member, number FROM event_retry "
    "WHERE app = %s AND dead = 0 AND next_try = 0 ORDER BY number LIMIT 100"
    ") r WHERE number = ("
    "SELECT min(e.number) FROM event_retry e "
    "WHERE e.app = %s AND e.dead = 0 AND e.member = r.member"
    ") LIMIT 1"
)
"""Whether an event is due at once. Looks through the oldest 100 only."""
MOST_COUNTED: Final = 10_000


def next_try(sql: Statements, app: str) -> int:
    """Return when the next event that was put aside is tried, in Unix seconds.

    0: an attempt is due at once, or no event waits.
    """
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
"""The positions of an app's receiver, if it has one."""
_COUNT_EVENTS: Final = (
    "SELECT count(*) FROM (SELECT id FROM event WHERE app = %s AND id > %s LIMIT %s) e"
)
_LAST_ENTRY: Final = "SELECT last_id FROM log WHERE part = 0 AND app = %s"
_COUNT_RETRIES: Final = "SELECT count(*) FROM (SELECT 1 FROM event_retry WHERE app = %s AND dead = %s LIMIT %s) r"


def waiting(sql: Statements, app: str) -> tuple[int, int]:
    """Count the events that the receiver of an app does not have yet.

    Returns the numbers of rows of ``event`` and of entries of the log; both 0:
    the app has no receiver. At most MOST_COUNTED rows are counted. The receiver
    may want only some of the entries. Positions are stored after a batch, so a
    receiver that answers may already have some of the events.
    """
    feeds = sql.query(_POSITIONS, (app,))
    if not feeds:
        return 0, 0
    ((entry_id, event_id),) = feeds
    # Rows are counted one by one; entries have ids without gaps.
    ((events,),) = sql.query(_COUNT_EVENTS, (app, event_id, MOST_COUNTED))
    logs = sql.query(_LAST_ENTRY, (app,))
    if not logs:
        return events, 0
    ((last_entry,),) = logs
    return events, max(0, last_entry - entry_id)


def counts(sql: Statements, app: str) -> tuple[int, int, int]:
    """Count the refused events of an app.

    Returns the number of events that were put aside, the number of dead events,
    and :func:`next_try`. At most MOST_COUNTED events are counted.
    """
    ((aside,),) = sql.query(_COUNT_RETRIES, (app, 0, MOST_COUNTED))
    ((dead,),) = sql.query(_COUNT_RETRIES, (app, 1, MOST_COUNTED))
    return aside, dead, next_try(sql, app)


def send_again(store: Store, app: str, event: str = "") -> int:
    """Try one refused event of an app again, or all of them.

    ``event``: its id; ``""``: all events. Events that were put aside are tried
    at once. Dead events are tried for three more days. Returns the number of
    events. It includes events that wait behind another event of their user.
    Switches greenlets. Raises StorageUnavailable.
    """
    # A dead event begins again, without attempts; the others keep theirs.
    # ``dead`` is set last, because MySQL evaluates later columns with the new
    # values.
    statement = (
        "UPDATE event_retry SET "
        "next_try = 0, "
        "attempts = attempts * (1 - dead), "
        "first_failed = first_failed * (1 - dead), "
        "dead = 0 "
        "WHERE app = %s"
    )
    values: tuple[str, ...] = (app,)
    if event:
        statement += " AND event = %s"
        values = (app, event)

    def change(sql: Statements) -> int:
        return sql.execute(statement, values)

    return store.write(change)
