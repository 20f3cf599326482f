"""Rows that storage passes to other layers, as plain data.

Importing this loads no database driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

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
