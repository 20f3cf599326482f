"""Groups: their options, and their members with roles, who can invite, mute and
remove others.

The message log stores the memberships, and decides what each member may read.
"""

from imserver.messenger.groups import api
from imserver.messenger.groups.declared import SETTINGS, TABLES
from imserver.messenger.groups.parts import build
from imserver.messenger.groups.wire import METHODS
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
