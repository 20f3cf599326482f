"""Logins: whether one may happen, for every dialect; and what it is told to, or ended by, afterwards.

Here is decided what depends on the app: does it exist, which dialects and origins does it allow, what does
its token prove, how many connections may it have, what does its back end say. The login policies, and bans,
are :mod:`imserver.services.sessions.sessions`'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Protocol

from imserver import errors
from imserver.metrics import Metrics
from imserver.services.logins.expiry import Expiry
from imserver.services.logins.proof import Proof
from imserver.services.logins.rules import Rule, Secrets, load_secrets
from imserver.services.logins.seats import Seats
from imserver.services.logins.tokens import BadKey, BadToken, Claims, app_named_by
from imserver.services.logins.verdict import (
    ALLOWED,
    APP_FULL,
    BAD_ORIGIN,
    BAD_TOKEN,
    NOT_ALLOWED,
    UNDECIDED,
    UNKNOWN_APP,
    Comer,
    Verdict,
    Visitor,
)
from imserver.services.webhooks.authorise import Asked
from imserver.services.webhooks.webhooks import Webhooks
from imserver.transport.carrier import Encoding
from imserver.transport.connection import OPEN, Connection
from imserver.transport.origins import Origins

if TYPE_CHECKING:
    from imserver.services.logins.tenants import Tenant

__all__ = ["Comer", "Logins", "Verdict", "Visitor"]

log = logging.getLogger(__name__)


class Directory(Protocol):
    """Knows the apps; :class:`imserver.services.logins.tenants.Tenants` does."""

    def get(self, name: str) -> Tenant | None:
        """The app of this name. Never switches."""

    def all(self) -> list[Tenant]:
        """All that are known."""

    def resolve(self, name: str) -> str:
        """The app that stands for this name."""


class Logins:
    """Owner of the compiled rules of the apps, of the seats in those with a limit, and of the times at which
    sessions end.

    ``page_login`` says of a page's token whether it is good for (app, user); it lets other tokens pass.
    """

    def __init__(
        self,
        tenants: Directory,
        page_login: Callable[[str, str, str], bool],
        webhooks: Webhooks,
        secret: bytes,
        connections: set[Connection],
        metrics: Metrics,
    ) -> None:
        self._get = tenants.get
        self.resolve = tenants.resolve
        self._tenants = tenants
        self._page_login = page_login
        self._webhooks = webhooks
        self._secret = secret
        self._connections = connections
        self._metrics = metrics
        self._rules: dict[str, Rule] = {}
        self._seats = Seats()
        self._expiry = Expiry(time())
        self._ends = self._expiry.ends
        self.origins: Origins | None = None
        """The gate's, which is built later."""
        self.proof = Proof(tenants.resolve, page_login)

    # --- before a login -------------------------------------------------------------------------------------

    def check(
        self,
        app: str,
        user: str,
        token: str,
        dialect: str,
        connection: Comer,
        device: str = "",
        proven: Verdict | None = None,
    ) -> Verdict:
        """Whether ``user`` may log in to ``app`` now. ``user`` ``""``: whom the token names (or nobody).

        ``proven``: the token has been read already, and this is what it proves.
        Waits for the back end, at most two seconds, where the app has an ``authorise_url``, and for the
        database where it wants tokens of accounts; switches nowhere else. If it is followed by a session,
        tell :meth:`began`.
        """
        rule = self._rules.get(app) or self._learn(app)
        if rule is None:
            return UNKNOWN_APP
        if rule.plain and not connection.origin:
            if proven is not None:
                return proven
            if not token or self._page_login(app, user, token):
                return ALLOWED
            return self._denied("token", BAD_TOKEN)
        return self._check_all(rule, user, token, dialect, connection, device, proven)

    def _check_all(
        self,
        rule: Rule,
        user: str,
        token: str,
        dialect: str,
        comer: Comer,
        device: str,
        proven: Verdict | None,
    ) -> Verdict:
        app = rule.name
        if rule.broken:
            return self._denied("key", UNDECIDED)
        if rule.dialects and dialect not in rule.dialects:
            return self._denied("dialect", NOT_ALLOWED)
        if comer.origin and not self._is_allowed(rule, comer.origin, dialect):
            return self._denied("origin", BAD_ORIGIN)
        try:
            verdict = self.proof.read(rule, user, token) if proven is None else proven
        except BadToken as bad:
            log.debug("login of %s in %s refused: %s", user, app, bad, extra={"connection": comer.peer})
            return self._denied("token", BAD_TOKEN)
        except errors.StorageUnavailable as unavailable:
            log.info("login of %s in %s failed: %s", user, app, unavailable, extra={"connection": comer.peer})
            return self._denied("undecided", UNDECIDED)
        if self._seats.full(rule, comer):
            return self._denied("limit", APP_FULL)
        if rule.asked is not None:
            verdict = self._ask_back_end(rule.asked, verdict, user, token, dialect, comer, device)
            if verdict.ok and self._seats.full(rule, comer):
                return self._denied("limit", APP_FULL)
        if verdict.ok and isinstance(comer, Connection) and comer.state == OPEN:
            # It may have ended while its back end was asked.
            self._seats.take(rule, comer)
        return verdict

    def holder(self, token: str) -> Claims | None:
        """What a session token is good for at this moment; None: it is none."""
        app = self.resolve(app_named_by(token))
        rule = self._rules.get(app) or self._learn(app)
        if rule is None or not rule.keys:
            return None
        try:
            verdict = self.proof.read(rule, "", token)
        except BadToken:
            return None
        return Claims(verdict.user, rule.name, verdict.expires_at)

    def wants_tokens(self, app: str) -> bool:
        """Whether a login in this app needs a session token, or one of an account."""
        tenant = self._get(app)
        return tenant is not None and (bool(tenant.jwt) or tenant.wants_accounts(app))

    def _ask_back_end(
        self, asked: Asked, verdict: Verdict, user: str, token: str, dialect: str, comer: Comer, device: str
    ) -> Verdict:
        answer = self._webhooks.authorise(asked, user or verdict.user, token, dialect, comer.peer, device)
        if answer is None:
            return self._denied("undecided", UNDECIDED)
        if not answer.allow:
            return self._denied("back end", NOT_ALLOWED)
        times = [each for each in (verdict.expires_at, answer.expires_at) if each]
        known = user or verdict.user or answer.user
        return Verdict(expires_at=min(times, default=0), user=known, device=verdict.device)

    def _is_allowed(self, rule: Rule, origin: str, dialect: str) -> bool:
        if rule.origins is None:
            return self.origins is None or self.origins.allows(origin, dialect)
        return rule.any_origin or origin in rule.origins

    def _denied(self, reason: str, verdict: Verdict) -> Verdict:
        self._metrics.denials[reason] = self._metrics.denials.get(reason, 0) + 1
        return verdict

    def holds_token(self, connection: Connection) -> bool:
        """Whether the session of ``connection`` ends with a token, so that a new login may renew it."""
        return connection in self._ends

    # --- after a login --------------------------------------------------------------------------------------

    def began(self, connection: Connection, verdict: Verdict) -> None:
        """The login that ``verdict`` was about has made ``connection`` a session, or renewed it.

        Its app, user and device are set. Never switches.
        """
        if connection.state != OPEN:
            return
        if verdict.expires_at or self._ends:
            self._expiry.keep(connection, verdict.expires_at)
        rule = self._rules.get(connection.app or "")
        if rule is None or (
            rule.quiet and not self._webhooks.known and type(connection.encoding) is Encoding
        ):
            return
        self._seats.take(rule, connection)
        rule.limit(connection)
        self._webhooks.began(connection)

    def ended(self, connection: Connection, code: int) -> None:
        """A connection is over, whether it was a session or not. Never switches."""
        if self._ends:
            self._expiry.forget(connection)
        if self._seats.taken:
            self._seats.leave(connection)
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
                self._take(Rule(tenant, load_secrets(tenant.name, tenant, self._secret)))
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
        return self._take(Rule(tenant, secrets))

    def _take(self, rule: Rule) -> Rule:
        known = self._rules.get(rule.name)
        self._rules[rule.name] = rule
        if rule.tenant.max_connections and (known is None or not known.tenant.max_connections):
            for connection in self._connections:
                if connection.app == rule.name:
                    self._seats.take(rule, connection)
        self._webhooks.set(rule.name, rule.receiver)
        return rule

    def _tell_gate(self) -> None:
        """Whose pages some app allows: the gate lets them in, and the login decides."""
        if self.origins is not None:
            rules = self._rules.values()
            hosts = {host for rule in rules for host in rule.origins or ()}
            self.origins.set_apps(hosts, any(rule.any_origin for rule in rules))
