"""Names as searches compare them, and what people say of themselves."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations.table_text import make_tables
from imserver.storage.statements import Statements, text_of

revision: Final = "0033"
down_revision: Final = "0032"

_AT_ONCE: Final = 1000


def upgrade() -> None:
    """Make what is missing, and fold the names of all accounts."""
    make_tables(
        """
        # "folded": the words of the nickname and the user name; NULL: a node that does not know the column
        # has made the account. "status": NULL: none. "status_until": Unix seconds; 0: it does not end.
        columns account: folded name1000?, status string80?, away small=0, status_until big=0
        """
    )
    connection = op.get_bind()
    account = sa.table("account", sa.column("id"), sa.column("nickname"), sa.column("name"))
    some = sa.select(account).order_by(account.c.id).limit(_AT_ONCE)
    change = sa.text("UPDATE account SET folded = :folded WHERE id = :id")
    after = 0
    while rows := connection.execute(some.where(account.c.id > after)).all():
        connection.execute(change, [{"id": row[0], "folded": _folded(row[1], row[2])} for row in rows])
        after = rows[-1][0]


def _folded(nickname: str, name: str | bytes | None) -> str:
    words = Statements.words(nickname), Statements.words(text_of(name or ""))
    return f" {' '.join(words[0])[:200]} {' '.join(words[1])}"
