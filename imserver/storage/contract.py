"""Rows that storage passes to other layers, as plain data.

Importing this loads no database driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct, json

from imserver.errors import ImserverError

if TYPE_CHECKING:
    from imserver.storage.statements import PooledStatements

RecordEvent = Callable[["PooledStatements", str, str, Mapping[str, Any]], object]
"""Stores an event in the caller's transaction: its app, the user whose events stay in order, its fields."""


class AppRow(Struct, frozen=True):
    """A stored app: its name and the settings that were given, as plain values."""

    name: str
    settings: dict[str, Any]
    created: int = 0
    """Unix seconds."""
    deleted: bool = False
    """Its row stays, without settings, so that all nodes learn of it."""


class AppContents(Struct, frozen=True):
    """The rows that are deleted with an app, as numbers."""

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
    guest: bool = False
    """Whether its user came by an invitation, without a password."""
    email_confirmed: bool = False
    """Whether its owner has confirmed that mails to ``email`` reach them."""

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
    (``""``: none). ``description``: what it is for. ``listed``: the app offers it to all its accounts.
    """

    account: Account
    owner: int
    commands: tuple[BotCommand, ...] = ()
    hook_url: str = ""
    description: str = ""
    listed: bool = False


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
