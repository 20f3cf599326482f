"""Apps and keys, and the row that names the database."""

from time import time
from typing import Final
from uuid import uuid4

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0001"
down_revision: Final = None


def upgrade() -> None:
    """Make the tables and the row of the directory.

    Each statement may be repeated: MySQL keeps what was done before a crash.
    """
    # One row: the id of this database, and the version that each change of an app or a key raises by one.
    # Whoever changes something locks it first, so changes happen one after the other, and whoever has seen a
    # version has seen everything up to it.
    directory = op.create_table(
        "directory",
        sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    op.create_table(
        "app",
        sa.Column("name", Columns.name(), primary_key=True),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("version", "name", name="app_by_version"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("apps", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("version", "id", name="api_key_by_version"),
        sa.UniqueConstraint("digest", name="api_key_by_digest"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    if op.get_bind().execute(sa.select(directory.c.one)).first() is None:
        op.bulk_insert(directory, [{"one": 1, "id": uuid4().hex, "version": 0, "created": int(time())}])
