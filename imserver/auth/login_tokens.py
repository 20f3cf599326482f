"""The tokens of logins: which of them prove a user of an app."""

from __future__ import annotations

from collections.abc import Callable
from time import time

from imserver.auth.accounts import AccountLookup
from imserver.auth.channel_tokens import ChannelClaims, read_channel_token
from imserver.auth.issuers import Issuers
from imserver.auth.page_tokens import PAGE_TOKEN_PREFIX, PageTokens
from imserver.auth.rules import ALLOWED, LoginDecision, Rule, load_app_keys
from imserver.auth.tenants import Tenant
from imserver.auth.tokens import BadToken, Claims, Key, TokenExpired, read_bare_token, read_token
from imserver.model import is_of_device
from imserver.process import Secret


class LoginTokens:
    """Verifies the tokens of logins and of subscriptions.

    ``resolve`` returns the app of an alias. ``secret``: that of the server, from which keys are derived.
    """

    def __init__(
        self,
        resolve: Callable[[str], str],
        pages: PageTokens,
        accounts: AccountLookup,
        issuers: Issuers,
        secret: Secret,
    ) -> None:
        self._resolve = resolve
        self.pages = pages
        self._accounts = accounts
        self._issuers = issuers
        self._secret = secret

    def keys_of(self, tenant: Tenant) -> tuple[Key, ...]:
        """Load the keys of an app, also from files. Raises BadKey."""
        return load_app_keys(tenant.name, tenant, self._secret)

    def read(
        self, rule: Rule, user: str, token: str, bare: bool, device: str, may_lack_user: bool
    ) -> LoginDecision:
        """Verify the token. ``user`` ``""``: take the user from the token. May switch.

        ``bare``: a token of the app's own keys needs neither ``app`` nor ``exp``. ``device``: what the client
        calls its device.

        Raises BadToken, StorageUnavailable if the app has accounts, and IssuerUnavailable. Page tokens are
        refused if the app has a login rule, because opening a page proves nothing.
        """
        if rule.accounts:
            return self.proven(rule, user, self._read_either(rule, token, bare, device), may_lack_user)
        if rule.keys or rule.issuers:
            return self.proven(rule, user, self.read_session_token(rule, token, bare), may_lack_user)
        if token.startswith(PAGE_TOKEN_PREFIX) and not (
            rule.open and self.pages.fits(rule.name, user, token)
        ):
            raise BadToken("the page token is expired, not for this user, or not accepted by this app")
        return ALLOWED

    def _read_either(self, rule: Rule, token: str, bare: bool, device: str) -> Claims:
        """Verify an account token, or else a token that a key of the app has signed.

        The device of an account token is the one of its login, or a part of it that the client names.
        """
        try:
            session = self._accounts.holder(token)
            # A bot names its devices itself.
            account = session.account
            name = device if account.kind == "bot" or is_of_device(device, session.device) else session.device
            return Claims(account.user, account.app, session.expires_at, name, kind=account.kind)
        except TokenExpired:
            raise
        except BadToken:
            if not (rule.keys or rule.issuers):
                raise
            return self.read_session_token(rule, token, bare)

    def read_session_token(self, rule: Rule, token: str, bare: bool = False) -> Claims:
        """Verify a token that a key or an issuer of the app has signed.

        May wait for the issuer's keys. Raises BadToken and IssuerUnavailable.
        """
        if rule.issuers:
            claims = self._issuers.claims(rule.name, rule.issuers, token, time(), bare)
            if claims is not None:
                return claims
        if bare:
            return read_bare_token(token, rule.keys, time(), rule.name)
        return read_token(token, rule.keys, time())

    def read_channel_token(self, rule: Rule, token: str) -> ChannelClaims:
        """Verify a subscription token that a key or an issuer of the app has signed.

        May wait for the issuer's keys. Raises BadToken, TokenExpired and IssuerUnavailable.
        """
        claims = self._issuers.channel_claims(rule.issuers, token, time()) if rule.issuers else None
        return claims or read_channel_token(token, rule.keys, time())

    def proven(self, rule: Rule, user: str, claims: Claims, may_lack_user: bool = False) -> LoginDecision:
        if not (claims.user or may_lack_user) or "\0" in claims.user:
            raise BadToken("the token names no user, or one with U+0000")
        if user and claims.user != user:
            raise BadToken("the token is for another user")
        if self._resolve(claims.app) != rule.name:
            raise BadToken("the token is for another app")
        return LoginDecision(
            expires_at=claims.expires_at, user=claims.user, device=claims.device, claims=claims
        )
