"""Login rules, compiled from the settings of an app, and login decisions."""

from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from imserver.gateway.auth.json_web_tokens import Key
from imserver.gateway.auth.quotas import LimitedEncoding
from imserver.gateway.auth.tenants import AppObjection, Tenant
from imserver.gateway.auth.tokens import BadKey, Claims, Unverified, load_keys
from imserver.gateway.config.settings import Config, TenantSettings
from imserver.gateway.config.values import Locations
from imserver.gateway.errors import CloseCode, ReplyCode, StartError
from imserver.gateway.model import SYSTEM_PREFIX
from imserver.gateway.process import Secret
from imserver.gateway.transport.connection import Connection, Encoding
from imserver.gateway.transport.gate import listed_host


class LoginDecision(Struct, frozen=True, gc=False):
    """The result of a login check: allowed if :attr:`ok`.

    - ``code``: the reply code, for dialects that answer a login.
    - ``close``: the close code, for other dialects. Over HTTP it decides the
      status: 4504 becomes 401, 4505 becomes 403, and any other code becomes
      503.
    - ``final``: whether the connection is closed even if the dialect can
      answer.
    - ``expires_at``: the Unix second at which the session ends; 0: the session
      ends with its connection.
    - ``user``: the user who logs in, if the request named no user.
    - ``device``: the device that the token names; ``""`` if the token names no
      device. It replaces the device that the client sends.
    - ``claims``: the content of the verified token; None if no token was
      verified.
    - ``expired``: whether the login is refused because a genuine token has
      expired, so that the client needs a new one.
    """

    code: int = ReplyCode.OK
    close: int = 0
    final: bool = False
    expires_at: int = 0
    user: str = ""
    device: str = ""
    claims: Claims | None = None
    expired: bool = False

    @property
    def ok(self) -> bool:
        """Whether the login is allowed."""
        return self.code == ReplyCode.OK


ALLOWED: Final = LoginDecision()
UNKNOWN_APP: Final = LoginDecision(ReplyCode.UNAUTHORIZED, CloseCode.NOT_ALLOWED)
NOT_ALLOWED: Final = LoginDecision(ReplyCode.UNAUTHORIZED, CloseCode.NOT_ALLOWED)
WRONG_DIALECT: Final = LoginDecision(
    ReplyCode.UNAUTHORIZED, CloseCode.WRONG_DIALECT, final=True
)
BAD_ORIGIN: Final = LoginDecision(
    ReplyCode.UNAUTHORIZED, CloseCode.NOT_ALLOWED, final=True
)
BAD_TOKEN: Final = LoginDecision(ReplyCode.UNAUTHORIZED, CloseCode.TOKEN_INVALID)
TOKEN_EXPIRED: Final = LoginDecision(
    ReplyCode.UNAUTHORIZED, CloseCode.TOKEN_INVALID, expired=True
)
APP_FULL: Final = LoginDecision(ReplyCode.FAILED, CloseCode.NODE_FULL, final=True)
UNDECIDED: Final = LoginDecision(ReplyCode.SYSTEM, CloseCode.INTERNAL_ERROR)
"""The back end did not answer in time."""


class LoginRequest(Protocol):
    """The connection or HTTP request that asks for a login.

    ``peer`` is the address of the client. ``origin`` is the host of the page
    that sent the request; ``""``: this server's own page, or no page.
    """

    @property
    def peer(self) -> str: ...
    @property
    def origin(self) -> str: ...


Entrance = Callable[[Tenant], str]
"""A function that describes a way into an app other than a login: who uses it,
and what for. It returns ``""`` if the app does not have this way."""


def load_app_keys(
    name: str, settings: TenantSettings, secret: Secret
) -> tuple[Key, ...]:
    """Load the keys of the app ``name`` for session tokens. Reads key files.

    Raises :class:`imserver.gateway.auth.tokens.BadKey`. Its text begins with
    the name of the setting.
    """
    try:
        return load_keys(settings.jwt, secret, name)
    except BadKey as bad:
        raise BadKey(f"jwt: {bad}") from None


class Rule:
    """The login rule of an app. Owner of the encodings with its message rate.

    ``has_entrance`` means that there is another way into the app
    (:data:`Entrance`). ``is_observed`` means that an observer receives its
    logins. The attributes are:

    - ``open``: anybody may log in.
    - ``closed``: nobody may log in, because the app has no login rule.
    - ``plain``: the app is open, and has no further checks.
    - ``quiet``: the rule is plain, and nobody observes its logins.
    - ``broken``: the app requires tokens, but the keys that verify them are
      missing.
    - ``by_back_end``: the back end of the app decides about logins.
    - ``asks_back_end``: the back end of the app decides about logins, messages
      or other acts of clients.
    - ``accounts``: a login needs a token, and account tokens are accepted.
    - ``only_accounts``: all users are accounts, except in demo mode.
    - ``issuers``: the entries of ``jwt`` with an issuer.
    - ``user_bytes``: the length of the longest user id.
    - ``origins``: the hosts of pages that may log in; None: the policy of the
      node applies.
    """

    def __init__(
        self,
        tenant: Tenant,
        keys: tuple[Key, ...],
        demo: bool,
        has_entrance: bool = False,
        is_observed: bool = False,
    ) -> None:
        """Compile the settings of an app. ``demo`` means that the server is in
        demo mode."""
        self.tenant = tenant
        self.name = tenant.name
        self.user_bytes = tenant.user_bytes_of(tenant.name)

        self.keys = keys
        self._compile_logins(tenant, demo, has_entrance)
        self._compile_back_end(tenant)
        self._compile_origins(tenant)
        # Whether a login may skip checks.
        self.plain = self.open and not self._has_further_checks
        self.quiet = self.plain and not is_observed
        self._encodings: dict[Encoding, LimitedEncoding] = {}
        """Encoding of a dialect → the same encoding with the message rate of
        the app."""

    @property
    def _has_further_checks(self) -> bool:
        """Whether the app restricts even logins that need no token."""
        tenant = self.tenant
        return bool(
            tenant.dialects
            or tenant.max_connections
            or tenant.messages_per_second
            or self.asks_back_end
        )

    def _compile_logins(self, tenant: Tenant, demo: bool, has_entrance: bool) -> None:
        """Set the attributes that say who may log in.

        ``has_entrance`` tells whether a feature has its own way to log in.
        """
        by_back_end = tenant.back_ends.connect
        has_login_rule = tenant.has_login_rule
        self.accounts = tenant.wants_accounts(tenant.name)
        self.only_accounts = self.accounts and not (
            tenant.jwt or has_entrance or by_back_end
        )
        self.open = (tenant.open or demo) and not (has_login_rule or by_back_end)
        self.closed = not (self.open or has_login_rule)
        self.issuers = tuple(row for row in tenant.jwt if row.issuer)
        # An entry of jwt without an issuer has a key.
        self.broken = len(tenant.jwt) > len(self.issuers) and not self.keys

    def _compile_back_end(self, tenant: Tenant) -> None:
        """Set the attributes that say what the back end of the app decides."""
        webhook = tenant.webhook
        self.by_back_end = bool(webhook.authorise_url)
        self.asks_back_end = bool(
            webhook.authorise_url or webhook.review_url or tenant.back_ends.urls
        )

    def _compile_origins(self, tenant: Tenant) -> None:
        """Set the attributes that say by which dialects, and from which pages,
        clients may come."""
        self.dialects = frozenset(tenant.dialects)
        self.any_origin = tenant.origin_policy == "any"
        self.origins: frozenset[str] | None = None
        if tenant.origins or tenant.origin_policy:
            self.origins = frozenset(map(listed_host, tenant.origins))

    def trusts(self, head: Unverified) -> bool:
        """Whether the app lists the issuer and the audience that a token names.

        ``head`` has the issuer and the audience as the token names them, before
        anybody has verified the token.
        """
        return any(
            row.issuer == head.issuer and row.audience in head.audiences
            for row in self.issuers
        )

    def limit(self, connection: Connection) -> None:
        """Apply the message rate of the app to the connection.

        It replaces the rate of an app in which the connection was before.
        """
        encoding = connection.encoding
        if isinstance(encoding, LimitedEncoding):
            plain = encoding.plain
        else:
            plain = encoding

        per_second = self.tenant.messages_per_second
        if not per_second:
            connection.encoding = plain
            return
        # One encoding serves all connections of the app with this dialect.
        if plain not in self._encodings:
            self._encodings[plain] = LimitedEncoding(plain, per_second)
        connection.encoding = self._encodings[plain]


def check_apps(config: Config, locations: Locations, objection: AppObjection) -> None:
    """Raise StartError if ``objection`` finds a problem with an app in the
    configuration.

    The error names the file and the line of the setting.
    """
    for name, settings in config.apps.items():
        error_text = objection(name, settings)
        if error_text:
            # The error begins with the name of the setting: "jwt: the key is
            # empty".
            setting, _, problem = error_text.partition(": ")
            raise StartError(f"{locations.of(f'apps.{name}.{setting}')}: {problem}")


def objection(name: str, settings: TenantSettings) -> str:
    """Check the keys and channels of the app ``name`` beyond the syntax of its
    settings.

    Returns the error text, which begins with the name of the setting; ``""`` if
    keys and channels are valid. Reads key files.
    """
    if name.startswith(SYSTEM_PREFIX):
        for row in settings.channels.values():
            if row.history or row.subscribe == "members":
                return "channels: an app of the client dialect has no message log: no stored history, no groups"
    try:
        load_app_keys(name, settings, Secret(b""))
    except BadKey as bad:
        return str(bad)
    return ""
