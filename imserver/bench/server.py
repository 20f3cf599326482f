"""The server under test: one of our own, started and ended."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from imserver.bench.generator import Generator
from imserver.bench.loop import BenchError
from imserver.bench.proc import children

START_SECONDS = 30.0
FIRST_PORT, LAST_PORT = 10_000, 32_768
BLOCK_TRIES = 50
END_SECONDS = 15.0


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on right now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def free_block(count: int) -> int:
    """Return the first of ``count`` free ports in a row, outside of those that outgoing connections take."""
    try:
        end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        end = LAST_PORT
    last = max(end, FIRST_PORT + 2 * count) - count
    for _ in range(BLOCK_TRIES):
        first = random.randrange(FIRST_PORT, last)
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            for port in range(first, first + count):
                opened.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise BenchError(f"no {count} free ports in a row below {end}")


def keep(
    generator: Generator,
    log: str,
    arguments: list[str],
    cores: list[int],
    environment: dict[str, str] | None = None,
    data_directory: str = "",
    processes: int = 1,
    start_seconds: float = START_SECONDS,
) -> dict[str, Any]:
    """Task: start a server of our own; it ends with this process, whatever becomes of the parent.

    ``environment`` has settings (IMSERVER_…); ``data_directory`` is for several nodes that share one.
    """
    keeper = Keeper(log, data_directory)
    generator.at_exit.append(keeper.end)
    return keeper.start(processes, arguments, environment or {}, cores, start_seconds)


class Keeper:
    """A server (one process, or a parent with children) with ports and a folder of its own. Owns both."""

    def __init__(self, log: str, data_directory: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="imserver-bench-"))
        self.data_directory = data_directory or str(self.directory / "data")
        self.log = Path(os.devnull) if log == "null" else self.directory / "server.log"
        self.console = self.directory / "console.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        processes: int,
        arguments: list[str],
        environment: dict[str, str],
        cores: list[int],
        seconds: float,
    ) -> dict[str, Any]:
        """Start the server, wait until it serves; raises BenchError with its last words if it does not."""
        http, ws = free_ports(2)
        rpc = free_block(2 * processes)
        command = [sys.executable, "-m", "imserver", "serve", "--host", "127.0.0.1", "--http-port", str(http)]
        command += ["--ws-port", str(ws), "--rpc-port", str(rpc), "--data-dir", self.data_directory]
        if processes > 1:
            command += ["--processes", str(processes)]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("IMSERVER_")}
        environ["IMSERVER_APP_LOG_FILE"] = str(self.log)
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                command + arguments,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**environ, **environment},
            )
        if cores:
            os.sched_setaffinity(self.process.pid, cores)
        deadline = time.monotonic() + seconds
        while not (self._announced() and self._answers(http)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = self.console.read_text(errors="replace").strip()[-2000:]
                self.end()
                raise BenchError(f"`{' '.join(command[1:] + arguments)}` does not serve:\n{words}")
            time.sleep(0.05)
        pid = self.process.pid
        return {
            "pid": pid,
            "pids": [pid, *children(pid)],
            "http_port": http,
            "ws_port": ws,
            "data_directory": self.data_directory,
        }

    def _announced(self) -> bool:
        """Whether the server has said where it listens: with several processes, when all of them do."""
        return "ws://" in self.console.read_text(errors="replace")

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
