"""Files in the archive of an app: they come back with it, and forged rows of them store nothing."""

import json
import random
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import Upload
from tests.operate.exports.rows import Storage, content_of, fill
from tests.operate.exports.test_archives import ANN, check_forgery, run_import

FILE = "file", "application/octet-stream"
PNG = b"\x89PNG\r\n\x1a\n"


def put_file(storage: Storage, user: str, id: str, content: bytes) -> Path:
    """Store a file with a thumbnail of the same bytes. Returns its path."""
    size, digest = len(content), sha256(content).hexdigest()
    row = Upload(id, "shop", user, *FILE, f"{user}'s.txt", size, digest, 1, "", 1, 1, size, "image/png")
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
def test_a_forged_row_of_a_file_stores_nothing(row: dict[str, Any], why: str, tmp_path: Path) -> None:
    source, other = (
        Storage(f"sqlite:///{tmp_path}/{name}.db", tmp_path / name) for name in ("source", "other")
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
    assert [each for each in own if each.startswith("files/")] == [name := f"files/{'a' * 22}/ann's.txt"]
    assert own[name] == content
    assert json.loads(own["manifest.json"])["missing"] == 2
    with TemporaryDirectory(dir="/dev/shm") as folder:  # another file system than that of temporary files
        other = Storage(f"sqlite:///{folder}/other.db", Path(folder))
        run_import(other, storage.export("shop"))
        other.store.close()
        assert Path(folder, "uploads", "bb", "b" * 22).read_bytes() == content
    storage.store.close()
