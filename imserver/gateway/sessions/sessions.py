"""Sessions: logging in under an app's policy, logging out, closing sessions and
banning."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from time import monotonic, time
from typing import Final
from weakref import ref

import gevent
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.auth.login import Logins
from imserver.gateway.auth.principal import Principal
from imserver.gateway.auth.rates import LOGIN_NOTICES, Buckets
from imserver.gateway.auth.rules import LoginDecision
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.cluster.nodes import NodeQueries, OtherNodes, read
from imserver.gateway.cluster.registry import is_found
from imserver.gateway.errors import (
    CloseCode,
    LoginRefusal,
    ReplyCode,
    StorageUnavailable,
)
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import App, Hub
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import (
    Event,
    Heartbeat,
    Login,
    Ping,
    Reply,
    Service,
    is_of_device,
)
from imserver.gateway.sessions.connection_ids import NAMED_BY_ID
from imserver.gateway.storage.contract import BanRow, Changes
from imserver.gateway.storage.store import Store
from imserver.gateway.transport.connection import Connection, app_and_user
from imserver.gateway.transport.dispatch import CommandRow, CommandTable
from imserver.gateway.transport.states import CLOSING, UNADDRESSED

log = logging.getLogger(__name__)

ENTER_TEXT = "哈喽~"
EXIT_TEXT = "用户已经离开~"
ALIVE_SECONDS = 3
"""Time for an old connection to answer a ping before a login under ``refuse``
replaces it."""
_LOOKS = 30
"""How often a login checks in that time whether an old connection has
answered."""
_LONGEST_BAN: Final = 100.0
"""A ban for good lasts this many times :data:`MAX_BAN_SECONDS`, because
infinity cannot be stored."""
_NOTICES_BYTES: Final = 200
"""Size of an exit notice and an enter notice together, without the names of
their users."""
_PONG: Final = Reply(ReplyCode.OK, "pong")
MAX_BANS: Final = 100_000
"""Number of bans that a node knows."""
MAX_BAN_SECONDS: Final = 366 * 86400
"""The longest temporary ban that a request may set. A longer ban is for
good."""
MAX_KICKS: Final = 10_000
"""Number of kicks that are remembered; more than can happen during one
login."""


def close_code_of(code: int) -> int:
    """Return the close code for a connection that opens with a login.

    ``code`` is the reply code of the login, which was refused.
    """
    if code == ReplyCode.UNAUTHORIZED:
        return CloseCode.NOT_ALLOWED
    if code == ReplyCode.FAILED:
        return CloseCode.REFUSED
    return CloseCode.INTERNAL_ERROR


class Ban(Struct, frozen=True):
    """The ban of a user on this node.

    ``ends`` is its end, as a monotonic time of this process. ``reason`` is a
    text for the user; ``""``: none was given.
    """

    ends: float
    reason: str = ""

    @property
    def seconds(self) -> float:
        """How many more seconds the ban lasts."""
        return self.ends - monotonic()

    @property
    def until(self) -> int | None:
        """The end of the ban in Unix seconds; None for a ban for good."""
        if self.seconds > MAX_BAN_SECONDS:
            return None
        return round(time() + self.seconds)

    @property
    def text(self) -> str:
        """One line for the user: how long the ban lasts, and why."""
        until = self.until
        if until is None:
            text = "banned for good"
        else:
            end = datetime.fromtimestamp(until, UTC)
            text = f"banned until {end:%Y-%m-%d %H:%M UTC}"
        if self.reason:
            return f"{text}: {self.reason}"
        return text


class CloseSessions(Struct, frozen=True, array_like=True):
    """A query to a node: close the sessions of these users.

    The answer has the number of closed sessions of each user. ``device`` limits
    it to sessions of a device of this name; None: all. ``ban_seconds`` is the
    time for which logins of these users are refused, with the ``reason`` that
    they see; 0: no ban. ``online`` has the users among them who have an
    addressed session on some node; their older connections are closed, too.
    """

    app: str
    users: Sequence[str]
    device: str | None = None
    ban_seconds: float = 0
    online: Sequence[str] = ()
    reason: str = ""

    def concerns(self, connection: Connection) -> bool:
        """Whether a session has the device that is asked for."""
        return self.device is None or is_of_device(connection.device, self.device)


class Unban(Struct, frozen=True, array_like=True):
    """A query to a node: lift the bans of these users. The answer is True."""

    app: str
    users: Sequence[str]


class ClosedSessions(Struct, frozen=True):
    """The result of closing sessions on all nodes.

    ``closed`` has the number of closed addressed sessions of each user.
    ``missing`` has the nodes that did not answer in time. ``lasting`` tells
    whether the bans are in the database, so that nodes that start later know
    them (True without a ban).
    """

    closed: list[int]
    missing: tuple[str, ...] = ()
    lasting: bool = True

    @property
    def total(self) -> int:
        """The sum over all users."""
        return sum(self.closed)


class RecentKicks(Service):
    """The last kicks: who was logged out by an operator or a back end.

    A kick closes existing sessions. A login in progress has no session yet, and
    its proof may have become invalid: the user may have ended all sessions, or
    may be deleted. So a login that began before a kick and ends after it is
    refused. ``count`` is the number of kicks.
    """

    count: int = 0
    _numbers: dict[tuple[str, str, str | None], int] = field(default_factory=dict)
    """App, user and device as in :meth:`note` → the number of the last such
    kick; the oldest first."""

    def note(self, app: str, user: str = "", device: str | None = None) -> None:
        """Record the kick of a user from devices of this name; None: from all
        devices.

        Without a ``user``, record that an app was deleted. Logins that began
        before must not end in a new app of the same name, which may have other
        users.
        """
        key = (app, user, device)
        self.count += 1
        # Put at the end, so that the oldest kick comes first.
        self._numbers.pop(key, None)
        self._numbers[key] = self.count
        if len(self._numbers) > MAX_KICKS:
            del self._numbers[next(iter(self._numbers))]

    def since(self, count: int, app: str, user: str = "", device: str = "") -> bool:
        """Whether a user was kicked from a device, or an app deleted, after the
        first ``count`` kicks.

        A login takes the count at its begin.
        """
        if count == self.count:
            return False
        # A device may be a part of another device, as `phone/2` is of `phone`.
        whole = device.rpartition("/")[0] or device
        numbers = [
            self._numbers.get((app, user, name), 0) for name in (None, device, whole)
        ]
        return max(numbers) > count


class SessionRefused(Exception):
    """Raised if a session must not begin.

    - ``code``: the reply code for the client.
    - ``reason``: for the log and the counters; None: the refusal was counted
      already.
    - ``close``: the code with which the connection is closed; 0: it stays open.
    - ``text``: the reason of that close.
    - ``until``: when the reason of the refusal ends, in Unix seconds; 0: not
      known.
    """

    def __init__(
        self,
        code: int,
        reason: LoginRefusal | None = None,
        close: int = 0,
        until: float = 0,
        text: str = "",
    ) -> None:
        super().__init__(code)
        self.text = text
        self.code = code
        self.reason = reason
        self.close = close
        self.until = until


def _rivals(app: App, login: Login, connection: Connection) -> list[Connection]:
    """Return the other sessions of the same user on a device of the same name."""
    return [
        session
        for session in app.sessions_of(login.user)
        if session.device == login.device and session is not connection
    ]


class Sessions:
    """Begins, ends and closes the sessions of users: logged-in connections.

    Each app has a policy for a second login of the same user and device:

    - ``multi``: both are served, and pushes reach both.
    - ``newest``: the older connection stays open, but pushes go to the new one.
    - ``single``: the older connection is closed.
    - ``refuse``: the login is refused if the older connection is alive.

    Owner of the bans. All other state is in the hub.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        logins: Logins,
        store: Store,
        others: OtherNodes | None = None,
    ) -> None:
        """``others`` asks the other nodes; it is None without a cluster."""
        self._hub = hub
        self._fanout = fanout
        self._metrics = metrics
        self._logins = logins
        self._store = store
        self._others = others
        self._bans: dict[tuple[str, str], Ban] = {}
        """App and user → the ban, the oldest first."""
        self.holds: dict[tuple[str, str], Ban] = {}
        """The users that :meth:`hold` keeps out, as (app, user)."""
        self.kicks = RecentKicks()
        self._notices = Buckets(LOGIN_NOTICES)

    def commands(self) -> CommandTable:
        """Return the commands of clients that this service runs."""

        # A login and a ping are the commands that need no session.
        return {
            Login: CommandRow(self._run_login, needs_session=False),
            Heartbeat: CommandRow(self._run_heartbeat),
            Ping: CommandRow(_run_ping, needs_session=False),
        }

    def _run_login(self, connection: Connection, command: Login) -> Reply:
        """Log a connection in, and return the reply to the client."""
        code = self.login(connection, command)
        if log.isEnabledFor(logging.DEBUG):
            ids = {"connection": connection.peer}
            log.debug(
                "login of %r in %r: %d", command.user, command.app, code, extra=ids
            )
        if code == ReplyCode.OK:
            return Reply.OK
        return Reply(code)

    def _run_heartbeat(self, connection: Connection, _command: Heartbeat) -> Reply:
        """Note that the client is alive."""
        self.heartbeat(connection)
        return Reply.OK

    def login(
        self,
        connection: Connection,
        login: Login,
        again: bool = False,
        decision: LoginDecision | None = None,
        kicks: int | None = None,
    ) -> int:
        """Begin a session. Returns a reply code.

        After ``ReplyCode.OK``, the user can be reached on this connection.
        ``again`` means that a connection that has logged in may log in again;
        its session ends when the new one begins. ``decision`` is the login
        decision; None: it is made here. ``kicks`` is the number of kicks before
        the decision; None: the number of now. Under the policy ``refuse`` this
        may wait for :data:`ALIVE_SECONDS`.
        """
        if kicks is None:
            kicks = self.kicks.count
        # An alias stands for another app.
        name = self._logins.tenants.aliases.get(login.app, login.app)
        if name != login.app:
            login = replace(login, app=name)
        try:
            if not self._logins.takes_user(name, login.user):
                raise SessionRefused(ReplyCode.BAD_USER, "user")
            app = self._app(name)
            if connection.user is not None and not again:
                self._renew(connection, login)
            else:
                self._log_in(app, connection, login, decision, kicks)
        except SessionRefused as refused:
            return self._refuse(connection, login, refused)
        return ReplyCode.OK

    def _log_in(
        self,
        app: App,
        connection: Connection,
        login: Login,
        decision: LoginDecision | None,
        kicks: int,
    ) -> None:
        """Begin a session if the login decision, the bans and the policy of the
        app permit it.

        ``kicks`` is the number of kicks when the login began. May switch
        greenlets. Raises SessionRefused.
        """
        if decision is None:
            decision = self._check(connection, login)
        if decision.code != ReplyCode.OK:
            close_code = decision.close if decision.final else 0
            raise SessionRefused(decision.code, close=close_code)
        if decision.device:
            login = replace(login, device=decision.device)

        replaced = self._apply_policy(app, connection, login)
        # The connection may have ended while the policy was applied.
        if connection.state >= CLOSING:
            raise SessionRefused(ReplyCode.FAILED, "gone")
        if connection.user:
            # Another login on the connection: its session ends first.
            self._charge_notices(connection, connection.user, login)
            self.leave(connection, (app.name, login.user))
        self._begin(app, connection, login)

        # The login may have switched greenlets. If the user was kicked
        # meanwhile, the kick has found no session to close.
        if kicks != self.kicks.count:
            self._require_no_kick(kicks, app.name, login)
        self._logins.began(connection, decision)
        # Closed last: if the login is refused, the older sessions stay open.
        for older in replaced:
            older.close(CloseCode.REPLACED)

    def _require_no_kick(self, kicks: int, app: str, login: Login) -> None:
        """Raise SessionRefused if the user was kicked, or the app deleted, since
        there were ``kicks`` kicks."""
        if self.kicks.since(kicks, app, login.user, login.device):
            # A kick with a ban is refused as a ban, which has a reason.
            self._require_no_ban(app, login.user)
            raise SessionRefused(ReplyCode.UNAUTHORIZED, "kicked", CloseCode.KICKED)
        self._require_app_not_deleted(kicks, app)

    def _charge_notices(
        self, connection: Connection, former_user: str, login: Login
    ) -> None:
        """Count the notices that other users get when the user of a connection
        changes.

        Raises SessionRefused if the user changes too often.
        """
        if (connection.app, former_user) == (login.app, login.user):
            return
        size = _NOTICES_BYTES + len(former_user) + len(login.user)
        limit = self._fanout.notice_bytes
        # A larger size counts as the limit: otherwise nobody could ever pay it.
        if not self._notices.take(ref(connection), min(size, limit), limit):
            raise SessionRefused(ReplyCode.NOT_STORED, "rate")

    def _apply_policy(
        self, app: App, connection: Connection, login: Login
    ) -> Collection[Connection]:
        """Apply the policy of an app to a login. Raises SessionRefused.

        Returns the older sessions that the login replaces. Under the policy
        ``refuse``, older sessions are pinged first: if one is alive, the login
        is refused.
        """
        if self._bans or self.holds:
            self._require_no_ban(login.app, login.user)
        if app.policy not in ("single", "refuse"):
            return ()  # the older connection stays open
        rivals = _rivals(app, login, connection)
        if app.policy == "refuse" and rivals:
            return self._require_dead(app, connection, login, rivals)
        return rivals

    def _require_dead(
        self,
        app: App,
        connection: Connection,
        login: Login,
        rivals: list[Connection],
    ) -> list[Connection]:
        """Ping the older sessions of a user, and return them if all are dead.

        Raises SessionRefused if one is alive. Sessions that began during the
        wait count as alive.
        """
        is_any_alive = self._any_alive(rivals)
        rivals_now = _rivals(app, login, connection)
        if is_any_alive or any(rival not in rivals for rival in rivals_now):
            raise SessionRefused(ReplyCode.FAILED, "policy", CloseCode.REFUSED)
        # The user may have been banned during the wait.
        self._require_no_ban(login.app, login.user)
        return rivals_now

    def _require_no_ban(self, app: str, user: str) -> None:
        """Raise SessionRefused if a user is banned."""
        ban = self.ban_of(app, user)
        if ban:
            until = time() + ban.seconds
            raise SessionRefused(
                ReplyCode.UNAUTHORIZED, "banned", CloseCode.BANNED, until, ban.text
            )

    def _require_app_not_deleted(self, kicks: int, app: str) -> None:
        """Raise SessionRefused if an app was deleted after the first ``kicks``
        kicks."""
        if self.kicks.since(kicks, app):
            raise SessionRefused(
                ReplyCode.UNAUTHORIZED, "deleted", CloseCode.APP_DELETED
            )

    def begin_without_user(
        self,
        connection: Connection,
        app: str,
        decision: LoginDecision,
        kicks: int | None = None,
    ) -> int:
        """Begin a session without a user. Returns a reply code.

        Such a session can only be a member of channels. No push to users
        reaches it, and no user is online by it. ``kicks`` is the number of
        kicks before the decision; None: the decision has not switched
        greenlets. Never switches greenlets.
        """
        try:
            hub_app = self._app(app)
            if kicks is not None:
                self._require_app_not_deleted(kicks, app)
            if connection.state >= CLOSING:
                raise SessionRefused(ReplyCode.FAILED, "gone")
        except SessionRefused as refused:
            return self._refuse(connection, Login(app, user=""), refused)

        # Attached only: pushes to users do not find it.
        self._hub.attach(hub_app, connection, user="", device="")
        self._metrics.logins[app] += 1
        self._logins.began(connection, decision)
        return ReplyCode.OK

    def begin_for(
        self,
        connection: Connection,
        app: str,
        principal: Principal,
        token: str,
        dialect: str,
        device: str = "",
    ) -> bool:
        """Begin a session for the maker of the request that opens a connection.

        It is a session of the user with this token. A back end, or somebody
        without a token, gets a session without a user. The app's rules apply as
        to a login: dialects, origins, bans, limits, policy.

        Returns False if the session was refused; then the connection is closed
        with the reason. May switch greenlets, but not after the session has
        begun.
        """
        # A kick during the decision would find no session to close.
        kicks = self.kicks.count
        if principal.user:
            decision = self._logins.check(
                app, principal.user, token, dialect, connection, device
            )
        else:
            decision = self._logins.admit(app, dialect, connection)
        if not decision.ok:
            connection.close(decision.close)
            return False

        if principal.user:
            login = Login(app, principal.user, token, device)
            code = self.login(connection, login, decision=decision, kicks=kicks)
        else:
            code = self.begin_without_user(connection, app, decision, kicks)
        if code != ReplyCode.OK:
            connection.close(close_code_of(code))
        return connection.is_open

    def takes_user(self, app: str, user: str) -> bool:
        """Whether a user id is short enough for an app. Never switches
        greenlets."""
        return self._logins.takes_user(app, user)

    def replaces_older(self, app: str) -> bool:
        """Whether a login to an app ends the older session of its user and
        device.

        Never switches greenlets.
        """
        hub_app = self._hub.apps.get(app)
        return hub_app is not None and hub_app.policy in ("single", "refuse")

    def _check(self, connection: Connection, login: Login) -> LoginDecision:
        """Let the login rules decide about a login. May switch greenlets."""
        dialect = connection.encoding.dialect.name
        return self._logins.check(
            login.app, login.user, login.token, dialect, connection, login.device
        )

    def _renew(self, connection: Connection, login: Login) -> None:
        """Handle another login on a connection that has a session.

        It may only renew the token of this session. May switch greenlets.
        Raises SessionRefused.
        """
        is_same = (connection.app, connection.user) == (login.app, login.user)
        if not is_same or not self._logins.holds_token(connection):
            raise SessionRefused(ReplyCode.FAILED, "again")

        decision = self._check(connection, login)
        if not decision.ok:
            raise SessionRefused(decision.code)
        # The connection may have ended while the token was verified.
        if not connection.is_open:
            raise SessionRefused(ReplyCode.FAILED, "gone")
        self._logins.began(connection, decision)
        self.heartbeat(connection)

    def leave(
        self, connection: Connection, successor: tuple[str, str] | None = None
    ) -> None:
        """End a session whose connection stays open.

        ``successor`` has the app and the user of the next session; None: no
        session follows. If the user stays the same, others get no exit notice.
        May switch greenlets.
        """
        app = connection.app
        user = connection.user
        went_offline = self._hub.detach(connection)
        if not went_offline or app is None or user is None:
            return
        # The next session of this connection keeps the user online.
        if (app, user) != successor:
            self._fanout.notice(self._hub.apps[app], Event("exit", user, EXIT_TEXT))

    def heartbeat(self, connection: Connection) -> None:
        """Renew a session, because its client has sent a heartbeat.

        An older connection under ``newest`` does not keep its user online by
        it.
        """
        connection.last_seen = monotonic()

    def ended(self, connection: Connection, code: int) -> None:
        """Handle the end of a connection (``ConnectionContext.ended``).

        ``code`` is the close code.
        """
        self._metrics.closed(code)
        went_offline = self._hub.leave(connection)
        # Users who are connections had no enter notice.
        if went_offline and connection.encoding.dialect.name != NAMED_BY_ID:
            app, user = app_and_user(connection)
            self._fanout.notice(self._hub.apps[app], Event("exit", user, EXIT_TEXT))

    # --- closing and banning --------------------------------------------------

    def add_to(self, queries: NodeQueries) -> None:
        """Answer the queries of other nodes."""
        queries.add("close_sessions", CloseSessions, self.close_here)
        queries.add("unban", Unban, self.unban_here)

    def close(
        self,
        app: str,
        users: Sequence[str],
        device: str | None = None,
        ban_seconds: float = 0,
        reason: str = "",
    ) -> ClosedSessions:
        """Close the sessions of users on all nodes, and ban the users if
        ``ban_seconds`` says so.

        The close code keeps clients from connecting again. ``ban_seconds`` is
        the time for which logins are refused, with a ``reason`` that the users
        see; 0: no ban; infinity: for good. ``device`` limits it to sessions of
        a device of this name, or of a part of it; None: all. May switch
        greenlets.
        """
        missing: list[str] = []
        ban_seconds = min(ban_seconds, _LONGEST_BAN * MAX_BAN_SECONDS)
        query = CloseSessions(app, users, device, ban_seconds, reason=reason)
        if self._others is None:
            closed = self.close_here(query)
        else:
            closed, missing = self._close_on_all_nodes(self._others, query)

        # The ban is stored last. A node that reads a new ban closes the
        # sessions, and these would not be counted here.
        is_lasting = ban_seconds <= 0 or self._store_ban(
            app, users, ban_seconds, reason
        )
        return ClosedSessions(closed, tuple(missing), is_lasting)

    def _close_on_all_nodes(
        self, others: OtherNodes, query: CloseSessions
    ) -> tuple[list[int], list[str]]:
        """Close sessions here and on the other nodes.

        Returns the number of closed sessions of each user, and the nodes that did
        not answer.
        """
        query = replace(query, online=self._online(others, query.app, query.users))
        closed_here = self.close_here(query)
        answers, missing = self._query(others, "close_sessions", query)
        # Each node has answered with a number for each user.
        counts_of_nodes = [closed_here, *read(answers, list[int]).values()]
        closed = [sum(counts) for counts in zip(*counts_of_nodes, strict=False)]
        return closed, missing

    def _online(self, others: OtherNodes, app: str, users: Sequence[str]) -> list[str]:
        """Return the users with an addressed session on some node.

        Empty if the registry does not answer.
        """
        if not users:
            return []
        rows = zip(users, others.registry.find(app, users) or (), strict=False)
        return [user for user, refs in rows if is_found(refs)]

    def _store_ban(
        self, app: str, users: Sequence[str], seconds: float, reason: str
    ) -> bool:
        """Store a ban in the database.

        Returns False if it was not stored: then nodes that start later do not
        know it.
        """
        # Nodes of a cluster with databases of their own refuse to run. So only
        # a node without a cluster creates a database here.
        may_store = self._store.has_database or self._others is None
        if app not in self._hub.apps or not may_store:
            return False
        try:
            self._store.ban(app, users, seconds, reason)
        except StorageUnavailable as error:
            log.warning("a ban in %s was not stored: %s", app, error)
            return False
        return True

    def unban(self, app: str, users: Sequence[str]) -> tuple[str, ...]:
        """Lift bans on all nodes. Returns the nodes that did not answer.

        They read the change from the database later. May switch greenlets.
        Raises StorageUnavailable.
        """
        if self._store.has_database:
            self._store.ban(app, users, seconds=0)  # lifts the bans
        query = Unban(app, users)
        self.unban_here(query)
        if self._others is None:
            return ()
        _, missing = self._query(self._others, "unban", query)
        return tuple(missing)

    def learn(self, changes: Changes) -> None:
        """Apply bans that any node has stored, and that were read from the
        database.

        A user who is banned here already has no sessions. So only the sessions
        of newly banned users are looked for, which may mean a walk over all
        connections. Never switches greenlets.
        """
        for (app, seconds, reason), users in self._take_bans(changes.bans).items():
            query = CloseSessions(app, users, ban_seconds=seconds, reason=reason)
            self.close_here(query)

    def _take_bans(
        self, rows: Iterable[BanRow]
    ) -> dict[tuple[str, float, str], list[str]]:
        """Apply bans, and return the users who were not banned before.

        They are under the app, the seconds and the reason of their bans.
        """
        new_bans: dict[tuple[str, float, str], list[str]] = {}
        for row in rows:
            if row.seconds > 0 and not self.is_banned(row.app, row.user):
                key = (row.app, row.seconds, row.reason)
                new_bans.setdefault(key, []).append(row.user)
            # The app may be created later, so it need not exist here.
            self.ban(row.app, row.user, row.seconds, row.reason)
        return new_bans

    def _query(
        self, others: OtherNodes, kind: str, query: CloseSessions | Unban
    ) -> tuple[dict[str, bytes], list[str]]:
        """Query the other nodes.

        Returns the answers by node, and the nodes that did not answer, which
        are logged.
        """
        answers, missing = others.query(kind, query)
        if missing:
            log.warning("query %r: no answer from %s", kind, ", ".join(missing))
        return answers, missing

    def close_here(self, query: CloseSessions) -> list[int]:
        """Close sessions of this node, as another node or this one asks.

        Returns the number of closed addressed sessions of each user: sessions that
        pushes reach. Never switches greenlets.
        """
        # Also without an app: a login may be in progress.
        for user in query.users:
            self.kicks.note(query.app, user, query.device)
        app = self._hub.apps.get(query.app)
        if app is None:
            return [0] * len(query.users)
        if query.ban_seconds > 0:
            for user in query.users:
                self.ban(query.app, user, query.ban_seconds, query.reason)

        sessions_of = [
            [session for session in app.sessions_of(user) if query.concerns(session)]
            for user in query.users
        ]
        counts = list(map(len, sessions_of))
        # All connections are found before the first one is closed, because its end
        # changes the hub.
        unaddressed = self._find_unaddressed(app, query, counts)
        self._close_each((*unaddressed, *chain.from_iterable(sessions_of)), query.app)
        return counts

    def _close_each(self, connections: Collection[Connection], app: str) -> None:
        """Close connections because of a kick or a ban, which the close code tells."""
        for connection in connections:
            ban = self.ban_of(app, connection.user or "")
            if ban is None:
                connection.close(CloseCode.KICKED)
            else:
                connection.close(CloseCode.BANNED, ban.text)

    def forget_app(self, app: str) -> None:
        """Close the sessions of a deleted app on this node, and forget its
        bans.

        Never switches greenlets.
        """
        self._bans = {key: ban for key, ban in self._bans.items() if key[0] != app}
        self._close_app(app)

    def app_changed(self, tenant: Tenant) -> None:
        """Close the sessions of an app on this node if it is locked.

        Never switches greenlets.
        """
        if tenant.locked:
            self._close_app(tenant.name)

    def _close_app(self, app: str) -> None:
        """Close all sessions of an app on this node, and refuse the logins that
        have begun."""
        self.kicks.note(app)
        for connection in self._hub.retire(app):
            connection.close(CloseCode.APP_DELETED)

    def _find_unaddressed(
        self, app: App, query: CloseSessions, closed: Sequence[int]
    ) -> Collection[Connection]:
        """Return the older connections to close: they are served, but not
        addressed.

        Such connections exist only under the policy ``newest``, after another
        login of the same user. ``closed`` has the number of addressed sessions
        of each user here.

        A session is addressed if pushes reach it.
        """
        if app.policy != "newest":
            return ()
        closing = _users_closed_somewhere(query, closed)
        if not closing:
            return ()
        return [
            connection
            for connection in self._hub.connections()
            if connection.user in closing
            and connection.app == app.name
            and query.concerns(connection)
            and connection.state is UNADDRESSED
        ]

    def unban_here(self, query: Unban) -> bool:
        """Lift the bans of this node. Never switches greenlets."""
        for user in query.users:
            self.ban(query.app, user, seconds=0)
        return True

    def ban(self, app: str, user: str, seconds: float, reason: str = "") -> None:
        """Refuse a user's logins on this node for ``seconds``; 0 ends the ban.

        Sessions stay open. If there are more than :data:`MAX_BANS`, the oldest
        ban is forgotten.
        """
        # A new ban replaces an earlier one, and goes to the end of the list.
        self._bans.pop((app, user), None)
        if seconds > 0:
            self._bans[app, user] = Ban(monotonic() + seconds, reason)
            while len(self._bans) > MAX_BANS:
                del self._bans[next(iter(self._bans))]

    def hold(self, users: Mapping[tuple[str, str], int], reason: str) -> None:
        """Keep exactly these users out of this node, even if their bans are
        lifted.

        This lasts until the next call. ``users`` maps app and user to the end
        in Unix seconds, which is shown to the user with the ``reason``. Never
        switches greenlets.
        """
        new = users.keys() - self.holds.keys()
        # Adding this to a Unix time gives the time of the process's clock.
        unix_to_monotonic = monotonic() - time()
        self.holds = {
            user: Ban(unix_to_monotonic + end, reason) for user, end in users.items()
        }
        for app, user in new:
            self.close_here(CloseSessions(app, [user], online=[user]))

    def _begin(self, app: App, connection: Connection, login: Login) -> None:
        """Register a session in the hub, and send the enter notice to other
        users."""
        # Clients of such a dialect send heartbeats: the login is the first one.
        if not connection.encoding.dialect.pinged:
            connection.last_seen = monotonic()
        self._hub.join(app, connection, login.user, login.device)
        self._metrics.logins[app.name] += 1
        if self._fanout.takes_notices(app):
            self._fanout.notice(app, Event("enter", login.user, ENTER_TEXT), connection)

    def _app(self, name: str) -> App:
        """Return an app of this node. Raises SessionRefused if no app has this
        name."""
        app = self._hub.apps.get(name)
        if app is None:
            raise SessionRefused(ReplyCode.UNAUTHORIZED, "app")
        return app

    def _refuse(
        self, connection: Connection, login: Login, refused: SessionRefused
    ) -> int:
        """Count and log the refusal of a login, and return its reply code.

        The connection is closed if it must end.
        """
        if refused.close:
            connection.close(refused.close, refused.text)
        if refused.reason is not None:
            self._logins.refused(
                refused.reason,
                login.app,
                login.user,
                connection.peer,
                until=refused.until,
            )
        return refused.code

    def bans(self, app: str) -> dict[str, Ban]:
        """Return the bans of an app by their users, according to this node's
        list.

        Users of :attr:`holds` are left out. Never switches greenlets.
        """
        return {
            user: ban
            for (name, user), ban in self._bans.items()
            if name == app and ban.seconds > 0
        }

    def banned_until(self, app: str, user: str) -> float:
        """Return when the ban of a user ends, in Unix seconds; 0: the user is
        not banned.

        According to this node's list. Never switches greenlets.
        """
        ban = self.ban_of(app, user)
        if ban is None:
            return 0.0
        return time() + ban.seconds

    def is_banned(self, app: str, user: str) -> bool:
        """Whether a user is banned, according to this node's list. Never
        switches greenlets."""
        return self.ban_of(app, user) is not None

    def ban_of(self, app: str, user: str) -> Ban | None:
        """Return the ban that keeps a user out, according to this node's list.

        None if the user is not banned. Never switches greenlets.
        """
        ban = self._bans.get((app, user))
        if ban is not None and ban.ends < monotonic():
            ban = None
            del self._bans[app, user]
        return self.holds.get((app, user), ban)

    def _any_alive(self, rivals: list[Connection]) -> bool:
        """Ping these sessions, and wait until one of them answers.

        Returns False if all have ended, or if none has answered in
        :data:`ALIVE_SECONDS`.
        """
        for rival in rivals:
            rival.ping()
        for _ in range(_LOOKS):
            gevent.sleep(ALIVE_SECONDS / _LOOKS)
            # An answer resets the time of the ping.
            if any(rival.is_open and not rival.pinged_at for rival in rivals):
                return True
            if all(not rival.is_open for rival in rivals):
                break
        return False


def _run_ping(_connection: Connection, _command: Ping) -> Reply:
    """Answer a ping of a client."""
    return _PONG


def _users_closed_somewhere(query: CloseSessions, closed: Sequence[int]) -> set[str]:
    """Return the users of a query who have, or had, sessions on some node.

    Without a session on any node, a user has no older connections either.
    ``closed`` has the number of sessions of each user that this node closes.
    """
    users = {user for user, number in zip(query.users, closed, strict=True) if number}
    if query.ban_seconds > 0:
        users.update(query.users)
    else:
        users.update(query.online)
    return users.intersection(query.users)
