"""Reactions to messages, pinned messages, and who is mentioned in which message."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import KEY_ORDER, key, name, need

revision: Final = "0010"
down_revision: Final = "0009"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # ``id``, here and below: the entry of the log that added the row. The totals of a message are in its
    # ``meta``, so that a page of messages needs no rows from here.
    op.create_table(
        "reaction",
        key("log", sa.Integer),
        key("message"),
        key("emoji", name(32)),
        key("member", name(255)),
        need("id"),
        sa.UniqueConstraint("log", "member", "message", "emoji", name="reaction_by_member"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    op.create_table(
        "pin",
        key("log", sa.Integer),
        key("message"),
        need("conversation"),
        need("id"),
        sa.UniqueConstraint("log", "conversation", "id", name="pin_by_conversation"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    # ``id``: the message. ``member`` '': everybody in the conversation.
    op.create_table(
        "mention",
        key("log", sa.Integer),
        key("member", name(255)),
        key("conversation"),
        key("id"),
        sa.UniqueConstraint("log", "id", "member", name="mention_by_message"),
        if_not_exists=True,
        **KEY_ORDER,
    )
