"""Stores the use of keys once a minute, with the time of their last use, and
reads the stored rows."""

import logging
from collections.abc import (
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import count
from time import time
from typing import Annotated, Final

import gevent
from gevent.lock import BoundedSemaphore
from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.errors import Unavailable
from imserver.plugin.http import about, view
from imserver.plugin.identity import Tenants
from imserver.plugin.runtime import RateLimitedLog, Service
from imserver.plugin.storage import Row, RowsOf, Statements, Store, marks_of

log = logging.getLogger(__name__)

MINUTE: Final = 60
PERIOD_SECONDS: Final = 60.0
"""How often the use of keys is stored."""
_DAY_MINUTES: Final = 24 * 60
MOST_SPANS: Final = 1000
_AT_ONCE: Final = 1000
"""The most rows that one transaction deletes."""
_ADDRESS_CHARACTERS: Final = 64
_MOST_ROWS: Final = 10_000
"""The most rows that wait while the database does not answer."""
_CLEAN_MINUTES: Final = 60
"""How often old rows are deleted."""


class KeyUse(Struct, frozen=True):
    """The use of a key in a minute."""

    time: Annotated[int, about("The beginning of the minute, in Unix seconds.")]
    route: Annotated[
        str,
        about(
            "Method and path of the route, and the deprecated form of its requests. "
            "`other`: uses beyond the number that the server counts in a minute."
        ),
    ]
    app: Annotated[
        str, about("The app; empty: the requests did not name an existing app.")
    ]
    address: Annotated[str, about("The address of the client.")]
    answered: Annotated[int, about("The number of requests that were answered.")]
    refused: Annotated[int, about("The number of requests that were refused.")]


_STORED: Final = "minute, node, number, key_id, route, app, address, answered, refused"
"""The columns of a stored row."""
_ROUTE: Final = 4
"""The index of the column ``route``."""
_USES: Final = RowsOf(
    KeyUse,
    "key_use",
    time="minute * 60",
    answered="sum(answered)",
    refused="sum(refused)",
)


def uses_of(
    store: Store, key: str, since: int, until: int, skip: int, limit: int
) -> Sequence[KeyUse]:
    """The uses of a key in a time, the newest first.

    ``since`` and ``until`` are Unix minutes. The first ``skip`` rows are left
    out. Switches greenlets.
    """
    # Several nodes have a row for one minute each; their counts are added.
    rest = (
        "WHERE key_id = %s AND minute >= %s AND minute <= %s GROUP BY minute, route, app, address "
        "ORDER BY minute DESC, route, app, address LIMIT %s"
    )
    return _USES.find(store.rows, rest, key, since, until, skip + limit)[skip:]


class DeprecatedUse(Struct, frozen=True):
    """Requests that used a deprecated feature."""

    key: Annotated[
        str,
        about(
            "The id of the API key. For requests without a key: the kind of principal, "
            "such as `demo` or `staff`."
        ),
    ]
    app: Annotated[
        str, about("The app; empty: the requests did not name an existing app.")
    ]
    address: Annotated[
        str,
        about(
            "The address of the client; empty: the address of a person is not shown."
        ),
    ]
    first: Annotated[int, about("The minute of the first stored row, in Unix seconds.")]
    last: Annotated[int, about("The minute of the last stored row, in Unix seconds.")]
    answered: Annotated[int, about("The number of requests that were answered.")]
    refused: Annotated[int, about("The number of requests that were refused.")]


class _UseOfRoute(DeprecatedUse, frozen=True):
    """A row of the query for the uses of routes."""

    route: str


_SPANS: Final = RowsOf(
    _UseOfRoute,
    "key_use",
    key="key_id",
    first="min(minute) * 60",
    last="max(minute) * 60",
    answered="sum(answered)",
    refused="sum(refused)",
)


def uses_of_routes(
    store: Store, routes: Sequence[str]
) -> tuple[int, Mapping[str, list[DeprecatedUse]]]:
    """The time since which uses are stored, and who uses each of these routes.

    The time is in Unix seconds; 0 if no uses are stored. The second result is
    route → its users, the newest first. At most :data:`MOST_SPANS` users of
    routes are returned; the oldest are left out. Switches greenlets.
    """
    stored = store.rows("SELECT min(minute), max(minute) FROM key_use", ())
    if not stored or stored[0][0] is None:  # the table is empty
        return 0, {}
    first, last = stored[0]
    uses: dict[str, list[DeprecatedUse]] = {}
    for row in _joined_days(_uses_by_day(store, routes, first, last)):
        uses.setdefault(row.route, []).append(view(DeprecatedUse, row))
    return first * MINUTE, uses


def _joined_days(rows: Iterable[_UseOfRoute]) -> Iterable[_UseOfRoute]:
    """Join the uses of each user of a route; each of ``rows`` is about one day.

    The newest days come first, so the oldest users are left out above
    :data:`MOST_SPANS`.
    """
    spans: dict[tuple[str, str, str, str], _UseOfRoute] = {}
    for row in rows:
        who = row.route, row.key, row.app, row.address
        later = spans.get(who)  # the uses on later days, which were read before
        if later:
            spans[who] = _joined(row, later)
        elif len(spans) < MOST_SPANS:
            spans[who] = row
    return spans.values()


def _uses_by_day(
    store: Store, routes: Sequence[str], first: int, last: int
) -> Iterator[_UseOfRoute]:
    """The uses of routes in these minutes, the newest day first.

    Each statement reads one day, so that no statement takes long.
    """
    rest = (
        f"WHERE minute > %s AND minute <= %s AND route IN {marks_of(len(routes))} "
        f"GROUP BY route, key_id, app, address ORDER BY max(minute) DESC LIMIT {MOST_SPANS}"
    )
    for end in range(last, first - 1, -_DAY_MINUTES):
        yield from _SPANS.find(store.rows, rest, end - _DAY_MINUTES, end, *routes)


def _joined(earlier: _UseOfRoute, later: _UseOfRoute) -> _UseOfRoute:
    """The uses of two spans of time as one, from the first to the last use."""
    return replace(
        earlier,
        last=later.last,
        answered=later.answered + earlier.answered,
        refused=later.refused + earlier.refused,
    )


def delete_before(store: Store, minute: int) -> None:
    """Delete uses from before this minute. Switches greenlets."""
    find = (
        f"SELECT minute, node, number FROM key_use WHERE minute < %s LIMIT {_AT_ONCE}"
    )
    delete = "DELETE FROM key_use WHERE minute = %s AND node = %s AND number = %s"

    def delete_some(sql: Statements) -> int:
        """Delete at most :data:`_AT_ONCE` rows; returns how many there were."""
        keys = [tuple(row) for row in sql.query(find, (minute,))]
        if keys:
            sql.execute_many(delete, keys)
        return len(keys)

    # If a transaction has deleted fewer rows, no rows are left to delete.
    while store.write_or(0, delete_some) == _AT_ONCE:
        pass


class LastUse(Struct, frozen=True):
    """The time of a key's last use, and the address of the client.

    The time is in Unix seconds, exact to a minute; 0 means never.
    """

    time: int = 0
    address: str = ""


class KeyUsage(Service, dict=True):
    """Stores the use of keys on this node.

    It owns the rows that wait for the database, and the last uses. ``take``
    returns the uses since its last call: (key, route, app, address) → numbers
    of answered and refused requests. ``node`` is the random number of this
    process. ``days`` says after how many days rows are deleted; 0 means that no
    rows are stored.
    """

    database: Store
    tenants: Tenants
    take: Callable[[], Mapping[tuple[str, str, str, str], Sequence[int]]]
    node: int
    days: int
    clock: Callable[[], float] = time

    def __post_init__(self) -> None:
        """Begin without uses. A use counts in the minute in which the last one
        was taken."""
        self._number = count().__next__
        self._minute = int(self.clock()) // MINUTE
        """The minute in which the uses that were not taken yet have begun."""
        self._rows: list[Row] = []
        """The rows that wait for the database."""
        self._last: dict[str, LastUse] = {}
        """Key → its last use on this node."""
        self._unwritten: set[str] = set()
        """The keys whose last use is not in the database yet."""
        self._turn = BoundedSemaphore()
        """Lets one greenlet at a time store uses."""
        self._cleaned = 0
        """The minute in which old rows were deleted last."""
        self._failed = RateLimitedLog(log, "what API keys did cannot be stored now: %s")

    def run(self) -> None:
        """Greenlet: store the uses at the end of each minute, until it is
        killed."""
        while True:
            gevent.sleep(PERIOD_SECONDS - self.clock() % PERIOD_SECONDS)
            try:
                self.store()
            except Exception:
                log.exception("storing what API keys did failed")

    def last_use(self, key: str) -> LastUse:
        """The last use of a key of the settings, on any node.

        Such a key has no row in the table of keys, where other keys have their
        last use. May switch greenlets. Raises StorageUnavailable.
        """
        here = self._last.get(key, LastUse())
        minute = int(self.clock()) // MINUTE
        rows = uses_of(self.database, key, since=0, until=minute, skip=0, limit=1)
        for stored in rows:
            if stored.time > here.time:
                return LastUse(time=stored.time, address=stored.address)
        return here

    def store(self, routes: Container[str] | None = None) -> None:
        """Store the uses since the last call, and delete old rows.

        With ``routes``, store them only if one of these routes was used. If the
        database does not answer, the uses wait for the next call. May switch
        greenlets.
        """
        with self._turn:
            self._take_all()
            if routes is not None:
                used_routes = {row[_ROUTE] for row in self._rows}
                if not any(route in routes for route in used_routes):
                    return
            try:
                self._store_rows()
                self._store_last_uses()
                self._clean()
            except Unavailable as error:
                self._failed(error)

    def _clean(self) -> None:
        """Delete old rows, once an hour. Raises Unavailable."""
        if self._minute - self._cleaned >= _CLEAN_MINUTES:
            before = self._minute - self.days * _DAY_MINUTES
            delete_before(self.database, before)
            self._cleaned = self._minute

    def _note_last(self, key: str, use: LastUse) -> None:
        """Note the last use of a key, which is written to the database later."""
        self._last[key] = use
        self._unwritten.add(key)

    def _take_all(self) -> None:
        """Make rows of the uses since the last call.

        They wait in ``_rows`` for the database.
        """
        minute = self._minute
        self._minute = int(self.clock()) // MINUTE
        for (key, route, app, address), (answered, refused) in self.take().items():
            address = address[:_ADDRESS_CHARACTERS]
            if address:  # the address of a person is not stored
                self._note_last(key, LastUse(minute * MINUTE, address))
            if not self.days:
                continue
            if self.tenants.get(app) is None:  # a client may name anything
                app = ""
            row_id = (minute, self.node, self._number())
            self._rows.append((*row_id, key, route, app, address, answered, refused))
        # If the database does not answer for long, the oldest rows are lost.
        del self._rows[:-_MOST_ROWS]

    def _store_rows(self) -> None:
        """Store the waiting rows. Raises Unavailable.

        If the answer of the database was lost, the next attempt stores them
        again. Rows that are in the table already stay as they are.
        """
        if not self._rows:
            return
        # A copy, because further rows may come while the database works.
        rows = tuple(self._rows)
        self.database.write_or(
            None, lambda sql: sql.insert_new("key_use", _STORED, rows)
        )
        del self._rows[: len(rows)]

    def _store_last_uses(self) -> None:
        """Write the last uses of keys to the table of keys. Raises Unavailable."""
        if not self._unwritten:
            return
        uses = []
        for key in tuple(self._unwritten):
            last = self._last[key]
            uses.append((key, last.time, last.address))
        self.database.note_key_uses(uses)
        # Keys that were used meanwhile are written at the next call.
        self._unwritten.difference_update(key for key, _, _ in uses)
