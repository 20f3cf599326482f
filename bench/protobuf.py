"""The bytes of the protobuf dialect for a generator: a codec that is optimised for counting."""

from __future__ import annotations

import re
from typing import Any

from bench.frames import client_frame

BINARY = 0x2
PATH = "/ws"
APP = "gochat"
CT_LOGIN, _CT_HEARTBEAT, CT_MESSAGE, CT_ACK, CT_SYNC = range(1, 6)
SINGLE, GROUP = 1, 2
UP = 1
_TEXT = 1
_SUCCESS = b"\x10\xc8\x01\x1a\x07Success"
_VARINT = rb"[\x80-\xff]{0,9}[\x00-\x7f]"


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def read_varint(data: bytes, at: int = 0) -> tuple[int, int]:
    """Return the varint at ``at`` and its end; raises IndexError if it is incomplete."""
    value = shift = 0
    while (byte := data[at]) > 127:
        value |= (byte & 127) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1


def field(tag: int, data: bytes) -> bytes:
    return b"%c%b%b" % (tag, varint(len(data)), data)


def input_frame(kind: int, data: bytes) -> bytes:
    return client_frame(b"\x08%c%b" % (kind, field(0x12, data)), BINARY)


def login_frame(token: str) -> bytes:
    return input_frame(CT_LOGIN, field(0x0A, token.encode()))


LOGGED_IN = field(0x0A, b"\x08%c%b" % (CT_ACK, _SUCCESS) + field(0x22, b"\x08\x03"))
"""The payload that answers a login."""


class Writer:
    """The messages of one client to one receiver; the constant parts are encoded once."""

    __slots__ = ("_head", "_tail")

    def __init__(self, session: int, receiver: int, sender: int, sent_ms: int) -> None:
        self._head = b"\x08%c\x10%b\x18%b\x20%c" % (session, varint(receiver), varint(sender), _TEXT)
        self._tail = b"\x38" + varint(sent_ms)

    def frame(self, number: int, content: bytes, name: bytes = b"") -> bytes:
        """Return the frame of this client's message ``number``; ``name`` is its ``client_msg_id``."""
        message = self._head + field(0x2A, content) + self._tail
        named = field(0x1A, name) if name else b""
        return input_frame(CT_MESSAGE, field(0x0A, message) + b"\x10" + varint(number) + named)


class PushReader:
    """Decodes batches that contain only pushes of one run; the content of its messages begins with
    ``tag``.
    """

    def __init__(self, tag: bytes) -> None:
        one = b"".join(
            (
                rb"\n" + _VARINT + rb"\x08\x03",
                re.escape(_SUCCESS),
                b'"' + _VARINT + rb"\n" + _VARINT,
                rb"\x08[\x01\x02]\x10" + _VARINT + rb"\x18" + _VARINT + rb"\x20\x01\x2a" + _VARINT,
                re.escape(tag) + rb"(\d{7})(\d{10})\.*",
                b"0(" + _VARINT + b")8" + _VARINT,
            )
        )
        self._whole = re.compile(b"(?:%b)+" % one).fullmatch
        self._one = re.compile(one).findall

    def read(self, payload: bytes) -> list[tuple[int, int, int]] | None:
        """Return number, stamp and position of each message; None if the payload contains anything else."""
        if self._whole(payload) is None:
            return None
        found = self._one(payload)
        return [(int(number), int(stamp), read_varint(position)[0]) for number, stamp, position in found]


def fields(data: bytes) -> dict[int, list[Any]]:
    """Return the numbers and bytes of a message by their tags; raises ValueError if it is truncated."""
    found: dict[int, list[Any]] = {}
    at, size = 0, len(data)
    try:
        while at < size:
            tag = data[at]
            value: Any
            value, at = read_varint(data, at + 1)
            if tag & 7 == 2:
                end = at + value
                value, at = data[at:end], end
            found.setdefault(tag, []).append(value)
    except IndexError:
        at = size + 1
    if at > size:
        raise ValueError(data[:100])
    return found


def numbers(data: bytes) -> dict[int, int]:
    """Return the fields of a message that has only numbers, by their tags."""
    return {tag: values[-1] for tag, values in fields(data).items()}


def outputs(payload: bytes) -> list[tuple[int, int, bytes, bytes]]:
    """Return kind, code, data and the whole bytes of each output of a batch; or raise ValueError."""
    found, at = [], 0
    while at < len(payload):
        begin, size = at, 0
        if payload[at] == 0x0A and at + 1 < len(payload):
            size, at = read_varint(payload, at + 1)
        body = payload[at : at + size]
        at += size
        if not size or len(body) < size:
            raise ValueError(payload[:100])
        if body[0] == 0x08 and body.startswith(_SUCCESS, 2):  # most of them: the fast path
            start = 2 + len(_SUCCESS)
            data = body[read_varint(body, start + 1)[1] :] if start < size else b""
            found.append((body[1], 200, data, payload[begin:at]))
        else:
            one = fields(body)
            (kind,), (code,), (data,) = one.get(0x08, [0]), one.get(0x10, [0]), one.get(0x22, [b""])
            found.append((kind, code, data, payload[begin:at]))
    return found
