"""The parts of stored messages on one node."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from imserver.gateway.clock import every
from imserver.gateway.config.settings import Config, settings_of
from imserver.gateway.core.core import Core, Parts
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.contract import Erasure
from imserver.gateway.storage.store import Store
from imserver.gateway.transport.dispatch import CommandRow, CommandTable
from imserver.messenger.channels.stored_channels import ChannelLog
from imserver.messenger.delivery.acks import AckTracker
from imserver.messenger.delivery.action_positions import ActionPositions
from imserver.messenger.delivery.catch_up import StreamStarts
from imserver.messenger.delivery.messaging import Messaging
from imserver.messenger.delivery.receipts import Receipts, Signals, ToFollowers
from imserver.messenger.delivery.stored_pushes import LogPushes
from imserver.messenger.log.contract import Commit
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages.declared import RetentionSettings
from imserver.messenger.messages.message_commands import (
    AskCommands,
    MessageCommands,
    ThreadCommands,
)
from imserver.messenger.messages.retention import Retention
from imserver.messenger.messages.services import MessageServices
from imserver.messenger.search.message_search import MessageSearch, WordIndexing
from imserver.messenger.search.word_index import WordIndex
from imserver.messenger.streams.limits import StreamLimits
from imserver.messenger.streams.streamed import ConversationStreams, StreamedTexts
from imserver.messenger.streams.streamed_messages import (
    ChannelStreams,
    StreamedMessages,
)

_INDEX_SECONDS: Final = 1.0
_ACK_CHECK_SECONDS: Final = 1.0
"""The time after which the wheel of acknowledgements turns to its next slot."""
ERASURE_PATIENCE_SECONDS: Final = 20.0
"""How long an erasure waits for another node that works on the index of words.
After that the erasure fails, because the index still has words of the user. The
caller repeats it."""


def build(core: Core) -> Parts:
    """Build the services of stored messages on one node.

    This also registers the services for events of the core, and starts their
    background work.
    """
    services, answers, commands = _make_services(core)
    messaging = services.messaging
    positions = messaging.positions
    catch_up = messaging.catch_up
    _register(core, services)

    # Each background task runs in a greenlet of its own.
    expire = every(
        core.config.storage.expire_seconds,
        services.retention.expire,
        "entries could not be expired",
    )
    index_words = every(
        _INDEX_SECONDS,
        WordIndexing(core.store).work,
        "words could not be added to the index",
    )
    check_acks = every(
        _ACK_CHECK_SECONDS,
        catch_up.check_acks,
        "acknowledgements could not be checked",
    )
    return Parts(
        (services, *answers, _erasure(core.store, positions)),
        commands,
        ended=(catch_up.forget,),
        run=(
            messaging.follower.run,
            positions.run,
            expire,
            index_words,
            services.channel_streams.run,
            services.streams.run,
            check_acks,
        ),
        # Clients acknowledge until their connections end.
        stop=positions.store_proved,
    )


def _register(core: Core, services: MessageServices) -> None:
    """Register the services for events of the core."""
    catch_up = services.messaging.catch_up
    # Connections report pongs, and their own end.
    core.network.report_to(catch_up.ponged)
    core.hub.report_to(catch_up.forget)
    if core.member is not None:
        core.member.report_to(services.messaging.learn)
    # Streams end when the node drains, or when their app is deleted.
    for streams in (services.streams, services.channel_streams):
        core.draining.report_to(streams.close_all)
        core.tenants.report_to(streams.forget)


@contextmanager
def offline(
    _config: Config, store: Store, _tenants: object
) -> Iterator[tuple[Erasure]]:
    """Yield the erasure of users from the log, for a command without a
    server."""
    yield (_erasure(store, ActionPositions(store)),)


def _erasure(store: Store, positions: ActionPositions) -> Erasure:
    """Return the functions that erase a user, or an app, from the log, the
    index and the positions."""

    def erase_user(app: str, user: str, name: str) -> None:
        """Erase a user of an app. ``name`` replaces the user. If it is ``""``,
        the messages stay."""
        if not store.has_database:
            return
        store.part(MessageLog).erase_user(app, user, name)
        # Without a new name, the messages stay, so their words stay in the
        # index.
        if name and not store.part(WordIndex).settle(app, ERASURE_PATIENCE_SECONDS):
            raise StorageUnavailable("another node works on the index of words")
        positions.forget(app, user)

    def erase_app(_app: str) -> None:
        """Do nothing: the store deletes the rows of the tables."""

    return Erasure(frozenset(), erase_user, erase_app)


def _make_services(
    core: Core,
) -> tuple[MessageServices, tuple[ChannelLog, LogPushes], CommandTable]:
    """Make the services, the objects that answer the core, and the commands."""
    store = core.store
    channel_log = ChannelLog(
        store, core.metrics, core.hub, core.connection_table, core.channels
    )
    messaging, signals = _make_messaging(core, channel_log)

    threads = ThreadCommands(signals, store)
    receipts = Receipts(signals, store)
    search = MessageSearch(store, core.buckets.make)
    asks = AskCommands(core, messaging, signals)
    commands = MessageCommands(core.sessions, messaging, receipts, search, store)

    retention = _make_retention(core, messaging)
    streams, channel_streams = _make_streams(core, messaging, signals)
    services = MessageServices(
        log=store.part(MessageLog),
        messaging=messaging,
        signals=signals,
        receipts=receipts,
        threads=threads,
        search=search,
        retention=retention,
        streams=streams,
        channel_streams=channel_streams,
        observers=messaging.observers,
        asks=asks,
        stream_starts=StreamStarts(messaging.catch_up),
    )

    rows: dict[type, CommandRow] = {}
    for runner in (commands, asks, receipts, threads, signals):
        rows.update(runner.commands())
    answers = (channel_log, LogPushes(messaging, core.idempotency))
    return services, answers, rows


def _make_retention(core: Core, messaging: Messaging) -> Retention:
    """Make the service that deletes expired entries."""
    return Retention(
        settings=settings_of(core.config, RetentionSettings),
        settings_of=core.tenants.get,
        store=core.store,
        metrics=core.metrics,
        positions=messaging.positions,
        observers=messaging.observers,
    )


def _make_streams(
    core: Core, messaging: Messaging, signals: Signals
) -> tuple[StreamedTexts, StreamedMessages]:
    """Make the services of streamed messages: in conversations, and in channels."""
    stream_limits = settings_of(core.config, StreamLimits)
    # These are the arguments after the target. They are the same for both kinds
    # of streams.
    stream_arguments = (
        core.connection_table,
        core.queries,
        stream_limits,
        core.limits.outbox_bytes,
        core.others,
    )
    in_conversations = ConversationStreams(
        messaging, signals, core.store, core.relations
    )
    in_channels = ChannelStreams(core.channels, core.hub, core.connections)
    return (
        StreamedTexts(in_conversations, *stream_arguments),
        StreamedMessages(in_channels, *stream_arguments),
    )


def _make_messaging(core: Core, channel_log: ChannelLog) -> tuple[Messaging, Signals]:
    """Make the services that deliver messages and signals, and connect them.

    The log and the other nodes report their commits to these services.
    """
    messaging = Messaging(
        core,
        positions=ActionPositions(core.store),
        ack_tracker=AckTracker(core.metrics, core.limits.node_outbox_bytes),
        channel_log=channel_log,
    )
    # This is set afterwards, because both objects need each other.
    channel_log.attach(messaging.follower.follow)
    core.store.part(MessageLog).writer.report_to(messaging)
    messaging.add_to(core.queries)
    signals = Signals(core, messaging)
    if core.node_messages is not None:
        core.node_messages.handle(
            {Commit: messaging.follower.committed, ToFollowers: signals.deliver}
        )
    return messaging, signals
