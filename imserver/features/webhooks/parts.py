"""The parts of webhooks on one node."""

from __future__ import annotations

from functools import partial
from typing import Final

from imserver.features.webhooks.apps import follow_apps
from imserver.features.webhooks.erasure import erase_user
from imserver.features.webhooks.occupancy import Occupancy
from imserver.features.webhooks.webhooks import QUERY, Webhooks
from imserver.plugin import Answers, FeatureParts
from imserver.plugin.services import Core, Foundation
from imserver.plugin.storage import Erasure

_LAST_SECONDS: Final = 2.0
"""Time limit for sending the last events."""


def webhooks_of(core: Core) -> Webhooks:
    """The webhooks of a node."""
    return core.service(Webhooks)


def answers(base: Foundation) -> Answers:
    """Build what answers the questions of the core, before there are logins."""
    registry = base.cluster.registry
    webhooks = Webhooks(
        base.network.outgoing, base.table.id_of, lambda: registry.lease.node, base.storage.store
    )
    return Answers(reviews=webhooks.reviews, back_ends=webhooks.back_ends, observer=webhooks)


def build(core: Core) -> FeatureParts:
    """Build what uses the services of the core."""
    webhooks = webhooks_of(core)
    core.cluster.queries.add(QUERY, list[str], webhooks.parts_of)
    apps = follow_apps(core.identity.tenants, webhooks)
    registrar = core.channels.registrar
    Occupancy(
        core.channels,
        core.sessions.table.id_of,
        webhooks,
        None if registrar is None else registrar.on_empty,
    )
    if "messages" in core.features:
        _hear_of_stored_messages(core, webhooks)
    return FeatureParts(
        webhooks,
        prepare=apps.prepare,
        reload=apps.reload,
        run=(webhooks.feeds.run, partial(webhooks.run, core.config.storage.expire_seconds)),
        erasure=Erasure(frozenset(), partial(erase_user, core.storage.store), lambda _: None),
        finish=lambda: webhooks.stop(_LAST_SECONDS),
    )


def _hear_of_stored_messages(core: Core, webhooks: Webhooks) -> None:
    # Imported here: a node without stored messages saves the memory.
    from imserver.features.webhooks.absences import Absences
    from imserver.plugin.messages import MessageLog, MessageServices

    store = core.storage.store
    webhooks.feeds.log = store.part(MessageLog)
    Absences(
        webhooks.feeds,
        core.sessions,
        core.cluster.registry.healthy,
        store,
        core.identity.accounts.those_of,
    )
    core.service(MessageServices).observers.append(webhooks)
