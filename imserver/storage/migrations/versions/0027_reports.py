"""Reports, removed messages that may come back, mutes in the whole app, members who were removed from a
group, and why a user is banned."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0027"
down_revision: Final = "0026"


def upgrade() -> None:
    """Make what is missing: MySQL keeps what was done before a crash."""
    if "reason" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("ban")}:
        # Shown to the user; NULL: none.
        op.add_column("ban", sa.Column("reason", Columns.name(1000)))

    # What a removed message and its edits were, until the removal is final. ``act``: the removal. ``recall``:
    # the id of the entry that recalled it. ``annotations``: its reactions, pin and mentions as JSON.
    op.create_table(
        "removed_message",
        Columns.key("log"),
        Columns.key("act", Columns.name(32)),
        Columns.key("id"),
        Columns.need("message"),
        Columns.need("recall"),
        Columns.need("sender", Columns.name(255)),
        Columns.need("kind", sa.SmallInteger),
        Columns.need("type", Columns.name(64)),
        Columns.need("about"),
        Columns.need("meta", Columns.CONTENT),
        Columns.need("body", Columns.CONTENT),
        Columns.need("annotations", Columns.CONTENT),
        sa.UniqueConstraint("log", "id", "act", name="removed_message_by_id"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # A removal that is under way or may be undone. ``since`` and ``until``: of the messages, in Unix
    # milliseconds. ``reached`` and ``last``: the ids between which messages are still to be looked for.
    # ``ends``: Unix seconds after which it is final; 0: it stays until somebody decides. ``leased``: Unix
    # seconds until which a node works on it.
    op.create_table(
        "removal",
        Columns.key("app", Columns.name()),
        Columns.key("id", Columns.name(32)),
        Columns.need("member", Columns.name(255)),
        Columns.need("state", sa.SmallInteger),
        Columns.need("since"),
        Columns.need("until"),
        Columns.need("reached"),
        Columns.need("last"),
        Columns.need("messages"),
        Columns.need("created"),
        Columns.need("ends"),
        Columns.need("leased"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``until``: Unix seconds; in the past for a lifted mute. ``changed``: Unix seconds of the last change.
    op.create_table(
        "mute",
        Columns.key("app", Columns.name()),
        Columns.key("member", Columns.name(255)),
        Columns.need("until"),
        Columns.need("changed"),
        Columns.need("reason", Columns.name(1000)),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # Users who were removed from a group: they do not come back by a link.
    op.create_table(
        "removed_member",
        Columns.key("app", Columns.name()),
        Columns.key("conversation"),
        Columns.key("member", Columns.name(255)),
        Columns.need("created"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``message``: 0 for a report about a person. ``subject``: what is reported, while the report is open;
    # then its id. ``closed``: Unix seconds; 0: it is open.
    op.create_table(
        "report",
        Columns.key("app", Columns.name()),
        Columns.key("id", Columns.name(32)),
        Columns.need("subject", Columns.name(300)),
        Columns.need("message"),
        Columns.need("conversation"),
        Columns.need("member", Columns.name(255)),
        Columns.need("reporters"),
        Columns.need("opened"),
        Columns.need("changed"),
        Columns.need("closed"),
        Columns.need("closed_by", Columns.name(400)),
        Columns.need("outcome", Columns.name(64)),
        Columns.need("note", Columns.name(2000)),
        sa.UniqueConstraint("app", "subject", name="report_by_subject"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    op.create_table(
        "reporter",
        Columns.key("app", Columns.name()),
        Columns.key("report", Columns.name(32)),
        Columns.key("member", Columns.name(255)),
        Columns.need("created"),
        Columns.need("reason", Columns.name(64)),
        Columns.need("text", Columns.name(4000)),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
