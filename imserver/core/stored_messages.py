"""Builds the services for stored messages on one node."""

from __future__ import annotations

from imserver.cluster.nodes import ToFollowers, ToLog
from imserver.core.services import Foundation, IdentityServices, MessageServices, TargetServices
from imserver.hub.acks import AckTracker
from imserver.messages.annotations import AnnotationCommands
from imserver.messages.messaging import MessageCommands, MessageSearch, Messaging
from imserver.messages.receipts import Receipts, Signals
from imserver.messages.retention import Retention
from imserver.messages.streamed import ConversationStreams, StreamedTexts
from imserver.storage.action_positions import ActionPositions


def build_stored_messages(
    base: Foundation, identity: IdentityServices, targets: TargetServices
) -> MessageServices:
    """Build them, with their commands and the handlers of node messages."""
    store, hub, fanout, metrics = base.storage.store, base.hub, base.fanout, base.node.metrics
    node_messages = base.cluster.node_messages
    positions = ActionPositions(store)
    messaging = Messaging(
        hub,
        fanout,
        metrics,
        store,
        identity.logins,
        positions,
        AckTracker(metrics, base.config.limits.node_outbox_bytes),
        identity.reviews,
        identity.sender_rates,
        targets.channels,
        node_messages,
        identity.observer,
    )
    store.log_listener = messaging
    messaging.add_to(base.cluster.queries)
    followers = messaging.log_subscriptions.followers
    signals = Signals(hub, fanout, followers, store, identity.relations, messaging.streams, node_messages)
    if node_messages is not None:
        node_messages.handle(
            {
                ToLog: lambda m: messaging.follower.committed(m.app, m.first, m.last, m.entries),
                ToFollowers: signals.deliver,
            }
        )
    receipts, search = Receipts(signals, store), MessageSearch(store)
    retention = Retention(base.config.storage, base.tenants.get, store, metrics, positions, identity.observer)
    commands = MessageCommands(targets.sessions, messaging, receipts, search, store)
    for service in (commands, AnnotationCommands(store), receipts, signals):
        base.network.dispatcher.add(service.rows())
    streams = StreamedTexts(
        ConversationStreams(messaging, signals, store, identity.relations),
        base.table,
        base.cluster.queries,
        base.config.limits,
        base.cluster.others,
    )
    base.tenants.on_delete.append(streams.forget)
    return MessageServices(messaging, signals, receipts, search, retention, streams)
