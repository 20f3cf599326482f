"""Continuous copies as the documents set them up: Litestream, and the logs of
PostgreSQL and MariaDB."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from tests.gateway.storage.servers import MariaDB, Postgres
from tests.processes import end, spawn
from tests.support import ROOT, eventually, run_cli
from tests.tools import require

pytestmark = pytest.mark.timeout(300)

FAR = 10**14
"""Ids after a restore are greater."""


def documented(word: str) -> str:
    """The example of the documents that has this word."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (block,) = [
        text
        for text in re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        if word in text
    ]
    return block


def say(store: Store, *words: bytes) -> None:
    log = store.part(MessageLog)
    log.writer.append(
        "app", [Draft(sender="a", to_user="b", body=word) for word in words]
    )


def check_restored(store: Store, *words: bytes) -> None:
    """These messages are there, and the next one has an id that nobody has
    seen."""
    log = store.part(MessageLog)
    entries = log.entries.read("app", 0, 1000)
    assert [entry.body for entry in entries] == [*words]
    say(store, b"new")
    assert log.entries.head("app") > FAR


@pytest.fixture
def open_at() -> Iterator[Callable[[str], Store]]:
    stores: list[Store] = []

    def opened(url: str) -> Store:
        store = Store(StorageSettings(url), "", threaded=False)
        store.start()
        stores.append(store)
        return store

    yield opened
    for store in stores:
        store.close()


@pytest.mark.full("programs")
@pytest.mark.linux
def test_litestream_has_what_was_stored_a_second_ago(
    tmp_path: Path, open_at: Callable[[str], Store]
) -> None:
    program = shutil.which("litestream", path=sysconfig.get_path("scripts")) or require(
        "litestream"
    )
    database = tmp_path / "im" / "imserver.db"
    copy = tmp_path / "copy.db"
    database.parent.mkdir()
    text = documented("sync-interval").replace(
        "/var/lib/imserver", str(database.parent)
    )
    (tmp_path / "litestream.yml").write_text(
        text.replace("/srv", str(tmp_path)), "utf-8"
    )
    config = ("-config", str(tmp_path / "litestream.yml"))
    store = open_at(f"sqlite:///{database}")
    say(store, b"first")
    process = spawn(
        [program, "replicate", *config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # More than the pages after which the server writes its log into the
        # database.
        words = [b"%d" % number * 20_000 for number in range(400)]
        for start in range(0, len(words), 50):
            say(store, *words[start : start + 50])

        def restored() -> bool:
            command = [
                program,
                "restore",
                *config,
                "-force",
                "-o",
                str(copy),
                str(database),
            ]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                return False  # it has begun only now
            there = open_at(f"sqlite:///{copy}").part(MessageLog).entries.head("app")
            return there == 401

        eventually(restored, 60, "all is copied")
    finally:
        end(process)
    data = str(tmp_path / "other")
    done = run_cli("restore", "--yes", "--data-dir", data, str(copy), seconds=60)
    assert done.returncode == 0, done.stderr
    check_restored(open_at(f"sqlite:///{data}/imserver.db"), b"first", *words)


class Primary(Postgres):
    """A server with the settings of the documents, whose log is archived below
    its folder."""

    def prepare(self) -> None:
        super().prepare()
        self.run("mkdir", str(self.folder / "archive"))
        self.set(documented("archive_command"), self.folder)

    def set(self, text: str, folder: Path) -> None:
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(text.replace("/srv", str(folder)))

    def wait_for_archive(self) -> None:
        """Wait until all that is committed is archived."""
        ((name,),) = self.execute("SELECT pg_walfile_name(pg_switch_wal())")
        eventually((self.folder / "archive" / name).exists, 60, "the log is archived")


class Past(Primary):
    """A server as a primary was at a moment, from a base of before."""

    def __init__(self, primary: Primary, moment: str) -> None:
        self._primary = primary
        self._moment = moment
        super().__init__()

    def prepare(self) -> None:
        self.run("cp", "-R", str(self._primary.folder / "base"), str(self.data))
        self.run("touch", str(self.data / "recovery.signal"))
        text = documented("recovery_target_time").replace(
            "2030-01-01 12:00:00+00", self._moment
        )
        self.set(text, self._primary.folder)


@pytest.mark.full("processes")
def test_postgresql_goes_back_to_the_moment_before_an_accident(
    tmp_path: Path, open_at: Callable[[str], Store]
) -> None:
    primary = Primary()
    try:
        store = open_at(primary.url("postgres"))
        say(store, b"one")
        program = Path(primary.program("initdb")).resolve().with_name("pg_basebackup")
        source = primary.url("postgres")
        primary.run(
            str(program),
            "-D",
            str(primary.folder / "base"),
            "-d",
            source,
            "--checkpoint=fast",
        )
        say(store, b"two")
        ((moment,),) = primary.execute("SELECT clock_timestamp()::text")
        say(store, b"three")
        primary.execute("DELETE FROM message")
        store.close()
        primary.wait_for_archive()
        past = Past(primary, moment)
    finally:
        primary.kill()
    try:
        url = past.url("postgres")
        eventually(
            lambda: past.execute("SELECT pg_is_in_recovery()") == [(False,)],
            60,
            "it takes writes",
        )
        done = run_cli(
            "restore",
            "--yes",
            "--data-dir",
            str(tmp_path),
            seconds=60,
            IMSERVER_STORAGE_URL=url,
        )
        assert done.returncode == 0, done.stderr
        check_restored(open_at(url), b"one", b"two")
    finally:
        past.remove()
        primary.remove()


class Logged(MariaDB):
    """A server with the settings of the documents, whose binary log is below
    its folder."""

    def command(self) -> list[str]:
        settings = (
            documented("log_bin").replace("/srv", str(self.folder)).splitlines()[1:]
        )
        return [
            *super().command(),
            *("--" + line.replace(" = ", "=") for line in settings),
        ]

    def prepare(self) -> None:
        super().prepare()
        self.run("mkdir", str(self.folder / "binlog"))


def run_text(server: MariaDB, folder: Path, word: str, moment: str = "") -> None:
    """Run an example of the documents with the clients of a server. ``folder``:
    that of the copies."""
    (folder / ".my.cnf").write_text(
        f"[client]\nhost=127.0.0.1\nport={server.port}\nuser=root\n", "utf-8"
    )
    text = (
        documented(word)
        .replace("/srv", str(folder))
        .replace("2030-01-01 12:00:00", moment)
    )
    command = ("sh", "-e", "-c", text)
    done = subprocess.run(
        command,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.full("processes")
def test_mariadb_goes_back_to_the_second_before_an_accident(
    tmp_path: Path, open_at: Callable[[str], Store]
) -> None:
    require("mariadb-dump")
    require("mariadb-binlog")
    primary = Logged()
    try:
        primary.execute("CREATE DATABASE imserver")
        store = open_at(primary.url("imserver"))
        say(store, b"one")
        run_text(primary, primary.folder, "mariadb-dump")
        say(store, b"two")
        ((after,),) = primary.execute("SELECT unix_timestamp() + 1")
        eventually(
            lambda: primary.execute("SELECT unix_timestamp()")[0][0] >= after,
            60,
            "the next second",
        )
        ((moment,),) = primary.execute(f"SELECT CAST(from_unixtime({after}) AS CHAR)")
        say(store, b"three")
        primary.execute("DELETE FROM message", "imserver")
        store.close()
        primary.kill()
        new = MariaDB()
        try:
            run_text(new, primary.folder, "mariadb-binlog", moment)
            url = new.url("imserver")
            done = run_cli(
                "restore",
                "--yes",
                "--data-dir",
                str(tmp_path),
                seconds=60,
                IMSERVER_STORAGE_URL=url,
            )
            assert done.returncode == 0, done.stderr
            check_restored(open_at(url), b"one", b"two")
        finally:
            new.remove()
    finally:
        primary.remove()
