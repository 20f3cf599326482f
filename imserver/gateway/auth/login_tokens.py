"""The tokens of logins, and the check whether a token proves a user of an app.
Also page tokens, which the server's own pages give their visitors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from time import time
from typing import TYPE_CHECKING, Final

from imserver.gateway.auth.channel_tokens import ChannelClaims, read_channel_token
from imserver.gateway.auth.issuers import Issuers
from imserver.gateway.auth.json_web_tokens import BadToken, Key
from imserver.gateway.auth.questions import AccountLookup
from imserver.gateway.auth.rules import ALLOWED, LoginDecision, Rule, load_app_keys
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.auth.tokens import (
    Claims,
    TokenExpired,
    read_bare_token,
    read_token,
)
from imserver.gateway.config.settings import Config
from imserver.gateway.model import Service, is_of_device
from imserver.gateway.process import Secret

if TYPE_CHECKING:
    from itsdangerous import URLSafeTimedSerializer

PAGE_TOKEN_PREFIX: Final = "page."


class PageTokens:
    """Makes and reads page tokens, for the visitors of the server's own pages.

    A page token is ``page.`` and a signed text, which names an app and a user.
    It is valid for ``api.page_token_seconds`` and signed with a key derived
    from the node's secret. A page uses it to log in, list the app's users and
    send to all of them.
    """

    def __init__(self, config: Config, secret: Secret) -> None:
        self._keys = [*reversed(secret.keys("page tokens"))]
        """The keys, oldest first. The library signs with the last key, and
        verifies with all keys."""
        self.reload(config)

    @cached_property
    def _signer(self) -> URLSafeTimedSerializer:
        """The object that signs and verifies page tokens."""
        from itsdangerous import URLSafeTimedSerializer  # 0.4 MB, for pages only

        return URLSafeTimedSerializer(self._keys, salt="page")

    def reload(self, config: Config) -> None:
        """Take the lifetime of tokens from ``config``."""
        self._seconds = math.ceil(config.api.page_token_seconds)

    def make(self, app: str, user: str) -> str:
        """Make a token for the page of ``user`` in ``app``."""
        signed = self._signer.dumps([app, user])
        if isinstance(signed, bytes):
            signed = signed.decode()
        return PAGE_TOKEN_PREFIX + signed

    def read(self, token: str) -> tuple[str, str] | None:
        """Return the app and the user that a valid page token names.

        The result is None if the token is invalid or has expired.
        """
        if not token.startswith(PAGE_TOKEN_PREFIX):
            return None
        from itsdangerous import BadSignature  # as for the signer

        signed = token.removeprefix(PAGE_TOKEN_PREFIX)
        try:
            app, user = self._signer.loads(signed, max_age=self._seconds)
        except BadSignature:
            return None
        return app, user

    def fits(self, app: str, user: str, token: str) -> bool:
        """Whether an open app accepts a login of ``user`` with this token.

        A page token must name exactly this app and user. Any other token is
        ignored.
        """
        if not token.startswith(PAGE_TOKEN_PREFIX):
            return True
        return self.read(token) == (app, user)


class LoginTokens(Service):
    """Verifies the tokens of logins and of subscriptions.

    ``resolve`` returns the app of an alias. ``secret`` is the secret of the
    server, from which keys are derived.
    """

    resolve: Callable[[str], str]
    pages: PageTokens
    accounts: AccountLookup
    issuers: Issuers
    secret: Secret

    def keys_of(self, tenant: Tenant) -> tuple[Key, ...]:
        """Load the keys of an app, also from files. Raises BadKey."""
        return load_app_keys(tenant.name, tenant, self.secret)

    def read(
        self,
        rule: Rule,
        user: str,
        token: str,
        bare: bool,
        device: str,
        may_lack_user: bool,
    ) -> LoginDecision:
        """Verify the token of a login to the app of ``rule``. May switch
        greenlets.

        - ``user``: the user who logs in; ``""``: the user that the token names.
        - ``bare``: whether a token that a key of the app has signed may lack
          the claims ``app`` and ``exp``. Clients of Centrifugo have such
          tokens, for example.
        - ``device``: what the client calls its device.
        - ``may_lack_user``: whether a token that a key of the app has signed
          may name no user.

        Raises BadToken, StorageUnavailable if the app has accounts, and
        IssuerUnavailable. Page tokens are refused if the app has a login rule,
        because opening a page proves nothing.
        """
        if rule.accounts:
            claims = self._read_either(rule, token, bare, device)
            return self.proven(rule, user, claims, may_lack_user)
        if rule.keys or rule.issuers:
            claims = self.read_session_token(rule, token, bare)
            return self.proven(rule, user, claims, may_lack_user)
        # The app has no login rule, so only page tokens are checked.
        if not token.startswith(PAGE_TOKEN_PREFIX):
            return ALLOWED
        if rule.open and self.pages.fits(rule.name, user, token):
            return ALLOWED
        raise BadToken(
            "the page token is expired, not for this user, or not accepted by this app"
        )

    def _read_either(self, rule: Rule, token: str, bare: bool, device: str) -> Claims:
        """Verify an account token, or else a token that a key of the app has
        signed.

        ``device`` is what the client calls its device. The result has
        ``device`` if the account is a bot, or if ``device`` is a part of the
        device with which the account has logged in. Otherwise the result has
        the device of that login.
        """
        try:
            session = self.accounts.holder(token)
            account = session.account
            if account.kind == "bot" or is_of_device(device, session.device):
                name = device
            else:
                name = session.device
            return Claims(
                account.user, account.app, session.expires_at, name, kind=account.kind
            )
        except TokenExpired:
            # It is an account token, so no key of the app has signed it.
            raise
        except BadToken:
            if not (rule.keys or rule.issuers):
                raise
            return self.read_session_token(rule, token, bare)

    def read_session_token(self, rule: Rule, token: str, bare: bool = False) -> Claims:
        """Verify a token that a key or an issuer of the app has signed.

        ``bare`` means that a token signed by a key may lack the claims ``app``
        and ``exp``. May wait for the issuer's keys. Raises BadToken and
        IssuerUnavailable.
        """
        if rule.issuers:
            claims = self.issuers.claims(rule.name, rule.issuers, token, time(), bare)
            if claims is not None:
                return claims
        # No issuer of the app has signed the token, so a key must have signed it.
        if bare:
            return read_bare_token(token, rule.keys, time(), rule.name)
        return read_token(token, rule.keys, time())

    def read_channel_token(self, rule: Rule, token: str) -> ChannelClaims:
        """Verify a subscription token that a key or an issuer of the app has
        signed.

        May wait for the issuer's keys. Raises BadToken, TokenExpired and
        IssuerUnavailable.
        """
        if rule.issuers:
            claims = self.issuers.channel_claims(rule.issuers, token, time())
            if claims is not None:
                return claims
        return read_channel_token(token, rule.keys, time())

    def proven(
        self, rule: Rule, user: str, claims: Claims, may_lack_user: bool = False
    ) -> LoginDecision:
        """Allow a login if a verified token names its user and its app.

        ``user`` is the user who asks for the login; ``""`` means the user of
        the token. ``may_lack_user`` means that the token need not name a user.
        Raises BadToken.
        """
        # U+0000 separates users from other names inside the server.
        if not (claims.user or may_lack_user) or "\0" in claims.user:
            raise BadToken("the token names no user, or one with U+0000")
        if user and claims.user != user:
            raise BadToken("the token is for another user")
        if self.resolve(claims.app) != rule.name:
            raise BadToken("the token is for another app")
        return LoginDecision(
            expires_at=claims.expires_at,
            user=claims.user,
            device=claims.device,
            claims=claims,
        )
