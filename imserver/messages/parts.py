"""The parts of stored messages on one node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from imserver.clock import every
from imserver.config.settings import Config, settings_of
from imserver.core.core import Core, FeatureParts
from imserver.messages.acks import AckTracker
from imserver.messages.action_positions import ActionPositions
from imserver.messages.catch_up import StreamStarts
from imserver.messages.declared import RetentionSettings, StreamLimits
from imserver.messages.log.contract import Commit
from imserver.messages.log.message_log import MessageLog
from imserver.messages.message_commands import AskCommands, MessageCommands, ThreadCommands
from imserver.messages.message_search import MessageSearch, WordIndexing
from imserver.messages.messaging import Messaging
from imserver.messages.receipts import Receipts, Signals, ToFollowers
from imserver.messages.retention import Retention
from imserver.messages.services import MessageServices
from imserver.messages.stored_channels import ChannelLog
from imserver.messages.stored_pushes import LogPushes
from imserver.messages.streamed import ConversationStreams, StreamedTexts
from imserver.messages.streamed_messages import ChannelStreams, StreamedMessages
from imserver.storage.contract import Erasure
from imserver.storage.store import Store


def build(core: Core) -> FeatureParts:
    """Build them, with their commands and the handlers of node messages."""
    services = _make_services(core)
    messaging, positions = services.messaging, services.messaging.positions
    catch_up, network = messaging.catch_up, core.network
    expire_seconds = core.config.storage.expire_seconds
    network.context.ponged = catch_up.ponged
    # Before the parts of the core, which forget whose connection it was.
    network.ended.insert(0, catch_up.ended)
    network.forgotten.insert(0, catch_up.forget)
    if core.member is not None:
        core.on_join.append(partial(messaging.learn, core.member.others))
    core.on_drain += [services.streams.close_all, services.channel_streams.close_all]
    return FeatureParts(
        (services, _erasure(core.storage.store, positions)),
        run=(
            messaging.follower.run,
            positions.run,
            every(expire_seconds, services.retention.expire, "entries could not be expired"),
            every(1.0, WordIndexing(core.storage.store).work, "words could not be added to the index"),
            services.channel_streams.run,
            services.streams.run,
            every(1.0, catch_up.check_acks, "acknowledgements could not be checked"),
        ),
        # Clients acknowledge until their connections end.
        stop=positions.store_proved,
    )


@contextmanager
def erasing(_config: Config, store: Store) -> Iterator[Erasure]:
    """The erasure of users from the log in a command."""
    yield _erasure(store, ActionPositions(store))


def _erasure(store: Store, positions: ActionPositions) -> Erasure:
    def erase_user(app: str, user: str, name: str) -> None:
        if store.has_database:
            store.part(MessageLog).erase_user(app, user, name)
            positions.forget(app, user)

    return Erasure(frozenset(), erase_user, lambda _: None)


def _make_services(core: Core) -> MessageServices:
    store, metrics, sessions = core.storage.store, core.node.metrics, core.sessions
    channel_log = ChannelLog(store, metrics, sessions.hub, sessions.table, core.channels.channels)
    messaging = Messaging(
        sessions=sessions,
        identity=core.identity,
        metrics=metrics,
        store=store,
        positions=ActionPositions(store),
        ack_tracker=AckTracker(metrics, core.config.limits.node_outbox_bytes),
        channel_log=channel_log,
        node_messages=core.cluster.node_messages,
    )
    channel_log.follow_log = messaging.follower.follow
    store.part(MessageLog).writer.listener = messaging
    messaging.add_to(core.cluster.queries)
    core.channels.channels.options.groups = channel_log
    core.push.publishing.stored_pushes = LogPushes(messaging, core.push.idempotency)
    node_messages = core.cluster.node_messages
    signals = Signals(sessions, messaging, store, core.identity.relations, node_messages)
    if node_messages is not None:
        node_messages.handle({Commit: messaging.follower.committed, ToFollowers: signals.deliver})
    threads = ThreadCommands(signals, store)
    receipts, search = Receipts(signals, store), MessageSearch(store, core.node.buckets.make)
    asks = AskCommands(store, messaging, core.identity)
    commands = MessageCommands(sessions.sessions, messaging, receipts, search, store)
    for service in (commands, asks, receipts, threads, signals):
        core.network.dispatcher.add(service.rows())
    streams, channel_streams = _make_streams(core, messaging, signals)
    return MessageServices(
        log=store.part(MessageLog),
        messaging=messaging,
        signals=signals,
        receipts=receipts,
        threads=threads,
        search=search,
        retention=Retention(
            settings_of(core.config, RetentionSettings),
            core.identity.tenants.get,
            core.storage.store,
            core.node.metrics,
            messaging.positions,
            messaging.observers,
        ),
        streams=streams,
        channel_streams=channel_streams,
        observers=messaging.observers,
        asks=asks,
        stream_starts=StreamStarts(messaging.catch_up, messaging.deliverer, store),
    )


def _make_streams(
    core: Core, messaging: Messaging, signals: Signals
) -> tuple[StreamedTexts, StreamedMessages]:
    sessions, cluster, limits = core.sessions, core.cluster, settings_of(core.config, StreamLimits)
    others = (sessions.table, cluster.queries, limits, core.config.limits.outbox_bytes, cluster.others)
    in_conversations = ConversationStreams(messaging, signals, core.storage.store, core.identity.relations)
    streams = StreamedTexts(in_conversations, *others)
    in_channels = ChannelStreams(core.channels.channels, sessions.hub, sessions.connections)
    channel_streams = StreamedMessages(in_channels, *others)
    core.identity.tenants.on_delete += [streams.forget, channel_streams.forget]
    return streams, channel_streams
