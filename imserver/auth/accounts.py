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


class Holder(Struct, frozen=True, kw_only=True):
    """Who holds a login: an account of an app, as the gateway knows it. Its user id is the account id in
    decimal.
    """

    id: int
    app: str
    bot: bool = False
    """Whether it is the account of a bot."""
    guest: bool = False
    """Whether its user came by an invitation, without a password."""
    role: Role = ""
    """Its role in the app."""
    locked_until: int = 0
    """Until when it is locked, in Unix seconds; 0: it is not."""

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


class AccountSession(Struct, frozen=True):
    """A login of an account, and the token that proves it until ``expires_at`` (Unix seconds; 0: always).

    ``device``: name of the device at login. ``device_id``: login number (0: not in the token).
    ``lacks``: what the account lacks to act by its role, in words; ``""``: nothing. ``bot_prefix``: how the
    tokens of bots begin.
    """

    bot_prefix: ClassVar[str] = BOT_TOKEN_PREFIX

    account: Holder
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

    def those_of(self, app: str, users: Sequence[str], words: Sequence[str] = ()) -> Sequence[Holder]:
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
