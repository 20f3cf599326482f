"""Users who were erased since a copy of the database was made: whoever restores it erases them again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from imserver.config.settings import Config
from imserver.node.feature_list import load_features, tables_of
from imserver.offline import offline_parts
from imserver.process import DataDirectory
from imserver.storage.app_rows import tables_of_others
from imserver.storage.contract import Erasure, programs_of
from imserver.storage.contract import tables_of as spared_by
from imserver.storage.erasures import PURPOSE, ErasureRow, Erasures
from imserver.storage.statements import PooledStatements, RowsOf, text_of
from imserver.storage.store import Store
from imserver.storage.tables import CONDITIONS_OF_APP, Reason, Table

_SELECT: Final = RowsOf(ErasureRow, "erasure").select


def erasures_of(database: Path) -> list[ErasureRow]:
    """The erasures that a SQLite file has; none if it cannot be read."""
    statement = f"{_SELECT} WHERE ended > 0"
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [ErasureRow(*row) for row in connection.execute(statement)]
    except sqlite3.Error:
        return []


def erase_again(settings: Config, store: Store, rows: Iterable[ErasureRow]) -> int:
    """Erase the users of these erasures, which the database does not have: it is older. Returns their number.

    Raises Unavailable and StartError.
    """
    keys = DataDirectory(settings.server.data_dir).secrets(settings.server).keys(PURPOSE)
    erasures = Erasures(store, lambda: keys)
    names = {row.name for row in erasures.ended()}
    missing = [row for row in {row.name: row for row in rows}.values() if row.name not in names]
    users = _whose(erasures, store, missing, tables_of(load_features(settings)).of_server())
    with offline_parts(settings, store, Erasure) as named:
        parts = [erasure for _, erasure in reversed(named)]
        for row, user in users:
            erasures.repeat(row, user)
            for program in programs_of(parts, row.app, user):
                _erase(store, parts, row.app, program, "")
            _erase(store, parts, row.app, user, row.name)
            erasures.end(row.app, user, row.ended)
    erasures.note(missing)
    return len(users)


def _erase(store: Store, parts: Sequence[Erasure], app: str, user: str, name: str) -> None:
    for each in parts:
        each.user(app, user, name)
    store.delete_rows_of_user(app, user, spared_by(parts))


def _whose(
    erasures: Erasures, store: Store, rows: Iterable[ErasureRow], tables: Sequence[Table]
) -> list[tuple[ErasureRow, str]]:
    """The users of these erasures that a database has rows of: (erasure, user). Of several of one name it has
    the first."""
    missing: dict[str, list[ErasureRow]] = {}
    for row in {row.digest: row for row in sorted(rows, key=lambda row: -row.ended)}.values():
        missing.setdefault(row.app, []).append(row)
    pairs: list[tuple[ErasureRow, str]] = []
    for app, some in missing.items():
        users: set[str] = store.read_or(set(), partial(_users, app, tables))
        by_digest = {digest: user for user in users for digest in erasures.digests(app, user)}
        pairs += [(row, by_digest[row.digest]) for row in some if row.digest in by_digest]
    return pairs


def _users(app: str, tables: Sequence[Table], sql: PooledStatements) -> set[str]:
    """All users of whom an app has rows."""
    users: set[str] = set()
    for table in (*tables_of_others(sql), *tables):
        if not isinstance(table.of_user, Reason) and table.of_app in CONDITIONS_OF_APP:
            column = table.of_user.removesuffix(" = %s")
            rows = sql.query(f"SELECT DISTINCT {column} FROM {table.name} WHERE {table.of_app}", (app,))
            users.update(str(user) if isinstance(user, int) else text_of(user) for (user,) in rows)
    return users
