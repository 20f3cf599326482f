"""Uploaded files, and what each user has."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0004"
down_revision: Final = "0003"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    op.create_table(
        "upload",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("app", Columns.name(), nullable=False),
        sa.Column("user", Columns.name(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("place", sa.String(16), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("thumbnail_bytes", sa.BigInteger, nullable=False),
        sa.Column("thumbnail_type", sa.String(64), nullable=False),
        sa.UniqueConstraint("app", "user", "created", "id", name="upload_by_owner"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # What each user has, added up, so that a quota holds however many files come at once.
    op.create_table(
        "upload_usage",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("user", Columns.name(), primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
