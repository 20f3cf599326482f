"""A real server of several processes, and clients that connect without a
pause."""

import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from imserver.plugin.testing import HostAndPort
from tests.integration.raw import handshake
from tests.ports import free_ports
from tests.support import Server, eventually, merged

ACCEPTED = b"HTTP/1.1 101 "

_SERVES = re.compile(r"node (\S+) \(pid (\d+)\) is serving$", re.MULTILINE)


class Family(Server):
    """``processes`` nodes and their supervisor. ``pids`` names each node's
    process, the newest."""

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        processes: int = 3,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.processes = processes
        self.needed = {
            "app": {"rpc_port": free_ports(2 * processes)},
            "server": {"processes": processes},
            "redis": {"url": redis_url},
            "cluster": {"advertise": "127.0.0.1"},
        }
        super().__init__(folder, config=merged(self.needed, config or {}), **options)

    @property
    def pids(self) -> list[int]:
        """The process of each node by its slot, as far as they serve: names end
        in the port."""
        newest: dict[str, int] = {
            name: int(pid) for name, pid in _SERVES.findall(self.output)
        }
        return [
            newest[name]
            for name in sorted(newest, key=lambda name: int(name.rpartition(":")[2]))
        ]

    def wait_until_replaced(self, *old: int, seconds: float = 240.0) -> list[int]:
        """Wait until all nodes serve and none of them in one of these
        processes; the processes now."""

        def look() -> list[int] | None:
            pids = self.pids
            return (
                pids if len(pids) == self.processes and not {*old} & {*pids} else None
            )

        return eventually(look, seconds, f"nodes instead of {old}:\n{self.output}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def upgraded(address: HostAndPort, seconds: float = 40.0) -> socket.socket:
    """A connection that asks for a WebSocket; the answer has not been read."""
    client = socket.create_connection(address, timeout=seconds)
    client.sendall(handshake())
    return client


@contextmanager
def crowd(
    server: Server, count: int, read: int = len(ACCEPTED)
) -> Iterator[list[socket.socket]]:
    """Clients that have been upgraded, of whose answer so many bytes are read,
    and that then say nothing."""
    with ExitStack() as opened:
        clients = [opened.enter_context(upgraded(server.ws)) for _ in range(count)]
        for client in clients:
            assert client.recv(read).startswith(ACCEPTED)
        yield clients


def answer(client: socket.socket) -> bytes:
    """The first line of what the server says; ends the connection."""
    with client:
        return client.recv(len(ACCEPTED))


class Stream:
    """Clients that connect, upgrade and leave, again and again, from several
    threads while it is entered.

    ``seen`` counts what became of them: ``"101"``, or how it failed.
    """

    def __init__(self, server: Server, threads: int = 4) -> None:
        self.seen: Counter[str] = Counter()
        self._address = server.ws
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.002):
            try:
                reply = answer(upgraded(self._address))
            except OSError as error:
                self.seen[type(error).__name__] += 1
            else:
                self.seen["101" if reply == ACCEPTED else repr(reply)] += 1

    def wait_for(self, count: int) -> None:
        """Wait until so many more have been upgraded."""
        wanted = self.seen["101"] + count
        eventually(lambda: self.seen["101"] >= wanted)


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except FileNotFoundError:
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
