"""Scenario ``push``: messages to single users by HTTP, one a request or many (``bulk``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.crew import Hand
from bench.fanout import LAST_FRAMES_SECONDS, MOST_MESSAGES, new_tag
from bench.figures import Figures, with_faults_of
from bench.frames import user_name
from bench.generator import Generator
from bench.http_client import FORM, JSON, Lane, Lanes, request_head
from bench.latency import STAMP_DIGITS, Latency, stamp_us
from bench.loop import BenchError
from bench.stage import MOST_IN_PROCESS, Stage, parameter, seconds_parameter
from bench.tally import Tally

PUSH_PATH = "/api/v1/push"


class UserPushes:
    """The pushes of one run, to one user after the other. Owns their numbers and the server's answers.

    Message ``n`` goes to user ``n`` modulo their count. A request carries ``bulk`` (0: one, as a form).
    """

    def __init__(self, generator: Generator, tag: str, clients: int, bulk: int, text_bytes: int) -> None:
        self.target = generator.target
        self.users = [user_name(peer.number).encode() for peer in generator.swarm.peers.values()]
        self.size = bulk or 1
        self.padding = b"." * (text_bytes - STAMP_DIGITS)
        self.latency = Latency()
        self.pushed = 0
        self.requests = 0
        self.refused: set[int] = set()
        self.first_refusal = ""
        self._bulk = bulk
        self._templates = self._forms(tag) if not bulk else self._items(tag)
        self._head = b""
        self.lanes = Lanes(generator.loop, self.target, clients, self._answer)

    def _forms(self, tag: str) -> list[bytes]:
        """Return a whole request for each user, with places for number and time."""
        templates = []
        for user in self.users:
            body = b"appID=%d&userID=%b&msgID=%b%%07d&message=%%010d%b" % (
                self.target.app,
                user,
                tag.encode(),
                self.padding,
            )
            head = request_head(self.target, "/user/sendMessage", FORM, len(body % (0, 0)))
            templates.append(head.replace(b"%", b"%%") + body)
        return templates

    def _items(self, tag: str) -> list[bytes]:
        """Return an item of a bulk request for each user, with places for number and time."""
        return [
            b'{"userID":"%b","msgID":"%b%%07d","message":"%%010d%b"}' % (user, tag.encode(), self.padding)
            for user in self.users
        ]

    def push(self, lane: Lane) -> None:
        """Send the next request over ``lane``."""
        first = self.pushed
        self.pushed += self.size
        self.requests += 1
        templates, count, now = self._templates, len(self.users), stamp_us()
        if not self._bulk:
            self.lanes.send(lane, (first,), templates[first % count] % (first, now))
            return
        items = [templates[number % count] % (number, now) for number in range(first, self.pushed)]
        body = b'{"appID":%d,"messages":[%b]}' % (self.target.app, b",".join(items))
        head = request_head(self.target, "/user/sendMessageBatch", JSON, len(body))
        self.lanes.send(lane, (first,), head + body)

    def _answer(self, number: int, micros: int, status: int, body: bytes) -> None:
        self.latency.add(micros)
        if body.count(b'"sendResults":true') < self.size:
            self.refused.update(range(number, number + self.size))
            self.first_refusal = self.first_refusal or f"{status} {body[:200]!r}"

    def number_of(self, target: int) -> int:
        """Return the number that the message to target ``target`` carries."""
        return target

    def shortfall(self, tally: Tally) -> tuple[int, int]:
        """Return how many accepted messages did not arrive, and how many arrived twice or changed."""
        return shortfall_of(tally, len(self.users), self.pushed, self.refused, self.number_of)


def shortfall_of(
    tally: Tally,
    users: int,
    pushed: int,
    refused: set[int],
    number_of: Callable[[int], int] = lambda target: target,
) -> tuple[int, int]:
    """Return how many of the accepted of ``pushed`` messages did not arrive, and how many arrived twice or
    changed. Target ``n`` is user ``n`` modulo ``users``; ``number_of(n)`` is the number of its message."""
    wanted = [[0, 0] for _ in range(users)]
    for target in range(pushed):
        if target not in refused:
            entry = wanted[target % users]
            entry[0] += 1
            entry[1] += number_of(target)
    lost = wrong = 0
    for peer, (frames, checksum) in zip(tally.receivers, wanted, strict=True):
        lost += max(0, frames - peer.frames)
        wrong += max(0, peer.frames - frames)
        wrong += peer.frames == frames and peer.checksum != checksum
    return lost, wrong


class V1Pushes(UserPushes):
    """The same by ``/api/v1/push``: a request in bulk is one message to many users."""

    def __init__(self, generator: Generator, tag: str, clients: int, bulk: int, text_bytes: int) -> None:
        super().__init__(generator, tag, clients, bulk, text_bytes)
        if not bulk:
            self.lanes.usual_end = b'"},"status":"sent"}]}'

    def _forms(self, tag: str) -> list[bytes]:
        templates = []
        for user in self.users:
            body = b'{"app":"%d","user":"%b","id":"%b%%07d","text":"%%010d%b"}' % (
                self.target.app,
                user,
                tag.encode(),
                self.padding,
            )
            head = request_head(self.target, PUSH_PATH, JSON, len(body % (0, 0)))
            templates.append(head.replace(b"%", b"%%") + body)
        return templates

    def _items(self, tag: str) -> list[bytes]:
        self._tag = tag.encode()
        return [b'"%b"' % user for user in self.users]

    def push(self, lane: Lane) -> None:
        if not self._bulk:
            super().push(lane)
            return
        first = self.pushed
        self.pushed += self.size
        self.requests += 1
        users, count = self._templates, len(self.users)
        named = b",".join([users[number % count] for number in range(first, self.pushed)])
        body = b'{"app":"%d","users":[%b],"id":"%b%07d","text":"%010d%b"}' % (
            self.target.app,
            named,
            self._tag,
            first,
            stamp_us(),
            self.padding,
        )
        self.lanes.send(lane, (first,), request_head(self.target, PUSH_PATH, JSON, len(body)) + body)

    def _answer(self, number: int, micros: int, status: int, body: bytes) -> None:
        self.latency.add(micros)
        if not body.startswith(b'{"sent":%d,' % self.size):
            self.refused.update(range(number, number + self.size))
            self.first_refusal = self.first_refusal or f"{status} {body[:200]!r}"

    def number_of(self, target: int) -> int:
        return target - target % self.size


def _flat_out(run: UserPushes, end: float, generator: Generator) -> None:
    """Keep one request in flight on each connection."""
    lanes, begin = list(run.lanes), time.monotonic()
    while time.monotonic() < end and run.pushed < MOST_MESSAGES and not generator.loop.stopped:
        for lane in lanes:
            if not lane.waiting:
                run.push(lane)
        generator.loop.turn(0.2)
        generator.passed(begin, end)


def _paced(run: UserPushes, rate: float, end: float, generator: Generator) -> None:
    """Send ``rate`` requests a second, answered or not."""
    lanes, begin = list(run.lanes), time.monotonic()
    while (now := time.monotonic()) < end and run.pushed < MOST_MESSAGES and not generator.loop.stopped:
        due = begin + run.requests / rate
        if now >= due:
            run.push(lanes[run.requests % len(lanes)])
        else:
            generator.loop.turn(min(due, end) - now)
            generator.passed(begin, end)


def push_and_receive(
    generator: Generator,
    tag: str,
    seconds: float,
    clients: int,
    bulk: int,
    text_bytes: int,
    rate: float = 0,
    v1: bool = False,
) -> dict[str, Any]:
    """Task: push for ``seconds`` over ``clients`` connections, at a ``rate``, or (0) one in flight each."""
    tally = Tally(generator.swarm, tag, every=True)
    run = (V1Pushes if v1 else UserPushes)(generator, tag, clients, bulk, text_bytes)
    begin = time.monotonic()
    if rate:
        _paced(run, rate, begin + seconds, generator)
    else:
        _flat_out(run, begin + seconds, generator)
    during, pushing = run.lanes.answered * run.size, time.monotonic() - begin
    last_news = time.monotonic()
    while run.lanes.answered < run.requests or tally.received < run.pushed - len(run.refused):
        if generator.loop.turn(0.1):
            last_news = time.monotonic()
        elif time.monotonic() > last_news + LAST_FRAMES_SECONDS:
            break
    run.lanes.close()
    tally.release()
    lost, wrong = run.shortfall(tally)
    return {
        "pushed": run.pushed,
        "requests": run.requests,
        "unanswered": run.requests - run.lanes.answered,
        "refused": len(run.refused),
        "refusal": run.first_refusal,
        "during": during,
        "seconds": pushing,
        "not_received": lost,
        "wrong": wrong,
        "answers": run.latency.pack(),
        **tally.figures(),
        **generator.swarm.facts(),
    }


@dataclass(frozen=True)
class PushOptions:
    """Parameters of the scenario."""

    users: int = parameter(1000, "Connected users, pushed to in turn.", most=MOST_IN_PROCESS)
    seconds: float = seconds_parameter(3.0, "How long to push")
    clients: int = parameter(16, "HTTP connections, one request in flight on each.")
    bulk: int = parameter(
        0,
        "Messages in a request of /user/sendMessageBatch; 0 is one a request of /user/sendMessage.",
        least=0,
        most=10_000,
    )
    text_bytes: int = parameter(20, "Bytes of the message text.", least=STAMP_DIGITS, most=60_000)
    rate: float = parameter(0.0, "Requests a second; 0 is flat out.", least=0, most=100_000)
    v1: bool = parameter(False, "Push by /api/v1/push; in bulk that is one message to many users.")
    keyed: bool = parameter(False, "Start a server that asks for API keys, and push with one.")


def run(stage: Stage, options: PushOptions) -> Figures:
    """Measure messages to single users by HTTP."""
    hands = stage.hire(1)
    stage.open(hands, options.users)
    warm_up = measure(stage, hands, options, min(0.3, options.seconds))
    return with_faults_of(warm_up, measure(stage, hands, options, options.seconds))


def measure(stage: Stage, hands: list[Hand], options: PushOptions, seconds: float) -> Figures:
    """Push to the users that the one process of ``hands`` has connected."""
    with stage.measured() as span:
        (answer,) = stage.ask(
            hands,
            push_and_receive,
            tag=new_tag(),
            seconds=seconds,
            clients=options.clients,
            bulk=options.bulk,
            text_bytes=options.text_bytes,
            rate=options.rate,
            v1=options.v1,
        )
    span.note([answer])
    if not answer["received"]:
        raise BenchError(f"no message arrived; the server answered {answer['refusal'] or 'nothing'}")
    unit = "targets" if options.bulk else "requests"
    answers = Latency.merged([answer["answers"]])
    return {
        "messages": answer["pushed"],
        **span.rate(
            unit, answer["pushed"], answer["seconds"], during=answer["during"], flat_out=not options.rate
        ),
        **Latency.merged([answer["latency"]]).figures(),
        "answer_p50_ms": answers.percentile_ms(50),
        "answer_p99_ms": answers.percentile_ms(99),
        "frame_bytes": answer["frame_bytes"],
        "lost": answer["not_received"],
        "doubled": answer["wrong"],
        "refused": answer["refused"] + answer["unanswered"],
        "dropped": answer["lost"],
    }
