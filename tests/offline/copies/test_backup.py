"""``imserver backup`` and ``imserver restore``, as people call them."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from imserver.backends.webhooks.event_rows import EventStore, NewEvent
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError
from imserver.gateway.node.feature_list import numbers_of_server
from imserver.gateway.process import DataDirectory
from imserver.gateway.storage.erasures import (
    JOURNAL,
    ErasureRow,
    add_to_journal,
    read_journal,
)
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Appended, Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.offline.copies import backup as copies
from imserver.offline.copies.archive import BackupArchive
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import AccountStore
from tests.gateway.storage.servers import DatabaseServer
from tests.gateway.storage.test_faults import HEAD, begin, flip, kill, log_of
from tests.gateway.storage.test_feature_steps import (
    add_lamps,
    count,
    lamps,
    make_owners,
    make_uses,
)
from tests.processes import end, spawn
from tests.stores import ENGINES, OpenStore, server_of
from tests.support import clean_environment, eventually, run_cli
from tests.tools import require

FAR = 1 << 32
"""Ids after a restore are greater."""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in which a message is stored."""
    return tmp_path / "data"


@pytest.fixture
def run(data: Path) -> Run:
    """``run("backup", …)``; ``fails=True`` where it must refuse, in one
    line."""

    def run(
        *arguments: object, fails: bool = False, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        given = {"IMSERVER_SERVER_DATA_DIR": str(data), **environment}
        done = run_cli(*map(str, arguments), seconds=30, **given)
        assert done.returncode == (1 if fails else 0), done
        if fails:
            assert done.stderr.startswith("imserver: ")
            assert done.stderr.count("\n") == 1
        return done

    return run


def say(data: Path, *words: str) -> list[str]:
    """Store messages; all that is stored then."""
    store = opened(data)
    log = store.part(MessageLog)
    log.writer.append(
        "app", [Draft(sender="a", to_user="b", body=word.encode()) for word in words]
    )
    found = [entry.body.decode() for entry in log.entries.read("app", 0, 100)]
    store.close()
    return found


def test_what_was_stored_before_a_copy_is_there_after_it_is_put_back(
    run: Run, data: Path, tmp_path: Path
) -> None:
    say(data, "one", "two")
    copy = tmp_path / "copy.db"
    assert str(copy) in run("backup", copy).stdout
    assert copy.stat().st_mode & 0o777 == 0o600
    say(data, "three")
    owner = os.geteuid() or 65534  # only root may give files away
    os.chown(data / "imserver.db", owner, -1)
    # what was there remains, however often something is restored
    for suffix in ("", ".2", ".3"):
        assert f"imserver.db.before{suffix}" in run("restore", copy).stdout
    assert (data / "imserver.db").stat().st_uid == owner
    # as a restore leaves it that was killed before it had erased users again
    (data / "restoring").touch()
    for command in (
        ("backup", tmp_path / "half.db"),
        ("move", "--to", "sqlite:////half.db"),
    ):
        assert "run imserver restore again" in run(*command, fails=True).stderr
    run("restore", copy)
    assert say(data, "four") == ["one", "two", "four"]
    assert sorted(file.name for file in data.iterdir() if "part" in file.name) == []
    with sqlite3.connect(data / "imserver.db.before") as before:
        assert before.execute("SELECT count(*) FROM message").fetchone() == (3,)
    before.close()


def opened(data: Path) -> Store:
    store = Store(StorageSettings(), str(data), threaded=False)
    store.start()
    return store


def live_on(data: Path, phone: str) -> tuple[int, ...]:
    """See :func:`numbers`."""
    store = opened(data)
    given = numbers(store, phone)
    store.close()
    return given


def numbers(store: Store, phone: str) -> tuple[int, ...]:
    """One message, group, mark, account and event more: the numbers that they
    were given."""
    log = store.part(MessageLog)
    accounts = AccountStore(store)
    group = log.groups.create("app", "a", "us", [])
    log.writer.append("app", [Draft(sender="a", conversation=group.conversation)])
    version = log.marks.hide("app", "a", [log.entries.head("app")])
    account = accounts.add(Account(0, "app", phone), "a hash")
    events = EventStore(store).append([NewEvent("app", "a", "absent", b"{}")])
    return (
        log.entries.head("app"),
        group.conversation,
        version,
        account.id,
        events["app"],
    )


@pytest.mark.parametrize("is_lost", [False, True])
def test_no_number_that_was_given_since_a_copy_is_given_again(
    data: Path, tmp_path: Path, is_lost: bool
) -> None:
    """Nor a place in a conversation, nor a version of marks."""
    first = live_on(data, "1")
    say(data, "one")
    copy = tmp_path / "copy.db"
    message = Draft(sender="a", to_user="b")
    copies.backup(data / "imserver.db", copy)
    live_on(data, "2")
    store = opened(data)
    (sent,) = store.part(MessageLog).writer.append("app", [message] * 3)[2:]
    assert isinstance(sent, Appended)
    marked = store.part(MessageLog).marks.note(
        "app", "b", sent.entry.conversation, read=sent.entry.id
    )
    assert marked is not None
    store.close()
    last = live_on(data, "3")
    if is_lost:
        (data / "imserver.db").write_bytes(b"what a dying disk has left")
    copies.restore(data / "imserver.db", copy, numbers_of_server())
    store = opened(data)
    log = store.part(MessageLog)
    assert log.entries.sync("app", "a", last[0], 10) == ([], False), (
        "nobody has seen anything that is new"
    )
    log.expire("app", more_than=1)
    assert [entry.id for entry in log.entries.read("app", 0, 10)] == [first[0] + 1], (
        "ids are no count"
    )
    store.close()
    again = live_on(data, "2")
    assert all(new > old for new, old in zip(again, last, strict=True)), (again, last)
    store = opened(data)
    log = store.part(MessageLog)
    assert [entry.id for entry in log.entries.sync("app", "a", last[0], 10)[0]] == [
        again[0] - 1,
        again[0],
    ]
    (new,) = log.writer.append("app", [message])
    assert isinstance(new, Appended)
    assert new.entry.seq > sent.entry.seq
    log.marks.note("app", "b", new.entry.conversation, read=new.entry.id)
    marks = log.marks.since("app", "b", marked.version)
    assert marks.reads == {new.entry.conversation: new.entry.id}
    store.close()


def test_an_app_that_began_after_the_copy_goes_on_behind_it_too(
    data: Path, tmp_path: Path
) -> None:
    live_on(data, "1")
    copies.backup(data / "imserver.db", tmp_path / "copy.db")
    store = opened(data)
    store.part(MessageLog).writer.append("young", [Draft(sender="a", to_user="b")] * 3)
    note = NewEvent("young", "a", "absent", b"{}")
    assert EventStore(store).append([note, note]) == {"young": 2}
    store.close()
    copies.restore(data / "imserver.db", tmp_path / "copy.db", numbers_of_server())
    store = opened(data)
    store.part(MessageLog).writer.append("young", [Draft(sender="a", to_user="b")])
    assert [
        entry.id for entry in store.part(MessageLog).entries.read("young", 0, 10)
    ] == [4]
    assert EventStore(store).append([note]) == {"young": 3}
    store.close()


def test_a_copy_is_whole_while_others_write(
    run: Run, data: Path, tmp_path: Path
) -> None:
    store = Store(StorageSettings(), str(data), threaded=False)
    log = store.part(MessageLog)
    log.writer.append("app", [Draft(sender="a", to_user="b")])
    writing = sqlite3.connect(data / "imserver.db", isolation_level=None)
    writing.execute("BEGIN IMMEDIATE")
    writing.execute("UPDATE log SET last_id = 99")
    run("backup", tmp_path / "copy.db")
    writing.execute("ROLLBACK")
    writing.close()
    store.close()
    run("restore", "--yes", tmp_path / "copy.db", "--data-dir", tmp_path / "elsewhere")
    assert len(say(tmp_path / "elsewhere")) == 1


_WRITER = """
import sys
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
store = Store(StorageSettings(sys.argv[1], seconds=60), sys.argv[2], threaded=False)
store.start()
log = store.part(MessageLog)
while True:
    (sent,) = log.writer.append("app", [Draft(sender="a", to_user="b", body=b"x")])
    print(sent.entry.id, flush=True)
"""


@pytest.mark.sqlite_first
@pytest.mark.parametrize("engine", ENGINES)
def test_a_backup_under_load_has_what_was_acknowledged_before_it(
    engine: str, database_servers: dict[str, DatabaseServer], data: Path, tmp_path: Path
) -> None:
    """And nothing of later without what was before it: all tables are of one
    moment."""
    url = (
        "" if engine == "sqlite" else server_of(engine, database_servers).migrated_url()
    )
    acknowledged = tmp_path / "acknowledged"
    archive = tmp_path / "all.tar"
    copy = tmp_path / "copy.db"

    def count() -> int:
        return acknowledged.read_bytes().count(b"\n")

    with acknowledged.open("wb") as file:
        command = [sys.executable, "-c", _WRITER, url, str(data)]
        writer = spawn(command, stdout=file, env=clean_environment())
    try:
        eventually(lambda: count() > 200, what="messages")
        before = count()
        given = {"IMSERVER_STORAGE_URL": url, "IMSERVER_SERVER_DATA_DIR": str(data)}
        assert run_cli("backup", "--everything", str(archive), **given).returncode == 0
        during = count()
        eventually(lambda: count() > during, what="the writer goes on")
    finally:
        end(writer)
    BackupArchive(archive).extract_database(copy)
    with closing(sqlite3.connect(copy)) as connection:
        ids = [id for (id,) in connection.execute("SELECT id FROM message ORDER BY id")]
        assert connection.execute("SELECT last_id FROM log").fetchall() == [(len(ids),)]
    assert ids == list(range(1, len(ids) + 1))
    assert before <= len(ids) <= during + 1
    assert during > before, "it waited for the backup"


def cut(restore: Callable[[], object], step: int) -> bool:
    """Restore in a process that dies before its n-th change of a name or start
    of a write. Returns whether it died."""
    if not (child := os.fork()):
        left = [step]

        def hear(event: str, arguments: "tuple[object, ...]") -> None:
            if event in (
                "os.rename",
                "os.remove",
                "os.truncate",
                "sqlite3.connect",
                "os.mkdir",
            ) or (
                event == "open"
                and isinstance(arguments[2], int)
                and arguments[2] & os.O_CREAT
            ):
                left[0] -= 1
                if not left[0]:
                    os._exit(9)

        sys.addaudithook(hear)
        restore()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.linux
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_cut_at_any_step_leaves_the_old_database_or_the_new_one_or_no_start(
    data: Path, tmp_path: Path, is_damaged: bool
) -> None:
    say(data, "one")
    copies.backup(data / "imserver.db", tmp_path / "copy.db")
    say(data, "two")
    log = b""
    if is_damaged:  # its log is what is left of the newest messages
        store = begin(tmp_path / "running")
        store.part(MessageLog).writer.append(
            "app", [Draft(sender="ann", to_user="bob", body=b"x")]
        )
        data = kill(store, tmp_path).parent
        flip(log_of(data / "imserver.db"), HEAD + 500)
        log = log_of(data / "imserver.db").read_bytes()
    refused = 0
    step = 0
    is_cut = True
    while is_cut:
        step += 1
        folder = tmp_path / f"cut{step}" / "data"
        shutil.copytree(data, folder)
        database = folder / "imserver.db"
        again = partial(
            copies.restore, database, tmp_path / "copy.db", numbers_of_server()
        )
        is_cut = cut(again, step)
        server = DataDirectory(str(folder))
        try:
            server.start()
        except StartError:
            refused += 1
        else:
            server.stop()
            assert (
                (log_of(database).read_bytes() == log)
                if log
                else (say(folder) == ["one", "two"])
            )
        _, before = again()
        assert before == folder / "imserver.db.before"
        if log:
            assert before.with_name(f"{before.name}-wal").read_bytes() == log
        else:
            with closing(sqlite3.connect(before)) as old:
                assert old.execute("SELECT count(*) FROM message").fetchone() == (2,)
        assert say(folder, "three") == ["one", "three"]
    assert step > refused > 4, (step, refused)


def test_a_new_folder_gets_the_journal_of_erasures(
    run: Run, data: Path, tmp_path: Path
) -> None:
    """A copy that is restored after this one may have users whom only another
    journal names."""
    say(data, "one")
    copy = tmp_path / "copy.db"
    other = tmp_path / "other"
    journal = tmp_path / "journal"
    run("backup", copy)
    long_ago, of_late = (
        ErasureRow(letter * 64, at, "app", letter)
        for letter, at in (("a", 1), ("b", 10**12))
    )
    add_to_journal(journal, [long_ago])
    other.mkdir(mode=0o700)
    add_to_journal(other / JOURNAL, [of_late])
    run("restore", "--data-dir", other, "--erasures", journal, copy)
    assert read_journal(other / JOURNAL) == [of_late, long_ago]


FORGED = {
    "has a trigger that": "CREATE TRIGGER evil AFTER INSERT ON ban BEGIN SELECT 1; END",
    "has a view that": "CREATE VIEW evil AS SELECT 1",
}


def test_what_cannot_be_copied_is_one_clear_line_and_changes_nothing(
    run: Run, data: Path, tmp_path: Path
) -> None:
    assert "no such database" in run("backup", tmp_path / "copy.db", fails=True).stderr
    say(data, "one")
    server = DataDirectory(str(data))
    server.start()
    run("backup", tmp_path / "another.db")
    assert (
        "in use by another server"
        in run("restore", tmp_path / "another.db", fails=True).stderr
    )
    server.stop()
    diary = tmp_path / "diary"
    diary.write_text("dear diary", encoding="ascii")
    assert "exists already" in run("backup", diary, fails=True).stderr
    assert "not a database of this server" in run("restore", diary, fails=True).stderr
    assert "no such file" in run("restore", tmp_path / "none", fails=True).stderr
    assert "give the FILE" in run("restore", fails=True).stderr
    assert (
        "cannot be written"
        in run("backup", tmp_path / "none" / "copy", fails=True).stderr
    )
    assert diary.read_text(encoding="ascii") == "dear diary"
    for number, (refusal, forgery) in enumerate(FORGED.items()):
        forged = tmp_path / f"{number}.db"
        copies.backup(data / "imserver.db", forged)
        with closing(sqlite3.connect(forged)) as connection:
            connection.execute(forgery)
        assert refusal in run("restore", forged, fails=True).stderr
    for command, tool in (("backup", "pg_dump"), ("restore", "pg_restore or psql")):
        url = "postgresql://u:secret@h/d"
        output = run(
            command, tmp_path / "copy", fails=True, IMSERVER_STORAGE_URL=url
        ).stderr
        assert (tool in output, "secret" in output) == (True, False)
    assert say(data) == ["one"]


def test_a_copy_has_the_tables_and_their_record(
    tmp_path: Path, open_store: OpenStore
) -> None:
    file = tmp_path / "some.db"
    copy = tmp_path / "copy.db"
    store = open_store(f"sqlite:///{file}", tables=lamps(make_owners, make_uses))
    add_lamps(store)
    copies.backup(file, copy)
    store.execute("DELETE FROM lamp_owner")
    store.close()
    copies.restore(file, copy, numbers_of_server())
    again = open_store(f"sqlite:///{file}")
    assert count(again) == (2, 2)
    again.delete_rows_of_user("shop", "ann")
    assert count(again) == (1, 1)


def test_a_server_begins_again_behind_a_damaged_log(tmp_path: Path) -> None:
    message = Draft(sender="ann", to_user="bob", body=b"x")
    before = begin(tmp_path / "running")
    before.part(MessageLog).writer.append("shop", [message])
    database = kill(before, tmp_path)
    copy = tmp_path / "copy.db"
    shutil.copytree(database.parent, tmp_path / "before")
    with closing(sqlite3.connect(tmp_path / "before" / "imserver.db")) as whole:
        whole.execute("VACUUM INTO ?", (str(copy),))
    flip(log_of(database), HEAD + 500)
    done = run_cli("restore", "--data-dir", str(database.parent), str(copy))
    assert done.returncode == 0, done.stderr
    store = Store(StorageSettings(), str(database.parent))
    store.start()
    store.part(MessageLog).writer.append("shop", [message])
    store.close()
    with closing(sqlite3.connect(database)) as connection:
        (last,) = connection.execute("SELECT max(id) FROM message").fetchone()
    assert last > 10**14, "no id is given twice"


# --- copies that a database server has loaded by its own tools ----------------


@pytest.fixture(params=ENGINES[1:])
def server(
    request: pytest.FixtureRequest, database_servers: dict[str, DatabaseServer]
) -> DatabaseServer:
    return server_of(request.param, database_servers)


def copied(server: DatabaseServer, url: str) -> str:
    """The address of a copy of a database, to which nobody is connected."""
    name = url.rpartition("/")[2].partition("?")[0]
    copy = f"copy{os.urandom(4).hex()}"
    if server.engine == "postgresql":
        server.execute(f"CREATE DATABASE {copy} TEMPLATE {name}")
    else:
        client = ("-h", "127.0.0.1", "-P", str(server.port), "-u", "root")
        dump = (
            require("mariadb-dump", "mysqldump"),
            *client,
            "--single-transaction",
            name,
        )
        result = subprocess.run(dump, capture_output=True, check=True).stdout
        server.execute(f"CREATE DATABASE {copy}")
        load = (require("mariadb", "mysql"), *client, copy)
        subprocess.run(load, input=result, capture_output=True, check=True)
    return server.url(copy)


def restore_loaded(url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return run_cli(
        "restore",
        "--yes",
        "--data-dir",
        f"{folder}/data",
        seconds=60,
        IMSERVER_STORAGE_URL=url,
    )


def test_a_copy_that_a_database_server_has_loaded_gives_no_number_again(
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
    result = store.part(MessageLog).marks.note(
        "app", "b", sent.entry.conversation, read=sent.entry.id
    )
    assert result is not None
    store.close()

    for address in (copy, another):  # the same copy is restored twice
        done = restore_loaded(address, tmp_path)
        assert done.returncode == 0, done.stderr
        store = open_store(address)
        assert store.part(MessageLog).entries.sync("app", "b", sent.entry.id, 10) == (
            [],
            False,
        )
        (new,) = store.part(MessageLog).writer.append("app", [message])
        assert isinstance(new, Appended)
        assert new.entry.seq > sent.entry.seq
        assert [
            each.id
            for each in store.part(MessageLog).entries.sync(
                "app", "b", sent.entry.id, 10
            )[0]
        ] == [new.entry.id]
        store.part(MessageLog).marks.note(
            "app", "b", new.entry.conversation, read=new.entry.id
        )
        marks = store.part(MessageLog).marks.since("app", "b", result.version)
        assert marks.reads == {new.entry.conversation: new.entry.id}
        again = numbers(store, "2")
        store.close()
        assert all(after > before for after, before in zip(again, last, strict=True)), (
            again,
            last,
        )
        assert max(again) < 2**53, "JavaScript has it exactly"
        last = again
        sent = new


@pytest.mark.linux
@pytest.mark.full("faults")
@pytest.mark.timeout(900)
def test_an_archive_is_restored_whole_or_no_node_starts(
    server: DatabaseServer, open_store: OpenStore, data: Path, tmp_path: Path
) -> None:
    """Also with another data folder. A restore that was cut begins anew; one
    that was cut behind its end says that it has ended."""
    say(data, "one")
    secret = DataDirectory(str(data)).secret()
    archive = tmp_path / "all.tar"
    assert (
        run_cli(
            "backup", "--everything", str(archive), IMSERVER_SERVER_DATA_DIR=str(data)
        ).returncode
        == 0
    )
    counts = Counter[str]()
    step = 0
    is_cut = True
    while is_cut:
        step += 1
        url = server.new_url()
        folder = tmp_path / f"cut{step}"
        given = {"IMSERVER_STORAGE_URL": url, "IMSERVER_SERVER_DATA_DIR": str(folder)}
        restore = partial(run_cli, "restore", "--yes", str(archive), **given)
        is_cut = cut(restore, step)
        state = state_of(server, open_store, url)
        counts[state] += 1
        assert restore().returncode == (state == "whole")
        assert state_of(server, open_store, url) == "whole"
        node = DataDirectory(str(folder))
        node.start()
        assert node.secret() == secret
        node.stop()
    assert min(counts[state] for state in ("empty", "refused", "whole")) > 2, counts


def state_of(server: DatabaseServer, open_store: OpenStore, url: str) -> str:
    """What a node of any data folder has of a database."""
    name = url.rpartition("/")[2].partition("?")[0]
    tables = f"SELECT 1 FROM information_schema.tables WHERE table_schema = {server.schema} LIMIT 1"
    if not server.execute(tables, name):
        return "empty"
    try:
        store = open_store(url)
    except StartError:  # test_move has its words
        return "refused"
    (entry,) = store.part(MessageLog).entries.read("app", 0, 100)
    sent = store.part(MessageLog).writer.append("app", [Draft(sender="a", to_user="b")])
    store.execute("DELETE FROM message WHERE id > %s", (entry.id,))
    store.close()
    (new,) = sent
    assert isinstance(new, Appended)
    assert (entry.body, new.entry.id > FAR) == (b"one", True)
    return "whole"


def test_it_is_refused_while_others_use_the_database(
    server: DatabaseServer, open_store: OpenStore, tmp_path: Path
) -> None:
    url = server.migrated_url()
    store = open_store(url)
    before = numbers(store, "1")
    done = restore_loaded(url, tmp_path)
    assert done.returncode == 1
    assert "other connections" in done.stderr
    assert all(line.startswith("imserver: ") for line in done.stderr.splitlines())
    assert numbers(store, "2")[0] == before[0] + 2
    store.execute("UPDATE log SET last_id = last_id + %s", (1 << 60,))
    store.close()
    assert (
        "is damaged: the last number of log is 115"
        in restore_loaded(url, tmp_path).stderr
    )
    store.execute("UPDATE log SET last_id = last_id - %s", (1 << 60,))
    store.close()
    assert restore_loaded(url, tmp_path).returncode == 0
