"""Tasks of the process with the clients of a chaos run: log in, chat, settle, and compare."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.accounts import create_group, register
from bench.chaos_client import LIVE, LOOK_SECONDS, AcknowledgedIds, Client, Clients, Reader
from bench.chaos_objects import Askers, Rivals
from bench.chat_dialects import (
    MARK_BITS,
    CmdDialect,
    Dialect,
    Entry,
    Outgoing,
    ProtobufDialect,
    mark_of,
    text_of,
)
from bench.connections import Target
from bench.generator import Generator
from bench.history import History
from bench.latency import Latency
from bench.loop import BenchError, Json

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
STEP_US = 1000
READERS_AT_ONCE = 8
"""Number of clients that read everything again at the same time, at the end."""


@dataclass
class Comparison:
    """The final comparison: acknowledged but not stored; stored more than once; stored but not delivered to a
    client that may read it; delivered to a client but not stored.
    """

    messages: int = 0
    lost: int = 0
    twice: int = 0
    missing: int = 0
    unknown: int = 0


def compare(reader: Reader, truth: Reader, sender: int, acknowledged: dict[int, int]) -> Comparison:
    """Compare the entries of a client with its stored entries (``truth``, read again from the beginning).

    ``acknowledged``: messages that were acknowledged to this client, whose sender number is ``sender``.
    """
    had, stored, name = reader.messages(), truth.messages(), reader.name
    found = Comparison(messages=len(stored))
    own = Counter(mark for mark in stored.values() if mark >> MARK_BITS == sender)

    def note(kind: str, words: str, count: int = 1) -> None:
        if kind in vars(found):
            setattr(found, kind, getattr(found, kind) + count)
        reader.faults.add(kind, f"{name}{words}")

    for mark, id in acknowledged.items():
        if stored.get(id) != mark:
            note("lost", f": {text_of(mark)}, acknowledged as {id}, is not stored there")
    for mark, count in own.items():
        if count > 1:
            ids = [id for id, each in stored.items() if each == mark]
            note("twice", f": {text_of(mark)} is stored as {ids}", count - 1)
    for id in stored.keys() - had.keys():
        note("missing", f" never received {id}, {text_of(stored[id])}")
    for id in had.keys() - stored.keys():
        note("unknown", f" received {id}, {text_of(had[id])}, which is not stored")
    for id in had.keys() & stored.keys():
        if had[id] != stored[id]:
            note("changed", f": {id} was {text_of(had[id])}, is {text_of(stored[id])}")
    return found


class ChatClients(Clients):
    """The clients of one run and their acknowledged messages. ``names``: their dialects, in turn.

    ``app``: the appID for the accounts in the cmd dialect.
    """

    def __init__(
        self,
        generator: Generator,
        addresses: list[list[Any]],
        app: int,
        names: list[str],
        seed: int,
        history: History | None,
    ) -> None:
        super().__init__(generator.loop, addresses)
        self.app = app
        self.history = history
        self.rivals: Rivals | None = None
        self.askers: Askers | None = None
        self.chance = random.Random(seed)
        self.accounts: list[tuple[int, str]] = generator.state["accounts"]
        self.latency = Latency(STEP_US)
        self.acknowledged = [AcknowledgedIds(self.faults) for _ in self.accounts]
        self.clients = [
            self._client(index, names[index % len(names)], f"client {index + 1}")
            for index in range(len(self.accounts))
        ]
        self.groups: list[tuple[int, list[int]]] = []
        self.conversations: dict[str, list[int]] = {}
        """Conversation → the numbers of its clients, if a history is written."""
        self.sent = self.acked = self.held_back = 0
        self.longest_silence = self._acked_at = 0.0
        self._sent_at: dict[int, int] = {}

    def _client(self, index: int, dialect_name: str, name: str, resumes: bool = True) -> Client:
        account, token = self.accounts[index]
        first_half = index % 4 < 2
        dialect: Dialect = CmdDialect(self.app, account, token, first_half, resumes)
        if dialect_name == "protobuf":  # every second one behaves like a client of GoChat
            dialect = ProtobufDialect(account, token, first_half, first_half and index % 8 < 4)
        client = Client(self, index, dialect, name, self.acknowledged[index], self._note_ack)
        if self.history is not None and resumes:
            client.reader.on_new = partial(self.history.shown, name)
        if index % LAZY == 0:
            client.ack_seconds = LAZY_ACK_SECONDS
        return client

    def _note_ack(self, message: Outgoing, entry: Entry) -> None:
        if self.history is not None:
            self.history.acknowledged(entry._replace(mark=message.mark))
        self.acked += 1
        self._acked_at = time.monotonic()
        self.latency.add((time.monotonic_ns() - self._sent_at.pop(message.mark)) // 1000)

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
            self.held_back += 1
            return
        self.sent += 1
        mark = mark_of(index + 1, self.sent)
        long = self.chance.randrange(100) < LONG_PERCENT
        text = text_of(mark, "." * self.chance.randrange(LONG_BYTES if long else SHORT_BYTES))
        groups = [group for group, members in self.groups if index in members]
        if to_group := bool(groups) and self.chance.randrange(100) < GROUP_PERCENT:
            receiver = self.chance.choice(groups)
        else:
            other = (index + self.chance.randrange(1, len(self.clients))) % len(self.clients)
            receiver = self.accounts[other][0]
            pair = sorted((index + 1, other + 1))
        if self.history is not None:
            where = f"group {receiver}" if to_group else f"clients {pair[0]} and {pair[1]}"
            self.history.sent(client.reader.name, mark, where)
            self.conversations.setdefault(where, self._members(receiver) if to_group else pair)
        self._sent_at[mark] = time.monotonic_ns()
        client.send(Outgoing(mark, receiver, to_group, text))

    def _members(self, group: int) -> list[int]:
        return next([index + 1 for index in members] for id, members in self.groups if id == group)

    def calm(self) -> bool:
        return all(client.phase == LIVE and not client.waiting for client in self.clients) and (
            self.rivals is None or self.rivals.calm()
        )

    def status(self) -> Json:
        return {
            "sent": self.sent,
            "acked": self.acked,
            "faults": dict(self.faults.counts),
            "notes": self.faults.notes,
        }

    def compare(self, truths: list[Reader]) -> dict[str, int]:
        sums: Counter[str] = Counter()
        for index, (client, truth) in enumerate(zip(self.clients, truths, strict=True)):
            sums.update(vars(compare(client.reader, truth, index + 1, self.acknowledged[index].ids)))
        return dict(sums)

    def read_anew(self, seconds: float) -> list[Reader]:
        """End all connections, and read all stored entries of each client from the beginning, as a new
        client.
        """
        truths = []
        for client in self.clients:
            client.leave()
        for first in range(0, len(self.clients), READERS_AT_ONCE):
            indexes = range(first, min(first + READERS_AT_ONCE, len(self.clients)))
            names = [f"what is stored for client {index + 1}" for index in indexes]
            readers = [
                self._client(index, "cmd", name, resumes=False)
                for index, name in zip(indexes, names, strict=True)
            ]
            began = time.monotonic()
            entries: list[list[Entry]] = [[] for _ in readers]
            for each, its_entries in zip(readers, entries, strict=True):
                each.reader.on_new = its_entries.append if self.history is not None else None
            if not self.until(readers, partial(_all_live, readers), seconds):
                raise BenchError("what is stored cannot be read")
            if self.history is not None:
                for each, its_entries in zip(readers, entries, strict=True):
                    self.history.read(each.reader.name, began, its_entries)
            for client in readers:
                client.leave()
            truths += [client.reader for client in readers]
        return truths


def _all_live(clients: list[Client]) -> bool:
    return all(client.phase == LIVE for client in clients)


def meet(
    generator: Generator,
    addresses: list[list[Any]],
    clients: int,
    app: int,
    dialects: list[str],
    seed: int,
    seconds: float,
    history: str = "",
    http_ports: Sequence[int] = (),
    locks: bool = False,
    pace: float = 1.0,
) -> Json:
    """Task: make accounts and groups, and log all clients in. ``history``: the file for the checker, also for
    what is done besides the chat at nodes with ``http_ports``. ``locks`` and ``pace``: see
    :class:`Rivals`."""
    register(generator, clients, seconds)
    recorder = History(Path(history)) if history else None
    chat = ChatClients(generator, addresses, app, dialects, seed, recorder)
    generator.state["chat"] = chat
    members = min(GROUP_MEMBERS, clients)
    for _ in range(-(-clients // members)):
        chosen = chat.chance.sample(range(clients), members)
        chat.groups.append((create_group(generator, chosen, seconds), chosen))
    if not chat.until(chat.clients, chat.calm, seconds):
        live = sum(client.phase == LIVE for client in chat.clients)
        raise BenchError(f"{live} of {clients} clients came online")
    if recorder is not None and http_ports:
        targets = [
            Target(host, ws_port, "/acc", host, http_port)
            for (host, ws_port), http_port in zip(addresses, http_ports, strict=True)
        ]
        chat.rivals = Rivals(chat, recorder, seed, locks, pace)
        chat.askers = Askers(recorder, targets, seed, pace, locks)
    return chat.status()


def chat(generator: Generator, seconds: float, rate: float) -> Json:
    chat: ChatClients = generator.state["chat"]
    chat.chat(seconds, rate)
    return chat.status()


def settle(generator: Generator, seconds: float) -> Json:
    """Task: wait at most so many seconds until everything is acknowledged and delivered."""
    chat: ChatClients = generator.state["chat"]
    if chat.askers is not None:
        chat.askers.stop()
    calm = chat.until(chat.clients, chat.calm, seconds)
    for rivals in [] if chat.rivals is None else [chat.rivals] * RACES:
        if calm:
            rivals.race(rivals.all)
            calm = chat.until(chat.clients, chat.calm, seconds)
    chat.until(chat.clients, lambda: False, QUIET_SECONDS)
    if chat.askers is not None:
        chat.askers.finish()
    return {**chat.status(), "calm": calm}


def audit(generator: Generator, seconds: float) -> Json:
    """Task: compare the entries of all clients with the stored ones."""
    chat: ChatClients = generator.state["chat"]
    counts = {**vars(chat.counts), "repeats": sum(client.reader.repeats for client in chat.clients)}
    if chat.rivals is not None:
        chat.rivals.finish()
    sums = chat.compare(chat.read_anew(seconds))
    if chat.history is not None:
        for conversation, numbers in chat.conversations.items():
            for number in numbers:
                chat.history.followed(chat.clients[number - 1].reader.name, conversation)
        chat.history.close()
    return {
        **chat.status(),
        **counts,
        "held_back": chat.held_back,
        "entries_received": sum(len(client.reader.ids) for client in chat.clients),
        "longest_silence_seconds": chat.longest_silence,
        "ack_latency": chat.latency.pack(),
        "compared": sums,
    }
