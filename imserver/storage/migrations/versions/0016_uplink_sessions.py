"""The newest session of each user whose client counts its messages anew on every connection."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import KEY_ORDER, key, name, need

revision: Final = "0016"
down_revision: Final = "0015"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    op.create_table(
        "uplink_session",
        key("log", sa.Integer),
        key("member", name(255)),
        need("session"),
        if_not_exists=True,
        **KEY_ORDER,
    )
