"""Slow or many transfers of a few hold nobody else up, and what is stored is
private and bounded."""

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event as Flag
from msgspec.structs import replace

from imserver.gateway import errors
from imserver.gateway.storage.statements import PooledStatements
from imserver.gateway.storage.store import Store
from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import FILE_BYTES, Upload, Usage
from imserver.media.uploads.declared import (
    HTTP_DISK_FULL,
    HTTP_QUOTA_EXCEEDED,
    HTTP_UNKNOWN_UPLOAD,
    UploadSettings,
)
from imserver.media.uploads.transfers import (
    GRACE_SECONDS,
    Pieces,
    TransferRefused,
    Transfers,
)
from imserver.media.uploads.uploads import Offer, Uploads
from tests.media.uploads.test_boxes import FILES, SPOT
from tests.security.node_harness import ALL, Harness, config
from tests.stores import OpenStore

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
    b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
)


def test_a_user_and_an_address_have_a_share_of_the_slots(clock: list[float]) -> None:
    settings = UploadSettings(at_once=7, at_once_per_user=2, at_once_per_address=3)
    transfers = Transfers(settings)
    for _ in range(2):
        transfers.begin(("101", "eve"), "192.0.2.1")
    with pytest.raises(TransferRefused):
        transfers.begin(("101", "eve"), "192.0.2.9")
    transfers.begin(("101", "mallory"), "192.0.2.1")
    with pytest.raises(TransferRefused):
        transfers.begin(("101", "trudy"), "192.0.2.1")
    assert transfers.begin(("101", "ann"), "2001:db8::1")
    transfers.begin(None, "2001:db8::2")
    transfers.begin(None, "2001:db8::3")
    with pytest.raises(TransferRefused):
        transfers.begin(None, "2001:db8::4")


def test_the_slowest_gives_way_when_all_slots_are_taken(clock: list[float]) -> None:
    transfers = Transfers(UploadSettings(at_once=3, at_once_per_address=9))
    some = [transfers.begin(None, f"192.0.2.{number}") for number in range(3)]
    for one, size in zip(some, (500, 20, 300), strict=True):
        one.bytes = size
    with pytest.raises(TransferRefused) as caught:
        transfers.begin(None, "198.51.100.1")
    assert caught.value.problem is errors.Problems.BUSY, "all are young"
    clock[0] += GRACE_SECONDS
    transfers.begin(None, "198.51.100.1")
    assert [one.ended for one in some] == [False, True, False]


def test_a_transfer_that_is_ended_between_two_reads_ends_at_the_next_one(
    clock: list[float],
) -> None:
    transfers = Transfers(UploadSettings(min_bytes_per_second=100))
    one = transfers.begin(None, "192.0.2.1")
    one.bytes = 1000
    assert transfers.deadline(one) == clock[0] + GRACE_SECONDS + 10
    with one.reading():
        one.bytes = 1
    one.end()
    with pytest.raises(TransferRefused) as caught, one.reading():
        one.bytes = 2
    assert (caught.value.problem, one.bytes) == (errors.Problems.BUSY, 1)


def test_a_transfer_that_is_ended_while_it_waits_for_bytes_ends_at_once() -> None:
    one = Transfers(UploadSettings()).begin(None, "192.0.2.1")

    def wait() -> None:
        with one.reading():
            Flag().wait()

    waiting = gevent.spawn(wait)
    gevent.sleep(0)
    one.end()
    waiting.join(60)
    assert isinstance(waiting.exception, TransferRefused)


@pytest.fixture
def uploads(tmp_path: Path, store: Store) -> Iterator[Uploads]:
    """Uploads with small quotas of an app and an address."""
    settings = UploadSettings(
        min_free_bytes=0,
        quota_bytes=0,
        quota_app_bytes=10_000,
        daily_address_bytes=7000,
        thumbnail_pixels=1,
    )
    one = Uploads(settings, str(tmp_path), store)
    yield one
    one.close()


def take(
    uploads: Uploads,
    user: str,
    address: str,
    content: bytes = bytes(400),
    app: str = "101",
) -> Any:
    parts = iter([content])
    offer = Offer(app, user, "", "", len(content), address)
    return uploads.receive(offer, lambda _most: next(parts, b""))


def test_an_app_has_a_quota_and_what_is_above_it_leaves_no_file(
    uploads: Uploads, tmp_path: Path
) -> None:
    first = take(uploads, "ann", "192.0.2.1")
    take(uploads, "bob", "192.0.2.2")
    with pytest.raises(TransferRefused) as caught:
        take(uploads, "cid", "192.0.2.3")
    assert caught.value.problem is HTTP_QUOTA_EXCEEDED
    take(uploads, "cid", "192.0.2.3", app="102")
    assert uploads.usage("101", upload_rows.TOTAL).charged == 800 + 2 * FILE_BYTES
    uploads.delete(first.id)
    assert uploads.usage("101", upload_rows.TOTAL).bytes == 400
    take(uploads, "cid", "192.0.2.4")
    parts = iter([bytes(400)])

    def read(_: int) -> bytes:
        # as if others had come meanwhile
        uploads.settings = replace(uploads.settings, quota_app_bytes=1)
        return next(parts, b"")

    with pytest.raises(TransferRefused) as caught:
        uploads.receive(Offer("103", "dan", "", "", 400, "192.0.2.5"), read)
    assert caught.value.problem is HTTP_QUOTA_EXCEEDED
    assert sum(path.is_file() for path in (tmp_path / "uploads").rglob("*")) == 3


def test_an_address_uploads_so_much_in_a_day_and_what_the_disk_refuses_does_not_count(
    uploads: Uploads,
) -> None:
    settings = uploads.settings
    uploads.settings = replace(uploads.settings, min_free_bytes=1 << 60)
    with pytest.raises(TransferRefused) as caught:
        take(uploads, "ann", "192.0.2.1")
    assert caught.value.problem is HTTP_DISK_FULL
    uploads.settings = settings
    take(uploads, "ann", "192.0.2.1")
    with pytest.raises(TransferRefused) as caught:
        take(uploads, "bob", "192.0.2.1", app="102")
    assert caught.value.problem is HTTP_QUOTA_EXCEEDED
    take(uploads, "bob", "192.0.2.2", app="102")


def test_an_upload_below_the_minimum_rate_ends(
    uploads: Uploads, clock: list[float]
) -> None:
    pieces = iter([b"x"])
    never = Flag()

    def read(_most: int) -> bytes:
        clock[0] += GRACE_SECONDS + 1
        return next(pieces, b"") or bytes(never.wait())

    with pytest.raises(TransferRefused) as caught:
        uploads.receive(Offer("101", "eve", "", "", 100, "192.0.2.1"), read)
    assert caught.value.problem is errors.Problems.TIMEOUT


def test_a_picture_has_no_place_and_nobody_else_on_the_machine_can_read_it(
    uploads: Uploads, tmp_path: Path
) -> None:
    content = FILES["heic"]
    row = take(uploads, "ann", "192.0.2.1", content)
    stored = b"".join(uploads.open(row, False, 0, row.bytes - 1))
    assert len(stored) == len(content)
    assert SPOT not in stored
    assert row.sha256 == sha256(stored).hexdigest()
    take(uploads, "bob", "192.0.2.2", PNG)
    paths = [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
    assert len(paths) == 3, "the pictures and a thumbnail"
    for path in (*paths, *(tmp_path / "uploads").rglob("*"), tmp_path / "uploads"):
        assert stat.S_IMODE(path.stat().st_mode) == (
            0o600 if path.is_file() else 0o700
        ), path


CONTENT = bytes(range(256)) * 1000
FILE = Upload(
    "a" * 32, "101", "u", "file", "application/octet-stream", "", len(CONTENT), "", 0
)


@pytest.fixture
def sending(tmp_path: Path, clock: list[float]) -> Iterator[Uploads]:
    settings = UploadSettings(at_once=2)
    store: Any = None  # nothing is asked of it
    one = Uploads(settings, str(tmp_path), store)
    path = tmp_path / "uploads" / "aa" / FILE.id
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    yield one
    one.close()


def leaving(sending: Uploads) -> Pieces:
    """A file that has begun to leave."""
    pieces = sending.open(FILE, False, 0, len(CONTENT) - 1)
    assert CONTENT.startswith(next(pieces))
    return pieces


def refused(sending: Uploads) -> errors.HttpProblem:
    with pytest.raises(TransferRefused) as caught:
        sending.open(FILE, False, 0, 0)
    return caught.value.problem


def test_no_more_leave_at_once_than_may(sending: Uploads) -> None:
    first = leaving(sending)
    second = leaving(sending)
    assert refused(sending) is errors.Problems.BUSY
    first.close()
    first.close()
    third = leaving(sending)
    assert refused(sending) is errors.Problems.BUSY
    for one in (second, third):
        one.close()


def test_who_fetches_a_file_for_too_long_gives_way_to_who_waits(
    sending: Uploads, clock: list[float]
) -> None:
    slow = leaving(sending)
    quick = leaving(sending)
    assert next(quick)
    clock[0] += GRACE_SECONDS
    assert next(slow), "as long as nobody waits it goes on"
    third = leaving(sending)
    with pytest.raises(BrokenPipeError):
        next(slow)
    slow.close()
    fourth = leaving(sending)
    with pytest.raises(BrokenPipeError):
        next(quick)
    quick.close()
    assert refused(sending) is errors.Problems.BUSY
    for one in (third, fourth):
        one.close()


def test_a_file_that_is_not_there_takes_no_slot(
    sending: Uploads, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Upload("b" * 32, "101", "u", "file", "", "", 10, "", 0)
    for _ in range(3):
        with pytest.raises(TransferRefused) as caught:
            sending.open(gone, False, 0, 9)
        assert caught.value.problem is HTTP_UNKNOWN_UPLOAD
    assert "is not where it was stored" in caplog.text
    leaving(sending).close()


# --- rows of uploaded files, on every engine ----------------------------------

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


def test_a_row_comes_back_as_it_was_stored_and_gives_its_bytes_back(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    assert store.write(
        lambda sql: upload_rows.add(sql, msgspec.structs.replace(ROW, user="cid"), 0)
    )
    assert store.read(
        lambda sql: upload_rows.find(sql, ROW.id)
    ) == msgspec.structs.replace(ROW, user="cid")
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
def test_a_quota_holds_for_files_that_come_at_once(
    url: str, open_store: OpenStore, before: int
) -> None:
    stores = [open_store(url) for _ in range(4)]
    quota = 500 + 5 * FILE_BYTES
    taken = 0
    for number in range(before):
        assert added(stores[0], 100 + number, quota)
    with ThreadPoolExecutor(len(stores)) as threads:
        for first in (0, 4, 8):
            ids = range(first, first + len(stores))
            taken += sum(
                threads.map(lambda store, id: added(store, id, quota), stores, ids)
            )
    assert (taken, usage(stores[0])) == (5 - before, Usage(500, 5))


def test_pages_go_from_the_newest_to_the_oldest_without_a_gap(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    for number in range(7):
        # three in one millisecond
        assert added(store, number, created=1000 + number // 3)
    assert added(store, 100, user="bob")
    seen: list[str] = []
    position = (0, "")
    while rows := store.read(lambda sql, position=position: _page(sql, position)):
        seen += [row.id for row in rows]
        position = (rows[-1].created, rows[-1].id)
    assert seen == [f"{number:032}" for number in (6, 5, 4, 3, 2, 1, 0)]


def _page(sql: PooledStatements, position: tuple[int, str]) -> list[Upload]:
    return upload_rows.page(sql, "101", "ann", position, 2)


def test_rows_of_files_are_erased_unless_a_feature_erases_them(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    store.add_app("shop", {})
    for user in ("ann", "bob"):
        row = Upload(user, "shop", user, "file", "text/plain", "a", 5, "", 1)
        assert store.write(
            lambda sql, row=row: upload_rows.add(sql, row, 10_000, 10_000)
        )
    store.delete_rows_of_user("shop", "ann", {"upload"})
    assert store.contents("shop").uploads == 2
    store.delete_rows_of_user("shop", "ann")
    assert store.contents("shop").uploads == 1
    assert store.read(lambda sql: upload_rows.usage(sql, "shop", "ann")) == Usage()
    again = Upload("new", "shop", "ann", "file", "text/plain", "a", 5, "", 1)
    quota = 2 * (5 + FILE_BYTES)
    assert store.write(lambda sql: upload_rows.add(sql, again, quota, quota)), (
        "the total is counted anew"
    )
    assert store.read(
        lambda sql: upload_rows.usage(sql, "shop", upload_rows.TOTAL)
    ) == Usage(10, 2)
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
    first, second = harness.call("POST", "/api/v1/batch", commands, ALL.key)[1][
        "results"
    ]
    assert (first["status"], first["body"]) == (200, {"deleted": False})
    assert second["status"] == 404, "a batch takes no files"
    sent = harness.web.post(
        "/api/v1/uploads?app=204&user=ann",
        data=b"text",
        headers={"Authorization": f"Bearer {ALL.key}"},
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
