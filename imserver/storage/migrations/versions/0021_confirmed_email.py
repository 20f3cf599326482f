"""The e-mail address that the owner of an account has confirmed."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0021"
down_revision: Final = "0020"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # NULL: none is, and no mail has asked for it by itself. Empty: none is, and one has. The address itself,
    # so that a node of the previous release, which replaces ``email`` only, confirms nothing.
    if "confirmed_email" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("account")}:
        op.add_column("account", sa.Column("confirmed_email", Columns.name(254)))
