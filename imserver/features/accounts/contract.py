"""Rows of accounts, their logins and lists, as plain data."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from imserver.plugin.errors import HttpProblem, ServiceRefused
from imserver.plugin.storage import Account

NICKNAME_CHARACTERS: Final = 64
AVATAR_CHARACTERS: Final = 1000
STATUS_CHARACTERS: Final = 80
FOR_GOOD: Final = 2**53 - 1
"""The end of a lock that does not end by itself, in Unix seconds."""

ListName = Literal["friends", "incoming", "outgoing", "blocked"]
"""Friends, incoming requests, outgoing requests, or blocked users."""


StoredRole = Literal["", "moderator", "owner"]
"""A role of the core, as it is stored."""
RoleName = Literal["owner", "moderator", "member"]
"""A role by its name for people."""


def role_named(name: RoleName) -> StoredRole:
    """The role with this name."""
    return "" if name == "member" else name


def name_of(role: StoredRole) -> RoleName:
    """The name of a role."""
    return role or "member"


class Taken(
    ServiceRefused,
    problem=HttpProblem(
        409, "login_taken", "An account with this phone number, e-mail address or user name already exists."
    ),
):
    """An account with this phone number, e-mail address or user name exists."""


class Device(Struct, frozen=True):
    """A login of an account that has not ended. Its token names it. ``name``: given by the device."""

    id: int
    name: str
    since: int
    """Unix seconds."""
    expires_at: int
    """Unix seconds; end of its token."""


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
