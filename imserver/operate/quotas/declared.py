"""The settings and tables that the feature declares."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.http import about
from imserver.plugin.settings import TenantSettings, app_settings_of
from imserver.plugin.storage import Reason, Table

_PerDay = Annotated[int, Meta(ge=0, extra={"api": {"le": 2**53}})]


class QuotaSettings(Struct, frozen=True):
    """The amount that an app may send per day (UTC). `/api/v1/apps/usage` has
    today's numbers."""

    pushes_per_day: Annotated[
        _PerDay, about("The maximum number of pushes per day; 0: no limit.")
    ] = 0
    messages_per_day: Annotated[
        _PerDay, about("The maximum number of stored messages per day; 0: no limit.")
    ] = 0


class QuotasOfApp(Struct, frozen=True):
    """The keys of an app."""

    quotas: Annotated[QuotaSettings, Meta(extra={"by_key": True})] = QuotaSettings()


def quotas_of(tenant: TenantSettings) -> QuotaSettings:
    """The quotas of an app."""
    return app_settings_of(tenant, QuotasOfApp).quotas


SETTINGS: Final = SettingsRow({"apps.*": QuotasOfApp})

TABLES: Final = (
    Table(
        name="app_usage",
        types="app name255*, day int* out, pushes big out, messages big out",
        of_user=Reason("it counts for the whole app, and names no user"),
    ),
)
