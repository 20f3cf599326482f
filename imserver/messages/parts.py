"""The parts of stored messages on one node."""

from __future__ import annotations

from functools import partial

from imserver.config.settings import settings_of
from imserver.core.core import Core, FeatureParts
from imserver.messages.acks import AckTracker
from imserver.messages.action_positions import ActionPositions
from imserver.messages.annotations import AnnotationCommands
from imserver.messages.event_streams import StreamStarts
from imserver.messages.log.contract import Commit
from imserver.messages.log.message_log import MessageLog
from imserver.messages.log_observer import LogObserver
from imserver.messages.message_commands import MessageCommands
from imserver.messages.message_search import MessageSearch
from imserver.messages.messaging import Messaging
from imserver.messages.node_messages import ToFollowers
from imserver.messages.receipts import Receipts, Signals
from imserver.messages.retention import Retention
from imserver.messages.services import MessageServices
from imserver.messages.settings import RetentionSettings, StreamLimits
from imserver.messages.stored_channels import ChannelLog
from imserver.messages.stored_pushes import LogPushes
from imserver.messages.streamed import ConversationStreams, StreamedTexts
from imserver.messages.streamed_messages import ChannelStreams, StreamedMessages
from imserver.storage.contract import Erasure


def build(core: Core) -> FeatureParts:
    """Build them, with their commands and the handlers of node messages."""
    services = _make_services(core)
    messaging, positions = services.messaging, services.messaging.positions
    catch_up, network = messaging.catch_up, core.network
    network.context.ponged = catch_up.ponged
    # Before the parts of the core, which forget whose connection it was.
    network.ended.insert(0, catch_up.ended)
    network.forgotten.insert(0, catch_up.forget)
    if core.member is not None:
        core.on_join.append(partial(messaging.learn, core.member.others))
    core.on_drain += [services.streams.close_all, services.channel_streams.close_all]
    store = core.storage.store

    def erase_user(app: str, user: str) -> None:
        store.part(MessageLog).erase_user(app, user)
        positions.forget(app, user)

    return FeatureParts(
        services,
        run=(
            messaging.follower.run,
            positions.run,
            services.retention.run,
            services.channel_streams.run,
            services.streams.run,
            catch_up.run,
        ),
        # Clients acknowledge until their connections end.
        finish=positions.store_proved,
        erasure=Erasure(frozenset(), erase_user, lambda _: None),
    )


def _make_services(core: Core) -> MessageServices:
    store, hub, fanout, metrics = (
        core.storage.store,
        core.sessions.hub,
        core.sessions.fanout,
        core.node.metrics,
    )
    identity, table, cluster = core.identity, core.sessions.table, core.cluster
    channels, node_messages, limits = core.channels.channels, cluster.node_messages, core.config.limits
    positions, observers = ActionPositions(store), list[LogObserver]()
    channel_log = ChannelLog(store, metrics, hub, table, channels)
    messaging = Messaging(
        hub,
        fanout,
        metrics,
        store,
        identity.logins,
        positions,
        AckTracker(metrics, limits.node_outbox_bytes),
        identity.reviews,
        identity.sender_rates,
        channel_log,
        node_messages,
        observers,
    )
    store.part(MessageLog).writer.listener = messaging
    core.channels.consent.attach_groups(channel_log)
    core.push.publishing.groups = channel_log
    channel_log.attach(messaging.follower.follow)
    core.push.publishing.stored_pushes = LogPushes(messaging, core.push.idempotency)
    messaging.add_to(cluster.queries)
    followers = messaging.log_subscriptions.followers
    signals = Signals(hub, fanout, followers, store, identity.relations, messaging.streams, node_messages)
    if node_messages is not None:
        node_messages.handle(
            {
                Commit: messaging.follower.committed,
                ToFollowers: signals.deliver,
            }
        )
    receipts, search = Receipts(signals, store), MessageSearch(store)
    tenants = identity.tenants
    retention = Retention(
        settings_of(core.config, RetentionSettings),
        core.config.storage.expire_seconds,
        tenants.get,
        store,
        metrics,
        positions,
        observers,
    )
    commands = MessageCommands(core.sessions.sessions, messaging, receipts, search, store)
    for service in (commands, AnnotationCommands(store), receipts, signals):
        core.network.dispatcher.add(service.rows())
    stream_limits = settings_of(core.config, StreamLimits)
    in_conversations = ConversationStreams(messaging, signals, store, identity.relations)
    streams = StreamedTexts(
        in_conversations, table, cluster.queries, stream_limits, limits.outbox_bytes, cluster.others
    )
    in_channels = ChannelStreams(channels, hub, core.sessions.connections)
    channel_streams = StreamedMessages(
        in_channels, table, cluster.queries, stream_limits, limits.outbox_bytes, cluster.others
    )
    tenants.on_delete += [streams.forget, channel_streams.forget]
    return MessageServices(
        messaging,
        signals,
        receipts,
        search,
        retention,
        streams,
        channel_streams,
        observers,
        StreamStarts(messaging.catch_up, messaging.deliverer, store),
    )
