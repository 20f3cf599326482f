"""Bans of users."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0015"
down_revision: Final = "0014"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # ``member``: the user id in UTF-8, which may contain NUL. ``until``: Unix milliseconds by the clock of
    # the database; in the past for a lifted ban. ``version``: that of ``directory`` after the change.
    op.create_table(
        "ban",
        Columns.key("app", Columns.name()),
        Columns.key("member", Columns.short_bytes(255)),
        Columns.need("until"),
        Columns.need("version"),
        sa.UniqueConstraint("version", "app", "member", name="ban_by_version"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
