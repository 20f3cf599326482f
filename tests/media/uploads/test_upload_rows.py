"""Rows of uploaded files, on every engine: the quota holds, however many come at once."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from imserver.gateway.storage.statements import PooledStatements
from imserver.gateway.storage.store import Store
from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import FILE_BYTES, Upload, Usage
from tests.stores import OpenStore
from tests.support import clean_environment

# In a process of its own, patched as a server is. Prints how many of twelve were kept, and what is kept then.
CROWD = """
from gevent import monkey; monkey.patch_all()
import sys
import gevent
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
url, folder, before = sys.argv[1:]
store = Store(StorageSettings(url, pool_size=12, seconds=20), folder)
store.start()
from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import Upload
def add(number):
    row = Upload(f"{number:032}", "101", "ann", "file", "x/y", "", 100, "0" * 64, 1)
    return store.write(lambda sql: upload_rows.add(sql, row, 500 + 5 * 4096))
for number in range(int(before)):
    assert add(100 + number)
crowd = [gevent.spawn(add, number) for number in range(12)]
gevent.joinall(crowd, raise_error=True)
usage = store.read(lambda sql: upload_rows.usage(sql, "101", "ann"))
print(sum(each.value for each in crowd), usage.bytes, usage.files)
store.close()
"""

ROW = Upload(
    id="a" * 32,
    app="101",
    user="ann",
    kind="picture",
    type="image/png",
    name="猫.png",
    bytes=90,
    sha256="0" * 64,
    created=1_700_000_000_000,
    store_name="",
    width=8,
    height=6,
    thumbnail_bytes=10,
    thumbnail_type="image/jpeg",
)


def added(store: Store, number: int, quota: int = 0, **fields: object) -> bool:
    """A file like the first, with an id of its own."""
    row = msgspec.structs.replace(ROW, id=f"{number:032}", **fields)
    return store.write(lambda sql: upload_rows.add(sql, row, quota))


def usage(store: Store, user: str = "ann") -> Usage:
    return store.read(lambda sql: upload_rows.usage(sql, "101", user))


def test_a_row_comes_back_as_it_was_stored(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    assert store.write(lambda sql: upload_rows.add(sql, ROW, 0))
    assert store.read(lambda sql: upload_rows.find(sql, ROW.id)) == ROW
    assert store.read(lambda sql: upload_rows.find(sql, ROW.id.upper())) is None


def test_a_file_that_is_removed_gives_its_bytes_back(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    assert added(store, 1, quota=200 + 2 * FILE_BYTES)
    assert added(store, 2, quota=200 + 2 * FILE_BYTES)
    assert usage(store) == Usage(200, 2)
    assert not added(store, 3, quota=200 + 2 * FILE_BYTES)
    assert added(store, 4, quota=200 + 2 * FILE_BYTES, user="Ann")  # another user
    gone = store.write(lambda sql: upload_rows.remove(sql, f"{1:032}"))
    assert gone is not None
    assert store.write(lambda sql: upload_rows.remove(sql, f"{1:032}")) is None
    assert usage(store) == Usage(100, 1)
    assert added(store, 3, quota=200 + 2 * FILE_BYTES)
    assert not added(store, 5, quota=99 + FILE_BYTES, user="first")


@pytest.mark.full
@pytest.mark.parametrize("before", [0, 1])
def test_a_quota_holds_for_files_that_come_at_once(url: str, tmp_path: Path, before: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CROWD, url, str(tmp_path), str(before)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(5 - before), "500", "5"], done.stderr


def test_pages_go_from_the_newest_to_the_oldest_without_a_gap(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    for number in range(7):
        assert added(store, number, created=1000 + number // 3)  # three in one millisecond
    assert added(store, 100, user="bob")
    seen: list[str] = []
    position = (0, "")
    while rows := store.read(lambda sql, position=position: _page(sql, position)):
        seen += [row.id for row in rows]
        position = (rows[-1].created, rows[-1].id)
    assert seen == [f"{number:032}" for number in (6, 5, 4, 3, 2, 1, 0)]


def _page(sql: PooledStatements, position: tuple[int, str]) -> list[Upload]:
    return upload_rows.page(sql, "101", "ann", position, 2)


def test_rows_of_files_are_erased_unless_a_feature_erases_them(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    store.add_app("shop", {})
    for user in ("ann", "bob"):
        row = Upload(user, "shop", user, "file", "text/plain", "a", 5, "", 1)
        assert store.write(lambda sql, row=row: upload_rows.add(sql, row, 10_000, 10_000))
    store.delete_rows_of_user("shop", "ann", {"upload"})
    assert store.contents("shop").uploads == 2
    store.delete_rows_of_user("shop", "ann")
    assert store.contents("shop").uploads == 1
    assert store.read(lambda sql: upload_rows.usage(sql, "shop", "ann")) == Usage()
    again = Upload("new", "shop", "ann", "file", "text/plain", "a", 5, "", 1)
    quota = 2 * (5 + FILE_BYTES)
    assert store.write(lambda sql: upload_rows.add(sql, again, quota, quota)), "the total is counted anew"
    assert store.read(lambda sql: upload_rows.usage(sql, "shop", upload_rows.TOTAL)) == Usage(10, 2)
    store.delete_app("shop")
    store.delete_rows("shop", {"upload"})
    assert store.contents("shop").uploads == 2
    store.delete_rows("shop")
    assert store.contents("shop").uploads == 0
