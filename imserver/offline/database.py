"""Inspects a database: its state, and damage of SQLite's pages."""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, time
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.address import DatabaseAddress
from imserver.gateway.storage.engines import WRITES, laxness_of, make_engine
from imserver.gateway.storage.statements import CLOCK, PooledStatements

_STEPS: Final = 10_000
"""How many steps SQLite takes between two checks of the time."""


class DatabaseState(Struct, frozen=True):
    """The state of a database that answers."""

    name: str
    """The product, for example ``postgresql``."""
    version: str
    round_trip: float
    """The median round trip in seconds."""
    laxness: str
    """The setting with which the database may lose stored rows; ``""`` if it
    stores durably."""
    clock_difference: float | None
    """The seconds by which its clock is ahead of this machine. None for SQLite,
    which has no clock of its own."""


def probe(
    address: DatabaseAddress,
    settings: StorageSettings,
    tries: int,
    looks: Iterable[Callable[[PooledStatements], object]] = (),
) -> DatabaseState:
    """Connect to a database, measure it, read rows, and disconnect.

    ``tries``: how many round trips are measured. ``looks``: functions that read
    rows. If a database of an earlier release lacks tables or columns that a
    look reads, that look ends without an error. Raises the driver's errors.
    """
    engine = make_engine(address, settings)
    try:
        with engine.connect() as connection:
            round_trips = _round_trips(connection, tries)
            difference = _clock_difference(connection, address.engine)
            version = ".".join(map(str, engine.dialect.server_version_info or ()))
            laxness = laxness_of(connection)
            for look in looks:
                with suppress(DBAPIError):
                    look(PooledStatements(connection))
            return DatabaseState(
                name=engine.dialect.name,
                version=version,
                round_trip=median(round_trips),
                laxness=laxness,
                clock_difference=difference,
            )
    finally:
        engine.dispose()


def _round_trips(connection: Connection, tries: int) -> list[float]:
    """Return the seconds of some round trips to the database."""
    round_trips = []
    for _ in range(tries):
        before = perf_counter()
        connection.execute(text("SELECT 1"))
        round_trips.append(perf_counter() - before)
    return round_trips


def _clock_difference(connection: Connection, engine: str) -> float | None:
    """Return the seconds by which the clock of the database is ahead.

    None for SQLite, which has the clock of this machine.
    """
    if engine == "sqlite":
        return None
    clock = connection.execute(text(f"SELECT {CLOCK[engine]}")).scalar_one()
    return float(clock) - time()


def commit_seconds(
    address: DatabaseAddress, settings: StorageSettings, tries: int
) -> float:
    """Measure the median seconds in which a database server commits a row.

    The rows go to a new table, which is dropped at the end. Raises the driver's
    errors.
    """
    engine = make_engine(address, settings).execution_options(**{WRITES: True})

    def commit(statement: str) -> float:
        """Return the seconds of a transaction with one statement."""
        before = perf_counter()
        with engine.begin() as connection:
            connection.execute(text(statement))
        return perf_counter() - before

    try:
        # An interrupted run may have left the table.
        commit("CREATE TABLE IF NOT EXISTS imserver_commits (number INTEGER)")
        times = [
            commit("INSERT INTO imserver_commits VALUES (1)") for _ in range(tries)
        ]
        commit("DROP TABLE imserver_commits")
        return median(times)
    finally:
        engine.dispose()


def damage_of(database: Path, seconds: float) -> str | None:
    """Return the damage that SQLite finds in its pages, in one line.

    ``""``: SQLite has read all pages, and none is damaged. None: it could not
    read all pages within ``seconds``, and has found no damage until then.
    Raises sqlite3.Error.
    """
    deadline = monotonic() + seconds

    def is_late() -> int:
        """SQLite stops if the result is not 0."""
        return int(monotonic() > deadline)

    # A connection that may write would write the log into the database at its
    # end, and remove the log.
    with closing(
        sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    ) as connection:
        connection.set_progress_handler(is_late, _STEPS)
        # The argument is the number of damages after which SQLite stops.
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise
    if found == "ok":
        return ""
    return " ".join(found.split())
