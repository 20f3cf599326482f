"""How presence is written in Redis: buckets of users, and places."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote
from zlib import crc32

from imserver.cluster.contract import Place
from imserver.cluster.redis_scripts import PREFIX

BUCKETS: Final = 16384
"""Buckets an app: 100 users in each are 1.6 million users, and Redis keeps such small hashes tightly
packed."""

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
