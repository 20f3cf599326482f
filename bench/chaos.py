"""``imserver bench chaos``: clients talk while nodes, Redis, database, network and disk break in turn.

Judged by the promises: no acknowledged message is lost or stored twice, and every client, dropping repeats by
their ids, sees each conversation without hole, double or inversion.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench import chaos_talk
from bench.chaos_proxy import carry, disturb_network
from bench.connections import Target
from bench.crew import SOURCE, Crew, Hand
from bench.figures import Figures
from bench.generator import aim
from bench.latency import Latency
from bench.loop import BenchError
from bench.servers import ENGINES, disturb, serve_database
from bench.stage import Stage, choice_parameter, parameter, text_parameter

CMD_APP: Final = 105
"""Under this number the cmd dialect reaches the accounts of the protobuf dialect."""
STALL_SOURCE: Final = SOURCE / "tests" / "faults" / "slow_fsync.c"
STALL_LIMIT_SECONDS: Final = 600
SLOW_MS: Final = 60
_CONFIG: Final = f"""\
apps:
  gochat: {{login_policy: ""}}
  "{CMD_APP}": {{same_as: gochat}}
"""


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

    def disturb(self, hand: Hand, how: str) -> None:
        """``kill``, ``stop``, ``pause``, ``resume`` what this process keeps, or start it ``again``."""
        self.crew.ask(hand, disturb, how=how)

    def disturb_network(self, how: str) -> None:
        """``cut``, ``hold`` or ``heal`` the network between the nodes."""
        self.crew.ask(self.network, disturb_network, how=how)

    def stall(self, milliseconds: int) -> None:
        if milliseconds:
            fresh = self.stall_file.with_suffix(".new")
            fresh.write_text(str(milliseconds), encoding="ascii")
            fresh.rename(self.stall_file)
        else:
            self.stall_file.unlink(missing_ok=True)

    def tracebacks(self) -> list[str]:
        """The last lines of all tracebacks in the logs of the nodes."""
        found = []
        for log in sorted(self.folder.glob("node*/*.log")):
            inside = False
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("Traceback "):
                    inside = True
                elif inside and line and not line[0].isspace():
                    inside = False
                    found.append(f"{log.parent.name}: {line}")
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
    done = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{source} does not compile: {done.stderr.decode(errors='replace')[-1000:]}")
    return library


Act = Callable[[Ground, int], None]
"""Something is done to the ground; the number says to which node."""


@dataclass(frozen=True)
class Fault:
    """Something that breaks for ``least`` to ``most`` seconds. ``possible``: whether this ground has it."""

    name: str
    label: str
    least: float
    most: float
    begin: Act
    end: Act
    possible: Callable[[Ground], bool] = lambda ground: True


def _node(how: str) -> Act:
    return lambda ground, number: ground.disturb(ground.nodes[number], how)


def _redis(how: str) -> Act:
    return lambda ground, number: ground.disturb(ground.redis, how)


def _database(how: str) -> Act:
    def act(ground: Ground, number: int) -> None:
        assert ground.database is not None
        ground.disturb(ground.database, how)

    return act


def _network(how: str) -> Act:
    return lambda ground, number: ground.disturb_network(how)


def _disk(milliseconds: int) -> Act:
    return lambda ground, number: ground.stall(milliseconds)


def _several(ground: Ground) -> bool:
    return len(ground.nodes) > 1


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("kill", "kill -9 of a node", 0.0, 5.0, _node("kill"), _node("again")),
        Fault("restart", "a node stopped and started", 0.0, 2.0, _node("stop"), _node("again")),
        Fault("pause", "a node standing still", 1.0, 14.0, _node("pause"), _node("resume")),
        Fault("redis", "kill -9 of Redis, which forgets all", 0.0, 5.0, _redis("kill"), _redis("again")),
        Fault(
            "database",
            "kill -9 of the database",
            0.0,
            5.0,
            _database("kill"),
            _database("again"),
            lambda ground: ground.database is not None,
        ),
        Fault("cut", "the network between nodes cut", 1.0, 15.0, _network("cut"), _network("heal"), _several),
        Fault(
            "hold", "the network between nodes late", 0.5, 5.0, _network("hold"), _network("heal"), _several
        ),
        Fault(
            "stall",
            "an fsync that stalls",
            1.0,
            10.0,
            _disk(STALL_LIMIT_SECONDS * 1000),
            _disk(0),
            lambda ground: ground.can_stall,
        ),
        Fault(
            "slow", "every fsync slow", 2.0, 8.0, _disk(SLOW_MS), _disk(0), lambda ground: ground.can_stall
        ),
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


def shuffled(faults: list[Fault], chance: random.Random) -> Iterator[Fault]:
    """All faults again and again, each time in another order."""
    while True:
        chance.shuffle(faults)
        yield from faults


LEAD_SECONDS = 1.0
"""Undisturbed talk before the first fault."""
MEET_SECONDS = 60.0
SETTLE_SECONDS = 60.0
AUDIT_SECONDS = 300.0
TALK_SECONDS = 600.0
"""Longest a fault may last with what it takes to mend it."""
SPEECHES = {"both": ["cmd", "protobuf"], "cmd": ["cmd"], "protobuf": ["protobuf"]}
_KEPT_NOTES = 20
#: What the judge calls its findings → the figure.
KINDS = {
    "lost": "chaos_lost",
    "twice": "chaos_twice",
    "holes": "chaos_holes",
    "inversions": "chaos_inversions",
    "missing": "chaos_missing",
    "unknown": "chaos_unknown",
    "changed": "chaos_changed",
    "anew": "chaos_anew",
    "refused": "refused",
    "unreadable": "errors",
}

Begin = Callable[[str], Callable[[int, int], None]]
"""Shows a new piece of work."""


@dataclass(frozen=True)
class ChaosOptions:
    """Parameters of the run."""

    minutes: float = parameter(
        30.0, "How long to break things; each at least once.", least=0.05, most=24 * 60
    )
    nodes: int = parameter(2, "Nodes of the cluster.", most=16)
    clients: int = parameter(24, "Clients, spread over the nodes.", least=2, most=1000)
    rate: float = parameter(50.0, "Messages a second, of all clients together.", least=0.1, most=5000)
    database: str = text_parameter(
        "sqlite", "sqlite, postgresql or mysql: a server of our own; or a URL, which is not broken."
    )
    dialect: str = choice_parameter("both", "What the clients speak.", SPEECHES)
    faults: str = text_parameter("", f"Only these, separated by commas: {', '.join(FAULTS)} [default: all].")
    longest: float = parameter(15.0, "Longest a fault lasts, in seconds.", least=0, most=300)
    rest: float = parameter(4.0, "Longest pause between two faults, in seconds.", least=0, most=300)
    seed: int = parameter(
        0, "What is broken when: the same number, the same faults; 0: any.", least=0, most=2**31
    )
    stall: str = text_parameter(
        "", "The library that lets fsync wait, or its source [default: tests/faults/slow_fsync.c]."
    )
    folder: str = text_parameter("", "Where logs and data are to stay [default: nowhere].")


@dataclass(frozen=True)
class Round:
    """One fault that was played, and what the judge had found when it was over."""

    fault: str
    node: int
    begin: float
    seconds: float
    found: dict[str, int]


class Chaos:
    """One run. Owns the crew's work; :meth:`play` returns its report, JSON-ready."""

    def __init__(self, crew: Crew, options: ChaosOptions, folder: Path, begin: Begin) -> None:
        self.crew = crew
        self.options = options
        self.show = begin
        self.seed = options.seed or random.randrange(1, 2**31)
        self.chance = random.Random(self.seed)
        begin("everything starts")
        self.ground = Ground(crew, options.nodes, options.database, folder, options.stall)
        (self.talkers,) = crew.hire(1)
        self.rounds: list[Round] = []
        self._seen: Counter[str] = Counter()

    def play(self) -> tuple[Figures, dict[str, Any]]:
        options, hand = self.options, self.talkers
        self.crew.ask(hand, aim, target=asdict(self.ground.targets[0]), index=hand.index)
        self.crew.ask(
            hand,
            chaos_talk.meet,
            doors=[[target.ws_host, target.ws_port] for target in self.ground.targets],
            clients=options.clients,
            app=CMD_APP,
            dialects=SPEECHES[options.dialect],
            seed=self.chance.randrange(2**31),
            seconds=MEET_SECONDS,
        )
        progress = self.show("chaos")
        begin = time.monotonic()
        end = begin + options.minutes * 60
        self.crew.ask(hand, chaos_talk.talk, seconds=LEAD_SECONDS, rate=options.rate)
        possible = chosen(options.faults, self.ground)
        for fault in shuffled(possible, self.chance):
            progress(int(time.monotonic() - begin), int(options.minutes * 60))
            if time.monotonic() >= end and len(self.rounds) >= len(possible):
                break
            self._play_round(fault, begin)
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
        fault.begin(self.ground, node)
        time.sleep(seconds)
        fault.end(self.ground, node)
        lasted = time.monotonic() - broken
        time.sleep(self.chance.uniform(options.rest / 4, options.rest))
        hand.stop()
        status = self.crew.gather([hand])[0]
        found = Counter(status["faults"])
        self.rounds.append(Round(fault.name, node, broken - begin, lasted, dict(found - self._seen)))
        self._seen = found

    def _figures(self, audit: dict[str, Any], seconds: float) -> Figures:
        acks = Latency.merged([audit["ack_latency"]])
        played = Counter(each.fault for each in self.rounds)
        found = Counter(audit["faults"])
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
            "ack_p50_ms": acks.percentile_ms(50),
            "ack_p99_ms": acks.percentile_ms(99),
            "tracebacks": len(self.ground.tracebacks()),
        }

    def _notes(self, settled: dict[str, Any], audit: dict[str, Any]) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "calm": settled["calm"],
            "compared": audit["compared"],
            "held_back": audit["held_back"],
            "found": audit["notes"],
            "rounds": [asdict(each) for each in self.rounds],
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
