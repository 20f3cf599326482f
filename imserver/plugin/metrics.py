"""The face: rows of ``/metrics``."""

from imserver.metric_table import Metric, counter, gauge

__all__ = [
    "Metric",
    "counter",
    "gauge",
]
