"""``imserver bench chaos``: clients chat while nodes, Redis, database, network
and disk fail in turn; or the power is cut (:mod:`bench.power`). All write what
they did and saw into a history, which the checker judges. A process of its own
has the clients: they log in, chat, settle, and read what is stored.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import chaos_channels, chaos_loads, chaos_objects
from bench.chaos_channels import ChannelClients
from bench.chaos_client import (
    LIVE,
    LOOK_SECONDS,
    Client,
    Clients,
    create_group,
    register,
)
from bench.chaos_loads import AbsentUsers
from bench.chaos_objects import Askers, Rivals
from bench.chat_dialects import (
    CmdDialect,
    Dialect,
    Entry,
    Outgoing,
    ProtobufDialect,
    mark_of,
    text_of,
)
from bench.connections import Target
from bench.context import RunContext
from bench.faults import FAULTS, ChaosOptions, Fault, System, chosen
from bench.figures import Figures
from bench.generator import Generator, aim
from bench.history import FIRST_OF_DRIVER, History, judge
from bench.loop import BenchError, Json
from bench.report import show_phase

CMD_APP: Final = 105
"""The appID by which the cmd dialect reaches the accounts of the protobuf
dialect."""
_CONFIG: Final = f"""\
{chaos_loads.CONFIG}\
{chaos_objects.CONFIG}\
  {chaos_loads.EVENT_APP}: {{{{login_policy: ""{{}}}}}}
  "{CMD_APP}": {{{{same_as: {chaos_loads.EVENT_APP}}}}}
"""
"""Of a node; ``{{}}`` is the webhook."""
MEET_SECONDS: Final = 300.0
SETTLE_SECONDS: Final = 60.0
AUDIT_SECONDS: Final = 300.0
GROUP_MEMBERS = 8
GROUP_PERCENT = 40
MOST_WAITING = 16  # unacknowledged messages at which a client sends no new one
LONG_PERCENT = 1
LONG_BYTES = 20_000
SHORT_BYTES = 60
LAZY = 8
LAZY_ACK_SECONDS = 14.0
"""Every eighth client acknowledges so late that some entries are sent again."""
QUIET_SECONDS = 3.0
"""A node without news checks each second for missed entries. After this time
nothing more can arrive."""
# so often all devices of each user log in at once, when nothing is broken any
# more
RACES = 8
READERS_AT_ONCE = 8  # clients that read everything again at the same time, at the end


class ChatClients(Clients):
    """The clients of one run, half of them of the protobuf dialect. ``history``: a file for what they do and
    see, also for what is done besides the chat at nodes with ``http_ports``. ``locks`` and ``pace``: see
    :class:`Rivals`; ``pushes``: no node that ends forgets their ids, so they are claimed, too.
    """

    def __init__(
        self,
        generator: Generator,
        addresses: list[list[Any]],
        clients: int,
        seed: int,
        history: str,
        http_ports: Sequence[int] = (),
        locks: bool = False,
        pace: float = 1.0,
        pushes: bool = True,
    ) -> None:
        super().__init__(generator.loop, addresses)
        register(generator, clients, MEET_SECONDS)
        self.history = History(Path(history))
        self.rivals: Rivals | None = None
        self.askers: Askers | None = None
        self.chance = random.Random(seed)
        self.accounts: list[tuple[int, str]] = generator.state["accounts"]
        self.clients = [self._client(index) for index in range(clients)]
        self.groups: list[tuple[int, list[int]]] = []
        self.conversations: dict[str, list[int]] = {}
        """Conversation → the numbers of its clients."""
        self.sent = self.acked = 0
        self.longest_silence = self._acked_at = 0.0
        members = min(GROUP_MEMBERS, clients)
        for _ in range(-(-clients // members)):
            chosen = self.chance.sample(range(clients), members)
            self.groups.append((create_group(generator, chosen, MEET_SECONDS), chosen))
        self.meet(self.calm)
        if http_ports:
            targets = [
                Target(host, ws_port, "/acc", host, http_port)
                for (host, ws_port), http_port in zip(
                    addresses, http_ports, strict=True
                )
            ]
            self.rivals = Rivals(self, self.history, seed, locks, pace)
            self.askers = Askers(self.history, targets, seed, pace, locks and pushes)

    def _client(self, index: int) -> Client:
        account, token = self.accounts[index]
        first_half = index % 4 < 2
        dialect: Dialect = CmdDialect(CMD_APP, account, token, first_half)
        if index % 2:  # every second one of these behaves like a client of GoChat
            dialect = ProtobufDialect(
                account, token, first_half, first_half and index % 8 < 4
            )
        name = f"client {index + 1}"
        client = Client(
            self,
            index,
            dialect,
            name,
            self._note_ack,
            partial(self.history.shown, name),
        )
        if index % LAZY == 0:
            client.ack_seconds = LAZY_ACK_SECONDS
        return client

    def _note_ack(self, message: Outgoing, entry: Entry) -> None:
        self.history.acknowledged(entry._replace(mark=message.mark))
        self.acked += 1
        self._acked_at = time.monotonic()

    def turn(self, clients: Iterable[Client], seconds: float) -> float:
        rivals = self.rivals
        return super().turn(
            clients if rivals is None else [*clients, *rivals.all], seconds
        )

    def chat(self, seconds: float, rate: float) -> None:
        begin = time.monotonic()
        now = begin
        self._acked_at = begin
        sent = 0
        while now < begin + seconds and not self.loop.stopped:
            while sent < (now - begin) * rate:
                sent += 1
                self._say()
            now = self.turn(self.clients, min(LOOK_SECONDS, 1 / rate))
            self.longest_silence = max(self.longest_silence, now - self._acked_at)
            if self.rivals is not None:
                self.rivals.look(now)

    def _say(self) -> None:
        index = self.chance.randrange(len(self.clients))
        client = self.clients[index]
        if len(client.waiting) >= MOST_WAITING:
            return
        self.sent += 1
        mark = mark_of(index + 1, self.sent)
        long = self.chance.randrange(100) < LONG_PERCENT
        text = text_of(
            mark, "." * self.chance.randrange(LONG_BYTES if long else SHORT_BYTES)
        )
        groups = [group for group in self.groups if index in group[1]]
        to_group = bool(groups) and self.chance.randrange(100) < GROUP_PERCENT
        if to_group:
            receiver, members = self.chance.choice(groups)
            where = f"group {receiver}"
        else:
            other = (index + self.chance.randrange(1, len(self.clients))) % len(
                self.clients
            )
            receiver = self.accounts[other][0]
            members = sorted((index, other))
            where = f"clients {members[0] + 1} and {members[1] + 1}"
        self.history.sent(client.reader.name, mark, where)
        self.conversations.setdefault(where, members)
        client.send(Outgoing(mark, receiver, to_group, text))

    def calm(self) -> bool:
        return all(
            client.phase == LIVE and not client.waiting for client in self.clients
        ) and (self.rivals is None or self.rivals.calm())

    def settle(self, seconds: float) -> bool:
        """Let everything come to rest. Return whether it did within
        ``seconds``."""
        if self.askers is not None:
            self.askers.stop()
        calm = self.until(self.clients, self.calm, seconds)
        for rivals in [] if self.rivals is None else [self.rivals] * RACES:
            if calm:
                rivals.race(rivals.all)
                calm = self.until(self.clients, self.calm, seconds)
        self.until(self.clients, lambda: False, QUIET_SECONDS)
        if self.askers is not None:
            self.askers.finish()
        return calm

    def audit(self, seconds: float) -> Json:
        """Read what is stored, and end the history. Return the figures."""
        counts = vars(self.counts).copy()
        if self.rivals is not None:
            self.rivals.finish()
        self._read_anew(seconds)
        for conversation, members in self.conversations.items():
            for index in members:
                self.history.followed(self.clients[index].reader.name, conversation)
        self.history.close()
        return {
            "messages": self.sent,
            "acknowledged": self.acked,
            "unacknowledged": self.sent - self.acked,
            "raw_repeats": sum(client.reader.repeats for client in self.clients),
            "entries_received": sum(len(client.reader.ids) for client in self.clients),
            "silence_seconds": self.longest_silence,
            **{
                name: counts[name]
                for name in ("not_stored", "recovered", "resends", "lost_connections")
            },
            "logins": counts["connections"],
        }

    def _read_anew(self, seconds: float) -> None:
        """End all connections, and read all stored entries of each client from
        the beginning, as a new client.
        """
        for client in self.clients:
            client.leave()
        for first in range(0, len(self.clients), READERS_AT_ONCE):
            began = time.monotonic()
            entries: list[list[Entry]] = []
            readers: list[Client] = []
            for index in range(first, min(first + READERS_AT_ONCE, len(self.clients))):
                entries.append([])
                dialect = CmdDialect(
                    CMD_APP, *self.accounts[index], acks=False, resumes=False
                )
                name = f"what is stored for client {index + 1}"
                readers.append(
                    Client(self, index, dialect, name, on_new=entries[-1].append)
                )
            self.meet(partial(self.all_live, readers), seconds, readers)
            for client, its_entries in zip(readers, entries, strict=True):
                self.history.read(client.reader.name, began, its_entries)
                client.leave()


_KINDS: Final[dict[str, Any]] = {"messages": ChatClients, "channels": ChannelClients}


def meet(
    generator: Generator, kind: str, seconds: float = MEET_SECONDS, **facts: Any
) -> Json:
    """Task: let the clients of a kind of run come online."""
    generator.state["clients"] = _KINDS[kind](generator, **facts)
    return {}


def chat(generator: Generator, seconds: float, **how: Any) -> Json:
    """Task: let the clients do what they do for so many seconds."""
    generator.state["clients"].chat(seconds, **how)
    return {}


def settle(generator: Generator, seconds: float) -> Json:
    """Task: wait at most so many seconds until everything is acknowledged and
    delivered."""
    return {"calm": generator.state["clients"].settle(seconds)}


def audit(generator: Generator, seconds: float) -> Json:
    """Task: end the history. Returns the figures of the clients, and what was
    wrong."""
    clients = generator.state["clients"]
    figures = clients.audit(seconds)
    return {
        "figures": {**figures, "errors": clients.faults.counts.total()},
        "faults": dict(clients.faults.counts),
        "notes": clients.faults.notes,
    }


CONFIGS: Final = {"messages": _CONFIG, "channels": chaos_channels.CONFIG}
# if no others are named
CHANNEL_FAULTS: Final = "kill,restart,pause,redis,flush,cut,hold"
LEAD_SECONDS: Final = 1.0  # without faults, before the first fault
CHAT_SECONDS: Final = 600.0  # limit of a fault with its repair
_MOST_NOTES: Final = 20
_HARMLESS: Final = ("node", "database", "receiver", "disk")
"""What can break while nodes reach Redis and each other, or end."""


class ChaosRun:
    """One run. Owner of the chatting worker; :meth:`play` returns its report,
    JSON-ready."""

    def __init__(
        self, context: RunContext, options: ChaosOptions, folder: Path
    ) -> None:
        self.pool = context.pool
        self.options = options
        self.folder = folder
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
        if options.history:
            self.file = Path(options.history)
        else:
            self.file = folder / "history.jsonl"
        """The history of the clients; at the end also that of this process."""
        self.own_file = folder / "own.jsonl"
        self.history = History(self.own_file, FIRST_OF_DRIVER)
        targets = [node.target for node in self.system.nodes]
        self.absent = (
            AbsentUsers(targets, self.history) if options.notifications else None
        )

    def play(self) -> tuple[Figures, Json]:
        options = self.options
        worker = self.talkers
        self.pool.ask(
            worker, aim, target=asdict(self.system.nodes[0].target), index=worker.index
        )
        self.pool.ask(worker, meet, seconds=MEET_SECONDS, **self._clients())
        if self.absent:
            self.absent.start()
        begin = time.monotonic()
        if options.power:
            show_phase("clients are at work")
            self.pool.ask(worker, chat, seconds=options.minutes * 60, rate=options.rate)
        else:
            self.pool.ask(worker, chat, seconds=LEAD_SECONDS, rate=options.rate)
            self._play_rounds(begin)
        show_phase("everything settles")
        if self.absent:
            self.absent.is_over.set()
        settled = self.pool.ask(worker, settle, seconds=SETTLE_SECONDS)
        show_phase("what is stored is read")
        audited = self.pool.ask(worker, audit, seconds=AUDIT_SECONDS)
        played = Counter(each["fault"] for each in self.rounds)
        figures: Figures = {
            "chaos_seconds": time.monotonic() - begin,
            "chaos_faults": len(self.rounds),
            **{f"chaos_{name}_count": played[name] for name in FAULTS if played[name]},
            **audited["figures"],
        }
        if self.system.receiver:
            show_phase("the last events")
            figures |= self.system.receiver.finish(
                self.system.nodes[0].target, self.history
            )
        if self.absent:
            show_phase("the last notifications")
            figures |= self.absent.finish()
        tracebacks = self.system.tracebacks()
        show_phase("the history is judged")
        judged, broken = self._judge()
        notes = {
            "seed": self.seed,
            "calm": settled["calm"],
            "found": audited["notes"],
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
            "http_ports": []
            if self.options.power
            else [target.http_port for target in targets],
            "clients": self.options.clients,
            "seed": self.chance.randrange(2**31),
            "history": str(self.file.resolve()),
        }
        locks = {"locks": self._has_locks(), "pushes": not self.options.alone}
        if self.options.channels:
            return facts
        return facts | locks

    def _has_locks(self) -> bool:
        """Whether sessions that refuse others exclude each other at any time.
        While nodes reach neither Redis nor each other, each lets its own users
        in."""
        names = [
            name.strip()
            for name in self.options.faults.split(",")
            if name.strip() in FAULTS
        ]
        return self.options.alone or (
            bool(names) and all(FAULTS[name].what in _HARMLESS for name in names)
        )

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
        worker = self.talkers
        options = self.options
        node = self.chance.randrange(len(self.system.nodes))
        seconds = self.chance.uniform(
            min(fault.least, options.longest), min(fault.most, options.longest)
        )
        broken = time.monotonic()
        worker.ask(chat, seconds=CHAT_SECONDS, rate=options.rate)
        self.system.control(fault.what, fault.how, node)
        time.sleep(seconds)
        self.system.control(fault.what, fault.mend, node)
        lasted = time.monotonic() - broken
        time.sleep(self.chance.uniform(options.rest / 4, options.rest))
        worker.stop()
        self.pool.gather([worker])
        self.rounds.append(
            {
                "fault": fault.name,
                "node": node,
                "begin": broken - begin,
                "seconds": lasted,
            }
        )

    def _judge(self) -> tuple[Figures, list[str]]:
        """Put both histories into one file, and ask the checker: about all of
        it, or after each power cut."""
        self.history.close()
        with (
            self.file.open("a", encoding="utf-8") as whole,
            self.own_file.open(encoding="utf-8") as own,
        ):
            shutil.copyfileobj(own, whole)
        if self.options.power:
            cuts = self.system.cut_power(self.file, self.options.power, self.seed)
            return {**cuts.figures}, cuts.notes
        with self.file.open(encoding="utf-8") as lines:
            return judge(lines)


def run(context: RunContext, options: ChaosOptions) -> Figures:
    """Break nodes, network and disk under a chat, and judge it."""
    if options.folder:
        folder = Path(options.folder)
    else:
        folder = Path(tempfile.mkdtemp(prefix="imserver-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    # a database server that runs as the user nobody loads its library from here
    folder.chmod(0o755)
    if options.alone:
        where = "one node, no Redis"
    else:
        where = f"{options.nodes} nodes"
    title = f"chaos for {options.minutes:g} minutes, {where}, {options.database}"
    if options.power:
        title = f"{options.power} power cuts, {options.database}"
        if options.database != "sqlite":
            raise BenchError("power cuts need SQLite")
        # Their judgement knows the chat alone.
        options = replace(
            options, alone=True, channels=False, webhook=False, notifications=False
        )
    try:
        figures, notes = ChaosRun(context, options, folder.resolve()).play()
    finally:
        context.pool.end()
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    context.extra |= {"title": title, "notes": notes}
    return figures
