"""CPU of this process per command in Redis pipelines: our link and redis-py's own pipeline.

``python -m tests.gateway.cluster.measure_pipeline`` prints microseconds, the best of five.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

import redis
from gevent import monkey

from imserver.gateway.cluster.redis.connection import address_of
from imserver.gateway.cluster.redis.pipeline import open_link
from imserver.gateway.cluster.registry import RegistryCounters
from tests.gateway.cluster.redis_server import RedisServer

ROUNDS = 400


def best(run: Callable[[], object], commands: int) -> float:
    times = []
    for _ in range(5):
        began = process_time()
        for _ in range(ROUNDS):
            run()
        times.append((process_time() - began) / ROUNDS / commands * 1e6)
    return min(times)


def measure(server: RedisServer) -> None:
    link = open_link(address_of(server.settings), 5.0, RegistryCounters())
    client = redis.Redis(*address_of(server.settings).hosts[0])

    def library(commands: list[tuple[str, ...]]) -> None:
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        pipeline.execute(raise_on_error=False)

    for count in (1, 10, 100):
        commands = [("HGET", "imserver:measure", f"user{number}") for number in range(count)]
        link.exchange(commands)
        ours = best(lambda commands=commands: link.exchange(commands), count)
        theirs = best(lambda commands=commands: library(commands), count)
        print(f"{count:3} commands: ours {ours:.1f} µs, redis-py {theirs:.1f} µs a command")


if __name__ == "__main__":
    monkey.patch_socket()
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        try:
            measure(server)
        finally:
            server.kill()
