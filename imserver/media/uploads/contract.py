"""The rows of files as plain data, and the interface for their bytes."""

from collections.abc import Iterator
from typing import Final, Protocol

from msgspec import Struct

from imserver.plugin.errors import Problems, Unavailable

SECOND_MS: Final = 1000
"""The number of milliseconds in a second. Stored times are in milliseconds."""
UPLOAD_USER_BYTES: Final = 500
"""Longest user id that may own a file, in bytes of UTF-8."""
FILE_BYTES: Final = 4096
"""Bytes that a file costs of a quota in addition to its content: for its block
on a disk, its row, and its name in a folder."""


class MediaUnavailable(Unavailable, problem=Problems.MEDIA_UNAVAILABLE):
    """The store for uploaded files is unavailable."""


class Upload(Struct, frozen=True):
    """An uploaded file: its properties, its owner, and the store that has its
    bytes."""

    id: str
    """A random id. It is the only proof needed to download the file."""
    app: str
    user: str
    kind: str
    """``picture``, ``voice``, ``video`` or ``file``, detected from the
    content."""
    type: str
    """Media type, detected from the content."""
    name: str
    """The name that the sender has given the file. Nothing is looked up or
    stored by this name."""
    bytes: int
    sha256: str
    created: int
    """Unix milliseconds."""
    store_name: str = ""
    """``""``: the directory. ``"s3"``: the bucket."""
    width: int = 0
    """Width of a picture as displayed, in pixels."""
    height: int = 0
    thumbnail_bytes: int = 0
    """0: no thumbnail."""
    thumbnail_type: str = ""

    @property
    def stored_bytes(self) -> int:
        """The bytes of the file and its thumbnail. These count against the
        quota."""
        return self.bytes + self.thumbnail_bytes


class State(Struct, frozen=True):
    """The offer of a client that uploads in parts, as it stands in the state
    file beside the bytes.

    ``length``: the bytes of the complete file. ``metadata``: the header
    ``Upload-Metadata``, as the client has sent it.
    """

    length: int
    name: str = ""
    kind: str = ""
    metadata: str = ""


class Usage(Struct, frozen=True):
    """Number and size of a user's files."""

    bytes: int = 0
    files: int = 0

    @property
    def charged(self) -> int:
        """The bytes of the quota that the files cost."""
        return self.bytes + self.files * FILE_BYTES


class Media(Protocol):
    """A store of bytes by name: a folder, or a bucket of S3.

    All methods may switch greenlets and may raise :class:`MediaUnavailable`. A
    ``name`` is made by the server from letters, digits, dashes, underscores and
    dots. Clients never choose it.
    """

    store_name: str
    """The name of this kind of store, as in :attr:`Upload.store_name`."""

    def put(self, name: str, path: str, size: int, sha256: str, kind: str) -> None:
        """Store the file at ``path`` under a name. The bytes are durable when
        this method returns.

        ``path`` may not exist afterwards. ``size`` and ``sha256`` describe the
        bytes, and ``kind`` is their media type.
        """

    def get(self, name: str, first: int, last: int) -> Iterator[bytes]:
        """Yield the bytes from index ``first`` to index ``last``, both
        included, in pieces.

        Raises FileNotFoundError, before the first piece, if the name does not
        exist.
        """

    def delete(self, name: str) -> None:
        """Delete the bytes. Does nothing if the name does not exist."""

    def close(self) -> None:
        """Release all resources."""
