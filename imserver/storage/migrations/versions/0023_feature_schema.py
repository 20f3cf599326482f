"""Tables of features of other distributions: the last step that was taken, and what erases their rows."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0023"
down_revision: Final = "0022"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    # ``step``: the last one that was taken. ``tables``: the tables in the order of their deletion, as JSON
    # (imserver.storage.tables), by which a node without the feature erases and exports their rows.
    op.create_table(
        "feature_schema",
        Columns.key("feature", Columns.name(255)),
        Columns.need("step", sa.Integer),
        Columns.need("tables", Columns.CONTENT),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
