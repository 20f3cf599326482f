"""The parts of the audit log on one node."""

from __future__ import annotations

from typing import Any, Final

from imserver.features.audit.audit_log import AuditLog
from imserver.features.audit.declared import AuditSettings
from imserver.plugin import Answers, FeatureParts
from imserver.plugin.metrics import Metric
from imserver.plugin.services import Core, Foundation
from imserver.plugin.settings import settings_of


def answers(base: Foundation) -> Answers:
    """Build what hears of acts."""
    return Answers(observer=AuditLog(base.storage.store, settings_of(base.config, AuditSettings).days))


def build(core: Core) -> FeatureParts:
    """Join it to the core."""
    audit = core.service(AuditLog)
    return FeatureParts(prepare=audit.prepare, run=(audit.run,), finish=audit.finish)


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
