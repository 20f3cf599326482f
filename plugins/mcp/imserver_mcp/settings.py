"""Settings of the node and of apps."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.http import about
from imserver.plugin.settings import TenantSettings, Url, app_settings_of


class McpSettings(Struct, frozen=True):
    """The section ``mcp``.

    ``authorization_servers``: for clients that look for one. ``allow_loopback``: webhooks of events may be on
    this machine, also with http.
    """

    authorization_servers: tuple[Url, ...] = ()
    allow_loopback: bool = False


class Rules(Struct, frozen=True):
    """When an agent needs the yes of a person."""

    confirm: Annotated[
        tuple[str, ...], about("Tools that need the yes of a person each time, such as `send`.")
    ] = ()
    confirm_by: Annotated[
        str, about("The user who is asked. The default is the owner of the bot.", max_length=255)
    ] = ""
    confirm_seconds: Annotated[int, about("How long the person may take to answer.", ge=1, le=86400)] = 300


class McpOfApp(Struct, frozen=True):
    """The keys of an app."""

    mcp: Annotated[Rules, about("What agents of the app may do.")] = Rules()


def rules_of(tenant: TenantSettings) -> Rules:
    """The rules of an app."""
    return app_settings_of(tenant, McpOfApp).mcp


SETTINGS: Final = FeatureSettings({"mcp": McpSettings, "apps.*": McpOfApp})
