"""The history of channels in Redis, shared by all nodes of a cluster."""

import re
import secrets
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from imserver.gateway.cluster.history import (
    EPOCH_SECONDS,
    HistoryPage,
    Position,
    Retained,
    erased,
    numbered,
)
from imserver.gateway.cluster.redis.link import Command
from imserver.gateway.cluster.redis.pipeline import Pipeline
from imserver.gateway.cluster.redis.presence import decoded, encoded
from imserver.gateway.cluster.redis.scripts import (
    APPEND_HISTORY,
    FIND_PUBLICATIONS,
    LIFE,
    READ_HISTORY,
    REPLACE_PUBLICATIONS,
)
from imserver.gateway.model import Event

ID_SECONDS: Final = 60
_ID_BYTES: Final = 12
_ERASED_TOGETHER: Final = 100
"""Publications that a step of an erasure looks at."""
_LIST: Final = b":list"
_KEY: Final = re.compile(rb"(.*?)\}(|:list|:id:.{%d})" % _ID_BYTES, re.DOTALL)
"""What follows the app in a key: the channel, and what the key has of it."""
_decode = msgspec.msgpack.Decoder(Event).decode


class RedisHistory:
    """See :class:`imserver.gateway.cluster.history.LocalHistory`. Every call
    switches, and returns None if it is not known what happened.

    If Redis was restarted or has failed over, publications may be lost, so
    every channel begins a new epoch: the scripts compare the life of its data
    with that of the channel. The data of a Redis Cluster (``single``: it is
    none) have no life: after a failover, channels go on in their epoch with
    what is left. ``created``: when an app was created. The keys contain it: an
    app that is created anew does not read the history of the deleted one, which
    expires.
    """

    def __init__(
        self, pipeline: Pipeline, single: bool, created: Callable[[str], int]
    ) -> None:
        self.pipeline = pipeline
        self._life = (LIFE,) if single else ()
        self._created = created

    def append_each(
        self, app: str, publications: Sequence[Retained]
    ) -> list[Event] | None:
        """See :class:`LocalHistory`. None: some may be stored. An id that any
        node has stored in the channel less than :data:`ID_SECONDS` ago keeps
        its offset."""
        replies = self.pipeline.execute_all(
            [
                (
                    "EVALSHA",
                    APPEND_HISTORY,
                    3 + len(self._life),
                    *(keys := self._keys(app, each.channel)),
                    keys[0]
                    + b":id:"
                    + (_digest(each.id) if each.id else secrets.token_bytes(_ID_BYTES)),
                    *self._life,
                    secrets.token_urlsafe(4),
                    msgspec.msgpack.encode(each.event),
                    each.size,
                    max(1, int(each.seconds * 1000)),
                    int(max(EPOCH_SECONDS, each.seconds) * 1000),
                    # Without an id: longer than a pipeline takes, which may
                    # repeat the call.
                    (ID_SECONDS if each.id else 10) * 1000,
                )
                for each in publications
            ]
        )
        if replies is None:
            return None
        return [
            numbered(each.event, reply[0].decode(), int(reply[1]))
            for each, reply in zip(publications, replies, strict=True)
        ]

    def read(
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage | None:
        replies = self.pipeline.execute_all(
            [self._reading(app, channel, since, limit, reverse)]
        )
        if replies is None:
            return None
        return _page(replies[0], reverse)

    def positions(self, app: str, channels: Sequence[str]) -> list[Position] | None:
        reading = [self._reading(app, channel, None, 0, False) for channel in channels]
        replies = self.pipeline.execute_all(reading)
        if replies is None:
            return None
        return [_page(reply, False).position for reply in replies]

    def remove(self, app: str, channel: str) -> bool | None:
        _, publications = self._keys(app, channel)
        if self.pipeline.execute_all([("DEL", publications)]) is None:
            return None
        return True

    def erase_user(
        self, app: str, user: str, name: str, is_own: Callable[[str], bool]
    ) -> bool | None:
        """See :class:`LocalHistory`. Reads the names of all keys in Redis, in
        steps."""
        start = self._key(app, "").removesuffix(b"}")
        pattern = re.sub(rb"([\\\[\]*?])", rb"\\\1", start) + b"*"
        cursor = b""
        while cursor != b"0":
            scan = ("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", 1000)
            replies = self.pipeline.execute_all([scan])
            if replies is None:
                return None
            cursor, keys = replies[0]
            for key in keys:
                match = _KEY.fullmatch(key, len(start))
                if match is None:
                    continue
                if is_own(decoded(match[1])):
                    replies = self.pipeline.execute_all([("DEL", key)])
                elif match[2] == _LIST:
                    replies = self._erase(key, user, name)
                if replies is None:
                    return None
        return True

    def _erase(self, key: bytes, user: str, name: str) -> Any:
        """Erase the publications of a user in a list, the newest first: what is
        added or removed meanwhile hides none. None: Redis does not answer."""
        number = _ERASED_TOGETHER
        looked_at = 0
        while number == _ERASED_TOGETHER:
            last = -1 - looked_at
            find = (
                "EVALSHA",
                FIND_PUBLICATIONS,
                1,
                key,
                last - number + 1,
                last,
                encoded(user),
            )
            replies = self.pipeline.execute_all([find])
            if replies is None:
                return None
            number, publications = replies[0]
            looked_at += number
            pairs: list[bytes] = []
            for each in publications:
                event = _decode(each)
                if event.sender == user:
                    pairs += each, msgspec.msgpack.encode(erased(event, name))
            if (
                pairs
                and self.pipeline.execute_all(
                    [("EVALSHA", REPLACE_PUBLICATIONS, 1, key, *pairs)]
                )
                is None
            ):
                return None
        return True

    def _reading(
        self, app: str, channel: str, since: Position | None, limit: int, reverse: bool
    ) -> Command:
        return (
            "EVALSHA",
            READ_HISTORY,
            2 + len(self._life),
            *self._keys(app, channel),
            *self._life,
            secrets.token_urlsafe(4),
            -1 if since is None else since.offset,
            limit,
            int(reverse),
            int(EPOCH_SECONDS * 1000),
        )

    def _keys(self, app: str, channel: str) -> tuple[bytes, bytes]:
        key = self._key(app, channel)
        return key, key + _LIST

    def _key(self, app: str, channel: str) -> bytes:
        # U+0000 is in no name of an app, a colon may be in both.
        return b"imserver:history:%d:{%b\0%b}" % (
            self._created(app),
            encoded(app),
            encoded(channel),
        )


def _page(reply: Any, reverse: bool) -> HistoryPage:
    epoch = reply[0].decode()
    top = int(reply[1])
    first = int(reply[2])
    publications = reply[3]
    events = [
        numbered(_decode(each), epoch, first + index)
        for index, each in enumerate(publications)
    ]
    return HistoryPage(events[::-1] if reverse else events, Position(epoch, top))


def _digest(id: str) -> bytes:
    """The end of the key that marks a publication with this id as stored."""
    return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=_ID_BYTES).digest()
