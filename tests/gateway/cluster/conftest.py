"""Fixtures: redis-servers, and registries that act as nodes of one cluster."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import (
    Lease,
    RegistryEvents,
    ReportedMembers,
    Session,
)
from imserver.gateway.cluster.rpc.peer import SECONDS
from imserver.gateway.config.settings import ClusterSettings, RedisSettings
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.cluster.rpc_harness import Nodes

QUIET = RegistryEvents(
    lambda: (), lambda everything: None, lambda app, user, session: None, lambda: None
)
"""The events of a node that does nothing."""
LASTING = ClusterSettings(lease_seconds=60.0, renew_seconds=0.1, redis_seconds=10.0)
"""Leases that no test waits for: what happens sooner has another cause."""
PATIENT = ClusterSettings(lease_seconds=60.0, renew_seconds=0.1, redis_seconds=5.0)
"""Leases that outlast what happens to Redis, which is soon noticed."""

StartNode = Callable[..., RedisRegistry]
StartServer = Callable[..., RedisServer]


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """The shared server, empty."""
    return redis_server


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """``start_server(*options)``: a server that the test may kill."""
    with ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            server = RedisServer(tmp_path_factory.mktemp("redis"), *options)
            stack.callback(server.kill)
            return server

        yield start


@pytest.fixture
def own_server(start_server: StartServer) -> RedisServer:
    """One without options."""
    return start_server()


@pytest.fixture
def start_node() -> Iterator[StartNode]:
    """``start_node(server, number=1, …)``: a registry that has joined; stopped
    at the end of the test."""
    nodes: list[RedisRegistry] = []

    def start(
        redis: RedisServer | RedisSettings,
        number: int = 1,
        settings: ClusterSettings = LASTING,
        lease: dict[str, Any] | None = None,
        prepare: Callable[[RedisRegistry], RegistryEvents] | None = None,
        events: RegistryEvents = QUIET,
        **options: Any,
    ) -> RedisRegistry:
        where = redis.settings if isinstance(redis, RedisServer) else redis
        node = RedisRegistry(where, settings, options.pop("apps", ["101"]), **options)
        nodes.append(node)
        if prepare is not None:
            events = prepare(node)
        node.start(lease_of(number, **(lease or {})), events)
        return node

    yield start
    for node in nodes:
        node.stop()


def lease_of(number: int, **more: Any) -> Lease:
    """What node ``number`` of the tests says of itself."""
    fields = {
        "host": "here",
        "fingerprint": "f1",
        "control": f"tcp://127.0.0.1:{9000 + 2 * number}",
    }
    return Lease(f"127.0.0.1:{9000 + 2 * number}", **{**fields, **more})


def begin(
    node: RedisRegistry,
    user: str = "ann",
    policy: str = "newest",
    device: str = "",
    port: int = 5000,
) -> Session:
    session = Session("101", user, device, policy, f"127.0.0.1:{port}", 1700000000)
    assert node.register(session).addressed
    return session


def enter(
    node: RedisRegistry, *channels: str, members: int = 1, app: str = "101"
) -> None:
    assert (
        node.report_channels(
            [ReportedMembers(app, channel, members) for channel in channels]
        )
        is not None
    )


def members_of(
    node: RedisRegistry, channel: str = "lobby", app: str = "101"
) -> dict[int, int]:
    """The members of a channel by the epochs of their nodes."""
    return node.find_channels(app, [channel])[0]


Pair = tuple[RedisRegistry, RedisRegistry]


@pytest.fixture
def pair(server: RedisServer, start_node: StartNode) -> Pair:
    return start_node(server, 1), start_node(server, 2)


@pytest.fixture
def peers(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """Nodes with an RPC and nothing else, with the times that the module sets
    as ``SECONDS``."""
    nodes = Nodes(getattr(request.module, "SECONDS", SECONDS))
    yield nodes
    nodes.end()
