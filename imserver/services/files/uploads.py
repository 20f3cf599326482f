"""Uploaded files: taken in, recognised, measured, stored, given out and removed.

A file is written to the disk as it arrives. When it is complete it is moved to its place, then its row is
written, and the sender is answered after the commit. So every row has its bytes. (A node that dies in between
may leave bytes without a row, which cannot be requested.)
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_urlsafe
from time import monotonic, time
from typing import IO, TYPE_CHECKING, Final, Self

import gevent
from msgspec import Struct
from msgspec.structs import replace

from imserver import errors
from imserver.config.settings import UploadSettings
from imserver.errors import MediaUnavailable, StorageUnavailable
from imserver.metrics import Metrics
from imserver.services.files.media import HEAD_BYTES, UNKNOWN, MediaType, Thumbnails, type_of
from imserver.services.files.transfers import Transfer, TransferRefused, Transfers
from imserver.services.people.attempts import Attempts, TooManyFailures, network_of
from imserver.storage.contract import MAX_USER_BYTES, Media, Upload, Usage
from imserver.storage.media import PIECE_BYTES, Directory, Files, open_private
from imserver.storage.store import Store

if TYPE_CHECKING:
    from hashlib import _Hash


log = logging.getLogger(__name__)

_THUMBNAIL: Final = ".t"


def name_of(row: Upload, thumbnail: bool) -> str:
    """What the bytes of a file, or of its thumbnail, are called in their place."""
    return row.id + _THUMBNAIL if thumbnail else row.id


def thumbnail_beside(path: Path) -> Path:
    """Where the thumbnail of a file that has just arrived is written."""
    return path.with_name(path.name + _THUMBNAIL)


class UploadStorage:
    """Owner of the folder, of the connections to the bucket, and of the threads that touch files."""

    def __init__(self, settings: UploadSettings, data_dir: str) -> None:
        self.files = Files()
        self.directory = Directory(Path(settings.directory or Path(data_dir) / "uploads"), self.files)
        self._by_name: dict[str, Media] = {"": self.directory}
        self.current = ""
        """Name of the place where new files go."""
        if settings.s3_url:
            # Only who has a bucket needs it.
            from imserver.storage.s3 import Bucket

            bucket = Bucket(settings, self.files)
            self.current = bucket.place
            self._by_name[bucket.place] = bucket

    def of(self, row: Upload) -> Media:
        """The place of a file. Raises MediaUnavailable."""
        place = self._by_name.get(row.place)
        if place is None:
            raise MediaUnavailable("the file is in a bucket, and none is configured")
        return place

    def put(self, row: Upload, path: Path) -> None:
        """Bring a file that has arrived at ``path``, and its thumbnail, to its place. Switches."""
        place = self.of(row)
        place.put(row.id, str(path), row.bytes, row.sha256, row.type)
        if row.thumbnail_bytes:
            thumbnail = thumbnail_beside(path)
            content = self.files.do(thumbnail.read_bytes)
            digest = hashlib.sha256(content).hexdigest()
            place.put(name_of(row, True), str(thumbnail), len(content), digest, row.thumbnail_type)

    def delete(self, row: Upload) -> None:
        """Delete the bytes of a file. Raises MediaUnavailable."""
        place = self.of(row)
        for thumbnail in (False, True) if row.thumbnail_bytes else (False,):
            place.delete(name_of(row, thumbnail))

    def remove(self, row: Upload) -> None:
        """Delete the bytes of a file that has no row. What cannot be deleted is logged."""
        try:
            self.delete(row)
        except MediaUnavailable as error:
            log.warning("the bytes of the removed file %s are still there: %s", row.id, error)

    def discard(self, path: Path) -> None:
        """Remove what is left of a file that has arrived, or has not."""

        def work() -> None:
            path.unlink(missing_ok=True)
            thumbnail_beside(path).unlink(missing_ok=True)

        try:
            self.files.do(work)
        except OSError as error:
            log.warning("%s could not be removed: %s", path, error)

    def close(self) -> None:
        """End connections and threads."""
        for place in self._by_name.values():
            place.close()
        self.files.close()


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


class UploadReceiver:
    """Takes files in."""

    def __init__(
        self,
        settings: UploadSettings,
        storage: UploadStorage,
        store: Store,
        metrics: Metrics,
        usage: Callable[[str, str], Usage],
    ) -> None:
        self._settings = settings
        self._storage = storage
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

        Nothing is read of a file that can be refused before. Switches. Raises :class:`TransferRefused`,
        MediaUnavailable, StorageUnavailable, and what ``read`` raises; nothing is kept then.
        """
        self._check(offer)
        transfer = self._transfers.begin((offer.app, offer.user), offer.address)
        self._awaited += offer.length
        try:
            self._check_room(offer)
            folder = self._storage.directory.incoming()
            if not self._swept:
                self._swept = True
                gevent.spawn(self._sweep)
            path = folder / token_urlsafe(_ID_BYTES)
            try:
                return self._take(offer, read, path, transfer)
            finally:
                self._storage.discard(path)
        except TransferRefused:
            self._metrics.uploads_refused += 1
            raise
        finally:
            self._awaited -= offer.length
            self._transfers.end(transfer)

    def _check(self, offer: Offer) -> None:
        """Refuse what needs no look at anything but the offer."""
        if offer.length > self._limit_of(offer.kind):
            raise TransferRefused(errors.HTTP_FILE_TOO_LARGE)
        if offer.length < 1:
            raise TransferRefused(errors.HTTP_LENGTH_REQUIRED)
        if not self._settings.kinds or (offer.kind and offer.kind not in self._settings.kinds):
            raise TransferRefused(errors.HTTP_KIND_REFUSED)
        if not 0 < len(offer.user.encode()) <= MAX_USER_BYTES or "\0" in offer.user:
            raise TransferRefused(errors.HTTP_INVALID_REQUEST, f"`user` has 1 to {MAX_USER_BYTES} bytes")

    def _limit_of(self, kind: str) -> int:
        settings = self._settings
        limits = {"picture": settings.picture_bytes, "voice": settings.voice_bytes}
        return min(limits.get(kind, settings.max_bytes), settings.max_bytes)

    def _check_room(self, offer: Offer) -> None:
        """Refuse what there is no room for, before its sender takes the trouble."""
        for user, quota in ((offer.user, self._settings.quota_bytes), ("", self._settings.quota_app_bytes)):
            if quota and self._usage(offer.app, user).bytes + offer.length > quota:
                raise TransferRefused(errors.HTTP_QUOTA_EXCEEDED)
        if self._by_address is not None and offer.address:
            network = network_of(offer.address)
            try:
                self._by_address.require(network, offer.length)
            except TooManyFailures:
                raise TransferRefused(
                    errors.HTTP_QUOTA_EXCEEDED, "uploads.daily_address_bytes is reached"
                ) from None
            self._by_address.failed(network, offer.length)
        self._storage.directory.incoming()
        if self._storage.directory.free_bytes() - self._awaited < self._settings.min_free_bytes:
            log.error("the disk of the folder of uploads is full")
            raise TransferRefused(errors.HTTP_DISK_FULL)

    def _sweep(self) -> None:
        try:
            removed = self._storage.directory.sweep()
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
            place=self._storage.current,
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
                    gevent.Timeout(max(until - monotonic(), 0.001), TransferRefused(errors.HTTP_TIMEOUT)),
                    _Interruptible(transfer),
                ):
                    piece = read(min(PIECE_BYTES, left))
                if not piece:
                    raise TransferRefused(errors.HTTP_BAD_REQUEST, "The file ended before it was whole")
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
            return self._storage.files.do(open_private, path)
        except OSError as error:
            raise MediaUnavailable(f"the folder of uploads cannot be used: {error.strerror}") from None

    def _append(self, file: IO[bytes], digest: _Hash, piece: bytes) -> None:
        def work() -> None:
            digest.update(piece)
            file.write(piece)

        try:
            self._storage.files.do(work)
        except OSError as error:
            raise MediaUnavailable(f"the folder of uploads cannot be used: {error.strerror}") from None

    def _demand(self, media: MediaType, offer: Offer) -> None:
        """Refuse content that is not taken, or not what it was said to be, or too large for what it is."""
        if media.kind not in self._settings.kinds:
            raise TransferRefused(errors.HTTP_KIND_REFUSED, f"The file is a {media.kind} ({media.type})")
        if offer.kind and media.kind != offer.kind:
            raise TransferRefused(errors.HTTP_KIND_REFUSED, f"The file is no {offer.kind}: {media.type}")
        if offer.length > self._limit_of(media.kind):
            raise TransferRefused(errors.HTTP_FILE_TOO_LARGE)

    def _looked_at(self, row: Upload, path: Path) -> Upload:
        """A picture with its measures and its thumbnail; one that cannot be read is no picture."""
        target = thumbnail_beside(path)
        found = self._thumbnails.look(path, row.type, target)
        if found is None:
            return replace(row, kind=UNKNOWN.kind, type=UNKNOWN.type)
        row = replace(row, width=found.width, height=found.height)
        if not found.thumbnail:
            return row
        size = self._storage.files.do(target.stat).st_size
        return replace(row, thumbnail_bytes=size, thumbnail_type=found.thumbnail)

    def _keep(self, row: Upload, path: Path) -> None:
        """Bring a file to its place, and commit its row."""
        self._storage.put(row, path)
        from imserver.storage import upload_rows

        quota, app_quota = self._settings.quota_bytes, self._settings.quota_app_bytes
        try:
            kept = self._store.write(lambda connection: upload_rows.add(connection, row, quota, app_quota))
        except StorageUnavailable:
            raise  # perhaps it was committed all the same, so its bytes have to stay
        except BaseException:
            self._storage.remove(row)
            raise
        if not kept:
            self._storage.remove(row)
            raise TransferRefused(errors.HTTP_QUOTA_EXCEEDED)
        self._metrics.uploads += 1
        self._metrics.upload_bytes += row.bytes

    def close(self) -> None:
        """End the thread that draws thumbnails."""
        self._thumbnails.close()


class _Interruptible:
    """While it is entered, a transfer that gives way raises :class:`TransferRefused`."""

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
            self._greenlet.throw(TransferRefused(errors.HTTP_BUSY, "The slowest file gives way to another"))


def shown_name(name: str) -> str:
    """A file's name as it may be shown: without folders, without what cannot be printed, and not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[:MAX_NAME_CHARACTERS]


ID_CHARACTERS: Final = 32
_FORGOTTEN_AT_ONCE: Final = 100


class Pieces:
    """A part of a file on its way out. Iterate over it, and close it."""

    def __init__(self, pieces: Iterator[bytes], transfer: Transfer, transfers: Transfers) -> None:
        self._pieces = pieces
        self._transfer = transfer
        self._transfers = transfers
        self._gives_way = False
        transfer.give_way = self.give_way

    def give_way(self) -> None:
        """End it before its time; the next piece is none."""
        self._gives_way = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._gives_way or monotonic() > self._transfers.deadline(self._transfer):
            raise BrokenPipeError(errno.EPIPE, "a file leaves too slowly")
        piece = next(self._pieces)
        self._transfer.bytes += len(piece)
        return piece

    def close(self) -> None:
        """Give back what it holds; harmless the second time."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        self._transfers.end(self._transfer)


class Uploads:
    """Owner of the places where files are stored, and of the transfers in both directions. One per node."""

    def __init__(self, settings: UploadSettings, data_dir: str, store: Store, metrics: Metrics) -> None:
        self.settings = settings
        self._store = store
        self._metrics = metrics
        self._storage = UploadStorage(settings, data_dir)
        self._receiver = UploadReceiver(settings, self._storage, store, metrics, self.usage)
        self._leaving = Transfers(settings)

    def receive(self, offer: Offer, read: Callable[[int], bytes]) -> Upload:
        """Take a file in; see :meth:`UploadReceiver.receive`."""
        return self._receiver.receive(offer, read)

    # --- out ------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Upload | None:
        """The file of this id. Raises StorageUnavailable."""
        if len(name) != ID_CHARACTERS or not name.isascii() or not self._store.keeps:
            return None
        from imserver.storage import upload_rows

        return self._store.read(lambda connection: upload_rows.find(connection, name))

    def open(self, row: Upload, thumbnail: bool, first: int, last: int, address: str = "") -> Pieces:
        """The bytes of a file, or of its thumbnail, from ``first`` to ``last``, for an address. Switches.

        Raises :class:`TransferRefused` and MediaUnavailable.
        """
        transfer = self._leaving.begin(None, address)
        try:
            pieces = self._storage.of(row).get(name_of(row, thumbnail), first, last)
        except FileNotFoundError:
            self._leaving.end(transfer)
            log.error("the file %s is not where it was kept", row.id)
            raise TransferRefused(errors.HTTP_UNKNOWN_UPLOAD) from None
        except BaseException:
            self._leaving.end(transfer)
            raise
        self._metrics.downloads += 1
        return Pieces(pieces, transfer, self._leaving)

    def usage(self, app: str, user: str) -> Usage:
        """What a user keeps. Raises StorageUnavailable."""
        if not self._store.keeps:
            return Usage()
        from imserver.storage import upload_rows

        return self._store.read(lambda connection: upload_rows.usage(connection, app, user))

    def page(self, app: str, user: str, before: tuple[int, str], limit: int) -> list[Upload]:
        """Files of a user, the newest first; ``before``: time and id of the last one of the page before, or
        ``(0, "")``. Raises StorageUnavailable."""
        if not self._store.keeps:
            return []
        from imserver.storage import upload_rows

        return self._store.read(lambda connection: upload_rows.page(connection, app, user, before, limit))

    # --- away -----------------------------------------------------------------------------------------------

    def delete(self, name: str) -> bool:
        """Remove a file; False if there is none. Raises StorageUnavailable."""
        row = self._forget(name)
        if row is None:
            return False
        self._storage.remove(row)
        return True

    def _forget(self, name: str) -> Upload | None:
        """Remove the row of a file: what it was."""
        from imserver.storage import upload_rows

        if not self._store.keeps:
            return None
        return self._store.write(lambda connection: upload_rows.remove(connection, name))

    def forget(self, app: str, user: str) -> int:
        """Remove all files of a user; how many there were. Raises StorageUnavailable and MediaUnavailable.

        Here the bytes go first: what cannot be deleted now is found by whoever tries again.
        """
        removed = 0
        while rows := self.page(app, user, (0, ""), _FORGOTTEN_AT_ONCE):
            for row in rows:
                self._storage.delete(row)
                removed += self._forget(row.id) is not None
        return removed

    def close(self) -> None:
        """End threads and connections."""
        self._receiver.close()
        self._storage.close()
