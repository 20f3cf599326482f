"""Groups: members with roles, who invite, mute and remove others, and the options of a group.

Membership itself, and what each member reads, are the message log's.
"""

from __future__ import annotations

from imserver.features.groups import api
from imserver.features.groups.declared import SETTINGS, TABLES
from imserver.features.groups.parts import build
from imserver.features.groups.wire import METHODS
from imserver.plugin import FeatureRow

FEATURE = FeatureRow(
    "groups",
    build,
    routes=api.routes.rows,
    wire={"centrifuge": METHODS},
    uses=("messages",),
    settings=SETTINGS,
    tables=TABLES,
)
