"""What storage tells of accounts and of who knows whom: rows as plain data. It needs no database."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from imserver.errors import ImserverError

PHONE_CHARACTERS: Final = 20
NICKNAME_CHARACTERS: Final = 64
AVATAR_CHARACTERS: Final = 1000
MAX_ID: Final = 2**63 - 1
"""The greatest number that the columns of ids hold."""

ListName = Literal["friends", "incoming", "outgoing", "blocked"]
"""Friends; who asks to be one; who was asked; who is kept away."""


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
