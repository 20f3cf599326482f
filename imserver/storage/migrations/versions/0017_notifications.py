"""Notifications: endpoints of users, what users want to be told, and what is to be told and sent."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import CONTENT, KEY_ORDER, MYSQL_OPTIONS, name, need

revision: Final = "0017"
down_revision: Final = "0016"


def upgrade() -> None:
    """Make the tables. Each statement may be repeated: MySQL keeps what was done before a crash."""
    # One row per app in which somebody can be notified. The log was looked through up to ``entry_id``.
    op.create_table(
        "notify_app",
        sa.Column("app", name(), primary_key=True),
        need("entry_id"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
    # ``digest``: SHA-256 of ``url`` in hexadecimal; ``p256dh`` and ``auth``: the keys of the receiver in
    # base64url; ``device``: its name for people; ``login``: the login that has added it;
    # ``created``: Unix seconds.
    op.create_table(
        "notify_endpoint",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        need("app", name()),
        need("member", name(255)),
        need("digest", name(64)),
        need("url", CONTENT),
        need("p256dh", name(100)),
        need("auth", name(40)),
        need("device", name()),
        need("language", name(16)),
        need("enabled", sa.SmallInteger),
        need("login"),
        need("created"),
        sa.UniqueConstraint("app", "digest", name="notify_endpoint_by_digest"),
        sa.UniqueConstraint("app", "member", "id", name="notify_endpoint_by_member"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
    # ``wishes``: a JSON object. ``mail``: 1 if the user gets mail. ``mail_due``: when the next one may be
    # needed, Unix milliseconds; 0: nothing is due. ``mailed``: when the last one was sent, Unix milliseconds,
    # with the end of the log and the version of the user's marks then (``mailed_id``, ``mailed_marks``).
    op.create_table(
        "notify_person",
        sa.Column("app", name(), primary_key=True),
        sa.Column("member", name(255), primary_key=True),
        need("wishes", CONTENT),
        need("mail", sa.SmallInteger),
        need("mail_due"),
        need("mailed"),
        need("mailed_id"),
        need("mailed_marks"),
        sa.UniqueConstraint("app", "mail_due", "member", name="notify_person_by_due"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    # ``level``: 0 all messages, 1 mentions, 2 nothing. ``muted_until``: Unix seconds.
    op.create_table(
        "notify_conversation",
        sa.Column("app", name(), primary_key=True),
        sa.Column("member", name(255), primary_key=True),
        sa.Column("conversation", sa.BigInteger, primary_key=True, autoincrement=False),
        need("level", sa.SmallInteger),
        need("muted_until"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    # A user who may have to be told of ``entry_id``. ``due``: when to decide, Unix milliseconds; 0: nothing
    # is to be decided. ``notified_id``: the last entry that the user was told of (0: none), at
    # ``notified_at``, Unix milliseconds.
    op.create_table(
        "notify_due",
        sa.Column("app", name(), primary_key=True),
        sa.Column("member", name(255), primary_key=True),
        sa.Column("conversation", sa.BigInteger, primary_key=True, autoincrement=False),
        need("entry_id"),
        need("due"),
        need("notified_id"),
        need("notified_at"),
        sa.UniqueConstraint("app", "due", "member", "conversation", name="notify_due_by_due"),
        if_not_exists=True,
        **KEY_ORDER,
    )
    # A notification to one endpoint. ``host``: of its URL. ``conversation`` and ``entry_id`` 0: of a push
    # that is not stored. ``next_try``: Unix milliseconds; ``created``: Unix seconds.
    op.create_table(
        "notify_delivery",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        need("app", name()),
        need("member", name(255)),
        need("endpoint", sa.Integer),
        need("host", name(255)),
        need("kind", name(16)),
        need("conversation"),
        need("entry_id"),
        need("topic", name(32)),
        need("ttl", sa.Integer),
        need("next_try"),
        need("attempts", sa.Integer),
        need("created"),
        need("body", CONTENT),
        sa.UniqueConstraint("host", "next_try", "id", name="notify_delivery_by_host"),
        sa.UniqueConstraint("endpoint", "topic", "id", name="notify_delivery_by_topic"),
        sa.UniqueConstraint("app", "member", "id", name="notify_delivery_by_member"),
        if_not_exists=True,
        **MYSQL_OPTIONS,
    )
