"""Sites, and imports into them: in this process, or by the distribution as it
is installed."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from archives.slack import Workspace
from click.testing import CliRunner

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Entry
from imserver.messenger.log.message_log import MessageLog
from tests.integration.plug_ins import install
from tests.security.mail import Sink
from tests.stores import database_servers, sqlite_model, url
from tests.support import clean_environment

__all__ = ["database_servers", "sqlite_model", "url"]

PLUGIN = Path(__file__).parents[1]
sys.path.insert(0, str(PLUGIN))  # as it is here; `installed` has the distribution

from imserver_arrivals.command import arrive, import_archive  # noqa: E402
from imserver_arrivals.depart import depart  # noqa: E402
from imserver_arrivals.records import Archive  # noqa: E402
from imserver_arrivals.wish import Wish  # noqa: E402

APP = "gochat"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return clean_environment(**install(tmp_path_factory.mktemp("arrivals"), PLUGIN))


class Site:
    """A folder of a server with an app, and imports into it."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.config = folder / "imserver.yaml"
        data = {"data_dir": str(folder / "data")}
        storage = {"url": url} if url else {}
        folder.mkdir(exist_ok=True)
        self.settings: dict[str, Any] = {
            "server": data,
            "storage": storage,
            "apps": {APP: {}},
        }
        self.write()

    def write(self) -> None:
        """Write the settings."""
        self.config.write_text(json.dumps(self.settings), encoding="utf-8")

    def arguments(self, workspace: Path, *options: str) -> list[str]:
        return ["--config", str(self.config), "--app", APP, str(workspace), *options]

    def run(self, workspace: Path, *options: str, status: int = 0) -> str:
        """Import in this process, and return what the command has said."""
        done = CliRunner().invoke(
            arrive, self.arguments(workspace, *options), catch_exceptions=False
        )
        assert done.exit_code == status, done.output
        return done.output

    def bring(self, archive: Archive, status: int = 0, **options: Any) -> str:
        """Import an archive of a test, and return what the command has said."""
        wish = Wish(path=str(self.config), data_dir=None, app=APP, **options)
        done = CliRunner().invoke(
            click.command()(lambda: import_archive(archive, wish)),
            [],
            catch_exceptions=False,
        )
        assert done.exit_code == status, done.output
        return done.output

    def entries(self) -> list[Entry]:
        """The log."""
        found: list[Entry] = []
        with self.log() as log:
            while page := log.entries.read(APP, found[-1].id if found else 0, 5000):
                found += page
        return found

    def depart(self, file: Path, *options: str, status: int = 0) -> str:
        """Write the app to a file, and return what the command has said."""
        arguments = ["--config", str(self.config), "--app", APP, *options, str(file)]
        done = CliRunner().invoke(depart, arguments, catch_exceptions=False)
        assert done.exit_code == status, done.output
        return done.output

    @contextmanager
    def store(self) -> Iterator[Store]:
        """What the site has stored, until the end of ``with``."""
        document = json.loads(self.config.read_text(encoding="utf-8"))
        settings = StorageSettings(document["storage"].get("url", ""), seconds=30)
        with closing(Store(settings, str(self.folder / "data"))) as store:
            store.start()
            yield store

    @contextmanager
    def log(self) -> Iterator[MessageLog]:
        with self.store() as store:
            yield store.part(MessageLog)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A mail server."""
    server = Sink()
    yield server
    server.stop()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Workspace, str], Path]:
    """``write(workspace, name)``: as a zip file if the name ends so, else as a
    folder."""

    def write(workspace: Workspace, name: str) -> Path:
        path = tmp_path / name
        return (
            workspace.write_zip(path)
            if name.endswith(".zip")
            else workspace.write_folder(path)
        )

    return write
