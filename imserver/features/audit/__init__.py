"""The audit log: who has changed what, to whom, when and from where, in rows that nobody changes unseen."""

from imserver.features.audit import api
from imserver.features.audit.audit_log import answers, build
from imserver.features.audit.declared import SETTINGS, TABLES
from imserver.plugin import Feature

FEATURE = Feature(
    "audit",
    build,
    operations=tuple(api.routes.rows),
    metrics=("imserver.features.audit.metrics", "METRICS"),
    answers=answers,
    settings=SETTINGS,
    tables=TABLES,
    commands={
        "audit": ("imserver.features.audit.command", "audit", "List, verify and export the audit log.")
    },
    rows_check=("imserver.features.audit.verification", "check_rows"),
    exports=("imserver.features.audit.rows", "read"),
    acts=("imserver.features.audit.rows", "store_act"),
)
