"""Rows of uploaded files, on every engine: the quota holds, however many come at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from imserver.gateway.storage.statements import PooledStatements
from imserver.gateway.storage.store import Store
from imserver.media.uploads import Uploads, upload_rows
from imserver.media.uploads.contract import FILE_BYTES, Upload, Usage
from tests.security.node_harness import ALL, Harness, config
from tests.stores import OpenStore

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


def test_a_row_comes_back_as_it_was_stored_and_gives_its_bytes_back(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    assert store.write(lambda sql: upload_rows.add(sql, msgspec.structs.replace(ROW, user="cid"), 0))
    assert store.read(lambda sql: upload_rows.find(sql, ROW.id)) == msgspec.structs.replace(ROW, user="cid")
    assert store.read(lambda sql: upload_rows.find(sql, ROW.id.upper())) is None
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


@pytest.mark.parametrize("before", [0, 1])
def test_a_quota_holds_for_files_that_come_at_once(url: str, open_store: OpenStore, before: int) -> None:
    stores, quota, taken = [open_store(url) for _ in range(4)], 500 + 5 * FILE_BYTES, 0
    for number in range(before):
        assert added(stores[0], 100 + number, quota)
    with ThreadPoolExecutor(len(stores)) as threads:
        for first in (0, 4, 8):
            ids = range(first, first + len(stores))
            taken += sum(threads.map(lambda store, id: added(store, id, quota), stores, ids))
    assert (taken, usage(stores[0])) == (5 - before, Usage(500, 5))


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


@pytest.mark.parametrize("features", [None, ("messages",)])
def test_the_rows_of_an_erased_user_are_erased(
    tmp_path: Path, features: tuple[str, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness(config(tmp_path))
    commands = {"commands": [{"uploads/delete": {"id": "x" * 32}}, {"uploads": {}}]}
    first, second = harness.call("POST", "/api/v1/batch", commands, ALL.key)[1]["results"]
    assert (first["status"], first["body"]) == (200, {"deleted": False})
    assert second["status"] == 404, "a batch takes no files"
    sent = harness.web.post(
        "/api/v1/uploads?app=204&user=ann", data=b"text", headers={"Authorization": f"Bearer {ALL.key}"}
    )
    assert sent.status_code == 201, sent.data
    folder = harness.node.core.service(Uploads).incoming().parent
    harness.close()
    harness = Harness(config(tmp_path, features=features))
    parts = harness.node.core
    assert parts.store.contents("204").uploads == 1
    parts.erase_user("204", "ann")
    assert parts.store.contents("204").uploads == 0
    harness.close()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == (0 if features is None else 1), "bytes are the feature's"
    assert ("erased the rows of 1 files" in caplog.text) == (features is not None)
