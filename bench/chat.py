"""Scenario ``chat``: stored messages in a group, or in pairs, each one counted. In the protobuf dialect."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import chat_sync
from bench.chat_members import make_group, open_chat, register
from bench.chat_tally import ChatTally
from bench.fanout import LAST_FRAMES_SECONDS, MOST_MESSAGES, new_tag
from bench.figures import Figures
from bench.generator import Generator, settle
from bench.latency import STAMP_DIGITS, Latency, stamp_us
from bench.loop import BenchError
from bench.nodes import Nodes
from bench.protobuf import GROUP, NUMBER_DIGITS, SINGLE, Writer
from bench.stage import Span, Stage, choice_parameter, parameter, seconds_parameter, text_parameter

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


TAG_BYTES = 6
LEAST_BYTES = TAG_BYTES + NUMBER_DIGITS + STAMP_DIGITS
#: A server may hold back what is new until a client that has just logged in has had time to ask for more.
HELD_SECONDS = 1.0
DIALECTS = ("cmd", "protobuf")


class Talk:
    """The messages of one run: who sends the next one, over which connection."""

    def __init__(
        self, generator: Generator, tally: ChatTally, tag: str, group: int, text_bytes: int, named: bool
    ) -> None:
        accounts = generator.kept["accounts"]
        sent_ms = int(time.time() * 1000)
        self.tally = tally
        self.tag = tag.encode()
        self.named = named
        self.padding = b"." * (text_bytes - LEAST_BYTES)
        self.peers = tally.receivers
        self.places = {peer.number: place for place, peer in enumerate(self.peers)}
        receivers = [group] * len(self.peers)
        if not group:
            receivers = [accounts[self.peers[place ^ 1].number][0] for place in range(len(self.peers))]
        self.writers = [
            Writer(GROUP if group else SINGLE, receiver, accounts[peer.number][0], sent_ms)
            for peer, receiver in zip(self.peers, receivers, strict=True)
        ]
        self.partner = (
            None
            if group
            else {peer.number: self.peers[place ^ 1].number for place, peer in enumerate(self.peers)}
        )
        self.sent = self.unsent = 0

    def send(self, place: int) -> None:
        """Send the next message from the connection at ``place``."""
        peer = self.peers[place]
        sender = self.tally.senders[peer.number]
        number, self.sent = self.sent, self.sent + 1
        content = b"%b%07d%010d%b" % (self.tag, number, stamp_us(), self.padding)
        name = b"%b-%d" % (self.tag, number) if self.named else b""
        frame = self.writers[place].frame(sender.acked + len(sender.waiting) + 1, content, name)
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


def chat(
    generator: Generator,
    tag: str,
    seconds: float,
    rate: float,
    depth: int,
    group: int,
    text_bytes: int,
    named: bool = False,
) -> dict[str, Any]:
    """Task: have the connections of this process talk in ``group`` (0: in pairs); count what they get."""
    tally = ChatTally(generator.swarm, tag, shared=bool(group))
    talk = Talk(generator, tally, tag, group, text_bytes, named)
    begin = time.monotonic()
    end = begin + seconds
    if rate:
        _paced(talk, rate, begin, end, generator)
    else:
        _flat_out(talk, depth, begin, end, generator)
    during, sending = tally.acked, time.monotonic() - begin
    last_news = time.monotonic()
    while talk.outstanding > 0 and not generator.loop.stopped:
        if generator.loop.turn(0.1):
            last_news = time.monotonic()
        elif time.monotonic() > last_news + LAST_FRAMES_SECONDS:
            break
    elapsed = tally.last_ns / 1e9 - begin
    generator.swarm.settle(0.3, 5)  # whatever comes twice, comes late
    tally.release()
    verdict = tally.verdict(talk.partner)
    return {
        "sent": talk.sent,
        "unsent": talk.unsent,
        "during": during,
        "sending_seconds": sending,
        "seconds": max(elapsed, 1e-6),
        "verdict": vars(verdict),
        **tally.figures(),
        "dropped": generator.swarm.facts()["lost"],
    }


def _paced(talk: Talk, rate: float, begin: float, end: float, generator: Generator) -> None:
    """Send ``rate`` messages a second, evenly spread over all, whatever they get."""
    members, total = len(talk.peers), int((end - begin) * rate + 0.5)
    while talk.sent < min(total, MOST_MESSAGES) and not generator.loop.stopped:
        due, now = begin + talk.sent / rate, time.monotonic()
        if now >= due:
            talk.send(talk.sent % members)
        else:
            generator.loop.turn(due - now)
            generator.passed(begin, end)


def _flat_out(talk: Talk, depth: int, begin: float, end: float, generator: Generator) -> None:
    """Have everybody send as fast as it is acknowledged, at most ``depth`` ahead."""
    senders = [talk.tally.senders[peer.number] for peer in talk.peers]
    while time.monotonic() < end and not generator.loop.stopped:
        for place, sender in enumerate(senders):
            while len(sender.waiting) < depth and talk.sent < MOST_MESSAGES:
                talk.send(place)
        generator.loop.turn(0.1)
        generator.passed(begin, end)


@dataclass(frozen=True)
class ChatOptions:
    """Parameters of the scenario."""

    members: int = parameter(500, "Accounts, all of them members of the group.", least=2, most=10_000)
    rate: float = parameter(
        500.0,
        "Messages a second, evenly spread over the senders; 0: each as fast as it is acknowledged.",
        least=0,
        most=100_000,
    )
    seconds: float = seconds_parameter(40.0, "How long to send")
    offline: int = parameter(0, "Share of the members that are not online, in percent.", least=0, most=99)
    single: bool = parameter(False, "Messages to one other user each, in pairs, and no group.")
    depth: int = parameter(1, "Unacknowledged messages of a sender (with --rate 0).", most=100)
    text_bytes: int = parameter(33, "Bytes of the message.", least=LEAST_BYTES, most=60_000)
    named: bool = parameter(False, "Messages have a client_msg_id, by which a repeat would be known.")
    nodes: int = parameter(
        1, "Nodes (a cluster with a Redis of its own), the members spread over them.", most=16
    )
    database: str = text_parameter("", "URL of the database [default: SQLite in the server's data folder].")
    sync: int = parameter(
        0, "No talk: one member has missed so many messages, and fetches them.", least=0, most=1_000_000
    )
    storm: int = parameter(
        0, "No talk: all members are so many messages behind, and log in at once.", least=0, most=10_000
    )
    dialect: str = choice_parameter("cmd", "What who comes back speaks; who talks speaks protobuf.", DIALECTS)

    @property
    def environment(self) -> dict[str, str]:
        return {"IMSERVER_STORAGE_URL": self.database} if self.database else {}


def run(stage: Stage, options: ChatOptions) -> Figures:
    """Measure stored messages in a group, or in pairs."""
    ends = [stage.target]
    if options.nodes > 1:
        nodes = Nodes(stage.crew, options.nodes, stage.target.app, "file", environment=options.environment)
        ends, stage.pids, stage.folder = nodes.targets, tuple(nodes.pids), nodes.folder
        stage.target = ends[0]
    if options.sync or options.storm:
        members, missed = (1, options.sync) if options.sync else (options.members, options.storm)
        return chat_sync.measure(stage, ends, options.dialect, members, missed, options.seconds)
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
    first = 0
    for place, end in enumerate(ends):
        share = online // len(ends) + (place < online % len(ends))
        stage.ask([hand], open_chat, first=first, count=share, host=end.ws_host, port=end.ws_port)
        first += share
    stage.ask([hand], settle, quiet_seconds=HELD_SECONDS)
    return measure(stage, hand, options, group)


def measure(stage: Stage, hand: Any, options: ChatOptions, group: int) -> Figures:
    """Talk for the time, and return what came of it."""
    folder = "" if options.database else stage.folder
    before = look(folder)
    fsync = fsync_ms(stage.folder)
    with stage.measured() as span:
        answers = stage.ask(
            [hand],
            chat,
            tag=new_tag(),
            seconds=options.seconds,
            rate=options.rate,
            depth=options.depth,
            group=group,
            text_bytes=options.text_bytes,
            named=options.named,
        )
    span.note(answers)
    (answer,) = answers
    if not answer["acked"]:
        raise BenchError("no message was acknowledged")
    figures = _figures(answer, span, fsync)
    after = look(folder)
    if before is not None and after is not None:
        figures |= _stored(before, after, answer["acked"])
    return figures


def _figures(answer: dict[str, Any], span: Span, fsync: float | None) -> Figures:
    """What the members have seen; ``fsync``: milliseconds that the disk took for one."""
    verdict = answer["verdict"]
    acks = Latency.merged([answer["ack_latency"]])
    return {
        "messages": answer["sent"],
        "deliveries": answer["received"],
        **span.cost("deliveries", answer["received"] + answer["acked"]),
        "server_busy_percent": span.server_us / 1e4 / span.seconds if span.observed else None,
        "stored_per_second": answer["during"] / answer["sending_seconds"],
        "elapsed_seconds": answer["seconds"],
        "ack_p50_ms": acks.percentile_ms(50),
        "ack_p99_ms": acks.percentile_ms(99),
        **Latency.merged([answer["latency"]]).figures(),
        "events_a_frame": answer["received"] / answer["frames"] if answer["frames"] else None,
        "fsync_ms": fsync,
        "lost": verdict["lost"],
        "doubled": verdict["doubled"],
        "other_order": verdict["other_order"],
        "unacknowledged": answer["sent"] - answer["acked"],
        "errors": answer["strays"] + answer["unsent"],
        "dropped": answer["dropped"],
    }


def _stored(before: StoredRows, after: StoredRows, acked: int) -> Figures:
    """What the database has more than before."""
    rows = after.rows - before.rows
    return {
        "stored_rows": rows,
        "stored_bytes": (after.size - before.size) / max(1, rows),
        "unstored": max(0, acked - rows),
        "seq_holes": after.holes,
    }
