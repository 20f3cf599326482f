"""The newest session of each user whose client counts its messages anew on every connection."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0016"
down_revision: Final = "0015"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    op.create_table(
        "uplink_session",
        Columns.key("log", sa.Integer),
        Columns.key("member", Columns.name(255)),
        Columns.need("session"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
