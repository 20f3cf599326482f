"""Notifications: endpoints of users, what users want to be told, and what is to be told and sent."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

revision: Final = "0017"
down_revision: Final = "0016"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # One row per app in which somebody can be notified. The log was looked through up to ``entry_id``.
    op.create_table(
        "notify_app",
        sa.Column("app", Columns.name(), primary_key=True),
        Columns.need("entry_id"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``digest``: SHA-256 of ``url`` in hexadecimal; ``p256dh`` and ``auth``: the keys of the receiver in
    # base64url; ``device``: its name for people; ``login``: the login that has added it;
    # ``created``: Unix seconds.
    op.create_table(
        "notify_endpoint",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        Columns.need("app", Columns.name()),
        Columns.need("member", Columns.name(255)),
        Columns.need("digest", Columns.name(64)),
        Columns.need("url", Columns.CONTENT),
        Columns.need("p256dh", Columns.name(100)),
        Columns.need("auth", Columns.name(40)),
        Columns.need("device", Columns.name()),
        Columns.need("language", Columns.name(16)),
        Columns.need("enabled", sa.SmallInteger),
        Columns.need("login"),
        Columns.need("created"),
        sa.UniqueConstraint("app", "digest", name="notify_endpoint_by_digest"),
        sa.UniqueConstraint("app", "member", "id", name="notify_endpoint_by_member"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
    # ``wishes``: a JSON object. ``mail``: 1 if the user gets mail. ``mail_due``: when the next one may be
    # needed, Unix milliseconds; 0: nothing is due. ``mailed``: when the last one was sent, Unix milliseconds,
    # with the end of the log and the version of the user's marks then (``mailed_id``, ``mailed_marks``).
    op.create_table(
        "notify_person",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("member", Columns.name(255), primary_key=True),
        Columns.need("wishes", Columns.CONTENT),
        Columns.need("mail", sa.SmallInteger),
        Columns.need("mail_due"),
        Columns.need("mailed"),
        Columns.need("mailed_id"),
        Columns.need("mailed_marks"),
        sa.UniqueConstraint("app", "mail_due", "member", name="notify_person_by_due"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # ``level``: 0 all messages, 1 mentions, 2 nothing. ``muted_until``: Unix seconds.
    op.create_table(
        "notify_conversation",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("member", Columns.name(255), primary_key=True),
        sa.Column("conversation", sa.BigInteger, primary_key=True, autoincrement=False),
        Columns.need("level", sa.SmallInteger),
        Columns.need("muted_until"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # A user who may have to be told of ``entry_id``. ``due``: when to decide, Unix milliseconds; 0: nothing
    # is to be decided. ``notified_id``: the last entry that the user was told of (0: none), at
    # ``notified_at``, Unix milliseconds.
    op.create_table(
        "notify_due",
        sa.Column("app", Columns.name(), primary_key=True),
        sa.Column("member", Columns.name(255), primary_key=True),
        sa.Column("conversation", sa.BigInteger, primary_key=True, autoincrement=False),
        Columns.need("entry_id"),
        Columns.need("due"),
        Columns.need("notified_id"),
        Columns.need("notified_at"),
        sa.UniqueConstraint("app", "due", "member", "conversation", name="notify_due_by_due"),
        if_not_exists=True,
        **Columns.KEY_ORDER,
    )
    # A notification to one endpoint. ``host``: of its URL. ``conversation`` and ``entry_id`` 0: of a push
    # that is not stored. ``next_try``: Unix milliseconds; ``created``: Unix seconds.
    op.create_table(
        "notify_delivery",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        Columns.need("app", Columns.name()),
        Columns.need("member", Columns.name(255)),
        Columns.need("endpoint", sa.Integer),
        Columns.need("host", Columns.name(255)),
        Columns.need("kind", Columns.name(16)),
        Columns.need("conversation"),
        Columns.need("entry_id"),
        Columns.need("topic", Columns.name(32)),
        Columns.need("ttl", sa.Integer),
        Columns.need("next_try"),
        Columns.need("attempts", sa.Integer),
        Columns.need("created"),
        Columns.need("body", Columns.CONTENT),
        sa.UniqueConstraint("host", "next_try", "id", name="notify_delivery_by_host"),
        sa.UniqueConstraint("endpoint", "topic", "id", name="notify_delivery_by_topic"),
        sa.UniqueConstraint("app", "member", "id", name="notify_delivery_by_member"),
        if_not_exists=True,
        **Columns.MYSQL_OPTIONS,
    )
