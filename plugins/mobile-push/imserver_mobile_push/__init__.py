"""Mobile push: notifications reach applications on phones, by the services of Apple, Google and Huawei.

The feature ``notifications`` decides who is told of what, and stores deliveries until a service has taken
them. This one hands them over.
"""

from __future__ import annotations

from typing import Final

from imserver.plugin import Feature, FeatureParts
from imserver.plugin.identity import Tenants
from imserver.plugin.runtime import Outgoing
from imserver.plugin.settings import Config, settings_of

from . import apns, fcm, hms
from .service import JsonClient, MobileService
from .settings import SETTINGS, MobilePush, MobilePushSettings, apns_key, fcm_key, hms_secret

__all__ = ["FEATURE", "services_of"]


def services_of(config: Config, tenants: Tenants) -> tuple[MobileService, ...]:
    """The three services, for a node or a command."""
    addresses, requests = settings_of(config, MobilePushSettings), Outgoing()
    tokens = apns.ProviderTokens()

    def make_fcm(settings: MobilePush) -> JsonClient | None:
        key = fcm_key(settings.fcm)
        return fcm.client_of(settings.fcm, key, addresses, requests) if key is not None else None

    def make_apns(settings: MobilePush) -> apns.ApnsClient | None:
        key, given = apns_key(settings.apns), settings.apns
        url = addresses.apns_sandbox_url if given.sandbox else addresses.apns_url
        if key is None:
            return None
        return apns.ApnsClient(given, tokens.of(given, key), url, addresses.seconds)

    def make_hms(settings: MobilePush) -> JsonClient | None:
        secret = hms_secret(settings.hms)
        return hms.client_of(settings.hms, secret, addresses, requests) if secret else None

    return (
        MobileService(fcm.NAME, tenants, make_fcm, fcm.FORM),
        MobileService(apns.NAME, tenants, make_apns, apns.FORM),
        MobileService(hms.NAME, tenants, make_hms, hms.FORM),
    )


FEATURE: Final = Feature(
    "mobile_push",
    lambda _core: FeatureParts(),
    uses=("notifications",),
    settings=SETTINGS,
    push_services=services_of,
    face=3,
)
