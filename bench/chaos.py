"""``imserver bench chaos``: clients talk while nodes, Redis, database, network and disk break in turn.

Judged by the promises: no acknowledged message is lost or stored twice, and every client, dropping repeats by
their ids, sees each conversation without hole, double or inversion.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench import chaos_talk
from bench.connections import Target
from bench.crew import SOURCE, Crew, Hand, Progress
from bench.figures import Figures
from bench.generator import Generator, aim
from bench.latency import Latency
from bench.loop import BenchError, Json
from bench.servers import ENGINES, disturb, serve_database
from bench.stage import Stage, parameter, text_parameter

CMD_APP: Final = 105
"""Under this number the cmd dialect reaches the accounts of the protobuf dialect."""
STALL_SOURCE: Final = SOURCE / "tests" / "faults" / "slow_fsync.c"
STALL_LIMIT_SECONDS: Final = 600
SLOW_MS: Final = 60
RECEIVE_BYTES: Final = 65_536
_CONFIG: Final = f"""\
apps:
  gochat: {{login_policy: ""}}
  "{CMD_APP}": {{same_as: gochat}}
"""
LEAD_SECONDS = 1.0
"""Undisturbed talk before the first fault."""
MEET_SECONDS = 60.0
SETTLE_SECONDS = 60.0
AUDIT_SECONDS = 300.0
TALK_SECONDS = 600.0
"""Longest a fault may last with what it takes to mend it."""
SPEECHES = {"both": ["cmd", "protobuf"], "cmd": ["cmd"], "protobuf": ["protobuf"]}
_KEPT_NOTES = 20
_FINDINGS = ("lost", "twice", "holes", "inversions", "missing", "unknown", "changed", "anew")
#: What the judge calls its findings → the figure.
KINDS = {**{kind: f"chaos_{kind}" for kind in _FINDINGS}, "refused": "refused", "unreadable": "errors"}
Pair = tuple[socket.socket, socket.socket]


class Network:
    """Listens at addresses of its own and carries what comes to the same ports of 127.0.0.1, with two threads
    for a connection. Owns sockets.

    Connections that were carried while it was cut have holes, and are reset when it is healed.
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

    def disturb(self, how: str) -> None:
        """``cut``: swallow everything; connections stay open, and new ones are taken. ``hold`` it back.
        ``heal``: carry on, what was held with all of it, what was cut with new connections."""
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
        if not self.is_cut:  # otherwise the other side does not learn of it
            self._end(pair)

    def _end(self, pair: Pair) -> None:
        self.pairs.discard(pair)
        for sock in pair:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def carry(generator: Generator, address: str, ports: list[int]) -> Json:
    """Task: carry what comes to these ports of an address, from now on."""
    network: Network = generator.kept.setdefault("network", Network())
    for port in ports:
        network.listen(address, port)
    return {}


def disturb_network(generator: Generator, how: str) -> Json:
    generator.kept["network"].disturb(how)
    return {}


class Ground:
    """Owner, through processes of the crew, of all that can be broken. Everything stands when it is made.

    ``database``: ``sqlite``, ``postgresql``, ``mysql``, or a URL, which is never broken; ``stall``: the
    library that lets fsync wait, or its source (empty: the one of a source tree, if there is a compiler).
    """

    def __init__(self, crew: Crew, nodes: int, database: str, folder: Path, stall: str) -> None:
        self.crew = crew
        self.folder = folder
        self.stall_file = folder / "stall"
        self.library = _library(stall, folder)
        preload = {"LD_PRELOAD": str(self.library), "SLOW_FSYNC_FILE": str(self.stall_file)}
        self.redis, url = crew.serve_redis()
        self.database: Hand | None = None
        if database in ENGINES:
            (self.database,) = crew.hire(1)
            settings = preload if self.library else {}
            database = crew.ask(self.database, serve_database, engine=database, environment=settings)["url"]
        self.embedded = database == "sqlite"
        self.can_stall = self.library is not None and (self.embedded or self.database is not None)
        (self.network,) = crew.hire(1)
        self.nodes: list[Hand] = []
        self.targets: list[Target] = []
        environment = {"IMSERVER_REDIS_URL": url, "IMSERVER_CLUSTER_BIND": "127.0.0.1"}
        if not self.embedded:
            environment["IMSERVER_STORAGE_URL"] = database
        elif self.library:
            environment |= preload
        config = folder / "config.yaml"
        config.write_text(_CONFIG, encoding="utf-8")
        for number in range(nodes):
            self._add_node(number, environment, config)

    def _add_node(self, number: int, environment: dict[str, str], config: Path) -> None:
        address = f"127.0.1.{number + 1}"
        own = self.crew.serve(
            arguments=["--config", str(config)],
            environment={**environment, "IMSERVER_CLUSTER_ADVERTISE": address},
            data_directory=str(self.folder / "data"),
            directory=str(self.folder / f"node{number + 1}"),
        )
        self.nodes.append(own.hand)
        self.targets.append(own.target)
        self.crew.ask(self.network, carry, address=address, ports=[own.rpc_port, own.rpc_port + 1])

    def disturb(self, what: str, how: str | int, node: int) -> None:
        """Do ``how`` to a node, Redis, the database or the network, or let fsync wait for milliseconds."""
        if what == "network":
            self.crew.ask(self.network, disturb_network, how=how)
        elif what != "disk":
            self.crew.ask(self.nodes[node] if what == "node" else getattr(self, what), disturb, how=how)
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
    """The library to preload; None where there is neither one nor the means to make it."""
    source = Path(stall) if stall else STALL_SOURCE
    if not source.exists():
        if stall:
            raise BenchError(f"there is no {source}")
        return None
    if source.suffix != ".c":
        return source.resolve()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "slow_fsync.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"{source} does not compile: {done.stderr.decode(errors='replace')[-1000:]}")
    return library


@dataclass(frozen=True)
class Fault:
    """Something that breaks for ``least`` to ``most`` seconds: ``how`` is done to ``what`` of the ground, and
    ``mend`` at the end."""

    name: str
    least: float
    most: float
    what: str
    how: str | int
    mend: str | int

    def possible(self, ground: Ground) -> bool:
        several, database = len(ground.nodes) > 1, ground.database is not None
        return {"network": several, "database": database, "disk": ground.can_stall}.get(self.what, True)


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("kill", 0.0, 5.0, "node", "kill", "again"),
        Fault("restart", 0.0, 2.0, "node", "stop", "again"),
        Fault("pause", 1.0, 14.0, "node", "pause", "resume"),
        Fault("redis", 0.0, 5.0, "redis", "kill", "again"),
        Fault("database", 0.0, 5.0, "database", "kill", "again"),
        Fault("cut", 1.0, 15.0, "network", "cut", "heal"),
        Fault("hold", 0.5, 5.0, "network", "hold", "heal"),
        Fault("stall", 1.0, 10.0, "disk", STALL_LIMIT_SECONDS * 1000, 0),
        Fault("slow", 2.0, 8.0, "disk", SLOW_MS, 0),
    )
}


def chosen(names: str, ground: Ground) -> list[Fault]:
    """The faults of these names, separated by commas (none: all), that this ground has."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in FAULTS:
            raise BenchError(f"there is no fault {name}: {', '.join(FAULTS)}")
    found = [fault for fault in FAULTS.values() if not wanted or fault.name in wanted]
    possible = [fault for fault in found if fault.possible(ground)]
    if not possible:
        raise BenchError("there is nothing to break here")
    return possible


@dataclass(frozen=True)
class ChaosOptions:
    minutes: float = parameter(30.0, "How long; each fault at least once.", least=0.05, most=24 * 60)
    nodes: int = parameter(2, "Nodes of the cluster.", most=16)
    clients: int = parameter(24, "Clients, spread over the nodes.", least=2, most=1000)
    rate: float = parameter(50.0, "Messages a second, of all clients together.", least=0.1, most=5000)
    database: str = text_parameter("sqlite", "sqlite, postgresql, mysql; or a URL, which is not broken.")
    dialect: str = text_parameter("both", "What the clients speak.", SPEECHES)
    faults: str = text_parameter("", f"Only these, separated by commas: {', '.join(FAULTS)} [default: all].")
    longest: float = parameter(15.0, "Longest a fault lasts, in seconds.", least=0, most=300)
    rest: float = parameter(4.0, "Longest pause between two faults, in seconds.", least=0, most=300)
    seed: int = parameter(0, "The same number, the same faults; 0: any.", least=0, most=2**31)
    stall: str = text_parameter("", "Library for slow fsync [default: from tests/faults/slow_fsync.c].")
    folder: str = text_parameter("", "Where logs and data are to stay [default: nowhere].")


class Chaos:
    """One run. Owns the crew's work; :meth:`play` returns its report, JSON-ready."""

    def __init__(
        self, crew: Crew, options: ChaosOptions, folder: Path, begin: Callable[[str], Progress]
    ) -> None:
        self.crew = crew
        self.options = options
        self.show = begin
        self.seed = options.seed or random.randrange(1, 2**31)
        self.chance = random.Random(self.seed)
        begin("everything starts")
        self.ground = Ground(crew, options.nodes, options.database, folder, options.stall)
        (self.talkers,) = crew.hire(1)
        self.rounds: list[Json] = []
        """Each fault that was played, and what the judge had found when it was over."""
        self._seen: Counter[str] = Counter()

    def play(self) -> tuple[Figures, Json]:
        options, hand = self.options, self.talkers
        self.crew.ask(hand, aim, target=asdict(self.ground.targets[0]), index=hand.index)
        doors = [[target.ws_host, target.ws_port] for target in self.ground.targets]
        who = {"clients": options.clients, "app": CMD_APP, "dialects": SPEECHES[options.dialect]}
        seed = self.chance.randrange(2**31)
        self.crew.ask(hand, chaos_talk.meet, doors=doors, seed=seed, seconds=MEET_SECONDS, **who)
        progress = self.show("chaos")
        begin = time.monotonic()
        end = begin + options.minutes * 60
        self.crew.ask(hand, chaos_talk.talk, seconds=LEAD_SECONDS, rate=options.rate)
        possible = chosen(options.faults, self.ground)
        while time.monotonic() < end or len(self.rounds) < len(possible):
            if len(self.rounds) % len(possible) == 0:
                self.chance.shuffle(possible)
            progress(int(time.monotonic() - begin), int(options.minutes * 60))
            self._play_round(possible[len(self.rounds) % len(possible)], begin)
        self.show("everything settles")
        settled = self.crew.ask(hand, chaos_talk.settle, seconds=SETTLE_SECONDS)
        self.show("what is stored is compared with what was told")
        audit = self.crew.ask(hand, chaos_talk.audit, seconds=AUDIT_SECONDS)
        return self._figures(audit, time.monotonic() - begin), self._notes(settled, audit)

    def _play_round(self, fault: Fault, begin: float) -> None:
        """Break something while everybody talks, and mend it."""
        hand, options = self.talkers, self.options
        node = self.chance.randrange(len(self.ground.nodes))
        seconds = self.chance.uniform(min(fault.least, options.longest), min(fault.most, options.longest))
        broken = time.monotonic()
        hand.ask(chaos_talk.talk, seconds=TALK_SECONDS, rate=options.rate)
        self.ground.disturb(fault.what, fault.how, node)
        time.sleep(seconds)
        self.ground.disturb(fault.what, fault.mend, node)
        lasted = time.monotonic() - broken
        time.sleep(self.chance.uniform(options.rest / 4, options.rest))
        hand.stop()
        status = self.crew.gather([hand])[0]
        found = Counter[str](status["faults"])
        played = {"fault": fault.name, "node": node, "begin": broken - begin, "seconds": lasted}
        self.rounds.append({**played, "found": dict(found - self._seen)})
        self._seen = found

    def _figures(self, audit: Json, seconds: float) -> Figures:
        played = Counter(each["fault"] for each in self.rounds)
        found = Counter[str](audit["faults"])
        return {
            "chaos_seconds": seconds,
            "chaos_faults": len(self.rounds),
            **{f"chaos_{name}_count": played[name] for name in FAULTS if played[name]},
            "messages": audit["sent"],
            "acknowledged": audit["acked"],
            "unacknowledged": audit["sent"] - audit["acked"],
            "told": audit["told"],
            **{figure: found[kind] for kind, figure in KINDS.items()},
            "raw_repeats": audit["repeats"],
            "resends": audit["resends"],
            "not_stored": audit["not_stored"],
            "logins": audit["connections"],
            "recovered": audit["recovered"],
            "lost_connections": audit["lost_connections"],
            "silence_seconds": audit["longest_silence_seconds"],
            **Latency.merged([audit["ack_latency"]]).figures("ack_", maximum=False),
            "tracebacks": len(self.ground.tracebacks()),
        }

    def _notes(self, settled: Json, audit: Json) -> Json:
        return {
            "seed": self.seed,
            "calm": settled["calm"],
            "compared": audit["compared"],
            "held_back": audit["held_back"],
            "found": audit["notes"],
            "rounds": self.rounds,
            "tracebacks": self.ground.tracebacks()[:_KEPT_NOTES],
        }


def run(stage: Stage, options: ChaosOptions) -> Figures:
    """Break nodes, network and disk under a chat, count losses."""
    folder = Path(options.folder) if options.folder else Path(tempfile.mkdtemp(prefix="imserver-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # a database server that runs as nobody loads its library from here
    title = f"chaos for {options.minutes:g} minutes, {options.nodes} nodes, {options.database}"
    try:
        figures, notes = Chaos(stage.crew, options, folder.resolve(), stage.begin).play()
    finally:
        stage.crew.dismiss()
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    stage.extra |= {"title": title, "notes": notes}
    return figures
