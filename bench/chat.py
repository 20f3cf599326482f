"""Scenario ``chat``: stored messages in a group, or in pairs, each one counted; and coming back to them."""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.accounts import create_group, register
from bench.chaos_client import (
    LIVE,
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
from bench.chat_tally import ChatTally
from bench.cluster import Nodes
from bench.connections import Target
from bench.crew import Hand
from bench.figures import Figures
from bench.generator import Generator, settle
from bench.latency import Latency, stamp_us
from bench.loop import BenchError, Json
from bench.protobuf import GROUP, LOGGED_IN, PATH, SINGLE, Writer, login_frame
from bench.push import LAST_FRAMES_SECONDS, MOST_MESSAGES, new_tag
from bench.stage import Stage, parameter, seconds_parameter, shares, text_parameter

NAME = "imserver.db"
FSYNCS = 20


@dataclass(frozen=True)
class StoredRows:
    """Messages in the log, bytes of the database, and places missing in the order of any conversation."""

    rows: int
    size: int
    holes: int


def look(folder: str) -> StoredRows | None:
    """Count what is stored in the data folder ``folder``; None where there is no such file."""
    path = Path(folder) / NAME if folder else None
    if path is None or not path.exists():
        return None
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
        (rows,) = database.execute("SELECT count(*) FROM message").fetchone()
        (holes,) = database.execute(
            "SELECT coalesce(sum(last - first + 1 - found + doubles), 0) FROM (SELECT min(seq) AS first,"
            " max(seq) AS last, count(DISTINCT seq) AS found, count(*) - count(DISTINCT seq) AS doubles"
            " FROM message GROUP BY log, conversation)"
        ).fetchone()
    return StoredRows(rows, pages * page_bytes, holes)


def fsync_ms(folder: str) -> float | None:
    """Return what an fsync of a small append takes in ``folder`` (the median); None where it is not known."""
    if not folder:
        return None
    path = Path(folder) / "fsync-probe"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        times = []
        for _ in range(FSYNCS):
            os.write(file, bytes(4096))
            begin = time.monotonic_ns()
            os.fsync(file)
            times.append((time.monotonic_ns() - begin) / 1e6)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(times)


PADDING = b"." * 10
#: A server may hold back what is new until a client that has just logged in has had time to ask for more.
HELD_SECONDS = 1.0
DIALECTS = ("cmd", "protobuf")


class Talk:
    """The messages of one run: who sends the next one, over which connection."""

    def __init__(self, generator: Generator, tally: ChatTally, tag: str, group: int) -> None:
        accounts = generator.kept["accounts"]
        sent_ms = int(time.time() * 1000)
        self.tally = tally
        self.tag = tag.encode()
        self.peers = peers = tally.receivers
        partners = {peer.number: peers[place ^ 1].number for place, peer in enumerate(peers) if not group}
        self.partner = partners or None
        kind = GROUP if group else SINGLE
        self.writers = [
            Writer(kind, group or accounts[partners[peer.number]][0], accounts[peer.number][0], sent_ms)
            for peer in peers
        ]
        self.sent = self.unsent = 0

    def send(self, place: int) -> None:
        peer = self.peers[place]
        sender = self.tally.senders[peer.number]
        number, self.sent = self.sent, self.sent + 1
        content = b"%b%07d%010d%b" % (self.tag, number, stamp_us(), PADDING)
        frame = self.writers[place].frame(sender.acked + len(sender.waiting) + 1, content)
        sender.waiting.append((number, time.monotonic_ns()))
        try:
            if peer.sock.send(frame) < len(frame):
                raise BlockingIOError
        except OSError:
            self.unsent += 1

    @property
    def outstanding(self) -> int:
        """Messages that are not acknowledged, and pushes that have not come."""
        each = 1 if self.partner else len(self.peers) - 1
        return self.sent - self.tally.acked + self.sent * each - self.tally.received


def chat(generator: Generator, tag: str, seconds: float, rate: float, group: int) -> Json:
    """Task: have the connections of this process talk in ``group`` (0: in pairs); count what they get.

    They send ``rate`` messages a second, evenly spread, or (0) each as fast as it is acknowledged.
    """
    loop, tally = generator.loop, ChatTally(generator.swarm, tag, shared=bool(group))
    talk = Talk(generator, tally, tag, group)
    senders = [tally.senders[peer.number] for peer in talk.peers]
    begin = time.monotonic()
    end, total = begin + seconds, min(int(seconds * rate + 0.5), MOST_MESSAGES)
    while (talk.sent < total if rate else time.monotonic() < end) and not loop.stopped:
        if not rate:
            for place, sender in enumerate(senders):
                if not sender.waiting and talk.sent < MOST_MESSAGES:
                    talk.send(place)
            loop.turn(0.1)
        elif (left := begin + talk.sent / rate - time.monotonic()) <= 0:
            talk.send(talk.sent % len(senders))
            continue
        else:
            loop.turn(left)
        generator.passed(begin, end)
    during, sending = tally.acked, time.monotonic() - begin
    last_news = time.monotonic()
    while talk.outstanding > 0 and not loop.stopped:
        if loop.turn(0.1):
            last_news = time.monotonic()
        elif time.monotonic() > last_news + LAST_FRAMES_SECONDS:
            break
    elapsed = tally.last_ns / 1e9 - begin
    generator.swarm.settle(0.3, 5)  # whatever comes twice, comes late
    tally.release()
    return {
        "sent": talk.sent,
        "unsent": talk.unsent,
        "during": during,
        "sending_seconds": sending,
        "seconds": max(elapsed, 1e-6),
        "verdict": tally.verdict(talk.partner).pack(),
        **tally.figures(),
        "dropped": generator.swarm.facts()["lost"],
    }


def make_group(generator: Generator, count: int) -> Json:
    return {"group": create_group(generator, list(range(count)))}


def open_chat(generator: Generator, first: int, count: int, host: str, port: int) -> Json:
    """Task: log ``count`` accounts in at one node, from account ``first`` on."""
    accounts, swarm = generator.kept["accounts"], generator.swarm
    swarm.target = replace(generator.target, ws_host=host, ws_port=port)
    opening = swarm.open(
        range(first, first + count),
        lambda number: login_frame(accounts[number][1]),
        window=64,
        progress=generator.progress,
        path=PATH,
        answer=LOGGED_IN,
    )
    if opening.opened < count:
        raise BenchError(f"{opening.opened} of {count} connections opened: {opening.errors}")
    return opening.pack()


SENDERS = 20
FRIENDS = 5
"""Each member's messages are from so many of them."""
DEPTH = 64
"""Messages of a sender that may wait for their acknowledgement."""
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

    def client(self, place: int, on_acked: Callable[[Outgoing], None] = lambda message: None) -> Client:
        """The client of an account; the first are those of the members."""
        account, token = self.accounts[place]
        speech: Speech = CmdSpeech(self.generator.target.app, account, token, acks=False)
        if self.dialect == "protobuf":
            speech = ProtobufSpeech(account, token)
        reader, promises = Reader(f"user {account}", self.faults), Promises(self.faults)
        return Client(self.loop, self.doors, place, speech, reader, promises, self.counts, on_acked)

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
                yield Outgoing(mark, receiver, False, text_of(mark, "." * 20))


def prepare(
    generator: Generator, doors: list[list[Any]], dialect: str, members: int, each: int, seconds: float
) -> Json:
    """Task: store ``each`` messages for every one of ``members``, who are not there, in ``seconds``."""
    if dialect == "protobuf":
        register(generator, members + SENDERS, seconds)
    absence = generator.kept["absence"] = Absence(generator, doors, dialect, members)
    total, begin = members * each, time.monotonic()
    acked = 0
    senders: list[Client] = []

    def refill(place: int, letters: Iterator[Outgoing]) -> None:
        if (following := next(letters, None)) is not None:
            senders[place].send(following)

    def on_acked(place: int, letters: Iterator[Outgoing], _message: Outgoing) -> None:
        nonlocal acked
        acked += 1
        refill(place, letters)

    for place in range(SENDERS):
        letters = _letters(absence, place, each)
        senders.append(absence.client(members + place, partial(on_acked, place, letters)))
        senders[place].speech.depth = DEPTH
        for _ in range(DEPTH):
            refill(place, letters)
    while acked < total:
        absence.turn(senders)
        generator.progress(acked, total)
        if time.monotonic() > begin + seconds:
            raise BenchError(f"{acked} of {total} messages were stored in {seconds:g} s")
    for client in senders:
        client.leave()
    absence.counts = Counts()
    return {"stored": acked, "seconds": time.monotonic() - begin}


def come(generator: Generator, each: int, seconds: float) -> Json:
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
    clients, counts = [*here, *coming], absence.counts
    for client in clients:
        client.leave()
    return {
        "returned": len(here),
        "seconds": now - begin,
        "told": sum(len(client.reader.ids) for client in clients),
        "repeats": sum(client.reader.repeats for client in clients),
        "pages": counts.pages,
        "recovered": counts.recovered,
        "errors": counts.failed_openings + counts.lost_connections + sum(absence.faults.counts.values()),
        "notes": absence.faults.notes,
        "latency": latency.pack(),
    }


def measure_sync(
    stage: Stage, ends: list[Target], dialect: str, members: int, each: int, seconds: float
) -> Figures:
    """Have ``members`` miss ``each`` messages and come back; return how long it took until all had them."""
    (hand,) = stage.hire(1)
    doors = [[end.ws_host, end.ws_port] for end in ends]
    who = {"doors": doors, "dialect": dialect, "members": members, "each": each}
    fill_seconds = max(60.0, members * each / FILL_MESSAGES_PER_SECOND)
    filled = stage.ask([hand], prepare, seconds=fill_seconds, **who)[0]
    with stage.measured() as span:
        answer = stage.ask([hand], come, each=each, seconds=seconds)[0]
    span.note([answer])
    return {
        "messages": filled["stored"],
        "stored_per_second": filled["stored"] / filled["seconds"],
        "returned": answer["returned"],
        "missing": members - answer["returned"],
        "seconds": answer["seconds"],
        "told": answer["told"],
        "recovered": answer["recovered"],
        "sync_pages": answer["pages"],
        **span.cost(answer["told"]),
        **Latency.merged([answer["latency"]]).figures("login_", maximum=False),
        "lost": max(0, filled["stored"] - answer["told"]),
        "raw_repeats": answer["repeats"],
        "errors": answer["errors"],
    }


@dataclass(frozen=True)
class ChatOptions:
    members: int = parameter(500, "Accounts, all of them members of the group.", least=2, most=10_000)
    rate: float = parameter(500.0, "Messages a second, of all; 0: flat out.", least=0, most=100_000)
    seconds: float = seconds_parameter(40.0, "How long to send")
    offline: int = parameter(0, "Share of the members that are not online, in percent.", least=0, most=99)
    single: bool = parameter(False, "Messages to one other user each, in pairs, and no group.")
    nodes: int = parameter(1, "Nodes (a cluster), the members spread over them.", most=16)
    database: str = text_parameter("", "URL of the database [default: SQLite in the server's data folder].")
    sync: int = parameter(0, "One member fetches so many missed messages.", least=0, most=1_000_000)
    storm: int = parameter(0, "All log in, each so many messages behind.", least=0, most=10_000)
    dialect: str = text_parameter("cmd", "What who comes back speaks; who talks speaks protobuf.", DIALECTS)

    @property
    def environment(self) -> dict[str, str]:
        return {"IMSERVER_STORAGE_URL": self.database} if self.database else {}


def run(stage: Stage, options: ChatOptions) -> Figures:
    """Measure stored messages in a group, or in pairs."""
    ends = [stage.target]
    if options.nodes > 1:
        nodes = Nodes(stage.crew, options.nodes, stage.app, environment=options.environment)
        ends, stage.pids, stage.folder = nodes.targets, tuple(nodes.pids), nodes.folder
        stage.target = ends[0]
    if options.sync or options.storm:
        members, missed = (1, options.sync) if options.sync else (options.members, options.storm)
        return measure_sync(stage, ends, options.dialect, members, missed, options.seconds)
    online = options.members - options.members * options.offline // 100
    if options.single:
        online -= online % 2
    if online < 2:
        raise BenchError("nobody is left to talk to: more members, or fewer of them offline")
    (hand,) = stage.hire(1)
    stage.ask([hand], register, count=options.members, seconds=options.members)
    group = 0
    if not options.single:
        group = stage.ask([hand], make_group, count=options.members)[0]["group"]
    for end, first, share in shares(ends, online):
        stage.ask([hand], open_chat, first=first, count=share, host=end.ws_host, port=end.ws_port)
    stage.ask([hand], settle, quiet_seconds=HELD_SECONDS)
    return measure(stage, hand, options, group)


def measure(stage: Stage, hand: Hand, options: ChatOptions, group: int) -> Figures:
    folder = "" if options.database else stage.folder
    before, fsync = look(folder), fsync_ms(stage.folder)
    with stage.measured() as span:
        asked = {"seconds": options.seconds, "rate": options.rate, "group": group}
        answer = stage.ask([hand], chat, tag=new_tag(), **asked)[0]
    span.note([answer])
    if not answer["acked"]:
        raise BenchError("no message was acknowledged")
    verdict, received, acked = answer["verdict"], answer["received"], answer["acked"]
    figures: Figures = {
        "messages": answer["sent"],
        "deliveries": received,
        **span.cost(received + acked),
        "server_busy_percent": span.server_us / 1e4 / span.seconds if span.observed else None,
        "stored_per_second": answer["during"] / answer["sending_seconds"],
        "elapsed_seconds": answer["seconds"],
        **Latency.merged([answer["ack_latency"]]).figures("ack_", maximum=False),
        **Latency.merged([answer["latency"]]).figures(),
        "events_a_frame": received / answer["frames"] if answer["frames"] else None,
        "fsync_ms": fsync,
        **{name: verdict[name] for name in ("lost", "doubled", "other_order")},
        "unacknowledged": answer["sent"] - acked,
        "errors": answer["strays"] + answer["unsent"],
        "dropped": answer["dropped"],
    }
    after = look(folder)
    if before is not None and after is not None:
        rows = after.rows - before.rows
        figures |= {
            "stored_rows": rows,
            "stored_bytes": (after.size - before.size) / max(1, rows),
            "unstored": max(0, acked - rows),
            "seq_holes": after.holes,
        }
    return figures
