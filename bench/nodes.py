"""Several servers of our own that are one cluster: a Redis, nodes with ports of their own, their counters."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from urllib.request import urlopen

from bench.connections import Target
from bench.crew import Crew, Hand, Progress
from bench.loop import BenchError
from bench.stage import Stage

METRICS_SECONDS = 10.0
JOIN_SECONDS = 30.0


class Nodes:
    """``count`` nodes, each reached alone. Owns their processes, which workers of the crew keep, and a Redis.

    That is the one at ``redis_url``, or one of their own, started from ``redis_server``.
    """

    def __init__(
        self,
        crew: Crew,
        count: int,
        app: int,
        log: str,
        redis_url: str = "",
        redis_server: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.crew = crew
        self.app = app
        self.log = log
        self.redis = redis_url or crew.serve_redis(redis_server)[1]
        self.targets: list[Target] = []
        self.pids: list[int] = []
        cluster = {"IMSERVER_REDIS_URL": self.redis, "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}
        self.folder = ""
        for _ in range(count):
            settings = {**cluster, **(environment or {})}
            own = crew.serve(log=log, environment=settings, data_directory=self.folder)
            self.folder = self.folder or own.folder
            self.targets.append(replace(own.target, app=app))
            self.pids.append(own.pids[0])
        self._wait_for_all()

    def alone(self, progress: Progress | None) -> Stage:
        """Start a server that belongs to no cluster; return a stage with it."""
        own = self.crew.serve(log=self.log)
        return Stage(replace(own.target, app=self.app), own.pids[:1], self.crew, progress)

    def stage(self, connect: int, ask: int, progress: Progress | None) -> Stage:
        """Return a stage whose clients connect to one node and whose pushes go to another.

        What it counts is the CPU of all nodes.
        """
        ws, http = self.targets[connect], self.targets[ask]
        target = Target(ws.ws_host, ws.ws_port, ws.ws_path, http.http_host, http.http_port, self.app)
        return Stage(target, tuple(self.pids), self.crew, progress)

    def counters(self) -> dict[str, float]:
        """Return the metrics that only count, each summed over all nodes."""
        target = self.targets[0]
        with urlopen(
            f"http://{target.http_host}:{target.http_port}/metrics", timeout=METRICS_SECONDS
        ) as answer:
            text: str = answer.read().decode()
        found: dict[str, float] = {}
        for line in text.splitlines():
            name, _, value = line.partition(" ") if "{" not in line else _split(line)
            if name.endswith("_total") or name == "imserver_cluster_nodes":
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def _wait_for_all(self) -> None:
        deadline = time.monotonic() + JOIN_SECONDS
        wanted = len(self.targets) ** 2
        while (known := self.counters().get("imserver_cluster_nodes", 0)) < wanted:
            if time.monotonic() > deadline:
                raise BenchError(f"the nodes do not find each other: {known:g} of {wanted} ways are known")
            time.sleep(0.1)

    def kill(self, number: int) -> float:
        """Kill a node without a warning; return when. It counts no longer."""
        os.kill(self.pids.pop(number), signal.SIGKILL)
        del self.targets[number]
        return time.monotonic()


def _split(line: str) -> tuple[str, str, str]:
    name, _, rest = line.partition("{")
    return name, "", rest.rpartition(" ")[2]


def since(after: dict[str, float], before: dict[str, float], name: str) -> float:
    """Return how far counter ``name`` went."""
    return after.get(name, 0.0) - before.get(name, 0.0)


def spread(stages: list[Stage], users: int) -> list[Hand]:
    """Log ``users`` in, as many on each of ``stages``, with a process for each; return the processes."""
    hands, first = [], 0
    for place, stage in enumerate(stages):
        share = users // len(stages) + (place < users % len(stages))
        (hand,) = stage.hire(1)
        stage.open([hand], share, first=first)
        hands.append(hand)
        first += share
    return hands
