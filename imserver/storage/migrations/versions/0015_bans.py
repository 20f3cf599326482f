"""Bans of users."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import MYSQL_OPTIONS, key, name, need, short_bytes

revision: Final = "0015"
down_revision: Final = "0014"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    # ``member``: the user id in UTF-8, which may contain NUL. ``until``: Unix milliseconds by the clock of
    # the database; in the past for a lifted ban. ``version``: that of ``directory`` after the change.
    op.create_table(
        "ban",
        key("app", name()),
        key("member", short_bytes(255)),
        need("until"),
        need("version"),
        sa.UniqueConstraint("version", "app", "member", name="ban_by_version"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
