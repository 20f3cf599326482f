"""Accounts, and who knows whom."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0003"
down_revision: Final = "0002"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # SQLite gives numbers to a column of exactly the type INTEGER only; there, too, they have 64 bits. An id
    # is never given twice: whoever is deleted stands in the messages of others.
    op.create_table(
        "account",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("app", Columns.name(), nullable=False),
        sa.Column("phone", Columns.name(), nullable=False),
        sa.Column("nickname", sa.String(64), nullable=False),
        sa.Column("avatar", sa.String(1000), nullable=False),
        sa.Column("password", sa.String(255), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("app", "phone", name="account_by_phone"),
        sqlite_autoincrement=True,
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # What ``account`` is to ``other``: ``asked`` to be a friend, ``friend`` (two rows), or ``blocked`` it.
    op.create_table(
        "relation",
        sa.Column("account", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("other", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("other", "account", name="relation_by_other"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
