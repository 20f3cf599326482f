"""`imserver restore` after a database server has loaded a copy by its own tools."""

import subprocess
from pathlib import Path

import pytest

from imserver.messenger.messages.log.contract import Appended, Draft
from imserver.messenger.messages.log.message_log import MessageLog
from tests.gateway.storage.servers import DatabaseServer
from tests.operate.copies.test_backup import numbers
from tests.stores import ENGINES, OpenStore, server_of
from tests.support import run_cli
from tests.tools import require


@pytest.fixture(params=ENGINES[1:])
def server(request: pytest.FixtureRequest, database_servers: dict[str, DatabaseServer]) -> DatabaseServer:
    return server_of(request.param, database_servers)


def copied(server: DatabaseServer, url: str) -> str:
    """The address of a copy of a database, to which nobody is connected."""
    name = url.rpartition("/")[2].partition("?")[0]
    if server.engine == "postgresql":
        server.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    else:
        client = ("-h", "127.0.0.1", "-P", str(server.port), "-u", "root")
        dump = (require("mariadb-dump", "mysqldump"), *client, "--single-transaction", name)
        result = subprocess.run(dump, capture_output=True, check=True).stdout
        server.execute(f"CREATE DATABASE {name}_copy")
        load = (require("mariadb", "mysql"), *client, f"{name}_copy")
        subprocess.run(load, input=result, capture_output=True, check=True)
    return server.url(f"{name}_copy")


def restore(url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return run_cli("restore", "--yes", "--data-dir", f"{folder}/data", seconds=60, IMSERVER_STORAGE_URL=url)


def test_no_number_that_was_given_since_a_copy_is_given_again(
    server: DatabaseServer, open_store: OpenStore, tmp_path: Path
) -> None:
    url = server.migrated_url()
    message = Draft(sender="a", to_user="b")
    store = open_store(url)
    numbers(store, "1")
    store.part(MessageLog).writer.append("app", [message])
    store.close()
    copy = copied(server, url)
    another = copied(server, copy)

    store = open_store(url)
    last = (numbers(store, "2"), numbers(store, "3"))[1]
    (sent,) = store.part(MessageLog).writer.append("app", [message] * 2)[1:]
    assert isinstance(sent, Appended)
    result = store.part(MessageLog).marks.note("app", "b", sent.entry.conversation, read=sent.entry.id)
    assert result is not None
    store.close()

    for address in (copy, another):  # the same copy is restored twice
        done = restore(address, tmp_path)
        assert done.returncode == 0, done.stderr
        store = open_store(address)
        assert store.part(MessageLog).entries.sync("app", "b", sent.entry.id, 10) == ([], False)
        (new,) = store.part(MessageLog).writer.append("app", [message])
        assert isinstance(new, Appended)
        assert new.entry.seq > sent.entry.seq
        assert [
            each.id for each in store.part(MessageLog).entries.sync("app", "b", sent.entry.id, 10)[0]
        ] == [new.entry.id]
        store.part(MessageLog).marks.note("app", "b", new.entry.conversation, read=new.entry.id)
        marks = store.part(MessageLog).marks.since("app", "b", result.version)
        assert marks.reads == {new.entry.conversation: new.entry.id}
        again = numbers(store, "2")
        store.close()
        assert all(after > before for after, before in zip(again, last, strict=True)), (again, last)
        assert max(again) < 2**53, "JavaScript has it exactly"
        last, sent = again, new


def test_it_is_refused_while_others_use_the_database(
    server: DatabaseServer, open_store: OpenStore, tmp_path: Path
) -> None:
    url = server.migrated_url()
    store = open_store(url)
    before = numbers(store, "1")
    done = restore(url, tmp_path)
    assert done.returncode == 1
    assert "other connections" in done.stderr
    assert all(line.startswith("imserver: ") for line in done.stderr.splitlines())
    assert numbers(store, "2")[0] == before[0] + 2
    store.execute("UPDATE log SET last_id = last_id + %s", (1 << 60,))
    store.close()
    assert "is damaged: the last number of log is 115" in restore(url, tmp_path).stderr
    store.execute("UPDATE log SET last_id = last_id - %s", (1 << 60,))
    store.close()
    assert restore(url, tmp_path).returncode == 0
