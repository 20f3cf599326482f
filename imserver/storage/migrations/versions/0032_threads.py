"""Threads of a conversation."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0032"
down_revision: Final = "0031"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # ``id``: the reply. ``root``: the message with which its thread begins. ``also``: the conversation shows
    # the reply, too.
    op.create_table(
        "thread_reply",
        Columns.key("log", sa.Integer),
        Columns.key("conversation"),
        Columns.key("id"),
        Columns.need("root"),
        Columns.need("also", sa.SmallInteger),
        sa.UniqueConstraint("log", "root", "id", name="thread_reply_by_root"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # ``follows``: 0 for a user who has muted the thread.
    op.create_table(
        "thread_reader",
        Columns.key("log", sa.Integer),
        Columns.key("member", Columns.name(255)),
        Columns.key("root"),
        Columns.need("conversation"),
        Columns.need("read_id"),
        Columns.need("follows", sa.SmallInteger),
        sa.UniqueConstraint("log", "root", "member", name="thread_reader_by_root"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
