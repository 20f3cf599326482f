"""A speaker of the cmd dialect on the raw client, and its HTTP interface."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from .raw import (
    PATIENCE_SECONDS,
    TEXT,
    Address,
    Frame,
    Raw,
    Response,
    ask,
    request,
    text,
)

HELLO = "哈喽~"
GONE = "用户已经离开~"
_numbers = itertools.count(1)

Pairs = list[tuple[str, Any]]


def number() -> int:
    """A number that no other call in this run got."""
    return next(_numbers)


def fresh(stem: str = "u") -> str:
    """A user id or msgID that nobody else in this run has."""
    return f"{stem}{number()}"


def pairs(payload: bytes | str) -> Any:
    """JSON with its objects as lists of pairs, so that the order of the keys
    and repeated keys show."""
    return json.loads(payload, object_pairs_hook=list)


def command(cmd: str, data: Any = None, seq: str = "1") -> bytes:
    """A command as a masked text frame."""
    return text(json.dumps({"seq": seq, "cmd": cmd, "data": data}, ensure_ascii=False))


def reply(
    code: int, code_msg: str, cmd: str, seq: str = "1", data: Any = None
) -> Pairs:
    """The answer to a command, as `pairs` reads it."""
    return [
        ("seq", seq),
        ("cmd", cmd),
        ("response", [("code", code), ("codeMsg", code_msg), ("data", data)]),
    ]


def push(cmd: str, msg: str, sender: str, seq: str) -> Pairs:
    """A pushed frame, as `pairs` reads it."""
    data = [("target", ""), ("type", "text"), ("msg", msg), ("from", sender)]
    return [
        ("seq", seq),
        ("cmd", cmd),
        ("response", [("code", 200), ("codeMsg", "Ok"), ("data", data)]),
    ]


class CmdClient(Raw):
    """A connection that speaks cmd. Pushes that arrive before an awaited answer
    are kept in `pushed`."""

    def __init__(self, address: Address, **options: Any) -> None:
        super().__init__(address, **options)
        self.pushed: list[Frame] = []

    def answer(self, seconds: float = PATIENCE_SECONDS) -> Frame:
        """The next frame that answers a request."""
        while True:
            found = self.message(seconds)
            if b'"Ok"' not in found.payload:
                return found
            self.pushed.append(found)

    def ask_cmd(
        self, cmd: str, data: Any = None, seq: str = "1"
    ) -> tuple[int, str, Any]:
        """Send a command; code, text and data of its answer, whose seq and cmd
        are checked."""
        self.send(command(cmd, data, seq))
        found = self.answer()
        assert found.opcode == TEXT
        body = found.json
        assert (body["seq"], body["cmd"]) == (seq, cmd), body
        return (
            body["response"]["code"],
            body["response"]["codeMsg"],
            body["response"]["data"],
        )

    def login(self, user: str, app: int | str, **data: Any) -> "CmdClient":
        """Log in, by the number or the name of an app, and check the answer.
        With a ``cursor``, all behind it must come."""
        named = {"app" if isinstance(app, str) else "appID": app}
        answer = self.ask_cmd("login", {"userID": user, **named, **data})
        assert answer == (
            200,
            "Success",
            {"recovered": True} if "cursor" in data else None,
        ), answer
        return self

    def push(self, cmd: str = "", seconds: float = PATIENCE_SECONDS) -> Frame:
        """The next pushed frame; pushes of another cmd are skipped when one is
        asked for."""
        while True:
            found = self.pushed.pop(0) if self.pushed else self.message(seconds)
            body = found.json
            assert body["response"]["codeMsg"] == "Ok", body
            if not cmd or body["cmd"] == cmd:
                return found

    def no_push(self, *cmds: str) -> None:
        """No push (of these kinds, if any are named) came before the answer to
        a ping sent now."""
        assert self.ask_cmd("ping", None, "no push")[2] == "pong"
        found = [
            item.text for item in self.pushed if not cmds or item.json["cmd"] in cmds
        ]
        self.pushed.clear()
        assert not found, found


@contextlib.contextmanager
def cmd_client(
    address: Address | str, path: str = "/acc", **options: Any
) -> Iterator[CmdClient]:
    """An upgraded connection that has not logged in."""
    with CmdClient(address) as one:
        yield one.upgrade(path, **options)


@contextlib.contextmanager
def logged_in(
    address: Address, user: str, app: int | str, **data: Any
) -> Iterator[CmdClient]:
    """A session."""
    with cmd_client(address) as one:
        yield one.login(user, app, **data)


def login_code(address: Address, user: str, app: int | str, **data: Any) -> int:
    """The code of the answer to a login on a connection of its own."""
    with cmd_client(address) as one:
        code, _, _ = one.ask_cmd(
            "login",
            {"userID": user, "app" if isinstance(app, str) else "appID": app, **data},
        )
        return code


def get(address: Address, path: str, **query: Any) -> Response:
    """GET with a query."""
    return ask(address, request(f"{path}?{urlencode(query)}" if query else path))


def post(address: Address, path: str, **form: Any) -> Response:
    """POST of an urlencoded form."""
    return ask(address, form_request(path, form))


def form_request(path: str, form: dict[str, Any]) -> bytes:
    """The bytes of a POST with an urlencoded form."""
    kind = ("Content-Type", "application/x-www-form-urlencoded")
    return request(path, method="POST", headers=[kind], body=urlencode(form).encode())


def json_request(path: str, body: Any) -> bytes:
    """The bytes of a POST with a JSON body."""
    data = json.dumps(body, ensure_ascii=False).encode()
    return request(
        path, method="POST", headers=[("Content-Type", "application/json")], body=data
    )


def good(response: Response) -> Any:
    """The data of an answer that must be a success."""
    assert response.status == 200, response
    body = pairs(response.body)
    assert [key for key, _ in body] == ["code", "msg", "data"], body
    assert response.json["code"] == 200, body
    assert response.json["msg"] == "Success", body
    return response.json["data"]


def code_of(response: Response) -> int:
    """The code in the body of an answer of HTTP 200."""
    assert response.status == 200, response
    return int(response.json["code"])


def is_online(address: Address, user: str, app: int) -> bool:
    """Whether the API says that the user is online."""
    return bool(good(get(address, "/user/online", appID=app, userID=user))["online"])


def users(address: Address, app: int | str) -> list[str]:
    """The users that the API lists, sorted."""
    data = good(get(address, "/user/list", appID=app))
    assert data["userCount"] == len(data["userList"]), data
    return sorted(data["userList"])


def send_message(
    address: Address, app: int | str, user: str, message: str, msg_id: str = ""
) -> Any:
    """POST /user/sendMessage; the data of its answer."""
    form = {
        "appID": app,
        "userID": user,
        "msgID": msg_id or fresh("m"),
        "message": message,
    }
    return good(post(address, "/user/sendMessage", **form))


def send_to_all(
    address: Address, app: int, sender: str, message: str, msg_id: str = ""
) -> Any:
    """POST /user/sendMessageAll; the data of its answer."""
    form = {
        "appID": app,
        "userID": sender,
        "msgID": msg_id or fresh("m"),
        "message": message,
    }
    return good(post(address, "/user/sendMessageAll", **form))
