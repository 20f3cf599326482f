"""Own emoji of an app: small pictures with names, which people use in texts
(``:party:``) and as reactions.

Messages and reactions contain only the name. Clients draw the picture if the
app has an emoji of this name; other names are text. The pictures are files of
the app, which no user owns, so an emoji stays when the user who has added it is
deleted.
"""

from imserver.media.emoji.api import routes
from imserver.media.emoji.declared import NAME, TABLES
from imserver.media.emoji.emoji import OwnEmoji
from imserver.media.uploads.uploads import Uploads
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    """Make the service of emoji for one node."""
    return Parts((OwnEmoji(core.store, core.service(Uploads)),))


__all__ = ["FEATURE", "NAME", "OwnEmoji"]

FEATURE = FeatureRow(
    "emoji", _build, routes=routes.rows, uses=("uploads",), tables=TABLES
)
