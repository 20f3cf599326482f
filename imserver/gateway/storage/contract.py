"""Rows that storage passes to other layers, as plain data.

Importing this loads no database driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from secrets import token_hex, token_urlsafe
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Struct

from imserver.gateway.config.declared import about

if TYPE_CHECKING:
    from imserver.gateway.storage.statements import PooledStatements


RecordEvent = Callable[["PooledStatements", str, str, Mapping[str, Any]], object]
"""A function that stores an event in the caller's transaction. After the
statements, it gets the app, a user and the fields of the event. Events of one
user keep their order."""


class AppRow(Struct, frozen=True):
    """A stored app: its name and the settings that were given, as plain
    values."""

    name: str
    settings: dict[str, Any]
    created: int = 0
    """Unix seconds."""
    deleted: bool = False
    """Whether the app was deleted. Its row stays, without settings, so that all
    nodes read of the deletion."""


class AppContents(Struct, frozen=True, kw_only=True):
    """The rows that are deleted with an app, as numbers."""

    keys: Annotated[
        int, about("API keys that were limited to the app. They are revoked.")
    ]
    accounts: int
    messages: Annotated[int, about("Stored messages and other entries of the log.")]
    uploads: int
    groups: int


class KeyRow(Struct, frozen=True):
    """A stored API key.

    ``digest`` is the SHA-256 of the key in hexadecimal. The key itself is not
    stored.
    """

    NOTE_CHARACTERS: ClassVar[int] = 200
    """The most characters of a note."""
    PREFIX: ClassVar[str] = "imk_"
    """The prefix of keys. People, and tools that look for leaked secrets,
    recognise a key by it."""
    SECRET_BYTES: ClassVar[int] = 32
    """How many random bytes a key has."""
    ID_BYTES: ClassVar[int] = 6
    """How many random bytes the id of a key has."""

    id: str
    digest: str
    scopes: tuple[str, ...]
    apps: tuple[str, ...] = ()
    """The apps for which the key is valid; empty means all apps."""
    note: str = ""
    created: int = 0
    """Unix seconds."""
    revoked: int = 0
    """When the key was revoked, in Unix seconds; 0: it was not revoked."""
    expires: int = 0
    """Unix seconds; 0: never."""
    used: int = 0
    """When the key was last used, in Unix seconds, exact to a minute; 0:
    never."""
    used_from: str = ""
    """The address of the last request with the key."""
    maker: int = 0
    """The account that made the key, directly or with another key; 0 if no
    account made it. While the account is locked or banned, the key is
    refused."""
    maker_app: str = ""
    """The app of that account."""

    @classmethod
    def make(
        cls,
        scopes: tuple[str, ...] = (),
        apps: tuple[str, ...] = (),
        note: str = "",
        expires: int = 0,
    ) -> tuple[KeyRow, str]:
        """Make a new key. Returns its row, which is not stored yet, and the key
        itself.

        Nobody can read the key again, so the caller must show it.
        """
        secret = cls.PREFIX + token_urlsafe(cls.SECRET_BYTES)
        row = cls(
            id=token_hex(cls.ID_BYTES),
            digest=sha256(secret.encode()).hexdigest(),
            scopes=scopes,
            apps=apps,
            note=note,
            expires=expires,
        )
        return row, secret

    def has_ended(self, now: float) -> bool:
        """Whether the key was revoked, or has expired at this Unix second."""
        return bool(self.revoked) or 0 < self.expires <= now


class BanRow(Struct, frozen=True):
    """A ban of a user of an app."""

    app: str
    user: str
    seconds: float
    """How many more seconds the ban lasts, by the clock of the database. 0 or
    less means that the ban has ended, or was lifted."""
    reason: str = ""
    """The reason that is shown to the user."""


class Changes(Struct, frozen=True):
    """Apps, keys and bans that were created or changed since the last refresh.

    ``version`` is the version of the database with these changes.
    """

    version: int
    apps: tuple[AppRow, ...] = ()
    keys: tuple[KeyRow, ...] = ()
    bans: tuple[BanRow, ...] = ()


class Erasure(Struct, frozen=True):
    """Erasure by a feature, of data other than rows.

    - ``tables``: the tables whose rows this erasure also erases. The core
      erases the rows of tables that no feature erases.
    - ``user(app, user, name)`` erases the data of a deleted user. ``name``
      replaces the user id in remaining data; ``""`` means that the messages of
      the user stay under the own id.
    - ``app(name)`` erases the data of a deleted app.
    - ``programs(app, user)`` returns the users that depend on this user, such
      as bots of an account. They are deleted first, and their messages stay.

    The functions may switch greenlets, may be called again, and may raise
    :class:`imserver.gateway.errors.Unavailable`.
    """

    tables: frozenset[str]
    user: Callable[[str, str, str], object]
    app: Callable[[str], object]
    programs: Callable[[str, str], Iterable[str]] = lambda _app, _user: ()


class ArchivedFiles:
    """The files of a feature in archives, beside its rows. This base class has
    no files.

    The arguments of :meth:`read` choose the archive. The files belong to a
    user, to a whole app (``user`` is ``""``), or to the server (``app`` is
    ``""``: ``imserver backup --everything``). The functions may raise
    ImserverError.
    """

    def read(self, app: str, user: str) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """List the files, each as its name, its size in bytes (0: unknown) and
        its pieces.

        A name never changes, and files of one kind have a common folder. An
        iterator of pieces may raise FileNotFoundError before the first piece.
        Then the archive leaves out the file.
        """
        return iter(())

    def write(self, app: str, name: str, content: IO[bytes]) -> bool:
        """Store a file from an archive, even if the file exists. The rows of
        the file already exist.

        Returns whether the file was stored.
        """
        return False


def programs_of(erasures: Iterable[Erasure], app: str, user: str) -> list[str]:
    """Return the users that are deleted with this user, such as the bots of an
    account."""
    programs: list[str] = []
    for erasure in erasures:
        programs += erasure.programs(app, user)
    return programs


def tables_of(erasures: Iterable[Erasure]) -> frozenset[str]:
    """The tables whose rows features erase."""
    return frozenset[str]().union(*(erasure.tables for erasure in erasures))
