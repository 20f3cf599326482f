"""Devices of accounts, and groups that anybody may join."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0006"
down_revision: Final = "0005"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # Logins that have not ended: a token that names one is good as long as its row is there.
    op.create_table(
        "account_device",
        sa.Column("account", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", Columns.name(255), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``open``: 1 for a group that anybody may join.
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("conversation")}
    if "open" not in there:
        column = sa.Column("open", sa.SmallInteger, nullable=False, server_default=sa.text("0"))
        op.add_column("conversation", column)
