"""Sessions of a node in a cluster: the registry decides which of a user's sessions are addressed."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from time import monotonic, time
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event as Signal

from imserver import errors
from imserver.auth.login import Logins
from imserver.cluster.registry import Session, SessionRef, SessionRegistration
from imserver.hub.fanout import Fanout
from imserver.hub.hub import App, Hub
from imserver.metrics import Metrics
from imserver.model import Event, Login
from imserver.services.nodes.messages import Notice, Replaced
from imserver.services.nodes.queries import AliveQuery, NodeQueries, OtherNodes, encode, read
from imserver.services.sessions.sessions import (
    ALIVE_SECONDS,
    ENTER_TEXT,
    EXIT_TEXT,
    ClosedSessions,
    CloseSessions,
    Sessions,
    Unban,
    say,
)
from imserver.transport.connection import OPEN, Connection

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry


log = logging.getLogger(__name__)

WORKERS = 64
"""Sessions whose end is told at once; they share the registry's pipelines."""
_LOOK_SECONDS = 0.01


class Departures:
    """Owner of the queue and of the greenlets that empty it.

    ``on_exit`` is called with the session whose end took its user offline.
    """

    def __init__(self, registry: RedisRegistry, on_exit: Callable[[Session], None]) -> None:
        self._registry = registry
        self._on_exit = on_exit
        self._waiting: deque[tuple[Session, bool]] = deque()
        self._wake = Signal()
        self._telling = 0
        self._workers: list[gevent.Greenlet[..., None]] = []

    def start(self) -> None:
        """Begin to tell."""
        self._workers = [gevent.spawn(self._run) for _ in range(WORKERS)]

    def stop(self) -> None:
        """End the greenlets; what has not been told is not."""
        gevent.killall(self._workers)

    def add(self, session: Session, last_here: bool) -> None:
        """A session is over. Never switches.

        ``last_here``: nobody addressed is left of its user on this node. That decides where the registry does
        not answer.
        """
        self._waiting.append((session, last_here))
        self._wake.set()

    def pending(self) -> bool:
        """Whether anything is still to be told, or being told."""
        return bool(self._waiting or self._telling)

    def flush(self, seconds: float) -> bool:
        """Wait until everything is told, for at most ``seconds``; whether it is."""
        deadline = monotonic() + seconds
        while self.pending() and monotonic() < deadline:
            gevent.sleep(_LOOK_SECONDS)
        return not self.pending()

    def _run(self) -> None:
        """Greenlet: tell of one departure after the other."""
        while True:
            self._wake.wait()
            if not self._waiting:
                self._wake.clear()
                continue
            session, last_here = self._waiting.popleft()
            self._telling += 1
            try:
                gone = self._registry.unregister(session)
                if gone or (gone is None and last_here):
                    self._on_exit(session)
            except Exception:
                log.exception("the end of a session of %s in %s failed", session.user, session.app)
            finally:
                self._telling -= 1


class ClusterSessions(Sessions):
    """See :class:`imserver.services.sessions.sessions.Sessions`. Owner of what is known of sessions that are
    being begun, and of the departures.

    While the registry is away, logins go on under this node's own knowledge (or are refused with 1004 where
    ``require_registry`` says so) and are registered when it is back.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        logins: Logins,
        others: OtherNodes,
        require_registry: bool,
        on_login: Callable[[str, str], None],
    ) -> None:
        super().__init__(hub, fanout, metrics, logins)
        self._others = others
        self._registry = others.registry
        self._node_messages = others.node_messages
        self._require_registry = require_registry
        self._beginning: dict[int, bool] = {}
        """Sessions that the registry is asked to begin, and whether they were replaced before it answered."""
        self._beginners: Counter[tuple[str, str]] = Counter()
        """Users with a session that is being begun."""
        self._departures = Departures(others.registry, self._tell_exit)
        self._reregistration = Reregistration(hub, others.registry, self._departures, self._notify_replaced)
        self._on_login = on_login

    # --- logging in -----------------------------------------------------------------------------------------

    def _begin(self, app: App, connection: Connection, login: Login) -> int:
        session = Session(login.app, login.user, login.device, app.policy, connection.peer, int(time()))
        self._beginning[session.id] = False
        who = login.app, login.user
        self._beginners[who] += 1
        try:
            registration = self._ask_to_begin(session, login)
        finally:
            replaced = self._beginning.pop(session.id)
            self._beginners[who] -= 1
            if not self._beginners[who]:
                del self._beginners[who]
        if registration is None and self._require_registry:
            # It may have been registered, and the answer lost.
            self._departures.add(session, False)
            return errors.REPLY_SYSTEM
        if registration is not None and registration.refused:
            return self._refuse_newer(connection)
        if registration is not None and registration.banned:
            return self._refuse_banned(connection)
        if connection.state != OPEN:
            self._departures.add(session, False)
            return errors.REPLY_FAILED
        connection.session = session
        if registration is not None:
            self._notify_replaced(login.app, login.user, registration.replaced)
        if replaced and app.policy != "newest":
            say(connection, errors.CLOSE_REPLACED)
            return errors.REPLY_FAILED
        if not replaced and self._is_newest_here(app, connection, login.user):
            code = super()._begin(app, connection, login)
            self._on_login(login.app, login.user)
            self._tell_peers_of(app, Event("enter", login.user, ENTER_TEXT))
            return code
        self._hub.attach(app, connection, login.user, login.device)
        return errors.REPLY_OK

    def is_beginning(self, app: str, user: str) -> bool:
        """Whether a login of this user waits for the registry: it may know of the session already."""
        return (app, user) in self._beginners

    def _ask_to_begin(self, session: Session, login: Login) -> SessionRegistration | None:
        registration = self._registry.register(session)
        if (
            registration is not None
            and registration.refused
            and not self._is_any_alive(registration.others, login)
        ):
            registration = self._registry.register(session, registration.others)
        return registration

    def _is_newest_here(self, app: App, connection: Connection, user: str) -> bool:
        """False if a later login of the same user has overtaken this one on its way."""
        assert connection.session is not None
        number = connection.session.number
        return (
            app.policy != "newest"
            or not number
            or all(other.session is None or other.session.number < number for other in app.sessions_of(user))
        )

    def _refuse_newer(self, connection: Connection) -> int:
        say(connection, errors.CLOSE_REFUSED)
        return errors.REPLY_FAILED

    def _refuse_banned(self, connection: Connection) -> int:
        say(connection, errors.CLOSE_BANNED)
        return errors.REPLY_UNAUTHORIZED

    def _is_any_alive(self, others: Collection[SessionRef], login: Login) -> bool:
        """Ask the nodes of these sessions whether they answer a ping. A silent node holds nobody.

        Those here have been asked before, but for who has come meanwhile.
        """
        if any(p.epoch == self._node_messages.own_epoch and self._has_just_come(login, p.id) for p in others):
            return True
        leases = self._registry.leases()
        asked = [
            gevent.spawn(self._ask_alive, leases[ref.epoch], AliveQuery(login.app, login.user, ref.id))
            for ref in others
            if ref.epoch in leases and ref.epoch != self._node_messages.own_epoch
        ]
        gevent.joinall(asked)
        return any(greenlet.value for greenlet in asked)

    def _has_just_come(self, login: Login, session_id: int) -> bool:
        connection = self._find(login.app, login.user, session_id)
        if connection is None:
            return session_id in self._beginning
        if connection.state == OPEN and connection.pinged_at:
            # Another node asks the same at this moment: wait for the answer as it does.
            return super()._any_alive([connection])
        return connection.state == OPEN

    def _ask_alive(self, lease, alive: AliveQuery) -> bool:  # type: ignore[no-untyped-def]
        answers, _ = self._others.rpc.query_all([lease], "alive", encode(alive), ALIVE_SECONDS + 1.0)
        return any(read(answers, bool).values())

    def is_alive(self, alive: AliveQuery) -> bool:
        """Another node asks: whether a session of ours answers a ping. Takes up to :data:`ALIVE_SECONDS`."""
        if alive.session_id in self._beginning:
            return True
        connection = self._find(alive.app, alive.user, alive.session_id)
        return connection is not None and self._any_alive([connection])

    # --- being replaced -------------------------------------------------------------------------------------

    def _notify_replaced(self, app: str, user: str, replaced: Collection[SessionRef]) -> None:
        for ref in replaced:
            if ref.epoch == self._node_messages.own_epoch:
                self.replaced(app, user, ref.id)
            else:
                self._node_messages.send(ref.epoch, Replaced(app, user, ref.id))

    def replaced(self, app: str, user: str, session_id: int) -> None:
        """A session of ours is addressed no longer (told by its follower's node, or by the registry)."""
        if session_id in self._beginning:
            self._beginning[session_id] = True
        connection = self._find(app, user, session_id)
        if connection is None:
            return
        known = self._hub.apps[app]
        self._hub.forget(connection)
        if known.policy in ("single", "refuse"):
            say(connection, errors.CLOSE_REPLACED)

    def _find(self, app: str, user: str, session_id: int) -> Connection | None:
        known = self._hub.apps.get(app)
        for connection in known.sessions_of(user) if known is not None else ():
            if connection.session is not None and connection.session.id == session_id:
                return connection
        return None

    # --- leaving --------------------------------------------------------------------------------------------

    def ended(self, connection: Connection, code: int) -> None:
        """A connection is over (``ConnectionContext.ended``). A greenlet tells the registry."""
        self._metrics.closed(code)
        last_here = self._hub.leave(connection)
        session, connection.session = connection.session, None
        if session is not None:
            self._departures.add(session, last_here)

    def leave(self, connection: Connection, follower: tuple[str, str] | None = None) -> None:
        """See :class:`imserver.services.sessions.sessions.Sessions`."""
        session, connection.session = connection.session, None
        last_here = self._hub.detach(connection)
        if session is None:
            return
        stays = follower == (session.app, session.user)
        if stays and session.policy in ("single", "refuse"):
            # It must not be a rival of its own follower.
            self._registry.unregister(session)
        else:
            self._departures.add(session, last_here and not stays)

    def start(self) -> None:
        """Begin to tell the registry of departures."""
        self._departures.start()

    def _tell_exit(self, session: Session) -> None:
        app = self._hub.apps[session.app]
        event = Event("exit", session.user, EXIT_TEXT)
        self._fanout.notice(app, event)
        self._tell_peers_of(app, event)

    def _tell_peers_of(self, app: App, event: Event) -> None:
        """Enter and exit notices go to the other nodes too, unless the app is too large for them."""
        if len(app.users) + app.elsewhere <= self._fanout.notice_members:
            self._node_messages.broadcast(Notice(app.name, event))

    def count_elsewhere(self) -> None:
        """Learn from the leases how many users the apps have on other nodes. Called once a second."""
        peers = self._node_messages.peers()
        for app in self._hub.apps.values():
            counted = sum(lease.counts.get(app.name, 0) for lease in peers)
            # Leases lag by seconds: what notices have told since then counts until they have caught up.
            app.elsewhere = max(counted, app.elsewhere * 19 // 20)

    def flush(self, seconds: float) -> bool:
        """Wait until all departures are told, for at most ``seconds``; whether they all are."""
        return self._departures.flush(seconds)

    def stop(self) -> None:
        """End the greenlets."""
        self._departures.stop()
        self._reregistration.stop()

    # --- closing and banning --------------------------------------------------------------------------------

    def add_to(self, queries: NodeQueries) -> None:
        """Answer the queries of other nodes."""
        queries.add("alive", AliveQuery, self.is_alive)
        queries.add("remove", CloseSessions, self.close_here)
        queries.add("pardon", Unban, self.unban_here)

    def close(
        self, app: str, users: Sequence[str], device: str | None = None, ban_seconds: float = 0
    ) -> ClosedSessions:
        """See :class:`imserver.services.sessions.sessions.Sessions`.

        Every node knows the bans, and the registry for nodes that start later.
        """
        lasting = True
        if ban_seconds > 0:
            # A ban of an unknown app would only use memory of the registry.
            known = app in self._hub.apps
            banned = [self._registry.ban(app, user, ban_seconds) for user in users if known]
            lasting = known and all(banned)
        found = self._registry.find(app, users) if users else []
        online = [user for user, refs in zip(users, found or [()] * len(users), strict=True) if refs]
        query = CloseSessions(app, users, device, ban_seconds, online)
        closed = self.close_here(query)
        answers, missing = self._query("remove", query)
        for counts in read(answers, list[int]).values():
            closed = [here + there for here, there in zip(closed, counts, strict=False)]
        return ClosedSessions(closed, tuple(missing), lasting)

    def unban(self, app: str, users: Sequence[str]) -> tuple[str, ...] | None:
        """See :class:`imserver.services.sessions.sessions.Sessions`."""
        lifted = [self._registry.ban(app, user, 0) for user in users]
        if not all(lifted):
            return None
        query = Unban(app, users)
        self.unban_here(query)
        return tuple(self._query("pardon", query)[1])

    def _query(self, kind: str, query: CloseSessions | Unban) -> tuple[dict[str, bytes], list[str]]:
        answers, missing = self._others.query(kind, query)
        if missing:
            log.warning("query %r: no answer from %s", kind, ", ".join(missing))
        return answers, missing

    # --- registering again ----------------------------------------------------------------------------------

    def reregister(self, everything: bool) -> None:
        """Register sessions again (``RegistryEvents.reregister``). Returns at once."""
        self._reregistration.request(everything)

    def registered_sessions(self) -> Iterator[Session]:
        """All addressed sessions of this node (the registry's ``sessions``)."""
        for connection in tuple(self._hub.sessions()):
            if connection.session is not None:
                yield connection.session


class Reregistration:
    """Registers sessions that the registry has lost: after a flush, a lost lease, or while Redis was away.

    Owner of the greenlet that does it and of the open requests. ``notify_replaced(app, user, sessions)`` is
    called with the sessions that a registered session replaces.
    """

    def __init__(
        self,
        hub: Hub,
        registry: RedisRegistry,
        departures: Departures,
        notify_replaced: Callable[[str, str, Collection[SessionRef]], None],
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._departures = departures
        self._notify_replaced = notify_replaced
        self._running: gevent.Greenlet[..., None] | None = None
        self._requested: bool | None = None
        """What is still to be registered; True: all sessions."""

    def request(self, everything: bool) -> None:
        """Register the sessions that the registry does not know, or all of them. Returns at once."""
        self._requested = self._requested or everything
        if not self.busy:
            self._running = gevent.spawn(self._run)

    @property
    def busy(self) -> bool:
        """Whether the greenlet is running."""
        return self._running is not None and not self._running.dead

    def stop(self) -> None:
        """End the greenlet."""
        if self._running is not None:
            self._running.kill()

    def _run(self) -> None:
        while self._requested is not None:
            everything, self._requested = self._requested, None
            by_id: dict[int, Connection] = {}
            sessions = self._sessions_to_register(everything, by_id)
            for session, registration in self._registry.reregister(sessions):
                connection = by_id.pop(session.id)
                if connection.session is session:
                    self._reregistered(connection, session, registration)
                else:
                    self._departures.add(session, False)

    def _sessions_to_register(self, everything: bool, by_id: dict[int, Connection]) -> Iterator[Session]:
        for connection in tuple(self._hub.sessions()):
            session = connection.session
            if session is None or connection.state != OPEN:
                continue
            if everything or not self._registry.registered(session):
                by_id[session.id] = connection
                yield session

    def _reregistered(
        self, connection: Connection, session: Session, registration: SessionRegistration
    ) -> None:
        if registration.banned:
            say(connection, errors.CLOSE_BANNED)
        elif registration.superseded or registration.refused:
            self._hub.forget(connection)
            if session.policy in ("single", "refuse"):
                say(connection, errors.CLOSE_REPLACED)
        else:
            self._notify_replaced(session.app, session.user, registration.replaced)
