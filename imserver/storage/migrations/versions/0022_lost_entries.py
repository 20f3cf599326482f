"""Which ids of a log have no entries, because the database has lost its newest commits."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0022"
down_revision: Final = "0021"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # Ranges as first:last:found, with a comma between them; NULL: none.
        columns log: lost name1000?
        """
    )
