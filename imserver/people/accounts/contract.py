"""Rows of accounts, their logins and lists, as plain data."""

from typing import Final, Literal

from msgspec import Struct

from imserver.plugin.errors import HttpProblem, ServiceRefused
from imserver.plugin.identity import AccountSession, Holder

NICKNAME_CHARACTERS: Final = 64
AVATAR_CHARACTERS: Final = 1000
STATUS_CHARACTERS: Final = 80
TITLE_CHARACTERS: Final = 64
FOR_GOOD: Final = 2**53 - 1
"""The end of a lock without an end, in Unix seconds."""

ListName = Literal["friends", "incoming", "outgoing", "blocked"]
"""Friends, incoming requests, outgoing requests, or blocked users."""
StoredRole = Literal["", "moderator", "owner"]
"""A role of the core, as it is stored."""
RoleName = Literal["owner", "moderator", "member"]
"""A role by its name for people."""


def role_named(name: RoleName) -> StoredRole:
    """The role with this name."""
    if name == "member":
        return ""
    return name


def name_of(role: StoredRole) -> RoleName:
    """The name of a role."""
    return role or "member"


class Taken(
    ServiceRefused,
    problem=HttpProblem(
        409,
        "login_taken",
        "An account with this phone number, e-mail address or user name already "
        "exists.",
    ),
):
    """An account with this phone number, e-mail address or user name exists."""


class Account(Holder, frozen=True):
    """An account of an app. Its user id is the account id in decimal.

    ``phone``, ``email`` and ``name`` are its identifiers, by which it logs in;
    ``""`` means no identifier of this kind.
    """

    id: int  # both once more: they may be given by position
    app: str
    phone: str
    nickname: str = ""
    avatar: str = ""
    version: int = 0
    """Increases when the account ends all its sessions. Tokens of an earlier
    version are invalid."""
    created: int = 0
    """Unix seconds."""
    email: str = ""
    name: str = ""
    findable: bool = True
    """Whether others find it by its identifiers."""
    show_presence: bool = True
    """Whether others see when it is, and was last, online."""
    last_seen: int = 0
    """When its last connection ended, in Unix seconds; 0: unknown."""
    email_confirmed: bool = False
    """Whether its owner has confirmed that mails to ``email`` reach them."""
    lock_reason: str = ""
    """The reason of the present or last lock, for its owner."""
    factor: bool = False
    """Whether logins with its password need a second factor."""
    status: str = ""
    """The status line of the user."""
    away: bool = False
    """Whether the user has set themselves away."""
    status_until: int = 0
    """When ``status`` and ``away`` end, in Unix seconds; 0: never."""
    title: str = ""
    """The job title of the user in the organisation, as the user has written
    it."""

    def status_at(self, now: float) -> tuple[str, bool, int]:
        """The ``status``, ``away`` and ``status_until`` in force at this Unix
        second."""
        if 0 < self.status_until <= now:
            return ("", False, 0)
        return (self.status, self.away, self.status_until)


class FullSession(AccountSession, frozen=True):
    """A login of an account of this feature, and its token."""

    account: Account


class Device(Struct, frozen=True):
    """A login of an account that has not ended. Its token names its id."""

    id: int
    name: str
    """The name that the device has given; ``""``: no name."""
    since: int
    """When the device logged in, in Unix seconds."""
    expires_at: int
    """When the token of the device expires, in Unix seconds."""


class Imported(Struct, frozen=True):
    """An account to import, with its id, and the hash of its password."""

    account: Account
    password: str


class Contact(Struct, frozen=True):
    """An entry on a list of an account: id, public profile, and time of the
    entry."""

    id: int
    nickname: str
    avatar: str
    since: int
    """Unix seconds."""
