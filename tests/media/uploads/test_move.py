"""`imserver uploads move`: files go from the folder to the bucket and back, and nobody misses one."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import StoreTables
from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import Upload
from imserver.media.uploads.upload_rows import rows_of
from tests.media.uploads.bucket import ACCESS_KEY, NAME, REGION, SECRET_KEY, Standin
from tests.support import run_cli

FILES = {f"{number:032}": b"file %d " % number * (number * 3000) for number in range(1, 31)}


@pytest.fixture
def bucket() -> Iterator[Standin]:
    with Standin() as one:
        yield one


class Machine:
    """A data folder with files, and the settings of a bucket."""

    def __init__(self, folder: Path, bucket: Standin) -> None:
        self.folder = folder
        self.bucket = bucket
        self.data = folder / "data"
        settings: dict[str, Any] = {
            "uploads": {
                "s3_url": bucket.url,
                "s3_bucket": NAME,
                "s3_region": REGION,
                "s3_prefix": "files/",
                "s3_access_key": ACCESS_KEY,
                "s3_secret_key": SECRET_KEY,
            }
        }
        (folder / "imserver.yaml").write_bytes(msgspec.yaml.encode(settings))
        self.store = Store(
            StorageSettings(), str(self.data), threaded=False, tables=StoreTables(tables_of_server)
        )
        for name, content in FILES.items():
            self.put(name, content)
            thumbnail = b"small" if name.endswith("7") else b""
            if thumbnail:
                self.put(f"{name}.t", thumbnail)
            row = Upload(
                name,
                *("shop", "ann", "file", "text/plain", "a.txt"),
                len(content),
                hashlib.sha256(content).hexdigest(),
                1,
                thumbnail_bytes=len(thumbnail),
                thumbnail_type="image/png" if thumbnail else "",
            )
            self.store.write(lambda sql, row=row: upload_rows.add(sql, row, 0))

    def put(self, name: str, content: bytes) -> None:
        path = self.data / "uploads" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def move(self, to: str, *options: str) -> subprocess.CompletedProcess[str]:
        config = str(self.folder / "imserver.yaml")
        return run_cli(*("uploads", "move", "-c", config, "--data-dir", str(self.data), "--to", to), *options)

    def stores(self) -> set[str]:
        return {row.store_name for row in rows_of(self.store)}

    def files(self) -> dict[str, bytes]:
        paths = (path for path in (self.data / "uploads").rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def machine(tmp_path: Path, bucket: Standin) -> Iterator[Machine]:
    one = Machine(tmp_path, bucket)
    yield one
    one.store.close()


def in_bucket(bucket: Standin) -> dict[str, bytes]:
    return {name.removeprefix("files/"): content for name, (content, _) in bucket.objects.items()}


def test_files_go_to_the_bucket_and_back(machine: Machine, bucket: Standin) -> None:
    before = machine.files()
    assert len(before) == 33
    done = machine.move("s3")
    assert done.returncode == 0, done.stderr
    assert f"moved 30 files, {sum(map(len, before.values()))} bytes, to the bucket media" in done.stdout
    assert machine.files() == in_bucket(bucket) == before
    assert bucket.objects[f"files/{7:032}"][1] == "text/plain"
    assert bucket.objects[f"files/{7:032}.t"][1] == "image/png"
    assert machine.stores() == {"s3"}
    done = machine.move("s3", "--delete-source")
    assert "moved 0 files" in done.stdout
    assert "deleted 30 files at the source" in done.stdout
    assert machine.files() == {}
    assert machine.move("directory", "--delete-source").returncode == 0
    assert (machine.files(), in_bucket(bucket), machine.stores()) == (before, {}, {""})


def test_a_move_goes_on_after_a_failure_and_what_is_damaged_or_absent_stays(
    machine: Machine, bucket: Standin
) -> None:
    before = machine.files()
    bucket.failures += [*[""] * 20, "403"]
    done = machine.move("s3", "--delete-source")
    assert done.returncode == 1
    assert "the bucket refused" in done.stderr
    assert machine.stores() == {"", "s3"}
    assert machine.files() | in_bucket(bucket) == before
    *_, name = (row.id for row in rows_of(machine.store) if not row.store_name)
    for damaged, words in ((b"x", "those that were uploaded"), (b"", "where its row says")):
        path = machine.data / "uploads" / name[:2] / name
        path.write_bytes(damaged * len(FILES[name]))
        if not damaged:
            path.unlink()
        done = machine.move("s3", "--delete-source")
        assert done.returncode == 1
        assert f"the file {name} stays: its bytes are not {words}" in done.stderr
        assert name not in in_bucket(bucket)
    machine.put(name, FILES[name])
    assert machine.move("s3", "--delete-source").returncode == 0
    assert (machine.files(), in_bucket(bucket), machine.stores()) == ({}, before, {"s3"})


def test_settings_without_a_bucket_are_refused(tmp_path: Path) -> None:
    done = run_cli("uploads", "move", "--data-dir", str(tmp_path), "--to", "s3")
    assert (done.returncode, "the settings name no bucket" in done.stderr) == (1, True)
