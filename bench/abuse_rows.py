"""The largest requests that users may send: one row for each command of each
dialect.

A test proves that no command of the server is without a row. The operations of
the API get theirs from the OpenAPI document of the server under attack: the
example of the document, grown to its limits, and then as many examples as fit
one read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from bench.frames import CLOSE, client_frame, scan
from bench.loop import Json
from bench.protobuf import CT_ACK, field, input_frame, outputs, varint

ACCEPTED: Final = "ok"
"""The name of an accepted request among the counts."""
_HTTP: Final = re.compile(
    rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n"
    rb'(?:[0-9a-f]+\r\n)?(?:\{"replies":\[)?(?:\{"code":(-?\d+)|\{"error":\{"code":(\d+)'
    rb'|\{"results":\[\{"status":(\d+))?'
)
_ANSWER: Final = {
    "cmd": rb'"cmd":"%b","response":\{"code":(-?\d+)',
    "action": rb'"action":"%b","response":\{"code":(-?\d+)',
    "centrifuge": rb'\{"id":3,(?:"error":\{"code":(\d+))?',
    "publisher": rb'\{"seq":1,(?:"(error)")?',
    "pusher": rb'\{"event":"(?!pusher:connection_established|client-)'
    rb'(?:pusher:error".*?"code":(\d+)|[^"]*?(subscription_error)?")',
}
"""Dialect → what an answer to a command has; its groups have the code, if the
command is refused."""
_FINE: Final = {"200", "0", ""}


def http_answers(data: bytes) -> Counter[str]:
    """Count HTTP answers by their result: a status under 400, and no other code
    in the body than 0 or 200, is accepted. Of a batch, its first command
    counts.
    """
    found: Counter[str] = Counter()
    for groups in _HTTP.findall(data):
        whole, code, error, first = (group.decode() for group in groups)
        status = first or whole
        if status >= "400":
            found[status] += 1
        elif status >= "200":
            found[
                f"code {error or code}" if error or code not in _FINE else ACCEPTED
            ] += 1
    return found


def command_answers(
    dialect: str, name: str, data: bytes, number: int = 0
) -> Counter[str]:
    """Count the answers to the command ``name`` of a dialect on a WebSocket.
    ``number``: its number in protobuf.
    """
    if dialect == "protobuf":
        _, _, frames = data.partition(b"\r\n\r\n")
        parts = (
            frames[start:stop]
            for opcode, start, stop in scan(frames, len(frames))[0]
            if opcode < CLOSE
        )
        codes = [code for payload in parts for code in _protobuf(payload, name, number)]
    else:
        answers = re.finditer(
            _ANSWER[dialect].replace(b"%b", re.escape(name).encode()), data
        )
        codes = [
            next(filter(None, answer.groups()), b"").decode() for answer in answers
        ]
    return Counter(ACCEPTED if code in _FINE else f"code {code}" for code in codes)


def _protobuf(payload: bytes, name: str, number: int) -> Iterator[str]:
    for kind, code, content in outputs(payload):
        is_login = content.startswith(b"\x08\x03")
        if kind == number or (kind == CT_ACK and is_login == (name == "login")):
            yield "refused" if content.startswith(b"\x08\x04") else str(code)


FULL_BYTES: Final = 65_536
"""A message, and what one read of the attacks on HTTP has."""
MOST_COMMANDS: Final = 2_000
"""In one frame of the centrifuge dialect."""
MOST_TARGETS: Final = 10_000
CHANNEL: Final = "demo:lobby"
"""A channel with history, presence, notices, and publications of its
subscribers, as in demo mode."""
USER = "mallory"
OTHER = "bob"
_LONG = "x" * 1_000
_ABOUT = {"id": 1, "conversation": 1}

STORED: Final[Mapping[str, Json]] = {
    "send": {"to": OTHER, "text": _LONG},
    "recall": {"id": 1},
    "edit": {"id": 1, "text": _LONG},
    "press": {"id": "$asked", "value": "yes"},
    "answer": {"id": "$ask", "text": _LONG},
    "sync": {"cursor": 0, "limit": 1_000},
    "history": {"conversation": 1, "limit": 1_000},
    "conversations": {"limit": 1_000},
    "read": _ABOUT,
    "hide": {"ids": [*range(1, 101)]},
    "ack": {"id": 1},
    "react": {"id": 1, "emoji": "👍"},
    "pin": {"id": 1},
    "pins": {"conversation": 1},
    "thread": {"thread": 1, "limit": 1_000},
    "threads": {"limit": 1_000},
    "followThread": {"thread": 1},
    "readThread": {"thread": 1, "id": 1},
    "received": _ABOUT,
    "receipts": {"conversation": 1, "limit": 1_000},
    "receiptCounts": {"conversation": 1, "ids": "$last_ids"},
    "marks": {"version": 0},
    "typing": {"to": OTHER},
    "arrange": {"conversation": 1, "draft": {"text": "x" * 16_000}},
    "arrangements": {"version": 0, "limit": 1_000},
    "setFolders": {
        "folders": [{"id": number, "name": "x" * 50} for number in range(1, 21)]
    },
    "search": {"text": "x", "limit": 1_000},
    "streamOpen": {"to": OTHER, "text": _LONG},
    "streamAppend": {
        "pieces": [
            {"stream": "x", "piece": number, "text": "x"} for number in range(1, 101)
        ]
    },
    "streamClose": {"stream": "x"},
    "streamStop": {"stream": "x"},
    "botCommands": {"conversation": 1},
    "report": {"id": "$heard", "reason": "spam", "text": "x" * 1_000},
}
"""Commands on messages → their data. In the centrifuge dialect they are methods
of ``rpc``. Values are replaced by those that the attacker may use: by name of
the field, or of what stands behind ``$``.
"""
BOTS: Final = frozenset({"streamOpen", "streamAppend", "streamClose"})
"""Commands that only bots may use."""
OF_ACCOUNTS: Final = frozenset({"press"})
"""Commands about messages of bots."""
GROUPS: Final[Mapping[str, Json]] = {
    "createGroup": {"name": "x" * 50, "members": ["1"]},
    "updateGroup": {"group": "$conversation", "description": "x" * 500},
    "groups": {"limit": 1_000},
    "groupMembers": {"group": "$conversation", "limit": 1_000},
    "inviteToGroup": {"group": "$conversation", "members": ["1"]},
    "joinGroup": {"group": "$conversation"},
    "leaveGroup": {"group": "$conversation"},
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
    **{
        f"rpc {name}": {"method": f"imserver:{name}", "data": data}
        for name, data in {**STORED, **GROUPS}.items()
    },
}
ACTION: Final[Mapping[str, Json]] = {
    "login": {"userId": USER, "appId": 1, "toUid": USER, "acks": True},
    "heartbeat": {"userId": USER},
    "sendmsg": {
        "msgType": "text",
        "message": _LONG,
        "userId": USER,
        "appId": 1,
        "groupsId": "1",
    },
    "ack": {"ackId": 1},
}
PUSHER: Final[Mapping[str, Json]] = {
    "pusher:subscribe": {"channel": "lobby"},
    "pusher:unsubscribe": {"channel": "lobby"},
    "pusher:signin": {"auth": "key:0", "user_data": json.dumps({"id": USER})},
    "pusher:ping": {},
    "client-typing": {"text": _LONG},
}


def _numbers(**tags: int) -> Callable[[Mapping[str, Any]], bytes]:
    """Fields with numbers that the attacker may use: name → tag."""
    return lambda known: b"".join(
        bytes([tag]) + varint(int(known[name])) for name, tag in tags.items()
    )


def _always(data: bytes) -> Callable[[Mapping[str, Any]], bytes]:
    return lambda known: data


def _protobuf_login(known: Mapping[str, Any]) -> bytes:
    """With a cursor, so that it may use all commands."""
    return field(0x0A, known["token"].encode()) + b"\x18\x00"


def _protobuf_message(known: Mapping[str, Any]) -> bytes:
    where = _numbers(conversation=0x10, user=0x18)(known)
    return (
        field(0x0A, b"\x08\x02" + where + b"\x20\x01" + field(0x2A, _LONG.encode()))
        + b"\x10\x01"
    )


PROTOBUF: Final[Mapping[str, tuple[int, Callable[[Mapping[str, Any]], bytes]]]] = {
    "login": (1, _protobuf_login),
    "heartbeat": (2, _always(b"")),
    "message": (3, _protobuf_message),
    "ack": (4, lambda known: b"\x08\x02" + _numbers(id=0x18)(known)),
    "sync": (5, _always(b"\x08\x00\x10\x64")),
    "read": (6, _numbers(conversation=0x08, id=0x10)),
    "received": (7, _numbers(conversation=0x08, id=0x10)),
    "typing": (8, _numbers(conversation=0x10)),
    "hide": (9, _always(field(0x0A, bytes(range(1, 101))))),
    "history": (10, _numbers(conversation=0x08)),
    "conversations": (11, _always(b"\x08\x00")),
    "receipts": (12, _numbers(conversation=0x08)),
    "marks": (13, _always(b"\x08\x00")),
    "search": (14, _always(field(0x0A, b"x"))),
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
    "publisher": "/api/v1/publisher",
}


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


PUBLISHER: Final[Mapping[str, Json]] = {
    "publish": {
        "app": "default",
        "users": [f"user{number}" for number in range(1_000)],
        "text": _LONG,
    },
    "ping": {},
    "channels/stream/open": {"app": "default", "channel": CHANNEL, "text": _LONG},
    "channels/stream/append": {
        "app": "default",
        "pieces": [
            {"stream": "x", "piece": number, "text": "x"} for number in range(1, 1_001)
        ],
    },
    "channels/stream/close": {"app": "default", "stream": "x"},
}
"""Commands on a publisher connection → their data."""


# --- values that are large, deep or many --------------------------------------

_MOST_DEPTH: Final = 900
"""Brackets in each other that a parser in C still reads."""


def _array_of(value: bytes, most_bytes: int) -> bytes:
    """A JSON array of this value, until it is full."""
    return b"[" + (value + b",") * ((most_bytes - 3) // (len(value) + 1)) + b"1]"


def _members(most_bytes: int) -> bytes:
    """A JSON object of different members."""
    return b"{%b}" % b",".join(
        b'"%06d":0' % number for number in range(most_bytes // 11)
    )


_DEEP: Final = b"[" * _MOST_DEPTH + b"]" * _MOST_DEPTH
VALUES: Final[Mapping[str, Callable[[int], bytes]]] = {
    "numbers": lambda most: _array_of(b"1", most),
    "empty arrays": lambda most: _array_of(b"[]", most),
    "objects": lambda most: _array_of(b'{"a":1}', most),
    "members": _members,
    "members and U+0000": lambda most: b'{"x":%b,"y":"\\u0000"}' % _members(most - 100),
    "deep arrays": lambda most: _array_of(_DEEP, most),
    "a number that may be too large": lambda most: (
        b'["9e999",%b]' % _array_of(b"[]", most - 100)
    ),
    "one text of escapes": lambda most: b'"%b"' % (b"\\u4e2d" * ((most - 2) // 6)),
}
"""Name → the JSON value of about so many bytes."""
WILDCARDS: Final = (
    b"*?" * 127,
    b"[a-z]*" * 42,
    b"{%b}" % b",".join([b"a*"] * 64) + b"*b" * 30,
    b"{a,b}" * 6 + b"*a?" * 70,
    b"{a,b}" * 51,
    b"*" * 4_000_000,
)
"""Patterns of the names of channels."""
_DATA: Final = "data of the attack"


def with_data(document: object, data: bytes) -> bytes:
    """A document in which :data:`_DATA` is replaced by JSON."""
    return _compact(document).replace(_compact(_DATA), data, 1)


_TO_DEFAULT: Final = {"app": "default", "type": "x", "data": _DATA}
_PUBLISHED: Final = {"channel": CHANNEL, "data": _DATA}
OF_DATA: Final[Mapping[str, Json]] = {
    "/api/v1/push": {**_TO_DEFAULT, "user": "x"},
    "/api/v1/messages/send": {**_TO_DEFAULT, "user": USER, "to": OTHER},
    "/api/v1/channels/publish": {**_TO_DEFAULT, "channel": CHANNEL},
    "/api/v1/channels/subscribe": {
        "app": "default",
        "channel": CHANNEL,
        "users": _DATA,
    },
    "/api/v1/presence": {"app": "default", "users": _DATA},
    "/api/v1/batch": {"commands": [{"push": {**_TO_DEFAULT, "user": "x"}}]},
    "/api/v1/batch of": {"commands": _DATA},
    "/api/publish": _PUBLISHED,
    "/api/batch": {"commands": [{"publish": _PUBLISHED}]},
    "/api/batch of": {"commands": _DATA},
    "/api": {"method": "publish", "params": _PUBLISHED},
    "/api/send_to_client": {"clientId": "x", "data": _DATA},
    "/user/sendMessageBatch": {"appID": 101, "messages": _DATA},
}
"""Path (and what the data are, if there are two) → a body whose data may be any
JSON."""
MCP_CALL: Final[Json] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "send_message", "arguments": {"x": _DATA}},
}
OF_COMMANDS: Final[Mapping[tuple[str, str], Json]] = {
    ("cmd", "send"): {"to": OTHER, "type": "x", "data": _DATA},
    ("cmd", "publish"): {"channel": CHANNEL, "data": _DATA},
    ("cmd", "createGroup"): {"name": "x", "members": _DATA},
    ("centrifuge", "publish"): _PUBLISHED,
    ("centrifuge", "rpc imserver:send"): {"to": OTHER, "type": "x", "data": _DATA},
    ("action", "sendmsg"): {**ACTION["sendmsg"], "message": _DATA},
    ("publisher", "publish"): {**_TO_DEFAULT, "user": "x"},
    ("publisher", "ping"): {"x": _DATA},
}
"""Dialect and command → data of which a part may be any JSON."""


def data_frames(dialect: str, name: str, user: str, data: bytes) -> bytes:
    """A login, and one command with data that may be any JSON."""
    body = OF_COMMANDS[dialect, name]
    if dialect == "publisher":
        return client_frame(with_data({"seq": 1, name: body}, data))
    if dialect == "cmd":
        login = {
            "seq": "1",
            "cmd": "login",
            "data": {**(CMD["login"] or {}), "userID": user},
        }
        command = with_data({"seq": "1", "cmd": name, "data": body}, data)
        return client_frame(_compact(login)) + client_frame(command)
    if dialect == "action":
        login = {"seq": "1", "action": "login", "data": ACTION["login"]}
        command = with_data({"seq": "1", "action": name, "data": body}, data)
        return client_frame(_compact(login)) + client_frame(command)
    kind, _, method = name.partition(" ")
    connect: Json = {"id": 1, "connect": {}}
    if method:
        content = {"method": method, "data": body}
    else:
        content = body
    return client_frame(_compact(connect)) + client_frame(
        with_data({"id": 3, kind: content}, data)
    )


def _filled_in(data: object, known: Mapping[str, Any]) -> object:
    """The data of a command with what the attacker may use."""
    if isinstance(data, list):
        return [_filled_in(each, known) for each in data]
    if not isinstance(data, dict):
        if isinstance(data, str) and data.startswith("$"):
            return known.get(data[1:], 1)
        return data
    return {
        name: _filled_in(value, known)
        if str(value).startswith("$") or name not in known
        else known[name]
        for name, value in data.items()
    }


def _filled(frame: bytes) -> bytes:
    return frame * max(1, FULL_BYTES // len(frame))


def frames_of(dialect: str, name: str, known: Mapping[str, Any]) -> bytes:
    """A login, a subscription where there are some, and a command until a
    message or a read is full.

    ``known``: what the attacker may use, by the name of the field; ``token``:
    of an account or bot.
    """
    if dialect == "pusher":
        return _pusher(name, PUSHER[name], known["socket_id"])
    if dialect == "protobuf":
        number, content = PROTOBUF[name]
        return input_frame(1, _protobuf_login(known)) + _filled(
            input_frame(number, content(known))
        )
    rows = PUBLISHER if dialect == "publisher" else COMMANDS[dialect]
    data = _filled_in(rows[name], known)
    # In turn, so that each is a new one.
    names = (
        ("unsubscribe", "subscribe")
        if name in ("unsubscribe", "subscribe")
        else (name,)
    )
    if dialect == "publisher":
        return _filled(client_frame(_compact({"seq": 1, name: data})))
    if dialect == "action":
        frames = {
            each: client_frame(
                _compact({"seq": "1", "action": each, "data": ACTION[each]})
            )
            for each in ACTION
        }
        return (
            frames["login"]
            + (frames["sendmsg"] if name == "ack" else b"")
            + _filled(frames[name])
        )
    if dialect == "cmd":
        login: Json = {**(CMD["login"] or {}), "userID": known["user"]}
        if known["app"] != "default":
            login |= {"app": known["app"], "serviceToken": known["token"]}
        commands: list[tuple[str, object]] = [
            ("login", login),
            ("subscribe", {"channel": CHANNEL}),
        ]
        commands += [(each, CMD[each] if len(names) > 1 else data) for each in names]
        every = [
            client_frame(_compact({"seq": "1", "cmd": each, "data": what}))
            for each, what in commands
        ]
        return b"".join(every[:2]) + _filled(b"".join(every[2:]))
    texts = [_compact({"id": 1, "connect": {"token": known["token"]}})]
    texts.append(_compact({"id": 2, "subscribe": {"channel": CHANNEL}}))
    texts += [
        _compact(
            {
                "id": 3,
                each.partition(" ")[0]: CENTRIFUGE[each] if len(names) > 1 else data,
            }
        )
        for each in names
    ]
    again = b"\n".join(texts[2:])
    count = min(MOST_COMMANDS // len(names), FULL_BYTES // (len(again) + 1))
    return client_frame(b"\n".join(texts[:2])) + client_frame(
        b"\n".join([again] * count)
    )


def _pusher(name: str, data: object, socket_id: str) -> bytes:
    """Subscribe to a presence channel, with the signatures of the back end, and
    repeat a command."""

    def frame(event: str, data: object, **more: str) -> bytes:
        return client_frame(_compact({"event": event, "data": data, **more}))

    member = json.dumps({"user_id": USER, "user_info": {"name": "x" * 900}})
    channel = {"channel": "presence-lobby", "channel_data": member}
    channel["auth"] = "bench:" + pusher_signature(
        f"{socket_id}:presence-lobby:{member}"
    )
    begin = frame("pusher:subscribe", channel)
    leave = frame("pusher:unsubscribe", {"channel": "presence-lobby"})
    if name in ("pusher:subscribe", "pusher:unsubscribe"):
        return begin + _filled(leave + begin)
    if name == "pusher:signin":
        user = json.dumps({"id": USER})
        data = {
            "auth": "bench:" + pusher_signature(f"{socket_id}::user::{user}"),
            "user_data": user,
        }
    return begin + _filled(frame(name, data, channel="presence-lobby"))


SILENT: Final = frozenset(
    {
        "centrifuge: send",
        "protobuf: heartbeat",
        "protobuf: ack",
        "pusher: pusher:unsubscribe",
        "pusher: client-typing",
    }
)
"""Commands that are not answered."""
_WHY_REFUSED: Final = {
    "a second one ends the connection": "centrifuge: connect",
    "the server has no such method": "centrifuge: rpc",
    "no provider, so nobody comes back from it": "POST accounts/oauth/finish, POST accounts/oauth/unlink",
    "the code comes from an authenticator app": "POST accounts/factor/confirm, POST accounts/factor/codes",
    "the account has no second factor": "POST accounts/factor/remove",
    "the account is no guest": "POST accounts/promote",
    "the account has no e-mail address": "POST accounts/email/request",
    "code or token come by mail or notification": (
        "POST accounts/reset/finish, GET accounts/email/confirm, POST accounts/email/confirm,"
        " POST notifications/act, GET notifications/answer, POST notifications/answer,"
        " GET notifications/unsubscribe, POST notifications/unsubscribe"
    ),
    "only as a WebSocket, whose commands have rows of their own": "GET publisher",
    "it would end the server under attack": "POST nodes/drain, POST nodes/undrain",
    "its object, of an operator or a device, is looked up by its id, and does not grow": (
        "GET connections/show, GET exports/show, GET keys/usage, POST keys/revoke, POST keys/rotate,"
        " GET reports/show, POST reports/close, POST moderation/undo, POST moderation/remove,"
        " POST accounts/lock, POST accounts/unlock, POST accounts/role,"
        " POST notifications/audiences/cancel, POST notifications/endpoints/update,"
        " POST notifications/endpoints/remove"
    ),
    "its file is sent piece by piece": "GET exports/file, GET exports/file/self",
    "the server reaches no pages, so no message has a preview": "POST previews/remove",
    "no back end has webhooks or reads events": "POST webhooks/test, GET events/log, POST events/replay",
}
REFUSED: Final[Mapping[str, str]] = {
    re.sub("^(GET|POST) ", r"\1 /api/v1/", name): why
    for why, names in _WHY_REFUSED.items()
    for name in names.split(", ")
}
"""Attacks that the server rightly refuses → why."""

_JSON: Final = "application/json"
_TUS: Final = {
    "POST": ("Tus-Resumable: 1.0.0", "Upload-Length: 1000"),
    "PATCH": ("Tus-Resumable: 1.0.0", "Upload-Offset: 0"),
    "HEAD": ("Tus-Resumable: 1.0.0",),
    "DELETE": ("Tus-Resumable: 1.0.0",),
}
PUSHER_SECRET: Final = "a-secret-of-the-bench"
CALLBACK: Final = "/oauth/callback/gochat/example"


class Request(NamedTuple):
    """Method, path, type and bytes of the body; further header lines."""

    method: str
    path: str
    kind: str = _JSON
    body: bytes = b""
    fields: tuple[str, ...] = ()


def pusher_signature(text: str) -> str:
    """The signature of the back end of the app ``bench``."""
    return hmac.digest(PUSHER_SECRET.encode(), text.encode(), hashlib.sha256).hex()


def operation_requests(
    document: Json,
) -> Iterator[tuple[str, Callable[[Mapping[str, Any]], Iterator[Request]]]]:
    """Each operation of an OpenAPI document by its name, and a function that
    makes its requests from what the attacker may use: the largest one, and an
    example."""
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"

            def build(
                known: Mapping[str, Any], name: str = name, operation: Json = operation
            ) -> Iterator[Request]:
                yield from _requests(
                    name, operation, schemas, {**known, **special(name, known)}
                )

            yield name, build


def special(name: str, known: Mapping[str, Any]) -> Json:
    """Fields of one operation that differ from those of the others."""
    path = name.partition("/api/v1/")[2]
    if "upload" in known:
        upload = {"id": known["upload"]}
    else:
        upload = {}
    if "spare_app" in known:
        spare = {"app": known["spare_app"], "confirm": known["spare_app"]}
    else:
        spare = {}
    new = {"app": f"new{time.time_ns()}"}
    ask = {"id": known["ask"]} if "ask" in known else {}
    messages = {"messages": [known["id"]]}
    fields: Mapping[str, Json] = {
        **dict.fromkeys(("asks/cancel", "asks/remind", "asks/escalate"), ask),
        **dict.fromkeys(("moderation/delete", "moderation/hide"), messages),
        "reports/send": {"user": known["user"], "message": known["heard"]}
        if "heard" in known
        else {},
        "invitations/join": {"code": known.get("guests", "x")},
        "webhooks/address": {"app": known.get("spare_app", "x")},
        "asks/get": {**ask, "wait": 0},
        "asks/answer": {**ask, "user": OTHER, "value": "x"} if ask else {},
        "uploads/delete": upload,
        "uploads/{id}": upload,
        "uploads/{id}/thumbnail": {"id": known.get("picture", "x")},
        "uploads/tus/{id}": {
            "id": known.get("finished" if name.startswith("GET") else "tus", "x")
        },
        "bots": {"name": f"b{time.time_ns()}"},
        "accounts/find": {"text": known.get("friend_login", "x")},
        "apps/create": new,
        "apps/set": spare,
        "apps/delete": spare,
        "messages/press": {"id": known.get("asked", 1)},
        "groups/leave": {"user": known["user"]},
        "groups/join": {"user": known["user"]},
        "invitations/accept": {"user": known["user"]},
        "accounts/identifiers": {"email": f"{time.time_ns()}@example.com"},
        "accounts/register": {
            "phone": f"{time.time_ns()}"[-20:],
            "name": f"n{time.time_ns()}",
        },
    }
    return fields.get(path, {})


def _requests(
    name: str, operation: Json, schemas: Json, known: Mapping[str, Any]
) -> Iterator[Request]:
    method, path = name.split(" ", 1)
    parameters = operation.get("parameters", ())
    for each in parameters:
        path = path.replace(
            "{" + each["name"] + "}",
            str(known.get(each["name"], each.get("example", 1))),
        )
    # Of those about messages, the app is no part of the example.
    if path.startswith(("/api/v1/moderation/", "/api/v1/reports/")):
        app = {"app": known["app"]}
    else:
        app = {}
    query = app if method == "GET" else {}
    query |= {
        each["name"]: known.get(each["name"], each["example"])
        for each in parameters
        if each["in"] == "query" and "example" in each
    }
    if "limit" in query:
        query["limit"] = next(
            each["schema"]["maximum"] for each in parameters if each["name"] == "limit"
        )
    if query:
        path += "?" + urlencode(query, doseq=True)
    content: Json = operation.get("requestBody", {}).get("content", {})
    empty: Json = {}
    kind, found = next(iter(content.items()), (_JSON, empty))
    fields = tuple(_TUS.get(method, ()) if "/tus" in path else ())
    example = found.get("examples", {}).get("example", {}).get("value")
    if example is None:
        yield Request(method, path, kind, b"x" * 1_000 if content else b"", fields)
        return
    schema = schemas.get(
        found.get("schema", {}).get("$ref", "").rpartition("/")[2], empty
    )
    example = app | {
        each: known[each] if each in known and not isinstance(value, list) else value
        for each, value in example.items()
    }
    yield Request(
        method,
        path,
        kind,
        _compact(_grown(example, schema.get("properties", empty), known)),
    )
    yield Request(method, path, kind, _compact(_named(example, known)))


def _named(example: Json, known: Mapping[str, Any]) -> Json:
    """An example with one of what the attacker may use in each list."""
    return {
        name: [*known[name][:1]]
        if name in known and isinstance(value, list)
        else _used(value, known)
        for name, value in example.items()
    }


def _used(value: object, known: Mapping[str, Any]) -> object:
    if isinstance(value, list):
        return [_used(each, known) for each in value]
    if isinstance(value, dict):
        return {
            name: known.get(name, _used(each, known)) for name, each in value.items()
        }
    return value


def _grown(example: Json, properties: Json, known: Mapping[str, Any]) -> Json:
    """An example with as many members in its lists, and as long a text, as a
    request may have."""
    found: Json = {}
    for name, value in example.items():
        if name == "text" and name not in known and isinstance(value, str):
            value = _LONG * 8
        elif isinstance(value, list) and value:
            most = properties.get(name, {}).get("maxItems", MOST_TARGETS)
            most = min(
                most if isinstance(most, int) else MOST_TARGETS,
                1_000_000 // len(_compact(value[0])),
            )
            if name in known:
                value = known[name][:most]
            else:
                value = [
                    _distinct(_used(value[n % len(value)], known), n)
                    for n in range(most)
                ]
        found[name] = value
    return found


def _distinct(value: object, number: int) -> object:
    """A member of a list that equals no other."""
    if isinstance(value, str):
        return f"{value}{number}"
    if isinstance(value, int):
        return value + number
    if isinstance(value, dict):
        names = {"name": f"x{number}", "piece": number + 1}
        return {name: names.get(name, each) for name, each in value.items()}
    return value
