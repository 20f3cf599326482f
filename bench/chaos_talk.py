"""Tasks of the process that has the clients of a chaos run: they meet, talk, settle, and are compared."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.accounts import create_group, register
from bench.chaos_client import (
    LIVE,
    MARK_BITS,
    Client,
    CmdSpeech,
    Counts,
    Faults,
    Outgoing,
    Promises,
    ProtobufSpeech,
    Reader,
    Speech,
    mark_of,
    text_of,
)
from bench.generator import Generator
from bench.latency import Latency
from bench.loop import BenchError, Json

GROUP_MEMBERS = 8
GROUP_PERCENT = 40
MOST_WAITING = 16
"""A client with so many messages that are not acknowledged sends nothing new."""
LONG_PERCENT, LONG_BYTES, SHORT_BYTES = 1, 20_000, 60
LAZY, LAZY_ACK_SECONDS = 8, 14.0
"""Every eighth client acknowledges so late that it is told some things again."""
LOOK_SECONDS = 0.02
QUIET_SECONDS = 3.0
"""A node without news looks each second for what it was not told; so much later nothing more can come."""
STEP_US = 1000
CURIOUS = 8
"""Clients that read everything anew at the same time, at the end."""


@dataclass
class Comparison:
    """What was compared at the end: acknowledged and not stored; stored more than once; stored, and not told
    to a client that may read it; told to a client, and not stored."""

    messages: int = 0
    lost: int = 0
    twice: int = 0
    missing: int = 0
    unknown: int = 0


def compare(reader: Reader, truth: Reader, sender: int, promises: dict[int, int]) -> Comparison:
    """Compare what a client has with what is stored for it (``truth``, read anew from the beginning).

    ``promises``: what was acknowledged to this client, who sends as ``sender``.
    """
    had, stored, name = reader.messages(), truth.messages(), reader.name
    found = Comparison(messages=len(stored))
    own = Counter(mark for mark in stored.values() if mark >> MARK_BITS == sender)

    def note(kind: str, words: str, count: int = 1) -> None:
        if kind in vars(found):
            setattr(found, kind, getattr(found, kind) + count)
        reader.faults.add(kind, f"{name}{words}")

    for mark, id in promises.items():
        if stored.get(id) != mark:
            note("lost", f": {text_of(mark)}, acknowledged as {id}, is not stored there")
    for mark, count in own.items():
        if count > 1:
            ids = [id for id, each in stored.items() if each == mark]
            note("twice", f": {text_of(mark)} is stored as {ids}", count - 1)
    for id in stored.keys() - had.keys():
        note("missing", f" was never told {id}, {text_of(stored[id])}")
    for id in had.keys() - stored.keys():
        note("unknown", f" was told {id}, {text_of(had[id])}, which is not stored")
    for id in had.keys() & stored.keys():
        if had[id] != stored[id]:
            note("changed", f": {id} was {text_of(had[id])}, is {text_of(stored[id])}")
    return found


class ChatClients:
    """The clients of one run and what they were promised. ``names`` are the dialects of the clients in turn.

    ``doors``: host and port of each node; ``app``: the appID by which the cmd dialect reaches the accounts.
    """

    def __init__(
        self, generator: Generator, doors: list[tuple[str, int]], app: int, names: list[str], seed: int
    ) -> None:
        self.loop = generator.loop
        self.doors = doors
        self.app = app
        self.chance = random.Random(seed)
        self.accounts: list[tuple[int, str]] = generator.kept["accounts"]
        self.faults = Faults()
        self.counts = Counts()
        self.latency = Latency(STEP_US)
        self.promises = [Promises(self.faults) for _ in self.accounts]
        self.clients = [
            self._client(place, names[place % len(names)], Reader(f"client {place + 1}", self.faults))
            for place in range(len(self.accounts))
        ]
        self.groups: list[tuple[int, list[int]]] = []
        self.sent = self.acked = self.held_back = 0
        self.longest_silence = self._acked_at = self._looked_at = 0.0
        self._asked: dict[int, int] = {}

    def _client(self, place: int, dialect: str, reader: Reader, resumes: bool = True) -> Client:
        account, token = self.accounts[place]
        first_half = place % 4 < 2
        speech: Speech = CmdSpeech(self.app, account, token, first_half, resumes)
        if dialect == "protobuf":  # every other one knows no more than the clients of GoChat
            speech = ProtobufSpeech(account, token, first_half, first_half and place % 8 < 4)
        promises = self.promises[place]
        client = Client(self.loop, self.doors, place, speech, reader, promises, self.counts, self._note_ack)
        if place % LAZY == 0:
            client.ack_seconds = LAZY_ACK_SECONDS
        return client

    def _note_ack(self, message: Outgoing) -> None:
        self.acked += 1
        self._acked_at = time.monotonic()
        self.latency.add((time.monotonic_ns() - self._asked.pop(message.mark)) // 1000)

    def turn(self, clients: list[Client], seconds: float) -> float:
        """Let pass at most ``seconds``; return the time."""
        self.loop.turn(seconds)
        now = time.monotonic()
        if now >= self._looked_at + LOOK_SECONDS:
            self._looked_at = now
            for client in clients:
                client.look(now)
        self.longest_silence = max(self.longest_silence, now - self._acked_at) if self._acked_at else 0.0
        return now

    def until(self, clients: list[Client], condition: Callable[[], bool], seconds: float) -> bool:
        """Let the clients live until ``condition()``; False when it is not so within ``seconds``."""
        end = time.monotonic() + seconds
        while not condition():
            if self.turn(clients, LOOK_SECONDS) > end or self.loop.stopped:
                return False
        return True

    def talk(self, seconds: float, rate: float) -> None:
        begin = now = self._acked_at = time.monotonic()
        sent = 0
        while now < begin + seconds and not self.loop.stopped:
            while sent < (now - begin) * rate:
                sent += 1
                self._say()
            now = self.turn(self.clients, min(LOOK_SECONDS, 1 / rate))

    def _say(self) -> None:
        place = self.chance.randrange(len(self.clients))
        client = self.clients[place]
        if len(client.waiting) >= MOST_WAITING:
            self.held_back += 1
            return
        self.sent += 1
        mark = mark_of(place + 1, self.sent)
        long = self.chance.randrange(100) < LONG_PERCENT
        text = text_of(mark, "." * self.chance.randrange(LONG_BYTES if long else SHORT_BYTES))
        groups = [group for group, members in self.groups if place in members]
        if to_group := bool(groups) and self.chance.randrange(100) < GROUP_PERCENT:
            receiver = self.chance.choice(groups)
        else:
            other = (place + self.chance.randrange(1, len(self.clients))) % len(self.clients)
            receiver = self.accounts[other][0]
        self._asked[mark] = time.monotonic_ns()
        client.send(Outgoing(mark, receiver, to_group, text))

    def calm(self) -> bool:
        return all(client.phase == LIVE and not client.waiting for client in self.clients)

    def status(self) -> Json:
        return {
            "sent": self.sent,
            "acked": self.acked,
            "faults": dict(self.faults.counts),
            "notes": self.faults.notes,
        }

    def compare(self, truths: list[Reader]) -> dict[str, int]:
        sums: Counter[str] = Counter()
        for place, (client, truth) in enumerate(zip(self.clients, truths, strict=True)):
            sums.update(vars(compare(client.reader, truth, place + 1, self.promises[place].ids)))
        return dict(sums)

    def read_anew(self, seconds: float) -> list[Reader]:
        """Have everybody leave, and read what is stored for each from the beginning, as somebody new."""
        truths = []
        for client in self.clients:
            client.leave()
        for first in range(0, len(self.clients), CURIOUS):
            places = range(first, min(first + CURIOUS, len(self.clients)))
            readers = [Reader(f"what is stored for client {place + 1}", self.faults) for place in places]
            pairs = zip(places, readers, strict=True)
            curious = [self._client(place, "cmd", reader, resumes=False) for place, reader in pairs]
            if not self.until(curious, partial(_all_live, curious), seconds):
                raise BenchError("what is stored cannot be read")
            for client in curious:
                client.leave()
            truths += readers
        return truths


def _all_live(clients: list[Client]) -> bool:
    return all(client.phase == LIVE for client in clients)


def meet(
    generator: Generator,
    doors: list[list[Any]],
    clients: int,
    app: int,
    dialects: list[str],
    seed: int,
    seconds: float,
) -> Json:
    """Task: make accounts and groups, and have everybody log in."""
    register(generator, clients, seconds)
    crowd = ChatClients(generator, [(host, port) for host, port in doors], app, dialects, seed)
    generator.kept["crowd"] = crowd
    members = min(GROUP_MEMBERS, clients)
    for _ in range(-(-clients // members)):
        chosen = crowd.chance.sample(range(clients), members)
        crowd.groups.append((create_group(generator, chosen), chosen))
    if not crowd.until(crowd.clients, crowd.calm, seconds):
        live = sum(client.phase == LIVE for client in crowd.clients)
        raise BenchError(f"{live} of {clients} clients came online")
    return crowd.status()


def talk(generator: Generator, seconds: float, rate: float) -> Json:
    crowd: ChatClients = generator.kept["crowd"]
    crowd.talk(seconds, rate)
    return crowd.status()


def settle(generator: Generator, seconds: float) -> Json:
    """Task: wait until all is acknowledged and told, at most so long."""
    crowd: ChatClients = generator.kept["crowd"]
    calm = crowd.until(crowd.clients, crowd.calm, seconds)
    crowd.until(crowd.clients, lambda: False, QUIET_SECONDS)
    return {**crowd.status(), "calm": calm}


def audit(generator: Generator, seconds: float) -> Json:
    """Task: compare what everybody has with what is stored."""
    crowd: ChatClients = generator.kept["crowd"]
    counts = {**vars(crowd.counts), "repeats": sum(client.reader.repeats for client in crowd.clients)}
    sums = crowd.compare(crowd.read_anew(seconds))
    return {
        **crowd.status(),
        **counts,
        "held_back": crowd.held_back,
        "told": sum(len(client.reader.ids) for client in crowd.clients),
        "longest_silence_seconds": crowd.longest_silence,
        "ack_latency": crowd.latency.pack(),
        "compared": sums,
    }
