"""The services of a node that is alone: they look for users, channels and ids in its own memory.

:class:`imserver.core.cluster.Cluster` has the same services of a cluster node.
"""

from __future__ import annotations

from typing import Final

from imserver.auth.login import Logins
from imserver.auth.tenants import Tenants
from imserver.channels.channels import Channels
from imserver.channels.connections import Connections
from imserver.channels.members import ChannelMembers
from imserver.channels.stored import ChannelLog
from imserver.cluster.history import LocalHistory
from imserver.cluster.nodes import NodeQueries
from imserver.cluster.registry import LocalValues, SoloRegistry
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.push.idempotency import Idempotency
from imserver.push.push import LocalReach, Pushes
from imserver.push.user_channels import UserChannels
from imserver.sessions.connection_ids import ConnectionTable
from imserver.sessions.presence import Presence
from imserver.sessions.sessions import Sessions
from imserver.storage.store import Store


class Alone:
    """Owner of each of them. ``history_bytes``: of the histories of channels in memory.

    The registry only holds the lease, for operators.
    """

    node_messages: Final = None
    others: Final = None
    rpc: Final = None
    attempt: Final = None

    def __init__(
        self,
        history_bytes: int,
        store: Store,
        queries: NodeQueries,
        table: ConnectionTable,
        hub: Hub,
        fanout: Fanout,
        idempotency: Idempotency,
        metrics: Metrics,
        logins: Logins,
        tenants: Tenants,
        channel_log: ChannelLog,
    ) -> None:
        self.registry = SoloRegistry()
        self.values = LocalValues()
        self.sessions = Sessions(hub, fanout, metrics, logins, store)
        self.reach = LocalReach(idempotency, fanout, metrics)
        history = LocalHistory(history_bytes, hub.member_count)
        tenants.on_delete.append(history.forget)
        members = ChannelMembers(hub, table, tenants.get)
        self.channels = Channels(members, hub, fanout, metrics, table, tenants.get, history, channel_log)
        self.pushes = Pushes(
            idempotency, self.reach, metrics, UserChannels(self.channels, self.reach.to_user)
        )
        self.connections = Connections(table, self.channels, fanout, queries, self.registry)
        self.presence = Presence(hub, table, self.registry)
