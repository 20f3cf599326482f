"""Absent users under chaos: each is sent one message, and has one device; who has read it must get nothing. A
push service in this process counts what each device gets.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from email.message import Message
from typing import Final

from bench.connections import Target
from bench.events import PostReceiver
from bench.figures import Figures
from bench.history import History
from bench.http_client import post
from bench.loop import BenchError, Json
from bench.push_services import AUTH, P256DH

APP: Final = "absent"
AFTER_SECONDS: Final = 3.0
"""``after_seconds`` of the app."""
CONFIG: Final = f"""\
notifications: {{{{allow_loopback: true}}}}
apps:
  {APP}: {{{{open: true, notify: {{{{after_seconds: {AFTER_SECONDS}, again_seconds: 0}}}}}}}}
"""
PER_SECOND: Final = 5
READS_EVERY: Final = 4
"""Each user of this number reads the message at once."""
READ_SECONDS: Final = 2.0
"""Who has read the message later after its sending may have been notified."""
RETRY_SECONDS: Final = 0.2
LAST_SECONDS: Final = 480.0
"""For the last notifications: the longest pause before another attempt is 450 seconds."""
_KEYS: Final = {"p256dh": P256DH, "auth": AUTH}


class PushService:
    """Takes all notifications, and counts them: device → topic → number. Owner of its server."""

    def __init__(self) -> None:
        self.received: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()
        self._posts = PostReceiver(self._take)
        self.url = self._posts.url
        self.close = self._posts.close

    def _take(self, path: str, headers: Message, _body: bytes) -> int:
        with self._lock:
            self.received.setdefault(path.strip("/"), Counter())[headers["Topic"] or ""] += 1
        return 201


class AbsentUsers(threading.Thread):
    """Sends each user one message, with repeats until it is stored. Ends with :meth:`stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.targets: list[Target] = []
        """The nodes; set before the start."""
        self._is_over = threading.Event()
        self.service = PushService()
        self.unread: list[str] = []
        """Users who have not read their message."""
        self.readers: list[str] = []
        """Users who have read it in time."""

    def run(self) -> None:
        begin, number = time.monotonic(), 0
        while not self._is_over.is_set():
            number += 1
            self._is_over.wait(max(0.0, begin + number / PER_SECOND - time.monotonic()))
            user = str(number)
            endpoint = {"user": user, "endpoint": f"{self.service.url}{number}", "keys": _KEYS}
            if not self._until(number, "/api/v1/notifications/endpoints", endpoint, "id"):
                continue
            sent = time.monotonic()
            message = {"user": user, "text": "hello", "store": True, "id": f"absent-{user}"}
            answer = self._until(number, "/api/v1/push", message, "sent")
            if answer is None:
                continue
            stored = answer["results"][0].get("stored")
            if stored is not None and number % READS_EVERY == 0:
                read = {"user": user, "conversation": stored["conversation"], "id": stored["id"]}
                done = self._until(number, "/api/v1/messages/read", read, "read", sent + READ_SECONDS)
                if done is not None and time.monotonic() < sent + READ_SECONDS:
                    self.readers.append(user)
                continue
            self.unread.append(user)

    def _until(self, number: int, path: str, body: Json, field: str, until: float = 0.0) -> Json | None:
        """Ask one node after the other until the answer has ``field``; None: the run is over, or it is too
        late."""
        attempts = 0
        while not self._is_over.is_set() and not (until and time.monotonic() > until):
            target = self.targets[(number + attempts) % len(self.targets)]
            attempts += 1
            with suppress(BenchError):
                answer = post(target, path, {"app": APP, **body})
                if answer.get(field):
                    return answer
            self._is_over.wait(RETRY_SECONDS)
        return None

    def stop(self) -> None:
        """Send nothing more."""
        self._is_over.set()
        self.join()

    def figures(self, history: History) -> Figures:
        """Wait for the last notifications, and write for the checker who got which. One that comes again with
        its topic replaces the first."""
        deadline = time.monotonic() + LAST_SECONDS
        received = self.service.received
        while not received.keys() >= {*self.unread} and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(AFTER_SECONDS + 1)  # for those that must not come
        self.service.close()
        for user in (*self.unread, *self.readers):
            object = f"notification of {user}"
            number = history.ask("server", "send", object, message="notification")
            (history.refused if user in self.readers else history.answered)(number)
            for _topic in received.get(user, ()):
                history.saw(f"device of {user}", object, "notification")
            if user not in self.readers:
                history.followed(f"device of {user}", object)
        devices = [received[user] for user in self.unread if user in received]
        return {
            "notified": len(devices),
            "notifications_again": sum(topics.total() - 1 for topics in devices),
            "notifications_spared": len(self.readers),
        }
