"""``imserver bench chaos``: clients chat while nodes, Redis, database, network and disk fail in turn; or the
power is cut (:mod:`bench.power_runs`). All write what they did and saw into a history, which the checker
judges.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from bench import channel_dialects, chaos_channels, chaos_tasks
from bench.asks import AskThread
from bench.chaos_notifications import AbsentUsers
from bench.chaos_tasks import AUDIT_SECONDS, CMD_APP, DIALECTS, EVENT_APP, MEET_SECONDS, SETTLE_SECONDS
from bench.context import RunContext, parameter, text_parameter
from bench.events import log_of
from bench.faults import FAULTS, Fault, System, chosen
from bench.figures import Figures
from bench.generator import aim
from bench.history import FIRST_OF_DRIVER, History, judge
from bench.latency import Latency
from bench.loop import Json
from bench.power_runs import TRAFFIC
from bench.servers import NodeProcess
from bench.workers import WorkerPool

CHANNEL_APP: Final = "channels"
EVENT_SECONDS: Final = 90.0
"""For the last events after everything has settled: a lease may have to end first."""
_CHANNEL_CONFIG: Final = f"""\
api: {{{{keys: [{{{{key: {chaos_channels.KEY}, scopes: [push, read]}}}}]}}}}
apps:
  {CHANNEL_APP}:
    open: true
    pusher: {{{{app_id: "1", key: {channel_dialects.PUSHER_KEY}, secret: a-secret-of-this-run-alone}}}}
    channels:
      live: {{{{subscribe: anybody, history_size: 5000, history_seconds: 600}}}}
      short: {{{{subscribe: anybody, history_size: 20, history_seconds: 600}}}}
      stored: {{{{subscribe: anybody, history: log}}}}
"""
LEAD_SECONDS: Final = 1.0
"""Chat without faults before the first fault."""
CHAT_SECONDS: Final = 600.0
"""Time limit of a fault with its repair."""
_MOST_NOTES: Final = 20
_HARMLESS: Final = ("node", "database", "receiver", "disk")
"""What can break while nodes reach Redis and each other, or end."""


@dataclass(frozen=True)
class ChaosOptions:
    minutes: float = parameter(30.0, "How long; each fault at least once.", least=0.05, most=24 * 60)
    nodes: int = parameter(2, "Nodes of the cluster.", most=16)
    clients: int = parameter(24, "Clients, spread over the nodes.", least=2, most=1000)
    rate: float = parameter(50.0, "Messages a second, of all clients together.", least=0.1, most=5000)
    power: int = parameter(
        0,
        "No faults: record all writes, and cut the power so often, offline. One node.",
        least=0,
        most=1_000_000,
    )
    of: str = text_parameter("messages", "With --power, what was acknowledged: messages or uploads.", TRAFFIC)
    database: str = text_parameter("sqlite", "sqlite, postgresql, mysql; or a URL, which is not broken.")
    dialect: str = text_parameter("both", "What the clients speak.", DIALECTS)
    faults: str = text_parameter("", f"Only these, separated by commas: {', '.join(FAULTS)} [default: all].")
    longest: float = parameter(15.0, "Longest a fault lasts, in seconds.", least=0, most=300)
    rest: float = parameter(4.0, "Longest pause between two faults, in seconds.", least=0, most=300)
    seed: int = parameter(0, "The same number, the same faults; 0: any.", least=0, most=2**31)
    channels: bool = parameter(False, "Publish to channels with history, in place of stored messages.")
    resubscriptions: int = parameter(
        0,
        "With --channels: no faults, only channels that recover; subscribers subscribe again so often, "
        "within --minutes, at other nodes than the one where back ends publish.",
        least=0,
        most=10_000_000,
    )
    alone: bool = parameter(False, "One node without a Redis.")
    webhook: bool = parameter(False, "Judge the events of a webhook, too, and break its receiver.")
    notifications: bool = parameter(False, "Judge the notifications of absent users, too.")
    questions: bool = parameter(
        False, "Judge questions, too: two devices answer each of them at once, at two nodes."
    )
    folder: str = text_parameter("", "Where logs and data are to stay [default: nowhere].")
    history: str = text_parameter(
        "", "A file for what clients asked, were answered and were shown [default: nowhere]."
    )


class ChaosRun:
    """One run. Owner of the chatting worker; :meth:`play` returns its report, JSON-ready."""

    tasks: ModuleType = chaos_tasks
    config = chaos_tasks.CONFIG
    faults = ""
    """The usual faults (none: all)."""

    def __init__(
        self, pool: WorkerPool, options: ChaosOptions, folder: Path, show_phase: Callable[[str], None]
    ) -> None:
        self.pool = pool
        self.options = options
        self.show_phase = show_phase
        self.seed = options.seed or random.randrange(1, 2**31)
        self.chance = random.Random(self.seed)
        show_phase("everything starts")
        self.absent = AbsentUsers() if options.notifications else None
        self.system = System(
            pool,
            1 if options.alone else options.nodes,
            self.config,
            options.database,
            folder,
            options.webhook,
            options.alone,
            options.faults,
        )
        (self.talkers,) = pool.start_workers(1)
        self.rounds: list[Json] = []
        """Each fault that was played."""
        self.skipped: list[str] = []
        """The names of faults that are not possible here."""
        self.file = Path(options.history) if options.history else folder / "history.jsonl"
        """The history of the clients; at the end also that of this process."""
        self.own_file = folder / "own.jsonl"
        self.history = History(self.own_file, FIRST_OF_DRIVER)

    def play(self) -> tuple[Figures, Json]:
        options, worker, nodes = self.options, self.talkers, self.system.nodes
        self.pool.ask(worker, aim, target=asdict(nodes[0].target), index=worker.index)
        seed = self.chance.randrange(2**31)
        self.pool.ask(worker, self.tasks.meet, seed=seed, seconds=MEET_SECONDS, **self._clients())
        if self.absent is not None:
            self.absent.targets = [node.target for node in nodes]
            self.absent.start()
        asking = AskThread([node.target for node in nodes], self.history) if options.questions else None
        if asking is not None:
            asking.start()
        begin = time.monotonic()
        self.pool.ask(worker, self.tasks.chat, seconds=LEAD_SECONDS, rate=options.rate)
        self._play_rounds(begin)
        if self.absent is not None:
            self.absent.stop()
        figures: Figures = {}
        if asking is not None:
            self.show_phase("the last questions are answered")
            figures["asks"] = asking.stop()
        self.show_phase("everything settles")
        settled = self.pool.ask(worker, self.tasks.settle, seconds=SETTLE_SECONDS)
        self.show_phase("what is stored is read")
        audit = self.pool.ask(worker, self.tasks.audit, seconds=AUDIT_SECONDS)
        figures = self._figures(audit, time.monotonic() - begin) | figures
        figures |= self._events()
        if self.absent is not None:
            self.show_phase("absent users are notified")
            figures |= self.absent.figures(self.history)
        self.show_phase("the history is judged")
        judged, broken = self._judge()
        return figures | judged, self._notes(settled, audit) | {"broken": broken}

    def _clients(self) -> Json:
        """The facts about the clients for the worker."""
        options = self.options
        return {
            "addresses": _addresses(self.system.nodes),
            "clients": options.clients,
            "app": CMD_APP,
            "dialects": DIALECTS[options.dialect],
            "history": str(self.file.resolve()),
            "http_ports": [node.target.http_port for node in self.system.nodes],
            "locks": self._has_locks(),
        }

    def _has_locks(self) -> bool:
        """Whether sessions that refuse others exclude each other at any time. While nodes reach neither Redis
        nor each other, each lets its own users in."""
        names = [name.strip() for name in self.options.faults.split(",") if name.strip() in FAULTS]
        return self.options.alone or (bool(names) and all(FAULTS[name].what in _HARMLESS for name in names))

    def _play_rounds(self, begin: float) -> None:
        """Cause one fault after the other, each at least once."""
        options = self.options
        end = begin + options.minutes * 60
        possible, self.skipped = chosen(options.faults or self.faults, self.system)
        while time.monotonic() < end or len(self.rounds) < len(possible):
            if len(self.rounds) % len(possible) == 0:
                self.chance.shuffle(possible)
            fault = possible[len(self.rounds) % len(possible)]
            self.show_phase(f"fault {len(self.rounds) + 1}: {fault.name}")
            self._play_round(fault, begin)

    def _play_round(self, fault: Fault, begin: float) -> None:
        """Cause a fault during the chat, and repair it."""
        worker, options = self.talkers, self.options
        node = self.chance.randrange(len(self.system.nodes))
        seconds = self.chance.uniform(min(fault.least, options.longest), min(fault.most, options.longest))
        broken = time.monotonic()
        worker.ask(self.tasks.chat, seconds=CHAT_SECONDS, rate=options.rate)
        self.system.control(fault.what, fault.how, node)
        time.sleep(seconds)
        self.system.control(fault.what, fault.mend, node)
        lasted = time.monotonic() - broken
        time.sleep(self.chance.uniform(options.rest / 4, options.rest))
        worker.stop()
        self.pool.gather([worker])
        self.rounds.append({"fault": fault.name, "node": node, "begin": broken - begin, "seconds": lasted})

    def _events(self) -> Figures:
        """Wait for the last events, and write down which came."""
        receiver, target = self.system.receiver, self.system.nodes[0].target
        if receiver is None:
            return {}
        self.show_phase("the last events arrive")
        deadline = time.monotonic() + EVENT_SECONDS
        while not receiver.has_all(log_of(target, EVENT_APP)) and time.monotonic() < deadline:
            time.sleep(1.0)
        receiver.close()
        receiver.note(self.history, log_of(target, EVENT_APP))
        return {"events": len(receiver.seen), "events_repeated": receiver.repeats}

    def _judge(self) -> tuple[Figures, list[str]]:
        """Put both histories into one file, and ask the checker."""
        self.history.close()
        with self.file.open("a", encoding="utf-8") as whole, self.own_file.open(encoding="utf-8") as own:
            shutil.copyfileobj(own, whole)
        with self.file.open(encoding="utf-8") as lines:
            return judge(lines)

    def _figures(self, audit: Json, seconds: float) -> Figures:
        played = Counter(each["fault"] for each in self.rounds)
        return {
            "chaos_seconds": seconds,
            "chaos_faults": len(self.rounds),
            **{f"chaos_{name}_count": played[name] for name in FAULTS if played[name]},
            **self._counted(audit),
            "acknowledged": audit["acked"],
            "unacknowledged": audit["sent"] - audit["acked"],
            "errors": sum(audit["faults"].values()),
            "resends": audit["resends"],
            "logins": audit["connections"],
            "lost_connections": audit["lost_connections"],
            "silence_seconds": audit["longest_silence_seconds"],
            "tracebacks": len(self.system.tracebacks()),
        }

    def _counted(self, audit: Json) -> Figures:
        """The figures of stored messages."""
        return {
            "messages": audit["sent"],
            "entries_received": audit["entries_received"],
            "raw_repeats": audit["repeats"],
            "not_stored": audit["not_stored"],
            "recovered": audit["recovered"],
            **Latency.merged([audit["ack_latency"]]).figures("ack_", maximum=False),
        }

    def _notes(self, settled: Json, audit: Json) -> Json:
        return {
            "seed": self.seed,
            "calm": settled["calm"],
            "found": audit["notes"],
            "rounds": self.rounds,
            "skipped": self.skipped,
            "tracebacks": self.system.tracebacks()[:_MOST_NOTES],
        }


class ChannelChaosRun(ChaosRun):
    """A run with channels: :mod:`bench.chaos_channels`."""

    tasks = chaos_channels
    config = _CHANNEL_CONFIG
    faults = "kill,restart,pause,redis,flush,cut,hold"

    def _clients(self) -> Json:
        nodes = self.system.nodes
        hurried = self.options.resubscriptions > 0
        publishing = nodes[:1] if hurried else nodes
        return {
            "addresses": _addresses((hurried and nodes[1:]) or nodes),
            "clients": self.options.clients,
            "app": CHANNEL_APP,
            "http_ports": [node.target.http_port for node in publishing],
            "history": str(self.file.resolve()),
            "hurried": hurried,
        }

    def _play_rounds(self, begin: float) -> None:
        options = self.options
        if not options.resubscriptions:
            super()._play_rounds(begin)
            return
        self.show_phase(f"{options.resubscriptions} resubscriptions")
        self.pool.ask(
            self.talkers,
            chaos_channels.chat,
            seconds=options.minutes * 60,
            rate=options.rate,
            resubscriptions=options.resubscriptions,
        )

    def _counted(self, audit: Json) -> Figures:
        names = ("received", "resubscriptions", "reloads", "recoveries")
        return {"publications": audit["sent"], **{name: audit[name] for name in names}}


def _addresses(nodes: Sequence[NodeProcess]) -> list[list[Any]]:
    return [[node.target.ws_host, node.target.ws_port] for node in nodes]


def run(context: RunContext, options: ChaosOptions) -> Figures:
    """Break nodes, network and disk under a chat, and judge it."""
    folder = Path(options.folder) if options.folder else Path(tempfile.mkdtemp(prefix="imserver-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # a database server that runs as the user nobody loads its library from here
    where = "one node, no Redis" if options.alone else f"{options.nodes} nodes"
    what = f"channels, {options.database}" if options.channels else options.database
    title = f"chaos for {options.minutes:g} minutes, {where}, {what}"
    if options.power:
        title = f"{options.power} power cuts, {options.database if options.of == 'messages' else options.of}"
    kind = TRAFFIC[options.of] if options.power else ChannelChaosRun if options.channels else ChaosRun
    try:
        figures, notes = kind(context.pool, options, folder.resolve(), context.show_phase).play()
    finally:
        context.pool.end()
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    context.extra |= {"title": title, "notes": notes}
    return figures
