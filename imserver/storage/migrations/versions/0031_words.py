"""An index of the words of messages."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0031"
down_revision: Final = "0030"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # A segment is a range of ids of one length; ``segment``: its number. ``bucket``: a part of the terms of a
    # segment. ``terms``: MessagePack, term → in which messages of the segment it is.
    op.create_table(
        "word",
        Columns.key("log"),
        Columns.key("segment"),
        Columns.key("bucket", sa.SmallInteger),
        Columns.need("terms", Columns.CONTENT),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # ``segment``: the first one that is not in the index. ``changes``: counts the changes of its messages.
    # ``leased``: Unix seconds until which a node works on it.
    op.create_table(
        "word_position",
        Columns.key("log"),
        Columns.need("segment"),
        Columns.need("changes"),
        Columns.need("leased"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
