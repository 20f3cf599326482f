"""API keys over the API: list, create, rotate and revoke them, and show their
use.

The use of a key is counted by minute, route, app and address, and kept for
``keys.usage_days``. Therefore an operator can find out how a stolen key was
used.
"""

from imserver.operate.keys import api
from imserver.operate.keys.declared import SETTINGS, TABLES, KeyUsageSettings
from imserver.operate.keys.usage import KeyUsage
from imserver.plugin import CommandOf, FeatureRow, Parts
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


def build(core: Core) -> Parts:
    """Build the service that stores the use of keys on a node."""
    days = settings_of(core.config, KeyUsageSettings).usage_days
    uses = core.keys.uses
    uses.take()  # the first call begins the counting
    usage = KeyUsage(
        core.store,
        core.tenants,
        take=uses.take,
        node=core.connection_ids.birth,
        days=days,
    )
    return Parts((usage,), run=(usage.run,), stop=usage.store)


FEATURE = FeatureRow(
    "keys",
    build,
    settings=SETTINGS,
    routes=api.routes.rows,
    tables=TABLES,
    commands=(
        CommandOf(
            "deprecated",
            "imserver.operate.keys.command:deprecated",
            "Show which deprecated features are used, and by whom.",
            parent="key",
        ),
        CommandOf(
            "usage",
            "imserver.operate.keys.command:usage",
            "Show the requests of the key with this id, the newest first.",
            parent="key",
        ),
    ),
)
