"""The action dialect's routes: who belongs to a room, and which rooms an app has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from imserver.api import cmd
from imserver.api.call import Api, Call, Route, app_named, app_number
from imserver.auth.principal import READ_OR_ADDRESS, READ_OR_VISITOR
from imserver.errors import REPLY_NO_APP, reply_text
from imserver.protocol.action import APP_PREFIX
from imserver.transport.exchange import HttpResponse

FIRST_APP: Final = f"{APP_PREFIX}1"
"""The app of a list that is asked for without naming one."""

_encode = msgspec.json.Encoder().encode


def _app_of(api: Api, params: Mapping[str, str]) -> str:
    number = app_number(params.get("appid", ""))
    return api.services.tenants.resolve(f"{APP_PREFIX}{number}") if number else ""


def _app_of_list(api: Api, params: Mapping[str, str]) -> str:
    if "groupsid" not in params:
        return app_named(api, params.get("appid", ""))
    return _app_of(api, params) or api.services.tenants.resolve(FIRST_APP)


def user_list(api: Api, call: Call) -> HttpResponse:
    """``GET /user/list``: with ``groupsId`` the users who belong to a room, else those of a cmd app.

    Of a large room each answer holds a page; ``next`` is the ``cursor`` of the one that follows.
    """
    room = call.params.get("groupsid")
    if room is None:
        return cmd.user_list(api, call)
    cursor = call.params.get("cursor", "")
    found = api.services.action_service.audience(call.app, room, cursor, cmd.LIST_PAGE)
    data: dict[str, Any] = {"userList": [{"ID": _id(user)} for user in found.users]}
    if found.next:
        data["next"] = found.next
    return _answer(200, "Success", data)


def groups_list(api: Api, call: Call) -> HttpResponse:
    """``GET /user/groupslist``: the rooms of an app that have stored members."""
    if api.services.tenants.get(call.app) is None:
        return _answer(REPLY_NO_APP, reply_text(REPLY_NO_APP), None)
    rooms = api.services.action_service.rooms(call.app)
    return _answer(200, "Success", [{"ID": _id(room)} for room in rooms])


def _answer(code: int, text: str, data: Any) -> HttpResponse:
    return HttpResponse(200, b'{"code":%d,"msg":%b,"data":%b}' % (code, _encode(text), _encode(data)))


def _id(name: str) -> int | str:
    """The id of a user or room as the dialect writes it: a number if it is the plain decimal of one."""
    return int(name) if app_number(name) == name else name


ROUTES: Final = (
    Route("GET", "/user/list", READ_OR_VISITOR, user_list, "any", hot=True, app_of=_app_of_list),
    Route("GET", "/user/groupslist", READ_OR_ADDRESS, groups_list, "any", hot=True, app_of=_app_of),
)
