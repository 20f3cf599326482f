"""Previews of links: title, description and picture of the page that a message
links to.

The server fetches the page, never a client, and only from public addresses. A
process of its own reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.media.previews.api import routes
from imserver.media.previews.declared import SETTINGS, TABLES, PreviewSettings
from imserver.media.previews.previews import Previews
from imserver.media.uploads import Uploads
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.runtime import PublicRequests, every
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric


def _build(core: Core) -> Parts:
    loopback = settings_of(core.config, PreviewSettings).allow_loopback
    requests = PublicRequests(loopback, pages=True)
    previews = Previews(core, core.service(Uploads), requests)
    return Parts(
        (previews,),
        configure=previews.configure,
        run=(every(600.0, previews.sweep, "old previews could not be deleted"),),
        stop=previews.stop,
    )


def metrics() -> tuple[Metric, ...]:
    """Its rows of the table of metrics, at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    return (
        *(
            Metric(
                f"imserver_previews_{name}_total",
                "counter",
                text,
                lambda core, name=name: core.service(Previews).counts[name],  # type: ignore[misc]
            )
            for name, text in {
                "made": "Previews of links made",
                "failed": "Links whose page has no preview or could not be fetched",
                "refused": "Links that were not fetched, because there were too many",
            }.items()
        ),
        Metric(
            "imserver_preview_bytes_total",
            "counter",
            "Bytes fetched for previews",
            lambda core: core.service(Previews).fetching.bytes,
        ),
        Metric(
            "imserver_previews_waiting",
            "gauge",
            "Links that wait or are being fetched",
            lambda core: len(core.service(Previews).busy),
        ),
    )


FEATURE = FeatureRow(
    "previews",
    _build,
    routes=routes.rows,
    metrics=metrics,
    uses=("messages", "uploads"),
    settings=SETTINGS,
    tables=TABLES,
)
