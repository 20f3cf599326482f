"""What webhooks are in the settings of an app. The core declares them, because its login rules read them."""

from __future__ import annotations

from typing import Final

from imserver.plugin import FeatureSettings
from imserver.plugin.identity import AppSecrets, BadKey
from imserver.plugin.settings import TenantSettings


def secret_of(settings: TenantSettings) -> bytes:
    """The secret that signs requests to the app's URLs; ``b""`` if there are none. Raises BadKey."""
    urls = settings.webhook.urls or settings.back_ends.urls
    return AppSecrets.read("webhook", settings.webhook) if urls else b""


def objection(_name: str, settings: TenantSettings) -> str:
    """Why an app cannot have these webhooks; ``""`` if it can. Reads the file of the secret."""
    try:
        secret_of(settings)
    except BadKey as bad:
        return str(bad)
    return ""


SETTINGS: Final = FeatureSettings(core_keys=("webhook", "back_ends"), objection=objection)
