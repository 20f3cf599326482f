"""Names with letters such as ``ł`` are folded anew, to plain letters."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0038"
down_revision: Final = "0037"

_LETTERS: Final = "łøđðħıæœþ"


def upgrade() -> None:
    """Leave the folding to the next search, as for accounts that a node of the release before has made."""
    change = sa.text("UPDATE account SET folded = NULL WHERE folded LIKE :part")
    op.get_bind().execute(change, [{"part": f"%{letter}%"} for letter in _LETTERS])
