"""The face: rows of ``/metrics``."""

from imserver.metric_table import Metric, Read, counter, gauge
from imserver.metrics import Metrics

__all__ = [
    "Metric",
    "Metrics",
    "Read",
    "counter",
    "gauge",
]
