"""The dialects of chat clients: bytes ↔ messages and events, without I/O.

The *mark* of a message identifies it: its sender and its number there,
contained in its text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from bench.frames import request_frame
from bench.loop import Json
from bench.protobuf import (
    CT_ACK,
    CT_MESSAGE,
    CT_SYNC,
    input_frame,
    login_frame,
    message_frame,
    outputs,
)
from imserver.dialects.protobuf import chat_pb2 as pb

MARK_BITS = 32
SYNC_ENTRIES = 200
"""Size of a page that clients with a cursor request."""
OK = 200
NOT_STORED = 1008
_PUSHED = 2
_LOGGED_IN = 3
_REFUSED = 4
_SIGNAL = 15


class Entry(NamedTuple):
    """One entry of the log as a client received it. ``conversation`` and
    ``seq``: 0 if the dialect does not contain them. ``mark``: 0 for an entry
    that is no message.
    """

    id: int
    conversation: int
    seq: int
    mark: int


def mark_of(sender: int, number: int) -> int:
    """The mark of a message. Senders and their numbers count from 1."""
    return sender << MARK_BITS | number


def text_of(mark: int, padding: str = "") -> str:
    return f"{mark >> MARK_BITS}:{mark & (1 << MARK_BITS) - 1}:{padding}"


def read_mark(text: str) -> int:
    """The mark in a text; 0 if there is none."""
    sender, number, *_rest = (*text.split(":", 2), "", "")
    if sender.isdecimal() and number.isdecimal():
        return mark_of(int(sender), int(number))
    return 0


@dataclass(frozen=True)
class Outgoing:
    """A message that is sent until it is acknowledged: to a user, or
    (``group``) to a group."""

    mark: int
    receiver: int
    group: bool
    text: str

    @property
    def name(self) -> str:
        return f"{self.mark:x}"


class LoggedIn(NamedTuple):
    """The session has begun. ``recovered``: missed entries follow. ``anew``:
    the cursor is unknown."""

    recovered: bool
    anew: bool = False


class Page(NamedTuple):
    """Missed entries; ``more``: further ones follow. ``anew``: the server does
    not know the cursor."""

    entries: list[Entry]
    more: bool
    anew: bool = False


class Stored(NamedTuple):
    """The message ``mark`` is acknowledged. Without a seq its dialect sends
    only the id."""

    mark: int
    entry: Entry


class NotStored(NamedTuple):
    """The message was not stored and may be sent again."""

    mark: int


class Refused(NamedTuple):
    what: str
    code: int


ServerEvent = LoggedIn | Page | Entry | Stored | NotStored | Refused


class CmdDialect:
    """The cmd dialect, as user ``account`` of ``app``, with a ``token`` or
    ``""``. ``acks``: it acknowledges received entries. ``depth``: number of its
    messages that may wait for their acknowledgement.

    ``resumes`` False: its login has no cursor, and it requests everything by
    pages.
    """

    path = "/acc"
    in_order = counts_anew = False

    def __init__(
        self, app: int, account: int, token: str, acks: bool, resumes: bool = True
    ) -> None:
        self.app = app
        self.account = account
        self.token = token
        self.acks = acks and resumes
        self.resumes = resumes
        self.depth = 8

    def login(self, cursor: int) -> bytes:
        data: dict[str, object] = {"userID": str(self.account), "appID": self.app}
        if self.token:
            data["serviceToken"] = self.token
        if self.resumes:
            data |= {"cursor": cursor, "acks": self.acks}
        return request_frame("login", "l", data)

    def sync(self, cursor: int) -> bytes:
        return request_frame("sync", "s", {"cursor": cursor, "limit": SYNC_ENTRIES})

    def send(self, message: Outgoing) -> bytes:
        where = (
            {"conversation": message.receiver}
            if message.group
            else {"to": str(message.receiver)}
        )
        data = {**where, "text": message.text, "clientMsgID": message.name}
        return request_frame("send", str(message.mark), data)

    def ack(self, cursor: int) -> bytes:
        if self.acks:
            return request_frame("ack", "a", {"id": cursor})
        return b""

    def read(self, payload: bytes) -> list[ServerEvent]:
        body = json.loads(payload)
        code = body["response"]["code"]
        data = body["response"]["data"]
        command = body["cmd"]
        if command == "message":
            return [_entry(data)]
        if command == "send":
            mark = int(body["seq"])
            if code == OK:
                return [
                    Stored(
                        mark, Entry(data["id"], data["conversation"], data["seq"], mark)
                    )
                ]
            return [NotStored(mark) if code == NOT_STORED else Refused("send", code)]
        if command in ("login", "sync", "ack") and code != OK:
            return [Refused(command, code)]
        if command == "login":
            return [LoggedIn(bool(data and data["recovered"]))]
        if command == "sync":
            entries = [_entry(each) for each in data["messages"]]
            return [Page(entries, data["hasMore"], data.get("beginAnew", False))]
        return []


def _entry(entry: Json) -> Entry:
    return Entry(
        entry["id"],
        entry["conversation"],
        entry["seq"],
        read_mark(entry.get("text") or ""),
    )


class ProtobufDialect:
    """The protobuf dialect, as the account of ``token``. Messages are numbered,
    and the server accepts only the next number. ``resumes`` False: a client of
    GoChat, which has no cursor, acknowledges nothing and has no ids of its own
    for its messages (``counts_anew``). Its sync shows it which of them are
    stored.
    """

    path = "/ws"
    in_order = True

    def __init__(
        self, account: int, token: str, resumes: bool = False, acks: bool = False
    ) -> None:
        self.account = account
        self.token = token
        self.resumes = resumes
        self.counts_anew = not resumes
        self.acks = acks
        self.depth = 4
        self._counted = 0
        self._numbers: dict[int, int] = {}
        """The messages under way on this connection: mark → number."""
        self._marks: dict[int, int] = {}

    def login(self, cursor: int) -> bytes:
        self._counted = 0
        self._numbers.clear()
        self._marks.clear()
        return login_frame(self.token, cursor if self.resumes else None, self.acks)

    def sync(self, cursor: int) -> bytes:
        limit = SYNC_ENTRIES if self.resumes else None
        return input_frame(
            CT_SYNC, pb.SyncInputMsg(seq=cursor, limit=limit).SerializeToString()
        )

    def send(self, message: Outgoing) -> bytes:
        """Send a message with the next number of this connection, or a repeat
        with its old number."""
        number = self._numbers.get(message.mark)
        if number is None:
            number = self._counted + 1
            self._counted = number
            self._numbers[message.mark] = number
            self._marks[number] = message.mark
        name = "" if self.counts_anew else message.name
        content = message.text.encode()
        return message_frame(
            number,
            self.account,
            message.receiver,
            content,
            group=message.group,
            name=name,
        )

    def ack(self, cursor: int) -> bytes:
        data = pb.ACKMsg(type=_PUSHED, seq=cursor).SerializeToString()
        if self.acks:
            return input_frame(CT_ACK, data)
        return b""

    def read(self, payload: bytes) -> list[ServerEvent]:
        try:
            return [
                event for output in outputs(payload) for event in self._read(*output)
            ]
        except DecodeError:
            raise ValueError(payload[:100]) from None

    def _read(self, kind: int, code: int, data: bytes) -> list[ServerEvent]:
        if kind == CT_ACK:
            return self._read_ack(code, pb.ACKMsg.FromString(data))
        if code != OK:
            return [Refused(f"request {kind}", code)]
        if kind == CT_MESSAGE:
            return [_message(pb.PushMsg.FromString(data).msg)]
        if kind == CT_SYNC:
            page = pb.SyncOutputMsg.FromString(data)
            return [
                Page([*map(_message, page.messages)], page.has_more, page.begin_anew)
            ]
        if kind != _SIGNAL:
            raise ValueError(f"an output of the kind {kind}")
        return []

    def _read_ack(self, code: int, ack: pb.ACKMsg) -> list[ServerEvent]:
        if ack.type == _LOGGED_IN:
            return [LoggedIn(ack.recovered, ack.begin_anew)]
        if ack.type == _REFUSED and code == NOT_STORED and ack.clientId in self._marks:
            return [NotStored(self._marks[ack.clientId])]
        if ack.type == _REFUSED:
            return [Refused("send" if ack.clientId else "login", code)]
        mark = self._marks.pop(ack.clientId, 0)
        if not mark:
            return []  # a repeat of the last one
        del self._numbers[mark]
        return [Stored(mark, Entry(ack.seq, 0, 0, mark))]


def _message(message: pb.Message) -> Entry:
    return Entry(
        message.seq, 0, 0, 0 if message.kind else read_mark(message.content.decode())
    )


Dialect = CmdDialect | ProtobufDialect
