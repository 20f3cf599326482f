"""What apps have used of their quotas, by day."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0028"
down_revision: Final = "0027"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    # ``day``: days since 1970 in UTC.
    op.create_table(
        "app_usage",
        Columns.key("app", Columns.name(255)),
        Columns.key("day", sa.Integer),
        Columns.need("pushes", sa.BigInteger),
        Columns.need("messages", sa.BigInteger),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
