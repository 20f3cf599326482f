"""Erasures of users, and under which names what stays of them stands."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0029"
down_revision: Final = "0028"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # "digest": HMAC-SHA256 of app and user by a key of the server, in hexadecimal. "ended": Unix
        # milliseconds; 0: it is under way. "name": what stands in place of the user's id from then on.
        # "member": the user, until the erasure has ended. "leased": Unix seconds until which a node works
        # on it.
        table erasure: digest name64*, ended big*, app name500, name name64, member name255, leased big
        """
    )
