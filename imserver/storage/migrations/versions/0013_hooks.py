"""Incoming webhooks, and how far the webhooks of bots have got."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0013"
down_revision: Final = "0012"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # ``hook_entry``: the receiver at ``hook_url`` has the entries of the log up to this id.
    if "hook_entry" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("bot")}:
        entry = sa.Column("hook_entry", sa.BigInteger, nullable=False, server_default=sa.text("0"))
        op.add_column("bot", entry)
    # ``id``: the account of the bot that sends what comes in. ``conversation``: the group that gets it.
    # ``token_hash``: SHA-256 in hexadecimal. ``created``: Unix seconds.
    op.create_table(
        "incoming_hook",
        Columns.key("id"),
        Columns.need("app", Columns.name()),
        Columns.need("conversation"),
        Columns.need("token_hash", Columns.name(64)),
        Columns.need("created"),
        sa.UniqueConstraint("token_hash", name="incoming_hook_by_token"),
        sa.UniqueConstraint("app", "conversation", "id", name="incoming_hook_by_conversation"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
