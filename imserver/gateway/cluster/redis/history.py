"""The history of channels in Redis, shared by all nodes of a cluster."""

import re
import secrets
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from imserver.gateway.cluster.history import (
    EPOCH_BYTES,
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
    SECOND_MS,
)
from imserver.gateway.model import Event

ID_SECONDS: Final = 60
"""How long the history remembers the id of a publication."""
_ID_MS: Final = ID_SECONDS * SECOND_MS
_NO_ID_MS: Final = 10_000
"""How long the random id of a publication without an id is remembered. A
pipeline may repeat a call. This time is longer than a pipeline takes."""
_EPOCH_MS: Final = int(EPOCH_SECONDS * SECOND_MS)
_ID_BYTES: Final = 12
_ERASED_TOGETHER: Final = 100
"""How many publications a step of an erasure reads."""
_SCANNED_KEYS: Final = 1000
"""How many keys Redis visits in a step of an erasure."""
_LIST: Final = b":list"
_KEY: Final = re.compile(rb"(.*?)\}(|:list|:id:.{%d})" % _ID_BYTES, re.DOTALL)
"""The part of a key after the app: the channel, a brace, and the kind of data
under the key. The kind is empty, ``:list``, or ``:id:`` and a digest."""
_decode = msgspec.msgpack.Decoder(Event).decode


class RedisHistory:
    """The last publications of channels, shared by all nodes of a cluster.

    It has the methods of
    :class:`imserver.gateway.cluster.history.LocalHistory`. Every call switches
    greenlets, and returns None if its outcome is unknown.

    If Redis was restarted or has failed over, publications may be lost, so
    every channel begins a new epoch: another life, in which its offsets begin
    again. The scripts notice such a loss, because the life of the data differs
    from the life in the channel. ``single`` means that Redis is not a Cluster.
    The data of a Redis Cluster have no life: after a failover, channels
    continue in their epoch with the remaining publications.

    ``created`` returns when an app was created. The time is part of the keys.
    So a new app with the name of a deleted app does not read the history of the
    deleted app. That history expires.
    """

    def __init__(
        self, pipeline: Pipeline, single: bool, created: Callable[[str], int]
    ) -> None:
        """``single`` means that all keys are on one Redis server. ``created``
        returns when an app was created."""
        self.pipeline = pipeline
        self._life = (LIFE,) if single else ()
        self._created = created

    def append_each(
        self, app: str, publications: Sequence[Retained]
    ) -> list[Event] | None:
        """Store publications, and return them with their offsets.

        Returns None if Redis did not answer. Then some of the publications may
        be stored. A publication with an id that any node has stored in the
        channel less than :data:`ID_SECONDS` ago is not stored again. It gets
        the offset of the first such publication.
        """
        commands: list[Command] = []
        for publication in publications:
            hash_key, list_key = self._keys(app, publication.channel)
            # A pipeline may be sent twice. So a publication without an id gets
            # a random id, by which a repetition is recognised.
            if publication.id:
                digest = _digest(publication.id)
                id_ms = _ID_MS
            else:
                digest = secrets.token_bytes(_ID_BYTES)
                id_ms = _NO_ID_MS
            id_key = hash_key + b":id:" + digest
            keys = (hash_key, list_key, id_key, *self._life)
            commands.append(
                (
                    "EVALSHA",
                    APPEND_HISTORY,
                    len(keys),
                    *keys,
                    secrets.token_urlsafe(EPOCH_BYTES),
                    msgspec.msgpack.encode(publication.event),
                    publication.size,
                    max(1, int(publication.seconds * SECOND_MS)),
                    max(_EPOCH_MS, int(publication.seconds * SECOND_MS)),
                    id_ms,
                )
            )

        replies = self.pipeline.execute_all(commands)
        if replies is None:
            return None
        return [
            numbered(publication.event, epoch.decode(), int(offset))
            for publication, (epoch, offset) in zip(publications, replies, strict=True)
        ]

    def read(
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage | None:
        """Read a page of publications, as ``LocalHistory.read`` does.

        Returns None if Redis did not answer.
        """
        replies = self.pipeline.execute_all(
            [self._reading(app, channel, since, limit, reverse)]
        )
        if replies is None:
            return None
        return _page(replies[0], reverse)

    def positions(self, app: str, channels: Sequence[str]) -> list[Position] | None:
        """Return the position of the newest publication of each channel; None
        if unknown."""
        reading = [
            self._reading(app, channel, since=None, limit=0, reverse=False)
            for channel in channels
        ]
        replies = self.pipeline.execute_all(reading)
        if replies is None:
            return None
        return [_page(reply, reverse=False).position for reply in replies]

    def remove(self, app: str, channel: str) -> bool | None:
        """Remove all publications of a channel; None if the outcome is unknown."""
        _, publications = self._keys(app, channel)
        if self.pipeline.execute_all([("DEL", publications)]) is None:
            return None
        return True

    def erase_user(
        self, app: str, user: str, name: str, is_own: Callable[[str], bool]
    ) -> bool | None:
        """Remove a user from the histories of an app, as
        ``LocalHistory.erase_user`` does.

        This reads the names of all keys in Redis, in steps. Returns None if
        Redis did not answer.
        """
        start = self._key(app, "").removesuffix(b"}")
        pattern = _pattern_of_keys(start)
        cursor = b""
        while cursor != b"0":
            scan = ("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", _SCANNED_KEYS)
            replies = self.pipeline.execute_all([scan])
            if replies is None:
                return None
            cursor, keys = replies[0]
            for key in keys:
                if not self._erase_key(key, start, user, name, is_own):
                    return None
        return True

    def _erase_key(
        self,
        key: bytes,
        start: bytes,
        user: str,
        name: str,
        is_own: Callable[[str], bool],
    ) -> bool:
        """Remove a user from the data under a key. Returns False if Redis did
        not answer.

        ``start`` is the part of the key up to the app. Keys with other data stay
        as they are.
        """
        match = _KEY.fullmatch(key, len(start))
        if match is None:
            return True
        if is_own(decoded(match[1])):
            return self.pipeline.execute_all([("DEL", key)]) is not None
        if match[2] == _LIST:
            return self._erase(key, user, name) is not None
        return True

    def _erase(self, key: bytes, user: str, name: str) -> Any:
        """Erase the publications of a user in a list. Returns None if Redis did
        not answer.

        This begins with the newest publication and counts from the end. So it
        misses no publication if other publications come or go meanwhile.
        """
        count = _ERASED_TOGETHER
        already_read = 0
        while count == _ERASED_TOGETHER:
            # Indexes count from the end: -1 is the newest publication.
            last = -1 - already_read
            first = last - count + 1
            find = ("EVALSHA", FIND_PUBLICATIONS, 1, key, first, last, encoded(user))
            replies = self.pipeline.execute_all([find])
            if replies is None:
                return None
            count, publications = replies[0]
            already_read += count

            pairs = _replacements(publications, user, name)
            if pairs and not self._replace(key, pairs):
                return None
        return True

    def _replace(self, key: bytes, pairs: Sequence[Any]) -> bool:
        """Replace publications in a list. Returns False if Redis did not
        answer.

        ``pairs`` has each publication, followed by the publication that
        replaces it.
        """
        replace = ("EVALSHA", REPLACE_PUBLICATIONS, 1, key, *pairs)
        return self.pipeline.execute_all([replace]) is not None

    def _reading(
        self, app: str, channel: str, since: Position | None, limit: int, reverse: bool
    ) -> Command:
        """Return the command that reads a page of publications.

        The page has at most ``limit`` publications after ``since``; -1 means
        all of them. None as ``since`` means from the oldest publication. With
        ``reverse``, the page has the publications before ``since``, the newest
        first.
        """
        keys = (*self._keys(app, channel), *self._life)
        # The epoch that a channel without a position gets.
        new_epoch = secrets.token_urlsafe(EPOCH_BYTES)
        after = -1 if since is None else since.offset  # -1: from the oldest
        return (
            "EVALSHA",
            READ_HISTORY,
            len(keys),
            *keys,
            new_epoch,
            after,
            limit,
            int(reverse),
            _EPOCH_MS,
        )

    def _keys(self, app: str, channel: str) -> tuple[bytes, bytes]:
        """Return the keys of the hash and of the list of a channel."""
        key = self._key(app, channel)
        return key, key + _LIST

    def _key(self, app: str, channel: str) -> bytes:
        """Return the key of the hash of a channel, with which its other keys
        begin."""
        # U+0000 separates app and channel, because no name of an app contains
        # it. Both names may contain a colon.
        return b"imserver:history:%d:{%b\0%b}" % (
            self._created(app),
            encoded(app),
            encoded(channel),
        )


def _pattern_of_keys(start: bytes) -> bytes:
    """Return the pattern with which SCAN finds the keys that begin with ``start``.

    ``start`` contains the name of an app. Its characters are escaped, because
    they may have a meaning in patterns.
    """
    return re.sub(rb"([\\\[\]*?])", rb"\\\1", start) + b"*"


def _replacements(publications: Sequence[bytes], user: str, name: str) -> list[bytes]:
    """Return each publication of a user, followed by its replacement.

    The script finds the bytes of the user anywhere in a publication, so the
    sender is compared here.
    """
    pairs: list[bytes] = []
    for publication in publications:
        event = _decode(publication)
        if event.sender == user:
            pairs += publication, msgspec.msgpack.encode(erased(event, name))
    return pairs


def _page(reply: Any, reverse: bool) -> HistoryPage:
    """Return the page of publications that a reply of READ_HISTORY has.

    The reply has the epoch, the offset of the newest publication, the offset of
    the first publication on the page, and the publications of the page. They
    are always in the order of their offsets.
    """
    epoch, top, first, publications = reply
    epoch = epoch.decode()
    events = [
        numbered(_decode(publication), epoch, offset)
        for offset, publication in enumerate(publications, int(first))
    ]
    # The list is reversed only now, because the offsets count upwards.
    if reverse:
        events.reverse()
    return HistoryPage(events, Position(epoch, int(top)))


def _digest(id: str) -> bytes:
    """Return the end of the key that marks a publication with this id as
    stored."""
    return blake2b(encoded(id), digest_size=_ID_BYTES).digest()
