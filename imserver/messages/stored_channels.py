"""Channels whose history is the message log: publications become entries, and entries publications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from time import time
from typing import Final

import msgspec
from gevent.event import AsyncResult
from msgspec import UNSET, Raw, Struct, UnsetType

from imserver.channels.members import ChannelRefused, Publication
from imserver.cluster.history import HistoryPage, Position
from imserver.errors import StorageUnavailable
from imserver.messages.log.contract import Appended, Draft, Entry, Rejected, Stored
from imserver.messages.log.requests import AppendRequest
from imserver.metrics import Metrics
from imserver.model import (
    ChannelPart,
    Event,
    Limit,
    Outcome,
    StreamPart,
)
from imserver.storage.store import Store

MAX_RECOVERED: Final = 1000
"""The most publications that a client receives when it comes back. One that missed more reads the history."""
_EPOCH_CHARACTERS: Final = 8
_DIGEST_BYTES: Final = 16


class Published(Struct, frozen=True):
    """The result of a publication. ``position``: its position in the history (None: it has none)."""

    outcome: Outcome
    position: Position | None = None


class _Meta(Struct, omit_defaults=True):
    """The part of the ``meta`` of an entry that is about a publication.

    ``json``: the body is JSON, not text. ``type``: if that of the entry is another one. ``seq``: the id of a
    message of the action dialect. ``stream``: the publication ends a streamed message. ``except_users``,
    ``except_connection``: who does not receive it live.
    """

    json: bool = False
    type: str = ""
    id: str = ""
    seq: str = ""
    info: Raw | UnsetType = UNSET
    tags: Raw | UnsetType = UNSET
    stream: StreamPart | None = None
    except_users: tuple[str, ...] = ()
    except_connection: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Meta).decode


class ChannelLog:
    """The publications of stored channels. Their offsets are ids of the log, which have gaps.

    Somebody must deliver them; see :meth:`attach`.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._follow: Callable[[str], int]
        self._metrics = metrics

    def attach(self, follow: Callable[[str], int]) -> None:
        """Set what delivers the entries of an app from now on, and returns the id of the last delivered one.

        It may switch, and raises StorageUnavailable.
        """
        self._follow = follow

    def follow(self, app: str) -> int:
        """Deliver the entries of an app from now on. Returns the id of the last delivered one.

        May switch; never if the app is followed. Raises :class:`ChannelRefused`.
        """
        try:
            self._store.database_id()
            return self._follow(app)
        except StorageUnavailable:
            raise ChannelRefused("unavailable") from None

    @property
    def epoch(self) -> str:
        """See :func:`log_epoch`."""
        return log_epoch(self._store)

    def append_each(self, app: str, publications: Sequence[Publication], key: str = "") -> list[Published]:
        """Store publications, in this order. Switches.

        A publication whose ``key``, or without one its id, was stored before in its channel, by the same
        sender, is ``REPEATED`` and keeps its position. Raises :class:`ChannelRefused`: ``limit`` (invalid) or
        ``unavailable``; then some may be stored.
        """
        writer = self._store.log().writer
        waiting: list[AsyncResult[Stored]] = []
        for each in publications:
            answer: AsyncResult[Stored] = AsyncResult()
            writer.send(AppendRequest(app, draft_of(each, key), answer.set))
            waiting.append(answer)
        results = [each.get() for each in waiting]
        appended = [each for each in results if isinstance(each, Appended)]
        repeats = sum(each.repeated for each in appended)
        self._metrics.stored += len(appended) - repeats
        self._metrics.stored_repeats += repeats
        self._metrics.not_stored += len(results) - len(appended)
        if len(appended) == len(results):
            return [
                Published(
                    Outcome.REPEATED if each.repeated else Outcome.SENT, Position(self.epoch, each.entry.id)
                )
                for each in appended
            ]
        for result in results:
            if isinstance(result, Rejected):
                raise ChannelRefused("limit", result.detail or result.reason)
        raise ChannelRefused("unavailable")

    def read(
        self, app: str, channel: str, since: Position | None = None, limit: int = 0, reverse: bool = False
    ) -> HistoryPage:
        """See :class:`imserver.cluster.history.ChannelHistory`. Switches. Raises :class:`ChannelRefused`.

        A page has at most :data:`MAX_RECOVERED` publications, and as many as fit into a page of messages.
        """
        limit = MAX_RECOVERED if limit < 0 else min(limit, MAX_RECOVERED)
        after = None if since is None else since.offset
        try:
            self._store.database_id()
            page = self._store.log().entries.channel_page(app, channel, after, limit, reverse)
        except StorageUnavailable:
            raise ChannelRefused("unavailable") from None
        position = Position(self.epoch, page.last)
        whole = (
            since is not None
            and since.epoch in ("", position.epoch)
            and since.offset <= page.extent.head
            and (since.offset >= page.extent.floor or since.offset >= page.last)
            and not page.extent.is_lost(since.offset)
            and not page.more
        )
        return HistoryPage([self.publication_of(each).event for each in page.entries], position, whole)

    def publication_of(self, entry: Entry) -> Publication:
        """The publication that an entry of a channel has stored. Never switches."""
        try:
            meta = _decode(entry.meta) if entry.meta else _Meta()
        except (ValueError, RecursionError):  # of a back end that has edited the message
            meta = _Meta()
        event = Event(
            "msg",
            entry.sender,
            "" if meta.json else entry.body.decode("utf-8", "replace"),
            meta.id or meta.seq,
            meta.type or entry.type,
            entry.body if meta.json else b"",
            time=entry.time_ms // 1000,
            channel=ChannelPart(
                entry.room, entry.id, self.epoch, _bytes_of(meta.info), _bytes_of(meta.tags), meta.stream
            ),
        )
        return Publication(entry.room, event, meta.except_users, meta.except_connection or None)


def log_epoch(store: Store) -> str:
    """The epoch of all positions in the log. It changes with the database (``""``: there is none)."""
    return store.id[:_EPOCH_CHARACTERS]


def draft_of(what: Publication, key: str = "") -> Draft:
    """The message that stores a publication once for each ``key``, or without one for its id.

    ``except_connection`` is the id of a connection.
    """
    event, part = what.event, what.event.channel
    kind = event.type
    if (event.data and kind == "text") or len(kind.encode("utf-8", "surrogatepass")) > Limit.TYPE_BYTES:
        kind = "custom"
    meta = _Meta(
        json=event.data != b"",
        type="" if kind == event.type else event.type,
        id=event.id,
        info=Raw(part.info) if part is not None and part.info else UNSET,
        tags=Raw(part.tags) if part is not None and part.tags else UNSET,
        stream=None if part is None else part.stream,
        except_users=what.except_users,
        except_connection=what.except_connection if isinstance(what.except_connection, str) else "",
    )
    return Draft(
        sender=event.sender,
        type=kind,
        body=event.data or event.text.encode(),
        client_msg_id=_name(what.channel, key or event.id),
        time_ms=int(time() * 1000),
        meta=b"" if meta == _Meta() else _encode(meta),
        room=what.channel,
    )


def _name(channel: str, id: str) -> str:
    """The ``client_msg_id`` of a publication. The same id in another channel is another publication."""
    if not id:
        return ""
    return blake2b(f"{channel}\0{id}".encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def _bytes_of(value: Raw | UnsetType) -> bytes:
    return b"" if value is UNSET else bytes(value)
