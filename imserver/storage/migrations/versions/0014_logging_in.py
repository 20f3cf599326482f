"""Codes that reset a password; links between accounts and identities at login providers."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0014"
down_revision: Final = "0013"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # ``code``: SHA-256 in hexadecimal digits. ``expires_at``: Unix seconds.
    op.create_table(
        "password_reset",
        sa.Column("code", Columns.name(64), primary_key=True),
        sa.Column("account", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("account", "code", name="password_reset_by_account"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    op.create_table(
        "oauth_link",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("provider", Columns.name(32), primary_key=True),
        sa.Column("subject", Columns.name(255), primary_key=True),
        sa.Column("account", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("account", "provider", name="oauth_link_by_account"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
