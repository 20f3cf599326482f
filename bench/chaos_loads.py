"""What a chaos run does beside its chat in the process that breaks things, for
the checker: the events of a webhook, and absent users who are notified.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlencode

from bench.connections import Target
from bench.figures import Figures
from bench.history import History
from bench.http_client import fetch, insist
from bench.loop import BenchError, Json

EVENT_APP: Final = "gochat"
ABSENT_APP: Final = "absent"
AFTER_SECONDS: Final = 3.0
"""``after_seconds`` of the app of absent users."""
CONFIG: Final = f"""\
notifications: {{{{allow_loopback: true}}}}
apps:
  {ABSENT_APP}: {{{{open: true, notify: {{{{after_seconds: {AFTER_SECONDS}, again_seconds: 0}}}}}}}}
"""
_PAGE: Final = 1000
EVENT_SECONDS: Final = 90.0
"""For the last events after everything has settled: a lease may have to end
first."""
USERS_PER_SECOND: Final = 5
READS_EVERY: Final = 4
"""Each absent user of this number reads the message at once."""
READ_SECONDS: Final = 2.0
"""Who has read the message later after its sending may have been notified."""
NOTIFY_SECONDS: Final = 480.0
"""For the last notifications: the longest pause before another attempt is 450
seconds."""
P256DH: Final = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH: Final = "BTBZMqHH6r4Tts7J_aSIgg"
"""The keys of all devices: those of RFC 8291, appendix A."""


class PostReceiver:
    """A server in this process that takes POST requests. Owner of its threads.

    ``take`` gets the path, the headers and the body, and returns the status; 0:
    hang up.
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
        self._server.socket.listen(1024)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class EventReceiver:
    """Receives the events of an app, and can be made unreachable. Owner of its
    server."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        """App and id → when the event came first (monotonic), in the order in
        which they came."""
        self.repeats = 0
        self._is_away = False
        self._lock = threading.Lock()
        self._posts = PostReceiver(
            lambda _path, _headers, body: 200 if self._receive(body) else 0
        )
        self.url = self._posts.url
        self.close = self._posts.close

    def control(self, how: str) -> None:
        """``kill``: hang up on all requests and store nothing. ``again``:
        answer."""
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

    def finish(self, target: Target, history: History) -> Figures:
        """Wait for the last events, and write the history."""
        deadline = time.monotonic() + EVENT_SECONDS
        while (
            not all(id in self.seen for id, _ in log_of(target, EVENT_APP))
            and time.monotonic() < deadline
        ):
            time.sleep(1.0)
        self.close()
        self.note(history, log_of(target, EVENT_APP))
        return {"events": len(self.seen), "events_repeated": self.repeats}

    def note(self, history: History, log: Iterable[tuple[str, str]]) -> None:
        """Write for the checker what the server has of the events of each user,
        and what came."""
        logs: dict[str, list[str]] = defaultdict(list)
        for id, user in log:
            logs[f"events of {user}, {id.rpartition('-')[0]}"].append(id)
        for object, ids in logs.items():
            for id in ids:
                history.answered(
                    history.ask("server", "send", object, message=id, at=0.0)
                )
            number = history.ask("server", "read", object, whole=True)
            history.answered(number, messages=[(None, id) for id in ids])
            for id in sorted({*ids} & self.seen.keys(), key=lambda id: self.seen[id]):
                history.saw("receiver", object, id, at=self.seen[id])
            history.followed("receiver", object)


def log_of(target: Target, app: str) -> Iterator[tuple[str, str]]:
    """App and id of each event that the server has, and its user."""
    after = ""
    more = True
    while more:
        query = urlencode({"app": app, "after": after, "limit": _PAGE})
        page = fetch(target, f"/api/v1/events/log?{query}")
        for event in page["events"]:
            yield f"{app} {event['id']}", event.get("sender", event.get("user", ""))
        after = page["next"]
        more = page["more"]


class AbsentUsers(threading.Thread):
    """Each user is sent one message, and has one device at a push service here;
    who has read it in time must get nothing.
    """

    def __init__(self, targets: Sequence[Target], history: History) -> None:
        super().__init__(daemon=True)
        self.targets = targets
        self.history = history
        self.is_over = threading.Event()
        self.is_whole = False
        self.unread: list[str] = []
        """Users who have not read their message."""
        self.readers: list[str] = []
        """Users who have read it in time."""
        self.received: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Device → topic → number of notifications."""
        self._lock = threading.Lock()
        self._posts = PostReceiver(self._take)

    def _take(self, path: str, headers: Message, _body: bytes) -> int:
        with self._lock:
            self.received[path.strip("/")][headers["Topic"] or ""] += 1
        return 201

    def run(self) -> None:
        begin = time.monotonic()
        number = 0
        while not self.is_over.wait(
            max(0.0, begin + number / USERS_PER_SECOND - time.monotonic())
        ):
            number += 1
            self._play_user(str(number), number)
        self.is_whole = True

    def _play_user(self, user: str, number: int) -> None:
        base = {"app": ABSENT_APP, "user": user}
        how: Json = {"first": number, "is_over": self.is_over}
        keys = {"p256dh": P256DH, "auth": AUTH}
        endpoint = {**base, "endpoint": f"{self._posts.url}{user}", "keys": keys}
        if not insist(
            self.targets, "/api/v1/notifications/endpoints", endpoint, "id", **how
        ):
            return
        sent = time.monotonic()
        message = {**base, "text": "hello", "store": True, "id": f"absent-{user}"}
        answer = insist(self.targets, "/api/v1/push", message, "sent", **how)
        if answer is None:
            return
        stored = answer["results"][0].get("stored")
        if stored is None or number % READS_EVERY:
            self.unread.append(user)
            return
        read = {**base, "conversation": stored["conversation"], "id": stored["id"]}
        done = insist(
            self.targets,
            "/api/v1/messages/read",
            read,
            "read",
            seconds=READ_SECONDS,
            **how,
        )
        if done is not None and time.monotonic() < sent + READ_SECONDS:
            self.readers.append(user)

    def finish(self) -> Figures:
        """Write who got which. One that comes again with its topic replaces the
        first. Raises BenchError."""
        self.join(NOTIFY_SECONDS)
        if not self.is_whole:
            raise BenchError("absent users were not sent all")
        deadline = time.monotonic() + NOTIFY_SECONDS
        received = self.received
        while not received.keys() >= {*self.unread} and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(AFTER_SECONDS + 1)  # for those that must not come
        self._posts.close()
        for user in (*self.unread, *self.readers):
            object = f"notification of {user}"
            number = self.history.ask("server", "send", object, message="notification")
            (self.history.refused if user in self.readers else self.history.answered)(
                number
            )
            for _topic in received.get(user, ()):
                self.history.saw(f"device of {user}", object, "notification")
            if user not in self.readers:
                self.history.followed(f"device of {user}", object)
        devices = [received[user] for user in self.unread if user in received]
        return {
            "notified": len(devices),
            "notifications_again": sum(topics.total() - 1 for topics in devices),
            "notifications_spared": len(self.readers),
        }
