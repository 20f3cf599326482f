"""Events for back ends: positions of their receivers, events, retries, and users to be notified."""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import CONTENT, MYSQL_OPTIONS, name

revision: Final = "0009"
down_revision: Final = "0008"

_CLUSTERED: Final[dict[str, Any]] = {**MYSQL_OPTIONS, "sqlite_with_rowid": False}


def _need(column: str, kind: Any = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(column, kind, nullable=False)


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # One row per app with a receiver. ``last_id``: the last event; whoever adds one locks the row until the
    # commit, so ids are in the order of the commits. ``entry_id``, ``event_id``: positions of the receiver in
    # the message log and in the events; ``noted_id``: that of the notifications in the message log.
    # ``owner`` delivers until ``lease_until``, a Unix second of the database's clock.
    op.create_table(
        "event_feed",
        sa.Column("app", name(), primary_key=True),
        _need("last_id"),
        _need("entry_id"),
        _need("event_id"),
        _need("noted_id"),
        _need("owner", name(255)),
        _need("lease_until"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
    # ``time``: Unix seconds; ``body``: the fields of the event as a JSON object.
    op.create_table(
        "event",
        sa.Column("app", name(), primary_key=True),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        _need("member", name(255)),
        _need("kind", name(16)),
        _need("time"),
        _need("body", CONTENT),
        if_not_exists=True,
        **_CLUSTERED,
    )
    # ``body`` is what is sent; ``next_try`` and ``first_failed`` are Unix seconds.
    op.create_table(
        "event_retry",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        _need("app", name()),
        _need("event", name(64)),
        _need("member", name(255)),
        _need("attempts", sa.Integer),
        _need("next_try"),
        _need("first_failed"),
        _need("dead", sa.SmallInteger),
        _need("body", CONTENT),
        sa.UniqueConstraint("app", "event", name="event_retry_by_event"),
        sa.UniqueConstraint("app", "dead", "member", "number", name="event_retry_by_member"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
    # A user who was offline when ``entry_id`` was stored. ``due``: Unix milliseconds; 0: the event was added.
    op.create_table(
        "absence",
        sa.Column("app", name(), primary_key=True),
        sa.Column("member", name(255), primary_key=True),
        sa.Column("conversation", sa.BigInteger, primary_key=True, autoincrement=False),
        _need("entry_id"),
        _need("due"),
        sa.UniqueConstraint("app", "due", "member", "conversation", name="absence_by_due"),
        if_not_exists=True,
        **_CLUSTERED,
    )
