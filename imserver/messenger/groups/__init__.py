"""Groups: members with roles, who invite, mute and remove others, and the
options of a group.

Membership itself, and what each member reads, are the message log's.
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
