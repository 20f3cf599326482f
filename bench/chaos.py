"""``imserver bench chaos``: clients talk while nodes, Redis, database, network and disk break, one at a time.

Judged by what was promised: no message that was acknowledged is lost or stored twice, and every client,
having dropped what it knows by its id, has each conversation without hole, double or inversion.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.chaos_faults import FAULTS, Fault, chosen, shuffled
from bench.chaos_ground import CMD_APP, Ground
from bench.crew import Crew, Hand
from bench.figures import faults
from bench.latency import Latency
from bench.machine import machine
from bench.stage import Figures, choice_parameter, parameter, text_parameter

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

    def _ask(self, hand: Hand, do: str, **parameters: Any) -> dict[str, Any]:
        hand.ask(do, **parameters)
        return self.crew.gather([hand])[0]

    def play(self) -> tuple[Figures, dict[str, Any]]:
        """Return the figures and the notes."""
        options, hand = self.options, self.talkers
        self._ask(hand, "aim", target=asdict(self.ground.targets[0]), index=hand.index)
        self._ask(
            hand,
            "chaos.meet",
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
        self._ask(hand, "chaos.talk", seconds=LEAD_SECONDS, rate=options.rate)
        possible = chosen(options.faults, self.ground)
        for fault in shuffled(possible, self.chance):
            progress(int(time.monotonic() - begin), int(options.minutes * 60))
            if time.monotonic() >= end and len(self.rounds) >= len(possible):
                break
            self._play_round(fault, begin)
        self.show("everything settles")
        settled = self._ask(hand, "chaos.settle", seconds=SETTLE_SECONDS)
        self.show("what is stored is compared with what was told")
        audit = self._ask(hand, "chaos.audit", seconds=AUDIT_SECONDS)
        return self._figures(audit, time.monotonic() - begin), self._notes(settled, audit)

    def _play_round(self, fault: Fault, begin: float) -> None:
        """Break something while everybody talks, and mend it."""
        hand, options = self.talkers, self.options
        node = self.chance.randrange(len(self.ground.nodes))
        seconds = self.chance.uniform(min(fault.least, options.longest), min(fault.most, options.longest))
        broken = time.monotonic()
        hand.ask("chaos.talk", seconds=TALK_SECONDS, rate=options.rate)
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


def perform(options: ChaosOptions, begin: Begin) -> dict[str, Any]:
    """Play one run with processes of its own; return its report, JSON-ready."""
    folder = Path(options.folder) if options.folder else Path(tempfile.mkdtemp(prefix="imserver-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # a database server that is nobody loads its library from here
    crew = Crew()
    try:
        figures, notes = Chaos(crew, options, folder.resolve(), begin).play()
    finally:
        crew.dismiss()
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    return {
        "scenario": "chaos",
        "title": f"chaos for {options.minutes:g} minutes, {options.nodes} nodes, {options.database}",
        "command": f"imserver bench chaos --minutes {options.minutes:g} --database {options.database}",
        "parameters": asdict(options),
        "runs": 1,
        "figures": figures,
        "each": [figures],
        "faults": faults(figures),
        "notes": notes,
        "generator": {
            "processes": 1,
            "pinned": False,
            "cpu_us_each": None,
            "bottleneck": False,
            "rate": "measured",
        },
        "server": {
            "own": True,
            "command": f"imserver serve, {options.nodes} nodes",
            "log": "a file each",
        },
        "machine": machine(),
    }
