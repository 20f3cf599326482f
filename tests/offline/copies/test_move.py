"""A database goes from engine to engine, and is the same everywhere."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.address import DatabaseAddress, database_address
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.offline.copies.move import Moved, move
from tests.conftest import StartServer
from tests.gateway.storage.servers import DatabaseServer, migrate
from tests.integration.cmd import CmdClient, logged_in
from tests.offline.copies.filling import STEPS, fill
from tests.stores import ENGINES, TABLES, OpenStore, server_of
from tests.support import ROOT, clean_environment, run_cli

ROWS = 60
NewUrl = Callable[[str], str]


def address_of(url: str) -> DatabaseAddress:
    return database_address(StorageSettings(url), "")


def moved(source: str, target: str) -> Moved:
    return move(
        address_of(source),
        address_of(target),
        StorageSettings(),
        TABLES,
        lambda *_: None,
    )


@pytest.fixture
def new_url(database_servers: dict[str, DatabaseServer], tmp_path: Path) -> NewUrl:
    """``new_url(engine)``: the address of a new, empty database."""
    numbers = iter(range(100))

    def make(engine: str) -> str:
        if engine == "sqlite":
            return f"sqlite:///{tmp_path}/number{next(numbers)}.db"
        return server_of(engine, database_servers).new_url()

    return make


@pytest.fixture(scope="module")
def full_model(sqlite_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with rows in every table."""
    file = tmp_path_factory.mktemp("full") / "full.db"
    file.write_bytes(sqlite_model.read_bytes())
    store = Store(
        StorageSettings(f"sqlite:///{file}"),
        str(file.parent),
        threaded=False,
        tables=TABLES,
    )
    store.database().write(lambda sql: fill(sql, tables_of_server(), ROWS))
    store.close()
    return file


@pytest.fixture
def full(full_model: Path, tmp_path: Path) -> str:
    """The address of a copy of it."""
    file = tmp_path / "full.db"
    file.write_bytes(full_model.read_bytes())
    return f"sqlite:///{file}"


def content(url: str) -> dict[str, list[tuple[object, ...]]]:
    """All that a SQLite file has; the types of values tell texts from bytes."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        return {
            name: sorted(
                connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr
            )
            for (name,) in names
        }


def of_others(url: str) -> set[str]:
    """Tables that the core's first steps made for a feature that this tree
    lacks."""
    return (
        content(url).keys()
        - {table.name for table in tables_of_server()}
        - {"sqlite_sequence"}
    )


MANY = pytest.param(
    ("postgresql", "mysql", "sqlite"), marks=pytest.mark.full("sampled")
)


@pytest.mark.parametrize("engines", [("sqlite",), MANY])
def test_every_table_comes_back_to_a_file_unchanged(
    full: str, new_url: NewUrl, engines: tuple[str, ...]
) -> None:
    before = content(full)
    urls = [new_url(engine) for engine in engines]
    assert {name for name, rows in before.items() if not rows} == of_others(full) | {
        "feature_schema"
    }
    reports = [moved(source, target) for source, target in pairwise([full, *urls])]
    assert all(each.tables == reports[0].tables for each in reports)
    for table in tables_of_server():
        if table.name not in STEPS:
            assert reports[0].tables[table.name].rows == ROWS, table.name
    assert content(urls[-1]) == before == content(full)


_KILLED = """
import os, signal, sys
from imserver.gateway.config.settings import StorageSettings
from imserver.offline.copies.move import move
from tests.stores import TABLES
from tests.offline.copies.test_move import address_of
left = int(sys.argv[3])
def note(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
move(address_of(sys.argv[1]), address_of(sys.argv[2]), StorageSettings(), TABLES, note)
"""


def killed(source: str, target: str, pages: int) -> None:
    """Move in a process that is killed after so many pages."""
    command = [sys.executable, "-c", _KILLED, source, target, str(pages)]
    done = subprocess.run(
        command,
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.sqlite_first
@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_move_goes_on(
    full: str, new_url: NewUrl, engine: str, open_store: OpenStore
) -> None:
    """In the copy, and in the comparison; no server begins with what is there
    until then."""
    target = new_url(engine)
    pages = len(tables_of_server()) - len(STEPS)
    numbers = random.Random(engine)
    for last in (pages // 2, pages // 4, 2 * pages):
        killed(full, target, numbers.randrange(1, last))
        with pytest.raises(StartError, match="a move that has not ended"):
            open_store(target)
    report = moved(full, target)
    assert report.resumed
    last_file = new_url("sqlite")
    assert moved(target, last_file).tables == report.tables
    assert content(last_file) == content(full)


@pytest.mark.sqlite_first
@pytest.mark.parametrize("engine", ENGINES)
def test_a_copy_that_is_completed_first_begins_anew(
    full: str, new_url: NewUrl, engine: str, open_store: OpenStore
) -> None:
    target = new_url(engine)
    killed(full, target, len(tables_of_server()))

    def complete() -> None:
        with pytest.raises(
            StartError, match="run the same 'imserver move' or 'imserver restore' again"
        ):
            open_store(target)
        change(
            full,
            "UPDATE message SET body = x'07' WHERE id = 1",
            "DELETE FROM message WHERE id = 2",
        )

    ends = address_of(full), address_of(target)
    move(*ends, StorageSettings(), TABLES, lambda *_: None, complete=complete)
    last_file = new_url("sqlite")
    moved(target, last_file)
    assert content(last_file) == content(full)


def test_numbers_go_on_where_the_source_would_have(
    full: str, new_url: NewUrl, open_store: OpenStore
) -> None:
    target = new_url("sqlite")
    moved(full, target)
    statement = (
        "INSERT INTO account (app, phone, nickname, avatar, password, version, created) "
        "VALUES ('x', 'y', '', '', '', 0, 1)"
    )
    given = [
        open_store(url).write(lambda sql: sql.insert(statement, ()))
        for url in (full, target)
    ]
    assert given == [ROWS + 1001] * 2


def refusal(source: str, target: str) -> str:
    with pytest.raises(StartError) as caught:
        moved(source, target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_target_that_is_not_empty_is_refused(full: str, new_url: NewUrl) -> None:
    target = new_url("sqlite")
    assert "is the database itself" in refusal(full, full)
    migrate(target)
    assert "is not empty (absence, account," in refusal(full, target)
    target = new_url("sqlite")
    moved(full, target)
    assert "a move or restore to it is complete" in refusal(full, target)
    target = new_url("sqlite")
    killed(full, target, 3)
    other = new_url("sqlite")
    migrate(other)
    assert "an interrupted move of another database" in refusal(other, target)
    assert "itself the target of an unfinished move" in refusal(
        target, new_url("sqlite")
    )
    new = "INSERT INTO directory (one, id, version, created) VALUES (1, 'x', 1, 0)"
    change(target, new, "DELETE FROM move_state WHERE name <> ''")
    assert "a server has begun to use it" in refusal(full, target)
    change(
        target,
        "UPDATE directory SET version = 0",
        "DELETE FROM log",
        "DELETE FROM account",
    )
    moved(full, target)
    change(
        target, "CREATE TABLE move_state (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
    )
    assert "an interrupted move of another database" in refusal(other, target), (
        "it was killed at its end"
    )
    assert moved(full, target).resumed


def change(url: str, *statements: str) -> None:
    with (
        closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection,
        connection,
    ):
        for statement in statements:
            connection.execute(statement)


def test_a_source_of_another_release_or_feature_is_refused(
    full: str, new_url: NewUrl
) -> None:
    target = new_url("sqlite")
    assert "there is no such database" in refusal(new_url("sqlite"), target)
    change(
        full,
        "INSERT INTO feature_schema VALUES ('lamp', 1, x'5b7b')",
        "CREATE TABLE notes (text TEXT)",
    )
    assert "has tables of lamp, which the settings do not name" in refusal(full, target)
    ends = address_of(full), address_of(target)
    with pytest.raises(
        StartError, match=r"full\.db cannot be used: the row of 'lamp' .* is damaged"
    ):
        move(*ends, StorageSettings(), TABLES, lambda *_: None, without=["lamp"])
    change(full, "UPDATE feature_schema SET tables = x'5b5d'")
    report = move(*ends, StorageSettings(), TABLES, lambda *_: None, without=["lamp"])
    assert set(report.strangers) == of_others(full), "tables of others stay behind"
    change(
        full,
        "DELETE FROM feature_schema",
        "UPDATE owner_step SET step = 28 WHERE owner = 'messages'",
    )
    assert "lacks step 49 of messages" in refusal(full, target)
    change(full, "UPDATE owner_step SET step = 99 WHERE owner = 'messages'")
    assert "belongs to a newer release, at step 99 of messages" in refusal(full, target)


def test_a_change_meanwhile_is_found(full: str, new_url: NewUrl) -> None:
    ends = address_of(full), address_of(new_url("sqlite"))
    with pytest.raises(StartError, match="the copy of message differs"):
        move(
            *ends,
            StorageSettings(),
            TABLES,
            lambda *_: change(full, "DELETE FROM message WHERE id = 2"),
        )
    target = new_url("sqlite")
    killed(full, target, len(tables_of_server()) - len(STEPS))
    change(full, "UPDATE message SET body = x'00' WHERE id = 1")
    assert "the copy of message differs" in refusal(full, target)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_what_an_engine_cannot_have_is_named(
    full: str, new_url: NewUrl, engine: str
) -> None:
    change(full, "UPDATE report SET note = 'a' || char(0) || 'b' WHERE rowid = 7")
    change(full, "UPDATE account SET nickname = CAST(x'ff' AS TEXT) WHERE id = 9")
    change(full, "UPDATE message SET body = 7 WHERE id = 9")
    target = new_url(engine)
    assert "message.body of the row 9/9 is no bytes" in refusal(full, target)
    if engine == "mysql":
        change(full, "UPDATE message SET body = zeroblob(20000000) WHERE id = 9")
        assert "a row may take 40000" in refusal(full, target)
    change(
        full,
        "UPDATE message SET body = '' WHERE id = 9",
        "UPDATE sqlite_sequence SET seq = 'x'",
    )
    assert "account.nickname of the row 9 is not UTF-8" in refusal(full, target)
    change(full, "UPDATE account SET nickname = 'a' WHERE id = 9")
    if engine == "postgresql":
        assert "has a NUL character, which no text of PostgreSQL can have" in refusal(
            full, target
        )
        change(full, "UPDATE report SET note = '' WHERE rowid = 7")
    assert moved(full, target).resumed
    change(full, "DELETE FROM directory")
    assert "is damaged: it has no id" in refusal(full, new_url("sqlite"))


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_a_database_in_use_is_refused(
    full: str, new_url: NewUrl, engine: str, open_store: OpenStore
) -> None:
    url = new_url(engine)
    migrate(url)
    store = open_store(url)
    store.part(MessageLog).writer.append("app", [Draft(sender="a", to_user="b")])
    assert "has other connections" in refusal(url, new_url("sqlite"))
    store.close()
    assert moved(url, new_url("sqlite")).tables["message"].rows == 1


@pytest.mark.sqlite_first
@pytest.mark.parametrize("engine", ENGINES)
def test_clients_with_cursors_go_on_without_gap_or_double(
    start_server: StartServer, new_url: NewUrl, engine: str, tmp_path: Path
) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    target = new_url(engine)

    def send(client: CmdClient) -> int:
        return int(client.ask_cmd("send", {"to": "bob", "text": "hello"})[2]["id"])

    def received(client: CmdClient) -> int:
        return int(client.push("message").json["response"]["data"]["id"])

    server = start_server(*data, folder=tmp_path / "one")
    with (
        logged_in(server.ws, "ann", 101) as ann,
        logged_in(server.ws, "bob", 101, cursor=0) as bob,
    ):
        ids = [send(ann), send(ann)]
        assert received(bob) == ids[0]
    server.stop()
    done = run_cli("move", *data, "--to", target, seconds=100)
    assert done.returncode == 0, done.stderr
    assert "counts and checksums are equal" in done.stdout
    assert "now set configuration: storage.url to this address" in done.stdout
    moved_to = {"IMSERVER_STORAGE_URL": target}
    server = start_server(*data, folder=tmp_path / "two", environment=moved_to)
    with (
        logged_in(server.ws, "ann", 101) as ann,
        logged_in(server.ws, "bob", 101, cursor=ids[0]) as bob,
    ):
        ids.append(send(ann))
        assert [received(bob) for _ in range(2)] == ids[1:] == [ids[0] + 1, ids[0] + 2]
        bob.no_push("message")


def test_the_command_says_what_goes_wrong(
    full: str, tmp_path: Path, start_server: StartServer
) -> None:
    def refused(*arguments: str) -> str:
        done = run_cli(
            "move", "--data-dir", str(tmp_path), *arguments, IMSERVER_STORAGE_URL=full
        )
        assert done.returncode == 1
        assert done.stderr.startswith("imserver: ")
        return done.stderr

    assert "--to" in refused("--to", "oracle://x/y")
    assert "is the database itself" in refused("--to", full)
    change(full, "UPDATE directory SET version = 'x'")
    assert "cannot be used: invalid literal" in refused(
        "--to", f"sqlite:///{tmp_path}/damaged.db"
    )
    server = start_server("--data-dir", str(tmp_path), folder=tmp_path / "one")
    assert "is in use by another server" in refused(
        "--to", f"sqlite:///{tmp_path}/new.db"
    )
    server.stop()
    assert not os.path.exists(tmp_path / "new.db")
