"""Login rules: what an app demands of a login, ready for use; and what is decided about one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, get_args

from msgspec import Struct

from imserver import errors
from imserver.auth.quotas import LimitedEncoding
from imserver.auth.tokens import BadKey, Key, load_keys, read_key_file
from imserver.config.checks import MAKE_SECRET, is_placeholder
from imserver.config.settings import Config, TenantSettings, WebhookEvent, WebhookSettings
from imserver.errors import StartError
from imserver.services.webhooks.requests import AuthoriseHook, Receiver
from imserver.transport.connection import Connection, Encoding
from imserver.transport.gate import host_name

if TYPE_CHECKING:
    from imserver.auth.tenants import Tenant

EVENTS: Final = frozenset(get_args(WebhookEvent))
"""What a back end may be told of; it is told of all where its app names none."""


class LoginDecision(Struct, frozen=True, gc=False):
    """Whether a login may happen. Compare with :attr:`ok`.

    ``code`` is the reply code of a dialect that answers, ``close`` the close code of one that cannot (and
    what HTTP makes a status of: 4504 is 401, 4505 is 403, the rest 503). ``final``: the connection is to be
    closed even where the dialect could answer. ``expires_at``: Unix second at which the session ends (0:
    with its connection). ``user``: whom the token names, where the caller named nobody; ``device``: the
    device that it names, which goes before what the client says (``""``: it names none).
    """

    code: int = errors.REPLY_OK
    close: int = 0
    final: bool = False
    expires_at: int = 0
    user: str = ""
    device: str = ""

    @property
    def ok(self) -> bool:
        """Whether the login may go on."""
        return self.code == errors.REPLY_OK


ALLOWED: Final = LoginDecision()
UNKNOWN_APP: Final = LoginDecision(errors.REPLY_UNAUTHORIZED, errors.CLOSE_NOT_ALLOWED)
NOT_ALLOWED: Final = LoginDecision(errors.REPLY_UNAUTHORIZED, errors.CLOSE_NOT_ALLOWED)
BAD_ORIGIN: Final = LoginDecision(errors.REPLY_UNAUTHORIZED, errors.CLOSE_NOT_ALLOWED, final=True)
BAD_TOKEN: Final = LoginDecision(errors.REPLY_UNAUTHORIZED, errors.CLOSE_TOKEN_INVALID)
APP_FULL: Final = LoginDecision(errors.REPLY_FAILED, errors.CLOSE_NODE_FULL, final=True)
UNDECIDED: Final = LoginDecision(errors.REPLY_SYSTEM, errors.CLOSE_INTERNAL_ERROR)
"""The back end did not say in time."""


class LoginRequest(Protocol):
    """What a login comes by: a connection, or a request.

    ``origin``: the host of the page it comes from; ``""``: our own, or no page.
    """

    @property
    def peer(self) -> str: ...
    @property
    def origin(self) -> str: ...


class Secrets(Struct, frozen=True):
    """What an app's settings give as keys: of tokens, and of the webhook's signature."""

    keys: tuple[Key, ...] = ()
    webhook: bytes = b""


def load_secrets(name: str, settings: TenantSettings, secret: bytes) -> Secrets:
    """Read the keys of the app ``name``, from their files too.

    Raises :class:`imserver.auth.tokens.BadKey`, whose text begins with the setting.
    """
    try:
        keys = load_keys(settings.jwt, secret, name)
    except BadKey as bad:
        raise BadKey(f"jwt: {bad}") from None
    return Secrets(keys, _webhook_secret(settings.webhook))


def _webhook_secret(webhook: WebhookSettings) -> bytes:
    if not (webhook.url or webhook.authorise_url):
        return b""
    if webhook.secret and webhook.secret_file:
        raise BadKey("webhook: secret and secret_file are both given")
    try:
        text = read_key_file(webhook.secret_file) if webhook.secret_file else webhook.secret
    except BadKey as bad:
        raise BadKey(f"webhook: {bad}") from None
    if not text:
        raise BadKey("webhook.secret: requests are signed with it, so it must be set")
    if is_placeholder(text):
        raise BadKey(
            f"webhook.secret: this is a placeholder of the documentation; make one with '{MAKE_SECRET}'"
        )
    return text.encode()


class Rule:
    """What an app demands of a login. Owner of the encodings that keep its rate.

    ``open``: anybody may log in. ``closed``: nobody may, since no login rule says who may. ``plain``: open,
    and nothing else is demanded; ``quiet``: and no back end is told of it. ``broken``: it demands tokens, or
    the consent of its back end, and lacks the keys for that. ``accounts``: tokens of
    accounts are good for it, and one of them, or of its keys, is needed. ``origins`` None: the
    node's own policy holds.
    """

    __slots__ = (
        "_encodings",
        "accounts",
        "any_origin",
        "asked",
        "broken",
        "closed",
        "dialects",
        "keys",
        "name",
        "open",
        "origins",
        "plain",
        "quiet",
        "receiver",
        "secrets",
        "tenant",
    )

    def __init__(self, tenant: Tenant, secrets: Secrets, demo: bool) -> None:
        webhook = tenant.webhook
        self.tenant = tenant
        self.name = tenant.name
        self.secrets = secrets
        self.keys = secrets.keys
        self.accounts = tenant.wants_accounts(tenant.name)
        self.open = (tenant.open or demo) and not tenant.has_login_rule
        self.closed = not (self.open or tenant.has_login_rule)
        self.broken = bool(tenant.jwt and not secrets.keys) or bool(
            webhook.authorise_url and not secrets.webhook
        )
        self.dialects = frozenset(tenant.dialects)
        self.any_origin = tenant.origin_policy == "any"
        has_origins = tenant.origins or tenant.origin_policy
        self.origins = frozenset(host_name(each) for each in tenant.origins) if has_origins else None
        self.asked = (
            AuthoriseHook(tenant.name, webhook.authorise_url, secrets.webhook)
            if webhook.authorise_url
            else None
        )
        self.receiver = (
            Receiver(tenant.name, webhook.url, secrets.webhook, frozenset(webhook.events) or EVENTS)
            if webhook.url and secrets.webhook
            else None
        )
        self.plain = self.open and not (
            tenant.dialects or tenant.max_connections or tenant.messages_per_second
        )
        self.quiet = self.plain and self.receiver is None
        self._encodings: dict[Encoding, LimitedEncoding] = {}

    def limit(self, connection: Connection) -> None:
        """Hold the connection to the app's rate, and to no other app's."""
        encoding = connection.encoding
        plain = encoding.plain if isinstance(encoding, LimitedEncoding) else encoding
        per_second = self.tenant.messages_per_second
        if not per_second:
            connection.encoding = plain
            return
        known = self._encodings.get(plain)
        if known is None:
            known = self._encodings[plain] = LimitedEncoding(plain, per_second)
        connection.encoding = known


def check_keys(config: Config) -> None:
    """Raise :class:`imserver.errors.StartError` if a key of an app in the configuration cannot be used."""
    for name, settings in config.apps.items():
        if wrong := objection(name, settings):
            raise StartError(f"apps.{name}.{wrong}")


def objection(name: str, settings: TenantSettings) -> str:
    """What is wrong with the keys of the app ``name``, that no look at the settings alone would show; ``""``:
    nothing. Reads the files of keys."""
    try:
        load_secrets(name, settings, b"")
    except BadKey as bad:
        return str(bad)
    return ""
