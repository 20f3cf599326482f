"""The settings of the centrifuge dialect."""

from typing import Annotated, Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.http import about
from imserver.plugin.settings import TenantSettings, app_settings_of


class CentrifugeSettings(Struct, frozen=True):
    """Section ``centrifuge``: clients of Centrifugo.

    ``app``: their app on ``/connection/websocket``, and of API requests with a
    key for all apps.
    """

    app: Annotated[
        str, about("The app of clients that name none.", min_length=1, number=True)
    ] = "default"


class CentrifugeOfApp(Struct, frozen=True):
    """The settings of an app for clients of Centrifugo."""

    subscribe_to_own_channel: Annotated[
        bool,
        about(
            "Whether each client of Centrifugo is subscribed to the channel of its "
            "user, `#<user>`, at its login."
        ),
    ] = True
    anonymous_tokens: Annotated[
        bool,
        about(
            "Whether clients of Centrifugo may use connection tokens without a user "
            "(without `sub`)."
        ),
    ] = False


def subscribes_to_own_channel(tenant: TenantSettings | None) -> bool:
    """Whether clients of an app get the channel of their user without asking.

    ``tenant`` has the settings of the app; None stands for an unknown app.
    """
    return (
        tenant is None
        or app_settings_of(tenant, CentrifugeOfApp).subscribe_to_own_channel
    )


def takes_anonymous_tokens(tenant: TenantSettings | None) -> bool:
    """Whether the connection tokens of an app may leave out the user."""
    return (
        tenant is not None and app_settings_of(tenant, CentrifugeOfApp).anonymous_tokens
    )


SETTINGS: Final = SettingsRow(
    {"centrifuge": CentrifugeSettings, "apps.*": CentrifugeOfApp}
)
