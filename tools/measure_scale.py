"""Measures what grows with the number of nodes and users: ``python -m
tools.measure_scale``.

CPU of a look at the leases, of a bucket and a user that are cleaned up, of a
session that is registered again, and of connections between nodes; memory of a
user in a full bucket, and of a peer. Redis runs here.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gevent.fileobject import FileObject
from msgspec.json import encode
from msgspec.structs import replace

from imserver import FEATURES
from imserver.gateway.cluster.redis import presence
from imserver.gateway.cluster.redis.lease import written_key
from imserver.gateway.cluster.redis.recovery import DeadNodeCleanup
from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.redis.scripts import DEAD_EPOCHS, LEASE_DATA
from imserver.gateway.cluster.registry import Lease, RegistryCounters, Session
from imserver.gateway.cluster.rpc.server import Rpc
from imserver.gateway.config.settings import ClusterSettings
from imserver.gateway.process import Secret
from tests.gateway.cluster.conftest import QUIET, lease_of
from tests.gateway.cluster.redis_server import RedisServer
from tests.support import ROOT

SETTINGS = ClusterSettings(lease_seconds=3600.0, renew_seconds=1.0, redis_seconds=60.0)
NAMES = " ".join(["core", *(name.rpartition(".")[2] for name in FEATURES)])
USERS_OF_BUCKET = 610
"""Ten million users in 16,384 buckets."""
FULL = 32
"""So many buckets there are here."""


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Worker:
    """A node in a process of its own; obeys one JSON command a line and answers
    with one line."""

    def __init__(self, epoch: int) -> None:
        self.rpc = Rpc(
            Secret(b"measure" * 8), lambda kind, body: body, lambda sender, items: None
        )
        self.rpc.start("127.0.0.1", 0, 0)
        self.rpc.epoch = epoch

    def addresses(self) -> dict[str, Any]:
        control = self.rpc.control_address
        data = self.rpc.data_address
        return {
            "node": control[6:],
            "epoch": self.rpc.epoch,
            "control": control,
            "data": data,
        }

    def connect_to(self, leases: list[dict[str, Any]]) -> None:
        for lease in (
            Lease(**lease) for lease in leases if lease["epoch"] != self.rpc.epoch
        ):
            self.rpc.send(lease, b"hello")
            self.rpc.query(lease, "hello", b"")

    def cpu(self) -> float:
        return cpu_seconds()

    def obey(self) -> None:
        for line in FileObject(sys.stdin.fileno(), "rb", close=False):
            name, *arguments = json.loads(line)
            print(json.dumps(getattr(self, name)(*arguments)), flush=True)
        self.rpc.stop()


class Remote:
    """A worker, seen from the command."""

    def __init__(self, epoch: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.measure_scale", str(epoch)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
            return json.loads(self.process.stdout.readline())  # type: ignore[union-attr]

        return call

    def unregister(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(10)


def redis_cpu(server: RedisServer) -> float:
    with server.client() as client:
        facts = client.info("cpu")
    return float(facts["used_cpu_user"] + facts["used_cpu_sys"])


def cost(
    server: RedisServer, run: Callable[[], object], items: int
) -> tuple[float, float]:
    """CPU of Redis and of this process for each item, in µs."""
    before = redis_cpu(server), cpu_seconds()
    run()
    after = redis_cpu(server), cpu_seconds()
    redis, node = (
        (late - early) / items * 1e6 for early, late in zip(before, after, strict=True)
    )
    return redis, node


def look_at_leases(server: RedisServer, node: RedisRegistry, count: int) -> None:
    """A look of a node at ``count`` leases, of which one has changed, as each
    second in a busy cluster."""
    keeper = node.keeper
    with server.client() as client:
        for number in range(1000, 1000 + count):
            each = lease_of(
                number,
                feature_names=NAMES,
                fingerprint="f" * 32,
                database="d" * 32,
                birth=1 << 60,
            )
            each = replace(
                each,
                connections=60_000,
                counts={"101": 60_000},
                data=each.control,
                host="h" * 32,
            )
            client.hset(LEASE_DATA, str(number), encode(each).decode())
        size = sum(map(len, client.hvals(LEASE_DATA))) / client.hlen(LEASE_DATA)

    def look() -> None:
        for _ in range(50):
            keeper.table.version = b"-1"
            keeper.refresh()

    redis, own = cost(server, look, 50)
    print(
        f"a look at {count:5} leases: {size:.0f} bytes each, Redis {redis:7.0f} µs, node {own:7.0f} µs"
    )


def resident(worker: Remote) -> int:
    """Bytes of memory of its process."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def mesh(count: int) -> None:
    """Each of these nodes sends to each other one and asks it: two connections
    per ordered pair."""
    workers = [Remote(epoch) for epoch in range(1, count + 1)]
    addresses = [worker.addresses() for worker in workers]

    def state() -> tuple[float, int]:
        return sum(worker.cpu() for worker in workers), sum(map(resident, workers))

    before = state()
    for worker in workers:
        worker.connect_to(addresses)
    after = state()
    pairs = count * (count - 1)
    cpu, memory = (
        (late - early) / pairs for early, late in zip(before, after, strict=True)
    )
    print(
        f"a mesh of {count}: CPU {cpu * 1e6:.0f} µs and {memory / 1024:.0f} KiB for each ordered pair"
    )
    for worker in workers:
        worker.unregister()


def main() -> None:
    mesh(12)
    server = RedisServer(Path(tempfile.mkdtemp()))
    try:
        node = RedisRegistry(server.settings, SETTINGS, ["101"])
        node.start(lease_of(1), QUIET)
        presence.BUCKETS = FULL  # type: ignore[misc]
        sessions = [
            Session("101", f"user{id:08}", id=id)
            for id in range(1, FULL * USERS_OF_BUCKET + 1)
        ]

        def register() -> None:
            for _ in node.reregister(sessions):
                pass

        began = time.monotonic()
        redis, own = cost(server, register, len(sessions))
        rate = len(sessions) / (time.monotonic() - began)
        print(
            f"a session registered again: Redis {redis:.1f} µs, node {own:.1f} µs; {rate:,.0f}/s"
        )
        with server.client() as client:
            used = sum(
                client.memory_usage(f"imserver:users:{{101:{number}}}")
                for number in range(FULL)
            )
            record = client.memory_usage("acc:user:online:101_" + sessions[0].user)
        each = used / len(sessions)
        print(
            f"a user in a bucket of {USERS_OF_BUCKET}: {each:.0f} bytes; a record: {record} bytes"
        )

        epoch = node.lease.epoch
        with server.client() as client:
            members = [f"{number}:101" for number in range(FULL)]
            client.sadd(written_key("buckets", epoch + 1), *members)
        cleanup = DeadNodeCleanup(node.pipeline, RegistryCounters(), ["101"])
        redis, own = cost(
            server, lambda: cleanup.run([epoch + 1], lambda _: False), FULL
        )
        print(
            f"a bucket cleaned up without a hit: Redis {redis:.0f} µs, node {own:.0f} µs"
        )
        with server.client() as client:
            client.sadd(written_key("buckets", epoch), *members)
            client.hset(DEAD_EPOCHS, str(epoch), encode(node.lease).decode())
        redis, own = cost(
            server, lambda: cleanup.run([epoch], lambda _: False), len(sessions)
        )
        print(f"a user cleaned up: Redis {redis:.1f} µs, node {own:.1f} µs")
        node.recovery.stop()  # it uses the connection of the leases
        for count in (50, 200, 1000):
            look_at_leases(server, node, count)
    finally:
        server.kill()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Worker(int(sys.argv[1])).obey()
    else:
        main()
