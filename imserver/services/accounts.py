"""Accounts: people who register with a phone number, log in with a password, and prove it with a token.

Nothing here tells which part of a login was wrong, and an account that is not there takes as long as a wrong
password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from time import time
from typing import Final

from msgspec import Struct

from imserver.config import Config
from imserver.errors import ImserverError
from imserver.lifecycle import derive_key
from imserver.services import account_tokens
from imserver.services.attempts import Attempts
from imserver.services.passwords import MAX_PASSWORD_BYTES, Passwords
from imserver.services.tokens import BadToken
from imserver.settings import PUBLIC_SIGN_KEY
from imserver.storage.account_contract import (
    AVATAR_CHARACTERS,
    MAX_ID,
    NICKNAME_CHARACTERS,
    PHONE_CHARACTERS,
    Account,
    Taken,
)
from imserver.storage.accounts import KeptAccounts

GOCHAT: Final = "gochat"
"""The app of GoChat's clients."""


_unshowable: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and what is no text at all."""


class BadField(ImserverError):
    """What was given cannot be stored; the text says which, and why."""


class Closed(ImserverError):
    """Nobody may register (``accounts.registration``)."""


class WrongLogin(ImserverError):
    """There is no such account, or this is not its password."""


class UnknownAccount(ImserverError):
    """There is no such account in the app."""


class Session(Struct, frozen=True):
    """A login: whose, and the token that proves it until ``expires_at`` (Unix seconds)."""

    account: Account
    token: str
    expires_at: int


class Accounts:
    """Registers, logs in, reads tokens. Everything but :meth:`token` may switch and raise StorageUnavailable.

    ``kick(app, user)`` ends the connections of a user on all nodes; ``is_demo`` says whether anybody may do
    anything, so that keys which everybody knows are good enough.
    """

    def __init__(
        self,
        config: Config,
        secret: bytes,
        kept: KeptAccounts,
        kick: Callable[[str, str], object],
        is_demo: Callable[[], bool],
    ) -> None:
        settings = config.accounts
        self._kept = kept
        self._kick = kick
        self._is_demo = is_demo
        self._registration = settings.registration
        self._passwords = Passwords(config.app.salt)
        self._by_account = Attempts(settings.failures, settings.failure_seconds)
        self._by_address = Attempts(settings.failures_per_address, settings.failure_seconds)
        self._seconds = int(config.jwt.expire_time * 3600)
        self._sign_key = config.jwt.sign_key
        self._derived_key = derive_key(secret, "account tokens")
        self.on_removed: list[Callable[[Account], object]] = []
        """Called with an account that has been deleted, so that others forget it, too. May switch."""

    # --- registering and logging in -------------------------------------------------------------------------

    def register(
        self,
        app: str,
        phone: str,
        password: str,
        nickname: str = "",
        avatar: str = "",
        *,
        invited: bool = False,
    ) -> Account:
        """Make an account. ``invited``: a back end asks, which may where nobody else does.

        Raises BadField, Closed, Taken and Overloaded.
        """
        if not (self._registration or invited):
            raise Closed("accounts.registration is false")
        _check(phone, "phone", 1, PHONE_CHARACTERS)
        _check(nickname, "nickname", 0, NICKNAME_CHARACTERS)
        _check(avatar, "avatar", 0, AVATAR_CHARACTERS)
        _check_password(password)
        new = Account(0, app, phone, nickname, avatar)
        if self._kept.by_phone(app, phone) is not None:
            raise Taken(phone)
        return self._kept.add(new, self._passwords.hash(password))

    def login(self, app: str, phone: str, password: str, address: str) -> Account:
        """The account with this phone number and this password.

        Raises WrongLogin, TooManyFailures and Overloaded.
        """
        if not _fits(phone, 1, PHONE_CHARACTERS) or len(password.encode()) > MAX_PASSWORD_BYTES:
            raise WrongLogin
        who = (app, phone)
        self._by_account.require(who)
        self._by_address.require(address)
        # Counted before it is known to be wrong: those who try many at once do not get ahead of the count.
        self._by_account.failed(who)
        self._by_address.failed(address)
        found = self._kept.by_phone(app, phone)
        if not self._passwords.matches("" if found is None else found[1], password) or found is None:
            raise WrongLogin
        self._by_account.forget(who)
        self._by_address.forgive(address)
        account, hashed = found
        if self._passwords.is_weak(hashed):
            self._kept.set_password(account.id, hashed, self._passwords.hash(password))
        return account

    def token(self, account: Account) -> Session:
        """A token for somebody who has logged in. Never switches."""
        expires_at = int(time()) + self._seconds
        token = account_tokens.make(account.id, account.version, expires_at, self._key())
        return Session(account, token, expires_at)

    def holder(self, token: str | bytes, app: str = GOCHAT) -> Session:
        """Whose token this is. Raises BadToken: nobody's, or not any more."""
        try:
            text = token if isinstance(token, str) else token.decode("ascii")
        except UnicodeDecodeError:
            raise BadToken("this is no token") from None
        claims = account_tokens.read(text, self._key(), time())
        found = self._kept.by_id(app, claims.user_id)
        if found is None:
            raise BadToken("the account does not exist")
        if found[0].version != claims.version:
            raise BadToken("the account has ended its sessions")
        return Session(found[0], text, int(claims.exp))

    def _key(self) -> bytes:
        if self._sign_key and (self._sign_key != PUBLIC_SIGN_KEY or self._is_demo()):
            return self._sign_key.encode()
        return self._derived_key

    # --- asking ---------------------------------------------------------------------------------------------

    def get(self, app: str, user: str) -> Account | None:
        """The account of a user."""
        id = account_id(user)
        found = self._kept.by_id(app, id) if id else None
        return None if found is None else found[0]

    def those_of(self, app: str, users: Sequence[str]) -> list[Account]:
        """The accounts of these users, those that exist, in the order of their ids."""
        return self._kept.by_ids(app, sorted({id for user in users if (id := account_id(user))}))

    def page(self, app: str, after: int, limit: int) -> list[Account]:
        """Accounts of an app in the order of their ids, behind one."""
        return self._kept.page(app, after, limit)

    # --- changing -------------------------------------------------------------------------------------------

    def change(self, app: str, user: str, nickname: str | None, avatar: str | None) -> Account:
        """Change what an account shows of itself; None: as it is. Raises BadField and UnknownAccount."""
        given = {"nickname": nickname, "avatar": avatar}
        fields = {name: value for name, value in given.items() if value is not None}
        _check(nickname or "", "nickname", 0, NICKNAME_CHARACTERS)
        _check(avatar or "", "avatar", 0, AVATAR_CHARACTERS)
        changed = self._kept.change(app, account_id(user), fields)
        if changed is None:
            raise UnknownAccount(user)
        return changed

    def change_password(self, app: str, user: str, old: str | None, new: str, address: str) -> None:
        """Give an account another password and end its sessions. ``old`` None: a back end asks.

        Raises BadField, UnknownAccount, WrongLogin, TooManyFailures and Overloaded.
        """
        _check_password(new)
        found = self._kept.by_id(app, account_id(user))
        if found is None:
            raise UnknownAccount(user)
        account, hashed = found
        if old is not None:
            account = self.login(app, account.phone, old, address)
            hashed = (self._kept.by_id(app, account.id) or found)[1]
        if not self._kept.set_password(account.id, hashed, self._passwords.hash(new), ends_sessions=True):
            raise WrongLogin
        self._kick(app, user)

    def log_out(self, app: str, user: str) -> None:
        """End all sessions of an account: tokens are void, connections closed. Raises UnknownAccount."""
        if not self._kept.end_sessions(app, account_id(user)):
            raise UnknownAccount(user)
        self._kick(app, user)

    def remove(self, app: str, user: str) -> None:
        """Delete an account with all that is its own. Raises UnknownAccount."""
        account = self.get(app, user)
        if account is None:
            raise UnknownAccount(user)
        for told in self.on_removed:
            told(account)
        if not self._kept.remove(app, account.id):
            raise UnknownAccount(user)
        self._kick(app, user)

    def close(self) -> None:
        """End the threads that hash."""
        self._passwords.close()


def account_id(user: str) -> int:
    """The id of an account as a number; 0 if that is none."""
    if not (user.isascii() and user.isdecimal()) or len(user) > 19 or user[:1] == "0":
        return 0
    id = int(user)
    return id if id <= MAX_ID else 0


def _fits(text: str, least: int, most: int) -> bool:
    return least <= len(text) <= most and _unshowable.search(text) is None


def _check(text: str, name: str, least: int, most: int) -> None:
    if not _fits(text, least, most):
        raise BadField(f"{name}: expected {least} to {most} characters that can be shown")


def _check_password(password: str) -> None:
    if not 1 <= len(password.encode()) <= MAX_PASSWORD_BYTES:
        raise BadField(f"password: expected 1 to {MAX_PASSWORD_BYTES} bytes")
