"""Erasures of users, and under which names what stays of them stands."""

from typing import Final

from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0029"
down_revision: Final = "0028"


def upgrade() -> None:
    """Make the table. The statement may be repeated: MySQL keeps what was done before a crash."""
    # ``digest``: HMAC-SHA256 of app and user by a key of the server, in hexadecimal. ``ended``: Unix
    # milliseconds; 0: it is under way. ``name``: what stands in place of the user's id from then on.
    # ``member``: the user, until the erasure has ended. ``leased``: Unix seconds until which a node works
    # on it.
    op.create_table(
        "erasure",
        Columns.key("digest", Columns.name(64)),
        Columns.key("ended"),
        Columns.need("app", Columns.name()),
        Columns.need("name", Columns.name(64)),
        Columns.need("member", Columns.name(255)),
        Columns.need("leased"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
