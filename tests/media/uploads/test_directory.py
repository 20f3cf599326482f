"""Where the bytes of files are kept: a folder, or a bucket of S3, under one
contract."""

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imserver.gateway.config.declared import marked
from imserver.gateway.config.settings import Config, RedisSettings, StorageSettings
from imserver.gateway.config.values import Locations
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import StoreTables
from imserver.gateway.threads import Threads
from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import Media, MediaUnavailable, Upload
from imserver.media.uploads.declared import UploadSettings, check
from imserver.media.uploads.directory import Directory
from imserver.media.uploads.s3 import (
    EMPTY_SHA256,
    Bucket,
    Credentials,
    canonical_path,
    signed_headers,
)
from imserver.media.uploads.upload_rows import rows_of
from tests.media.uploads.bucket import ACCESS_KEY, NAME, REGION, SECRET_KEY, Standin
from tests.rows import sections
from tests.support import run_cli

CONTENT = os.urandom(200_000)
PUBLISHED = Credentials(
    "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"
)
DAY = datetime(2013, 5, 24, tzinfo=UTC)


@pytest.fixture
def files() -> Iterator[Threads]:
    one = Threads(4)
    yield one
    one.close()


@pytest.fixture
def standin() -> Iterator[Standin]:
    with Standin() as bucket:
        yield bucket


@pytest.fixture
def bucket(standin: Standin, files: Threads) -> Iterator[Bucket]:
    one = bucket_at(standin.url, files)
    yield one
    one.close()


def settings_of(url: str, secret: str = SECRET_KEY) -> dict[str, Any]:
    bucket = {
        "s3_url": url,
        "s3_bucket": NAME,
        "s3_region": REGION,
        "s3_prefix": "a b/",
    }
    return {**bucket, "s3_access_key": ACCESS_KEY, "s3_secret_key": secret}


def bucket_at(url: str, files: Threads, secret: str = SECRET_KEY) -> Bucket:
    return Bucket(UploadSettings(s3_seconds=60, **settings_of(url, secret)), files)


@pytest.fixture(params=["folder", "bucket"])
def media(
    request: pytest.FixtureRequest, files: Threads, standin: Standin, tmp_path: Path
) -> Iterator[Media]:
    """Each place in turn."""
    one: Media = (
        Directory(tmp_path / "root", files)
        if request.param == "folder"
        else bucket_at(standin.url, files)
    )
    yield one
    one.close()


def put(media: Media, name: str, folder: Path, content: bytes = CONTENT) -> None:
    path = folder / "arrived"
    path.write_bytes(content)
    media.put(
        name, str(path), len(content), hashlib.sha256(content).hexdigest(), "image/png"
    )


def got(media: Media, name: str, first: int = 0, last: int = len(CONTENT) - 1) -> bytes:
    return b"".join(media.get(name, first, last))


def test_what_was_stored_is_given_whole_and_in_parts_until_it_is_deleted(
    media: Media, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        media.get("nobody", 0, 10)
    put(media, "some-name_1.t", tmp_path)
    pieces = media.get("some-name_1.t", 0, len(CONTENT) - 1)
    assert CONTENT.startswith(next(pieces))
    pieces.close()  # type: ignore[attr-defined]  # a reader that stops: the next answer is not the rest
    assert got(media, "some-name_1.t") == CONTENT
    assert got(media, "some-name_1.t", 100_000, 100_000) == CONTENT[100_000:100_001]
    assert got(media, "some-name_1.t", 5, 150_000) == CONTENT[5:150_001]
    for _ in range(2):
        media.delete("some-name_1.t")
    with pytest.raises(FileNotFoundError):
        media.get("some-name_1.t", 0, 10)


def test_the_folder_is_for_its_owner_only_and_is_swept_of_what_is_old(
    files: Threads, tmp_path: Path
) -> None:
    folder = Directory(tmp_path / "root", files)
    incoming = folder.incoming()
    assert incoming.stat().st_mode & 0o777 == 0o700
    old = incoming / "old"
    new = incoming / "new"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    long_ago = time.time() - 2 * 86400
    os.utime(old, (long_ago, long_ago))
    assert folder.sweep() == 1
    assert [path.name for path in incoming.iterdir()] == ["new"]
    assert folder.free_bytes() > 0
    folder = Directory(old.parent / "new", files)  # a file stands in the way
    for act in (folder.incoming, lambda: put(folder, "some", tmp_path)):
        with pytest.raises(MediaUnavailable):
            act()


@pytest.mark.parametrize("name", ["../../secret", "{}/secret", ".."])
def test_no_name_of_a_file_leads_out_of_the_folder(
    files: Threads, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = Directory(tmp_path / "root", files)
    name = name.format(tmp_path)
    for act in (
        lambda: folder.delete(name),
        lambda: [*folder.get(name, 0, 5)],
        lambda: put(folder, name, tmp_path),
    ):
        with pytest.raises(MediaUnavailable):
            act()
    assert secret.read_bytes() == b"secret"


# --- the bucket ---------------------------------------------------------------


def test_requests_are_signed_as_the_published_examples_are() -> None:
    """The examples of Amazon's description of Signature Version 4 for S3."""
    host = "examplebucket.s3.amazonaws.com"
    signed = signed_headers(
        "GET", host, "/test.txt", {"range": "bytes=0-9"}, EMPTY_SHA256, PUBLISHED, DAY
    )
    assert signed["authorization"].endswith(
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    body = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    headers = {
        "date": "Fri, 24 May 2013 00:00:00 GMT",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    path = canonical_path("/test$file.text")
    assert path == "/test%24file.text"
    signed = signed_headers("PUT", host, path, headers, body, PUBLISHED, DAY)
    assert signed["authorization"].endswith(
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


def test_a_file_is_sent_with_its_length_and_type_and_an_answer_that_is_cut_off_is_an_error(
    bucket: Bucket, standin: Standin, tmp_path: Path
) -> None:
    put(bucket, "some", tmp_path)
    assert standin.objects == {"a b/some": (CONTENT, "image/png")}
    assert standin.requests == [f"PUT /{NAME}/a%20b/some"]
    standin.failures = ["cut off"]
    with pytest.raises(MediaUnavailable):
        got(bucket, "some")
    assert got(bucket, "some") == CONTENT


@pytest.mark.parametrize("failure", ["500", "503", "hang up"])
def test_a_bucket_that_fails_is_asked_again(
    bucket: Bucket, standin: Standin, tmp_path: Path, failure: str
) -> None:
    standin.failures = [failure] * 2
    put(bucket, "some", tmp_path)
    standin.failures = [failure] * 2
    assert got(bucket, "some") == CONTENT
    standin.failures = [failure] * 3
    with pytest.raises(MediaUnavailable):
        bucket.get("some", 0, 1)
    standin.failures = [failure] * 2
    bucket.delete("some")
    assert not standin.objects


def test_a_bucket_that_refuses_or_is_away_is_a_temporary_error(
    files: Threads, standin: Standin, tmp_path: Path
) -> None:
    bucket = bucket_at(standin.url, files, secret="another secret")
    with pytest.raises(MediaUnavailable, match="403"):
        put(bucket, "some", tmp_path)
    assert len(standin.requests) == 1
    assert not standin.objects
    bucket.close()
    with Standin() as gone:
        pass
    bucket = bucket_at(gone.url, files)
    with pytest.raises(MediaUnavailable):
        put(bucket, "some", tmp_path)
    bucket.close()


def test_a_careful_operator_sets_a_quota_and_a_shared_folder() -> None:
    redis = RedisSettings(url="rediss://:password@10.0.0.9:6379/0")
    for config, setting in (
        (
            Config(of_features=sections(uploads={"quota_bytes": 0})),
            "uploads.quota_bytes",
        ),
        (Config(of_features=sections(), redis=redis), "uploads.directory"),
    ):
        assert [name for name, _ in check(config, Locations(""))] == [setting]
    secrets = Config(of_features=sections(uploads={"s3_secret_key": "secret"}))
    assert list(marked(secrets, "secret")) == [("uploads.s3_secret_key", "secret")]


# --- `imserver uploads move` --------------------------------------------------

FILES = {
    f"{number:032}": b"file %d " % number * (number * 3000) for number in range(1, 31)
}


class Machine:
    """A data folder with files, and the settings of a bucket."""

    def __init__(self, folder: Path, standin: Standin) -> None:
        self.folder = folder
        self.data = folder / "data"
        (folder / "imserver.yaml").write_bytes(
            msgspec.yaml.encode({"uploads": settings_of(standin.url)})
        )
        self.store = Store(
            StorageSettings(),
            str(self.data),
            threaded=False,
            tables=StoreTables(tables_of_server),
        )
        for name, content in FILES.items():
            self.put(name, content)
            thumbnail = b"small" if name.endswith("7") else b""
            if thumbnail:
                self.put(f"{name}.t", thumbnail)
            row = Upload(
                name,
                "shop",
                "ann",
                "file",
                "text/plain",
                "a.txt",
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
        return run_cli(
            "uploads",
            "move",
            "-c",
            config,
            "--data-dir",
            str(self.data),
            "--to",
            to,
            *options,
        )

    def stores(self) -> set[str]:
        return {row.store_name for row in rows_of(self.store)}

    def files(self) -> dict[str, bytes]:
        paths = (path for path in (self.data / "uploads").rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def machine(tmp_path: Path, standin: Standin) -> Iterator[Machine]:
    one = Machine(tmp_path, standin)
    yield one
    one.store.close()


def in_bucket(standin: Standin) -> dict[str, bytes]:
    return {
        name.removeprefix("a b/"): content
        for name, (content, _) in standin.objects.items()
    }


def test_files_go_to_the_bucket_and_back(machine: Machine, standin: Standin) -> None:
    before = machine.files()
    assert len(before) == 33
    done = machine.move("s3")
    assert done.returncode == 0, done.stderr
    assert (
        f"moved to the bucket media: files 30, bytes {sum(map(len, before.values()))};"
        in done.stdout
    )
    assert machine.files() == in_bucket(standin) == before
    assert standin.objects[f"a b/{7:032}"][1] == "text/plain"
    assert standin.objects[f"a b/{7:032}.t"][1] == "image/png"
    assert machine.stores() == {"s3"}
    done = machine.move("s3", "--delete-source")
    assert "files 0, bytes 0;" in done.stdout
    assert "files deleted at the source: 30" in done.stdout
    assert machine.files() == {}
    assert machine.move("directory", "--delete-source").returncode == 0
    assert (machine.files(), in_bucket(standin), machine.stores()) == (before, {}, {""})


def test_a_move_goes_on_after_a_failure_and_what_is_damaged_or_absent_stays(
    machine: Machine, standin: Standin
) -> None:
    before = machine.files()
    standin.failures += [*[""] * 20, "403"]
    done = machine.move("s3", "--delete-source")
    assert done.returncode == 1
    assert "the bucket refused" in done.stderr
    assert machine.stores() == {"", "s3"}
    assert machine.files() | in_bucket(standin) == before
    *_, name = (row.id for row in rows_of(machine.store) if not row.store_name)
    for damaged, words in (
        (b"x", "its bytes differ from the upload"),
        (b"", "its bytes are missing in the place that its row names"),
    ):
        path = machine.data / "uploads" / name[:2] / name
        path.write_bytes(damaged * len(FILES[name]))
        if not damaged:
            path.unlink()
        done = machine.move("s3", "--delete-source")
        assert done.returncode == 1
        assert f"the file {name} stays: {words}" in done.stderr
        assert name not in in_bucket(standin)
    machine.put(name, FILES[name])
    assert machine.move("s3", "--delete-source").returncode == 0
    assert (machine.files(), in_bucket(standin), machine.stores()) == (
        {},
        before,
        {"s3"},
    )


def test_settings_without_a_bucket_are_refused(tmp_path: Path) -> None:
    done = run_cli("uploads", "move", "--data-dir", str(tmp_path), "--to", "s3")
    assert (done.returncode, "the settings name no bucket" in done.stderr) == (1, True)
