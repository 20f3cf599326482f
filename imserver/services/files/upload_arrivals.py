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
from imserver.errors import MediaUnavailable, StorageUnavailable
from imserver.metrics import Metrics
from imserver.services.files.media_types import HEAD_BYTES, UNKNOWN, MediaType, type_of
from imserver.services.files.thumbnails import Thumbnails
from imserver.services.files.transfers import Refused, Transfer, Transfers
from imserver.services.files.upload_places import Places, thumbnail_beside
from imserver.services.people.attempts import Attempts, TooManyFailures, network_of
from imserver.settings import UploadSettings
from imserver.storage.contract import MAX_USER_BYTES, Upload, Usage
from imserver.storage.media import PIECE_BYTES, open_private
from imserver.storage.store import Store

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

MAX_NAME_CHARACTERS: Final = 255
_ID_BYTES: Final = 24
_DAY_SECONDS: Final = 86400.0


class Offer(Struct, frozen=True):
    """A file that somebody wants to upload. ``kind`` ``""``: whatever it is. ``address``: of its sender."""

    app: str
    user: str
    name: str
    kind: str
    length: int
    address: str = ""


class Arrivals:
    """Takes files in."""

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
        self._transfers = Transfers(settings)
        self._awaited = 0
        """Bytes of all files under way."""
        daily = settings.daily_address_bytes
        self._by_address = Attempts(daily, _DAY_SECONDS) if daily else None
        self._swept = False

    def receive(self, offer: Offer, read: Callable[[int], bytes]) -> Upload:
        """Take a file in. ``read(n)`` gives up to ``n`` more bytes of it, none when its sender has gone.

        Nothing is read of a file that can be refused before. Switches. Raises :class:`Refused`,
        MediaUnavailable, StorageUnavailable, and what ``read`` raises; nothing is kept then.
        """
        self._check(offer)
        transfer = self._transfers.begin((offer.app, offer.user), offer.address)
        self._awaited += offer.length
        try:
            self._check_room(offer)
            folder = self._places.directory.incoming()
            if not self._swept:
                self._swept = True
                gevent.spawn(self._sweep)
            path = folder / token_urlsafe(_ID_BYTES)
            try:
                return self._take(offer, read, path, transfer)
            finally:
                self._places.discard(path)
        except Refused:
            self._metrics.uploads_refused += 1
            raise
        finally:
            self._awaited -= offer.length
            self._transfers.end(transfer)

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

    def _limit_of(self, kind: str) -> int:
        settings = self._settings
        limits = {"picture": settings.picture_bytes, "voice": settings.voice_bytes}
        return min(limits.get(kind, settings.max_bytes), settings.max_bytes)

    def _check_room(self, offer: Offer) -> None:
        """Refuse what there is no room for, before its sender takes the trouble."""
        for user, quota in ((offer.user, self._settings.quota_bytes), ("", self._settings.quota_app_bytes)):
            if quota and self._usage(offer.app, user).bytes + offer.length > quota:
                raise Refused(errors.HTTP_QUOTA_EXCEEDED)
        if self._by_address is not None and offer.address:
            network = network_of(offer.address)
            try:
                self._by_address.require(network, offer.length)
            except TooManyFailures:
                raise Refused(errors.HTTP_QUOTA_EXCEEDED, "uploads.daily_address_bytes is reached") from None
            self._by_address.failed(network, offer.length)
        self._places.directory.incoming()
        if self._places.directory.free_bytes() - self._awaited < self._settings.min_free_bytes:
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

    def _take(self, offer: Offer, read: Callable[[int], bytes], path: Path, transfer: Transfer) -> Upload:
        media, digest = self._write(offer, read, path, transfer)
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

    def _write(
        self, offer: Offer, read: Callable[[int], bytes], path: Path, transfer: Transfer
    ) -> tuple[MediaType, str]:
        """Write the file to ``path`` as it comes; what it is, and its SHA-256."""
        deadline = monotonic() + self._settings.seconds
        digest, left, head = hashlib.sha256(), offer.length, b""
        media: MediaType | None = None
        file: IO[bytes] = self._opened(path)
        try:
            while left:
                # Who sends a byte now and then does not fall silent, so the socket's own patience has no end.
                until = min(deadline, self._transfers.deadline(transfer))
                with (
                    gevent.Timeout(max(until - monotonic(), 0.001), Refused(errors.HTTP_TIMEOUT)),
                    _Interruptible(transfer),
                ):
                    piece = read(min(PIECE_BYTES, left))
                if not piece:
                    raise Refused(errors.HTTP_BAD_REQUEST, "The file ended before it was whole")
                left -= len(piece)
                transfer.bytes += len(piece)
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
            return self._places.files.do(open_private, path)
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

        quota, app_quota = self._settings.quota_bytes, self._settings.quota_app_bytes
        try:
            kept = self._store.write(lambda connection: upload_rows.add(connection, row, quota, app_quota))
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


class _Interruptible:
    """While it is entered, a transfer that gives way raises :class:`Refused`."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._greenlet = gevent.getcurrent()
        self._waits = False

    def __enter__(self) -> None:
        self._waits = True
        self._transfer.give_way = self._give_way

    def __exit__(self, *_: object) -> None:
        self._waits = False

    def _give_way(self) -> None:
        gevent.get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        # What has been read meanwhile is being written: the transfer goes on to its next read.
        if self._waits:
            self._greenlet.throw(Refused(errors.HTTP_BUSY, "The slowest file gives way to another"))


def shown_name(name: str) -> str:
    """A file's name as it may be shown: without folders, without what cannot be printed, and not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[:MAX_NAME_CHARACTERS]
