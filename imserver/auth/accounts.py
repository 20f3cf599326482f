"""Questions of the core about accounts: users with a token of this server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Literal, Protocol

from msgspec import Struct

from imserver.auth.principal import Role
from imserver.auth.tokens import BadToken

GOCHAT: Final = "gochat"
"""The app of GoChat's clients."""
BOT_TOKEN_PREFIX: Final = "bot_"
"""How the tokens of bots begin, and no other credential."""


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
    """Whether it is the account of a bot."""
    guest: bool = False
    """Whether its user came by an invitation, without a password."""
    email_confirmed: bool = False
    """Whether its owner has confirmed that mails to ``email`` reach them."""
    role: Role = ""
    """Its role in the app."""
    locked_until: int = 0
    """Until when it is locked, in Unix seconds; 0: it is not."""
    lock_reason: str = ""
    """Why it is or was locked, for its owner."""
    factor: bool = False
    """Whether logins with its password take a second factor."""
    status: str = ""
    """A line that its user says of themselves."""
    away: bool = False
    """Whether its user is away, as they say."""
    status_until: int = 0
    """When ``status`` and ``away`` end, in Unix seconds; 0: not by themselves."""

    @property
    def user(self) -> str:
        """The user id of this account."""
        return str(self.id)

    @property
    def kind(self) -> Literal["account", "guest", "bot"]:
        """The kind of principal that its user is."""
        return "bot" if self.bot else "guest" if self.guest else "account"

    def is_locked(self, now: float) -> bool:
        """Whether it is locked at this Unix second."""
        return self.locked_until > now

    def status_at(self, now: float) -> tuple[str, bool, int]:
        """``status``, ``away`` and ``status_until``, as they are at this Unix second."""
        is_over = 0 < self.status_until <= now
        return ("", False, 0) if is_over else (self.status, self.away, self.status_until)


class AccountSession(Struct, frozen=True):
    """A login of an account, and the token that proves it until ``expires_at`` (Unix seconds; 0: always).

    ``device``: name of the device at login. ``device_id``: login number (0: not in the token).
    ``lacks``: what the account lacks to act by its role, in words; ``""``: nothing. ``bot_prefix``: how the
    tokens of bots begin.
    """

    bot_prefix: ClassVar[str] = BOT_TOKEN_PREFIX

    account: Account
    token: str
    expires_at: int
    device: str = ""
    device_id: int = 0
    lacks: str = ""


class AccountLookup(Protocol):
    """Answers who holds a token of an account or a bot, and which users are accounts.

    All questions may switch and raise StorageUnavailable. The answers here are those of
    :class:`NoAccountLookup`.
    """

    def holder(self, token: str | bytes) -> AccountSession:
        """Return the account and login that a token belongs to. Raises BadToken."""
        raise BadToken("this server has no accounts")

    def proof_of(self, token: str) -> str:
        """What :meth:`still_holds` asks again, without being the token. Raises BadToken."""
        raise BadToken("this server has no accounts")

    def still_holds(self, app: str, user: str, proof: str) -> bool:
        """Whether the token of a user from which a proof was made is still valid."""
        return False

    def those_of(self, app: str, users: Sequence[str], words: Sequence[str] = ()) -> list[Account]:
        """The existing accounts of these users, in the order of their ids.

        ``words``: only those whose nickname, and user name if others find the account, contain all of these
        words, which are from :meth:`imserver.storage.statements.Statements.words`.
        """
        return []

    def programs_of(self, app: str, users: Sequence[str]) -> list[str]:
        """The bots of these users: what stops or mutes an owner does the same to them."""
        return []


class NoAccountLookup(AccountLookup):
    """A node without accounts: no token is an account's. Never switches."""
