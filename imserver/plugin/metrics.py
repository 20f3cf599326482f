"""The face: rows of ``/metrics``."""

from imserver.metric_table import Metric as Metric
