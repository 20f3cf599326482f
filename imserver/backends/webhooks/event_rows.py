"""The durable events of apps, how far their receivers have got, retries, and
users who are to be notified.

Events of stored messages and groups are the entries of the message log
themselves. All others are rows of the table ``event``. The *feed* of an app is
both. Its row says which node delivers it (a lease by the clock of the
database), and up to which positions its receiver has it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from time import time
from typing import Final

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
"""How long an event is tried; afterwards it is dead."""
MAX_WAITING: Final = 10_000
"""Events that wait for their commit; more are refused for the moment."""
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Limit of their bodies."""
MAX_RETRIES: Final = 100_000
"""Rows of retries and dead events of an app. Beyond it the oldest dead events
are deleted."""
_AT_ONCE: Final = 200
"""Rows in one statement."""
_DELETED_TOGETHER: Final = 1000
"""Events of an app that one transaction deletes."""


class NewEvent(Struct, frozen=True):
    """An event to be stored. ``body``: its fields, a JSON object; ``user``:
    whose events stay in order."""

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
    """The row of a feed."""

    last_id: int
    entry_id: int
    event_id: int
    noted_id: int
    owner: str


class FeedHead(Struct, frozen=True):
    """The last ids of the log and the events of a feed. ``has_retries``: events
    were put aside."""

    entries: int
    events: int
    has_retries: bool


class Absence(Struct, frozen=True):
    """A user who was offline when ``entry`` was stored. ``due``: when to notify
    (:func:`steady_time`, ms)."""

    user: str
    conversation: int
    entry: int
    due: int


_EVENTS: Final = RowsOf(StoredEvent, "event", user="member")
_FEEDS: Final = RowsOf(FeedRow, "event_feed")
_ABSENCES: Final = RowsOf(Absence, "absence", user="member", entry="entry_id")


class _Batch(Struct):
    events: list[NewEvent] = []
    size: int = 0
    stored: AsyncResult[dict[str, int]] = field(default_factory=AsyncResult)


_DELIVERED: Final = "CASE WHEN f.lease_until > 0 THEN f.event_id ELSE f.last_id END"
"""The last event of a feed that its receiver has; of one that has ended, the
last of all."""
_OLDEST_EVENTS: Final = (
    f"SELECT e.app, e.id, {_DELIVERED} FROM event_feed f JOIN event e ON e.app = f.app AND e.id = "
    f"(SELECT min(o.id) FROM event o WHERE o.app = f.app) WHERE e.time < %s AND e.id <= {_DELIVERED}"
)
"""The oldest event of each app, if it was delivered and is old enough."""
_DELETE_EVENTS: Final = "DELETE FROM event WHERE app = %s AND id <= %s AND time < %s"
_APPS_WITH_RETRIES: Final = (
    "SELECT f.app FROM event_feed f WHERE EXISTS (SELECT 1 FROM event_retry r "
    "WHERE r.app = f.app AND r.dead = 0) AND f.app IN {}"
)


class EventStore(Store.Rows):
    """The feeds in a store. All methods switch, and raise StorageUnavailable.

    Owner of the events that wait for the next group commit.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._batch = _Batch()
        self._writer: gevent.Greenlet[[], None] | None = None
        self.known: dict[str, int] = {}
        """App → the greatest known id of an event: not given again if the
        database has lost it."""

    # --- events ---------------------------------------------------------------

    def append(self, events: Sequence[NewEvent]) -> dict[str, int]:
        """Store events; returns after the commit: app → the id of its last
        event.

        Events that are appended meanwhile share the next transaction.
        """
        batch = self._batch
        count = len(batch.events) + len(events)
        size = batch.size + sum(len(event.body) for event in events)
        is_full = count > MAX_WAITING or size > MAX_WAITING_BYTES
        # A call with more events than a batch may have gets a batch of its own.
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
        """Greenlet: store the events that wait, until none does."""
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
        """Events behind an id."""
        which = "WHERE app = %s AND id > %s ORDER BY id LIMIT %s"
        return _EVENTS.find(self._store.rows, which, app, after, limit)

    def expire(self, apps: Collection[str]) -> None:
        """Delete events that are older than any attempt. Events that a feed has
        not delivered stay as long as its app has a webhook (is one of
        ``apps``), and three days longer.
        """
        nothing: list[tuple[str, int, int]] = []
        for row in self._store.write_or(nothing, partial(_end_feeds, apps)):
            log.warning(
                "the webhook of %s was removed three days ago: its feed has ended. Nothing after entry %d "
                "and event %d was delivered",
                *row,
            )
        # a day after the last attempt
        before = int(time()) - TRY_SECONDS - _DAY_SECONDS

        def delete_some(sql: Statements) -> int:
            count = 0
            for app, first, last in sql.query(_OLDEST_EVENTS, (before,)):
                upto = min(first + _DELETED_TOGETHER, last)
                count += sql.execute(_DELETE_EVENTS, (text_of(app), upto, before))
            return count

        while self._store.write_or(0, delete_some):
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
        """Take or renew the leases of apps; the feeds that ``owner`` has now.

        ``begins``: app → the position in the log at which a new feed begins
        (None: the end of the log). A feed that has ended (:meth:`expire`)
        begins there, too. Any other one continues at its positions, however old
        its lease is.
        """
        now = sql.now
        statement = (
            f"SELECT app, owner, lease_until, {now} FROM event_feed WHERE app IN {{}}"
        )
        seconds_left: dict[str, int] = {}
        mine: set[str] = set()
        rows = sql.query_in(statement, (), sorted(begins))
        for name, row_owner, lease_until, now_seconds in rows:
            app = text_of(name)
            seconds_left[app] = lease_until - now_seconds
            if text_of(row_owner) == owner and lease_until > 0:
                mine.add(app)

        for chunk in chunks(sorted(mine), _AT_ONCE):
            sql.execute(
                f"UPDATE event_feed SET lease_until = {now} + %s "
                f"WHERE owner = %s AND app IN {marks_of(len(chunk))}",
                (seconds, owner, *chunk),
            )
        # The statement checks the lease again: another node may have taken the
        # feed meanwhile.
        take = (
            f"UPDATE event_feed SET owner = %s, lease_until = {now} + %s WHERE app = %s "
            f"AND (lease_until <= {now} OR lease_until > {now} + %s)"
        )
        for app in sorted(begins.keys() - mine):
            # longer: the clock was set back
            if 0 < seconds_left.get(app, 0) <= seconds:
                continue
            _make_feed(sql, app)
            _begin(sql, app, begins[app])
            sql.execute(take, (owner, seconds, app, seconds))

        statement = f"SELECT {_FEEDS.columns}, app FROM event_feed WHERE app IN {{}}"
        rows = sql.query_in(statement, (), sorted(begins))
        feeds = {text_of(row[-1]): _FEEDS.read(row) for row in rows}
        return {app: row for app, row in feeds.items() if row.owner == owner}

    @Store.writing_or(None)
    def release(self, sql: Statements, apps: Iterable[str], owner: str) -> None:
        """Give leases back, so that another node goes on at once."""
        statement = f"UPDATE event_feed SET lease_until = {sql.now} WHERE app = %s AND owner = %s"
        sql.execute_many(statement, [(app, owner) for app in sorted(apps)])

    @Store.reading_or({})
    def heads(self, sql: Statements, apps: Sequence[str]) -> dict[str, FeedHead]:
        """The contents of each app."""
        entries = sql.query_in(
            "SELECT app, last_id FROM log WHERE part = 0 AND app IN {}", (), apps
        )
        events = sql.query_in(
            "SELECT app, last_id FROM event_feed WHERE app IN {}", (), apps
        )
        with_retries = sql.query_in(_APPS_WITH_RETRIES, (), apps)

        last_entries = {text_of(app): last for app, last in entries}
        aside = {text_of(app) for (app,) in with_retries}
        heads = {}
        for name, last_event in events:
            app = text_of(name)
            heads[app] = FeedHead(last_entries.get(app, 0), last_event, app in aside)
        return heads

    @Store.reading_or(None)
    def undelivered(self, sql: Statements, app: str) -> int | None:
        """The position in the log up to which an app's receiver has everything;
        None: it has no receiver."""
        statement = "SELECT entry_id, noted_id FROM event_feed WHERE app = %s AND lease_until > 0"
        rows = sql.query(statement, (app,))
        if not rows:
            return None
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
        """The receiver has everything up to these positions, but the events
        that are put ``aside``. Raises NotOwner."""
        statement = "UPDATE event_feed SET entry_id = %s, event_id = %s WHERE app = %s AND owner = %s"
        if not sql.execute(statement, (entry_id, event_id, app, owner)):
            raise NotOwner(app)
        if aside:
            _put_aside(sql, app, aside, dead)

    def save(
        self, app: str, owner: str, entry_id: int, event_id: int, noted_id: int
    ) -> None:
        """Store all positions, unless ``owner`` has the feed no longer."""
        statement = "UPDATE event_feed SET entry_id = %s, event_id = %s, noted_id = %s WHERE app = %s AND owner = %s"
        self._change(statement, (entry_id, event_id, noted_id, app, owner))

    def _change(self, statement: str, values: tuple[int | str, ...]) -> None:
        def work(sql: Statements) -> int:
            return sql.execute(statement, values)

        self._store.write(work)

    # --- retries --------------------------------------------------------------

    def waiting_users(self, app: str) -> set[str]:
        """Users with events that are to be tried again."""
        statement = (
            "SELECT DISTINCT member FROM event_retry WHERE app = %s AND dead = 0"
        )
        return {text_of(user) for (user,) in self._store.rows(statement, (app,))}

    def due_retries(
        self, app: str, now: int, latest: int, limit: int
    ) -> list[RetryRow]:
        """The first waiting event of each user, if it is due, or was after
        ``latest``: the clock was set."""
        due = "WHERE next_try <= %s OR next_try > %s ORDER BY number LIMIT %s"
        rest = f"JOIN ({FIRST_WAITING}) f ON f.n = number {due}"
        return RETRIES.find(self._store.rows, rest, app, now, latest, limit)

    def end_retry(self, row: RetryRow) -> None:
        """The receiver has taken it."""
        self._change("DELETE FROM event_retry WHERE number = %s", (row.number,))

    def put_off(self, row: RetryRow, now: int, seconds: int) -> bool:
        """It was refused again: try it ``seconds`` later, or never after three
        days. Whether it is dead."""
        first_failed = row.first_failed or now
        is_dead = now - first_failed >= TRY_SECONDS
        statement = (
            "UPDATE event_retry SET attempts = attempts + 1, next_try = %s, first_failed = %s, dead = %s "
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
        """Store absences, and that the log was looked through up to
        ``noted_id``. Raises NotOwner."""
        statement = "UPDATE event_feed SET noted_id = %s WHERE app = %s AND owner = %s"
        if not sql.execute(statement, (noted_id, app, owner)):
            raise NotOwner(app)
        rows = [(app, *_ABSENCES.values(absence)) for absence in absences]
        sql.insert_new("absence", f"app, {_ABSENCES.columns}", rows)

    def bound_absences(self, app: str, latest_ms: int) -> None:
        """Nobody is notified later than at ``latest_ms``."""
        statement = "UPDATE absence SET due = %s WHERE app = %s AND due > %s"
        self._store.execute(statement, (latest_ms, app, latest_ms))

    def due_absences(
        self, app: str, now_ms: int, limit: int
    ) -> tuple[list[Absence], int]:
        """Absences whose time has come, and when (Unix milliseconds, 0: never)
        the next one's comes."""
        condition = "WHERE app = %s AND due > 0 ORDER BY due LIMIT %s"
        absences = _ABSENCES.find(self._store.rows, condition, app, limit + 1)
        due = [absence for absence in absences[:limit] if absence.due <= now_ms]
        if len(due) == len(absences):
            return due, 0
        next_one = absences[len(due)]
        return due, next_one.due

    @Store.writing
    def end_absences(
        self,
        sql: Statements,
        app: str,
        owner: str,
        reported: Sequence[tuple[Absence, NewEvent]],
        over: Sequence[Absence],
    ) -> dict[str, int]:
        """Add events once until users were online, and forget the absences that
        are ``over``. Raises NotOwner."""
        is_owner = "SELECT 1 FROM event_feed WHERE app = %s AND owner = %s"
        if not sql.query(is_owner, (app, owner)):
            raise NotOwner(app)

        condition = "WHERE app = %s AND member = %s AND conversation = %s"
        mark = f"UPDATE absence SET due = 0 {condition} AND due > 0"
        new = []
        for absence, event in reported:
            # Without the row the user was online meanwhile.
            if sql.execute(mark, (app, absence.user, absence.conversation)):
                new.append(event)
        sql.execute_many(
            f"DELETE FROM absence {condition}",
            [(app, absence.user, absence.conversation) for absence in over],
        )
        return add_events(sql, new, self.known)

    @Store.writing_or(None)
    def came_online(self, sql: Statements, users: Collection[tuple[str, str]]) -> None:
        """Let users, as (app, user), be notified again of conversations whose
        event was added.

        Rows whose time has not come stay: presence is checked then, and the
        user may have left meanwhile.
        """
        by_app: dict[str, list[str]] = {}
        for app, user in sorted(users):
            by_app.setdefault(app, []).append(user)
        statement = "DELETE FROM absence WHERE app = %s AND due = 0 AND member IN {}"
        for app, online in by_app.items():
            for chunk in chunks(online, _AT_ONCE):
                sql.execute(statement.format(marks_of(len(chunk))), (app, *chunk))


_INSERT_EVENT: Final = "INSERT INTO event (app, id, member, kind, time, body) VALUES (%s, %s, %s, %s, %s, %s)"


def add_events(
    sql: Statements, events: Sequence[NewEvent], known: Mapping[str, int]
) -> dict[str, int]:
    """Store events in a transaction, after those that are ``known``; app → the
    id of its last event."""
    by_app: dict[str, list[NewEvent]] = {}
    for event in events:
        by_app.setdefault(event.app, []).append(event)

    now = int(time())
    last_ids = {}
    # In the order of names: otherwise two transactions could lock a feed each,
    # and wait for that of the other for ever.
    for app in sorted(by_app):
        _make_feed(sql, app)
        feed = _feed(sql, app, lock=True)
        assert feed is not None
        before = max(feed.last_id, known.get(app, 0))
        rows = [
            (app, before + number, _member(event.user), event.kind, now, event.body)
            for number, event in enumerate(by_app[app], 1)
        ]
        sql.execute_many(_INSERT_EVENT, rows)
        last_id = before + len(rows)
        sql.execute("UPDATE event_feed SET last_id = %s WHERE app = %s", (last_id, app))
        last_ids[app] = last_id
    return last_ids


def _member(user: str) -> str:
    """A user id, cut to the size of the column: pushes may name ids that are
    too long for a login."""
    return user.encode()[:MAX_USER_BYTES].decode(errors="ignore")


def _feed(sql: Statements, app: str, lock: bool = False) -> FeedRow | None:
    condition = "WHERE app = %s"
    if lock:
        condition += sql.for_update
    return _FEEDS.first(sql.query, condition, app)


def _make_feed(sql: Statements, app: str) -> None:
    """Make the row of a feed if there is none. Until :func:`_begin` it has no
    position in the log."""
    if _feed(sql, app) is None:
        new = (app, *_FEEDS.values(FeedRow(0, 0, 0, 0, "")), 0)
        sql.insert_new("event_feed", f"app, {_FEEDS.columns}, lease_until", [new])


def _end_feeds(apps: Collection[str], sql: Statements) -> list[tuple[str, int, int]]:
    """End the feeds of all other apps that nobody has delivered for three days:
    they have no position from now on. Returns (app, entry, event) of those with
    more to deliver: what was delivered last."""
    is_old = f"lease_until > 0 AND lease_until <= {sql.now} - {TRY_SECONDS}"
    rows = sql.query(
        "SELECT f.app, f.entry_id, f.event_id, coalesce(l.last_id, 0), f.last_id FROM event_feed f "
        f"LEFT JOIN log l ON l.app = f.app AND l.part = 0 WHERE {is_old} ORDER BY f.app"
    )
    end = f"UPDATE event_feed SET event_id = last_id, owner = '', lease_until = 0 WHERE app = %s AND {is_old}"
    undelivered = []
    for name, entry, event, last_entry, last_event in rows:
        app = text_of(name)
        has_ended = app not in apps and sql.execute(end, (name,))
        if has_ended and (entry < last_entry or event < last_event):
            undelivered.append((app, entry, event))
    return undelivered


def _begin(sql: Statements, app: str, begin: int | None) -> None:
    """Give a feed without a position in the log one (None: its end). Earlier
    events stay to be delivered."""
    if begin is None:
        rows = sql.query("SELECT last_id FROM log WHERE app = %s AND part = 0", (app,))
        if rows:
            ((begin,),) = rows
        else:
            begin = 0
    sql.execute(
        f"UPDATE event_feed SET entry_id = %s, noted_id = %s, lease_until = {sql.now} "
        "WHERE app = %s AND lease_until = 0",
        (begin, begin, app),
    )


def _put_aside(sql: Statements, app: str, rows: Sequence[RetryRow], dead: bool) -> None:
    """Store retries. Rows that are there already stay: the positions were not
    advanced the last time."""
    find = "SELECT event FROM event_retry WHERE app = %s AND event IN {}"
    events = sql.query_in(find, (app,), [row.event for row in rows])
    stored = {text_of(event) for (event,) in events}
    new = []
    for row in rows:
        if row.event in stored:
            continue
        # Those that wait behind a refused one have no time of their own.
        next_try = 0
        if row.attempts:
            next_try = row.first_failed + 1
        # The database gives the number.
        _number, *values = RETRIES.values(row)
        new.append((app, *values, next_try, int(dead)))

    columns = f"app, {RETRIES.columns.removeprefix('number, ')}, next_try, dead"
    marks = marks_of(columns.count(",") + 1)
    sql.execute_many(f"INSERT INTO event_retry ({columns}) VALUES {marks}", new)
    _delete_oldest_dead(sql, app)


def _delete_oldest_dead(sql: Statements, app: str) -> None:
    """Delete the oldest dead events of an app beyond :data:`MAX_RETRIES`."""
    ((count,),) = sql.query(
        "SELECT count(*) FROM event_retry WHERE app = %s AND dead = 1", (app,)
    )
    if count <= MAX_RETRIES:
        return
    last = "SELECT number FROM event_retry WHERE app = %s AND dead = 1 ORDER BY number LIMIT 1 OFFSET %s"
    ((upto,),) = sql.query(last, (app, count - MAX_RETRIES - 1))
    sql.execute(
        "DELETE FROM event_retry WHERE app = %s AND dead = 1 AND number <= %s",
        (app, upto),
    )
