"""The account that made an API key."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0040"
down_revision: Final = "0039"


def upgrade() -> None:
    """Make the column if it is missing: MySQL keeps what was done before a crash. NULL: no account."""
    if "maker" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("api_key")}:
        op.add_column("api_key", sa.Column("maker", sa.BigInteger))
