"""Copy all tables of a database into an empty one of any engine: page by page,
resumable, and verified.

The progress (tables, and the last key of each) is stored in the table
``move_state`` of the target, in the transaction of each page. The row of
``directory`` comes last: without it no server opens a database. Code here
blocks, so it runs in a separate process, not in a node.
"""

import fcntl
import os
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
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
from imserver.gateway.storage.tables import (
    FeatureTables,
    StoreTables,
    Table,
    tables_in,
)
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
"""A function that is called after each page, to show the progress. Its
arguments are the kind of work (``copied`` or ``verified``), the number of rows
that are done, and the number of all rows. Copied rows are already stored."""


class _Begun(Struct, frozen=True):
    """A move that has begun, as it is stored in the target.

    ``source``: the id of the source. ``tables``: the names of the copied
    tables. ``steps``: the last migration step of each owner; empty if a release
    that did not store them has begun the move.
    """

    source: str
    tables: list[str]
    steps: dict[str, int] = {}


class _Position(Struct, frozen=True):
    """How much of a table is copied.

    ``rows``: the number of rows. ``after``: the key of the last copied row, in
    MessagePack and hexadecimal; ``""`` if no row is copied yet.
    """

    rows: int = 0
    after: str = ""


class Moved(Struct, frozen=True):
    """The result of a move.

    ``tables``: the count and checksum of each copied table. ``strangers``:
    tables in the source that neither the server nor a feature has made, and
    that were not copied. ``resumed``: an earlier run had begun the move.
    """

    tables: dict[str, TableSum]
    strangers: tuple[str, ...]
    resumed: bool

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return sum(each.rows for each in self.tables.values())


class _End(Struct, frozen=True):
    """One of the two databases of a move.

    Errors of a driver become StartError.
    """

    address: DatabaseAddress
    engine: Engine

    def read(self, work: Callable[[PooledStatements], T]) -> T:
        """Call ``work`` with the statements of a new connection."""
        with usable(self.address, self.engine), self.engine.connect() as connection:
            return work(PooledStatements(connection))

    def write(self, work: Callable[[PooledStatements], T]) -> T:
        """Call ``work`` in a transaction, which is committed at its end."""
        with usable(self.address, self.engine), self.engine.connect() as connected:
            connection = connected.execution_options(**{WRITES: True})
            with connection.begin():
                return work(PooledStatements(connection))

    def tables(self) -> set[str]:
        """Return the names of all tables in the database."""

        def work(sql: PooledStatements) -> list[str]:
            return inspect(sql.connection).get_table_names()

        return set(self.read(work))

    def number(self, statement: str) -> int:
        """Return the only value of a query."""

        def work(sql: PooledStatements) -> int:
            return int(sql.query(statement)[0][0])

        return self.read(work)

    def layouts(self, tables: Sequence[Table]) -> dict[str, TableLayout]:
        """Return the name of each table → its columns and key."""

        def work(sql: PooledStatements) -> dict[str, TableLayout]:
            """Read the layouts from the catalogue of the database."""
            inspector = inspect(sql.connection)
            return {
                table.name: layout_of(inspector, table.name, table.key)
                for table in tables
            }

        return self.read(work)

    def reader(self, tables: Sequence[Table]) -> RowReader:
        """Return a reader of the rows of these tables. Close it at the end."""
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
    """Copy a database into an empty one, or continue such a copy.

    The source is only read, except by ``complete``. ``settings``: time limits.
    ``note`` is called after each page. ``without``: features of other
    distributions whose tables are not copied. ``is_live``: servers may use the
    source. Then the copy has the state of the source at the beginning, and
    cannot be resumed. Otherwise nobody may be connected to the source.

    ``complete`` is called before the source is read, and changes it. By then
    the target is prepared, and no server opens it until the end of the move.
    With ``complete``, an interrupted copy begins again. Raises StartError.
    """
    if not source.exists:
        raise StartError(f"{source.shown}: there is no such database")
    if _are_same_database(source, target):
        raise StartError("the target is the database itself")
    with ExitStack() as stack:
        # A statement on a whole table takes longer than one of a server.
        patient = replace(settings, seconds=LONG_SECONDS)
        source_end = _opened_end(source, patient, stack)
        target_end = _opened_end(target, patient, stack)
        if target.file is not None:
            needed_bytes = source_end.number(_SIZES[source.engine])
            need_space(target.file.parent, needed_bytes)
            stack.enter_context(_locked(target.file))
        if source.file is None and not is_live:
            wait_until_alone(source_end.read, source.shown)
        if target.file is None:
            wait_until_alone(target_end.read, target.shown)
        moving = _Move(source_end, target_end, tables, note, without)
        return moving.run(stack, is_live, complete)


def _opened_end(
    address: DatabaseAddress, settings: StorageSettings, stack: ExitStack
) -> _End:
    """Return one of the two databases; ``stack`` closes its connections."""
    end = _End(address, make_engine(address, settings))
    stack.callback(end.engine.dispose)
    return end


def _are_same_database(source: DatabaseAddress, target: DatabaseAddress) -> bool:
    """Whether both addresses name the same database, also by a symbolic link."""
    if source.url == target.url:
        return True
    if source.file is None or target.file is None:
        return False
    return source.file.resolve() == target.file.resolve()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Lock a SQLite file until the end of the block.

    The file is created if it is missing. Servers and other moves take this
    lock, too. Raises StartError if another process has the lock.
    """
    try:
        prepare_file(file)
        lock = open_private(Path(f"{file}.lock"))
    except OSError as error:
        raise StartError(f"the database {file} cannot be used: {error}") from None
    try:
        # Does not wait: whoever has the lock may run for months.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StartError(f"{file} is in use by another process") from None
    finally:
        os.close(lock)


def _require_utf8(end: _End) -> None:
    """Refuse a PostgreSQL database with another encoding than UTF-8.

    Another encoding would change texts. Raises StartError.
    """
    if end.address.engine != "postgresql":
        return

    def read_encoding(sql: PooledStatements) -> str:
        return text_of(sql.query("SHOW server_encoding")[0][0])

    encoding = end.read(read_encoding)
    if encoding != "UTF8":
        raise StartError(
            f"the database {end.address.shown} has the encoding {encoding}, which is not copied: "
            "it needs ENCODING 'UTF8'"
        )


class _Move:
    """The steps of a move: check both databases, copy, compare, finish."""

    def __init__(
        self,
        source: _End,
        target: _End,
        tables: StoreTables,
        note: Note,
        without: Collection[str],
    ) -> None:
        """``tables``: all tables, also of features. ``without``: the features
        whose tables are left out."""
        self._source = source
        self._target = target
        self._features = [
            each for each in tables.of_others if each.feature not in without
        ]
        self._without = set(without)
        ordered = _parents_first(self._features, tables.of_server())
        self._tables = [
            table for table in ordered if table.name not in (*_OF_STEPS, _LAST)
        ]
        last_table = [table for table in ordered if table.name == _LAST]
        self._all = [*self._tables, *last_table]
        self._note = note

    def run(
        self, stack: ExitStack, is_live: bool, complete: Callable[[], object] | None
    ) -> Moved:
        """Check both databases, copy the rows, and compare them.

        ``stack`` closes the connections. ``is_live`` and ``complete``: see
        :func:`move`. Raises StartError.
        """
        strangers = self._check_source()
        resumed = self._prepare_target(
            self._id_of_source(), begins_anew=complete is not None
        )
        positions = self._positions()
        if _MOVE not in positions:
            # The last run has copied and compared all rows. It was interrupted
            # before it dropped the table with the state of the move.
            self._drop_state()
            return Moved(self._sums_of_target(stack), strangers, resumed=True)

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
        expected = reader
        """The rows that the target must have. If servers change the source
        meanwhile, this reader still sees them as they were at the beginning."""
        if not is_live:
            # A new reader sees the present rows, and so finds changes that
            # somebody has made meanwhile.
            expected = stack.enter_context(closing(self._source.reader(self._tables)))
        sums = self._verify(expected, total)
        self._write_last(reader, writer)
        self._drop_state()
        sums[_LAST] = sum_of(reader.pages(_LAST))
        return Moved(sums, strangers, resumed)

    def _sums_of_target(self, stack: ExitStack) -> dict[str, TableSum]:
        """Return the counts and checksums of the tables of the target."""
        reader = self._target.reader(self._all)
        stack.callback(reader.close)
        return {name: sum_of(reader.pages(name)) for name in reader.layouts}

    def _count_rows(self) -> int:
        """Return the number of all rows of the source."""

        def work(sql: PooledStatements) -> int:
            """Count in one transaction."""
            total = 0
            for table in self._all:
                total += int(sql.query(f'SELECT count(*) FROM "{table.name}"')[0][0])
            return total

        return self._source.read(work)

    def _write_last(self, reader: RowReader, writer: RowWriter) -> None:
        """Store the row without which no server opens the target.

        The transaction also deletes the rows about the state of the move. So an
        interrupted move never looks like a complete one.
        """
        with usable(self._target.address, self._target.engine):
            writer.sql.begin()
            for page in reader.pages(_LAST):
                writer.insert(_LAST, page)
            writer.sql.execute(f"DELETE FROM {_STATE}")
            writer.sql.commit()

    # --- what may be moved ----------------------------------------------------

    def _id_of_source(self) -> str:
        """Return the id of the source. Raises StartError if it has none."""
        id = self._id_of(self._source)
        if id is None:
            raise StartError(
                f"the database {self._source.address.shown} is damaged: it has no id"
            )
        return id

    def _check_source(self) -> tuple[str, ...]:
        """Refuse a source of another release, or without tables of this server.

        Returns the names of tables that neither the server nor a feature has
        made; these are not copied. Raises StartError.
        """
        self._check_steps()
        records = self._check_features()
        shown = self._source.address.shown
        present = self._source.tables()
        wanted = {table.name for table in self._all}
        if _STATE in present:
            raise StartError(
                f"the database {shown} is itself the target of an unfinished move"
            )
        _refuse_missing(shown, wanted - present)
        strangers = present - wanted - self._excluded(records)
        return tuple(sorted(strangers.difference(_OF_STEPS)))

    def _excluded(
        self, records: Mapping[str, feature_steps.RecordedTables]
    ) -> set[str]:
        """Return the names of tables that the operator excludes.

        ``records``: the tables that the source has recorded for each feature.
        """
        names: set[str] = set()
        with usable(self._source.address, self._source.engine):
            for feature in self._without & records.keys():
                tables = tables_in(feature, records[feature].tables)
                names.update(table.name for table in tables)
        return names

    def _check_steps(self) -> None:
        """Refuse a source with other migration steps than ours.

        A *migration step* is a change to the tables by a release. Raises
        StartError.
        """

        def read(sql: PooledStatements) -> dict[str, int]:
            return migrations.taken_steps(sql.connection)

        shown = self._source.address.shown
        taken = self._source.read(read)
        # This release does not know the tables of a newer one.
        newer = migrations.named(migrations.newer_steps(taken))
        if newer:
            raise StartError(
                f"the database {shown} belongs to a newer release, at step {newer}: move it with that release"
            )
        missing = migrations.named(migrations.missing_steps(taken))
        if missing:
            raise StartError(
                f"the database {shown} lacks step {missing}: start and stop its server once with this "
                "release, then move it"
            )

    def _check_features(self) -> dict[str, feature_steps.RecordedTables]:
        """Refuse a source with tables of an unknown feature.

        A source is also refused if some migration steps of a feature have not
        been taken. Returns the tables that the source has recorded for each
        feature. Raises StartError.
        """

        def read(sql: PooledStatements) -> dict[str, feature_steps.RecordedTables]:
            return feature_steps.recorded(sql.connection)

        shown = self._source.address.shown
        records = self._source.read(read)
        self._refuse_unknown_features(records.keys())
        if feature_steps.are_due(self._features, records):
            raise StartError(
                f"the database {shown} lacks steps of a feature: start and stop its server once, then move it"
            )
        return records

    def _id_of(self, end: _End) -> str | None:
        """Return the id of a database; None if it has no id yet."""

        def work(sql: PooledStatements) -> str | None:
            for (id,) in sql.query("SELECT id FROM directory"):
                return text_of(id)
            return None

        return end.read(work)

    def _refuse_unknown_features(self, recorded: Set[str]) -> None:
        """Refuse a source with tables of a feature that the settings lack.

        These tables would be lost without a word. ``recorded``: the features
        with tables in the source. Raises StartError.
        """
        shown = self._source.address.shown
        expected = {each.feature for each in self._features} | self._without
        unexpected = sorted(recorded - expected)
        if unexpected:
            raise StartError(
                f"the database {shown} has tables of {', '.join(unexpected)}, which the settings "
                f"do not name: add the feature to features, or leave out its tables with --without {unexpected[0]}"
            )

    def _prepare_target(self, source: str, begins_anew: bool) -> bool:
        """Make the tables of the target, unless it has rows already.

        Returns whether an earlier run has begun this move. ``source``: the id
        of the source. ``begins_anew``: if an earlier run has copied rows,
        delete them. Raises StartError if the target cannot be used.
        """
        target = self._target
        names = target.tables()
        self._refuse_tables_of_others(source, names)
        for end in (self._source, target):
            _require_utf8(end)

        if not names:
            target.write(lambda sql: sql.execute(_MAKE_STATE[target.address.engine]))
        positions = self._positions()
        state = positions.pop(_MOVE, None)
        if state is not None:
            self._refuse_other_move(json.decode(state, type=_Begun), source)
            self._refuse_used_target(names)
        elif names - {_STATE}:
            # The target has tables, but no row about the move. So an earlier
            # run has copied all rows, and only the table of the state remains.
            self._require_move_of(source, self._id_of(target))
            return True
        else:
            self._store_begin(source)

        if begins_anew or not positions:
            self._make_tables()
        return state is not None

    def _refuse_used_target(self, names: Set[str]) -> None:
        """Raise StartError if a server has used the unfinished target.

        ``names``: the tables of the target.
        """
        if _LAST in names and self._target.read(_is_used):
            raise StartError(
                f"the database {self._target.address.shown} is not empty: a server has begun to use it meanwhile"
            )

    def _store_begin(self, source: str) -> None:
        """Store in the target that a move of this source has begun."""
        begun = _Begun(source, self._names(), migrations.newest_steps())
        text = json.encode(begun).decode()
        self._target.write(lambda sql: _set_state(sql, _MOVE, text))

    def _refuse_tables_of_others(self, source: str, names: Collection[str]) -> None:
        """Refuse a target that has tables, unless a move has made them.

        ``source``: the id of the source. ``names``: the tables of the target.
        Raises StartError.
        """
        if not names or _STATE in names:
            return
        shown = self._target.address.shown
        # The same id: most likely the command is given a second time.
        if _LAST in names and self._id_of(self._target) == source:
            raise StartError(
                f"the database {shown} has the id of the source: it is the same database or a "
                "copy of it, or a move or restore to it is complete"
            )
        raise StartError(
            f"the database {shown} is not empty ({_some(sorted(names))}): give an empty database"
        )

    def _refuse_other_move(self, begun: _Begun, source: str) -> None:
        """Refuse to continue a move that was begun differently.

        It must have the same source, and the same release and features. Raises
        StartError.
        """
        self._require_move_of(source, begun.source)
        if begun.steps != migrations.newest_steps() or begun.tables != self._names():
            raise StartError(
                f"the move to {self._target.address.shown} was begun with another release or "
                "other features: continue with that release and those features, or begin again with an empty database"
            )

    def _require_move_of(self, source: str, moved_id: str | None) -> None:
        """Refuse a target to which another database was moved.

        ``moved_id``: the id of that database; None if the target does not name
        it. Raises StartError.
        """
        if moved_id != source:
            raise StartError(
                f"the database {self._target.address.shown} is the target of an interrupted move of another "
                "database: give an empty database"
            )

    def _make_tables(self) -> None:
        """Make the tables of the target, and delete the rows in them.

        So the copy begins with empty tables, also after an interrupted one.
        """
        shown = self._target.address.shown
        # The migration steps have written rows, and so may an interrupted copy.
        # Rows that refer to others are deleted first.
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
        """Return the names of the tables that are copied page by page."""
        return [table.name for table in self._tables]

    def _positions(self) -> dict[str, str]:
        """Read the rows of ``move_state``, which say how far the move is.

        Returns the name of a table → its :class:`_Position` in JSON, and
        :data:`_MOVE` → the :class:`_Begun` in JSON.
        """

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
        """Copy all tables page by page.

        ``positions``: the rows of ``move_state``, which say where an earlier
        run has stopped. ``total``: the number of rows of the source. Raises
        StartError.
        """
        positions_by_table = {
            name: json.decode(positions.get(name, "{}"), type=_Position)
            for name in self._names()
        }
        done = sum(position.rows for position in positions_by_table.values())
        for name, position in positions_by_table.items():
            for page in reader.pages(name, _last_key(position)):
                done += len(page)
                last_row = page[-1]
                key = msgpack.encode(reader.layouts[name].key_of(last_row)).hex()
                position = _Position(position.rows + len(page), key)
                self._store_page(writer, name, page, position)
                self._note("copied", done, total)

    def _store_page(
        self, writer: RowWriter, name: str, page: list[Row], position: _Position
    ) -> None:
        """Store some rows of a table, and the ``position`` behind them.

        Both are one transaction. So a killed move loses no row, and stores no
        row twice. Raises StartError.
        """
        writer.sql.begin()
        try:
            writer.insert(name, page)
            _set_state(writer.sql, name, json.encode(position).decode())
            writer.sql.commit()
        except writer.errors as error:
            # The driver does not always say what is wrong.
            words = self._too_long(page) or " ".join(str(error).split())
            raise StartError(
                f"the target stopped storing rows of {name}: {words}; run the same command again "
                "to continue"
            ) from None

    def _too_long(self, page: list[Row]) -> str:
        """Say that a row of the page is too long for MariaDB or MySQL.

        These only end the connection, without a reason. Returns ``""`` if all
        rows are short enough, and for other engines.
        """
        if self._target.address.engine != "mysql":
            return ""
        most = self._target.number("SELECT @@max_allowed_packet")
        longest = max(
            sum(len(value) for value in row if isinstance(value, bytes)) for row in page
        )
        size = 2 * longest  # each byte may be sent as two
        if size <= most:
            return ""
        return f"a row may take {size} bytes, and max_allowed_packet is {most}"

    def _continue_numbers(self, layouts: dict[str, TableLayout]) -> None:
        """Let the target give the next numbers to new rows.

        Each table with a column of such numbers has a counter in its database.
        """
        columns = {
            name: layout.number for name, layout in layouts.items() if layout.number
        }

        def read(sql: PooledStatements) -> dict[str, int | None]:
            return {
                name: last_given(sql, name, column) for name, column in columns.items()
            }

        given = self._source.read(read)

        def set_counters(sql: PooledStatements) -> None:
            for name, last in given.items():
                if last is not None:  # None: the source has given no number
                    give_after(sql, name, last, columns[name])

        self._target.write(set_counters)

    # --- the end --------------------------------------------------------------

    def _verify(self, reader: RowReader, total: int) -> dict[str, TableSum]:
        """Compare the target with the rows of ``reader``.

        Returns the counts and checksums of the tables. Raises StartError if a
        table differs.
        """
        rows_read = 0

        def note(rows: int) -> None:
            """Show the progress after some rows were read."""
            nonlocal rows_read
            rows_read += rows
            # Each row is read twice: once in each database.
            self._note("verified", rows_read // 2, total)

        with closing(self._target.reader(self._tables)) as target_reader:
            sums = {}
            for name in target_reader.layouts:
                sums[name] = sum_of(reader.pages(name), note)
                copied = sum_of(target_reader.pages(name), note)
                _require_same_sum(name, sums[name], copied)
            return sums

    def _drop_state(self) -> None:
        """Delete the state of the move, and prepare the target.

        From then on the target is an ordinary database.
        """

        def drop(sql: PooledStatements) -> None:
            """Drop the table, and let the database count the rows."""
            sql.execute(f"DROP TABLE {_STATE}")
            if sql.engine == "postgresql":
                # Without statistics PostgreSQL guesses how to execute queries.
                # By itself it counts the rows only after some time.
                sql.execute("ANALYZE")

        self._target.write(drop)
        if self._target.address.engine == "sqlite":
            # Move the rows from the write-ahead log into the file.
            with self._target.engine.connect() as connection:
                connection.connection.driver_connection.execute(  # type: ignore[union-attr]
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                )


def _refuse_missing(shown: str, missing: Set[str]) -> None:
    """Raise StartError if tables of the server are missing in a database.

    They may be missing after a wrong restore. ``shown``: the address.
    """
    if missing:
        names = ", ".join(sorted(missing))
        raise StartError(f"the database {shown} is damaged: it has no {names}")


def _parents_first(
    features: Iterable[FeatureTables], of_server: Iterable[Table]
) -> list[Table]:
    """Return all tables, those that others refer to first."""
    ordered: list[Table] = []
    for each in features:
        ordered += each.tables
    ordered += of_server
    # Each declaration has the children before their parents.
    ordered.reverse()
    return ordered


def _last_key(position: _Position) -> Row:
    """Return the key of the last row that was copied.

    It is empty before the first row.
    """
    if not position.after:
        return ()
    return tuple(msgpack.decode(bytes.fromhex(position.after)))


def _require_same_sum(name: str, expected: TableSum, copied: TableSum) -> None:
    """Raise StartError if the copy of the table ``name`` differs."""
    if copied != expected:
        raise StartError(
            f"the copy of {name} differs: {expected.rows} rows, checksum "
            f"{expected.checksum}; {copied.rows} rows, checksum {copied.checksum}. "
            f"Something changed a database meanwhile: stop that program, and begin again with an empty database"
        )


def _is_used(sql: PooledStatements) -> bool:
    """Whether a server has begun to use an interrupted copy."""
    rows = sql.query("SELECT version FROM directory")
    if not rows:
        return False
    version = rows[0][0]  # grows with each change that a server makes
    if version > 0:
        return True
    return any(sql.query(f"SELECT 1 FROM {name} LIMIT 1") for name in _FIRST)


def _set_state(sql: Any, name: str, value: str) -> None:
    """Replace a row of ``move_state``."""
    sql.execute(f"DELETE FROM {_STATE} WHERE name = %s", (name,))
    sql.execute(f"INSERT INTO {_STATE} (name, value) VALUES (%s, %s)", (name, value))


def _require_same_columns(reader: RowReader, writer: RowWriter) -> None:
    """Refuse a target whose tables have other columns. Raises StartError.

    Another release may have made them.
    """
    for name, layout in reader.layouts.items():
        source_columns = {column.name for column in layout.columns}
        target_columns = {column.name for column in writer.layouts[name].columns}
        if source_columns != target_columns:
            columns = _some(sorted(source_columns ^ target_columns))
            raise StartError(
                f"the table {name} has other columns in the target ({columns})"
            )


_MOST_NAMED: Final = 5


def _some(names: Sequence[str]) -> str:
    """Return the first names as text, and an ellipsis if there are more."""
    text = ", ".join(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        text += ", …"
    return text
