"""The receiver of events in a chaos run: the back end of an app."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlencode

from bench.connections import Target
from bench.history import History
from bench.http_client import fetch

_PAGE: Final = 1000


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
    """Receives the events of an app, and can be made unreachable. Owner of its server."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        """App and id → when the event came first (monotonic), in the order in which they came."""
        self.repeats = 0
        self._is_away = False
        self._lock = threading.Lock()
        self._posts = PostReceiver(lambda _path, _headers, body: 200 if self._receive(body) else 0)
        self.url = self._posts.url
        self.close = self._posts.close

    def control(self, how: str) -> None:
        """``kill``: hang up on all requests and store nothing. ``again``: answer."""
        self._is_away = how == "kill"

    def _receive(self, body: bytes) -> bool:
        """Store the events of a request; whether to answer."""
        with self._lock:
            if self._is_away:
                return False
            for event in json.loads(body)["events"]:
                id = f"{event['app']} {event['id']}"
                self.repeats += id in self.seen
                self.seen.setdefault(id, time.monotonic())
        return True

    def has_all(self, log: Iterable[tuple[str, str]]) -> bool:
        """Whether all events of a :func:`log_of` have come."""
        return all(id in self.seen for id, _ in log)

    def note(self, history: History, log: Iterable[tuple[str, str]]) -> None:
        """Write for the checker what the server has of the events of each user, and what came."""
        logs: dict[str, list[str]] = defaultdict(list)
        for id, user in log:
            logs[f"events of {user}, {id.rpartition('-')[0]}"].append(id)
        for object, ids in logs.items():
            for id in ids:
                history.answered(history.ask("server", "send", object, message=id, at=0.0))
            number = history.ask("server", "read", object, whole=True)
            history.answered(number, messages=[(None, id) for id in ids])
            for id in sorted({*ids} & self.seen.keys(), key=lambda id: self.seen[id]):
                history.saw("receiver", object, id, at=self.seen[id])
            history.followed("receiver", object)


def log_of(target: Target, app: str) -> Iterator[tuple[str, str]]:
    """App and id of each event that the server has, and its user."""
    after, more = "", True
    while more:
        query = urlencode({"app": app, "after": after, "limit": _PAGE})
        page = fetch(target, f"/api/v1/events/log?{query}")
        for event in page["events"]:
            yield f"{app} {event['id']}", event.get("sender", event.get("user", ""))
        after, more = page["next"], page["more"]
