"""Names with letters such as ``ł`` are folded anew, to plain letters."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0038"
down_revision: Final = "0037"

_LETTERS: Final = "łøđðħıæœþ"


def upgrade() -> None:
    """Leave the folding to the next search, as for accounts that a node of the release before has made."""
    parts = {f"part{number}": f"%{letter}%" for number, letter in enumerate(_LETTERS)}
    is_old = " OR ".join(f"folded LIKE :{name}" for name in parts)
    op.get_bind().execute(sa.text(f"UPDATE account SET folded = NULL WHERE {is_old}"), parts)
