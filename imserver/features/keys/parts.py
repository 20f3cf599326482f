"""The parts of keys on one node."""

from __future__ import annotations

from imserver.features.keys.settings import KeyUsageSettings
from imserver.features.keys.usage import KeyUsage
from imserver.plugin import FeatureParts
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


def build(core: Core) -> FeatureParts:
    """Build them."""
    days = settings_of(core.config, KeyUsageSettings).usage_days
    uses = core.identity.keys.uses
    uses.wanted = True
    usage = KeyUsage(core.storage.store, core.identity.tenants, uses.take, core.sessions.ids.birth, days)
    return FeatureParts(usage, run=(usage.run,), stop=usage.store)
