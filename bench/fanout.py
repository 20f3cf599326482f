"""Scenario ``fanout``: messages to everybody in an app, counted at every receiver."""

from __future__ import annotations

import random
import string
import time
from dataclasses import dataclass
from typing import Any

from bench.figures import Figures, with_faults_of
from bench.floor import FloorStage
from bench.generator import Generator
from bench.http_client import FORM, Lane, Lanes, request_head
from bench.latency import STAMP_DIGITS, Latency, stamp_us
from bench.loop import BenchError
from bench.stage import MOST_CONNECTIONS, MOST_IN_PROCESS, Stage, parameter, seconds_parameter
from bench.tally import Receipts, Tally

SENDER = "bench"
MOST_MESSAGES = 9_999_999  # seven digits
LAST_FRAMES_SECONDS = 2.0
#: How long nothing may come any more before the other processes have received all.
QUIET_SECONDS = 1.0
WINDOW_BYTES = 1 << 18  # what a receiver may be behind; servers close those that are far behind


def new_tag() -> str:
    """Return a name for one run; with the message's number it makes a ``msgID`` no server has seen."""
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=6))


class Pushes:
    """The sendMessageAll requests of one run. Owns their numbers and what the server said to them."""

    def __init__(self, generator: Generator, tag: str, clients: int, text_bytes: int) -> None:
        target = generator.target
        padding = b"." * (text_bytes - STAMP_DIGITS)
        body = f"appID={target.app}&userID={SENDER}&msgID={tag}%07d&message=%010d".encode() + padding
        head = request_head(target, "/user/sendMessageAll", FORM, len(body % (0, 0)))
        self._template = head.replace(b"%", b"%%") + body
        self.lanes = Lanes(generator.loop, target, clients, self._answer)
        self.pushed = 0
        self.refused: set[int] = set()
        self.first_refusal = ""

    def push(self, lane: Lane, count: int = 1) -> None:
        """Send the next ``count`` messages over ``lane``, pipelined."""
        first = self.pushed
        self.pushed = first + count
        template, now = self._template, stamp_us()
        numbers = range(first, first + count)
        self.lanes.send(lane, numbers, b"".join([template % (number, now) for number in numbers]))

    def _answer(self, number: int, micros: int, status: int, body: bytes) -> None:
        if b'"sendResults":true' not in body:
            self.refused.add(number)
            self.first_refusal = self.first_refusal or f"{status} {body[:200]!r}"

    @property
    def accepted(self) -> set[int]:
        return set(range(self.pushed)) - self.refused


def _alone(
    run: Pushes, tally: Tally, receivers: int, gap_seconds: float, end: float, generator: Generator
) -> None:
    """Push one message at a time: the next one when the last is everywhere."""
    (lane, *_rest) = run.lanes
    begin = due = time.monotonic()
    while (now := time.monotonic()) < end and run.pushed < MOST_MESSAGES and not generator.loop.stopped:
        out = run.pushed * receivers > tally.received or lane.waiting
        if not out and now >= due:
            run.push(lane)
            due = now + gap_seconds
        else:
            generator.loop.turn(due - now if not out else 0.2)
            generator.passed(begin, end)
            if out and now > tally.last_ns / 1e9 + LAST_FRAMES_SECONDS:
                return  # something is lost; the verdict says what


def _paced(run: Pushes, rate: float, end: float, generator: Generator) -> None:
    """Push ``rate`` messages a second, whatever the receivers do."""
    lanes = list(run.lanes)
    begin = time.monotonic()
    while (now := time.monotonic()) < end and run.pushed < MOST_MESSAGES and not generator.loop.stopped:
        due = begin + run.pushed / rate
        if now >= due:
            run.push(lanes[run.pushed % len(lanes)])
        else:
            generator.loop.turn(due - now)
            generator.passed(begin, end)


def _flat_out(
    run: Pushes, tally: Tally, receivers: int, depth: int, window: int, end: float, generator: Generator
) -> None:
    """Push as fast as the server answers, never more than ``window`` messages ahead of the receivers."""
    lanes = list(run.lanes)
    begin = time.monotonic()
    while time.monotonic() < end and not generator.loop.stopped:
        room = min(window - (run.pushed - tally.received // receivers), MOST_MESSAGES - run.pushed)
        for lane in lanes:
            count = min(depth - len(lane.waiting), room)
            if count > 0:
                run.push(lane, count)
                room -= count
        generator.loop.turn(0.1)
        generator.passed(begin, end)


def push_and_receive(
    generator: Generator,
    tag: str,
    seconds: float,
    rate: float,
    one_per_send: bool,
    clients: int,
    depth: int,
    window: int,
    text_bytes: int,
) -> dict[str, Any]:
    """Task: push to everybody, and count what arrives at the connections of this process."""
    tally = Tally(generator.swarm, tag)
    receivers = len(tally.receivers)
    run = Pushes(generator, tag, clients, text_bytes)
    begin = time.monotonic()
    end = begin + seconds
    if one_per_send:
        _alone(run, tally, receivers, 1 / rate if rate else 0.0, end, generator)
    elif rate:
        _paced(run, rate, end, generator)
    else:
        _flat_out(run, tally, receivers, depth, window, end, generator)
    during, pushing = tally.received, time.monotonic() - begin
    last_news = time.monotonic()
    while run.lanes.answered < run.pushed or tally.received < (run.pushed - len(run.refused)) * receivers:
        if generator.loop.turn(0.1):
            last_news = time.monotonic()
        elif time.monotonic() > last_news + LAST_FRAMES_SECONDS:
            break
    run.lanes.close()
    tally.release()
    return {
        "pushed": run.pushed,
        "unanswered": run.pushed - run.lanes.answered,
        "refused": sorted(run.refused),
        "refusal": run.first_refusal,
        "during": during,
        "pushing_seconds": pushing,
        "seconds": max(tally.last_ns / 1e9 - begin, 1e-6),
        "verdict": tally.verdict(run.accepted).pack(),
        **tally.figures(),
        **generator.swarm.facts(),
    }


def prepare(generator: Generator, tag: str) -> dict[str, Any]:
    """Task of the other processes: count from now on."""
    generator.kept["tally"] = Tally(generator.swarm, tag)
    return {}


def receive(generator: Generator, quiet_seconds: float) -> dict[str, Any]:
    """Task of the other processes: receive until told to stop and nothing comes any more."""
    tally: Tally = generator.kept["tally"]
    while not generator.loop.stopped:
        generator.loop.turn(0.5)
    generator.swarm.settle(quiet_seconds, 20)
    tally.release()
    return {**tally.figures(), **generator.swarm.facts()}


def verdict(generator: Generator, pushed: int, refused: list[int]) -> dict[str, Any]:
    """Task of the other processes: compare what was counted with what was pushed."""
    tally: Tally = generator.kept["tally"]
    return {"verdict": tally.verdict(set(range(pushed)) - set(refused)).pack()}


@dataclass(frozen=True)
class FanoutOptions:
    """Parameters of the scenario."""

    receivers: int = parameter(500, "Connections that receive each message.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(3.0, "How long to push")
    rate: float = parameter(0.0, "Messages a second; 0 is flat out.", least=0, most=100_000)
    one_per_send: bool = parameter(
        False, "Push the next message when the last is everywhere, so that each leaves alone."
    )
    clients: int = parameter(8, "HTTP connections that push.")
    depth: int = parameter(8, "Requests in flight on each of them (pipelined).")
    window: int = parameter(512, "Messages that the pushes may be ahead of the receivers.", most=100_000)
    text_bytes: int = parameter(20, "Bytes of the message text.", least=STAMP_DIGITS, most=60_000)


def run(stage: Stage, options: FanoutOptions) -> Figures:
    """Measure messages to everybody in an app."""
    hands = stage.hire(-(-options.receivers // MOST_IN_PROCESS))
    stage.open(hands, options.receivers)
    warm_up = measure(stage, hands, options, seconds=min(0.3, options.seconds))
    if not options.one_per_send:
        return with_faults_of(warm_up, measure(stage, hands, options, seconds=options.seconds))
    floor = FloorStage(stage, hands[0], options.receivers)
    frame_bytes = int(warm_up["frame_bytes"] or 0)
    gap_seconds = 1 / options.rate if options.rate else 0.0

    def bare_us(seconds: float) -> float:
        micros, _rate = floor.measure(seconds, frame_bytes=frame_bytes, in_flight=1, gap_seconds=gap_seconds)
        return micros

    before = bare_us(options.seconds / 2)
    figures = measure(stage, hands, options, seconds=options.seconds)
    floor_us = figures["floor_us"] = (before + bare_us(options.seconds / 2)) / 2
    cost = figures["cpu_us"]
    figures["of_floor_percent"] = 100 * floor_us / cost if cost else None
    return with_faults_of(warm_up, figures)


def measure(stage: Stage, hands: list[Any], options: FanoutOptions, seconds: float) -> Figures:
    """Push to everybody that the processes ``hands`` have connected; the first of them pushes."""
    tag = new_tag()
    first, others = hands[0], hands[1:]
    stage.ask(others, prepare, tag=tag)
    for hand in others:
        hand.ask(receive, quiet_seconds=QUIET_SECONDS)
    with stage.measured() as span:
        (answer,) = stage.ask(
            [first],
            push_and_receive,
            tag=tag,
            seconds=seconds,
            rate=options.rate,
            one_per_send=options.one_per_send,
            clients=options.clients,
            depth=options.depth,
            window=min(options.window, max(1, WINDOW_BYTES // options.text_bytes)),
            text_bytes=options.text_bytes,
        )
        for hand in others:
            hand.stop()
        answers = [answer, *stage.gather(others)]
    span.note(answers)
    if not answer["received"]:
        raise BenchError(f"no message arrived; the server answered {answer['refusal'] or 'nothing'}")
    sent = {"pushed": answer["pushed"], "refused": answer["refused"]}
    verdicts = [answer, *stage.ask(others, verdict, **sent)]
    whole = Receipts.merged(part["verdict"] for part in verdicts)
    flat_out = not options.rate and not options.one_per_send
    return {
        "messages": answer["pushed"],
        **span.rate("deliveries", whole.received, answer["seconds"], flat_out=flat_out),
        **Latency.merged(part["latency"] for part in answers).figures(),
        "frame_bytes": answer["frame_bytes"],
        "lost": whole.lost,
        "doubled": whole.doubled,
        "other_order": whole.other_order,
        "refused": len(answer["refused"]) + answer["unanswered"],
        "dropped": sum(part["lost"] for part in answers),
    }
