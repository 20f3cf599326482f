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
from typing import IO, Any, Final, NamedTuple, TypeVar
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
_END_OF_BLOCK: Final = -1
"""Stands for a position where the documents of a collection end in an
archive."""
_LEAST_DOCUMENT: Final = 5
_STRING: Final = b"\x02"
"""The type of a string element."""
_Row = TypeVar("_Row")


class Chunk(NamedTuple):
    """A part of a file in GridFS, where MongoDB stores files."""

    number: int
    """Its number in the file, from 0."""
    position: Position


def documents(file: IO[bytes], at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (position, document) from a position up to the end of the file.

    A document begins with its size in four bytes. In an archive, the position
    :data:`_END_OF_BLOCK` comes where the documents of a collection end.

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
            yield _END_OF_BLOCK, b""
            at += _SIZE_BYTES
            start += _SIZE_BYTES
            continue
        if not _LEAST_DOCUMENT <= size <= MOST_DOCUMENT:
            raise ValueError(f"a document of {size} bytes")
        # The block may end within the document.
        if len(block) - start < size:
            block = _block_with(file, at, size)
            start = 0
        yield at, block[start : start + size]
        at += size
        start += size


def _block_with(file: IO[bytes], at: int, size: int) -> bytes:
    """Read a block that has a whole document. Raises ValueError if it is cut."""
    file.seek(at)
    block = file.read(max(_BLOCK, size))
    if len(block) < size:
        raise ValueError("the last document is cut")
    return block


class Dump:
    """The collections of one database in a dump.

    A dump may have several databases. The one that has ``collection`` counts.
    ``title``: the name of the product, for people. ``problems`` gets the parts
    that are left out.

    Raises BadArchive if no database has the collection, or if ``bson`` is not
    installed.
    """

    def __init__(
        self, path: Path, collection: str, title: str, problems: Problems
    ) -> None:
        """Open a dump, and find its collections."""
        self._source = source_of(path, problems)
        self._files: dict[str, IO[bytes]] = {}
        self.parts: dict[str, list[Position]] = {}
        """Collection → the positions at which its documents begin."""
        try:
            self._find_collections(path, collection)
        except (BadGzipFile, EOFError, ValueError) as error:
            raise BrokenArchive(
                f"{path} is not a complete dump of MongoDB: {error}"
            ) from None
        if collection not in self.parts:
            raise BadArchive(f"{path} is no dump of {title}: it has no {collection}")
        self.decode = _bson_decoder(title)
        """Decodes a document as a dictionary. Raises errors of ``bson``."""

    def _find_collections(self, path: Path, collection: str) -> None:
        """Find the collections of the database that has this one.

        They are files in one folder, such as ``meteor/users.bson``, or parts of
        an archive. Raises BadGzipFile, EOFError and ValueError.
        """
        files = [
            name
            for name in self._source.names
            if _FILE.fullmatch(name) and f"/{collection}.bson" in f"/{name}"
        ]
        if files:
            folder = min(files, key=len).rpartition(collection)[0]
            self._find_in_folder(folder)
        elif not path.is_dir() and self._source.names == [path.name]:
            self._find_in_archive(path.name, collection)

    def _find_in_folder(self, folder: str) -> None:
        """Find the collections in a folder. Each is a file.

        ``folder``: its name with a slash at the end; ``""`` for the top.
        """
        for name in self._source.names:
            match = _FILE.fullmatch(name)
            is_in_folder = "/" not in name.removeprefix(folder)
            if match and name.startswith(folder) and is_in_folder:
                self.parts[match[1]] = [(name, 0)]

    def _find_in_archive(self, name: str, collection: str) -> None:
        """Find the collections of the database that has this one, in an
        archive.

        Raises BadGzipFile and EOFError.
        """
        file = self.file(name)
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC:
            return
        databases: dict[str, dict[str, list[Position]]] = {}
        """Database → collection → the positions at which its documents
        begin."""
        for header, begin in _blocks_of(file):
            collections = databases.setdefault(header.get("db", ""), {})
            parts = collections.setdefault(header.get("collection", ""), [])
            parts.append((name, begin))
        for collections in databases.values():
            if collection in collections:
                self.parts = collections

    def file(self, name: str) -> IO[bytes]:
        """Open a file of the dump, decompressed. It stays open as long as the
        dump."""
        if name not in self._files:
            file = unpacked(self._source.open(name), name)
            self._files[name] = file
            finalize(self, file.close)
        return self._files[name]

    def read(
        self, collection: str, notes: Problems, *, messages: int = 0
    ) -> Iterator[tuple[Position, dict[str, Any]]]:
        """Yield (position, document) of a collection.

        Broken documents are noted and left out. ``messages``: how many messages
        a document stands for, which are lost with a broken one.
        """
        for name, begin in self.parts.get(collection, ()):
            try:
                for at, raw in documents(self.file(name), begin):
                    if at == _END_OF_BLOCK:
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
                # The rest of the file cannot be read.
                notes.note_broken(collection, error, messages=messages)

    def rows(
        self, collection: str, kind: type[_Row], notes: Problems, *, messages: int = 0
    ) -> Iterator[_Row]:
        """Yield the documents of a collection as records.

        Fields and documents with wrong types are noted. ``messages``: how many
        messages a document stands for.
        """
        reader = RecordReader(kind)
        for (_, at), document in self.read(collection, notes, messages=messages):
            try:
                yield reader.convert(document, partial(notes.note_field, collection))
            except (ValueError, RecursionError, TypeError) as error:
                notes.note_broken(f"{collection}, byte {at}", error, messages=messages)


def _bson_decoder(title: str) -> Callable[[bytes], dict[str, Any]]:
    """Return the function that decodes a document of BSON to a dictionary.

    Dates become numbers of milliseconds, and broken texts are repaired. Raises
    BrokenArchive if ``bson`` is not installed. ``title``: the name of the
    product, for people.
    """
    # The package is optional, because only this format needs it.
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
        """Decodes JavaScript as a text that no dictionary takes as a key."""

        bson_type = bson.Code

        def transform_bson(self, value: str) -> str:
            return str(value)

    options: Any = CodecOptions(
        datetime_conversion=DatetimeConversion.DATETIME_MS,
        unicode_decode_error_handler="replace",
        type_registry=TypeRegistry([CodeDecoder()]),
    )
    return partial(bson.decode, codec_options=options)


def _is_of_bson(error: Exception) -> bool:
    """Whether an error tells that a document is broken.

    The errors of ``bson`` have no common base class.
    """
    if isinstance(error, ValueError | RecursionError | OverflowError):
        return True
    return type(error).__module__ == "bson.errors"


def _blocks_of(file: IO[bytes]) -> Iterator[tuple[dict[str, str], int]]:
    """Yield the blocks of an archive: a header, and where its documents begin.

    After the prelude, an archive has blocks. A block is a header, which names a
    database and a collection, its documents, and an end. A collection may have
    several blocks. A broken archive ends where it is broken.
    """
    is_header = True
    is_prelude = True
    with suppress(ValueError):  # it is noted where the documents are read
        for at, document in documents(file, len(MAGIC)):
            if at == _END_OF_BLOCK:
                is_header = True
                is_prelude = False
            elif is_header and not is_prelude:
                yield _leading_strings(document), at + len(document)
                is_header = False


def _leading_strings(document: bytes) -> dict[str, str]:
    """Return the strings with which a document begins, by the fields' names.

    The header of a block of an archive is ``{"db": "meteor", "collection":
    "users", …}``. It is read by hand, because ``bson`` may not be installed
    yet.
    """
    strings = {}
    at = _SIZE_BYTES
    # A string is a type, a name that ends with 0, a size, and the text.
    while document[at : at + 1] == _STRING:
        name, _, content = document[at + 1 :].partition(b"\0")
        size = int.from_bytes(content[:_SIZE_BYTES], "little")
        end = _SIZE_BYTES + size
        # The last byte of a string is 0.
        text = content[_SIZE_BYTES : end - 1].decode(errors="replace")
        strings[name.decode(errors="replace")] = text
        at += 1 + len(name) + 1 + end
    return strings


class GridFile(io.RawIOBase):
    """A file in GridFS, as a stream: the data of its chunks, one after another.

    :meth:`seek` starts again at the first chunk.
    """

    def __init__(self, dump: Dump, chunks: list[Chunk]) -> None:
        """Prepare to read a file. ``chunks``: its parts, in any order."""
        self._dump = dump
        self._chunks = sorted(chunks)
        self._next_chunk = 0
        """The index of the next chunk."""
        self._unread = b""
        """The bytes of the last chunk that were not read."""
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to the beginning of the file.

        Other positions are not supported: the call only returns the position.
        """
        if whence == io.SEEK_SET:
            self._next_chunk = 0
            self._unread = b""
            self._at = 0
        return self._at

    def _content_of(self, chunk: Chunk) -> bytes:
        """Return the bytes of the file that a chunk has."""
        name, at = chunk.position
        _, document = next(documents(self._dump.file(name), at))
        return bytes(self._dump.decode(document).get("data") or b"")

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with bytes of one chunk, and return their number.

        0 means the end of the file.
        """
        while not self._unread and self._next_chunk < len(self._chunks):
            chunk = self._chunks[self._next_chunk]
            self._next_chunk += 1
            self._unread = self._content_of(chunk)
        count = min(len(buffer), len(self._unread))
        buffer[:count] = self._unread[:count]
        self._unread = self._unread[count:]
        self._at += count
        return count
