"""What storage tells the rest: rows as plain data."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


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
