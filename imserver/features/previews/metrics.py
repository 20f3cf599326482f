"""The metrics of previews."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from imserver.features.previews.previews import Previews
from imserver.plugin.metrics import Metric


def _read(function: Callable[[Previews], int]) -> Callable[[Any], int]:
    return lambda core: function(core.service(Previews))


METRICS: Final = (
    Metric(
        "imserver_previews_made_total",
        "counter",
        "Previews of links made",
        _read(lambda p: p.counters.previews),
    ),
    Metric(
        "imserver_previews_failed_total",
        "counter",
        "Links whose page has no preview or could not be fetched",
        _read(lambda p: p.counters.failed),
    ),
    Metric(
        "imserver_previews_refused_total",
        "counter",
        "Links that were not fetched, because there were too many",
        _read(lambda p: p.counters.refused),
    ),
    Metric("imserver_preview_bytes_total", "counter", "Bytes fetched for previews", _read(lambda p: p.bytes)),
    Metric(
        "imserver_previews_waiting",
        "gauge",
        "Links that wait or are being fetched",
        _read(lambda p: p.waiting),
    ),
)
