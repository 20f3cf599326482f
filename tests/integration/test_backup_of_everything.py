"""``imserver backup --everything``: database, secrets and files in one archive,
for every engine."""

import json
import random
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError
from imserver.gateway.storage.erasures import JOURNAL
from imserver.gateway.storage.store import Store
from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import Upload
from imserver.media.uploads.upload_rows import rows_of
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.offline.copies import backup as copies
from imserver.offline.copies.archive import write
from tests.gateway.storage.servers import DatabaseServer
from tests.media.uploads.bucket import Standin
from tests.media.uploads.test_directory import FILES, Machine
from tests.operate.exports.rows import Storage, content_of, fill
from tests.operate.exports.test_archives import ANN, check_forgery, run_import
from tests.stores import ENGINES, TABLES, server_of
from tests.support import run_cli

SECRET = bytes(range(128, 192)) + b"\r\n"


@pytest.fixture
def bucket() -> Iterator[Standin]:
    with Standin() as one:
        yield one


@pytest.fixture
def machine(tmp_path: Path, bucket: Standin) -> Iterator[Machine]:
    one = Machine(tmp_path, bucket)
    say(one.store, "one", "two")
    (one.data / "secret").write_bytes(SECRET)
    (one.data / "secret").chmod(0o600)
    yield one
    one.store.close()


def say(store: Store, *words: str) -> list[str]:
    log = store.part(MessageLog)
    log.writer.append(
        "app", [Draft(sender="a", to_user="b", body=word.encode()) for word in words]
    )
    return [entry.body.decode() for entry in log.entries.read("app", 0, 100)]


def run(
    *words: object, data: Path, url: str = "", fails: bool = False
) -> subprocess.CompletedProcess[str]:
    done = run_cli(
        *map(str, words), IMSERVER_SERVER_DATA_DIR=str(data), IMSERVER_STORAGE_URL=url
    )
    assert done.returncode == (1 if fails else 0), done
    if fails:
        assert all(line.startswith("imserver: ") for line in done.stderr.splitlines())
    return done


def files_of(data: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in (data / "uploads").rglob("*")
        if path.is_file()
    }


@pytest.mark.sqlite_first
@pytest.mark.parametrize("engine", ENGINES)
def test_an_archive_comes_back_on_every_engine(
    machine: Machine,
    engine: str,
    database_servers: dict[str, DatabaseServer],
    tmp_path: Path,
) -> None:
    archive = tmp_path / "all.tar"
    data = tmp_path / "other"
    url = ""
    output = run("backup", "--everything", archive, data=machine.data).stdout
    assert output == f"copied the database to {archive}; secrets 1, files 33\n"
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    if engine != "sqlite":
        url = server_of(engine, database_servers).new_url()
    assert (
        "nothing was restored"
        in run("restore", archive, data=data, url=url, fails=True).stderr
    )
    restored = run("restore", "--yes", archive, data=data, url=url)
    assert "restored files of uploads: 33" in restored.stdout
    assert "users who were erased since the copy come back" in restored.stderr
    assert (data / "secret").read_bytes() == SECRET
    assert files_of(data) == machine.files()
    store = Store(
        StorageSettings(url, seconds=60), str(data), threaded=False, tables=TABLES
    )
    try:
        assert say(store, "three") == ["one", "two", "three"]
        assert store.database_id() == machine.store.database_id()
        (last,) = store.part(MessageLog).entries.read("app", 3, 1)
        assert last.id > 1 << 32, "no id is given twice"
        # The archive of this engine is the same file.
        again = tmp_path / "again.tar"
        run("backup", "--everything", again, data=data, url=url)
    finally:
        store.close()
    third = tmp_path / "third"
    third.mkdir(mode=0o700)
    (third / JOURNAL).touch(mode=0o600)
    assert "come back" not in run("restore", again, data=third).stderr
    store = Store(StorageSettings(), str(third), threaded=False, tables=TABLES)
    assert say(store)[:3] == ["one", "two", "three"]
    store.close()
    assert files_of(third) == machine.files()


def test_what_was_there_is_put_aside(machine: Machine, tmp_path: Path) -> None:
    archive = tmp_path / "all.tar"
    run("backup", "--everything", archive, data=machine.data)
    assert (
        "exists already"
        in run("backup", "--everything", archive, data=machine.data, fails=True).stderr
    )
    say(machine.store, "three")
    machine.store.close()
    (machine.data / "secret").write_text("b" * 64)
    output = run("restore", archive, data=machine.data).stdout
    assert "imserver.db.before" in output
    assert "restored files of uploads: 33" in output
    assert (machine.data / "secret.before").read_text() == "b" * 64
    assert (machine.data / "secret").read_bytes() == SECRET
    assert (machine.data / "imserver.db.before").exists()


def test_damaged_files_are_named_and_keep_nothing_else_out(
    machine: Machine, tmp_path: Path
) -> None:
    archive = tmp_path / "all.tar"
    data = tmp_path / "other"
    names = sorted(FILES)[:3]
    machine.put(names[0], FILES[names[0]][::-1])
    machine.put(names[1], FILES[names[1]][:-1])
    (machine.data / "uploads" / names[2][:2] / names[2]).unlink()
    lack = "files that are not in the archive, because they are damaged or missing: 3 ("
    lack += ", ".join(f"uploads/{name}" for name in names)
    assert (
        lack
        in run("backup", "--everything", archive, data=machine.data, fails=True).stderr
    )
    assert (
        lack in run("backup", "--check", archive, data=machine.data, fails=True).stderr
    )
    assert lack in run("restore", "--yes", archive, data=data).stdout
    assert files_of(data) == {
        name: content for name, content in machine.files().items() if name not in names
    }
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        json.dumps({"backups": {"folder": str(tmp_path / "backups")}}), "utf-8"
    )
    assert (
        "restored on trial"
        in run("backup", "-c", settings, data=machine.data, fails=True).stderr
    )
    (unproven,) = (tmp_path / "backups").iterdir()
    assert unproven.name.endswith(".unproven.tar")


def test_what_has_no_room_is_refused_before_it_begins(
    machine: Machine, tmp_path: Path
) -> None:
    file = tmp_path / "huge.tar"
    copy = tmp_path / "long.db"
    copies.backup(machine.data / "imserver.db", copy)
    machine.store.add_app("shop", {})
    machine.store.execute(
        "UPDATE upload SET bytes = %s WHERE id = %s", (1 << 60, min(FILES))
    )
    for words in (("backup", "--everything", file), ("export", "shop", file)):
        assert (
            "MB are missing (1154487"
            in run(*words, data=machine.data, fails=True).stderr
        )
        assert not file.exists()
    with copy.open("r+b") as long:
        long.truncate(1 << 42)
    with pytest.raises(StartError, match="MB are missing"):
        copies.restore(tmp_path / "new.db", copy, ())
    assert not (tmp_path / "new.db").exists()


def test_a_damaged_archive_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    archive = tmp_path / "all.tar"
    data = tmp_path / "other"
    run("backup", "--everything", archive, data=machine.data)
    whole = archive.read_bytes()
    for size in (len(whole) // 2, len(whole) - 20_480, len(whole) // 2 // 512 * 512):
        archive.write_bytes(whole[:size])
        assert (
            "is damaged"
            in run("restore", "--yes", archive, data=data, fails=True).stderr
        )
        assert not (data / "imserver.db").exists()
        assert not (data / "secret").exists()
    sparse = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "9" * 12}
    forged = [("x", kind, {}) for kind in (tarfile.CHRTYPE, tarfile.SYMTYPE)] + [
        ("x", b"0", sparse)
    ]
    for name, kind, headers in (
        *forged,
        ("files/\x1b/x", b"0", {}),
        ("files/uploads/\udcff", b"0", {}),
    ):
        archive.write_bytes(whole)
        with tarfile.open(archive, "a", format=tarfile.PAX_FORMAT) as file:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.pax_headers = headers
            file.addfile(member)
        error = run("restore", "--yes", archive, data=data, fails=True).stderr
        assert "no file of a backup" in error or "can't decode" in error, name
    database = tmp_path / "forged.db"
    for forgery, objection in {
        "UPDATE owner_step SET step = 'x'": "invalid literal for int",
        "UPDATE log SET last_id = 1 << 60": "the last number of log is 115",
        "ALTER TABLE log ADD COLUMN x AS (printf('%.900000000c', 'x'))": "has a computed column",
        "CREATE INDEX x ON log (lower(app))": "has a computed index",
    }.items():
        copies.backup(machine.data / "imserver.db", database)
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute(forgery)
        archive.unlink()
        write(archive, database, {}, [])
        assert (
            objection in run("restore", "--yes", archive, data=data, fails=True).stderr
        )
        assert not (data / "imserver.db").exists()
        database.unlink()
    with tarfile.open(archive, "w") as file:
        head = tarfile.TarInfo("imserver.json")
        nested = b"[" * 100_000
        head.size = len(nested)
        file.addfile(head, BytesIO(nested))
    assert (
        "is damaged" in run("restore", "--yes", archive, data=data, fails=True).stderr
    )


def test_files_of_a_bucket_come_back_in_a_folder(
    machine: Machine, bucket: Standin, tmp_path: Path
) -> None:
    before = machine.files()
    archive = tmp_path / "all.tar"
    data = tmp_path / "other"
    assert machine.move("s3", "--delete-source").returncode == 0
    config = tmp_path / "imserver.yaml"
    run("backup", "--everything", "-c", config, archive, data=machine.data)
    run("restore", "--yes", archive, data=data)
    assert files_of(data) == before
    store = Store(StorageSettings(), str(data), threaded=False, tables=TABLES)
    assert {row.store_name for row in rows_of(store)} == {""}
    store.close()


# --- files in the archive of an app -------------------------------------------

FILE = "file", "application/octet-stream"
PNG = b"\x89PNG\r\n\x1a\n"


def put_file(storage: Storage, user: str, id: str, content: bytes) -> Path:
    """Store a file with a thumbnail of the same bytes. Returns its path."""
    size = len(content)
    digest = sha256(content).hexdigest()
    row = Upload(
        id,
        "shop",
        user,
        *FILE,
        f"{user}'s.txt",
        size,
        digest,
        1,
        "",
        1,
        1,
        size,
        "image/png",
    )
    assert storage.store.write(lambda sql: upload_rows.add(sql, row, 10**7, 10**7))
    path = Path(storage.config.server.data_dir) / "uploads" / id[:2] / id
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.with_name(f"{id}.t").write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"place": "/etc"}, "column place"),
        ({"id": "/etc/passwd"}, "no server gives"),
        ({"id": "another.t"}, "no server gives"),
        ({"bytes": 9}, "are not those of its row"),
        ({"sha256": "0" * 64}, "are not those of its row"),
        ({"thumbnail_bytes": 9}, "are not those of its row"),
        ({"kind": "picture", "type": "text/html"}, "are not those of its row"),
        ({"thumbnail_type": "text/html"}, "are not those of its row"),
    ],
)
def test_a_forged_row_of_a_file_stores_nothing(
    row: dict[str, Any], why: str, tmp_path: Path
) -> None:
    source, other = (
        Storage(f"sqlite:///{tmp_path}/{name}.db", tmp_path / name)
        for name in ("source", "other")
    )
    source.tenants.register("shop")
    fill(source.store, "shop", [ANN])
    put_file(source, ANN, "a" * 22, PNG)
    check_forgery(source, other, why, "upload", row)
    other.store.close()


def test_files_are_in_the_archive_and_come_back(url: str, tmp_path: Path) -> None:
    storage = Storage(url, tmp_path)
    storage.tenants.register("shop")
    content = PNG + random.Random(1).randbytes(200_000)
    for user, id in (("ann", "a" * 22), ("bob", "b" * 22)):
        put_file(storage, user, id, content)
    put_file(storage, "ann", "c" * 22, content).unlink()
    put_file(storage, "ann", "d" * 22, content).write_bytes(content[::-1])
    own = content_of(storage.export("shop", "ann", name="own"))
    assert [each for each in own if each.startswith("files/")] == [
        name := f"files/{'a' * 22}/ann's.txt"
    ]
    assert own[name] == content
    assert json.loads(own["manifest.json"])["missing"] == 2
    # another file system than that of temporary files
    with TemporaryDirectory(dir="/dev/shm") as folder:
        other = Storage(f"sqlite:///{folder}/other.db", Path(folder))
        run_import(other, storage.export("shop"))
        other.store.close()
        assert Path(folder, "uploads", "bb", "b" * 22).read_bytes() == content
    storage.store.close()
