"""The streams of Centrifugo's clients, and the requests with their commands, on raw connections."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from tests.support import Server, merged

from .raw import PATIENCE_SECONDS, Raw, Response, ask, request
from .setting import Launch

SECRET = "0123456789abcdef0123456789abcdef"
KEY = "key-of-all-apps-0123456789"
JSON = [("Content-Type", "application/json")]


def started(launch: Launch, http_server: str, **more: Any) -> Server:
    return launch(
        http_server,
        apps={
            "shop": {
                "jwt": [{"algorithm": "HS256", "key": SECRET}],
                "channels": {"news": {"subscribe": "anybody", "presence": True}},
            },
            "hall": {"open": True},
        },
        api={"keys": [{"key": KEY, "scopes": ["admin"]}]},
        centrifuge={"app": "shop"},
        **merged({"limits": {"message_bytes": 2000}, "websocket": {"close_seconds": 1}}, more),
    )


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    return started(launch, http_server)


@pytest.fixture(scope="module")
def hasty(launch: Launch, http_server: str) -> Server:
    """It waits neither long for a login nor for the answer to a ping."""
    pings = {"client_ping_seconds": 1, "client_silent_seconds": 8}
    return started(launch, http_server, limits={"login_seconds": 2}, websocket=pings)


def token(user: str = "ann", **claims: Any) -> str:
    return jwt.encode({"sub": user, **claims}, SECRET, "HS256")


class Client(Raw):
    """A stream. ``session`` is that of its login."""

    session = ""
    is_events = False

    def next(self, *names: str) -> Any:
        """The next reply with one of these fields, or the next reply that is no ping."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            line = self._until(b"\n\n" if self.is_events else b"\n", deadline)
            event = json.loads(line.removeprefix(b"data: "))
            if event and (not names or any(name in event for name in names)):
                return event

    def closed(self) -> int:  # type: ignore[override]
        """The code of the last push. The connection must end after it."""
        pushed: dict[str, Any] = self.next("push")["push"]
        assert pushed["disconnect"]["reason"]
        self.ended()
        return int(pushed["disconnect"]["code"])


@contextmanager
def streaming(
    server: Server, commands: bytes, path: str = "/connection/http_stream", **options: Any
) -> Iterator[Client]:
    """The stream that answers ``commands``."""
    with Client(server.http) as client:
        client.is_events = path.endswith("sse")
        if client.is_events:
            client.send(request(f"{path}?cf_connect={quote(commands)}", **options))
        else:
            client.send(request(path, method="POST", body=commands, headers=JSON, **options))
        head = client.response(to_head=True)
        assert head.status == 200, head
        kind = "text/event-stream" if client.is_events else "application/json"
        assert head.header("content-type") == f"{kind}; charset=utf-8"
        assert head.header("access-control-allow-origin") == "*"
        yield client


def connect(user: str = "ann", **claims: Any) -> bytes:
    return json.dumps({"id": 1, "connect": {"token": token(user, **claims)}}).encode()


@contextmanager
def connected(
    server: Server, path: str = "/connection/http_stream", commands: bytes = b""
) -> Iterator[Client]:
    with streaming(server, commands or connect(), path) as client:
        client.session = client.next("connect")["connect"]["session"]
        yield client


def emulate(server: Server, session: str, *commands: dict[str, Any], data: str = "") -> Response:
    lines = data or "\n".join(map(json.dumps, commands))
    body = json.dumps({"session": session, "node": "", "data": lines}).encode()
    return ask(server.http, request("/emulation", method="POST", headers=JSON, body=body))


def subscribe(number: int, channel: str) -> dict[str, Any]:
    return {"id": number, "subscribe": {"channel": channel}}


def publish(server: Server, app: str, channel: str, data: bytes) -> None:
    body = b'{"app":"%b","channel":"%b","data":%b}' % (app.encode(), channel.encode(), data)
    headers = [*JSON, ("Authorization", f"Bearer {KEY}")]
    path = "/api/v1/channels/publish"
    answer = ask(server.http, request(path, method="POST", headers=headers, body=body))
    assert answer.status == 200, answer


# --- what works ---------------------------------------------------------------------------------------------


@pytest.mark.both_servers
@pytest.mark.parametrize("path", ["/connection/sse", "/connection/http_stream", "/connection/shop/sse"])
def test_commands_in_requests_are_answered_on_the_stream(server: Server, path: str) -> None:
    channel = f"news:{path}"
    with connected(server, path) as client:
        assert emulate(server, client.session, subscribe(2, channel)).status == 200
        assert client.next("subscribe")["id"] == 2
        publish(server, "shop", channel, b'{\n  "text":\r\n "\xe4\xbd\xa0\xe5\xa5\xbd"\n}')
        assert client.next("push")["push"]["pub"]["data"] == {"text": "你好"}, "line ends separate no replies"
        ids = [(subscribe(number, f"{channel}-{number}")) for number in range(3, 10)]
        assert emulate(server, client.session, *ids).status == 200
        assert [client.next("subscribe")["id"] for _ in ids] == list(range(3, 10))


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.both_servers
@pytest.mark.parametrize("path", ["/connection/sse", "/connection/http_stream"])
@pytest.mark.parametrize(
    ("commands", "code"),
    [
        (b"no json", 3501),
        (b'{"id":1,"connect":{"token":"a.b.c"}}', 3500),
        (b'{"id":1,"subscribe":{"channel":"news:1"}}', 3502),  # no login comes
        (b'{"id":1,"connect":{"token":"%b"}}' % (b"x" * 2000), 3501),
    ],
)
def test_a_stream_that_does_not_begin_says_why(hasty: Server, path: str, commands: bytes, code: int) -> None:
    with streaming(hasty, commands, path) as client:
        if code == 3502:
            assert client.next()["error"]["code"] == 101
        assert client.closed() == code


@pytest.mark.both_servers
def test_requests_that_are_none_are_refused_and_bad_commands_end_the_stream(server: Server) -> None:
    assert ask(server.http, request("/connection/sse", method="POST", body=b"{}")).status == 405
    assert ask(server.http, request("/connection/http_stream")).status == 405
    long = request("/connection/http_stream", method="POST", body=b" " * 65537, headers=JSON)
    assert ask(server.http, long).status == 413
    for path in ("/emulation", "/connection/http_stream", "/connection/shop/http_stream"):
        headers = [("Origin", "http://shop.example"), ("Access-Control-Request-Method", "POST")]
        may = ask(server.http, request(path, method="OPTIONS", headers=headers))
        assert may.status == 204, path
        assert "Content-Type" in (may.header("access-control-allow-headers") or "")
    for body in (b"", b"[]", b'{"session":1,"data":""}', b'{"session":"x"}', b"\xff"):
        for kind, status in (("application/json", 400), ("application/octet-stream", 400 if body else 404)):
            headers = [("Content-Type", kind)]
            answer = ask(server.http, request("/emulation", method="POST", headers=headers, body=body))
            assert answer.status == status, (kind, body)
    with connected(server) as client:
        for size in (2001, 70000):
            assert emulate(server, client.session, data="x" * size).status == 413
        assert emulate(server, client.session, subscribe(2, "news:long")).status == 200
        assert client.next("subscribe")["id"] == 2, "the stream goes on"
        assert emulate(server, client.session, data="no json").status == 200
        assert client.closed() == 3501


# --- clients that only receive ------------------------------------------------------------------------------


PATHS = ("/connection/uni_sse", "/connection/uni_http_stream", "/connection/shop/uni_sse")


def wanted(**claims: Any) -> bytes:
    return json.dumps({"token": token("ann", **claims), "name": "js", "subs": None}).encode()


@pytest.mark.both_servers
@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_only_receives_is_pushed_to(server: Server, path: str) -> None:
    """In the channels of its token, and in those that it names and may have."""
    named = json.dumps({"token": token("ann"), "subs": {"news:uni": {}, "$news:secret": {}, "other:a": {}}})
    for content in (wanted(channels=["news:uni"]), named.encode()):
        with streaming(server, content, path) as client:
            connected = client.next("connect")["connect"]
            assert connected["subs"].keys() == {"news:uni", "#ann"}
            assert not {"session", "pong"} & connected.keys()
            publish(server, "shop", "news:uni", b'{"n":1}')
            pushed = client.next("pub")
            assert (pushed["channel"], pushed["pub"]["data"]) == ("news:uni", {"n": 1})
            publish(server, "shop", "user:ann", b'{"n":2}')
            assert client.next("pub") == {"channel": "#ann", "pub": {"data": {"n": 2}}}


@pytest.mark.parametrize("path", PATHS)
def test_a_refused_client_gets_a_code_and_one_with_an_expired_token_comes_back(
    server: Server, path: str
) -> None:
    for content, code in (
        (b"{}", 3500),
        (b'{"token":"x.y.z"}', 3500),
        (b"no", 3501),
        (b"[]", 3501),
        (b'{"token":5}', 3501),
        (wanted(exp=int(time.time()) - 60), 3005),
    ):
        with streaming(server, content, path) as client:
            assert client.next("disconnect")["disconnect"]["code"] == code
            client.ended()
