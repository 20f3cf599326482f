"""Tokens that the server makes for accounts and bots:

- Account tokens: JSON Web Tokens as GoChat makes them, HS256 with the claims
  ``user_id`` and ``exp``.
- Tokens of bots: ``bot_<account>_<secret>``, valid until they are replaced.

This server adds two claims to account tokens: ``version``, the version of the
account when the token was made, and ``device``, the number of the login that
the token belongs to. A token of GoChat itself counts as version 1: it is valid
with the same key until the account ends all its sessions.
"""

import hashlib
from collections.abc import Callable, Sequence
from secrets import token_urlsafe
from time import time
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.people.accounts.contract import Account, FullSession
from imserver.people.accounts.declared import (
    BOT_MESSAGES,
    GUEST_MESSAGES,
    AppAccountSettings,
    SenderLimits,
    rules_of,
)
from imserver.people.accounts.rows import AccountStore
from imserver.plugin.identity import (
    GOCHAT,
    AccountLookup,
    BadToken,
    JsonWebToken,
    TokenExpired,
    token_end,
)
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of
from imserver.plugin.wire import Limit, id_of


class AccountClaims(Struct):
    """The claims of an account token.

    ``exp`` and ``nbf`` are the end and the beginning of the token, in Unix
    seconds. ``version`` is the version of the account when the token was made.
    ``device`` is the id of the login; 0 means a token of GoChat, which names no
    login.
    """

    user_id: int
    exp: int | float
    version: int = 0
    nbf: int | float = 0
    device: int = 0


class KnownDevice(Struct, frozen=True):
    """A device that has logged in to an account before. A token proves that.

    Tokens of GoChat have no login number (0), so all devices of an account with
    such tokens count as one device.
    """

    account: int
    login: int


class _Header(Struct):
    alg: str


_HEADER: Final = {"alg": "HS256", "typ": "JWT"}
_SECRET_BYTES: Final = 32
_SECRET_CHARACTERS: Final = 43
"""Length of a secret of a bot, in base64 without padding."""
_MOST_ID_DIGITS: Final = 19


def make(id: int, version: int, expires_at: int, key: bytes, device: int = 0) -> str:
    """Make a token for a login of an account.

    ``expires_at`` is in Unix seconds. ``device`` is the id of the login; 0
    leaves out this claim.
    """
    claims = {"user_id": id, "version": version, "exp": expires_at}
    if device:
        claims["device"] = device
    return JsonWebToken.make(_HEADER, claims, JsonWebToken.hs256(key))


def read(token: str, keys: Sequence[bytes], now: float) -> AccountClaims:
    """Verify ``token`` by one of the keys at Unix time ``now``; returns its
    claims.

    Only HMAC-SHA256 is accepted, whatever algorithm the header names. Raises
    BadToken.
    """
    parts = JsonWebToken.read(token)
    payload = parts.verified_by(keys)
    if payload is None:
        raise BadToken("the token was signed with another key")

    try:
        algorithm = msgspec.json.decode(parts.header, type=_Header).alg
        claims = msgspec.json.decode(payload, type=AccountClaims)
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's claims are invalid: {error}") from None
    if algorithm != "HS256":
        raise BadToken("the token is not HS256")

    if not claims.exp > now or claims.nbf > now:
        raise TokenExpired("the token has expired, or is not valid yet")
    if not 0 < claims.user_id <= Limit.ID:
        raise BadToken("the token names no account")
    claims.exp = token_end(claims.exp)
    return claims


def make_bot_secret() -> str:
    """The secret part of a new token of a bot."""
    return token_urlsafe(_SECRET_BYTES)


def _no_bot(_id: int, _hash: str) -> None:
    """Return None, because a node without bots knows no token of a bot."""


def bot_token(id: int, secret: str) -> str:
    """The token of the bot with this account."""
    return f"{FullSession.bot_prefix}{id}_{secret}"


def secret_hash(secret: str) -> str:
    """The stored hash of a random secret.

    A secret has 80 random bits or more, so it needs no salt and no slow hash.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class AccountTokens(AccountLookup):
    """Makes and verifies the tokens of stored accounts.

    Only apps with accounts have such tokens. A key of the node signs tokens
    unless the settings have a key. GoChat's public key is accepted only in demo
    mode.
    """

    def __init__(self, base: Core, accounts: AccountStore) -> None:
        """Make the rates of messages of bots and guests.

        The keys that sign tokens come from the node, unless the settings have
        one.
        """
        self._accounts = accounts
        self._rates = base.sender_rates
        limits = settings_of(base.config, SenderLimits)
        self.bot_messages = base.buckets.make(BOT_MESSAGES, limits.bot_rate)
        self._guest_messages = base.buckets.make(GUEST_MESSAGES, limits.guest_rate)
        self._tenants = base.tenants
        self._keys = base.keys
        self.settings = base.config.jwt
        self._derived_keys = base.node.keys_for("account tokens")
        self._bots: Callable[[int, str], Account | None] = _no_bot

    def ask(self, bots: Callable[[int, str], Account | None]) -> None:
        """From now on find bots by this function.

        It gets the id of an account and the hash of a secret. It returns the
        account of the bot, or None if the bot does not exist or has another
        secret. It may switch greenlets, and raise StorageUnavailable.
        """
        self._bots = bots

    def wanted_in(self, app: str) -> bool:
        """Whether an app may have accounts.

        In demo mode the app of GoChat may have accounts even without an entry
        in the settings.
        """
        tenant = self._tenants.get(self._tenants.resolve(app))
        if tenant is None:
            return app == GOCHAT and self._keys.demo
        return tenant.wants_accounts(tenant.name)

    def rules_of(self, app: str) -> AppAccountSettings:
        """The account rules of an app."""
        tenant = self._tenants.get(self._tenants.resolve(app))
        if tenant is None:
            return AppAccountSettings()
        return rules_of(tenant)

    def make(self, id: int, version: int, expires_at: int, device: int) -> str:
        """Make a token for a login of an account. ``expires_at`` is in Unix
        seconds."""
        return make(id, version, expires_at, self._keys_of_tokens()[0], device)

    def device_of(self, token: str) -> KnownDevice | None:
        """The device for whose login an account token was made.

        The token may have expired, or its login may have ended. Returns None if
        the token is not from this server. Never switches greenlets.
        """
        if not token:
            return None
        if self.settings.is_public and self._keys.demo:
            return None  # anybody could have signed the token
        try:
            # At the time 0 no token has expired.
            claims = read(token, self._keys_of_tokens(), now=0)
        except BadToken:
            return None
        return KnownDevice(claims.user_id, claims.device)

    def holder(self, token: str | bytes) -> FullSession:
        """The account and login that a token belongs to.

        A token without ``device`` may come from GoChat. GoChat's account
        numbers are unique in its own app only, so such a token is valid only
        there. May switch greenlets. Raises BadToken if the token is invalid or
        no longer valid, and StorageUnavailable.
        """
        try:
            if isinstance(token, str):
                text = token
            else:
                text = token.decode("ascii")
        except UnicodeDecodeError:
            raise BadToken("this is not a token") from None
        if text.startswith(FullSession.bot_prefix):
            return self._bot(text)

        now = time()
        claims = read(text, self._keys_of_tokens(), now)
        account, device_name = self._login_of(claims)
        if account.version != claims.version:
            raise BadToken("the account has ended its sessions")
        if account.is_locked(now):
            raise BadToken("the account is locked")
        if not self.wanted_in(account.app):
            raise BadToken("the app has no accounts")

        # Guests have a lower rate of messages than members.
        app = self._tenants.resolve(account.app)
        if account.guest:
            self._rates.limit(app, account.user, self._guest_messages)
        elif self._rates.known:
            # The account may have been a guest before, with a limit.
            self._rates.lift(app, account.user, self._guest_messages)
        session = FullSession(
            account, text, int(claims.exp), device_name, claims.device
        )
        if (
            account.role
            and not account.factor
            and account.role in self.rules_of(app).factor_for
        ):
            # Without a second factor the account may not act by its role.
            return replace(session, lacks="a second factor: set one up first")
        return session

    def _login_of(self, claims: AccountClaims) -> tuple[Account, str]:
        """The account that a token names, and the name of the device of its
        login.

        The name is ``""`` for a token of GoChat. Raises BadToken if the account
        does not exist or the login has ended.
        """
        if claims.device:
            login_row = self._accounts.by_device(claims.user_id, claims.device)
            if login_row is None:
                raise BadToken("the account does not exist, or the login has ended")
            account, login = login_row
            return account, login.name
        gochat = self._tenants.resolve(GOCHAT)
        account_row = self._accounts.by_id(gochat, claims.user_id)
        if account_row is None:
            raise BadToken("the account does not exist")
        account, _ = account_row
        return account, ""

    def proof_of(self, token: str) -> str:
        """The proof of a token, by which :meth:`still_holds` checks it later.

        It does not have the token itself. For a bot it is the hash of its
        secret. For other accounts it is the version of the account, the id of
        the login and the end of the token, as ``3.51726.1790000000``. See
        :class:`imserver.gateway.auth.questions.AccountLookup`.
        """
        session = self.holder(token)
        if session.account.bot:
            _, _, secret = token.removeprefix(session.bot_prefix).partition("_")
            return secret_hash(secret)
        return f"{session.account.version}.{session.device_id}.{session.expires_at}"

    def still_holds(self, app: str, user: str, proof: str) -> bool:
        """Whether the token with this proof would still be accepted for the
        user."""
        account = self._proved_account(app, id_of(user), proof)
        return (
            account is not None
            and self._tenants.resolve(account.app) == app
            and not account.is_locked(time())
            and self.wanted_in(account.app)
        )

    def _proved_account(self, app: str, id: int, proof: str) -> Account | None:
        """The account with this id, if a proof of :meth:`proof_of` is still
        valid for it.

        None otherwise. May switch greenlets.
        """
        version, _, login = proof.partition(".")
        if not login:  # the hash of the secret of a bot
            return self._bots(id, proof)
        device, expires_at = map(int, login.split("."))
        row: tuple[Account, object] | None
        if device:
            row = self._accounts.by_device(id, device)
        else:
            row = self._accounts.by_id(app, id)
        if row is None or time() >= expires_at:
            return None
        account, _ = row
        if str(account.version) != version:
            return None
        return account

    def those_of(
        self, app: str, users: Sequence[str], words: Sequence[str] = ()
    ) -> list[Account]:
        """The accounts of users.

        With ``words``, only accounts whose names contain all the words.
        """
        ids = sorted({id_of(user) for user in users} - {0})  # 0: no id of an account
        if words:
            return self._accounts.by_ids_named(app, ids, words)
        return self._accounts.by_ids(app, ids)

    def programs_of(self, app: str, users: Sequence[str]) -> list[str]:
        """The bots that belong to these users."""
        return self._accounts.programs_of(app, *users)

    def _bot(self, token: str) -> FullSession:
        """Return the session of the bot that owns a token (``bot_17_Vq3…``).

        May switch greenlets. Raises BadToken and StorageUnavailable.
        """
        id, _, secret = token.removeprefix(FullSession.bot_prefix).partition("_")
        if not id.isdecimal() or len(id) > _MOST_ID_DIGITS:
            raise BadToken("this is not a token of a bot")
        if len(secret) != _SECRET_CHARACTERS:
            raise BadToken("this is not a token of a bot")
        # No account has an id above the limit. A greater number must not reach
        # the database, so the limit replaces the number.
        account = self._bots(min(int(id), Limit.ID), secret_hash(secret))
        if account is None or not self.wanted_in(account.app):
            raise BadToken("the bot does not exist, or its token was replaced")
        if account.is_locked(time()):
            raise BadToken("the account of the bot is locked")
        self.know_bot(self._tenants.resolve(account.app), account.user)
        return FullSession(account, token, 0)

    def know_bot(self, app: str, bot: str) -> None:
        """Note that the token of a bot was verified, so that its messages get a
        rate.

        Never switches greenlets.
        """
        self._rates.limit(app, bot, self.bot_messages)

    def _keys_of_tokens(self) -> tuple[bytes, ...]:
        """The key that signs tokens, followed by keys that only verify them."""
        if self.settings.sign_key and (self._keys.demo or not self.settings.is_public):
            return (self.settings.sign_key.encode(),)
        return self._derived_keys
