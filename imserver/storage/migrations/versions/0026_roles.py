"""Roles and locks of accounts, and their second factor."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0026"
down_revision: Final = "0025"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    names = {each["name"] for each in sa.inspect(op.get_bind()).get_columns("account")}
    # ``role``: empty, ``moderator`` or ``owner``. ``locked_until``: Unix seconds; 0: it is not locked.
    # ``lock_reason``: NULL: none. ``factor_since``: when its second factor was confirmed, in Unix seconds; 0:
    # it has none.
    nothing = sa.text("0")
    for column in (
        sa.Column("role", Columns.name(16), nullable=False, server_default=""),
        sa.Column("locked_until", sa.BigInteger, nullable=False, server_default=nothing),
        sa.Column("lock_reason", sa.String(200)),
        sa.Column("factor_since", sa.BigInteger, nullable=False, server_default=nothing),
    ):
        if column.name not in names:
            op.add_column("account", column)
    # ``secret``: of the codes, in base32. ``step``: the number of the last half minute whose code was used.
    op.create_table(
        "account_factor",
        Columns.key("account"),
        Columns.need("secret", Columns.name(64)),
        Columns.need("step"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``code``: its hash. Each code is used once, and deleted then.
    op.create_table(
        "recovery_code",
        Columns.key("account"),
        Columns.key("code", Columns.name(64)),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
