"""What storage tells of uploaded files, and the contract of whatever keeps their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

MAX_USER_BYTES = 500
"""Bytes of the longest user id that may own a file, in UTF-8."""


class Upload(Struct, frozen=True):
    """One uploaded file: what it is, whose, and where its bytes are."""

    id: str
    """Random, and the only thing that opens it."""
    app: str
    user: str
    kind: str
    """``picture``, ``voice``, ``video`` or ``file``, by its content."""
    type: str
    """The media type of its content."""
    name: str
    """What the sender calls it; nothing is found or kept by it."""
    bytes: int
    sha256: str
    created: int
    """Unix milliseconds."""
    place: str = ""
    """``""``: the directory, ``"s3"``: the bucket."""
    width: int = 0
    """Of a picture, in pixels, as it is shown."""
    height: int = 0
    thumbnail_bytes: int = 0
    """0: it has none."""
    thumbnail_type: str = ""

    @property
    def stored_bytes(self) -> int:
        """What counts against the quota."""
        return self.bytes + self.thumbnail_bytes


class Usage(Struct, frozen=True):
    """What a user keeps."""

    bytes: int = 0
    files: int = 0


class Media(Protocol):
    """Keeps bytes under names. All functions may switch, and raise :class:`imserver.errors.MediaUnavailable`.

    ``name`` is one of ours: letters, digits, dashes, underscores and dots, never chosen by a client.
    """

    place: str
    """The name of this kind of place, as it stands in :attr:`Upload.place`."""

    def put(self, name: str, path: str, size: int, sha256: str, kind: str) -> None:
        """Keep the file at ``path``, safely, before this returns. The file may be gone afterwards.

        ``kind`` is its media type.
        """

    def get(self, name: str, first: int, last: int) -> Iterator[bytes]:
        """The bytes from ``first`` to ``last``, both included, piece by piece.

        Raises FileNotFoundError, before the first piece, where there is nothing.
        """

    def delete(self, name: str) -> None:
        """Forget it; nothing happens where there is nothing."""

    def close(self) -> None:
        """Give everything back."""
