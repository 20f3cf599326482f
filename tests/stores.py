"""Fixtures: databases of each kind, stores in them, and other times of houses
that may be absent."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import StoreTables
from tests.gateway.storage.servers import KINDS, DatabaseServer, migrate

ENGINES = ("sqlite", "postgresql", "mysql")

TABLES = StoreTables(tables_of_server)
"""Those of all features of this server."""

OpenStore = Callable[..., Store]
WriteAt = Callable[[float], None]


@pytest.fixture
def write_at(monkeypatch: pytest.MonkeyPatch) -> WriteAt:
    """Set the Unix time at which the log writes."""
    from imserver.messenger.log import transaction

    return lambda seconds: monkeypatch.setattr(transaction, "time", lambda: seconds)


@pytest.fixture(scope="session")
def database_servers() -> Iterator[dict[str, DatabaseServer]]:
    """Servers that have been started, by engine; they end with the tests."""
    started: dict[str, DatabaseServer] = {}
    yield started
    for server in started.values():
        server.remove()


def server_of(engine: str, servers: dict[str, DatabaseServer]) -> DatabaseServer:
    if engine not in servers:
        servers[engine] = KINDS[engine]()
    return servers[engine]


@pytest.fixture(params=ENGINES)
def empty_url(
    request: pytest.FixtureRequest,
    database_servers: dict[str, DatabaseServer],
    tmp_path: Path,
) -> Iterator[str]:
    """The address of a new, empty database, once of each engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/some.db"
    else:
        server = server_of(request.param, database_servers)
        yield from server.lend(server.new_url())


@pytest.fixture(scope="session")
def sqlite_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that has been migrated, to be copied."""
    file = tmp_path_factory.mktemp("model") / "some.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(params=ENGINES)
def url(
    request: pytest.FixtureRequest,
    database_servers: dict[str, DatabaseServer],
    sqlite_model: Path,
    tmp_path: Path,
) -> Iterator[str]:
    """The address of a new database with all tables, once of each engine."""
    if request.param == "sqlite":
        shutil.copy(sqlite_model, tmp_path / "some.db")
        yield f"sqlite:///{tmp_path}/some.db"
    else:
        server = server_of(request.param, database_servers)
        yield from server.lend_migrated()


@pytest.fixture(params=ENGINES[1:])
def own_database(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """A server that the test may stop and kill, once of each engine."""
    server = KINDS[request.param]()
    yield server
    server.remove()


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """``open_store(url="", …)``: a store that has started; closed at the end of
    the test."""
    stores: list[Store] = []

    def start(
        url: str = "",
        threaded: bool = False,
        folder: Path = tmp_path,
        tables: StoreTables = TABLES,
        **settings: float,
    ) -> Store:
        given = StorageSettings(url, **{"seconds": 60, **settings})
        store = Store(given, str(folder), threaded, tables=tables)
        stores.append(store)
        store.start()
        return store

    yield start
    for store in stores:
        store.close()


@pytest.fixture
def store(url: str, open_store: OpenStore) -> Store:
    """A store in a new database, once on each engine."""
    return open_store(url)


@pytest.fixture
def hasty_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses of what delivers to receivers."""
    from imserver.backends.webhooks import consumer

    for name, seconds in (
        ("FIRST_PAUSE", 0.01),
        ("LONGEST_PAUSE", 0.05),
        ("SAVE", 0.02),
        ("WAIT", 0.02),
    ):
        monkeypatch.setattr(consumer, f"{name}_SECONDS", seconds)


@pytest.fixture
def patient_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that failed is not tried again by itself."""
    from imserver.backends.webhooks import consumer

    for name in ("FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS"):
        monkeypatch.setattr(consumer, name, 3600.0)
