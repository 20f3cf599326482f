"""Exports and imports that go on after an interruption."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0030"
down_revision: Final = "0029"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # ``member``: whose data; empty: those of the whole app. ``created``, ``ends`` and ``leased``: Unix
    # seconds; the archive is deleted at ``ends``, and a node works on it until ``leased``. ``size``: bytes of
    # the archive when it is done, before of what is in it. ``subject``: JSON, the settings of the app.
    op.create_table(
        "export_job",
        Columns.key("app", Columns.name(255)),
        Columns.key("id", Columns.name(32)),
        Columns.need("member", Columns.name(255)),
        Columns.need("state", sa.SmallInteger),
        Columns.need("created"),
        Columns.need("ends"),
        Columns.need("leased"),
        Columns.need("entries"),
        Columns.need("records"),
        Columns.need("size"),
        Columns.need("subject", Columns.CONTENT),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``digest``: of the manifest of the archive. ``entry`` and ``done``: so many of its entries, and rows of
    # the next one, are stored.
    op.create_table(
        "archive_import",
        Columns.key("app", Columns.name(255)),
        Columns.need("digest", Columns.name(64)),
        Columns.need("entry"),
        Columns.need("done"),
        Columns.need("finished", sa.SmallInteger),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
