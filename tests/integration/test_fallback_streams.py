"""The streams of Centrifugo's clients, the requests with their commands, and
those that only receive."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from tests.support import Server

from .raw import PATIENCE_SECONDS, Raw, Response, ask, request
from .setting import Launch
from .v1 import call

SECRET = "0123456789abcdef0123456789abcdef"
KEY = "key-of-all-apps-0123456789"
JSON = [("Content-Type", "application/json")]


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    apps = {
        "shop": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "channels": {"news": {"subscribe": "anybody", "presence": True}},
        },
        "hall": {"open": True},
    }
    return launch(
        http_server,
        apps=apps,
        api={"keys": [{"key": KEY, "scopes": ["admin"]}]},
        centrifuge={"app": "shop"},
        limits={"message_bytes": 2000},
        websocket={"close_seconds": 1},
    )


def token(**claims: Any) -> str:
    return jwt.encode({"sub": "ann", **claims}, SECRET, "HS256")


class Client(Raw):
    """A stream. ``session`` is that of its login."""

    session = ""
    is_events = False

    def next(self, *names: str) -> Any:
        """The next reply with one of these fields, or the next reply that is no
        ping."""
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
def streaming(server: Server, commands: bytes, path: str) -> Iterator[Client]:
    """The stream that answers ``commands``."""
    with Client(server.http) as client:
        client.is_events = path.endswith("sse")
        if client.is_events:
            client.send(request(f"{path}?cf_connect={quote(commands)}"))
        else:
            client.send(request(path, method="POST", body=commands, headers=JSON))
        head = client.response(to_head=True)
        assert head.status == 200, head
        kind = "text/event-stream" if client.is_events else "application/json"
        assert head.header("content-type") == f"{kind}; charset=utf-8"
        assert head.header("access-control-allow-origin") == "*"
        yield client


@contextmanager
def connected(
    server: Server, path: str = "/connection/http_stream"
) -> Iterator[Client]:
    """A stream of ann."""
    with streaming(
        server, json.dumps({"id": 1, "connect": {"token": token()}}).encode(), path
    ) as client:
        client.session = client.next("connect")["connect"]["session"]
        yield client


def emulate(
    server: Server, session: str, *commands: dict[str, Any], data: str = ""
) -> Response:
    lines = data or "\n".join(map(json.dumps, commands))
    body = json.dumps({"session": session, "node": "", "data": lines}).encode()
    return ask(
        server.http, request("/emulation", method="POST", headers=JSON, body=body)
    )


def subscribe(number: int, channel: str) -> dict[str, Any]:
    return {"id": number, "subscribe": {"channel": channel}}


def publish(server: Server, channel: str, data: bytes) -> None:
    body = b'{"app":"shop","channel":"%b","data":%b}' % (channel.encode(), data)
    assert call(server.http, "channels/publish", body, key=KEY).status == 200


@pytest.mark.both_servers
@pytest.mark.parametrize(
    "path", ["/connection/sse", "/connection/http_stream", "/connection/shop/sse"]
)
def test_commands_in_requests_are_answered_on_the_stream(
    server: Server, path: str
) -> None:
    channel = f"news:{path}"
    with connected(server, path) as client:
        assert emulate(server, client.session, subscribe(2, channel)).status == 200
        assert client.next("subscribe")["id"] == 2
        publish(server, channel, b'{\n  "text":\r\n "\xe4\xbd\xa0\xe5\xa5\xbd"\n}')
        assert client.next("push")["push"]["pub"]["data"] == {"text": "你好"}, (
            "line ends separate no replies"
        )
        ids = [(subscribe(number, f"{channel}-{number}")) for number in range(3, 10)]
        assert emulate(server, client.session, *ids).status == 200
        assert [client.next("subscribe")["id"] for _ in ids] == list(range(3, 10))


@pytest.mark.both_servers
def test_requests_that_are_none_are_refused_and_bad_commands_end_the_stream(
    server: Server,
) -> None:
    for commands, code in (
        (b"no json", 3501),
        (b'{"id":1,"connect":{"token":"a.b.c"}}', 3500),
        (b'{"id":1,"connect":{"token":"%b"}}' % (b"x" * 2000), 3501),
    ):
        for path in ("/connection/sse", "/connection/http_stream"):
            with streaming(server, commands, path) as client:
                assert client.closed() == code
    assert (
        ask(server.http, request("/connection/sse", method="POST", body=b"{}")).status
        == 405
    )
    assert ask(server.http, request("/connection/http_stream")).status == 405
    long = request(
        "/connection/http_stream", method="POST", body=b" " * 65537, headers=JSON
    )
    assert ask(server.http, long).status == 413
    for path in (
        "/emulation",
        "/connection/http_stream",
        "/connection/shop/http_stream",
    ):
        headers = [
            ("Origin", "http://shop.example"),
            ("Access-Control-Request-Method", "POST"),
        ]
        may = ask(server.http, request(path, method="OPTIONS", headers=headers))
        assert may.status == 204, path
        assert "Content-Type" in (may.header("access-control-allow-headers") or "")
    for body in (b"", b"[]", b'{"session":1,"data":""}', b'{"session":"x"}', b"\xff"):
        for kind, status in (
            ("application/json", 400),
            ("application/octet-stream", 400 if body else 404),
        ):
            headers = [("Content-Type", kind)]
            answer = ask(
                server.http,
                request("/emulation", method="POST", headers=headers, body=body),
            )
            assert answer.status == status, (kind, body)
    with connected(server) as client:
        for size in (2001, 70000):
            assert emulate(server, client.session, data="x" * size).status == 413
        assert emulate(server, client.session, subscribe(2, "news:long")).status == 200
        assert client.next("subscribe")["id"] == 2, "the stream goes on"
        assert emulate(server, client.session, data="no json").status == 200
        assert client.closed() == 3501


# --- clients that only receive ------------------------------------------------

PATHS = (
    "/connection/uni_sse",
    "/connection/uni_http_stream",
    "/connection/shop/uni_sse",
)


@pytest.mark.both_servers
@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_only_receives_is_pushed_to(server: Server, path: str) -> None:
    for wanted in (
        {"token": token(channels=["news:uni"]), "name": "js", "subs": None},
        {"token": token(), "subs": {"news:uni": {}, "$news:secret": {}, "other:a": {}}},
    ):
        with streaming(server, json.dumps(wanted).encode(), path) as client:
            connected = client.next("connect")["connect"]
            assert connected["subs"].keys() == {"news:uni", "#ann"}, (
                "those that it may have"
            )
            assert not {"session", "pong"} & connected.keys()
            publish(server, "news:uni", b'{"n":1}')
            pushed = client.next("pub")
            assert (pushed["channel"], pushed["pub"]["data"]) == ("news:uni", {"n": 1})
            publish(server, "user:ann", b'{"n":2}')
            assert client.next("pub") == {"channel": "#ann", "pub": {"data": {"n": 2}}}


@pytest.mark.parametrize("path", PATHS)
def test_a_refused_client_that_only_receives_gets_a_code(
    server: Server, path: str
) -> None:
    expired = json.dumps({"token": token(exp=int(time.time()) - 60)}).encode()
    for content, code in (
        (b"{}", 3500),
        (b'{"token":"x.y.z"}', 3500),
        (b"no", 3501),
        (b"[]", 3501),
        (b'{"token":5}', 3501),
        (expired, 3005),
    ):
        with streaming(server, content, path) as client:
            assert client.next("disconnect")["disconnect"]["code"] == code, content
            client.ended()
