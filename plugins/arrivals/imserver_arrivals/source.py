"""The files of an archive, which is a folder, a zip file, a tar file, or a
single file.

Nothing is extracted, and no name in an archive leads out of it: symbolic links
and names with ``..`` are left out. Names are corrected to the names that the
server meant, whatever tool has packed them: see :func:`_corrected_name`.
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Final, TypeVar, cast
from weakref import finalize
from zipfile import BadZipFile, ZipFile, ZipInfo, is_zipfile

from msgspec import Struct

from .fields import BYTE_ORDER_MARK
from .problems import BrokenArchive, Problems

MOST_NAMES: Final = 2_000_000
"""The most files in an archive."""
MOST_JSON_BYTES: Final = 64 << 20
"""Limit of the unpacked bytes of one JSON file that is read as a whole."""
MOST_LINE_BYTES: Final = 16 << 20
"""Limit of the unpacked bytes of one line of JSON."""
MOST_RATIO: Final = 200
"""How many times larger than a compressed tar file its content may be."""
_GZIP_MAGIC: Final = b"\x1f\x8b"
"""The first bytes of a gzip file."""
_PIECE_BYTES: Final = 1 << 20
_UTF_8_NAMES: Final = 0x800
"""The flag of a file in a zip file whose name is in UTF-8."""

_File = TypeVar("_File")


class Source(Struct, weakref=True):
    """The files of an archive.

    ``names`` have slashes, and never begin with a slash. ``open``: name → the
    bytes. It raises OSError, and errors of a broken archive.
    """

    names: list[str]
    open: Callable[[str], IO[bytes]]


def source_of(path: Path, problems: Problems) -> Source:
    """Return the files of an archive: a folder, a zip or tar file, or one file.

    ``problems`` gets the files that are left out. Raises BadArchive and
    OSError.
    """
    if path.is_dir():
        files = _by_corrected_name(((name, name) for name in _names_in(path)), problems)
        return Source(
            names=list(files), open=lambda name: (path / files[name]).open("rb")
        )
    if is_zipfile(path) or path.suffix == ".zip":
        return _zip(path, problems)
    if path.name.endswith((".tar", ".tar.gz", ".tgz")):
        return _tar(path, problems)
    return Source(names=[path.name], open=lambda _: path.open("rb"))


def _zip(path: Path, problems: Problems) -> Source:
    """Return the files of a zip file. Raises BrokenArchive."""
    try:
        packed = ZipFile(path)
    except (OSError, BadZipFile, NotImplementedError, ValueError) as error:
        raise BrokenArchive(f"{path} is not a complete zip file: {error}") from None
    rows = ((_zip_name(row), row) for row in packed.infolist())
    # The name of a folder ends with a slash.
    files = _by_corrected_name(
        ((name, row) for name, row in rows if not name.endswith(("/", "\\"))), problems
    )
    source = Source(names=list(files), open=lambda name: packed.open(files[name]))
    # The zip file is closed when nobody needs the source any more.
    finalize(source, packed.close)
    return source


def _zip_name(row: ZipInfo) -> str:
    """Return the name of a file in a zip file.

    If the file has no flag for UTF-8, Python reads the name as code page 437,
    as the standard says. Slack and other tools write UTF-8 without the flag, so
    such a name is decoded again.
    """
    if row.flag_bits & _UTF_8_NAMES:
        return row.filename
    try:
        return row.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return row.filename


def _tar(path: Path, problems: Problems) -> Source:
    """Return the files of a tar file. Raises BrokenArchive.

    A compressed one is unpacked once, so that each of its files is quickly
    found.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(unpacked(path.open("rb"), path.name))
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
            files = _by_corrected_name(
                ((row.name, row) for row in tar if row.isfile()), problems
            )
        except (EOFError, gzip.BadGzipFile, ValueError, tarfile.TarError) as error:
            raise BrokenArchive(f"{path} is not a complete tar file: {error}") from None
        source = Source(
            names=list(files),
            open=lambda name: cast(IO[bytes], tar.extractfile(files[name])),
        )
        # The file is closed when nobody needs the source any more.
        finalize(source, stack.pop_all().close)
    return source


def _names_in(folder: Path) -> Iterator[str]:
    """Yield the names of the files in a folder, sorted. Symbolic links are left
    out."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(parent, file)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix()


def _by_corrected_name(
    files: Iterable[tuple[str, _File]], problems: Problems
) -> Mapping[str, _File]:
    """Return the files of an archive by their corrected names.

    ``problems`` gets the files that are left out. Raises BrokenArchive if there
    are too many.
    """
    rows = list(islice(files, MOST_NAMES + 1))
    if len(rows) > MOST_NAMES:
        raise BrokenArchive(f"more than {MOST_NAMES} files")
    names: dict[str, _File] = {}
    for packed_name, file in rows:
        name = _corrected_name(packed_name)
        if not name or ".." in name.split("/"):
            problems.note_broken(
                f"file {packed_name}", "its name leads out of the archive"
            )
            continue
        if name in names:
            problems.note_broken(
                f"file {name}", "two files have this name; the last one is read"
            )
        names[name] = file
    return names


def _corrected_name(name: str) -> str:
    """Return the name of a file as a path from the top of the archive, with
    slashes.

    Old tools of Windows separate folders by backslashes. A name with a slash is
    not from such a tool, so a backslash in it stays.
    """
    if "/" not in name:
        name = name.replace("\\", "/")
    return name.lstrip("/").removeprefix("./")


def read_whole(file: IO[bytes]) -> bytes:
    """Return all bytes of a file that is read as a whole, without a byte order
    mark.

    Raises ValueError if it has more than MOST_JSON_BYTES.
    """
    content = file.read(MOST_JSON_BYTES + 1)
    if len(content) > MOST_JSON_BYTES:
        raise ValueError(f"more than {MOST_JSON_BYTES} bytes")
    return content.removeprefix(BYTE_ORDER_MARK)


def read_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Yield the lines of a file.

    None stands for a line with more than MOST_LINE_BYTES, which is skipped.
    """
    mark = BYTE_ORDER_MARK
    while True:
        line = file.readline(MOST_LINE_BYTES + 1)
        if not line:
            return
        line = line.removeprefix(mark)
        mark = b""  # only the first line may have it
        if len(line) <= MOST_LINE_BYTES:
            yield line
            continue
        yield None
        # Skip the rest of the line.
        while line and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE_BYTES)


def unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    """Return a file, which is unpacked first if it is a gzip file.

    A gzip file is unpacked to a temporary file, and closed. ``name``: of the
    file, for errors. Raises BrokenArchive if the content is too large, EOFError
    and BadGzipFile if the file is broken, and OSError.
    """
    magic = file.read(len(_GZIP_MAGIC))
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if magic != _GZIP_MAGIC:
        return file
    target = TemporaryFile(buffering=0)  # noqa: SIM115
    try:
        with file, gzip.open(file) as packed:
            _unpack(packed, target, name, most_bytes=size * MOST_RATIO)
    except BaseException as error:
        target.close()
        if isinstance(error, zlib.error):
            raise gzip.BadGzipFile(error) from None
        raise
    target.seek(0)
    return target


def _unpack(
    packed: gzip.GzipFile, target: IO[bytes], name: str, most_bytes: int
) -> None:
    """Write the content of a compressed file to another file.

    A small file can contain far too much. Raises BrokenArchive if it has more
    than ``most_bytes``.
    """
    while True:
        piece = packed.read(_PIECE_BYTES)
        if not piece:
            return
        write_all(target, piece)
        if target.tell() > most_bytes:
            raise BrokenArchive(
                f"{name} is more than {MOST_RATIO} times as large when it is unpacked"
            )


def write_all(file: IO[bytes], content: bytes) -> None:
    """Write all of a content to an unbuffered temporary file.

    Raises OSError, which names the folder of temporary files.
    """
    # One call may write only a part.
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, gettempdir()) from None
