"""Rows that storage passes to other layers, as plain data, and the interface for the bytes of uploads.

Importing this loads no database driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, Protocol

from msgspec import Struct, json

from imserver.errors import ImserverError


class AppRow(Struct, frozen=True):
    """A stored app: its name and the settings that were given, as plain values."""

    name: str
    settings: dict[str, Any]
    created: int = 0
    """Unix seconds."""
    deleted: bool = False
    """Its row stays, without settings, so that all nodes learn of it."""


class AppContents(Struct, frozen=True):
    """What is deleted with an app: numbers of rows."""

    keys: int
    """API keys that are limited to it."""
    accounts: int
    messages: int
    uploads: int
    groups: int


class KeyRow(Struct, frozen=True):
    """A stored API key. ``digest``: its SHA-256 in hexadecimal. The key itself is not stored."""

    id: str
    digest: str
    scopes: tuple[str, ...]
    apps: tuple[str, ...] = ()
    """Apps to which the key is limited; empty: all."""
    note: str = ""
    created: int = 0
    """Unix seconds."""
    revoked: int = 0
    """Unix seconds; 0: the key is valid."""


class BanRow(Struct, frozen=True):
    """A ban of a user of an app."""

    app: str
    user: str
    seconds: float
    """How long it still lasts, by the clock of the database. 0 or less: it has ended, or was lifted."""


class Changes(Struct, frozen=True):
    """Apps, keys and bans that were created or changed since the last refresh."""

    version: int
    apps: tuple[AppRow, ...] = ()
    keys: tuple[KeyRow, ...] = ()
    bans: tuple[BanRow, ...] = ()


PHONE_CHARACTERS: Final = 20
EMAIL_BYTES: Final = 254
NAME_CHARACTERS: Final = 32
NICKNAME_CHARACTERS: Final = 64
AVATAR_CHARACTERS: Final = 1000

ListName = Literal["friends", "incoming", "outgoing", "blocked"]
"Friends, incoming requests, outgoing requests, or blocked users."


Identifier = Literal["phone", "email", "name"]
"""A kind of identifier of an account: phone number, e-mail address or user name."""
IDENTIFIERS: Final[tuple[Identifier, ...]] = ("phone", "email", "name")


class Taken(ImserverError):
    """An account with this phone number, e-mail address or user name exists."""


class Account(Struct, frozen=True):
    """An account of an app. Its user id is the account id in decimal.

    ``phone``, ``email``, ``name``: its identifiers; ``""``: it has none of this kind.
    """

    id: int
    app: str
    phone: str
    nickname: str = ""
    avatar: str = ""
    version: int = 0
    """Increases when the account ends all its sessions. Tokens of an earlier version are invalid."""
    created: int = 0
    """Unix seconds."""
    email: str = ""
    name: str = ""
    findable: bool = True
    """Whether others find it by its identifiers."""
    show_presence: bool = True
    """Whether others see when it is online, and was."""
    last_seen: int = 0
    """When its last connection ended, in Unix seconds; 0: unknown."""
    bot: bool = False
    """Whether it is the account of a :class:`Bot`."""

    @property
    def user(self) -> str:
        """The user id of this account."""
        return str(self.id)


class BotCommand(Struct, frozen=True):
    """A slash command: users write ``/name`` to the bot."""

    name: str
    description: str


_decode_commands: Final = json.Decoder(tuple[BotCommand, ...]).decode


def commands_of(stored: Any) -> tuple[BotCommand, ...]:
    """Commands from their column."""
    return _decode_commands(bytes(stored))


class Bot(Struct, frozen=True):
    """A program that has an account. Its token proves it, without a password.

    ``owner``: the account that manages it; 0: the back end. ``hook_url``: receives what the bot receives
    (``""``: none).
    """

    account: Account
    owner: int
    commands: tuple[BotCommand, ...] = ()
    hook_url: str = ""


class Device(Struct, frozen=True):
    """A login of an account that has not ended. Its token names it. ``name``: given by the device."""

    id: int
    name: str
    since: int
    """Unix seconds."""
    expires_at: int
    """Unix seconds; end of its token."""


SUBJECT_BYTES: Final = 255
"""Longest id of an identity at a login provider."""


class AccountLink(Struct, frozen=True):
    """A link between an account and an identity: ``subject``, its id at the provider."""

    provider: str
    subject: str
    since: int
    """Unix seconds."""


class Invitation(Struct, frozen=True):
    """An invitation link: whoever knows the code may join a group, or become a friend of the maker."""

    code: str
    """Random. It is the only proof needed."""
    app: str
    user: str
    """The maker; ``""``: a back end."""
    group: int
    """0: to become a friend of the maker."""
    created: int
    """Unix seconds."""
    expires_at: int = 0
    """Unix seconds; 0: never."""
    uses: int = 0
    max_uses: int = 0
    """0: no limit."""


class Imported(Struct, frozen=True):
    """An account to import, with its id and password hash."""

    account: Account
    password: str


class Contact(Struct, frozen=True):
    """An entry on a list of an account: id, public profile, and time of the entry."""

    id: int
    nickname: str
    avatar: str
    since: int
    """Unix seconds."""


UPLOAD_USER_BYTES = 500
"""Longest user id that may own a file, in bytes of UTF-8."""


class Upload(Struct, frozen=True):
    """An uploaded file: its properties, its owner and the place of its bytes."""

    id: str
    """Random. It is the only proof needed to download the file."""
    app: str
    user: str
    kind: str
    """``picture``, ``voice``, ``video`` or ``file``, detected from the content."""
    type: str
    """Media type, detected from the content."""
    name: str
    """The sender's name for it. Nothing is looked up or stored by this name."""
    bytes: int
    sha256: str
    created: int
    """Unix milliseconds."""
    place: str = ""
    """``""``: the directory. ``"s3"``: the bucket."""
    width: int = 0
    """Of a picture, in pixels, as displayed."""
    height: int = 0
    thumbnail_bytes: int = 0
    """0: no thumbnail."""
    thumbnail_type: str = ""

    @property
    def stored_bytes(self) -> int:
        """The bytes that count against the quota."""
        return self.bytes + self.thumbnail_bytes


class Usage(Struct, frozen=True):
    """Number and size of a user's files."""

    bytes: int = 0
    files: int = 0


class Erasure(Struct, frozen=True):
    """Erasure by a feature, of what is more than rows: it erases the rows of ``tables`` with the rest.

    ``user(app, user)`` erases what belongs to a deleted user; ``app(name)``, to a deleted app. Both may
    switch, may be called again, and may raise :class:`imserver.errors.Unavailable`. The core erases the rows
    of tables that no feature erases.
    """

    tables: frozenset[str]
    user: Callable[[str, str], object]
    app: Callable[[str], object]


def tables_of(erasures: Iterable[Erasure]) -> frozenset[str]:
    """The tables whose rows features erase."""
    return frozenset(table for erasure in erasures for table in erasure.tables)


class Media(Protocol):
    """A store of bytes by name. All methods may switch and may raise
    :class:`imserver.errors.MediaUnavailable`.

    ``name`` is made by the server: letters, digits, dashes, underscores and dots. Clients never choose it.
    """

    place: str
    """The name of this kind of store, as in :attr:`Upload.place`."""

    def put(self, name: str, path: str, size: int, sha256: str, kind: str) -> None:
        """Store the file at ``path`` durably before returning. ``path`` may not exist afterwards.

        ``kind``: its media type.
        """

    def get(self, name: str, first: int, last: int) -> Iterator[bytes]:
        """The bytes from ``first`` to ``last``, both included, in pieces.

        Raises FileNotFoundError, before the first piece, if the name does not exist.
        """

    def delete(self, name: str) -> None:
        """Delete the bytes. Does nothing if the name does not exist."""

    def close(self) -> None:
        """Release all resources."""
