"""Rows that storage hands to the other layers, as plain data, and what keeps the bytes of uploads.

Importing this loads no database driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

from imserver.errors import ImserverError


class AppRow(Struct, frozen=True):
    """A stored app: its name, and those of its settings that were given, as plain values."""

    name: str
    settings: dict[str, Any]
    created: int = 0
    """Unix seconds."""


class KeyRow(Struct, frozen=True):
    """A stored API key: ``digest`` is its SHA-256 in hexadecimal; the key itself stands nowhere."""

    id: str
    digest: str
    scopes: tuple[str, ...]
    apps: tuple[str, ...] = ()
    """Apps that it is bound to; none named: all."""
    note: str = ""
    created: int = 0
    """Unix seconds."""
    revoked: int = 0
    """Unix seconds; 0: it is in force."""


class Changes(Struct, frozen=True):
    """Apps and keys that were made or changed since the last look."""

    version: int
    apps: tuple[AppRow, ...] = ()
    keys: tuple[KeyRow, ...] = ()


PHONE_CHARACTERS: Final = 20
NICKNAME_CHARACTERS: Final = 64
AVATAR_CHARACTERS: Final = 1000
MAX_ID: Final = 2**63 - 1
"""The greatest number that the columns of ids hold."""

ListName = Literal["friends", "incoming", "outgoing", "blocked"]
"Friends, incoming requests, outgoing requests, or blocked users."


class Taken(ImserverError):
    """There is an account with this phone number."""


class Account(Struct, frozen=True):
    """An account of an app. As a user of the app it is called by its id in decimal."""

    id: int
    app: str
    phone: str
    nickname: str = ""
    avatar: str = ""
    version: int = 0
    """Raised by every end of all its sessions: tokens of an earlier version are void."""
    created: int = 0
    """Unix seconds."""

    @property
    def user(self) -> str:
        """The user that this account is."""
        return str(self.id)


class Device(Struct, frozen=True):
    """A login of an account that has not ended: its token names it. ``name`` is what the device calls
    itself."""

    id: int
    name: str
    since: int
    """Unix seconds."""
    expires_at: int
    """Unix seconds; its token ends then."""


class Imported(Struct, frozen=True):
    """An account that comes from elsewhere, with its id there and the hash of its password."""

    account: Account
    password: str


class Contact(Struct, frozen=True):
    """Somebody on a list of an account: their id, what they show of themselves, and since when."""

    id: int
    nickname: str
    avatar: str
    since: int
    """Unix seconds."""


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
