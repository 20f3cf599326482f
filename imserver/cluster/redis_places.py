"""How presence is written in Redis: buckets of users, places, the record that operators read."""

from __future__ import annotations

from collections.abc import Collection
from time import time
from typing import Any, Final
from urllib.parse import quote, unquote
from zlib import crc32

import msgspec

from imserver.cluster.contract import Place, Session
from imserver.cluster.redis_scripts import PREFIX

BUCKETS: Final = 16384
"""Buckets an app: 100 users in each are 1.6 million users, and Redis keeps such small hashes tightly
packed."""

RECORD_PREFIX: Final = "acc:user:online:"
SERVERS: Final = "acc:hash:servers"
CLAIM_PREFIX: Final = "acc:submit:again:seq:"

_RESERVED: Final = b"!#="


def encoded(text: str) -> bytes:
    """Any text as bytes, lone surrogates included: nothing that a client sends may break a pipeline."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """The text of :func:`encoded`."""
    return data.decode("utf-8", "surrogatepass")


def bucket_key(app: str, number: int) -> bytes:
    """The key of bucket ``number`` of an app. The braces put it into one slot of a Redis Cluster."""
    return b"%b{%b:%d}" % (PREFIX.encode(), encoded(app), number)


def bucket_number(user: bytes) -> int:
    """Which of an app's buckets holds a user."""
    return crc32(user) % BUCKETS


def bucket_of(app: str, user: bytes) -> bytes:
    """The key of the bucket that holds a user."""
    return bucket_key(app, bucket_number(user))


def field_of(user: bytes) -> bytes:
    """A user's field in their bucket."""
    return b"=" + user if user[:1] in _RESERVED else user


def user_of(field: bytes) -> bytes:
    """The user whose field this is."""
    return field[1:] if field[:1] == b"=" else field


def ban_field_of(user: bytes) -> bytes:
    """The field that holds the end of a user's ban."""
    return b"!" + user


def device_of(name: str) -> str:
    """A device's name without anything that has a meaning in a place."""
    return quote(name, safe="", errors="surrogatepass").replace(".", "%2E") if name else ""


def parse_places(value: bytes | None) -> tuple[Place, ...]:
    """The places that a field, or the reply of a script, names."""
    if not value:
        return ()
    return tuple([_parse_place(place) for place in value.split(b",")])


def _parse_place(place: bytes) -> Place:
    parts = place.split(b".", 3)
    device = unquote(parts[3].decode(), errors="surrogatepass") if len(parts) > 3 else ""
    return Place(int(parts[0]), int(parts[1]), int(parts[2]), device)


# --- the record that operators read -------------------------------------------------------------------------


class Record(msgspec.Struct):
    """What operators of the original server find under ``acc:user:online:<app>_<user>``."""

    acc_ip: str = msgspec.field(name="accIp")
    acc_port: str = msgspec.field(name="accPort")
    app_id: Any = msgspec.field(name="appID")
    user_id: str = msgspec.field(name="userID")
    client_ip: str = msgspec.field(name="clientIp")
    client_port: str = msgspec.field(name="clientPort")
    login_time: int = msgspec.field(name="loginTime")
    heartbeat_time: int = msgspec.field(name="heartbeatTime")
    logout_time: int = msgspec.field(name="logOutTime")
    qua: str
    device_info: str = msgspec.field(name="deviceInfo")
    is_logoff: bool = msgspec.field(name="isLogoff")


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Record)


def record_key(app: str, user: bytes) -> bytes:
    """The key of a user's record."""
    return b"%b%b_%b" % (RECORD_PREFIX.encode(), encoded(app), user)


def record_of(node: str, session: Session, logout: bool) -> bytes:
    """The record of a session on ``node`` (``ip:rpcPort``) that begins or ends now."""
    address, _, port = node.rpartition(":")
    now = int(time())
    record = Record(
        address,
        port,
        int(session.app) if session.app.isascii() and session.app.isdecimal() else session.app,
        session.user,
        session.peer,
        "",
        session.login_time or now,
        now,
        now if logout else 0,
        "",
        session.device,
        logout,
    )
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        record.user_id, record.device_info = _printable(session.user), _printable(session.device)
        return _encoder.encode(record)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def marked_offline(data: bytes, nodes: Collection[str]) -> bytes | None:
    """A record of one of ``nodes`` with its user gone; None if it speaks of another node or is no record."""
    try:
        record = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if record.is_logoff or f"{record.acc_ip}:{record.acc_port}" not in nodes:
        return None
    record.is_logoff = True
    record.logout_time = int(time())
    return _encoder.encode(record)
