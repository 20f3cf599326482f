"""The rows of notifications in the database. Without a database there are no
notifications.

Each method is one transaction, may switch greenlets, and raises
StorageUnavailable.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from operator import itemgetter
from time import time
from typing import Any, Final

from msgspec import Struct, field, json
from msgspec.structs import replace

from imserver.backends.webhooks.consumer import NotOwner
from imserver.backends.webhooks.event_rows import NewEvent, add_events
from imserver.notifications.contract import (
    LEVELS,
    ConversationWish,
    Delivery,
    Due,
    Level,
    MailDue,
    PushEndpoint,
    Wishes,
)
from imserver.notifications.device_services import DeviceServices
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.runtime import is_long_turn, serve_others
from imserver.plugin.storage import (
    PooledStatements,
    Row,
    RowsOf,
    Statements,
    Store,
    chunks,
    marks_of,
    text_of,
)

LEASE: Final = " notifications"
"""The name of the lease in the table of feeds, in place of an app. No app has
it."""

HOSTS_OF_USER: Final = 8
"""The most push services of a user. The limit is low because hosts that answer
late slow down everybody."""
_AT_ONCE: Final = 200
"""Rows in one statement."""
_USERS_AT_ONCE: Final = 1000
"""Users of one query. No other greenlet runs while its result is read."""
_ENDPOINTS: Final = RowsOf(PushEndpoint, "notify_endpoint", user="member", host="")
_DUES: Final = RowsOf(
    Due, "notify_due", user="member", entry="entry_id", notified="notified_id"
)
_DELIVERIES: Final = RowsOf(
    Delivery, "notify_delivery", user="member", entry="entry_id"
)
_MAILS: Final = RowsOf(
    MailDue,
    "notify_person",
    user="member",
    due="mail_due",
    entry="mailed_id",
    marks="mailed_marks",
)
_WISHES: Final = RowsOf(ConversationWish, "notify_conversation", level=LEVELS)
_ROW: Final = "WHERE app = %s AND member = %s AND conversation = %s"
_AT_ONCE_AGAIN: Final = "CASE WHEN due BETWEEN 1 AND 999999 THEN due + 1 ELSE 1 END"
"""A time in the past by any clock that differs from the old one, so that
:meth:`NotificationRows.decide` sees the change."""

_ENDPOINTS_OF_URL: Final = (
    "SELECT id, member, p256dh, auth FROM notify_endpoint "
    "WHERE app = %s AND digest = %s"
)
_ENDPOINTS_OF_USER: Final = (
    "SELECT id, url FROM notify_endpoint "
    "WHERE app = %s AND member = %s ORDER BY id DESC"
)
"""Selects the endpoints of a user, the newest first."""
_USERS_WITH_ENDPOINT: Final = (
    "SELECT member FROM notify_endpoint WHERE app = %s AND enabled = 1 AND member IN {}"
)
_USERS_WITH_MAIL: Final = (
    "SELECT member FROM notify_person WHERE app = %s AND mail = 1 AND member IN {}"
)
_NEXT_DUES: Final = (
    "SELECT a.app, (SELECT min(d.due) FROM notify_due d "
    "WHERE d.app = a.app AND d.due > 0) "
    "FROM notify_app a"
)
"""Each app in which somebody can be notified, and its first due."""
_COUNT_NOTIFIED: Final = (
    "SELECT member, count(*) FROM notify_due "
    "WHERE app = %s AND notified_id > 0 AND member IN {} "
    "GROUP BY member"
)
_NOTIFIED: Final = (
    "SELECT member, conversation FROM notify_due "
    "WHERE app = %s AND conversation = %s "
    "AND notified_id > 0 AND member IN {}"
)
"""Selects the users among some who were notified of a conversation."""
_LIMIT_DUES: Final = (
    "UPDATE notify_due SET due = %s WHERE app = %s AND due > %s AND notified_id {}"
)
"""The brackets stand for the condition ``= 0`` (users who were not notified) or
``> 0`` (users who were notified)."""
_DECIDE_AGAIN: Final = (
    f"UPDATE notify_due SET entry_id = 0, due = {_AT_ONCE_AGAIN} "
    f"{_ROW} AND notified_id > 0"
)
"""Makes users due who were notified of a conversation. ``entry_id`` is set to
0, so that newer messages do not become due by this."""
_CHANGE_DUE: Final = (
    "UPDATE notify_due SET "
    "due = CASE WHEN due = %s THEN %s ELSE due END, "
    "entry_id = %s, "
    "notified_id = %s, "
    "notified_at = %s "
    f"{_ROW}"
)
"""A due that was changed meanwhile keeps its time. ``due`` is set first,
because MySQL evaluates later columns with the new values."""
_RETRY: Final = (
    "UPDATE notify_delivery SET next_try = %s, attempts = attempts + 1 WHERE id = %s"
)
_NEED_MAIL: Final = (
    "UPDATE notify_person SET "
    "mail_due = CASE WHEN mail_due = 0 OR mail_due > %s THEN %s ELSE mail_due + 1 END "
    "WHERE app = %s AND member = %s AND mail = 1"
)
"""Sets when a mail is due, unless one is due earlier. An earlier time is
changed slightly, too, so that :meth:`NotificationRows.set_mailed` sees that
there is more to mail."""
_SET_MAILED: Final = (
    "UPDATE notify_person SET "
    "mail_due = CASE WHEN mail_due = 0 THEN 0 WHEN mail_due = %s THEN %s ELSE %s END, "
    "mailed = %s, "
    "mailed_id = %s, "
    "mailed_marks = %s "
    "WHERE app = %s AND member = %s"
)
"""Mails that the user has switched off meanwhile (0) stay off."""
_DELETE_ABOUT: Final = (
    "DELETE FROM notify_delivery WHERE app = %s AND entry_id > 0 AND EXISTS "
    "(SELECT 1 FROM message m JOIN log l ON l.number = m.log "
    "WHERE l.app = %s AND m.id = notify_delivery.entry_id "
    "AND m.sender = %s)"
)
"""Deletes the deliveries about stored messages of one sender."""
_web_only: Final = DeviceServices()


class Results(Struct):
    """The results of deliveries, which are stored together."""

    done: list[int] = []
    """The ids of deliveries to delete."""
    gone: list[int] = []
    """The ids of endpoints to delete, with their waiting deliveries."""
    retry: list[tuple[int, int]] = []
    """For each delivery to try again: its id, and the time of the next attempt
    (Unix milliseconds)."""
    events: list[NewEvent] = []
    """The events to add to the feeds of their apps."""
    audiences: Counter[tuple[int, str]] = field(default_factory=Counter)
    """(id of an audience, column ``taken``, ``gone`` or ``refused``) → the
    number to add to this column."""

    def __bool__(self) -> bool:
        """Whether there is anything to store: each other result comes with one of these."""
        return bool(self.done or self.gone or self.retry)


def notified(
    app: str,
    user: str,
    kind: str,
    conversation: int = 0,
    entry: int = 0,
    endpoint: int = 0,
) -> NewEvent:
    """Return the event that a notification or a mail was sent.

    ``kind``: of the notification, or ``mail``. ``conversation`` and ``entry``:
    its message; 0: it is not about a message. ``endpoint``: the endpoint that
    got it; 0: a mail.
    """
    facts = {
        "user": user,
        "kind": kind,
        "conversation": conversation,
        "entry": entry,
        "endpoint": endpoint,
    }
    return NewEvent(app, user, "notified", json.encode(facts))


class NotificationRows(Store.Rows):
    """The rows of notifications in a store.

    ``added`` is called after :meth:`settle` has added events to feeds, with app
    → the id of its last event. ``known``: see
    :attr:`imserver.backends.webhooks.event_rows.EventStore.known`. ``host_of``:
    (app, URL of an endpoint) → the queue of its deliveries.
    """

    def __init__(
        self,
        store: Store,
        host_of: Callable[[str, str], str] = _web_only.host_of,
        added: Callable[[Mapping[str, int]], object] = lambda heads: None,
        known: Mapping[str, int] | None = None,
    ) -> None:
        """Use a store; the defaults are for tools without the other parts."""
        super().__init__(store)
        self._host_of = host_of
        self._added = added
        # The mapping itself is used, even if it is empty, because it grows
        # later.
        if known is None:
            known = {}
        self._known = known

    # --- apps -----------------------------------------------------------------

    def apps(self) -> dict[str, int]:
        """Return each app in which somebody can be notified, with its position.

        The position is the last id of its log that the notifier has read.
        """
        rows = self._store.rows("SELECT app, entry_id FROM notify_app")
        return {text_of(app): position for app, position in rows}

    def next_dues(self) -> dict[str, int | None]:
        """Return each followed app, with when its next decision is due.

        The value is the time of the decision, in Unix milliseconds; None: no
        decision is due in this app.
        """
        return {text_of(app): due for app, due in self._store.rows(_NEXT_DUES)}

    def follow(self, app: str) -> None:
        """Follow an app from the end of its log on.

        To follow an app means that users can be notified of its new messages.
        """
        self._store.write(lambda sql: _follow(sql, app))

    @Store.writing_or(None)
    def advance(
        self,
        sql: PooledStatements,
        app: str,
        position: int,
        dues: Sequence[Due],
        again_ms: int = 0,
        owner: str = "",
        reminders: Collection[int] = (),
    ) -> None:
        """Store how far the log was read, and the dues found there.

        A *due* is a user who may have to be notified of a conversation. A user
        who is already due for the conversation keeps the time of the stored
        row, and its entry unless the new entry is one of ``reminders``. After a
        notification, ``again_ms`` pass before the user can be notified of the
        conversation again. ``owner``: the node that must have the lease;
        ``""``: the lease is not checked. Raises NotOwner.
        """
        check_owner(sql, owner)
        sql.execute(
            "UPDATE notify_app SET entry_id = %s WHERE app = %s AND entry_id < %s",
            (position, app, position),
        )

        stored = _stored_dues(sql, app, dues)
        inserts = []
        updates = []
        for due in dues:
            row = stored.get((due.user, due.conversation))
            if row is None:
                inserts.append(_values_of_new(app, due))
                continue
            # The user is due already, for an earlier entry, which has its time.
            if row.due and due.entry not in reminders:
                continue
            due_at = row.due or _due_after(row, due, again_ms)
            updates.append((due.entry, due_at, app, due.user, due.conversation))
        sql.insert_new("notify_due", f"app, {_DUES.columns}", inserts)
        sql.execute_many(
            f"UPDATE notify_due SET entry_id = %s, due = %s {_ROW}", updates
        )

    # --- endpoints ------------------------------------------------------------

    def add_endpoint(
        self, new: PushEndpoint, most: int, replaces: str = ""
    ) -> PushEndpoint:
        """Store an endpoint, and return it with its id.

        It replaces an endpoint with the same URL. If that one belongs to
        another user of the app, it must have the same keys: the device then has
        a new user. Raises ServiceRefused if the keys differ. The oldest
        endpoints of the user beyond ``most``, and beyond :data:`HOSTS_OF_USER`
        hosts, are removed.

        ``replaces``: the URL of another endpoint of the user, which becomes
        this one; ``""``: no other endpoint. The id and the waiting deliveries
        of that endpoint stay.
        """
        new = replace(new, created=new.created or int(time()))
        endpoint_id = self._store.write(
            lambda sql: self._put_endpoint(sql, new, most, replaces)
        )
        return replace(new, id=endpoint_id, host=self._host_of(new.app, new.url))

    def _put_endpoint(
        self, sql: PooledStatements, new: PushEndpoint, most: int, replaces: str
    ) -> int:
        """Insert or change the row of an endpoint. Returns its id.

        The parameters are as for :meth:`add_endpoint`.
        """
        _follow(sql, new.app)
        rows = _endpoints_of_url(sql, new.app, new.url)
        if replaces and replaces != new.url:
            replaced_ids = _own_endpoints_of_url(sql, new.app, new.user, replaces)
            if replaced_ids and not rows:
                return _update_endpoint(sql, replaced_ids[0], _columns_of(new))
            _remove_endpoints(sql, replaced_ids)

        if rows:
            id, user, _, _ = rows[0]
            if text_of(user) == new.user:
                return _update_endpoint(sql, id, _changeable_columns_of(new))
        _require_keys(rows, new)
        # The row is not updated, because deliveries that wait for the earlier
        # user must not be sent.
        _remove_endpoints(sql, [id for id, _, _, _ in rows])
        new_id = _insert_endpoint(sql, _columns_of(new))
        beyond = self._endpoints_beyond(sql, new.app, new.user, most)
        _remove_endpoints(sql, beyond)
        return new_id

    def _endpoints_beyond(
        self, sql: PooledStatements, app: str, user: str, most: int
    ) -> list[int]:
        """Return the ids of the endpoints of a user that exceed a limit.

        The limits are ``most`` endpoints and :data:`HOSTS_OF_USER` hosts. The
        newest endpoints are kept.
        """
        hosts: set[str] = set()
        beyond: list[int] = []
        rows = sql.query(_ENDPOINTS_OF_USER, (app, user))
        for index, (endpoint_id, url) in enumerate(rows):
            host = self._host_of(app, text_of(url))
            hosts.add(host)
            # A host counts only if an endpoint of it stays.
            if index >= most or len(hosts) > HOSTS_OF_USER:
                hosts.discard(host)
                beyond.append(endpoint_id)
        return beyond

    def endpoints(
        self, app: str, users: Sequence[str]
    ) -> dict[str, list[PushEndpoint]]:
        """Return user → their endpoints, the oldest first.

        Users without endpoints are left out.
        """
        statement = f"{_ENDPOINTS.select} WHERE app = %s AND member IN {{}}"
        rows = self._store.rows_in(statement, (app,), users, many=True)
        endpoints_by_user: dict[str, list[PushEndpoint]] = {}
        for row in sorted(rows, key=itemgetter(0)):
            if is_long_turn():  # a user may have many
                serve_others()
            endpoint = self._read_endpoint(row)
            endpoints_by_user.setdefault(endpoint.user, []).append(endpoint)
        return endpoints_by_user

    def endpoints_of(self, app: str, user: str) -> list[PushEndpoint]:
        """Return the endpoints of a user, the oldest first."""
        return self.endpoints(app, [user]).get(user, [])

    def _read_endpoint(self, row: Row) -> PushEndpoint:
        """Make an endpoint from a row, and add the queue of its deliveries."""
        endpoint = _ENDPOINTS.read(row)
        return replace(endpoint, host=self._host_of(endpoint.app, endpoint.url))

    def endpoints_by_id(self, ids: Sequence[int]) -> dict[int, PushEndpoint]:
        """Return id → the endpoint, for endpoints that exist."""
        statement = f"{_ENDPOINTS.select} WHERE id IN {{}}"
        return {
            row[0]: self._read_endpoint(row)
            for row in self._store.rows_in(statement, (), ids)
        }

    @Store.writing_or(False)
    def set_enabled(
        self, sql: PooledStatements, app: str, user: str, id: int, enabled: bool
    ) -> bool:
        """Switch an endpoint on, or off, which deletes its waiting deliveries.

        Returns False if the user has no such endpoint.
        """
        if not _is_of(sql, app, user, id):
            return False
        sql.execute(
            "UPDATE notify_endpoint SET enabled = %s WHERE id = %s", (int(enabled), id)
        )
        if not enabled:
            sql.execute("DELETE FROM notify_delivery WHERE endpoint = %s", (id,))
        return True

    @Store.writing_or(False)
    def remove_endpoint(
        self, sql: PooledStatements, app: str, user: str, id: int
    ) -> bool:
        """Remove an endpoint with its waiting deliveries.

        Returns False if the user has no such endpoint.
        """
        if not _is_of(sql, app, user, id):
            return False
        _remove_endpoints(sql, [id])
        return True

    @Store.writing_or(None)
    def remove_endpoints(
        self, sql: PooledStatements, app: str, user: str, login: int | None
    ) -> None:
        """Remove the endpoints that one login of a user has added.

        ``login``: the number of the login; None: remove all endpoints of the
        user. Their waiting deliveries are removed, too.
        """
        where = "WHERE app = %s AND member = %s"
        values: tuple[object, ...] = (app, user)
        # Endpoints of other logins of the user stay.
        if login is not None:
            where += " AND login = %s"
            values += (login,)
        statement = f"SELECT id FROM notify_endpoint {where}{sql.for_update}"
        ids = [id for (id,) in sql.query(statement, values)]
        _remove_endpoints(sql, ids)

    def erase_about(self, app: str, user: str) -> None:
        """Delete the waiting notifications about messages of an erased user."""
        self._store.execute(_DELETE_ABOUT, (app, app, user))

    # --- wishes ---------------------------------------------------------------

    def wishes(self, app: str, users: Sequence[str]) -> dict[str, Wishes]:
        """Return user → their wishes, for users who have stored some."""
        statement = (
            "SELECT member, wishes FROM notify_person WHERE app = %s AND member IN {}"
        )
        rows = self._store.rows_in(statement, (app,), users)
        return {
            text_of(user): json.decode(bytes(wishes), type=Wishes)
            for user, wishes in rows
        }

    def wishes_of(self, app: str, user: str) -> Wishes:
        """Return the wishes of a user; the defaults if none are stored."""
        return self.wishes(app, [user]).get(user, Wishes())

    @Store.writing
    def set_wishes(
        self, sql: PooledStatements, app: str, user: str, wishes: Wishes
    ) -> None:
        """Store the wishes of a user.

        If the user wants mail, the app is followed; if not, no mail is due any
        more.
        """
        wants_mail = int(wishes.mail != "never")
        text = json.encode(wishes)
        changes = "wishes = %s, mail = %s"
        if wants_mail:
            _follow(sql, app)
        else:
            changes += ", mail_due = 0"
        columns = "app, member, wishes, mail, mail_due, mailed, mailed_id, mailed_marks"
        row = (app, user, text, wants_mail, 0, 0, 0, 0)
        # Makes the row if the user has none. The update sets the wishes of a
        # row that exists, and keeps its times of mails.
        sql.insert_new("notify_person", columns, [row])
        sql.execute(
            f"UPDATE notify_person SET {changes} WHERE app = %s AND member = %s",
            (text, wants_mail, app, user),
        )

    @Store.reading_or({})
    def all_conversation_wishes(
        self, sql: Statements, app: str, pairs: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], ConversationWish]:
        """Return (user, conversation) → the wish of the user for it.

        Pairs without a stored wish are left out.
        """
        statement = (
            f"SELECT {_WISHES.columns}, member FROM notify_conversation "
            "WHERE app = %s AND conversation = %s AND member IN {}"
        )
        # The first column is the conversation, the last one the user.
        return {
            (text_of(row[-1]), row[0]): _WISHES.read(row)
            for row in _rows_of(sql, statement, app, pairs)
        }

    def conversation_wishes_of(self, app: str, user: str) -> list[ConversationWish]:
        """Return a user's wishes for single conversations, in order."""
        clauses = "WHERE app = %s AND member = %s ORDER BY conversation"
        return _WISHES.find(self._store.rows, clauses, app, user)

    @Store.writing
    def set_conversation_wish(
        self,
        sql: PooledStatements,
        app: str,
        user: str,
        wish: ConversationWish,
        default_level: Level = LEVELS[0],
    ) -> None:
        """Store the wish of a user for a conversation.

        The row is deleted if it says nothing: no mute, and the level that the
        conversation has without a wish (``default_level``).
        """
        if wish.level == default_level and not wish.muted_until:
            sql.execute(
                f"DELETE FROM notify_conversation {_ROW}",
                (app, user, wish.conversation),
            )
        else:
            _WISHES.put(sql, wish, app=app, member=user, conversation=wish.conversation)

    # --- dues -----------------------------------------------------------------

    def reachable(self, app: str, users: Sequence[str]) -> set[str]:
        """Return the users who have an enabled endpoint, or get mail.

        ``users``: the users to look for. Only these can be notified, and need a
        due.
        """
        reachable: set[str] = set()
        for chunk in chunks(list(dict.fromkeys(users)), _USERS_AT_ONCE):
            with_endpoint = self._store.rows_in(_USERS_WITH_ENDPOINT, (app,), chunk)
            reachable.update(text_of(user) for (user,) in with_endpoint)
            # Most users have an endpoint, so the second query has few names.
            others = [user for user in chunk if user not in reachable]
            with_mail = self._store.rows_in(_USERS_WITH_MAIL, (app,), others)
            reachable.update(text_of(user) for (user,) in with_mail)
        return reachable

    def due(self, app: str, now_ms: int, limit: int) -> tuple[list[Due], int | None]:
        """Return at most ``limit`` dues to be decided now, and the next time.

        The second value is when the next due after them is to be decided, in
        Unix milliseconds; None: there are no more dues.
        """
        clauses = "WHERE app = %s AND due > 0 ORDER BY due LIMIT %s"
        # One more row is read, to know when the next one is due.
        rows = _DUES.find(self._store.rows, clauses, app, limit + 1)
        due_now = [row for row in rows[:limit] if row.due <= now_ms]
        if len(rows) == len(due_now):
            return due_now, None
        return due_now, rows[len(due_now)].due

    def count_notified(self, app: str, users: Sequence[str]) -> dict[str, int]:
        """Return user → the number of unread conversations with a notification.

        Users without a notification are left out.
        """
        rows = self._store.rows_in(_COUNT_NOTIFIED, (app,), users)
        return {text_of(user): count for user, count in rows}

    def limit_dues(self, app: str, first_ms: int, again_ms: int) -> None:
        """Let no user be due later than ``first_ms`` (Unix milliseconds).

        Users who were notified of the conversation before may be due until
        ``again_ms``.
        """
        self._store.execute(_LIMIT_DUES.format("= 0"), (first_ms, app, first_ms))
        self._store.execute(_LIMIT_DUES.format("> 0"), (again_ms, app, again_ms))

    def decide_again(self, app: str, pairs: Collection[tuple[str, int]]) -> int:
        """Make users due at once, to close their last notification.

        ``pairs``: (user, conversation). Pairs in which the user was not
        notified do not change. Returns the number of changed pairs.
        """
        rows: list[Row] = self._store.read_or(
            [], lambda sql: _rows_of(sql, _NOTIFIED, app, pairs)
        )
        if not rows:
            return 0
        # In one order on all nodes, so that two transactions never wait for
        # each other.
        keys = sorted((text_of(user), conversation) for user, conversation in rows)
        values = [(app, user, conversation) for user, conversation in keys]
        self._store.write(lambda sql: sql.execute_many(_DECIDE_AGAIN, values))
        return len(keys)

    @Store.writing_or(None)
    def decide(
        self,
        sql: PooledStatements,
        app: str,
        ended: Sequence[Due],
        changed: Sequence[tuple[Due, Due]],
        deliveries: Sequence[Delivery],
        mail: Mapping[str, int],
        owner: str = "",
    ) -> None:
        """Store the decisions about dues that :meth:`due` returned.

        The rows of ``ended`` are deleted. ``changed``: each changed row, as it
        was and as it is now. A row that :meth:`decide_again` has changed
        meanwhile stays due. ``deliveries`` replace older deliveries to the same
        endpoint with the same topic. ``mail``: user → when a mail may be
        needed, unless one is due earlier. ``owner``: the node that must have
        the lease; ``""``: the lease is not checked. Raises NotOwner.
        """
        check_owner(sql, owner)
        # The condition on the time protects rows that were changed since they
        # were read.
        sql.execute_many(
            f"DELETE FROM notify_due {_ROW} AND due = %s",
            [(app, one.user, one.conversation, one.due) for one in ended],
        )
        sql.execute_many(
            _CHANGE_DUE, [_values_of_change(app, old, new) for old, new in changed]
        )
        add_deliveries_in(sql, deliveries)
        sql.execute_many(
            _NEED_MAIL, [(due, due, app, user) for user, due in sorted(mail.items())]
        )

    # --- deliveries -----------------------------------------------------------

    def add_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Add deliveries in a transaction of their own.

        They replace deliveries to the same endpoints with the same topics.
        """
        self._store.write(lambda sql: add_deliveries_in(sql, deliveries))

    def hosts(self, now_ms: int) -> dict[str, int]:
        """Return each host with deliveries, and when to send the first.

        The time is in Unix milliseconds, and not before ``now_ms``.
        """
        rows = self._store.rows(
            "SELECT host, min(next_try) FROM notify_delivery GROUP BY host"
        )
        return {text_of(host): max(next_try, now_ms) for host, next_try in rows}

    def deliveries(self, host: str, now_ms: int, limit: int) -> list[Delivery]:
        """Return at most ``limit`` deliveries to be sent to a host now."""
        clauses = "WHERE host = %s AND next_try <= %s ORDER BY next_try, id LIMIT %s"
        return _DELIVERIES.find(self._store.rows, clauses, host, now_ms, limit)

    def settle(self, results: Results) -> None:
        """Store the results of deliveries in one transaction.

        Events for back ends are stored in it, too, so that each result is
        reported once.
        """

        def store_results(sql: PooledStatements) -> dict[str, int]:
            """Returns app → the id of the last event in its feed."""
            _delete_deliveries(sql, results.done)
            sql.execute_many(_RETRY, [(next_try, id) for id, next_try in results.retry])
            # An endpoint that is gone takes its other waiting deliveries with
            # it.
            _remove_endpoints(sql, sorted(set(results.gone)))
            _count_for_audiences(sql, results.audiences)
            return add_events(sql, results.events, self._known)

        # Without a database there is nothing to store.
        no_events: dict[str, int] = {}
        heads = self._store.write_or(no_events, store_results)
        if heads:
            self._added(heads)

    # --- mail -----------------------------------------------------------------

    def mails_due(
        self, app: str, now_ms: int, limit: int
    ) -> tuple[list[MailDue], int | None]:
        """Return users who may need a mail now, and the next time.

        At most ``limit`` users are returned. The next time is when another user
        may need a mail, in Unix milliseconds; None: no other user does.
        """
        clauses = "WHERE app = %s AND mail_due > 0 ORDER BY mail_due LIMIT %s"
        # One more row is read, to know when the next mail is due.
        rows = _MAILS.find(self._store.rows, clauses, app, limit + 1)
        due_now = [row for row in rows[:limit] if row.due <= now_ms]
        if len(rows) == len(due_now):
            return due_now, None
        return due_now, rows[len(due_now)].due

    def set_mailed(
        self,
        app: str,
        before: MailDue,
        after: MailDue,
        meanwhile_ms: int,
        events: Sequence[NewEvent] = (),
    ) -> None:
        """Replace ``before``, which :meth:`mails_due` returned, by ``after``.

        If the user was notified of more messages meanwhile, the next mail is
        due at ``meanwhile_ms`` instead. ``events`` are added to the feed of the
        app.
        """
        values = (
            before.due,
            after.due,
            meanwhile_ms,
            after.mailed,
            after.entry,
            after.marks,
            app,
            before.user,
        )

        def store_mailed(sql: PooledStatements) -> dict[str, int]:
            """Returns app → the id of the last event in its feed."""
            sql.execute(_SET_MAILED, values)
            return add_events(sql, events, self._known)

        # Without a database there is nothing to store.
        no_events: dict[str, int] = {}
        heads = self._store.write_or(no_events, store_mailed)
        if heads:
            self._added(heads)


def _due_after(row: Due, new: Due, again_ms: int) -> int:
    """Return when to decide about a user who was notified and is due again.

    ``row``: the stored due; ``new``: that of a new entry. ``again_ms`` pass between two notifications of a conversation.
    """
    # Clocks of nodes differ: a last notification in the future counts as sent
    # at the new time.
    notified_at = min(row.notified_at, new.due)
    return max(new.due, notified_at + again_ms)


def _digest(url: str) -> str:
    """Return the key by which an endpoint is found: a URL is too long for it."""
    return sha256(url.encode()).hexdigest()


def check_owner(sql: Statements, owner: str) -> None:
    """Raise NotOwner unless the node ``owner`` has the lease.

    If ``owner`` is ``""``, nothing is checked.
    """
    if owner and not sql.query(
        "SELECT 1 FROM event_feed WHERE app = %s AND owner = %s", (LEASE, owner)
    ):
        raise NotOwner(LEASE)


def _follow(sql: Statements, app: str) -> None:
    """Follow an app from the end of its log on, unless it is followed already.

    Locks the row of the app, so that transactions add endpoints one after the
    other: a client may send the same endpoint twice at once.
    """
    statement = f"SELECT 1 FROM notify_app WHERE app = %s{sql.for_update}"
    if sql.query(statement, (app,)):
        return
    rows = sql.query("SELECT last_id FROM log WHERE app = %s AND part = 0", (app,))
    end = rows[0][0] if rows else 0
    sql.insert_new("notify_app", "app, entry_id", [(app, end)])
    # Locks the new row.
    sql.query(statement, (app,))


def _rows_of(
    sql: Statements, statement: str, app: str, pairs: Collection[tuple[str, int]]
) -> list[Row]:
    """Return the rows that ``statement`` selects for (user, conversation).

    The parameters of ``statement`` are app, conversation and users. One query
    reads the users of one conversation.
    """
    by_conversation: dict[int, dict[str, None]] = {}
    for user, conversation in pairs:
        by_conversation.setdefault(conversation, {})[user] = None

    rows: list[Row] = []
    # In one order on all nodes, so that two transactions never wait for each
    # other.
    for conversation, users in sorted(by_conversation.items()):
        for chunk in chunks(list(users), _USERS_AT_ONCE):
            rows += sql.query_in(statement, (app, conversation), chunk)
    return rows


def _columns_of(endpoint: PushEndpoint) -> dict[str, object]:
    """Return column → value of a new row, without the id."""
    return {
        "app": endpoint.app,
        "member": endpoint.user,
        "digest": _digest(endpoint.url),
        "url": endpoint.url.encode(),
        **_changeable_columns_of(endpoint),
    }


def _changeable_columns_of(endpoint: PushEndpoint) -> dict[str, object]:
    """Return column → value that a known URL takes over."""
    names = ("p256dh", "auth", "device", "language", "login", "created")
    columns = {name: getattr(endpoint, name) for name in names}
    return {**columns, "enabled": int(endpoint.enabled)}


def _endpoints_of_url(sql: PooledStatements, app: str, url: str) -> list[Row]:
    """Lock the endpoint with this URL, and return its id, user and keys.

    The list is empty if there is no such endpoint.
    """
    statement = f"{_ENDPOINTS_OF_URL}{sql.for_update}"
    return list(sql.query(statement, (app, _digest(url))))


def _update_endpoint(
    sql: PooledStatements, id: int, columns: Mapping[str, object]
) -> int:
    """Change columns of an endpoint. Returns its id."""
    changes = ", ".join(f"{name} = %s" for name in columns)
    sql.execute(
        f"UPDATE notify_endpoint SET {changes} WHERE id = %s", (*columns.values(), id)
    )
    return int(id)


def _require_keys(rows: Sequence[Row], new: PushEndpoint) -> None:
    """Raise ServiceRefused if an endpoint of this URL has other keys.

    Only the device itself knows the keys. So nobody can take over the endpoint
    of another user by its URL alone.
    """
    for _, _, p256dh, auth in rows:
        if (text_of(p256dh), text_of(auth)) != (new.p256dh, new.auth):
            raise ServiceRefused(
                "`endpoint`: another user has it, with other `keys`",
                Problems.INVALID_REQUEST,
            )


def _is_of(sql: PooledStatements, app: str, user: str, id: int) -> bool:
    """Lock an endpoint, and tell whether it belongs to this user."""
    statement = (
        "SELECT 1 FROM notify_endpoint WHERE id = %s AND app = %s AND member = %s"
    )
    return bool(sql.query(f"{statement}{sql.for_update}", (id, app, user)))


def _remove_endpoints(sql: Statements, endpoints: Sequence[int]) -> None:
    """Delete the endpoints with these ids, and their waiting deliveries."""
    for chunk in chunks(endpoints, _AT_ONCE):
        sql.execute(
            f"DELETE FROM notify_delivery WHERE endpoint IN {marks_of(len(chunk))}",
            chunk,
        )
        sql.execute(
            f"DELETE FROM notify_endpoint WHERE id IN {marks_of(len(chunk))}", chunk
        )


def add_deliveries_in(sql: PooledStatements, deliveries: Sequence[Delivery]) -> None:
    """Add deliveries in a transaction.

    They replace deliveries to the same endpoints with the same topics.
    """
    keys = sorted({(one.endpoint, one.topic) for one in deliveries if one.topic})
    sql.execute_many(
        "DELETE FROM notify_delivery WHERE endpoint = %s AND topic = %s", keys
    )
    # The database chooses the id, so it is left out here.
    columns = _DELIVERIES.columns.removeprefix("id, ")
    marks = marks_of(len(columns.split(",")))
    sql.execute_many(
        f"INSERT INTO notify_delivery ({columns}) VALUES {marks}",
        [_DELIVERIES.values(one)[1:] for one in deliveries],
    )


def _stored_dues(
    sql: PooledStatements, app: str, dues: Iterable[Due]
) -> dict[tuple[str, int], Due]:
    """Return (user, conversation) → the stored row of a due.

    A row exists for users who are due, or were notified and have not read.
    """
    statement = (
        f"{_DUES.select} WHERE app = %s AND conversation = %s AND member IN {{}}"
    )
    rows = _rows_of(sql, statement, app, [(due.user, due.conversation) for due in dues])
    return {(row.user, row.conversation): row for row in map(_DUES.read, rows)}


def _values_of_change(app: str, old: Due, new: Due) -> tuple[Any, ...]:
    """Return the values of the statement that changes the row of a due."""
    return (
        old.due,
        new.due,
        new.entry,
        new.notified,
        new.notified_at,
        app,
        new.user,
        new.conversation,
    )


def _own_endpoints_of_url(
    sql: PooledStatements, app: str, user: str, url: str
) -> list[int]:
    """Return the ids of the endpoints of a URL that belong to the user."""
    return [
        id
        for id, owner, _, _ in _endpoints_of_url(sql, app, url)
        if text_of(owner) == user
    ]


def _insert_endpoint(sql: PooledStatements, columns: Mapping[str, Any]) -> int:
    """Insert the row of an endpoint. Returns its id."""
    return sql.insert(
        f"INSERT INTO notify_endpoint ({', '.join(columns)}) "
        f"VALUES {marks_of(len(columns))}",
        tuple(columns.values()),
    )


def _delete_deliveries(sql: PooledStatements, ids: Iterable[int]) -> None:
    """Delete deliveries that are done."""
    for chunk in chunks(sorted(set(ids)), _AT_ONCE):
        sql.execute(
            f"DELETE FROM notify_delivery WHERE id IN {marks_of(len(chunk))}",
            chunk,
        )


def _count_for_audiences(
    sql: PooledStatements, counts: Mapping[tuple[int, str], int]
) -> None:
    """Add numbers of results to the columns of audiences.

    ``counts``: (id of the audience, column) → how much is added.
    """
    for (audience, column), number in sorted(counts.items()):
        statement = f"UPDATE notify_audience SET {column} = {column} + %s WHERE id = %s"
        sql.execute(statement, (number, audience))


def _values_of_new(app: str, due: Due) -> tuple[Any, ...]:
    """Return the values of a new row of a due: never notified before."""
    new = Due(due.user, due.conversation, due.entry, due.due)
    return (app, *_DUES.values(new))
