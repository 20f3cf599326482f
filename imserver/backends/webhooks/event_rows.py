"""The stored state of webhooks: durable events of apps, the positions of their
receivers, retries, and absent users.

Events of stored messages and groups are entries of the message log. All other
events are rows of the table ``event``. The *feed* of an app has both. Its row
says which node delivers it (a lease by the clock of the database), and up to
which positions its receiver has it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from time import time
from typing import Any, Final

import gevent
from gevent.event import AsyncResult
from msgspec import Struct, field

from imserver.backends.webhooks.consumer import NotOwner
from imserver.backends.webhooks.dead_events import FIRST_WAITING, RETRIES, RetryRow
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.storage import RowsOf, Statements, Store, chunks, marks_of, text_of

log = logging.getLogger(__name__)

_DAY_SECONDS: Final = 86_400
TRY_SECONDS: Final = 3 * _DAY_SECONDS
"""How long an event is tried. After this time it is dead."""
MAX_WAITING: Final = 10_000
"""The most events that wait for their commit. Further ones are refused for the
moment."""
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Limit of the bytes of their bodies."""
MAX_RETRIES: Final = 100_000
"""The most dead events of an app. Beyond this number the oldest are deleted."""
_AT_ONCE: Final = 200
"""The most rows in one statement."""
_DELETED_TOGETHER: Final = 1000
"""Events of an app that one transaction deletes."""


class NewEvent(Struct, frozen=True):
    """An event to store for the back end of an app.

    ``body``: its fields, a JSON object. The events of one ``user`` are
    delivered in order.
    """

    app: str
    user: str
    kind: str
    body: bytes


class StoredEvent(Struct, frozen=True):
    """A row of ``event``. ``time``: Unix seconds."""

    id: int
    user: str
    kind: str
    time: int
    body: bytes


class FeedRow(Struct, frozen=True):
    """The row of a feed: how far it was delivered, and by whom."""

    last_id: int
    """The id of the last event of the app."""
    entry_id: int
    """The last entry of the log that the receiver has."""
    event_id: int
    """The last event that the receiver has."""
    noted_id: int
    """The last entry of the log that was read for absences."""
    owner: str
    """The node that has the lease, or had it last."""


class FeedHead(Struct, frozen=True):
    """The last ids of the log and of the events of a feed. ``has_retries``:
    some events were put aside."""

    entries: int
    events: int
    has_retries: bool


class Absence(Struct, frozen=True):
    """A user who was offline, and should have read ``entry``.

    ``due``: when to tell the back end (:func:`steady_time`, in ms).
    """

    user: str
    conversation: int
    entry: int
    due: int


_EVENTS: Final = RowsOf(StoredEvent, "event", user="member")
_FEEDS: Final = RowsOf(FeedRow, "event_feed")
_ABSENCES: Final = RowsOf(Absence, "absence", user="member", entry="entry_id")


class _Batch(Struct):
    """Events that wait for the next group commit."""

    events: list[NewEvent] = []
    size: int = 0
    """Bytes of their bodies."""
    stored: AsyncResult[dict[str, int]] = field(default_factory=AsyncResult)
    """Gets the result of :func:`add_events`."""


_DELIVERED: Final = "CASE WHEN f.lease_until > 0 THEN f.event_id ELSE f.last_id END"
"""The id of the last event that the receiver of a feed has. If the feed has
ended, the id of its last event."""
_OLDEST_EVENTS: Final = (
    f"SELECT e.app, e.id, {_DELIVERED} "
    "FROM event_feed f "
    "JOIN event e ON e.app = f.app "
    "AND e.id = (SELECT min(o.id) FROM event o WHERE o.app = f.app) "
    f"WHERE e.time < %s AND e.id <= {_DELIVERED}"
)
"""The oldest event of each app, if it was delivered and is old enough to
delete."""
_DELETE_EVENTS: Final = "DELETE FROM event WHERE app = %s AND id <= %s AND time < %s"
_APPS_WITH_RETRIES: Final = (
    "SELECT f.app FROM event_feed f "
    "WHERE EXISTS (SELECT 1 FROM event_retry r WHERE r.app = f.app AND r.dead = 0) "
    "AND f.app IN {}"
)


class EventStore(Store.Rows):
    """The stored feeds and their events.

    A *feed* is the durable events of one app, for its back end. New events that
    wait at the same time are stored in one transaction. All methods switch
    greenlets, and raise StorageUnavailable.
    """

    def __init__(self, store: Store) -> None:
        """Begin with an empty batch."""
        super().__init__(store)
        self._batch = _Batch()
        """The events that wait for the next transaction."""
        self._writer: gevent.Greenlet[[], None] | None = None
        self.known: dict[str, int] = {}
        """App → the greatest known id of an event. No id is given twice, even
        if the database has lost the event."""

    # --- events ---------------------------------------------------------------

    def append(self, events: Sequence[NewEvent]) -> dict[str, int]:
        """Store events. Returns app → the id of its last event.

        The method returns after the commit. Events that other greenlets append
        meanwhile share the next transaction. Raises StorageUnavailable also if
        too many events wait.
        """
        batch = self._batch
        count = len(batch.events) + len(events)
        size = batch.size + sum(len(event.body) for event in events)
        is_full = count > MAX_WAITING or size > MAX_WAITING_BYTES
        # A call with more events than a batch may have gets its own batch.
        if batch.events and is_full:
            raise StorageUnavailable("too many events wait to be stored")

        batch.events += events
        batch.size = size
        if self._writer is None:
            self._writer = gevent.spawn(self._write)
        heads = batch.stored.get()
        assert heads is not None
        return heads

    def _write(self) -> None:
        """Greenlet: store the waiting events until none is left.

        The callers of :meth:`append` wait for the result of their batch.
        """
        try:
            while self._batch.events:
                batch = self._batch
                self._batch = _Batch()
                work = partial(add_events, events=batch.events, known=self.known)
                try:
                    batch.stored.set(self._store.write(work))
                except Exception as error:
                    batch.stored.set_exception(error)
        finally:
            self._writer = None

    def read(self, app: str, after: int, limit: int) -> list[StoredEvent]:
        """Return the events of an app after an id, the oldest first."""
        clauses = "WHERE app = %s AND id > %s ORDER BY id LIMIT %s"
        return _EVENTS.find(self._store.rows, clauses, app, after, limit)

    def expire(self, apps: Collection[str]) -> None:
        """Delete delivered events that are so old that no attempt can follow.

        Undelivered events stay as long as the app has a webhook (it is in
        ``apps``), and three days longer.
        """
        no_feeds: list[tuple[str, int, int]] = []
        ended = self._store.write_or(no_feeds, partial(_end_feeds, apps))
        for app, entry, event in ended:
            log.warning(
                "the webhook of %s was removed three days ago: its feed has ended. Nothing after entry %d "
                "and event %d was delivered",
                app,
                entry,
                event,
            )
        # A day after the last attempt.
        before = int(time()) - TRY_SECONDS - _DAY_SECONDS
        # Small transactions, so that others need not wait for long.
        while self._store.write_or(0, partial(_delete_some, before)):
            pass

    # --- feeds ----------------------------------------------------------------

    @Store.writing_or({})
    def claim(
        self,
        sql: Statements,
        begins: Mapping[str, int | None],
        owner: str,
        seconds: int,
    ) -> dict[str, FeedRow]:
        """Take or renew the leases of apps, for ``seconds``.

        Returns the feeds whose lease the node ``owner`` has now. ``begins``:
        app → the position in the log at which a new feed begins (None: the end
        of the log). A feed that has ended (:meth:`expire`) begins there, too.
        Every other feed continues at its positions, even if its lease is old.
        """
        renewed, of_others = _owners_of(sql, sorted(begins), owner, seconds)
        _renew_leases(sql, sorted(renewed), owner, seconds)
        for app in sorted(begins.keys() - renewed - of_others):
            _make_feed(sql, app)
            _set_begin(sql, app, begins[app])
            _take_lease(sql, app, owner, seconds)

        statement = f"SELECT {_FEEDS.columns}, app FROM event_feed WHERE app IN {{}}"
        rows = sql.query_in(statement, (), sorted(begins))
        feeds = {text_of(row[-1]): _FEEDS.read(row) for row in rows}
        return {app: row for app, row in feeds.items() if row.owner == owner}

    @Store.writing_or(None)
    def release(self, sql: Statements, apps: Iterable[str], owner: str) -> None:
        """Give leases back, so that another node can continue at once."""
        statement = f"UPDATE event_feed SET lease_until = {sql.now} WHERE app = %s AND owner = %s"
        sql.execute_many(statement, [(app, owner) for app in sorted(apps)])

    @Store.reading_or({})
    def heads(self, sql: Statements, apps: Sequence[str]) -> dict[str, FeedHead]:
        """Return app → how far its log and its events have grown.

        Apps without a feed are left out.
        """
        entries = sql.query_in(
            "SELECT app, last_id FROM log WHERE part = 0 AND app IN {}", (), apps
        )
        events = sql.query_in(
            "SELECT app, last_id FROM event_feed WHERE app IN {}", (), apps
        )
        with_retries = sql.query_in(_APPS_WITH_RETRIES, (), apps)

        # An app without stored messages has no log.
        last_entries = {text_of(app): last for app, last in entries}
        aside = {text_of(app) for (app,) in with_retries}
        heads = {}
        for name, last_event in events:
            app = text_of(name)
            heads[app] = FeedHead(last_entries.get(app, 0), last_event, app in aside)
        return heads

    @Store.reading_or(None)
    def undelivered(self, sql: Statements, app: str) -> int | None:
        """Return up to where in the log an app's back end has everything.

        None: the app has no receiver. Entries after the position must not be
        deleted yet.
        """
        statement = "SELECT entry_id, noted_id FROM event_feed WHERE app = %s AND lease_until > 0"
        rows = sql.query(statement, (app,))
        if not rows:
            return None
        # Events are made from the entries, and absent users are looked for in
        # them, too.
        ((entry_id, noted_id),) = rows
        return min(int(entry_id), int(noted_id))

    @Store.writing
    def advance(
        self,
        sql: Statements,
        app: str,
        owner: str,
        entry_id: int,
        event_id: int,
        aside: Sequence[RetryRow] = (),
        dead: bool = False,
    ) -> None:
        """Store that the receiver has everything up to these positions.

        The events of ``aside`` are excepted: they are stored, to be tried
        again. ``dead``: they are not tried again. Raises NotOwner.
        """
        statement = (
            "UPDATE event_feed SET entry_id = %s, event_id = %s "
            "WHERE app = %s AND owner = %s"
        )
        if not sql.execute(statement, (entry_id, event_id, app, owner)):
            raise NotOwner(app)
        if aside:
            _put_aside(sql, app, aside, dead)

    def save(
        self, app: str, owner: str, entry_id: int, event_id: int, noted_id: int
    ) -> None:
        """Store all positions, if ``owner`` still has the lease of the feed."""
        statement = (
            "UPDATE event_feed SET entry_id = %s, event_id = %s, noted_id = %s "
            "WHERE app = %s AND owner = %s"
        )
        self._change(statement, (entry_id, event_id, noted_id, app, owner))

    def _change(self, statement: str, values: tuple[int | str, ...]) -> None:
        """Execute one statement in a transaction of its own."""

        def change(sql: Statements) -> int:
            return sql.execute(statement, values)

        self._store.write(change)

    # --- retries --------------------------------------------------------------

    def waiting_users(self, app: str) -> set[str]:
        """Return the users with events that will be tried again."""
        statement = (
            "SELECT DISTINCT member FROM event_retry WHERE app = %s AND dead = 0"
        )
        return {text_of(user) for (user,) in self._store.rows(statement, (app,))}

    def due_retries(
        self, app: str, now: int, latest: int, limit: int
    ) -> list[RetryRow]:
        """Return the first waiting event of each user, if it is due.

        An event that is due after ``latest`` is returned, too, because the
        clock was set back. The times are Unix seconds.
        """
        clauses = (
            f"JOIN ({FIRST_WAITING}) f ON f.n = number "
            "WHERE next_try <= %s OR next_try > %s "
            "ORDER BY number LIMIT %s"
        )
        return RETRIES.find(self._store.rows, clauses, app, now, latest, limit)

    def end_retry(self, row: RetryRow) -> None:
        """Delete an event from the retries: the receiver has taken it."""
        self._change("DELETE FROM event_retry WHERE number = %s", (row.number,))

    def put_off(self, row: RetryRow, now: int, seconds: int) -> bool:
        """Note that an event was refused again, and try it ``seconds`` later.

        After three days it is dead, and is never tried again. Returns whether
        it is dead.
        """
        # 0: the event was not tried yet since an operator has replayed it.
        first_failed = row.first_failed or now
        is_dead = now - first_failed >= TRY_SECONDS
        statement = (
            "UPDATE event_retry SET "
            "attempts = attempts + 1, next_try = %s, first_failed = %s, dead = %s "
            "WHERE number = %s"
        )
        self._change(statement, (now + seconds, first_failed, int(is_dead), row.number))
        return is_dead

    # --- users to be notified -------------------------------------------------

    @Store.writing
    def note(
        self,
        sql: Statements,
        app: str,
        owner: str,
        noted_id: int,
        absences: Sequence[Absence],
    ) -> None:
        """Store absences, and that the log was read up to ``noted_id``.

        Raises NotOwner.
        """
        statement = "UPDATE event_feed SET noted_id = %s WHERE app = %s AND owner = %s"
        if not sql.execute(statement, (noted_id, app, owner)):
            raise NotOwner(app)
        rows = [(app, *_ABSENCES.values(absence)) for absence in absences]
        sql.insert_new("absence", f"app, {_ABSENCES.columns}", rows)

    def limit_absences(self, app: str, latest_ms: int) -> None:
        """Move absences that are due later than ``latest_ms`` to this time."""
        statement = "UPDATE absence SET due = %s WHERE app = %s AND due > %s"
        self._store.execute(statement, (latest_ms, app, latest_ms))

    def due_absences(
        self, app: str, now_ms: int, limit: int
    ) -> tuple[list[Absence], int]:
        """Return absences that are due now, and the next time.

        At most ``limit`` absences are returned. The second value is when
        another one is due (:func:`steady_time`, in ms); 0: there is no other
        one.
        """
        clauses = "WHERE app = %s AND due > 0 ORDER BY due LIMIT %s"
        # One more row is read, to know when the next one is due.
        absences = _ABSENCES.find(self._store.rows, clauses, app, limit + 1)
        due_now = [absence for absence in absences[:limit] if absence.due <= now_ms]
        if len(due_now) == len(absences):
            return due_now, 0
        return due_now, absences[len(due_now)].due

    @Store.writing
    def end_absences(
        self,
        sql: Statements,
        app: str,
        owner: str,
        reported: Sequence[tuple[Absence, NewEvent]],
        over: Sequence[Absence],
    ) -> dict[str, int]:
        """Add events about absences, and delete absences that are over.

        ``reported``: absences with their events. They stay with the time 0:
        until the user is online, the conversation gets no other event.
        ``over``: absences to delete. Returns app → the id of its last event.
        Raises NotOwner.
        """
        is_owner = "SELECT 1 FROM event_feed WHERE app = %s AND owner = %s"
        if not sql.query(is_owner, (app, owner)):
            raise NotOwner(app)

        condition = "WHERE app = %s AND member = %s AND conversation = %s"
        mark = f"UPDATE absence SET due = 0 {condition} AND due > 0"
        new = []
        for absence, event in reported:
            # If the row is missing, the user was online meanwhile.
            if sql.execute(mark, (app, absence.user, absence.conversation)):
                new.append(event)
        sql.execute_many(
            f"DELETE FROM absence {condition}",
            [(app, absence.user, absence.conversation) for absence in over],
        )
        return add_events(sql, new, self.known)

    @Store.writing_or(None)
    def came_online(self, sql: Statements, users: Collection[tuple[str, str]]) -> None:
        """Allow the next ``absent`` event about these users.

        ``users``: (app, user). The method deletes only rows whose event was
        added. Rows that are not due yet stay: when they are due, presence is
        checked, and the user may have left by then.
        """
        # In one order on all nodes, so that two transactions never wait for
        # each other.
        by_app: dict[str, list[str]] = {}
        for app, user in sorted(users):
            by_app.setdefault(app, []).append(user)
        statement = "DELETE FROM absence WHERE app = %s AND due = 0 AND member IN {}"
        for app, online in by_app.items():
            for chunk in chunks(online, _AT_ONCE):
                sql.execute(statement.format(marks_of(len(chunk))), (app, *chunk))


_INSERT_EVENT: Final = "INSERT INTO event (app, id, member, kind, time, body) VALUES (%s, %s, %s, %s, %s, %s)"


def _delete_some(before: int, sql: Statements) -> int:
    """Delete some events of each app that are older than ``before``.

    Returns their number.
    """
    count = 0
    for app, first, last in sql.query(_OLDEST_EVENTS, (before,)):
        upto = min(first + _DELETED_TOGETHER, last)
        count += sql.execute(_DELETE_EVENTS, (text_of(app), upto, before))
    return count


def _renew_leases(
    sql: Statements, apps: Sequence[str], owner: str, seconds: int
) -> None:
    """Renew the leases that the node ``owner`` has, for ``seconds``."""
    for chunk in chunks(apps, _AT_ONCE):
        sql.execute(
            f"UPDATE event_feed SET lease_until = {sql.now} + %s "
            f"WHERE owner = %s AND app IN {marks_of(len(chunk))}",
            (seconds, owner, *chunk),
        )


def _take_lease(sql: Statements, app: str, owner: str, seconds: int) -> None:
    """Give the lease of an app to the node ``owner``, for ``seconds``.

    The statement checks the lease again: another node may have taken the feed
    meanwhile.
    """
    now = sql.now  # an expression: the time of the database
    sql.execute(
        f"UPDATE event_feed SET owner = %s, lease_until = {now} + %s "
        "WHERE app = %s "
        f"AND (lease_until <= {now} OR lease_until > {now} + %s)",
        (owner, seconds, app, seconds),
    )


def add_events(
    sql: Statements, events: Sequence[NewEvent], known: Mapping[str, int]
) -> dict[str, int]:
    """Store events in a transaction. Returns app → the id of its last event.

    ``known``: app → an id that was given already. New ids are greater, even if
    the database has lost some events.
    """
    by_app: dict[str, list[NewEvent]] = {}
    for event in events:
        by_app.setdefault(event.app, []).append(event)
    # In the order of names. Otherwise two transactions could each lock a feed
    # and wait for the other's feed for ever.
    now = int(time())
    return {
        app: _add_events_of_app(sql, app, by_app[app], known.get(app, 0), now)
        for app in sorted(by_app)
    }


def _add_events_of_app(
    sql: Statements, app: str, events: Sequence[NewEvent], known_id: int, now: int
) -> int:
    """Store events of an app in a transaction. Returns the id of the last one.

    ``known_id``: an id that was given already; 0: not known. ``now``: the time
    of the events in Unix seconds.
    """
    _make_feed(sql, app)
    feed = _feed(sql, app, lock=True)
    assert feed is not None
    # The ids follow the last one, even if the database has lost its row.
    before = max(feed.last_id, known_id)
    rows = [
        (app, before + number, _member(event.user), event.kind, now, event.body)
        for number, event in enumerate(events, 1)
    ]
    sql.execute_many(_INSERT_EVENT, rows)
    last_id = before + len(rows)
    sql.execute("UPDATE event_feed SET last_id = %s WHERE app = %s", (last_id, app))
    return last_id


def _member(user: str) -> str:
    """Return a user id, cut to the size of the column.

    Pushes may name ids that are too long for a login.
    """
    return user.encode()[:MAX_USER_BYTES].decode(errors="ignore")


def _feed(sql: Statements, app: str, lock: bool = False) -> FeedRow | None:
    """Return the row of a feed; None: the feed has no row.

    ``lock``: lock it until the end of the transaction.
    """
    condition = "WHERE app = %s"
    if lock:
        condition += sql.for_update
    return _FEEDS.first(sql.query, condition, app)


def _owners_of(
    sql: Statements, apps: Sequence[str], owner: str, seconds: int
) -> tuple[set[str], set[str]]:
    """Read who has the leases of feeds.

    Returns the apps whose lease the node ``owner`` has, or had last; and the
    apps whose lease another node has now. Apps that are in neither set are
    free. ``seconds``: the length of a lease.
    """
    statement = (
        f"SELECT app, owner, lease_until, {sql.now} FROM event_feed WHERE app IN {{}}"
    )
    of_owner: set[str] = set()
    of_others: set[str] = set()
    for name, row_owner, lease_until, now_seconds in sql.query_in(statement, (), apps):
        app = text_of(name)
        if text_of(row_owner) == owner and lease_until > 0:
            of_owner.add(app)
        # A lease that is too long does not count: the clock was set back.
        elif 0 < lease_until - now_seconds <= seconds:
            of_others.add(app)
    return of_owner, of_others


def _make_feed(sql: Statements, app: str) -> None:
    """Make the row of a feed if it is missing.

    Until :func:`_set_begin` the feed has no position in the log: its lease has
    the time 0.
    """
    if _feed(sql, app) is None:
        empty = FeedRow(last_id=0, entry_id=0, event_id=0, noted_id=0, owner="")
        row = (app, *_FEEDS.values(empty), 0)
        sql.insert_new("event_feed", f"app, {_FEEDS.columns}, lease_until", [row])


def _end_feeds(apps: Collection[str], sql: Statements) -> list[tuple[str, int, int]]:
    """End the feeds that nobody has delivered for three days.

    Feeds of ``apps`` are left out. From then on a feed has no position. Returns
    (app, entry, event) of each ended feed with undelivered events: the ids that
    were delivered last.
    """
    # A feed has a lease as long as a node delivers it. A lease of 0 means that
    # it has ended.
    is_old = f"lease_until > 0 AND lease_until <= {sql.now} - {TRY_SECONDS}"
    old_feeds = (
        "SELECT f.app, f.entry_id, f.event_id, coalesce(l.last_id, 0), f.last_id "
        "FROM event_feed f "
        "LEFT JOIN log l ON l.app = f.app AND l.part = 0 "
        f"WHERE {is_old} ORDER BY f.app"
    )
    end = (
        "UPDATE event_feed SET event_id = last_id, owner = '', lease_until = 0 "
        f"WHERE app = %s AND {is_old}"
    )
    undelivered = []
    for name, entry, event, last_entry, last_event in sql.query(old_feeds):
        app = text_of(name)
        has_ended = app not in apps and sql.execute(end, (name,))
        if has_ended and (entry < last_entry or event < last_event):
            undelivered.append((app, entry, event))
    return undelivered


def _set_begin(sql: Statements, app: str, begin: int | None) -> None:
    """Set the position in the log of a feed that has no position yet.

    ``begin`` None means the end of the log. Rows of ``event`` that were stored
    before are still delivered.
    """
    if begin is None:
        rows = sql.query("SELECT last_id FROM log WHERE app = %s AND part = 0", (app,))
        if rows:
            ((begin,),) = rows
        else:
            begin = 0
    # The time 0 of a lease stands for a feed without a position.
    sql.execute(
        f"UPDATE event_feed SET entry_id = %s, noted_id = %s, lease_until = {sql.now} "
        "WHERE app = %s AND lease_until = 0",
        (begin, begin, app),
    )


def _put_aside(sql: Statements, app: str, rows: Sequence[RetryRow], dead: bool) -> None:
    """Store events that are tried again, or (``dead``) are not.

    Events that are stored already stay as they are: they were put aside before,
    but the positions did not advance.
    """
    find = "SELECT event FROM event_retry WHERE app = %s AND event IN {}"
    events = sql.query_in(find, (app,), [row.event for row in rows])
    stored = {text_of(event) for (event,) in events}
    inserts = [
        (app, *_values_aside(row), int(dead)) for row in rows if row.event not in stored
    ]
    columns = f"app, {RETRIES.columns.removeprefix('number, ')}, next_try, dead"
    marks = marks_of(columns.count(",") + 1)
    sql.execute_many(f"INSERT INTO event_retry ({columns}) VALUES {marks}", inserts)
    _delete_oldest_dead(sql, app)


def _values_aside(row: RetryRow) -> tuple[Any, ...]:
    """Return the values of an event that is put aside, and its next attempt."""
    # An event that waits behind a refused one has no time of its own.
    next_try = 0
    if row.attempts:
        next_try = row.first_failed + 1
    # The database sets the number.
    _number, *values = RETRIES.values(row)
    return (*values, next_try)


def _delete_oldest_dead(sql: Statements, app: str) -> None:
    """Delete the oldest dead events of an app beyond :data:`MAX_RETRIES`."""
    ((count,),) = sql.query(
        "SELECT count(*) FROM event_retry WHERE app = %s AND dead = 1", (app,)
    )
    if count <= MAX_RETRIES:
        return
    last = (
        "SELECT number FROM event_retry WHERE app = %s AND dead = 1 "
        "ORDER BY number LIMIT 1 OFFSET %s"
    )
    ((upto,),) = sql.query(last, (app, count - MAX_RETRIES - 1))
    sql.execute(
        "DELETE FROM event_retry WHERE app = %s AND dead = 1 AND number <= %s",
        (app, upto),
    )
