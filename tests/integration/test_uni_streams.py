"""The streams of Centrifugo's clients that only receive."""

import json
import time
from typing import Any

import pytest

from tests.support import Server

from .test_fallback_streams import Client, publish, server, streaming, token

__all__ = ["server"]
PATHS = ("/connection/uni_sse", "/connection/uni_http_stream", "/connection/shop/uni_sse")


def wanted(**claims: Any) -> bytes:
    return json.dumps({"token": token("ann", **claims), "name": "js", "subs": None}).encode()


def ended(client: Client) -> dict[str, Any]:
    """The last push. The connection must end after it."""
    found: dict[str, Any] = client.next("disconnect")["disconnect"]
    client.ended()
    return found


@pytest.mark.both_servers
@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_only_receives_is_pushed_to(server: Server, path: str) -> None:
    with streaming(server, wanted(channels=["news:uni"]), path) as client:
        connected = client.next("connect")["connect"]
        assert {"news:uni", "#ann"} <= connected["subs"].keys()
        assert not {"session", "pong"} & connected.keys()
        publish(server, "shop", "news:uni", b'{"n":1}')
        pushed = client.next("pub")
        assert (pushed["channel"], pushed["pub"]["data"]) == ("news:uni", {"n": 1})
        publish(server, "shop", "user:ann", b'{"n":2}')
        assert client.next("pub") == {"channel": "#ann", "pub": {"data": {"n": 2}}}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "code"),
    [(b"{}", 3500), (b'{"token":"x.y.z"}', 3500), (b"no", 3501), (b"[]", 3501), (b'{"token":5}', 3501)],
)
def test_a_refused_client_gets_a_code(server: Server, path: str, content: bytes, code: int) -> None:
    with streaming(server, content, path) as client:
        assert ended(client)["code"] == code


def test_a_client_with_an_expired_token_comes_back(server: Server) -> None:
    with streaming(server, wanted(exp=int(time.time()) - 60), PATHS[0]) as client:
        assert ended(client) == {"code": 3005, "reason": "connection expired"}


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_only_receives_names_channels_that_it_may_have(server: Server, path: str) -> None:
    publish(server, "shop", "news:uni", b'{"n":1}')
    content = json.dumps({"token": token("ann"), "subs": {"news:uni": {}, "$news:secret": {}, "other:a": {}}})
    with streaming(server, content.encode(), path) as client:
        assert client.next("connect")["connect"]["subs"].keys() == {"news:uni", "#ann"}
        publish(server, "shop", "news:uni", b'{"n":2}')
        assert client.next("pub")["pub"]["data"] == {"n": 2}
