"""One end of the RPC between nodes, alone in a process: ``python -m bench.rpc_end``.

The only module here that imports a part of the server, because the RPC is not public. Its commands and
answers are lines of JSON, as in :mod:`.generator`.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
import traceback

import gevent
from gevent.os import tp_read

from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency, stamp_us
from bench.loop import Json
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc import peer as rpc_peer
from imserver.gateway.cluster.rpc.server import Rpc
from imserver.gateway.process import Secret

SECRET = b"bench" * 8
PAUSE_SECONDS = 0.0005
ITEMS_A_TURN = 200
MOST_WAITING = 20_000
LAST_SECONDS = 10.0


class End:
    """The RPC of one node without the node. Owner of the RPC and of the received items."""

    def __init__(self, epoch: int) -> None:
        self.latency: Latency | None = None
        self.rpc = Rpc(Secret(SECRET), lambda _kind, body: body, self._received)
        self.rpc.start("127.0.0.1", 0, 0)
        self.rpc.epoch = epoch
        self.peer = Lease("")

    def _received(self, _sender: int, items: list[bytes]) -> None:
        if self.latency is not None:
            now = stamp_us()
            for item in items:
                self.latency.add((now - int(item[:STAMP_DIGITS])) % STAMP_WRAP)

    def figures(self) -> Json:
        rpc = self.rpc
        return {"epoch": rpc.epoch, "control": rpc.control_address, "data": rpc.data_address}

    def meet(self, epoch: int, control: str, data: str) -> Json:
        self.peer = Lease(control[6:], epoch=epoch, control=control, data=data)
        self.rpc.send(self.peer, b"0" * STAMP_DIGITS)
        self.rpc.query(self.peer, "hello", b"")
        return {}

    def flood(self, batch: int, item_bytes: int, seconds: float) -> Json:
        """Task: send at full speed, at most ``batch`` items per batch."""
        rpc_peer.BATCH_ITEMS = batch  # type: ignore[misc]
        rpc, peer, item = self.rpc, self.peer, b"x" * item_bytes
        batches, sent, begin = rpc.counters.batches_sent, rpc.counters.sent, time.monotonic()
        while time.monotonic() < begin + seconds:
            for _ in range(ITEMS_A_TURN):
                rpc.send(peer, item)
            gevent.sleep(0)
            while rpc.queued_items > MOST_WAITING:
                gevent.sleep(PAUSE_SECONDS)
        while rpc.queued_items:
            gevent.sleep(PAUSE_SECONDS)
        return {
            "sent": rpc.counters.sent - sent,
            "batches": rpc.counters.batches_sent - batches,
            "seconds": time.monotonic() - begin,
        }

    def pace(self, rate: float, item_bytes: int, seconds: float) -> Json:
        """Task: send items with a time stamp, ``rate`` a second."""
        padding, begin, sent = b"x" * (item_bytes - STAMP_DIGITS), time.monotonic(), 0
        while (now := time.monotonic()) < begin + seconds:
            while sent < (now - begin) * rate:
                self.rpc.send(self.peer, b"%0*d" % (STAMP_DIGITS, stamp_us()) + padding)
                sent += 1
            gevent.sleep(max(begin + sent / rate - time.monotonic(), 0))
        return {"sent": sent}

    def clock(self, on: bool) -> Json:
        """Task: start or stop reading time stamps; ``latency`` contains those read before."""
        before, self.latency = self.latency, Latency() if on else None
        return {"latency": before.pack() if before else None}

    def wait(self, received: int) -> Json:
        """Task: wait until so many items have arrived; return the counters."""
        counters, end = self.rpc.counters, time.monotonic() + LAST_SECONDS
        while counters.received < received and time.monotonic() < end:
            gevent.sleep(PAUSE_SECONDS)
        return {"received": counters.received, "gaps": counters.gaps, "lost": counters.lost}


def main() -> None:
    """Run commands until the input ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.basicConfig(level=logging.ERROR)  # the end that stops last finds the other one stopped
    end = End(os.getpid())
    rest = b""
    while data := tp_read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"quit":
                sys.exit(0)
            command = json.loads(line)
            try:
                answer = {"done": getattr(end, command.pop("do"))(**command)}
            except Exception:
                answer = {"failed": traceback.format_exc()}
            os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
