"""The audit log: acts in a chain of hashes, and the names in them, which can be erased."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0024"
down_revision: Final = "0023"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # ``number`` is dense. ``time``: Unix milliseconds by the clock of the database, which never go back.
    # ``kind``: of the principal. ``request``: the id of the request. ``names``: part → SHA-256 of its row in
    # audit_name, as JSON. ``hash``: SHA-256 of this row and of ``previous``, the hash of the row before, in
    # hexadecimal.
    op.create_table(
        "audit",
        Columns.key("number"),
        Columns.need("time"),
        Columns.need("name", Columns.name(100)),
        Columns.need("kind", Columns.name(16)),
        Columns.need("app", Columns.name()),
        Columns.need("request", Columns.name(64)),
        Columns.need("names", Columns.CONTENT),
        Columns.need("hash", Columns.name(64)),
        Columns.need("previous", Columns.name(64)),
        sa.UniqueConstraint("time", "number", name="audit_by_time"),
        sa.UniqueConstraint("name", "number", name="audit_by_name"),
        sa.UniqueConstraint("app", "number", name="audit_by_app"),
        sa.UniqueConstraint("app", "name", "number", name="audit_by_app_and_name"),
        sa.UniqueConstraint("request", "number", name="audit_by_request"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # Who and what an act names: ``part`` is by, user, address, facts, or users/ and a number. A row of a
    # person has their ``app`` and ``member``; any other has no app. ``text``: what it says besides.
    op.create_table(
        "audit_name",
        Columns.key("number"),
        Columns.key("part", Columns.name(16)),
        Columns.need("app", Columns.name()),
        Columns.need("member", Columns.name(255)),
        Columns.need("text", Columns.CONTENT),
        Columns.need("salt", Columns.short_bytes(16)),
        sa.UniqueConstraint("app", "member", "number", "part", name="audit_name_by_member"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # One row: the last act, which whoever appends locks, and the last one that was removed for its age.
    head = op.create_table(
        "audit_head",
        Columns.key("one", sa.SmallInteger),
        Columns.need("number"),
        Columns.need("time"),
        Columns.need("hash", Columns.name(64)),
        Columns.need("anchor"),
        Columns.need("anchor_hash", Columns.name(64)),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    if op.get_bind().execute(sa.select(head.c.one)).first() is None:
        none = b"0" * 64 if op.get_bind().dialect.name in ("mysql", "mariadb") else "0" * 64
        row = {"one": 1, "number": 0, "time": 0, "hash": none, "anchor": 0, "anchor_hash": none}
        op.bulk_insert(head, [row])
