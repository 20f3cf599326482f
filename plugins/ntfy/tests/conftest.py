"""The distribution installed, and servers with it: one node, and two that share
a Redis. The second of these has the WSGI server."""

import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jwt
import pytest

from tests.integration.plug_ins import fixtures
from tests.support import Server

PLUGIN = Path(__file__).parents[1]
sys.path.insert(0, str(PLUGIN))  # as it is here; the servers have the distribution
PUSH_KEY = "key-that-pushes-0123456789"
READ_KEY = "key-that-reads-0123456789"
ADMIN_KEY = "key-of-the-admin-0123456789"
SECRET = "the-secret-of-the-shop-that-nobody-guesses"
KEPT = {"history_size": 500, "history_seconds": 600}
CONFIG = {
    "features": ["webhooks", "ntfy"],
    "ntfy": {"app": "shop"},
    "server": {
        "extra_listen": [{"port": 0, "path": "/ntfy"}],
        "extra_hosts": [{"host": "ntfy.example", "path": "/ntfy"}],
    },
    "websocket": {"client_ping_seconds": 1},
    "api": {
        "keys": [
            {"key": ADMIN_KEY, "scopes": ["admin"]},
            {"key": PUSH_KEY, "scopes": ["push"], "apps": ["shop"]},
            {"key": READ_KEY, "scopes": ["read"]},
        ]
    },
    "apps": {
        "shop": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "dialects": ["cmd", "ntfy"],
            "channels": {
                "ntfy": {"subscribe": "anybody", "publish": "subscribers", **KEPT}
            },
        }
    },
}


class Pair(NamedTuple):
    """Where tests publish, and where they subscribe: ``host:port`` of the
    listeners for ntfy."""

    publish: str
    subscribe: str
    servers: list[Server]


def token(user: str) -> str:
    return jwt.encode(
        {"sub": user, "app": "shop", "exp": int(time.time()) + 600}, SECRET, "HS256"
    )


def own_listener(server: Server) -> str:
    """The address of the listener that serves only ``/ntfy``."""
    found = re.search(r"extra 1 +http://(\S+), only /ntfy", server.output)
    assert found is not None, server.output
    return found[1]


installed, servers = fixtures("ntfy", CONFIG, PLUGIN)


@pytest.fixture(scope="module")
def pair(servers: list[Server]) -> Pair:
    """One node; or a publisher on one node and subscribers on another."""
    return Pair(own_listener(servers[0]), own_listener(servers[-1]), servers)
