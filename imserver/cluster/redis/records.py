"""Keys, fields and records in Redis: buckets of users and channels, and the records that operators read.

The readable records are those of two original servers; they differ in the keys and in two field names.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from time import time
from typing import Any, Final, Literal
from urllib.parse import quote, unquote
from zlib import crc32

import msgspec

from imserver.cluster.registry import Session, SessionRef
from imserver.model import ACTION_PREFIX

SERVERS: Final = "acc:hash:servers"
"""Hash: ``ip:rpcPort`` of a node → time of its last registration, in Unix seconds as text."""
ACTION_SERVERS: Final = "ws:hash:allservers"
"""The same by ``ip:port`` for clients."""
RECORD_SECONDS: Final = 86400
"""Lifetime of a user's readable record."""


class Record(msgspec.Struct, kw_only=True):
    """The value of ``acc:user:online:<appID>_<userID>``."""

    acc_ip: str = msgspec.field(name="accIp")
    acc_port: str = msgspec.field(name="accPort")
    app_id: Any = msgspec.field(name="appID")
    user_id: str = msgspec.field(name="userID")
    client_ip: str = msgspec.field(name="clientIp")
    client_port: str = msgspec.field(name="clientPort", default="")
    login_time: int = msgspec.field(name="loginTime")
    heartbeat_time: int = msgspec.field(name="heartbeatTime")
    logout_time: int = msgspec.field(name="logOutTime")
    qua: str = ""
    device_info: str = msgspec.field(name="deviceInfo")
    is_logoff: bool = msgspec.field(name="isLogoff")


class ActionRecord(Record, kw_only=True):
    """The value of ``user:online:<appId>_<userId>``, for apps of the action dialect."""

    app_id: Any = msgspec.field(name="appId")
    user_id: str = msgspec.field(name="userId")


_encoder: Final = msgspec.json.Encoder()


@lru_cache(1024)
def _spelling(app: str) -> tuple[type[Record], bytes, str | int]:
    """The records of an app: their form, the prefix of their keys, and the name of the app in them."""
    is_action = app.startswith(ACTION_PREFIX)
    name = app.removeprefix(ACTION_PREFIX) if is_action else app
    # A "_" in the name of an app would make the key ambiguous. The originals' apps are numbers.
    plain = name.replace("%", "%25").replace("_", "%5F")
    prefix = b"%b%b_" % (b"user:online:" if is_action else b"acc:user:online:", encoded(plain))
    number = int(name) if name.isascii() and name.isdecimal() else name
    return ActionRecord if is_action else Record, prefix, number


def record_key(app: str, user: bytes) -> bytes:
    """The key of a user's record."""
    return _spelling(app)[1] + user


def record_of(node: str, session: Session, logout: bool) -> bytes:
    """The record of a session on ``node`` (``ip:rpcPort``) that begins or ends now."""
    address, _, port = node.rpartition(":")
    kind, _, name = _spelling(session.app)
    now = int(time())
    record = kind(
        acc_ip=address,
        acc_port=port,
        app_id=name,
        user_id=session.user,
        client_ip=session.peer,
        login_time=session.login_time or now,
        heartbeat_time=session.heartbeat_time or now,
        logout_time=now if logout else 0,
        device_info=session.device,
        is_logoff=logout,
    )
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        texts = [each.encode("utf-8", "replace").decode() for each in (session.user, session.device)]
        record.user_id, record.device_info = texts
        return _encoder.encode(record)


def marked_offline(data: bytes, nodes: Collection[str]) -> bytes | None:
    """Mark a record of one of ``nodes`` offline. None if it belongs to another node or is invalid."""
    record = None
    for kind in (ActionRecord, Record):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            record = msgspec.json.decode(data, type=kind)
    if record is None or record.is_logoff or f"{record.acc_ip}:{record.acc_port}" not in nodes:
        return None
    record.is_logoff = True
    record.logout_time = int(time())
    return _encoder.encode(record)


BUCKETS: Final = 16384
"""Buckets per app. With 100 users each they hold 1.6 million users; Redis packs hashes of that size."""


def encoded(text: str) -> bytes:
    """Encode any text, including lone surrogates: input of clients must not break a pipeline."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """Decode the result of :func:`encoded`."""
    return data.decode("utf-8", "surrogatepass")


@lru_cache(1024)
def _bucket_prefix(app: str) -> bytes:
    return b"imserver:users:{%b:" % encoded(app)


def bucket_key(app: str, number: int) -> bytes:
    """The key of bucket ``number`` of an app. The braces put it into one slot of a Redis Cluster."""
    return b"%b%d}" % (_bucket_prefix(app), number)


def bucket_of(app: str, user: bytes) -> bytes:
    """The key of the bucket that holds a user."""
    return b"%b%d}" % (_bucket_prefix(app), crc32(user) % BUCKETS)  # a call or two less for each push


def channel_bucket_key(app: bytes, number: int) -> bytes:
    """The key of bucket ``number`` of an app's channels."""
    return b"imserver:channels:{%b:%d}" % (app, number)


def channel_bucket_number(channel: bytes) -> int:
    """The bucket of a channel."""
    return crc32(channel) % 1024


def written_key(what: Literal["buckets", "channel-buckets"], epoch: int) -> str:
    """The key of the set of buckets into which an epoch has written sessions, or channels."""
    return f"{{imserver}}:written-{what}:{epoch}"


def field_of(user: bytes) -> bytes:
    """A user's field in their bucket."""
    return b"=" + user if user[:1] in b"#=" else user


def user_of(field: bytes) -> bytes:
    """The user of a field."""
    return field[1:] if field[:1] == b"=" else field


def device_of(name: str) -> str:
    """The name of a device without the characters that separate the parts of a place."""
    return quote(name, safe="", errors="surrogatepass").replace(".", "%2E") if name else ""


def parse_refs(value: bytes | None) -> tuple[SessionRef, ...]:
    """Parse the places in a field, or in the reply of a script."""
    if not value:
        return ()
    return tuple([_parse_ref(ref) for ref in value.split(b",")]) if b"," in value else (_parse_ref(value),)


def _parse_ref(ref: bytes) -> SessionRef:
    epoch, id, number, *device = ref.split(b".", 3)
    name = unquote(device[0].decode(), errors="surrogatepass") if device else ""
    return SessionRef(int(epoch), int(id), int(number), name)
