"""Reads dumps of MongoDB: a folder of ``.bson`` files, or one file that
``mongodump --archive`` writes.

Both may be compressed (``--gzip``). MongoDB's tools define the form of an
archive (``common/archive/spec.md`` there). Documents have the form of
bsonspec.org; ``bson`` of PyPI ``pymongo`` decodes them.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from weakref import finalize

from .fields import RecordReader
from .problems import BadArchive, BrokenArchive, Problems
from .source import source_of, unpacked

MAGIC: Final = b"\x6d\xe2\x99\x81"
"""The first bytes of an archive."""
MOST_DOCUMENT: Final = (16 << 20) + (64 << 10)
"""Limit of a document in bytes: MongoDB's limit, and the bytes that a dump may
add."""
_BLOCK: Final = 1 << 20
_FILE: Final = re.compile(r"(?:.*/)?([\w.]+)\.bson(?:\.gz)?")
Position = tuple[str, int]
"""The position of a document: a file of the dump, and the index of a byte in
it."""
_SIZE_BYTES: Final = 4
"""Length of the number with which a document and a string begin: their length
(https://bsonspec.org)."""
_END: Final = 0xFFFF_FFFF
"""Stands in an archive in place of the size of a document: the documents of a
collection end."""
_LEAST_DOCUMENT: Final = 5
_STRING: Final = b"\x02"
"""The type of a string element."""
_Row = TypeVar("_Row")


def documents(file: IO[bytes], at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (position, document) up to the end. The position -1 stands for the
    end of a collection in an archive.

    You may move the position of the file between two documents. Raises
    ValueError where the file is broken.
    """
    block = b""
    start = 0
    while True:
        if len(block) - start < _SIZE_BYTES:
            file.seek(at)
            block = file.read(_BLOCK)
            start = 0
            if not block:
                return
        size = int.from_bytes(block[start : start + _SIZE_BYTES], "little")
        if size == _END:
            yield -1, b""
            at += _SIZE_BYTES
            start += _SIZE_BYTES
            continue
        if not _LEAST_DOCUMENT <= size <= MOST_DOCUMENT:
            raise ValueError(f"a document of {size} bytes")
        if len(block) - start < size:
            file.seek(at)
            block = file.read(max(_BLOCK, size))
            start = 0
            if len(block) < size:
                raise ValueError("the last document is cut")
        yield at, block[start : start + size]
        at += size
        start += size


class Dump:
    """The collections of a database in a dump: the database that has
    ``collection``. ``title``: the name of the product, for people. ``problems``
    gets the parts that are left out.

    Raises BadArchive if no database has the collection, or if ``bson`` is not
    installed.
    """

    def __init__(
        self, path: Path, collection: str, title: str, problems: Problems
    ) -> None:
        self._source = source_of(path, problems)
        self._files: dict[str, IO[bytes]] = {}
        self.parts: dict[str, list[Position]] = {}
        """Collection → the positions at which its documents begin."""
        tops = [
            name
            for name in self._source.names
            if _FILE.fullmatch(name) and f"/{collection}.bson" in f"/{name}"
        ]
        try:
            if tops:
                top = min(tops, key=len).rpartition(collection)[0]
                for name in self._source.names:
                    match = _FILE.fullmatch(name)
                    is_beside = "/" not in name.removeprefix(top)
                    if match and name.startswith(top) and is_beside:
                        self.parts[match[1]] = [(name, 0)]
            elif not path.is_dir() and self._source.names == [path.name]:
                self._read_archive(path.name, collection)
        except (BadGzipFile, EOFError, ValueError) as error:
            raise BrokenArchive(
                f"{path} is no whole dump of MongoDB: {error}"
            ) from None
        if collection not in self.parts:
            raise BadArchive(f"{path} is no dump of {title}: it has no {collection}")
        try:
            import bson
            from bson.codec_options import (
                CodecOptions,
                DatetimeConversion,
                TypeDecoder,
                TypeRegistry,
            )
        except ImportError:
            raise BrokenArchive(
                f"a dump of {title} needs pymongo: .venv/bin/pip install pymongo"
            ) from None

        class CodeDecoder(TypeDecoder):
            """Decodes JavaScript as a text that no dictionary takes as a
            key."""

            bson_type = bson.Code

            def transform_bson(self, value: str) -> str:
                return str(value)

        options: Any = CodecOptions(
            datetime_conversion=DatetimeConversion.DATETIME_MS,
            unicode_decode_error_handler="replace",
            type_registry=TypeRegistry([CodeDecoder()]),
        )
        self.decode: Callable[[bytes], dict[str, Any]] = partial(
            bson.decode, codec_options=options
        )
        """Decodes a document as a dictionary. Raises errors of ``bson``."""

    def _read_archive(self, name: str, collection: str) -> None:
        """Find the collections of an archive, in which their documents are
        mixed."""
        file = self.file(name)
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC:
            return
        of: dict[str, dict[str, list[Position]]] = {}
        is_head = True
        is_prelude = True
        with suppress(ValueError):  # it is noted where it is read
            for at, document in documents(file, len(MAGIC)):
                if at < 0:
                    is_head = True
                    is_prelude = False
                elif is_head and not is_prelude:
                    header = _strings(document)
                    collections = of.setdefault(header.get("db", ""), {})
                    parts = collections.setdefault(header.get("collection", ""), [])
                    parts.append((name, at + len(document)))
                    is_head = False
        for collections in of.values():
            if collection in collections:
                self.parts = collections

    def file(self, name: str) -> IO[bytes]:
        """A file of the dump, decompressed."""
        if name not in self._files:
            file = unpacked(self._source.open(name), name)
            self._files[name] = file
            finalize(self, file.close)
        return self._files[name]

    def read(
        self, collection: str, notes: Problems, *, messages: int = 0
    ) -> Iterator[tuple[Position, dict[str, Any]]]:
        """Yield (position, document) of a collection. Broken documents are
        noted and left out. ``messages``: how many messages a document stands
        for."""
        for name, begin in self.parts.get(collection, ()):
            try:
                for at, raw in documents(self.file(name), begin):
                    if at < 0:
                        break
                    try:
                        document = self.decode(raw)
                    except Exception as error:
                        if not _is_of_bson(error):
                            raise
                        notes.note_broken(
                            f"{collection}, byte {at}", error, messages=messages
                        )
                        continue
                    yield (name, at), document
            except (OSError, EOFError, ValueError) as error:
                notes.note_broken(collection, error, messages=messages)

    def rows(
        self, collection: str, kind: type[_Row], notes: Problems, *, messages: int = 0
    ) -> Iterator[_Row]:
        """The documents of a collection as records. Fields and documents with
        wrong types are noted. ``messages``: how many messages a document stands
        for."""
        reader = RecordReader(kind)
        for (_, at), document in self.read(collection, notes, messages=messages):
            try:
                yield reader.convert(document, partial(notes.note_field, collection))
            except (ValueError, RecursionError, TypeError) as error:
                notes.note_broken(f"{collection}, byte {at}", error, messages=messages)


def _is_of_bson(error: Exception) -> bool:
    """Whether an error tells that a document is broken. The errors of ``bson``
    have no common base class."""
    if isinstance(error, ValueError | RecursionError | OverflowError):
        return True
    return type(error).__module__ == "bson.errors"


def _strings(document: bytes) -> dict[str, str]:
    """The strings with which a document begins: the names in the header of an
    archive."""
    strings = {}
    at = _SIZE_BYTES
    while document[at : at + 1] == _STRING:
        name, _, rest = document[at + 1 :].partition(b"\0")
        size = int.from_bytes(rest[:_SIZE_BYTES], "little")
        end = _SIZE_BYTES + size
        # The last byte of a string is 0.
        text = rest[_SIZE_BYTES : end - 1].decode(errors="replace")
        strings[name.decode(errors="replace")] = text
        at += 1 + len(name) + 1 + end
    return strings


class GridFile(io.RawIOBase):
    """A file in GridFS: the data of its chunks, one after another. :meth:`seek`
    starts again at the first chunk."""

    def __init__(self, dump: Dump, chunks: list[tuple[int, Position]]) -> None:
        self._dump = dump
        self._chunks = sorted(chunks)
        self._next = 0
        self._rest = b""
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._next = 0
            self._rest = b""
            self._at = 0
        return self._at

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self._next < len(self._chunks):
            _, (name, at) = self._chunks[self._next]
            self._next += 1
            _, document = next(documents(self._dump.file(name), at))
            self._rest = bytes(self._dump.decode(document).get("data") or b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._at += count
        return count
