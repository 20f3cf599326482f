"""Scenarios ``fanout``, ``push`` and ``publish``: messages to all or to single users, each one counted."""

from __future__ import annotations

import random
import socket
import string
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from zlib import crc32

from bench.connections import Connection, ConnectionSet, Target
from bench.context import MOST_CONNECTIONS, MOST_IN_PROCESS, RunContext, parameter, seconds_parameter
from bench.figures import Figures, with_faults_of
from bench.frames import CLOSE, FINAL, TEXT, UPGRADE_KEY, frame_template, scan, user_name
from bench.generator import Generator
from bench.http_client import FORM, JSON, HttpConnection, HttpConnections, get_request, post, request_head
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency, stamp_us
from bench.loop import BenchError, Json
from bench.servers import Worker
from imserver_client import ClientError, Publisher

NUMBER_DIGITS = 7
TIMED_FRAMES = 8  # in a read with more frames than this, only the oldest is timed
LIVE_TEXT, STORED_TEXT = b'"msg":"', b'"text":"'
TEXT_FRAME = FINAL | TEXT


@dataclass(frozen=True)
class Layout:
    """Positions of the fields in a frame of this run; learned from the first frame."""

    length: int
    head: bytes
    tag_at: int
    number_at: int
    stamp_at: int


@dataclass(frozen=True)
class Receipts:
    """The received and missing messages of the receivers of one process."""

    expected: int
    received: int
    lost: int
    doubled: int
    other_order: int

    def pack(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def merged(cls, parts: Iterable[dict[str, int]]) -> Receipts:
        whole = dict.fromkeys(cls.__dataclass_fields__, 0)
        for part in parts:
            for key, value in part.items():
                whole[key] += value
        return cls(**whole)


class Tally:
    """Counts the messages of one run at all connections of a set, as its ``take``.

    With ``every`` each frame's number is added to its receiver's checksum (for messages to single users,
    where each receiver gets its own stream). ``received`` and ``last_ns`` are updated with each read.
    """

    def __init__(self, connections: ConnectionSet, tag: str, *, every: bool = False) -> None:
        self.connections = connections
        self.tag = tag.encode()
        self.every = every
        self.latency = Latency()
        self.received = 0
        self.others = self.reads = 0
        self.last_ns = time.monotonic_ns()
        self.layout: Layout | None = None
        self.witness: Connection | None = None
        self.receivers = list(connections.by_fd.values())
        for conn in self.receivers:
            conn.clear()
            if self.witness is None and not every:
                self.witness, conn.numbers = conn, []
        connections.take = self.take

    def release(self) -> None:
        self.connections.take = self.connections.skim

    def take(self, conn: Connection, end: int) -> None:
        self.reads += 1
        layout = self.layout
        if layout is None or not self._equal(layout, end):
            self._scan(conn, end)
            return
        connections = self.connections
        if end == layout.length:
            self._take_one(conn, layout)
            return
        count, spare = divmod(end, layout.length)
        whole = end - spare
        conn.rest = bytes(connections.view[whole:end]) if spare else b""
        self.received += count
        conn.frames += count
        now = time.monotonic_ns()
        self.last_ns = now
        if not self.every:
            conn.digest = crc32(connections.view[:whole], conn.digest)
        timed = layout.length if count > TIMED_FRAMES and not self.every else whole
        self._read_stamps(layout, timed, now // 1000)
        if self.every or conn.numbers is not None:
            self._read_numbers(conn, layout, whole)

    def _take_one(self, conn: Connection, layout: Layout) -> None:
        """Count a read of exactly one frame, as messages sent alone arrive."""
        buffer = self.connections.buffer
        now = self.last_ns = time.monotonic_ns()
        self.received += 1
        conn.frames += 1
        conn.rest = b""
        at = layout.stamp_at
        self.latency.add((now // 1000 - int(buffer[at : at + STAMP_DIGITS])) % STAMP_WRAP)
        if not self.every:
            conn.digest = crc32(self.connections.view[: layout.length], conn.digest)
            if conn.numbers is None:
                return
        at = layout.number_at
        number = int(buffer[at : at + NUMBER_DIGITS])
        conn.checksum += number
        if conn.numbers is not None:
            conn.numbers.append(number)

    def _equal(self, layout: Layout, end: int) -> bool:
        """Whether the buffer starts with frames of this run's length only."""
        buffer, length = self.connections.buffer, layout.length
        count = end // length
        if not count or not buffer.startswith(layout.head):
            return False
        if count == 1:
            return buffer.startswith(self.tag, layout.tag_at)
        whole = count * length
        return buffer[0:whole:length].count(TEXT_FRAME) == count and buffer.startswith(
            self.tag, whole - length + layout.tag_at
        )

    def _read_stamps(self, layout: Layout, stop: int, now_us: int) -> None:
        buffer, add = self.connections.buffer, self.latency.add
        for at in range(layout.stamp_at, stop, layout.length):
            add((now_us - int(buffer[at : at + STAMP_DIGITS])) % STAMP_WRAP)

    def _read_numbers(self, conn: Connection, layout: Layout, stop: int) -> None:
        buffer = self.connections.buffer
        found = [int(buffer[at : at + NUMBER_DIGITS]) for at in range(layout.number_at, stop, layout.length)]
        if conn.numbers is not None:
            conn.numbers += found
        conn.checksum += sum(found)

    def _scan(self, conn: Connection, end: int) -> None:
        """Count frame by frame: the first of a run, and reads that contain other frames."""
        connections = self.connections
        found, used = scan(connections.buffer, end)
        begin = 0
        for opcode, start, stop in found:
            frame, begin = bytes(connections.view[begin:stop]), stop
            payload = frame[len(frame) - (stop - start) :]
            number_at = frame.find(self.tag) + len(self.tag)
            if opcode >= CLOSE:
                connections.control(conn, opcode, payload)
            elif number_at >= len(self.tag):
                self._count(conn, frame, len(frame) - len(payload), number_at)
            else:
                self.others += 1
        conn.rest = bytes(connections.view[used:end])

    def _count(self, conn: Connection, frame: bytes, head_bytes: int, number_at: int) -> None:
        stamp_at = frame.find(LIVE_TEXT) + len(LIVE_TEXT)
        if stamp_at < len(LIVE_TEXT):
            stamp_at = frame.find(STORED_TEXT) + len(STORED_TEXT)
        number = int(frame[number_at : number_at + NUMBER_DIGITS])
        self.received += 1
        conn.frames += 1
        conn.checksum += number
        if conn.numbers is not None:
            conn.numbers.append(number)
        conn.digest = crc32(frame, conn.digest)
        self.last_ns = time.monotonic_ns()
        if self.layout is None:
            tag_at = number_at - len(self.tag)
            self.layout = Layout(len(frame), frame[:head_bytes], tag_at, number_at, stamp_at)
        self.latency.add((stamp_us() - int(frame[stamp_at : stamp_at + STAMP_DIGITS])) % STAMP_WRAP)

    def verdict(self, accepted: set[int]) -> Receipts:
        """Compare the received messages of each receiver with the numbers of the ``accepted`` broadcasts."""
        wanted = len(accepted)
        witness = self.witness
        lost = doubled = other_order = received = 0
        seen = set(witness.numbers or ()) if witness else set()
        witness_lost = len(accepted - seen)
        witness_doubled = witness.frames - len(seen & accepted) if witness else 0
        for conn in self.receivers:
            received += conn.frames
            if witness and conn.frames == witness.frames and conn.digest == witness.digest:
                lost += witness_lost
                doubled += witness_doubled
            else:
                lost += max(0, wanted - conn.frames)
                doubled += max(0, conn.frames - wanted)
                other_order += conn.frames == wanted
        return Receipts(wanted * len(self.receivers), received, lost, doubled, other_order)

    def compare(self, wanted: Sequence[Sequence[int]]) -> Receipts:
        """Compare the received messages of each receiver with what it must have: how many messages, and the
        sum of their numbers (with ``every``).
        """
        lost = wrong = 0
        for conn, (frames, checksum) in zip(self.receivers, wanted, strict=True):
            lost += max(0, frames - conn.frames)
            wrong += max(0, conn.frames - frames)
            wrong += conn.frames == frames and conn.checksum != checksum
        return Receipts(sum(frames for frames, _ in wanted), self.received, lost, wrong, 0)

    def figures(self) -> Json:
        return {
            "received": self.received,
            "reads": self.reads,
            "others": self.others,
            "frame_bytes": self.layout.length if self.layout else 0,
            "latency": self.latency.pack(),
        }


SENDER = "bench"
MOST_MESSAGES = 9_999_999  # seven digits
#: Time without any data after which what has not come is lost.
LAST_FRAMES_SECONDS = 10.0
#: Time without any data after which the other processes have received everything.
QUIET_SECONDS = 1.0
#: Limit of the messages by which broadcasts may be ahead of the receivers; servers close slow receivers.
WINDOW = 512
PADDING = b"." * (20 - STAMP_DIGITS)
WARM_UP_SECONDS = 0.3
PUSH_PATH, PUBLISHER_PATH = "/api/v1/push", "/api/v1/publisher"
PUBLISHERS, UNDER_WAY = 4, 64
JOINED_TOGETHER = 1000


def new_tag() -> str:
    """Return a name for one run; with the message's number it makes a ``msgID`` no server has seen."""
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=6))


class Messages:
    """The messages of one run: to one user after the other, by ``/user/sendMessage``. Owner of their numbers
    and of the server's answers.

    Message ``n`` goes to user ``n`` modulo their count. A request carries ``size`` messages. ``least``:
    number of requests that a connection sends at once, at least.
    """

    http_class = HttpConnections
    path, content_type = "/user/sendMessage", FORM
    body = b"appID=%(app)d&userID=%(user)b&msgID=%(tag)b%%07d&message=%%010d%(padding)b"
    """With placeholders for number and time."""
    item = b'{"userID":"%(user)b","msgID":"%(tag)b%%07d","message":"%%010d%(padding)b"}'
    """The part for each user in a request in bulk."""
    sent_mark = b'"sendResults":true'
    usual_end = b""

    def __init__(self, generator: Generator, tag: str, clients: int, depth: int, bulk: int) -> None:
        self.target = generator.target
        self.tag = tag.encode()
        self.users = self.receivers(generator)
        self.bulk, self.size, self.least = bulk, bulk or 1, 1
        self.latency = Latency()
        self.pushed = self.requests = 0
        self.refused: set[int] = set()
        self.first_refusal = ""
        self.http = self.http_class(generator.loop, self.target, clients, self.answered)
        self.http.usual_end = self.usual_end
        fixed = {b"app": self.target.app, b"tag": self.tag, b"padding": PADDING}
        filled = [(self.item if bulk else self.body) % {**fixed, b"user": user} for user in self.users]
        self.templates = filled if bulk else [self.request(body) for body in filled]

    def receivers(self, generator: Generator) -> list[bytes]:
        return [user_name(conn.number).encode() for conn in generator.connections.by_fd.values()]

    def request(self, body: bytes) -> bytes:
        """Return the request with a body that has placeholders for number and time."""
        head = request_head(self.target, self.path, self.content_type, len(body % (0, 0)))
        return head.replace(b"%", b"%%") + body

    def push(self, conn: HttpConnection, count: int = 1) -> None:
        """Send the next ``count`` requests over ``conn``, pipelined."""
        first, templates, users, now = self.pushed, self.templates, len(self.templates), stamp_us()
        self.requests += count
        self.pushed += count * self.size
        numbers = range(first, self.pushed)
        if count == 1 and not self.bulk:
            self.http.send(conn, (first,), templates[first % users] % (first, now))
        elif self.bulk:
            path, body = self.bulk_body([templates[number % users] for number in numbers], first, now)
            self.http.send(conn, (first,), request_head(self.target, path, JSON, len(body)) + body)
        else:
            data = b"".join([templates[number % users] % (number, now) for number in numbers])
            self.http.send(conn, numbers, data)

    def bulk_body(self, items: list[bytes], first: int, now: int) -> tuple[str, bytes]:
        found = b",".join([item % (number, now) for number, item in enumerate(items, first)])
        return "/user/sendMessageBatch", b'{"appID":%d,"messages":[%b]}' % (self.target.app, found)

    def answered(self, number: int, micros: int, status: int, body: bytes) -> None:
        self.latency.add(micros)
        if not self.accepted(body):
            self.refused.update(range(number, number + self.size))
            self.first_refusal = self.first_refusal or f"{status} {body[:200]!r}"

    def accepted(self, body: bytes) -> bool:
        return body.count(self.sent_mark) >= self.size

    def number_of(self, target: int) -> int:
        """Return the number of the message to target ``target``."""
        return target

    def receipts(self, tally: Tally) -> Receipts:
        """Compare the received messages of each user with the accepted messages to that user."""
        users = len(self.users)
        wanted = [[0, 0] for _ in range(users)]
        for target in range(self.pushed):
            if target not in self.refused:
                entry = wanted[target % users]
                entry[0] += 1
                entry[1] += self.number_of(target)
        return tally.compare(wanted)


class Broadcasts(Messages):
    """Messages to everybody, by ``/user/sendMessageAll``."""

    path = "/user/sendMessageAll"

    def receivers(self, generator: Generator) -> list[bytes]:
        return [SENDER.encode()]

    def receipts(self, tally: Tally) -> Receipts:
        return tally.verdict(set(range(self.pushed)) - self.refused)


class Publications(Broadcasts):
    """Messages to a channel with all receivers, by ``/api/v1/channels/publish``."""

    path, content_type = "/api/v1/channels/publish", JSON
    body = (
        b'{"app":"%(app)d","channel":"bench","id":"%(tag)b%%07d","text":"%%010d%(padding)b",'
        b'"sender":"%(user)b"}'
    )
    sent_mark = b'"status":"sent"'


class V1Pushes(Messages):
    """To users by ``/api/v1/push``: a request in bulk is one message to many users."""

    path, content_type = PUSH_PATH, JSON
    body = b'{"app":"%(app)d","user":"%(user)b","id":"%(tag)b%%07d","text":"%%010d%(padding)b"}'
    item = b'"%(user)b"'
    usual_end = b'"},"status":"sent"}]}'

    def bulk_body(self, items: list[bytes], first: int, now: int) -> tuple[str, bytes]:
        values = self.target.app, b",".join(items), self.tag, first, now, PADDING
        return PUSH_PATH, b'{"app":"%d","users":[%b],"id":"%b%07d","text":"%010d%b"}' % values

    def accepted(self, body: bytes) -> bool:
        return body.startswith(b'{"sent":%d,' % self.size)

    def number_of(self, target: int) -> int:
        return target - target % self.size


class StoredPushes(V1Pushes):
    """To users by ``/api/v1/push`` with ``store``: messages of one sender, each stored before its answer."""

    body = (
        b'{"app":"%(app)d","user":"%(user)b","id":"%(tag)b%%07d","text":"%%010d%(padding)b",'
        b'"sender":"bench","store":true}'
    )
    usual_end = b"}}]}"


class PublisherConnections(HttpConnections):
    """Publisher connections: frames instead of requests."""

    def connect(self, target: Target) -> socket.socket:
        sock = super().connect(target)
        upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        key = f"Sec-WebSocket-Key: {UPGRADE_KEY.decode()}"
        sock.sendall(get_request(target, PUBLISHER_PATH, *upgrade, key))
        answer = sock.recv(4096)
        if not answer.startswith(b"HTTP/1.1 101 ") or not answer.endswith(b"\r\n\r\n"):
            raise BenchError(f"{PUBLISHER_PATH}: {answer[:100]!r}")
        return sock

    def parse(self, conn: HttpConnection, data: bytes) -> bytes:
        found, end = scan(data, len(data))
        now = time.monotonic_ns()
        for opcode, start, stop in found:
            if opcode == TEXT:
                self.answer(conn, now, 200, data[start:stop])
        return data[end:]


class Publishes(Messages):
    """To users over publisher connections."""

    http_class = PublisherConnections
    body = b'{"seq":"s","publish":' + V1Pushes.body + b"}"
    sent_mark = b'"sent":1}'

    def __init__(self, generator: Generator, tag: str, clients: int, depth: int, bulk: int) -> None:
        super().__init__(generator, tag, clients, depth, bulk)
        self.least = depth // 2 + 1

    def request(self, body: bytes) -> bytes:
        """Return a frame with placeholders for number and time."""
        return frame_template(body)


KINDS = {
    "all": Broadcasts,
    "channel": Publications,
    "users": Messages,
    "v1": V1Pushes,
    "stored": StoredPushes,
    "publish": Publishes,
}
TO_ALL = ("all", "channel")


def _send(generator: Generator, run: Messages, tally: Tally, seconds: float, how: Sending, each: int) -> None:
    """Send for ``seconds``: at a fixed rate, one at a time, or as fast as the server answers."""
    http, begin = list(run.http), time.monotonic()
    due, end = begin, begin + seconds
    while (now := time.monotonic()) < end and run.pushed < MOST_MESSAGES and not generator.loop.stopped:
        if how.alone:
            out = run.pushed * each > tally.received or bool(http[0].waiting)
            if not out and now >= due:
                run.push(http[0])
                due = now + (1 / how.rate if how.rate else 0.0)
                continue
            generator.loop.turn(0.2 if out else due - now)
            if out and now > tally.last_ns / 1e9 + LAST_FRAMES_SECONDS:
                return  # a message is lost; the receipts show which
        elif how.rate:
            due = begin + run.requests / how.rate
            if now >= due:
                run.push(http[run.requests % len(http)])
                continue
            generator.loop.turn(min(due, end) - now)
        else:
            room = MOST_MESSAGES - run.pushed
            if how.window:
                room = min(room, how.window - (run.pushed - tally.received // each))
            for conn in http:
                count = min(how.depth - len(conn.waiting), room)
                if count >= run.least:
                    run.push(conn, count)
                    room -= count
            generator.loop.turn(0.1)


@dataclass(frozen=True)
class Sending:
    """The load of a generator: a kind of KINDS, over ``clients`` connections, ``depth`` requests in flight on
    each.
    """

    kind: str
    clients: int
    depth: int = 1
    bulk: int = 0
    rate: float = 0.0
    alone: bool = False
    """The next one is sent after all have received the last one."""
    window: int = 0
    """So many messages may be ahead of the receivers, at most; 0: as many as are in flight."""


def send_and_receive(generator: Generator, tag: str, seconds: float, sending: Json) -> Json:
    """Task: send, and count the messages that arrive at the connections of this process."""
    how = Sending(**sending)
    to_all = how.kind in TO_ALL
    tally = Tally(generator.connections, tag, every=not to_all)
    run = KINDS[how.kind](generator, tag, how.clients, how.depth, how.bulk)
    each = len(tally.receivers) if to_all else 1
    begin = time.monotonic()
    _send(generator, run, tally, seconds, how, each)
    during, sending_seconds = run.http.answered * run.size, time.monotonic() - begin

    def complete() -> bool:
        accepted = run.pushed - len(run.refused)
        return run.http.answered >= run.requests and tally.received >= accepted * each

    generator.loop.until_quiet(complete, LAST_FRAMES_SECONDS)
    run.http.close()
    tally.release()
    return {
        "pushed": run.pushed,
        "unanswered": run.requests - run.http.answered,
        "refused": sorted(run.refused),
        "refusal": run.first_refusal,
        "during": during,
        "sending_seconds": sending_seconds,
        "seconds": max(tally.last_ns / 1e9 - begin, 1e-6),
        "receipts": run.receipts(tally).pack(),
        "answers": run.latency.pack(),
        **tally.figures(),
        **generator.connections.facts(),
    }


def prepare(generator: Generator, tag: str) -> Json:
    """Task of the other processes: start counting."""
    generator.state["tally"] = Tally(generator.connections, tag)
    return {}


def receive(generator: Generator, quiet_seconds: float) -> Json:
    """Task of the other processes: receive until it is stopped and no more data arrives."""
    tally: Tally = generator.state["tally"]
    while not generator.loop.stopped:
        generator.loop.turn(0.5)
    generator.connections.settle(quiet_seconds, 20)
    tally.release()
    return {**tally.figures(), **generator.connections.facts()}


def compare(generator: Generator, pushed: int, refused: list[int]) -> Json:
    """Task of the other processes: compare the received messages with the pushed ones."""
    tally: Tally = generator.state["tally"]
    return {"receipts": tally.verdict(set(range(pushed)) - set(refused)).pack()}


def subscribe_all(generator: Generator, count: int) -> Json:
    """Task: subscribe the users from number 0 to the channel."""
    subscribed = 0
    for first in range(0, count, JOINED_TOGETHER):
        users = [user_name(number) for number in range(first, min(first + JOINED_TOGETHER, count))]
        body = {"app": str(generator.target.app), "channel": "bench", "users": users}
        subscribed += post(generator.target, "/api/v1/channels/subscribe", body)["subscribed"]
    if subscribed != count:
        raise BenchError(f"{subscribed} of {count} connections were subscribed")
    return {}


@dataclass(frozen=True)
class FanoutOptions:
    receivers: int = parameter(500, "Connections that receive each message.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(3.0, "How long to push")
    rate: float = parameter(0.0, "Messages a second; 0 is flat out.", least=0, most=100_000)
    one_per_send: bool = parameter(False, "Push the next message when the last is everywhere.")
    channel: bool = parameter(False, "Publish to a channel with all of them, instead of the app.")
    redis: bool = parameter(False, "The server has a Redis.")

    @property
    def sending(self) -> Sending:
        kind, window = ("channel", 0) if self.channel else ("all", WINDOW)
        return Sending(kind, clients=8, depth=8, rate=self.rate, alone=self.one_per_send, window=window)


@dataclass(frozen=True)
class PushOptions:
    users: int = parameter(1000, "Connected users, pushed to in turn.", most=MOST_IN_PROCESS)
    seconds: float = seconds_parameter(3.0, "How long to push")
    clients: int = parameter(16, "HTTP connections, one request in flight on each.")
    bulk: int = parameter(
        0, "Messages in a request of another path; 0 is one a request.", least=0, most=10_000
    )
    rate: float = parameter(0.0, "Requests a second; 0 is flat out.", least=0, most=100_000)
    v1: bool = parameter(False, "Push by /api/v1/push; in bulk that is one message to many users.")
    keyed: bool = parameter(False, "Start a server that asks for API keys, and push with one.")
    redis: bool = parameter(False, "The server has a Redis.")

    @property
    def sending(self) -> Sending:
        return Sending("v1" if self.v1 else "users", self.clients, bulk=self.bulk, rate=self.rate)


@dataclass(frozen=True)
class PublishOptions:
    users: int = parameter(1000, "Connected users, published to in turn.", most=MOST_IN_PROCESS)
    seconds: float = seconds_parameter(3.0, "How long to publish")
    rate: float = parameter(0.0, "Publishes a second; 0 is flat out.", least=0, most=100_000)
    keyed: bool = parameter(False, "Start a server that asks for API keys, and publish with one.")

    @property
    def sending(self) -> Sending:
        return Sending("publish", PUBLISHERS, UNDER_WAY, rate=self.rate)


def measure(context: RunContext, workers: Sequence[Worker], how: Sending, seconds: float) -> Figures:
    """Send to the connections of the processes ``workers``; the first of them sends."""
    tag, (first, *others) = new_tag(), workers
    context.ask(others, prepare, tag=tag)
    for worker in others:
        worker.ask(receive, quiet_seconds=QUIET_SECONDS)
    with context.measured() as span:
        (answer,) = context.ask([first], send_and_receive, tag=tag, seconds=seconds, sending=vars(how))
        for worker in others:
            worker.stop()
        answers = [answer, *context.gather(others)]
    span.note(answers)
    if not answer["received"]:
        raise BenchError(f"no message arrived; the server answered {answer['refusal'] or 'nothing'}")
    pushed, refused = answer["pushed"], answer["refused"]
    parts = [answer, *context.ask(others, compare, pushed=pushed, refused=refused)]
    whole = Receipts.merged(part["receipts"] for part in parts)
    figures: Figures = {"messages": pushed}
    flat_out = not how.rate and not how.alone
    if how.kind in TO_ALL:
        figures |= span.rate("deliveries", whole.received, answer["seconds"], flat_out=flat_out)
    else:
        unit = "publishes" if how.kind == "publish" else "targets" if how.bulk else "requests"
        seconds, during = answer["sending_seconds"], answer["during"]
        figures |= span.rate(unit, pushed, seconds, during=during, flat_out=flat_out)
    figures |= Latency.merged([answer["answers"]]).figures(
        "ack_" if how.kind == "publish" else "answer_", maximum=False
    )
    figures |= {
        **Latency.merged(part["latency"] for part in answers).figures(),
        "frame_bytes": answer["frame_bytes"],
        "lost": whole.lost,
        "doubled": whole.doubled,
        "refused": len(refused) + answer["unanswered"],
        "dropped": sum(part["lost"] for part in answers),
    }
    if how.kind in TO_ALL:
        figures["messages_a_read"] = whole.received / max(sum(part["reads"] for part in answers), 1)
        figures["other_order"] = whole.other_order
    return figures


def measure_warm(
    context: RunContext, workers: Sequence[Worker], how: Sending, seconds: float, warm_up: float
) -> Figures:
    """Warm up, then measure; errors in the warm-up count too."""
    return with_faults_of(measure(context, workers, how, warm_up), measure(context, workers, how, seconds))


def fanout(context: RunContext, options: FanoutOptions) -> Figures:
    """Measure messages to everybody in an app."""
    workers = context.start_workers(-(-options.receivers // MOST_IN_PROCESS))
    context.open(workers, options.receivers)
    if options.channel:
        context.ask(workers[:1], subscribe_all, count=options.receivers)
    warm_up, how = min(WARM_UP_SECONDS, options.seconds), options.sending
    return measure_warm(context, workers, how, options.seconds, warm_up)


def push(context: RunContext, options: PushOptions | PublishOptions) -> Figures:
    """Measure messages to single users by HTTP."""
    workers = context.start_workers(1)
    context.open(workers, options.users)
    return measure_warm(
        context, workers, options.sending, options.seconds, min(WARM_UP_SECONDS, options.seconds)
    )


def publish(context: RunContext, options: PublishOptions) -> Figures:
    """Measure messages over publisher connections."""
    url = f"http://{context.target.http_host}:{context.target.http_port}"
    try:
        with Publisher(
            url, context.target.key
        ) as publisher:  # checks that the server knows route, key and app
            publisher.push(str(context.target.app), "a first one", user=user_name(0))
    except ClientError as error:
        raise BenchError(f"{url}{PUBLISHER_PATH}: {error}") from None
    return push(context, options)
