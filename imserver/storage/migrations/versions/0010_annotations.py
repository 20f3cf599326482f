"""Reactions to messages, pinned messages, and who is mentioned in which message."""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import MYSQL_OPTIONS, name

revision: Final = "0010"
down_revision: Final = "0009"

_CLUSTERED: Final[dict[str, Any]] = {**MYSQL_OPTIONS, "sqlite_with_rowid": False}


def _key(column: str, kind: Any = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(column, kind, primary_key=True, autoincrement=False)


def _need(column: str, kind: Any = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(column, kind, nullable=False)


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # ``id``, here and below: the entry of the log that added the row. The totals of a message are in its
    # ``meta``, so that a page of messages needs no rows from here.
    op.create_table(
        "reaction",
        _key("log", sa.Integer),
        _key("message"),
        _key("emoji", name(32)),
        _key("member", name(255)),
        _need("id"),
        sa.UniqueConstraint("log", "member", "message", "emoji", name="reaction_by_member"),
        if_not_exists=True,
        **_CLUSTERED,
    )
    op.create_table(
        "pin",
        _key("log", sa.Integer),
        _key("message"),
        _need("conversation"),
        _need("id"),
        sa.UniqueConstraint("log", "conversation", "id", name="pin_by_conversation"),
        if_not_exists=True,
        **_CLUSTERED,
    )
    # ``id``: the message. ``member`` '': everybody in the conversation.
    op.create_table(
        "mention",
        _key("log", sa.Integer),
        _key("member", name(255)),
        _key("conversation"),
        _key("id"),
        sa.UniqueConstraint("log", "id", "member", name="mention_by_message"),
        if_not_exists=True,
        **_CLUSTERED,
    )
