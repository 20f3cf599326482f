"""Arrangements: what users keep about their conversations, for themselves on all devices."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0019"
down_revision: Final = "0018"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    # ``version``: that of the user's arrangements after the last change; the row of the conversation 0 has
    # the newest one. ``pinned``: the greatest comes first, 0: not pinned. ``archived``, ``marked``: ids of
    # entries. ``draft``: JSON, empty: none.
    op.create_table(
        "arrangement",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("member", Columns.name(255), primary_key=True),
        sa.Column("conversation", sa.BigInteger, primary_key=True, autoincrement=False),
        Columns.need("version"),
        Columns.need("pinned"),
        Columns.need("archived"),
        Columns.need("marked"),
        Columns.need("draft", Columns.CONTENT),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
