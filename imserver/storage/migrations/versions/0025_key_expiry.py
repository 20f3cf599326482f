"""The end and the last use of API keys, and what keys did."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0025"
down_revision: Final = "0024"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    names = {each["name"] for each in sa.inspect(op.get_bind()).get_columns("api_key")}
    # Unix seconds. NULL, as for keys of the previous release: the key does not expire, or was never used.
    # ``used_from``: the address of its last request.
    for column in (
        sa.Column("expires", sa.BigInteger),
        sa.Column("used", sa.BigInteger),
        sa.Column("used_from", Columns.name(64)),
    ):
        if column.name not in names:
            op.add_column("api_key", column)
    # What keys did: numbers of ``answered`` and ``refused`` requests in a minute (Unix minutes) by key, route
    # (method and pattern of the path), app (empty: none was named) and address. ``node``: the random
    # number of the process that has counted; ``number``: of its rows.
    op.create_table(
        "key_use",
        Columns.key("minute"),
        Columns.key("node"),
        Columns.key("number"),
        Columns.need("key_id", Columns.name(32)),
        Columns.need("route", Columns.name(200)),
        Columns.need("app", Columns.name()),
        Columns.need("address", Columns.name(64)),
        Columns.need("answered"),
        Columns.need("refused"),
        sa.UniqueConstraint("key_id", "minute", "node", "number", name="key_use_by_key"),
        sa.UniqueConstraint("app", "minute", "node", "number", name="key_use_by_app"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
