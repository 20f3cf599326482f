"""API keys over the API: list, create, rotate and revoke them, and what each of them did.

What a key did is counted by the minute, route, app and address, and kept for ``keys.usage_days``. So an
operator knows what somebody did with a stolen key.
"""

from __future__ import annotations

from imserver.features.keys import api, parts
from imserver.features.keys.problems import PROBLEMS
from imserver.features.keys.settings import SETTINGS
from imserver.features.keys.tables import TABLES
from imserver.plugin import Feature

FEATURE = Feature(
    "keys",
    parts.build,
    settings=SETTINGS,
    operations=tuple(api.routes.rows),
    problems=PROBLEMS,
    tables=TABLES,
    commands={"key usage": ("imserver.features.keys.command", "usage", "Show what a key did.")},
)
