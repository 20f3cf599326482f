"""Deadlines of open questions."""

from typing import Final

from alembic import op
from sqlalchemy import UniqueConstraint

from imserver.storage.migrations import Columns

revision: Final = "0037"
down_revision: Final = "0036"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # ``id``: the message with the question. ``due``: Unix milliseconds by the clock of the database.
    op.create_table(
        "ask_deadline",
        Columns.key("log"),
        Columns.key("id"),
        Columns.need("due"),
        UniqueConstraint("due", "log", "id", name="ask_deadline_by_due"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
