"""Tables of features of other distributions: the last step that was taken, and what erases their rows."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0023"
down_revision: Final = "0022"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # "step": the last one that was taken. "tables": the tables in the order of their deletion, as JSON
        # (imserver.storage.tables), by which a node without the feature erases and exports their rows.
        table feature_schema: feature name255*, step int, tables blob
        """
    )
