"""Channels whose history is the message log. Publications are stored as
entries, and entries are delivered as publications."""

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
    SECOND_MS,
    Appended,
    AppendRequest,
    Draft,
    Entry,
    PublicationPage,
    Rejected,
    Stored,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.meta import PublicationMeta

MAX_RECOVERED: Final = 1000
"""The most publications that a client receives when it comes back. A client
that missed more publications reads the history."""
_EPOCH_CHARACTERS: Final = 8
"""The epoch is this number of characters of the id of the database."""
_DIGEST_BYTES: Final = 16
"""Length of the digest that is the ``client_msg_id`` of a publication."""


class ChannelLog(StoredHistory):
    """The history of stored channels, in the message log.

    A *stored channel* keeps its publications as entries of the log. The offsets
    of its publications are ids of the log, which have gaps. This object
    delivers entries of the log to members of channels on this node. These
    entries are publications, stored messages to rooms of the action dialect
    (``store_conversations``), and leaves of groups.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        hub: Hub,
        table: ConnectionTable,
        channels: Channels,
    ) -> None:
        """Begin without channels. Call :meth:`attach` before anything else."""
        self._store = store
        self._metrics = metrics
        self._hub = hub
        self._connections = table
        self._channels = channels
        self.channels: dict[str, set[str]] = {}
        """App → its channels on this node that need its log: stored channels,
        rooms whose messages are stored, and channels of groups. Read-only
        outside this class."""

    def attach(self, follow_log: Callable[[str], int]) -> None:
        """Set the function that starts delivery of the entries of an app.

        The function returns the id of the last delivered entry. It may switch
        greenlets, and raise StorageUnavailable. Call this before anything else.
        """
        self._follow_log = follow_log

    # --- which channels need the log ------------------------------------------

    def follow(self, app: str) -> int:
        """Deliver the entries of an app from now on.

        Returns the id of the last delivered entry. May switch greenlets, but
        not if the app is already followed. Raises :class:`ChannelRefused`.
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
        """Deliver the entries of an app, if a channel needs its log.

        ``members`` are the subscribers of the channel. May switch greenlets,
        and raise :class:`ChannelRefused`.
        """
        is_stored = options.history or self._channels.options.stores_conversations(app)
        # The log tells who leaves a group.
        is_of_group = options.subscribe == "members" and group_in(channel) > 0
        if not (is_stored or is_of_group):
            return
        if all(map(follows_log_itself, members)):
            # These members receive the entries of the channel together with the
            # entries of their users.
            return
        self.follow(app)
        self.channels.setdefault(app, set()).add(channel)

    def check_channel(self, local: LocalChannel, options: ChannelSettings) -> None:
        """Follow the log for a channel that needs it and is not followed yet.

        May switch greenlets, and raise :class:`ChannelRefused`.
        """
        app = local.app.name
        if local.name not in self.channels.get(app, ()):
            self.follow_channel(app, local.name, options, local.members)

    def forget_channel(self, app: str, channel: str) -> None:
        """Forget a channel without subscribers on this node. It needs no
        log."""
        if self.channels:
            self.channels.get(app, set()).discard(channel)

    def follows(self, app: str) -> bool:
        """Tell whether a channel with subscribers on this node needs the log of
        an app.

        Never switches greenlets.
        """
        names = self.channels.get(app)
        if names is None:
            return False
        hub_app = self._hub.apps.get(app)
        # One channel with subscribers is enough. Channels without subscribers
        # are forgotten on the way.
        while names:
            name = next(iter(names))
            if hub_app is not None and name in hub_app.channels:
                return True
            names.remove(name)
        del self.channels[app]
        return False

    def is_member(self, app: str, group: int, user: str) -> bool:
        """Tell whether a user is a member of a group. Switches greenlets."""
        row = self._store.part(MessageLog).conversations.member(app, group, user)
        return row is not None and row.kind_of_conversation == "group"

    def members(self, app: str, group: int, after: str, limit: int) -> Sequence[str]:
        """Return a page of the members of a group, with ids after ``after``.

        Switches greenlets.
        """
        rows = self._store.part(MessageLog).conversations.members(
            app, group, after, limit
        )
        # The two users of a conversation are its members, too.
        return [row.user for row in rows if row.kind_of_conversation == "group"]

    # --- delivery of entries --------------------------------------------------

    def deliver(self, app: str, entry: Entry) -> int:
        """Deliver an entry of the log, if it is a message to a channel.

        Entries come in their order. Members that follow the log themselves do
        not receive the entry from this method. Returns the number of
        subscribers on this node, or 0 if the entry was delivered to nobody.
        Never switches greenlets.
        """
        channels = self._channels
        local = self._hub.channel(app, entry.room)
        stores_rooms = channels.options.stores_conversations(app)
        is_stored = channels.options.is_stored(app, entry.room)
        if local is None or entry.kind != "message" or not (is_stored or stores_rooms):
            return 0

        publication = self.publication_of(entry)
        event = publication.event
        part = event.channel
        if not is_stored:
            # Subscribers have no position in a room of the action dialect.
            event = replace(
                event, id=event.id or str(entry.id), channel=ChannelPart(entry.room)
            )
            publication = replace(publication, event=event)
        elif part is not None and part.stream is not None:
            channels.ordered.accept_stream(app, event)
        # New subscribers begin after this entry.
        if is_stored and local.position is not None:
            local.position.offset = entry.id
        except_id = publication.except_connection
        if isinstance(except_id, str):
            # The result is None if the publisher is connected to another node.
            sender = self._connections.find(app, except_id)
            publication = replace(publication, except_connection=sender)

        receivers = None  # all subscribers
        if stores_rooms:
            receivers = [one for one in local.members if not follows_log_itself(one)]
        channels.ordered.to_ready(local, publication, receivers)
        return len(local.members)

    def lose(self, app: str) -> None:
        """End the subscriptions to stored channels of an app with lost entries.

        The clients then notice the loss when they recover. Never switches
        greenlets.
        """
        for channel in tuple(self.channels.get(app, ())):
            local = self._hub.channel(app, channel)
            if local is None or not self._channels.options.is_stored(app, channel):
                continue
            for connection in tuple(local.members):
                self._channels.members.expel(connection, channel, INSUFFICIENT_STATE)

    def members_left(self, app: str, group: int, users: Sequence[str]) -> None:
        """End the subscriptions of users who are no longer members of a group.

        Only channels of this group are concerned. Never switches greenlets.
        """
        connections: list[Connection] = []
        for user in users:
            connections += self._hub.sessions_of(app, user)
        for connection in connections:
            for local in connection.channels:
                name = local.name
                if group_in(name) != group:
                    continue
                # A user may stay in channels that are not only for members.
                if self._channels.options.of(app, name).subscribe == "members":
                    self._channels.members.expel(connection, name)

    # --- publications ---------------------------------------------------------

    @property
    def epoch(self) -> str:
        """The epoch of all positions in the log, which changes with the
        database. It is ``""`` if there is no database yet."""
        return self._store.id[:_EPOCH_CHARACTERS]

    def append_each(
        self, app: str, publications: Sequence[Publication], key: str = ""
    ) -> list[Published]:
        """Store publications, in this order, and return the result of each.

        A publication is ``REPEATED``, and keeps its position, if the same
        sender has stored it in its channel before. It is recognized by its
        ``key`` or, if there is no key, by its id. Switches greenlets.

        Raises :class:`ChannelRefused` with the reason ``limit`` (a publication
        is invalid), ``rate`` (the app has used up its quota of stored messages)
        or ``unavailable``. After ``limit`` and ``unavailable``, some of the
        publications may be stored.
        """
        # None means that the app has quota left.
        spent = self._metrics.stored.spent(app)
        if spent is not None:
            raise ChannelRefused("rate", str(spent))
        writer = self._store.part(MessageLog).writer
        waiting: list[AsyncResult[Stored]] = [AsyncResult() for _ in publications]
        # All drafts are sent before the first result is awaited, so that one
        # commit stores them.
        for publication, answer in zip(publications, waiting, strict=True):
            writer.send(AppendRequest(app, draft_of(publication, key), answer.set))
        results = [answer.get() for answer in waiting]

        appended = [result for result in results if isinstance(result, Appended)]
        repeats = sum(result.repeated for result in appended)
        self._metrics.stored[app] += len(appended) - repeats
        self._metrics.stored_repeats += repeats
        self._metrics.not_stored += len(results) - len(appended)
        if len(appended) == len(results):
            return [self._published(result) for result in appended]
        for result in results:
            if isinstance(result, Rejected):
                raise ChannelRefused("limit", result.detail or result.reason)
        raise ChannelRefused("unavailable")

    def _published(self, result: Appended) -> Published:
        """Return the result for the publisher."""
        outcome = Outcome.REPEATED if result.repeated else Outcome.SENT
        return Published(outcome, Position(self.epoch, result.entry.id))

    def read(
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage:
        """Return a page of the publications of a channel. Switches greenlets.

        The page has publications after the position ``since``; None means from
        the beginning. With ``reverse``, the page has the publications before
        ``since``, the newest first. A page has at most ``limit`` publications
        (-1: as many as possible), and never more than :data:`MAX_RECOVERED`. It
        has only as many as fit into a page of messages. Raises
        :class:`ChannelRefused`.
        """
        if limit < 0:
            limit = MAX_RECOVERED
        else:
            limit = min(limit, MAX_RECOVERED)
        after = None
        if since is not None:
            after = since.offset
        try:
            self._store.database_id()
            page = self._store.part(MessageLog).entries.channel_page(
                app, channel, after, limit, reverse
            )
        except StorageUnavailable:
            raise ChannelRefused("unavailable") from None

        position = Position(self.epoch, page.last)
        events = [self.publication_of(entry).event for entry in page.entries]
        # This says whether a client at `since` has all publications after it
        # reads this page.
        is_complete = (
            since is not None and not page.more and self._has_all_since(since, page)
        )
        return HistoryPage(events, position, is_complete)

    def _has_all_since(self, since: Position, page: PublicationPage) -> bool:
        """Tell whether the log still has all publications after a position."""
        extent = page.extent
        is_of_this_log = since.epoch in ("", self.epoch) and since.offset <= extent.head
        # Entries up to the floor have expired. A client that has the newest
        # publication of the channel has missed none of them.
        has_expired = since.offset < extent.floor and since.offset < page.last
        return is_of_this_log and not has_expired and not extent.is_lost(since.offset)

    def publication_of(self, entry: Entry) -> Publication:
        """Return the publication that is stored in an entry of a channel.

        Never switches greenlets.
        """
        meta = PublicationMeta.of(entry.meta)
        body = entry.body
        # The log stores bytes. Clients get JSON, text, or base64.
        if meta.base64:
            body = b64encode(body)
        if meta.json:
            text = ""
            data = body
        else:
            text = body.decode("utf-8", "replace")
            data = b""

        part = ChannelPart(
            entry.room,
            entry.id,
            self.epoch,
            _bytes_of(meta.info),
            _bytes_of(meta.tags),
            meta.stream,
        )
        event = Event(
            "msg",
            entry.sender,
            text,
            meta.id or meta.seq,
            meta.type or entry.type,
            data,
            time=entry.time_ms // SECOND_MS,
            channel=part,
        )
        return Publication(
            entry.room, event, meta.except_users, meta.except_connection or None
        )


def follows_log_itself(connection: Connection) -> bool:
    """Tell whether a connection gets messages of its channels from the log.

    It then receives these messages together with the messages of its user.
    """
    state = connection.dialect_state
    return state is not None and state.channels_from_log


def draft_of(publication: Publication, key: str = "") -> Draft:
    """Return the draft of the message for a publication.

    The message is stored once for each ``key`` or, if there is no key, once for
    its id. ``except_connection`` must be the id of a connection, not the
    connection, because another node may have the connection.
    """
    event = publication.event
    kind = event.type
    original_type = ""
    is_long = len(kind.encode("utf-8", "surrogatepass")) > Limit.TYPE_BYTES
    # A type that is too long is stored in `meta`. Data is not text, even if its
    # publisher has given it the type of texts.
    if is_long or (event.data and kind == "text"):
        kind = "custom"
        original_type = event.type

    # The properties that are not in the body go into `meta`.
    info: Raw | UnsetType = UNSET
    tags: Raw | UnsetType = UNSET
    stream = None
    part = event.channel
    if part is not None:
        stream = part.stream
        if part.info:
            info = Raw(part.info)
        if part.tags:
            tags = Raw(part.tags)
    except_connection = ""
    if isinstance(publication.except_connection, str):
        except_connection = publication.except_connection
    meta = PublicationMeta(
        json=event.data != b"",
        type=original_type,
        id=event.id,
        info=info,
        tags=tags,
        stream=stream,
        except_users=publication.except_users,
        except_connection=except_connection,
    )

    # The channel is part of the digest, because the same id in another channel
    # is another publication.
    digest = ""  # without an id, each publication is stored
    id = key or event.id
    if id:
        name = f"{publication.channel}\0{id}".encode("utf-8", "surrogatepass")
        digest = blake2b(name, digest_size=_DIGEST_BYTES).hexdigest()
    return Draft(
        sender=event.sender,
        type=kind,
        body=event.data or event.text.encode(),
        client_msg_id=digest,
        time_ms=int(time() * SECOND_MS),
        meta=meta.to_bytes(),
        room=publication.channel,
    )


def _bytes_of(value: Raw | UnsetType) -> bytes:
    """Return the bytes of a JSON value, or ``b""`` if it is not set."""
    if value is UNSET:
        return b""
    return bytes(value)
