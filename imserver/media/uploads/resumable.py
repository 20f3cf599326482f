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
    """The digest that the bytes of a request must have."""

    algorithm: str
    digest: bytes


class PartialUpload(Struct):
    """An upload that a request has locked. ``offset``: bytes that are here.
    ``expires``: Unix seconds."""

    id: str
    path: Path
    state: State
    lock: int
    offset: int
    finished: bool
    expires: float
    transfer: Transfer | None = None


class ResumableUploads:
    """Owner of the unfinished uploads of this node. All methods may switch
    greenlets, and may raise :class:`TransferRefused`, MediaUnavailable and
    StorageUnavailable."""

    def __init__(self, uploads: Uploads, boot: str = "") -> None:
        """``boot``: the life of the machine; ``""``: the kernel tells it."""
        self._uploads = uploads
        self._boot = boot or _boot_id()
        self._locked: dict[str, PartialUpload | None] = {}

    def create(self, offer: Offer, metadata: str) -> str:
        """Begin an upload. Return its id, which is later the id of the file.

        The upload exists before its limits are checked, so that simultaneous
        uploads see each other.
        """
        self._uploads.check(offer)
        name = new_id()
        path = self._folder(offer.app, offer.user) / name
        state = msgspec.json.encode(
            State(offer.length, offer.name, offer.kind, metadata)
        )

        too_many = f"The user has {MAX_UNFINISHED} unfinished uploads"
        try:
            self._uploads.on_disk(_create, path, state, self._boot)
            waiting = self._uploads.unfinished(offer)
            if len(waiting) > MAX_UNFINISHED:
                raise TransferRefused(too_many, HTTP_QUOTA_EXCEEDED)
            self._uploads.admit(offer, sum(waiting))
        except BaseException:
            self._erase(path)
            raise
        return name

    @contextmanager
    def begun(self, offer: Offer, metadata: str) -> Iterator[PartialUpload]:
        """Context with a new upload; see :meth:`create`. An error inside
        removes the upload, because nobody knows its id."""
        name = self.create(offer, metadata)
        try:
            with self.opened(offer.app, offer.user, name) as part:
                yield part
        except BaseException:
            self._erase(self._folder(offer.app, offer.user) / name)
            raise

    @contextmanager
    def opened(self, app: str, user: str, name: str) -> Iterator[PartialUpload]:
        """Context in which no other request uses this upload of this user.

        Refuses an unknown or expired upload, and an upload that another request
        uses. That request ends if it has been silent for a second, because its
        connection may be lost.
        """
        if name in self._locked:
            self._end_if_silent(self._locked[name])
            raise TransferRefused(problem=HTTP_UPLOAD_LOCKED)
        if _ID.fullmatch(name) is None:  # it becomes the name of a file
            raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD)
        self._locked[name] = None
        try:
            part = self._uploads.on_disk(
                _open, self._folder(app, user) / name, self._boot
            )
            try:
                self._locked[name] = part
                self._settle(part)
                yield part
            finally:
                self._uploads.files.do(os.close, part.lock)
        finally:
            del self._locked[name]

    def _end_if_silent(self, part: PartialUpload | None) -> None:
        if part is None or part.transfer is None:
            return
        if monotonic() - part.transfer.moved_at > _SILENT_SECONDS:
            part.transfer.end()

    def _settle(self, part: PartialUpload) -> None:
        """Find out whether the upload is finished. A complete file without a
        row loses its last byte."""
        if self._uploads.find(part.id) is not None:
            part.finished = True
            part.offset = part.state.length
        elif part.finished:  # and deleted since
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
        """Append ``length`` bytes at ``offset``. Return the file if it is
        complete.

        ``offer``: the sender; name, kind and length come from the state. The
        bytes that arrived before an error count, unless they have a checksum.
        """
        state = part.state
        offer = replace(offer, name=state.name, kind=state.kind, length=state.length)

        if offset != part.offset:
            raise TransferRefused(
                f"The upload has {part.offset} bytes", HTTP_OFFSET_MISMATCH
            )
        if offset + length > state.length:
            raise TransferRefused(
                f"The upload has {state.length} bytes in all", HTTP_FILE_TOO_LARGE
            )
        if not length:
            return None

        try:
            with self._uploads.arriving(offer, length) as transfer:
                part.transfer = transfer
                self._uploads.check_disk()
                try:
                    self._receive(part, offer, length, read, checksum)
                except BaseException:
                    # The client continues after the bytes that have arrived.
                    with suppress(MediaUnavailable):
                        self._synchronise(part)
                    raise
                self._synchronise(part)
                part.offset += length
                if part.offset < state.length:
                    return None
                row = self._uploads.finish(offer, part.path, part.id)
        except TransferRefused as refused:
            # An upload that can never be accepted is deleted. The client may
            # continue with any other one.
            problem = refused.problem
            is_complete = part.offset == state.length
            if problem in (HTTP_KIND_REFUSED, HTTP_FILE_TOO_LARGE) or (
                is_complete and not problem.temporary
            ):
                self.remove(part)
            raise
        finally:
            part.transfer = None

        self._uploads.storage.discard(part.path)
        self._uploads.on_disk(_rename, part.path)
        part.finished = True
        return row

    def _synchronise(self, part: PartialUpload) -> None:
        """Make the bytes so far survive a power failure."""

        def work() -> None:
            try:
                Threads.synchronise(part.path)
            except OSError:  # nobody knows which of the new bytes the disk has
                _drop_unsure(part.path)
                raise
            _write_sure(part.path, part.path.stat().st_size, self._boot)

        self._uploads.on_disk(work)

    def _receive(
        self,
        part: PartialUpload,
        offer: Offer,
        length: int,
        read: Callable[[int], bytes],
        checksum: Checksum | None,
    ) -> None:
        assert part.transfer is not None
        digest: Any = None
        if checksum is not None:
            digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
            self._uploads.on_disk(
                _write, part.path.with_suffix(_CHECKED), b"%d" % part.offset
            )

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
            self._uploads.on_disk(_restore, part.path)
            raise
        if checksum is not None:
            self._uploads.on_disk(os.unlink, part.path.with_suffix(_CHECKED))

    def remove(self, part: PartialUpload) -> None:
        """Delete an upload, and its file if it is finished."""
        if part.finished:
            self._uploads.delete(part.id)
        self._erase(part.path)

    def _erase(self, path: Path) -> None:
        self._uploads.storage.discard(path)
        self._uploads.on_disk(_remove, path)

    def _folder(self, app: str, user: str) -> Path:
        return self._uploads.incoming() / folder_of(app, user)


# --- in a thread --------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(path, flags, PRIVATE_FILE), "wb") as file:
        file.write(content)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _write_sure(path: Path, size: int, boot: str) -> None:
    # Written in place, because a sector is written completely or not at all.
    flags = os.O_WRONLY | os.O_CREAT
    descriptor = os.open(path.with_suffix(_SURE), flags, PRIVATE_FILE)
    try:
        os.pwrite(descriptor, f"{size:020d} {boot}".encode(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_unsure(path: Path, boot: str = "") -> None:
    """Drop bytes that were not synchronised, unless they were written in this
    life of the machine."""
    try:
        text = path.with_suffix(_SURE).read_text("ascii")
    except FileNotFoundError:  # begun by a release before
        return
    size, _, former_boot = text.partition(" ")
    if former_boot == boot:
        return
    with suppress(FileNotFoundError):
        if path.stat().st_size > int(size):
            os.truncate(path, int(size))
    if boot:
        _write_sure(path, int(size), boot)


def _create(path: Path, state: bytes, boot: str) -> None:
    make_private(path.parent)
    open_private(path).close()
    _write_sure(path, 0, boot)
    _write(path.with_suffix(_NEW), state)
    Threads.synchronise(path.with_suffix(_NEW))
    path.with_suffix(_NEW).replace(path.with_suffix(STATE))  # others read it whole
    Threads.synchronise(path.parent)


def _open(path: Path, boot: str) -> PartialUpload:
    """Lock an upload. Raises :class:`TransferRefused`."""
    lock, finished = _locked(path)
    try:
        about = os.fstat(lock)
        if not about.st_nlink or about.st_mtime + STALE_SECONDS < time():
            raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD)
        try:
            state = msgspec.json.decode(os.pread(lock, about.st_size, 0), type=State)
        except ValueError:  # damaged when its machine lost power
            raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD) from None
        os.utime(lock)
        _restore(path)
        if not finished:
            _drop_unsure(path, boot)
        offset = 0
        with suppress(FileNotFoundError):
            offset = path.stat().st_size
        return PartialUpload(
            path.name, path, state, lock, offset, finished, time() + STALE_SECONDS
        )
    except BaseException:
        os.close(lock)
        raise


def _locked(path: Path) -> tuple[int, bool]:
    """Open and lock the state file. Return its descriptor, and whether the
    upload is finished."""
    for suffix in (STATE, _DONE):
        try:
            lock = os.open(path.with_suffix(suffix), os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise TransferRefused(problem=HTTP_UPLOAD_LOCKED) from None
        return lock, suffix == _DONE
    raise TransferRefused(problem=HTTP_UNKNOWN_UPLOAD)


def _restore(path: Path) -> None:
    """Drop bytes whose checksum was not verified."""
    mark = path.with_suffix(_CHECKED)
    try:
        offset = mark.read_bytes()
    except FileNotFoundError:
        return
    if offset:  # else its node was killed before it wrote any
        with suppress(FileNotFoundError):
            os.truncate(path, int(offset))
    mark.unlink()


def _rename(path: Path) -> None:
    with suppress(FileNotFoundError):  # the user was deleted
        path.with_suffix(STATE).replace(path.with_suffix(_DONE))
    path.with_suffix(_SURE).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    for suffix in (STATE, _DONE, _CHECKED, _SURE, _NEW):
        path.with_suffix(suffix).unlink(missing_ok=True)
