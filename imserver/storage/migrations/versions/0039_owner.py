"""The owner of a chat of a release without roles gets the role."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0039"
down_revision: Final = "0038"


def upgrade() -> None:
    """``imserver chat`` has made the first account of its app for the owner, with this user name. Whoever
    came later under this name is nobody special, and where there is an owner, everything stays."""
    connection = op.get_bind()
    of_chat = "FROM account WHERE app = 'gochat'"
    if not connection.execute(sa.text(f"SELECT 1 {of_chat} AND role = 'owner'")).first():
        first = connection.execute(sa.text(f"SELECT min(id) {of_chat}")).scalar()
        give = "UPDATE account SET role = 'owner' WHERE id = :first AND name = 'owner' AND role = ''"
        connection.execute(sa.text(give), {"first": first or 0})
