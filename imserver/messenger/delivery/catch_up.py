"""Catch-up: a connection begins to follow the log, and receives missed entries
before new ones."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Final

import gevent
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore as Lock
from msgspec import Struct

from imserver.gateway.errors import CloseCode, StorageUnavailable
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Backlog, LogSubscription, Service
from imserver.gateway.storage.store import Store
from imserver.gateway.transport.connection import Connection, app_and_user
from imserver.messenger.delivery.acks import (
    ACK_SECONDS,
    ACK_TRANSITIONS,
    UNREAD,
    AckingLogSubscription,
    AckTracker,
    PongLogSubscription,
)
from imserver.messenger.delivery.action_positions import ActionPositions
from imserver.messenger.delivery.deliverer import Deliverer, LogFollower
from imserver.messenger.delivery.log_subscriptions import (
    LogSubscriptions,
    PendingLogSubscription,
    acks_in,
    groups_at,
)
from imserver.messenger.log.contract import Entry, LogExtent
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.model import Message

log = logging.getLogger(__name__)

PAGE: Final = 200
"""The most missed entries that :meth:`CatchUp.send_missed` sends together."""
RESEND_LIMIT: Final = 200
"""The most entries that are sent again. A client that lacks more entries has to
reconnect with its cursor."""
RECOVERED: Final = 200
"""The most missed entries that follow a login with a cursor. A client that
missed more entries has to sync."""

RESUMED: Final = 1000
"""The most missed entries that a stream delivers after a reconnect. A client
that missed more entries must query them."""

PageAnswer = Callable[[list[Message], bool, bool], bool]
"""A function that answers a sync. Its parameters are a page of missed entries,
whether there are more, and whether the client must begin anew
(:meth:`CatchUp.must_begin_anew`). It returns whether the client now has all
missed entries, so that new entries are delivered from now on. It must not
switch greenlets."""

Resumed = Callable[[bool, bool], None]
"""A function that is called right before the missed entries are sent. Its
parameters are whether all missed entries follow, and whether the client must
begin anew. It must not switch greenlets."""


class _Missed(Struct, frozen=True):
    """The entries that a client has missed, as :meth:`CatchUp.sync` has read
    them."""

    entries: list[Entry]
    more: bool
    """Whether there are more entries after these."""
    anew: bool
    """Whether the client must begin anew: see
    :meth:`CatchUp.must_begin_anew`."""
    received: int
    """The last id that the client has received."""
    is_stored: bool
    """Whether the log reaches the id ``received``. The log of a restored
    database may end before it."""


class CatchUp(Service, dict=True):
    """Lets connections follow the log, and sends them missed entries.

    It sets ``Connection.log_subscription``, which says that a connection
    follows the log of its user. New entries wait in the *backlog* of the
    subscription until the client has all missed entries.
    """

    metrics: Metrics
    store: Store
    log_subscriptions: LogSubscriptions
    ack_tracker: AckTracker
    follower: LogFollower
    deliverer: Deliverer
    positions: ActionPositions

    def __post_init__(self) -> None:
        """Prepare the shared queries. Nothing is read yet."""
        self._log = self.store.part(MessageLog)
        self._extents: dict[str, AsyncResult[LogExtent]] = {}
        """App → the result of a query that has not begun yet. The query reads
        the extent of the app's log. Callers that come meanwhile share the
        result."""
        self._turns: dict[str, Lock] = {}
        """App → the lock under which the extent of its log is queried."""
        self._numbers = count()
        """Gives numbers to the subscriptions of clients without a cursor."""

    # --- log subscriptions ----------------------------------------------------

    def subscribe_from(
        self, connection: Connection, positions: dict[str, int], pinged: bool
    ) -> PongLogSubscription:
        """Let a session without a cursor follow the log, and its rooms.

        A client with a *cursor* knows the last id that it has. For other
        clients, the server stores the position. ``positions`` has room → the
        position up to which the user has the messages of the room; ``""``
        stands for messages outside rooms. If ``pinged``, the client proves with
        pongs to pings which entries have arrived. Otherwise it acknowledges
        without pings.

        May switch greenlets and raise StorageUnavailable, like
        :meth:`subscribe`.
        """
        subscription = PongLogSubscription(
            number=next(self._numbers), positions=positions, pinged=pinged
        )
        # Everything up to the lowest position has arrived.
        position = min(positions.values())
        subscription.acked = position
        subscription.delivered = position
        self.subscribe(connection, subscription)
        return subscription

    def subscribe(
        self, connection: Connection, log_subscription: LogSubscription
    ) -> None:
        """Let a session follow the log. May switch greenlets.

        Nothing is delivered before the client has synced all missed entries
        (:meth:`sync`). Nothing happens if the session ends, or logs in again,
        meanwhile. If the method raises StorageUnavailable, the session does not
        follow the log.
        """
        app = connection.app
        user = connection.user
        state = connection.dialect_state
        log_subscriptions = self.log_subscriptions
        assert app is not None
        assert user is not None

        # The subscription is counted before greenlets switch for the first
        # time, so that the follower does not stop following the app.
        log_subscriptions.add(app)
        try:
            self.follower.follow(app)
            rows = log_subscriptions.read_memberships(
                self._log.conversations.memberships, app, user
            )
        except BaseException:
            self._remove(app)
            raise
        position = self.follower.position(app)

        # The session may have ended during the queries. Greenlets do not switch
        # from here on, so the groups are valid at the position.
        is_same = connection.user == user and connection.dialect_state is state
        if not is_same or not self._may_subscribe(connection):
            self._remove(app)
            return
        # A pending log subscription is replaced, and its backlog is taken over.
        if connection.log_subscription is not None:
            log_subscription.backlog = connection.log_subscription.backlog
            self.forget(connection)

        connection.log_subscription = log_subscription
        if isinstance(log_subscription, AckingLogSubscription):
            log_subscriptions.acking += 1
        for conversation, bot in groups_at(rows, position):
            log_subscriptions.followers.enter(app, connection, conversation, bot)

    def put_off(self, connection: Connection, pending: PendingLogSubscription) -> None:
        """Let a session wait while the log is unavailable.

        The session receives nothing before it syncs.
        """
        app = connection.app
        if (
            app is not None
            and connection.log_subscription is None
            and self._may_subscribe(connection)
        ):
            self.log_subscriptions.add(app)
            connection.log_subscription = pending

    def _may_subscribe(self, connection: Connection) -> bool:
        """Tell whether a session may get a log subscription.

        The session must be addressed, which means that pushes to its user reach
        it. It must not have a log subscription yet, except a pending one.
        """
        log_subscription = connection.log_subscription
        is_free = log_subscription is None or isinstance(
            log_subscription, PendingLogSubscription
        )
        return connection.is_addressed and is_free

    def forget(self, connection: Connection, _code: int = 0) -> None:
        """End the log subscription of a connection.

        The connection has ended, or no longer follows the log. Never switches
        greenlets.
        """
        log_subscription = connection.log_subscription
        app = connection.app
        if log_subscription is None or app is None:
            return
        self.log_subscriptions.followers.leave_all(app, connection)
        self.log_subscriptions.has_caught_up(app, connection)
        # The subscription is removed only now, because `leave_all` needs it.
        connection.log_subscription = None
        if isinstance(log_subscription, AckingLogSubscription):
            self.log_subscriptions.acking -= 1
        self._remove(app)

    def _remove(self, app: str) -> None:
        """Note that one connection fewer follows the log of an app."""
        if self.log_subscriptions.remove(app):
            self.follower.forget_unwanted(app)

    # --- missed entries -------------------------------------------------------

    def sync(
        self,
        connection: Connection,
        after: int,
        limit: int,
        answer: PageAnswer,
        yields: bool = False,
        checks: bool = False,
    ) -> None:
        """Answer with a page of entries that a connection has missed.

        These are the entries after the id ``after``, at most ``limit``. From
        now on new entries wait in the backlog of the connection, until the
        client has got the last page. ``answer`` is called when no delivery is
        under way. If the session has ended, it gets an empty page.

        If ``yields``, ``answer`` is not called if another sync has begun
        meanwhile. If ``checks``, ``answer`` gets the result of
        :meth:`must_begin_anew`, otherwise False. Switches greenlets. Raises
        StorageUnavailable.
        """
        app = connection.app
        log_subscription = connection.log_subscription
        if app is None or connection.user is None or log_subscription is None:
            answer([], False, False)  # the log subscription has ended
            return

        was_live = log_subscription.live
        # This sync makes a list of its own. If the backlog is another list
        # after the queries, another sync has begun. New entries wait in a list,
        # but not in a tuple.
        backlog = list(log_subscription.backlog or ())
        log_subscription.backlog = backlog
        try:
            missed = self._read_missed(
                connection, log_subscription, after, limit, checks
            )
        except BaseException:
            # Otherwise a later sync owns the backlog, or the log subscription
            # is live again.
            if log_subscription.backlog is backlog:
                if was_live:
                    self.release(connection)
                else:
                    log_subscription.backlog = acks_in(backlog)
            raise

        # Another sync may have begun, or the session may have ended, during the
        # queries.
        if yields and log_subscription.backlog is not backlog:
            return
        if connection.log_subscription is not log_subscription:
            answer([], False, False)
            return

        entries = missed.entries
        if not missed.more:
            entries = self._before_results(connection, entries)
        if not answer(entries, missed.more, missed.anew):
            # Messages in the backlog are also on the next pages, so they are
            # dropped. Acknowledgements wait for the last page.
            log_subscription.backlog = acks_in(log_subscription.backlog or ())
            return

        # This was the last page: the client has everything up to here.
        covered = entries[-1].id if entries else after
        # The client may be ahead of this node: it has entries from another
        # node, or from this page, that this node has not delivered to others
        # yet.
        if missed.is_stored:
            client_position = max(covered, missed.received)
        else:
            client_position = 0
        if client_position > self.follower.position(app):
            self.log_subscriptions.is_ahead(app, connection, client_position)
        self._go_live(connection, log_subscription, covered)

    def _read_missed(
        self,
        connection: Connection,
        log_subscription: LogSubscription,
        after: int,
        limit: int,
        checks: bool,
    ) -> _Missed:
        """Read a page of missed entries for :meth:`sync`. Switches greenlets.

        Raises StorageUnavailable.
        """
        app, user = app_and_user(connection)
        rooms: Mapping[str, int] | None = None
        if isinstance(log_subscription, PongLogSubscription):
            rooms = log_subscription.positions

        received = after
        if rooms:
            received = max(after, *rooms.values())
        # After the database was restored, a client may have entries that the
        # database lacks.
        is_stored = (
            self.follower.position(app) >= received
            or self._log.entries.head(app) >= received
        )
        if checks and not is_stored:
            return _Missed(
                [], more=False, anew=True, received=received, is_stored=False
            )
        entries, more = self.page(app, user, after, limit, rooms)
        # The extent is read after the page, because entries of the page may
        # expire meanwhile.
        anew = checks and self.must_begin_anew(connection, after)
        return _Missed(entries, more, anew, received, is_stored)

    def _before_results(
        self, connection: Connection, entries: list[Entry]
    ) -> list[Entry]:
        """Cut a last page before the first entry of this user that is not
        delivered.

        Without the cut, an entry of the user could overtake the result of its
        draft. This node delivers the entries after the cut later, and the
        result in its place. If no draft of this connection waits for a result,
        all entries are returned.
        """
        app, user = app_and_user(connection)
        if not (
            self._log.writer.stores_for(app, connection)
            or self.deliverer.owes(app, connection)
        ):
            return entries
        # Entries up to the position were delivered here already.
        position = self.follower.position(app)
        for index, entry in enumerate(entries):
            if entry.id > position and entry.sender == user:
                return entries[:index]
        return entries

    def send_missed(
        self,
        connection: Connection,
        after: int,
        wait: Callable[[Connection], object] = Connection.wait_until_sent,
    ) -> None:
        """Send a connection the entries that it missed after an id, then new
        entries.

        Missed entries are sent page by page. Between two pages, ``wait`` is
        called, which waits for the client. The method returns early if the log
        subscription ends. Switches greenlets; raises StorageUnavailable.
        """
        log_subscription = connection.log_subscription
        position = after
        has_more = log_subscription is not None

        def send_page(messages: list[Message], more: bool, _anew: bool) -> bool:
            """Send a page. Returns whether it was the last page."""
            nonlocal position, has_more
            self.deliverer.send(connection, messages)
            # A page without messages ends the loop, which would otherwise read
            # the page again and again.
            has_more = more and bool(messages)
            if messages:
                position = messages[-1].id
            return not has_more

        while has_more and connection.log_subscription is log_subscription:
            self.sync(connection, position, PAGE, send_page)
            if has_more:
                wait(connection)

    def release(self, connection: Connection) -> None:
        """Send the backlog of a connection, and deliver new entries from now
        on."""
        log_subscription = connection.log_subscription
        if log_subscription is not None and not log_subscription.live:
            self._go_live(connection, log_subscription, covered=0)

    def _go_live(
        self, connection: Connection, log_subscription: LogSubscription, covered: int
    ) -> None:
        """Send the backlog of a connection. From then on it gets new entries at
        once.

        A backlog has acknowledgements and entries. Entries up to the id
        ``covered`` are left out, because the client has them. After the
        backlog, the client gets the texts so far of streamed messages.
        """
        backlog = log_subscription.backlog or ()
        log_subscription.backlog = None

        # An acknowledgement keeps its place: the entries before it are sent
        # first.
        messages: list[Message] = []
        for each in backlog:
            if not isinstance(each, Message):
                self.deliverer.send(connection, messages)
                messages = []
                each()
            elif each.id > covered:
                messages.append(each)
        self.deliverer.send(connection, messages)
        self.deliverer.send_streams(connection)

    def page(
        self,
        app: str,
        user: str,
        after: int,
        limit: int,
        rooms: Mapping[str, int] | None = None,
    ) -> tuple[list[Entry], bool]:
        """Return the entries after an id that a user may read, in order.

        Returns at most ``limit`` entries, and fewer if their size exceeds a
        page. The second value says whether there are more. ``rooms`` has room →
        the id after which the messages of this room are returned, too. Switches
        greenlets. Raises StorageUnavailable.
        """
        return self._log.entries.catch_up(app, user, after, limit, rooms or {"": after})

    # --- logins with a cursor -------------------------------------------------

    def collect(self, connection: Connection) -> None:
        """Let a session that has just begun follow the log.

        New entries wait until the session has synced. May switch greenlets.
        Raises StorageUnavailable.
        """
        self.subscribe(connection, LogSubscription(backlog=[]))

    def resume(
        self,
        connection: Connection,
        cursor: int,
        acks: bool,
        resumed: Resumed,
        collects: bool = False,
    ) -> None:
        """Let a session that has just begun follow the log from its cursor on.

        ``acks``: whether the client acknowledges entries. If ``collects``, new
        entries wait in the backlog until the client has synced. Otherwise the
        client syncs up to the end of the log.

        ``resumed`` is called once. If its first argument is True, the missed
        entries follow at once, then new entries. Otherwise nothing is delivered
        before the client has synced. May switch greenlets. If the method raises
        StorageUnavailable, ``resumed`` was not called.
        """
        # A list collects new entries. In a tuple, only acknowledgements wait.
        backlog: Backlog = ()
        if collects:
            backlog = []
        log_subscription = LogSubscription(backlog)
        if acks:
            log_subscription = AckingLogSubscription(backlog)
        self.subscribe(connection, log_subscription)
        # The session has ended meanwhile, or may not follow the log.
        if connection.log_subscription is not log_subscription:
            resumed(False, False)
            return
        if isinstance(log_subscription, AckingLogSubscription):
            log_subscription.acked = cursor
            log_subscription.delivered = cursor

        def recover(messages: list[Message], more: bool, anew: bool) -> bool:
            """Send the missed entries if there are no more than the limit.
            Returns whether they were sent."""
            is_recovered = (
                not (more or anew) and connection.log_subscription is log_subscription
            )
            resumed(is_recovered, anew)
            if is_recovered:
                self.deliverer.send(connection, messages)
            return is_recovered

        self.sync(connection, cursor, RECOVERED, recover, checks=True)

    def follow(self, connection: Connection) -> None:
        """Let a session that has just begun follow the log from now on.

        Entries wait in its backlog until :meth:`release`. May switch greenlets.
        Raises StorageUnavailable. If the last access to the database has
        failed, it raises this at once, without a query.
        """
        if not self.answers():
            raise StorageUnavailable("the database does not answer")
        self.subscribe(connection, LogSubscription(backlog=[]))

    def answers(self) -> bool:
        """Tell whether the last access to the database succeeded.

        Never switches greenlets.
        """
        return self.store.answers()

    def must_begin_anew(self, connection: Connection, cursor: int) -> bool:
        """Tell whether the client must fetch everything again.

        The client must do so if entries after its cursor have expired, if the
        cursor is not of this log, or if the entry at the cursor is lost. A
        cursor of 0 means the begin of the log. Switches greenlets; raises
        StorageUnavailable.
        """
        app = connection.app
        assert app is not None
        return cursor != 0 and not self._extent(app).continues(cursor)

    def _extent(self, app: str) -> LogExtent:
        """Return the current extent of the log of an app.

        Callers that come at the same time share a query. But a caller never
        gets the result of a query that began before its call. Switches
        greenlets. Raises StorageUnavailable.
        """
        shared = self._extents.get(app)
        if shared is not None:
            extent = shared.get()
            assert extent is not None
            return extent

        shared = AsyncResult()
        self._extents[app] = shared
        try:
            # While a query runs, later callers gather and share the next query.
            with self._turns.setdefault(app, Lock()):
                # Later callers need a newer result.
                del self._extents[app]
                extent = self._log.entries.extent(app)
        except BaseException as error:
            if self._extents.get(app) is shared:
                del self._extents[app]
            if isinstance(error, Exception):
                shared.set_exception(error)
            else:
                # An exception that ends this greenlet must not end other
                # greenlets that share its query.
                shared.set_exception(StorageUnavailable("the log was not read"))
            raise
        shared.set(extent)
        return extent

    # --- acknowledgements -----------------------------------------------------

    def ponged(self, connection: Connection, data: bytes) -> None:
        """Process the answer of a client to a ping. Never switches greenlets.

        The ping named an entry that was sent before the ping. So this entry has
        arrived.
        """
        log_subscription = connection.log_subscription
        if isinstance(log_subscription, PongLogSubscription):
            self.prove(connection, log_subscription.proof(data))

    def prove(self, connection: Connection, id: int) -> None:
        """Note that everything up to an id has arrived at a client without a
        cursor.

        Never switches greenlets.
        """
        log_subscription = connection.log_subscription
        if not isinstance(log_subscription, PongLogSubscription):
            return
        if id <= log_subscription.acked:
            return
        log_subscription.acked = id
        app, user = app_and_user(connection)
        # Positions are noted only for rooms that the connection has not left.
        # "" stands for everything outside rooms.
        present = {"", *[room.name for room in connection.channels]}
        rooms = [room for room in log_subscription.positions if room in present]
        self.positions.prove(app, user, rooms, id)

    def check_acks(self) -> None:
        """Start a greenlet if entries have to be sent again.

        Called each second. Never switches greenlets.
        """
        late = self.ack_tracker.turn()
        if late:
            gevent.spawn(self._resend_to, late)

    def _resend_to(self, connections: list[Connection]) -> None:
        """Send these connections their unacknowledged entries again.

        Runs in a greenlet of its own. Connections that lack too many entries
        are closed. If the log is not available, the clients get more time to
        acknowledge.
        """
        for connection in connections:
            log_subscription = connection.log_subscription
            if not connection.is_open:
                continue
            # The session may have ended while other sessions got their entries.
            if not isinstance(log_subscription, AckingLogSubscription):
                continue
            if not self._resend_late(connection, log_subscription):
                connection.close(CloseCode.ACK_TIMEOUT)

    def _resend_late(
        self, connection: Connection, log_subscription: AckingLogSubscription
    ) -> bool:
        """Send a connection its unacknowledged entries again.

        Returns False if the connection must be closed: it lacks too many
        entries, or an error has happened. Switches greenlets.
        """
        try:
            return self.resend(connection, log_subscription.acked, RESEND_LIMIT)
        except StorageUnavailable:
            # The log could not be read, so this attempt does not count against
            # the client.
            log_subscription.state = ACK_TRANSITIONS[log_subscription.state][UNREAD]
            if not log_subscription.due:
                self.ack_tracker.wait(connection, log_subscription, ACK_SECONDS)
            return True
        except Exception:
            log.exception(
                "entries could not be sent again",
                extra={"connection": connection.peer},
            )
            return False

    def resend(self, connection: Connection, after: int, limit: int) -> bool:
        """Send a live connection the entries after an id again.

        Returns False, and sends nothing, if there are more than ``limit``.
        Nothing is sent if the client begins a sync meanwhile. Switches
        greenlets; raises StorageUnavailable.
        """
        log_subscription = connection.log_subscription
        if log_subscription is None or not log_subscription.live:
            return True  # the client syncs
        fits = True

        def send_again(messages: list[Message], more: bool, _anew: bool) -> bool:
            """Send the entries again if there are no more than ``limit``.
            Returns whether they were sent."""
            nonlocal fits
            fits = not more
            if fits:
                self.metrics.resent_entries += 1
                self.deliverer.send(connection, messages)
            # If they do not fit, new entries stay in the backlog, because some
            # may be on later pages.
            return fits

        self.sync(connection, after, limit, send_again, yields=True)
        return fits


# --- event streams ------------------------------------------------------------


class StreamStart(Struct, frozen=True):
    """The start of an event stream."""

    cursor: int | None
    """The id after which the stream delivers stored messages. None means that
    it delivers no stored messages."""
    resumed: bool
    """Whether the stream delivers all entries after the cursor of the
    client."""
    first: Sequence[Entry] = ()
    """The first missed entries."""


class StreamStarts(Service):
    """Begins event streams at a cursor, or at the end of the log.

    An *event stream* is an HTTP response by which a client receives its events.
    """

    catch_up: CatchUp

    def start(self, app: str, user: str, cursor: int | None) -> StreamStart:
        """Return the position at which an event stream begins.

        If all entries after the cursor of the client can still be delivered,
        the stream begins at the cursor. Otherwise it begins at the end of the
        log: if the client has no cursor, if it missed too many entries, or if
        some of them have expired. The position is read before the stream
        begins, so that ``ready`` is its first event. Switches greenlets.

        Raises StorageUnavailable if the client sent a cursor. Other clients are
        served without stored messages.
        """
        try:
            return self._read_start(app, user, cursor)
        except StorageUnavailable:
            if cursor is not None:
                raise
            log.warning(
                "a stream of %s begins without stored messages: the database does not answer",
                app,
            )
            return StreamStart(None, resumed=False)

    def _read_start(self, app: str, user: str, cursor: int | None) -> StreamStart:
        """Read the position at which an event stream begins: see :meth:`start`.

        Switches greenlets. Raises StorageUnavailable.
        """
        entries = self.catch_up.store.part(MessageLog).entries
        extent = entries.extent(app)
        at_end = StreamStart(extent.head, resumed=False)
        if cursor is None or not extent.continues(cursor):
            return at_end
        first, more = self.catch_up.page(app, user, cursor, PAGE)
        # Counting takes longer than reading the page, so the entries are
        # counted only if there are more.
        if more:
            missed = entries.count_missed(app, user, cursor, RESUMED + 1)
            if missed > RESUMED:
                return at_end
        # Entries may expire while the page is read, so the extent is read
        # again.
        if not entries.extent(app).continues(cursor):
            return at_end
        return StreamStart(cursor, resumed=True, first=first)

    def send(self, stream: Connection, start: StreamStart) -> None:
        """Deliver stored messages from ``start`` on.

        The method may be called again with another start. May switch greenlets.
        Closes the stream if the database does not answer.
        """
        cursor = start.cursor
        first = start.first
        if cursor is None:
            return
        position = cursor
        if first:
            self.catch_up.deliverer.send(stream, first)
            position = first[-1].id
        try:
            # New entries wait in the backlog while the missed entries are sent.
            self.catch_up.subscribe(stream, LogSubscription())
            if first:
                stream.wait_until_sent()
            self.catch_up.send_missed(stream, position)
        except StorageUnavailable:
            # The client reconnects with the last id that it has.
            stream.close(CloseCode.INTERNAL_ERROR)
