"""The message log: heads, conversations, memberships, messages, and what users mark."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

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
        Columns.need("app", Columns.name()),
        Columns.need("part", sa.Integer),
        Columns.need("last_id"),
        Columns.need("last_conversation"),
        Columns.need("floor"),
        sa.UniqueConstraint("app", "part", name="log_by_app"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``pair``: the ids of the two users in their order, with a NUL between; NULL for a group.
    op.create_table(
        "conversation",
        Columns.key("log", sa.Integer),
        Columns.key("id"),
        Columns.need("kind", sa.SmallInteger),
        sa.Column("pair", Columns.short_bytes(511)),
        Columns.need("name", Columns.name()),
        Columns.need("last_seq"),
        Columns.need("last_id"),
        Columns.need("created"),
        sa.UniqueConstraint("log", "pair", name="conversation_by_pair"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    op.create_table(
        "membership",
        Columns.key("log", sa.Integer),
        Columns.key("member", Columns.name(255)),
        Columns.key("conversation"),
        Columns.key("joined_id"),
        sa.Column("left_id", sa.BigInteger),
        Columns.need("role", Columns.name(16)),
        Columns.need("muted_until"),
        sa.UniqueConstraint("log", "conversation", "member", "joined_id", name="membership_by_conversation"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    _messages()
    _marks()


def _messages() -> None:
    # ``resend``: what names a sender's ``client_msg_id`` in 16 bytes, NULL without one; ``batch``: a random
    # number of the transaction, by which a writer that lost the answer to its COMMIT finds out;
    # ``stored_at``: Unix seconds by our clock, while ``time_ms`` is the sender's.
    op.create_table(
        "message",
        Columns.key("log", sa.Integer),
        Columns.key("id"),
        Columns.need("conversation"),
        Columns.need("seq"),
        Columns.need("sender", Columns.name(255)),
        Columns.need("kind", sa.SmallInteger),
        Columns.need("type", Columns.name(32)),
        Columns.need("client_msg_id", Columns.name(64)),
        sa.Column("resend", Columns.short_bytes(16)),
        Columns.need("time_ms"),
        Columns.need("about"),
        Columns.need("stored_at"),
        Columns.need("batch"),
        Columns.need("meta", Columns.CONTENT),
        Columns.need("body", Columns.CONTENT),
        sa.UniqueConstraint("log", "conversation", "id", name="message_by_conversation"),
        sa.UniqueConstraint("log", "resend", name="message_by_resend"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )


def _marks() -> None:
    # One row per user who marked something; locked first by whatever marks more.
    op.create_table(
        "mark_version",
        Columns.key("log", sa.Integer),
        Columns.key("member", Columns.name(255)),
        Columns.need("version"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    op.create_table(
        "read_position",
        Columns.key("log", sa.Integer),
        Columns.key("member", Columns.name(255)),
        Columns.key("conversation"),
        Columns.need("read_id"),
        Columns.need("version"),
        sa.UniqueConstraint("log", "conversation", "member", name="read_position_by_conversation"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    op.create_table(
        "hidden",
        Columns.key("log", sa.Integer),
        Columns.key("member", Columns.name(255)),
        Columns.key("id"),
        Columns.need("version"),
        sa.UniqueConstraint("log", "member", "version", "id", name="hidden_by_version"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
