"""The dialects of subscribers in :mod:`bench.chaos_channels`: bytes ↔ events, without I/O."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from itertools import count
from typing import NamedTuple

from bench.chat_dialects import LoggedIn
from bench.frames import client_frame, request_frame
from bench.loop import Json

PUSHER_KEY = "chaos"
OK = 200


class Pong(NamedTuple):
    """The server wants a sign of life."""


class Subscribed(NamedTuple):
    """The answer to a subscription. ``publications``: the missed ones (offset, mark), if ``recovered``."""

    channel: str
    epoch: str
    offset: int
    recovered: bool
    publications: list[tuple[int, int]]


class SubscriptionRefused(NamedTuple):
    """A subscription was refused. The client may try again."""

    channel: str


class Left(NamedTuple):
    """The answer to the end of a subscription."""

    channel: str


class Published(NamedTuple):
    """A publication."""

    channel: str
    offset: int
    mark: int


class Unsubscribed(NamedTuple):
    """The server has ended a subscription."""

    channel: str
    code: int


SubscriberEvent = LoggedIn | Pong | Subscribed | SubscriptionRefused | Left | Published | Unsubscribed


class ChannelDialect(ABC):
    """A dialect of subscribers. ``name``: of the user.

    ``knows_offsets``: those of publications, with which a subscriber recovers.
    """

    knows_offsets = True
    depth = 0
    in_order = counts_anew = False
    path = ""

    def __init__(self, app: str, name: str) -> None:
        self.app = app
        self.name = name
        self._ids = count(1)
        self._waiting: dict[int, str] = {}
        """Id of a command of this connection → channel; ``""``: the login."""

    @abstractmethod
    def login(self, cursor: int) -> bytes:
        """The first frame of a connection, if it needs one."""

    @abstractmethod
    def subscribe(self, channel: str, epoch: str, offset: int) -> bytes:
        """Subscribe; ``epoch`` ``""``: without a position."""

    def unsubscribe(self, channel: str) -> bytes:
        """End a subscription; ``b""``: this dialect has no answer to that."""
        return b""

    @abstractmethod
    def read(self, payload: bytes) -> list[SubscriberEvent]:
        """Read a frame. Raises ValueError or KeyError."""

    def _new_id(self, channel: str) -> int:
        number = next(self._ids)
        self._waiting[number] = channel
        return number


class CentrifugeDialect(ChannelDialect):
    """JSON of Centrifugo's client protocol."""

    def __init__(self, app: str, name: str) -> None:
        super().__init__(app, name)
        self.path = f"/connection/{app}/websocket"

    def login(self, _cursor: int) -> bytes:
        self._waiting.clear()
        return self._command("", {"connect": {}})

    def subscribe(self, channel: str, epoch: str, offset: int) -> bytes:
        request: Json = {"channel": channel, "recoverable": True, "positioned": True}
        if epoch:
            request |= {"recover": True, "epoch": epoch, "offset": offset}
        return self._command(channel, {"subscribe": request})

    def unsubscribe(self, channel: str) -> bytes:
        return self._command(channel, {"unsubscribe": {"channel": channel}})

    def _command(self, channel: str, command: Json) -> bytes:
        return client_frame(json.dumps({"id": self._new_id(channel), **command}).encode())

    def read(self, payload: bytes) -> list[SubscriberEvent]:
        events = [self._read(json.loads(line)) for line in payload.splitlines()]
        return [event for event in events if event is not None]

    def _read(self, reply: Json) -> SubscriberEvent | None:
        if not reply:
            return Pong()
        if "push" in reply:
            push = reply["push"]
            if "pub" in push:
                return Published(push["channel"], push["pub"].get("offset", 0), _mark(push["pub"]))
            if "unsubscribe" in push:
                return Unsubscribed(push["channel"], push["unsubscribe"].get("code", 0))
            return None
        channel = self._waiting.pop(reply["id"])
        if not channel:
            if "error" in reply:
                raise ValueError(reply)
            return LoggedIn(False)
        if "unsubscribe" in reply:
            return Left(channel)
        return SubscriptionRefused(channel) if "error" in reply else _subscribed(channel, reply["subscribe"])


class CmdChannelDialect(ChannelDialect):
    """The cmd dialect with ``subscribe``."""

    path = "/acc"

    def login(self, _cursor: int) -> bytes:
        self._waiting.clear()
        return self._command("", "login", {"userID": self.name, "app": self.app})

    def subscribe(self, channel: str, epoch: str, offset: int) -> bytes:
        position = {"epoch": epoch, "offset": offset} if epoch else {}
        return self._command(channel, "subscribe", {"channel": channel, **position})

    def unsubscribe(self, channel: str) -> bytes:
        return self._command(channel, "unsubscribe", {"channel": channel})

    def _command(self, channel: str, command: str, data: Json) -> bytes:
        return request_frame(command, str(self._new_id(channel)), data)

    def read(self, payload: bytes) -> list[SubscriberEvent]:
        body = json.loads(payload)
        command, code, data = body["cmd"], body["response"]["code"], body["response"]["data"]
        if command == "publication":
            return [Published(data["channel"], data.get("offset", 0), _mark(data))]
        if command == "unsubscribed":
            return [Unsubscribed(data["channel"], data["code"])]
        if command not in ("login", "subscribe", "unsubscribe"):
            return []
        channel = self._waiting.pop(int(body["seq"]))
        if command == "unsubscribe":
            return [Left(channel)]
        if channel:
            return [SubscriptionRefused(channel) if code != OK else _subscribed(channel, data)]
        if code != OK:
            raise ValueError(body)
        return [LoggedIn(False)]


class PusherDialect(ChannelDialect):
    """Pusher's protocol."""

    knows_offsets = False
    path = f"/app/{PUSHER_KEY}?protocol=7"

    def login(self, _cursor: int) -> bytes:
        return b""

    def subscribe(self, channel: str, _epoch: str, _offset: int) -> bytes:
        body = {"event": "pusher:subscribe", "data": {"channel": channel}}
        return client_frame(json.dumps(body).encode())

    def read(self, payload: bytes) -> list[SubscriberEvent]:
        body = json.loads(payload)
        event, channel = body["event"], body.get("channel", "")
        if event == "pusher:connection_established":
            return [LoggedIn(False)]
        if event == "pusher_internal:subscription_succeeded":
            return [Subscribed(channel, "", 0, False, [])]
        if event == "pusher:subscription_error":
            return [SubscriptionRefused(channel)]
        if event.startswith("pusher"):
            return []
        return [Published(channel, 0, json.loads(body["data"])["mark"])]


def _subscribed(channel: str, found: Json) -> Subscribed:
    missed = [(each.get("offset", 0), _mark(each)) for each in found.get("publications", ())]
    position = found.get("epoch", ""), found.get("offset", 0)
    return Subscribed(channel, *position, found.get("recovered", False), missed)


def _mark(publication: Json) -> int:
    mark: int = publication["data"]["mark"]
    return mark
