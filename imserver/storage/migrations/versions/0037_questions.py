"""Deadlines of open questions."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0037"
down_revision: Final = "0036"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # "id": the message with the question. "due": Unix milliseconds by the clock of the database.
        ordered ask_deadline: log big*, id big*, due big
          unique ask_deadline_by_due: due log id
        """
    )
