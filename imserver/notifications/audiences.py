"""Audiences: one notification to the devices of many users.

The node that notifies goes through the users page by page. The deliveries to a
page and the position behind it are one transaction, so a node that is killed
leaves nothing to be sent twice. Only a small part of an audience is queued at a
time. So other notifications need not wait for it, and it can be cancelled.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import inf
from operator import attrgetter
from time import monotonic, time
from typing import Final

from msgspec import Struct, json
from msgspec.structs import replace

from imserver.backends.webhooks.consumer import Consumer, DeliveryLease, Failure
from imserver.notifications.contract import (
    AUDIENCE_STATES,
    NO_DATA,
    Audience,
    AudienceState,
    AudienceTarget,
    Delivery,
)
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.pushes import PushNotifications
from imserver.notifications.rows import add_deliveries_in, check_owner
from imserver.plugin.messages import MessageLog
from imserver.plugin.runtime import Service
from imserver.plugin.storage import PooledStatements, RowsOf, Store, marks_of, text_of
from imserver.plugin.wire import Event

MAX_AGE_SECONDS: Final = 7 * 86_400
"""How long an audience that has ended can be looked up."""
_ROWS: Final = RowsOf(Audience, "notify_audience", state=AUDIENCE_STATES)
_FIRST_ENDED: Final = AUDIENCE_STATES.index("done")
"""The states with a lower index are the states of unfinished audiences."""
_ACTIVE_AT_ONCE: Final = 100
"""The most audiences that take turns."""

_DELETE_OLD: Final = (
    "DELETE FROM notify_audience WHERE app = %s AND state >= %s AND ended < %s"
)
_USERS_WITH_ENDPOINTS: Final = (
    "SELECT DISTINCT member FROM notify_endpoint "
    "WHERE app = %s AND member > %s "
    "ORDER BY member LIMIT %s"
)
_ADVANCE: Final = (
    "UPDATE notify_audience SET "
    "last_user = %s, "
    "users = users + %s, "
    "queued = queued + %s, "
    "state = %s "
    "WHERE id = %s AND state = 0 AND last_user = %s AND users = %s"
)
"""Moves the position, unless the audience was changed meanwhile."""
_TARGET: Final = (
    "SELECT target, last_user FROM notify_audience WHERE id = %s AND state < %s"
)
_END: Final = (
    "UPDATE notify_audience SET state = %s, ended = %s, target = %s, last_user = %s "
    "WHERE id = %s AND state < %s"
)
"""Ends an audience, unless it has ended, and removes the names of users."""


class AudienceRows(Store.Rows):
    """The rows of audiences in a store.

    An *audience* is one notification to the devices of many users. Each method
    is one transaction. It may switch greenlets, and raises StorageUnavailable.
    """

    @Store.writing
    def add(self, sql: PooledStatements, new: Audience, most: int) -> Audience | None:
        """Store an audience, and return it with its id.

        If the app has an audience of this name already, that one is returned
        unchanged: a repeated request starts nothing. Returns None if the app
        has ``most`` audiences that have not ended. Audiences that ended long
        ago are deleted.
        """
        by_name = f"{_ROWS.select} WHERE app = %s AND name = %s"
        rows = sql.query(by_name, (new.app, new.name))
        if rows:
            return _ROWS.read(rows[0])

        ended_before = int(time()) - MAX_AGE_SECONDS
        sql.execute(_DELETE_OLD, (new.app, _FIRST_ENDED, ended_before))
        if _count_active(sql, new.app) >= most:
            return None
        # The database chooses the id, so it is left out here.
        columns = _ROWS.columns.removeprefix("id, ")
        sql.insert_new("notify_audience", columns, [_ROWS.values(new)[1:]])
        # Another node may have stored an audience of this name first.
        rows = sql.query(f"{by_name}{sql.for_update}", (new.app, new.name))
        return _ROWS.read(rows[0])

    def active(self, limit: int) -> list[Audience]:
        """Return at most ``limit`` unfinished audiences, ordered by id."""
        # One query for each state, so that the index by state and id gives the
        # order.
        statement = f"{_ROWS.select} WHERE state = %s ORDER BY id LIMIT %s"
        audiences: list[Audience] = []
        for state in range(_FIRST_ENDED):
            rows = self._store.rows(statement, (state, limit))
            audiences += map(_ROWS.read, rows)
        return sorted(audiences, key=attrgetter("id"))[:limit]

    def of(self, app: str, id: int, limit: int) -> list[Audience]:
        """Return the audience of an app with this id, or an empty list.

        With the id 0: the last ``limit`` audiences of the app, the newest
        first.
        """
        rows = self._store.rows
        if id:
            return _ROWS.find(
                rows, "WHERE app = %s AND id = %s LIMIT %s", app, id, limit
            )
        return _ROWS.find(rows, "WHERE app = %s ORDER BY id DESC LIMIT %s", app, limit)

    def waiting(self, audiences: Sequence[int]) -> dict[int, int]:
        """Return audience → the number of its queued deliveries.

        Audiences without queued deliveries are left out.
        """
        if not audiences:
            return {}
        statement = (
            "SELECT audience, count(*) FROM notify_delivery WHERE audience IN "
            f"{marks_of(len(audiences))} GROUP BY audience"
        )
        return dict(self._store.rows(statement, audiences))

    def users_with_endpoints(self, app: str, after: str, limit: int) -> list[str]:
        """Return the next users with devices, after the user ``after``.

        They are in the order of the database, in which names may be sorted in
        their own way. ``after`` ``""``: from the first user on.
        """
        rows = self._store.rows(_USERS_WITH_ENDPOINTS, (app, after, limit))
        return [text_of(user) for (user,) in rows]

    @Store.writing
    def add_page(
        self,
        sql: PooledStatements,
        before: Audience,
        users: Sequence[str],
        deliveries: Sequence[Delivery],
        is_last: bool,
        owner: str,
    ) -> bool:
        """Store the deliveries to the next users, and the position behind them.

        ``before``: the audience as it was read. Returns False, and stores
        nothing, if the audience was changed meanwhile. ``is_last``: there are
        no more users, so the audience becomes ``queued``. ``owner``: the node
        that must have the lease. Raises NotOwner.
        """
        check_owner(sql, owner)
        # After the last page the position is no longer needed. So the name of a
        # user is not stored any longer.
        if users and not is_last:
            last_user = users[-1]
        else:
            last_user = ""

        changed = sql.execute(
            _ADVANCE,
            (
                last_user,
                len(users),
                len(deliveries),
                int(is_last),
                before.id,
                before.last_user,
                before.users,
            ),
        )
        if changed:
            add_deliveries_in(sql, deliveries)
        return bool(changed)

    def finish(self, id: int) -> None:
        """Mark an audience as done: nothing of it waits any more."""
        self._store.write(lambda sql: _end(sql, id, "done"))

    @Store.writing_or(False)
    def cancel(self, sql: PooledStatements, app: str, id: int) -> bool:
        """Cancel an audience, and delete its queued deliveries.

        Returns False if it has ended already, or does not exist.
        """
        exists = sql.query(
            "SELECT 1 FROM notify_audience WHERE id = %s AND app = %s", (id, app)
        )
        if not exists or not _end(sql, id, "cancelled"):
            return False
        sql.execute("DELETE FROM notify_delivery WHERE audience = %s", (id,))
        return True

    def erase_user(self, app: str, user: str) -> None:
        """Remove the name of an erased user from the audiences of an app.

        The name may be in the list of users of an audience, and in its
        position.
        """
        unfinished = "SELECT id FROM notify_audience WHERE app = %s AND state < %s"
        for (id,) in self._store.rows(unfinished, (app, _FIRST_ENDED)):
            self._store.write(partial(_erase_user, id, app, user))


def _count_active(sql: PooledStatements, app: str) -> int:
    """Return how many audiences of an app have not ended."""
    ((active,),) = sql.query(
        "SELECT count(*) FROM notify_audience WHERE app = %s AND state < %s",
        (app, _FIRST_ENDED),
    )
    return int(active)


def _erase_user(id: int, app: str, user: str, sql: PooledStatements) -> None:
    """Remove the name of a user from the unfinished audience with this id.

    The name may be in the list of its receivers, and in its position, which is
    the last user whose deliveries are queued.
    """
    rows = sql.query(f"{_TARGET}{sql.for_update}", (id, _FIRST_ENDED))
    for encoded, position in rows:
        target = json.decode(bytes(encoded), type=AudienceTarget)
        users = target.users  # in alphabetical order

        # If the position is the erased user, it becomes the user before.
        last_user = text_of(position)
        if last_user == user and users:
            last_user = _user_before(users, user)
        elif last_user == user:
            last_user = _user_with_endpoint_before(sql, app, user)

        index = bisect_left(users, user)
        if user in users[index : index + 1]:
            target = replace(target, users=users[:index] + users[index + 1 :])
        sql.execute(
            "UPDATE notify_audience SET target = %s, last_user = %s WHERE id = %s",
            (json.encode(target), last_user, id),
        )


def _user_before(users: Sequence[str], user: str) -> str:
    """Return the last of some sorted users who comes before ``user``.

    ``""`` if no user comes before.
    """
    index = bisect_left(users, user)
    if index:
        return users[index - 1]
    return ""


def _user_with_endpoint_before(sql: PooledStatements, app: str, user: str) -> str:
    """Return the last user with a device before ``user``; ``""``: no such user.

    As a position it means the same: nobody between both users has a device.
    """
    statement = "SELECT max(member) FROM notify_endpoint WHERE app = %s AND member < %s"
    ((name,),) = sql.query(statement, (app, user))
    return text_of(name or "")


def _end(sql: PooledStatements, id: int, state: AudienceState) -> int:
    """Give an audience its last state, and remove the names of users from it.

    Returns the number of changed rows: 0 if the audience has ended already.
    """
    number = AUDIENCE_STATES.index(state)
    ended = int(time())
    no_target = b"{}"
    return sql.execute(_END, (number, ended, no_target, "", id, _FIRST_ENDED))


class AudiencePages(Struct, frozen=True):
    """How an audience is divided into pages, each with some of its users.

    ``users``: the most users of a page. ``waiting``: the next page waits while
    this number of deliveries is queued. ``look_seconds``: how often the node
    checks whether enough was sent.
    """

    users: int = 250
    waiting: int = 1000
    look_seconds: float = 0.2


class Audiences(Service, dict=True):
    """Sends notifications to audiences, on the node with the notifier's lease.

    The unfinished audiences take turns. In each turn the deliveries to the
    users of one page are queued.

    ``node`` returns the name of this node. ``wake`` gets the hosts that have
    new deliveries. ``still_holds`` (app, user, proof) tells whether the key
    with which an audience was started is still valid. If it was revoked, the
    audience is cancelled.
    """

    store: Store
    rows: AudienceRows
    pushes: PushNotifications
    lease: DeliveryLease
    node: Callable[[], str]
    wake: Callable[[Collection[str]], object]
    still_holds: Callable[[str, str, str], bool]
    pages: AudiencePages = AudiencePages()

    def __post_init__(self) -> None:
        """Begin without turns: each audience may have a page at once."""
        self._turns: dict[int, float] = {}
        """Audience → when it had its last turn (monotonic)."""
        self._free_at: dict[str, float] = {}
        """App → when its budget allows the next page (monotonic)."""
        self._active: Counter[str] = Counter()
        """App → the number of its unfinished audiences."""
        self._looks_at = inf
        """When to check again whether enough was sent (monotonic); ``inf``: no
        audience is unfinished."""
        self._has_ended = False
        self.consumer = Consumer(
            "audiences",
            self.lease,
            read=self._next_audience,
            deliver=self._queue_page,
            until_due=self._until_look,
        )

    @property
    def active(self) -> Counter[str]:
        """App → the number of its unfinished audiences, for the metrics.

        It is empty on nodes without the lease, so that each audience counts
        once. Never switches greenlets.
        """
        if self.lease.is_owned:
            return self._active
        return Counter()

    def look(self) -> None:
        """Wake the consumer if an audience is unfinished.

        Switches greenlets. Raises StorageUnavailable.
        """
        if self.lease.is_owned and not self._has_ended and self.rows.active(1):
            self.consumer.wake()

    def stop(self) -> None:
        """Queue nothing more. Switches greenlets."""
        self._has_ended = True
        Consumer.stop_all([self.consumer])

    # --- the consumer's functions ---------------------------------------------

    def _until_look(self) -> float:
        """Return the seconds until the consumer looks for the next page."""
        return max(self._looks_at - monotonic(), 0.0)

    def _next_audience(self) -> Audience | None:
        """Return the audience whose next page is to be queued now.

        None: each audience waits. The method also marks audiences as done whose
        deliveries were all sent, and cancels audiences whose key was revoked.
        Switches greenlets. Raises StorageUnavailable.
        """
        active = self.rows.active(_ACTIVE_AT_ONCE)
        now = monotonic()
        self._note_active(active, now)
        waiting_counts = self.rows.waiting([one.id for one in active])
        # The audience whose last turn was longest ago comes first.
        for audience in sorted(active, key=lambda one: self._turns[one.id]):
            waiting_count = waiting_counts.get(audience.id, 0)
            proof = audience.content.proof
            if proof and not self.still_holds(audience.app, "", proof):
                self.rows.cancel(audience.app, audience.id)
            elif audience.state == "queued":
                if not waiting_count:
                    self.rows.finish(audience.id)
            elif self._may_queue(audience.app, waiting_count, now):
                self._turns[audience.id] = now
                return audience
        return None

    def _may_queue(self, app: str, waiting_count: int, now: float) -> bool:
        """Whether the next page of an audience may be queued.

        ``waiting_count``: the number of its deliveries that are not sent yet.
        """
        is_paid = self._free_at.get(app, 0.0) <= now
        return waiting_count < self.pages.waiting and is_paid

    def _note_active(self, active: Sequence[Audience], now: float) -> None:
        """Note the unfinished audiences, and when to look at them again."""
        self._active = Counter(audience.app for audience in active)
        if active:
            self._looks_at = now + self.pages.look_seconds
        else:
            self._looks_at = inf
        # A new audience has its turn before all others.
        self._turns = {one.id: self._turns.get(one.id, 0.0) for one in active}

    def _queue_page(self, audience: Audience) -> Failure | None:
        """Queue the deliveries to the next users of an audience.

        The method never returns a failure: the next call reads the audience
        again. Switches greenlets. Raises StorageUnavailable and NotOwner.
        """
        app = audience.app
        rules = self.pushes.rules(app)
        if rules is None or not rules.enabled:
            self.rows.cancel(app, audience.id)
            return None

        users = self._users_after(audience)
        deliveries = self._deliveries_to(users, audience, rules)
        is_last = len(users) < self.pages.users
        is_stored = self.rows.add_page(
            audience, users, deliveries, is_last, self.node()
        )
        if is_stored and deliveries:
            self._pay(app, len(deliveries) / rules.audience_per_second)
            self.wake({each.host for each in deliveries})
        return None

    def _pay(self, app: str, seconds: float) -> None:
        """Let the next page of an app wait.

        By the end of the ``seconds``, the budget of the app has paid for the
        deliveries of the page that was queued now.
        """
        begin = max(monotonic(), self._free_at.get(app, 0.0))
        self._free_at[app] = begin + seconds

    def _deliveries_to(
        self, users: Sequence[str], audience: Audience, rules: AppNotifySettings
    ) -> list[Delivery]:
        """Make the deliveries of an audience to some of its users.

        Switches greenlets. Raises StorageUnavailable.
        """
        if not users:
            return []
        content = audience.content
        # With the tag, a repeated delivery replaces the first one on the
        # device.
        tag = content.notify.tag or f"audience {audience.id}"
        notify = replace(content.notify, tag=tag)
        data = bytes(content.data) if content.data != NO_DATA else b""
        event = Event("msg", "", "", data=data)
        pushes = [(user, event, notify) for user in users]
        return self.pushes.deliveries(audience.app, rules, pushes, audience.id)

    def _users_after(self, audience: Audience) -> Sequence[str]:
        """Return the users of the next page of an audience.

        Switches greenlets. Raises StorageUnavailable.
        """
        app = audience.app
        after = audience.last_user
        limit = self.pages.users
        if audience.kind == "users":
            users = audience.target.users
            # The list of users is sorted, and ``""`` comes before all of them.
            begin = bisect_right(users, after)
            return users[begin : begin + limit]
        if audience.kind == "all":
            return self.rows.users_with_endpoints(app, after, limit)
        # The members of a group: new members whose names come later are
        # included.
        members = self.store.part(MessageLog).conversations.members(
            app, audience.target.group, after, limit
        )
        return [each.user for each in members]
