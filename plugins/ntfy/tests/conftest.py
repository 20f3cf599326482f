"""The distribution installed, and servers with it: one node, and two that share a Redis. The second of these
has the WSGI server."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jwt
import pytest

from tests.gateway.cluster.redis_server import RedisServer
from tests.integration.clusters import Nodes
from tests.support import ROOT, Server, clean_environment
from tests.test_packaging import build

PLUGIN = Path(__file__).parents[1]
PUSH_KEY, READ_KEY = "key-that-pushes-0123456789", "key-that-reads-0123456789"
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
            "channels": {"ntfy": {"subscribe": "anybody", "publish": "subscribers", **KEPT}},
        }
    },
}


class Pair(NamedTuple):
    """Where tests publish, and where they subscribe: ``host:port`` of the listeners for ntfy."""

    publish: str
    subscribe: str
    servers: list[Server]


def token(user: str) -> str:
    """A session token of the app."""
    return jwt.encode({"sub": user, "app": "shop", "exp": int(time.time()) + 600}, SECRET, "HS256")


def own_listener(server: Server) -> str:
    """The address of the listener that serves only ``/ntfy``."""
    found = re.search(r"extra 1 +http://(\S+), only /ntfy", server.output)
    assert found is not None, server.output
    return found[1]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a server beside which the distribution is installed."""
    tree = tmp_path_factory.mktemp("ntfy") / "tree"
    shutil.copytree(
        PLUGIN, tree, ignore=shutil.ignore_patterns("tests", "build", "*.egg-info", "__pycache__")
    )
    target = tree.parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(build(tree))], env=clean_environment(PYTHONPATH=""), check=True)
    return {"PYTHONPATH": f"{ROOT}:{target}"}


@pytest.fixture(scope="module", params=["one", "two"])
def pair(
    request: pytest.FixtureRequest, installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """One node; or a publisher on one node and subscribers on another."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "one":
        server = Server(folder, config=CONFIG, environment=installed)
        try:
            yield Pair(own_listener(server), own_listener(server), [server])
        finally:
            server.stop()
        server.check()
        return
    redis = RedisServer(folder)
    nodes = Nodes(folder / "nodes", redis, CONFIG)
    try:
        nodes.start_many(2, environment=installed)
        first, second = nodes.servers
        yield Pair(own_listener(first), own_listener(second), [first, second])
    finally:
        try:
            nodes.stop()
        finally:
            redis.kill()
