"""The Python client: WebSocket sessions and the HTTP API, for threads and for asyncio.

    from imserver.client import Api, Client

    api = Api("http://127.0.0.1:8080", key="…")
    api.push("101", "hello", user="ann")

    with Client("ws://127.0.0.1:8089/acc", "101", "ann") as client:
        for push in client:
            print(push.sender, push.text)

:class:`Client` and :class:`Api` are for ordinary code, with threads or under gevent; :class:`AsyncClient`
and :class:`AsyncApi` for asyncio. :class:`Publisher` and :class:`AsyncPublisher` push over one standing
connection. Importing this package patches nothing.
"""

from imserver.client.aio import AsyncClient
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
from imserver.client.errors import ClientError, Closed, LoginRefused, NotConnected, RequestRefused
from imserver.client.publisher import AsyncPublisher, Publisher
from imserver.client.sync import Client
from imserver.client.wire import Push, Reply

__all__ = [
    "Api",
    "App",
    "AsyncApi",
    "AsyncClient",
    "AsyncPublisher",
    "BatchResult",
    "Client",
    "ClientError",
    "Closed",
    "Counts",
    "LoginRefused",
    "NotConnected",
    "Presence",
    "Publisher",
    "Push",
    "PushAnswer",
    "PushResult",
    "Reply",
    "RequestRefused",
    "Session",
    "StoredAt",
    "UserPage",
]
