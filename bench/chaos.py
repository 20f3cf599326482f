"""``imserver bench chaos``: clients chat while nodes, Redis, database, network and disk fail in turn.

The checks: no acknowledged message is lost or stored twice, and every client, dropping repeats by their ids,
receives each conversation without gaps, repeats or changes of order.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from bench import channel_dialects, chaos_channels, chaos_notifications, chaos_objects, chaos_tasks, power
from bench.asks import AskThread
from bench.chaos_notifications import AbsentUsers
from bench.context import RunContext, parameter, text_parameter
from bench.events import EventReceiver
from bench.faults import FAULTS, Fault, System, chosen
from bench.figures import Figures
from bench.generator import aim
from bench.latency import Latency
from bench.loop import Json
from bench.power_runs import REDIS_LOSES_SECONDS, TRAFFIC, PowerTraffic
from bench.servers import ENGINES, NodeProcess
from bench.workers import WorkerPool
from checker.cli import check
from checker.history import read

CMD_APP: Final = 105
"""The appID by which the cmd dialect reaches the accounts of the protobuf dialect."""
EVENT_APP: Final = "gochat"
ASK_APP: Final = "108"
ASKERS: Final = 2
ASK_PAUSE_SECONDS: Final = 0.5
"""Between two questions of one of them."""
CHANNEL_APP: Final = "channels"
EVENT_SECONDS: Final = 90.0
"""For the last events after everything has settled: a lease may have to end first."""
_CONFIG: Final = f"""\
{chaos_notifications.CONFIG}\
{chaos_objects.CONFIG}\
  {EVENT_APP}: {{{{login_policy: ""{{}}}}}}
  "{CMD_APP}": {{{{same_as: {EVENT_APP}}}}}
  "{ASK_APP}": {{{{open: true, login_policy: multi}}}}
"""
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
LEAD_SECONDS = 1.0
"""Chat without faults before the first fault."""
MEET_SECONDS = 300.0
SETTLE_SECONDS = 60.0
AUDIT_SECONDS = 300.0
CHAT_SECONDS = 600.0
"""Time limit of a fault with its repair."""
DIALECTS = {"both": ["cmd", "protobuf"], "cmd": ["cmd"], "protobuf": ["protobuf"]}
_MOST_NOTES = 20
_HARMLESS = ("node", "database", "receiver", "disk")
"""What can break while nodes reach Redis and each other, or end."""
_FINDINGS = ("lost", "twice", "holes", "inversions", "missing", "unknown", "changed", "anew")
#: Kind of finding → figure.
KINDS = {**{kind: f"chaos_{kind}" for kind in _FINDINGS}, "refused": "refused", "unreadable": "errors"}


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
    of: str = text_parameter(
        "messages",
        "With --power, what was acknowledged: messages; uploads; histories of channels in Redis; an outbox.",
        ("messages", *TRAFFIC),
    )
    appendfsync: str = text_parameter("always", "With --of histories: of Redis.", REDIS_LOSES_SECONDS)
    database: str = text_parameter("sqlite", "sqlite, postgresql, mysql; or a URL, which is not broken.")
    dialect: str = text_parameter("both", "What the clients speak.", DIALECTS)
    faults: str = text_parameter("", f"Only these, separated by commas: {', '.join(FAULTS)} [default: all].")
    longest: float = parameter(15.0, "Longest a fault lasts, in seconds.", least=0, most=300)
    rest: float = parameter(4.0, "Longest pause between two faults, in seconds.", least=0, most=300)
    seed: int = parameter(0, "The same number, the same faults; 0: any.", least=0, most=2**31)
    channels: bool = parameter(False, "Check channels with history, in place of stored messages.")
    resubscriptions: int = parameter(
        0,
        "With --channels: no faults, only channels that recover; subscribers subscribe again so often, "
        "within --minutes, at other nodes than the one where back ends publish.",
        least=0,
        most=10_000_000,
    )
    alone: bool = parameter(False, "One node without a Redis.")
    webhook: bool = parameter(False, "Check the events of a webhook, too, and break its receiver.")
    notifications: bool = parameter(False, "Check the notifications of absent users, too.")
    questions: bool = parameter(
        False, "Check questions, too: two devices answer each of them at once, at two nodes."
    )
    stall: str = text_parameter("", "Library for slow fsync [default: from tests/faults/slow_fsync.c].")
    folder: str = text_parameter("", "Where logs and data are to stay [default: nowhere].")
    history: str = text_parameter(
        "",
        "A file for what clients asked, were answered and were shown, which is judged at the end "
        "[default: nowhere].",
    )


class ChaosRun:
    """One run. Owner of the chatting worker; :meth:`play` returns its report, JSON-ready."""

    tasks: ModuleType = chaos_tasks
    config = _CONFIG
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
        nodes = 1 if options.alone else options.nodes
        config, variables = self.config, dict[str, str]()
        self.absent: AbsentUsers | None = None
        if options.notifications:
            self.absent = AbsentUsers()
            config, variables = self.absent.settings(config, folder)
        self.system = System(
            pool,
            nodes,
            config,
            options.database,
            folder,
            options.stall,
            options.webhook,
            options.alone,
            options.faults,
            variables,
        )
        (self.talkers,) = pool.start_workers(1)
        self.rounds: list[Json] = []
        """Each fault that was played, and what the judge had found when it was over."""
        self.skipped: list[str] = []
        """The names of faults that are not possible here."""
        self._seen: Counter[str] = Counter()
        self._history = Path(options.history) if options.history else folder / "history.jsonl"

    def play(self) -> tuple[Figures, Json]:
        options, worker = self.options, self.talkers
        self.pool.ask(worker, aim, target=asdict(self.system.nodes[0].target), index=worker.index)
        seed = self.chance.randrange(2**31)
        self.pool.ask(worker, self.tasks.meet, seed=seed, seconds=MEET_SECONDS, **self._clients())
        absent = self.absent
        if absent is not None:
            absent.targets = [node.target for node in self.system.nodes]
            absent.start()
        asking: AskThread | None = None
        if options.questions:
            targets = [node.target for node in self.system.nodes]
            asking = AskThread(targets, ASK_APP, ASKERS, ASK_PAUSE_SECONDS)
            asking.start()
        begin = time.monotonic()
        self.pool.ask(worker, self.tasks.chat, seconds=LEAD_SECONDS, rate=options.rate)
        self._play_rounds(begin)
        if absent is not None:
            absent.stop()
        self.show_phase("the last questions are answered")
        answered = Figures() if asking is None else asking.stop()
        self.show_phase("everything settles")
        settled = self.pool.ask(worker, self.tasks.settle, seconds=SETTLE_SECONDS)
        self.show_phase("what is stored is compared with what was received")
        audit = self.pool.ask(worker, self.tasks.audit, seconds=AUDIT_SECONDS)
        figures = self._figures(audit, time.monotonic() - begin) | answered
        if self.system.receiver is not None:
            self.show_phase("the events are compared with what is stored")
            figures |= self._event_figures(self.system.receiver)
        if absent is not None:
            self.show_phase("absent users are notified")
            figures |= absent.figures()
        notes = self._notes(settled, audit)
        if absent is not None:
            notes["not_notified"] = absent.missing
        if self._history.exists():
            self.show_phase("the history is judged")
            judgement, notes["broken"] = judge(self._history)
            figures |= judgement
        return figures, notes

    def _clients(self) -> Json:
        """The facts about the clients for the worker."""
        options = self.options
        return {
            "addresses": _addresses(self.system.nodes),
            "clients": options.clients,
            "app": CMD_APP,
            "dialects": DIALECTS[options.dialect],
            "history": str(self._history.resolve()),
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

    def _event_figures(self, receiver: EventReceiver) -> Figures:
        """Wait for the last events; how many came, twice, in the wrong order, or never."""
        deadline = time.monotonic() + EVENT_SECONDS
        while (
            missing := receiver.missing(self.system.nodes[0].target, EVENT_APP)
        ) and time.monotonic() < deadline:
            time.sleep(1.0)
        receiver.close()
        return {
            "events": len(receiver.seen),
            "events_repeated": receiver.repeats,
            "events_lost": missing,
            "events_inverted": receiver.inversions,
        }

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
        status = self.pool.gather([worker])[0]
        found = Counter[str](status["faults"])
        played = {"fault": fault.name, "node": node, "begin": broken - begin, "seconds": lasted}
        self.rounds.append({**played, "found": dict(found - self._seen)})
        self._seen = found

    def _figures(self, audit: Json, seconds: float) -> Figures:
        played = Counter(each["fault"] for each in self.rounds)
        return {
            "chaos_seconds": seconds,
            "chaos_faults": len(self.rounds),
            **{f"chaos_{name}_count": played[name] for name in FAULTS if played[name]},
            **self._compared(audit, Counter(audit["faults"])),
            "acknowledged": audit["acked"],
            "unacknowledged": audit["sent"] - audit["acked"],
            "resends": audit["resends"],
            "logins": audit["connections"],
            "lost_connections": audit["lost_connections"],
            "silence_seconds": audit["longest_silence_seconds"],
            "tracebacks": len(self.system.tracebacks()),
        }

    def _compared(self, audit: Json, found: Counter[str]) -> Figures:
        """The figures of stored messages; ``found``: faults by their kind."""
        return {
            "messages": audit["sent"],
            "entries_received": audit["entries_received"],
            **{figure: found[kind] for kind, figure in KINDS.items()},
            "raw_repeats": audit["repeats"],
            "not_stored": audit["not_stored"],
            "recovered": audit["recovered"],
            **Latency.merged([audit["ack_latency"]]).figures("ack_", maximum=False),
        }

    def _notes(self, settled: Json, audit: Json) -> Json:
        return {
            "seed": self.seed,
            "calm": settled["calm"],
            **{name: audit[name] for name in ("compared", "held_back", "severed", "ended") if name in audit},
            "found": audit["notes"],
            "rounds": self.rounds,
            "skipped": self.skipped,
            "tracebacks": self.system.tracebacks()[:_MOST_NOTES],
        }


def judge(file: Path) -> tuple[Figures, list[str]]:
    """What the checker says of a history: figures, and the first rules that were broken."""
    with file.open(encoding="utf-8") as lines:
        history = read(lines)
    broken = check(history)
    texts = [f"{each.rule}: {each.object}: {each.text}" for each in broken[:_MOST_NOTES]]
    return {"judged": len(history.operations), "chaos_broken": len(broken)}, texts


class ChannelChaosRun(ChaosRun):
    """A run that checks channels: :mod:`bench.chaos_channels`."""

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

    def _compared(self, audit: Json, found: Counter[str]) -> Figures:
        return {
            "publications": audit["sent"],
            "received": audit["received"],
            "missed_pusher": audit["missed"],
            "lost": found["lost"] + found["holes"],
            "doubled": found["twice"],
            "disordered": found["inversions"],
            "chaos_changed": found["changed"],
            "errors": found["unreadable"] + found["refused"],
            "resubscriptions": audit["resubscriptions"],
            "reloads": audit["reloads"],
            "recoveries": audit["recoveries"],
        }


class PowerRun:
    """A chat on one node whose writes are recorded, and the power cuts that are made of it."""

    def __init__(
        self, pool: WorkerPool, options: ChaosOptions, folder: Path, show_phase: Callable[[str], None]
    ) -> None:
        self.pool, self.options, self.folder, self.show_phase = pool, options, folder, show_phase
        self.seed = options.seed or random.randrange(1, 2**31)

    def play(self) -> tuple[Figures, Json]:
        options, folder = self.options, self.folder
        database = None if options.database == "sqlite" else ENGINES[options.database]({})
        root = folder / "data" if database is None else database.data
        if database is None:
            root.mkdir()
        else:
            database.prepare()
        disk = power.Disk(root, journal=database is not None)
        disk.load()
        preload, recording = power.recorder(folder, root)
        history = folder / "history.jsonl"
        if database is not None:
            database.environment = preload
            self.pool.start(database)
            database.create()
            preload = {"IMSERVER_STORAGE_URL": database.url}
        self._chat(preload, history)
        read: Callable[[Path], power.StoredMessages] = power.read_sqlite
        if database is not None:
            database.control("kill")
            read = partial(power.read_server, options.database)
        self.show_phase("the power is cut")
        acks, state = power.acknowledged(history), folder / "state"
        tally = power.cut_all(disk, recording, acks, options.power, self.seed, state, read, self.show_phase)
        return power.figures(tally), {"seed": self.seed, "faults": tally.notes}

    def _chat(self, environment: dict[str, str], history: Path) -> None:
        """Let clients chat for the time that the options say. Everything is acknowledged at the end."""
        options = self.options
        config = self.folder / "config.yaml"
        config.write_text(_CONFIG.format(""), encoding="utf-8")
        node = self.pool.start(
            NodeProcess(
                arguments=["--config", str(config)],
                environment=environment,
                data_directory=str(self.folder / "data"),
                folder=str(self.folder / "node"),
            )
        )
        (worker,) = self.pool.start_workers(1)
        self.pool.ask(worker, aim, target=asdict(node.target), index=worker.index)
        self.pool.ask(
            worker,
            chaos_tasks.meet,
            seed=self.seed,
            seconds=MEET_SECONDS,
            addresses=_addresses([node]),
            clients=options.clients,
            app=CMD_APP,
            dialects=DIALECTS[options.dialect],
            history=str(history),
        )
        self.show_phase("clients chat")
        self.pool.ask(worker, chaos_tasks.chat, seconds=options.minutes * 60, rate=options.rate)
        self.pool.ask(worker, chaos_tasks.settle, seconds=SETTLE_SECONDS)
        self.pool.ask(worker, chaos_tasks.audit, seconds=AUDIT_SECONDS)
        node.control("kill")


def _addresses(nodes: Sequence[NodeProcess]) -> list[list[Any]]:
    return [[node.target.ws_host, node.target.ws_port] for node in nodes]


def run(context: RunContext, options: ChaosOptions) -> Figures:
    """Break nodes, network and disk under a chat, count losses."""
    folder = Path(options.folder) if options.folder else Path(tempfile.mkdtemp(prefix="imserver-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # a database server that runs as the user nobody loads its library from here
    where = "one node, no Redis" if options.alone else f"{options.nodes} nodes"
    what = f"channels, {options.database}" if options.channels else options.database
    title = f"chaos for {options.minutes:g} minutes, {where}, {what}"
    if options.power:
        title = f"{options.power} power cuts, {options.database if options.of == 'messages' else options.of}"
    kinds: dict[str, type[ChaosRun] | type[PowerRun] | type[PowerTraffic]] = {"messages": PowerRun, **TRAFFIC}
    kind = kinds[options.of] if options.power else ChannelChaosRun if options.channels else ChaosRun
    try:
        figures, notes = kind(context.pool, options, folder.resolve(), context.show_phase).play()
    finally:
        context.pool.end()
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    context.extra |= {"title": title, "notes": notes}
    return figures
