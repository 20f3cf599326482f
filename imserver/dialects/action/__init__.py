"""The dialect of the original whose users send messages to one other user, or to a room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imserver.dialects.action import api
from imserver.dialects.action.acks import ActionAcks
from imserver.dialects.action.service import ActionMessages, ActionService
from imserver.dialects.action.wire import DIALECT
from imserver.plugin import Feature, FeatureParts
from imserver.plugin.services import Core


def _build(core: Core) -> FeatureParts:
    def members(app: str) -> Mapping[str, Sequence[str]]:
        tenant = core.tenants.get(app)
        return {} if tenant is None else tenant.room_members

    acks = ActionAcks(
        core.reach,
        core.pending,
        core.messaging.catch_up,
        core.messaging.ack_tracker,
        core.node_messages,
    )
    if core.cluster is not None:
        core.cluster.rerouting.on_unreached.append(acks.unreached)
    # Before the pending pushes: a message to an awaited user would become one.
    on_delete = core.tenants.on_delete
    on_delete.insert(on_delete.index(core.pending.forget), acks.forget)
    service = ActionService(
        core.hub,
        core.sessions,
        core.channels,
        members,
        core.config.hub.notice_members,
        ActionMessages(core.messaging, core.store),
        core.reviews,
        core.observer,
        acks,
        core.relations,
    )
    return FeatureParts(
        commands=service.rows(),
        opened={DIALECT.name: service.opened},
        ended=(acks.ended,),
        forgotten=(acks.clear,),
    )


FEATURE = Feature("action", _build, (DIALECT,), api.ROUTES)
