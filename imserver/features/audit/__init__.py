"""The audit log: who has changed what, to whom, when and from where, in rows that nobody changes unseen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from imserver.features.audit import api
from imserver.features.audit.audit_log import answers, build
from imserver.features.audit.declared import SETTINGS, TABLES
from imserver.plugin import Feature

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric


def _metrics() -> Sequence[Metric]:
    from imserver.features.audit.metrics import METRICS

    return METRICS


FEATURE = Feature(
    "audit",
    build,
    operations=tuple(api.routes.rows),
    metrics=_metrics,
    answers=answers,
    settings=SETTINGS,
    tables=TABLES,
    commands={
        "audit": ("imserver.features.audit.command", "audit", "List, verify and export the audit log.")
    },
    rows_check=("imserver.features.audit.doctor", "check_rows"),
    exports=("imserver.features.audit.rows", "read"),
    acts=("imserver.features.audit.rows", "store_act"),
)
