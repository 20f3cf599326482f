"""Log positions of users of the action dialect per room."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0008"
down_revision: Final = "0007"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    # Who has a row belongs to the room: there is one from the first login to it on.
    op.create_table(
        "room_position",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("member", Columns.name(255), primary_key=True),
        sa.Column("room", Columns.name(255), primary_key=True),
        sa.Column("id", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
