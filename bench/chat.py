"""Scenario ``chat``: stored messages in a group or in pairs, each one
counted."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.chaos_client import create_group, register
from bench.cluster import Nodes
from bench.connections import Connection, ConnectionSet
from bench.context import (
    RunContext,
    parameter,
    seconds_parameter,
    shares,
    text_parameter,
)
from bench.figures import Figures
from bench.generator import Generator, settle
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency, stamp_us
from bench.loop import BenchError, Json
from bench.protobuf import CT_ACK, CT_MESSAGE, message_frame, outputs
from bench.push import (
    LAST_FRAMES_SECONDS,
    MOST_MESSAGES,
    NUMBER_DIGITS,
    Receipts,
    new_tag,
)
from imserver.dialects.protobuf import chat_pb2 as pb

UP = 1  # a kind of acknowledgements

MOST_KNOWN = 1024  # frames in the lookup table


Event = tuple[int, int, int]
"""A push: its number, its position and when it was sent (µs). An
acknowledgement: ACK, its position, and the number of the message at its
connection."""
ACK = -1


class Sender:
    """The sent and acknowledged messages of one connection. Owned by its
    tally."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, int]] = deque()
        """Numbers (of the whole run) that are not acknowledged, and when they
        were sent."""
        self.acked = self.total = 0


class ChatTally:
    """Counts the messages of one run at all connections of a set, which it
    takes over as its ``take``.

    ``shared``: many receivers get the same frames. A connection's ``frames``
    are the messages it got, its ``digest`` is the last position it saw, in a
    push or an acknowledgement, its ``checksum`` the sum.
    """

    def __init__(self, connections: ConnectionSet, tag: str, *, shared: bool) -> None:
        self.connections = connections
        self.shared = shared
        self.latency = Latency()
        self.ack_latency = Latency()
        self.received = self.acked = self.unexpected = 0
        self.frames = 0
        self.last_ns = time.monotonic_ns()
        self.disordered: set[int] = set()
        self.receivers = list(connections.by_fd.values())
        self.senders = {conn.number: Sender() for conn in self.receivers}
        self._tag = tag.encode()
        self._known: dict[bytes, list[Event]] = {}
        for conn in self.receivers:
            conn.clear()
        connections.take = self.take

    def release(self) -> None:
        self.connections.take = self.connections.payloads

    def take(self, conn: Connection, end: int) -> None:
        now = time.monotonic_ns()
        self.last_ns = now
        for payload in self.connections.payloads(conn, end):
            events = self._known.get(payload)
            if events is None:
                events = self._read(payload)
            for number, position, stamp in events:
                if position <= conn.digest:
                    self.disordered.add(conn.number)
                conn.digest = position
                if number == ACK:
                    self._acknowledge(self.senders[conn.number], position, stamp)
                    continue
                conn.frames += 1
                conn.checksum += hash((number, position))
                self.received += 1
            if events and events[0][0] != ACK:
                self.frames += 1
                self.latency.add((now // 1000 - events[0][2]) % STAMP_WRAP)

    def _read(self, payload: bytes) -> list[Event]:
        events = []
        try:
            found = outputs(payload)
        except ValueError:
            self.unexpected += 1
            return []
        for kind, _code, data in found:
            if kind == CT_MESSAGE:
                message = pb.PushMsg.FromString(data).msg
            else:
                message = pb.Message()
            if kind == CT_ACK:
                ack = pb.ACKMsg.FromString(data)
            else:
                ack = pb.ACKMsg()
            if message.content.startswith(self._tag):
                text = message.content[len(self._tag) :]
                stamp = int(text[NUMBER_DIGITS : NUMBER_DIGITS + STAMP_DIGITS])
                events.append((int(text[:NUMBER_DIGITS]), message.seq, stamp))
            elif ack.type == UP and ack.seq:
                events.append((ACK, ack.seq, ack.clientId))
            else:
                self.unexpected += 1
        if self.shared and all(number != ACK for number, _position, _stamp in events):
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[payload] = events
        return events

    def _acknowledge(self, sender: Sender, position: int, number: int) -> None:
        if number != sender.acked + 1 or not sender.waiting:
            self.unexpected += 1
            return
        index, sent_ns = sender.waiting.popleft()
        sender.acked += 1
        self.acked += 1
        sender.total += hash((index, position))
        self.ack_latency.add((self.last_ns - sent_ns) // 1000)

    def verdict(self, partner: dict[int, int]) -> Receipts:
        """Compare the received messages of each receiver with the acknowledged
        ones: those of all others, or, with a ``partner``, of that one."""
        expected = lost = doubled = 0
        count = sum(sender.acked for sender in self.senders.values())
        total = sum(sender.total for sender in self.senders.values())
        for conn in self.receivers:
            own = self.senders[conn.number]
            wanted = count - own.acked
            worth_all = total - own.total
            if partner:
                other = self.senders[partner[conn.number]]
                wanted = other.acked
                worth_all = other.total
            # At least one was exchanged for another.
            changed = conn.frames == wanted and conn.checksum != worth_all
            expected += wanted
            lost += max(0, wanted - conn.frames) + changed
            doubled += max(0, conn.frames - wanted) + changed
        return Receipts(expected, self.received, lost, doubled, len(self.disordered))


def stored(folder: str) -> tuple[int, int] | None:
    """The messages in the log of the data folder ``folder``, and the bytes of
    its database; None if it has none.
    """
    path = Path(folder, "imserver.db")
    if not folder or not path.exists():
        return None
    with closing(
        sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    ) as database:
        (rows,) = database.execute("SELECT count(*) FROM message").fetchone()
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    return rows, pages * page_bytes


PADDING = b"." * 10
#: A server may hold back what is new until a client that has just logged in has had time to ask for more.
SETTLE_SECONDS = 1.0


def chat(
    generator: Generator, tag: str, seconds: float, rate: float, group: int
) -> Json:
    """Task: let the connections of this process chat in ``group`` (0: in
    pairs); count what they receive.

    They send ``rate`` messages a second, evenly spread; with 0, each sends
    after its last acknowledgement.
    """
    loop = generator.loop
    tally = ChatTally(generator.connections, tag, shared=bool(group))
    accounts = generator.state["accounts"]
    conns = tally.receivers
    if group:
        partner = {}
    else:
        partner = {conn.number: conns[at ^ 1].number for at, conn in enumerate(conns)}
    sent = unsent = 0

    def send(conn: Connection) -> None:
        nonlocal sent, unsent
        sender = tally.senders[conn.number]
        content = b"%b%07d%010d%b" % (tag.encode(), sent, stamp_us(), PADDING)
        receiver = group or accounts[partner[conn.number]][0]
        number = sender.acked + len(sender.waiting) + 1
        account = accounts[conn.number][0]
        frame = message_frame(number, account, receiver, content, group=bool(group))
        sender.waiting.append((sent, time.monotonic_ns()))
        sent += 1
        try:
            unsent += conn.sock.send(frame) < len(frame)
        except OSError:
            unsent += 1

    begin = time.monotonic()
    if rate:
        for turn in loop.paced(rate, seconds):
            send(conns[turn % len(conns)])
    while not rate and time.monotonic() < begin + seconds and not loop.stopped:
        for conn in conns:
            if not tally.senders[conn.number].waiting and sent < MOST_MESSAGES:
                send(conn)
        loop.turn(0.1)
    during = tally.acked
    sending = time.monotonic() - begin
    each = len(conns) - 1 if group else 1
    loop.until_quiet(
        lambda: tally.acked + tally.received >= sent * (1 + each), LAST_FRAMES_SECONDS
    )
    elapsed = tally.last_ns / 1e9 - begin
    generator.connections.settle(0.3, 5)  # repeats arrive late
    tally.release()
    return {
        "sent": sent,
        "unsent": unsent,
        "during": during,
        "sending_seconds": sending,
        "seconds": max(elapsed, 1e-6),
        "verdict": tally.verdict(partner),
        **{
            name: getattr(tally, name)
            for name in ("received", "acked", "unexpected", "frames")
        },
        "latency": tally.latency.pack(),
        "ack_latency": tally.ack_latency.pack(),
        "dropped": generator.connections.facts()["lost"],
    }


def prepare(generator: Generator, count: int, single: bool, seconds: float) -> Json:
    """Task: register accounts; return their group, 0 if they are to chat in
    pairs."""
    register(generator, count, seconds)
    return {"group": 0 if single else create_group(generator, list(range(count)))}


@dataclass(frozen=True)
class ChatOptions:
    members: int = parameter(
        500, "Accounts, all of them members of the group.", least=2, most=10_000
    )
    rate: float = parameter(
        500.0,
        "Messages a second, of all members together. 0 means as many as possible.",
        least=0,
        most=100_000,
    )
    seconds: float = seconds_parameter(40.0, "How long to send")
    single: bool = parameter(False, "Send in pairs of users, without a group.")
    nodes: int = parameter(
        1, "Nodes of a cluster; the members are spread over them.", most=16
    )
    database: str = text_parameter(
        "", "URL of the database [default: SQLite in the server's data folder]."
    )

    @property
    def environment(self) -> dict[str, str]:
        if self.database:
            return {"IMSERVER_STORAGE_URL": self.database}
        return {}


def run(context: RunContext, options: ChatOptions) -> Figures:
    """Measure stored messages in a group, or in pairs."""
    ends = [context.target]
    if options.nodes > 1:
        nodes = Nodes(
            context.pool,
            options.nodes,
            context.target.app,
            environment=options.environment,
        )
        ends = nodes.targets
        context.pids = nodes.pids
        context.folder = nodes.folder
        context.target = ends[0]
    if options.single:
        online = options.members - options.members % 2
    else:
        online = options.members
    (worker,) = context.start_workers(1)
    how: Json = {
        "count": options.members,
        "single": options.single,
        "seconds": options.members,
    }
    group = context.ask([worker], prepare, **how)[0]["group"]
    for end, first, share in shares(ends, online):
        context.open([worker], share, first=first, dialect="protobuf", end=end)
    context.ask([worker], settle, quiet_seconds=SETTLE_SECONDS)
    folder = "" if options.database else context.folder
    before = stored(folder)
    how = {"seconds": options.seconds, "rate": options.rate, "group": group}
    with context.measured() as span:
        (answer,) = context.ask([worker], chat, tag=new_tag(), **how)
    span.note([answer])
    if not answer["acked"]:
        raise BenchError("no message was acknowledged")
    verdict = Receipts(*answer["verdict"])
    received = answer["received"]
    acked = answer["acked"]
    figures: Figures = {
        "messages": answer["sent"],
        "deliveries": received,
        **span.cost(received + acked),
        "server_busy_percent": span.server_us / 1e4 / span.seconds
        if span.observed
        else None,
        "stored_per_second": answer["during"] / answer["sending_seconds"],
        "elapsed_seconds": answer["seconds"],
        **Latency.merged([answer["ack_latency"]]).figures("ack_", maximum=False),
        **Latency.merged([answer["latency"]]).figures(),
        "events_a_frame": received / answer["frames"] if answer["frames"] else None,
        **{name: getattr(verdict, name) for name in ("lost", "doubled", "other_order")},
        "unacknowledged": answer["sent"] - acked,
        "errors": answer["unexpected"] + answer["unsent"],
        "dropped": answer["dropped"],
    }
    after = stored(folder)
    if before and after:
        rows = after[0] - before[0]
        figures["stored_rows"] = rows
        figures["stored_bytes"] = (after[1] - before[1]) / max(1, rows)
        figures["unstored"] = max(0, acked - rows)
    return figures
