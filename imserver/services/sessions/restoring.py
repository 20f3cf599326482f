"""Sessions that the registry has forgotten are registered again: after a flush, a lost lease, its absence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import gevent

from imserver import errors
from imserver.cluster.contract import Begun, Place, Registry, Session
from imserver.hub.hub import Hub
from imserver.services.sessions.departures import Departures
from imserver.services.sessions.sessions import say
from imserver.transport.connection import OPEN, Connection


class Restoring:
    """Owner of the greenlet that registers again, and of what is wished meanwhile.

    ``tell_replaced(app, user, places)`` is told whom a session replaces that was registered again.
    """

    def __init__(
        self,
        hub: Hub,
        registry: Registry,
        departures: Departures,
        tell_replaced: Callable[[str, str, Collection[Place]], None],
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._departures = departures
        self._tell_replaced = tell_replaced
        self._running: gevent.Greenlet[..., None] | None = None
        self._wanted: bool | None = None
        """What is still to be restored: True: everything."""

    def wish(self, everything: bool) -> None:
        """Register the sessions that the registry does not know, or all of them. Returns at once."""
        self._wanted = self._wanted or everything
        if not self.busy:
            self._running = gevent.spawn(self._restore)

    @property
    def busy(self) -> bool:
        """Whether it is at work."""
        return self._running is not None and not self._running.dead

    def stop(self) -> None:
        """End the greenlet."""
        if self._running is not None:
            self._running.kill()

    def _restore(self) -> None:
        while self._wanted is not None:
            everything, self._wanted = self._wanted, None
            by_id: dict[int, Connection] = {}
            for session, begun in self._registry.restore(self._sessions_to_restore(everything, by_id)):
                connection = by_id.pop(session.id)
                if connection.session is session:
                    self._restored(connection, session, begun)
                else:
                    self._departures.add(session, False)

    def _sessions_to_restore(self, everything: bool, by_id: dict[int, Connection]) -> Iterator[Session]:
        for connection in tuple(self._hub.sessions()):
            session = connection.session
            if session is None or connection.state != OPEN:
                continue
            if everything or not self._registry.registered(session):
                by_id[session.id] = connection
                yield session

    def _restored(self, connection: Connection, session: Session, begun: Begun) -> None:
        if begun.banned:
            say(connection, errors.CLOSE_BANNED)
        elif begun.superseded or begun.refused:
            self._hub.forget(connection)
            if session.policy in ("single", "refuse"):
                say(connection, errors.CLOSE_REPLACED)
        else:
            self._tell_replaced(session.app, session.user, begun.replaced)
