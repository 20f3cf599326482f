"""Guests: accounts without a password, and invitations that let people without an account in."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0018"
down_revision: Final = "0017"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    for table, column in (("account", "guest"), ("invitation", "guests")):
        if column not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}:
            flag = sa.Column(column, sa.SmallInteger, nullable=False, server_default=sa.text("0"))
            op.add_column(table, flag)
    if "account_by_guest" not in {each["name"] for each in sa.inspect(op.get_bind()).get_indexes("account")}:
        op.create_index("account_by_guest", "account", ["guest"])
