"""The end and the last use of API keys, and what keys did."""

from typing import Final

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0025"
down_revision: Final = "0024"


def upgrade() -> None:
    """Make what is missing."""
    make_tables(
        """
        # Unix seconds. NULL, as for keys of the previous release: the key does not expire, or was never
        # used. "used_from": the address of its last request.
        columns api_key: expires big?, used big?, used_from name64?
        # What keys did: numbers of "answered" and "refused" requests in a minute (Unix minutes) by key,
        # route (method and pattern of the path), app (empty: none was named) and address. "node": the
        # random number of the process that has counted; "number": of its rows.
        ordered key_use: minute big*, node big*, number big*, key_id name32, route name200, app name500,
            address name64, answered big, refused big
          unique key_use_by_key: key_id minute node number
          unique key_use_by_app: app minute node number
        """
    )
