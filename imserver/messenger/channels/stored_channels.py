"""Channels whose history is the message log: publications become entries, and
entries publications."""

from base64 import b64encode
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from time import time
from typing import Final

from gevent.event import AsyncResult
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from imserver.gateway.channels.histories import Published, StoredHistory
from imserver.gateway.channels.members import (
    INSUFFICIENT_STATE,
    ChannelRefused,
    Publication,
    group_in,
)
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.cluster.history import HistoryPage, Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.hub.hub import Hub, LocalChannel
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import ChannelPart, Event, Limit, Outcome
from imserver.gateway.sessions.connection_ids import ConnectionTable
from imserver.gateway.storage.store import Store
from imserver.gateway.transport.connection import Connection
from imserver.messenger.log.contract import (
    Appended,
    AppendRequest,
    Draft,
    Entry,
    Rejected,
    Stored,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.meta import PublicationMeta

MAX_RECOVERED: Final = 1000
"""The most publications that a client receives when it comes back. One that
missed more reads the history."""


class ChannelLog(StoredHistory):
    """The history of stored channels. Their offsets are ids of the log, which
    have gaps.

    It delivers entries of the log to members of channels on this node:
    publications, the stored messages to rooms of the action dialect
    (``store_conversations``), and who leaves a group.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        hub: Hub,
        table: ConnectionTable,
        channels: Channels,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._hub = hub
        self._connections = table
        self._channels = channels
        self.channels: dict[str, set[str]] = {}
        """App → its channels here that need its log: stored channels, rooms
        whose messages are stored, and channels of groups. Read-only for
        others."""

    def attach(self, follow_log: Callable[[str], int]) -> None:
        """Before anybody asks, set what delivers the entries of an app from then
        on, and returns the id of the last delivered one. It may switch, and
        raises StorageUnavailable."""
        self._follow_log = follow_log

    # --- which channels need the log ------------------------------------------

    def follow(self, app: str) -> int:
        """Deliver the entries of an app from now on. Returns the id of the last
        delivered one.

        May switch; never if the app is followed. Raises
        :class:`ChannelRefused`.
        """
        try:
            self._store.database_id()
            return self._follow_log(app)
        except StorageUnavailable:
            raise ChannelRefused("unavailable") from None

    def follow_channel(
        self,
        app: str,
        channel: str,
        options: ChannelSettings,
        members: Collection[Connection],
    ) -> None:
        is_stored = options.history or self._channels.options.stores_conversations(app)
        # the log says who leaves
        of_group = options.subscribe == "members" and group_in(channel) > 0
        if (is_stored or of_group) and not all(map(follows_log_itself, members)):
            self.follow(app)
            self.channels.setdefault(app, set()).add(channel)

    def check_channel(self, local: LocalChannel, options: ChannelSettings) -> None:
        app = local.app.name
        if local.name not in self.channels.get(app, ()):
            self.follow_channel(app, local.name, options, local.members)

    def forget_channel(self, app: str, channel: str) -> None:
        """A channel without subscribers here needs no log."""
        if self.channels:
            self.channels.get(app, set()).discard(channel)

    def follows(self, app: str) -> bool:
        """Whether a channel of an app that needs its log has subscribers here.
        Never switches."""
        names = self.channels.get(app)
        if names is None:
            return False
        hub_app = self._hub.apps.get(app)
        while names:
            name = next(iter(names))
            if hub_app is not None and name in hub_app.channels:
                return True
            names.remove(name)
        del self.channels[app]
        return False

    def is_member(self, app: str, group: int, user: str) -> bool:
        row = self._store.part(MessageLog).conversations.member(app, group, user)
        return row is not None and row.kind_of_conversation == "group"

    def members(self, app: str, group: int, after: str, limit: int) -> Sequence[str]:
        rows = self._store.part(MessageLog).conversations.members(
            app, group, after, limit
        )
        # The two users of a conversation are its members, too.
        return [row.user for row in rows if row.kind_of_conversation == "group"]

    # --- delivery of entries --------------------------------------------------

    def deliver(self, app: str, entry: Entry) -> int:
        """Deliver an entry of the log, in its order, if it is a message to a
        channel. Members that follow the log themselves do not receive it here.
        Returns the number of subscribers here. Never switches."""
        channels = self._channels
        local = self._hub.channel(app, entry.room)
        stores = channels.options.stores_conversations(app)
        stored = channels.options.is_stored(app, entry.room)
        if local is None or entry.kind != "message" or not (stored or stores):
            return 0
        what = self.publication_of(entry)
        event = what.event
        part = what.event.channel
        if not stored:
            # Subscribers have no position in a room of the action dialect.
            event = replace(
                event, id=event.id or str(entry.id), channel=ChannelPart(entry.room)
            )
            what = replace(what, event=event)
        elif part is not None and part.stream is not None:
            channels.ordered.accept_stream(app, event)
        if stored and local.position is not None:
            local.position.offset = entry.id
        if isinstance(what.except_connection, str):
            what = replace(
                what,
                except_connection=self._connections.find(app, what.except_connection),
            )
        if stores:
            some = [each for each in local.members if not follows_log_itself(each)]
        else:
            some = None
        channels.ordered.to_ready(local, what, some)
        return len(local.members)

    def lose(self, app: str) -> None:
        """The log of an app has lost entries: end the subscriptions to its
        stored channels, so that clients learn it when they recover. Never
        switches."""
        for channel in tuple(self.channels.get(app, ())):
            local = self._hub.channel(app, channel)
            if local is not None and self._channels.options.is_stored(app, channel):
                for connection in tuple(local.members):
                    self._channels.members.expel(
                        connection, channel, INSUFFICIENT_STATE
                    )

    def members_left(self, app: str, group: int, users: Sequence[str]) -> None:
        """End the subscriptions of users who are members of a group no longer.
        Never switches."""
        for connection in [
            each for user in users for each in self._hub.sessions_of(app, user)
        ]:
            for local in connection.channels:
                name = local.name
                if (
                    group_in(name) == group
                    and self._channels.options.of(app, name).subscribe == "members"
                ):
                    self._channels.members.expel(connection, name)

    # --- publications ---------------------------------------------------------

    @property
    def epoch(self) -> str:
        """The epoch of all positions in the log. It changes with the database
        (``""``: there is none)."""
        return self._store.id[:8]

    def append_each(
        self, app: str, publications: Sequence[Publication], key: str = ""
    ) -> list[Published]:
        """Store publications, in this order. Switches.

        A publication whose ``key``, or without one its id, was stored before in
        its channel, by the same sender, is ``REPEATED`` and keeps its position.
        Raises :class:`ChannelRefused`: ``limit`` (invalid), ``rate`` (the app
        has used up its quota of stored messages) or ``unavailable``; then some
        may be stored.
        """
        spent = self._metrics.stored.spent(app)
        if spent is not None:
            raise ChannelRefused("rate", str(spent))
        writer = self._store.part(MessageLog).writer
        waiting: list[AsyncResult[Stored]] = [AsyncResult() for _ in publications]
        for each, answer in zip(publications, waiting, strict=True):
            writer.send(AppendRequest(app, draft_of(each, key), answer.set))
        results = [each.get() for each in waiting]
        appended = [each for each in results if isinstance(each, Appended)]
        repeats = sum(each.repeated for each in appended)
        self._metrics.stored[app] += len(appended) - repeats
        self._metrics.stored_repeats += repeats
        self._metrics.not_stored += len(results) - len(appended)
        if len(appended) == len(results):
            return [
                Published(
                    Outcome.REPEATED if each.repeated else Outcome.SENT,
                    Position(self.epoch, each.entry.id),
                )
                for each in appended
            ]
        for result in results:
            if isinstance(result, Rejected):
                raise ChannelRefused("limit", result.detail or result.reason)
        raise ChannelRefused("unavailable")

    def read(
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage:
        """See :class:`imserver.gateway.cluster.history.LocalHistory`. Switches. Raises
        :class:`ChannelRefused`.

        A page has at most :data:`MAX_RECOVERED` publications, and as many as
        fit into a page of messages.
        """
        if limit < 0:
            limit = MAX_RECOVERED
        else:
            limit = min(limit, MAX_RECOVERED)
        after = None if since is None else since.offset
        try:
            self._store.database_id()
            page = self._store.part(MessageLog).entries.channel_page(
                app, channel, after, limit, reverse
            )
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
        return HistoryPage(
            [self.publication_of(each).event for each in page.entries], position, whole
        )

    def publication_of(self, entry: Entry) -> Publication:
        """The publication that an entry of a channel has stored. Never
        switches."""
        meta = PublicationMeta.of(entry.meta)
        body = b64encode(entry.body) if meta.base64 else entry.body
        event = Event(
            "msg",
            entry.sender,
            "" if meta.json else body.decode("utf-8", "replace"),
            meta.id or meta.seq,
            meta.type or entry.type,
            body if meta.json else b"",
            time=entry.time_ms // 1000,
            channel=ChannelPart(
                entry.room,
                entry.id,
                self.epoch,
                _bytes_of(meta.info),
                _bytes_of(meta.tags),
                meta.stream,
            ),
        )
        return Publication(
            entry.room, event, meta.except_users, meta.except_connection or None
        )


def follows_log_itself(connection: Connection) -> bool:
    """Whether a connection receives the stored messages of its channels with
    those of its user."""
    state = connection.dialect_state
    return state is not None and state.channels_from_log


def draft_of(what: Publication, key: str = "") -> Draft:
    """The message that stores a publication once for each ``key``, or without
    one for its id.

    ``except_connection`` is the id of a connection.
    """
    event = what.event
    part = what.event.channel
    kind = event.type
    if (event.data and kind == "text") or len(
        kind.encode("utf-8", "surrogatepass")
    ) > Limit.TYPE_BYTES:
        kind = "custom"
    meta = PublicationMeta(
        json=event.data != b"",
        type="" if kind == event.type else event.type,
        id=event.id,
        info=Raw(part.info) if part is not None and part.info else UNSET,
        tags=Raw(part.tags) if part is not None and part.tags else UNSET,
        stream=None if part is None else part.stream,
        except_users=what.except_users,
        except_connection=what.except_connection
        if isinstance(what.except_connection, str)
        else "",
    )
    # The same id in another channel is another publication.
    digest = ""
    id = key or event.id
    if id:
        name = f"{what.channel}\0{id}".encode("utf-8", "surrogatepass")
        digest = blake2b(name, digest_size=16).hexdigest()
    return Draft(
        sender=event.sender,
        type=kind,
        body=event.data or event.text.encode(),
        client_msg_id=digest,
        time_ms=int(time() * 1000),
        meta=meta.to_bytes(),
        room=what.channel,
    )


def _bytes_of(value: Raw | UnsetType) -> bytes:
    return b"" if value is UNSET else bytes(value)
