"""The database of a node, opened on first use, and the apps, keys and bans in
it.

A node with nothing to store needs no database. Without a configured database,
the SQLite file is created at the first write. No database library is imported
before this file exists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import closing, suppress
from copy import deepcopy
from functools import partial, wraps
from pathlib import Path
from time import perf_counter, time
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
)

import gevent
from gevent.lock import RLock
from msgspec import json
from msgspec.structs import replace

from imserver.gateway.clock import until_beat
from imserver.gateway.config.settings import MAX_USER_BYTES, StorageSettings
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.metrics import Timings
from imserver.gateway.process import open_private
from imserver.gateway.storage import app_rows
from imserver.gateway.storage.address import DEFAULT_FILE, ID_FILE, database_address
from imserver.gateway.storage.app_rows import DELETED, TablePage
from imserver.gateway.storage.contract import (
    AppContents,
    AppRow,
    BanRow,
    Changes,
    KeyRow,
)
from imserver.gateway.storage.row_query import RowQuery, pages
from imserver.gateway.storage.statements import (
    SECOND_MS,
    PooledStatements,
    Row,
    RowsOf,
    Statements,
    T,
    text_of,
)
from imserver.gateway.storage.tables import OF_CORE, Reason, StoreTables

if TYPE_CHECKING:
    from imserver.gateway.storage.database import Database
    from imserver.gateway.storage.row_layout import ImportedRows

log = logging.getLogger(__name__)

P = TypeVar("P", bound="StorePart")
A = ParamSpec("A")
S = TypeVar("S", bound="Store.Rows")

_NEVER: Final = -1
"""The version of a node that has read no changes yet. All rows are newer than
this version."""
_NEWER: Final = "WHERE version > %s AND version <= %s"
"""The condition for rows that changed between two versions."""
_ENDED_BANS_MS: Final = 7 * 86_400_000
"""How long the row of a ban stays after the end of the ban, so that every node
can read that the ban was lifted."""


class StorePart(Protocol):
    """An object that uses the database directly, as long as the store is open.

    The writer of the message log is such a part.
    """

    def close(self) -> None:
        """Store all waiting data. It is called once, before the database is
        closed. May switch greenlets."""


class Transaction(Protocol):
    """A decorator of methods that get the statements of a transaction as their
    first argument."""

    def __call__(
        self, method: Callable[Concatenate[S, PooledStatements, A], T], /
    ) -> Callable[Concatenate[S, A], T]: ...


def _transaction(
    run: Callable[[Store, Callable[[PooledStatements], Any]], Any],
) -> Transaction:
    """Return a decorator that makes a method the work of one transaction.

    The method belongs to a class derived from ``Store.Rows``. ``run(store,
    work)`` begins the transaction, and calls ``work`` with its statements. The
    method gets the statements as its first argument, and its callers do not
    pass them.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        """Make one method the work of a transaction."""

        @wraps(method)
        def call(self: Store.Rows, *args: Any, **named: Any) -> Any:
            """Run the method in a transaction of its own."""

            def work(sql: PooledStatements) -> Any:
                return method(self, sql, *args, **named)

            # Store.timings counts the transaction under the name of the method.
            work.__qualname__ = method.__qualname__
            return run(self._store, work)

        return call

    return decorate


class Store:
    """Owns the database once it is open: apps, keys, bans, and the tables of
    features.

    Methods that access the database may switch greenlets. ``threaded`` says
    whether statements run in other threads, as nodes need it: see
    :class:`imserver.gateway.storage.database.Database`. ``tables`` has the
    tables of the core and of features.
    """

    class Rows:
        """The base of classes that have rows in a store.

        :meth:`Store.reading` and :meth:`Store.writing` decorate their methods.
        """

        def __init__(self, store: Store) -> None:
            self._store = store

    def __init__(
        self,
        settings: StorageSettings,
        data_dir: str,
        threaded: bool = True,
        tables: StoreTables = OF_CORE,
    ) -> None:
        """Remember the address of the database. :meth:`start` opens the
        database, or else the first access."""
        self.address = database_address(settings, data_dir)
        self._folder = Path(data_dir).absolute() if data_dir else None
        self._settings = settings
        self._threaded = threaded
        self._database: Database | None = None
        # The database is opened at the first access.
        self._parts: dict[Callable[[Store], StorePart], Any] = {}
        """Function that made a part → that part, see :meth:`part`."""
        self.timings = Timings()
        """Method, with its class → the time that its transactions took, and the
        time of waiting for them."""

        self._opening = RLock()
        self._logged_reason = ""
        """The reason why the last attempt to open the database failed; ``""``
        if it succeeded. A reason is logged only when it changes."""

        self._version = _NEVER
        """The version up to which this node has read the changes."""
        self._refreshing = RLock()
        self._refreshes_begun = 0
        """The number of the last refresh that has begun."""
        self._refreshes_ended = 0
        """The number of the last refresh that has ended, perhaps with an
        error."""
        self._refresh_error: StorageUnavailable | None = None
        """The error of the last refresh; None if it succeeded."""

        self._objection: Callable[[str], str] = lambda database: ""
        self._on_open: list[Callable[[str], object]] = []
        self._tables = tables
        self._on_changes: list[Callable[[Changes], object]] = []

    def ask(self, objection: Callable[[str], str]) -> None:
        """Set the function that decides whether this node may use a database.

        ``objection(id)`` gets the id of a database before it is opened, or
        ``""`` if it does not exist yet. It returns the reason why this node
        must not use the database, or ``""``. The function replaces an earlier
        one.
        """
        self._objection = objection

    def report_to(
        self,
        changes: Callable[[Changes], object] | None = None,
        opened: Callable[[str], object] | None = None,
    ) -> None:
        """Call these functions from now on.

        ``changes`` gets the changes of apps, keys and bans that are new to this
        node, including its own changes. ``opened`` gets the id of the database
        when it has been opened.
        """
        if changes is not None:
            self._on_changes.append(changes)
        if opened is not None:
            self._on_open.append(opened)

    @property
    def id(self) -> str:
        """The id of the database; ``""`` as long as no database is open."""
        if self._database is not None:
            return self._database.id
        return ""

    @property
    def seconds(self) -> float:
        """The time limit of one statement."""
        return self._settings.seconds

    @property
    def has_database(self) -> bool:
        """Whether a database exists: a configured database, or the file that
        the first write makes."""
        return (
            self._database is not None or self.address.configured or self.address.exists
        )

    @property
    def future_file(self) -> str:
        """The file that the first write will make, without symbolic links;
        ``""`` if a database already exists."""
        if self.has_database or self.address.file is None:
            return ""
        path = str(self.address.file.resolve())
        return path.encode(errors="backslashreplace").decode()

    def healthy(self) -> bool:
        """See :attr:`imserver.gateway.storage.database.Database.healthy`; True
        if there is no database."""
        return not self._logged_reason and (
            self._database is None or self._database.healthy
        )

    def answers(self) -> bool:
        """Whether the last access succeeded; True if there is no database."""
        return not self._logged_reason and (
            self._database is None or self._database.answers
        )

    # --- lifecycle ------------------------------------------------------------

    def start(self) -> None:
        """Open an existing or configured database, and load its apps, keys and
        bans.

        If no database exists or is configured, nothing is opened. Then the
        first write makes a database. Raises StartError if the database cannot
        be used.
        """
        if not (self.address.configured or self.address.exists):
            self._check_history(id="")
            return
        try:
            self._open()
            self.refresh()
        except (StorageUnavailable, TypeError, ValueError) as error:
            raise StartError(
                f"storage: {self.address.shown} cannot be used: {error}"
            ) from None

    def _check_history(self, id: str) -> None:
        """Raise StartError if the nodes of this data folder used another database.

        Otherwise a server with a mistyped ``storage.url`` would begin with an
        empty database, as if all its data were lost. ``id`` is the id of the
        database that shall be used; ``""`` if it is a new database. The first
        node that uses a configured database records its id in the folder.
        """
        if self._folder is None:
            return
        id_file = self._folder / ID_FILE
        default_file = self._folder / DEFAULT_FILE
        is_default = self.address.file == default_file

        earlier = self._earlier_database(id_file, default_file)
        # An id file shows that nodes have used a configured database, so the
        # default file is another database.
        if earlier.id and (is_default or earlier.id != id):
            raise self._other_database(earlier.source)

        # Commands (which are not threaded) may look into any database, so only a
        # node records the id.
        must_record = bool(id) and self._threaded and not is_default
        if must_record:
            _record_id(id, id_file)

    def _earlier_database(self, id_file: Path, default_file: Path) -> _EarlierDatabase:
        """Find the database in which nodes of this folder have stored.

        The id file has the id of this database. Without an id file, it is the
        default file.
        """
        is_default = self.address.file == default_file
        earlier_id = _text_in(id_file)
        if not (earlier_id or is_default) and default_file.exists():
            return _EarlierDatabase(_id_of(default_file), source=default_file)
        return _EarlierDatabase(earlier_id, source=id_file)

    def _other_database(self, source: Path) -> StartError:
        """Return the error if nodes have stored in another database.

        ``source`` is the file that tells of it.
        """
        return StartError(
            f"storage.url: the nodes of {self._folder} have stored in another "
            f"database than {self.address.shown}: name that one, or let "
            f"imserver move take it; to begin without it, move {source} away"
        )

    def run(self) -> None:
        """Greenlet: read changes periodically, until killed."""
        while True:
            gevent.sleep(until_beat(self._settings.look_seconds))
            self.try_refresh()

    def try_refresh(self) -> None:
        """Read changes that other nodes have stored, and log failures.

        After a failed write the database counts as broken, so a write is tried,
        too.
        """
        try:
            self.refresh()
            if self._database is not None:
                self._database.retry_write()
        except StorageUnavailable as error:
            log.debug("reading changes from the database failed: %s", error)
        except Exception:
            log.exception("reading changes from the database failed")

    def close(self) -> None:
        """Store all waiting data and close the database. No further access is
        allowed."""
        for part in self._parts.values():
            part.close()
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> Database:
        """Return the database, which is opened or created at the first call.

        Raises StartError if this node cannot use it, or must not.
        """
        with self._opening:
            if self._database is not None:
                return self._database

            # SQLAlchemy and a driver take 20 MB, which nodes without a
            # database save.
            from imserver.gateway.storage.database import Database

            # The checks come before a new database gets a file or tables, and
            # again when the id of the database is known.
            if not self.address.exists:
                self._check(database="")
            database = Database(
                self.address, self._settings, self._threaded, self._tables.of_others
            )
            self._open_checked(database)
            self._database = database
            for opened in self._on_open:
                opened(database.id)
            return database

    def _open_checked(self, database: Database) -> None:
        """Open a database, or raise StartError if this node must not use it.

        The checks need the id of the database, which is known once it is open.
        """
        try:
            database.open(check_new=partial(self._check_history, id=""))
            self._check(database.id)
            self._check_history(database.id)
        except BaseException:
            database.close()
            raise

    def _check(self, database: str) -> None:
        """Raise StartError if this node must not use the database with this
        id."""
        objection = self._objection(database)
        if objection:
            raise StartError(f"storage: {objection}")

    def database(self) -> Database:
        """Return the open database, which is opened or created if needed.

        Switches greenlets. Raises StorageUnavailable.
        """
        try:
            database = self._open()
            self._logged_reason = ""
            return database
        except StartError as error:
            # A node that serves does not end because of this error. The caller
            # may try again later.
            if self._logged_reason != str(error):
                self._logged_reason = str(error)
                log.error("%s", error)
            raise StorageUnavailable(str(error)) from None

    # --- changes --------------------------------------------------------------

    def refresh(self) -> None:
        """Read the changes that any node stored before this call.

        Concurrent callers share one refresh, which begins after their calls.
        Raises StorageUnavailable.
        """
        if self._database is None and not self.address.exists:
            return
        begun_before = self._refreshes_begun
        with self._refreshing:
            # A refresh that began before this call may have read the database
            # too early. A refresh that began later serves this caller, too.
            if self._refreshes_ended <= begun_before:
                self._refresh()
            elif self._refresh_error is not None:
                raise self._refresh_error

    def _refresh(self) -> None:
        """Read the changes since the last refresh, and pass them to the
        listeners of :meth:`report_to`.

        Raises StorageUnavailable.
        """
        self._refreshes_begun += 1
        self._refresh_error = None
        version_before = self._version
        try:
            changes = self.read(partial(_read_changes, version_before))
        except StorageUnavailable as error:
            self._refresh_error = error
            raise
        finally:
            self._refreshes_ended = self._refreshes_begun

        if changes.version == version_before:
            return
        self._version = changes.version
        for notify in self._on_changes:
            try:
                notify(changes)
            # A listener that fails must not affect other listeners or later
            # changes.
            except Exception:
                log.exception("changes from the database could not be applied")

    def _write_version(self, work: Callable[[Statements, int], T]) -> T:
        """Change apps, keys or bans, so that all nodes learn of it. Returns the
        result of ``work``.

        The database has one version number, which grows with each such change.
        ``work`` writes the new version into each row that it changes, so that
        other nodes find these rows. If the result of ``work`` is false, nothing
        was changed, and the version stays.

        This node reads the change before the call ends. Raises
        StorageUnavailable.
        """

        def numbered(sql: Statements) -> T:
            """Call ``work`` with the next version, and store that version."""
            # Other writers wait until this transaction ends.
            rows = sql.query(f"SELECT version FROM directory{sql.for_update}")
            last_version = int(rows[0][0])
            # The database may have lost the newest changes, which this node
            # has seen.
            version = max(last_version, self._version) + 1
            value = work(sql, version)
            if value:
                sql.execute("UPDATE directory SET version = %s", (version,))
            return value

        value = self.write(numbered)
        self.refresh()
        return value

    def read(self, work: Callable[[PooledStatements], T]) -> T:
        """Run ``work``, which only reads, in a transaction that sees one state
        of the database.

        On SQLite ``work`` runs in another thread, so it must use only the
        statements that it gets. Raises StorageUnavailable.
        """
        return self._timed(work, self.database().read)

    def write(self, work: Callable[[PooledStatements], T]) -> T:
        """Run ``work`` in a transaction. If ``work`` raises an exception,
        nothing is changed.

        On SQLite ``work`` runs in another thread, see :meth:`read`. Raises
        StorageUnavailable, after which the change may or may not have been
        made.
        """
        return self._timed(work, self.database().write)

    def read_or(self, nothing: T, work: Callable[[PooledStatements], T]) -> T:
        """Run ``work`` as :meth:`read` does, or return ``nothing`` if no
        database exists."""
        if self.has_database:
            return self.read(work)
        return nothing

    def write_or(self, nothing: T, work: Callable[[PooledStatements], T]) -> T:
        """Run ``work`` as :meth:`write` does, or return ``nothing`` if no
        database exists."""
        if self.has_database:
            return self.write(work)
        return nothing

    def _timed(
        self,
        work: Callable[[PooledStatements], T],
        run: Callable[[Callable[[PooledStatements], T]], T],
    ) -> T:
        """Run a transaction by ``run(work)``, and measure how long it takes.

        The time is counted under the name of the method whose work this is,
        such as ``Store.add_app``.
        """
        started = perf_counter()
        try:
            return run(work)
        finally:
            function = getattr(work, "func", work)  # a partial has its function there
            qualified_name = getattr(function, "__qualname__", "other")
            # A local function counts as the method in which it is defined.
            name = qualified_name.partition(".<locals>")[0]
            seconds = perf_counter() - started
            self.timings.took(name, seconds)
            self.timings.heard(name, seconds)

    @staticmethod
    def reading(
        method: Callable[Concatenate[S, PooledStatements, A], T], /
    ) -> Callable[Concatenate[S, A], T]:
        """Decorate a method of a ``Store.Rows``. The store of the object runs
        the method by :meth:`read`."""
        return _transaction(Store.read)(method)

    @staticmethod
    def writing(
        method: Callable[Concatenate[S, PooledStatements, A], T], /
    ) -> Callable[Concatenate[S, A], T]:
        """Decorate a method of a ``Store.Rows``. The store of the object runs
        the method by :meth:`write`."""
        return _transaction(Store.write)(method)

    @staticmethod
    def reading_or(nothing: Any) -> Transaction:
        """Decorate a method as :meth:`reading` does. Without a database it
        returns a copy of ``nothing``."""
        return _transaction(lambda store, work: store.read_or(deepcopy(nothing), work))

    @staticmethod
    def writing_or(nothing: Any) -> Transaction:
        """Decorate a method as :meth:`writing` does. Without a database it
        returns a copy of ``nothing``."""
        return _transaction(lambda store, work: store.write_or(deepcopy(nothing), work))

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of one query; without a database, there are no rows.
        Raises StorageUnavailable."""
        return self.read_or([], lambda sql: sql.query(statement, values))

    def rows_in(
        self,
        statement: str,
        first: Sequence[Any],
        values: Iterable[Any],
        many: bool = False,
    ) -> list[Row]:
        """Return the rows of a query for many values:
        :meth:`Statements.query_in`.

        ``first`` has the values of the other placeholders. Values may repeat.
        The result is empty without values, or without a database. Raises
        StorageUnavailable.
        """
        distinct = list(dict.fromkeys(values))
        if not distinct:
            return []
        return self.read_or(
            [], lambda sql: sql.query_in(statement, first, distinct, many)
        )

    def pages(
        self, table: str, key: str, columns: str, where: str = "", values: Row = ()
    ) -> Iterator[list[Row]]:
        """Read the rows of a table that meet the condition ``where``, page by
        page.

        The rows come in the order of the column ``key``, whose values are
        unique. ``values`` fill the placeholders of the condition. Each page is
        a transaction of its own, and no page is empty. Without a database there
        are no pages. Raises StorageUnavailable.
        """
        if self.has_database:
            query = RowQuery(
                table=table, order=(key,), columns=(columns,), scope=(where, values)
            )
            for rows, _ in pages(self.read, query):
                yield rows

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute one statement that changes rows, and return the number of
        changed rows.

        The result is 0 without a database. Raises StorageUnavailable.
        """
        return self.write_or(nothing=0, work=lambda sql: sql.execute(statement, values))

    def part(self, make: Callable[[Store], P]) -> P:
        """Return the part of this store that ``make(store)`` makes.

        The part is made at the first call. Later calls with the same function
        return the same part. Never switches greenlets.
        """
        part: P | None = self._parts.get(make)
        if part is None:
            part = make(self)
            self._parts[make] = part
        return part

    def database_id(self) -> str:
        """The id of the database, which is created if needed. Raises
        StorageUnavailable."""
        return self.database().id

    # --- apps, keys and bans --------------------------------------------------

    def add_app(self, name: str, settings: dict[str, Any]) -> bool:
        """Store an app; returns False if the name exists.

        A deleted app may be created anew. First this deletes rows of the old
        app that nodes have stored before they read of the deletion. Raises
        StorageUnavailable.
        """
        if self.is_deleted(name):
            self.delete_rows(name)

        def work(sql: Statements, version: int) -> bool:
            """Insert the app, or overwrite the row of a deleted app."""
            rows = sql.query(
                "SELECT settings, created FROM app WHERE name = %s", (name,)
            )
            if rows and rows[0][0] != DELETED:
                return False

            created = int(time())
            statement = _INSERT_APP
            if rows:
                # Nodes distinguish the new app from the deleted app by the time
                # of creation.
                created = max(created, rows[0][1] + 1)
                statement = _RENEW_APP
            sql.execute(statement, (_text(settings), version, created, name))
            return True

        return self._write_version(work)

    def change_app(
        self, name: str, fields: dict[str, Any], unset: tuple[str, ...] = ()
    ) -> bool:
        """Change settings of a stored app; returns False if the app does not
        exist.

        ``fields`` has new values, and ``unset`` the names of settings that are
        removed. Raises StorageUnavailable.
        """

        def work(sql: Statements, version: int) -> bool:
            """Change the settings within a transaction."""
            rows = sql.query("SELECT settings FROM app WHERE name = %s", (name,))
            if not rows or rows[0][0] == DELETED:
                return False
            # Another node may have changed other settings, so only the given
            # settings are changed.
            settings = json.decode(rows[0][0])
            settings.update(fields)
            for key in unset:
                settings.pop(key, None)
            statement = "UPDATE app SET settings = %s, version = %s WHERE name = %s"
            sql.execute(statement, (_text(settings), version, name))
            return True

        return self._write_version(work)

    def is_deleted(self, name: str) -> bool:
        """Whether an app of this name was deleted. Raises
        StorageUnavailable."""
        return self.read_or(nothing=False, work=partial(app_rows.is_deleted, name))

    def read_of_deleted(
        self, name: str, work: Callable[[PooledStatements], T]
    ) -> T | None:
        """Run ``work`` as :meth:`read` does, on the rows of a deleted app.

        The result is None if the app was not deleted, or was created anew.
        """

        def read(sql: PooledStatements) -> T | None:
            """Run the work if the app is still deleted."""
            if app_rows.is_deleted(name, sql):
                return work(sql)
            return None

        return self.read(read)

    def contents(self, name: str) -> AppContents:
        """Count what would be deleted with a stored app. Raises
        StorageUnavailable."""
        return self.read(partial(app_rows.contents, name))

    def delete_app(self, name: str) -> bool:
        """Mark an app as deleted; returns False if it does not exist.

        The app is removed from all keys. A key for this app alone is revoked. The
        rows of the app stay until :meth:`delete_rows`. Raises StorageUnavailable.
        """

        def work(sql: Statements, version: int) -> bool:
            """Mark the app, and remove it from all keys."""
            statement = (
                "UPDATE app SET settings = %s, version = %s "
                "WHERE name = %s AND settings <> %s"
            )
            if not sql.execute(statement, (DELETED, version, name, DELETED)):
                return False
            _remove_from_keys(sql, name, version)
            return True

        return self._write_version(work)

    def delete_rows(self, name: str, spared: Set[str] = frozenset()) -> None:
        """Delete all rows of a deleted app, except in the tables of ``spared``.

        It ends without an error if the app is created anew meanwhile. Raises
        StorageUnavailable.
        """
        tables = self._tables.of_server()
        # Each transaction deletes only some rows, so that other writers need
        # not wait for long.
        while self.write(partial(app_rows.delete_some, name, spared, tables)):
            pass

    def delete_rows_of_user(
        self, app: str, user: str, spared: Set[str] = frozenset()
    ) -> None:
        """Delete the rows of a user in the tables of features, except in the
        tables of ``spared``.

        Raises StorageUnavailable.
        """
        if not self.has_database:
            return
        tables_of_others = self.read(app_rows.tables_of_others)
        for table in (*tables_of_others, *self._tables.of_server()):
            # If a table has a reason here, its rows stay.
            if table.name in spared or isinstance(table.erase_user, Reason):
                continue
            # Each table has its own transaction, so that writers wait only
            # briefly.
            self.write(partial(app_rows.delete_of_user, app, user, table))

    def compact(self) -> None:
        """Write the database anew, without the space of deleted rows.

        This takes long, so no server should run meanwhile. Raises
        StorageUnavailable.
        """
        if self.has_database:
            self.database().compact()

    def rows_of_app(self, app: str, position: bytes = b"") -> Iterator[TablePage]:
        """Read all rows of an app for an export: table by table, in pages.

        Each page is a transaction of its own. So rows that change meanwhile may
        be missing, or be in two states. ``position`` is the position of an
        earlier page, after which the pages begin; ``b""`` means at the start.
        Raises StorageUnavailable.
        """
        if self.has_database:
            yield from app_rows.read_rows(
                self.read,
                self._tables.of_server(),
                app,
                user=None,
                position=position,
            )

    def rows_of_user(
        self, app: str, user: str, position: bytes = b""
    ) -> Iterator[TablePage]:
        """Read all rows of a user for an export, as :meth:`rows_of_app` does."""
        if self.has_database:
            yield from app_rows.read_rows(
                self.read,
                self._tables.of_server(),
                app,
                user=user,
                position=position,
            )

    def names_of(self, app: str, users: Sequence[str]) -> dict[str, str]:
        """Return the names of those users who are accounts of the app.

        Each user maps to the display name, or else to the user name. Users
        without either are missing. Raises StorageUnavailable.
        """
        return self.read_or({}, partial(app_rows.names_of, app, users))

    def importing(self, app: str) -> ImportedRows:
        """Return an importer for the rows of an app. Raises StorageUnavailable."""
        from imserver.gateway.storage.row_layout import ImportedRows  # few nodes import

        return self.read(partial(ImportedRows, app, self._tables.of_server()))

    def finish_import(
        self, app: str, last: Callable[[PooledStatements], object]
    ) -> None:
        """Run the last work of an import in a transaction.

        It also publishes the imported bans to all nodes. Raises
        StorageUnavailable.
        """

        def work(sql: Statements, version: int) -> bool:
            """Give the bans a new version, and do the last work."""
            # Nodes read rows with a version that is new to them.
            sql.execute("UPDATE ban SET version = %s WHERE app = %s", (version, app))
            last(sql)  # type: ignore[arg-type]
            return True

        self._write_version(work)

    def add_key(self, row: KeyRow, by: str = "") -> KeyRow | None:
        """Store an API key, and return the stored row.

        ``by`` is the id of the key with which the new key is made; ``""`` if it
        is made without a key. Returns None if the key ``by`` was revoked, or if
        the maker no longer owns the app. This node may not know about that yet.
        Raises StorageUnavailable.
        """
        row = replace(row, created=int(time()))

        def work(sql: Statements, version: int) -> KeyRow | None:
            """Insert the key, if its maker may have it."""
            if _insert_key(sql, row, version, by):
                return row
            return None

        return self._write_version(work)

    def rotate_key(
        self, old: str, new: KeyRow, grace_seconds: int, by: str = ""
    ) -> KeyRow | None:
        """Store a key in place of the key ``old``, and return the stored row.

        The stored key has the scopes, apps and note of the old key, and the
        other fields of ``new``. The old key ends in ``grace_seconds``, or
        earlier if it would have ended anyway. The result is None if the old key
        does not exist or has ended, or for the reasons of :meth:`add_key`.
        Raises StorageUnavailable.
        """
        now = int(time())

        def work(sql: Statements, version: int) -> KeyRow | None:
            """Store the new key, and let the old key end."""
            old_row = _KEYS.first(sql.query, "WHERE id = %s", old)
            if old_row is None or old_row.has_ended(now):
                return None
            row = replace(
                new,
                scopes=old_row.scopes,
                apps=old_row.apps,
                note=old_row.note,
                created=now,
            )
            if not _insert_key(sql, row, version, by):
                return None
            # The old key ends in the same transaction. So at any time at least
            # one of the keys is valid.
            _end_after_grace(sql, old_row, now, grace_seconds, version)
            return row

        return self._write_version(work)

    def revoke_key(self, key: str) -> bool | None:
        """Revoke a key, and return True.

        The result is False if the key was revoked before, and None if it does
        not exist. Raises StorageUnavailable.
        """

        def work(sql: Statements, version: int) -> bool | None:
            """Revoke the key within a transaction."""
            rows = sql.query("SELECT revoked FROM api_key WHERE id = %s", (key,))
            if not rows:
                return None
            if rows[0][0]:
                return False
            sql.execute(
                "UPDATE api_key SET revoked = %s, version = %s WHERE id = %s",
                (int(time()), version, key),
            )
            return True

        return self._write_version(work)

    @staticmethod
    def end_keys_of(sql: Statements, account: int) -> None:
        """Revoke the keys that an account has made.

        Call this in the transaction in which the account loses its role or is
        deleted. All nodes apply the change within two seconds.
        """
        # This does the same as _write_version(), but within the transaction of
        # the caller.
        last_version = sql.query(f"SELECT version FROM directory{sql.for_update}")[0][0]
        version = last_version + 1
        statement = (
            "UPDATE api_key SET revoked = %s, version = %s "
            "WHERE maker = %s AND revoked = 0"
        )
        if sql.execute(statement, (int(time()), version, account)):
            sql.execute("UPDATE directory SET version = %s", (version,))
        sql.execute("UPDATE api_key SET maker = NULL WHERE maker = %s", (account,))

    def keys(self) -> tuple[KeyRow, ...]:
        """Return all stored keys, including revoked ones, oldest first. Raises
        StorageUnavailable."""
        if self._database is None and not self.address.exists:
            # If the database does not exist, there are no keys. The database
            # must not be created just to read them.
            return ()

        def work(sql: PooledStatements) -> list[KeyRow]:
            return _KEYS.find(sql.query, "ORDER BY created, id")

        return tuple(self.read(work))

    def note_key_uses(self, uses: Iterable[tuple[str, int, str]]) -> None:
        """Store when keys were last used.

        Each item of ``uses`` has the id of a key, Unix seconds, and an address.
        The version stays, so other nodes do not read these values at a refresh.
        Keys of the settings have no row, and are ignored. Raises
        StorageUnavailable.
        """
        statement = (
            "UPDATE api_key SET used = %s, used_from = %s "
            "WHERE id = %s AND (used IS NULL OR used < %s)"
        )
        rows = [(moment, address, key, moment) for key, moment, address in uses]
        self.write_or(nothing=None, work=lambda sql: sql.execute_many(statement, rows))

    def ban(
        self, app: str, users: Sequence[str], seconds: float, reason: str = ""
    ) -> None:
        """Store bans of users for ``seconds``, in place of earlier bans; 0
        lifts the bans.

        ``reason`` is shown to the users. Users whose ids are too long for a
        login are ignored. Raises StorageUnavailable.
        """

        def work(sql: Statements, version: int) -> bool:
            """Replace the bans of these users."""
            # A lifted ban is stored as a row that has ended, so that other
            # nodes read of it.
            now = sql.clock_ms()
            until = now - 1
            if seconds > 0:
                until = now + int(seconds * SECOND_MS)

            banned = _storable_names(users)
            rows = [(app, user, until, version, reason or None) for user in banned]
            _replace_bans(sql, rows)
            sql.execute("DELETE FROM ban WHERE until < %s", (now - _ENDED_BANS_MS,))
            return True

        self._write_version(work)


class _EarlierDatabase(NamedTuple):
    """The database in which the nodes of a data folder have stored.

    ``id`` is ``""`` if they have not stored in any database. ``source`` is the
    file that shows it.
    """

    id: str
    source: Path


def _record_id(id: str, id_file: Path) -> None:
    """Write the id of a database into a file, unless the file exists."""
    if not id_file.exists():
        with suppress(OSError), open(open_private(id_file), "wb") as file:
            file.write(id.encode())


_FIND_DATA: Final = (
    "SELECT 1 FROM directory WHERE version > 0",  # apps, keys and bans
    "SELECT 1 FROM account LIMIT 1",
    "SELECT 1 FROM log LIMIT 1",
)
"""Queries that find rows if a database has any data worth keeping."""


def _text_in(file: Path) -> str:
    """Return the content of a file; ``""`` if it cannot be read."""
    try:
        return file.read_bytes().decode("ascii", "replace")
    except OSError:
        return ""


def _id_of(file: Path) -> str:
    """Return the id of the database in a SQLite file.

    The result is ``""`` if the database has no data worth keeping, or cannot be
    read.
    """
    import sqlite3  # only for this rare case

    # The mode "rw" does not create a file, unlike the default.
    address = f"{file.as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            has_data = any(connection.execute(query).fetchone() for query in _FIND_DATA)
            if not has_data:
                return ""
            return str(connection.execute("SELECT id FROM directory").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return ""


_KEYS: Final = RowsOf(
    KeyRow,
    "api_key",
    maker_app="(SELECT app FROM account WHERE account.id = api_key.maker)",
)


def _insert_key(sql: Statements, row: KeyRow, version: int, by: str) -> bool:
    """Store an API key, and return True.

    ``by`` is the id of the key with which the new key is made; ``""`` if it is
    made without a key. Returns False and stores nothing if the key ``by`` was
    revoked, or if the account that makes the key is no longer an owner.
    """
    if sql.query("SELECT 1 FROM api_key WHERE id = %s AND revoked > 0", (by,)):
        return False
    # The account may have lost its role since this node has read it.
    if row.maker:
        owner = "SELECT 1 FROM account WHERE id = %s AND role = 'owner'"
        if not sql.query(owner, (row.maker,)):
            return False

    sql.execute(
        "INSERT INTO api_key (id, digest, scopes, apps, note, version, created, "
        "revoked, expires, maker) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, 0, %s, %s)",
        (
            row.id,
            row.digest,
            _text(row.scopes),
            _text(row.apps),
            row.note,
            version,
            row.created,
            row.expires or None,
            row.maker or None,
        ),
    )
    return True


_INSERT_APP: Final = (
    "INSERT INTO app (settings, version, created, name) VALUES (%s, %s, %s, %s)"
)
_RENEW_APP: Final = (
    "UPDATE app SET settings = %s, version = %s, created = %s WHERE name = %s"
)
"""The statement that overwrites the row of a deleted app."""


def _storable_names(users: Sequence[str]) -> set[bytes]:
    """Return the ids of users as bytes. Ids that are too long for a login are
    left out."""
    names = [user.encode() for user in users]
    return {name for name in names if len(name) <= MAX_USER_BYTES}


def _replace_bans(sql: Statements, rows: Sequence[Row]) -> None:
    """Store bans in place of earlier bans of the same users.

    A row has the app, the user, the end, the version and the reason.
    """
    keys = [(app, user) for app, user, *_ in rows]
    sql.execute_many("DELETE FROM ban WHERE app = %s AND member = %s", keys)
    sql.execute_many(
        "INSERT INTO ban (app, member, until, version, reason) "
        "VALUES (%s, %s, %s, %s, %s)",
        rows,
    )


def _end_after_grace(
    sql: Statements, old: KeyRow, now: int, grace_seconds: int, version: int
) -> None:
    """Let a rotated key end, after a time in which its users can change to the
    new key.

    If ``grace_seconds`` is 0, the key is revoked, so that it ends at once on
    all nodes, even if their clocks differ.
    """
    expires = now + grace_seconds
    if old.expires:
        expires = min(expires, old.expires)
    revoked = 0 if grace_seconds else now
    sql.execute(
        "UPDATE api_key SET expires = %s, revoked = %s, version = %s WHERE id = %s",
        (expires, revoked, version, old.id),
    )


def _remove_from_keys(sql: Statements, app: str, version: int) -> None:
    """Remove a deleted app from the list of apps of each API key."""
    for id, apps_text in sql.query("SELECT id, apps FROM api_key"):
        apps = json.decode(apps_text)
        if app not in apps:
            continue
        other_apps = [each for each in apps if each != app]
        if other_apps:
            statement = "UPDATE api_key SET apps = %s, version = %s WHERE id = %s"
            sql.execute(statement, (_text(other_apps), version, id))
        else:
            # An empty list means all apps, so the key is revoked instead.
            statement = (
                "UPDATE api_key SET revoked = %s, version = %s "
                "WHERE id = %s AND revoked = 0"
            )
            sql.execute(statement, (int(time()), version, id))


def _read_changes(last_version: int, sql: Statements) -> Changes:
    """Read the apps, keys and bans that changed after ``last_version``.

    The result has the current version, too. All rows are read if
    ``last_version`` is :data:`_NEVER`, or if the database has lost that
    version.
    """
    version = int(sql.query("SELECT version FROM directory")[0][0])
    if version == last_version:
        return Changes(version)
    if version < last_version:
        # An older copy of the database was restored.
        last_version = _NEVER

    # Only changes up to the version that was read are read. The next refresh
    # reads later changes.
    versions = (last_version, version)
    return Changes(
        version,
        apps=_newer_apps(sql, versions),
        keys=tuple(_KEYS.find(sql.query, _NEWER, *versions)),
        bans=_newer_bans(sql, versions),
    )


def _newer_apps(sql: Statements, versions: tuple[int, int]) -> tuple[AppRow, ...]:
    """Read the apps that changed between two versions."""
    rows = sql.query(f"SELECT name, settings, created FROM app {_NEWER}", versions)
    return tuple([_app_row(row) for row in rows])


def _newer_bans(sql: Statements, versions: tuple[int, int]) -> tuple[BanRow, ...]:
    """Read the bans that changed between two versions."""
    rows = sql.query(
        f"SELECT app, member, until, reason FROM ban {_NEWER} ORDER BY until", versions
    )
    now = sql.clock_ms() if rows else 0
    return tuple([_ban_row(row, now) for row in rows])


def _app_row(row: Row) -> AppRow:
    """Decode the name, settings and time of creation of an app."""
    name, settings, created = row
    return AppRow(
        name=text_of(name),
        settings=json.decode(settings) or {},
        created=created,
        deleted=settings == DELETED,
    )


def _ban_row(row: Row, now: int) -> BanRow:
    """Decode the app, user, end and reason of a ban.

    The end of the ban becomes a number of seconds from ``now``, so that the
    clocks of nodes may differ.
    """
    app, user, until, reason = row
    return BanRow(
        app=text_of(app),
        user=bytes(user).decode(),
        seconds=(until - now) / SECOND_MS,
        reason=text_of(reason or ""),
    )


def _text(value: Any) -> str:
    """Encode a value as JSON text, for a column."""
    return json.encode(value).decode()
