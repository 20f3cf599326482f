"""Log positions of users of the action dialect."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0007"
down_revision: Final = "0006"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    op.create_table(
        "talk_position",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("member", Columns.name(255), primary_key=True),
        sa.Column("id", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
