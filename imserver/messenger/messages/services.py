"""The services of stored messages on one node."""

from msgspec import Struct

from imserver.messenger.delivery.catch_up import StreamStarts
from imserver.messenger.delivery.messaging import Messaging
from imserver.messenger.delivery.receipts import Receipts, Signals
from imserver.messenger.log.contract import LogObserver
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages.message_commands import AskCommands, ThreadCommands
from imserver.messenger.messages.retention import Retention
from imserver.messenger.search.message_search import MessageSearch
from imserver.messenger.streams.streamed import StreamedTexts
from imserver.messenger.streams.streamed_messages import StreamedMessages


class MessageServices(Struct, frozen=True):
    """The services of stored and streamed messages:
    ``core.service(MessageServices)``.

    A feature that gets it names ``messages`` in ``uses``. ``log`` has the
    stored messages. ``messaging`` stores and delivers messages. ``signals``
    delivers signals, which are not stored. ``receipts``: read positions of
    users. ``threads``: followers of threads. ``search`` and ``retention``: the
    services of their commands. ``streams``: streamed messages in conversations,
    which are stored when their last piece has come. ``channel_streams``:
    streamed messages in channels. ``observers``: features add their observers
    of stored entries. ``asks``: answers of users to questions.
    ``stream_starts``: the positions at which event streams begin.
    """

    log: MessageLog
    messaging: Messaging
    signals: Signals
    receipts: Receipts
    threads: ThreadCommands
    search: MessageSearch
    retention: Retention
    streams: StreamedTexts
    channel_streams: StreamedMessages
    observers: list[LogObserver]
    asks: AskCommands
    stream_starts: StreamStarts
