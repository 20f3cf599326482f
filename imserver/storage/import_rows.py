"""The rows of an app that an import makes, from those that an export has read."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from imserver.errors import ImserverError
from imserver.storage.app_rows import tables_of_others
from imserver.storage.numbers import give_above
from imserver.storage.statements import PooledStatements, Row, marks_of
from imserver.storage.tables import OF_APP, OF_LOGS, Reason, Table

if TYPE_CHECKING:
    from imserver.storage.row_layout import ColumnLayout

BASE64: Final = "base64"
"""The only name in an object that stands for bytes that are no text."""


_NUMBERS: Final = 1 << 53
"""More rows than a table ever gets: an id above leaves none to those that come after it."""


class BadRows(ImserverError):
    """These rows cannot be imported. The text says why."""


class ImportedRows:
    """Stores rows of an app. Its methods run in the transactions of their callers.

    Owner of what it knows of the columns of tables, and of the number of the log of the app.
    """

    def __init__(self, app: str, tables: Sequence[Table], sql: PooledStatements) -> None:
        self._app = app
        self._tables = {table.name: table for table in (*tables_of_others(sql), *tables) if table.exported}
        self._columns: dict[str, dict[str, ColumnLayout]] = {}
        self._log = 0

    def reason(self, name: str) -> str:
        """Why an import makes no rows of a table; ``""``: it does."""
        table = self._tables.get(name)
        if table is None:
            return "this server has no such table"
        return table.imported.why if isinstance(table.imported, Reason) else ""

    def stays(self, name: str) -> bool:
        """Whether a table has a row of each app, which is changed last of all (:meth:`finish`)."""
        return bool(self._tables[name].stays)

    def check(
        self, sql: PooledStatements, name: str, columns: Sequence[str], rows: Sequence[Row], parents: set[int]
    ) -> str:
        """Look at rows before any is stored. ``parents``: the ids of the rows of :data:`Table.PARENT`, which
        come first.

        Returns a key that a row of this server has already, whatever its app; ``""``: there is none. Keys
        that begin with the app or its log are free: the app is empty. Raises BadRows for what an export would
        not have read: other columns than those of the table, such as the app; values of other types;
        numbers that no server stores; and rows whose parents are not among these.
        """
        table = self._tables[name]
        kinds = self._kinds(sql, name, columns)
        is_shared = table.exported == OF_APP and len(table.key) == 1 and table.key[0] in columns
        numbered = table.key if is_shared else [column for column in table.key if column == "id"]
        for row in rows:
            for value, kind in zip(row, kinds, strict=True):
                _stored(value, kind)
        if missing := {*table.parents, *({"id"} & {*table.key})} - {*columns}:
            raise BadRows(f"rows of the table {name} have no column {missing.pop()}")
        ids = [row[columns.index(column)] for column in numbered for row in rows]
        if wrong := [id for id in ids if not _is_id(id)]:
            raise BadRows(f"no server gives a row of the table {name} the id {wrong[0]!r:.100}")
        if name == Table.PARENT:
            parents.update(ids)
        for column in table.parents:
            at, may_be_none = columns.index(column), column not in table.key
            if any(row[at] not in parents and not (may_be_none and row[at] == 0) for row in rows):
                raise BadRows(f"the table {name} has rows of {Table.PARENT}s that are not in the archive")
        if not is_shared:
            return ""
        there = sql.query_in(f"SELECT {numbered[0]} FROM {name} WHERE {numbered[0]} IN {{}}", (), ids)
        return str(there[0][0]) if there else ""

    def add(self, sql: PooledStatements, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Store rows. Raises BadRows."""
        table = self._tables[name]
        assert not isinstance(table.imported, Reason)
        fixed: dict[str, Any] = dict(table.imported)
        if table.exported == OF_APP:
            fixed["app"] = self._app
        elif table.exported == OF_LOGS:
            fixed["log"] = self._number(sql)
        kinds = self._kinds(sql, name, columns)
        names = ", ".join(f'"{column}"' for column in (*columns, *fixed))
        statement = f"INSERT INTO {name} ({names}) VALUES {marks_of(len(columns) + len(fixed))}"
        values = (*fixed.values(),)
        from sqlalchemy.exc import DataError, IntegrityError  # imported by who has a database

        try:
            sql.execute_many(statement, [(*map(_stored, row, kinds), *values) for row in rows])
        except (DataError, IntegrityError, ValueError, OverflowError) as error:
            raise BadRows(f"the table {name} does not take such rows: {error}") from None

    def clear(self, sql: PooledStatements) -> None:
        """Delete what was stored before rows were refused: the app was empty."""
        for name, table in self._tables.items():
            if not table.stays and not self.reason(name):
                sql.execute(f"DELETE FROM {name} WHERE {table.exported}", (self._app,))

    def count(self, sql: PooledStatements, name: str) -> int:
        """The number of rows of the app in a table."""
        table = self._tables[name]
        return int(sql.query(f"SELECT count(*) FROM {name} WHERE {table.exported}", (self._app,))[0][0])

    def finish(self, sql: PooledStatements, heads: Mapping[str, Mapping[str, Any]]) -> None:
        """Change the rows that stay: table → its columns. From then on the app has what was imported, and
        new rows get ids above it."""
        for name, fields in heads.items():
            self._number(sql)
            kinds = self._kinds(sql, name, list(fields))
            changes = ", ".join(f'"{column}" = %s' for column in fields)
            statement = f"UPDATE {name} SET {changes} WHERE {self._tables[name].stays}"
            sql.execute(statement, (*map(_stored, fields.values(), kinds), self._app))
        if sql.engine == "postgresql":
            # The other engines continue after the greatest id by themselves.
            for name, table in self._tables.items():
                if table.key == ("id",):
                    give_above(sql, name, f"(SELECT max(id) FROM {name})")

    def _number(self, sql: PooledStatements) -> int:
        """The number of the log of the app, which is made if there is none."""
        if not self._log:
            find = "SELECT number FROM log WHERE app = %s AND part = 0"
            if not sql.query(find, (self._app,)):
                sql.insert_new(
                    "log", "app, part, last_id, last_conversation, floor", [(self._app, 0, 0, 0, 0)]
                )
            self._log = sql.query(find, (self._app,))[0][0]
        return self._log

    def _kinds(self, sql: PooledStatements, name: str, columns: Sequence[str]) -> list[ColumnLayout]:
        """These columns. Raises BadRows for one that an export of the table does not read."""
        if name not in self._columns:
            from sqlalchemy import inspect  # imported by who has a database

            from imserver.storage.row_layout import layout_of

            table = self._tables[name]
            read = {column.strip('"') for column in table.columns}  # type: ignore[union-attr]
            ranges = {column: {"least": least, "most": most} for column, least, most in table.ranges}
            self._columns[name] = {
                each.name: replace(each, **ranges.get(each.name, {}))
                for each in layout_of(inspect(sql.connection), name, table.key, read).columns
            }
        known = self._columns[name]
        if unknown := [column for column in columns if column not in known]:
            raise BadRows(
                f"no archive of this release has a column {unknown[0]} in the table {name}: it is of a newer "
                "release, or forged"
            )
        return [known[column] for column in columns]


def _is_id(value: Any) -> bool:
    """Whether a server could have given this id. Others would end the numbers of all apps, or name a path."""
    if isinstance(value, str):
        return re.fullmatch(r"[\w-]+", value, re.ASCII) is not None
    return type(value) is int and 0 < value < _NUMBERS


def _stored(value: Any, column: ColumnLayout) -> Any:
    """A value of an export as the driver takes it, whichever engine the server has. Raises BadRows."""
    kind = column.kind.value
    if isinstance(value, dict):
        try:
            value = b64decode(value[BASE64], validate=True)
        except (KeyError, TypeError, ValueError):
            raise BadRows("an object stands in place of a value") from None
        value = value if kind is bytes else value.decode(errors="replace")
    elif kind is bytes and isinstance(value, str):
        value = value.encode()
    if value is None:
        return value
    given: type = type(value)
    if given is not kind:
        raise BadRows(f"a value of the type {given.__name__} stands in place of {kind.__name__}")
    size = len(value) if kind in (str, bytes) else value
    fits = kind not in (int, str, bytes) or column.least <= size <= column.most
    if not fits or (kind is str and "\0" in value):
        raise BadRows(f"a column has no place for such a value: {value!r:.100}")
    return value
