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
"""The end of a lock that does not end by itself, in Unix seconds."""

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

    ``phone``, ``email``, ``name``: its identifiers; ``""``: it has none of this
    kind.
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
    """Whether others see when it is online, and was."""
    last_seen: int = 0
    """When its last connection ended, in Unix seconds; 0: unknown."""
    email_confirmed: bool = False
    """Whether its owner has confirmed that mails to ``email`` reach them."""
    lock_reason: str = ""
    """Why it is or was locked, for its owner."""
    factor: bool = False
    """Whether logins with its password take a second factor."""
    status: str = ""
    """A line that its user says of themselves."""
    away: bool = False
    """Whether its user is away, as they say."""
    status_until: int = 0
    """When ``status`` and ``away`` end, in Unix seconds; 0: not by
    themselves."""
    title: str = ""
    """What its user does in the organisation, as they say."""

    def status_at(self, now: float) -> tuple[str, bool, int]:
        """``status``, ``away`` and ``status_until``, as they are at this Unix
        second."""
        if 0 < self.status_until <= now:
            return ("", False, 0)
        return (self.status, self.away, self.status_until)


class FullSession(AccountSession, frozen=True):
    """A login of an account of this feature, and its token."""

    account: Account


class Device(Struct, frozen=True):
    """A login of an account that has not ended. Its token names it. ``name``:
    given by the device."""

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
    """An entry on a list of an account: id, public profile, and time of the
    entry."""

    id: int
    nickname: str
    avatar: str
    since: int
    """Unix seconds."""
