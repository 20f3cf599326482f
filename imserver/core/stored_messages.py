"""The services for stored messages on one node."""

from __future__ import annotations

from msgspec import Struct

from imserver.auth.login import Logins
from imserver.auth.observer import Observer
from imserver.auth.rates import SenderRates
from imserver.auth.relations import Relations
from imserver.auth.reviews import Reviews
from imserver.auth.tenants import Tenants
from imserver.channels.channels import Channels
from imserver.cluster.nodes import NodeMessages, ToFollowers, ToLog
from imserver.config.settings import StorageSettings
from imserver.hub.acks import AckTracker
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.messages.annotations import AnnotationCommands
from imserver.messages.messaging import MessageCommands, MessageSearch, Messaging
from imserver.messages.receipts import Receipts, Signals
from imserver.messages.retention import Retention
from imserver.metrics import Metrics
from imserver.sessions.sessions import Sessions
from imserver.storage.action_positions import ActionPositions
from imserver.storage.store import Store


class StoredMessages(Struct, frozen=True):
    """``commands``: the services whose commands clients may send."""

    messaging: Messaging
    signals: Signals
    receipts: Receipts
    search: MessageSearch
    retention: Retention
    commands: tuple[MessageCommands | AnnotationCommands | Receipts | Signals, ...]


def build_stored_messages(
    settings: StorageSettings,
    store: Store,
    hub: Hub,
    fanout: Fanout,
    metrics: Metrics,
    logins: Logins,
    sessions: Sessions,
    channels: Channels,
    tenants: Tenants,
    relations: Relations,
    reviews: Reviews,
    observer: Observer,
    sender_rates: SenderRates,
    node_messages: NodeMessages | None,
    ack_tracker: AckTracker,
) -> StoredMessages:
    """Build them, with the handlers of node messages. ``node_messages`` None: the node is alone."""
    positions = ActionPositions(store)
    messaging = Messaging(
        hub,
        fanout,
        metrics,
        store,
        logins,
        positions,
        ack_tracker,
        reviews,
        sender_rates,
        channels,
        node_messages,
        observer,
    )
    followers = messaging.log_subscriptions.followers
    signals = Signals(hub, fanout, followers, store, relations, messaging.streams, node_messages)
    if node_messages is not None:
        node_messages.handle(
            {
                ToLog: lambda m: messaging.follower.committed(m.app, m.first, m.last, m.entries),
                ToFollowers: signals.deliver,
            }
        )
    receipts, search = Receipts(signals, store), MessageSearch(store)
    retention = Retention(settings, tenants.get, store, metrics, positions, observer)
    commands = MessageCommands(sessions, messaging, receipts, search, store)
    return StoredMessages(
        messaging,
        signals,
        receipts,
        search,
        retention,
        (commands, AnnotationCommands(store), receipts, signals),
    )
