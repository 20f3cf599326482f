"""Uploads in several requests: the offset is exact, one request at a time, and
nothing unfinished stays."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event as Flag
from msgspec.structs import replace

from imserver.gateway import errors
from imserver.gateway.errors import HttpProblem, StorageUnavailable
from imserver.gateway.storage.store import Store
from imserver.media.uploads.contract import FILE_BYTES, Upload
from imserver.media.uploads.declared import (
    HTTP_CHECKSUM_MISMATCH,
    HTTP_FILE_TOO_LARGE,
    HTTP_OFFSET_MISMATCH,
    HTTP_QUOTA_EXCEEDED,
    HTTP_UNKNOWN_UPLOAD,
    HTTP_UPLOAD_LOCKED,
    UploadSettings,
)
from imserver.media.uploads.resumable import MAX_UNFINISHED, Checksum, ResumableUploads
from imserver.media.uploads.transfers import TransferRefused
from imserver.media.uploads.uploads import Offer, Uploads

CONTENT = os.urandom(100_000)
OFFER = Offer("101", "ann", "a.bin", "", len(CONTENT), "192.0.2.1")
SETTINGS = UploadSettings(min_free_bytes=0, quota_bytes=1_000_000, thumbnail_pixels=10)


def node(tmp_path: Path, store: Store) -> Uploads:
    """What a node has; all share a folder and a database."""
    return Uploads(SETTINGS, str(tmp_path), store)


@pytest.fixture
def uploads(tmp_path: Path, store: Store) -> Iterator[Uploads]:
    one = node(tmp_path, store)
    yield one
    one.close()


@pytest.fixture
def parts(uploads: Uploads) -> ResumableUploads:
    return ResumableUploads(uploads)


def reader(content: bytes) -> Callable[[int], bytes]:
    """Reads these bytes; then its sender has disconnected."""
    left = bytearray(content)

    def read(most: int) -> bytes:
        piece = bytes(left[:most])
        del left[:most]
        return piece

    return read


def append(
    parts: ResumableUploads,
    name: str,
    offset: int,
    content: bytes,
    length: int = 0,
    checksum: Checksum | None = None,
) -> Upload | None:
    """Send bytes; with a ``length`` the line is lost behind ``content``."""
    with parts.opened("101", "ann", name) as part:
        return parts.append(
            part, OFFER, offset, length or len(content), reader(content), checksum
        )


def offset_of(parts: ResumableUploads, name: str) -> int:
    with parts.opened("101", "ann", name) as part:
        return part.offset


def refusal(function: Callable[[], object]) -> HttpProblem:
    with pytest.raises(TransferRefused) as caught:
        function()
    return caught.value.problem


def test_a_file_arrives_in_parts(parts: ResumableUploads, uploads: Uploads) -> None:
    name = parts.create(OFFER, "filename YS5iaW4=")
    assert offset_of(parts, name) == 0
    assert append(parts, name, 0, CONTENT[:20_000]) is None
    lost = refusal(lambda: append(parts, name, 20_000, CONTENT[20_000:30_000], 80_000))
    assert lost is errors.Problems.BAD_REQUEST
    assert (
        refusal(lambda: append(parts, name, 29_999, CONTENT[29_999:]))
        is HTTP_OFFSET_MISMATCH
    )
    assert (
        refusal(lambda: append(parts, name, 30_000, CONTENT[30_000:] + b"x"))
        is HTTP_FILE_TOO_LARGE
    )
    row = append(parts, name, 30_000, CONTENT[30_000:])
    assert (row.id, row.bytes, row.sha256) == (
        name,
        len(CONTENT),
        hashlib.sha256(CONTENT).hexdigest(),
    )
    assert uploads.find(name) == row
    with parts.opened("101", "ann", name) as part:
        assert (part.finished, part.offset, part.state.metadata) == (
            True,
            len(CONTENT),
            "filename YS5iaW4=",
        )
        parts.remove(part)
    assert uploads.find(name) is None
    assert refusal(lambda: offset_of(parts, name)) is HTTP_UNKNOWN_UPLOAD


def test_bytes_with_another_checksum_do_not_count(
    parts: ResumableUploads, tmp_path: Path, store: Store
) -> None:
    name = parts.create(OFFER, "")
    append(parts, name, 0, CONTENT[:10])
    checksum = Checksum("sha1", hashlib.sha1(CONTENT[10:20]).digest())
    wrong = refusal(lambda: append(parts, name, 10, b"0123456789", checksum=checksum))
    assert wrong is HTTP_CHECKSUM_MISMATCH
    assert offset_of(parts, name) == 10
    assert (
        refusal(lambda: append(parts, name, 10, CONTENT[10:15], 10, checksum))
        is errors.Problems.BAD_REQUEST
    )
    assert offset_of(parts, name) == 10, "nobody knows whether these five are right"
    append(parts, name, 10, CONTENT[10:20], checksum=checksum)
    assert offset_of(parts, name) == 20
    path = next((tmp_path / "uploads").rglob(name))
    path.with_suffix(".from").write_bytes(b"20")  # as a node leaves it that is killed
    with path.open("ab") as file:
        file.write(b"unverified")
    assert offset_of(ResumableUploads(node(tmp_path, store)), name) == 20


def test_another_node_continues(
    parts: ResumableUploads, tmp_path: Path, store: Store
) -> None:
    other_uploads = node(tmp_path, store)
    other = ResumableUploads(other_uploads)
    name = parts.create(OFFER, "")
    append(parts, name, 0, CONTENT[:500])
    with parts.opened("101", "ann", name):
        assert refusal(lambda: offset_of(parts, name)) is HTTP_UPLOAD_LOCKED
        assert refusal(lambda: offset_of(other, name)) is HTTP_UPLOAD_LOCKED
    assert append(other, name, 500, CONTENT[500:]) is not None
    assert offset_of(parts, name) == len(CONTENT)
    other_uploads.close()


def test_a_silent_request_gives_way(
    parts: ResumableUploads, clock: list[float]
) -> None:
    name = parts.create(OFFER, "")
    reads = Flag()
    never = Flag()

    def read(_most: int) -> bytes:
        reads.set()
        never.wait()
        return b""

    def receive() -> None:
        with parts.opened("101", "ann", name) as part:
            parts.append(part, OFFER, 0, len(CONTENT), read)

    silent = gevent.spawn(receive)
    assert reads.wait(60)
    assert refusal(lambda: offset_of(parts, name)) is HTTP_UPLOAD_LOCKED
    clock[0] += 1.1
    assert refusal(lambda: offset_of(parts, name)) is HTTP_UPLOAD_LOCKED
    silent.join(60)
    assert isinstance(silent.exception, TransferRefused)
    assert append(parts, name, 0, CONTENT) is not None


class WithoutDatabase(Uploads):
    """A node that cannot write to the database, nor read while ``is_down``."""

    is_down = False

    def find(self, name: str) -> Upload | None:
        if self.is_down:
            raise StorageUnavailable("gone")
        return super().find(name)

    def finish(self, offer: Offer, path: Path, name: str, sha256: str = "") -> Upload:
        raise StorageUnavailable("gone")


@pytest.fixture
def failing(tmp_path: Path, store: Store) -> Iterator[WithoutDatabase]:
    one = WithoutDatabase(SETTINGS, str(tmp_path), store)
    yield one
    one.close()


def test_the_last_byte_counts_once_the_row_is_there(
    parts: ResumableUploads, failing: WithoutDatabase
) -> None:
    name = parts.create(OFFER, "")
    with pytest.raises(StorageUnavailable):
        append(ResumableUploads(failing), name, 0, CONTENT)
    assert offset_of(parts, name) == len(CONTENT) - 1
    assert append(parts, name, len(CONTENT) - 1, CONTENT[-1:]) is not None


def test_the_answer_to_the_last_request_may_be_lost(
    parts: ResumableUploads, tmp_path: Path
) -> None:
    """The node is killed between its commit and its answer: the state file is
    still there."""
    name = parts.create(OFFER, "")
    assert append(parts, name, 0, CONTENT) is not None
    (done,) = tmp_path.glob(f"**/{name}.done")
    done.rename(done.with_suffix(".json"))
    assert offset_of(parts, name) == len(CONTENT)


def test_unfinished_uploads_count_against_the_quota(
    parts: ResumableUploads, uploads: Uploads
) -> None:
    name = parts.create(replace(OFFER, length=600_000), "")
    too_much = replace(OFFER, length=400_000 - FILE_BYTES)
    assert refusal(lambda: parts.create(too_much, "")) is HTTP_QUOTA_EXCEEDED
    whole = bytes(too_much.length)
    assert (
        refusal(lambda: uploads.receive(too_much, reader(whole))) is HTTP_QUOTA_EXCEEDED
    )
    assert parts.create(replace(too_much, user="bob"), "")
    with parts.opened("101", "ann", name) as part:
        parts.remove(part)
    assert parts.create(too_much, "")


def test_uploads_that_begin_at_once_do_not_exceed_the_quota(
    parts: ResumableUploads,
) -> None:
    def begin(_: int) -> bool:
        try:
            parts.create(replace(OFFER, length=600_000), "")
        except TransferRefused:
            return False
        return True

    begun = gevent.joinall([gevent.spawn(begin, number) for number in range(8)])
    assert sum(each.value for each in begun) <= 1
    assert begin(0) is not any(each.value for each in begun), (
        "refused uploads leave nothing"
    )


def test_an_upload_whose_id_nobody_learns_is_removed(
    parts: ResumableUploads, failing: WithoutDatabase, tmp_path: Path
) -> None:
    failing.is_down = True
    with pytest.raises(StorageUnavailable), ResumableUploads(failing).begun(OFFER, ""):
        pass
    assert [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()] == []
    with parts.begun(OFFER, "") as part:
        assert part.offset == 0
    assert offset_of(parts, part.id) == 0


@pytest.mark.parametrize("damaged", [b"", b'{"len'])
def test_a_damaged_state_file_stops_no_other_upload(
    parts: ResumableUploads, uploads: Uploads, tmp_path: Path, damaged: bytes
) -> None:
    name = parts.create(OFFER, "")
    (state,) = tmp_path.glob(f"**/{name}.json")
    state.write_bytes(damaged)
    assert refusal(lambda: offset_of(parts, name)) is HTTP_UNKNOWN_UPLOAD
    assert uploads.unfinished(OFFER) == []
    assert append(parts, parts.create(OFFER, ""), 0, CONTENT) is not None


def test_a_user_has_so_many_unfinished_uploads(parts: ResumableUploads) -> None:
    names = [parts.create(replace(OFFER, length=10), "") for _ in range(MAX_UNFINISHED)]
    assert refusal(lambda: parts.create(OFFER, "")) is HTTP_QUOTA_EXCEEDED
    append_all = Offer("101", "ann", "", "", 10)
    with parts.opened("101", "ann", names[0]) as part:
        assert parts.append(part, append_all, 0, 10, reader(CONTENT)) is not None
    assert parts.create(OFFER, "")


def test_an_upload_expires_a_day_after_its_last_request(
    parts: ResumableUploads, uploads: Uploads, tmp_path: Path
) -> None:
    names = [parts.create(OFFER, "") for _ in range(2)]
    root = tmp_path / "uploads"
    long_ago = time.time() - 2 * 86400
    for name in names:
        path = next(root.rglob(name))
        os.utime(path, (long_ago, long_ago))
        if name == names[0]:
            for suffix in (".json", ".sure"):
                os.utime(path.with_suffix(suffix), (long_ago, long_ago))
    assert refusal(lambda: offset_of(parts, names[0])) is HTTP_UNKNOWN_UPLOAD
    # The first upload has started a sweep of its own, which may remove a file
    # before this one does.
    uploads.storage.directory.sweep()
    left = {path.name for path in root.rglob("*") if path.is_file()}
    assert left == {names[1], f"{names[1]}.json", f"{names[1]}.sure"}, (
        "a request has come for the second upload"
    )
    assert offset_of(parts, names[1]) == 0


def test_the_uploads_of_a_deleted_user_are_forgotten(
    parts: ResumableUploads, uploads: Uploads, store: Store
) -> None:
    name = parts.create(OFFER, "")
    uploads.forget("101", "bob")
    assert offset_of(parts, name) == 0
    uploads.forget("101", "ann")
    assert refusal(lambda: offset_of(parts, name)) is HTTP_UNKNOWN_UPLOAD
    store.add_app("shop", {})
    of_shop = parts.create(replace(OFFER, app="shop"), "")
    uploads.forget_app("shop")
    with parts.opened("shop", "ann", of_shop):
        pass
    store.delete_app("shop")
    uploads.forget_app("shop")
    with pytest.raises(TransferRefused), parts.opened("shop", "ann", of_shop):
        pass
