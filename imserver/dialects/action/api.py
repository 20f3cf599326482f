"""The list of rooms of the original of the action dialect."""

from __future__ import annotations

from typing import Final

import msgspec

from imserver.plugin.errors import ReplyCode, reply_text
from imserver.plugin.http import Call, HttpResponse, Route, app_of_rooms, room_id
from imserver.plugin.identity import Needs, Tenants

_encode = msgspec.json.Encoder().encode


def groups_list(tenants: Tenants, call: Call) -> HttpResponse:
    """``GET /user/groupslist``: the rooms of an app that have stored members."""
    tenant = tenants.get(call.app)
    if tenant is None:
        text = _encode(reply_text(ReplyCode.NO_APP))
        return HttpResponse(200, b'{"code":%d,"msg":%b,"data":null}' % (ReplyCode.NO_APP, text))
    rooms = _encode([{"ID": room_id(room)} for room in tenant.room_members])
    return HttpResponse(200, b'{"code":200,"msg":"Success","data":%b}' % rooms)


ROUTES: Final = (
    Route(
        "GET",
        "/user/groupslist",
        Needs.READ_OR_ADDRESS,
        groups_list,
        "any",
        hot=True,
        app_of=app_of_rooms,
        service=lambda core, _: core.identity.tenants,
    ),
)
