"""Measures the RPC between processes: ``python -m tests.gateway.cluster.measure [one hundred flood calls
idle …]``.

The figures are CPU (user + system, with ZeroMQ's own threads) of all nodes together, for items of 150 bytes.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import json
import resource
import struct
import subprocess
import sys
import time
from typing import Any

import gevent
from gevent.fileobject import FileObject

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc import peer
from imserver.gateway.cluster.rpc.server import Rpc
from imserver.gateway.process import Secret
from tests.support import ROOT

ITEM_BYTES = 150


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Worker:
    """A node in a process of its own; obeys one JSON command a line and answers with one line."""

    def __init__(self, epoch: int) -> None:
        self.delays: list[float] = []
        self.rpc = Rpc(Secret(b"measure" * 8), lambda kind, body: body, self.received)
        self.rpc.start("127.0.0.1", 0, 0)
        self.rpc.epoch = epoch
        self.timed = False

    def received(self, sender: int, items: list[bytes]) -> None:
        if self.timed:
            now = time.monotonic()
            self.delays.extend(now - struct.unpack_from("d", item)[0] for item in items)

    def addresses(self) -> dict[str, Any]:
        rpc = self.rpc
        return {
            "node": rpc.control_address[6:],
            "epoch": rpc.epoch,
            "control": rpc.control_address,
            "data": rpc.data_address,
        }

    def peers(self, leases: list[dict[str, Any]]) -> None:
        self.leases = [Lease(**lease) for lease in leases if lease["epoch"] != self.rpc.epoch]

    def connect_to(self) -> None:
        for lease in self.leases:
            self.rpc.send(lease, b"hello")
            self.rpc.query(lease, "hello", b"")

    def batches_of(self, count: int) -> None:
        peer.BATCH_ITEMS = count  # type: ignore[misc]

    def flood(self, count: int) -> float:
        lease, item, sent, started = self.leases[0], b"x" * ITEM_BYTES, 0, time.monotonic()
        while sent < count:
            for _ in range(200):
                if not self.rpc.send(lease, item):
                    raise AssertionError(self.rpc.counters)
            sent += 200
            while self.rpc.queued_items > 20_000:
                gevent.sleep(0.001)
            gevent.sleep(0)
        while self.rpc.queued_items:
            gevent.sleep(0.001)
        return time.monotonic() - started

    def paced(self, rate: int, seconds: float) -> None:
        lease, filler = self.leases[0], b"x" * (ITEM_BYTES - 8)
        started, sent = time.monotonic(), 0
        while (now := time.monotonic()) < started + seconds:
            while sent < (now - started) * rate:
                assert self.rpc.send(lease, struct.pack("d", time.monotonic()) + filler)
                sent += 1
            gevent.sleep(1 / rate)

    def query(self, count: int) -> float:
        started = time.monotonic()
        for _ in range(count):
            self.rpc.query(self.leases[0], "echo", b"x" * ITEM_BYTES)
        return time.monotonic() - started

    def time(self, on: bool) -> None:
        self.timed, self.delays = on, []

    def quantiles(self) -> list[float]:
        delays = sorted(self.delays)
        return [round(1000 * delays[int(len(delays) * q)], 3) for q in (0.5, 0.99, 0.999)]

    def look(self) -> dict[str, Any]:
        counters = self.rpc.counters
        return {
            "cpu": cpu_seconds(),
            "at": time.monotonic(),
            **{name: getattr(counters, name) for name in ("sent", "received", "batches_sent", "gaps")},
        }

    def obey(self) -> None:
        lines = FileObject(sys.stdin.fileno(), "rb", close=False)
        for line in lines:
            name, *arguments = json.loads(line)
            print(json.dumps(getattr(self, name)(*arguments)), flush=True)
        self.rpc.stop()


class Remote:
    """A worker, seen from the command."""

    def __init__(self, epoch: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.cluster.measure", "worker", str(epoch)],
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


def nodes(count: int) -> list[Remote]:
    workers = [Remote(epoch) for epoch in range(1, count + 1)]
    leases = [worker.addresses() for worker in workers]
    for worker in workers:
        worker.peers(leases)
    for worker in workers:
        worker.connect_to()
    return workers


def flooded(name: str, batch: int, count: int) -> None:
    a, b = nodes(2)
    a.batches_of(batch)
    before = a.look(), b.look()
    seconds = a.flood(count)
    while (after := (a.look(), b.look()))[1]["received"] < count:
        time.sleep(0.01)
    parts = [(y["cpu"] - x["cpu"]) / count * 1e6 for x, y in zip(before, after, strict=True)]
    batches = after[0]["batches_sent"] - before[0]["batches_sent"]
    print(
        f"{name}: {count / seconds:,.0f} events/s, {count / batches:.1f} a batch, CPU an event "
        f"{parts[0]:.2f} + {parts[1]:.2f} = {sum(parts):.2f} µs; gaps {after[1]['gaps']}"
    )
    a.unregister(), b.unregister()


def paced(rate: int, seconds: float) -> None:
    a, b = nodes(2)
    b.time(True)
    before = a.look(), b.look()
    a.paced(rate, seconds)
    after = a.look(), b.look()
    count = after[0]["sent"] - before[0]["sent"]
    cpu = sum(y["cpu"] - x["cpu"] for x, y in zip(before, after, strict=True))
    p50, p99, p999 = b.quantiles()
    delays = f"p50 {p50} ms, p99 {p99} ms, p99.9 {p999} ms"
    print(f"paced {rate}/s: {delays}; CPU an event {cpu / count * 1e6:.0f} µs")
    a.unregister(), b.unregister()


def calls(count: int) -> None:
    a, b = nodes(2)
    before = a.look(), b.look()
    seconds = a.query(count)
    cpu = sum(y["cpu"] - x["cpu"] for x, y in zip(before, (a.look(), b.look()), strict=True))
    print(f"calls, one at a time: {seconds / count * 1e6:.0f} µs each, CPU {cpu / count * 1e6:.0f} µs")
    a.unregister()
    b.unregister()


def idle(count: int, seconds: float) -> None:
    workers = nodes(count)
    time.sleep(3)
    before = [worker.look() for worker in workers]
    time.sleep(seconds)
    after = [worker.look() for worker in workers]
    cpu = sum(y["cpu"] - x["cpu"] for x, y in zip(before, after, strict=True))
    print(
        f"idle mesh of {count}: {100 * cpu / seconds:.2f} % of a core in all, "
        f"{100 * cpu / seconds / count:.3f} % a node"
    )
    for worker in workers:
        worker.unregister()


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        Worker(int(sys.argv[2])).obey()
        return
    wanted = sys.argv[1:] or ["one", "hundred", "flood", "paced", "calls", "idle"]
    if "one" in wanted:
        flooded("one a batch", 1, 100_000)
    if "hundred" in wanted:
        flooded("100 a batch", 100, 2_000_000)
    if "flood" in wanted:
        flooded("as they come", 1000, 2_000_000)
    if "paced" in wanted:
        paced(500, 10)
    if "calls" in wanted:
        calls(5000)
    if "idle" in wanted:
        idle(8, 20)


if __name__ == "__main__":
    main()
