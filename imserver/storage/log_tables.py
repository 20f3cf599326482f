"""The tables of the message log, as the newest migration leaves them (:mod:`imserver.storage.tables`)."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, SmallInteger, Table, UniqueConstraint, text

from imserver.storage.tables import MYSQL_OPTIONS, Content, Name, ShortBytes, metadata

_USER: Final = Name(255)
_CLUSTERED: Final[dict[str, Any]] = {**MYSQL_OPTIONS, "sqlite_with_rowid": False}
"""Rows stand in the order of their key, on SQLite too: one tree less to write."""

log: Final = Table(
    "log",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("app", Name, nullable=False),
    Column("part", Integer, nullable=False),
    Column("last_id", BigInteger, nullable=False),
    Column("last_conversation", BigInteger, nullable=False),
    Column("floor", BigInteger, nullable=False),
    UniqueConstraint("app", "part", name="log_by_app"),
    **MYSQL_OPTIONS,
)
"""The heads: one row a log. Who appends to a log, or changes a conversation of it, locks its row first, and
holds it to the commit: so ids are in the order of the commits. ``part`` is for an app that outgrows one log;
``floor``: what has an id up to it has expired.
"""

conversation: Final = Table(
    "conversation",
    metadata,
    Column("log", Integer, primary_key=True, autoincrement=False),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("pair", ShortBytes(511)),
    Column("name", Name, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("last_id", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("open", SmallInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("log", "pair", name="conversation_by_pair"),
    **_CLUSTERED,
)
"""``pair``: the ids of the two users in their order, with a NUL between; NULL for a group. ``open``: 1 for a
group that anybody may join."""

membership: Final = Table(
    "membership",
    metadata,
    Column("log", Integer, primary_key=True, autoincrement=False),
    Column("member", _USER, primary_key=True),
    Column("conversation", BigInteger, primary_key=True, autoincrement=False),
    Column("joined_id", BigInteger, primary_key=True, autoincrement=False),
    Column("left_id", BigInteger),
    Column("role", Name(16), nullable=False),
    Column("muted_until", BigInteger, nullable=False),
    UniqueConstraint("log", "conversation", "member", "joined_id", name="membership_by_conversation"),
    **_CLUSTERED,
)

message: Final = Table(
    "message",
    metadata,
    Column("log", Integer, primary_key=True, autoincrement=False),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("conversation", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("sender", _USER, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("type", Name(32), nullable=False),
    Column("client_msg_id", Name(64), nullable=False),
    Column("resend", ShortBytes(16)),
    Column("time_ms", BigInteger, nullable=False),
    Column("about", BigInteger, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    Column("batch", BigInteger, nullable=False),
    Column("meta", Content, nullable=False),
    Column("body", Content, nullable=False),
    UniqueConstraint("log", "conversation", "id", name="message_by_conversation"),
    UniqueConstraint("log", "resend", name="message_by_resend"),
    **_CLUSTERED,
)
"""``resend``: what names a sender's ``client_msg_id`` in 16 bytes, NULL without one; ``batch``: a random
number of the transaction, by which a writer that lost the answer to its COMMIT finds out; ``stored_at``: Unix
seconds by our clock, while ``time_ms`` is the sender's.
"""

mark_version: Final = Table(
    "mark_version",
    metadata,
    Column("log", Integer, primary_key=True, autoincrement=False),
    Column("member", _USER, primary_key=True),
    Column("version", BigInteger, nullable=False),
    **_CLUSTERED,
)
"""One row a user who marked something; locked first by whatever marks more."""

read_position: Final = Table(
    "read_position",
    metadata,
    Column("log", Integer, primary_key=True, autoincrement=False),
    Column("member", _USER, primary_key=True),
    Column("conversation", BigInteger, primary_key=True, autoincrement=False),
    Column("read_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("received_id", BigInteger, nullable=False, server_default=text("0")),
    Column("peer_version", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("log", "conversation", "member", name="read_position_by_conversation"),
    **_CLUSTERED,
)
"""``peer_version``: between two users, the version of the other one's marks that tells them of this; 0 in a
group, whose members ask for it.
"""

hidden: Final = Table(
    "hidden",
    metadata,
    Column("log", Integer, primary_key=True, autoincrement=False),
    Column("member", _USER, primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    UniqueConstraint("log", "member", "version", "id", name="hidden_by_version"),
    **_CLUSTERED,
)
