"""Sessions: logging in under an app's policy, logging out, closing sessions and banning."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from time import monotonic
from typing import Final

import gevent
from msgspec import Struct
from msgspec.structs import replace

from imserver import errors
from imserver.auth.login import Logins
from imserver.auth.rules import LoginDecision
from imserver.hub.fanout import Fanout
from imserver.hub.hub import App, Hub
from imserver.metrics import Metrics
from imserver.model import Event, Login
from imserver.services.sessions.connection_ids import NAMED_BY_ID
from imserver.transport.connection import OPEN, Connection

ENTER_TEXT = "哈喽~"
EXIT_TEXT = "用户已经离开~"
ALIVE_SECONDS = 3
"""Time for an old connection to answer a ping before a login under ``refuse`` takes its place."""
_LOOKS = 30
MAX_BANS = 100_000
"""Bans kept at once; beyond it the oldest leaves first."""


MAX_KICKS: Final = 10_000
"""Kicks that are remembered. No login takes as long as so many kicks of others."""


class CloseSessions(Struct, frozen=True, array_like=True):
    """Close the sessions of these users on your node; answered with their numbers, in the order of users.

    ``device``: only sessions of a device of this name (None: all). ``ban_seconds``: refuse their logins for
    so long. ``online``: users with an addressed session on some node; their older connections are closed too.
    """

    app: str
    users: Sequence[str]
    device: str | None = None
    ban_seconds: float = 0
    online: Sequence[str] = ()


class Unban(Struct, frozen=True, array_like=True):
    """Ban these users no longer; answered with True."""

    app: str
    users: Sequence[str]


class ClosedSessions(Struct, frozen=True):
    """How many addressed sessions of each user were closed, and the nodes that did not answer in time.

    ``lasting``: nodes that start later know of the bans, too.
    """

    closed: list[int]
    missing: tuple[str, ...] = ()
    lasting: bool = True

    @property
    def total(self) -> int:
        """Sessions of all users."""
        return sum(self.closed)


class RecentKicks:
    """The last kicks: a login that began before a kick and ends after it is refused.

    A kick closes the sessions that exist. A login in progress has none yet, and what it has proved may not be
    true any more: the account has ended all its sessions, or is deleted. ``count``: the number of kicks.
    """

    def __init__(self) -> None:
        self.count = 0
        self._numbers: dict[tuple[str, str, str | None], int] = {}

    def note(self, app: str, user: str, device: str | None = None) -> None:
        """A user was kicked, from devices of this name or (None) from all."""
        key = app, user, device
        self.count += 1
        self._numbers.pop(key, None)
        self._numbers[key] = self.count
        if len(self._numbers) > MAX_KICKS:
            del self._numbers[next(iter(self._numbers))]

    def since(self, count: int, app: str, user: str, device: str) -> bool:
        """Whether a user was kicked from a device since there were ``count``."""
        if count == self.count:
            return False
        numbers = self._numbers
        return max(numbers.get((app, user, None), 0), numbers.get((app, user, device), 0)) > count


def say(connection: Connection, code: int) -> None:
    """Close a connection with one of our own codes and its name."""
    connection.close(code, errors.CLOSE[code].name)


def _rivals(app: App, login: Login, connection: Connection) -> list[Connection]:
    """The other sessions of the same user on a device of the same name."""
    return [c for c in app.sessions_of(login.user) if c.device == login.device and c is not connection]


class Sessions:
    """Owner of the bans. Everything else it changes through the hub."""

    def __init__(self, hub: Hub, fanout: Fanout, metrics: Metrics, logins: Logins) -> None:
        self._hub = hub
        self._fanout = fanout
        self._metrics = metrics
        self._logins = logins
        self._bans: dict[tuple[str, str], float] = {}
        self.kicks = RecentKicks()

    def login(
        self,
        connection: Connection,
        login: Login,
        again: bool = False,
        decision: LoginDecision | None = None,
        kicks: int | None = None,
    ) -> int:
        """Begin a session; returns a reply code. Under ``refuse`` it may wait for :data:`ALIVE_SECONDS`.

        ``again``: a connection that has logged in may do so anew; its session ends where the new one begins.
        ``decision``: what :class:`Logins` has said already, and ``kicks`` the count of them before it was
        asked. When it returns ``REPLY_OK`` the user is reachable on this connection.
        """
        if kicks is None:
            kicks = self.kicks.count
        name = self._logins.resolve(login.app)
        if name != login.app:
            login = replace(login, app=name)
        app = self._hub.apps.get(name)
        if app is None:
            return self._refused(errors.REPLY_UNAUTHORIZED)
        if connection.user is not None and not again:
            return self._renew(connection, login)
        if decision is None:
            decision = self._check(connection, login)
        if not decision.ok:
            if decision.final:
                say(connection, decision.close)
            return self._refused(decision.code)
        if decision.device:
            login = replace(login, device=decision.device)
        if self.is_banned(login.app, login.user):
            say(connection, errors.CLOSE_BANNED)
            return self._refused(errors.REPLY_UNAUTHORIZED)
        rivals = _rivals(app, login, connection)
        if app.policy == "refuse" and rivals:
            alive = self._any_alive(rivals)
            # Others may have logged in during the wait, and they are alive for sure.
            rivals, old = _rivals(app, login, connection), rivals
            if alive or any(rival not in old for rival in rivals):
                say(connection, errors.CLOSE_REFUSED)
                return self._refused(errors.REPLY_FAILED)
            if self.is_banned(login.app, login.user):
                say(connection, errors.CLOSE_BANNED)
        if connection.state != OPEN:
            return self._refused(errors.REPLY_FAILED)
        if connection.user is not None:
            self.leave(connection, (app.name, login.user))
        code = self._begin(app, connection, login)
        if code != errors.REPLY_OK:
            return self._refused(code)
        if self.kicks.since(kicks, app.name, login.user, login.device):
            say(connection, errors.CLOSE_KICKED)
            return self._refused(errors.REPLY_UNAUTHORIZED)
        self._logins.began(connection, decision)
        if app.policy in ("single", "refuse"):
            for rival in rivals:
                say(rival, errors.CLOSE_REPLACED)
        return code

    def _check(self, connection: Connection, login: Login) -> LoginDecision:
        dialect = connection.encoding.dialect.name
        return self._logins.check(login.app, login.user, login.token, dialect, connection, login.device)

    def _renew(self, connection: Connection, login: Login) -> int:
        """Another login on a connection that has logged in: it may only bring its session a new token."""
        same = (connection.app, connection.user) == (login.app, login.user)
        if not (same and self._logins.holds_token(connection)):
            return self._refused(errors.REPLY_FAILED)
        decision = self._check(connection, login)
        if not decision.ok:
            return self._refused(decision.code)
        if connection.state != OPEN:
            return self._refused(errors.REPLY_FAILED)
        self._logins.began(connection, decision)
        self.heartbeat(connection)
        return errors.REPLY_OK

    def leave(self, connection: Connection, follower: tuple[str, str] | None = None) -> None:
        """End the session of a connection that lives on. It may switch.

        ``follower``: the app and user as whom it logs in anew at once; who stays is not said to have left.
        """
        app, user = connection.app, connection.user
        if self._hub.detach(connection) and app is not None and user is not None and (app, user) != follower:
            self._fanout.notice(self._hub.apps[app], Event("exit", user, EXIT_TEXT))

    def heartbeat(self, connection: Connection) -> None:
        """Renew a session. Under ``newest`` an older connection lives on, but keeps nobody online."""
        connection.last_seen = monotonic()

    def ended(self, connection: Connection, code: int) -> None:
        """A connection is over (``ConnectionContext.ended``)."""
        self._metrics.closed(code)
        user = connection.user
        gone = self._hub.leave(connection)
        if connection.encoding.dialect.name == NAMED_BY_ID:
            return  # nobody was told of its coming
        if gone and user is not None and connection.app is not None:
            self._fanout.notice(self._hub.apps[connection.app], Event("exit", user, EXIT_TEXT))

    def close(
        self, app: str, users: Sequence[str], device: str | None = None, ban_seconds: float = 0
    ) -> ClosedSessions:
        """Close the sessions of users on all nodes with a terminal code; refuse logins for ``ban_seconds``.

        ``device``: only sessions of a device of this name (None: all). It may switch.
        """
        return ClosedSessions(self.close_here(CloseSessions(app, users, device, ban_seconds)))

    def unban(self, app: str, users: Sequence[str]) -> tuple[str, ...] | None:
        """Ban users no longer, on all nodes: those that did not answer in time; None if the registry is away.

        It may switch.
        """
        self.unban_here(Unban(app, users))
        return ()

    def close_here(self, query: CloseSessions) -> list[int]:
        """Close what is on this node: the number of addressed sessions of each user. Never switches."""
        for user in query.users:
            self.kicks.note(query.app, user, query.device)
            if query.ban_seconds > 0:
                self.ban(query.app, user, query.ban_seconds)
        app = self._hub.apps.get(query.app)
        if app is None:
            return [0] * len(query.users)
        victims = [
            [c for c in app.sessions_of(user) if query.device in (None, c.device)] for user in query.users
        ]
        code = errors.CLOSE_BANNED if query.ban_seconds > 0 else errors.CLOSE_KICKED
        closed = [len(each) for each in victims]
        for connection in [*self._older(app, query, closed), *chain.from_iterable(victims)]:
            say(connection, code)
        return closed

    def _older(self, app: App, query: CloseSessions, closed: Sequence[int]) -> Collection[Connection]:
        """Connections of these users that are served but not addressed, as there are under ``newest``."""
        if app.policy != "newest":
            return ()
        gone = {user for user, number in zip(query.users, closed, strict=True) if number}
        gone.update(query.users if query.ban_seconds > 0 else query.online)
        gone.intersection_update(query.users)
        if not gone:
            return ()
        return [
            connection
            for connection in self._hub.connections()
            if connection.user in gone
            and connection.app == app.name
            and query.device in (None, connection.device)
            and connection not in app.sessions_of(connection.user)
        ]

    def unban_here(self, query: Unban) -> bool:
        """Lift the bans that this node knows of. Never switches."""
        for user in query.users:
            self.ban(query.app, user, 0)
        return True

    def ban(self, app: str, user: str, seconds: float) -> None:
        """Refuse logins of a user on this node for ``seconds`` (0: no longer). Closes nothing."""
        self._bans.pop((app, user), None)
        if seconds > 0 and app in self._hub.apps:
            self._bans[app, user] = monotonic() + seconds
            while len(self._bans) > MAX_BANS:
                del self._bans[next(iter(self._bans))]

    def _begin(self, app: App, connection: Connection, login: Login) -> int:
        """Make the connection a session; a reply code."""
        connection.last_seen = monotonic()
        self._hub.join(app, connection, login.user, login.device)
        self._metrics.logins += 1
        self._fanout.notice(app, Event("enter", login.user, ENTER_TEXT), connection)
        return errors.REPLY_OK

    def _refused(self, code: int) -> int:
        self._metrics.logins_refused += 1
        return code

    def is_banned(self, app: str, user: str) -> bool:
        """Whether this node refuses a user's logins for a time, as far as it was told. Never switches."""
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
            if any(rival.state == OPEN and not rival.pinged_at for rival in rivals):
                return True
            if all(rival.state != OPEN for rival in rivals):
                break
        return False
