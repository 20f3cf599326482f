"""The parts of the audit log on one node."""

from __future__ import annotations

from imserver.features.audit.audit_log import AuditLog
from imserver.features.audit.declared import AuditSettings
from imserver.plugin import Answers, FeatureParts
from imserver.plugin.services import Core, Foundation
from imserver.plugin.settings import settings_of


def answers(base: Foundation) -> Answers:
    """Build what hears of acts."""
    return Answers(observer=AuditLog(base.storage.store, settings_of(base.config, AuditSettings).days))


def build(core: Core) -> FeatureParts:
    """Join it to the core."""
    audit = core.service(AuditLog)
    return FeatureParts(prepare=audit.prepare, run=(audit.run,), finish=audit.finish)
