"""The action dialect, in which users send messages to one other user, or to a
room."""

from typing import Final

import msgspec

from imserver.dialects.action.acks import ActionAcks
from imserver.dialects.action.service import ActionService
from imserver.dialects.action.wire import DIALECT
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.errors import ReplyCode, reply_text
from imserver.plugin.http import Call, HttpResponse, NumberedRooms, Route
from imserver.plugin.identity import Needs, Tenants
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    """Make the services of the dialect for one node.

    On a node without stored messages, absent users get nothing, and clients
    cannot acknowledge.
    """
    messaging = None
    messages = None
    if "messages" in core.features:
        # These imports are here because the modules import the messenger.
        from imserver.dialects.action.stored import ActionMessages
        from imserver.plugin.messages import MessageServices

        messaging = core.service(MessageServices).messaging
        messages = ActionMessages(messaging, core.store)
    acks = ActionAcks(core, messaging)
    # Unacknowledged messages wait for the next session of their user.
    core.hub.report_to(acks.clear)
    core.tenants.report_to(acks.forget)
    service = ActionService(core, messages, acks)
    return Parts(
        commands=service.commands(),
        opened={DIALECT.name: service.opened},
        ended=(acks.ended,),
    )


def groups_list(tenants: Tenants, call: Call) -> HttpResponse:
    """``GET /user/groupslist``: the rooms of an app that have stored members.

    The answer has the form that old pages expect:
    ``{"code":200,"msg":"Success","data":[{"ID":7}]}``. For an unknown app, the
    answer has a code in this form, too, and not a status of HTTP.
    """
    tenant = tenants.get(call.app)
    if tenant is None:
        # Old pages expect an unknown app in the body, and not as a status.
        text = msgspec.json.encode(reply_text(ReplyCode.NO_APP))
        return HttpResponse(
            200, b'{"code":%d,"msg":%b,"data":null}' % (ReplyCode.NO_APP, text)
        )
    rooms = msgspec.json.encode(
        [{"ID": NumberedRooms.id_of(room)} for room in tenant.room_members]
    )
    return HttpResponse(200, b'{"code":200,"msg":"Success","data":%b}' % rooms)


ROUTES: Final = (
    Route(
        "GET",
        "/user/groupslist",
        Needs.READ_OR_ADDRESS,
        groups_list,
        "any",
        hot=True,
        app_of=NumberedRooms.app_of,
        service=lambda core, _: core.tenants,
    ),
)

FEATURE = FeatureRow("action", _build, (DIALECT,), ROUTES, uses=("messages?",))
