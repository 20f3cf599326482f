"""Which ids of a log have no entries, because the database has lost its newest commits."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0022"
down_revision: Final = "0021"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    if "lost" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("log")}:
        # Ranges as first:last:found, with a comma between them; NULL: none.
        op.add_column("log", sa.Column("lost", Columns.name(1000)))
