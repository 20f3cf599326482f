"""The settings of an app for Pusher's protocol."""

import re
from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.http import about
from imserver.plugin.identity import AppSecrets, BadKey, Rate
from imserver.plugin.settings import (
    HTTP_URL,
    Secret,
    SecretFile,
    TenantSettings,
    Url,
    app_settings_of,
)

CLIENT_EVENTS: Final = Rate(
    "client_events",
    "client events",
    "connection",
    "client_events_per_second of the app",
    "4301",
)


_Count = Annotated[int, Meta(ge=0, extra={"api": {"le": 2**31 - 1}})]


class PusherSettings(Struct, frozen=True):
    """The settings of the app for the Pusher protocol.

    ``key``: names the app to clients, who send it openly. ``secret``, or the
    content of ``secret_file``, signs subscriptions, requests and webhooks.
    Without a ``key`` the app does not speak this protocol.
    """

    app_id: Annotated[
        str, about("The id of the app in the HTTP API.", number=True, unique=True)
    ] = ""
    key: Annotated[
        str,
        about(
            "The public key that clients send. Empty: clients of Pusher cannot use "
            "the app.",
            unique=True,
            ends_demo=True,
            by_key=True,
        ),
    ] = ""
    secret: Annotated[
        Secret,
        about(
            "The secret that signs subscriptions, requests and webhooks. It has at least 16 bytes.",
            by_key=True,
        ),
    ] = ""
    secret_file: SecretFile = ""
    webhook_url: Annotated[
        Url, about("The URL to which the server posts Pusher's webhooks.")
    ] = ""
    activity_seconds: Annotated[
        int,
        Meta(ge=1, le=86400),
        about(
            "The number of seconds without traffic after which a client sends a ping."
        ),
    ] = 120
    client_events_per_second: Annotated[
        _Count,
        about(
            "The maximum number of client events of one connection per second. 0: "
            "clients may not send events."
        ),
    ] = 10
    event_bytes: Annotated[
        int,
        Meta(ge=1),
        about("The maximum length of an event in bytes.", api={"le": 2**31 - 1}),
    ] = 10240
    presence_members: Annotated[
        _Count,
        about("The maximum number of members of a presence channel; 0: no limit."),
    ] = 100
    subscription_count: Annotated[
        bool, about("Whether subscribers receive the number of subscribers.")
    ] = False

    @property
    def signed(self) -> bool:
        """Whether there is a secret."""
        return bool(self.secret or self.secret_file)


class PusherOfApp(Struct, frozen=True):
    """The keys of an app."""

    pusher: PusherSettings = PusherSettings()


def pusher_of(tenant: TenantSettings) -> PusherSettings:
    """The settings of an app for the protocol."""
    return app_settings_of(tenant, PusherOfApp).pusher


MIN_SECRET_BYTES: Final = 16


def secret_of(settings: TenantSettings) -> bytes:
    """The secret of an app for the protocol; ``b""`` if the app does not speak
    the protocol.

    Reads the file with the secret, if the secret is in a file. Raises
    :class:`imserver.gateway.auth.tokens.BadKey` if the secret is too short, or
    if the file is unreadable.
    """
    pusher = pusher_of(settings)
    if not pusher.key:
        return b""
    secret = AppSecrets.read("pusher", pusher)
    if len(secret) < MIN_SECRET_BYTES:
        # Clients see signatures. They could guess a short secret by trying
        # which secret gives the same signature.
        raise BadKey(
            f"pusher.secret: expected at least {MIN_SECRET_BYTES} bytes, got {len(secret)}; "
            "make one with 'openssl rand -hex 32'"
        )
    return secret


def objection(_name: str, settings: TenantSettings) -> str:
    """The error in the settings of an app for the protocol; ``""`` if the
    settings are right.

    Reads the file with the secret, if the secret is in one.
    """
    pusher = pusher_of(settings)
    if not pusher.key:
        if pusher == PusherSettings():
            return ""
        return "pusher: expected app_id, key, and secret or secret_file"
    for name, value in (("app_id", pusher.app_id), ("key", pusher.key)):
        error = _name_error(name, value)
        if error:
            return error
    if bool(pusher.secret) == bool(pusher.secret_file):
        return (
            "pusher: expected either secret or secret_file: requests are signed with it"
        )
    if pusher.webhook_url and not HTTP_URL.match(pusher.webhook_url):
        return f"pusher.webhook_url: expected an http:// or https:// address, got {pusher.webhook_url!r}"
    try:
        secret_of(settings)
    except BadKey as bad:
        return str(bad)
    return ""


def _name_error(name: str, value: str) -> str:
    """The error in an id or a key; ``""`` if the id or key is right.

    Ids and keys are segments of paths in URLs, so only some characters may be
    in them.
    """
    if re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value):
        return ""
    expected = "1 to 100 letters, digits, dots, dashes or underscores"
    return f"pusher.{name}: expected {expected}, got {value!r}"


SETTINGS: Final = SettingsRow({"apps.*": PusherOfApp}, objection)
