"""The metrics of the audit log."""

from __future__ import annotations

from typing import Any, Final

from imserver.features.audit.audit_log import AuditLog
from imserver.plugin.metrics import Metric


def _log(node: Any) -> AuditLog:
    log: AuditLog = node.service(AuditLog)
    return log


METRICS: Final = (
    Metric(
        "imserver_audit_acts_total",
        "counter",
        "Acts that were stored in the audit log",
        lambda node: _log(node).counts.stored,
    ),
    Metric(
        "imserver_audit_logged_total",
        "counter",
        "Acts that were written to the log, because the database did not store them in time",
        lambda node: _log(node).counts.logged,
    ),
    Metric(
        "imserver_audit_waiting", "gauge", "Acts that wait for the database", lambda node: _log(node).waiting
    ),
)
