"""The metrics of the audit log."""

from __future__ import annotations

from typing import Final

from imserver.features.audit.audit_log import AuditLog
from imserver.plugin.metrics import Metric

METRICS: Final = (
    Metric(
        "imserver_audit_acts_total",
        "counter",
        "Acts that were stored in the audit log",
        lambda core: core.service(AuditLog).stored,
    ),
    Metric(
        "imserver_audit_logged_total",
        "counter",
        "Acts that were written to the log, because the database did not store them in time",
        lambda core: core.service(AuditLog).logged,
    ),
    Metric(
        "imserver_audit_waiting",
        "gauge",
        "Acts that wait for the database",
        lambda core: core.service(AuditLog).waiting,
    ),
)
