"""A log in a SQLite file that nodes share: a test holds back, refuses or loses
what a node asks of it."""

import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import gevent
from gevent.event import Event as Flag
from sqlalchemy.exc import OperationalError

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.database import GreenletRunner
from imserver.gateway.storage.statements import NotStored, T, Unsure
from imserver.gateway.storage.store import Store
from imserver.messenger.delivery.action_positions import ActionPositions
from imserver.messenger.log.contract import Commit, Entry
from tests.gateway.storage.servers import migrate

DATABASE_ID = "0123456789"


@cache
def _model() -> bytes:
    """An empty database with all tables."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "some.db")
        migrate(f"sqlite:///{file}")
        with closing(sqlite3.connect(file)) as database:
            database.execute("UPDATE directory SET id = ?", (DATABASE_ID,))
            database.commit()
        return file.read_bytes()


class LogFile:
    """A database, with all tables, for as long as somebody has it."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp()
        self.path = Path(self._folder, "imserver.db")
        self.path.write_bytes(_model())
        weakref.finalize(self, shutil.rmtree, self._folder)

    def open(self, gates: "Gates") -> Store:
        """A way to it."""
        gates.file = self
        store = Store(StorageSettings(seconds=60), self._folder, threaded=False)
        store.start()
        store.database().runner = gates
        return store


class Gates(GreenletRunner):
    """What stands between one node and the database. A signal that is clear
    holds something back."""

    def __init__(self) -> None:
        self.file: LogFile | None = None
        self.away = False
        self.reads = 0
        self.committing: Flag | None = None
        """Transactions of the log wait for it."""
        self.returning: Flag | None = None
        """What was committed is not answered yet."""
        self.answering: Flag | None = None
        """What is read is held back."""
        self.around: Callable[[], object] = lambda: None
        """Called before and after each read, and each write of another part
        than the log."""
        self.losing: Flag | None = None
        """The answer to the next COMMIT is lost. What became of it is known
        when this is set."""
        self.unsure: Flag | None = None
        """That of the COMMIT whose answer was lost."""

    def open(self) -> None:
        """Hold nothing back."""
        self.losing = None
        for gate in (self.committing, self.returning, self.answering, self.unsure):
            if gate is not None:
                gate.set()

    def run(self, function: Callable[[], T], seconds: float | None) -> T:
        gevent.sleep(0)
        return self._read(function) if seconds is not None else self._write(function)

    def _read(self, function: Callable[[], T]) -> T:
        self.reads += 1
        self.around()
        self._check()
        value = function()
        self.around()
        if self.answering is not None:
            self.answering.wait()
        self._check()
        gevent.sleep(0)
        return value

    def _check(self) -> None:
        if self.away:
            raise OperationalError("", {}, Exception("away"))

    def _write(self, function: Callable[[], T]) -> T:
        """Run a transaction of the log, the only thing without a time limit."""
        if self.away:
            raise NotStored("away")
        if self.committing is not None:
            self.committing.wait()
        if self.unsure is not None:
            self.unsure.wait()
            self.unsure = None
        if self.losing is not None:
            self.unsure = self.losing
            self.losing = None
            function()
            raise Unsure("no answer in time")
        value = function()
        if self.returning is not None:
            self.returning.wait()
        return value


class Positions(ActionPositions):
    """Positions with a way to the database of their own."""

    def __init__(self, file: LogFile) -> None:
        self.gates = Gates()
        self._file = file
        super().__init__(file.open(self.gates))

    def close(self) -> None:
        self._store.close()

    @property
    def known(self) -> dict[tuple[str, str, str], int]:
        """What is stored, whether the database answers or not."""
        both = "SELECT app, member, '', id FROM talk_position UNION SELECT * FROM room_position"
        with closing(sqlite3.connect(self._file.path)) as database:
            return {
                (app, user, room): id for app, user, room, id in database.execute(both)
            }


class Listening:
    """Calls a function for each commit."""

    def __init__(
        self, committed: Callable[[str, int, int, list[Entry]], object]
    ) -> None:
        self._committed = committed

    def committed(self, commit: Commit) -> None:
        self._committed(commit.app, commit.first, commit.last, commit.entries)

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        return 0.0
