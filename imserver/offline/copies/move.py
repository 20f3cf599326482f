"""Copy all tables of a database into an empty one of any engine: page by page,
resumable, and verified.

The progress (tables, and the last key of each) is stored in the table
``move_state`` of the target, in the transaction of each page. The row of
``directory`` comes last: without it no server opens a database. Code here
blocks, so it runs in a separate process, not in a node.
"""

import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, json, msgpack
from msgspec.structs import replace
from sqlalchemy import Engine, inspect

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError
from imserver.gateway.process import open_private
from imserver.gateway.storage import migrations
from imserver.gateway.storage.address import DatabaseAddress
from imserver.gateway.storage.database import LONG_SECONDS, prepare_file
from imserver.gateway.storage.engines import WRITES, make_engine
from imserver.gateway.storage.migrations import feature_steps
from imserver.gateway.storage.numbers import give_after, last_given
from imserver.gateway.storage.row_layout import TableLayout, layout_of
from imserver.gateway.storage.statements import PooledStatements, Row, T, text_of
from imserver.gateway.storage.tables import StoreTables, Table, tables_in
from imserver.offline.copies.backup import wait_until_alone
from imserver.offline.copies.row_pages import (
    RowReader,
    RowWriter,
    TableSum,
    sum_of,
    usable,
)
from imserver.plugin.space import need_space

_STATE: Final = "move_state"
_MOVE: Final = ""
"""The name of the row of ``move_state`` about the whole move. Every other row
has the name of a table."""
_OF_STEPS: Final = ("alembic_version", "feature_schema", "owner_step")
"""Tables whose rows the migration steps write. They are equal in both
databases."""
_LAST: Final = "directory"
_FIRST: Final = ("log", "account")
"""Tables that a server fills before others, if it does not count its changes in
``directory``."""
_MAKE_STATE: Final = {
    "sqlite": f"CREATE TABLE {_STATE} (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "postgresql": f"CREATE TABLE {_STATE} (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "mysql": f"CREATE TABLE {_STATE} (name VARBINARY(255) PRIMARY KEY, value BLOB NOT NULL) ENGINE=InnoDB",
}
_SIZES: Final = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
    "postgresql": "SELECT pg_database_size(current_database())",
    "mysql": "SELECT sum(data_length + index_length) FROM information_schema.tables "
    "WHERE table_schema = database()",
}
"""Engine → the statement for the size of a database in bytes."""

Note = Callable[[str, int, int], object]
"""A function that is called with each page: the kind of work (``copied``,
``verified``), and how many rows of how many are done. Counted rows are stored.
"""


class _Begun(Struct, frozen=True):
    """A move that has begun: the id of the source, the tables, and the last
    step of each owner. There are no steps if a release without them has begun
    it."""

    source: str
    tables: list[str]
    steps: dict[str, int] = {}


class _Position(Struct, frozen=True):
    """How much of a table is copied: the number of rows, and the key of the
    last one in hexadecimal."""

    rows: int = 0
    after: str = ""


class Moved(Struct, frozen=True):
    """The result of a move. ``tables``: the count and checksum of each.
    ``strangers``: foreign tables in the source, which were not copied.
    ``resumed``: whether an earlier run had begun it."""

    tables: dict[str, TableSum]
    strangers: tuple[str, ...]
    resumed: bool

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return sum(each.rows for each in self.tables.values())


class _End(Struct, frozen=True):
    address: DatabaseAddress
    engine: Engine

    def read(self, work: Callable[[PooledStatements], T]) -> T:
        with usable(self.address, self.engine), self.engine.connect() as connection:
            return work(PooledStatements(connection))

    def write(self, work: Callable[[PooledStatements], T]) -> T:
        with usable(self.address, self.engine), self.engine.connect() as connected:
            connection = connected.execution_options(**{WRITES: True})
            with connection.begin():
                return work(PooledStatements(connection))

    def tables(self) -> set[str]:
        def work(sql: PooledStatements) -> list[str]:
            return inspect(sql.connection).get_table_names()

        return set(self.read(work))

    def number(self, statement: str) -> int:
        """The only value of a query."""

        def work(sql: PooledStatements) -> int:
            return int(sql.query(statement)[0][0])

        return self.read(work)

    def layouts(self, tables: Sequence[Table]) -> dict[str, TableLayout]:
        def work(sql: PooledStatements) -> dict[str, TableLayout]:
            inspector = inspect(sql.connection)
            return {
                table.name: layout_of(inspector, table.name, table.key)
                for table in tables
            }

        return self.read(work)

    def reader(self, tables: Sequence[Table]) -> RowReader:
        return RowReader(self.address, self.engine, self.layouts(tables))


def move(
    source: DatabaseAddress,
    target: DatabaseAddress,
    settings: StorageSettings,
    tables: StoreTables,
    note: Note,
    *,
    without: Collection[str] = (),
    is_live: bool = False,
    complete: Callable[[], object] | None = None,
) -> Moved:
    """Copy a database into an empty one, or continue such a copy. The source is
    only read. Raises StartError.

    ``settings``: time limits. ``without``: features of other distributions
    whose tables stay behind. ``is_live``: servers may use the source. Then the
    copy has the state of the source at the beginning, and cannot be resumed.
    Otherwise nobody may be connected to the source. ``complete`` changes the
    source before it is read, when the target is taken. From then until the end
    no server opens the target. An interrupted copy begins again.
    """
    if not source.exists:
        raise StartError(f"{source.shown}: there is no such database")
    if source.url == target.url or (
        source.file is not None
        and target.file is not None
        and source.file.resolve() == target.file.resolve()
    ):
        raise StartError("the target is the database itself")
    with ExitStack() as stack:
        patient = replace(settings, seconds=LONG_SECONDS)
        first = _End(source, make_engine(source, patient))
        stack.callback(first.engine.dispose)
        second = _End(target, make_engine(target, patient))
        stack.callback(second.engine.dispose)
        if target.file is not None:
            need_space(target.file.parent, first.number(_SIZES[source.engine]))
            stack.enter_context(_locked(target.file))
        if source.file is None and not is_live:
            wait_until_alone(first.read, source.shown)
        if target.file is None:
            wait_until_alone(second.read, target.shown)
        return _Move(first, second, tables, note, without).run(stack, is_live, complete)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Create a SQLite file if it is missing, and lock out others that write or
    move to it."""
    try:
        prepare_file(file)
        lock = open_private(Path(f"{file}.lock"))
    except OSError as error:
        raise StartError(f"the database {file} cannot be used: {error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StartError(f"{file} is in use by another process") from None
    finally:
        os.close(lock)


def _require_utf8(end: _End) -> None:
    """Refuse a PostgreSQL database whose encoding would change texts."""
    if end.address.engine != "postgresql":
        return

    def work(sql: PooledStatements) -> str:
        return text_of(sql.query("SHOW server_encoding")[0][0])

    encoding = end.read(work)
    if encoding != "UTF8":
        raise StartError(
            f"the database {end.address.shown} has the encoding {encoding}, which is not copied: "
            "it needs ENCODING 'UTF8'"
        )


class _Move:
    def __init__(
        self,
        source: _End,
        target: _End,
        tables: StoreTables,
        note: Note,
        without: Collection[str],
    ) -> None:
        self._source = source
        self._target = target
        self._features = [
            each for each in tables.of_others if each.feature not in without
        ]
        self._without = set(without)
        ordered: list[Table] = []
        for each in self._features:
            ordered += each.tables
        ordered += tables.of_server()
        ordered.reverse()  # Parents before their children.
        self._tables = [
            table for table in ordered if table.name not in (*_OF_STEPS, _LAST)
        ]
        last = [table for table in ordered if table.name == _LAST]
        self._all = [*self._tables, *last]
        self._note = note

    def run(
        self, stack: ExitStack, is_live: bool, complete: Callable[[], object] | None
    ) -> Moved:
        strangers = self._check_source()
        id = self._id_of(self._source)
        if id is None:
            raise StartError(
                f"the database {self._source.address.shown} is damaged: it has no id"
            )
        resumed = self._prepare_target(id, begins_anew=complete is not None)
        positions = self._positions()
        if _MOVE not in positions:  # the last run has done all but the end
            self._drop_state()
            reader = self._target.reader(self._all)
            stack.callback(reader.close)
            sums = {name: sum_of(reader.pages(name)) for name in reader.layouts}
            return Moved(sums, strangers, True)

        if complete is not None:
            complete()
        layouts = self._target.layouts(self._all)
        writer = RowWriter(self._target.address, self._target.engine, layouts)
        stack.callback(writer.close)
        reader = self._source.reader(self._all)
        stack.callback(reader.close)
        _require_same_columns(reader, writer)
        total = self._count_rows()
        self._copy(reader, writer, positions, total)
        self._continue_numbers(reader.layouts)
        # Without servers the source is compared in its present state, so that
        # changes made meanwhile are found.
        if is_live:
            now = reader
        else:
            now = stack.enter_context(closing(self._source.reader(self._tables)))
        sums = self._verify(now, total)
        self._write_last(reader, writer)
        self._drop_state()
        sums[_LAST] = sum_of(reader.pages(_LAST))
        return Moved(sums, strangers, resumed)

    def _count_rows(self) -> int:
        """The number of all rows of the source."""

        def work(sql: PooledStatements) -> int:
            total = 0
            for table in self._all:
                total += int(sql.query(f'SELECT count(*) FROM "{table.name}"')[0][0])
            return total

        return self._source.read(work)

    def _write_last(self, reader: RowReader, writer: RowWriter) -> None:
        """Store the row without which no server opens the target. The
        transaction also deletes the note of the move."""
        with usable(self._target.address, self._target.engine):
            writer.sql.begin()
            for page in reader.pages(_LAST):
                writer.insert(_LAST, page)
            writer.sql.execute(f"DELETE FROM {_STATE}")
            writer.sql.commit()

    # --- what may be moved ----------------------------------------------------

    def _check_source(self) -> tuple[str, ...]:
        """Refuse a database of another release, or without tables of this
        server. Returns the foreign tables."""
        self._check_steps()
        records = self._check_features()
        shown = self._source.address.shown
        present = self._source.tables()
        wanted = {table.name for table in self._all}
        if _STATE in present:
            raise StartError(
                f"the database {shown} is itself the target of a move that has not ended"
            )
        missing = sorted(wanted - present)
        if missing:
            names = ", ".join(missing)
            raise StartError(f"the database {shown} is damaged: it has no {names}")
        left_behind: set[str] = set()
        with usable(self._source.address, self._source.engine):
            for feature in self._without & records.keys():
                tables = tables_in(feature, records[feature].tables)
                left_behind.update(table.name for table in tables)
        strangers = present - wanted - left_behind
        return tuple(sorted(strangers.difference(_OF_STEPS)))

    def _check_steps(self) -> None:
        """Refuse a source with other steps than this release."""

        def read(sql: PooledStatements) -> dict[str, int]:
            return migrations.taken_steps(sql.connection)

        shown = self._source.address.shown
        taken = self._source.read(read)
        newer = migrations.named(migrations.newer_steps(taken))
        if newer:
            raise StartError(
                f"the database {shown} belongs to a newer release, at step {newer}: move it with that release"
            )
        late = migrations.named(migrations.missing_steps(taken))
        if late:
            raise StartError(
                f"the database {shown} lacks step {late}: start and stop its server once with this "
                "release, then move it"
            )

    def _check_features(self) -> dict[str, feature_steps.RecordedTables]:
        """Refuse a source with tables of features that the settings do not
        name, or with steps that are due. Returns the recorded tables of
        features."""

        def read(sql: PooledStatements) -> dict[str, feature_steps.RecordedTables]:
            return feature_steps.recorded(sql.connection)

        shown = self._source.address.shown
        records = self._source.read(read)
        names = {each.feature for each in self._features} | self._without
        absent = sorted(records.keys() - names)
        if absent:
            raise StartError(
                f"the database {shown} has tables of {', '.join(absent)}, which the settings do not name: "
                f"add it to the setting features, or leave its tables behind: --without {absent[0]}"
            )
        if feature_steps.are_due(self._features, records):
            raise StartError(
                f"the database {shown} lacks steps of a feature: start and stop its server once, then move it"
            )
        return records

    def _id_of(self, end: _End) -> str | None:
        """The id of a database. None if it has no id yet."""

        def work(sql: PooledStatements) -> str | None:
            for (id,) in sql.query("SELECT id FROM directory"):
                return text_of(id)
            return None

        return end.read(work)

    def _prepare_target(self, source: str, begins_anew: bool) -> bool:
        """Make the tables of the target. Returns whether the move had begun
        before. ``source``: the id of the source."""
        target = self._target
        names = target.tables()
        self._refuse_tables_of_others(source, names)
        for end in (self._source, target):
            _require_utf8(end)

        if not names:
            target.write(lambda sql: sql.execute(_MAKE_STATE[target.address.engine]))
        positions = self._positions()
        written = positions.pop(_MOVE, None)
        if written is None:
            begun = None
        else:
            begun = json.decode(written, type=_Begun)
        if begun is not None:
            self._refuse_other_move(begun, source)
            if _LAST in names and target.read(_is_used):
                raise StartError(
                    f"the database {target.address.shown} is not empty: a server has begun to use it meanwhile"
                )
        elif names - {_STATE}:
            # The last run has done everything except the end, which deletes the
            # note.
            self._require_move_of(source, self._id_of(target))
            return True
        else:
            begins = _Begun(source, self._names(), migrations.newest_steps())
            text = json.encode(begins).decode()
            target.write(lambda sql: _set_state(sql, _MOVE, text))

        if begins_anew or not positions:
            self._make_tables()
        return begun is not None

    def _refuse_tables_of_others(self, source: str, names: Collection[str]) -> None:
        """Refuse a target that has tables, unless a move has made them."""
        if not names or _STATE in names:
            return
        shown = self._target.address.shown
        if _LAST in names and self._id_of(self._target) == source:
            raise StartError(
                f"the database {shown} has the id of the source: it is the same database, or a copy, or "
                "a move or restore to it has ended"
            )
        raise StartError(
            f"the database {shown} is not empty ({_some(sorted(names))}): name an empty one"
        )

    def _refuse_other_move(self, begun: _Begun, source: str) -> None:
        """Refuse to continue a move of another source, or one that another
        release or other features have begun."""
        self._require_move_of(source, begun.source)
        if begun.steps != migrations.newest_steps() or begun.tables != self._names():
            raise StartError(
                f"the move to {self._target.address.shown} was begun with another release or other features: "
                "go on with these, or begin again with an empty database"
            )

    def _require_move_of(self, source: str, moved: str | None) -> None:
        """Refuse a target to which another database was ``moved``."""
        if moved != source:
            raise StartError(
                f"the database {self._target.address.shown} is the target of an interrupted move of another "
                "database: name an empty one"
            )

    def _make_tables(self) -> None:
        """Make the tables of the target, or empty them."""
        shown = self._target.address.shown
        # The rows that the steps have written, and those of an interrupted
        # copy: children first.
        statements = [f'DELETE FROM "{table.name}"' for table in reversed(self._all)]
        statements.append(f"DELETE FROM {_STATE} WHERE name <> '{_MOVE}'")

        def make(sql: PooledStatements) -> None:
            migrations.make_all(sql.connection, shown, self._features)

        def empty(sql: PooledStatements) -> None:
            for statement in statements:
                sql.execute(statement)

        self._target.write(make)
        self._target.write(empty)

    def _names(self) -> list[str]:
        """The names of the tables that are copied page by page."""
        return [table.name for table in self._tables]

    def _positions(self) -> dict[str, str]:
        """The rows of ``move_state``: name → value."""

        def work(sql: PooledStatements) -> list[Row]:
            return sql.query(f"SELECT name, value FROM {_STATE}")

        return {
            text_of(name): text_of(value) for name, value in self._target.read(work)
        }

    # --- copying --------------------------------------------------------------

    def _copy(
        self,
        reader: RowReader,
        writer: RowWriter,
        positions: dict[str, str],
        total: int,
    ) -> None:
        reached = {
            name: json.decode(positions.get(name, "{}"), type=_Position)
            for name in self._names()
        }
        done = sum(position.rows for position in reached.values())
        for name, position in reached.items():
            after: Row = ()
            if position.after:
                after = tuple(msgpack.decode(bytes.fromhex(position.after)))
            for page in reader.pages(name, after):
                done += len(page)
                key = msgpack.encode(reader.layouts[name].key_of(page[-1])).hex()
                position = _Position(position.rows + len(page), key)
                # The rows and how far they go, so that a kill loses none and
                # stores none twice.
                writer.sql.begin()
                try:
                    writer.insert(name, page)
                    _set_state(writer.sql, name, json.encode(position).decode())
                    writer.sql.commit()
                except writer.errors as error:
                    words = self._too_long(page) or " ".join(str(error).split())
                    raise StartError(
                        f"the target stopped storing rows of {name}: {words}; run the same "
                        "command again to go on"
                    ) from None
                self._note("copied", done, total)

    def _too_long(self, page: list[Row]) -> str:
        """A sentence about a row that is too long; ``""`` if none is. MariaDB
        and MySQL only end the connection."""
        if self._target.address.engine != "mysql":
            return ""
        most = self._target.number("SELECT @@max_allowed_packet")
        longest = max(
            sum(len(value) for value in row if isinstance(value, bytes)) for row in page
        )
        size = 2 * longest  # Each byte may be sent as two.
        if size <= most:
            return ""
        return f"a row may take {size} bytes, and max_allowed_packet is {most}"

    def _continue_numbers(self, layouts: dict[str, TableLayout]) -> None:
        """Make the target give the next numbers from where the source would
        have continued."""
        columns = {
            name: layout.number for name, layout in layouts.items() if layout.number
        }

        def read(sql: PooledStatements) -> dict[str, int | None]:
            return {
                name: last_given(sql, name, column) for name, column in columns.items()
            }

        given = self._source.read(read)

        def work(sql: PooledStatements) -> None:
            for name, last in given.items():
                if last is not None:
                    give_after(sql, name, last, columns[name])

        self._target.write(work)

    # --- the end --------------------------------------------------------------

    def _verify(self, reader: RowReader, total: int) -> dict[str, TableSum]:
        """Read both databases, and compare them. Returns the counts and
        checksums of the tables."""
        done = 0

        def note(rows: int) -> None:
            nonlocal done
            done += rows
            self._note("verified", done // 2, total)

        with closing(self._target.reader(self._tables)) as other:
            sums = {}
            for name in other.layouts:
                sums[name] = sum_of(reader.pages(name), note)
                copied = sum_of(other.pages(name), note)
                if copied != sums[name]:
                    raise StartError(
                        f"the copy of {name} differs: {sums[name].rows} rows, checksum "
                        f"{sums[name].checksum}; {copied.rows} rows, checksum {copied.checksum}. Something "
                        "changed a database meanwhile: stop that, and begin again with an empty one"
                    )
            return sums

    def _drop_state(self) -> None:
        def work(sql: PooledStatements) -> None:
            sql.execute(f"DROP TABLE {_STATE}")
            if sql.engine == "postgresql":
                sql.execute("ANALYZE")  # until it does so by itself, plans are guesses

        self._target.write(work)
        if self._target.address.engine == "sqlite":
            with self._target.engine.connect() as connection:
                connection.connection.driver_connection.execute(  # type: ignore[union-attr]
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                )


def _is_used(sql: PooledStatements) -> bool:
    """Whether a server has begun to use the tables that an interrupted copy has
    made."""
    versions = sql.query("SELECT version FROM directory")
    if not versions:
        return False
    if versions[0][0] > 0:
        return True
    return any(sql.query(f"SELECT 1 FROM {name} LIMIT 1") for name in _FIRST)


def _set_state(sql: Any, name: str, value: str) -> None:
    sql.execute(f"DELETE FROM {_STATE} WHERE name = %s", (name,))
    sql.execute(f"INSERT INTO {_STATE} (name, value) VALUES (%s, %s)", (name, value))


def _require_same_columns(reader: RowReader, writer: RowWriter) -> None:
    """Refuse a target whose tables have other columns."""
    for name, layout in reader.layouts.items():
        own = {column.name for column in layout.columns}
        other = {column.name for column in writer.layouts[name].columns}
        if own != other:
            columns = _some(sorted(own ^ other))
            raise StartError(
                f"the table {name} has other columns in the target ({columns})"
            )


_MOST_NAMED: Final = 5


def _some(names: Sequence[str]) -> str:
    text = ", ".join(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        text += ", …"
    return text
