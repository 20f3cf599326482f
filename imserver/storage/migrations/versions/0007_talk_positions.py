"""Up to where users of the action dialect have what is stored."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.tables import MYSQL_OPTIONS, Name

revision: Final = "0007"
down_revision: Final = "0006"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    op.create_table(
        "talk_position",
        sa.Column("app", Name, primary_key=True),
        sa.Column("member", Name(255), primary_key=True),
        sa.Column("id", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
