"""Uploads in several requests (tus 1.0): an interrupted client continues at the
stored offset.

An unfinished upload has a state file with the offer, and a part file with the
bytes so far. The size of the part file is the offset. Both are in the folder of
their user within the folder of incoming files. So every process and node with
that folder can continue the upload. A lock on the state file admits one request
at a time; it ends with its process. The last byte counts only after the row of
the file is committed. Until then the client sends it again.

After a power failure a part file may have wrong bytes after the synchronised
ones. So a third file stores the number of synchronised bytes at the end of each
request, and the life of the machine. In another life, or on another machine,
only these bytes count.
"""

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.media.uploads.contract import MediaUnavailable, State, Upload
from imserver.media.uploads.declared import (
    HTTP_CHECKSUM_MISMATCH,
    HTTP_FILE_TOO_LARGE,
    HTTP_KIND_REFUSED,
    HTTP_OFFSET_MISMATCH,
    HTTP_QUOTA_EXCEEDED,
    HTTP_UNKNOWN_UPLOAD,
    HTTP_UPLOAD_LOCKED,
)
from imserver.media.uploads.directory import (
    PRIVATE_FILE,
    STALE_SECONDS,
    STATE,
    folder_of,
    make_private,
    open_private,
)
from imserver.media.uploads.transfers import Transfer, TransferRefused
from imserver.media.uploads.uploads import ID_CHARACTERS, Offer, Uploads, new_id
from imserver.plugin.runtime import Threads

MAX_UNFINISHED: Final = 100
"""Unfinished uploads of one user."""
ALGORITHMS: Final = ("sha1", "sha256", "md5")
"""The algorithms for checksums of a request's bytes."""
_ID: Final = re.compile(rf"[A-Za-z0-9_-]{{{ID_CHARACTERS}}}")
_DONE: Final = ".done"
"""Suffix of the state file of a finished upload."""
_CHECKED: Final = ".from"
"""Suffix of the file with the offset to return to. It exists while bytes arrive
whose checksum is not verified yet."""
_SURE: Final = ".sure"
"""Suffix of the file about the synchronised bytes. Both its values have a fixed
length."""
_NEW: Final = ".new"
"""Suffix of the state file while it is written."""
_PIECE_BYTES: Final = 16384
_SILENT_SECONDS: Final = 1.0
"""Time without a byte after which a request gives way to another one for its
upload."""


class Checksum(Struct, frozen=True):
    """The digest that the bytes of a request must have.

    ``algorithm``: one of :data:`ALGORITHMS`.
    """

    algorithm: str
    digest: bytes


class PartialUpload(Struct):
    """An upload that a request has locked."""

    id: str
    path: Path
    """The path of the part file."""
    state: State
    lock: int
    """The descriptor of the state file, which is locked."""
    offset: int
    """The number of bytes that have arrived."""
    finished: bool
    """Whether all bytes have arrived, and the file has a row."""
    expires: float
    """Unix seconds."""
    transfer: Transfer | None = None
    """The transfer that appends bytes now; None: no transfer is running."""


class ResumableUploads:
    """The unfinished uploads of this node.

    All methods may switch greenlets, and may raise :class:`TransferRefused`,
    MediaUnavailable and StorageUnavailable.
    """

    def __init__(self, uploads: Uploads, boot: str = "") -> None:
        """Begin without locks. ``boot``: the id of this life of the machine;
        ``""``: the kernel tells it."""
        self._uploads = uploads
        self._boot = boot or _boot_id()
        self._locked: dict[str, PartialUpload | None] = {}
        """Id → the upload that a request of this process has locked; None: the
        request is still opening it."""

    def create(self, offer: Offer, metadata: str) -> str:
        """Begin an upload. Returns its id, which is later the id of the file.

        ``metadata``: as the client has sent it. The upload exists before its
        limits are checked, so that simultaneous uploads see each other. If it
        is above a limit, it is removed again.
        """
        self._uploads.check(offer)
        name = new_id()
        path = self._folder(offer.app, offer.user) / name
        state = msgspec.json.encode(
            State(offer.length, offer.name, offer.kind, metadata)
        )
        try:
            self._uploads.on_disk(_create, path, state, self._boot)
            self._admit(offer)
        except BaseException:
            self._erase(path)
            raise
        return name

    def _admit(self, offer: Offer) -> None:
        """Raise TransferRefused if the unfinished uploads of a user are above a
        limit. The new upload is among them."""
        waiting = self._uploads.unfinished(offer)
        if len(waiting) > MAX_UNFINISHED:
            too_many = f"The user has {MAX_UNFINISHED} unfinished uploads"
            raise TransferRefused(too_many, HTTP_QUOTA_EXCEEDED)
        self._uploads.admit(offer, sum(waiting))

    @contextmanager
    def begun(self, offer: Offer, metadata: str) -> Iterator[PartialUpload]:
        """A context with a new upload, to which the caller may append bytes.

        An error in the block removes the upload, because the client does not
        know its id yet.
        """
        name = self.create(offer, metadata)
        try:
            with self.opened(offer.app, offer.user, name) as part:
                yield part
        except BaseException:
            self._erase(self._folder(offer.app, offer.user) / name)
            raise

    @contextmanager
    def opened(self, app: str, user: str, name: str) -> Iterator[PartialUpload]:
        """A context in which no other request uses this upload of this user.

        Raises :class:`TransferRefused` for an unknown or expired upload, and
        for an upload that another request uses.
        """
        if name in self._locked:
            # The connection of the other request may be lost. If it is ended
            # now, the client can soon try again.
            self._end_if_silent(self._locked[name])
            raise TransferRefused(problem=HTTP_UPLOAD_LOCKED)
        if _ID.fullmatch(name) is None:
            # It would become the name of a file.
            raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD)
        path = self._folder(app, user) / name
        self._locked[name] = None
        try:
            part = self._uploads.on_disk(_open, path, self._boot)
            try:
                self._locked[name] = part
                self._note_if_finished(part)
                yield part
            finally:
                self._uploads.files.do(os.close, part.lock)
        finally:
            del self._locked[name]

    def _end_if_silent(self, part: PartialUpload | None) -> None:
        """End the request that has locked an upload, if it has got no byte for
        :data:`_SILENT_SECONDS`.

        ``part`` is None while that request is still opening the upload.
        """
        if part is None or part.transfer is None:
            return
        if monotonic() - part.transfer.moved_at > _SILENT_SECONDS:
            part.transfer.end()

    def _note_if_finished(self, part: PartialUpload) -> None:
        """Find out whether the upload is finished, which is so if its file has
        a row.

        A complete file without a row loses its last byte, so that the client
        sends this byte again, and the file is stored then.
        """
        if self._uploads.find(part.id) is not None:
            part.finished = True
            part.offset = part.state.length
        elif part.finished:
            # Its file was deleted since.
            raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD)
        elif part.offset >= part.state.length:
            part.offset = part.state.length - 1
            self._uploads.on_disk(os.truncate, part.path, part.offset)

    def append(
        self,
        part: PartialUpload,
        offer: Offer,
        offset: int,
        length: int,
        read: Callable[[int], bytes],
        checksum: Checksum | None = None,
    ) -> Upload | None:
        """Append ``length`` bytes to an upload that has ``offset`` bytes.

        Returns the row of the file if the file is complete now, else None.
        ``offer``: the sender; name, kind and length come from the state.
        ``read(n)`` returns up to ``n`` more bytes. ``checksum``: of these
        bytes; None: they are not compared. The bytes that arrived before an
        error count, unless they have a checksum.
        """
        state = part.state
        offer = replace(offer, name=state.name, kind=state.kind, length=state.length)
        _check_range(part, offset, length)
        if not length:
            return None

        try:
            with self._uploads.arriving(offer, length) as transfer:
                part.transfer = transfer
                self._uploads.check_disk()
                self._receive_durably(part, offer, length, read, checksum)
                part.offset += length
                if part.offset < state.length:
                    return None
                row = self._uploads.finish(offer, part.path, part.id)
        except TransferRefused as refused:
            if _is_final(refused, is_complete=part.offset == state.length):
                self.remove(part)
            raise
        finally:
            part.transfer = None

        self._note_as_finished(part)
        return row

    def _receive_durably(
        self,
        part: PartialUpload,
        offer: Offer,
        length: int,
        read: Callable[[int], bytes],
        checksum: Checksum | None,
    ) -> None:
        """Write arriving bytes, and let the disk keep them, also after an
        error: the client continues after the bytes that have arrived."""
        try:
            self._receive(part, offer, length, read, checksum)
        except BaseException:
            with suppress(MediaUnavailable):
                self._synchronise(part)
            raise
        self._synchronise(part)

    def _note_as_finished(self, part: PartialUpload) -> None:
        """Delete the part file of a stored upload, and rename its state file."""
        self._uploads.storage.discard(part.path)
        self._uploads.on_disk(_rename, part.path)
        part.finished = True

    def _synchronise(self, part: PartialUpload) -> None:
        """Make the bytes that have arrived survive a power failure, and note
        their number."""

        def synchronise() -> None:
            try:
                Threads.synchronise(part.path)
            except OSError:
                # Nobody knows which of the new bytes the disk has.
                _drop_unsynchronised(part.path)
                raise
            size = part.path.stat().st_size
            _write_synchronised_size(part.path, size, self._boot)

        self._uploads.on_disk(synchronise)

    def _receive(
        self,
        part: PartialUpload,
        offer: Offer,
        length: int,
        read: Callable[[int], bytes],
        checksum: Checksum | None,
    ) -> None:
        """Write arriving bytes to the part file, and compare them with their
        checksum.

        After an error, bytes with a checksum are dropped again. Raises
        TransferRefused, MediaUnavailable, and the exceptions of ``read``.
        """
        assert part.transfer is not None
        digest: Any = None
        if checksum is not None:
            digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
            self._mark_unverified(part)
        try:
            self._uploads.write(
                offer,
                read,
                part.path,
                part.transfer,
                part.offset,
                length,
                digest,
                most=_PIECE_BYTES,
            )
            if checksum is not None and digest.digest() != checksum.digest:
                raise TransferRefused(problem=HTTP_CHECKSUM_MISMATCH)
        except BaseException:
            self._uploads.on_disk(_drop_unverified, part.path)
            raise
        if checksum is not None:
            self._uploads.on_disk(os.unlink, part.path.with_suffix(_CHECKED))

    def _mark_unverified(self, part: PartialUpload) -> None:
        """Store how many bytes are verified, before others arrive. If this
        process is killed, the next request drops the others."""
        self._uploads.on_disk(
            _write, part.path.with_suffix(_CHECKED), b"%d" % part.offset
        )

    def remove(self, part: PartialUpload) -> None:
        """Delete an upload and, if it is finished, its file."""
        if part.finished:
            self._uploads.delete(part.id)
        self._erase(part.path)

    def _erase(self, path: Path) -> None:
        """Delete all files of the unfinished upload whose part file is at
        ``path``."""
        self._uploads.storage.discard(path)
        self._uploads.on_disk(_remove, path)

    def _folder(self, app: str, user: str) -> Path:
        """The folder of the unfinished uploads of a user."""
        return self._uploads.incoming() / folder_of(app, user)


def _check_range(part: PartialUpload, offset: int, length: int) -> None:
    """Refuse bytes that do not follow the arrived bytes, or that are too many.
    Raises TransferRefused."""
    if offset != part.offset:
        raise TransferRefused(
            f"The upload has {part.offset} bytes", HTTP_OFFSET_MISMATCH
        )
    if offset + length > part.state.length:
        raise TransferRefused(
            f"The upload has {part.state.length} bytes in all", HTTP_FILE_TOO_LARGE
        )


def _is_final(refused: TransferRefused, is_complete: bool) -> bool:
    """Whether an upload can never be accepted after this refusal, so that it is
    deleted.

    The client may continue with any other upload. ``is_complete``: all its
    bytes have arrived, so another try would not change them.
    """
    problem = refused.problem
    if problem in (HTTP_KIND_REFUSED, HTTP_FILE_TOO_LARGE):
        return True
    return is_complete and not problem.temporary


# --- in a thread --------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    """Write a small file anew, which only this user may read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(path, flags, PRIVATE_FILE), "wb") as file:
        file.write(content)


def _boot_id() -> str:
    """The id of this life of the machine, which the kernel makes at each boot.

    Returns ``""`` if the system has no such id.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _write_synchronised_size(path: Path, size: int, boot: str) -> None:
    """Store how many bytes of the part file at ``path`` are synchronised, and
    in which life of the machine: ``00000000000000004096 1f3c…``."""
    # Written in place, because a sector is written completely or not at all.
    flags = os.O_WRONLY | os.O_CREAT
    descriptor = os.open(path.with_suffix(_SURE), flags, PRIVATE_FILE)
    try:
        os.pwrite(descriptor, f"{size:020d} {boot}".encode(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_unsynchronised(path: Path, boot: str = "") -> None:
    """Drop bytes of the part file at ``path`` that were not synchronised.

    Bytes that were written in the life ``boot`` of the machine stay, because
    there was no power failure since. An empty ``boot`` drops them in any case.
    """
    try:
        text = path.with_suffix(_SURE).read_text("ascii")
    except FileNotFoundError:
        # An earlier release has begun this upload.
        return
    size, _, former_boot = text.partition(" ")
    if former_boot == boot:
        return
    with suppress(FileNotFoundError):
        if path.stat().st_size > int(size):
            os.truncate(path, int(size))
    if boot:
        _write_synchronised_size(path, int(size), boot)


def _create(path: Path, state: bytes, boot: str) -> None:
    """Create the files of a new upload. They survive a power failure."""
    make_private(path.parent)
    open_private(path).close()
    _write_synchronised_size(path, 0, boot)
    # Others see the state file only when it is complete.
    new_state = path.with_suffix(_NEW)
    _write(new_state, state)
    Threads.synchronise(new_state)
    new_state.replace(path.with_suffix(STATE))
    Threads.synchronise(path.parent)


def _open(path: Path, boot: str) -> PartialUpload:
    """Lock an upload, and read its state. Bytes that may be wrong are dropped.

    Raises :class:`TransferRefused` if the upload is unknown, expired or locked.
    """
    lock, finished = _lock_state(path)
    try:
        state = _state_in(lock)
        os.utime(lock)  # the upload expires later
        _drop_unverified(path)
        if not finished:
            _drop_unsynchronised(path, boot)
        offset = 0
        with suppress(FileNotFoundError):
            offset = path.stat().st_size
        return PartialUpload(
            id=path.name,
            path=path,
            state=state,
            lock=lock,
            offset=offset,
            finished=finished,
            expires=time() + STALE_SECONDS,
        )
    except BaseException:
        os.close(lock)
        raise


def _state_in(lock: int) -> State:
    """The state of an upload, from its open state file. Raises TransferRefused
    if the upload is expired, was removed, or has no valid state."""
    status = os.fstat(lock)
    # The time of the state file is the time of the last request.
    was_removed = not status.st_nlink  # after this process had opened it
    if was_removed or status.st_mtime + STALE_SECONDS < time():
        raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD)
    try:
        return msgspec.json.decode(os.pread(lock, status.st_size, 0), type=State)
    except ValueError:  # damaged when its machine lost power
        raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD) from None


def _lock_state(path: Path) -> tuple[int, bool]:
    """Open and lock the state file of an upload.

    Returns its descriptor, and whether the upload is finished. The lock ends
    when the descriptor is closed. Raises :class:`TransferRefused` if the upload
    is unknown or locked.
    """
    for suffix in (STATE, _DONE):
        try:
            lock = os.open(path.with_suffix(suffix), os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            # Does not wait: the client gets an error, and tries again.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise TransferRefused(problem=HTTP_UPLOAD_LOCKED) from None
        return lock, suffix == _DONE
    raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD)


def _drop_unverified(path: Path) -> None:
    """Drop the bytes of the part file at ``path`` that arrived with a checksum
    which was not verified."""
    offset_file = path.with_suffix(_CHECKED)
    try:
        offset = offset_file.read_bytes()
    except FileNotFoundError:
        return
    # If the file is empty, its node was killed before it wrote the offset.
    if offset:
        with suppress(FileNotFoundError):
            os.truncate(path, int(offset))
    offset_file.unlink()


def _rename(path: Path) -> None:
    """Mark an upload as finished, by another name of its state file."""
    with suppress(FileNotFoundError):  # the user was deleted
        path.with_suffix(STATE).replace(path.with_suffix(_DONE))
    path.with_suffix(_SURE).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Delete the files beside the part file at ``path``."""
    for suffix in (STATE, _DONE, _CHECKED, _SURE, _NEW):
        path.with_suffix(suffix).unlink(missing_ok=True)
