"""The address of the database, from the settings. This module needs no
driver."""

from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.config.values import hide_secrets

Engine = Literal["sqlite", "postgresql", "mysql"]

DEFAULT_FILE: Final = "imserver.db"
"""The SQLite file in the data directory, used if nothing else is configured."""
ID_FILE: Final = "database"
"""The name of a file in the data directory. It has the id of the configured
database in which the nodes of this directory store."""

DRIVERS: Final[dict[Engine, str]] = {
    "sqlite": "sqlite3",
    "postgresql": "psycopg",
    "mysql": "pymysql",
}
"""Engine → module of its driver."""

_SCHEMES: Final = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}


class DatabaseAddress(Struct, frozen=True):
    """The address of a database.

    ``url`` is the address for SQLAlchemy. ``file`` is the file of a SQLite
    database; None means that the database is on a server. ``configured`` means
    that the settings name the database; otherwise it is the default file.
    """

    engine: Engine
    url: str
    file: Path | None = None
    configured: bool = False

    @property
    def shown(self) -> str:
        """The address for display, without its password."""
        if self.file is not None:
            return str(self.file)
        return hide_secrets(self.url)

    @property
    def exists(self) -> bool:
        """Whether there may be data: the database is on a server, or its file
        exists."""
        return self.file is None or self.file.exists()


def database_address(settings: StorageSettings, data_dir: str) -> DatabaseAddress:
    """Return the address of the database of these settings.

    Without a configured URL, the database is the default file in the data
    directory. The settings must have been checked
    (:mod:`imserver.gateway.config.load`).
    """
    scheme, _, location = settings.url.partition("://")

    if scheme == "":
        return _sqlite_address(Path(data_dir, DEFAULT_FILE), configured=False)
    if scheme == "sqlite":
        # sqlite:///name is relative to the working folder, and sqlite:////name
        # is not: one slash belongs to the scheme.
        return _sqlite_address(Path(location[1:]), configured=True)

    engine: Engine = "postgresql" if scheme.startswith("postgres") else "mysql"
    url = f"{_SCHEMES[scheme]}://{location}"
    return DatabaseAddress(engine, url, configured=True)


def _sqlite_address(file: Path, configured: bool) -> DatabaseAddress:
    """Return the address of a SQLite file."""
    path = file.absolute()
    return DatabaseAddress("sqlite", f"sqlite+pysqlite:///{path}", path, configured)
