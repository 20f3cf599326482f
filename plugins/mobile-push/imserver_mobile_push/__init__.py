"""Mobile push: notifications for applications on phones, through the services
of Apple, Google and Huawei.

The feature ``notifications`` decides who gets which notification, and stores
deliveries until a service has taken them. This feature hands them over.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from imserver.plugin import FeatureRow, Parts
from imserver.plugin.identity import Tenants
from imserver.plugin.runtime import Outgoing
from imserver.plugin.settings import Config, settings_of

from . import apns, fcm, hms
from .service import MobileService
from .settings import SETTINGS, MobilePushSettings

__all__ = ["FEATURE", "services_of"]


def services_of(config: Config, tenants: Tenants) -> tuple[MobileService, ...]:
    """The three services, for a node or a command."""
    addresses = settings_of(config, MobilePushSettings)
    requests = Outgoing()
    tokens: dict[object, apns.ProviderToken] = {}
    return (
        MobileService(
            fcm.NAME,
            tenants,
            lambda keys: fcm.client_of(keys.fcm, addresses, requests),
            fcm.FORM,
        ),
        MobileService(
            apns.NAME,
            tenants,
            lambda keys: apns.client_of(keys.apns, tokens, addresses),
            apns.FORM,
        ),
        MobileService(
            hms.NAME,
            tenants,
            lambda keys: hms.client_of(keys.hms, addresses, requests),
            hms.FORM,
        ),
    )


@contextmanager
def offline(
    config: Config, _store: object, tenants: Callable[[], Tenants]
) -> Iterator[tuple[MobileService, ...]]:
    """The push services in a command, where no node runs."""
    yield services_of(config, tenants())


FEATURE: Final = FeatureRow(
    "mobile_push",
    lambda _core: Parts(),
    uses=("notifications",),
    settings=SETTINGS,
    answers=lambda base: services_of(base.config, base.tenants),
    offline=offline,
)
