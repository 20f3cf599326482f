"""The Python client: WebSocket sessions and the HTTP API, for threads and for asyncio.

    from imserver.client import Api, Client

    api = Api("http://127.0.0.1:8080", key="…")
    api.push("101", "hello", user="ann")

    with Client("ws://127.0.0.1:8089/acc", "101", "ann") as client:
        for push in client:
            print(push.sender, push.text)

:class:`Messenger` sends and receives what is stored, and loses none of it; :class:`Client` hears pushes.
They and :class:`Api` are for ordinary code, with threads or under gevent; :class:`AsyncMessenger`,
:class:`AsyncClient` and :class:`AsyncApi` for asyncio. :class:`Publisher` and :class:`AsyncPublisher` push
over one standing connection. Importing this package patches nothing.
"""

from imserver.client.aio import AsyncClient
from imserver.client.aiomessenger import AsyncMessenger
from imserver.client.answers import (
    App,
    BatchResult,
    Counts,
    Presence,
    PushAnswer,
    PushResult,
    Session,
    StoredAt,
    UserPage,
)
from imserver.client.api import Api
from imserver.client.asyncapi import AsyncApi
from imserver.client.entries import (
    BeginAnew,
    Conversation,
    ConversationPage,
    Entry,
    Marks,
    Page,
    ReadUpTo,
    Receipt,
    ReceiptPage,
    Sent,
    Signal,
)
from imserver.client.errors import (
    ClientError,
    Closed,
    CommandRefused,
    LoginRefused,
    NotConnected,
    RequestRefused,
)
from imserver.client.messenger import Messenger, Told
from imserver.client.publisher import AsyncPublisher, Publisher
from imserver.client.sync import Client
from imserver.client.wire import Push, Reply

__all__ = [
    "Api",
    "App",
    "AsyncApi",
    "AsyncClient",
    "AsyncMessenger",
    "AsyncPublisher",
    "BatchResult",
    "BeginAnew",
    "Client",
    "ClientError",
    "Closed",
    "CommandRefused",
    "Conversation",
    "ConversationPage",
    "Counts",
    "Entry",
    "LoginRefused",
    "Marks",
    "Messenger",
    "NotConnected",
    "Page",
    "Presence",
    "Publisher",
    "Push",
    "PushAnswer",
    "PushResult",
    "ReadUpTo",
    "Receipt",
    "ReceiptPage",
    "Reply",
    "RequestRefused",
    "Sent",
    "Session",
    "Signal",
    "StoredAt",
    "Told",
    "UserPage",
]
