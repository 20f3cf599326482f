"""``imserver bench chaos``: clients chat while nodes, Redis, database, network and disk fail in turn; or the
power is cut (:mod:`bench.power`). All write what they did and saw into a history, which the checker
judges.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from bench import chaos_channels, chaos_tasks
from bench.chaos_loads import AbsentUsers
from bench.chaos_tasks import AUDIT_SECONDS, MEET_SECONDS, SETTLE_SECONDS
from bench.context import RunContext
from bench.faults import FAULTS, ChaosOptions, Fault, System, chosen
from bench.figures import Figures
from bench.generator import aim
from bench.history import FIRST_OF_DRIVER, History, judge
from bench.loop import BenchError, Json
from bench.report import show_phase

CONFIGS: Final = {"messages": chaos_tasks.CONFIG, "channels": chaos_channels.CONFIG}
CHANNEL_FAULTS: Final = "kill,restart,pause,redis,flush,cut,hold"
"""Those of a run with channels, if no others are named."""
LEAD_SECONDS: Final = 1.0
"""Chat without faults before the first fault."""
CHAT_SECONDS: Final = 600.0
"""Time limit of a fault with its repair."""
_MOST_NOTES: Final = 20
_HARMLESS: Final = ("node", "database", "receiver", "disk")
"""What can break while nodes reach Redis and each other, or end."""


class ChaosRun:
    """One run. Owner of the chatting worker; :meth:`play` returns its report, JSON-ready."""

    def __init__(self, context: RunContext, options: ChaosOptions, folder: Path) -> None:
        self.pool = context.pool
        self.options, self.folder = options, folder
        self.kind = "channels" if options.channels else "messages"
        self.seed = options.seed or random.randrange(1, 2**31)
        self.chance = random.Random(self.seed)
        show_phase("everything starts")
        self.system = System(self.pool, options, CONFIGS[self.kind], folder)
        (self.talkers,) = self.pool.start_workers(1)
        self.rounds: list[Json] = []
        """Each fault that was played."""
        self.skipped: list[str] = []
        """The names of faults that are not possible here."""
        self.file = Path(options.history) if options.history else folder / "history.jsonl"
        """The history of the clients; at the end also that of this process."""
        self.own_file = folder / "own.jsonl"
        self.history = History(self.own_file, FIRST_OF_DRIVER)
        targets = [node.target for node in self.system.nodes]
        self.absent = AbsentUsers(targets, self.history) if options.notifications else None

    def play(self) -> tuple[Figures, Json]:
        options, worker = self.options, self.talkers
        self.pool.ask(worker, aim, target=asdict(self.system.nodes[0].target), index=worker.index)
        self.pool.ask(worker, chaos_tasks.meet, seconds=MEET_SECONDS, **self._clients())
        if self.absent:
            self.absent.start()
        begin = time.monotonic()
        if options.power:
            show_phase("clients are at work")
            self.pool.ask(worker, chaos_tasks.chat, seconds=options.minutes * 60, rate=options.rate)
        else:
            self.pool.ask(worker, chaos_tasks.chat, seconds=LEAD_SECONDS, rate=options.rate)
            self._play_rounds(begin)
        show_phase("everything settles")
        if self.absent:
            self.absent.is_over.set()
        settled = self.pool.ask(worker, chaos_tasks.settle, seconds=SETTLE_SECONDS)
        show_phase("what is stored is read")
        audit = self.pool.ask(worker, chaos_tasks.audit, seconds=AUDIT_SECONDS)
        played = Counter(each["fault"] for each in self.rounds)
        figures: Figures = {
            "chaos_seconds": time.monotonic() - begin,
            "chaos_faults": len(self.rounds),
            **{f"chaos_{name}_count": played[name] for name in FAULTS if played[name]},
            **audit["figures"],
        }
        if self.system.receiver:
            show_phase("the last events")
            figures |= self.system.receiver.finish(self.system.nodes[0].target, self.history)
        if self.absent:
            show_phase("the last notifications")
            figures |= self.absent.finish()
        tracebacks = self.system.tracebacks()
        show_phase("the history is judged")
        judged, broken = self._judge()
        notes = {
            "seed": self.seed,
            "calm": settled["calm"],
            "found": audit["notes"],
            "rounds": self.rounds,
            "skipped": self.skipped,
            "tracebacks": tracebacks[:_MOST_NOTES],
            "broken": broken,
        }
        return {**figures, "tracebacks": len(tracebacks), **judged}, notes

    def _clients(self) -> Json:
        """The facts about the clients for the worker."""
        targets = [node.target for node in self.system.nodes]
        facts: Json = {
            "kind": self.kind,
            "addresses": [[target.ws_host, target.ws_port] for target in targets],
            # After power cuts, the checker is asked about messages alone.
            "http_ports": [] if self.options.power else [target.http_port for target in targets],
            "clients": self.options.clients,
            "seed": self.chance.randrange(2**31),
            "history": str(self.file.resolve()),
        }
        return facts if self.options.channels else {**facts, "locks": self._has_locks()}

    def _has_locks(self) -> bool:
        """Whether sessions that refuse others exclude each other at any time. While nodes reach neither Redis
        nor each other, each lets its own users in."""
        names = [name.strip() for name in self.options.faults.split(",") if name.strip() in FAULTS]
        return self.options.alone or (bool(names) and all(FAULTS[name].what in _HARMLESS for name in names))

    def _play_rounds(self, begin: float) -> None:
        """Cause one fault after the other, each at least once."""
        usual = CHANNEL_FAULTS if self.options.channels else ""
        possible, self.skipped = chosen(self.options.faults or usual, self.system)
        end = begin + self.options.minutes * 60
        while time.monotonic() < end or len(self.rounds) < len(possible):
            if len(self.rounds) % len(possible) == 0:
                self.chance.shuffle(possible)
            fault = possible[len(self.rounds) % len(possible)]
            show_phase(f"fault {len(self.rounds) + 1}: {fault.name}")
            self._play_round(fault, begin)

    def _play_round(self, fault: Fault, begin: float) -> None:
        """Cause a fault during the chat, and repair it."""
        worker, options = self.talkers, self.options
        node = self.chance.randrange(len(self.system.nodes))
        seconds = self.chance.uniform(min(fault.least, options.longest), min(fault.most, options.longest))
        broken = time.monotonic()
        worker.ask(chaos_tasks.chat, seconds=CHAT_SECONDS, rate=options.rate)
        self.system.control(fault.what, fault.how, node)
        time.sleep(seconds)
        self.system.control(fault.what, fault.mend, node)
        lasted = time.monotonic() - broken
        time.sleep(self.chance.uniform(options.rest / 4, options.rest))
        worker.stop()
        self.pool.gather([worker])
        self.rounds.append({"fault": fault.name, "node": node, "begin": broken - begin, "seconds": lasted})

    def _judge(self) -> tuple[Figures, list[str]]:
        """Put both histories into one file, and ask the checker: about all of it, or after each power cut."""
        self.history.close()
        with self.file.open("a", encoding="utf-8") as whole, self.own_file.open(encoding="utf-8") as own:
            shutil.copyfileobj(own, whole)
        if self.options.power:
            cuts = self.system.cut_power(self.file, self.options.power, self.seed)
            return {**cuts.figures}, cuts.notes
        with self.file.open(encoding="utf-8") as lines:
            return judge(lines)


def run(context: RunContext, options: ChaosOptions) -> Figures:
    """Break nodes, network and disk under a chat, and judge it."""
    folder = Path(options.folder) if options.folder else Path(tempfile.mkdtemp(prefix="imserver-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # a database server that runs as the user nobody loads its library from here
    where = "one node, no Redis" if options.alone else f"{options.nodes} nodes"
    title = f"chaos for {options.minutes:g} minutes, {where}, {options.database}"
    if options.power:
        title = f"{options.power} power cuts, {options.database}"
        if options.database != "sqlite":
            raise BenchError("power cuts need SQLite")
        # Their judgement knows the chat alone.
        options = replace(options, alone=True, channels=False, webhook=False, notifications=False)
    try:
        figures, notes = ChaosRun(context, options, folder.resolve()).play()
    finally:
        context.pool.end()
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    context.extra |= {"title": title, "notes": notes}
    return figures
