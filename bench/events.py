"""Scenario ``events``: what durable events cost a stored message, and how fast a receiver has them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, NamedTuple
from urllib.parse import urlencode

from bench import chat
from bench.connections import Target
from bench.context import RunContext, parameter, seconds_parameter
from bench.figures import Figures
from bench.http_client import fetch, post
from bench.latency import STAMP_WRAP, Latency, stamp_us
from bench.loop import BenchError
from bench.servers import NodeProcess

CHAT_APP: Final = "gochat"
PUSH_APP: Final = "101"
DRAIN_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05
_PAGE: Final = 1000
_DURABLE: Final = ["message", "group", "account", "absent"]


class Arrival(NamedTuple):
    """An event as it came first. ``stamp_us``: the time, as in the texts of chats."""

    kind: str
    user: str
    text: str
    seconds: float
    stamp_us: int


class PostReceiver:
    """A server in this process that takes POST requests. Owner of its threads.

    ``take`` gets the path, the headers and the body, and returns the status; 0: hang up.
    """

    def __init__(self, take: Callable[[str, Message, bytes], int]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with suppress(ConnectionError):  # a node was killed
                    super().handle()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = take(self.path, self.headers, body)
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class EventReceiver:
    """The back end of an app: receives its events, and can be made unreachable. Owner of its server.

    An event that comes again is told from another by its id.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Arrival] = {}
        """App and id → the event, in the order in which they came first."""
        self.repeats = 0
        self.inversions = 0
        """Events that came after a later one of the same user and source."""
        self._last: dict[tuple[str, str], int] = {}
        self._is_away = False
        self._lock = threading.Lock()
        self._posts = PostReceiver(lambda _path, _headers, body: 200 if self._receive(body) else 0)
        self.url = self._posts.url

    def control(self, how: str) -> None:
        """``kill``: hang up on all requests and store nothing. ``again``: answer."""
        self._is_away = how == "kill"

    def close(self) -> None:
        self._posts.close()

    def missing(self, target: Target, app: str) -> int:
        """The number of events of ``app`` that the server has and that never came. Reads all of them."""
        after, missing = "", 0
        while True:
            query = urlencode({"app": app, "after": after, "limit": _PAGE})
            page = fetch(target, f"/api/v1/events/log?{query}")
            missing += sum(f"{app} {event['id']}" not in self.seen for event in page["events"])
            after = page["next"]
            if not page["more"]:
                return missing

    def arrivals(self, kind: str) -> list[Arrival]:
        """The events of one kind that came so far."""
        return [event for event in [*self.seen.values()] if event.kind == kind]

    def wait(self, kind: str, count: int) -> list[Arrival]:
        """Wait until so many events of one kind have come; return them."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while len(found := self.arrivals(kind)) < count and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return found

    def _receive(self, body: bytes) -> bool:
        """Store the events of a request; whether to answer."""
        with self._lock:
            if self._is_away:
                return False
            now, stamp = time.monotonic(), stamp_us()
            for event in json.loads(body)["events"]:
                id = f"{event['app']} {event['id']}"
                source, _, number = id.rpartition("-")
                user = event.get("sender", event.get("user", ""))
                if id in self.seen:
                    self.repeats += 1
                    continue
                self.inversions += int(number) < self._last.get((source, user), 0)
                self._last[source, user] = int(number)
                self.seen[id] = Arrival(
                    event["event"], event.get("user", user), event.get("text", ""), now, stamp
                )
        return True


@dataclass(frozen=True)
class EventOptions:
    members: int = parameter(200, "Accounts, who chat in pairs.", least=2, most=10_000)
    rate: float = parameter(1000.0, "Messages a second, of all; 0: flat out.", least=0, most=100_000)
    seconds: float = seconds_parameter(10.0, "How long to send")
    absent: int = parameter(200, "Messages to as many absent users, 50 a second.", least=0, most=100_000)
    delay: float = parameter(2.0, "absent_seconds of their app.", least=0, most=600)
    database: str = chat.DATABASE_PARAMETER


ABSENT_PER_SECOND: Final = 50


def run(context: RunContext, options: EventOptions) -> Figures:
    """Measure durable events: cost, rate, and delay of absent."""
    context.show_phase("events: a chat without a webhook")
    plain_us, _ = _chat(context, options, None)
    receiver = EventReceiver()
    try:
        context.show_phase("events: a chat with a webhook")
        events_us, figures = _chat(context, options, receiver)
        if options.absent:
            context.show_phase("events: messages to absent users")
            figures |= _absent(context, options, receiver)
    finally:
        receiver.close()
    extra = 100 * (events_us / plain_us - 1)
    return {"plain_cpu_us": plain_us, "events_cpu_us": events_us, "events_extra_percent": extra, **figures}


def _chat(
    context: RunContext, options: EventOptions, receiver: EventReceiver | None
) -> tuple[float, Figures]:
    """Let accounts of a new server chat; CPU of the server per message, until all events have come."""
    chatting = chat.ChatOptions(
        options.members, options.rate, options.seconds, single=True, database=options.database
    )
    environment = chatting.environment
    if receiver is not None:
        webhook = {"url": receiver.url, "secret": "a secret of this run alone", "events": _DURABLE}
        apps = {CHAT_APP: webhook, PUSH_APP: {**webhook, "absent_seconds": options.delay}}
        environment["IMSERVER_APPS"] = json.dumps({app: {"webhook": apps[app]} for app in apps})
    node = context.pool.start(NodeProcess(context.log, environment=environment, cores=context.cores.server))
    own = replace(context, target=node.target, pids=node.pids[:1], folder=node.data_directory)
    worker, group = chat.enter(own, chatting, [own.target])
    with own.measured() as span:
        figures = chat.measure(own, worker, group, chatting)
        messages = int(figures["messages"] or 0)
        arrivals = [] if receiver is None else receiver.wait("message", messages)
    names = ("messages", "stored_per_second", "ack_p50_ms", "ack_p99_ms", "lost", "errors")
    found: Figures = {name: figures[name] for name in names}
    if receiver is None:
        node.control("stop")
    else:
        context.target = node.target
        lag = Latency()
        for each in arrivals:
            lag.add((each.stamp_us - chat.stamp_of(each.text)) % STAMP_WRAP)
        seconds = arrivals[-1].seconds - arrivals[0].seconds if arrivals else 0.0
        found |= {
            "events": len(arrivals),
            "events_per_second": len(arrivals) / seconds if seconds else None,
            **lag.figures("event_"),
            "events_lost": receiver.missing(node.target, CHAT_APP),
            "events_repeated": receiver.repeats,
            "events_inverted": receiver.inversions,
        }
    return span.server_us / messages, found


def _absent(context: RunContext, options: EventOptions, receiver: EventReceiver) -> Figures:
    """Store messages to absent users; how long after the delay the receiver has their events."""
    target, sent = context.target, {}
    begin = time.monotonic()
    for number in range(options.absent):
        time.sleep(max(0.0, begin + number / ABSENT_PER_SECOND - time.monotonic()))
        user = f"absent {number}"
        push = {"app": PUSH_APP, "user": user, "sender": "bench", "text": "hello", "store": True}
        sent[user] = time.monotonic()
        if post(target, "/api/v1/push", push).get("sent") != 1:
            raise BenchError("a message to an absent user was not stored")
    arrivals = {each.user: each.seconds for each in receiver.wait("absent", options.absent)}
    late = Latency()
    for user in arrivals:
        late.add(max(0, int((arrivals[user] - sent[user] - options.delay) * 1e6)))
    return {**late.figures("absent_"), "absent_lost": options.absent - len(arrivals)}
