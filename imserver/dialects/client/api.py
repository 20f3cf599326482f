"""Routes of the client dialect: by ``/api/…`` a back end controls the clients
of its system.

Every answer is ``{"code","msg","data"}`` with HTTP status 200 and code 0 or -1.
The answer to an unreadable body is 400, and the answer to a method other than
POST is 405. Both have no body, as in the original.
"""

from collections.abc import Callable
from time import time
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from imserver.dialects.client.service import ClientService, Label
from imserver.dialects.client.wire import message_id
from imserver.plugin.errors import CloseCode, HttpProblem, Problems, ServiceRefused
from imserver.plugin.http import (
    PROBLEM,
    Api,
    BadBody,
    Call,
    HttpRequest,
    HttpResponse,
    RequestRefused,
    Route,
)
from imserver.plugin.identity import Needs
from imserver.plugin.services import ChannelRefused, Core, Joined, Left
from imserver.plugin.wire import Event, Outcome

Code = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class ClientBody(Struct, rename="camel", forbid_unknown_fields=True):
    """The fields of the body of one route, in camel case.

    Fields of the type ``str | None`` without a default value are required:
    their route refuses a body without them.
    """


class RegisterBody(ClientBody):
    """The name of the system to register."""

    system_id: str | None = None


class Client(ClientBody):
    """The id of one client."""

    client_id: str | None = None


class GroupBody(ClientBody):
    """The name of one group. Clients of the original send more fields, which
    are ignored."""

    group_name: str | None = None


class MembershipBody(Client):
    """A client and a group."""

    group_name: str | None = None


class Binding(MembershipBody):
    """A client, a group to join, and the label that the client gets."""

    user_id: str | None = None
    extend: str | None = None


class Push(ClientBody):
    """The content of a push.

    ``data`` is unchanged JSON: a string, an array or an object. ``code`` and
    ``msg`` are passed on to the receivers.
    """

    send_user_id: str | None = None
    code: Code | None = None
    msg: str | None = None
    data: Raw = Raw(b"")

    def payload(self) -> tuple[str, bytes]:
        """The text and the JSON of ``data``. One of the two is empty.

        A string becomes the text, and an array or object stays JSON. Raises
        :class:`BadBody` for any other type.
        """
        raw = bytes(self.data)
        try:
            if raw[:1] == b'"':
                return msgspec.json.decode(raw, type=str), b""
            if raw in (b"", b"null"):
                return "", b""
            if raw[:1] not in b"[{":
                raise BadBody("data is neither a string nor an array or object")
            # The JSON is not decoded any further, but must be UTF-8.
            raw.decode()
        except ValueError as error:
            raise BadBody(str(error)) from None
        return "", raw


class PushToClient(Push):
    client_id: str | None = None


class PushToClients(Push):
    client_ids: list[str | None] | None = None


class PushToGroup(Push):
    group_name: str | None = None


B = TypeVar("B", bound=ClientBody)

MOST_VALUES: Final = 240_000
"""The most values in a body: a message has at most 131,072 characters, and goes
to at most 10,000 clients."""


class BodyReader(Generic[B]):
    """Decodes the bodies of one kind, with any spelling of their names.

    ``most_values``: the most values in a body.
    """

    most_values = MOST_VALUES

    def __init__(self, kind: type[B]) -> None:
        """Decode bodies of this ``kind``. ``_names`` has the name of each field
        in lower case → its name."""
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        self._names = {name.lower(): name for name in kind.__struct_encode_fields__}

    def read(self, call: Call) -> B:
        """Decode the body of a request.

        Raises :class:`BadBody` if it is not a JSON object, or if a type is
        wrong.
        """
        call.require_few_values(call.body, self.most_values)
        try:
            return self._decode(call.body)
        except (ValueError, RecursionError):
            pass
        return self._read_other_spelling(call)

    def _read_other_spelling(self, call: Call) -> B:
        """Decode a body with other spellings of the names, or with unknown
        fields. This is slower, and such bodies are few. Raises BadBody."""
        fields: dict[str, Any] = {
            self._names[key]: value
            for key, value in call.json_object().items()
            if key in self._names
        }
        try:
            # The content of a push stays JSON, and is not decoded any further.
            if "data" in fields:
                fields["data"] = Raw(msgspec.json.encode(fields["data"]))
            return msgspec.convert(fields, self._kind)
        except (ValueError, OverflowError, RecursionError) as error:
            raise BadBody(str(error)) from None


LIST_MEMBERS: Final = 10_000
"""Limit of the clients in one answer of ``/api/get_online_list``."""
LABEL_CHARACTERS: Final = 8192
"""Longest label in characters. The server keeps it as long as the client is
connected."""
_PAGE: Final = 1000
_NOT_ADMITTED: Final = (401, 403)
"""Statuses of requests whose key is missing or not sufficient."""


def client_refusal(text: str) -> HttpResponse:
    """An answer with code -1 and a text, which the back end may show."""
    body = b'{"code":-1,"msg":%b,"data":[]}' % msgspec.json.encode(text)
    return HttpResponse(200, body, refuses=True)


UNAUTHORIZED: Final = client_refusal("未授权")
UNKNOWN_SYSTEM: Final = client_refusal("系统ID无效")
TAKEN: Final = client_refusal("该系统ID已被注册")
FAILED: Final = client_refusal("系统错误")
"""The answer if a required node does not answer: the back end should try
again."""
TOO_MANY_SYSTEMS: Final = client_refusal("系统数量已达上限")
TOO_LONG: Final = client_refusal("消息过长")


def _refuse(
    problem: HttpProblem, _request: HttpRequest, _detail: str = ""
) -> HttpResponse:
    """Answer a refused request with code -1 in the body.

    The statuses 400 and 405 have no body (docs/reference/client-dialect.md).
    """
    if problem.status in _NOT_ADMITTED:
        return UNAUTHORIZED
    if problem.status >= 429:
        return FAILED
    if problem.status == 405:
        return HttpResponse(405, b"")
    return HttpResponse(400, b"")


class ClientApi(Struct, frozen=True):
    """The services that the routes of this API use."""

    service: ClientService
    core: Core
    http: Api


def success(data: Any) -> HttpResponse:
    """An answer with code 0 and ``data``."""
    return HttpResponse(
        200, b'{"code":0,"msg":"success","data":%b}' % msgspec.json.encode(data)
    )


DONE: Final = success([])


# --- who asks, for which system -----------------------------------------------


def _required(value: str | None, name: str) -> str:
    """The value of a required field. Raises RequestRefused if it is missing or
    empty. ``name`` is its name in the error."""
    if not value:
        raise RequestRefused(client_refusal(f"{name}为必填字段"))
    return value


def _read_system(api: ClientApi, call: Call) -> None:
    """Store the system of a request in ``call.input``, and its app in
    ``call.app``.

    The header ``SystemId`` names it. Raises RequestRefused.
    """
    header = call.request.headers.get("systemid", "")
    if not header:
        raise RequestRefused(client_refusal("系统ID不能为空"))
    try:
        # Headers are decoded as Latin-1. If this one is not ASCII, it is UTF-8.
        if header.isascii():
            call.input = header
        else:
            call.input = header.encode("latin-1").decode()
    except UnicodeError:
        raise RequestRefused(UNKNOWN_SYSTEM) from None
    call.app = api.service.app_of(call.input)


def _route_for_system(
    kind: type[B], function: Callable[[ClientApi, str, B], HttpResponse]
) -> Callable[[ClientApi, Call], HttpResponse]:
    """Make the function of a route for one system, from a function that gets
    the decoded body.

    ``kind``: the body of the route. ``function`` is called with the API, the
    app of the system, and the body. All routes except register are made so.
    """
    read = BodyReader(kind).read

    def run(api: ClientApi, call: Call) -> HttpResponse:
        """Check the system, decode the body, and call the function."""
        if not api.service.is_registered(call.input):
            return UNKNOWN_SYSTEM
        body = read(call)
        call.input = body
        return function(api, call.app, body)

    return run


# --- pushing ------------------------------------------------------------------


def _event(api: ClientApi, app: str, push: Push) -> Event:
    """The event of a push, after the check of quota and length.

    All receivers of a call get this one event, with one id. Raises
    RequestRefused and BadBody.
    """
    api.core.metrics.pushes.require(app)
    text, data = push.payload()
    sender = push.send_user_id or ""
    note = push.msg or ""

    # All parts count, because each of them is sent to each receiver.
    size = len(text) + len(data) + len(sender) + len(note)
    if size > api.http.limits.push_characters:
        raise RequestRefused(TOO_LONG)
    return Event(
        kind="msg",
        sender=sender,
        text=text,
        id=message_id(),
        type="text",
        data=data,
        code=push.code or 0,
        note=note,
        time=int(time()),
    )


def _push_answer(event: Event, outcome: Outcome) -> HttpResponse:
    """The answer to a push.

    An unknown or absent receiver is not an error. It is an error if a node has
    certainly not received the push.
    """
    if outcome in (Outcome.FAILED, Outcome.REFUSED):
        return FAILED
    return success({"messageId": event.id})


def send_to_client(api: ClientApi, app: str, push: PushToClient) -> HttpResponse:
    """``POST /api/send_to_client``: push to one client. May switch
    greenlets."""
    event = _event(api, app, push)
    client = _required(push.client_id, "ClientId")
    return _push_answer(event, api.core.connections.push(app, client, event))


def send_to_clients(api: ClientApi, app: str, push: PushToClients) -> HttpResponse:
    """``POST /api/send_to_clients``: push to several clients.

    The answer is an error only if no client has received the push, so that the
    back end may repeat it. May switch greenlets.
    """
    event = _event(api, app, push)
    if push.client_ids is None:
        raise RequestRefused(client_refusal("ClientIds为必填字段"))
    if len(push.client_ids) > api.http.limits.batch_targets:
        return client_refusal("ClientIds数量超过上限")
    outcomes = [
        api.core.connections.push(app, each or "", event) for each in push.client_ids
    ]
    # After an error the back end repeats the call, which would deliver again to
    # clients that have received the push.
    if Outcome.FAILED in outcomes and Outcome.SENT not in outcomes:
        return FAILED
    return DONE


def send_to_group(api: ClientApi, app: str, push: PushToGroup) -> HttpResponse:
    """``POST /api/send_to_group``: push to all members of a group."""
    event = _event(api, app, push)
    group = _required(push.group_name, "GroupName")
    return _push_answer(event, api.http.channels.publishing.publish(app, group, event))


def send_to_system(api: ClientApi, app: str, push: Push) -> HttpResponse:
    """``POST /api/send_to_system``: push to all clients of the system."""
    event = _event(api, app, push)
    return _push_answer(event, api.core.reach.to_app(app, event))


# --- groups -------------------------------------------------------------------


def bind_to_group(api: ClientApi, app: str, binding: Binding) -> HttpResponse:
    """``POST /api/bind_to_group``: put a client into a group, and set its
    label. May switch greenlets."""
    client = _required(binding.client_id, "ClientId")
    group = _required(binding.group_name, "GroupName")
    label = Label(binding.user_id or "", binding.extend or "")
    # A node keeps the label in memory for as long as the client is connected.
    if len(label.user_id) + len(label.extend) > LABEL_CHARACTERS:
        return TOO_LONG
    try:
        joined = api.service.bind(app, client, group, label)
    except ChannelRefused:
        return client_refusal("GroupName无效")
    return _answer_to_joined(joined)


def _answer_to_joined(joined: Joined) -> HttpResponse:
    """The answer to a request that puts a client into a group."""
    if joined is Joined.FULL:
        return client_refusal("分组数量已达上限")
    if joined is Joined.FAILED:
        return FAILED
    return DONE


def unbind_from_group(
    api: ClientApi, app: str, membership: MembershipBody
) -> HttpResponse:
    """``POST /api/unbind_from_group``: take a client out of a group. It is no
    error if the client is not in the group. May switch greenlets."""
    client = _required(membership.client_id, "ClientId")
    group = _required(membership.group_name, "GroupName")
    if api.service.unbind(app, client, group) is Left.FAILED:
        return FAILED
    return DONE


def get_online_list(api: ClientApi, app: str, group: GroupBody) -> HttpResponse:
    """``POST /api/get_online_list``: list the members of a group in the order
    of joining.

    ``count`` counts all members; the list has at most :data:`LIST_MEMBERS`. May
    switch greenlets.
    """
    name = _required(group.group_name, "GroupName")
    listed: list[str] = []
    next_page = ""
    while True:
        # ``page.next`` is "" after the last page.
        page = api.http.channels.members.page(app, name, next_page, _PAGE)
        listed += [member.connection for member in page.members]
        next_page = page.next
        if not next_page or len(listed) >= LIST_MEMBERS:
            return success({"count": max(page.total, len(listed)), "list": listed})


def get_client_groups(api: ClientApi, app: str, client: Client) -> HttpResponse:
    """``POST /api/get_client_groups``: list the groups of a client in the order
    of joining. An unknown client has no groups. May switch greenlets."""
    client_id = _required(client.client_id, "ClientId")
    (row,) = api.core.connections.about(app, [client_id])
    groups = () if row is None else row.channels
    return success({"count": len(groups), "list": groups})


# --- clients and systems ------------------------------------------------------


def is_online(api: ClientApi, app: str, client: Client) -> HttpResponse:
    """``POST /api/is_online``: whether a client is connected. May switch
    greenlets."""
    client_id = _required(client.client_id, "ClientId")
    (row,) = api.core.connections.about(app, [client_id])
    return success({"online": row is not None})


def close_client(api: ClientApi, app: str, client: Client) -> HttpResponse:
    """``POST /api/close_client``: close a client's connection.

    Pushes that were sent before reach the client first. May switch greenlets.
    """
    client_id = _required(client.client_id, "ClientId")
    outcome = api.core.connections.close(app, client_id, CloseCode.KICKED)
    if outcome is Outcome.FAILED:
        return FAILED
    return success({})


_registrations: Final = BodyReader(RegisterBody)


def _read_new_system(api: ClientApi, call: Call) -> None:
    """Store the name of the system to register in ``call.input``, and its app
    in ``call.app``."""
    call.input = _registrations.read(call).system_id
    call.app = api.service.app_of(call.input or "")


def register(api: ClientApi, call: Call) -> HttpResponse:
    """``/api/register``, by any method: register a system permanently, for all
    nodes. May switch greenlets."""
    system = _required(call.input, "SystemId")
    if not api.service.is_name(system):
        return UNKNOWN_SYSTEM
    try:
        is_new = api.service.register(system)
    except ServiceRefused as error:
        if error.problem is Problems.TOO_MANY_APPS:
            return TOO_MANY_SYSTEMS
        return TAKEN
    if is_new:
        return DONE
    return TAKEN


_ROW: Final[dict[str, Any]] = {
    "app": "named",
    "hot": True,
    "style": replace(
        PROBLEM, refuse=_refuse, everywhere=True, options=HttpResponse(405, b"")
    ),
    "service": lambda core, api: ClientApi(core.service(ClientService), core, api),
}
_DRIVEN: Final[dict[str, Any]] = {"read": _read_system, **_ROW}
_PUSH = Needs.PUSH_OR_ADDRESS
_READ = Needs.READ_OR_ADDRESS

ROUTES: Final = (
    *(
        Route(
            each,
            "/api/register",
            Needs.ADMIN,
            register,
            read=_read_new_system,
            act="apps.create",
            **_ROW,
        )
        for each in ("POST", "GET", "PUT", "PATCH", "DELETE", "OPTIONS")
    ),
    Route(
        "POST",
        "/api/send_to_client",
        _PUSH,
        _route_for_system(PushToClient, send_to_client),
        **_DRIVEN,
    ),
    Route(
        "POST",
        "/api/send_to_clients",
        _PUSH,
        _route_for_system(PushToClients, send_to_clients),
        takes_many=True,
        **_DRIVEN,
    ),
    Route(
        "POST",
        "/api/send_to_group",
        _PUSH,
        _route_for_system(PushToGroup, send_to_group),
        **_DRIVEN,
    ),
    Route(
        "POST",
        "/api/send_to_system",
        _PUSH,
        _route_for_system(Push, send_to_system),
        **_DRIVEN,
    ),
    Route(
        "POST",
        "/api/bind_to_group",
        _PUSH,
        _route_for_system(Binding, bind_to_group),
        **_DRIVEN,
    ),
    Route(
        "POST",
        "/api/unbind_from_group",
        _PUSH,
        _route_for_system(MembershipBody, unbind_from_group),
        **_DRIVEN,
    ),
    Route(
        "POST",
        "/api/get_online_list",
        _READ,
        _route_for_system(GroupBody, get_online_list),
        **_DRIVEN,
    ),
    Route(
        "POST",
        "/api/get_client_groups",
        _READ,
        _route_for_system(Client, get_client_groups),
        **_DRIVEN,
    ),
    Route(
        "POST", "/api/is_online", _READ, _route_for_system(Client, is_online), **_DRIVEN
    ),
    Route(
        "POST",
        "/api/close_client",
        _PUSH,
        _route_for_system(Client, close_client),
        act="disconnect",
        **_DRIVEN,
    ),
)
"""The header ``SystemId`` names the system; in a registration, the body
does."""
