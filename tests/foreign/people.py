"""People with centrifuge-python."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from centrifuge import Client, Subscription

from tests.support import Server

from .conftest import token

SECONDS = 60.0
both = pytest.mark.parametrize("protobuf", [False, True], ids=["json", "protobuf"])
json_first = pytest.mark.parametrize(
    "protobuf",
    [False, pytest.param(True, marks=pytest.mark.full("sampled"))],
    ids=["json", "protobuf"],
)
"""For what does not depend on the form of payloads: ``make test`` runs it with
JSON."""
Handler = Callable[[Any], Awaitable[None]]


class Events:
    def __init__(self) -> None:
        self._happened: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def __getattr__(self, name: str) -> Handler:
        if not name.startswith("on_"):
            raise AttributeError(name)

        async def handler(context: Any) -> None:
            await self._happened.put((name, context))

        return handler

    async def any(self) -> tuple[str, Any]:
        async with asyncio.timeout(SECONDS):
            return await self._happened.get()

    async def next(self, name: str) -> Any:
        """The next report of this name; others before it are dropped."""
        while True:
            happened, context = await self.any()
            if happened == name:
                return context


class Person:
    """A client with its events, which takes and gives payloads as values in
    both forms."""

    def __init__(self, address: str, protobuf: bool, **options: Any) -> None:
        self.events = Events()
        self.protobuf = protobuf
        patient = {
            "timeout": SECONDS,
            "max_server_ping_delay": SECONDS,
            "proxy": None,
            **options,
        }
        self.client = Client(address, self.events, use_protobuf=protobuf, **patient)  # type: ignore[arg-type]

    async def return_to(
        self, server: Server, path: str = "/connection/websocket"
    ) -> None:
        """Connect again, to a node that may be another one."""
        self.client._address = f"ws://{server.ws.host}:{server.ws.port}{path}"
        await self.client.connect()
        await self.client.ready(SECONDS)

    def written(self, value: Any) -> Any:
        return json.dumps(value).encode() if self.protobuf else value

    def read(self, data: Any) -> Any:
        return json.loads(data) if self.protobuf else data

    async def subscribe(
        self, channel: str, **options: Any
    ) -> tuple[Subscription, Events]:
        """A subscription that is in effect."""
        events = Events()
        subscription = self.client.new_subscription(channel, events, **options)  # type: ignore[arg-type]
        await subscription.subscribe()
        await subscription.ready(SECONDS)
        return subscription, events

    async def rpc(self, method: str, **data: Any) -> Any:
        return self.read(
            (await self.client.rpc(method, self.written(data), timeout=SECONDS)).data
        )


@asynccontextmanager
async def person(
    server: Server,
    protobuf: bool,
    user: str = "",
    path: str = "/connection/websocket",
    **options: Any,
) -> AsyncIterator[Person]:
    """A connected client; a ``user`` has a token of the shop."""
    address = f"ws://{server.ws.host}:{server.ws.port}{path}"
    one = Person(
        address, protobuf, **({"token": token(user)} if user else {}), **options
    )
    await one.client.connect()
    try:
        await one.client.ready(SECONDS)
        yield one
    finally:
        await one.client.disconnect()


async def refused(server: Server, **options: Any) -> int:
    """The code with which a client that must not connect is disconnected for
    good."""
    address = f"ws://{server.ws.host}:{server.ws.port}{options.pop('path', '/connection/websocket')}"
    one = Person(address, False, **options)
    await one.client.connect()
    gone = await one.events.next("on_disconnected")
    assert gone.reason or gone.code < 3000, (
        "centrifuge-js heeds a close code only if there is a reason"
    )
    return int(gone.code)
