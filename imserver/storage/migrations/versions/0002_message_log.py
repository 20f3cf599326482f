"""The message log: heads, conversations, memberships, messages, and what users mark."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import CONTENT, KEY_ORDER, MYSQL_OPTIONS, key, name, need, short_bytes

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash.

    So every index is a constraint of its table; one that is made behind it would be made twice.
    """
    # The heads: one row per log. A transaction that appends to a log, or changes a conversation of it, locks
    # its row first, and holds it to the commit: so ids are in the order of the commits. ``part`` is for an
    # app that outgrows one log; ``floor``: what has an id up to it has expired.
    op.create_table(
        "log",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        need("app", name()),
        need("part", sa.Integer),
        need("last_id"),
        need("last_conversation"),
        need("floor"),
        sa.UniqueConstraint("app", "part", name="log_by_app"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
    # ``pair``: the ids of the two users in their order, with a NUL between; NULL for a group.
    op.create_table(
        "conversation",
        key("log", sa.Integer),
        key("id"),
        need("kind", sa.SmallInteger),
        sa.Column("pair", short_bytes(511)),
        need("name", name()),
        need("last_seq"),
        need("last_id"),
        need("created"),
        sa.UniqueConstraint("log", "pair", name="conversation_by_pair"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    op.create_table(
        "membership",
        key("log", sa.Integer),
        key("member", name(255)),
        key("conversation"),
        key("joined_id"),
        sa.Column("left_id", sa.BigInteger),
        need("role", name(16)),
        need("muted_until"),
        sa.UniqueConstraint("log", "conversation", "member", "joined_id", name="membership_by_conversation"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    _messages()
    _marks()


def _messages() -> None:
    # ``resend``: what names a sender's ``client_msg_id`` in 16 bytes, NULL without one; ``batch``: a random
    # number of the transaction, by which a writer that lost the answer to its COMMIT finds out;
    # ``stored_at``: Unix seconds by our clock, while ``time_ms`` is the sender's.
    op.create_table(
        "message",
        key("log", sa.Integer),
        key("id"),
        need("conversation"),
        need("seq"),
        need("sender", name(255)),
        need("kind", sa.SmallInteger),
        need("type", name(32)),
        need("client_msg_id", name(64)),
        sa.Column("resend", short_bytes(16)),
        need("time_ms"),
        need("about"),
        need("stored_at"),
        need("batch"),
        need("meta", CONTENT),
        need("body", CONTENT),
        sa.UniqueConstraint("log", "conversation", "id", name="message_by_conversation"),
        sa.UniqueConstraint("log", "resend", name="message_by_resend"),
        if_not_exists=True,
        **KEY_ORDER,
    )


def _marks() -> None:
    # One row per user who marked something; locked first by whatever marks more.
    op.create_table(
        "mark_version",
        key("log", sa.Integer),
        key("member", name(255)),
        need("version"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    op.create_table(
        "read_position",
        key("log", sa.Integer),
        key("member", name(255)),
        key("conversation"),
        need("read_id"),
        need("version"),
        sa.UniqueConstraint("log", "conversation", "member", name="read_position_by_conversation"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    op.create_table(
        "hidden",
        key("log", sa.Integer),
        key("member", name(255)),
        key("id"),
        need("version"),
        sa.UniqueConstraint("log", "member", "version", "id", name="hidden_by_version"),
        if_not_exists=True,
        **KEY_ORDER,
    )
