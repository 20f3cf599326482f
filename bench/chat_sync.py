"""Coming back to a chat: one member who missed very much, or all members at once, each a little behind."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from bench import chat_members
from bench.chaos_checker import Faults, Promises, Reader, mark_of, text_of
from bench.chaos_client import LIVE, Client, CmdSpeech, Counts, Outgoing, Speech
from bench.chaos_protobuf import ProtobufSpeech
from bench.connections import Target
from bench.figures import Figures
from bench.generator import Generator
from bench.latency import Latency
from bench.loop import BenchError
from bench.stage import Stage

SENDERS = 20
FRIENDS = 5
"""Each member's messages are from so many of them."""
DEPTH = 64
"""Messages of a sender that may wait for their acknowledgement."""
PADDING = "." * 20
WINDOW = 512
"""Logins that are under way at once."""
TURN_SECONDS = 0.02
LOOK_SECONDS = 0.2
FILL_MESSAGES_PER_SECOND = 500
"""The slowest at which what will be missed is stored."""
STEP_US = 1000


class Absence:
    """Members, how far behind they are, and what they are told when they come. Owner of the clients."""

    def __init__(self, generator: Generator, doors: list[list[Any]], dialect: str, members: int) -> None:
        self.loop = generator.loop
        self.generator = generator
        self.doors = [(host, port) for host, port in doors]
        self.dialect = dialect
        self.faults = Faults()
        self.counts = Counts()
        first = random.randrange(10**9, 10**15)  # nobody whom an earlier run has written to
        self.accounts: list[tuple[int, str]] = generator.kept.get("accounts") or [
            (number, "") for number in range(first, first + members + SENDERS)
        ]
        self.members = members

    def client(self, place: int) -> Client:
        """The client of an account; the first are those of the members."""
        account, token = self.accounts[place]
        speech: Speech = CmdSpeech(self.generator.target.app, account, token, acks=False)
        if self.dialect == "protobuf":
            speech = ProtobufSpeech(account, token)
        reader = Reader(f"user {account}", self.faults)
        return Client(self.loop, self.doors, place, speech, reader, Promises(self.faults), self.counts)

    def turn(self, clients: list[Client], seconds: float = LOOK_SECONDS) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.loop.stopped:
            self.loop.turn(min(TURN_SECONDS, left))
        now = time.monotonic()
        for client in clients:
            client.look(now)


def _letters(absence: Absence, sender: int, each: int) -> Iterator[Outgoing]:
    """What one sender writes: their share of the ``each`` messages that every member is to miss."""
    number = 0
    for turn in range(each):
        for member in range(absence.members):
            if (member + turn % FRIENDS) % SENDERS == sender:
                number += 1
                mark = mark_of(absence.members + sender + 1, number)
                receiver = absence.accounts[member][0]
                yield Outgoing(mark, receiver, False, text_of(mark, PADDING))


def prepare(
    generator: Generator, doors: list[list[Any]], dialect: str, members: int, each: int, seconds: float
) -> dict[str, Any]:
    """Task: store ``each`` messages for every one of ``members``, who are not there, in ``seconds``."""
    if dialect == "protobuf":
        chat_members.register(generator, members + SENDERS, seconds)
    absence = generator.kept["absence"] = Absence(generator, doors, dialect, members)
    total, begin = members * each, time.monotonic()
    acked = 0
    senders = [absence.client(members + place) for place in range(SENDERS)]
    queues = [_letters(absence, place, each) for place in range(SENDERS)]
    waiting = set(range(SENDERS))

    def refill(place: int) -> None:
        following = next(queues[place], None)
        if following is None:
            waiting.discard(place)
        else:
            senders[place].send(following)

    def on_acked(place: int, _message: Outgoing) -> None:
        nonlocal acked
        acked += 1
        refill(place)

    for place, client in enumerate(senders):
        client.speech.depth = DEPTH
        client.on_acked = lambda message, place=place: on_acked(place, message)  # type: ignore[misc]
        for _ in range(DEPTH):
            refill(place)
    while acked < total:
        absence.turn(senders)
        generator.progress(acked, total)
        if time.monotonic() > begin + seconds:
            raise BenchError(f"{acked} of {total} messages were stored in {seconds:g} s")
    for client in senders:
        client.wanted = False
        client.drop()
    absence.counts = Counts()
    return {"stored": acked, "seconds": time.monotonic() - begin}


def come(generator: Generator, each: int, seconds: float) -> dict[str, Any]:
    """Task: have all members log in at once, and wait until each has the ``each`` messages they missed."""
    absence: Absence = generator.kept["absence"]
    latency = Latency(STEP_US)
    outside = deque(absence.client(place) for place in range(absence.members))
    coming: dict[Client, float] = {}
    here: list[Client] = []
    begin = looked = now = time.monotonic()
    while (outside or coming) and now < begin + seconds and not generator.loop.stopped:
        while outside and len(coming) < WINDOW:
            client = outside.popleft()
            coming[client] = now
            client.look(now)
        generator.loop.turn(TURN_SECONDS)
        now = time.monotonic()
        for client in [one for one in coming if one.phase == LIVE and len(one.reader.ids) >= each]:
            latency.add(int((now - coming.pop(client)) * 1e6))
            here.append(client)
        if now > looked + LOOK_SECONDS:
            looked = now
            for client in [*coming, *here]:
                client.look(now)
        generator.progress(len(here), absence.members)
    elapsed = now - begin
    told = sum(len(client.reader.ids) for client in (*here, *coming))
    counts = absence.counts
    repeats = sum(client.reader.repeats for client in (*here, *coming))
    for client in (*here, *coming):
        client.wanted = False
        client.drop()
    return {
        "returned": len(here),
        "seconds": elapsed,
        "told": told,
        "repeats": repeats,
        "pages": counts.pages,
        "recovered": counts.recovered,
        "errors": counts.failed_openings + counts.lost_connections + sum(absence.faults.counts.values()),
        "notes": absence.faults.notes,
        "latency": latency.pack(),
    }


def measure(
    stage: Stage, ends: list[Target], dialect: str, members: int, each: int, seconds: float
) -> Figures:
    """Have ``members`` miss ``each`` messages and come back; return how long it took until all had them."""
    (hand,) = stage.hire(1)
    doors = [[end.ws_host, end.ws_port] for end in ends]
    (filled,) = stage.ask(
        [hand],
        prepare,
        doors=doors,
        dialect=dialect,
        members=members,
        each=each,
        seconds=max(60.0, members * each / FILL_MESSAGES_PER_SECOND),
    )
    with stage.measured() as span:
        answers = stage.ask([hand], come, each=each, seconds=seconds)
    span.note(answers)
    (answer,) = answers
    latency = Latency.merged([answer["latency"]])
    return {
        "messages": filled["stored"],
        "stored_per_second": filled["stored"] / filled["seconds"],
        "returned": answer["returned"],
        "missing": members - answer["returned"],
        "seconds": answer["seconds"],
        "told": answer["told"],
        "recovered": answer["recovered"],
        "sync_pages": answer["pages"],
        **span.cost("messages", answer["told"]),
        "login_p50_ms": latency.percentile_ms(50),
        "login_p99_ms": latency.percentile_ms(99),
        "lost": max(0, filled["stored"] - answer["told"]),
        "raw_repeats": answer["repeats"],
        "errors": answer["errors"],
    }
