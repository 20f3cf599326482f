"""What clients that come back say and hear in the protobuf dialect: as those of GoChat, or with a cursor."""

from __future__ import annotations

import time

from bench.chaos_checker import Told, read_mark
from bench.chaos_client import (
    NOT_STORED,
    OK,
    SYNC_ENTRIES,
    Heard,
    LoggedIn,
    NotStored,
    Outgoing,
    Page,
    Refused,
    Stored,
)
from bench.frames import client_frame
from bench.protobuf import (
    BINARY,
    CT_ACK,
    CT_LOGIN,
    CT_MESSAGE,
    CT_SYNC,
    GROUP,
    PATH,
    SINGLE,
    field,
    numbers,
    page,
    read_varint,
    varint,
)

_PUSHED, _LOGGED_IN, _REFUSED = 2, 3, 4
"""What is acknowledged."""
_SIGNAL = 15


def _input(kind: int, data: bytes) -> bytes:
    return client_frame(b"\x08%c%b" % (kind, field(0x12, data)), BINARY)


class ProtobufSpeech:
    """A client of GoChat, as the account of ``token``."""

    path = PATH
    depth = 4
    in_order = True

    def __init__(self, account: int, token: str) -> None:
        self.account = account
        self.token = token
        self._counted = 0
        self._numbers: dict[int, int] = {}
        """What is under way on this connection: to every mark its number."""
        self._marks: dict[int, int] = {}

    def login(self, cursor: int) -> bytes:
        self._counted = 0
        self._numbers.clear()
        self._marks.clear()
        return _input(CT_LOGIN, field(0x0A, self.token.encode()))

    def sync(self, cursor: int) -> bytes:
        return _input(CT_SYNC, b"\x08" + varint(cursor))

    def send(self, message: Outgoing) -> bytes:
        """Send under the next number of this connection, or again under its own."""
        number = self._numbers.get(message.mark)
        if number is None:
            number = self._counted = self._counted + 1
            self._numbers[message.mark] = number
            self._marks[number] = message.mark
        kind = GROUP if message.group else SINGLE
        body = b"\x08%c\x10%b\x18%b\x20\x01" % (kind, varint(message.receiver), varint(self.account))
        body += field(0x2A, message.text.encode()) + b"\x38" + varint(int(time.time() * 1000))
        return _input(
            CT_MESSAGE, field(0x0A, body) + b"\x10" + varint(number) + field(0x1A, message.name.encode())
        )

    def ack(self, cursor: int) -> bytes:
        return b""

    def hear(self, payload: bytes) -> list[Heard]:
        heard: list[Heard] = []
        for kind, code, data in _outputs(payload):
            if kind == CT_ACK:
                heard += self._hear_ack(code, numbers(data))
            elif code != OK:
                heard.append(Refused(f"request {kind}", code))
            elif kind == CT_MESSAGE:
                size, at = read_varint(data, 1)
                heard.append(_message(data[at : at + size]))
            elif kind == CT_SYNC:
                heard.append(_page(data))
            elif kind != _SIGNAL:
                raise ValueError(payload[:100])
        return heard

    def _hear_ack(self, code: int, fields: dict[int, int]) -> list[Heard]:
        kind, number = fields.get(0x08, 0), fields.get(0x10, 0)
        if kind == _LOGGED_IN:
            return [LoggedIn(bool(fields.get(0x20)), bool(fields.get(0x28)))]
        if kind == _REFUSED and not number:
            return [Refused("login", code)]
        if kind == _REFUSED and code == NOT_STORED and number in self._marks:
            return [NotStored(self._marks[number])]
        if kind == _REFUSED:
            return [Refused("send", code)]
        mark = self._marks.pop(number, 0)
        if not mark:
            return []  # the last one again
        del self._numbers[mark]
        return [Stored(mark, Told(fields.get(0x18, 0), 0, 0, mark), repeated=False)]


class CursorSpeech(ProtobufSpeech):
    """A client that says where it stands as it logs in; ``acks``: it acknowledges what it is told."""

    def __init__(self, account: int, token: str, acks: bool) -> None:
        super().__init__(account, token)
        self.acks = acks

    def login(self, cursor: int) -> bytes:
        super().login(cursor)
        token = field(0x0A, self.token.encode())
        return _input(CT_LOGIN, token + b"\x18" + varint(cursor) + (b"\x20\x01" if self.acks else b""))

    def sync(self, cursor: int) -> bytes:
        return _input(CT_SYNC, b"\x08" + varint(cursor) + b"\x10" + varint(SYNC_ENTRIES))

    def ack(self, cursor: int) -> bytes:
        return _input(CT_ACK, b"\x08%c\x18%b" % (_PUSHED, varint(cursor))) if self.acks else b""


def _outputs(payload: bytes) -> list[tuple[int, int, bytes]]:
    """Kind, code and data of each output of a batch; raises ValueError for no batch."""
    found = []
    at = 0
    while at < len(payload):
        if payload[at] != 0x0A:
            raise ValueError(payload[:100])
        size, at = read_varint(payload, at + 1)
        fields = _fields(payload[at : at + size])
        at += size
        if at > len(payload):
            raise ValueError(payload[:100])
        kind, code, data = fields.get(0x08, 0), fields.get(0x10, 0), fields.get(0x22, b"")
        if not isinstance(kind, int) or not isinstance(code, int) or not isinstance(data, bytes):
            raise ValueError(payload[:100])
        found.append((kind, code, data))
    return found


def _fields(data: bytes) -> dict[int, int | bytes]:
    """Numbers and bytes of a message by their tags, the last of each; raises ValueError if it is cut off."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag = data[at]
        value, at = read_varint(data, at + 1)
        if tag & 7 == 2:
            found[tag] = data[at : at + value]
            at += value
        else:
            found[tag] = value
    if at > len(data):
        raise ValueError(data[:100])
    return found


def _message(data: bytes) -> Told:
    """Read a ``Message``: its id, and the mark in its content."""
    fields = _fields(data)
    id, content = fields.get(0x30, 0), fields.get(0x2A, b"")
    if not isinstance(id, int) or not isinstance(content, bytes):
        raise ValueError(data[:100])
    return Told(id, 0, 0, read_mark(content.decode()) if not fields.get(0x40) else 0)


def _page(data: bytes) -> Page:
    messages, _ = page(data)
    rest = _fields(data)
    return Page([_message(each) for each in messages], bool(rest.get(0x10)), bool(rest.get(0x18)))
