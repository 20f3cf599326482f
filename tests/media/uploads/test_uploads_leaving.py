"""Files on their way out: no more at once than may, and nobody keeps others from theirs for ever."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway import errors
from imserver.media.uploads.contract import Upload
from imserver.media.uploads.declared import HTTP_UNKNOWN_UPLOAD, UploadSettings
from imserver.media.uploads.transfers import GRACE_SECONDS, Pieces, TransferRefused
from imserver.media.uploads.uploads import Uploads

CONTENT = bytes(range(256)) * 1000
ROW = Upload("a" * 32, "101", "u", "file", "application/octet-stream", "", len(CONTENT), "", 0)


@pytest.fixture
def uploads(tmp_path: Path, clock: list[float]) -> Iterator[Uploads]:
    settings = UploadSettings(at_once=2)
    store: Any = None  # nothing is asked of it
    one = Uploads(settings, str(tmp_path), store)
    path = tmp_path / "uploads" / "aa" / ROW.id
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    yield one
    one.close()


def leaving(uploads: Uploads) -> Pieces:
    """A file that has begun to leave."""
    pieces = uploads.open(ROW, False, 0, len(CONTENT) - 1)
    assert CONTENT.startswith(next(pieces))
    return pieces


def refused(uploads: Uploads) -> errors.HttpProblem:
    with pytest.raises(TransferRefused) as caught:
        uploads.open(ROW, False, 0, 0)
    return caught.value.problem


def test_no_more_leave_at_once_than_may(uploads: Uploads) -> None:
    first, second = leaving(uploads), leaving(uploads)
    assert refused(uploads) is errors.Problems.BUSY
    first.close()
    first.close()
    third = leaving(uploads)
    assert refused(uploads) is errors.Problems.BUSY
    for one in (second, third):
        one.close()


def test_who_fetches_a_file_for_too_long_gives_way_to_who_waits(uploads: Uploads, clock: list[float]) -> None:
    slow, quick = leaving(uploads), leaving(uploads)
    assert next(quick)
    clock[0] += GRACE_SECONDS
    assert next(slow), "as long as nobody waits it goes on"
    third = leaving(uploads)
    with pytest.raises(BrokenPipeError):
        next(slow)
    slow.close()
    fourth = leaving(uploads)
    with pytest.raises(BrokenPipeError):
        next(quick)
    quick.close()
    assert refused(uploads) is errors.Problems.BUSY
    for one in (third, fourth):
        one.close()


def test_a_file_that_is_not_there_takes_no_slot(uploads: Uploads, caplog: pytest.LogCaptureFixture) -> None:
    gone = Upload("b" * 32, "101", "u", "file", "", "", 10, "", 0)
    for _ in range(3):
        with pytest.raises(TransferRefused) as caught:
            uploads.open(gone, False, 0, 9)
        assert caught.value.problem is HTTP_UNKNOWN_UPLOAD
    assert "is not where it was stored" in caplog.text
    leaving(uploads).close()
