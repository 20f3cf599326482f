"""A back end that is told and asked, in this process: what stands behind
`Outgoing`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import gevent
from gevent.event import Event as Flag
from msgspec import json

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.transport.outgoing import Unreachable


class Post(NamedTuple):
    """One request that came."""

    url: str
    secret: bytes
    body: bytes
    delivery: str
    headers: Mapping[str, str] = MappingProxyType({})

    @property
    def json(self) -> Any:
        return json.decode(self.body)


class AwayStore:
    """A store whose database is away: what would be stored waits in memory."""

    has_database = False

    def write(self, _work: object) -> None:
        raise StorageUnavailable("away")


Answer = tuple[int, bytes] | str
REFUSED = "connection refused"
"""The reason of a back end on whose port no program listens."""


class BackEnd:
    """Answers what ``reply`` says: status and body, or the reason why there is
    no answer.

    While ``open`` is not set it keeps everybody waiting, up to the time they
    have.
    """

    def __init__(self, reply: Callable[[Post], Answer] = lambda _: (200, b"")) -> None:
        self.reply = reply
        self.posts: list[Post] = []
        self.open = Flag()
        self.open.set()
        self.busy = 0
        self.most_busy = 0

    def post(
        self,
        url: str,
        secret: bytes,
        body: bytes,
        _timestamp: int,
        delivery: str,
        seconds: float,
        _answer_bytes: int = 0,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[int, bytes]:
        one = Post(url, secret, body, delivery, headers)
        self.posts.append(one)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            gevent.sleep(0)
            if not self.open.wait(seconds):
                raise Unreachable("no answer in time")
        finally:
            self.busy -= 1
        answer = self.reply(one)
        if isinstance(answer, str):
            raise Unreachable(answer, answer == REFUSED)
        return answer

    def close(self) -> None:
        pass

    @property
    def events(self) -> list[Any]:
        """All events that came, in their order; those of repeated requests
        again."""
        return [event for post in self.posts for event in post.json["events"]]

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]
