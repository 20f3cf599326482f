"""Own emoji of an app: small pictures with names, which people use in texts
(``:party:``) and as reactions.

Messages and reactions have the name alone. Clients draw the picture of a name
that the app has; any other name is text. The pictures are files of the app,
which no user owns, so an emoji outlasts who has added it.
"""

from imserver.media.emoji.api import routes
from imserver.media.emoji.declared import NAME, TABLES
from imserver.media.emoji.emoji import OwnEmoji
from imserver.media.uploads.uploads import Uploads
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    return Parts((OwnEmoji(core.store, core.service(Uploads)),))


__all__ = ["FEATURE", "NAME", "OwnEmoji"]

FEATURE = FeatureRow(
    "emoji", _build, routes=routes.rows, uses=("uploads",), tables=TABLES
)
