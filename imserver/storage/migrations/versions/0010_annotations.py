"""Reactions to messages, pinned messages, and who is mentioned in which message."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0010"
down_revision: Final = "0009"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # ``id``, here and below: the entry of the log that added the row. The totals of a message are in its
    # ``meta``, so that a page of messages needs no rows from here.
    op.create_table(
        "reaction",
        Columns.key("log", sa.Integer),
        Columns.key("message"),
        Columns.key("emoji", Columns.name(32)),
        Columns.key("member", Columns.name(255)),
        Columns.need("id"),
        sa.UniqueConstraint("log", "member", "message", "emoji", name="reaction_by_member"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    op.create_table(
        "pin",
        Columns.key("log", sa.Integer),
        Columns.key("message"),
        Columns.need("conversation"),
        Columns.need("id"),
        sa.UniqueConstraint("log", "conversation", "id", name="pin_by_conversation"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # ``id``: the message. ``member`` '': everybody in the conversation.
    op.create_table(
        "mention",
        Columns.key("log", sa.Integer),
        Columns.key("member", Columns.name(255)),
        Columns.key("conversation"),
        Columns.key("id"),
        sa.UniqueConstraint("log", "id", "member", name="mention_by_message"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
