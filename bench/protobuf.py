"""The bytes of the protobuf dialect as a generator needs them: a codec of its own, made for counting."""

from __future__ import annotations

import re

from bench.frames import client_frame

BINARY = 0x2
PATH = "/ws"
APP = "gochat"
CT_LOGIN, _CT_HEARTBEAT, CT_MESSAGE, CT_ACK, CT_SYNC = range(1, 6)
SINGLE, GROUP = 1, 2
UP = 1
_TEXT = 1
NUMBER_DIGITS = 7

_SUCCESS = b"\x10\xc8\x01\x1a\x07Success"
_VARINT = rb"[\x80-\xff]{0,9}[\x00-\x7f]"


def varint(number: int) -> bytes:
    """Return ``number`` as a varint."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def read_varint(data: bytes, at: int = 0) -> tuple[int, int]:
    """Return the varint at ``at`` and where it ends; raises IndexError when it does not."""
    value = shift = 0
    while (byte := data[at]) > 127:
        value |= (byte & 127) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1


def field(tag: int, data: bytes) -> bytes:
    """Return a field of bytes behind its one-byte ``tag``."""
    return b"%c%b%b" % (tag, varint(len(data)), data)


def _input(kind: int, data: bytes) -> bytes:
    return client_frame(b"\x08%c%b" % (kind, field(0x12, data)), BINARY)


def login_frame(token: str) -> bytes:
    """Return the login with the token of an account."""
    return _input(CT_LOGIN, field(0x0A, token.encode()))


def sync_frame(after: int) -> bytes:
    """Return the question what there is behind the place ``after``."""
    return _input(CT_SYNC, b"\x08" + varint(after))


LOGGED_IN = field(0x0A, b"\x08%c%b" % (CT_ACK, _SUCCESS) + field(0x22, b"\x08\x03"))
"""The payload that answers a login."""


class Writer:
    """What one client sends to one receiver: everything that stays the same is made once."""

    __slots__ = ("_head", "_tail")

    def __init__(self, session: int, receiver: int, sender: int, sent_ms: int) -> None:
        self._head = b"\x08%c\x10%b\x18%b\x20%c" % (session, varint(receiver), varint(sender), _TEXT)
        self._tail = b"\x38" + varint(sent_ms)

    def frame(self, number: int, content: bytes, name: bytes = b"") -> bytes:
        """Return the frame of this client's message ``number``; ``name`` is its ``client_msg_id``."""
        message = self._head + field(0x2A, content) + self._tail
        named = field(0x1A, name) if name else b""
        return _input(CT_MESSAGE, field(0x0A, message) + b"\x10" + varint(number) + named)


class PushReader:
    """Reads batches that are nothing but pushes of one run; ``tag`` begins the content of its messages."""

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
        """Return number, stamp and place of each message; None where there is anything else."""
        if self._whole(payload) is None:
            return None
        return [
            (int(number), int(stamp), read_varint(place)[0]) for number, stamp, place in self._one(payload)
        ]


def outputs(payload: bytes) -> list[tuple[int, bytes, bytes]]:
    """Return kind, data and the whole bytes of each output of a batch; raises ValueError for no batch."""
    found = []
    at = 0
    try:
        while at < len(payload):
            begin = at
            if payload[at] != 0x0A:
                raise ValueError(payload[:100])
            size, at = read_varint(payload, at + 1)
            body = payload[at : at + size]
            at += size
            if len(body) < size or body[0] != 0x08 or not body.startswith(_SUCCESS, 2):
                raise ValueError(payload[:100])
            data, start = b"", 2 + len(_SUCCESS)
            if start < len(body):
                _size, start = read_varint(body, start + 1)
                data = body[start:]
            found.append((body[1], data, payload[begin:at]))
    except IndexError:
        raise ValueError(payload[:100]) from None
    return found


def numbers(data: bytes) -> dict[int, int]:
    """Return the fields of a message that has only numbers, by their tags."""
    found, at = {}, 0
    while at < len(data):
        tag = data[at]
        found[tag], at = read_varint(data, at + 1)
    return found


def page(data: bytes) -> tuple[list[bytes], bool]:
    """Return the messages of the answer to a sync, and whether there are more."""
    found, at = [], 0
    while at < len(data) and data[at] == 0x0A:
        size, at = read_varint(data, at + 1)
        found.append(data[at : at + size])
        at += size
    return found, data[at:] == b"\x10\x01"
