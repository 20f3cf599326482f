"""Users who were removed from groups: they come back only if an admin wants it."""

from __future__ import annotations

from collections.abc import Sequence
from time import time

from imserver.plugin.storage import PooledStatements, Statements, Store, text_of


class RemovedMembers:
    """Who was removed from which group. Each method is a transaction, may switch, and raises
    StorageUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @Store.writing
    def add(self, sql: PooledStatements, app: str, group: int, users: Sequence[str]) -> None:
        """Users were removed from a group."""
        now = int(time())
        _forget(sql, app, group, users, now)
        rows = [(app, group, user, now) for user in users]
        sql.insert_new("removed_member", "app, conversation, member, created", rows)

    def forget(self, app: str, group: int, users: Sequence[str], before: int) -> None:
        """They may come back, if they were removed before this Unix second."""
        self._store.write(lambda sql: _forget(sql, app, group, users, before))

    def among(self, app: str, group: int, users: Sequence[str]) -> set[str]:
        """Those of these users who were removed."""
        return self._store.read(lambda sql: removed_among(sql, app, group, users))


def removed_among(sql: Statements, app: str, group: int, users: Sequence[str]) -> set[str]:
    """Those of these users who were removed from a group, in the caller's transaction."""
    statement = "SELECT member FROM removed_member WHERE app = %s AND conversation = %s AND member IN {}"
    return {text_of(row[0]) for row in sql.query_in(statement, (app, group), list(dict.fromkeys(users)))}


def _forget(sql: PooledStatements, app: str, group: int, users: Sequence[str], before: int) -> None:
    statement = (
        "DELETE FROM removed_member WHERE app = %s AND conversation = %s AND member = %s AND created <= %s"
    )
    sql.execute_many(statement, [(app, group, user, before) for user in users])
