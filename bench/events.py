"""Scenario ``events``: what durable events cost a stored message, and how fast a receiver has them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, NamedTuple
from urllib.parse import urlencode

from bench.connections import Target
from bench.http_client import fetch
from bench.latency import stamp_us

DRAIN_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05
_PAGE: Final = 1000


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
