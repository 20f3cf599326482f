"""Events for back ends: positions of their receivers, events, retries, and users to be notified."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0009"
down_revision: Final = "0008"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # One row per app with a receiver. ``last_id``: the last event; whoever adds one locks the row until the
    # commit, so ids are in the order of the commits. ``entry_id``, ``event_id``: positions of the receiver in
    # the message log and in the events; ``noted_id``: that of the notifications in the message log.
    # ``owner`` delivers until ``lease_until``, a Unix second of the database's clock.
    op.create_table(
        "event_feed",
        sa.Column("app", Columns.name(), primary_key=True),
        Columns.need("last_id"),
        Columns.need("entry_id"),
        Columns.need("event_id"),
        Columns.need("noted_id"),
        Columns.need("owner", Columns.name(255)),
        Columns.need("lease_until"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``time``: Unix seconds; ``body``: the fields of the event as a JSON object.
    op.create_table(
        "event",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        Columns.need("member", Columns.name(255)),
        Columns.need("kind", Columns.name(16)),
        Columns.need("time"),
        Columns.need("body", Columns.CONTENT),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # ``body`` is what is sent; ``next_try`` and ``first_failed`` are Unix seconds.
    op.create_table(
        "event_retry",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        Columns.need("app", Columns.name()),
        Columns.need("event", Columns.name(64)),
        Columns.need("member", Columns.name(255)),
        Columns.need("attempts", sa.Integer),
        Columns.need("next_try"),
        Columns.need("first_failed"),
        Columns.need("dead", sa.SmallInteger),
        Columns.need("body", Columns.CONTENT),
        sa.UniqueConstraint("app", "event", name="event_retry_by_event"),
        sa.UniqueConstraint("app", "dead", "member", "number", name="event_retry_by_member"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # A user who was offline when ``entry_id`` was stored. ``due``: Unix milliseconds; 0: the event was added.
    op.create_table(
        "absence",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("member", Columns.name(255), primary_key=True),
        sa.Column("conversation", sa.BigInteger, primary_key=True, autoincrement=False),
        Columns.need("entry_id"),
        Columns.need("due"),
        sa.UniqueConstraint("app", "due", "member", "conversation", name="absence_by_due"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
