"""Up to where users of the action dialect have what was said in rooms."""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.tables import Name

revision: Final = "0008"
down_revision: Final = "0007"
branch_labels: Final = None
depends_on: Final = None

_MYSQL: Final[dict[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    op.create_table(
        "room_position",
        sa.Column("app", Name, primary_key=True),
        sa.Column("member", Name(255), primary_key=True),
        sa.Column("room", Name(255), primary_key=True),
        sa.Column("id", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **_MYSQL,
    )
