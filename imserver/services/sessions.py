"""Sessions: logging in under an app's policy, logging out, kicking and banning."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent

from imserver import errors
from imserver.hub.fanout import Fanout
from imserver.hub.hub import App, Hub
from imserver.metrics import Metrics
from imserver.model import Event, Login
from imserver.transport.connection import OPEN, Connection

ENTER_TEXT = "哈喽~"
EXIT_TEXT = "用户已经离开~"
ALIVE_SECONDS = 3
"""Time for an old connection to answer a ping before a login under ``refuse`` takes its place."""
_LOOKS = 30
MAX_BANS = 100_000
"""Bans kept at once; beyond it the oldest leaves first."""

Authorise = Callable[[str, str, str], bool]
"""(app, user, token) → whether that user may log in with that token."""


def _rivals(app: App, login: Login) -> list[Connection]:
    """The sessions of the same user on a device of the same name."""
    return [c for c in app.sessions_of(login.user) if c.device == login.device]


class Sessions:
    """Owner of the bans. Everything else it changes through the hub."""

    def __init__(self, hub: Hub, fanout: Fanout, metrics: Metrics, authorise: Authorise) -> None:
        self._hub = hub
        self._fanout = fanout
        self._metrics = metrics
        self._authorise = authorise
        self._bans: dict[tuple[str, str], float] = {}

    def login(self, connection: Connection, login: Login) -> int:
        """Begin a session; returns a reply code. Under ``refuse`` it may wait for :data:`ALIVE_SECONDS`.

        When it returns ``REPLY_OK`` the user is reachable on this connection.
        """
        app = self._hub.apps.get(login.app)
        if app is None:
            return self._refused(errors.REPLY_UNAUTHORIZED)
        if connection.user is not None:
            return self._refused(errors.REPLY_FAILED)
        if not self._authorise(login.app, login.user, login.token):
            return self._refused(errors.REPLY_UNAUTHORIZED)
        if self._is_banned(login.app, login.user):
            connection.close(errors.CLOSE_BANNED, errors.CLOSE[errors.CLOSE_BANNED].name)
            return self._refused(errors.REPLY_UNAUTHORIZED)
        rivals = _rivals(app, login)
        if app.policy == "refuse" and rivals:
            alive = self._any_alive(rivals)
            # Others may have logged in during the wait, and they are alive for sure.
            rivals, old = _rivals(app, login), rivals
            if alive or any(rival not in old for rival in rivals):
                connection.close(errors.CLOSE_REFUSED, errors.CLOSE[errors.CLOSE_REFUSED].name)
                return self._refused(errors.REPLY_FAILED)
            if self._is_banned(login.app, login.user):
                connection.close(errors.CLOSE_BANNED, errors.CLOSE[errors.CLOSE_BANNED].name)
        if connection.state != OPEN:
            return self._refused(errors.REPLY_FAILED)
        self._begin(app, connection, login)
        if app.policy in ("single", "refuse"):
            for rival in rivals:
                rival.close(errors.CLOSE_REPLACED, errors.CLOSE[errors.CLOSE_REPLACED].name)
        return errors.REPLY_OK

    def heartbeat(self, connection: Connection) -> None:
        """Renew a session. Under ``newest`` an older connection lives on, but keeps nobody online."""
        connection.last_seen = monotonic()

    def ended(self, connection: Connection, code: int) -> None:
        """A connection is over (the carrier's ``ended``)."""
        self._metrics.closed(code)
        user = connection.user
        if self._hub.leave(connection) and user is not None and connection.app is not None:
            self._fanout.notice(self._hub.apps[connection.app], Event("exit", user, EXIT_TEXT))

    def kick(self, app: str, user: str, ban_seconds: float = 0) -> int:
        """Close all connections of a user with a terminal code; refuse logins for ``ban_seconds``.

        Returns the number of addressed sessions that were closed.
        """
        if ban_seconds > 0 and app in self._hub.apps:
            self._bans.pop((app, user), None)
            self._bans[app, user] = monotonic() + ban_seconds
            while len(self._bans) > MAX_BANS:
                del self._bans[next(iter(self._bans))]
        known = self._hub.apps.get(app)
        if known is None:
            return 0
        addressed = known.sessions_of(user)
        code = errors.CLOSE_BANNED if ban_seconds > 0 else errors.CLOSE_KICKED
        victims = addressed
        if known.policy == "newest" and (addressed or ban_seconds > 0):
            # Older connections of the user are in service, but the hub addresses the newest alone.
            victims = tuple(c for c in self._hub.connections() if c.user == user and c.app == app)
        for connection in victims:
            connection.close(code, errors.CLOSE[code].name)
        return len(addressed)

    def _begin(self, app: App, connection: Connection, login: Login) -> None:
        connection.last_seen = monotonic()
        self._hub.join(app, connection, login.user, login.device)
        self._metrics.logins += 1
        self._fanout.notice(app, Event("enter", login.user, ENTER_TEXT), connection)

    def _refused(self, code: int) -> int:
        self._metrics.logins_refused += 1
        return code

    def _is_banned(self, app: str, user: str) -> bool:
        until = self._bans.get((app, user))
        if until is None:
            return False
        if until < monotonic():
            del self._bans[app, user]
            return False
        return True

    def _any_alive(self, rivals: list[Connection]) -> bool:
        """Ping ``rivals`` and wait until one shows life or all have had their time."""
        for rival in rivals:
            rival.ping()
        for _ in range(_LOOKS):
            gevent.sleep(ALIVE_SECONDS / _LOOKS)
            if any(rival.state == OPEN and not rival.silent for rival in rivals):
                return True
            if all(rival.state != OPEN for rival in rivals):
                break
        return False
