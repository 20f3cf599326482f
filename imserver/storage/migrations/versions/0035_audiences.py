"""Notifications for large audiences."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0035"
down_revision: Final = "0034"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # ``name``: of the caller's own. ``kind`` and ``target`` (JSON): whom it reaches. ``content``: JSON of
    # what is shown. ``state``: 0 users are being gone through, 1 all deliveries are queued, 2 done,
    # 3 cancelled. ``last_user``: the last user whose deliveries are queued. ``users``: how many were gone
    # through. ``queued``, ``taken``, ``gone`` and ``refused``: numbers of deliveries. ``created`` and
    # ``ended``: Unix seconds.
    op.create_table(
        "notify_audience",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        Columns.need("app", Columns.name()),
        Columns.need("name", Columns.name(64)),
        Columns.need("kind", Columns.name(16)),
        Columns.need("target", Columns.CONTENT),
        Columns.need("content", Columns.CONTENT),
        Columns.need("state", sa.SmallInteger),
        Columns.need("last_user", Columns.name(255)),
        Columns.need("users"),
        Columns.need("queued"),
        Columns.need("taken"),
        Columns.need("gone"),
        Columns.need("refused"),
        Columns.need("created"),
        Columns.need("ended"),
        sa.UniqueConstraint("app", "name", name="notify_audience_by_name"),
        sa.UniqueConstraint("app", "id", name="notify_audience_by_app"),
        sa.UniqueConstraint("state", "id", name="notify_audience_by_state"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``audience``: the audience to which a delivery belongs; 0: none.
    if "audience" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("notify_delivery")}:
        column = sa.Column("audience", sa.Integer, nullable=False, server_default=sa.text("0"))
        op.add_column("notify_delivery", column)
    indexes = {each["name"] for each in sa.inspect(op.get_bind()).get_indexes("notify_delivery")}
    if "notify_delivery_by_audience" not in indexes:
        op.create_index("notify_delivery_by_audience", "notify_delivery", ["audience"])
