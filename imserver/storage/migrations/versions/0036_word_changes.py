"""Messages whose words were changed, until the index of words has them."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0036"
down_revision: Final = "0035"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # ``id``: the message, in ``conversation``. ``entry``: what changed it.
    op.create_table(
        "word_change",
        Columns.key("log"),
        Columns.key("id"),
        Columns.key("entry"),
        Columns.need("conversation"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # ``floor``: up to which id the index has no messages, because they have expired. From here on,
    # ``changes`` is the number of the last claim.
    if "floor" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("word_position")}:
        column = sa.Column("floor", sa.BigInteger, nullable=False, server_default=sa.text("0"))
        op.add_column("word_position", column)
