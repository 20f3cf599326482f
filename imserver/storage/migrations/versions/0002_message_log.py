"""The message log: heads, conversations, memberships, messages, and what users mark."""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.tables import MYSQL_OPTIONS, Content, Name, ShortBytes

revision: Final = "0002"
down_revision: Final = "0001"

_CLUSTERED: Final[dict[str, Any]] = {**MYSQL_OPTIONS, "sqlite_with_rowid": False}


def _key(name: str, kind: Any = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _need(name: str, kind: Any = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash.

    So every index is a constraint of its table; one that is made behind it would be made twice.
    """
    op.create_table(
        "log",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        _need("app", Name()),
        _need("part", sa.Integer),
        _need("last_id"),
        _need("last_conversation"),
        _need("floor"),
        sa.UniqueConstraint("app", "part", name="log_by_app"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
    op.create_table(
        "conversation",
        _key("log", sa.Integer),
        _key("id"),
        _need("kind", sa.SmallInteger),
        sa.Column("pair", ShortBytes(511)),
        _need("name", Name()),
        _need("last_seq"),
        _need("last_id"),
        _need("created"),
        sa.UniqueConstraint("log", "pair", name="conversation_by_pair"),
        if_not_exists=True,
        **_CLUSTERED,
    )
    op.create_table(
        "membership",
        _key("log", sa.Integer),
        _key("member", Name(255)),
        _key("conversation"),
        _key("joined_id"),
        sa.Column("left_id", sa.BigInteger),
        _need("role", Name(16)),
        _need("muted_until"),
        sa.UniqueConstraint("log", "conversation", "member", "joined_id", name="membership_by_conversation"),
        if_not_exists=True,
        **_CLUSTERED,
    )
    _messages()
    _marks()


def _messages() -> None:
    op.create_table(
        "message",
        _key("log", sa.Integer),
        _key("id"),
        _need("conversation"),
        _need("seq"),
        _need("sender", Name(255)),
        _need("kind", sa.SmallInteger),
        _need("type", Name(32)),
        _need("client_msg_id", Name(64)),
        sa.Column("resend", ShortBytes(16)),
        _need("time_ms"),
        _need("about"),
        _need("stored_at"),
        _need("batch"),
        _need("meta", Content),
        _need("body", Content),
        sa.UniqueConstraint("log", "conversation", "id", name="message_by_conversation"),
        sa.UniqueConstraint("log", "resend", name="message_by_resend"),
        if_not_exists=True,
        **_CLUSTERED,
    )


def _marks() -> None:
    op.create_table(
        "mark_version",
        _key("log", sa.Integer),
        _key("member", Name(255)),
        _need("version"),
        if_not_exists=True,
        **_CLUSTERED,
    )
    op.create_table(
        "read_position",
        _key("log", sa.Integer),
        _key("member", Name(255)),
        _key("conversation"),
        _need("read_id"),
        _need("version"),
        sa.UniqueConstraint("log", "conversation", "member", name="read_position_by_conversation"),
        if_not_exists=True,
        **_CLUSTERED,
    )
    op.create_table(
        "hidden",
        _key("log", sa.Integer),
        _key("member", Name(255)),
        _key("id"),
        _need("version"),
        sa.UniqueConstraint("log", "member", "version", "id", name="hidden_by_version"),
        if_not_exists=True,
        **_CLUSTERED,
    )
