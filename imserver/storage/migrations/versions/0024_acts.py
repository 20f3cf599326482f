"""The audit log: acts in a chain of hashes, and the names in them, which can be erased."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations.table_text import make_tables

revision: Final = "0024"
down_revision: Final = "0023"


def upgrade() -> None:
    """Make the tables, and the row of the head."""
    make_tables(
        """
        # "number" is dense. "time": Unix milliseconds by the clock of the database, which never go back.
        # "kind": of the principal. "request": the id of the request. "names": part → SHA-256 of its row in
        # audit_name, as JSON. "hash": SHA-256 of this row and of "previous", the hash of the row before, in
        # hexadecimal.
        ordered audit: number big*, time big, name name100, kind name16, app name500, request name64,
            names blob, hash name64, previous name64
          unique audit_by_time: time number
          unique audit_by_name: name number
          unique audit_by_app: app number
          unique audit_by_app_and_name: app name number
          unique audit_by_request: request number
        # Who and what an act names: "part" is by, user, address, facts, or users/ and a number. A row of a
        # person has their "app" and "member"; any other has no app. "text": what it says besides.
        ordered audit_name: number big*, part name16*, app name500, member name255, text blob, salt bytes16
          unique audit_name_by_member: app member number part
        # One row: the last act, which whoever appends locks, and the last one that was removed for its age.
        table audit_head: one small*, number big, time big, hash name64, anchor big, anchor_hash name64
        """
    )
    connection = op.get_bind()
    if connection.execute(sa.text("SELECT 1 FROM audit_head")).first() is None:
        columns = "one, number, time, hash, anchor, anchor_hash"
        head = sa.text(f"INSERT INTO audit_head ({columns}) VALUES (1, 0, 0, :none, 0, :none)")
        connection.execute(head, {"none": "0" * 64})
