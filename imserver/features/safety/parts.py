"""The parts of safety on one node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from imserver.features.safety.moderation import Moderation
from imserver.features.safety.mutes import Mutes
from imserver.features.safety.removals import Removals
from imserver.features.safety.reports import ReportCommands, Reports
from imserver.features.safety.rows import SafetyRows
from imserver.features.safety.settings import REPORT_SECONDS, REPORTS, USER_REPORTS, rules_of
from imserver.plugin import FeatureParts
from imserver.plugin.identity import Buckets
from imserver.plugin.services import Core

if TYPE_CHECKING:
    from imserver.features.groups.groups import Groups


class SafetyParts(Struct, frozen=True):
    """The services that the routes use. ``groups``: None on a node without them."""

    moderation: Moderation
    removals: Removals
    reports: Reports
    groups: Groups | None


def build(core: Core) -> FeatureParts:
    """Build them."""
    rows = SafetyRows(core.storage.store)
    mutes, removals = Mutes(rows, core), Removals(rows)
    buckets = Buckets(USER_REPORTS, REPORTS, REPORT_SECONDS, core.cluster.attempt)
    tenants = core.identity.tenants
    groups: Groups | None = None
    if "groups" in core.features:
        # Imported here: a node may do without them.
        from imserver.features.groups.parts import groups_of

        groups = groups_of(core)
    reports = Reports(core, buckets, lambda app: rules_of(tenants.get(app)))
    parts = SafetyParts(Moderation(core, mutes, removals), removals, reports, groups)
    return FeatureParts(
        parts,
        ReportCommands(reports).rows(),
        prepare=mutes.load,
        run=(mutes.run, removals.run, reports.run),
        page=Path(__file__).parent / "page",
    )
