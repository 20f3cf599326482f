"""Measures what grows with the number of nodes and users: ``python -m tests.gateway.cluster.measure_scale``.

CPU of a look at the leases, of a bucket and a user that are cleaned up, of a session that is registered
again, and of connections between nodes; memory of a user in a full bucket, and of a peer. Redis runs here.
"""

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from imserver.gateway.cluster.nodes import _decode, encode
from imserver.gateway.cluster.redis import lease as leases
from imserver.gateway.cluster.redis import presence
from imserver.gateway.cluster.redis.recovery import DeadNodeCleanup
from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.redis.scripts import DEAD_EPOCHS, LEASE_DATA, written_key
from imserver.gateway.cluster.registry import RegistryCounters, Session
from imserver.gateway.config.settings import ClusterSettings
from imserver.gateway.node.feature_list import FEATURES
from imserver.messenger.messages.log.contract import Commit, Entry
from tests.gateway.cluster.conftest import lease_of
from tests.gateway.cluster.measure import Remote, cpu_seconds
from tests.gateway.cluster.node_process import QUIET
from tests.gateway.cluster.redis_server import RedisServer

SETTINGS = ClusterSettings(lease_seconds=3600.0, renew_seconds=1.0, redis_seconds=60.0)
NAMES = " ".join(["core", *(name.rpartition(".")[2] for name in FEATURES)])
USERS_OF_BUCKET = 610
"""Ten million users in 16,384 buckets."""
FULL = 32
"""So many buckets there are here."""


def redis_cpu(server: RedisServer) -> float:
    with server.client() as client:
        facts = client.info("cpu")
    return float(facts["used_cpu_user"] + facts["used_cpu_sys"])


def cost(server: RedisServer, run: Callable[[], object], items: int) -> tuple[float, float]:
    """CPU of Redis and of this process for each item, in µs."""
    before = redis_cpu(server), cpu_seconds()
    run()
    after = redis_cpu(server), cpu_seconds()
    redis, node = ((late - early) / items * 1e6 for early, late in zip(before, after, strict=True))
    return redis, node


def look_at_leases(server: RedisServer, node: RedisRegistry, count: int) -> None:
    """A look of a node at ``count`` leases, of which one has changed, as each second in a busy cluster."""
    keeper = node.keeper
    with server.client() as client:
        for number in range(1000, 1000 + count):
            each = lease_of(
                number, feature_names=NAMES, fingerprint="f" * 32, database="d" * 32, birth=1 << 60
            )
            each = replace(each, connections=60_000, counts={"101": 60_000}, data=each.control, host="h" * 32)
            client.hset(LEASE_DATA, str(number), leases._encode(each).decode())
        size = sum(map(len, client.hvals(LEASE_DATA))) / client.hlen(LEASE_DATA)

    def look() -> None:
        for _ in range(50):
            keeper.table.version = b"-1"
            keeper.refresh()

    redis, own = cost(server, look, 50)
    print(f"a look at {count:5} leases: {size:.0f} bytes each, Redis {redis:7.0f} µs, node {own:7.0f} µs")


def resident(worker: Remote) -> int:
    """Bytes of memory of its process."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def mesh(count: int) -> None:
    """Each of these nodes sends to each other one and asks it: two connections per ordered pair."""
    workers = [Remote(epoch) for epoch in range(1, count + 1)]
    addresses = [worker.addresses() for worker in workers]
    for worker in workers:
        worker.peers(addresses)

    def state() -> tuple[float, int]:
        return sum(worker.look()["cpu"] for worker in workers), sum(map(resident, workers))

    before = state()
    for worker in workers:
        worker.connect_to()
    after, pairs = state(), count * (count - 1)
    cpu, memory = ((late - early) / pairs for early, late in zip(before, after, strict=True))
    print(f"a mesh of {count}: CPU {cpu * 1e6:.0f} µs and {memory / 1024:.0f} KiB for each ordered pair")
    for worker in workers:
        worker.unregister()


def read_entries(batch: int, times: int) -> None:
    """What a node does with stored entries of which none is for its users, without the RPC."""
    more = {"client_msg_id": "m-1234567", "time_ms": 1_700_000_000_000}
    entry = Entry(1, 1, 1, "alice", ("alice", "bob"), body=b"x" * 100, **more)
    data = encode(Commit("101", 1, batch, [entry] * batch))
    began = cpu_seconds()
    for _ in range(times):
        _decode(data)
    each = (cpu_seconds() - began) / times / batch * 1e6
    print(f"an entry read, {batch} together: {each:.2f} µs, {len(data) / batch:.0f} bytes")


def main() -> None:
    read_entries(1, 100_000)
    read_entries(10, 20_000)
    mesh(12)
    server = RedisServer(Path(tempfile.mkdtemp()))
    try:
        node = RedisRegistry(server.settings, SETTINGS, ["101"])
        node.start(lease_of(1), QUIET)
        presence.BUCKETS = FULL  # type: ignore[misc]
        sessions = [Session("101", f"user{id:08}", id=id) for id in range(1, FULL * USERS_OF_BUCKET + 1)]

        def register() -> None:
            for _ in node.reregister(sessions):
                pass

        began = time.monotonic()
        redis, own = cost(server, register, len(sessions))
        rate = len(sessions) / (time.monotonic() - began)
        print(f"a session registered again: Redis {redis:.1f} µs, node {own:.1f} µs; {rate:,.0f}/s")
        with server.client() as client:
            used = sum(client.memory_usage(f"imserver:users:{{101:{number}}}") for number in range(FULL))
            record = client.memory_usage("acc:user:online:101_" + sessions[0].user)
        each = used / len(sessions)
        print(f"a user in a bucket of {USERS_OF_BUCKET}: {each:.0f} bytes; a record: {record} bytes")

        epoch = node.lease.epoch
        with server.client() as client:
            members = [f"{number}:101" for number in range(FULL)]
            client.sadd(written_key("buckets", epoch + 1), *members)
        cleanup = DeadNodeCleanup(node.pipeline, RegistryCounters(), ["101"])
        redis, own = cost(server, lambda: cleanup.run([epoch + 1], lambda _: False), FULL)
        print(f"a bucket cleaned up without a hit: Redis {redis:.0f} µs, node {own:.0f} µs")
        with server.client() as client:
            client.sadd(written_key("buckets", epoch), *members)
            client.hset(DEAD_EPOCHS, str(epoch), leases._encode(node.lease).decode())
        redis, own = cost(server, lambda: cleanup.run([epoch], lambda _: False), len(sessions))
        print(f"a user cleaned up: Redis {redis:.1f} µs, node {own:.1f} µs")
        node.recovery.stop()  # it uses the connection of the leases
        for count in (50, 200, 1000):
            look_at_leases(server, node, count)
    finally:
        server.kill()


if __name__ == "__main__":
    main()
