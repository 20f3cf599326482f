"""The parts of webhooks on one node."""

from __future__ import annotations

from typing import Final

from imserver.features.webhooks.absences import Absences
from imserver.features.webhooks.apps import follow_apps
from imserver.features.webhooks.occupancy import Occupancy
from imserver.features.webhooks.webhooks import Webhooks
from imserver.plugin import FeatureParts, Hooks
from imserver.plugin.services import Core

_LAST_SECONDS: Final = 2.0
"""Time limit for sending the last events."""


def webhooks_of(core: Core) -> Webhooks:
    """The webhooks of a node."""
    webhooks: Webhooks = core.features["webhooks"].service
    return webhooks


def hooks(core: Core) -> Hooks:
    """Build what answers the questions of the core, before there are logins."""
    webhooks = Webhooks(core.outgoing, core.table.id_of, lambda: core.registry.lease.node, core.store)
    return Hooks(webhooks.reviews, webhooks.back_ends, webhooks)


def build(core: Core) -> FeatureParts:
    """Build what uses the services of the core."""
    webhooks = core.observer
    assert isinstance(webhooks, Webhooks)
    apps = follow_apps(core.tenants, webhooks)
    registrar = None if core.cluster is None else core.cluster.registrar
    Occupancy(core.channels, core.table, webhooks, registrar)
    Absences(webhooks.feeds, core.presence, core.registry, core.store, core.accounts)
    return FeatureParts(
        webhooks,
        prepare=apps.prepare,
        reload=apps.reload,
        run=(webhooks.feeds.run,),
        finish=lambda: webhooks.stop(_LAST_SECONDS),
    )
