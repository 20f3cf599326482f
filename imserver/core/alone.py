"""The services of a node that is alone: they look for users, channels and ids in its own memory.

:mod:`imserver.core.cluster` has the same services of a cluster node.
"""

from __future__ import annotations

import socket

from imserver.auth.login import Logins
from imserver.channels.connections import Connections
from imserver.channels.members import ChannelMembers
from imserver.channels.subscriptions import build_channels
from imserver.cluster.history import LocalHistory
from imserver.cluster.nodes import NodeQueries
from imserver.cluster.registry import Lease, LocalValues, SoloRegistry, node_name
from imserver.config.settings import Config
from imserver.core.services import ClusterServices, Foundation, NodeState, TargetServices
from imserver.push.idempotency import Idempotency
from imserver.push.push import LocalReach, Pushes
from imserver.push.user_channels import UserChannels
from imserver.sessions.connection_ids import ConnectionIds
from imserver.sessions.presence import Presence
from imserver.sessions.sessions import Sessions


def no_cluster(config: Config, node: NodeState, ids: ConnectionIds) -> ClusterServices:
    """Nobody else is there. The registry only has the lease, for operators."""
    lease = Lease(
        node_name(config.cluster.advertise, config.app.rpc_port),
        started_at=node.started_at,
        host=socket.gethostname(),
        public_ws_url=config.server.public_ws_url,
        birth=ids.birth,
    )
    return ClusterServices(SoloRegistry(lease), NodeQueries(), LocalValues())


def build_alone(base: Foundation, logins: Logins) -> TargetServices:
    """Build them. The histories of channels are in memory."""
    api, hub, fanout, table, tenants = base.config.api, base.hub, base.fanout, base.table, base.tenants
    metrics, registry, queries = base.node.metrics, base.cluster.registry, base.cluster.queries
    idempotency = Idempotency(api.dedupe_ids, api.dedupe_seconds, shared=base.keys.demo)
    sessions = Sessions(hub, fanout, metrics, logins, base.storage.store)
    reach = LocalReach(idempotency, fanout, metrics)
    history = LocalHistory(base.config.limits.history_bytes, hub.member_count)
    tenants.on_delete.append(history.forget)
    members = ChannelMembers(hub, fanout, table, tenants.by_name.get)
    channels = build_channels(members, hub, fanout, metrics, table, tenants.by_name.get, history)
    return TargetServices(
        sessions,
        Presence(hub, table, registry),
        channels,
        Connections(table, channels, fanout, queries, registry),
        idempotency,
        reach,
        Pushes(idempotency, reach, metrics, UserChannels(channels, reach.to_user)),
    )
