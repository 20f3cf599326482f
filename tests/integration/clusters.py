"""Clusters for tests: several server processes, each a node, with one real
Redis and one folder of data."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from imserver.plugin.testing import HostAndPort
from tests.gateway.cluster.redis_server import RedisServer
from tests.support import COMMAND, POLICIES, Server, eventually, merged

from .cmd import good
from .raw import ask, bearer, request
from .release import environment_of

_APPS_EACH = 30
APPS = {
    str(3000 + 100 * number + offset): {"login_policy": policy}
    for number, policy in enumerate(POLICIES)
    for offset in range(_APPS_EACH)
}
"""Apps beside the usual four, so that each test has one of its own of the
policy that it wants."""
_numbers = itertools.count()
OTHER_RELEASE: Final = "IMSERVER_TESTS_OTHER_RELEASE"
"""Environment: ``NUMBER:TREE``; every second node, from this number on, is
started from that tree.

So each test of clusters is a test of a cluster of two releases
(``test_upgrade_cluster.py``)."""

Launch = Callable[..., "Nodes"]
"""``cluster(number, section={…}, …)`` starts a cluster for one test."""


def app_with(policy: str = "newest") -> int:
    """An app of this policy that no other test has."""
    return 3000 + 100 * POLICIES.index(policy) + next(_numbers) % _APPS_EACH


class Nodes:
    """The nodes of one cluster. Odd ones have the WSGI server.

    ``config`` holds for all nodes, what is given to :meth:`start` for one.
    """

    def __init__(
        self, folder: Path, redis: RedisServer, config: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.redis = redis
        self.servers: list[Server] = []
        self._config = merged(
            {
                "app": {"rpc_port": 0},
                "server": {"data_dir": str(folder / "data")},
                "redis": {"addr": f"127.0.0.1:{redis.port}"},
                # Nodes and Redis have time for an answer, on a busy machine
                # too.
                "cluster": {
                    "advertise": "127.0.0.1",
                    "redis_seconds": 10,
                    "rpc_seconds": 10,
                },
                "websocket": {"close_seconds": 1},
                "apps": {
                    **{str(app): {"open": True} for app in (101, 102, 103, 104)},
                    **APPS,
                },
            },
            config or {},
        )

    def start(self, config: Mapping[str, Any] | None = None, **options: Any) -> Server:
        """One more node."""
        return self._started(len(self.servers), config or {}, options)

    def start_many(self, number: int, **options: Any) -> None:
        """So many more nodes, all at once."""
        first = len(self.servers)
        with ThreadPoolExecutor(number or 1) as pool:
            list(
                pool.map(
                    lambda index: self._started(index, {}, options),
                    range(first, first + number),
                )
            )
        self.servers.sort(key=lambda server: server.folder.name)
        self.wait_until_met()

    def _started(
        self, index: int, config: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Server:
        http_server = options.get("http_server", "wsgi" if index % 2 else "front")
        options = {**options, "http_server": http_server}
        number, _, other = os.environ.get(OTHER_RELEASE, "").partition(":")
        if other and index % 2 == int(number):
            # The constants that a command changes are in modules which that
            # release may not have.
            options |= {"environment": environment_of(Path(other)), "command": COMMAND}
        server = Server(
            self.folder / f"node{index}", config=merged(self._config, config), **options
        )
        self.servers.append(server)
        return server

    def wait_until_met(self, seconds: float = 60.0) -> None:
        """Wait until every node that runs knows every other and nobody else."""
        running = self.running
        keys = self._config.get("api", {}).get("keys", [{"key": ""}])
        for server in running:
            eventually(
                lambda server=server: (
                    len(leases(server, keys[0]["key"])) == len(running)
                ),
                seconds,
                f"all {len(running)} nodes know each other",
            )

    @property
    def running(self) -> list[Server]:
        """Those that have not ended."""
        return [server for server in self.servers if server.process.poll() is None]

    @property
    def http(self) -> list[HostAndPort]:
        return [server.http for server in self.servers]

    @property
    def ws(self) -> list[HostAndPort]:
        return [server.ws for server in self.servers]

    def stop(self) -> None:
        """End all nodes; fail if one of them logged a traceback."""
        with ThreadPoolExecutor(len(self.servers) or 1) as pool:
            list(pool.map(Server.stop, self.servers))
        for server in self.servers:
            server.check()


@contextmanager
def nodes_of(
    folder: Path, number: int, redis: RedisServer | None = None, **config: Any
) -> Iterator[Nodes]:
    """A cluster of so many nodes; with a Redis of its own unless one is
    given."""
    own = None
    if redis is None:
        (folder / "redis").mkdir(parents=True, exist_ok=True)
        redis = RedisServer(folder / "redis")
        own = redis
    nodes = Nodes(folder, redis, config)
    try:
        nodes.start_many(number)
        yield nodes
    finally:
        try:
            nodes.stop()
        finally:
            if own is not None:
                own.kill()


def states(server: Server, key: str = "") -> dict[str, Any]:
    """The states of all nodes, as one node tells. ``key``: the API key to ask
    with."""
    question = bearer(request("/system/state?cluster=true"), key)
    data: dict[str, Any] = good(ask(server.http, question))
    return data


def leases(server: Server, key: str = "") -> dict[str, Any]:
    """The leases of all nodes by name, as one node knows them. Other nodes are
    asked, too."""
    return {
        node: state["lease"] for node, state in states(server, key)["nodes"].items()
    }


def name_of(server: Server) -> str:
    """The id of a node."""
    found: str = next(iter(leases(server)))
    return found
