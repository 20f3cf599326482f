"""The face: rows of ``/metrics``."""

from imserver.gateway.metric_table import Metric as Metric
