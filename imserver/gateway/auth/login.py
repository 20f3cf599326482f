"""The class Logins, which decides about each login, in every dialect, and ends
its session in time.

This module checks what depends on the app: existence, login rule, dialects,
origins, token, connection quota and back end. Login policies and bans belong to
:mod:`imserver.gateway.sessions.sessions`.
"""

import logging
from collections.abc import Sequence
from time import time
from typing import Final, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.auth.channel_tokens import ChannelClaims
from imserver.gateway.auth.json_web_tokens import BadToken, Key
from imserver.gateway.auth.login_tokens import LoginTokens
from imserver.gateway.auth.observer import Denial, Observer
from imserver.gateway.auth.questions import BackEnds
from imserver.gateway.auth.quotas import ConnectionQuota, Expiry
from imserver.gateway.auth.rules import (
    ALLOWED,
    APP_FULL,
    BAD_ORIGIN,
    BAD_TOKEN,
    NOT_ALLOWED,
    TOKEN_EXPIRED,
    UNDECIDED,
    UNKNOWN_APP,
    WRONG_DIALECT,
    Entrance,
    LoginDecision,
    LoginRequest,
    Rule,
)
from imserver.gateway.auth.tenants import Tenant, Tenants
from imserver.gateway.auth.tokens import (
    BadKey,
    Claims,
    TokenExpired,
    app_named_by,
    unverified,
)
from imserver.gateway.config.settings import MAX_USER_BYTES, ORIGINAL_USER_BYTES
from imserver.gateway.errors import (
    IssuerUnavailable,
    LoginRefusal,
    StartError,
    StorageUnavailable,
)
from imserver.gateway.logging import OncePerMinute
from imserver.gateway.metrics import OTHER, Metrics
from imserver.gateway.model import ACTION_PREFIX, ERASED, Service
from imserver.gateway.transport.connection import Connection, Encoding
from imserver.gateway.transport.gate import OPAQUE, Origins, host_name, host_of
from imserver.gateway.transport.states import CLOSING

log = logging.getLogger(__name__)

_APPS_SHOWN: Final = 20
"""How many apps :meth:`Logins.exposure` names."""
MAX_REFUSALS_LOGGED: Final = 100
"""Limit of log lines about refused logins per minute. Without a limit,
strangers could fill the log."""
_USER_SHOWN: Final = 64
"""Limit of the characters of a user id or app in a report of a refusal."""
_DETAIL_SHOWN: Final = 200
"""Limit of the characters of the detail in a report of a refusal."""


def _refusals_logged() -> OncePerMinute:
    """Return the limiter of log lines about refused logins."""
    return OncePerMinute(MAX_REFUSALS_LOGGED)


def _expiry_from_now() -> Expiry:
    """Return the table of session ends, which begins to check now."""
    return Expiry(time())


class DemoMode(Protocol):
    """The part of the API keys that knows whether the server is in demo mode."""

    demo: bool


class _Attempt(Struct, frozen=True, gc=False):
    """A login that is being decided: the arguments of :meth:`Logins.check`."""

    app: str
    user: str
    token: str
    dialect: str
    request: LoginRequest
    device: str


class Logins(Service):
    """Decides who may log in to an app, and ends sessions whose token has
    expired.

    Each app has a rule, which is compiled from its settings: the tokens that it
    accepts, whether its back end decides, and further checks. Owner of the
    compiled rules, the connection quota (how many connections an app may have
    here) and the end times of sessions.
    """

    tenants: Tenants
    keys: DemoMode
    tokens: LoginTokens
    back_ends: BackEnds
    observer: Observer
    connections: set[Connection]
    metrics: Metrics
    origins: Origins
    account_apps: set[str] = field(default_factory=set)
    """Apps whose users are all accounts: no token, signature or back end can
    log in another user there."""
    bare_dialects: set[str] = field(default_factory=set)
    """Names of the dialects whose tokens need neither ``app`` nor ``exp``."""
    _logged: OncePerMinute = field(default_factory=_refusals_logged)
    _rules: dict[str, Rule] = field(default_factory=dict)
    """App → its compiled rule."""
    _quota: ConnectionQuota = field(default_factory=ConnectionQuota)
    _expiry: Expiry = field(default_factory=_expiry_from_now)
    _entrances: list[Entrance] = field(default_factory=list)
    """The other ways to get into apps, see :meth:`add_entrance`."""

    def resolve(self, app: str) -> str:
        """Return the app that an alias stands for; any other name is returned
        unchanged."""
        return self.tenants.resolve(app)

    def add_entrance(self, entrance: Entrance) -> None:
        """Add another way into apps, which a feature checks.

        The log of the start describes it. This must be called before
        :meth:`prepare`.
        """
        self._entrances.append(entrance)

    # --- before a login -------------------------------------------------------

    def takes_user(self, app: str, user: str) -> bool:
        """Whether a user id is short enough for an app, and not the name of an
        erased user.

        For an unknown app whose name is a number, the limit of
        :data:`ORIGINAL_USER_BYTES` counts, because clients of the original
        servers use such apps. Never switches greenlets.
        """
        rule = self.rule_of(app)
        if rule is not None:
            limit = rule.user_bytes
        elif app.removeprefix(ACTION_PREFIX).isdecimal():
            limit = ORIGINAL_USER_BYTES
        else:
            limit = MAX_USER_BYTES
        return len(user.encode()) <= limit and not user.startswith(ERASED)

    def check(
        self,
        app: str,
        user: str,
        token: str,
        dialect: str,
        request: LoginRequest,
        device: str = "",
        may_lack_user: bool = False,
    ) -> LoginDecision:
        """Decide whether ``user`` may log in to ``app``.

        If ``user`` is ``""``, the user that the token names logs in. ``device``
        is what the client calls its device. ``may_lack_user`` means that a
        token which a key of the app has signed need not name a user.

        Waits at most two seconds for the back end if the app has an
        ``authorise_url``, and for the database if it accepts account tokens.
        Switches greenlets nowhere else. Call :meth:`began` when the session
        exists.
        """
        rule = self.rule_of(app)
        if rule is None:
            return self._denied("app", UNKNOWN_APP, app, user, request)

        # An open app without further checks needs none of the following checks.
        if rule.plain and not request.origin:
            if not token or self.tokens.pages.fits(app, user, token):
                return ALLOWED
            return self._denied("token", BAD_TOKEN, app, user, request)

        # Checks that do not depend on the token come first. Verifying a token
        # costs most, and may wait for an issuer.
        denied = self._denied_without_token(rule, app, user, dialect, request)
        if denied is not None:
            return denied

        attempt = _Attempt(app, user, token, dialect, request, device)
        decision = self._read_token(rule, attempt, may_lack_user)
        if not decision.ok:
            return decision

        limit = rule.tenant.max_connections
        if self._quota.full(app, limit, request):
            return self._denied("limit", APP_FULL, app, user, request)
        if rule.by_back_end:
            decision = self._ask_back_end(attempt, decision, limit)
            if not decision.ok:
                return decision

        if isinstance(request, Connection) and request.state < CLOSING:
            # Only an open connection is counted. The connection may have closed
            # while the back end was asked.
            self._quota.take(app, limit, request)
        return decision

    def _denied_without_token(
        self, rule: Rule, app: str, user: str, dialect: str, request: LoginRequest
    ) -> LoginDecision | None:
        """Return the refusal of a login that is refused whatever its token is.
        None means that the token decides."""
        if rule.closed:
            return self._denied("closed", NOT_ALLOWED, app, user, request)
        # The keys of the app are missing, or its back end cannot be asked. The
        # client may try again later.
        if rule.broken or (rule.asks_back_end and not self.back_ends.is_ready(app)):
            return self._denied("key", UNDECIDED, app, user, request)
        return self._denied_by_dialect_or_origin(rule, app, user, dialect, request)

    def _denied_by_dialect_or_origin(
        self, rule: Rule, app: str, user: str, dialect: str, request: LoginRequest
    ) -> LoginDecision | None:
        """Return the refusal because of the dialect, or of the page that sent
        the request.

        The result is None if the app allows the dialect and the page.
        """
        if rule.dialects and dialect not in rule.dialects:
            return self._denied("dialect", WRONG_DIALECT, app, user, request)
        if request.origin and not self._is_allowed(rule, request.origin, dialect):
            return self._bad_origin(rule, request)
        return None

    def _read_token(
        self, rule: Rule, attempt: _Attempt, may_lack_user: bool
    ) -> LoginDecision:
        """Decide by the token of a login, and report a refusal.

        May switch greenlets. ``may_lack_user`` means that a
        session token need not name a user.
        """
        app = attempt.app
        user = attempt.user
        peer = attempt.request.peer
        try:
            return self.tokens.read(
                rule,
                user,
                attempt.token,
                bare=attempt.dialect in self.bare_dialects,
                device=attempt.device,
                may_lack_user=may_lack_user,
            )
        except BadToken as bad:
            return self._refuse_token(bad, app, user, peer)
        except (StorageUnavailable, IssuerUnavailable) as unavailable:
            self.refused("undecided", app, user, peer, str(unavailable))
            return UNDECIDED

    def _refuse_token(
        self, bad: BadToken, app: str, user: str, peer: str
    ) -> LoginDecision:
        """Report a login with a bad token, and return the decision."""
        detail = f"{bad}; imserver token check explains more"
        self.refused("token", app, user, peer, detail)
        if isinstance(bad, TokenExpired):
            return TOKEN_EXPIRED
        return BAD_TOKEN

    def _ask_back_end(
        self, attempt: _Attempt, decision: LoginDecision, limit: int
    ) -> LoginDecision:
        """Let the back end of the app decide about a login that its token
        allows.

        ``limit`` is the most connections of the app. The session ends when the
        token or the decision of the back end ends, whichever is first. Switches
        greenlets.
        """
        app = attempt.app
        request = attempt.request
        user = attempt.user or decision.user
        answer = self.back_ends.authorise(
            app, user, attempt.token, attempt.dialect, request.peer, attempt.device
        )
        if answer is None:  # it did not answer in time
            return self._denied("undecided", UNDECIDED, app, attempt.user, request)
        if not answer.allow:
            return self._denied("back end", NOT_ALLOWED, app, attempt.user, request)
        # Other clients may have logged in while the back end was asked.
        if self._quota.full(app, limit, request):
            return self._denied("limit", APP_FULL, app, attempt.user, request)

        # 0 means that there is no end, so it must not count as the earliest
        # end.
        ends = filter(None, (decision.expires_at, answer.expires_at))
        return replace(
            decision, expires_at=min(ends, default=0), user=user or answer.user
        )

    def admit(self, app: str, dialect: str, connection: Connection) -> LoginDecision:
        """Decide whether a connection may use ``app`` before it names a user.

        Checks the dialect, the origin of the page and the connection quota. The
        caller checks whether the app admits connections without a login. Never
        switches greenlets.
        """
        rule = self.rule_of(app)
        if rule is None:
            return self._denied("app", UNKNOWN_APP, app, user="", request=connection)
        denied = self._denied_by_dialect_or_origin(
            rule, app, user="", dialect=dialect, request=connection
        )
        if denied is not None:
            return denied
        if self._quota.full(app, rule.tenant.max_connections, connection):
            return self._denied("limit", APP_FULL, app, user="", request=connection)
        return ALLOWED

    # --- other requests -------------------------------------------------------

    def read_channel_token(self, rule: Rule, token: str) -> ChannelClaims:
        """Verify a token that allows its user to subscribe to a channel.

        A key or an issuer of the app has signed it. May wait for the issuer's
        keys. Raises BadToken, TokenExpired and IssuerUnavailable.
        """
        return self.tokens.read_channel_token(rule, token)

    def rule_of(self, app: str) -> Rule | None:
        """Return the login rule of an app, whose name must not be an alias.

        The result is None if the app does not exist, or if the app is locked,
        so that nobody may log in. Never switches greenlets.
        """
        rule = self._rules.get(app)
        if rule is None:
            tenant = self.tenants.get(app)
            if tenant is None:
                return None
            rule = self._compile(tenant)
        if rule.tenant.locked:
            return None
        return rule

    def session_of(self, token: str) -> Claims | None:
        """Verify a session token outside a login, and return its content.

        The result is None if the token is invalid. The app of the result is not
        an alias. May wait for the keys of an issuer. Raises IssuerUnavailable.
        """
        rule = self._rule_of_session_token(token)
        if rule is None or not (rule.keys or rule.issuers):
            return None  # the app accepts no session tokens
        try:
            claims = self.tokens.read_session_token(rule, token)
            decision = self.tokens.proven(rule, user="", claims=claims)
        except BadToken:
            return None
        # No session can have such a long user id.
        if len(decision.user.encode()) > rule.user_bytes:
            return None
        return Claims(decision.user, rule.name, decision.expires_at)

    def _rule_of_session_token(self, token: str) -> Rule | None:
        """Return the login rule of the app that a token is for.

        A token of an issuer may name no app. Then its issuer tells the app.
        """
        app = self.resolve(app_named_by(token))
        if app:
            return self.rule_of(app)
        return self._rule_of_issued(token)

    def _rule_of_issued(self, token: str) -> Rule | None:
        """Return the rule of the app that lists the issuer and the audience of
        a token.

        Tokens of an issuer need not name an app. The result is None if no app
        lists the issuer and the audience, or if several apps list them.
        """
        try:
            head = unverified(token)
        except BadToken:
            return None

        rules = [rule for rule in self._rules.values() if rule.trusts(head)]
        if len(rules) != 1:
            return None
        return rules[0]

    def wants_tokens(self, app: str) -> bool:
        """Whether a login to this app needs a session token or an account
        token."""
        tenant = self.tenants.get(app)
        return tenant is not None and (bool(tenant.jwt) or tenant.wants_accounts(app))

    def is_open(self, app: str) -> bool:
        """Whether anybody may log in to an app. Its pages then get page tokens."""
        rule = self.rule_of(self.resolve(app))
        return rule is not None and rule.open

    def is_closed(self, app: str) -> bool:
        """Whether nobody may log in to an app: it has no login rule and is not
        open."""
        rule = self.rule_of(self.resolve(app))
        return rule is None or rule.closed

    def exposure(self) -> list[str]:
        """Describe who may log in, and how to change it, for the log of the start.

        There is one line for each app that is open or has a login rule, open
        apps first, and one line for all closed apps. Long lists are cut. The
        list is empty in demo mode.
        """
        if self.keys.demo:
            return []

        closed = []
        others = []
        for rule in self._rules_open_first():
            entrances = self._entrances_of(rule.tenant)
            # A closed app may still have another way in.
            if rule.closed and not (rule.tenant.back_ends.connect or entrances):
                closed.append(rule.name)
            else:
                others.append((rule, entrances))
        lines = _about_others(others)
        if closed:
            lines.append(_about_closed(closed))
        return lines

    def _rules_open_first(self) -> list[Rule]:
        """Return the rules of all apps but aliases: open apps first, then by name.

        An alias has no users of its own.
        """
        rules = [rule for rule in self._rules.values() if not rule.tenant.same_as]
        return sorted(rules, key=lambda rule: (not rule.open, rule.name))

    @property
    def takes_unregistered(self) -> bool:
        """Whether clients may connect to systems that are not registered. That
        is so only in demo mode."""
        return self.keys.demo

    def lists_origin(self, app: str, origin: str) -> bool:
        """Whether the settings of the app or the node list the page that sent a
        request."""
        name = host_name(origin)
        rule = self.rule_of(app)
        if not name or rule is None:
            return False
        # The settings of an app replace those of the node.
        if rule.origins is not None:
            return name in rule.origins
        return self.origins.lists(name)

    def log_page(self, origin: str, host: str) -> None:
        """Log that a page made a request from a listed address, but no app
        lists the page.

        ``origin`` is the header ``origin`` of the request, and ``host`` is the
        address of the client. Never switches greenlets.
        """
        setting = "server.origins, or to origins of an app"
        page = host_name(origin) or OPAQUE
        self.origins.log_refused("request without a key", page, setting, host)

    def _is_allowed(self, rule: Rule, origin: str, dialect: str) -> bool:
        """Whether an app accepts logins of the page ``origin``.

        If the app has no origins of its own, the origins of the node apply.
        """
        if rule.origins is None:
            return self.origins.allows(origin, dialect)
        return rule.any_origin or origin in rule.origins

    def _bad_origin(self, rule: Rule, request: LoginRequest) -> LoginDecision:
        """Refuse a login because of its page.

        The log line names the setting that would allow the page.
        :meth:`refused` would write another line, so this method does not call
        it.
        """
        if rule.origins is None:
            setting = "server.origins"
        else:
            setting = f"origins of app {rule.name}"
        page = request.origin
        peer = request.peer
        self.origins.log_refused(f"login to {rule.name}", page, setting, peer)
        self.metrics.login_refused("origin", rule.name)
        # Features, such as the list of refusals, are told about the refusal,
        # too.
        self.observer.refused(
            Denial(
                kind="login",
                reason="origin",
                app=rule.name,
                address=host_of(peer),
                limit=setting,
                detail=page,
                request=peer,
            )
        )
        return BAD_ORIGIN

    def _denied(
        self,
        reason: LoginRefusal,
        decision: LoginDecision,
        app: str,
        user: str,
        request: LoginRequest,
    ) -> LoginDecision:
        """Report that a login is refused, and return the ``decision`` with
        which it is refused."""
        if reason == "limit":
            limit = "max_connections"
        else:
            limit = ""
        self.refused(reason, app, user, request.peer, limit=limit)
        return decision

    def refused(
        self,
        reason: LoginRefusal,
        app: str,
        user: str,
        peer: str,
        detail: str = "",
        *,
        account: str = "",
        limit: str = "",
        until: float = 0,
    ) -> None:
        """Count a refused login by its reason, tell the observer, and log it.

        - ``app``, ``user``: the names that the client has sent, which may be
          any text.
        - ``peer``: the address of the client, with or without a port.
        - ``detail``: more about the reason, which may quote a token.
        - ``account``: the id of the account that wanted to log in.
        - ``limit``: the limit that has refused it.
        - ``until``: when that limit ends (Unix seconds; 0: unknown).

        Never switches greenlets.
        """
        # Texts of clients are cut. Only known apps are counted by name, because
        # a client may send any number of names.
        known_app = ""
        if self.tenants.get(app) is not None:
            known_app = app
        self.metrics.login_refused(reason, known_app or OTHER)

        detail = detail[:_DETAIL_SHOWN]
        user = user[:_USER_SHOWN]
        denial = Denial(
            kind="login",
            reason=reason,
            app=known_app,
            user=user,
            account=account,
            address=host_of(peer),
            limit=limit,
            until=until,
            detail=_explanation(app, known_app, detail),
            request=_connection_of(peer),
        )
        self.observer.refused(denial)
        # Each cause is logged once per minute. At most MAX_REFUSALS_LOGGED
        # lines are logged per minute.
        if log.isEnabledFor(logging.INFO) and self._logged.is_new(
            app, f"{reason} {user}{account} {detail}"
        ):
            shown_app = known_app or repr(app[:_USER_SHOWN])
            _log_refused(reason, shown_app, denial, detail, peer)

    def wants_account(self, app: str, by_account: bool) -> bool:
        """Whether the receiver of a first message must be an account.

        That is so in apps whose users are all accounts. ``by_account`` means
        that the sender is an account. In demo mode anybody may be a user of
        such an app, so there the receiver must be an account only if the sender
        is one. Never switches greenlets.
        """
        if app in self.account_apps or not (by_account and self.keys.demo):
            return app in self.account_apps
        rule = self.rule_of(app)
        return rule is None or rule.only_accounts

    def holds_token(self, connection: Connection) -> bool:
        """Whether the session of ``connection`` ends with a token.

        A new login may renew such a session.
        """
        return connection in self._expiry.ends

    # --- after a login --------------------------------------------------------

    def began(self, connection: Connection, decision: LoginDecision) -> None:
        """Apply a login decision to the session that has begun or was renewed.

        The session gets its end, its place in the connection quota and the
        message rate of its app. App, user and device of the connection must be
        set. Never switches greenlets.
        """
        if connection.state >= CLOSING:
            return

        if decision.claims is None:
            connection.kind = "session"
        else:
            connection.kind = decision.claims.kind
        # Without any end, there is no earlier end of this connection to cancel.
        if decision.expires_at or self._expiry.ends:
            self._expiry.end_at(connection, decision.expires_at)

        # If the rule is quiet, nothing is counted or observed. But the
        # connection must lose the message rate of an earlier app, and observers
        # that know the connection must learn of the change.
        rule = self._rules.get(connection.app or "")
        if rule is None or (
            rule.quiet
            and not self.observer.known
            and type(connection.encoding) is Encoding
        ):
            return
        self._quota.take(rule.name, rule.tenant.max_connections, connection)
        rule.limit(connection)
        self.observer.began(connection)

    def ended(self, connection: Connection, code: int) -> None:
        """Release everything of a closed connection, with or without a session.

        ``code`` is the close code. Never switches greenlets.
        """
        if self._expiry.ends:
            self._expiry.forget(connection)
        if self._quota.taken:
            self._quota.leave(connection)
        if self.observer.known:
            self.observer.ended(connection, code)

    def expire(self) -> None:
        """End the sessions whose token has expired. Called once per second."""
        self._expiry.expire(time())

    # --- rules ----------------------------------------------------------------

    def prepare(self) -> None:
        """Compile the rules of all known apps at the start.

        Raises :class:`imserver.gateway.errors.StartError` if a configured key
        cannot be used.
        """
        for tenant in self.tenants.all():
            try:
                self._apply(self._rule(tenant, self.tokens.keys_of(tenant)))
            except BadKey as bad:
                raise StartError(f"apps.{tenant.name}.{bad}") from None
        self._update_gate()

    def reload(self) -> None:
        """Load all keys again, also from files, after the apps were reloaded
        (SIGHUP)."""
        tenants = {tenant.name: tenant for tenant in self.tenants.all()}
        for name in self._rules.keys() - tenants.keys():
            del self._rules[name]
            self.account_apps.discard(name)
        # Apps with unchanged settings are compiled, too, because the content of
        # a key file may have changed.
        for tenant in tenants.values():
            self._compile(tenant)
        self._update_gate()

    def changed(self, tenant: Tenant) -> None:
        """Apply a new or changed app."""
        self._compile(tenant)
        self._update_gate()

    def deleted(self, app: str) -> None:
        """Forget the rule of a deleted app, so that nobody can log in to it."""
        self.account_apps.discard(app)
        if self._rules.pop(app, None) is not None:
            self._update_gate()

    def _compile(self, tenant: Tenant) -> Rule:
        """Compile the rule of an app, and put it into effect.

        If its keys are invalid, its earlier keys stay valid. If it had no
        earlier keys, its rule is ``broken``, and refuses all logins.
        """
        try:
            keys = self.tokens.keys_of(tenant)
        except BadKey as bad:
            log.error("apps.%s.%s", tenant.name, bad)
            keys = ()
            # A mistake in a file must not lock out everybody.
            earlier = self._rules.get(tenant.name)
            if earlier is not None:
                keys = earlier.keys
        return self._apply(self._rule(tenant, keys))

    def _rule(self, tenant: Tenant, keys: tuple[Key, ...]) -> Rule:
        """Return the rule of an app with these keys."""
        has_entrance = bool(self._entrances_of(tenant))
        is_observed = self.observer.observes(tenant)
        return Rule(
            tenant,
            keys,
            demo=self.keys.demo,
            has_entrance=has_entrance,
            is_observed=is_observed,
        )

    def _entrances_of(self, tenant: Tenant) -> str:
        """Describe the ways into an app other than a login; ``""`` if the app
        has no such way."""
        entrances = (entrance(tenant) for entrance in self._entrances)
        return "; ".join(filter(None, entrances))

    def _apply(self, rule: Rule) -> Rule:
        """Put a rule into effect, and return it."""
        earlier = self._rules.get(rule.name)
        self._rules[rule.name] = rule
        if rule.only_accounts and not self.keys.demo:
            self.account_apps.add(rule.name)
        else:
            self.account_apps.discard(rule.name)

        # Connections of apps without a limit are not counted. With the first
        # limit, existing connections begin to count.
        limit = rule.tenant.max_connections
        had_limit = earlier is not None and earlier.tenant.max_connections
        if limit and not had_limit:
            self._count_connections(rule.name, limit)
        return rule

    def _count_connections(self, app: str, limit: int) -> None:
        """Count all connections of an app in its connection quota."""
        for connection in self.connections:
            if connection.app == app:
                self._quota.take(app, limit, connection)

    def _update_gate(self) -> None:
        """Pass the origins of all apps to the gate, which accepts connections.

        The login checks the origin against its own app.
        """
        rules = self._rules.values()
        hosts = set[str]()
        for rule in rules:
            hosts.update(rule.origins or ())
        self.origins.set_apps(hosts, any(rule.any_origin for rule in rules))


def _who_may_log_in(rule: Rule, entrances: str) -> str:
    """Describe who may log in to an app, for the log of the start.

    ``entrances`` has the other ways into the app, in words. Example: "a login
    needs a session token (jwt) or an account".
    """
    if rule.open:
        return "OPEN, anybody may log in as anybody: to close it set jwt, account_tokens or open: false"
    if rule.closed and entrances:
        return entrances
    # A login needs only one of these proofs.
    proofs = {
        "a session token (jwt)": rule.keys or rule.issuers,
        "an account": rule.accounts,
        "its back end": rule.by_back_end,
        "the back end of back_ends.connect (clients of Centrifugo)": rule.tenant.back_ends.connect,
    }
    accepted = [name for name, is_accepted in proofs.items() if is_accepted]
    return "a login needs " + " or ".join(accepted)


def _about_others(rules: Sequence[tuple[Rule, str]]) -> list[str]:
    """Describe who may log in to each of these apps, in a line for each.

    Each pair in ``rules`` has the rule of an app, and the other ways into the
    app in words. A long list is cut.
    """
    lines = [
        f"app {rule.name}: {_who_may_log_in(rule, how)}"
        for rule, how in rules[:_APPS_SHOWN]
    ]
    cut_count = len(rules) - _APPS_SHOWN
    if cut_count > 0:
        lines.append(f"and {cut_count} more apps that are open or have a login rule")
    return lines


def _about_closed(names: Sequence[str]) -> str:
    """Return the line about the apps to which nobody may log in.

    The line names the first apps, and says how many other apps there are.
    """
    shown = ", ".join(names[:_APPS_SHOWN])
    names_cut = len(names) - _APPS_SHOWN
    if names_cut > 0:
        shown += f" and {names_cut} more"
    return (
        f"closed, nobody may log in: {shown}; to change it set jwt, "
        "account_tokens or webhook.authorise_url, or open: true"
    )


def _explanation(app: str, known_app: str, detail: str) -> str:
    """Return the detail of a refused login for observers.

    ``known_app`` is ``""`` if the app is unknown. Then the result names the
    unknown ``app`` in place of the detail.
    """
    if app and not known_app:
        return f"app {app[:_USER_SHOWN]!r}"
    return detail


def _connection_of(peer: str) -> str:
    """Return ``peer`` if it is the address and port of a connection. The result
    is ``""`` if ``peer`` has no port, so that it names no connection."""
    return "" if peer == host_of(peer) else peer


def _log_refused(
    reason: LoginRefusal, app: str, denial: Denial, detail: str, peer: str
) -> None:
    """Log a refused login, for example: "login of 'ada' in chat refused: token"."""
    shown_reason: str = reason
    if detail:
        shown_reason = f"{reason} ({detail})"
    # The user is quoted, because it may be any text of a client.
    shown_user = repr(denial.user)
    if denial.account:
        shown_user = f"account {denial.account}"
    log.info(
        "login of %s in %s refused: %s",
        shown_user,
        app,
        shown_reason,
        extra={"connection": peer},
    )
