"""The distribution installed, and servers with it: one node, and two that share
a Redis. The second of these has the WSGI server."""

import http.client
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest

PLUGIN = Path(__file__).parents[1]
sys.path.insert(0, str(PLUGIN))  # as it is here; the servers have the distribution

from tests.integration.plug_ins import fixtures  # noqa: E402
from tests.stores import database_servers, empty_url, open_store  # noqa: E402, F401
from tests.support import Server  # noqa: E402

ADMIN, PUSH, READ = (
    f"key-that-{name}-0123456789abcdef" for name in ("does-all", "pushes", "reads")
)
SECRET = "the-secret-of-the-shop-that-nobody-guesses"
STORED = {"history": "log", "subscribe": "anybody", "publish": "anybody"}
CONFIG: dict[str, Any] = {
    "features": ["messages", "centrifuge", "durable_streams"],
    "durable_streams": {"long_poll_seconds": 300, "sse_seconds": 300},
    "api": {
        "requests_per_second": 0,
        "keys": [
            {"key": ADMIN, "scopes": ["admin", "push", "read"]},
            {"key": PUSH, "scopes": ["push"], "apps": ["shop"]},
            {"key": READ, "scopes": ["read"], "apps": ["shop"]},
        ],
    },
    "apps": {
        "shop": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "channels": {
                "": STORED,
                "small": {**STORED, "max_bytes": 4},
                "live": {},
                "news": {**STORED, "publish": ""},
            },
        },
        "bank": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "channels": {"": STORED},
        },
    },
}


def token(user: str) -> str:
    return jwt.encode(
        {"sub": user, "app": "shop", "exp": int(time.time()) + 600}, SECRET, "HS256"
    )


class Answer(NamedTuple):
    """The answer to a request. ``next``: its Stream-Next-Offset."""

    status: int
    body: bytes
    headers: Any

    @property
    def next(self) -> str:
        return str(self.headers["Stream-Next-Offset"])


class Streams(NamedTuple):
    """Nodes. Requests go to the one with a number, by default to the last."""

    servers: list[Server]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str = b"",
        key: str = ADMIN,
        app: str = "shop",
        node: int = -1,
        **headers: Any,
    ) -> Answer:
        """The answer to a request. ``path``: the name of the stream, and a
        query. ``headers``: with ``_`` for ``-``."""
        given = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        given |= {"Authorization": f"Bearer {key}"} if key else {}
        connection = http.client.HTTPConnection(*self.servers[node].http, timeout=120)
        with closing(connection):
            connection.request(
                method, f"/durable/{app}/stream/{path}", body or None, given
            )
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), answer.headers)

    def create(self, name: str, kind: str = "text/plain", **more: Any) -> Answer:
        """A new stream."""
        answer = self.ask("PUT", name, Content_Type=kind, **more)
        assert answer.status == 201, answer
        return answer

    def append(
        self, name: str, body: bytes | str, kind: str = "text/plain", **more: Any
    ) -> Answer:
        """An append that is stored."""
        answer = self.ask("POST", name, body, Content_Type=kind, **more)
        assert answer.status in (200, 204), answer
        return answer


installed, servers = fixtures("durable", CONFIG, PLUGIN)


@pytest.fixture(scope="module")
def streams(servers: list[Server]) -> Streams:
    return Streams(servers)
