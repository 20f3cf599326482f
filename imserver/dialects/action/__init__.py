"""The dialect of the original whose users send messages to one other user, or to a room."""

from __future__ import annotations

from imserver.dialects.action import api
from imserver.dialects.action.acks import ActionAcks
from imserver.dialects.action.service import ActionService
from imserver.dialects.action.wire import DIALECT
from imserver.plugin import DialectParts, Feature, FeatureParts
from imserver.plugin.services import Core


def _build(core: Core) -> FeatureParts:
    messaging, messages = None, None
    if "messages" in core.features:
        # They import the messenger.
        from imserver.dialects.action.stored import ActionMessages
        from imserver.plugin.messages import MessageServices

        messaging = core.service(MessageServices).messaging
        messages = ActionMessages(messaging, core.storage.store)
    acks = ActionAcks(core.push, messaging, core.cluster)
    core.network.forgotten.insert(-1, acks.clear)  # channels are left last
    core.identity.tenants.on_delete.append(acks.forget)
    service = ActionService(core, messages, acks)
    return FeatureParts(
        commands=service.rows(),
        dialects={DIALECT.name: DialectParts(service.opened)},
        ended=(acks.ended,),
    )


FEATURE = Feature("action", _build, (DIALECT,), api.ROUTES, uses=("messages?",))
