"""What clients that come back say and hear, as the same few words in each dialect; and those of cmd."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from bench.chaos_checker import Told, read_mark
from bench.frames import request_frame

SYNC_ENTRIES = 200
"""Entries of a page that clients of the cmd dialect ask for."""
OK, NOT_STORED = 200, 1008
_NOTICE, _HEAD_BYTES = b'","cmd":"e', 64
"""Somebody enters or exits, as the first bytes of a frame say."""


@dataclass(frozen=True)
class Outgoing:
    """A message that is sent until it is acknowledged: to a user, or (``group``) to a group."""

    mark: int
    receiver: int
    group: bool
    text: str

    @property
    def name(self) -> str:
        """Its client_msg_id."""
        return f"{self.mark:x}"


@dataclass(frozen=True)
class LoggedIn:
    """The session stands; ``recovered``: what was missed follows; ``anew``: the cursor is unknown."""

    recovered: bool
    anew: bool = False


@dataclass(frozen=True)
class Page:
    """What was missed; ``more``: there is more of it. ``anew``: the server does not know the cursor."""

    entries: list[Told]
    more: bool
    anew: bool = False


@dataclass(frozen=True)
class Stored:
    """The message ``mark`` is acknowledged; without a seq its dialect does not say more than the id."""

    mark: int
    told: Told
    repeated: bool


@dataclass(frozen=True)
class NotStored:
    """The message may be sent again."""

    mark: int


@dataclass(frozen=True)
class Refused:
    """``what`` was refused with ``code``."""

    what: str
    code: int


Heard = LoggedIn | Page | Told | Stored | NotStored | Refused


class Speech(Protocol):
    """One connection's side of a dialect. ``depth``: messages that may wait for their acknowledgement;
    ``in_order``: they are numbered, and the server takes no other than the next."""

    path: str
    depth: int
    in_order: bool

    def login(self, cursor: int) -> bytes:
        """The frame that logs in; the first on a connection."""

    def sync(self, cursor: int) -> bytes:
        """The frame that asks for what was missed."""

    def send(self, message: Outgoing) -> bytes:
        """The frame of a message, the first time and again."""

    def ack(self, cursor: int) -> bytes:
        """The frame that acknowledges what was told; empty where there is none."""

    def hear(self, payload: bytes) -> list[Heard]:
        """What a frame of the server says; raises ValueError if nothing that belongs here."""


class CmdSpeech:
    """The cmd dialect, as user ``account`` of ``app``, with a ``token`` or ``""``; ``acks``: it acknowledges
    what it is told.

    ``resumes`` False: it does not say where it stands as it logs in, and asks for everything by pages.
    """

    path = "/acc"
    depth = 8
    in_order = False

    def __init__(self, app: int, account: int, token: str, acks: bool, resumes: bool = True) -> None:
        self.app = app
        self.account = account
        self.token = token
        self.acks = acks and resumes
        self.resumes = resumes

    def login(self, cursor: int) -> bytes:
        """Log in."""
        data: dict[str, object] = {"userID": str(self.account), "appID": self.app}
        if self.token:
            data["serviceToken"] = self.token
        if self.resumes:
            data |= {"cursor": cursor, "acks": self.acks}
        return request_frame("login", "l", data)

    def sync(self, cursor: int) -> bytes:
        """Ask for a page."""
        return request_frame("sync", "s", {"cursor": cursor, "limit": SYNC_ENTRIES})

    def send(self, message: Outgoing) -> bytes:
        """Send, the mark as the request's seq."""
        where = {"conversation": message.receiver} if message.group else {"to": str(message.receiver)}
        data = {**where, "text": message.text, "clientMsgID": message.name}
        return request_frame("send", str(message.mark), data)

    def ack(self, cursor: int) -> bytes:
        """Acknowledge, if it said that it would."""
        return request_frame("ack", "a", {"id": cursor}) if self.acks else b""

    def hear(self, payload: bytes) -> list[Heard]:
        """Read a frame; notices of who comes and goes are nothing."""
        if _NOTICE in payload[:_HEAD_BYTES]:
            return []
        body = json.loads(payload)
        code, data = body["response"]["code"], body["response"]["data"]
        command = body["cmd"]
        if command == "message":
            return [_told(data)]
        if command == "send":
            return [_sent(int(body["seq"]), code, data)]
        if command in ("login", "sync", "ack") and code != OK:
            return [Refused(command, code)]
        if command == "login":
            return [LoggedIn(bool(data and data["recovered"]))]
        if command == "sync":
            told = [_told(entry) for entry in data["messages"]]
            return [Page(told, data["hasMore"], data.get("beginAnew", False))]
        return []


def _told(entry: dict[str, Any]) -> Told:
    return Told(entry["id"], entry["conversation"], entry["seq"], read_mark(entry.get("text") or ""))


def _sent(mark: int, code: int, data: Any) -> Heard:
    if code == OK:
        told = Told(data["id"], data["conversation"], data["seq"], mark)
        return Stored(mark, told, data["repeated"])
    return NotStored(mark) if code == NOT_STORED else Refused("send", code)
