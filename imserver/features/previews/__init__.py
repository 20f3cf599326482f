"""Previews of links: title, description and picture of the page that a message links to.

The server fetches the page, never a client, and only from public addresses. A process of its own reads it.
"""

from __future__ import annotations

from pathlib import Path

from imserver.features.previews.api import routes
from imserver.features.previews.declared import SETTINGS, TABLES, PreviewSettings
from imserver.features.previews.previews import Previews
from imserver.plugin import Feature, FeatureParts
from imserver.plugin.runtime import PublicRequests, every
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


def _build(core: Core) -> FeatureParts:
    loopback = settings_of(core.config, PreviewSettings).allow_loopback
    previews = Previews(core, PublicRequests(loopback, pages=True))
    return FeatureParts(
        (previews,),
        reload=previews.configure,
        run=(every(600.0, previews.sweep, "old previews could not be deleted"),),
        page=Path(__file__).parent / "page",
        stop=previews.stop,
    )


FEATURE = Feature(
    "previews",
    _build,
    operations=tuple(routes.rows),
    metrics=("imserver.features.previews.metrics", "METRICS"),
    uses=("messages", "uploads"),
    settings=SETTINGS,
    tables=TABLES,
)
