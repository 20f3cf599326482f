"""Measures channels: ``python -m tests.gateway.cluster.measure_channels``.

What a question to the registry costs a node (CPU, with a Redis on the same machine), and a fan-out by channel
beside one by app (the fastest of five, without the kernel).
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gevent

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import ReportedMembers
from imserver.gateway.config.settings import ClusterSettings
from imserver.gateway.model import Event
from tests.gateway.cluster.conftest import lease_of
from tests.gateway.cluster.measure import cpu_seconds
from tests.gateway.cluster.node_process import QUIET
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.hub.harness import Harness

NAMES = [f"channel{number}" for number in range(1000)]
MEMBERS = 500
EVENT = Event("msg", "eve", "x" * 100, "7")


def each(run: Callable[[], object], times: int, items: int = 1) -> str:
    """CPU of an item, as text."""
    began = cpu_seconds()
    for _ in range(times):
        run()
    return f"{(cpu_seconds() - began) / times / items * 1e6:.1f} µs"


def registry(server: RedisServer) -> None:
    node = RedisRegistry(server.settings, ClusterSettings(), ["101"])
    node.start(lease_of(1), QUIET)
    entries = [ReportedMembers("101", channel, 1) for channel in NAMES]

    def ask_all() -> None:
        for channel in NAMES:
            node.find_channels("101", [channel])

    def at_once() -> None:
        gevent.joinall([gevent.spawn(ask_all) for _ in range(50)])

    print("telling of 1,000 channels, each      ", each(lambda: node.report_channels(entries), 10, 1000))
    print("where is a channel, one at a time    ", each(lambda: node.find_channels("101", NAMES[:1]), 2000))
    print("where is a channel, 50 ask at a time  ", each(at_once, 1, 50_000))
    print(
        "where are 100 channels, each         ", each(lambda: node.find_channels("101", NAMES[:100]), 50, 100)
    )
    with server.client() as client:
        used = sum(client.memory_usage(key) for key in client.scan_iter("imserver:channels:*", 1000))
    print(f"a channel in Redis                    {used / len(NAMES):.0f} bytes")
    node.stop()


def fan_out() -> None:
    with Harness() as harness:
        connections = [harness.login("102", f"u{number}")[0] for number in range(MEMBERS)]
        for connection in connections:
            harness.channels.subscriptions.join("102", "lobby", connection)

        def fastest(run: Callable[[], object]) -> str:
            took = []
            for _ in range(500):
                began = time.perf_counter()
                run()
                took.append(time.perf_counter() - began)
                harness.flusher.dirty.clear()
                for connection in connections:
                    connection.outbox = None
            return f"{min(took) / MEMBERS * 1e9:.0f} ns"

        print("to all users of an app, each      ", fastest(lambda: harness.fanout.to_app("102", EVENT)))
        publish = partial(harness.channels.publishing.publish, "102", "lobby", EVENT)
        print("to a channel, each                   ", fastest(publish))


if __name__ == "__main__":
    server = RedisServer(Path(tempfile.mkdtemp()))
    try:
        registry(server)
    finally:
        server.kill()
    fan_out()
