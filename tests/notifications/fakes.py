"""Rows of notifications and push services in memory."""

from collections.abc import Callable, Sequence
from time import time
from typing import Any

import gevent
from msgspec.structs import replace

from imserver.backends.webhooks.event_rows import NewEvent
from imserver.gateway.errors import StorageUnavailable
from imserver.notifications.contract import Delivery, PushEndpoint
from imserver.notifications.rows import Results
from imserver.plugin.wire import PushResult

TAKEN = PushResult("taken", 201)
GONE = PushResult("gone", 410)
FAILED = PushResult("later", 500, problem="it answered with status 500")


class FakeRows:
    """The rows of deliveries, in memory. ``is_away``: the database does not answer."""

    def __init__(self) -> None:
        self.waiting: dict[int, Delivery] = {}
        self.known: dict[int, PushEndpoint] = {}
        self.events: list[NewEvent] = []
        self.read: set[tuple[str, int, int]] = set()
        """User, conversation, entry: what was read."""
        self.looks = 0
        """How often it was looked what was read."""
        self.settled = 0
        """Transactions that stored results."""
        self.is_away = False
        self._last = 0

    def _wait(self) -> None:
        gevent.sleep(0)
        if self.is_away:
            raise StorageUnavailable("away")

    def add(self, url: str, user: str = "", **fields: Any) -> Delivery:
        """A delivery to an endpoint with this URL, which is added if it is missing."""
        user = user or f"user {len(self.known)}"
        found = [one for one in self.known.values() if (one.url, one.user) == (url, user)]
        endpoint = found[0] if found else PushEndpoint(len(self.known) + 1, "shop", user, url, "", "")
        self.known[endpoint.id] = endpoint
        self._last += 1
        host = url.split("/")[2]
        one = Delivery(
            self._last, "shop", user, endpoint.id, host, "message", 7, 9, "topic", 600, 0, 0,
            int(time()), b"{}",
        )  # fmt: skip
        one = replace(one, **fields)
        for old in tuple(self.waiting.values()):
            if one.topic and (old.endpoint, old.topic) == (one.endpoint, one.topic):
                del self.waiting[old.id]
        self.waiting[one.id] = one
        return one

    def hosts(self, now_ms: int) -> dict[str, int]:
        self._wait()
        found: dict[str, int] = {}
        for one in self.waiting.values():
            found[one.host] = max(now_ms, min(one.next_try, found.get(one.host, one.next_try)))
        return found

    def deliveries(self, host: str, now_ms: int, limit: int) -> list[Delivery]:
        self._wait()
        found = [one for one in self.waiting.values() if one.host == host and one.next_try <= now_ms]
        return sorted(found, key=lambda one: (one.next_try, one.id))[:limit]

    def endpoints_by_id(self, ids: Sequence[int]) -> dict[int, PushEndpoint]:
        self._wait()
        return {id: self.known[id] for id in ids if id in self.known}

    def is_read(self, app: str, messages: list[tuple[str, int, int]]) -> list[bool]:
        self._wait()
        self.looks += 1
        return [one in self.read for one in messages]

    def settle(self, results: Results) -> None:
        self._wait()
        self.settled += 1
        for id in results.done:
            self.waiting.pop(id, None)
        for id in results.gone:
            self.known.pop(id, None)
            for one in tuple(self.waiting.values()):
                if one.endpoint == id:
                    del self.waiting[one.id]
        for id, next_try in results.retry:
            if one := self.waiting.get(id):  # type: ignore[assignment]
                self.waiting[id] = replace(one, next_try=next_try, attempts=one.attempts + 1)
        self.events += results.events


class FakePush:
    """Takes the place of :class:`WebPush`. ``answer`` says what becomes of a request; it may take its
    time."""

    def __init__(self, answer: Callable[[PushEndpoint], PushResult] = lambda _: TAKEN) -> None:
        self.answer = answer
        self.sent: list[tuple[str, bytes, int, str, str]] = []
        """URL, body, ttl, urgency and topic of each request."""
        self.at_once: dict[str, int] = {}
        """Host → most requests at a time."""
        self._now: dict[str, int] = {}

    @property
    def urls(self) -> list[str]:
        return [url for url, *_ in self.sent]

    def encrypt(self, endpoint: PushEndpoint, body: bytes) -> bytes:
        return endpoint.url.encode() + b"\n" + body

    def hand_over(
        self, endpoint: PushEndpoint, content: bytes, ttl: int, urgency: str, topic: str
    ) -> PushResult:
        url, _, body = content.partition(b"\n")
        assert url.decode() == endpoint.url
        self.sent.append((endpoint.url, body, ttl, urgency, topic))
        host = endpoint.url.split("/")[2]
        self._now[host] = self._now.get(host, 0) + 1
        self.at_once[host] = max(self.at_once.get(host, 0), self._now[host])
        try:
            gevent.sleep(0)
            return self.answer(endpoint)
        finally:
            self._now[host] -= 1
