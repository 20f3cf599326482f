"""The declarations of the feature: settings and tables."""

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.http import about
from imserver.plugin.identity import Rate, Tenant
from imserver.plugin.settings import (
    Amount,
    Config,
    Duration,
    Locations,
    app_settings_of,
    settings_of,
)
from imserver.plugin.storage import Reason, Table

RATE_SECONDS: Final = 60.0
SENDER_LINKS: Final = 20
APP_LINKS: Final = 300
HOST_REQUESTS: Final = 60
LINKS_OF_SENDERS: Final = Rate(
    "preview_sender",
    "pages that are fetched for previews",
    "sender of the link",
    "20 a minute",
    "no preview",
)
LINKS_OF_APPS: Final = Rate(
    "preview_app",
    "pages that are fetched for previews",
    "app",
    "300 a minute",
    "no preview",
)
REQUESTS_TO_HOSTS: Final = Rate(
    "preview_host",
    "requests for previews",
    "host that they go to",
    "60 a minute",
    "no preview",
)


class PreviewSettings(Struct, frozen=True):
    """Section ``previews``: how pages are fetched."""

    seconds: Duration = 8.0
    page_bytes: Annotated[int, Meta(ge=4096, le=2_097_152)] = 524_288
    picture_bytes: Annotated[int, Meta(ge=0, le=8_388_608)] = 2_097_152
    at_once: Amount = 8
    retention_days: Annotated[int, Meta(ge=1, le=366)] = 30
    allow_loopback: bool = False


class PreviewsOfApp(Struct, frozen=True):
    """The key of an app."""

    previews: Annotated[
        bool,
        about(
            "Whether messages with a link get a preview. To make a preview, the server "
            "fetches the page of the link."
        ),
    ] = False


def check(config: Config, _locations: Locations) -> Iterator[tuple[str, str]]:
    """Check the settings. Yields settings that a careful operator would
    change."""
    if settings_of(config, PreviewSettings).allow_loopback:
        yield (
            "previews.allow_loopback",
            "links make the server read from this machine; set it to false",
        )


SETTINGS: Final = SettingsRow(
    {"previews": PreviewSettings, "apps.*": PreviewsOfApp}, check=check
)


def is_on(tenant: Tenant | None) -> bool:
    """Whether an app has previews. ``tenant`` None: the app does not exist."""
    return tenant is not None and app_settings_of(tenant, PreviewsOfApp).previews


TABLES: Final = (
    Table(
        name="preview_person",
        types="app name500*, member name255* out user, make small out, shown small out",
    ),
    Table(
        name="preview_removed",
        types="app name500*, message big* out, member name255 out user",
        imported=Reason("an import gives messages other ids"),
        scan=True,
    ),
    Table(
        name="link_preview",
        types="app name500*, link name64*, state small, until big, picture name32, content blob",
        of_user=Reason(
            "it has the hash of a link and the title of its page, and names no user"
        ),
        columns=Reason("it is a copy of public pages, which is made again"),
    ),
)
"""The tables in the order of their deletion."""
