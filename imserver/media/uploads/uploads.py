"""Uploaded files: receives, recognises, measures, stores, sends and deletes
them.

A file is written to disk as it arrives. A complete file is moved to its final
path, then its row is written. The sender gets the answer after the commit. So
every row has its bytes. A node that is killed in between may leave bytes
without a row, which nobody can request. Pictures are stored upright and without
metadata, videos and HEIC without places.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from time import monotonic, time
from typing import IO, TYPE_CHECKING, Any, Final

import gevent
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.media.uploads import upload_rows
from imserver.media.uploads.boxes import clear_metadata
from imserver.media.uploads.contract import (
    FILE_BYTES,
    SECOND_MS,
    UPLOAD_USER_BYTES,
    Media,
    MediaUnavailable,
    State,
    Upload,
    Usage,
)
from imserver.media.uploads.declared import (
    HTTP_DISK_FULL,
    HTTP_FILE_TOO_LARGE,
    HTTP_KIND_REFUSED,
    HTTP_LENGTH_REQUIRED,
    HTTP_QUOTA_EXCEEDED,
    HTTP_UNKNOWN_UPLOAD,
    UPLOADED_BYTES,
    UploadSettings,
)
from imserver.media.uploads.directory import (
    PIECE_BYTES,
    STATE,
    Directory,
    T,
    folder_of,
    open_private,
    write_all,
)
from imserver.media.uploads.media import (
    HEAD_BYTES,
    UNKNOWN,
    MediaType,
    PictureWorker,
    type_of,
)
from imserver.media.uploads.transfers import (
    Pieces,
    Transfer,
    TransferRefused,
    Transfers,
)
from imserver.media.uploads.worker import TooCostly
from imserver.plugin.errors import ImserverError, Problems, StorageUnavailable
from imserver.plugin.identity import Buckets
from imserver.plugin.runtime import Threads, network_of
from imserver.plugin.services import Core
from imserver.plugin.storage import Erasure, Store

if TYPE_CHECKING:
    from imserver.media.uploads.pictures import Picture

log = logging.getLogger(__name__)


THUMBNAIL: Final = ".t"
"""The end of the name of a thumbnail."""
_CLEANED: Final = ".c"
"""The end of the name of a picture without metadata, until it is stored."""
_THREADS: Final = 4
"""Threads of a node that access files."""
_SWEEP_SECONDS: Final = 3600.0
"""Time between two searches for files that were never finished."""
_DAY_SECONDS: Final = 86400.0
_SHORTEST_WAIT_SECONDS: Final = 0.001
"""The shortest time limit: 0 would mean no limit."""


class DamagedFile(ImserverError):
    """The bytes do not match the row of their file."""

    def __init__(self, row: Upload) -> None:
        super().__init__(f"the bytes of the file {row.id} are not those of its row")


def name_of(row: Upload, thumbnail: bool) -> str:
    """The name under which the bytes of a file, or of its thumbnail, are
    stored: the id, with ``.t`` at the end for a thumbnail."""
    if thumbnail:
        return row.id + THUMBNAIL
    return row.id


def _beside(path: Path, suffix: str) -> Path:
    """The temporary path of a file that is made from the arriving file at
    ``path``.

    ``suffix``: :data:`THUMBNAIL` or :data:`_CLEANED`.
    """
    return path.with_name(path.name + suffix)


def _sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Runs in a thread."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _head_of(path: Path) -> bytes:
    """The first bytes of a file, which tell its type. Runs in a thread."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


class UploadStorage:
    """The stores of uploaded files: the folder and, if one is configured, a
    bucket of S3. It also has the threads that access files."""

    def __init__(
        self, settings: UploadSettings, data_dir: str, threads: int = _THREADS
    ) -> None:
        """Open the stores of the settings. ``threads``: the number of threads;
        0: the files are accessed by the caller's thread."""
        self.files = Threads(threads)
        folder = settings.directory or Path(data_dir) / "uploads"
        self.directory = Directory(Path(folder), self.files)
        self._by_name: dict[str, Media] = {"": self.directory}
        """Name of a store, as in :attr:`Upload.store_name` → the store."""
        self.current = ""
        """Name of the store for new files: ``""`` (the folder) or ``s3``."""
        if settings.s3_url:
            # Imported only if a bucket is configured.
            from imserver.media.uploads.s3 import Bucket

            bucket = Bucket(settings, self.files)
            self.current = bucket.store_name
            self._by_name[bucket.store_name] = bucket

    def of(self, row: Upload) -> Media:
        """The store that has the bytes of a file. Raises MediaUnavailable."""
        store = self._by_name.get(row.store_name)
        if store is None:
            raise MediaUnavailable("the file is in a bucket, and none is configured")
        return store

    def put(self, row: Upload, path: Path, thumbnail: Path) -> None:
        """Move a file, and its thumbnail if it has one, to the store that its
        row names.

        ``path`` and ``thumbnail`` are temporary files. Switches greenlets.
        Raises MediaUnavailable.
        """
        store = self.of(row)
        store.put(row.id, str(path), row.bytes, row.sha256, row.type)
        if row.thumbnail_bytes:
            # No row has the checksum of a thumbnail, so it is made now.
            content = self.files.do(thumbnail.read_bytes)
            digest = hashlib.sha256(content).hexdigest()
            store.put(
                name_of(row, thumbnail=True),
                str(thumbnail),
                len(content),
                digest,
                row.thumbnail_type,
            )

    def copy(
        self, row: Upload, thumbnail: bool, pieces: Iterable[bytes], store_name: str
    ) -> str:
        """Store the bytes of a file, or of its thumbnail, in the store
        ``store_name``.

        ``pieces`` are the bytes, which are first written to a temporary file.
        Returns their SHA-256 in hexadecimal. Raises MediaUnavailable, and
        DamagedFile if the bytes do not match the row.
        """
        # First to a temporary file: only checked bytes get to the store.
        path = self.directory.incoming() / new_id()
        try:
            size, sha256 = _write_pieces(path, pieces)
            _require_equal(row, thumbnail, size, sha256)
            kind = row.thumbnail_type if thumbnail else row.type
            store = self.of(replace(row, store_name=store_name))
            store.put(name_of(row, thumbnail), str(path), size, sha256, kind)
        finally:
            path.unlink(missing_ok=True)
        return sha256

    def delete(self, row: Upload) -> None:
        """Delete the bytes of a file and of its thumbnail. Raises
        MediaUnavailable."""
        store = self.of(row)
        store.delete(name_of(row, thumbnail=False))
        if row.thumbnail_bytes:
            store.delete(name_of(row, thumbnail=True))

    def remove(self, row: Upload) -> None:
        """Delete the bytes of a file that has no row. A failure is only logged:
        nobody can request them any more."""
        try:
            self.delete(row)
        except MediaUnavailable as error:
            log.warning(
                "the bytes of the removed file %s could not be deleted: %s",
                row.id,
                error,
            )

    def discard(self, path: Path) -> None:
        """Delete the temporary files of an upload. A failure is only logged."""

        def delete_files() -> None:
            path.unlink(missing_ok=True)
            for suffix in (THUMBNAIL, _CLEANED):
                _beside(path, suffix).unlink(missing_ok=True)

        try:
            self.files.do(delete_files)
        except OSError as error:
            log.warning("%s could not be removed: %s", path, error)

    def close(self) -> None:
        """End connections and threads."""
        for store in self._by_name.values():
            store.close()
        self.files.close()


def _write_pieces(path: Path, pieces: Iterable[bytes]) -> tuple[int, str]:
    """Write a new file. Returns its size, and its SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    size = 0
    with open_private(path) as file:
        for piece in pieces:
            digest.update(piece)
            write_all(file, piece)
            size += len(piece)
    return size, digest.hexdigest()


def _require_equal(row: Upload, thumbnail: bool, size: int, sha256: str) -> None:
    """Raise DamagedFile if bytes do not match the row of their file."""
    if thumbnail:
        # No row has the checksum of a thumbnail.
        is_equal = size == row.thumbnail_bytes
    else:
        is_equal = size == row.bytes and sha256 == row.sha256
    if not is_equal:
        raise DamagedFile(row)


MAX_NAME_CHARACTERS: Final = 255
ID_CHARACTERS: Final = 32
ID_BYTES: Final = ID_CHARACTERS * 3 // 4
"""Random bytes of an id. Base64 writes three bytes as four characters."""
_FORGOTTEN_AT_ONCE: Final = 100


class Offer(Struct, frozen=True):
    """A file that a client wants to upload.

    ``user``: its owner. ``kind``: the kind that the file must have; ``""``: any
    kind. ``length``: its bytes. ``address``: of the client; ``""``: no client
    sends it. ``by_user``: the sender is a user, not a back end.
    """

    app: str
    user: str
    name: str
    kind: str
    length: int
    address: str = ""
    by_user: bool = False


class UploadCounters(Struct):
    """The traffic of a node since its start."""

    uploads: int = 0
    upload_bytes: int = 0
    uploads_refused: int = 0
    downloads: int = 0


class Uploads:
    """Receives, stores, sends and deletes uploaded files. There is one on each
    node.

    ``core`` decides who may send files, and reviews files. It is None in
    commands, which need no threads.
    """

    def __init__(
        self,
        settings: UploadSettings,
        data_dir: str,
        store: Store,
        core: Core | None = None,
    ) -> None:
        """Open the storage of the settings. No file is read yet."""
        self.settings = settings
        self._core = core
        self._store = store
        self.counters = UploadCounters()
        # In commands, where no node runs.
        threads = 0
        buckets: Callable[..., Buckets] = Buckets
        if core is not None:
            threads = _THREADS
            buckets = core.buckets.make
        self.storage = UploadStorage(settings, data_dir, threads)
        self.files = self.storage.files

        self._pictures = PictureWorker(settings.thumbnail_pixels)
        self._arriving = Transfers(settings)
        """The transfers of files to this server."""
        self._leaving = Transfers(settings)
        """The transfers of files from this server."""
        self._arriving_bytes = 0
        """The announced bytes of all files that are arriving."""
        self._bytes_of_networks = buckets(
            UPLOADED_BYTES, settings.daily_address_bytes, _DAY_SECONDS
        )
        self._swept_at = float("-inf")
        """When the folder of arriving files was cleaned last (monotonic)."""

    # --- in -------------------------------------------------------------------

    def receive(
        self, offer: Offer, read: Callable[[int], bytes], name: str = ""
    ) -> Upload:
        """Receive a file and store it.

        ``read(n)`` returns up to ``n`` more bytes of the file, or ``b""`` if
        the sender has disconnected. ``name``: the id of the file; ``""``: a new
        id. If possible, a file is refused before it is read. Switches
        greenlets. Raises :class:`TransferRefused`, MediaUnavailable,
        StorageUnavailable, and the exceptions of ``read``; then nothing is
        stored.
        """
        with self.arriving(offer, offer.length) as transfer:
            self.admit(offer, offer.length + FILE_BYTES + sum(self.unfinished(offer)))
            path = self.incoming() / (name or new_id())
            if name:
                # A killed process may have left bytes under this name. No other
                # process may use it meanwhile.
                self.storage.discard(path)
            try:
                digest = hashlib.sha256()
                self.write(
                    offer,
                    read,
                    path,
                    transfer,
                    offset=0,
                    length=offer.length,
                    digest=digest,
                )
                return self.finish(offer, path, name or new_id(), digest.hexdigest())
            finally:
                self.storage.discard(path)

    def discard_rest(self, name: str) -> None:
        """Remove the temporary files of a process that was killed after it had
        stored the file ``name``."""
        self.storage.discard(self.incoming() / name)

    @contextmanager
    def arriving(self, offer: Offer, length: int) -> Iterator[Transfer]:
        """A context in which ``length`` bytes of a file arrive.

        It takes one of the slots for transfers, which limit how many a user and
        an address may have at a time. Raises :class:`TransferRefused` if the
        offer is invalid or no slot is free.
        """
        try:
            self.check(offer)
            transfer = self._arriving.begin((offer.app, offer.user), offer.address)
            self._arriving_bytes += length
            try:
                yield transfer
            finally:
                self._arriving_bytes -= length
                self._arriving.free(transfer)
        except TransferRefused:
            self.counters.uploads_refused += 1
            raise

    def incoming(self) -> Path:
        """The folder of arriving files. It is created if it does not exist.

        From time to time, files of earlier days are removed from it.
        """
        folder = self.storage.directory.incoming()
        now = monotonic()
        if now - self._swept_at > _SWEEP_SECONDS:
            self._swept_at = now
            gevent.spawn(self._sweep)
        return folder

    def check(self, offer: Offer) -> None:
        """Raise TransferRefused for an offer that cannot be accepted.

        The file may be too large, of a kind that is not accepted, or of a user
        who may not send.
        """
        if offer.length > self.limit_of(offer.kind):
            raise TransferRefused(problem=HTTP_FILE_TOO_LARGE)
        if offer.length < 1:
            raise TransferRefused(problem=HTTP_LENGTH_REQUIRED)
        kinds = self.settings.kinds
        # Without any accepted kind, nobody may upload.
        if not kinds or (offer.kind and offer.kind not in kinds):
            raise TransferRefused(problem=HTTP_KIND_REFUSED)
        self._check_sender(offer)

    def _check_sender(self, offer: Offer) -> None:
        """Raise TransferRefused if a user is muted, or has an id that the rows
        of files cannot have."""
        if not 0 < len(offer.user.encode()) <= UPLOAD_USER_BYTES or "\0" in offer.user:
            raise TransferRefused(
                f"`user` has 1 to {UPLOAD_USER_BYTES} bytes", Problems.INVALID_REQUEST
            )
        # Back ends may send for users who are muted.
        if offer.by_user and self._core is not None:
            mute = self._core.mutes.mute_of(offer.app, offer.user)
            if mute is not None:
                raise TransferRefused(mute.text, Problems.MUTED)

    def limit_of(self, kind: str) -> int:
        """The most bytes of a file of a kind. For an unknown kind (``""``), the
        most bytes of any file."""
        settings = self.settings
        limits = {"picture": settings.picture_bytes, "voice": settings.voice_bytes}
        return min(limits.get(kind, settings.max_bytes), settings.max_bytes)

    def unfinished(self, offer: Offer) -> list[int]:
        """The bytes of the quota that each unfinished upload of the user will
        cost.

        Only uploads in the folder of this node are known.
        """
        folder = self.incoming() / folder_of(offer.app, offer.user)
        return self.on_disk(_lengths, folder)

    def admit(self, offer: Offer, sizes: int) -> None:
        """Refuse a file for which there is no space, before it is sent.

        ``sizes``: the bytes of the quota that the file and the user's other
        unfinished uploads will cost. The network of the client is charged for
        the file. Raises TransferRefused.
        """
        self._require_quota(offer.app, offer.user, self.settings.quota_bytes, sizes)
        quota_of_app = self.settings.quota_app_bytes
        self._require_quota(offer.app, upload_rows.TOTAL, quota_of_app, sizes)
        self.incoming()  # creates the folder, whose disk is checked
        self.check_disk()

        # This comes last, so that a file that is refused above costs its
        # address nothing.
        if not offer.address:
            return
        network = network_of(offer.address)
        if not self._bytes_of_networks.take(network, offer.length + FILE_BYTES):
            raise TransferRefused(
                "uploads.daily_address_bytes is reached", HTTP_QUOTA_EXCEEDED
            )

    def _require_quota(self, app: str, user: str, quota: int, sizes: int) -> None:
        """Raise TransferRefused if ``sizes`` more bytes would exceed a quota
        (0: no quota)."""
        if quota and self.usage(app, user).charged + sizes > quota:
            raise TransferRefused(problem=HTTP_QUOTA_EXCEEDED)

    def check_disk(self) -> None:
        """Refuse more bytes if the disk is nearly full, counting the files that
        are arriving. Raises TransferRefused."""
        free_bytes = self.storage.directory.free_bytes()
        if free_bytes - self._arriving_bytes < self.settings.min_free_bytes:
            log.error("the disk of the folder of uploads is full")
            raise TransferRefused(problem=HTTP_DISK_FULL)

    def _sweep(self) -> None:
        """Remove files that were never finished. This is a greenlet of its
        own."""
        try:
            removed = self.files.do(self.storage.directory.sweep)
        except OSError as error:
            log.warning("the folder of uploads could not be cleaned: %s", error)
            return
        if removed:
            log.info("removed %d incomplete uploads", removed)

    def finish(self, offer: Offer, path: Path, name: str, sha256: str = "") -> Upload:
        """Store the complete file at ``path`` with the id ``name``, and return
        its row.

        ``sha256``: the digest of its bytes (``""``: not known). The file at
        ``path`` may remain. Switches greenlets. Raises
        :class:`TransferRefused`, MediaUnavailable and StorageUnavailable.
        """
        media = self._type_at(path)
        self._require_accepted(media, offer)
        if media.kind != "picture" and self.on_disk(clear_metadata, path):
            sha256 = ""  # the digest was of the bytes with metadata
        row = self._row_of_offer(offer, media, name, sha256)
        stored_path = path
        if media.kind == "picture":
            row, stored_path = self._process_picture(row, path)
        if stored_path is not path or not sha256:
            row = replace(row, sha256=self.on_disk(_sha256_of, stored_path))

        # Checked again: a picture that cannot be read has become a plain file.
        self._require_accepted(MediaType(row.kind, row.type), offer)
        if offer.by_user:
            self._review(row)
        self._save(row, stored_path, _beside(path, THUMBNAIL))
        return row

    def _row_of_offer(
        self, offer: Offer, media: MediaType, name: str, sha256: str
    ) -> Upload:
        """The row of an arrived file, with the id ``name`` and the type
        ``media``."""
        return Upload(
            id=name,
            app=offer.app,
            user=offer.user,
            kind=media.kind,
            type=media.type,
            name=shown_name(offer.name),
            bytes=offer.length,
            sha256=sha256,
            created=int(time() * SECOND_MS),
            store_name=self.storage.current,
        )

    def store_small(
        self, app: str, user: str, name: str, content: bytes
    ) -> Upload | None:
        """Store a picture that another server has sent, with the id ``name``.

        It is drawn anew, no larger than a thumbnail, so nothing else of the
        file is stored. Returns None if it is no accepted picture. Switches
        greenlets. Raises :class:`TransferRefused`, MediaUnavailable and
        StorageUnavailable.
        """
        media = type_of(content[:HEAD_BYTES])
        if media.kind != "picture" or media.kind not in self.settings.kinds:
            return None

        path = self.incoming() / new_id()
        self.check_disk()
        target = _beside(path, THUMBNAIL)
        try:
            with self.on_disk(open_private, path) as file:
                self.on_disk(write_all, file, content)
            picture = self._picture_at(path, media.type, app, user)
            if picture is None or not picture.thumbnail:
                return None

            row = self._row_of_thumbnail(app, user, name, picture, target)
            self._save(row, path=target, thumbnail=target)
            return row
        finally:
            self.storage.discard(path)

    def _picture_at(
        self, path: Path, type: str, app: str, user: str
    ) -> "Picture | None":
        """Measure the picture at ``path``, and make its thumbnail beside it.

        Returns None if it cannot be read, or takes too much CPU time.
        """
        # Both paths are written by the process that reads pictures.
        target = _beside(path, THUMBNAIL)
        cleaned = _beside(path, _CLEANED)
        try:
            return self._pictures.process(path, type, target, cleaned, app, user)
        except TooCostly:
            return None

    def _row_of_thumbnail(
        self, app: str, user: str, name: str, picture: "Picture", path: Path
    ) -> Upload:
        """The row of a picture, if only the thumbnail at ``path`` is stored. So
        the row has the size of the thumbnail."""
        width, height = self._thumbnail_size(picture)
        return Upload(
            id=name,
            app=app,
            user=user,
            kind="picture",
            type=picture.thumbnail,
            name="",
            bytes=self.on_disk(path.stat).st_size,
            sha256=self.on_disk(_sha256_of, path),
            created=int(time() * SECOND_MS),
            store_name=self.storage.current,
            width=width,
            height=height,
        )

    def _thumbnail_size(self, picture: "Picture") -> tuple[int, int]:
        """The width and the height of the thumbnail of a picture."""
        # The thumbnail was scaled down to this length, or is as large as the
        # picture.
        longer_side = max(picture.width, picture.height)
        scale = min(1.0, self._pictures.pixels / longer_side)
        width = max(round(picture.width * scale), 1)
        height = max(round(picture.height * scale), 1)
        return width, height

    def _review(self, row: Upload) -> None:
        """Let the back end of the app review a file, if the app wants that.

        Switches greenlets. Raises TransferRefused if the back end rejects the
        file or does not answer.
        """
        if self._core is None or row.app not in self._core.reviews.apps:
            return
        facts = {
            "kind": "upload",
            "sender": row.user,
            "name": row.name,
            "type": row.type,
            "bytes": row.bytes,
            "sha256": row.sha256,
        }
        decision = self._core.reviews.decide(row.app, facts)
        # The reason comes from the back end, and is shown to the sender.
        if decision.action == "reject":
            raise TransferRefused(decision.reason, Problems.REJECTED)
        if decision.action == "undecided":
            raise TransferRefused(problem=Problems.REVIEW_UNAVAILABLE)

    def write(
        self,
        offer: Offer,
        read: Callable[[int], bytes],
        path: Path,
        transfer: Transfer,
        offset: int,
        length: int,
        digest: Any = None,
        most: int = PIECE_BYTES,
    ) -> None:
        """Receive ``length`` bytes of a file, and append them to the ``offset``
        bytes that the file at ``path`` has already.

        ``digest``: a hash that gets these bytes (None: no hash is needed).
        ``most``: the most bytes of one read. If the client disconnects, an
        incomplete piece is lost. Raises :class:`TransferRefused`,
        MediaUnavailable, and the exceptions of ``read``.
        """
        deadline = monotonic() + self.settings.seconds
        arrived = offset
        end = offset + length
        file: IO[bytes] = self.on_disk(open_private, path)

        def add(piece: bytes) -> None:
            """Append a piece to the file. Runs in a thread."""
            if digest is not None:
                digest.update(piece)
            write_all(file, piece)

        with file:
            while arrived < end:
                # The time limit of the socket alone would not end a client that
                # sends single bytes slowly.
                until = min(deadline, self._arriving.deadline(transfer))
                seconds = max(until - monotonic(), _SHORTEST_WAIT_SECONDS)
                timeout = TransferRefused(problem=Problems.TIMEOUT)
                with gevent.Timeout(seconds, timeout), transfer.reading():
                    piece = read(min(most, end - arrived))
                if not piece:
                    raise TransferRefused(
                        "The body ended before the file was complete",
                        Problems.BAD_REQUEST,
                    )
                self.on_disk(add, piece)
                transfer.move(len(piece))
                arrived_before = arrived
                arrived += len(piece)
                # As soon as the type is known, the transfer of an unaccepted
                # file ends.
                if arrived_before < HEAD_BYTES <= arrived:
                    self._require_accepted(self._type_at(path), offer)

    def _type_at(self, path: Path) -> MediaType:
        """The type of the file at ``path``, by its first bytes."""
        return type_of(self.on_disk(_head_of, path))

    def on_disk(self, function: Callable[..., T], *arguments: object) -> T:
        """Access the folder of uploads in a thread. Raises MediaUnavailable."""
        return self.storage.directory.do(function, *arguments)

    def _require_accepted(self, media: MediaType, offer: Offer) -> None:
        """Raise TransferRefused for content that is not accepted.

        Its kind must be accepted and the offered one, and it must not be too
        large for its kind.
        """
        if media.kind not in self.settings.kinds:
            raise TransferRefused(
                f"The file is a {media.kind} ({media.type})", HTTP_KIND_REFUSED
            )
        # A client may ask for a picture, to show it as one.
        if offer.kind and media.kind != offer.kind:
            raise TransferRefused(
                f"The file is not a {offer.kind}: {media.type}", HTTP_KIND_REFUSED
            )
        if offer.length > self.limit_of(media.kind):
            raise TransferRefused(problem=HTTP_FILE_TOO_LARGE)

    def _process_picture(self, row: Upload, path: Path) -> tuple[Upload, Path]:
        """Measure the picture at ``path``, make its thumbnail, and remove its
        metadata.

        Returns the row with the results, and the path of the file to store. A
        picture that cannot be read becomes a plain file. Raises TransferRefused
        and MediaUnavailable.
        """
        target = _beside(path, THUMBNAIL)
        cleaned = _beside(path, _CLEANED)
        try:
            picture = self._pictures.process(
                path, row.type, target, cleaned, row.app, row.user
            )
        except TooCostly:
            text = "the picture takes more CPU time than one may have"
            raise TransferRefused(text, HTTP_KIND_REFUSED) from None
        if picture is None:
            return replace(row, kind=UNKNOWN.kind, type=UNKNOWN.type), path

        row = self._with_results(row, picture, target)
        # The picture had no metadata, so it is stored as it came.
        if not picture.cleaned:
            return row, path
        return replace(row, bytes=self.on_disk(cleaned.stat).st_size), cleaned

    def _with_results(self, row: Upload, picture: "Picture", thumbnail: Path) -> Upload:
        """The row of a picture with its width and height, and with the size of
        the thumbnail, if one was made."""
        row = replace(row, width=picture.width, height=picture.height)
        if picture.thumbnail:
            size = self.on_disk(thumbnail.stat).st_size
            row = replace(row, thumbnail_bytes=size, thumbnail_type=picture.thumbnail)
        return row

    def _save(self, row: Upload, path: Path, thumbnail: Path) -> None:
        """Store the file at ``path``, the thumbnail if the row has one, and
        then the row.

        Raises TransferRefused above a quota, MediaUnavailable and
        StorageUnavailable. Then nothing is stored, except if the commit may
        have happened.
        """
        add_row = partial(
            upload_rows.add,
            row=row,
            quota_bytes=self.settings.quota_bytes,
            app_quota_bytes=self.settings.quota_app_bytes,
        )

        try:
            self.storage.put(row, path, thumbnail)
            is_stored = self._store.write(add_row)
        except StorageUnavailable:
            # The row may have been committed, so its bytes must stay.
            raise
        except BaseException:
            self.storage.remove(row)
            raise

        if not is_stored:
            self.storage.remove(row)
            raise TransferRefused(problem=HTTP_QUOTA_EXCEEDED)
        self.counters.uploads += 1
        self.counters.upload_bytes += row.bytes

    # --- out ------------------------------------------------------------------

    def find(self, name: str) -> Upload | None:
        """The file with this id, or None if it does not exist. Raises
        StorageUnavailable."""
        if len(name) != ID_CHARACTERS or not name.isascii():
            return None
        return self._store.read_or(None, partial(upload_rows.find, name=name))

    def open(
        self, row: Upload, thumbnail: bool, first: int, last: int, address: str = ""
    ) -> Pieces:
        """Begin to send a file, or its thumbnail, to a client.

        The result has the bytes from index ``first`` to index ``last``, both
        included. ``address``: of the client, whose transfers are limited.
        Switches greenlets. Raises :class:`TransferRefused` and
        MediaUnavailable.
        """
        transfer = self._leaving.begin(None, address)
        try:
            pieces = self.storage.of(row).get(name_of(row, thumbnail), first, last)
        except FileNotFoundError:
            self._leaving.free(transfer)
            log.error("the file %s is not where it was stored", row.id)
            raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD) from None
        except BaseException:
            self._leaving.free(transfer)
            raise
        self.counters.downloads += 1
        is_whole_file = not thumbnail and last + 1 - first == row.bytes
        # A part of a file cannot be compared with the checksum in the row.
        if is_whole_file:
            pieces = compared(pieces, row)
        return Pieces(pieces, transfer, self._leaving)

    def usage(self, app: str, user: str) -> Usage:
        """Number and bytes of a user's files. Raises StorageUnavailable."""
        return self._store.read_or(
            Usage(), partial(upload_rows.usage, app=app, user=user)
        )

    def page(
        self, app: str, user: str, before: tuple[int, str], limit: int
    ) -> list[Upload]:
        """A page of the files of a user, the newest first.

        ``before``: creation time and id of the last file of the previous page;
        ``(0, "")``: the first page. Raises StorageUnavailable.
        """
        find_page = partial(
            upload_rows.page, app=app, user=user, before=before, limit=limit
        )
        return self._store.read_or([], find_page)

    # --- away -----------------------------------------------------------------

    def delete(self, name: str) -> bool:
        """Remove a file. Returns False if it does not exist. Raises
        StorageUnavailable."""
        row = self._remove_row(name)
        if row is None:
            return False
        self.storage.remove(row)
        return True

    def _remove_row(self, name: str) -> Upload | None:
        """Delete the row of a file, and return it. Returns None if no such row
        exists."""
        return self._store.write_or(None, partial(upload_rows.remove, name=name))

    def forget(self, app: str, user: str, _name: str = "") -> int:
        """Delete all files of a user, and return their number.

        The bytes are deleted before the row, so that a failed deletion can be
        repeated. Raises StorageUnavailable and MediaUnavailable.
        """
        self.storage.directory.forget_unfinished(app, user)
        removed = 0
        # Always the first page, because the files on it are deleted.
        newest = (0, "")
        while rows := self.page(app, user, newest, _FORGOTTEN_AT_ONCE):
            removed += self._delete_all(rows)
        return removed

    def forget_app(self, app: str) -> int:
        """Delete all files of a deleted app, and return their number.

        This ends if the app is created again meanwhile. Raises
        StorageUnavailable and MediaUnavailable.
        """
        find_some = partial(upload_rows.some_of_app, app, _FORGOTTEN_AT_ONCE)
        if self._store.is_deleted(app):
            self.storage.directory.forget_unfinished(app)
        removed = 0
        while rows := self._store.read_of_deleted(app, find_some):
            removed += self._delete_all(rows)
        return removed

    def _delete_all(self, rows: list[Upload]) -> int:
        """Delete these files: of each first its bytes, then its row.

        Returns how many of them still existed.
        """
        removed = 0
        for row in rows:
            self.storage.delete(row)
            if self._remove_row(row.id) is not None:
                removed += 1
        return removed

    @property
    def erasure(self) -> Erasure:
        """The erasure of the files of deleted users and apps."""
        return Erasure(frozenset({"upload"}), self.forget, self.forget_app)

    def close(self) -> None:
        """Stop threads and close connections."""
        self._pictures.close()
        self.storage.close()


def compared(pieces: Iterator[bytes], row: Upload) -> Iterator[bytes]:
    """Pass on the pieces of a whole file, and compare them with the digest in
    its row.

    If they differ, the last piece is left out and MediaUnavailable is raised.
    So the reader gets less than the announced length, and knows that something
    is wrong.
    """
    digest = hashlib.sha256()
    piece_before = b""
    for piece in pieces:
        digest.update(piece)
        if piece_before:
            yield piece_before
        piece_before = piece
    if digest.hexdigest() != row.sha256:
        log.error(
            "the file %s has other bytes than were stored: its disk is damaged", row.id
        )
        raise MediaUnavailable("a file has other bytes than were stored")
    yield piece_before


def _lengths(folder: Path) -> list[int]:
    """The bytes of the quota that each unfinished upload in the folder of a
    user will cost. Runs in a thread."""
    lengths = []
    with suppress(FileNotFoundError):
        for path in folder.glob(f"*{STATE}"):
            # The upload may have just ended, or a full disk has damaged its
            # file.
            with suppress(FileNotFoundError, ValueError):
                state = msgspec.json.decode(path.read_bytes(), type=State)
                lengths.append(state.length + FILE_BYTES)
    return lengths


def new_id() -> str:
    """A random id of a file."""
    return token_urlsafe(ID_BYTES)


def shown_name(name: str) -> str:
    """The name of a file for display: without folders and control characters,
    and shortened. ``a/b.pdf`` becomes ``b.pdf``."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(letter for letter in last if letter.isprintable())
    return printable[:MAX_NAME_CHARACTERS]
