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
    """The services of Google, Apple and Huawei, for a node or a command.

    Each makes the clients of apps from their keys when it needs them.
    """
    addresses = settings_of(config, MobilePushSettings)
    requests = Outgoing()
    # Apps with one key of Apple must share its tokens.
    tokens: dict[object, apns.ProviderToken] = {}
    return (
        MobileService(
            fcm.NAME,
            tenants,
            make=lambda keys: fcm.client_of(keys.fcm, addresses, requests),
            form=fcm.FORM,
        ),
        MobileService(
            apns.NAME,
            tenants,
            make=lambda keys: apns.client_of(keys.apns, tokens, addresses),
            form=apns.FORM,
        ),
        MobileService(
            hms.NAME,
            tenants,
            make=lambda keys: hms.client_of(keys.hms, addresses, requests),
            form=hms.FORM,
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
