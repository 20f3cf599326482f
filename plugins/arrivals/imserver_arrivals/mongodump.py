"""Reads dumps of MongoDB: a folder of ``.bson`` files, or one file that
``mongodump --archive`` writes.

Either may be compressed (``--gzip``). Archives are as MongoDB's tools write
them (``common/archive/spec.md`` there); the documents are those of
bsonspec.org, decoded by ``bson`` of PyPI ``pymongo``.
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
"""Bytes of a document, with what a dump may add to MongoDB's limit."""
_BLOCK: Final = 1 << 20
_FILE: Final = re.compile(r"(?:.*/)?([\w.]+)\.bson(?:\.gz)?")
Place = tuple[str, int]
"""Where a document is: the file of the dump, and the byte."""
_Row = TypeVar("_Row")


def documents(file: IO[bytes], at: int = 0) -> Iterator[tuple[int, bytes]]:
    """(place, document) up to the end, where a place -1 is that of an end of
    documents in an archive.

    The place of the file may change between two documents. Raises ValueError
    where the file is broken.
    """
    block = b""
    start = 0
    while True:
        if len(block) - start < 4:
            file.seek(at)
            block = file.read(_BLOCK)
            start = 0
            if not block:
                return
        size = int.from_bytes(block[start : start + 4], "little")
        if size == 0xFFFF_FFFF:
            yield -1, b""
            at = at + 4
            start = start + 4
            continue
        if not 5 <= size <= MOST_DOCUMENT:
            raise ValueError(f"a document of {size} bytes")
        if len(block) - start < size:
            file.seek(at)
            block = file.read(max(_BLOCK, size))
            start = 0
            if len(block) < size:
                raise ValueError("the last document is cut")
        yield at, block[start : start + size]
        at = at + size
        start = start + size


class Dump:
    """The collections of the database in a dump that has ``collection``.
    ``title``: whose it is, for people. ``problems`` gets what is left out of
    the archive.

    Raises BadArchive if there is no such collection, or no ``bson``.
    """

    def __init__(
        self, path: Path, collection: str, title: str, problems: Problems
    ) -> None:
        self._source = source_of(path, problems)
        self._files: dict[str, IO[bytes]] = {}
        self.parts: dict[str, list[Place]] = {}
        """Collection → where its documents begin: (file, place)."""
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
                    if (
                        match
                        and name.startswith(top)
                        and "/" not in name.removeprefix(top)
                    ):
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
            """JavaScript is a text that no dictionary takes as a key."""

            bson_type = bson.Code

            def transform_bson(self, value: str) -> str:
                return str(value)

        options: Any = CodecOptions(
            datetime_conversion=DatetimeConversion.DATETIME_MS,
            unicode_decode_error_handler="replace",
            type_registry=TypeRegistry([CodeDecoder()]),
        )
        self.decode: Callable[[bytes], dict[str, Any]] = lambda raw: bson.decode(
            raw, codec_options=options
        )
        """A document as a dictionary. Raises errors of ``bson``."""

    def _read_archive(self, name: str, collection: str) -> None:
        """Find the collections of an archive, whose documents are mixed in
        it."""
        file = self.file(name)
        file.seek(0)
        if file.read(4) != MAGIC:
            return
        of: dict[str, dict[str, list[Place]]] = {}
        is_head = True
        is_prelude = True
        with suppress(ValueError):  # it is noted where it is read
            for at, document in documents(file, 4):
                if at < 0:
                    is_head = True
                    is_prelude = False
                elif is_head and not is_prelude:
                    header = _strings(document)
                    parts = of.setdefault(header.get("db", ""), {}).setdefault(
                        header.get("collection", ""), []
                    )
                    parts.append((name, at + len(document)))
                    is_head = False
        for collections in of.values():
            if collection in collections:
                self.parts = collections

    def file(self, name: str) -> IO[bytes]:
        """A file of the dump, unpacked."""
        if name not in self._files:
            file = unpacked(self._source.open(name), name)
            self._files[name] = file
            finalize(self, file.close)
        return self._files[name]

    def places(
        self, collection: str, notes: Problems, *, messages: int = 0
    ) -> Iterator[tuple[Place, dict[str, Any]]]:
        """(place, document) of a collection. What is broken is noted, and left
        out. ``messages``: how many messages a document is."""
        for name, begin in self.parts.get(collection, ()):
            try:
                for at, document in documents(self.file(name), begin):
                    if at < 0:
                        break
                    try:
                        yield (name, at), self.decode(document)
                    except (ValueError, RecursionError, OverflowError) as error:
                        notes.note_broken(
                            f"{collection}, byte {at}", error, messages=messages
                        )
                    except Exception as error:  # bson's own errors have no other base
                        if type(error).__module__ != "bson.errors":
                            raise
                        notes.note_broken(
                            f"{collection}, byte {at}", error, messages=messages
                        )
            except (OSError, EOFError, ValueError) as error:
                notes.note_broken(collection, error, messages=messages)

    def rows(
        self, collection: str, kind: type[_Row], notes: Problems, *, messages: int = 0
    ) -> Iterator[_Row]:
        """The documents of a collection as records. Fields and documents of
        other types are noted. ``messages``: how many messages a document is."""
        reader = RecordReader(kind)
        for (_, at), document in self.places(collection, notes, messages=messages):
            try:
                yield reader.convert(document, partial(notes.note_field, collection))
            except (ValueError, RecursionError, TypeError) as error:
                notes.note_broken(f"{collection}, byte {at}", error, messages=messages)


def _strings(document: bytes) -> dict[str, str]:
    """The strings with which a document begins: the names in a header of an
    archive."""
    found = {}
    at = 4
    while document[at : at + 1] == b"\x02":
        name, _, rest = document[at + 1 :].partition(b"\0")
        size = int.from_bytes(rest[:4], "little")
        found[name.decode(errors="replace")] = rest[4 : 3 + size].decode(
            errors="replace"
        )
        at += 1 + len(name) + 1 + 4 + size
    return found


class GridFile(io.RawIOBase):
    """A file in GridFS: the data of its chunks, one after another. :meth:`seek`
    begins anew."""

    def __init__(self, dump: Dump, chunks: list[tuple[int, Place]]) -> None:
        self._dump, self._chunks = dump, sorted(chunks)
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
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        self._at += count
        return count
