"""The rows of one app in all tables: how many there are, and their deletion in small transactions."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Final

from msgspec import json

from imserver.storage.contract import AppContents
from imserver.storage.statements import PooledStatements

log = logging.getLogger(__name__)

DELETED: Final = "null"
"""In place of the settings of an app: it was deleted."""
_AT_ONCE: Final = 1000
"""Rows that one transaction deletes, so that writers never wait for long."""
_ACCOUNTS: Final = "account IN (SELECT id FROM account WHERE app = %s)"
_LOGS: Final = "log IN (SELECT number FROM log WHERE app = %s)"
_APP: Final = "app = %s"

TABLES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "account_device": (_ACCOUNTS, ("account", "id")),
    "password_reset": (_ACCOUNTS, ("code",)),
    "oauth_link": (_APP, ("app", "provider", "subject")),
    "relation": (_ACCOUNTS, ("account", "other")),
    "incoming_hook": (_APP, ("id",)),
    "bot": (_APP, ("id",)),
    "account": (_APP, ("id",)),
    "invitation": (_APP, ("code",)),
    "hidden": (_LOGS, ("log", "member", "id")),
    "read_position": (_LOGS, ("log", "member", "conversation")),
    "mark_version": (_LOGS, ("log", "member")),
    "uplink_session": (_LOGS, ("log", "member")),
    "reaction": (_LOGS, ("log", "message", "emoji", "member")),
    "pin": (_LOGS, ("log", "message")),
    "mention": (_LOGS, ("log", "member", "conversation", "id")),
    "bot_entry": (_LOGS, ("log", "member", "conversation", "id")),
    "message": (_LOGS, ("log", "id")),
    "membership": (_LOGS, ("log", "member", "conversation", "joined_id")),
    "conversation": (_LOGS, ("log", "id")),
    "talk_position": (_APP, ("app", "member")),
    "room_position": (_APP, ("app", "member", "room")),
    "absence": (_APP, ("app", "member", "conversation")),
    "event": (_APP, ("app", "id")),
    "event_retry": (_APP, ("number",)),
    "notify_app": (_APP, ("app",)),
    "notify_endpoint": (_APP, ("id",)),
    "notify_person": (_APP, ("app", "member")),
    "notify_conversation": (_APP, ("app", "member", "conversation")),
    "notify_due": (_APP, ("app", "member", "conversation")),
    "notify_delivery": (_APP, ("id",)),
    "arrangement": (_APP, ("app", "member", "conversation")),
    "upload": (_APP, ("id",)),
    "upload_usage": (_APP, ("app", '"user"')),
    "ban": (_APP, ("app", "member")),
}
"""The tables with rows of apps, in the order of their deletion: which rows an app has, and the primary key.

Not here: ``app``, ``log`` and ``event_feed``, whose rows stay.
"""

OF_USERS: Final[dict[str, tuple[str, ...]]] = {
    "invitation": ("DELETE FROM invitation WHERE app = %s AND member = %s",),
    "absence": ("DELETE FROM absence WHERE app = %s AND member = %s",),
    "notify_endpoint": ("DELETE FROM notify_endpoint WHERE app = %s AND member = %s",),
    "notify_person": ("DELETE FROM notify_person WHERE app = %s AND member = %s",),
    "notify_conversation": ("DELETE FROM notify_conversation WHERE app = %s AND member = %s",),
    "notify_due": ("DELETE FROM notify_due WHERE app = %s AND member = %s",),
    "notify_delivery": ("DELETE FROM notify_delivery WHERE app = %s AND member = %s",),
    "arrangement": ("DELETE FROM arrangement WHERE app = %s AND member = %s",),
    "upload": (
        'DELETE FROM upload WHERE app = %s AND "user" = %s',
        # With the total of the app, which the next upload counts anew.
        """DELETE FROM upload_usage WHERE app = %s AND "user" IN (%s, '')""",
    ),
}
"""Table of a feature → statements that erase the rows of a user: first those in this table, then others."""


def is_deleted(name: str, sql: PooledStatements, lock: bool = False) -> bool:
    """Whether there was an app of this name, and it was deleted. ``lock``: it is not created anew until the
    transaction ends."""
    rows = sql.query(f"SELECT settings FROM app WHERE name = %s{sql.for_update if lock else ''}", (name,))
    return bool(rows) and rows[0][0] == DELETED


def has_files(name: str, sql: PooledStatements) -> bool:
    """Whether rows of files of an app are left."""
    return bool(sql.query("SELECT id FROM upload WHERE app = %s LIMIT 1", (name,)))


def contents(name: str, sql: PooledStatements) -> AppContents:
    """The contents of an app.

    Messages are not counted one by one, because millions would exceed the time limit of a query. The ids of a
    log have gaps only after a restore.
    """
    entries = "SELECT coalesce(sum(last_id - floor), 0) FROM log WHERE app = %s"
    keys = sql.query("SELECT apps FROM api_key WHERE revoked = 0")
    return AppContents(
        keys=sum(json.decode(apps) == [name] for (apps,) in keys),
        accounts=_count(sql, name, "account", _APP),
        messages=int(sql.query(entries, (name,))[0][0]),
        uploads=_count(sql, name, "upload", _APP),
        groups=_count(sql, name, "conversation", f"{_LOGS} AND kind = 1"),
    )


def _count(sql: PooledStatements, name: str, table: str, mine: str) -> int:
    return int(sql.query(f"SELECT count(*) FROM {table} WHERE {mine}", (name,))[0][0])


def delete_of_user(app: str, user: str, spared: Set[str], sql: PooledStatements) -> None:
    """Delete the rows of a user in the tables of features, but in those of ``spared``."""
    for table, (rows, *others) in OF_USERS.items():
        if table in spared:
            continue
        _warn_of_files(table, sql.execute(rows, (app, user)))
        for statement in others:
            sql.execute(statement, (app, user))


def _warn_of_files(table: str, rows: int) -> None:
    """Tell operators that bytes are left, because the rows of files were deleted without them."""
    if table == "upload" and rows:
        log.warning("erased the rows of %d files: this node has no uploads, so their bytes are left", rows)


def delete_some(name: str, spared: Set[str], sql: PooledStatements) -> int:
    """Delete some rows of a deleted app; how many, 0: none are left but in the tables of ``spared``, or the
    app was created anew.

    The heads of its logs and its feed stay: no id is given again if the app is created anew. The floor of the
    logs is raised, so clients with an old cursor begin anew. The feed begins anew, too.
    """
    if not is_deleted(name, sql, lock=True):
        return 0
    sql.execute("UPDATE log SET floor = last_id WHERE app = %s AND floor < last_id", (name,))
    sql.execute(
        "UPDATE event_feed SET event_id = last_id, owner = '', lease_until = 0 "
        "WHERE app = %s AND (lease_until <> 0 OR event_id <> last_id)",
        (name,),
    )
    for table, (mine, key) in TABLES.items():
        if table in spared:
            continue
        columns = ", ".join(key)
        rows = sql.query(f"SELECT {columns} FROM {table} WHERE {mine} LIMIT {_AT_ONCE}", (name,))
        if rows:
            these = " AND ".join(f"{column} = %s" for column in key)
            sql.execute_many(f"DELETE FROM {table} WHERE {these}", [tuple(row) for row in rows])
            _warn_of_files(table, len(rows))
            return len(rows)
    return 0
