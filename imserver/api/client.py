"""Routes of the client dialect: ``/api/…``, by which a back end drives the clients of its system.

Every answer is ``{"code","msg","data"}`` with HTTP status 200, code 0 or -1. But what cannot be read is 400,
and a method other than POST is 405, both without a body, as in the original.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any, Final, Generic

import msgspec

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.client_body import (
    B,
    Binding,
    Client,
    Group,
    Membership,
    Push,
    PushToClient,
    PushToClients,
    PushToGroup,
    Reader,
    Registration,
)
from imserver.api.form import BadBody
from imserver.api.reply import Answer, Refused
from imserver.api.route import Route
from imserver.api.style import CLIENT, client_refusal
from imserver.auth.principal import ADMIN, PUSH_OR_ADDRESS, READ_OR_ADDRESS, Need, may
from imserver.auth.tenants import TooManyTenants
from imserver.model import SYSTEM_PREFIX, Event, Outcome
from imserver.protocol.client import message_id
from imserver.services.dialects.clients import BadSystem, Label
from imserver.services.rooms.connections import Joined, Left
from imserver.services.rooms.rooms import RoomRefused

LIST_MEMBERS: Final = 10_000
"""Most clients in one answer of ``/api/get_online_list``."""
_PAGE_MEMBERS: Final = 1000
LABEL_CHARACTERS: Final = 8192
"""Most characters in the ``userId`` and ``extend`` of a client together: they are kept as long as it is."""

_encode = msgspec.json.Encoder().encode

NO_SYSTEM: Final = client_refusal("系统ID不能为空")
UNKNOWN_SYSTEM: Final = client_refusal("系统ID无效")
TAKEN: Final = client_refusal("该系统ID已被注册")
UNAUTHORIZED: Final = client_refusal("未授权")
FAILED: Final = client_refusal("系统错误")
"""A node that is needed does not answer: try again."""
BAD_GROUP: Final = client_refusal("GroupName无效")
TOO_MANY_GROUPS: Final = client_refusal("分组数量已达上限")
TOO_MANY_SYSTEMS: Final = client_refusal("系统数量已达上限")
TOO_MANY_CLIENTS: Final = client_refusal("ClientIds数量超过上限")
TOO_LONG: Final = client_refusal("消息过长")


def success(data: Any) -> Answer:
    """Code 0 with ``data``."""
    return Answer(200, b'{"code":0,"msg":"success","data":%b}' % _encode(data))


DONE: Final = success([])
CLOSED: Final = success({})


# --- who asks, for which system -----------------------------------------------------------------------------


def _system_of(call: Call) -> str:
    assert call.request is not None
    header = call.request.headers.get("systemid", "")
    if not header:
        raise Refused(NO_SYSTEM)
    try:
        # Headers are read as Latin-1; this one is UTF-8 where it is no ASCII.
        return header if header.isascii() else header.encode("latin-1").decode()
    except UnicodeError:
        raise Refused(UNKNOWN_SYSTEM) from None


def _authorise(call: Call, need: Need, app: str) -> None:
    """Refuse a principal who may not do this in ``app``, which stands for itself."""
    if not may(call.principal, need, app):
        raise Refused(UNAUTHORIZED)


def _required(value: str | None, name: str) -> str:
    if not value:
        raise Refused(client_refusal(f"{name}为必填字段"))
    return value


class _Driven(Generic[B]):
    """What every route but register does first: which system, who asks, what the body holds.

    ``function`` gets the app of the system, and the body.
    """

    def __init__(self, need: Need, kind: type[B], function: Callable[[Api, str, B], Answer]) -> None:
        self.need = need
        self._reader = Reader(kind)
        self._function = function

    def __call__(self, api: Api, call: Call) -> Answer:
        clients = api.services.clients
        system = _system_of(call)
        app = clients.app_of(system)
        _authorise(call, self.need, app)
        if not clients.is_registered(system):
            return UNKNOWN_SYSTEM
        return self._function(api, app, self._reader.read(call.body))


# --- telling ------------------------------------------------------------------------------------------------


def _event(api: Api, push: Push) -> Event:
    """What is told. The same event, with the same id, goes to all receivers of a call."""
    text, data = push.payload()
    sender, note = push.send_user_id or "", push.msg or ""
    if len(text) + len(data) + len(sender) + len(note) > api.push_characters:
        raise Refused(TOO_LONG)
    return Event("msg", sender, text, message_id(), "text", data, push.code or 0, note, int(time()))


def _told(event: Event, outcome: Outcome) -> Answer:
    """Whoever is unknown, or not there, is no error; a node that is known not to have got it is one."""
    return FAILED if outcome is Outcome.FAILED else success({"messageId": event.id})


def send_to_client(api: Api, app: str, push: PushToClient) -> Answer:
    """``POST /api/send_to_client``: tell one client."""
    event = _event(api, push)
    client = _required(push.client_id, "ClientId")
    return _told(event, api.services.connections.push(app, client, event))


def send_to_clients(api: Api, app: str, push: PushToClients) -> Answer:
    """``POST /api/send_to_clients``: tell several clients the same."""
    event = _event(api, push)
    if push.client_ids is None:
        raise Refused(client_refusal("ClientIds为必填字段"))
    if len(push.client_ids) > api.batch_targets:
        return TOO_MANY_CLIENTS
    outcomes = api.services.connections.push_each(app, [each or "" for each in push.client_ids], event)
    # Whoever repeats a call would tell those again who have it.
    return FAILED if Outcome.FAILED in outcomes and Outcome.SENT not in outcomes else DONE


def send_to_group(api: Api, app: str, push: PushToGroup) -> Answer:
    """``POST /api/send_to_group``: tell all members of a group."""
    event = _event(api, push)
    group = _required(push.group_name, "GroupName")
    return _told(event, api.services.rooms.publish(app, group, event))


def send_to_system(api: Api, app: str, push: Push) -> Answer:
    """``POST /api/send_to_system``: tell all clients of the system."""
    event = _event(api, push)
    return _told(event, api.services.pushes.spread(app, event))


# --- groups -------------------------------------------------------------------------------------------------


def bind_to_group(api: Api, app: str, binding: Binding) -> Answer:
    """``POST /api/bind_to_group``: put a client into a group, and say who it is."""
    client, group = _required(binding.client_id, "ClientId"), _required(binding.group_name, "GroupName")
    label = Label(binding.user_id or "", binding.extend or "")
    if len(label.user_id) + len(label.extend) > LABEL_CHARACTERS:
        return TOO_LONG
    try:
        joined = api.services.clients.bind(app, client, group, label)
    except RoomRefused:
        return BAD_GROUP
    if joined is Joined.FULL:
        return TOO_MANY_GROUPS
    return FAILED if joined is Joined.FAILED else DONE


def unbind_from_group(api: Api, app: str, membership: Membership) -> Answer:
    """``POST /api/unbind_from_group``: take a client out of a group."""
    client, group = _required(membership.client_id, "ClientId"), _required(membership.group_name, "GroupName")
    return FAILED if api.services.clients.unbind(app, client, group) is Left.FAILED else DONE


def get_online_list(api: Api, app: str, group: Group) -> Answer:
    """``POST /api/get_online_list``: the members of a group in the order of joining.

    ``count`` counts all; the list ends behind :data:`LIST_MEMBERS`.
    """
    name = _required(group.group_name, "GroupName")
    listed: list[str] = []
    after = ""
    while True:
        page = api.services.rooms.members(app, name, after, _PAGE_MEMBERS)
        listed += [member.connection for member in page.members]
        after = page.next
        if not after or len(listed) >= LIST_MEMBERS:
            return success({"count": max(page.total, len(listed)), "list": listed})


def get_client_groups(api: Api, app: str, client: Client) -> Answer:
    """``POST /api/get_client_groups``: the groups of a client in the order of joining."""
    groups = api.services.connections.rooms_of(app, _required(client.client_id, "ClientId")) or []
    return success({"count": len(groups), "list": groups})


# --- clients and systems ------------------------------------------------------------------------------------


def is_online(api: Api, app: str, client: Client) -> Answer:
    """``POST /api/is_online``: whether a client is connected."""
    found = api.services.connections.about(app, [_required(client.client_id, "ClientId")])
    return success({"online": found[0] is not None})


def close_client(api: Api, app: str, client: Client) -> Answer:
    """``POST /api/close_client``: end a client's connection, behind all that it was told before."""
    name = _required(client.client_id, "ClientId")
    outcome = api.services.connections.close(app, name, errors.CLOSE_KICKED)
    return FAILED if outcome is Outcome.FAILED else CLOSED


_read_registration = Reader(Registration).read


def register(api: Api, call: Call) -> Answer:
    """``/api/register``, by any method: make a system, for all nodes and for good."""
    try:
        system = _read_registration(call.body).system_id
    except BadBody:
        _authorise(call, ADMIN, SYSTEM_PREFIX)
        raise
    _authorise(call, ADMIN, api.services.clients.app_of(system or ""))
    try:
        made = api.services.clients.register(_required(system, "SystemId"))
    except BadSystem:
        return UNKNOWN_SYSTEM
    except TooManyTenants:
        return TOO_MANY_SYSTEMS
    return DONE if made else TAKEN


_ANY: Final = ("POST", "GET", "PUT", "PATCH", "DELETE")
_DRIVEN: Final[dict[str, _Driven[Any]]] = {
    "/api/send_to_client": _Driven(PUSH_OR_ADDRESS, PushToClient, send_to_client),
    "/api/send_to_clients": _Driven(PUSH_OR_ADDRESS, PushToClients, send_to_clients),
    "/api/send_to_group": _Driven(PUSH_OR_ADDRESS, PushToGroup, send_to_group),
    "/api/send_to_system": _Driven(PUSH_OR_ADDRESS, Push, send_to_system),
    "/api/bind_to_group": _Driven(PUSH_OR_ADDRESS, Binding, bind_to_group),
    "/api/unbind_from_group": _Driven(PUSH_OR_ADDRESS, Membership, unbind_from_group),
    "/api/get_online_list": _Driven(READ_OR_ADDRESS, Group, get_online_list),
    "/api/get_client_groups": _Driven(READ_OR_ADDRESS, Client, get_client_groups),
    "/api/is_online": _Driven(READ_OR_ADDRESS, Client, is_online),
    "/api/close_client": _Driven(PUSH_OR_ADDRESS, Client, close_client),
}

_KIND: Final[dict[str, Any]] = {"hot": True, "raw": True, "style": CLIENT}

ROUTES: Final = (
    *(
        Route(method, "/api/register", ADMIN, register, "body", hot=True, raw=True, style=CLIENT)
        for method in _ANY
    ),
    *(
        Route("POST", path, row.need, row, "header", hot=True, raw=True, style=CLIENT)
        for path, row in _DRIVEN.items()
    ),
)
"""The system that must be reached stands in the header ``SystemId``, of a registration in the body."""
