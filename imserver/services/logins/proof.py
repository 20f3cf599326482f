"""Proof: what the token of a login proves, by the rule of its app."""

from __future__ import annotations

from collections.abc import Callable
from time import time

from imserver.services.logins.rules import Rule
from imserver.services.logins.tokens import BadToken, Claims, read_token
from imserver.services.logins.verdict import ALLOWED, Verdict


class Proof:
    """Reads tokens. ``resolve`` gives the app that stands for a name; ``page_login`` says of a page's token
    whether it is good for (app, user), and lets others pass."""

    def __init__(self, resolve: Callable[[str], str], page_login: Callable[[str, str, str], bool]) -> None:
        self._resolve = resolve
        self._page_login = page_login
        self.account: Callable[[str, str], Claims] = _no_account
        """(app, token of an account) → what it proves; raises BadToken and StorageUnavailable. Switches."""

    def read(self, rule: Rule, user: str, token: str) -> Verdict:
        """What the token proves of ``user`` (``""``: whom it names). It may switch.

        Raises BadToken, and StorageUnavailable where the app has accounts. Tokens of pages are void where an
        app wants others: who may open a page is asked nothing.
        """
        if rule.accounts:
            return self._proven(rule, user, self._read_either(rule, token))
        if rule.keys:
            return self._proven(rule, user, read_token(token, rule.keys, time()))
        if not self._page_login(rule.name, user, token):
            raise BadToken("the page's token is not for this user, or has expired")
        return ALLOWED

    def _read_either(self, rule: Rule, token: str) -> Claims:
        """The claims of an account's token, or of one that a key of the app has signed."""
        try:
            return self.account(rule.name, token)
        except BadToken:
            if not rule.keys:
                raise
            return read_token(token, rule.keys, time())

    def _proven(self, rule: Rule, user: str, claims: Claims) -> Verdict:
        if not claims.user or (user and claims.user != user):
            raise BadToken("the token is for somebody else")
        if self._resolve(claims.app) != rule.name:
            raise BadToken("the token is for another app")
        return Verdict(expires_at=claims.expires_at, user=claims.user, device=claims.device)


def _no_account(_app: str, _token: str) -> Claims:
    raise BadToken("there are no accounts")
