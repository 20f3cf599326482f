"""Receipts: up to where a user's devices have received, and the other's version that tells of it."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"


def upgrade() -> None:
    """Add the columns that are missing: MySQL keeps what was done before a crash."""
    # ``peer_version``: between two users, the version of the other one's marks that tells them of this; 0 in
    # a group, whose members ask for it.
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("read_position")}
    for name in ("received_id", "peer_version"):
        if name not in there:
            column = sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))
            op.add_column("read_position", column)
