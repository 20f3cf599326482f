"""Tasks of the process with the clients of a chaos run: log in, chat, settle, and read what is stored."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import chaos_loads, chaos_objects
from bench.chaos_channels import ChannelClients
from bench.chaos_client import LIVE, LOOK_SECONDS, Client, Clients, create_group, register
from bench.chaos_objects import Askers, Rivals
from bench.chat_dialects import CmdDialect, Dialect, Entry, Outgoing, ProtobufDialect, mark_of, text_of
from bench.connections import Target
from bench.generator import Generator
from bench.history import History
from bench.loop import Json

CMD_APP: Final = 105
"""The appID by which the cmd dialect reaches the accounts of the protobuf dialect."""
CONFIG: Final = f"""\
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
MOST_WAITING = 16
"""Number of unacknowledged messages at which a client sends no new one."""
LONG_PERCENT, LONG_BYTES, SHORT_BYTES = 1, 20_000, 60
LAZY, LAZY_ACK_SECONDS = 8, 14.0
"""Every eighth client acknowledges so late that some entries are sent again."""
QUIET_SECONDS = 3.0
"""A node without news checks each second for missed entries. After this time nothing more can arrive."""
RACES = 8
"""So often all devices of each user log in at once, when nothing is broken any more."""
READERS_AT_ONCE = 8
"""Number of clients that read everything again at the same time, at the end."""


class ChatClients(Clients):
    """The clients of one run, half of them of the protobuf dialect. ``history``: a file for what they do and
    see, also for what is done besides the chat at nodes with ``http_ports``. ``locks`` and ``pace``: see
    :class:`Rivals`.
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
                for (host, ws_port), http_port in zip(addresses, http_ports, strict=True)
            ]
            self.rivals = Rivals(self, self.history, seed, locks, pace)
            self.askers = Askers(self.history, targets, seed, pace, locks)

    def _client(self, index: int) -> Client:
        account, token = self.accounts[index]
        first_half = index % 4 < 2
        dialect: Dialect = CmdDialect(CMD_APP, account, token, first_half)
        if index % 2:  # every second one of these behaves like a client of GoChat
            dialect = ProtobufDialect(account, token, first_half, first_half and index % 8 < 4)
        name = f"client {index + 1}"
        client = Client(self, index, dialect, name, self._note_ack, partial(self.history.shown, name))
        if index % LAZY == 0:
            client.ack_seconds = LAZY_ACK_SECONDS
        return client

    def _note_ack(self, message: Outgoing, entry: Entry) -> None:
        self.history.acknowledged(entry._replace(mark=message.mark))
        self.acked += 1
        self._acked_at = time.monotonic()

    def turn(self, clients: Iterable[Client], seconds: float) -> float:
        rivals = self.rivals
        now = super().turn(clients if rivals is None else [*clients, *rivals.all], seconds)
        self.longest_silence = max(self.longest_silence, now - self._acked_at) if self._acked_at else 0.0
        return now

    def chat(self, seconds: float, rate: float) -> None:
        begin = now = self._acked_at = time.monotonic()
        sent = 0
        while now < begin + seconds and not self.loop.stopped:
            while sent < (now - begin) * rate:
                sent += 1
                self._say()
            now = self.turn(self.clients, min(LOOK_SECONDS, 1 / rate))
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
        text = text_of(mark, "." * self.chance.randrange(LONG_BYTES if long else SHORT_BYTES))
        groups = [group for group in self.groups if index in group[1]]
        if to_group := bool(groups) and self.chance.randrange(100) < GROUP_PERCENT:
            receiver, members = self.chance.choice(groups)
            where = f"group {receiver}"
        else:
            other = (index + self.chance.randrange(1, len(self.clients))) % len(self.clients)
            receiver, members = self.accounts[other][0], sorted((index, other))
            where = f"clients {members[0] + 1} and {members[1] + 1}"
        self.history.sent(client.reader.name, mark, where)
        self.conversations.setdefault(where, members)
        client.send(Outgoing(mark, receiver, to_group, text))

    def calm(self) -> bool:
        return all(client.phase == LIVE and not client.waiting for client in self.clients) and (
            self.rivals is None or self.rivals.calm()
        )

    def settle(self, seconds: float) -> bool:
        """Let everything come to rest. Return whether it did within ``seconds``."""
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
        repeats = sum(client.reader.repeats for client in self.clients)
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
            "raw_repeats": repeats,
            "entries_received": sum(len(client.reader.ids) for client in self.clients),
            "silence_seconds": self.longest_silence,
            **{name: counts[name] for name in ("not_stored", "recovered", "resends", "lost_connections")},
            "logins": counts["connections"],
        }

    def _read_anew(self, seconds: float) -> None:
        """End all connections, and read all stored entries of each client from the beginning, as a new
        client.
        """
        for client in self.clients:
            client.leave()
        for first in range(0, len(self.clients), READERS_AT_ONCE):
            began = time.monotonic()
            entries: list[list[Entry]] = []
            readers: list[Client] = []
            for index in range(first, min(first + READERS_AT_ONCE, len(self.clients))):
                entries.append([])
                dialect = CmdDialect(CMD_APP, *self.accounts[index], acks=False, resumes=False)
                name = f"what is stored for client {index + 1}"
                readers.append(Client(self, index, dialect, name, on_new=entries[-1].append))
            self.meet(partial(self.all_live, readers), seconds, readers)
            for client, its_entries in zip(readers, entries, strict=True):
                self.history.read(client.reader.name, began, its_entries)
                client.leave()


KINDS: Final[dict[str, Any]] = {"messages": ChatClients, "channels": ChannelClients}


def meet(generator: Generator, kind: str, seconds: float = MEET_SECONDS, **facts: Any) -> Json:
    """Task: let the clients of a kind of run come online."""
    generator.state["clients"] = KINDS[kind](generator, **facts)
    return {}


def chat(generator: Generator, seconds: float, **how: Any) -> Json:
    """Task: let the clients do what they do for so many seconds."""
    generator.state["clients"].chat(seconds, **how)
    return {}


def settle(generator: Generator, seconds: float) -> Json:
    """Task: wait at most so many seconds until everything is acknowledged and delivered."""
    return {"calm": generator.state["clients"].settle(seconds)}


def audit(generator: Generator, seconds: float) -> Json:
    """Task: end the history. Returns the figures of the clients, and what was wrong."""
    clients = generator.state["clients"]
    figures = clients.audit(seconds)
    return {
        "figures": {**figures, "errors": clients.faults.counts.total()},
        "faults": dict(clients.faults.counts),
        "notes": clients.faults.notes,
    }
