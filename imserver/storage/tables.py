"""All tables, as the newest migration leaves them.

A table is changed by a migration in ``migrations/versions`` and here; a test compares the two.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from imserver.storage.contract import AVATAR_CHARACTERS, NICKNAME_CHARACTERS

NAME_BYTES: Final = 500
"""Bytes of the longest name of an app, in UTF-8."""


class Name(TypeDecorator[str]):
    """A name, compared byte by byte. MySQL compares texts by rules, under which ``a`` may equal ``A``."""

    impl = String
    cache_ok = True

    def __init__(self, length: int = NAME_BYTES) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.VARBINARY(self.length))
        return dialect.type_descriptor(String(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        if value is not None and dialect.name in ("mysql", "mariadb"):
            return value.encode()
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


class ShortBytes(TypeDecorator[bytes]):
    """Bytes that stand in an index. MySQL's blobs cannot, without saying how much of them."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.VARBINARY(self.length))
        return dialect.type_descriptor(LargeBinary())


Content: Final = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
"""Bytes of any content. MySQL's plain blobs end one byte short of 64 KiB."""

metadata: Final = MetaData()

MYSQL_OPTIONS: Final[dict[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

directory: Final = Table(
    "directory",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("id", String(32), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""One row: the id of this database, and the version that each change of an app or a key raises by one.

Whoever changes something locks it first, so changes happen one after the other, and whoever has seen a
version has seen everything up to it.
"""

app: Final = Table(
    "app",
    metadata,
    Column("name", Name, primary_key=True),
    Column("settings", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("version", "name", name="app_by_version"),
    **MYSQL_OPTIONS,
)

api_key: Final = Table(
    "api_key",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("apps", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger, nullable=False),
    UniqueConstraint("version", "id", name="api_key_by_version"),
    UniqueConstraint("digest", name="api_key_by_digest"),
    **MYSQL_OPTIONS,
)


ID: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite gives numbers to a column of exactly this type only; there, too, they have 64 bits."""

account: Final = Table(
    "account",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("app", Name, nullable=False),
    Column("phone", Name, nullable=False),
    Column("nickname", String(NICKNAME_CHARACTERS), nullable=False),
    Column("avatar", String(AVATAR_CHARACTERS), nullable=False),
    Column("password", String(255), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("app", "phone", name="account_by_phone"),
    sqlite_autoincrement=True,
    **MYSQL_OPTIONS,
)
"""An id is never given twice: whoever is deleted stands in the messages of others."""

account_device: Final = Table(
    "account_device",
    metadata,
    Column("account", BigInteger, primary_key=True, autoincrement=False),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Name(255), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""Logins that have not ended: a token that names one is good as long as its row is there."""

relation: Final = Table(
    "relation",
    metadata,
    Column("account", BigInteger, primary_key=True, autoincrement=False),
    Column("other", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(8), nullable=False),
    Column("since", BigInteger, nullable=False),
    UniqueConstraint("other", "account", name="relation_by_other"),
    **MYSQL_OPTIONS,
)
"""What ``account`` is to ``other``: ``asked`` to be a friend, ``friend`` (two rows), or keeps it away:
``blocked``."""


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


talk_position: Final = Table(
    "talk_position",
    metadata,
    Column("app", Name, primary_key=True),
    Column("member", Name(255), primary_key=True),
    Column("id", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""Up to which id of the log a user of the action dialect has everything but what was said in rooms."""

room_position: Final = Table(
    "room_position",
    metadata,
    Column("app", Name, primary_key=True),
    Column("member", Name(255), primary_key=True),
    Column("room", Name(255), primary_key=True),
    Column("id", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""Up to which id of the log a user of the action dialect has everything that was said in a room. Who has a
row belongs to the room: there is one from the first login to it on."""


upload: Final = Table(
    "upload",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("app", Name, nullable=False),
    Column("user", Name, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("type", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("place", String(16), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("thumbnail_bytes", BigInteger, nullable=False),
    Column("thumbnail_type", String(64), nullable=False),
    UniqueConstraint("app", "user", "created", "id", name="upload_by_owner"),
    **MYSQL_OPTIONS,
)

upload_usage: Final = Table(
    "upload_usage",
    metadata,
    Column("app", Name, primary_key=True),
    Column("user", Name, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    **MYSQL_OPTIONS,
)
"""What each user keeps, added up, so that a quota holds however many files come at once."""
