"""Sessions of a node in a cluster: the registry decides which of a user's
sessions are addressed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import gevent
from gevent.pool import Group
from msgspec import Struct, field

from imserver.gateway.auth.login import Logins
from imserver.gateway.cluster.nodes import (
    NodeMessages,
    NodeQueries,
    Notice,
    OtherNodes,
    Replaced,
    encode,
    read,
)
from imserver.gateway.cluster.registry import (
    Lease,
    Session,
    SessionRef,
    SessionRegistration,
)
from imserver.gateway.cluster.rpc.counters import PeerBusy, PeerUnavailable
from imserver.gateway.errors import CloseCode, ReplyCode
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import App, Hub
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Event, Login, Service
from imserver.gateway.sessions.sessions import (
    ALIVE_SECONDS,
    ENTER_TEXT,
    EXIT_TEXT,
    SessionRefused,
    Sessions,
)
from imserver.gateway.storage.store import Store
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.states import CLOSING

if TYPE_CHECKING:
    from imserver.gateway.cluster.redis.registry import RedisRegistry


log = logging.getLogger(__name__)

WORKERS = 64
"""Number of logouts that are reported at the same time. Simultaneous reports
share the pipelines of the registry."""
_FLUSH_LOOK_SECONDS: Final = 0.01
"""Seconds between two checks whether all logouts are reported."""
_ANSWER_SECONDS: Final = ALIVE_SECONDS + 1.0
"""How long another node may ping a session and send its answer."""


class AliveQuery(Struct, frozen=True, array_like=True):
    """A query to a node that asks whether a session of a user answers a
    ping."""

    app: str
    user: str
    session_id: int


class Departures(Service):
    """Reports logouts to the registry, so that no push goes to users who have
    left.

    ``_on_exit`` is called with a session if the user went offline when the
    session ended. Owner of the greenlets that report, at most :data:`WORKERS`.
    """

    _registry: RedisRegistry
    _on_exit: Callable[[Session], None]
    _waiting: deque[tuple[Session, bool]] = field(default_factory=deque)
    """Logouts that are not reported yet, as the arguments of :meth:`add`."""
    _workers: Group = field(default_factory=Group)
    _unused: int = WORKERS
    """Number of workers that may be started."""

    def stop(self) -> None:
        """End the greenlets. Waiting and later logouts are not reported."""
        self._workers.kill()
        self._unused = 0

    def add(self, session: Session, last_here: bool) -> None:
        """Report the end of a session. Never switches greenlets.

        ``last_here`` means that it was the user's last session on this node.
        Then the user counts as offline even if the registry does not answer the
        report.
        """
        self._waiting.append((session, last_here))
        if self._unused:
            self._unused -= 1
            self._workers.spawn(self._run)

    def flush(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until all logouts are reported. Returns
        whether all are reported."""
        deadline = monotonic() + seconds
        while self._workers and monotonic() < deadline:
            gevent.sleep(_FLUSH_LOOK_SECONDS)
        return not self._workers

    def _run(self) -> None:
        """Greenlet: report one logout after the other, until all logouts are
        reported."""
        while self._waiting:
            session, last_here = self._waiting.popleft()
            try:
                is_offline = self._registry.unregister(session)
                # None means that the registry did not answer. Then this node
                # decides by itself.
                if is_offline or (is_offline is None and last_here):
                    self._on_exit(session)
            except Exception:
                log.exception(
                    "the logout of %s in %s was not reported", session.user, session.app
                )
        self._unused += 1


class UsersElsewhere(Service):
    """Counts the users of other nodes, for each app.

    Notices of other nodes change the counts at once, and the leases of these
    nodes confirm the counts later. ``lease_lag`` is the number of seconds until
    all nodes have read a lease with the current users. Owner of
    ``App.elsewhere``, the count, and ``App.lag``, the seconds for which the
    leases may be behind.
    """

    _hub: Hub
    _fanout: Fanout
    _node_messages: NodeMessages
    _lease_lag: int

    def noticed(self, notice: Notice) -> None:
        """Apply a notice: a user has entered or left on another node.

        Never switches greenlets.
        """
        app = self._hub.apps.get(notice.app)
        if app is None:
            return
        if notice.event.kind == "enter":
            app.elsewhere += 1
        else:
            app.elsewhere = max(app.elsewhere - 1, 0)
        # For this time the leases may not yet have the users of the notices.
        app.lag = self._lease_lag
        self._fanout.notice(app, notice.event)

    def count(self) -> None:
        """Read from the leases how many users the apps have on other nodes.

        Called once a second.
        """
        peers = self._node_messages.peers()
        for app in self._hub.apps.values():
            counted = sum(lease.counts.get(app.name, 0) for lease in peers)
            if app.lag:
                # Not all leases have the users of the last notices yet.
                app.elsewhere = max(counted, app.elsewhere)
            else:
                app.elsewhere = counted
            app.lag = max(app.lag - 1, 0)


class ClusterSessions(Sessions):
    """The sessions of a node in a cluster, where the registry knows all
    sessions.

    This class does the work of
    :class:`imserver.gateway.sessions.sessions.Sessions`, and reports each
    session to the registry. While the registry does not answer, this node
    decides about logins by itself, or refuses them with 1004 if
    ``require_registry`` is set. When the registry answers again, the node
    registers the sessions that began meanwhile.

    Owner of the departures and of the logins that wait for the registry.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        logins: Logins,
        store: Store,
        others: OtherNodes,
        require_registry: bool,
        on_login: Callable[[str, str], None],
    ) -> None:
        """Start with no session. ``on_login(app, user)`` is called after each
        login to a session that pushes can reach."""
        super().__init__(hub, fanout, metrics, logins, store, others)
        self._registry = others.registry
        self._node_messages = others.node_messages
        self._rpc = others.rpc
        self._require_registry = require_registry
        self._beginning: dict[tuple[str, str], dict[int, bool]] = {}
        """App and user → the sessions that wait for the registry. Each session
        is an id with a flag: whether a newer session has replaced it before the
        answer of the registry."""
        self._departures = Departures(others.registry, self._notify_exit)
        self._must_reregister = False
        """Whether sessions must be registered again."""
        self._must_reregister_all = False
        """Whether all sessions must be registered again, and not only the
        sessions that the registry does not know."""
        self._reregistration: gevent.Greenlet[..., None] | None = None
        self._on_login = on_login

    # --- logging in -----------------------------------------------------------

    def _begin(self, app: App, connection: Connection, login: Login) -> None:
        """Register a session in the registry and in the hub.

        All nodes get the enter notice. Switches greenlets. Raises
        SessionRefused.
        """
        session = Session(
            app=login.app,
            user=login.user,
            device=login.device,
            policy=app.policy,
            peer=connection.peer,
            login_time=int(time()),
        )
        registration, is_replaced = self._register(session, login)
        if connection.state >= CLOSING:
            # The session has ended meanwhile, so its registration is taken back.
            self._departures.add(session, last_here=False)
            raise SessionRefused(ReplyCode.FAILED, "registry")

        connection.session = session
        if registration is not None:
            self._notify_replaced(login.app, login.user, registration.replaced)
        if is_replaced and app.policy != "newest":
            raise SessionRefused(ReplyCode.FAILED, "registry", CloseCode.REPLACED)
        if is_replaced or self._has_later_session(app, session):
            # Under the policy `newest`, the older session stays open, but
            # pushes do not go to it.
            self._hub.attach(app, connection, login.user, login.device)
            return

        super()._begin(app, connection, login)
        self._on_login(login.app, login.user)
        if self._fanout.takes_notices(app):
            event = Event("enter", login.user, ENTER_TEXT)
            self._node_messages.broadcast(Notice(app.name, event))

    def _has_later_session(self, app: App, session: Session) -> bool:
        """Whether a later login of the same user on this node was carried out
        before this one.

        That can happen only under the policy ``newest``, where a login does not
        wait for another login.
        """
        if app.policy != "newest" or session.number <= 0:
            return False
        for connection in app.sessions_of(session.user):
            other = connection.session
            if other is not None and other.number >= session.number:
                return True
        return False

    def _register(
        self, session: Session, login: Login
    ) -> tuple[SessionRegistration | None, bool]:
        """Register a session, and learn whether a later session has replaced
        it.

        Returns the answer of the registry, and whether a later session has
        replaced this one meanwhile. The answer is None if the registry did not
        answer. Switches greenlets. Raises SessionRefused.
        """
        key = (login.app, login.user)
        waiting = self._beginning.setdefault(key, {})
        waiting[session.id] = False
        try:
            registration = self._registry.register(session)
            if registration is not None and registration.refused:
                registration = self._register_beside(session, login, registration)
        except PeerBusy:
            # Nobody knows whether the older session is alive. The client may
            # try again.
            raise SessionRefused(ReplyCode.SYSTEM, "registry") from None
        finally:
            is_replaced = waiting.pop(session.id)
            if not waiting:
                del self._beginning[key]

        if registration is None:
            self._refuse_without_registry(session)
            return None, is_replaced
        if registration.refused:
            raise SessionRefused(ReplyCode.FAILED, "registry", CloseCode.REFUSED)
        # `superseded`: Redis has carried out this login after a later one of
        # the user, while this node still waited.
        return registration, is_replaced or registration.superseded

    def _register_beside(
        self, session: Session, login: Login, refused: SessionRegistration
    ) -> SessionRegistration | None:
        """Register a session in place of the older sessions that block it, if
        these are dead.

        If an older session is alive, this returns ``refused``, the answer of
        the registry. Raises PeerBusy if nobody knows whether the older sessions
        are alive.
        """
        if self._is_any_alive(refused.others, login):
            return refused
        return self._registry.register(session, refused.others)

    def _refuse_without_registry(self, session: Session) -> None:
        """Raise SessionRefused if sessions must not begin while the registry does
        not answer."""
        if self._require_registry:
            # Perhaps only the answer was lost, and the session is registered.
            self._departures.add(session, last_here=False)
            raise SessionRefused(ReplyCode.SYSTEM, "registry")

    def is_beginning(self, app: str, user: str) -> bool:
        """Whether a login of this user waits for the registry.

        The registry may know the session already.
        """
        return (app, user) in self._beginning

    def _is_any_alive(self, others: Collection[SessionRef], login: Login) -> bool:
        """Ask the nodes of these sessions whether one of the sessions answers a
        ping.

        If a node does not answer, its sessions count as dead. Sessions of this
        node were pinged before, except sessions that began since then. Raises
        PeerBusy if a node has too many such queries, and no session is known to
        be alive.
        """
        own_epoch = self._node_messages.own_epoch
        for ref in others:
            if ref.epoch == own_epoch and self._has_just_begun(login, ref.id):
                return True

        elsewhere = [ref for ref in others if ref.epoch != own_epoch]
        answers = self._ask_each_alive(elsewhere, login)
        if True in answers:
            return True
        # No session is known to be alive. If a node was busy, its session may
        # be alive, so the question stays open.
        for answer in answers:
            if isinstance(answer, PeerBusy):
                raise answer
        return False

    def _ask_each_alive(
        self, refs: Collection[SessionRef], login: Login
    ) -> list[bool | PeerBusy | None]:
        """Ask whether each of these sessions of other nodes answers a ping.

        All nodes are asked at once, because each answer may take seconds. An
        answer is a PeerBusy if the node has too many such queries, and None if
        the node did not answer.
        """
        leases = self._registry.leases()
        greenlets = []
        for ref in refs:
            lease = leases.get(ref.epoch)
            if lease is not None:
                query = AliveQuery(login.app, login.user, ref.id)
                greenlets.append(gevent.spawn(self._ask_alive, lease, query))
        gevent.joinall(greenlets)
        return [greenlet.value for greenlet in greenlets]

    def _has_just_begun(self, login: Login, session_id: int) -> bool:
        """Whether a session of this node began after the pings, or answers the
        ping of another node."""
        connection = self._find(login.app, login.user, session_id)
        if connection is None:
            return session_id in self._beginning.get((login.app, login.user), ())
        if connection.is_open and connection.pinged_at:
            # Another node is pinging this session now, so wait for the same
            # answer.
            return super()._any_alive([connection])
        return connection.is_open

    def _ask_alive(self, lease: Lease, alive: AliveQuery) -> bool | PeerBusy:
        """Ask another node whether its session is alive.

        PeerBusy is returned, not raised, because the caller runs in another
        greenlet.
        """
        try:
            answer = self._rpc.query(
                lease, "alive", encode(alive), _ANSWER_SECONDS, slow=True
            )
        except PeerBusy as busy:
            return busy
        except PeerUnavailable:
            return False
        return any(read({lease.node: answer}, bool).values())

    def is_alive(self, alive: AliveQuery) -> bool:
        """Whether a session of this node answers a ping.

        Waits up to :data:`ALIVE_SECONDS`.
        """
        # A session that waits for the registry has just begun.
        if alive.session_id in self._beginning.get((alive.app, alive.user), ()):
            return True
        connection = self._find(alive.app, alive.user, alive.session_id)
        return connection is not None and self._any_alive([connection])

    # --- being replaced -------------------------------------------------------

    def _notify_replaced(
        self, app: str, user: str, replaced: Collection[SessionRef]
    ) -> None:
        """Tell the nodes of these sessions to send no more pushes to them."""
        for ref in replaced:
            if ref.epoch == self._node_messages.own_epoch:
                self.replaced(app, user, ref.id)
            else:
                self._node_messages.send(ref.epoch, Replaced(app, user, ref.id))

    def replaced(self, app: str, user: str, session_id: int) -> None:
        """Stop addressing a session of this node, because a newer one has
        replaced it.

        The node of the newer session, or the registry, has reported that.
        """
        waiting = self._beginning.get((app, user))
        if waiting is not None and session_id in waiting:
            waiting[session_id] = True  # see _register()
        connection = self._find(app, user, session_id)
        if connection is None:
            return

        hub_app = self._hub.apps[app]
        self._hub.forget(connection)
        if hub_app.policy in ("single", "refuse"):
            connection.close(CloseCode.REPLACED)

    def _find(self, app: str, user: str, session_id: int) -> Connection | None:
        """Return the connection of an addressed session of this node; None if
        it has ended."""
        for connection in self._hub.sessions_of(app, user):
            if connection.session is not None and connection.session.id == session_id:
                return connection
        return None

    # --- leaving --------------------------------------------------------------

    def ended(self, connection: Connection, code: int) -> None:
        """Handle the end of a connection, and report the logout to the
        registry."""
        self._metrics.closed(code)
        last_here = self._hub.leave(connection)
        session = self._take_session(connection)
        if session is not None:
            self._departures.add(session, last_here)

    def leave(
        self, connection: Connection, successor: tuple[str, str] | None = None
    ) -> None:
        """End a session whose connection stays open, and report the logout to
        the registry.

        ``successor`` has the app and the user of the next session; None: no
        session follows.
        """
        session = self._take_session(connection)
        last_here = self._hub.detach(connection)
        if session is None:
            return
        user_stays = successor == (session.app, session.user)
        if user_stays and session.policy in ("single", "refuse"):
            # The logout is reported at once, because this session must not
            # count as a rival of the next session.
            self._registry.unregister(session)
        else:
            self._departures.add(session, last_here and not user_stays)

    def _take_session(self, connection: Connection) -> Session | None:
        """Remove the session of a connection and return it.

        The time of the last heartbeat is written into the session. Returns None
        if the connection has no session.
        """
        session: Session | None = connection.session
        connection.session = None
        if session is not None and connection.last_seen:
            # last_seen is a time of the process's clock.
            session.heartbeat_time = int(time() - monotonic() + connection.last_seen)
        return session

    def _notify_exit(self, session: Session) -> None:
        """Tell the users of all nodes that a user is offline now."""
        app = self._hub.apps.get(session.app)
        if app is None:  # the app was deleted while the logout was reported
            return
        event = Event("exit", session.user, EXIT_TEXT)
        self._fanout.notice(app, event)
        if self._fanout.takes_notices(app):
            self._node_messages.broadcast(Notice(app.name, event))

    def flush(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until all logouts are reported. Returns
        whether all are reported."""
        return self._departures.flush(seconds)

    def stop(self) -> None:
        """End the greenlets."""
        self._departures.stop()
        if self._reregistration is not None:
            self._reregistration.kill()

    def add_to(self, queries: NodeQueries) -> None:
        """Add the queries of other nodes that this service answers."""
        super().add_to(queries)
        queries.add("alive", AliveQuery, self.is_alive)

    # --- registering again ----------------------------------------------------

    def reregister(self, everything: bool) -> None:
        """Register sessions again, after Redis has failed or has lost data.

        With ``everything`` these are all sessions; otherwise only the sessions
        that the registry does not know. Never switches greenlets.
        """
        self._must_reregister = True
        if everything:
            self._must_reregister_all = True
        if self._reregistration is None or self._reregistration.dead:
            self._reregistration = gevent.spawn(self._run_reregistration)

    def registered_sessions(self) -> Iterator[Session]:
        """Return all addressed sessions of this node, for the registry."""
        connections = tuple(self._hub.sessions())
        return (
            connection.session
            for connection in connections
            if connection.session is not None
        )

    def _run_reregistration(self) -> None:
        """Greenlet: register sessions until no request is left."""
        while self._must_reregister:
            everything = self._must_reregister_all
            # The flag is reset before the work, because another request may
            # come meanwhile.
            self._must_reregister = False
            self._must_reregister_all = False
            connections_by_id: dict[int, Connection] = {}
            sessions = self._sessions_to_register(everything, connections_by_id)
            for session, registration in self._registry.reregister(sessions):
                connection = connections_by_id.pop(session.id)
                self._reregistered(connection, session, registration)

    def _reregistered(
        self,
        connection: Connection,
        session: Session,
        registration: SessionRegistration,
    ) -> None:
        """Apply the result of registering a session again."""
        if connection.session is not session:
            # The session has ended meanwhile, so its registration is taken back.
            self._departures.add(session, last_here=False)
        elif registration.addressed:
            replaced = registration.replaced
            self._notify_replaced(session.app, session.user, replaced)
        else:
            # A later session has replaced this one.
            self._hub.forget(connection)
            if session.policy in ("single", "refuse"):
                connection.close(CloseCode.REPLACED)

    def _sessions_to_register(
        self, everything: bool, connections_by_id: dict[int, Connection]
    ) -> Iterator[Session]:
        """Yield the sessions that the registry does not know; with
        ``everything`` all sessions.

        The connection of each yielded session is added to
        ``connections_by_id``.
        """
        for connection in tuple(self._hub.sessions()):
            session = connection.session
            if session is None or not connection.is_open:
                continue
            if everything or not self._registry.registered(session):
                connections_by_id[session.id] = connection
                yield session
