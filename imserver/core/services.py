"""What a node is, and its services: a struct for each concern. ``core/core.py`` builds them in this order."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from msgspec import Struct

from imserver.auth.authority import AllowLists, Authority, Keys
from imserver.auth.login import Logins
from imserver.auth.login_tokens import PageTokens
from imserver.auth.observer import Observer
from imserver.auth.questions import AccountLookup, BackEnds, Relations, Reviews
from imserver.auth.rates import BucketList, MutedUsers, SenderRates, Shared
from imserver.auth.tenants import Tenants
from imserver.channels.client_commands import ChannelCommands
from imserver.channels.connections import Connections
from imserver.channels.consent import ChannelConsent
from imserver.channels.subscriptions import Channels
from imserver.cluster.nodes import NodeMessages, NodeQueries, OtherNodes, Registry, read
from imserver.cluster.registry import LocalValues
from imserver.config.settings import Config
from imserver.hub.expiry import Sweep
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.logging import RequestLog
from imserver.metrics import Metrics
from imserver.process import DataDirectory, Secret
from imserver.push.idempotency import Idempotency
from imserver.push.pending import PendingPushes
from imserver.push.push import Publishing, Pushes, Reach
from imserver.sessions.connection_ids import ConnectionIds, ConnectionTable
from imserver.sessions.presence import Presence
from imserver.sessions.sessions import Sessions
from imserver.storage.erasures import Erasures
from imserver.storage.store import Store
from imserver.transport.connection import Connection, ConnectionContext
from imserver.transport.dispatch import Dispatcher
from imserver.transport.gate import Gate, Opened, Origins
from imserver.transport.outbox import Flusher
from imserver.transport.outgoing import Outgoing
from imserver.transport.poller import Poller
from imserver.transport.proxies import TrustedProxies
from imserver.version import running_version

if TYPE_CHECKING:
    from imserver.channels.registrar import Registrar
    from imserver.cluster.redis.registry import RedisRegistry
    from imserver.cluster.rpc.server import Rpc
    from imserver.push.routing import Rerouting

TemporaryValues: TypeAlias = "LocalValues | RedisRegistry"

OnEnded = Callable[[Connection, int], None]
"""Called with each connection that has ended, and its close code. Never switches."""


class NodeState:
    """Owner of what changes about a node as a whole.

    Features read ``version``, ``started_at`` (Unix seconds), ``http_port`` and ``ws_port``. They log requests
    that they answer themselves with ``request_log``, and count what somebody pays for in buckets of
    ``buckets.make``.
    """

    def __init__(self, config: Config, request_log: RequestLog) -> None:
        self.request_log = request_log
        self.version: Final = running_version()
        self.started_at = time()
        self.metrics = Metrics()
        self.data = DataDirectory(config.server.data_dir, shared=config.clustered)
        self.counters: list[Struct] = []
        """See :meth:`show`."""
        self.buckets = BucketList()
        """What is counted for whom, so that it can be found and lifted."""
        self.life: Literal["starts", "serves", "stops"] = "starts"
        """It serves from the end of the start to the beginning of its end."""
        self.stage = "setup"
        """The part of the node that starts or ends now, while it does not serve."""
        self.drained = False
        """True while an operator wants no clients here. Owned by
        :class:`imserver.core.network.Draining`."""
        self.max_connections = 0
        """As many as this process may open files for."""
        self.http_port = config.app.http_port
        self.ws_port = config.app.websocket_port
        self._settings = config.server
        self._secret = Secret(b"")

    def show(self, counters: Struct) -> None:
        """From now on show these numbers of a feature since the start in the state of the node."""
        self.counters.append(counters)

    def start(self) -> Secret:
        """Take the data folder. Returns the common secret of all nodes. Raises StartError."""
        self.data.start()
        self._secret = self.data.secrets(self._settings)
        return self._secret

    def keys_for(self, purpose: str) -> tuple[bytes, ...]:
        """The keys for one purpose, which all nodes derive from their common secret.

        What is new is signed with the first. While the operator changes the secret there is another one, and
        each of them verifies.
        """
        return self._secret.keys(purpose)

    @property
    def draining(self) -> bool:
        """Whether its clients have to go to other nodes: it stops, or an operator has drained it."""
        return self.life == "stops" or self.drained

    def key_for(self, purpose: str) -> bytes:
        """The first of :meth:`keys_for`, for what nobody verifies later."""
        return self.keys_for(purpose)[0]


class NetworkServices(Struct, frozen=True):
    """The sockets of a node: who may connect, who reads and writes, and who runs commands.

    Features send requests with ``outgoing``, ask ``proxies.trusts(host)`` whether to believe the headers of a
    proxy, and run a command for a connection with ``dispatcher.run``. The rest is for the core.

    ``sweep`` closes silent connections. ``outgoing``: requests to the outside. ``opened``: dialect → its
    function for new connections. ``ended`` are called in their order.
    """

    proxies: TrustedProxies
    origins: Origins
    gate: Gate
    poller: Poller
    flusher: Flusher
    context: ConnectionContext
    sweep: Sweep
    outgoing: Outgoing
    dispatcher: Dispatcher
    opened: dict[str, Opened]
    ended: list[OnEnded]


class StorageServices(Struct, frozen=True):
    """The database: statements, and with ``store.part(MessageLog)`` the log of stored messages. ``erasures``:
    those of users."""

    store: Store
    erasures: Erasures


class ClusterServices(Struct, frozen=True):
    """The other nodes. On a node alone, what reaches them is None.

    ``queries`` answers their questions. ``values``: shared for minutes. ``attempt`` counts attempts on all
    nodes together. ``others`` asks them, ``node_messages`` sends to them.
    """

    registry: Registry
    queries: NodeQueries
    values: TemporaryValues
    attempt: Shared | None = None
    rpc: Rpc | None = None
    node_messages: NodeMessages | None = None
    others: OtherNodes | None = None

    def answers(self, kind: str, query: object, answer: Any) -> tuple[dict[str, Any], list[str]]:
        """Query all other live nodes at the same time. Returns node → its answer, of the type ``answer``; and
        the nodes that did not answer in time. Switches."""
        answers, missing = ({}, []) if self.others is None else self.others.query(kind, query)
        return read(answers, answer), missing


class Foundation(Struct, frozen=True):
    """What a node has before it can log in users: from this, features answer questions of the core.

    ``table``: connections by their ids.
    """

    config: Config
    node: NodeState
    network: NetworkServices
    storage: StorageServices
    cluster: ClusterServices
    hub: Hub
    fanout: Fanout
    ids: ConnectionIds
    table: ConnectionTable
    tenants: Tenants
    keys: Keys
    sender_rates: SenderRates


class IdentityServices(Struct, frozen=True):
    """Who is who, and who may do what: apps, keys, accounts, logins, and the answers of features.

    ``observer`` stands for those of all features. ``allowed``: addresses from which back ends of apps may ask
    without a key.
    """

    tenants: Tenants
    keys: Keys
    sender_rates: SenderRates
    mutes: MutedUsers
    page_tokens: PageTokens
    accounts: AccountLookup
    relations: Relations
    reviews: Reviews
    back_ends: BackEnds
    observer: Observer
    logins: Logins
    allowed: AllowLists
    authority: Authority


class SessionServices(Struct, frozen=True):
    """Who is connected. ``hub`` and ``fanout``: on this node. ``table``: connections by their ids."""

    hub: Hub
    fanout: Fanout
    ids: ConnectionIds
    table: ConnectionTable
    sessions: Sessions
    presence: Presence
    connections: Connections


class TargetServices(Struct, frozen=True):
    """The services that find users, channels and connections: on this node, or on all nodes of a cluster.

    ``registrar`` and ``rerouting``: only of a cluster node.
    """

    sessions: SessionServices
    channels: Channels
    idempotency: Idempotency
    reach: Reach
    pushes: Pushes
    registrar: Registrar | None = None
    rerouting: Rerouting | None = None


class PushServices(Struct, frozen=True):
    """Pushes to users. ``publishing``: to targets of all kinds. ``pending``: for users who are absent.

    ``rerouting``: to the node to which a user has moved; None on a node alone.
    """

    idempotency: Idempotency
    reach: Reach
    pushes: Pushes
    pending: PendingPushes
    publishing: Publishing
    rerouting: Rerouting | None


class ChannelServices(Struct, frozen=True):
    """Channels. ``commands``: of their clients.

    ``registrar`` reports which channels have subscribers on this node; None on a node alone.
    """

    channels: Channels
    consent: ChannelConsent
    commands: ChannelCommands
    registrar: Registrar | None
