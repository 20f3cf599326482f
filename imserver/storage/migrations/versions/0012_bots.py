"""Bots: accounts of programs, their groups, and what they read there."""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0012"
down_revision: Final = "0011"


def _flag(column: str) -> sa.Column[Any]:
    """A column for which the previous release gives no value."""
    return sa.Column(column, sa.SmallInteger, nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # ``bot``: whether the account, and the member of a group, is a bot. ``bots``: ids of the bots of a group,
    # with a comma between them; NULL: none.
    _add("account", _flag("bot"))
    _add("membership", _flag("bot"))
    _add("conversation", sa.Column("bots", Columns.name(500)))
    # ``id``: the account. ``owner``: an account; 0: the back end. ``token_hash``: SHA-256 in hexadecimal.
    # ``commands``: JSON. ``hook_url``, ``hook_secret``: receiver of what the bot receives; '': none.
    op.create_table(
        "bot",
        Columns.key("id"),
        Columns.need("app", Columns.name()),
        Columns.need("owner"),
        Columns.need("token_hash", Columns.name(64)),
        Columns.need("commands", Columns.CONTENT),
        Columns.need("hook_url", Columns.name(1000)),
        Columns.need("hook_secret", Columns.name(100)),
        sa.UniqueConstraint("app", "owner", "id", name="bot_by_owner"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # What a bot may read in its groups. ``id``: the entry of the log.
    op.create_table(
        "bot_entry",
        Columns.key("log", sa.Integer),
        Columns.key("member", Columns.name(255)),
        Columns.key("conversation"),
        Columns.key("id"),
        sa.UniqueConstraint("log", "id", "member", name="bot_entry_by_id"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )


def _add(table: str, column: sa.Column[Any]) -> None:
    """Add a column that a table does not have."""
    if column.name not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)
