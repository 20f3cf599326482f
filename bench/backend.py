"""What the back end of a crowd does by HTTP: pushes to single users or to all, asks who is online."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

from bench.crowd import EVERYBODY, message_text
from bench.fanout import LAST_FRAMES_SECONDS, MOST_MESSAGES, SENDER, new_tag
from bench.frames import user_name
from bench.generator import Generator
from bench.http_client import FORM, JSON, Lanes, get_request, request_head
from bench.latency import Latency, stamp_us
from bench.loop import BenchError

ANSWER_SECONDS = 60.0
LOOK_SECONDS = 0.1


class Requests:
    """The requests of one task, spread over a few keep-alive connections. Owns what came of them."""

    def __init__(self, generator: Generator, clients: int) -> None:
        self.loop = generator.loop
        self.latency = Latency()
        self.sent = 0
        self.wrong = 0
        self.first_wrong = ""
        self._wanted: dict[int, bytes] = {}
        self.lanes = Lanes(generator.loop, generator.target, clients, self._answer)
        self._turns = list(self.lanes)

    def send(self, data: bytes, wanted: bytes) -> None:
        """Send a request over the next connection; its answer has to contain ``wanted``."""
        number = self.sent
        self._wanted[number] = wanted
        self.sent += 1
        self.lanes.send(self._turns[number % len(self._turns)], (number,), data)

    def _answer(self, number: int, micros: int, status: int, body: bytes) -> None:
        self.latency.add(micros)
        if self._wanted.pop(number) not in body:
            self.wrong += 1
            self.first_wrong = self.first_wrong or f"{status} {body[:200]!r}"

    def finish(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while self._wanted and time.monotonic() < end:
            self.loop.turn(0.1)
        self.lanes.close()
        return {
            "requests": self.sent,
            "unanswered": len(self._wanted),
            "wrong": self.wrong,
            "first_wrong": self.first_wrong,
            "answers": self.latency.pack(),
        }


def push_request(generator: Generator, tag: str, number: int, user: int) -> bytes:
    """Return a push to user number ``user``, or to EVERYBODY, that is stamped with the time of now."""
    target = generator.target
    path = "/user/sendMessageAll" if user == EVERYBODY else "/user/sendMessage"
    name = SENDER if user == EVERYBODY else user_name(user)
    body = f"appID={target.app}&userID={name}&msgID={tag}{number % MOST_MESSAGES:07d}&message=".encode()
    body += message_text(stamp_us(), user)
    return request_head(target, path, FORM, len(body)) + body


def _paced(generator: Generator, rate: float, seconds: float, send: Callable[[int], None]) -> None:
    """Call ``send`` with 0, 1, 2 … ``rate`` times a second."""
    begin = time.monotonic()
    end, turn = begin + seconds, 0
    while (now := time.monotonic()) < end and not generator.loop.stopped:
        due = begin + turn / rate
        if now >= due:
            send(turn)
            turn += 1
        else:
            generator.loop.turn(min(due, end) - now)
            generator.passed(begin, end)


def push_to_users(
    generator: Generator, first: int, users: int, rate: float, seconds: float, clients: int = 8
) -> dict[str, Any]:
    """Task: push to random ones of ``users`` users from number ``first``, ``rate`` times a second."""
    run, tag = Requests(generator, clients), new_tag()

    def send(number: int) -> None:
        user = first + random.randrange(users)
        run.send(push_request(generator, tag, number, user), b'"sendResults":true')

    _paced(generator, rate, seconds, send)
    return run.finish(LAST_FRAMES_SECONDS)


def push_to_all(generator: Generator) -> dict[str, Any]:
    """Task: push one message to everybody."""
    run = Requests(generator, 1)
    begin_ns = time.monotonic_ns()
    run.send(push_request(generator, new_tag(), 0, EVERYBODY), b'"sendResults":true')
    return {"begin_ns": begin_ns, **run.finish(ANSWER_SECONDS)}


def ask_online(
    generator: Generator, users: int, absent: int, rate: float, seconds: float, clients: int = 8
) -> dict[str, Any]:
    """Task: ask for random users whether they are online: ``users`` are, ``absent`` more are not."""
    run, target = Requests(generator, clients), generator.target

    def send(number: int) -> None:
        here = not absent or number % 2 == 0
        user = random.randrange(users) if here else users + random.randrange(absent)
        path = f"/user/online?appID={target.app}&userID={user_name(user)}"
        run.send(get_request(target, path), b'"online":true' if here else b'"online":false')

    _paced(generator, rate, seconds, send)
    return run.finish(LAST_FRAMES_SECONDS)


def wait_online(generator: Generator, first: int, users: int, until: int, seconds: float) -> dict[str, Any]:
    """Task: ask for ``users`` users from number ``first`` until so many are online, or ``seconds`` are over.

    Returns how many were online at the last look, and when that was.
    """
    target = generator.target
    names = json.dumps([user_name(number) for number in range(first, first + users)])
    body = f'{{"appID":{target.app},"userIDs":{names}}}'.encode()
    request = request_head(target, "/user/onlineBatch", JSON, len(body)) + body
    begin = time.monotonic()
    while True:
        found = json.loads(_answer_to(generator, request)).get("data") or {}
        now, here = time.monotonic(), found.get("onlineCount", -1)
        if here == until or now > begin + seconds or generator.loop.stopped:
            return {"online": here, "at": now}
        generator.loop.turn(LOOK_SECONDS)


def _answer_to(generator: Generator, request: bytes) -> bytes:
    """Send one request; return the body of its answer."""
    bodies: list[bytes] = []
    lanes = Lanes(
        generator.loop, generator.target, 1, lambda _number, _us, _status, body: bodies.append(body)
    )
    (lane,) = lanes
    end = time.monotonic() + ANSWER_SECONDS
    lanes.send(lane, (0,), request)
    while not bodies and time.monotonic() < end:
        generator.loop.turn(0.1)
    lanes.close()
    if not bodies:
        raise BenchError(f"the server did not answer within {ANSWER_SECONDS:g} s")
    return bodies[0]


def count_users(generator: Generator) -> dict[str, Any]:
    """Task: ask how many users are online."""
    begin = time.monotonic()
    path = f"/user/list?appID={generator.target.app}"
    data = json.loads(_answer_to(generator, get_request(generator.target, path))).get("data") or {}
    return {"count": data.get("userCount", 0), "milliseconds": 1000 * (time.monotonic() - begin)}
