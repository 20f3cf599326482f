"""The audit log: who has changed what, for whom, when, and from where. A change
of its rows is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.operate.audit import api
from imserver.operate.audit.audit_log import AuditLog, answers, build, offline
from imserver.operate.audit.chain import AuditRow, Name
from imserver.operate.audit.declared import SETTINGS, TABLES
from imserver.plugin import CommandOf, FeatureRow

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric


__all__ = ["FEATURE", "AuditLog", "AuditRow", "Name"]


def metrics() -> tuple[Metric, ...]:
    """The metrics of the audit log, at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    return (
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


FEATURE = FeatureRow(
    "audit",
    build,
    routes=api.routes.rows,
    uses=("accounts?",),
    metrics=metrics,
    answers=answers,
    settings=SETTINGS,
    tables=TABLES,
    commands=(
        CommandOf(
            "audit",
            "imserver.operate.audit.command:audit",
            "List, verify and export the audit log.",
        ),
        CommandOf(
            "rows", "imserver.operate.audit.verification:check_rows", parent="doctor"
        ),
    ),
    offline=offline,
)
