"""The message log: heads, conversations, memberships, messages, and what users mark."""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import CONTENT, MYSQL_OPTIONS, name, short_bytes

revision: Final = "0002"
down_revision: Final = "0001"

_CLUSTERED: Final[dict[str, Any]] = {**MYSQL_OPTIONS, "sqlite_with_rowid": False}
"""Rows stand in the order of their key, on SQLite too: one tree less to write."""


def _key(column: str, kind: Any = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(column, kind, primary_key=True, autoincrement=False)


def _need(column: str, kind: Any = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(column, kind, nullable=False)


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash.

    So every index is a constraint of its table; one that is made behind it would be made twice.
    """
    # The heads: one row per log. Who appends to a log, or changes a conversation of it, locks its row first,
    # and holds it to the commit: so ids are in the order of the commits. ``part`` is for an app that outgrows
    # one log; ``floor``: what has an id up to it has expired.
    op.create_table(
        "log",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        _need("app", name()),
        _need("part", sa.Integer),
        _need("last_id"),
        _need("last_conversation"),
        _need("floor"),
        sa.UniqueConstraint("app", "part", name="log_by_app"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
    # ``pair``: the ids of the two users in their order, with a NUL between; NULL for a group.
    op.create_table(
        "conversation",
        _key("log", sa.Integer),
        _key("id"),
        _need("kind", sa.SmallInteger),
        sa.Column("pair", short_bytes(511)),
        _need("name", name()),
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
        _key("member", name(255)),
        _key("conversation"),
        _key("joined_id"),
        sa.Column("left_id", sa.BigInteger),
        _need("role", name(16)),
        _need("muted_until"),
        sa.UniqueConstraint("log", "conversation", "member", "joined_id", name="membership_by_conversation"),
        if_not_exists=True,
        **_CLUSTERED,
    )
    _messages()
    _marks()


def _messages() -> None:
    # ``resend``: what names a sender's ``client_msg_id`` in 16 bytes, NULL without one; ``batch``: a random
    # number of the transaction, by which a writer that lost the answer to its COMMIT finds out;
    # ``stored_at``: Unix seconds by our clock, while ``time_ms`` is the sender's.
    op.create_table(
        "message",
        _key("log", sa.Integer),
        _key("id"),
        _need("conversation"),
        _need("seq"),
        _need("sender", name(255)),
        _need("kind", sa.SmallInteger),
        _need("type", name(32)),
        _need("client_msg_id", name(64)),
        sa.Column("resend", short_bytes(16)),
        _need("time_ms"),
        _need("about"),
        _need("stored_at"),
        _need("batch"),
        _need("meta", CONTENT),
        _need("body", CONTENT),
        sa.UniqueConstraint("log", "conversation", "id", name="message_by_conversation"),
        sa.UniqueConstraint("log", "resend", name="message_by_resend"),
        if_not_exists=True,
        **_CLUSTERED,
    )


def _marks() -> None:
    # One row per user who marked something; locked first by whatever marks more.
    op.create_table(
        "mark_version",
        _key("log", sa.Integer),
        _key("member", name(255)),
        _need("version"),
        if_not_exists=True,
        **_CLUSTERED,
    )
    op.create_table(
        "read_position",
        _key("log", sa.Integer),
        _key("member", name(255)),
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
        _key("member", name(255)),
        _key("id"),
        _need("version"),
        sa.UniqueConstraint("log", "member", "version", "id", name="hidden_by_version"),
        if_not_exists=True,
        **_CLUSTERED,
    )
