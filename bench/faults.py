"""The faults of ``imserver bench chaos``, and the system that they break."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.events import EventReceiver
from bench.loop import BenchError
from bench.servers import ENGINES, DatabaseProcess, NodeProcess, RedisProcess, compiled
from bench.workers import SOURCE, WorkerPool

STALL_SOURCE: Final = SOURCE / "tests" / "faults" / "slow_fsync.c"
STALL_LIMIT_SECONDS: Final = 600
SLOW_MS: Final = 60
RECEIVE_BYTES: Final = 65_536
_WEBHOOK: Final = ", webhook: {{url: '{}', secret: a secret of this run alone, events: [message, account]}}"
Pair = tuple[socket.socket, socket.socket]


class Network:
    """Listens at its own addresses and forwards all data to the same ports of 127.0.0.1, with two threads per
    connection. Owner of its sockets.

    Connections that forwarded data during a cut have gaps, and are reset at the end of the cut.
    """

    def __init__(self) -> None:
        self.listeners: list[socket.socket] = []
        self.pairs: set[Pair] = set()
        self.is_cut = False
        self.flows = threading.Event()
        self.flows.set()

    def listen(self, address: str, port: int) -> None:
        listener = socket.create_server((address, port), backlog=100)
        self.listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()

    def control(self, how: str) -> None:
        """``cut``: drop all data; connections stay open, and new ones are accepted. ``hold``: delay all data.
        ``heal``: forward again; delayed data is sent, and cut connections must be made again.
        """
        if how == "heal":
            for pair in [*self.pairs] if self.is_cut else []:
                self._end(pair)
            self.is_cut = False
            self.flows.set()
        elif how == "cut":
            self.is_cut = True
        else:
            self.flows.clear()

    def close(self) -> None:
        for sock in self.listeners:
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for pair in [*self.pairs]:
            self._end(pair)

    def _accept(self, listener: socket.socket, port: int) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                near, _ = listener.accept()
                try:
                    pair = near, socket.create_connection(("127.0.0.1", port))
                except OSError:
                    near.close()
                    continue
                self.pairs.add(pair)
                for ends in (pair, pair[::-1]):
                    ends[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._carry, args=(*ends, pair), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, pair: Pair) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(RECEIVE_BYTES):
                self.flows.wait()
                if not self.is_cut:
                    sink.sendall(data)
        self.flows.wait()
        if not self.is_cut:  # otherwise the other side does not learn of the end
            self._end(pair)

    def _end(self, pair: Pair) -> None:
        self.pairs.discard(pair)
        for sock in pair:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class System:
    """All parts that a run can break. Owner of them; all of them run after the constructor.

    ``database``: ``sqlite``, ``postgresql``, ``mysql``, or a URL, which is never broken. ``stall``: the
    library that delays fsync, or its source (empty: the one of a source tree, if there is a compiler).
    ``alone``: one node without a Redis. ``config``: the settings of a node, with ``{}`` for the webhook.
    """

    def __init__(
        self,
        pool: WorkerPool,
        nodes: int,
        config: str,
        database: str,
        folder: Path,
        stall: str,
        webhook: bool,
        alone: bool = False,
    ) -> None:
        self.pool = pool
        self.receiver = EventReceiver() if webhook else None
        self.folder = folder
        self.stall_file = folder / "stall"
        self.library = _library(stall, folder)
        preload = {"LD_PRELOAD": str(self.library), "SLOW_FSYNC_FILE": str(self.stall_file)}
        self.redis = None if alone else pool.start(RedisProcess())
        self.database: DatabaseProcess | None = None
        if database in ENGINES:
            self.database = pool.start(ENGINES[database](preload if self.library else {}))
            database = self.database.url
        self.embedded = database == "sqlite"
        self.can_stall = self.library is not None and (self.embedded or self.database is not None)
        self.network = Network()
        self.nodes: list[NodeProcess] = []
        environment = {}
        if self.redis is not None:
            environment = {"IMSERVER_REDIS_URL": self.redis.url, "IMSERVER_CLUSTER_BIND": "127.0.0.1"}
        if not self.embedded:
            environment["IMSERVER_STORAGE_URL"] = database
        elif self.library:
            environment |= preload
        file = folder / "config.yaml"
        webhook_setting = "" if self.receiver is None else _WEBHOOK.format(self.receiver.url)
        file.write_text(config.format(webhook_setting), encoding="utf-8")
        for number in range(nodes):
            self._add_node(number, environment, file)

    def _add_node(self, number: int, environment: dict[str, str], config: Path) -> None:
        address = f"127.0.1.{number + 1}"
        own = NodeProcess(
            arguments=["--config", str(config)],
            environment={**environment, "IMSERVER_CLUSTER_ADVERTISE": address} if self.redis else environment,
            data_directory=str(self.folder / "data"),
            folder=str(self.folder / f"node{number + 1}"),
        )
        self.nodes.append(self.pool.start(own))
        for port in (own.rpc_port, own.rpc_port + 1):
            self.network.listen(address, port)

    def control(self, what: str, how: str | int, node: int) -> None:
        """Do ``how`` to a node, Redis, the database or the network, or delay fsync by milliseconds."""
        if what == "network":
            self.network.control(str(how))
        elif what != "disk":
            (self.nodes[node] if what == "node" else getattr(self, what)).control(str(how))
        elif how:
            fresh = self.stall_file.with_suffix(".new")
            fresh.write_text(str(how), encoding="ascii")
            fresh.rename(self.stall_file)
        else:
            self.stall_file.unlink(missing_ok=True)

    def tracebacks(self) -> list[str]:
        """The last lines of all tracebacks in the logs of the nodes."""
        found = []
        for log in sorted(self.folder.glob("node*/*.log")):
            text = log.read_text(encoding="utf-8", errors="replace")
            last = re.findall(r"^Traceback .*\n(?:(?:\s.*)?\n)*(\S.*)", text, re.M)
            found += [f"{log.parent.name}: {line}" for line in last]
        return found


def _library(stall: str, folder: Path) -> Path | None:
    """The library to preload; None if it can be neither found nor compiled."""
    source = Path(stall) if stall else STALL_SOURCE
    if not source.exists():
        if stall:
            raise BenchError(f"there is no {source}")
        return None
    if source.suffix != ".c":
        return source.resolve()
    return compiled(source, folder)


@dataclass(frozen=True)
class Fault:
    """A fault of ``least`` to ``most`` seconds: ``how`` is done to ``what``, and ``mend`` at the end."""

    name: str
    least: float
    most: float
    what: str
    how: str | int
    mend: str | int

    def possible(self, system: System) -> bool:
        several, database = len(system.nodes) > 1, system.database is not None
        receiver = system.receiver is not None
        return {
            "network": several,
            "database": database,
            "disk": system.can_stall,
            "receiver": receiver,
            "redis": system.redis is not None,
        }.get(self.what, True)


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("kill", 0.0, 5.0, "node", "kill", "again"),
        Fault("restart", 0.0, 2.0, "node", "stop", "again"),
        Fault("pause", 1.0, 14.0, "node", "pause", "resume"),
        Fault("redis", 0.0, 5.0, "redis", "kill", "again"),
        Fault("flush", 0.0, 0.0, "redis", "flush", "resume"),
        Fault("database", 0.0, 5.0, "database", "kill", "again"),
        Fault("receiver", 0.0, 10.0, "receiver", "kill", "again"),
        Fault("cut", 1.0, 15.0, "network", "cut", "heal"),
        Fault("hold", 0.5, 5.0, "network", "hold", "heal"),
        Fault("stall", 1.0, 10.0, "disk", STALL_LIMIT_SECONDS * 1000, 0),
        Fault("slow", 2.0, 8.0, "disk", SLOW_MS, 0),
    )
}


def chosen(names: str, system: System) -> list[Fault]:
    """The faults with these names, separated by commas (none: all), that are possible here."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in FAULTS:
            raise BenchError(f"there is no fault {name}: {', '.join(FAULTS)}")
    found = [fault for fault in FAULTS.values() if not wanted or fault.name in wanted]
    possible = [fault for fault in found if fault.possible(system)]
    if not possible:
        raise BenchError("there is nothing to break here")
    return possible
