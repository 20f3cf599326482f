"""Tables of features of other distributions: the last step that was taken, and what erases their rows."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import CONTENT, MYSQL_OPTIONS, key, name, need

revision: Final = "0023"
down_revision: Final = "0022"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    # ``step``: the last one that was taken. ``tables``: the tables in the order of their deletion, as JSON
    # (imserver.storage.tables), by which a node without the feature erases and exports their rows.
    op.create_table(
        "feature_schema",
        key("feature", name(255)),
        need("step", sa.Integer),
        need("tables", CONTENT),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
