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
"""How many times a login checks, within :data:`ALIVE_SECONDS`, whether an old
connection has answered."""
_LONGEST_BAN: Final = 100.0
"""A ban for good lasts this many times :data:`MAX_BAN_SECONDS`, because
infinity cannot be stored."""
_NOTICES_BYTES: Final = 200
"""Size of an exit notice and an enter notice together, without the names of
their users."""
_PONG: Final = Reply(ReplyCode.OK, "pong")
MAX_BANS: Final = 100_000
"""Limit of the bans that a node remembers. Beyond it the oldest ban is
forgotten."""
MAX_BAN_SECONDS: Final = 366 * 86400
"""The longest temporary ban that a request may set. A longer ban lasts for
good."""
MAX_KICKS: Final = 10_000
"""Number of kicks that are remembered. More kicks cannot happen during one
login."""


def close_code_of(code: int) -> int:
    """Return the close code for a connection that opens with a login.

    ``code`` is the reply code with which the login was refused.
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
        """A line for the user that says how long the ban lasts, and why."""
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
    """A query that asks a node to close the sessions of these users.

    The answer has the number of closed sessions of each user.

    - ``device``: only sessions of a device of this name are closed; None means
      sessions of all devices.
    - ``ban_seconds``: the time for which logins of these users are refused; 0
      means no ban.
    - ``reason``: the reason of the ban, which the users see.
    - ``online``: the users among them who have an addressed session on some
      node. Their older connections are closed, too.
    """

    app: str
    users: Sequence[str]
    device: str | None = None
    ban_seconds: float = 0
    online: Sequence[str] = ()
    reason: str = ""

    def concerns(self, connection: Connection) -> bool:
        """Whether the session of a connection is on the device that the query
        names."""
        return self.device is None or is_of_device(connection.device, self.device)


class Unban(Struct, frozen=True, array_like=True):
    """A query that asks a node to lift the bans of these users. The answer is
    True."""

    app: str
    users: Sequence[str]


class ClosedSessions(Struct, frozen=True):
    """The result of closing sessions on all nodes.

    ``closed`` has the number of closed addressed sessions of each user.
    ``missing`` has the nodes that did not answer in time. ``lasting`` tells
    whether the bans are in the database, so that nodes that start later know
    the bans. It is True if there is no ban.
    """

    closed: list[int]
    missing: tuple[str, ...] = ()
    lasting: bool = True

    @property
    def total(self) -> int:
        """The sum over all users."""
        return sum(self.closed)


class RecentKicks(Service):
    """The last kicks. A kick is a logout by an operator or a back end.

    A kick closes existing sessions. A login in progress has no session yet, and
    its proof may have become invalid: the user may have ended all sessions, or
    may be deleted. So a login that began before a kick and ends after it is
    refused. ``count`` is the number of kicks.
    """

    count: int = 0
    _numbers: dict[tuple[str, str, str | None], int] = field(default_factory=dict)
    """App, user and device (see :meth:`note`) → the number of the last kick
    with these arguments. The oldest kick comes first."""

    def note(self, app: str, user: str = "", device: str | None = None) -> None:
        """Record the kick of a user from devices of this name; None means all
        devices.

        Without a ``user``, record that an app was deleted. Logins that began
        before must not end in a new app of the same name, which may have other
        users.
        """
        key = (app, user, device)
        self.count += 1
        # The new entry goes to the end, so that the oldest kick comes first.
        self._numbers.pop(key, None)
        self._numbers[key] = self.count
        if len(self._numbers) > MAX_KICKS:
            del self._numbers[next(iter(self._numbers))]

    def since(self, count: int, app: str, user: str = "", device: str = "") -> bool:
        """Whether a user was kicked from a device, or an app deleted, after the
        first ``count`` kicks.

        A login reads ``count`` when it begins, and passes it here later.
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
    - ``reason``: the reason for the log and the counters; None if the refusal
      was already counted.
    - ``close``: the close code of the connection; 0 means that the connection
      stays open.
    - ``text``: the text that the client gets with the close code.
    - ``until``: the Unix second at which the reason of the refusal ends, such
      as a ban; 0 if that is not known.
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

    - ``multi``: both connections stay open, and pushes reach both.
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
        """Start with no session. ``others`` asks the other nodes; it is None
        without a cluster."""
        self._hub = hub
        self._fanout = fanout
        self._metrics = metrics
        self._logins = logins
        self._store = store
        self._others = others
        self._bans: dict[tuple[str, str], Ban] = {}
        """App and user → the ban. The oldest ban comes first."""
        self.holds: dict[tuple[str, str], Ban] = {}
        """App and user → the ban of a user whom :meth:`hold` keeps out."""
        self.kicks = RecentKicks()
        self._notices = Buckets(LOGIN_NOTICES)

    def commands(self) -> CommandTable:
        """Return the commands of clients that this service runs."""

        # Only a login and a ping need no session.
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
        decision; None means that it is made here. ``kicks`` is the number of
        kicks before the decision; None means the current number. Under the
        policy ``refuse`` this may wait for :data:`ALIVE_SECONDS`.
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
        # The older sessions are closed last. If the login is refused, they stay
        # open.
        for older in replaced:
            older.close(CloseCode.REPLACED)

    def _require_no_kick(self, kicks: int, app: str, login: Login) -> None:
        """Raise SessionRefused if the user was kicked, or the app was deleted,
        after the first ``kicks`` kicks."""
        if self.kicks.since(kicks, app, login.user, login.device):
            # If the kick came with a ban, the login is refused because of the
            # ban, which has a reason for the user.
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
        # A size above the limit counts as the limit. Otherwise no bucket would
        # ever have enough tokens for it.
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

        Raises SessionRefused if a session is alive. Sessions that began during
        the wait count as alive.
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
        reaches the session, and it makes no user online. ``kicks`` is the
        number of kicks before the decision. It is None if the decision was made
        without a switch of greenlets. Never switches greenlets.
        """
        try:
            hub_app = self._app(app)
            if kicks is not None:
                self._require_app_not_deleted(kicks, app)
            if connection.state >= CLOSING:
                raise SessionRefused(ReplyCode.FAILED, "gone")
        except SessionRefused as refused:
            return self._refuse(connection, Login(app, user=""), refused)

        # The session is only attached to the hub. So pushes to users do not
        # find it.
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

        The session is for the user with this token. A back end, or somebody
        without a token, gets a session without a user. The rules of the app
        apply as they do to a login: dialects, origins, bans, limits and policy.

        Returns False if the session was refused. Then this method has closed
        the connection with the reason. May switch greenlets, but not after the
        session has begun.
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

        Such a login may only renew the token of this session. May switch
        greenlets. Raises SessionRefused.
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

        ``successor`` has the app and the user of the next session; None means
        that no session follows. If the user stays the same, other users get no
        exit notice. May switch greenlets.
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

        Under the policy ``newest``, the heartbeat of an older connection does
        not keep its user online.
        """
        connection.last_seen = monotonic()

    def ended(self, connection: Connection, code: int) -> None:
        """Handle the end of a connection (``ConnectionContext.ended``).

        ``code`` is the close code.
        """
        self._metrics.closed(code)
        went_offline = self._hub.leave(connection)
        # If users are connections, nobody got an enter notice about them.
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
        ``ban_seconds`` is not 0.

        The close code keeps clients from connecting again.

        - ``device``: only sessions of a device of this name, or of a part of
          that device, are closed; None means sessions of all devices.
        - ``ban_seconds``: the time for which logins are refused; 0 means no
          ban, and infinity a ban for good.
        - ``reason``: the reason of the ban, which the users see.

        May switch greenlets.
        """
        missing: list[str] = []
        ban_seconds = min(ban_seconds, _LONGEST_BAN * MAX_BAN_SECONDS)
        query = CloseSessions(app, users, device, ban_seconds, reason=reason)
        if self._others is None:
            closed = self.close_here(query)
        else:
            closed, missing = self._close_on_all_nodes(self._others, query)

        # The ban is stored last. A node that reads a new ban closes the
        # sessions of the user, and these sessions would not be counted here.
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

        The list is empty if the registry does not answer.
        """
        if not users:
            return []
        rows = zip(users, others.registry.find(app, users) or (), strict=False)
        return [user for user, refs in rows if is_found(refs)]

    def _store_ban(
        self, app: str, users: Sequence[str], seconds: float, reason: str
    ) -> bool:
        """Store a ban in the database.

        Returns False if the ban was not stored. Then nodes that start later do
        not know the ban.
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

        Such nodes read the change from the database later. May switch
        greenlets. Raises StorageUnavailable.
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

        The keys of the result are the app, the seconds and the reason of a ban.
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
        """Close sessions of this node, because this node or another node asks
        for it.

        Returns the number of closed addressed sessions of each user: sessions that
        pushes reach. Never switches greenlets.
        """
        # This is done even if the app does not exist here, because a login may
        # be in progress.
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
        # All connections are found before the first one is closed, because each
        # close changes the hub.
        unaddressed = self._find_unaddressed(app, query, counts)
        self._close_each((*unaddressed, *chain.from_iterable(sessions_of)), query.app)
        return counts

    def _close_each(self, connections: Collection[Connection], app: str) -> None:
        """Close connections because of a kick or a ban. The close code tells
        the client which."""
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

        The users are kept out until the next call. ``users`` maps app and user
        to a Unix second. It is shown to the user as the end, with the
        ``reason``. Never switches greenlets.
        """
        new = users.keys() - self.holds.keys()
        # A Unix time plus this number is a time of the monotonic clock of this
        # process.
        unix_to_monotonic = monotonic() - time()
        self.holds = {
            user: Ban(unix_to_monotonic + end, reason) for user, end in users.items()
        }
        for app, user in new:
            self.close_here(CloseSessions(app, [user], online=[user]))

    def _begin(self, app: App, connection: Connection, login: Login) -> None:
        """Register a session in the hub, and send the enter notice to other
        users."""
        # Clients of such a dialect send heartbeats, and the login counts as the
        # first heartbeat.
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

        Users whom :meth:`hold` keeps out are left out. Never switches
        greenlets.
        """
        return {
            user: ban
            for (name, user), ban in self._bans.items()
            if name == app and ban.seconds > 0
        }

    def banned_until(self, app: str, user: str) -> float:
        """Return when the ban of a user ends, in Unix seconds; 0 if the user is
        not banned.

        Only the bans that this node knows count. Never switches greenlets.
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

        The result is None if the user is not banned. Never switches greenlets.
        """
        ban = self._bans.get((app, user))
        if ban is not None and ban.ends < monotonic():
            ban = None
            del self._bans[app, user]
        return self.holds.get((app, user), ban)

    def _any_alive(self, rivals: list[Connection]) -> bool:
        """Ping these sessions, and wait until one of them answers.

        Returns False if all sessions have ended, or if no session has answered
        within :data:`ALIVE_SECONDS`.
        """
        for rival in rivals:
            rival.ping()
        for _ in range(_LOOKS):
            gevent.sleep(ALIVE_SECONDS / _LOOKS)
            # An answer of the client resets ``pinged_at``.
            if any(rival.is_open and not rival.pinged_at for rival in rivals):
                return True
            if all(not rival.is_open for rival in rivals):
                break
        return False


def _run_ping(_connection: Connection, _command: Ping) -> Reply:
    """Answer a ping of a client."""
    return _PONG


def _users_closed_somewhere(query: CloseSessions, closed: Sequence[int]) -> set[str]:
    """Return the users of a query who have, or had until now, sessions on some
    node.

    Without a session on any node, a user has no older connections either.
    ``closed`` has the number of sessions of each user that this node closes.
    """
    users = {user for user, number in zip(query.users, closed, strict=True) if number}
    if query.ban_seconds > 0:
        users.update(query.users)
    else:
        users.update(query.online)
    return users.intersection(query.users)
