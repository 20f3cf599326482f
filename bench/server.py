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
from typing import Any, Protocol

from bench.generator import Generator
from bench.loop import BenchError
from bench.proc import children

START_SECONDS = 30.0
FIRST_PORT, LAST_PORT = 10_000, 32_768
BLOCK_TRIES = 50
END_SECONDS = 15.0
KEPT = "kept"
"""Under this name a process remembers what it keeps."""


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
    directory: str = "",
) -> dict[str, Any]:
    """Task: start a server of our own; it ends with this process, whatever becomes of the parent.

    ``environment`` has settings (IMSERVER_…); ``data_directory`` is for several nodes that share one;
    ``directory``: where its files are to stay.
    """
    keeper = Keeper(log, data_directory, directory)
    generator.at_exit.append(keeper.end)
    generator.kept[KEPT] = keeper
    return keeper.start(processes, arguments, environment or {}, cores, start_seconds)


def disturb(generator: Generator, how: str) -> dict[str, Any]:
    """Task: ``kill``, ``stop``, ``pause``, ``resume`` what is kept here, or start it ``again``."""
    kept: Kept = generator.kept[KEPT]
    ways = {"kill": kept.kill, "stop": kept.stop, "pause": kept.pause, "resume": kept.resume}
    {**ways, "again": kept.again}[how]()
    return {}


class Kept(Protocol):
    """Something with a process of its own that can be disturbed. What it had in memory is gone when it is
    killed; it comes again at the same address, with the files that it left."""

    def kill(self) -> None:
        """End it at once."""

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""

    def pause(self) -> None:
        """Let it stand still."""

    def resume(self) -> None:
        """Let it go on."""

    def again(self) -> None:
        """Start it again; returns when it serves."""


class Keeper:
    """A server (one process, or a parent with children) with ports and a folder of its own. Owns both.

    The folder is removed at the end, unless it was given as ``directory``.
    """

    def __init__(self, log: str, data_directory: str = "", directory: str = "") -> None:
        self.stays = bool(directory)
        self.directory = Path(directory or tempfile.mkdtemp(prefix="imserver-bench-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data_directory = data_directory or str(self.directory / "data")
        self.log = Path(os.devnull) if log == "null" else self.directory / "server.log"
        self.console = self.directory / "console.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._environment: dict[str, str] = {}
        self._http = 0

    def start(
        self,
        processes: int,
        arguments: list[str],
        environment: dict[str, str],
        cores: list[int],
        seconds: float,
    ) -> dict[str, Any]:
        """Start the server, wait until it serves; raises BenchError with its last words if it does not."""
        self._http, ws = free_ports(2)
        rpc = free_block(2 * processes)
        command = [sys.executable, "-m", "imserver", "serve", "--host", "127.0.0.1"]
        command += ["--http-port", str(self._http), "--ws-port", str(ws), "--rpc-port", str(rpc)]
        command += ["--data-dir", self.data_directory]
        if processes > 1:
            command += ["--processes", str(processes)]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("IMSERVER_")}
        environ["IMSERVER_APP_LOG_FILE"] = str(self.log)
        self._command, self._environment = command + arguments, {**environ, **environment}
        self._launch(cores, seconds)
        assert self.process is not None
        pid = self.process.pid
        return {
            "pid": pid,
            "pids": [pid, *children(pid)],
            "http_port": self._http,
            "ws_port": ws,
            "rpc_port": rpc,
            "data_directory": self.data_directory,
        }

    def _launch(self, cores: list[int], seconds: float) -> None:
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=self._environment,
            )
        if cores:
            os.sched_setaffinity(self.process.pid, cores)
        deadline = time.monotonic() + seconds
        while not (self._announced() and self._answers(self._http)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = self.console.read_text(errors="replace").strip()[-2000:]
                self.end()
                raise BenchError(f"`{' '.join(self._command[1:])}` does not serve:\n{words}")
            time.sleep(0.05)

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

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, and wait until it has; raises BenchError when it does not."""
        self._signal(signal.SIGTERM)
        assert self.process is not None
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"a server did not end within {END_SECONDS:g} s") from None

    def pause(self) -> None:
        """Let it stand still."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def again(self) -> None:
        """Start it again."""
        self._launch([], START_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        if self.process.poll() is not None:
            words = self.console.read_text(errors="replace").strip()[-2000:]
            raise BenchError(f"a server has ended by itself, with {self.process.returncode}:\n{words}")
        self.process.send_signal(number)

    def end(self) -> None:
        """End the server by its pid, politely first, and remove its files."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self.stays:
            shutil.rmtree(self.directory, ignore_errors=True)
