"""The parts of stored messages on one node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
from imserver.transport.dispatch import CommandTable


def build(core: Core) -> FeatureParts:
    """Build them, with their commands and the handlers of node messages."""
    services, answers, commands = _make_services(core)
    messaging, positions = services.messaging, services.messaging.positions
    catch_up = messaging.catch_up
    expire_seconds = core.config.storage.expire_seconds
    core.network.context.report_to(catch_up.ponged)
    core.sessions.hub.report_to(catch_up.forget)
    if core.member is not None:
        core.member.report_to(messaging.learn)
    for streams in (services.streams, services.channel_streams):
        core.draining.report_to(streams.close_all)
        core.identity.tenants.report_to(streams.forget)
    return FeatureParts(
        (services, *answers, _erasure(core.storage.store, positions)),
        commands,
        ended=(catch_up.forget,),
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


def _make_services(core: Core) -> tuple[MessageServices, tuple[ChannelLog, LogPushes], CommandTable]:
    """Build the services, what answers the core besides, and the commands."""
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
    node_messages = core.cluster.node_messages
    signals = Signals(sessions, messaging, store, core.identity.relations, node_messages)
    if node_messages is not None:
        node_messages.handle({Commit: messaging.follower.committed, ToFollowers: signals.deliver})
    threads = ThreadCommands(signals, store)
    receipts, search = Receipts(signals, store), MessageSearch(store, core.node.buckets.make)
    asks = AskCommands(store, messaging, core.identity)
    commands = MessageCommands(sessions.sessions, messaging, receipts, search, store)
    runners = (commands, asks, receipts, threads, signals)
    streams, channel_streams = _make_streams(core, messaging, signals)
    services = MessageServices(
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
    table = {command: row for each in runners for command, row in each.rows().items()}
    return services, (channel_log, LogPushes(messaging, core.push.idempotency)), table


def _make_streams(
    core: Core, messaging: Messaging, signals: Signals
) -> tuple[StreamedTexts, StreamedMessages]:
    sessions, cluster, limits = core.sessions, core.cluster, settings_of(core.config, StreamLimits)
    others = (sessions.table, cluster.queries, limits, core.config.limits.outbox_bytes, cluster.others)
    in_conversations = ConversationStreams(messaging, signals, core.storage.store, core.identity.relations)
    streams = StreamedTexts(in_conversations, *others)
    in_channels = ChannelStreams(core.channels.channels, sessions.hub, sessions.connections)
    channel_streams = StreamedMessages(in_channels, *others)
    return streams, channel_streams
