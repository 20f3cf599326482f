"""Pictures and descriptions of groups; bots that an app offers, with their descriptions."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0020"
down_revision: Final = "0019"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    for table, column in (
        ("conversation", sa.Column("avatar", Columns.name(1000))),
        ("conversation", sa.Column("description", Columns.name(2000))),
        ("bot", sa.Column("description", Columns.name(2000))),
        ("bot", sa.Column("listed", sa.SmallInteger, nullable=False, server_default=sa.text("0"))),
    ):
        if column.name not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}:
            op.add_column(table, column)
    if "bot_by_listed" not in {each["name"] for each in sa.inspect(op.get_bind()).get_indexes("bot")}:
        op.create_index("bot_by_listed", "bot", ["app", "listed", "id"])
