"""A listener of the client dialect on the raw client, and the HTTP interface
that drives it."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from .cmd import fresh
from .raw import (
    CLOSE,
    PATIENCE_SECONDS,
    TEXT,
    Address,
    Raw,
    Response,
    ask,
    frame,
    request,
)

ONLINE = 1001
OFFLINE = 1002
TEXTS = {ONLINE: "客户端上线", OFFLINE: "客户端下线"}
NO_SYSTEM = '{"code":-1,"msg":"系统ID不能为空","data":[]}'
UNKNOWN_SYSTEM = '{"code":-1,"msg":"系统ID无效","data":[]}'


def ws_path(system: str, **query: str) -> str:
    """The path that a client of a system connects to."""
    more = "".join(f"&{name}={quote(value)}" for name, value in query.items())
    return f"/ws?systemId={quote(system)}{more}"


class Listener(Raw):
    """A connection that has been given its id."""

    answers_pings = True
    id = ""
    over = False
    """It has been closed by the server."""

    def open(self, system: str, **query: str) -> "Listener":
        """Shake hands and read the id."""
        self.upgrade(ws_path(system, **query))
        first = self.message()
        assert first.opcode == TEXT
        assert list(first.json) == ["code", "msg", "data"], first
        assert (first.json["code"], first.json["msg"]) == (0, "success"), first
        assert list(first.json["data"]) == ["clientId"], first
        self.id = first.json["data"]["clientId"]
        return self

    def received(self, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The next pushed frame, whose keys and id are checked."""
        found = self.message(seconds)
        assert found.opcode == TEXT, found
        body: dict[str, Any] = found.json
        assert list(body) == ["messageId", "sendUserId", "code", "msg", "data"], body
        check_message_id(body["messageId"])
        return body

    def notice(self, seconds: float = PATIENCE_SECONDS) -> tuple[int, str, str, str]:
        """The next frame, which must be a notice: its code, and the member's
        id, user and extend."""
        body = self.received(seconds)
        assert body["sendUserId"] == "", body
        assert body["msg"] == TEXTS[body["code"]], body
        assert isinstance(body["data"], str), body
        member = json.loads(body["data"])
        assert list(member) == ["clientId", "extend", "userId"], body
        return body["code"], member["clientId"], member["userId"], member["extend"]

    def closed_by_server(self, *codes: int) -> None:
        """The next frame must be a close; nothing follows it."""
        self.send(frame(CLOSE, self.closed(*codes).payload))
        self.ended()


def check_message_id(text: str) -> None:
    """Sixteen hexadecimal digits."""
    assert len(text) == 16, text
    assert set(text) <= set("0123456789abcdef"), text


@contextlib.contextmanager
def listening(address: Address, system: str, **query: str) -> Iterator[Listener]:
    """A client of a system."""
    with Listener(address) as one:
        yield one.open(system, **query)


def api_request(
    path: str,
    body: Any,
    system: str | None = None,
    *,
    method: str = "POST",
    key: str = "",
    header: str = "SystemId",
) -> bytes:
    """The bytes of a request to ``/api/<path>``; ``body`` as JSON unless it is
    bytes."""
    data = (
        body
        if isinstance(body, bytes)
        else json.dumps(body, ensure_ascii=False).encode()
    )
    headers = [] if system is None else [(header, system)]
    if key:
        headers.append(("Authorization", f"Bearer {key}"))
    if not data and method != "GET":
        headers.append(("Content-Length", "0"))
    return request(f"/api/{path}", method=method, headers=headers, body=data)


def api(
    address: Address, path: str, body: Any, system: str | None = None, **options: Any
) -> Response:
    """One call."""
    return ask(address, api_request(path, body, system, **options))


def done(address: Address, path: str, system: str, key: str = "", **fields: Any) -> Any:
    """A call that must succeed; its data."""
    answer = api(address, path, fields, system, key=key)
    assert answer.status == 200, answer
    assert answer.header("content-type") == "application/json; charset=utf-8"
    assert list(answer.json) == ["code", "msg", "data"], answer
    assert (answer.json["code"], answer.json["msg"]) == (0, "success"), answer
    return answer.json["data"]


def refused(answer: Response) -> str:
    """The text of an answer that must be a refusal."""
    assert answer.status == 200, answer
    assert list(answer.json) == ["code", "msg", "data"], answer
    assert (answer.json["code"], answer.json["data"]) == (-1, []), answer
    return str(answer.json["msg"])


def new_system(address: Address, key: str = "") -> str:
    """Register a system that nobody else in this run has."""
    system = fresh("shop")
    assert done(address, "register", "", key, systemId=system) == []
    return system


def bind(
    address: Address,
    system: str,
    one: Listener,
    group: str,
    user: str = "",
    extend: str = "",
) -> None:
    """Put a client into a group."""
    fields = {"clientId": one.id, "groupName": group, "userId": user, "extend": extend}
    assert done(address, "bind_to_group", system, **fields) == []


def send_to_client(
    address: Address, system: str, client_id: str, data: Any = "hello", **fields: Any
) -> str:
    """Tell one client; the id of the message."""
    answer = done(
        address, "send_to_client", system, clientId=client_id, data=data, **fields
    )
    check_message_id(answer["messageId"])
    return str(answer["messageId"])


def send_to_group(
    address: Address, system: str, group: str, data: Any = "hello", **fields: Any
) -> str:
    """Tell a group; the id of the message."""
    answer = done(
        address, "send_to_group", system, groupName=group, data=data, **fields
    )
    check_message_id(answer["messageId"])
    return str(answer["messageId"])


def online_list(address: Address, system: str, group: str) -> list[str]:
    """The members of a group, in the order of joining."""
    data = done(address, "get_online_list", system, groupName=group)
    assert data["count"] == len(data["list"]), data
    return list(data["list"])


def is_online(address: Address, system: str, client_id: str) -> bool:
    """Whether a client is connected."""
    data = done(address, "is_online", system, clientId=client_id)
    assert list(data) == ["online"]
    return bool(data["online"])
