"""Scenarios ``fanout``, ``push`` and ``publish``: messages to all or to single
users, each one counted."""

from __future__ import annotations

import random
import socket
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from bench.connections import Connection, ConnectionSet, Target
from bench.context import MOST_IN_PROCESS, RunContext, parameter, seconds_parameter
from bench.figures import Figures, with_faults_of
from bench.frames import (
    CLOSE,
    FINAL,
    TEXT,
    UPGRADE_KEY,
    frame_template,
    scan,
    user_name,
)
from bench.generator import Generator
from bench.http_client import (
    FORM,
    JSON,
    HttpConnection,
    HttpConnections,
    get_request,
    post,
    request_head,
)
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency, stamp_us
from bench.loop import BenchError, Json
from bench.servers import Worker

NUMBER_DIGITS = 7
TIMED_FRAMES = 8  # in a read with more frames than this, only the oldest is timed
LIVE_TEXT = b'"msg":"'
STORED_TEXT = b'"text":"'
TEXT_FRAME = FINAL | TEXT


class Layout(NamedTuple):
    """Positions of the fields in a frame of this run; learned from the first
    frame."""

    length: int
    head: bytes
    tag_at: int
    number_at: int
    stamp_at: int


class Receipts(NamedTuple):
    """The received and missing messages of all receivers."""

    expected: int
    received: int
    lost: int
    doubled: int
    other_order: int


class Tally:
    """Counts the messages of one run at all connections of a set, as its
    ``take``.

    With ``every`` each frame's number is added to its receiver's checksum (for
    messages to single users, where each receiver gets its own stream).
    ``received`` and ``last_ns`` are updated with each read.
    """

    def __init__(
        self, connections: ConnectionSet, tag: str, *, every: bool = False
    ) -> None:
        self.connections = connections
        self.tag = tag.encode()
        self.every = every
        self.latency = Latency()
        self.received = self.others = self.reads = 0
        self.last_ns = time.monotonic_ns()
        self.layout: Layout | None = None
        self.witness: Connection | None = None
        self.receivers = list(connections.by_fd.values())
        for conn in self.receivers:
            conn.clear()
            if self.witness is None and not every:
                self.witness = conn
                conn.numbers = []
        connections.take = self.take

    def release(self) -> None:
        self.connections.take = self.connections.payloads

    def take(self, conn: Connection, end: int) -> None:
        self.reads += 1
        layout = self.layout
        if layout is not None:
            count = self._equal(layout, end)
        else:
            count = 0
        if layout is None or not count:
            self._scan(conn, end)
            return
        view = self.connections.view
        buffer = self.connections.buffer
        length = layout.length
        whole = count * length
        conn.rest = bytes(view[whole:end]) if whole < end else b""
        self.received += count
        conn.frames += count
        self.last_ns = time.monotonic_ns()
        now_us = self.last_ns // 1000
        if count > TIMED_FRAMES and not self.every:
            timed = length
        else:
            timed = whole
        for at in range(layout.stamp_at, timed, length):
            self.latency.add(
                (now_us - int(buffer[at : at + STAMP_DIGITS])) % STAMP_WRAP
            )
        if not self.every:
            conn.digest = crc32(view[:whole], conn.digest)
        if self.every or conn.numbers is not None:
            for at in range(layout.number_at, whole, length):
                self._number(conn, int(buffer[at : at + NUMBER_DIGITS]))

    def _number(self, conn: Connection, number: int) -> None:
        conn.checksum += number
        if conn.numbers is not None:
            conn.numbers.append(number)

    def _equal(self, layout: Layout, end: int) -> int:
        """The number of frames in the buffer, if it starts with frames of this
        run's length only, else 0."""
        buffer = self.connections.buffer
        length = layout.length
        count = end // length
        whole = count * length
        equal = (
            count
            and buffer.startswith(layout.head)
            and buffer.startswith(self.tag, whole - length + layout.tag_at)
            and (count == 1 or buffer[0:whole:length].count(TEXT_FRAME) == count)
        )
        return count if equal else 0

    def _scan(self, conn: Connection, end: int) -> None:
        """Count frame by frame: the first of a run, and reads that contain
        other frames."""
        connections = self.connections
        found, used = scan(connections.buffer, end)
        begin = 0
        for opcode, start, stop in found:
            frame = bytes(connections.view[begin:stop])
            head_bytes = start - begin
            begin = stop
            tag_at = frame.find(self.tag)
            if opcode >= CLOSE:
                connections.control(conn, opcode, frame[head_bytes:])
            elif tag_at < 0:
                self.others += 1
            else:
                mark = LIVE_TEXT if LIVE_TEXT in frame else STORED_TEXT
                stamp_at = frame.find(mark) + len(mark)
                number_at = tag_at + len(self.tag)
                self.received += 1
                conn.frames += 1
                self._number(conn, int(frame[number_at : number_at + NUMBER_DIGITS]))
                conn.digest = crc32(frame, conn.digest)
                self.last_ns = time.monotonic_ns()
                self.latency.add(
                    (stamp_us() - int(frame[stamp_at : stamp_at + STAMP_DIGITS]))
                    % STAMP_WRAP
                )
                if self.layout is None:
                    self.layout = Layout(
                        len(frame), frame[:head_bytes], tag_at, number_at, stamp_at
                    )
        conn.rest = bytes(connections.view[used:end])

    def verdict(self, accepted: set[int]) -> Receipts:
        """Compare the received messages of each receiver with the numbers of
        the ``accepted`` broadcasts."""
        wanted = len(accepted)
        witness = self.witness
        lost = doubled = other_order = received = 0
        if witness:
            seen = set(witness.numbers or ())
        else:
            seen = set()
        witness_lost = len(accepted - seen)
        if witness:
            witness_doubled = witness.frames - len(seen & accepted)
        else:
            witness_doubled = 0
        for conn in self.receivers:
            received += conn.frames
            if (
                witness
                and conn.frames == witness.frames
                and conn.digest == witness.digest
            ):
                lost += witness_lost
                doubled += witness_doubled
            else:
                lost += max(0, wanted - conn.frames)
                doubled += max(0, conn.frames - wanted)
                other_order += conn.frames == wanted
        return Receipts(
            wanted * len(self.receivers), received, lost, doubled, other_order
        )

    def compare(self, wanted: Sequence[Sequence[int]]) -> Receipts:
        """Compare the received messages of each receiver with what it must
        have: how many messages, and the sum of their numbers (with ``every``).
        """
        lost = wrong = 0
        for conn, (frames, checksum) in zip(self.receivers, wanted, strict=True):
            lost += max(0, frames - conn.frames)
            wrong += max(0, conn.frames - frames)
            wrong += conn.frames == frames and conn.checksum != checksum
        return Receipts(
            sum(frames for frames, _ in wanted), self.received, lost, wrong, 0
        )

    def figures(self) -> Json:
        return {
            "received": self.received,
            "reads": self.reads,
            "frame_bytes": self.layout.length if self.layout else 0,
            "latency": self.latency.pack(),
            **self.connections.facts(),
        }


SENDER = "bench"
MOST_MESSAGES = 9_999_999  # seven digits
#: Time without any data after which what has not come is lost.
LAST_FRAMES_SECONDS = 10.0
#: Limit of the messages by which broadcasts may be ahead of the receivers; servers close slow receivers.
WINDOW = 512
PADDING = b"." * (20 - STAMP_DIGITS)
WARM_UP_SECONDS = 0.3
PUSH_PATH = "/api/v1/push"
PUBLISHER_PATH = "/api/v1/publisher"
PUBLISHERS = 4
UNDER_WAY = 64
JOINED_TOGETHER = 1000


def new_tag() -> str:
    """Return a name for one run; with the message's number it makes a ``msgID``
    no server has seen."""
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=6))


class PublisherConnections(HttpConnections):
    """Publisher connections: frames instead of requests."""

    def connect(self, target: Target) -> socket.socket:
        sock = super().connect(target)
        upgrade = (
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
        )
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


@dataclass(frozen=True)
class Kind:
    """A way to send messages. ``body``: of a request with one message, with
    placeholders for number and time.

    A request in bulk goes to ``bulk_path``; its body is ``bulk``, with an
    ``item`` for each user. Either each item has number and time, or ``bulk``
    has them: it is one message to many. ``sent`` is in the answer once for each
    message that was sent. ``least``: requests that a connection sends at once,
    at least.
    """

    path: str
    content_type: str
    body: bytes
    sent: bytes
    bulk_path: str = ""
    bulk: bytes = b""
    item: bytes = b""
    to_all: bool = False
    publisher: bool = False
    least: int = 1

    @property
    def together(self) -> bool:
        return b"%%07d" in self.bulk


_TEXT = b'"id":"%(tag)b%%07d","text":"%%010d%(padding)b"'
_FORM = b"appID=%(app)b&userID=%(user)b&msgID=%(tag)b%%07d&message=%%010d%(padding)b"
_USER = b'{"app":"%(app)b","user":"%(user)b",' + _TEXT
_PUSH = Kind(
    PUSH_PATH,
    JSON,
    _USER + b"}",
    b'"sent":%d,',
    bulk_path=PUSH_PATH,
    bulk=b'{"app":"%(app)b","users":[%%b],' + _TEXT + b"}",
    item=b'"%(user)b"',
)
KINDS = {
    "all": Kind(
        "/user/sendMessageAll", FORM, _FORM, b'"sendResults":true', to_all=True
    ),
    "channel": Kind(
        "/api/v1/channels/publish",
        JSON,
        b'{"app":"%(app)b","channel":"bench","sender":"%(user)b",' + _TEXT + b"}",
        b'"status":"sent"',
        to_all=True,
    ),
    "users": Kind(
        "/user/sendMessage",
        FORM,
        _FORM,
        b'"sendResults":true',
        bulk_path="/user/sendMessageBatch",
        bulk=b'{"appID":%(app)b,"messages":[%%b]}',
        item=b'{"userID":"%(user)b","msgID":"%(tag)b%%07d","message":"%%010d%(padding)b"}',
    ),
    "v1": _PUSH,
    "stored": Kind(
        PUSH_PATH, JSON, _USER + b',"sender":"bench","store":true}', b'"sent":1,'
    ),
    "publish": Kind(
        PUBLISHER_PATH,
        JSON,
        b'{"seq":"s","publish":' + _PUSH.body + b"}",
        b'"sent":1}',
        publisher=True,
        least=UNDER_WAY // 2 + 1,
    ),
}


@dataclass(frozen=True)
class Sending:
    """The load of a generator: a kind of KINDS, over ``clients`` connections,
    ``depth`` requests in flight on each.
    """

    kind: str
    clients: int
    depth: int = 1
    bulk: int = 0
    rate: float = 0.0
    alone: bool = False
    """The next one is sent after all have received the last one."""
    window: int = 0
    """So many messages may be ahead of the receivers, at most; 0: as many as
    are in flight."""


class Messages:
    """The messages of one run, to one after the other of ``users``. Owner of
    their numbers and of the server's answers. A request carries ``size``
    messages.
    """

    def __init__(
        self, generator: Generator, tag: str, how: Sending, users: Sequence[str]
    ) -> None:
        kind = KINDS[how.kind]
        self.kind = kind
        self.target = generator.target
        self.bulk, self.size = how.bulk, how.bulk or 1
        self.latency = Latency()
        self.pushed = self.requests = 0
        self.refused: set[int] = set()
        self.first_refusal = ""
        self._sent = kind.sent.replace(b"%d", b"%d" % self.size)
        connections = PublisherConnections if kind.publisher else HttpConnections
        self.http = connections(
            generator.loop, self.target, how.clients, self._answered
        )
        self.conns = list(self.http)
        fixed = {
            b"app": str(self.target.app).encode(),
            b"tag": tag.encode(),
            b"padding": PADDING,
        }
        self._batch = kind.bulk % fixed
        bodies = [
            (kind.item if self.bulk else kind.body) % {**fixed, b"user": user.encode()}
            for user in users
        ]
        if self.bulk:
            self._templates = bodies
        else:
            self._templates = [self._request(body) for body in bodies]

    def _request(self, body: bytes) -> bytes:
        """Return the request, or the frame, with a body that has placeholders
        for number and time."""
        if self.kind.publisher:
            return frame_template(body)
        head = request_head(
            self.target, self.kind.path, self.kind.content_type, len(body % (0, 0))
        )
        return head.replace(b"%", b"%%") + body

    def push(self, conn: HttpConnection, count: int = 1) -> None:
        """Send the next ``count`` requests over ``conn``, pipelined; in bulk
        one."""
        first = self.pushed
        templates = self._templates
        users = len(self._templates)
        now = stamp_us()
        self.requests += count
        self.pushed += count * self.size
        numbers = range(first, self.pushed)
        if not self.bulk:
            data = b"".join(
                [templates[number % users] % (number, now) for number in numbers]
            )
            self.http.send(conn, numbers, data)
            return
        if self.kind.together:
            body = self._batch % (
                b",".join([templates[number % users] for number in numbers]),
                first,
                now,
            )
        else:
            items = [templates[number % users] % (number, now) for number in numbers]
            body = self._batch % b",".join(items)
        head = request_head(self.target, self.kind.bulk_path, JSON, len(body))
        self.http.send(conn, (first,), head + body)

    def _answered(self, number: int, micros: int, status: int, body: bytes) -> None:
        self.latency.add(micros)
        if body.count(self._sent) < (1 if self.kind.together else self.size):
            self.refused.update(range(number, number + self.size))
            self.first_refusal = self.first_refusal or f"{status} {body[:200]!r}"

    def receipts(self, tally: Tally) -> Receipts:
        """Compare the received messages of each user with the accepted messages
        to that user."""
        if self.kind.to_all:
            return tally.verdict(set(range(self.pushed)) - self.refused)
        users = len(self._templates)
        wanted = [[0, 0] for _ in range(users)]
        for target in range(self.pushed):
            if target not in self.refused:
                entry = wanted[target % users]
                entry[0] += 1
                entry[1] += (
                    target - target % self.size if self.kind.together else target
                )
        return tally.compare(wanted)


def _send(
    generator: Generator,
    run: Messages,
    tally: Tally,
    seconds: float,
    how: Sending,
    each: int,
) -> None:
    """Send for ``seconds``: one at a time, at a fixed rate, or as fast as the
    server answers."""
    loop = generator.loop
    conns = run.conns
    end = time.monotonic() + seconds
    if how.rate:
        for turn in loop.paced(how.rate, seconds):
            run.push(conns[turn % len(conns)])
    while (
        not how.rate
        and time.monotonic() < end
        and run.pushed < MOST_MESSAGES
        and not loop.stopped
    ):
        if how.alone:
            run.push(conns[0])
            everywhere = run.pushed * each
            if not loop.until(
                lambda wanted=everywhere: (
                    tally.received >= wanted and not conns[0].waiting
                ),  # type: ignore[misc]
                LAST_FRAMES_SECONDS,
            ):
                return  # a message is lost; the receipts show which
            continue
        room = MOST_MESSAGES - run.pushed
        if how.window:
            room = min(room, how.window - (run.pushed - tally.received // each))
        for conn in conns:
            count = min(how.depth - len(conn.waiting), room)
            if count >= run.kind.least:
                run.push(conn, count)
                room -= count
        loop.turn(0.1)


def send_and_receive(
    generator: Generator, tag: str, seconds: float, sending: Json
) -> Json:
    """Task: send, and count the messages that arrive at the connections of this
    process."""
    how = Sending(**sending)
    to_all = KINDS[how.kind].to_all
    tally = Tally(generator.connections, tag, every=not to_all)
    if to_all:
        users = [SENDER]
    else:
        users = [user_name(conn.number) for conn in tally.receivers]
    run = Messages(generator, tag, how, users)
    each = len(tally.receivers) if to_all else 1
    begin = time.monotonic()
    _send(generator, run, tally, seconds, how, each)
    during = run.http.answered * run.size
    sending_seconds = time.monotonic() - begin

    def complete() -> bool:
        accepted = run.pushed - len(run.refused)
        return run.http.answered >= run.requests and tally.received >= accepted * each

    generator.loop.until_quiet(complete, LAST_FRAMES_SECONDS)
    run.http.close()
    tally.release()
    return {
        "pushed": run.pushed,
        "unanswered": run.requests - run.http.answered,
        "refused": len(run.refused),
        "refusal": run.first_refusal,
        "during": during,
        "sending_seconds": sending_seconds,
        "seconds": max(tally.last_ns / 1e9 - begin, 1e-6),
        "receipts": run.receipts(tally),
        "answers": run.latency.pack(),
        **tally.figures(),
    }


def subscribe_all(generator: Generator, count: int) -> Json:
    """Task: subscribe the users from number 0 to the channel."""
    subscribed = 0
    for first in range(0, count, JOINED_TOGETHER):
        users = [
            user_name(number)
            for number in range(first, min(first + JOINED_TOGETHER, count))
        ]
        body = {"app": str(generator.target.app), "channel": "bench", "users": users}
        subscribed += post(generator.target, "/api/v1/channels/subscribe", body)[
            "subscribed"
        ]
    if subscribed != count:
        raise BenchError(f"{subscribed} of {count} connections were subscribed")
    return {}


@dataclass(frozen=True)
class FanoutOptions:
    receivers: int = parameter(
        500, "Connections that receive each message.", most=MOST_IN_PROCESS
    )
    seconds: float = seconds_parameter(3.0, "How long to push")
    rate: float = parameter(
        0.0, "Messages a second. 0 means as many as possible.", least=0, most=100_000
    )
    one_per_send: bool = parameter(
        False, "Push a message only when the last one has reached everybody."
    )
    channel: bool = parameter(
        False, "Publish to a channel with all connections, instead of the app."
    )
    redis: bool = parameter(False, "The server has a Redis.")

    @property
    def sending(self) -> Sending:
        kind, window = ("channel", 0) if self.channel else ("all", WINDOW)
        return Sending(
            kind,
            clients=8,
            depth=8,
            rate=self.rate,
            alone=self.one_per_send,
            window=window,
        )


@dataclass(frozen=True)
class PushOptions:
    users: int = parameter(
        1000, "Connected users who get the pushes in turn.", most=MOST_IN_PROCESS
    )
    seconds: float = seconds_parameter(3.0, "How long to push")
    clients: int = parameter(16, "HTTP connections, one request in flight on each.")
    bulk: int = parameter(
        0,
        "Messages in one bulk request. 0 means one message in each request.",
        least=0,
        most=10_000,
    )
    rate: float = parameter(
        0.0, "Requests a second. 0 means as many as possible.", least=0, most=100_000
    )
    v1: bool = parameter(
        False, "Push by /api/v1/push. With --bulk, one message goes to many users."
    )
    keyed: bool = parameter(
        False, "Start a server that requires API keys, and push with a key."
    )
    redis: bool = parameter(False, "The server has a Redis.")

    @property
    def sending(self) -> Sending:
        return Sending(
            "v1" if self.v1 else "users", self.clients, bulk=self.bulk, rate=self.rate
        )


@dataclass(frozen=True)
class PublishOptions:
    users: int = parameter(
        1000, "Connected users who get the publications in turn.", most=MOST_IN_PROCESS
    )
    seconds: float = seconds_parameter(3.0, "How long to publish")
    rate: float = parameter(
        0.0,
        "Publications a second. 0 means as many as possible.",
        least=0,
        most=100_000,
    )
    keyed: bool = parameter(
        False, "Start a server that requires API keys, and publish with a key."
    )

    @property
    def sending(self) -> Sending:
        return Sending("publish", PUBLISHERS, UNDER_WAY, rate=self.rate)


def measure(
    context: RunContext, worker: Worker, how: Sending, seconds: float
) -> Figures:
    """Send to the connections of a process, from there."""
    with context.measured() as span:
        sending = {"tag": new_tag(), "seconds": seconds, "sending": vars(how)}
        (answer,) = context.ask([worker], send_and_receive, **sending)
    span.note([answer])
    if not answer["received"]:
        raise BenchError(
            f"no message arrived; the server answered {answer['refusal'] or 'nothing'}"
        )
    pushed = answer["pushed"]
    to_all = KINDS[how.kind].to_all
    whole = Receipts(*answer["receipts"])
    figures: Figures = {"messages": pushed}
    flat_out = not how.rate and not how.alone
    if to_all:
        figures |= span.rate(
            "deliveries", whole.received, answer["seconds"], flat_out=flat_out
        )
    else:
        if how.kind == "publish":
            unit = "publishes"
        elif how.bulk:
            unit = "targets"
        else:
            unit = "requests"
        seconds = answer["sending_seconds"]
        during = answer["during"]
        figures |= span.rate(unit, pushed, seconds, during=during, flat_out=flat_out)
    prefix = "ack_" if how.kind == "publish" else "answer_"
    figures |= {
        **Latency.merged([answer["answers"]]).figures(prefix, maximum=False),
        **Latency.merged([answer["latency"]]).figures(),
        "frame_bytes": answer["frame_bytes"],
        "lost": whole.lost,
        "doubled": whole.doubled,
        "refused": answer["refused"] + answer["unanswered"],
        "dropped": answer["lost"],
    }
    if to_all:
        figures["messages_a_read"] = whole.received / max(answer["reads"], 1)
        figures["other_order"] = whole.other_order
    return figures


def measure_warm(
    context: RunContext,
    worker: Worker,
    how: Sending,
    seconds: float,
    warm_up: float = WARM_UP_SECONDS,
) -> Figures:
    """Warm up, then measure; errors in the warm-up count too."""
    begun = measure(context, worker, how, min(warm_up, seconds))
    return with_faults_of(begun, measure(context, worker, how, seconds))


def fanout(context: RunContext, options: FanoutOptions) -> Figures:
    """Measure messages to everybody in an app."""
    (worker,) = context.start_workers(1)
    context.open([worker], options.receivers)
    if options.channel:
        context.ask([worker], subscribe_all, count=options.receivers)
    return measure_warm(context, worker, options.sending, options.seconds)


def push(context: RunContext, options: PushOptions | PublishOptions) -> Figures:
    """Measure messages to single users by HTTP."""
    (worker,) = context.start_workers(1)
    context.open([worker], options.users)
    return measure_warm(context, worker, options.sending, options.seconds)
