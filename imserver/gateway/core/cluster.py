"""The parts that only a node of a cluster has: registry, RPC, and services that
reach other nodes.

Loaded only if Redis is configured.
"""

import logging
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import ceil
from time import monotonic, time
from typing import Final

import gevent

from imserver.gateway.auth.tenants import Tenants
from imserver.gateway.channels.connections import Connections
from imserver.gateway.channels.members import ChannelMembers, NodeParts
from imserver.gateway.channels.publishing import ChannelNodes
from imserver.gateway.channels.registrar import Registrar
from imserver.gateway.channels.subscriptions import build_channels
from imserver.gateway.cluster.features import NodeFeatures, absent_features
from imserver.gateway.cluster.nodes import (
    ChannelsUnsettled,
    NodeMessages,
    NodeQueries,
    Notice,
    OtherNodes,
    Replaced,
    ToApp,
    ToChannel,
    ToConnection,
    ToUser,
    encode,
)
from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import Lease, RegistryEvents, advertised_address
from imserver.gateway.cluster.rpc.counters import PeerUnavailable
from imserver.gateway.cluster.rpc.peer import PING
from imserver.gateway.cluster.rpc.server import Rpc
from imserver.gateway.config.settings import Config
from imserver.gateway.core.services import Services
from imserver.gateway.model import Service
from imserver.gateway.process import Secret, fingerprint_of
from imserver.gateway.push.routing import ClusterReach, ReorderGuard, Rerouting
from imserver.gateway.sessions.cluster_sessions import ClusterSessions, UsersElsewhere
from imserver.gateway.sessions.presence import Presence
from imserver.gateway.storage.store import Store

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 2.0
"""Time limit for reporting logouts and channels at the end of a node."""
_JOIN_SECONDS: Final = 1.0
"""How long a starting node waits for one function that asks the other nodes."""
_HANG_SECONDS: Final = 30.0
"""How long a node may be silent after its lease has ended. A supervisor kills a
node that hangs for this time (``server.hang_seconds``)."""
_WATCH_PAUSE_SECONDS: Final = 1.0
_DIFFERS_SECONDS: Final = 10.0
"""How long the databases of two nodes may differ. In this time a node finds a
database that another node has just created, and publishes the id of it."""
_ONE_DATABASE: Final = (
    "give all nodes the same storage.url, or, on one machine, the same server.data_dir"
)
_OTHER_DATABASE: Final = (
    f"the cluster uses another database for apps and keys: {_ONE_DATABASE}"
)


def _listed(names: Iterable[str]) -> str:
    """Write names in the order of the alphabet, with commas."""
    return ", ".join(sorted(names))


def _make_registry(config: Config, tenants: Tenants) -> RedisRegistry:
    """Make the registry. ``tenants`` learns of apps that other nodes create."""
    return RedisRegistry(
        redis=config.redis,
        cluster=config.cluster,
        apps=tuple(config.apps),
        dedupe_seconds=config.api.dedupe_seconds,
        created=tenants.created,
    )


class ClusterLinks:
    """The links to the other nodes: the registry in Redis, and messages."""

    def __init__(
        self, config: Config, secret: Secret, store: Store, tenants: Tenants
    ) -> None:
        """Make the links. The links are not connected before the node joins.

        ``secret`` authenticates the nodes to each other. ``tenants`` learns of
        apps that other nodes create.
        """
        cluster = config.cluster
        queries = NodeQueries()
        self.fingerprints = tuple(map(fingerprint_of, secret.accepted))
        """The fingerprints of the secret of this node, then of the second
        secret that it accepts."""
        registry = _make_registry(config, tenants)
        self.registry = registry
        # One-way messages and queries share the connections of the RPC.
        messages = NodeMessages(registry)
        self.node_messages = messages
        self.queries = queries
        rpc = Rpc(
            secret,
            queries.answer,
            messages.received,
            queue_items=cluster.queue_items,
            queue_bytes=cluster.queue_bytes,
        )
        self.rpc = rpc
        messages.attach(rpc)
        # All nodes must use one database, so the database is checked before it
        # is opened.
        self.database = DatabaseCheck(store, registry)
        store.ask(self.database.objection)
        store.report_to(opened=registry.report_database)
        self.others = OtherNodes(
            registry=registry,
            node_messages=messages,
            rpc=rpc,
            queries=queries,
            seconds=cluster.rpc_seconds,
        )


def _channel_parts(core: Services) -> NodeParts:
    """Collect the services of this node that its channels use."""
    return NodeParts(
        hub=core.hub,
        fanout=core.fanout,
        metrics=core.metrics,
        table=core.connection_table,
        settings=core.tenants.by_name.get,
        history_apps=core.tenants.history_apps,
    )


class ClusterMember:
    """This node as a member of the cluster.

    It owns the services that reach other nodes. These services start and stop
    together. A service that all parts of a node use is also in ``core``.
    """

    def __init__(self, links: ClusterLinks, core: Services) -> None:
        """Make the services that reach other nodes, and add them to ``core``.

        They are started by :meth:`start`.
        """
        self._core = core
        self._links = links
        self.database = links.database
        self._waiting_features = frozenset[str]()
        """The features of this node that another node does not have, as last
        logged."""
        self._watchers: dict[int, gevent.Greenlet[..., None]] = {}
        """Epoch of an overdue lease → the greenlet that asks the node of the
        lease whether the node lives."""
        self._on_join: list[Callable[[OtherNodes], object]] = []

        # The guard keeps pushes in order while their user moves to another
        # node.
        guard = ReorderGuard(core.hub)
        self._make_sessions(guard)
        channel_nodes = self._make_channels()
        core.presence = Presence(
            core.hub, core.connection_table, links.registry, links.others
        )
        rerouting = self._make_push(guard)
        self._handle_messages(rerouting, channel_nodes)

    def _make_sessions(self, guard: ReorderGuard) -> None:
        """Make the services that know the sessions of users.

        One service knows the sessions in the cluster. The other service knows
        how many users are on other nodes.
        """
        core = self._core
        cluster = core.config.cluster
        # After this time the leases of other nodes have the new counts.
        stale_seconds = ceil(cluster.renew_seconds) + 2
        self.elsewhere = UsersElsewhere(
            core.hub, core.fanout, self._links.node_messages, stale_seconds
        )
        self.sessions = ClusterSessions(
            hub=core.hub,
            fanout=core.fanout,
            metrics=core.metrics,
            logins=core.logins,
            store=core.store,
            others=self._links.others,
            require_registry=cluster.require_registry,
            on_login=guard.logged_in,
        )
        core.sessions = self.sessions

    def _make_channels(self) -> ChannelNodes:
        """Make the services of channels and of connections by their ids.

        Returns the service that knows which nodes have subscribers of a
        channel.
        """
        core = self._core
        links = self._links
        registry = links.registry
        self.registrar = Registrar(registry, links.node_messages, core.hub)
        core.registrar = self.registrar
        parts = _channel_parts(core)
        self._members = ChannelMembers(parts, links.others, self.registrar)
        channel_nodes = ChannelNodes(links.others, self.registrar)
        channels = build_channels(parts, self._members, registry.history, channel_nodes)
        core.channels = channels
        core.connections = Connections(
            table=core.connection_table,
            channels=channels,
            fanout=core.fanout,
            queries=links.queries,
            registry=registry,
            others=links.others,
        )
        return channel_nodes

    def _make_push(self, guard: ReorderGuard) -> Rerouting:
        """Make the services that push to users on all nodes.

        Returns the service that follows users to other nodes.
        """
        core = self._core
        links = self._links
        core.reach = ClusterReach(
            registry=links.registry,
            node_messages=links.node_messages,
            hub=core.hub,
            fanout=core.fanout,
            ids=core.idempotency,
            reorder_guard=guard,
            metrics=core.metrics,
        )
        rerouting = Rerouting(
            registry=links.registry,
            node_messages=links.node_messages,
            fanout=core.fanout,
            sessions=self.sessions,
            reorder_guard=guard,
        )
        core.rerouting = rerouting
        return rerouting

    def _handle_messages(
        self, rerouting: Rerouting, channel_nodes: ChannelNodes
    ) -> None:
        """Set the function for each class of messages from other nodes.

        A node message is one-way: its function returns no answer.
        """
        core = self._core
        fanout = core.fanout

        def to_app(message: ToApp) -> None:
            """Deliver an event to all users of an app on this node."""
            fanout.to_app(
                message.app, message.event, message.except_user, message.except_users
            )

        def replaced(message: Replaced) -> None:
            """End a session here, because a newer one elsewhere replaces it."""
            self.sessions.replaced(message.app, message.user, message.session_id)

        def unsettled(message: ChannelsUnsettled) -> None:
            """Note that a node has not registered its channels yet."""
            channel_nodes.peer_unsettled(message.epoch)

        # Class of a message → the function that gets it.
        self._links.node_messages.handle(
            {
                ToUser: rerouting.deliver,
                ToApp: to_app,
                ToChannel: core.channels.publishing.received,
                ToConnection: core.connections.received,
                Notice: self.elsewhere.noticed,
                Replaced: replaced,
                ChannelsUnsettled: unsettled,
            }
        )

    def report_to(self, joined: Callable[[OtherNodes], object]) -> None:
        """Add a function that is called when this node has joined its cluster.

        The call comes before clients connect. The function may switch
        greenlets. The start of the node waits for it at most a second.
        """
        self._on_join.append(joined)

    def start(
        self, public_ws_url: str, port: int, only_local: bool, features: NodeFeatures
    ) -> None:
        """Join the cluster. Afterwards live nodes know this node and forward
        to it.

        ``port`` is the port of the clients of this node. ``only_local`` says
        whether the RPC ports listen on loopback, unless the settings name an
        address. ``features`` are the features of this node. Raises
        :class:`imserver.gateway.errors.StartError` if this node must not or
        cannot join.
        """
        core = self._core
        links = self._links

        # The queries come first, so that this node answers them as soon as
        # others know it.
        self._answer_queries()

        # The RPC ports are opened before the lease, because the lease names
        # their addresses.
        address = advertised_address(core.config.cluster.advertise, only_local)
        self._listen_for_nodes(address)

        # With the lease in the registry, this node is a member.
        clients = f"{address}:{port}"
        own_lease = self._make_lease(address, clients, public_ws_url, features)
        lease = links.registry.start(own_lease, self._make_events())
        self._leases_changed()
        self.database.foresee(lease)
        self.registrar.start()

        self._greet_peers(lease)
        # A dead node that still has a lease must not delay the start.
        for call in self._on_join:
            gevent.spawn(call, links.others).join(_JOIN_SECONDS)

    def _make_events(self) -> RegistryEvents:
        """Tell the registry which functions to call when something happens."""
        return RegistryEvents(
            sessions=self.sessions.registered_sessions,
            reregister=self._reregister,
            replaced=self.sessions.replaced,
            leases_changed=self._leases_changed,
        )

    def _answer_queries(self) -> None:
        """Register the answers to the queries of other nodes."""
        core = self._core
        queries = self._links.queries
        core.presence.add_to(queries)
        queries.add("hello", Lease, self._hello)
        self.sessions.add_to(queries)
        self._members.add_to(queries)
        core.connections.add_to(queries)

    def _listen_for_nodes(self, address: str) -> None:
        """Open the two RPC ports, on the configured address or on ``address``.

        The data port is the one after the control port. Raises StartError if a
        port is in use.
        """
        config = self._core.config
        host = config.cluster.bind or address
        control_port = config.app.rpc_port
        data_port = 0  # the system chooses a free port
        if control_port:
            data_port = control_port + 1
        self._links.rpc.start(host, control_port, data_port)

    def _make_lease(
        self, address: str, clients: str, public_ws_url: str, features: NodeFeatures
    ) -> Lease:
        """Make the lease of this node: its entry in the directory of nodes.

        Other nodes read there how to reach it. The RPC ports are open already.
        """
        links = self._links
        core = self._core
        control_port = links.rpc.control_address.rpartition(":")[2]
        data_port = links.rpc.data_address.rpartition(":")[2]
        # If the settings leave the ports open, the system has chosen them.
        return Lease(
            f"{address}:{control_port}",
            control=f"tcp://{address}:{control_port}",
            data=f"tcp://{address}:{data_port}",
            fingerprint=links.fingerprints[0],
            second_fingerprint="".join(links.fingerprints[1:]),
            started_at=time(),
            host=socket.gethostname(),
            public_ws_url=public_ws_url,
            database=core.store.id,
            birth=core.connection_ids.birth,
            clients=clients,
            file=core.store.future_file,
            feature_names=features.for_older,
            all_features=features.names,
            features_left_out=features.left_out,
        )

    def _greet_peers(self, lease: Lease) -> None:
        """Show the lease of this node to the other nodes.

        From then on this node receives their broadcasts. Otherwise the other
        nodes would learn of this node only when they read the registry again.
        Switches greenlets.
        """
        peers = self._links.node_messages.peers()
        if not peers:
            return
        seconds = self._core.config.cluster.rpc_seconds
        content = encode(lease)
        _, missing = self._links.rpc.query_all(peers, "hello", content, seconds)
        for node in missing:
            log.warning("peer %s: no answer to the hello of this node", node)

    def _hello(self, lease: Lease) -> bool:
        """Answer a node that joins, and add its lease.

        Returns False if the node has another secret. Such a node is not added.
        """
        if lease.fingerprint not in self._links.fingerprints:
            return False
        self._links.registry.add_lease(lease)
        self._leases_changed()
        return True

    def _leases_changed(self) -> None:
        """Connect to the nodes that have a lease now.

        A *lease* is a node's proof of life, which it renews. A node whose lease
        is overdue is asked whether it still lives.
        """
        self._report_features()
        registry = self._links.registry
        rpc = self._links.rpc
        rpc.epoch = self._links.node_messages.own_epoch
        rpc.update(registry.reachable())
        for lease in registry.overdue():
            if lease.epoch not in self._watchers:
                self._watchers[lease.epoch] = gevent.spawn(self._watch, lease)

    def _report_features(self) -> None:
        """Log which features of this node wait for the other nodes.

        While nodes are updated one after another, a feature that some of them
        lack works only here. Only changes are logged.
        """
        peers = self._links.node_messages.peers()
        # Node → the features that it lacks.
        absent = absent_features(self._links.registry.lease, peers)
        waiting = frozenset[str]().union(*absent.values())
        if waiting == self._waiting_features:
            return

        if waiting:
            log.info(
                "features that wait until all nodes have them: %s (without them: %s)",
                _listed(waiting),
                _listed(absent),
            )
        else:
            log.info(
                "all nodes have the features that waited: %s",
                _listed(self._waiting_features),
            )
        self._waiting_features = waiting

    def _watch(self, lease: Lease) -> None:
        """Greenlet: ask a node whose lease is overdue whether it lives.

        The greenlet ends when the node has a new lease. A node that has not
        answered for :data:`_HANG_SECONDS` counts as dead. Until then the node
        gets the messages to all nodes, because it may still serve users.
        """
        registry = self._links.registry
        rpc = self._links.rpc
        # The node gets this time even if it never answers.
        alive_at = monotonic()
        while any(each.epoch == lease.epoch for each in registry.overdue()):
            with suppress(PeerUnavailable):
                rpc.query(lease, PING, b"")
                alive_at = monotonic()
            if monotonic() > alive_at + _HANG_SECONDS:
                registry.forget_lease(lease.epoch)
                rpc.update(registry.reachable())
                break
            gevent.sleep(_WATCH_PAUSE_SECONDS)
        del self._watchers[lease.epoch]

    def _reregister(self, everything: bool) -> None:
        """Write registrations again, because the registry may have lost them.

        ``everything`` is passed on to :meth:`ClusterSessions.reregister`.
        """
        self.registrar.wake()
        self.sessions.reregister(everything)

    # --- at the end -----------------------------------------------------------

    def stop(self) -> None:
        """Leave the cluster.

        Logouts and channels are reported, queued messages are sent, and the
        lease is given back. Switches greenlets.
        """
        gevent.killall(list(self._watchers.values()), block=False)
        sessions_reported = self.sessions.flush(_FLUSH_SECONDS)
        channels_reported = self.registrar.stop(_FLUSH_SECONDS)
        self.sessions.stop()
        # If something was not reported, the other nodes must clean up after
        # this node.
        self._links.registry.stop(channels_reported and sessions_reported)
        self._links.rpc.stop()


class DatabaseCheck(Service):
    """Compares the database ids of all nodes: a cluster has one database.

    ``wrong`` is set if they have differed for longer than
    :data:`_DIFFERS_SECONDS`. ``_since`` is the monotonic time at which the
    databases began to differ. 0 means that they do not differ.
    """

    store: Store
    registry: RedisRegistry
    wrong: bool = False
    _since: float = 0.0

    def check(self) -> None:
        """Compare the databases, and update ``wrong``.

        It is called once a second. Never switches greenlets.
        """
        if not self._differs(self.store.id):
            if self.wrong:
                log.info("all nodes of the cluster have the same database again")
            self.wrong = False
            self._since = 0.0
            return

        self._since = self._since or monotonic()
        if not self.wrong and monotonic() - self._since > _DIFFERS_SECONDS:
            self.wrong = True
            log.error("%s", _OTHER_DATABASE)

    def foresee(self, own: Lease) -> None:
        """Warn if this node and another node would each create a database.

        ``own`` is the lease of this node. Two such nodes of one machine both
        work until one of them stores something. Then the other node is not
        ready.
        """
        # The lease names the file only while it does not exist yet.
        if not own.file:
            return
        for lease in self.registry.leases().values():
            is_here = lease.host == own.host
            if not is_here or lease.file in ("", own.file):
                continue
            log.warning(
                "node %s makes its database in %s, this node in %s: "
                "when one of them stores something, the other is not ready (503): %s",
                lease.node,
                lease.file,
                own.file,
                _ONE_DATABASE,
            )
            return

    def objection(self, database: str) -> str:
        """Tell why this node must not use the database with this id.

        Returns ``""`` if the node may use the database (:meth:`Store.ask`).
        """
        if self._differs(database):
            return _OTHER_DATABASE
        return ""

    def _differs(self, database: str) -> bool:
        """Tell whether another node uses another database than this node.

        ``database`` is the id of the database of this node. A node with an
        empty id does not use a database yet.
        """
        leases = self.registry.leases().values()
        return any(lease.database not in ("", database) for lease in leases)
