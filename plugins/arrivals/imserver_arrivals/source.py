"""The files of an archive: in a folder, a zip file, a tar file, or one file alone.

Nothing is extracted, and no name in an archive leads out of it: symbolic links and names with ``..`` are left
out.
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Final, cast
from weakref import finalize
from zipfile import BadZipFile, ZipFile, is_zipfile

from msgspec import Struct

from .problems import BrokenArchive

MOST_NAMES: Final = 2_000_000
"""Files of an archive."""
MOST_JSON_BYTES: Final = 64 << 20
"""Bytes of one JSON file that is read as a whole, unpacked."""
MOST_LINE_BYTES: Final = 16 << 20
"""Bytes of one line of JSON, unpacked."""
MOST_RATIO: Final = 200
"""How many times its size a compressed tar file may become."""


class Source(Struct, weakref=True):
    """The files of an archive. ``names`` have slashes, and never begin with one. ``open``: name → its bytes;
    it raises OSError, and what a broken archive raises."""

    names: list[str]
    open: Callable[[str], IO[bytes]]


def source_of(path: Path) -> Source:
    """The files of an archive, whatever it is packed in. Raises BadArchive and OSError."""
    if path.is_dir():
        return Source(_counted(_names_in(path)), lambda name: (path / name).open("rb"))
    if is_zipfile(path) or path.suffix == ".zip":
        try:
            packed = ZipFile(path)
        except (OSError, BadZipFile, NotImplementedError, ValueError) as error:
            raise BrokenArchive(f"{path} is no whole zip file: {error}") from None
        names = (name for name in packed.namelist() if _is_inside(name) and not name.endswith("/"))
        return Source(_counted(names), packed.open)
    if path.name.endswith((".tar", ".tar.gz", ".tgz")):
        return _tar(path)
    return Source([path.name], lambda _: path.open("rb"))


def _tar(path: Path) -> Source:
    """A tar file. A compressed one is unpacked once, so that each file in it is near the others."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(unpacked(path.open("rb"), path.name))
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
            files = {row.name.removeprefix("./"): row for row in tar if row.isfile() and _is_inside(row.name)}
        except (EOFError, gzip.BadGzipFile, ValueError, tarfile.TarError) as error:
            raise BrokenArchive(f"{path} is no whole tar file: {error}") from None
        source = Source(_counted(files), lambda name: cast(IO[bytes], tar.extractfile(files[name])))
        finalize(source, stack.pop_all().close)
    return source


def _names_in(folder: Path) -> Iterator[str]:
    """The files in a folder. Symbolic links are left out."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(parent, file)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix()


def _counted(names: Iterable[str]) -> list[str]:
    some = list(islice(names, MOST_NAMES + 1))
    if len(some) > MOST_NAMES:
        raise BrokenArchive(f"more than {MOST_NAMES} files")
    return some


def read_whole(file: IO[bytes]) -> bytes:
    """All bytes of a file that is read at once. Raises ValueError if it has more than MOST_JSON_BYTES."""
    content = file.read(MOST_JSON_BYTES + 1)
    if len(content) > MOST_JSON_BYTES:
        raise ValueError(f"more than {MOST_JSON_BYTES} bytes")
    return content


def read_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file. None: one with more than MOST_LINE_BYTES, which is skipped."""
    while line := file.readline(MOST_LINE_BYTES + 1):
        if len(line) <= MOST_LINE_BYTES:
            yield line
            continue
        yield None
        while line and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE_BYTES)


def unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    """The file, or what a file of gzip has, in a temporary file, after which it is closed.

    Raises BrokenArchive if that is too much, EOFError and BadGzipFile if it is broken, and OSError.
    """
    magic = file.read(2)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if magic != b"\x1f\x8b":
        return file
    target = TemporaryFile(buffering=0)  # noqa: SIM115
    try:
        with file, gzip.open(file) as packed:
            while piece := packed.read(1 << 20):
                write_all(target, piece)
                if target.tell() > size * MOST_RATIO:
                    raise BrokenArchive(
                        f"{name} is more than {MOST_RATIO} times as large when it is unpacked"
                    )
    except BaseException as error:
        target.close()
        if isinstance(error, zlib.error):
            raise gzip.BadGzipFile(error) from None
        raise
    target.seek(0)
    return target


def write_all(file: IO[bytes], content: bytes) -> None:
    """Write to an unbuffered temporary file. Raises OSError, which names the folder of temporary files."""
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, gettempdir()) from None


def _is_inside(name: str) -> bool:
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")
