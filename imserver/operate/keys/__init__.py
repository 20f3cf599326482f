"""API keys over the API: list, create, rotate and revoke them, and what each of
them did.

What a key did is counted by the minute, route, app and address, and kept for
``keys.usage_days``. So an operator knows what somebody did with a stolen key.
"""

from typing import Any

from imserver.operate.keys import api
from imserver.operate.keys.declared import SETTINGS, TABLES, KeyUsageSettings
from imserver.operate.keys.usage import KeyUsage
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


def build(core: Core) -> Parts:
    """Build the parts on one node."""
    days = settings_of(core.config, KeyUsageSettings).usage_days
    uses = core.keys.uses
    uses.take()  # counting begins
    usage = KeyUsage(
        core.store, core.tenants, uses.take, core.connection_ids.birth, days
    )
    return Parts((usage,), run=(usage.run,), stop=usage.store)


def _commands() -> dict[str, Any]:
    from imserver.operate.keys.command import deprecated, usage

    return {"key deprecated": deprecated, "key usage": usage}


FEATURE = FeatureRow(
    "keys",
    build,
    settings=SETTINGS,
    routes=api.routes.rows,
    tables=TABLES,
    commands=_commands,
)
