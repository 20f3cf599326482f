"""The server under test: start one of our own, and read CPU and memory of any from /proc."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imserver.bench.generator import Generator
from imserver.bench.loop import BenchError

START_SECONDS = 30.0
END_SECONDS = 15.0
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cpu:
    """User and system time of some processes: by thread in ns, and in ticks, which know ended threads too."""

    threads_ns: Mapping[str, int]
    ticks: int

    def since(self, before: Cpu) -> float:
        """Return the µs spent since ``before``."""
        if self.threads_ns and self.threads_ns.keys() == before.threads_ns.keys():
            return (sum(self.threads_ns.values()) - sum(before.threads_ns.values())) / 1000
        return (self.ticks - before.ticks) * TICK_NS / 1000


def cpu(pids: tuple[int, ...]) -> Cpu:
    """Read the CPU time of ``pids``; raises BenchError when one does not exist."""
    threads: dict[str, int] = {}
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            for task in Path(f"/proc/{pid}/task").iterdir():
                threads[task.name] = int((task / "schedstat").read_text().split()[0])
        except OSError:
            if not Path(f"/proc/{pid}").exists():
                raise BenchError(f"the server process {pid} does not exist (any more)") from None
            threads.clear()  # no schedstat, or a thread ended while we looked: ticks will do
    return Cpu(threads, ticks)


def rss_bytes(pids: tuple[int, ...]) -> int:
    """Return the resident memory of ``pids`` in bytes."""
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                raise BenchError(f"the server process {pid} does not exist (any more)") from None
            total += pages * os.sysconf("SC_PAGE_SIZE")
    return total


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on right now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def keep(generator: Generator, log: str, arguments: list[str], cores: list[int]) -> dict[str, Any]:
    """Task: start a server of our own; it ends with this process, whatever becomes of the parent."""
    keeper = Keeper(log, arguments, cores)
    generator.kept["server"] = keeper
    generator.at_exit.append(keeper.end)
    return keeper.start()


class Keeper:
    """A server process with ports and a data directory of its own. Owns both."""

    def __init__(self, log: str, arguments: list[str], cores: list[int]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="imserver-bench-"))
        self.log = Path(os.devnull) if log == "null" else self.directory / "server.log"
        self.console = self.directory / "console.log"
        self.arguments = arguments
        self.cores = cores
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        """Start the server, wait until it answers; raises BenchError with its last words if it does not."""
        http, ws, rpc = free_ports(3)
        command = [sys.executable, "-m", "imserver", "serve", "--host", "127.0.0.1", "--http-port", str(http)]
        command += ["--ws-port", str(ws), "--rpc-port", str(rpc), "--data-dir", str(self.directory / "data")]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("IMSERVER_")}
        environ["IMSERVER_APP_LOG_FILE"] = str(self.log)
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                command + self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environ,
            )
        if self.cores:
            os.sched_setaffinity(self.process.pid, self.cores)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers(http):
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = self.console.read_text(errors="replace").strip()[-2000:]
                self.end()
                raise BenchError(f"`{' '.join(command[1:])}` does not serve:\n{words}")
            time.sleep(0.05)
        return {"pid": self.process.pid, "http_port": http, "ws_port": ws}

    def _answers(self, port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
                sock.sendall(
                    f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
                )
                return sock.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def end(self) -> None:
        """End the server by its pid, politely first, and remove its files."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
