"""The faults of ``imserver bench chaos``, and the system that they break."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.chaos_loads import EventReceiver
from bench.context import parameter, text_parameter
from bench.loop import BenchError
from bench.power import Cuts, Disk, cut_all, recorder
from bench.servers import (
    ENGINES,
    SOURCE,
    DatabaseProcess,
    NodeProcess,
    RedisProcess,
    Server,
    WorkerPool,
    compiled,
)

STALL_SOURCE: Final = SOURCE / "tests" / "faults" / "slow_fsync.c"
STALL_LIMIT_SECONDS: Final = 600
SLOW_MS: Final = 60
START_SECONDS: Final = 120.0
END_SECONDS: Final = 60.0
"""For a server that starts or ends on a busy machine, which is no fault."""
STEP_SECONDS: Final = 3600
DRIFT: Final = 1.05
RIGHT_CLOCK: Final = "+0 x1"
"""For libfaketime: the clock of the machine. Without a rate it would keep the
last one."""
RECEIVE_BYTES: Final = 65_536
_WEBHOOK: Final = ", webhook: {{url: '{}', secret: a secret of this run alone, events: [message, account]}}"
Pair = tuple[socket.socket, socket.socket]

REQUESTS: Final = "requests"
ANSWERS: Final = "answers"
_LOST: Final = {"cut": {REQUESTS, ANSWERS}, "deaf": {REQUESTS}, "mute": {ANSWERS}}


class Breakable(Protocol):
    """A part of the system that a fault breaks and mends."""

    def control(self, how: str) -> None:
        """Do what the word says."""


class ControlFile:
    """A file that a preloaded library reads. ``control`` writes it, and removes
    it if there is no text."""

    def __init__(self, path: Path, text: str = "") -> None:
        self.path = path
        self.control(text)

    def control(self, how: str) -> None:
        if how:
            fresh = self.path.with_suffix(".new")
            fresh.write_text(f"{how}\n", encoding="ascii")
            fresh.rename(self.path)
        else:
            self.path.unlink(missing_ok=True)


class Network:
    """Listens at its own addresses and forwards all data to the same ports of
    127.0.0.1, with two threads per connection. Owner of its sockets.

    Connections that forwarded data during a cut have gaps, and are reset at the
    end of the cut.
    """

    def __init__(self) -> None:
        self.listeners: list[socket.socket] = []
        self.pairs: set[Pair] = set()
        self.lost: set[str] = set()
        """What disappears: ``REQUESTS`` go to the listeners, ``ANSWERS`` come
        from them."""
        self.flows = threading.Event()
        self.flows.set()

    def listen(self, address: str, port: int) -> None:
        listener = socket.create_server((address, port), backlog=100)
        self.listeners.append(listener)
        threading.Thread(
            target=self._accept, args=(listener, port), daemon=True
        ).start()

    def control(self, how: str) -> None:
        """``cut``: drop all data; connections stay open, and new ones are
        accepted. ``deaf``: drop what comes to the listeners. ``mute``: drop
        what they answer. ``hold``: delay all data. ``heal``: forward again;
        delayed data is sent, and connections that may have lost data must be
        made again.
        """
        if how == "heal":
            for pair in [*self.pairs] if self.lost else []:
                self._end(pair)
            self.lost = set()
            self.flows.set()
        elif how == "hold":
            self.flows.clear()
        else:
            self.lost = _LOST[how]

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
                    far = socket.create_connection(("127.0.0.1", port))
                except OSError:
                    near.close()
                    continue
                pair = near, far
                self.pairs.add(pair)
                for sock in pair:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # From here on a thread may close both.
                for what, ends in ((REQUESTS, pair), (ANSWERS, pair[::-1])):
                    threading.Thread(
                        target=self._carry, args=(what, *ends, pair), daemon=True
                    ).start()

    def _carry(
        self, what: str, source: socket.socket, sink: socket.socket, pair: Pair
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(RECEIVE_BYTES):
                self.flows.wait()
                if what not in self.lost:
                    sink.sendall(data)
        self.flows.wait()
        if what not in self.lost:  # otherwise the other side does not learn of the end
            self._end(pair)

    def _end(self, pair: Pair) -> None:
        self.pairs.discard(pair)
        for sock in pair:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class System:
    """All parts that a run can break. Owner of them; all of them run after the
    constructor.

    A database that is named by its URL is never broken. ``config``: the
    settings of a node, with ``{}`` for the webhook. Servers run with a clock of
    their own only where one is to be set: the library for it delays each timed
    wait of a thread, so that SQLite answers after seconds: its faults of clocks
    must be named.

    Each node reaches the others, Redis and the database through networks of its
    own. For power cuts, what is written to the disk is recorded, and nothing
    else is preloaded.
    """

    def __init__(
        self, pool: WorkerPool, options: ChaosOptions, config: str, folder: Path
    ) -> None:
        self.pool = pool
        self.folder = folder
        self.receiver = EventReceiver() if options.webhook else None
        self.disk = ControlFile(folder / "stall")
        self.clocks: dict[str, ControlFile] = {}
        """Kind of server, with the number of a node → its clock."""
        is_recorded = options.power > 0
        engine = options.database
        if is_recorded:
            self.library = None
        else:
            self.library = compiled(STALL_SOURCE, folder)
        clocks = [
            fault.name for fault in FAULTS.values() if fault.what.endswith("clock")
        ]
        sets_clocks = any(name in options.faults for name in clocks)
        sets_clocks |= not (options.faults or engine == "sqlite")
        if sets_clocks and not is_recorded:
            self.clock_library = _clock_library()
        else:
            self.clock_library = None
        if self.library is None:
            stalling = {}
        else:
            stalling = {"SLOW_FSYNC_FILE": str(self.disk.path)}
        if options.alone:
            self.redis = None
        else:
            self.redis = self._start(RedisProcess())
        self.database: DatabaseProcess | None = None
        if engine in ENGINES:
            self.database = ENGINES[engine](
                stalling | self._preloads("database", self.library)
            )
            self._start(self.database)
        elif is_recorded:
            root = folder / "data"
            root.mkdir()
            stalling, self.recording = recorder(folder, root)
            self.recorded = Disk(root)
        self.embedded = engine == "sqlite"
        self.can_stall = self.library is not None and (
            self.embedded or self.database is not None
        )
        self.networks: dict[str, list[Network]] = {
            "rpc": [],
            "redis link": [],
            "database link": [],
        }
        """Kind → the network of each node."""
        self.nodes: list[NodeProcess] = []
        if self.embedded:
            environment = stalling
        else:
            environment = {"IMSERVER_STORAGE_URL": engine}
        self.config = folder / "config.yaml"
        if self.receiver is None:
            webhook_setting = ""
        else:
            webhook_setting = _WEBHOOK.format(self.receiver.url)
        self.config.write_text(config.format(webhook_setting), encoding="utf-8")
        for number in range(1 if options.alone else options.nodes):
            self._add_node(number, environment)

    def _start(self, server: Server) -> Server:
        server.start_seconds = START_SECONDS
        server.end_seconds = END_SECONDS
        return self.pool.start(server)

    def _add_node(self, number: int, environment: dict[str, str]) -> None:
        address = f"127.0.1.{number + 1}"
        settings = dict(environment)
        if self.redis is not None:
            settings |= {
                "IMSERVER_CLUSTER_BIND": "127.0.0.1",
                "IMSERVER_CLUSTER_ADVERTISE": address,
            }
            url = self.redis.url
            port = self.redis.port
            settings["IMSERVER_REDIS_URL"] = self._link(
                "redis link", address, url, port
            )
        if self.database is not None:
            url = self.database.storage_url
            port = self.database.port
            settings["IMSERVER_STORAGE_URL"] = self._link(
                "database link", address, url, port
            )
        preloads = self._preloads(
            f"node {number}", self.library if self.embedded else None
        )
        own = NodeProcess(
            arguments=["--config", str(self.config)],
            environment=settings | preloads,
            data_directory=str(self.folder / "data"),
            folder=str(self.folder / f"node{number + 1}"),
        )
        self.nodes.append(self._start(own))
        network = Network()
        for port in (own.rpc_port, own.rpc_port + 1):
            network.listen(address, port)
        self.networks["rpc"].append(network)

    def _preloads(self, name: str, *others: Path | None) -> dict[str, str]:
        """The environment of a server with a clock of its own, and with other
        libraries."""
        libraries = [each for each in others if each is not None]
        settings = {}
        if self.clock_library is not None:
            libraries.append(self.clock_library)
            clock = ControlFile(self.folder / f"clock of {name}", RIGHT_CLOCK)
            self.clocks[name] = clock
            settings = {
                "FAKETIME_TIMESTAMP_FILE": str(clock.path),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
        if libraries:
            return {"LD_PRELOAD": ":".join(map(str, libraries)), **settings}
        return {}

    def _link(self, kind: str, address: str, url: str, port: int) -> str:
        """Make a network of this kind that leads from an address to a port;
        return the URL for the node."""
        network = Network()
        network.listen(address, port)
        self.networks[kind].append(network)
        return url.replace(f"127.0.0.1:{port}", f"{address}:{port}")

    def cut_power(self, history: Path, cuts: int, seed: int) -> Cuts:
        """End everything, and compare what is left after so many power cuts
        with the history."""
        for node in self.nodes:
            node.control("kill")
        return cut_all(self.recorded, self.recording, history, cuts, seed)

    def parts(self, what: str, node: int) -> Sequence[Breakable | None]:
        """What a fault breaks: parts of this node, or of all; None: it is not
        here."""
        if what in ("network", "rpc") and len(self.nodes) == 1:
            return []
        if what == "network":
            return self.networks["rpc"]
        if what in self.networks:
            return self.networks[what][node : node + 1]
        if what == "database links":
            return self.networks["database link"]
        if what == "clock" and self.embedded:  # its nodes are on one machine
            return [
                clock for name, clock in self.clocks.items() if name.startswith("node")
            ]
        if what == "clock":
            return [self.clocks.get(f"node {node}")]
        if what == "database clock":
            return [self.clocks.get("database")]
        if what == "disk":
            return [self.disk] if self.can_stall else []
        return [self.nodes[node] if what == "node" else getattr(self, what)]

    def control(self, what: str, how: str, node: int) -> None:
        """Do ``how`` to all parts. What does not start is started again, as a
        service manager would."""
        deadline = time.monotonic() + START_SECONDS
        for part in self.parts(what, node):
            while part is not None:
                try:
                    part.control(how)
                    break
                except BenchError:
                    if how != "again" or time.monotonic() > deadline:
                        raise

    def tracebacks(self) -> list[str]:
        """The last lines of all tracebacks in the logs of the nodes."""
        found = []
        for log in sorted(self.folder.glob("node*/*.log")):
            text = log.read_text(encoding="utf-8", errors="replace")
            last = re.findall(r"^Traceback .*\n(?:(?:\s.*)?\n)*(\S.*)", text, re.M)
            found += [f"{log.parent.name}: {line}" for line in last]
        return found


def _clock_library() -> Path | None:
    """The library that changes the clock of a process; None if it is not
    installed."""
    program = shutil.which("faketime")
    if program is None:
        return None
    command = [program, "-m", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.stdout.strip():
        return Path(done.stdout.strip())
    return None


@dataclass(frozen=True)
class Fault:
    """A fault of ``least`` to ``most`` seconds: ``how`` is done to ``what``,
    and ``mend`` at the end.

    ``what``: see :meth:`System.parts`.
    """

    name: str
    least: float
    most: float
    what: str
    how: str
    mend: str

    def possible(self, system: System) -> bool:
        return any(part is not None for part in system.parts(self.what, 0))


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("kill", 0.0, 5.0, "node", "kill", "again"),
        Fault("restart", 0.0, 2.0, "node", "stop", "again"),
        Fault("pause", 1.0, 60.0, "node", "pause", "resume"),
        Fault("ahead", 3.0, 30.0, "clock", f"+{STEP_SECONDS}", RIGHT_CLOCK),
        Fault("behind", 3.0, 30.0, "clock", f"-{STEP_SECONDS}", RIGHT_CLOCK),
        Fault("drift", 3.0, 30.0, "clock", f"+0 x{DRIFT}", RIGHT_CLOCK),
        Fault("redis", 0.0, 5.0, "redis", "kill", "again"),
        Fault("flush", 0.0, 0.0, "redis", "flush", "resume"),
        Fault("replica", 0.5, 3.0, "redis", "save", "revert"),
        Fault("full", 1.0, 15.0, "redis", "fill", "free"),
        Fault("pause_redis", 1.0, 60.0, "redis", "pause", "resume"),
        Fault("no_redis", 1.0, 30.0, "redis link", "cut", "heal"),
        Fault("no_answers", 1.0, 15.0, "redis link", "mute", "heal"),
        Fault("database", 0.0, 5.0, "database", "kill", "again"),
        Fault("pause_database", 1.0, 60.0, "database", "pause", "resume"),
        Fault(
            "database_ahead",
            3.0,
            30.0,
            "database clock",
            f"+{STEP_SECONDS}",
            RIGHT_CLOCK,
        ),
        Fault(
            "database_behind",
            3.0,
            30.0,
            "database clock",
            f"-{STEP_SECONDS}",
            RIGHT_CLOCK,
        ),
        Fault("hang", 1.0, 30.0, "database links", "cut", "heal"),
        Fault("no_database", 1.0, 30.0, "database link", "cut", "heal"),
        Fault("receiver", 0.0, 10.0, "receiver", "kill", "again"),
        Fault("cut", 1.0, 15.0, "network", "cut", "heal"),
        Fault("hold", 0.5, 5.0, "network", "hold", "heal"),
        Fault("deaf", 1.0, 15.0, "rpc", "deaf", "heal"),
        Fault("mute", 1.0, 15.0, "rpc", "mute", "heal"),
        Fault("stall", 1.0, 10.0, "disk", str(STALL_LIMIT_SECONDS * 1000), ""),
        Fault("slow", 2.0, 8.0, "disk", str(SLOW_MS), ""),
    )
}


@dataclass(frozen=True)
class ChaosOptions:
    minutes: float = parameter(
        30.0,
        "Duration in minutes. Each fault happens at least once.",
        least=0.05,
        most=24 * 60,
    )
    nodes: int = parameter(2, "Nodes of the cluster.", most=16)
    clients: int = parameter(24, "Clients, spread over the nodes.", least=2, most=1000)
    rate: float = parameter(
        50.0, "Messages a second, of all clients together.", least=0.1, most=5000
    )
    power: int = parameter(
        0,
        "Instead of faults, record all writes of one node with SQLite. Then simulate "
        "this many power cuts offline.",
        least=0,
        most=1_000_000,
    )
    database: str = text_parameter(
        "sqlite",
        "sqlite, postgresql, mysql, or a URL. The database of a URL is not broken.",
    )
    faults: str = text_parameter(
        "",
        f"Only these faults, separated by commas: {', '.join(FAULTS)} [default: all].",
    )
    longest: float = parameter(
        15.0, "The longest fault, in seconds.", least=0, most=300
    )
    rest: float = parameter(
        4.0, "Longest pause between two faults, in seconds.", least=0, most=300
    )
    seed: int = parameter(
        0, "Equal seeds make equal faults. 0 means a random seed.", least=0, most=2**31
    )
    channels: bool = parameter(
        False, "Publish to channels with history, in place of stored messages."
    )
    alone: bool = parameter(False, "One node without a Redis.")
    webhook: bool = parameter(
        False, "Also check the events of a webhook, and break its receiver."
    )
    notifications: bool = parameter(
        False, "Also check the notifications of absent users."
    )
    folder: str = text_parameter(
        "", "Keep logs and data in this folder [default: they are removed]."
    )
    history: str = text_parameter(
        "",
        "Write the requests, answers and deliveries of all clients to this file [default: none].",
    )


def chosen(names: str, system: System) -> tuple[list[Fault], list[str]]:
    """The faults with these names, separated by commas (none: all), that are
    possible here; and the names of the others.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in FAULTS:
            raise BenchError(f"there is no fault {name}: {', '.join(FAULTS)}")
    found = [fault for fault in FAULTS.values() if not wanted or fault.name in wanted]
    possible = [fault for fault in found if fault.possible(system)]
    if not possible:
        raise BenchError("there is nothing to break here")
    return possible, [fault.name for fault in found if fault not in possible]
