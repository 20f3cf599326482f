"""A node's inside without its servers: hub, fan-out, sessions and dispatch over
real sockets."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from msgspec import json

from imserver.gateway.auth.questions import Reviews
from imserver.gateway.auth.rules import ALLOWED, BAD_TOKEN, LoginDecision, LoginRequest
from imserver.gateway.channels.connections import Connections
from imserver.gateway.channels.members import ChannelMembers, NodeParts
from imserver.gateway.channels.subscriptions import build_channels
from imserver.gateway.cluster.history import LocalHistory
from imserver.gateway.cluster.nodes import NodeQueries
from imserver.gateway.cluster.registry import Lease, SoloRegistry
from imserver.gateway.config.settings import ChannelSettings, TenantSettings
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.errors import LoginRefusal, StorageUnavailable
from imserver.gateway.hub.expiry import Sweep
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import Hub
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Login
from imserver.gateway.process import Secret
from imserver.gateway.protocol.dialect import Dialect
from imserver.gateway.push.idempotency import Idempotency
from imserver.gateway.push.pending import PendingPushes
from imserver.gateway.push.push import LocalReach, Reach
from imserver.gateway.sessions.connection_ids import ConnectionIds, ConnectionTable
from imserver.gateway.sessions.presence import Presence
from imserver.gateway.sessions.sessions import Sessions
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.dispatch import CommandTable, Dispatcher
from tests.gateway.core.back_end import BackEnd
from tests.gateway.transport.harness import Client, SocketHarness, turn, until

CMD = CmdDialect()
REGISTRY = SoloRegistry(Lease("node"))
POLICIES = {"101": "newest", "102": "multi", "103": "single", "104": "refuse"}


class Bans:
    """In place of the database: the bans in it. ``away``: it does not
    answer."""

    has_database = True
    away = False

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = {}

    def ban(
        self, app: str, users: Sequence[str], seconds: float, reason: str = ""
    ) -> None:
        """Store bans."""
        if self.away:
            raise StorageUnavailable("away")
        self.seconds.update({(app, user): seconds for user in users})


class Admitting:
    """Lets in whom ``may_login(app, user, token)`` lets in. ``began`` remembers
    who has."""

    def __init__(
        self, may_login: Callable[[str, str, str], bool], metrics: Metrics | None = None
    ) -> None:
        self._may_login = may_login
        self._metrics = metrics or Metrics()
        self.reasons: list[str] = []
        self.account_apps: set[str] = set()
        self.tenants = SimpleNamespace(aliases=dict[str, str]())
        self.began_with: list[tuple[Connection, LoginDecision]] = []

    def takes_user(self, app: str, user: str) -> bool:
        return len(user.encode()) <= TenantSettings().user_bytes_of(app)

    def check(
        self,
        app: str,
        user: str,
        token: str,
        dialect: str,
        connection: LoginRequest,
        device: str = "",
    ) -> LoginDecision:
        return ALLOWED if self._may_login(app, user, token) else BAD_TOKEN

    def refused(
        self,
        reason: LoginRefusal,
        app: str,
        user: str,
        peer: str,
        detail: str = "",
        until: float = 0,
    ) -> None:
        self.reasons.append(reason)
        self._metrics.login_refused(reason, app)

    def began(self, connection: Connection, decision: LoginDecision) -> None:
        self.began_with.append((connection, decision))

    def holds_token(self, connection: Connection) -> bool:
        return False


class Harness(SocketHarness):
    """Everything between the sockets and the HTTP API. One app for each login
    policy.

    ``allowed`` are the tokens that log in; None: anybody does.
    """

    def __init__(
        self,
        *,
        policies: Mapping[str, str] = POLICIES,
        notice_members: int = 1000,
        heartbeat_seconds: float = 360,
        login_seconds: float = 0,
        ping_seconds: float = 0,
        pong_seconds: float = 20,
        by_traffic: Mapping[str, float] | None = None,
        logins: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.metrics = Metrics()
        self.hub = Hub(policies, self.context.connections)
        self.hub.report_to(self.forgotten)
        self.fanout = Fanout(self.hub, self.flusher, self.metrics, notice_members)
        self.allowed: set[str] | None = None
        self.logins: Any = logins or Admitting(self._may_login, self.metrics)
        self.sessions = Sessions(
            self.hub, self.fanout, self.metrics, self.logins, Bans()
        )  # type: ignore[arg-type]
        self._add_channels()
        ids = Idempotency(1000, 60)
        self.reach: Reach = LocalReach(ids, self.fanout, self.metrics)
        self.back_end = BackEnd()
        self.now = 1000.0
        presence = Presence(self.hub, self.table, REGISTRY)
        self.pending = PendingPushes(
            self.reach.to_user, presence, 1000, 1_000_000, lambda: self.now
        )
        self._make_dispatcher()
        self.sweep = Sweep(
            self.context,
            self.metrics,
            heartbeat_seconds,
            login_seconds,
            ping_seconds,
            pong_seconds,
        )
        for dialect, seconds in (by_traffic or {}).items():
            self.sweep.checks[dialect] = lambda connection, seconds=seconds: seconds

    def _add_channels(self) -> None:
        self.table = ConnectionTable(self.hub, ConnectionIds(Secret(b"s" * 32), 1))
        self.history = LocalHistory(1_000_000, self.hub.member_count)
        here = NodeParts(
            self.hub, self.fanout, self.metrics, self.table, self.settings_of
        )
        self.channels = build_channels(here, ChannelMembers(here), self.history)
        self.connections = Connections(
            self.table, self.channels, self.fanout, NodeQueries(), REGISTRY
        )

    def core(self, **more: Any) -> Any:
        """What features get: the services of this node, and ``more``."""
        names = (
            "hub",
            "fanout",
            "sessions",
            "connections",
            "channels",
            "metrics",
            "dispatcher",
        )
        return SimpleNamespace(
            **{name: getattr(self, name, None) for name in names},
            **{
                "connection_table": self.table,
                "connection_ids": self.table.ids,
                "queries": NodeQueries(),
                "node_messages": None,
                **more,
            },
        )

    _tables: tuple[CommandTable, ...] = ()
    max_channels = 0
    store_conversations = False
    reviews = Reviews()
    dialect: Dialect = CMD
    """That of a client, if the test does not say."""
    channel_settings: Mapping[str, ChannelSettings] = {}

    def settings_of(self, _app: str) -> TenantSettings:
        return TenantSettings(
            max_channels=self.max_channels,
            channels=dict(self.channel_settings),
            store_conversations=self.store_conversations,
        )

    def forgotten(self, connection: Connection) -> None:
        self.channels.members.leave_all(connection)

    def _make_dispatcher(self, *tables: CommandTable) -> None:
        """Only the commands of services that are here have a row. ``tables``:
        in addition to earlier ones."""
        self._tables = (*self._tables, *tables)
        self.dispatcher = Dispatcher(self.metrics)
        for rows in (self.sessions.commands(), *self._tables):
            self.dispatcher.add(rows)

    def _may_login(self, _app: str, _user: str, token: str) -> bool:
        return self.allowed is None or token in self.allowed

    def on_ended(self, connection: Connection, code: int) -> None:
        super().on_ended(connection, code)
        self.channels.members.ended(connection, code)
        self.table.ended(connection, code)
        self.sessions.ended(connection, code)

    def connect(  # type: ignore[override]
        self, *, dialect: Dialect | None = None, deflate: int = 0, **options: Any
    ) -> tuple[Connection, Client]:
        """A connection whose messages are dispatched."""
        encoding = self.encoding(
            self.dispatcher.serve, deflate=deflate, dialect=dialect or self.dialect
        )
        return super().connect(encoding, **options)

    def login(
        self, app: str, user: str, device: str = "", **options: Any
    ) -> tuple[Connection, Client]:
        """A connection that has logged in; its answer has not been sent through
        the wire."""
        connection, client = self.connect(**options)
        assert self.sessions.login(connection, Login(app, user, device=device)) == 200
        return connection, client


def received(client: Client) -> list[tuple[str, str, str]]:
    """What a client was told unasked so far: (kind, sender, text)."""
    bodies = [json.decode(payload) for payload in client.payloads()]
    found = [
        (body["cmd"], body["response"]["data"])
        for body in bodies
        if body["response"]["codeMsg"] == "Ok"
    ]
    return [(kind, data["from"], data["msg"]) for kind, data in found]


def texts(*clients: Client) -> list[list[str]]:
    """What the clients were told since the last time, without notices."""
    found = []
    turn()
    for client in clients:
        client.probe(b"settled")
        found.append([text for kind, _, text in received(client) if kind == "msg"])
        client.frames.clear()
    return found


def offline(harness: Harness, app: str, user: str) -> None:
    """Wait until a user is not online."""
    until(lambda: not harness.hub.is_online(app, user))
