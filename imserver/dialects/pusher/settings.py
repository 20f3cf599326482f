"""The settings of an app for Pusher's protocol."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.plugin.identity import Rate
from imserver.plugin.settings import AppCount, Secret, SecretFile, TenantSettings, Url, about, app_settings_of

CLIENT_EVENTS: Final = Rate(
    "client_events", "client events", "connection", "client_events_per_second of the app", "4301"
)


class PusherSettings(Struct, frozen=True):
    """The app in Pusher's protocol.

    ``key``: names the app to clients, who send it openly. ``secret``, or the content of ``secret_file``,
    signs subscriptions, requests and webhooks. Without a ``key`` the app does not speak this protocol.
    """

    app_id: Annotated[str, about("The id of the app in the HTTP API.", number=True, unique=True)] = ""
    key: Annotated[
        str,
        about(
            "The public key that clients name; empty: the app does not speak it.",
            unique=True,
            ends_demo=True,
        ),
    ] = ""
    secret: Annotated[
        Secret,
        about("The secret that signs subscriptions, requests and webhooks. It has at least 16 bytes."),
    ] = ""
    secret_file: SecretFile = ""
    webhook_url: Annotated[Url, about("The URL to which Pusher's webhooks go.")] = ""
    activity_seconds: Annotated[
        int, Meta(ge=1, le=86400), about("The seconds after which a silent client sends a ping.")
    ] = 120
    client_events_per_second: Annotated[
        AppCount, about("Client events of one connection; 0: none may send events.")
    ] = 10
    event_bytes: Annotated[int, Meta(ge=1), about("The longest event.", api={"le": 2**31 - 1})] = 10240
    presence_members: Annotated[AppCount, about("The most members of a presence channel; 0: any number.")] = (
        100
    )
    subscription_count: Annotated[bool, about("Whether subscribers receive their number.")] = False

    @property
    def signed(self) -> bool:
        """Whether there is a secret."""
        return bool(self.secret or self.secret_file)


class PusherOfApp(Struct, frozen=True):
    """The keys of an app."""

    pusher: PusherSettings = PusherSettings()


def pusher_of(tenant: TenantSettings) -> PusherSettings:
    """The settings of an app."""
    return app_settings_of(tenant, PusherOfApp).pusher
