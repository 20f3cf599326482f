"""Scenarios ``fanout``, ``push`` and ``publish``: messages to all or to single users, each one counted."""

from __future__ import annotations

import random
import socket
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.connections import Target
from bench.crew import Hand
from bench.figures import Figures, with_faults_of
from bench.floor import FloorStage
from bench.frames import FINAL, TEXT, UPGRADE_KEY, scan, user_name
from bench.generator import Generator
from bench.http_client import FORM, JSON, Lane, Lanes, get_request, request_head
from bench.latency import STAMP_DIGITS, Latency, stamp_us
from bench.loop import BenchError, Json
from bench.stage import MOST_CONNECTIONS, MOST_IN_PROCESS, Stage, parameter, seconds_parameter
from bench.tally import Receipts, Tally
from imserver_client import ClientError, Publisher

SENDER = "bench"
MOST_MESSAGES = 9_999_999  # seven digits
LAST_FRAMES_SECONDS = 2.0
#: How long nothing may come any more before the other processes have received all.
QUIET_SECONDS = 1.0
#: Messages that broadcasts may be ahead of the receivers; servers close those that are far behind.
WINDOW = 512
PADDING = b"." * (20 - STAMP_DIGITS)
WARM_UP_SECONDS = 0.3
PUSH_PATH, PUBLISHER_PATH = "/api/v1/push", "/api/v1/publisher"
PUBLISHERS, UNDER_WAY = 4, 64


def new_tag() -> str:
    """Return a name for one run; with the message's number it makes a ``msgID`` no server has seen."""
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=6))


class Messages:
    """The messages of one run: to one user after the other, by ``/user/sendMessage``. Owns their numbers and
    the server's answers.

    Message ``n`` goes to user ``n`` modulo their count. A request carries ``size`` of them. ``least``: a
    connection takes no fewer requests at once.
    """

    lanes_class = Lanes
    sent_mark = b'"sendResults":true'

    def __init__(self, generator: Generator, tag: str, clients: int, depth: int, bulk: int) -> None:
        self.target = generator.target
        self.tag = tag.encode()
        self.users = [user_name(peer.number).encode() for peer in generator.swarm.peers.values()]
        self.bulk, self.size, self.least = bulk, bulk or 1, 1
        self.latency = Latency()
        self.pushed = self.requests = 0
        self.refused: set[int] = set()
        self.first_refusal = ""
        self.lanes = self.lanes_class(generator.loop, self.target, clients, self.answered)
        self.templates = [self.item(user) for user in self.users] if bulk else self.whole_requests()

    def whole_requests(self) -> list[bytes]:
        """Return a request for each user, with places for number and time."""
        body = b"appID=%d&userID=%%b&msgID=%b%%%%07d&message=%%%%010d%b"
        body %= self.target.app, self.tag, PADDING
        return [self.request("/user/sendMessage", FORM, body % user) for user in self.users]

    def request(self, path: str, kind: str, body: bytes) -> bytes:
        return request_head(self.target, path, kind, len(body % (0, 0))).replace(b"%", b"%%") + body

    def item(self, user: bytes) -> bytes:
        return b'{"userID":"%b","msgID":"%b%%07d","message":"%%010d%b"}' % (user, self.tag, PADDING)

    def push(self, lane: Lane, count: int = 1) -> None:
        """Send the next ``count`` requests over ``lane``, pipelined."""
        first, templates, users, now = self.pushed, self.templates, len(self.templates), stamp_us()
        self.requests += count
        self.pushed += count * self.size
        numbers = range(first, self.pushed)
        if count == 1 and not self.bulk:
            self.lanes.send(lane, (first,), templates[first % users] % (first, now))
        elif self.bulk:
            path, body = self.bulk_body([templates[number % users] for number in numbers], first, now)
            self.lanes.send(lane, (first,), request_head(self.target, path, JSON, len(body)) + body)
        else:
            data = b"".join([templates[number % users] % (number, now) for number in numbers])
            self.lanes.send(lane, numbers, data)

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
        """Return the number that the message to target ``target`` carries."""
        return target

    def receipts(self, tally: Tally) -> Receipts:
        """Compare what each user got with the accepted messages to them."""
        users = len(self.users)
        wanted = [[0, 0] for _ in range(users)]
        for target in range(self.pushed):
            if target not in self.refused:
                entry = wanted[target % users]
                entry[0] += 1
                entry[1] += self.number_of(target)
        lost = wrong = 0
        for peer, (frames, checksum) in zip(tally.receivers, wanted, strict=True):
            lost += max(0, frames - peer.frames)
            wrong += max(0, peer.frames - frames)
            wrong += peer.frames == frames and peer.checksum != checksum
        return Receipts(self.pushed, tally.received, lost, wrong, 0)


class Broadcasts(Messages):
    """Messages to everybody, by ``/user/sendMessageAll``."""

    def whole_requests(self) -> list[bytes]:
        body = f"appID={self.target.app}&userID={SENDER}&msgID={self.tag.decode()}%07d&message=%010d"
        return [self.request("/user/sendMessageAll", FORM, body.encode() + PADDING)]

    def receipts(self, tally: Tally) -> Receipts:
        return tally.verdict(set(range(self.pushed)) - self.refused)


class V1Pushes(Messages):
    """To users by ``/api/v1/push``: a request in bulk is one message to many users."""

    def whole_requests(self) -> list[bytes]:
        self.lanes.usual_end = b'"},"status":"sent"}]}'
        body = b'{"app":"%d","user":"%%b","id":"%b%%%%07d","text":"%%%%010d%b"}'
        body %= self.target.app, self.tag, PADDING
        return [self.request(PUSH_PATH, JSON, body % user) for user in self.users]

    def item(self, user: bytes) -> bytes:
        return b'"%b"' % user

    def bulk_body(self, items: list[bytes], first: int, now: int) -> tuple[str, bytes]:
        values = self.target.app, b",".join(items), self.tag, first, now, PADDING
        return PUSH_PATH, b'{"app":"%d","users":[%b],"id":"%b%07d","text":"%010d%b"}' % values

    def accepted(self, body: bytes) -> bool:
        return body.startswith(b'{"sent":%d,' % self.size)

    def number_of(self, target: int) -> int:
        return target - target % self.size


class PublisherLanes(Lanes):
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

    def parse(self, lane: Lane, data: bytes) -> bytes:
        found, end = scan(data, len(data))
        now = time.monotonic_ns()
        for opcode, start, stop in found:
            if opcode == TEXT:
                self.answer(lane, now, 200, data[start:stop])
        return data[end:]


class Publishes(Messages):
    """To users over publisher connections."""

    lanes_class = PublisherLanes
    sent_mark = b'"sent":1}'

    def __init__(self, generator: Generator, tag: str, clients: int, depth: int, bulk: int) -> None:
        super().__init__(generator, tag, clients, depth, bulk)
        self.least = depth // 2 + 1

    def whole_requests(self) -> list[bytes]:
        body = b'{"seq":"s","publish":{"app":"%d","user":"%%b","id":"%b%%%%07d","text":"%%%%010d%b"}}'
        body %= self.target.app, self.tag, PADDING
        return [_masked(body % user) for user in self.users]


def _masked(payload: bytes) -> bytes:
    """Return a frame around a payload with places for number and time; a mask of zeros leaves the bytes."""
    size = len(payload % (0, 0))
    head = (
        b"%c%c" % (FINAL | TEXT, 0x80 | size)
        if size < 126
        else b"%c\xfe%b" % (FINAL | TEXT, size.to_bytes(2))
    )
    return head.replace(b"%", b"%%") + bytes(4) + payload


KINDS = {"all": Broadcasts, "users": Messages, "v1": V1Pushes, "publish": Publishes}


def _send(generator: Generator, run: Messages, tally: Tally, seconds: float, how: Sending, each: int) -> None:
    """Send for ``seconds``: at a pace, one at a time, or as fast as the server answers."""
    lanes, begin = list(run.lanes), time.monotonic()
    due, end = begin, begin + seconds
    while (now := time.monotonic()) < end and run.pushed < MOST_MESSAGES and not generator.loop.stopped:
        if how.alone:
            out = run.pushed * each > tally.received or bool(lanes[0].waiting)
            if not out and now >= due:
                run.push(lanes[0])
                due = now + (1 / how.rate if how.rate else 0.0)
                continue
            generator.loop.turn(0.2 if out else due - now)
            if out and now > tally.last_ns / 1e9 + LAST_FRAMES_SECONDS:
                return  # something is lost; the receipts say what
        elif how.rate:
            due = begin + run.requests / how.rate
            if now >= due:
                run.push(lanes[run.requests % len(lanes)])
                continue
            generator.loop.turn(min(due, end) - now)
        else:
            room = MOST_MESSAGES - run.pushed
            if how.kind == "all":
                room = min(room, WINDOW - (run.pushed - tally.received // each))
            for lane in lanes:
                count = min(how.depth - len(lane.waiting), room)
                if count >= run.least:
                    run.push(lane, count)
                    room -= count
            generator.loop.turn(0.1)
        generator.passed(begin, end)


@dataclass(frozen=True)
class Sending:
    """What a generator sends: a kind of KINDS, over ``clients`` connections, ``depth`` under way on each."""

    kind: str
    clients: int
    depth: int = 1
    bulk: int = 0
    rate: float = 0.0
    alone: bool = False
    """The next one leaves when the last is everywhere."""


def send_and_receive(generator: Generator, tag: str, seconds: float, sending: Json) -> Json:
    """Task: send, and count what arrives at the connections of this process."""
    how = Sending(**sending)
    to_all = how.kind == "all"
    tally = Tally(generator.swarm, tag, every=not to_all)
    run = KINDS[how.kind](generator, tag, how.clients, how.depth, how.bulk)
    each = len(tally.receivers) if to_all else 1
    begin = time.monotonic()
    _send(generator, run, tally, seconds, how, each)
    during, sending_seconds = run.lanes.answered * run.size, time.monotonic() - begin
    last_news = time.monotonic()
    while run.lanes.answered < run.requests or tally.received < (run.pushed - len(run.refused)) * each:
        if generator.loop.turn(0.1):
            last_news = time.monotonic()
        elif time.monotonic() > last_news + LAST_FRAMES_SECONDS:
            break
    run.lanes.close()
    tally.release()
    return {
        "pushed": run.pushed,
        "unanswered": run.requests - run.lanes.answered,
        "refused": sorted(run.refused),
        "refusal": run.first_refusal,
        "during": during,
        "sending_seconds": sending_seconds,
        "seconds": max(tally.last_ns / 1e9 - begin, 1e-6),
        "receipts": run.receipts(tally).pack(),
        "answers": run.latency.pack(),
        **tally.figures(),
        **generator.swarm.facts(),
    }


def prepare(generator: Generator, tag: str) -> Json:
    """Task of the other processes: count from now on."""
    generator.kept["tally"] = Tally(generator.swarm, tag)
    return {}


def receive(generator: Generator, quiet_seconds: float) -> Json:
    """Task of the other processes: receive until told to stop and nothing comes any more."""
    tally: Tally = generator.kept["tally"]
    while not generator.loop.stopped:
        generator.loop.turn(0.5)
    generator.swarm.settle(quiet_seconds, 20)
    tally.release()
    return {**tally.figures(), **generator.swarm.facts()}


def compare(generator: Generator, pushed: int, refused: list[int]) -> Json:
    """Task of the other processes: compare what was counted with what was pushed."""
    tally: Tally = generator.kept["tally"]
    return {"receipts": tally.verdict(set(range(pushed)) - set(refused)).pack()}


@dataclass(frozen=True)
class FanoutOptions:
    receivers: int = parameter(500, "Connections that receive each message.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(3.0, "How long to push")
    rate: float = parameter(0.0, "Messages a second; 0 is flat out.", least=0, most=100_000)
    one_per_send: bool = parameter(False, "Push the next message when the last is everywhere.")

    @property
    def sending(self) -> Sending:
        return Sending("all", clients=8, depth=8, rate=self.rate, alone=self.one_per_send)


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


def measure(stage: Stage, hands: Sequence[Hand], how: Sending, seconds: float) -> Figures:
    """Send to what the processes ``hands`` have connected; the first of them sends."""
    tag, (first, *others) = new_tag(), hands
    stage.ask(others, prepare, tag=tag)
    for hand in others:
        hand.ask(receive, quiet_seconds=QUIET_SECONDS)
    with stage.measured() as span:
        (answer,) = stage.ask([first], send_and_receive, tag=tag, seconds=seconds, sending=vars(how))
        for hand in others:
            hand.stop()
        answers = [answer, *stage.gather(others)]
    span.note(answers)
    if not answer["received"]:
        raise BenchError(f"no message arrived; the server answered {answer['refusal'] or 'nothing'}")
    pushed, refused = answer["pushed"], answer["refused"]
    parts = [answer, *stage.ask(others, compare, pushed=pushed, refused=refused)]
    whole = Receipts.merged(part["receipts"] for part in parts)
    figures: Figures = {"messages": pushed}
    flat_out = not how.rate and not how.alone
    if how.kind == "all":
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
    return {**figures, "other_order": whole.other_order} if how.kind == "all" else figures


def measure_warm(
    stage: Stage, hands: Sequence[Hand], how: Sending, seconds: float, warm_up: float
) -> Figures:
    """Warm up, then measure; what goes wrong in the warm-up counts too."""
    return with_faults_of(measure(stage, hands, how, warm_up), measure(stage, hands, how, seconds))


def fanout(stage: Stage, options: FanoutOptions) -> Figures:
    """Measure messages to everybody in an app."""
    hands = stage.hire(-(-options.receivers // MOST_IN_PROCESS))
    stage.open(hands, options.receivers)
    warm_up, how = min(WARM_UP_SECONDS, options.seconds), options.sending
    if not how.alone:
        return measure_warm(stage, hands, how, options.seconds, warm_up)
    warmed = measure(stage, hands, how, warm_up)
    floor = FloorStage(stage, hands[0], options.receivers)
    frame_bytes = int(warmed["frame_bytes"] or 0)
    gap_seconds = 1 / how.rate if how.rate else 0.0

    def bare_us() -> float:
        seconds = options.seconds / 2
        return floor.measure(seconds, frame_bytes=frame_bytes, in_flight=1, gap_seconds=gap_seconds)[0]

    before = bare_us()
    figures = measure(stage, hands, how, options.seconds)
    floor_us = figures["floor_us"] = (before + bare_us()) / 2
    figures["of_floor_percent"] = 100 * floor_us / cost if (cost := figures["cpu_us"]) else None
    return with_faults_of(warmed, figures)


def push(stage: Stage, options: PushOptions | PublishOptions) -> Figures:
    """Measure messages to single users by HTTP."""
    hands = stage.hire(1)
    stage.open(hands, options.users)
    return measure_warm(stage, hands, options.sending, options.seconds, min(WARM_UP_SECONDS, options.seconds))


def publish(stage: Stage, options: PublishOptions) -> Figures:
    """Measure messages over publisher connections."""
    url = f"http://{stage.target.http_host}:{stage.target.http_port}"
    try:
        with Publisher(url, stage.target.key) as publisher:  # the server has to know route, key and app
            publisher.push(str(stage.target.app), "a first one", user=user_name(0))
    except ClientError as error:
        raise BenchError(f"{url}{PUBLISHER_PATH}: {error}") from None
    return push(stage, options)
