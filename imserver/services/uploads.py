"""Files that users send each other: taken in, described, given out, removed.

A file goes to the disk as it comes. What it is, its own bytes say. When it is whole it is brought to its
place; when it is there, its row is written; when that is committed, its sender is told. So whatever has a row
has its bytes. (A node that dies in between may leave bytes without a row, which nobody can name.)
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_urlsafe
from time import monotonic, time
from typing import IO, TYPE_CHECKING, Any, Final, Self

import gevent
from msgspec import Struct
from msgspec.structs import replace

from imserver import errors
from imserver.errors import HttpProblem, ImserverError, MediaUnavailable, StorageUnavailable
from imserver.metrics import Metrics
from imserver.services.media_types import HEAD_BYTES, UNKNOWN, MediaType, type_of
from imserver.services.thumbnails import Thumbnails
from imserver.services.tokens import Claims
from imserver.settings import UploadSettings
from imserver.storage.media import PIECE_BYTES, Directory, Files
from imserver.storage.store import Store
from imserver.storage.upload_contract import MAX_USER_BYTES, Media, Upload, Usage

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

MAX_NAME_CHARACTERS: Final = 255
ID_CHARACTERS: Final = 32
_ID_BYTES: Final = 24
_THUMBNAIL: Final = ".t"
_FORGOTTEN_AT_ONCE: Final = 100

Holder = Callable[[str], Claims | None]
"""Whose token this is; None: it is none that this function knows. May switch."""


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


class Pieces:
    """A part of a file on its way out. Iterate over it, and close it."""

    def __init__(self, pieces: Iterator[bytes], done: Callable[[], None]) -> None:
        self._pieces = pieces
        self._done: Callable[[], None] | None = done

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Give back what it holds; harmless the second time."""
        done, self._done = self._done, None
        if done is not None:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
            done()


class Uploads:
    """Owner of the places where files are kept, and of the counts of those under way. One a node."""

    def __init__(self, settings: UploadSettings, data_dir: str, store: Store, metrics: Metrics) -> None:
        self.settings = settings
        self.holders: list[Holder] = []
        """Who may read the tokens of those who upload; the first that knows a token has the word."""
        self._store = store
        self._metrics = metrics
        self._files = Files()
        self._directory = Directory(Path(settings.directory or Path(data_dir) / "uploads"), self._files)
        self._thumbnails = Thumbnails(settings.thumbnail_pixels)
        self._places: dict[str, Media] = {"": self._directory}
        self._place = ""
        if settings.s3_url:
            # Only who has a bucket needs it.
            from imserver.storage.s3 import Bucket

            bucket = Bucket(settings, self._files)
            self._place = bucket.place
            self._places[bucket.place] = bucket
        self._arriving: dict[object, int] = {}
        self._leaving = 0
        self._swept = False

    def holder(self, token: str) -> Claims | None:
        """Whose token this is; None: nobody's."""
        for asked in self.holders:
            claims = asked(token)
            if claims is not None:
                return claims
        return None

    # --- in -------------------------------------------------------------------------------------------------

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
            folder = self._directory.incoming()
            if not self._swept:
                self._swept = True
                gevent.spawn(self._sweep)
            path = folder / token_urlsafe(_ID_BYTES)
            try:
                return self._take(offer, read, path)
            finally:
                self._remove_both(path)
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
        if not self.settings.kinds or (offer.kind and offer.kind not in self.settings.kinds):
            raise Refused(errors.HTTP_KIND_REFUSED)
        if not 0 < len(offer.user.encode()) <= MAX_USER_BYTES or "\0" in offer.user:
            raise Refused(errors.HTTP_INVALID_REQUEST, f"`user` has 1 to {MAX_USER_BYTES} bytes")
        if len(self._arriving) >= self.settings.at_once:
            raise Refused(errors.HTTP_BUSY, f"{self.settings.at_once} files arrive already")

    def _limit_of(self, kind: str) -> int:
        settings = self.settings
        limits = {"picture": settings.picture_bytes, "voice": settings.voice_bytes}
        return min(limits.get(kind, settings.max_bytes), settings.max_bytes)

    def _check_room(self, offer: Offer) -> None:
        """Refuse what there is no room for, before its sender takes the trouble."""
        quota = self.settings.quota_bytes
        if quota and self.usage(offer.app, offer.user).bytes + offer.length > quota:
            raise Refused(errors.HTTP_QUOTA_EXCEEDED)
        self._directory.incoming()
        awaited = sum(self._arriving.values())
        if self._directory.free_bytes() - awaited < self.settings.min_free_bytes:
            log.error("the disk of the folder of uploads is full")
            raise Refused(errors.HTTP_DISK_FULL)

    def _sweep(self) -> None:
        try:
            removed = self._directory.sweep()
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
            place=self._place,
        )
        if media.kind == "picture":
            row = self._looked_at(row, path)
        self._demand(MediaType(row.kind, row.type), offer)
        self._keep(row, path)
        return row

    def _write(self, offer: Offer, read: Callable[[int], bytes], path: Path) -> tuple[MediaType, str]:
        """Write the file to ``path`` as it comes; what it is, and its SHA-256."""
        deadline = monotonic() + self.settings.seconds
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
            return self._files.do(open, path, "xb", 0)
        except OSError as error:
            raise MediaUnavailable(f"the folder of uploads cannot be used: {error.strerror}") from None

    def _append(self, file: IO[bytes], digest: _Hash, piece: bytes) -> None:
        def work() -> None:
            digest.update(piece)
            file.write(piece)

        try:
            self._files.do(work)
        except OSError as error:
            raise MediaUnavailable(f"the folder of uploads cannot be used: {error.strerror}") from None

    def _demand(self, media: MediaType, offer: Offer) -> None:
        """Refuse content that is not taken, or not what it was said to be, or too large for what it is."""
        if media.kind not in self.settings.kinds:
            raise Refused(errors.HTTP_KIND_REFUSED, f"The file is a {media.kind} ({media.type})")
        if offer.kind and media.kind != offer.kind:
            raise Refused(errors.HTTP_KIND_REFUSED, f"The file is no {offer.kind}: {media.type}")
        if offer.length > self._limit_of(media.kind):
            raise Refused(errors.HTTP_FILE_TOO_LARGE)

    def _looked_at(self, row: Upload, path: Path) -> Upload:
        """A picture with its measures and its thumbnail; one that cannot be read is no picture."""
        target = path.with_name(path.name + _THUMBNAIL)
        found = self._thumbnails.look(path, row.type, target)
        if found is None:
            return replace(row, kind=UNKNOWN.kind, type=UNKNOWN.type)
        row = replace(row, width=found.width, height=found.height)
        if not found.thumbnail:
            return row
        size = self._files.do(target.stat).st_size
        return replace(row, thumbnail_bytes=size, thumbnail_type=found.thumbnail)

    def _keep(self, row: Upload, path: Path) -> None:
        """Bring a file to its place, and commit its row."""
        place = self._places[row.place]
        place.put(row.id, str(path), row.bytes, row.sha256, row.type)
        if row.thumbnail_bytes:
            thumbnail = path.with_name(path.name + _THUMBNAIL)
            content = self._files.do(thumbnail.read_bytes)
            digest = hashlib.sha256(content).hexdigest()
            place.put(row.id + _THUMBNAIL, str(thumbnail), len(content), digest, row.thumbnail_type)
        from imserver.storage import upload_rows

        quota = self.settings.quota_bytes
        try:
            kept = self._store.write(lambda connection: upload_rows.add(connection, row, quota))
        except StorageUnavailable:
            raise  # perhaps it was committed all the same, so its bytes have to stay
        except BaseException:
            self._remove(row)
            raise
        if not kept:
            self._remove(row)
            raise Refused(errors.HTTP_QUOTA_EXCEEDED)
        self._metrics.uploads += 1
        self._metrics.upload_bytes += row.bytes

    def _remove_both(self, path: Path) -> None:
        """Remove what is left of a file that has arrived, or has not."""

        def work() -> None:
            path.unlink(missing_ok=True)
            path.with_name(path.name + _THUMBNAIL).unlink(missing_ok=True)

        try:
            self._files.do(work)
        except OSError as error:
            log.warning("%s could not be removed: %s", path, error)

    # --- out ------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Upload | None:
        """The file of this id. Raises StorageUnavailable."""
        if len(name) != ID_CHARACTERS or not name.isascii() or not self._store.keeps:
            return None
        from imserver.storage import upload_rows

        return self._store.read(lambda connection: upload_rows.find(connection, name))

    def open(self, row: Upload, thumbnail: bool, first: int, last: int) -> Pieces:
        """The bytes of a file, or of its thumbnail, from ``first`` to ``last``. Switches.

        Raises :class:`Refused` and MediaUnavailable.
        """
        if self._leaving >= self.settings.at_once:
            raise Refused(errors.HTTP_BUSY, f"{self.settings.at_once} files leave already")
        place = self._places.get(row.place)
        if place is None:
            raise MediaUnavailable("the file is in a bucket, and none is configured")
        self._leaving += 1
        try:
            pieces = place.get(row.id + _THUMBNAIL if thumbnail else row.id, first, last)
        except FileNotFoundError:
            self._leaving -= 1
            log.error("the file %s is not where it was kept", row.id)
            raise Refused(errors.HTTP_UNKNOWN_UPLOAD) from None
        except BaseException:
            self._leaving -= 1
            raise
        self._metrics.downloads += 1
        return Pieces(pieces, self._left)

    def _left(self) -> None:
        self._leaving -= 1

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
        from imserver.storage import upload_rows

        if not self._store.keeps:
            return False
        row = self._store.write(lambda connection: upload_rows.remove(connection, name))
        if row is None:
            return False
        self._remove(row)
        return True

    def forget(self, app: str, user: str) -> int:
        """Remove all files of a user; how many there were. Raises StorageUnavailable."""
        removed = 0
        while rows := self.page(app, user, (0, ""), _FORGOTTEN_AT_ONCE):
            removed += sum(self.delete(row.id) for row in rows)
        return removed

    def _remove(self, row: Upload) -> None:
        """Remove the bytes of a file that has no row."""
        place: Any = self._places.get(row.place)
        names = (row.id, row.id + _THUMBNAIL) if row.thumbnail_bytes else (row.id,)
        try:
            for name in names:
                if place is None:
                    raise MediaUnavailable("no bucket is configured")
                place.delete(name)
        except MediaUnavailable as error:
            log.warning("the bytes of the removed file %s are still there: %s", row.id, error)

    def close(self) -> None:
        """End threads and connections."""
        for place in self._places.values():
            place.close()
        self._thumbnails.close()
        self._files.close()


def shown_name(name: str) -> str:
    """A file's name as it may be shown: without folders, without what cannot be printed, and not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[:MAX_NAME_CHARACTERS]
