"""Files that are coming in: read, recognised, measured, brought to their place, and entered.

A file goes to the disk as it comes. What it is, its own bytes say. When it is whole it is brought to its
place; when it is there, its row is written; when that is committed, its sender is told. So whatever has a row
has its bytes. (A node that dies in between may leave bytes without a row, which nobody can name.)
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from secrets import token_urlsafe
from time import monotonic, time
from typing import IO, TYPE_CHECKING, Final

import gevent
from msgspec import Struct
from msgspec.structs import replace

from imserver import errors
from imserver.errors import HttpProblem, ImserverError, MediaUnavailable, StorageUnavailable
from imserver.metrics import Metrics
from imserver.services.files.media_types import HEAD_BYTES, UNKNOWN, MediaType, type_of
from imserver.services.files.thumbnails import Thumbnails
from imserver.services.files.upload_places import Places, thumbnail_beside
from imserver.settings import UploadSettings
from imserver.storage.media import PIECE_BYTES
from imserver.storage.store import Store
from imserver.storage.upload_contract import MAX_USER_BYTES, Upload, Usage

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

MAX_NAME_CHARACTERS: Final = 255
_ID_BYTES: Final = 24


class Refused(ImserverError):
    """The file is not taken, or not given."""

    def __init__(self, problem: HttpProblem, detail: str = "") -> None:
        super().__init__(detail or problem.message)
        self.problem = problem
        self.detail = detail


class Offer(Struct, frozen=True):
    """A file that somebody wants to upload. ``kind`` ``""``: whatever it is."""

    app: str
    user: str
    name: str
    kind: str
    length: int


class Arrivals:
    """Takes files in. Owner of the count of those under way."""

    def __init__(
        self,
        settings: UploadSettings,
        places: Places,
        store: Store,
        metrics: Metrics,
        usage: Callable[[str, str], Usage],
    ) -> None:
        self._settings = settings
        self._places = places
        self._store = store
        self._metrics = metrics
        self._usage = usage
        self._thumbnails = Thumbnails(settings.thumbnail_pixels)
        self._arriving: dict[object, int] = {}
        self._swept = False

    def receive(self, offer: Offer, read: Callable[[int], bytes]) -> Upload:
        """Take a file in. ``read(n)`` gives up to ``n`` more bytes of it, none when its sender has gone.

        Nothing is read of a file that can be refused before. Switches. Raises :class:`Refused`,
        MediaUnavailable, StorageUnavailable, and what ``read`` raises; nothing is kept then.
        """
        self._check(offer)
        mark = object()
        self._arriving[mark] = offer.length
        try:
            self._check_room(offer)
            folder = self._places.directory.incoming()
            if not self._swept:
                self._swept = True
                gevent.spawn(self._sweep)
            path = folder / token_urlsafe(_ID_BYTES)
            try:
                return self._take(offer, read, path)
            finally:
                self._places.discard(path)
        except Refused:
            self._metrics.uploads_refused += 1
            raise
        finally:
            del self._arriving[mark]

    def _check(self, offer: Offer) -> None:
        """Refuse what needs no look at anything but the offer."""
        if offer.length > self._limit_of(offer.kind):
            raise Refused(errors.HTTP_FILE_TOO_LARGE)
        if offer.length < 1:
            raise Refused(errors.HTTP_LENGTH_REQUIRED)
        if not self._settings.kinds or (offer.kind and offer.kind not in self._settings.kinds):
            raise Refused(errors.HTTP_KIND_REFUSED)
        if not 0 < len(offer.user.encode()) <= MAX_USER_BYTES or "\0" in offer.user:
            raise Refused(errors.HTTP_INVALID_REQUEST, f"`user` has 1 to {MAX_USER_BYTES} bytes")
        if len(self._arriving) >= self._settings.at_once:
            raise Refused(errors.HTTP_BUSY, f"{self._settings.at_once} files arrive already")

    def _limit_of(self, kind: str) -> int:
        settings = self._settings
        limits = {"picture": settings.picture_bytes, "voice": settings.voice_bytes}
        return min(limits.get(kind, settings.max_bytes), settings.max_bytes)

    def _check_room(self, offer: Offer) -> None:
        """Refuse what there is no room for, before its sender takes the trouble."""
        quota = self._settings.quota_bytes
        if quota and self._usage(offer.app, offer.user).bytes + offer.length > quota:
            raise Refused(errors.HTTP_QUOTA_EXCEEDED)
        self._places.directory.incoming()
        awaited = sum(self._arriving.values())
        if self._places.directory.free_bytes() - awaited < self._settings.min_free_bytes:
            log.error("the disk of the folder of uploads is full")
            raise Refused(errors.HTTP_DISK_FULL)

    def _sweep(self) -> None:
        try:
            removed = self._places.directory.sweep()
        except OSError as error:
            log.warning("the folder of uploads could not be swept: %s", error)
            return
        if removed:
            log.info("removed %d files that were never uploaded to their end", removed)

    def _take(self, offer: Offer, read: Callable[[int], bytes], path: Path) -> Upload:
        media, digest = self._write(offer, read, path)
        row = Upload(
            id=token_urlsafe(_ID_BYTES),
            app=offer.app,
            user=offer.user,
            kind=media.kind,
            type=media.type,
            name=shown_name(offer.name),
            bytes=offer.length,
            sha256=digest,
            created=int(time() * 1000),
            place=self._places.current,
        )
        if media.kind == "picture":
            row = self._looked_at(row, path)
        self._demand(MediaType(row.kind, row.type), offer)
        self._keep(row, path)
        return row

    def _write(self, offer: Offer, read: Callable[[int], bytes], path: Path) -> tuple[MediaType, str]:
        """Write the file to ``path`` as it comes; what it is, and its SHA-256."""
        deadline = monotonic() + self._settings.seconds
        digest, left, head = hashlib.sha256(), offer.length, b""
        media: MediaType | None = None
        file: IO[bytes] = self._opened(path)
        try:
            while left:
                # Who sends a byte now and then does not fall silent, so the socket's own patience has no end.
                with gevent.Timeout(max(deadline - monotonic(), 0.001), Refused(errors.HTTP_TIMEOUT)):
                    piece = read(min(PIECE_BYTES, left))
                if not piece:
                    raise Refused(errors.HTTP_BAD_REQUEST, "The file ended before it was whole")
                left -= len(piece)
                if media is None:
                    head += piece[:HEAD_BYTES]
                    if len(head) >= HEAD_BYTES or not left:
                        media = type_of(head[:HEAD_BYTES])
                        self._demand(media, offer)
                self._append(file, digest, piece)
        finally:
            file.close()
        return media or UNKNOWN, digest.hexdigest()

    def _opened(self, path: Path) -> IO[bytes]:
        try:
            return self._places.files.do(open, path, "xb", 0)
        except OSError as error:
            raise MediaUnavailable(f"the folder of uploads cannot be used: {error.strerror}") from None

    def _append(self, file: IO[bytes], digest: _Hash, piece: bytes) -> None:
        def work() -> None:
            digest.update(piece)
            file.write(piece)

        try:
            self._places.files.do(work)
        except OSError as error:
            raise MediaUnavailable(f"the folder of uploads cannot be used: {error.strerror}") from None

    def _demand(self, media: MediaType, offer: Offer) -> None:
        """Refuse content that is not taken, or not what it was said to be, or too large for what it is."""
        if media.kind not in self._settings.kinds:
            raise Refused(errors.HTTP_KIND_REFUSED, f"The file is a {media.kind} ({media.type})")
        if offer.kind and media.kind != offer.kind:
            raise Refused(errors.HTTP_KIND_REFUSED, f"The file is no {offer.kind}: {media.type}")
        if offer.length > self._limit_of(media.kind):
            raise Refused(errors.HTTP_FILE_TOO_LARGE)

    def _looked_at(self, row: Upload, path: Path) -> Upload:
        """A picture with its measures and its thumbnail; one that cannot be read is no picture."""
        target = thumbnail_beside(path)
        found = self._thumbnails.look(path, row.type, target)
        if found is None:
            return replace(row, kind=UNKNOWN.kind, type=UNKNOWN.type)
        row = replace(row, width=found.width, height=found.height)
        if not found.thumbnail:
            return row
        size = self._places.files.do(target.stat).st_size
        return replace(row, thumbnail_bytes=size, thumbnail_type=found.thumbnail)

    def _keep(self, row: Upload, path: Path) -> None:
        """Bring a file to its place, and commit its row."""
        self._places.put(row, path)
        from imserver.storage import upload_rows

        quota = self._settings.quota_bytes
        try:
            kept = self._store.write(lambda connection: upload_rows.add(connection, row, quota))
        except StorageUnavailable:
            raise  # perhaps it was committed all the same, so its bytes have to stay
        except BaseException:
            self._places.remove(row)
            raise
        if not kept:
            self._places.remove(row)
            raise Refused(errors.HTTP_QUOTA_EXCEEDED)
        self._metrics.uploads += 1
        self._metrics.upload_bytes += row.bytes

    def close(self) -> None:
        """End the thread that draws thumbnails."""
        self._thumbnails.close()


def shown_name(name: str) -> str:
    """A file's name as it may be shown: without folders, without what cannot be printed, and not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[:MAX_NAME_CHARACTERS]
