"""The Python client of imserver: sessions of users and the HTTP API, for
threads and for asyncio.

    from imserver_client import Api, Client

    api = Api("http://127.0.0.1:8080", key="…")
    api.push("default", "hello", user="ann")

    with Client("ws://127.0.0.1:8089/acc", "default", "ann") as client:
        for push in client:
            print(push.sender, push.text)

- :class:`Client` receives pushes; :class:`Messenger` sends and receives stored
  messages, and loses none.
- :class:`Accounts` logs in to accounts with a provider such as GitHub, and
  resets passwords of accounts.
- :class:`Api` calls the HTTP API; :class:`Publisher` pushes over one open
  connection.
- All run with threads or under gevent. All but the accounts run in asyncio with
  ``Async`` before the name.

Importing this package patches nothing.
"""

from imserver_client.accounts import (
    AccountLogin,
    Accounts,
    LoginProvider,
    ProviderLink,
    StartedLogin,
)
from imserver_client.aio import AsyncApi, AsyncClient, AsyncMessenger
from imserver_client.api import Api, StreamFields
from imserver_client.errors import (
    ClientError,
    Closed,
    CommandRefused,
    LoginRefused,
    NotConnected,
    RequestRefused,
)
from imserver_client.messages import (
    Annotation,
    Answered,
    AppendedPieces,
    Arrangement,
    ArrangementPage,
    Ask,
    AskAnswer,
    AskOption,
    BotCommand,
    BotCommandPage,
    Button,
    ClosedAnswer,
    Conversation,
    ConversationPage,
    ConversationWish,
    DraftMention,
    Entry,
    Folder,
    FolderList,
    LogReset,
    Marks,
    MessagePage,
    OpenedAnswer,
    PinPage,
    Poll,
    Reaction,
    ReadPosition,
    Receipt,
    ReceiptCount,
    ReceiptCounts,
    ReceiptPage,
    Replaced,
    Reported,
    Sent,
    Signal,
    SlashCommand,
    StoppedAnswer,
    Thread,
    ThreadList,
    ThreadMark,
    ThreadPage,
    UnsentText,
)
from imserver_client.protocol import (
    ChannelHistory,
    ChannelNotice,
    Position,
    Publication,
    Push,
    Reply,
    StreamUpdate,
    Subscriber,
    SubscriberPage,
)
from imserver_client.publisher import AsyncPublisher, Publisher
from imserver_client.results import (
    App,
    BatchResult,
    Channel,
    ChannelPage,
    ChannelResult,
    ChannelSubscriber,
    ChannelSubscriberPage,
    Counts,
    HistoryPage,
    MailboxClaim,
    PieceResult,
    Presence,
    PushAnswer,
    PushResult,
    RetainedPublication,
    Session,
    StoredPosition,
    StreamEnd,
    UserPage,
)
from imserver_client.session import Backoff, MessengerEvent, State
from imserver_client.streams import AsyncTextStream, PieceRefused, TextStream
from imserver_client.threads import Client, Messenger

__version__ = "1.0.0"

__all__ = [
    "AccountLogin",
    "Accounts",
    "Annotation",
    "Answered",
    "Api",
    "App",
    "AppendedPieces",
    "Arrangement",
    "ArrangementPage",
    "Ask",
    "AskAnswer",
    "AskOption",
    "AsyncApi",
    "AsyncClient",
    "AsyncMessenger",
    "AsyncPublisher",
    "AsyncTextStream",
    "Backoff",
    "BatchResult",
    "BotCommand",
    "BotCommandPage",
    "Button",
    "Channel",
    "ChannelHistory",
    "ChannelNotice",
    "ChannelPage",
    "ChannelResult",
    "ChannelSubscriber",
    "ChannelSubscriberPage",
    "Client",
    "ClientError",
    "Closed",
    "ClosedAnswer",
    "CommandRefused",
    "Conversation",
    "ConversationPage",
    "ConversationWish",
    "Counts",
    "DraftMention",
    "Entry",
    "Folder",
    "FolderList",
    "HistoryPage",
    "LogReset",
    "LoginProvider",
    "LoginRefused",
    "MailboxClaim",
    "Marks",
    "MessagePage",
    "Messenger",
    "MessengerEvent",
    "NotConnected",
    "OpenedAnswer",
    "PieceRefused",
    "PieceResult",
    "PinPage",
    "Poll",
    "Position",
    "Presence",
    "ProviderLink",
    "Publication",
    "Publisher",
    "Push",
    "PushAnswer",
    "PushResult",
    "Reaction",
    "ReadPosition",
    "Receipt",
    "ReceiptCount",
    "ReceiptCounts",
    "ReceiptPage",
    "Replaced",
    "Reply",
    "Reported",
    "RequestRefused",
    "RetainedPublication",
    "Sent",
    "Session",
    "Signal",
    "SlashCommand",
    "StartedLogin",
    "State",
    "StoppedAnswer",
    "StoredPosition",
    "StreamEnd",
    "StreamFields",
    "StreamUpdate",
    "Subscriber",
    "SubscriberPage",
    "TextStream",
    "Thread",
    "ThreadList",
    "ThreadMark",
    "ThreadPage",
    "UnsentText",
    "UserPage",
]
