"""The metrics of previews."""

from __future__ import annotations

from typing import Final

from imserver.features.previews.previews import Previews
from imserver.plugin.metrics import Metric

METRICS: Final = (
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
        lambda core: core.service(Previews).bytes,
    ),
    Metric(
        "imserver_previews_waiting",
        "gauge",
        "Links that wait or are being fetched",
        lambda core: core.service(Previews).waiting,
    ),
)
