"""E-mail addresses, user names and privacy of accounts; options of groups; invitations."""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0011"
down_revision: Final = "0010"


def _number(column: str, default: int, kind: Any = sa.SmallInteger) -> sa.Column[Any]:
    """A column for which the previous release gives no value."""
    return sa.Column(column, kind, nullable=False, server_default=sa.text(str(default)))


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # An account without a phone number has a unique text in ``phone`` that no phone number can be.
    # ``last_seen``: Unix seconds.
    _add(
        "account",
        sa.Column("email", Columns.name(254)),
        sa.Column("name", Columns.name(32)),
        _number("findable", 1),
        _number("show_presence", 1),
        _number("last_seen", 0, sa.BigInteger),
    )
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("account")}
    for column in ("email", "name"):
        if f"account_by_{column}" not in there:
            op.create_index(f"account_by_{column}", "account", ["app", column], unique=True)
    # ``options``: bits, see ``options_of`` of the log.
    _add("conversation", _number("options", 0))
    # The user may read entries after this id; NULL: after ``joined_id``.
    _add("membership", sa.Column("readable_after", sa.BigInteger))
    # ``conversation`` 0: the invitation is to be a friend of ``member``. ``expires_at``: Unix seconds, 0:
    # never. ``max_uses`` 0: no limit.
    op.create_table(
        "invitation",
        sa.Column("code", Columns.name(32), primary_key=True),
        sa.Column("app", Columns.name(), nullable=False),
        sa.Column("member", Columns.name(255), nullable=False),
        sa.Column("conversation", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("uses", sa.BigInteger, nullable=False),
        sa.Column("max_uses", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("app", "member", "code", name="invitation_by_member"),
        sa.UniqueConstraint("app", "conversation", "code", name="invitation_by_conversation"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )


def _add(table: str, *columns: sa.Column[Any]) -> None:
    """Add the columns that a table does not have."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    for column in columns:
        if column.name not in there:
            op.add_column(table, column)
