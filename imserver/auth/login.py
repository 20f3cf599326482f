"""Logins: whether one may happen, in every dialect; which webhooks it causes, and when its session ends.

This module decides what depends on the app: whether it exists and anybody may log in, which dialects and
origins it allows, what a token proves, how many connections it may have, what its back end says. Login
policies and bans belong to :mod:`imserver.services.sessions.sessions`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import time
from typing import Final

from imserver import errors
from imserver.auth.account_tokens import AccountTokens
from imserver.auth.expiry import Expiry
from imserver.auth.page_tokens import PAGE_TOKEN_PREFIX, PageTokens
from imserver.auth.quotas import ConnectionQuota
from imserver.auth.rules import (
    ALLOWED,
    APP_FULL,
    BAD_ORIGIN,
    BAD_TOKEN,
    NOT_ALLOWED,
    UNDECIDED,
    UNKNOWN_APP,
    LoginDecision,
    LoginRequest,
    Rule,
    Secrets,
    load_secrets,
)
from imserver.auth.tenants import Tenant, Tenants
from imserver.auth.tokens import BadKey, BadToken, Claims, app_named_by, read_token
from imserver.metrics import Metrics
from imserver.services.webhooks.requests import AuthoriseHook
from imserver.services.webhooks.webhooks import Webhooks
from imserver.transport.connection import OPEN, Connection, Encoding
from imserver.transport.gate import Origins, host_name

log = logging.getLogger(__name__)

_APPS_SHOWN: Final = 20


class Logins:
    """Owner of the compiled rules of the apps, of the quota of connections of those with a limit, and of the
    times at which sessions end. ``is_demo`` says whether this is demo mode.
    """

    def __init__(
        self,
        tenants: Tenants,
        pages: PageTokens,
        accounts: AccountTokens,
        is_demo: Callable[[], bool],
        webhooks: Webhooks,
        secret: bytes,
        connections: set[Connection],
        metrics: Metrics,
    ) -> None:
        self._get = tenants.get
        self.resolve = tenants.resolve
        self._tenants = tenants
        self._pages = pages
        self._accounts = accounts
        self._is_demo = is_demo
        self._webhooks = webhooks
        self._secret = secret
        self._connections = connections
        self._metrics = metrics
        self._rules: dict[str, Rule] = {}
        self._quota = ConnectionQuota()
        self._expiry = Expiry(time())
        self._ends = self._expiry.ends
        self.origins: Origins | None = None
        """The gate's, which is built later."""

    # --- before a login -------------------------------------------------------------------------------------

    def check(
        self, app: str, user: str, token: str, dialect: str, request: LoginRequest, device: str = ""
    ) -> LoginDecision:
        """Whether ``user`` may log in to ``app`` now. ``user`` ``""``: whom the token names (or nobody).

        Waits for the back end, at most two seconds, where the app has an ``authorise_url``, and for the
        database where it wants tokens of accounts; switches nowhere else. If it is followed by a session,
        call :meth:`began`.
        """
        rule = self._rules.get(app) or self._learn(app)
        if rule is None:
            return UNKNOWN_APP
        if rule.plain and not request.origin:
            if not token or self._pages.fits(app, user, token):
                return ALLOWED
            return self._denied("token", BAD_TOKEN)
        return self._check_all(rule, user, token, dialect, request, device)

    def _check_all(
        self, rule: Rule, user: str, token: str, dialect: str, request: LoginRequest, device: str
    ) -> LoginDecision:
        app = rule.name
        if rule.closed:
            return self._denied("closed", NOT_ALLOWED)
        if rule.broken:
            return self._denied("key", UNDECIDED)
        if rule.dialects and dialect not in rule.dialects:
            return self._denied("dialect", NOT_ALLOWED)
        if request.origin and not self._is_allowed(rule, request.origin, dialect):
            return self._denied("origin", BAD_ORIGIN)
        try:
            decision = self._read(rule, user, token)
        except BadToken as bad:
            log.debug("login of %s in %s refused: %s", user, app, bad, extra={"connection": request.peer})
            return self._denied("token", BAD_TOKEN)
        except errors.StorageUnavailable as unavailable:
            log.info(
                "login of %s in %s failed: %s", user, app, unavailable, extra={"connection": request.peer}
            )
            return self._denied("undecided", UNDECIDED)
        if self._quota.full(rule, request):
            return self._denied("limit", APP_FULL)
        if rule.asked is not None:
            decision = self._ask_back_end(rule.asked, decision, user, token, dialect, request, device)
            if decision.ok and self._quota.full(rule, request):
                return self._denied("limit", APP_FULL)
        if decision.ok and isinstance(request, Connection) and request.state == OPEN:
            # It may have ended while its back end was asked.
            self._quota.take(rule, request)
        return decision

    def _read(self, rule: Rule, user: str, token: str) -> LoginDecision:
        """What the token proves of ``user`` (``""``: whom it names). It may switch.

        Raises BadToken, and StorageUnavailable where the app has accounts. Page tokens are void where an app
        has a login rule: opening a page proves nothing.
        """
        if rule.accounts:
            return self._proven(rule, user, self._read_either(rule, token))
        if rule.keys:
            return self._proven(rule, user, read_token(token, rule.keys, time()))
        if token.startswith(PAGE_TOKEN_PREFIX) and not (
            rule.open and self._pages.fits(rule.name, user, token)
        ):
            raise BadToken("the page's token is not for this user, or has expired, or does not count here")
        return ALLOWED

    def _read_either(self, rule: Rule, token: str) -> Claims:
        """The claims of an account's token, or of one that a key of the app has signed."""
        try:
            found = self._accounts.holder(token)
            return Claims(found.account.user, found.account.app, found.expires_at, found.device)
        except BadToken:
            if not rule.keys:
                raise
            return read_token(token, rule.keys, time())

    def _proven(self, rule: Rule, user: str, claims: Claims) -> LoginDecision:
        if not claims.user or (user and claims.user != user):
            raise BadToken("the token is for somebody else")
        if self.resolve(claims.app) != rule.name:
            raise BadToken("the token is for another app")
        return LoginDecision(expires_at=claims.expires_at, user=claims.user, device=claims.device)

    # --- besides logins -------------------------------------------------------------------------------------

    def session_of(self, token: str) -> Claims | None:
        """What a session token proves at this moment, with the app that stands for its own; None: nothing."""
        app = self.resolve(app_named_by(token))
        rule = self._rules.get(app) or self._learn(app)
        if rule is None or not rule.keys:
            return None
        try:
            decision = self._proven(rule, "", read_token(token, rule.keys, time()))
        except BadToken:
            return None
        return Claims(decision.user, rule.name, decision.expires_at)

    def wants_tokens(self, app: str) -> bool:
        """Whether a login in this app needs a session token, or one of an account."""
        tenant = self._get(app)
        return tenant is not None and (bool(tenant.jwt) or tenant.wants_accounts(app))

    def is_open(self, app: str) -> bool:
        """Whether anybody may log in to an app, so that its pages have tokens."""
        app = self.resolve(app)
        rule = self._rules.get(app) or self._learn(app)
        return rule is not None and rule.open

    def is_closed(self, app: str) -> bool:
        """Whether nobody may log in to an app, since no login rule says who may, and it is not open."""
        app = self.resolve(app)
        rule = self._rules.get(app) or self._learn(app)
        return rule is None or rule.closed

    def exposure(self) -> list[str]:
        """One line for each app: who may log in, and how to change it. Empty in demo mode. Of many apps those
        that are open stand first, and the list is cut."""
        if self._is_demo():
            return []
        rules = sorted(self._rules.values(), key=lambda rule: (not rule.open, rule.name))
        lines = [f"app {rule.name}: {_who_may_log_in(rule)}" for rule in rules if not rule.tenant.same_as]
        more = len(lines) - _APPS_SHOWN
        return lines if more <= 0 else [*lines[:_APPS_SHOWN], f"and {more} more apps"]

    @property
    def takes_unregistered(self) -> bool:
        """Whether clients may connect to systems that nobody has registered."""
        return self._is_demo()

    def lists_origin(self, app: str, origin: str) -> bool:
        """Whether the settings of an app, or of the node, name the page that a request comes from."""
        name = host_name(origin)
        rule = self._rules.get(app) or self._learn(app)
        if not name or rule is None:
            return False
        if rule.origins is not None:
            return name in rule.origins
        return self.origins is not None and self.origins.lists(name)

    def _ask_back_end(
        self,
        asked: AuthoriseHook,
        decision: LoginDecision,
        user: str,
        token: str,
        dialect: str,
        request: LoginRequest,
        device: str,
    ) -> LoginDecision:
        answer = self._webhooks.authorise(asked, user or decision.user, token, dialect, request.peer, device)
        if answer is None:
            return self._denied("undecided", UNDECIDED)
        if not answer.allow:
            return self._denied("back end", NOT_ALLOWED)
        times = [each for each in (decision.expires_at, answer.expires_at) if each]
        known = user or decision.user or answer.user
        return LoginDecision(expires_at=min(times, default=0), user=known, device=decision.device)

    def _is_allowed(self, rule: Rule, origin: str, dialect: str) -> bool:
        if rule.origins is None:
            return self.origins is None or self.origins.allows(origin, dialect)
        return rule.any_origin or origin in rule.origins

    def _denied(self, reason: str, decision: LoginDecision) -> LoginDecision:
        self._metrics.denials[reason] = self._metrics.denials.get(reason, 0) + 1
        return decision

    def holds_token(self, connection: Connection) -> bool:
        """Whether the session of ``connection`` ends with a token, so that a new login may renew it."""
        return connection in self._ends

    # --- after a login --------------------------------------------------------------------------------------

    def began(self, connection: Connection, decision: LoginDecision) -> None:
        """The login that ``decision`` was about has made ``connection`` a session, or renewed it.

        Its app, user and device are set. Never switches.
        """
        if connection.state != OPEN:
            return
        if decision.expires_at or self._ends:
            self._expiry.keep(connection, decision.expires_at)
        rule = self._rules.get(connection.app or "")
        if rule is None or (
            rule.quiet and not self._webhooks.known and type(connection.encoding) is Encoding
        ):
            return
        self._quota.take(rule, connection)
        rule.limit(connection)
        self._webhooks.began(connection)

    def ended(self, connection: Connection, code: int) -> None:
        """A connection is over, whether it was a session or not. Never switches."""
        if self._ends:
            self._expiry.forget(connection)
        if self._quota.taken:
            self._quota.leave(connection)
        if self._webhooks.known:
            self._webhooks.ended(connection, code)

    def expire(self) -> None:
        """End the sessions whose token has ended. Called once a second."""
        self._expiry.expire(time())

    # --- rules ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Compile the rules of all apps that are known, for the first time.

        Raises :class:`imserver.errors.StartError` if a key that is configured cannot be used.
        """
        for tenant in self._tenants.all():
            try:
                self._take(Rule(tenant, load_secrets(tenant.name, tenant, self._secret), self._is_demo()))
            except BadKey as bad:
                raise errors.StartError(f"apps.{tenant.name}.{bad}") from None
        self._tell_gate()

    def reload(self) -> None:
        """Read keys again, those in files too (SIGHUP), after the apps have been read again."""
        tenants = {tenant.name: tenant for tenant in self._tenants.all()}
        for name in self._rules.keys() - tenants.keys():
            self._webhooks.set(name, None)
            del self._rules[name]
        for tenant in tenants.values():
            self._compile(tenant)
        self._tell_gate()

    def changed(self, tenant: Tenant) -> None:
        """An app is new, or not what it was."""
        self._compile(tenant)
        self._tell_gate()

    def _learn(self, app: str) -> Rule | None:
        """The rule of an app of which nothing has been told yet; None: there is no such app."""
        tenant = self._get(app)
        return None if tenant is None else self._compile(tenant)

    def _compile(self, tenant: Tenant) -> Rule:
        """The rule of an app. One whose keys cannot be used keeps those it had; without, nobody logs in."""
        try:
            secrets = load_secrets(tenant.name, tenant, self._secret)
        except BadKey as bad:
            log.error("apps.%s.%s", tenant.name, bad)
            known = self._rules.get(tenant.name)
            secrets = Secrets() if known is None else known.secrets
        return self._take(Rule(tenant, secrets, self._is_demo()))

    def _take(self, rule: Rule) -> Rule:
        known = self._rules.get(rule.name)
        self._rules[rule.name] = rule
        if rule.tenant.max_connections and (known is None or not known.tenant.max_connections):
            for connection in self._connections:
                if connection.app == rule.name:
                    self._quota.take(rule, connection)
        self._webhooks.set(rule.name, rule.receiver)
        return rule

    def _tell_gate(self) -> None:
        """Whose pages some app allows: the gate lets them in, and the login decides."""
        if self.origins is not None:
            rules = self._rules.values()
            hosts = {host for rule in rules for host in rule.origins or ()}
            self.origins.set_apps(hosts, any(rule.any_origin for rule in rules))


def _who_may_log_in(rule: Rule) -> str:
    if rule.closed:
        return "closed, nobody may log in: set jwt, account_tokens or webhook.authorise_url, or open: true"
    if rule.open:
        return "OPEN, anybody may log in as anybody: to close it set jwt, account_tokens or open: false"
    proofs = {"a session token (jwt)": rule.keys, "an account": rule.accounts, "its back end": rule.asked}
    return "a login needs " + " or ".join(name for name, wanted in proofs.items() if wanted)
