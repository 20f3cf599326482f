"""What users of each dialect and route may send at most: one row for each command and each route.

A test proves that no command, operation or route of the server is without a row. The operations of the API
get theirs from the OpenAPI document of the server under attack: the example of the document, grown to its
limits, and then as many examples as fit one read.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import urlencode

from bench.frames import client_frame
from bench.loop import Json
from bench.protobuf import field, input_frame, login_frame

FULL_BYTES: Final = 65_536
"""A message, and what one read of the attacks on HTTP has."""
MOST_COMMANDS: Final = 2_000
"""In one frame of the centrifuge dialect."""
MOST_TARGETS: Final = 10_000
CHANNEL: Final = "demo:lobby"
"""A channel with history, presence, notices, and publications of its subscribers, as in demo mode."""
USER, OTHER = "mallory", "bob"
_LONG = "x" * 1_000
_ABOUT = {"id": 1, "conversation": 1}

STORED: Final[Mapping[str, Json]] = {
    "send": {"to": OTHER, "text": _LONG},
    "recall": {"id": 1},
    "edit": {"id": 1, "text": _LONG},
    "press": {"id": 1, "value": "x"},
    "sync": {"cursor": 0, "limit": 1_000},
    "history": {"conversation": 1, "limit": 1_000},
    "conversations": {"limit": 1_000},
    "read": _ABOUT,
    "hide": {"ids": [*range(1, 101)]},
    "ack": {"id": 1},
    "react": {"id": 1, "emoji": "👍"},
    "pin": {"id": 1},
    "pins": {"conversation": 1},
    "received": _ABOUT,
    "receipts": {"conversation": 1, "limit": 1_000},
    "marks": {"version": 0},
    "typing": {"to": OTHER},
    "search": {"text": "x", "limit": 1_000},
    "streamOpen": {"to": OTHER, "text": _LONG},
    "streamAppend": {"pieces": [{"stream": "x", "piece": number, "text": "x"} for number in range(1, 101)]},
    "streamClose": {"stream": "x"},
    "botCommands": {"conversation": 1},
}
"""Commands on messages → their data. In the centrifuge dialect they are methods of ``rpc``."""
GROUPS: Final[Mapping[str, Json]] = {
    "createGroup": {"name": "x" * 100, "members": [str(number) for number in range(1, 101)]},
    "groups": {"limit": 1_000},
    "groupMembers": {"group": "1", "limit": 1_000},
    "inviteToGroup": {"group": "1", "members": [str(number) for number in range(1, 101)]},
    "joinGroup": {"group": "1"},
    "leaveGroup": {"group": "1"},
}
CMD: Final[Mapping[str, Json | None]] = {
    "login": {"userID": USER, "app": "default"},
    "heartbeat": {"userID": USER},
    "ping": None,
    **STORED,
    "subscribe": {"channel": CHANNEL, "epoch": "", "offset": 0},
    "unsubscribe": {"channel": CHANNEL},
    "publish": {"channel": CHANNEL, "text": _LONG},
    "channelPresence": {"channel": CHANNEL, "limit": 1_000},
    "channelHistory": {"channel": CHANNEL, "limit": 1_000},
}
CENTRIFUGE: Final[Mapping[str, Json]] = {
    "connect": {"token": "x.y.z"},
    "subscribe": {"channel": CHANNEL, "recover": True},
    "unsubscribe": {"channel": CHANNEL},
    "publish": {"channel": CHANNEL, "data": _LONG},
    "presence": {"channel": CHANNEL},
    "presence_stats": {"channel": CHANNEL},
    "history": {"channel": CHANNEL, "limit": -1},
    "rpc": {"method": "no such method", "data": {}},
    "refresh": {"token": "x.y.z"},
    "sub_refresh": {"channel": CHANNEL, "token": "x.y.z"},
    "ping": {},
    "send": {"data": _LONG},
    **{f"rpc {name}": {"method": name, "data": data} for name, data in {**STORED, **GROUPS}.items()},
}
ACTION: Final[Mapping[str, Json]] = {
    "login": {"userId": USER, "appId": 1, "groupsId": "1"},
    "heartbeat": {"userId": USER},
    "sendmsg": {"msgType": "text", "message": _LONG, "userId": USER, "appId": 1, "groupsId": "1"},
    "ack": {"ackId": 1},
}
PUSHER: Final[Mapping[str, Json]] = {
    "pusher:subscribe": {"channel": "lobby"},
    "pusher:unsubscribe": {"channel": "lobby"},
    "pusher:signin": {"auth": "key:0", "user_data": json.dumps({"id": USER})},
    "pusher:ping": {},
    "client-typing": {"text": _LONG},
}
PROTOBUF: Final[Mapping[str, tuple[int, bytes]]] = {
    "login": (1, field(0x0A, b"x.y.z")),
    "heartbeat": (2, b""),
    "message": (3, field(0x2A, _LONG.encode())),
    "ack": (4, b"\x08\x01"),
    "sync": (5, b"\x08\x00\x10\x64"),
    "read": (6, b"\x08\x01\x10\x01"),
    "received": (7, b"\x08\x01\x10\x01"),
    "typing": (8, b"\x08\x01"),
    "hide": (9, field(0x0A, bytes(range(1, 101)))),
    "history": (10, b"\x08\x01"),
    "conversations": (11, b"\x08\x00"),
    "receipts": (12, b"\x08\x01"),
    "marks": (13, b"\x08\x00"),
    "search": (14, field(0x0A, b"x")),
}
"""Command → its number and data."""
COMMANDS: Final[Mapping[str, Mapping[str, object]]] = {
    "cmd": CMD,
    "centrifuge": CENTRIFUGE,
    "action": ACTION,
    "pusher": PUSHER,
    "protobuf": PROTOBUF,
    "client": {},
}
"""Dialect → its commands. Clients of the client dialect send none."""
PATHS: Final[Mapping[str, str]] = {
    "cmd": "/acc",
    "centrifuge": "/connection/websocket",
    "action": "/ws?uid=1",
    "pusher": "/app/bench?protocol=7",
    "protobuf": "/ws",
}


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _cmd(name: str, data: object) -> bytes:
    return _compact({"seq": "1", "cmd": name, "data": data})


def _centrifuge(name: str, data: object) -> bytes:
    return _compact({"id": 3, name.partition(" ")[0]: data})


def _filled(frame: bytes) -> bytes:
    return frame * max(1, FULL_BYTES // len(frame))


def frames_of(dialect: str, name: str, token: str) -> bytes:
    """A login (``token``: of an account), a subscription where there are some, and a command until a message
    or a read is full.
    """
    data = COMMANDS[dialect][name]
    if dialect == "cmd":
        begin = (_cmd("login", CMD["login"]), _cmd("subscribe", {"channel": CHANNEL}))
        return b"".join(map(client_frame, begin)) + _filled(client_frame(_cmd(name, data)))
    if dialect == "centrifuge":
        begin_lines = [_centrifuge("connect", {}), _centrifuge("subscribe", {"channel": CHANNEL})]
        command = _centrifuge(name, data)
        if name in ("subscribe", "unsubscribe"):
            # In turn, so that each is a new one.
            command = _centrifuge("unsubscribe", {"channel": CHANNEL}) + b"\n"
            command += _centrifuge("subscribe", CENTRIFUGE["subscribe"])
        count = min(MOST_COMMANDS // (1 + command.count(b"\n")), FULL_BYTES // (len(command) + 1))
        return client_frame(b"\n".join(begin_lines)) + client_frame(b"\n".join([command] * count))
    if dialect == "action":
        entered, sent = ({"seq": "1", "action": each, "data": ACTION[each]} for each in ("login", name))
        return client_frame(_compact(entered)) + _filled(client_frame(_compact(sent)))
    if dialect == "pusher":
        event = {"event": name, "data": data, "channel": "private-lobby"}
        return _filled(client_frame(_compact(event)))
    return login_frame(token) + _filled(input_frame(*PROTOBUF[name]))


_MANY_USERS = [f"user{number}" for number in range(MOST_TARGETS)]
_OF_USER: Final = {"appID": "default", "userID": OTHER, "message": _LONG, "msgID": "", "friend_id": 1}
_OF_ACCOUNT: Final = {"phone_number": "1", "password": "secret", "friend_id": "1", "name": "x"}
_OF_CLIENT: Final = {
    "systemId": "bench",
    "clientId": "x",
    "clientIds": ["x"] * 1_000,
    "groupName": "g",
    "sendUserId": "1",
    "code": 1,
    "msg": "",
    "data": _LONG,
    "extend": _LONG,
}
_OF_CHANNEL: Final = {"channel": CHANNEL}
_PUBLICATION: Final = {**_OF_CHANNEL, "data": _LONG}
_BATCH: Final = {"commands": [{"publish": _PUBLICATION}, {"history": {**_OF_CHANNEL, "limit": -1}}] * 500}
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
_EVENT: Final = {"name": "x", "channels": [f"c{number}" for number in range(100)], "data": _LONG}
ROUTES: Final[Mapping[str, Json | None]] = {
    **dict.fromkeys(("POST /user/sendMessage", "POST /user/sendMessageAll", "POST /user/kick"), _OF_USER),
    "POST /user/sendMessageBatch": {**_OF_USER, "userIDs": _MANY_USERS},
    "POST /user/onlineBatch": {"appID": "default", "userIDs": _MANY_USERS},
    **dict.fromkeys(
        (
            "GET /user/list",
            "GET /user/groupslist",
            "GET /user/online",
            "GET /system/state",
            "GET /health",
            "GET /ready",
            "GET /metrics",
            "GET /group_user/list",
            "GET /apps/*/channels",
            "GET /apps/*/channels/*",
            "GET /apps/*/channels/*/users",
        )
    ),
    **{
        f"{method} /api/register": _OF_CLIENT
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    },
    **{
        f"POST /api/{name}": _OF_CLIENT
        for name in (
            "send_to_client",
            "send_to_clients",
            "send_to_group",
            "send_to_system",
            "bind_to_group",
            "unbind_from_group",
            "get_online_list",
            "get_client_groups",
            "is_online",
            "close_client",
        )
    },
    **dict.fromkeys(("POST /register", "POST /login", "POST /friend/add", "POST /group/create"), _OF_ACCOUNT),
    "POST /api/publish": _PUBLICATION,
    "POST /api/broadcast": {"channels": [f"demo:{number}" for number in range(1_000)], "data": _LONG},
    "POST /api/subscribe": {**_OF_CHANNEL, "user": USER},
    "POST /api/unsubscribe": {**_OF_CHANNEL, "user": USER},
    "POST /api/disconnect": {"user": "nobody"},
    "POST /api/refresh": {"user": "nobody"},
    **dict.fromkeys(("POST /api/presence", "POST /api/presence_stats"), _OF_CHANNEL),
    "POST /api/history": {**_OF_CHANNEL, "limit": -1},
    "POST /api/history_remove": {"channel": "demo:other"},
    "POST /api/channels": {"pattern": "*a" * 127},
    "POST /api/info": {},
    "POST /api/batch": _BATCH,
    "POST /api": {"method": "publish", "params": _PUBLICATION},
    "POST /emulation": {"session": "x" * 38, "node": "", "data": _LONG},
    "POST /apps/*/events": _EVENT,
    "POST /apps/*/batch_events": {"batch": [_EVENT] * 10},
    "POST /apps/*/users/*/terminate_connections": {},
    "POST /hooks/*": {"text": _LONG},
}
"""Each route that is no operation of the OpenAPI document → the fields of its largest request."""
_FORM_ROUTES: Final = ("/user/", "/register", "/login", "/friend/", "/group/")

Request = tuple[str, str, str, bytes]
"""Method, path, type and bytes of the body."""


def requests_of(route: str) -> Iterator[Request]:
    """The largest request of a route."""
    method, path = route.split()
    fields, path = ROUTES[route], path.replace("*", "bench")
    if fields is None:
        query = urlencode({"appID": "default", "userID": OTHER})
        yield method, f"{path}?{query}", _JSON, b""
    elif path.startswith(_FORM_ROUTES) and not any(isinstance(each, list) for each in fields.values()):
        yield method, path, _FORM, urlencode(fields).encode()
    else:
        yield method, path, _JSON, _compact(fields)


def operation_requests(document: Json) -> Iterator[tuple[str, Callable[[str], Iterator[Request]]]]:
    """Each operation of an OpenAPI document by its name, and a function that makes its requests for an app:
    the largest one, and an example."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"

            def build(app: str, name: str = name, operation: Json = operation) -> Iterator[Request]:
                yield from _requests(name, operation, app)

            yield name, build


def _requests(name: str, operation: Json, app: str) -> Iterator[Request]:
    method, path = name.split(" ", 1)
    parameters = operation.get("parameters", ())
    for each in parameters:
        path = path.replace("{" + each["name"] + "}", str(each.get("example", 1)))
    query = {
        each["name"]: each["example"] for each in parameters if each["in"] == "query" and "example" in each
    }
    if "app" in query:
        query["app"] = app
    if "limit" in query:
        query["limit"] = 1_000
    if query:
        path += "?" + urlencode(query, doseq=True)
    content: Json = operation.get("requestBody", {}).get("content", {})
    empty: Json = {}
    kind, found = next(iter(content.items()), (_JSON, empty))
    example = found.get("examples", {}).get("example", {}).get("value")
    if example is None:
        yield method, path, kind, b"x" * 1_000 if content else b""
        return
    example = copy.deepcopy(example)
    if "app" in example:
        example["app"] = app
    yield method, path, kind, _compact(_grown(example))
    yield method, path, kind, _compact(example)


def _grown(example: object) -> object:
    """An example with as many members in its lists, and as long a text, as a request may have."""
    if isinstance(example, dict):
        return {
            name: _LONG * 8 if name == "text" and isinstance(value, str) else _grown(value)
            for name, value in example.items()
        }
    if isinstance(example, list) and example:
        return (example * MOST_TARGETS)[: max(1, min(MOST_TARGETS, 1_000_000 // len(_compact(example))))]
    return example
