"""The HTTP requests of a back end with many users: pushes to single users or to all, and presence."""

from __future__ import annotations

import random
import time

from bench.frames import user_name
from bench.generator import Generator
from bench.http_client import ANSWER_SECONDS, FORM, HttpConnections, fetch, get_request, post, request_head
from bench.latency import Latency, stamp_us
from bench.loop import Json
from bench.push import LAST_FRAMES_SECONDS, MOST_MESSAGES, SENDER, new_tag
from bench.user_tasks import EVERYBODY, message_text

LOOK_SECONDS = 0.1
CLIENTS = 8


class Requests:
    """The requests of one task, spread over a few keep-alive connections. Owner of the results."""

    def __init__(self, generator: Generator, clients: int) -> None:
        self.generator = generator
        self.loop = generator.loop
        self.latency = Latency()
        self.sent = self.wrong = 0
        self.first_wrong = ""
        self._wanted: dict[int, bytes] = {}
        self.http = HttpConnections(generator.loop, generator.target, clients, self._answer)
        self._turns = list(self.http)

    def send(self, data: bytes, wanted: bytes) -> None:
        """Send a request over the next connection; its answer must contain ``wanted``."""
        number, self.sent = self.sent, self.sent + 1
        self._wanted[number] = wanted
        self.http.send(self._turns[number % len(self._turns)], (number,), data)

    def push(self, tag: str, user: int) -> None:
        """Push to user number ``user``, or to EVERYBODY."""
        target = self.generator.target
        path, name = "/user/sendMessage", user_name(user)
        if user == EVERYBODY:
            path, name = "/user/sendMessageAll", SENDER
        head, number = f"appID={target.app}&userID={name}&msgID={tag}", self.sent % MOST_MESSAGES
        body = f"{head}{number:07d}&message=".encode()
        body += message_text(stamp_us(), user)
        self.send(request_head(target, path, FORM, len(body)) + body, b'"sendResults":true')

    def _answer(self, number: int, micros: int, status: int, body: bytes) -> None:
        self.latency.add(micros)
        if self._wanted.pop(number) not in body:
            self.wrong += 1
            self.first_wrong = self.first_wrong or f"{status} {body[:200]!r}"

    def finish(self, seconds: float = LAST_FRAMES_SECONDS) -> Json:
        self.loop.until(lambda: not self._wanted, seconds)
        self.http.close()
        return {
            "requests": self.sent,
            "refused": self.wrong,
            "wrong": self.wrong + len(self._wanted),
            "first_wrong": self.first_wrong,
            "answers": self.latency.pack(),
        }


def push_to_users(generator: Generator, users: int, rate: float, seconds: float) -> Json:
    """Task: push to random users of ``users``, ``rate`` times a second."""
    run, tag = Requests(generator, CLIENTS), new_tag()
    for _ in run.loop.paced(rate, seconds):
        run.push(tag, random.randrange(users))
    return run.finish()


def push_to_all(generator: Generator) -> Json:
    run, begin_ns = Requests(generator, 1), time.monotonic_ns()
    run.push(new_tag(), EVERYBODY)
    return {"begin_ns": begin_ns, **run.finish(ANSWER_SECONDS)}


def ask_online(generator: Generator, users: int, absent: int, rate: float, seconds: float) -> Json:
    """Task: query whether random users are online: ``users`` are, ``absent`` further ones are not."""
    run, target = Requests(generator, CLIENTS), generator.target
    for turn in run.loop.paced(rate, seconds):
        here = turn % 2 == 0
        user = random.randrange(users) if here else users + random.randrange(absent)
        path = f"/user/online?appID={target.app}&userID={user_name(user)}"
        run.send(get_request(target, path), b'"online":true' if here else b'"online":false')
    return run.finish()


def wait_online(generator: Generator, first: int, users: int, until: int, seconds: float) -> Json:
    """Task: query ``users`` users from number ``first`` until ``until`` of them are online, or ``seconds``
    are over.

    Returns how many were online in the last query, and its time.
    """
    names = [user_name(number) for number in range(first, first + users)]
    body = {"appID": generator.target.app, "userIDs": names}
    begin = time.monotonic()
    while True:
        found = post(generator.target, "/user/onlineBatch", body)
        now, here = time.monotonic(), found.get("onlineCount", -1)
        if here == until or now > begin + seconds or generator.loop.stopped:
            return {"online": here, "at": now}
        generator.loop.turn(LOOK_SECONDS)


def count_users(generator: Generator) -> Json:
    begin = time.monotonic()
    data = fetch(generator.target, f"/user/list?appID={generator.target.app}")
    return {"count": data.get("userCount", 0), "milliseconds": 1000 * (time.monotonic() - begin)}
