"""The Python client of imserver: sessions of users and the HTTP API, for threads and for asyncio.

    from imserver_client import Api, Client

    api = Api("http://127.0.0.1:8080", key="…")
    api.push("101", "hello", user="ann")

    with Client("ws://127.0.0.1:8089/acc", "101", "ann") as client:
        for push in client:
            print(push.sender, push.text)

- :class:`Client` receives pushes; :class:`Messenger` sends and receives stored messages, and loses none.
- :class:`Api` calls the HTTP API; :class:`Publisher` pushes over one open connection.
- All four run with threads or under gevent. The same with ``Async`` before the name run in asyncio.

Importing this package patches nothing.
"""

from imserver_client.aio import AsyncApi, AsyncClient, AsyncMessenger
from imserver_client.api import Api
from imserver_client.errors import (
    ClientError,
    Closed,
    CommandRefused,
    LoginRefused,
    NotConnected,
    RequestRefused,
)
from imserver_client.messages import (
    Conversation,
    ConversationPage,
    Entry,
    LogReset,
    Marks,
    MessagePage,
    ReadPosition,
    Receipt,
    ReceiptPage,
    Sent,
    Signal,
)
from imserver_client.protocol import Push, Reply
from imserver_client.publisher import AsyncPublisher, Publisher
from imserver_client.results import (
    App,
    BatchResult,
    Counts,
    Presence,
    PushAnswer,
    PushResult,
    Session,
    StoredPosition,
    UserPage,
)
from imserver_client.session import Backoff, MessengerEvent, State
from imserver_client.threads import Client, Messenger

__version__ = "0.1.0"

__all__ = [
    "Api",
    "App",
    "AsyncApi",
    "AsyncClient",
    "AsyncMessenger",
    "AsyncPublisher",
    "Backoff",
    "BatchResult",
    "Client",
    "ClientError",
    "Closed",
    "CommandRefused",
    "Conversation",
    "ConversationPage",
    "Counts",
    "Entry",
    "LogReset",
    "LoginRefused",
    "Marks",
    "MessagePage",
    "Messenger",
    "MessengerEvent",
    "NotConnected",
    "Presence",
    "Publisher",
    "Push",
    "PushAnswer",
    "PushResult",
    "ReadPosition",
    "Receipt",
    "ReceiptPage",
    "Reply",
    "RequestRefused",
    "Sent",
    "Session",
    "Signal",
    "State",
    "StoredPosition",
    "UserPage",
]
