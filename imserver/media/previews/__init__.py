"""Previews of links: title, description and picture of the page that a message
links to.

The server, and never a client, fetches the page. It fetches pages only from
public addresses. A separate process reads the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

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


_SWEEP_SECONDS: Final = 600.0
"""Time between two deletions of old previews."""
_COUNTS: Final = {
    "made": "Previews of links made",
    "failed": "Links whose page has no preview or could not be fetched",
    "refused": "Links that were not fetched, because there were too many",
}
"""Name of a count → the description of its metric."""


def _build(core: Core) -> Parts:
    """Make the service of previews for one node. Old previews are deleted every
    ten minutes."""
    loopback = settings_of(core.config, PreviewSettings).allow_loopback
    requests = PublicRequests(loopback, pages=True)
    previews = Previews(core, core.service(Uploads), requests)
    sweep = every(_SWEEP_SECONDS, previews.sweep, "old previews could not be deleted")
    return Parts(
        services=(previews,),
        configure=previews.configure,
        run=(sweep,),
        stop=previews.stop,
    )


def _count_of(name: str) -> Callable[[Core], int]:
    """The function that reads a count of a node, for the table of metrics."""
    return lambda core: core.service(Previews).counts[name]


def _bytes_fetched(core: Core) -> int:
    """The bytes that this node has fetched for previews."""
    return core.service(Previews).fetching.bytes


def _waiting(core: Core) -> int:
    """The number of links that wait, or are being fetched."""
    return len(core.service(Previews).busy)


def metrics() -> tuple[Metric, ...]:
    """Rows of the table of metrics. Called at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    return (
        *(
            Metric(f"imserver_previews_{name}_total", "counter", text, _count_of(name))
            for name, text in _COUNTS.items()
        ),
        Metric(
            "imserver_preview_bytes_total",
            "counter",
            "Bytes fetched for previews",
            _bytes_fetched,
        ),
        Metric(
            "imserver_previews_waiting",
            "gauge",
            "Links that wait or are being fetched",
            _waiting,
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
