"""The state of a node, and its services: a struct for each concern.
``core/core.py`` builds them in this order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from imserver.gateway.auth.authority import AllowLists, Authority, Keys
from imserver.gateway.auth.login import Logins
from imserver.gateway.auth.login_tokens import PageTokens
from imserver.gateway.auth.observer import Observer
from imserver.gateway.auth.questions import AccountLookup, BackEnds, Relations, Reviews
from imserver.gateway.auth.rates import BucketList, MutedUsers, SenderRates, Shared
from imserver.gateway.auth.tenants import Tenants
from imserver.gateway.channels.client_commands import ChannelCommands
from imserver.gateway.channels.connections import Connections
from imserver.gateway.channels.consent import ChannelConsent
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.cluster.nodes import (
    NodeMessages,
    NodeQueries,
    OtherNodes,
    Registry,
    read,
)
from imserver.gateway.cluster.registry import LocalValues
from imserver.gateway.config.settings import Config, LimitSettings
from imserver.gateway.config.values import Declarations
from imserver.gateway.hub.expiry import Sweep
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import Hub
from imserver.gateway.logging import RequestLog
from imserver.gateway.metrics import Metrics
from imserver.gateway.process import DataDirectory, Secret
from imserver.gateway.push.idempotency import Idempotency
from imserver.gateway.push.pending import PendingPushes
from imserver.gateway.push.push import Publishing, Pushes, Reach
from imserver.gateway.sessions.connection_ids import ConnectionIds, ConnectionTable
from imserver.gateway.sessions.presence import Presence
from imserver.gateway.sessions.sessions import Sessions
from imserver.gateway.storage.erasures import Erasures
from imserver.gateway.storage.store import Store
from imserver.gateway.transport.connection import Connection, ConnectionContext
from imserver.gateway.transport.dispatch import Dispatcher
from imserver.gateway.transport.gate import Gate, Opened, Origins
from imserver.gateway.transport.outbox import Flusher
from imserver.gateway.transport.outgoing import Outgoing
from imserver.gateway.transport.poller import Poller
from imserver.gateway.transport.proxies import TrustedProxies
from imserver.version import running_version

if TYPE_CHECKING:
    from imserver.gateway.channels.registrar import Registrar
    from imserver.gateway.cluster.redis.registry import RedisRegistry
    from imserver.gateway.cluster.rpc.server import Rpc
    from imserver.gateway.push.routing import Rerouting

OnEnded = Callable[[Connection, int], None]
"""Called with each connection that has ended, and its close code. Never
switches greenlets."""


class NodeState:
    """Owner of the changing state of a node as a whole.

    Features read ``version``, ``started_at`` (Unix seconds), ``http_port`` and
    ``ws_port``. They log requests that they answer themselves with
    ``request_log``.
    """

    def __init__(self, config: Config, request_log: RequestLog) -> None:
        """Begin in the phase ``starts``. Nothing is opened yet.

        ``request_log`` is where all servers of the node log their requests.
        """
        self.request_log = request_log
        self.version: Final = running_version()
        self.started_at = time()
        self.data = DataDirectory(config.server.data_dir, shared=config.clustered)
        self.counters: list[Struct] = []
        """The counters of features, which the state of the node shows."""
        self.life: Literal["starts", "serves", "stops"] = "starts"
        """The phase of the node. It serves from the end of the start until it
        begins to stop."""
        self.stage = "setup"
        """The part that starts or stops now, for operators. It has no meaning
        while the node serves."""
        self.drained = False
        """True while an operator wants no clients here.
        :class:`imserver.gateway.core.network.Draining` owns this value."""
        self.max_connections = 0
        """Limit of the connections. It depends on the number of files that
        this process may open."""
        # If a port is 0, the servers set the port that they got.
        self.http_port = config.app.http_port
        self.ws_port = config.app.websocket_port
        self._settings = config.server
        self._secret = Secret(b"")  # start() reads it

    def show(self, counters: Struct) -> None:
        """Show the counters of a feature in the state of the node from now
        on."""
        self.counters.append(counters)

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.data.path

    def start(self) -> Secret:
        """Take the data folder, and read the common secret of all nodes.

        Raises StartError, for example if another server uses the folder.
        """
        self.data.start()
        self._secret = self.data.secrets(self._settings)
        return self._secret

    def keys_for(self, purpose: str) -> tuple[bytes, ...]:
        """Return the keys for one purpose, derived from the secret of all
        nodes.

        The first key signs new texts. While the operator changes the secret
        there is a second key, and both verify.
        """
        return self._secret.keys(purpose)

    @property
    def draining(self) -> bool:
        """Whether the clients of this node have to go to other nodes.

        They have to go if the node stops, or if an operator has drained it.
        """
        return self.life == "stops" or self.drained

    def key_for(self, purpose: str) -> bytes:
        """Return the first key of :meth:`keys_for`.

        The first key is enough for texts that nobody verifies later.
        """
        return self.keys_for(purpose)[0]


class NetworkServices(Struct, frozen=True):
    """The sockets of a node: who may connect, and who reads and writes.

    ``sweep`` closes silent connections. ``opened`` is name of a dialect → the
    function of the dialect for new connections. ``ended`` are functions that
    are called in their order, with each connection that has ended.
    """

    origins: Origins
    gate: Gate
    poller: Poller
    flusher: Flusher
    context: ConnectionContext
    sweep: Sweep
    opened: dict[str, Opened]
    ended: list[OnEnded]

    def report_to(self, ponged: Callable[[Connection, bytes], object]) -> None:
        """Set the function that gets each pong with data, and its connection.

        The new function replaces the function that was set before.
        """
        self.context.ponged = ponged


class Services:
    """The services of a node below its HTTP API. Each owns its state."""

    # The node, its database and its sockets.
    config: Config
    limits: LimitSettings
    declared: Declarations
    """The declarations of all settings of this node."""
    node: NodeState
    buckets: BucketList
    """``buckets.make`` makes the buckets of a rate. Operators can find them and
    lift the limit."""
    metrics: Metrics
    store: Store
    """The database: statements, and with ``store.part(MessageLog)`` the log of
    stored messages."""
    user_erasures: Erasures
    """Begins and ends the erasures of users, and knows which have begun."""
    proxies: TrustedProxies
    """``proxies.trusts(host)`` returns whether the headers of a proxy are
    trusted."""
    network: NetworkServices
    outgoing: Outgoing
    """Requests to the outside."""
    dispatcher: Dispatcher
    """``dispatcher.run`` runs a command for a connection."""

    # The connections of this node.
    hub: Hub
    fanout: Fanout
    connection_ids: ConnectionIds
    connection_table: ConnectionTable
    """Connections by their ids."""

    # Apps and the other nodes. On a node alone, services that reach other nodes
    # are None.
    tenants: Tenants
    keys: Keys
    sender_rates: SenderRates
    registry: Registry
    queries: NodeQueries
    """Answers the queries of the other nodes."""
    temporary_values: LocalValues | RedisRegistry
    """Values that nodes share for minutes."""
    attempt: Shared | None
    """Counts attempts on all nodes together."""
    rpc: Rpc | None
    node_messages: NodeMessages | None
    """Sends to the other nodes."""
    others: OtherNodes | None
    """Asks the other nodes."""

    # Identity and permissions. If a feature has an object that answers such a
    # question, the core asks that object.
    accounts: AccountLookup
    relations: Relations
    reviews: Reviews
    back_ends: BackEnds
    observer: Observer
    """The observer in place of the observers of all features."""
    page_tokens: PageTokens
    logins: Logins
    allowed: AllowLists
    """Addresses from which back ends of apps may ask without a key."""
    authority: Authority
    mutes: MutedUsers

    # Users, channels and pushes: on this node, or on all nodes of a cluster.
    sessions: Sessions
    presence: Presence
    connections: Connections
    channels: Channels
    consent: ChannelConsent
    channel_commands: ChannelCommands
    """The commands of clients on channels."""
    registrar: Registrar | None
    """Reports which channels have subscribers on this node; None on a node
    alone."""
    idempotency: Idempotency
    reach: Reach
    pushes: Pushes
    pending: PendingPushes
    """Pushes for users who are absent."""
    publishing: Publishing
    """Pushes to targets of all kinds."""
    rerouting: Rerouting | None
    """Follows a user to another node; None on a node alone."""

    def ask_others(
        self, kind: str, query: object, answer: Any
    ) -> tuple[dict[str, Any], list[str]]:
        """Query all other live nodes at the same time.

        Returns two values: node → its answer, of the type ``answer``; and the
        nodes that did not answer in time. Both are empty on a node alone.
        Switches greenlets.
        """
        if self.others is None:
            return {}, []
        answers, missing = self.others.query(kind, query)
        return read(answers, answer), missing
