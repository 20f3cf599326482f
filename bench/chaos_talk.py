"""Tasks of the process that has the clients of a chaos run: they meet, talk, settle, and are compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

from bench import chat_members
from bench.chaos_checker import Faults, Promises, Reader, compare, mark_of, text_of
from bench.chaos_client import LIVE, Client, CmdSpeech, Counts, Outgoing, Speech
from bench.chaos_protobuf import CursorSpeech, ProtobufSpeech
from bench.generator import Generator
from bench.latency import Latency
from bench.loop import BenchError

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


class ChatClients:
    """The clients of one run and what they were promised. ``names`` are the dialects of the clients in turn.

    ``doors``: host and port of each node; ``app``: the appID by which the cmd dialect reaches the accounts.
    """

    def __init__(
        self, generator: Generator, doors: list[tuple[str, int]], app: int, names: list[str], seed: int
    ) -> None:
        self.generator = generator
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
        self.longest_silence = 0.0
        self._acked_at = 0.0
        self._asked: dict[int, int] = {}
        self._looked_at = 0.0

    def _client(self, place: int, dialect: str, reader: Reader, resumes: bool = True) -> Client:
        account, token = self.accounts[place]
        acks = place % 4 < 2
        speech: Speech = CmdSpeech(self.app, account, token, acks, resumes)
        if dialect == "protobuf":
            # Every other one knows no more than the clients of GoChat.
            speech = (
                CursorSpeech(account, token, place % 8 < 4)
                if place % 4 < 2
                else ProtobufSpeech(account, token)
            )
        client = Client(self.loop, self.doors, place, speech, reader, self.promises[place], self.counts)
        client.on_acked = self._note_ack
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
        """Have random clients send ``rate`` messages a second, to each other and to their groups."""
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
        if groups and self.chance.randrange(100) < GROUP_PERCENT:
            message = Outgoing(mark, self.chance.choice(groups), True, text)
        else:
            other = (place + self.chance.randrange(1, len(self.clients))) % len(self.clients)
            message = Outgoing(mark, self.accounts[other][0], False, text)
        self._asked[mark] = time.monotonic_ns()
        client.send(message)

    def calm(self) -> bool:
        return all(client.phase == LIVE and not client.waiting for client in self.clients)

    def status(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "acked": self.acked,
            "live": sum(client.phase == LIVE for client in self.clients),
            "waiting": sum(len(client.waiting) for client in self.clients),
            "faults": dict(self.faults.counts),
            "notes": self.faults.notes,
        }

    def compare(self, truths: list[Reader]) -> dict[str, int]:
        """Compare what each client has with what is stored for it; return the sums."""
        sums: dict[str, int] = {}
        for place, (client, truth) in enumerate(zip(self.clients, truths, strict=True)):
            found = compare(client.reader, truth, place + 1, self.promises[place].ids)
            for name, value in vars(found).items():
                sums[name] = sums.get(name, 0) + value
        return sums

    def read_anew(self, seconds: float) -> list[Reader]:
        """Have everybody leave, and read what is stored for each from the beginning, as somebody new."""
        truths = []
        for client in self.clients:
            client.wanted = False
            client.drop()
        for first in range(0, len(self.clients), CURIOUS):
            places = range(first, min(first + CURIOUS, len(self.clients)))
            readers = [Reader(f"what is stored for client {place + 1}", self.faults) for place in places]
            curious = [
                self._client(place, "cmd", reader, resumes=False)
                for place, reader in zip(places, readers, strict=True)
            ]
            if not self.until(curious, partial(_all_live, curious), seconds):
                raise BenchError("what is stored cannot be read")
            for client in curious:
                client.wanted = False
                client.drop()
            truths += readers
        return truths


def _all_live(clients: list[Client]) -> bool:
    return all(client.phase == LIVE for client in clients)


def _crowd(generator: Generator) -> ChatClients:
    crowd: ChatClients = generator.kept["crowd"]
    return crowd


def meet(
    generator: Generator,
    doors: list[list[Any]],
    clients: int,
    app: int,
    dialects: list[str],
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Task: make accounts and groups, and have everybody log in."""
    chat_members.register(generator, clients, seconds)
    crowd = ChatClients(generator, [(host, port) for host, port in doors], app, dialects, seed)
    generator.kept["crowd"] = crowd
    members = min(GROUP_MEMBERS, clients)
    for _ in range(-(-clients // members)):
        chosen = crowd.chance.sample(range(clients), members)
        ids = [("ids", str(crowd.accounts[place][0])) for place in chosen[1:]]
        form = urlencode([("name", "chaos"), *ids])
        token = f"token: {crowd.accounts[chosen[0]][1]}"
        (made,) = chat_members.post(generator, "/group/create", [form], token)
        crowd.groups.append((int(made["id"]), chosen))
    if not crowd.until(crowd.clients, crowd.calm, seconds):
        raise BenchError(f"{crowd.status()['live']} of {clients} clients came online")
    return crowd.status()


def talk(generator: Generator, seconds: float, rate: float) -> dict[str, Any]:
    """Task: talk for so long."""
    crowd = _crowd(generator)
    crowd.talk(seconds, rate)
    return crowd.status()


def settle(generator: Generator, seconds: float) -> dict[str, Any]:
    """Task: wait until all is acknowledged and told, at most so long."""
    crowd = _crowd(generator)
    calm = crowd.until(crowd.clients, crowd.calm, seconds)
    crowd.until(crowd.clients, lambda: False, QUIET_SECONDS)
    return {**crowd.status(), "calm": calm}


def audit(generator: Generator, seconds: float) -> dict[str, Any]:
    """Task: compare what everybody has with what is stored."""
    crowd = _crowd(generator)
    waiting = sum(len(client.waiting) for client in crowd.clients)
    repeats = sum(client.reader.repeats for client in crowd.clients)
    counts = dict(vars(crowd.counts))
    sums = crowd.compare(crowd.read_anew(seconds))
    return {
        **crowd.status(),
        **counts,
        "waiting": waiting,
        "repeats": repeats,
        "held_back": crowd.held_back,
        "told": sum(len(client.reader.ids) for client in crowd.clients),
        "longest_silence_seconds": crowd.longest_silence,
        "ack_latency": crowd.latency.pack(),
        "compared": sums,
    }
