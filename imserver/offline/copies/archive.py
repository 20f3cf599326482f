"""One file with everything that a server has stored: the database as a SQLite
file, secrets, and files of features.

It is a tar file without compression. Its last members are the names of files
that could not be read completely, a checksum of the members before, and a mark
that it is complete.
"""

import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import time
from typing import IO, Any, Final

from msgspec import Struct, json

from imserver.gateway.errors import ImserverError, StartError
from imserver.gateway.process import SECRET_BYTES
from imserver.offline.copies.files import whole_or_absent
from imserver.plugin.progress import long_work

_HEAD: Final = "imserver.json"
"""The name of the first member. Below are the names of others."""
_CHECKSUM: Final = "checksum"
"""SHA-256 of the names, sizes and contents of all members before it. Archives
from before 1.1 have no checksum."""
_ABSENT: Final = "absent"
_END: Final = "end"
_DATABASE: Final = "database.db"
_FILES: Final = "files/"
_FORMAT: Final = 1
_BLOCK: Final = 512
"""The length of a header in a tar file, in bytes."""
_PIECE_BYTES: Final = 1 << 20
_MOST_ABSENT: Final = 10_000
"""The most names of incompletely read files in an archive."""


class BackupHead(Struct, frozen=True):
    """The content of the first member.

    ``format``: the version of the format. ``secrets``: name → content, in
    Latin-1. ``created``: Unix seconds.
    """

    format: int
    created: int
    secrets: dict[str, str]


class FeatureFile(Struct, frozen=True):
    """A file of a feature, for example an uploaded picture.

    ``name``: its name within the feature. ``size``: its bytes; -1 if it is
    unreadable. ``read``: its content, in pieces.
    """

    feature: str
    name: str
    size: int
    read: Iterable[bytes]


class _Pieces:
    """The content of a member, as a file for the tar library.

    ``digest`` gets the content, too. If the content ends too early or becomes
    unreadable, zeros fill the member, and ``is_whole`` is False.
    """

    def __init__(self, pieces: Iterable[bytes], digest: Any) -> None:
        """``pieces``: the content. ``digest``: the checksum of the archive."""
        self.is_whole = True
        self._pieces = iter(pieces)
        self._unread = bytearray()
        self._digest = digest

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, with zeros in place of missing bytes.

        In all, the tar library asks for as many bytes as the member has.
        """
        while len(self._unread) < size:
            piece = b""
            with suppress(ImserverError):
                piece = next(self._pieces, b"")
            if piece:
                self._unread += piece
            else:
                # The archive already has the size of the member, so zeros must
                # take the place of the missing bytes.
                self.is_whole = False
                self._unread += bytes(size - len(self._unread))
        content = bytes(self._unread[:size])
        del self._unread[:size]
        self._digest.update(content)
        return content


def _title(member: tarfile.TarInfo) -> bytes:
    """Return name and size of a member, as parts of the checksum."""
    return f"{member.name}\n{member.size}\n".encode("utf-8", "surrogateescape")


class _Members:
    """Writes members to an archive, and makes their checksum."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.digest = sha256()

    def add(self, name: str, size: int, pieces: Iterable[bytes]) -> bool:
        """Write a member. Returns whether its content was read completely.

        ``size``: the bytes of its content, which ``pieces`` should have
        together.
        """
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o600
        member.mtime = int(time())
        self.digest.update(_title(member))
        content = _Pieces(pieces, self.digest)
        self._tar.addfile(member, content)  # type: ignore[arg-type]
        # The library keeps all members, and would take 0.4 GB for a million.
        self._tar.members.clear()  # type: ignore[attr-defined]
        return content.is_whole

    def add_bytes(self, name: str, content: bytes) -> None:
        """Write a small member."""
        self.add(name, len(content), (content,))


@long_work("writing the archive")
def write(
    path: Path, database: Path, secrets: dict[str, str], files: Iterable[FeatureFile]
) -> tuple[int, list[str]]:
    """Write a new archive. If that fails, there is no archive.

    Returns the number of files, and the names of files that could not be read
    completely. Raises StartError.
    """
    if path.exists():
        raise StartError(f"{path} exists already")

    try:
        # The archive is a stream: it can be larger than the memory.
        with (
            whole_or_absent(path) as unfinished,
            unfinished.open("wb") as out,
            tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            count, absent = _write_members(_Members(tar), database, secrets, files)
    except OSError as error:
        raise StartError(
            f"{path} cannot be written: {error.strerror or error}"
        ) from None
    return count, absent


def _write_members(
    members: _Members,
    database: Path,
    secrets: dict[str, str],
    files: Iterable[FeatureFile],
) -> tuple[int, list[str]]:
    """Write all members of an archive, in their order.

    Returns the number of files, and the names of files that could not be read
    completely. Raises OSError.
    """
    head = json.encode(BackupHead(_FORMAT, int(time()), secrets))
    members.add_bytes(_HEAD, head)
    _write_database(members, database)
    count, absent = _write_files(members, files)

    members.add_bytes(_ABSENT, json.encode(absent[:_MOST_ABSENT]))
    # The checksum is that of all members before it.
    members.add_bytes(_CHECKSUM, members.digest.hexdigest().encode())
    members.add_bytes(_END, f"{count}".encode())
    return count, absent


def _write_database(members: _Members, database: Path) -> None:
    """Write the copy of the database as a member. Raises OSError."""
    with database.open("rb") as file:
        pieces = iter(partial(file.read, _PIECE_BYTES), b"")
        members.add(_DATABASE, database.stat().st_size, pieces)


def _write_files(
    members: _Members, files: Iterable[FeatureFile]
) -> tuple[int, list[str]]:
    """Write the files of features.

    Returns their number, and the names of files that could not be read
    completely. Unreadable files are not counted.
    """
    count = 0
    absent: list[str] = []
    for file in files:
        name = f"{file.feature}/{file.name}"
        is_whole = False
        # A file of unknown size cannot be written to an archive.
        if file.size >= 0:
            count += 1
            is_whole = members.add(f"{_FILES}{name}", file.size, file.read)
        if not is_whole:
            absent.append(name)
    return count, absent


_MOST_NAMED: Final = 5


def lack_of(absent: Sequence[str]) -> str:
    """Return a sentence about the files that an archive lacks.

    ``absent``: all names.
    """
    names = ", ".join(absent[:_MOST_NAMED])
    if len(absent) > _MOST_NAMED:
        names += ", …"
    return f"files that are not in the archive, because they are damaged or missing: {len(absent)} ({names})"


def is_archive(path: Path) -> bool:
    """Whether a file begins like an archive."""
    try:
        with path.open("rb") as file:
            return file.read(_BLOCK).startswith(_HEAD.encode() + b"\0")
    except OSError:
        return False


class BackupArchive:
    """A complete archive, which can be read."""

    @long_work("reading the archive")
    def __init__(self, path: Path) -> None:
        """Open an archive, and read it once to check it.

        Raises StartError if it is damaged, or if a newer release has made it.
        """
        self._path = path
        self.features: Counter[str] = Counter()
        """Feature → the number of its files."""
        self.size = 0
        """The bytes of all members."""
        self.database_size = 0
        self.has_checksum = False
        self.absent: list[str] = []
        """The files that could not be read completely when the archive was
        made."""
        try:
            self._read()
            self._check_head()
        except (
            tarfile.TarError,
            OSError,
            ValueError,
            AttributeError,
            RecursionError,
        ) as error:
            raise StartError(f"{path} is damaged: {error}") from None

    def _check_head(self) -> None:
        """Check the secrets and the format of the archive.

        Raises ValueError if it is damaged, and StartError if a newer release
        has made it.
        """
        # A short secret was cut off, or somebody has changed the archive.
        for secret in self.head.secrets.values():
            if len(secret.encode("latin-1").strip()) < SECRET_BYTES:
                raise ValueError("a secret in it is too short")
        if self.head.format != _FORMAT:
            raise StartError(
                f"{self._path} belongs to a newer release: its format is {self.head.format}"
            )

    def _read(self) -> None:
        """Read all members, and compare them with the checksum in the archive.

        Also the number of files is compared. Raises ValueError if they differ,
        and the errors of the libraries.
        """
        digest = sha256()
        name = ""
        for member, content in self._members():
            name = member.name
            self.size += member.size
            piece = content.read(_PIECE_BYTES)
            if name == _CHECKSUM:
                self.has_checksum = True
                if piece != digest.hexdigest().encode():
                    raise ValueError("its checksum is wrong")
            elif name == _END and int(piece[:_BLOCK]) != self.features.total():
                raise ValueError("files are absent")
            else:
                self._note(member, piece)
            # The checksum is for the members before it. So each member is added
            # after its name was looked at.
            digest.update(_title(member))
            while piece:
                digest.update(piece)
                piece = content.read(_PIECE_BYTES)
        if name != _END:
            raise ValueError("its end is absent")

    def _note(self, member: tarfile.TarInfo, beginning: bytes) -> None:
        """Note what a member tells about the archive.

        ``beginning``: the first bytes of its content. Small members are
        complete in it.
        """
        name = member.name
        if name == _HEAD:
            self.head = json.decode(beginning, type=BackupHead)
        elif name == _DATABASE:
            self.database_size = member.size
        elif name.startswith(_FILES):
            # Such as files/uploads/7f3a.
            feature = name.split("/")[1]
            self.features[feature] += 1
        elif name == _ABSENT:
            self.absent = json.decode(beginning, type=list[str])

    def extract_database(self, target: Path) -> None:
        """Write the database of the archive to a new file. Raises StartError.

        Only the owner may read the file.
        """
        try:
            for member, content in self._members():
                if member.name == _DATABASE:
                    # O_EXCL: the file must not exist, not even as a link.
                    descriptor = os.open(
                        target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
                    )
                    with os.fdopen(descriptor, "wb") as file:
                        shutil.copyfileobj(content, file)
                    return
        except OSError as error:
            raise StartError(f"{target} cannot be written: {error.strerror}") from None
        raise StartError(f"{self._path} has no database")

    def files(self, feature: str) -> Iterator[tuple[str, IO[bytes]]]:
        """Yield the name and the content of each file of a feature.

        The content must be read before the next file is asked for. Raises
        ValueError and TarError.
        """
        start = f"{_FILES}{feature}/"
        for member, content in self._members():
            if member.name.startswith(start):
                yield member.name.removeprefix(start), content

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
        """Yield all members with their contents, in order.

        Raises ValueError for a member that no backup has, and TarError.
        """
        with tarfile.open(self._path, "r|", errors="strict") as tar:
            for member in tar:
                # A sparse file may have few bytes in the archive, and fill the
                # disk when it is extracted.
                is_plain = member.isreg() and not member.issparse()
                # A report prints the name of a feature: files/FEATURE/NAME.
                first_names = member.name.split("/")[:2]
                if not is_plain or not first_names[-1].isprintable():
                    raise ValueError(f"{member.name!a} is no file of a backup")
                content: Any = tar.extractfile(member)
                yield member, content
                # The library keeps all members, which takes much memory.
                tar.members.clear()  # type: ignore[attr-defined]
