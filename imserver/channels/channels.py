"""Channels that clients subscribe to by themselves: the parts that carry them, on all nodes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from imserver.channels.histories import ChannelHistories, ChannelHistory
from imserver.channels.members import INSUFFICIENT_STATE, ChannelMembers
from imserver.channels.options import ChannelOptions
from imserver.channels.positions import OrderedDelivery
from imserver.channels.publishing import ChannelNotices, ChannelPublishing
from imserver.channels.subscriptions import ChannelSubscriptions
from imserver.config.settings import TenantSettings
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.sessions.connection_ids import ConnectionTable

if TYPE_CHECKING:
    from imserver.channels.nodes import ChannelNodes


class Channels(Struct, frozen=True):
    """Channels on all nodes: who is subscribed, which options a channel has, what it retains, delivery in
    order on this node, publications, notices, and subscriptions of connections of this node."""

    members: ChannelMembers
    options: ChannelOptions
    histories: ChannelHistories
    ordered: OrderedDelivery
    publishing: ChannelPublishing
    notices: ChannelNotices
    subscriptions: ChannelSubscriptions


def build_channels(
    members: ChannelMembers,
    hub: Hub,
    fanout: Fanout,
    metrics: Metrics,
    table: ConnectionTable,
    settings: Callable[[str], TenantSettings | None],
    history: ChannelHistory,
    nodes: ChannelNodes | None = None,
) -> Channels:
    """Build the parts. ``settings``: app → its settings. ``history`` is that of this node, or the one that
    all nodes share. ``nodes``: the other nodes; None without a cluster."""
    options = ChannelOptions(settings)
    histories = ChannelHistories(options, history)
    ordered = OrderedDelivery(fanout, history, partial(members.expel, code=INSUFFICIENT_STATE))
    publishing = ChannelPublishing(options, histories, ordered, hub, fanout, metrics, table, nodes)
    notices = ChannelNotices(members, options, publishing, hub, fanout, table)
    subscriptions = ChannelSubscriptions(members, options, histories, ordered, notices, hub, fanout)
    return Channels(members, options, histories, ordered, publishing, notices, subscriptions)
