"""Streamed answers: a bot opens a message in a conversation, appends pieces to it, and closes it.

The connections that receive stored messages of the conversation receive the pieces, as signals. The end is an
ordinary stored message, whose ``client_msg_id`` is the id of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Final

import msgspec

from imserver.features.accounts.accounts import Accounts
from imserver.features.bots.rows import BotStore
from imserver.features.bots.settings import BOT_PIECES, PIECES_PER_SECOND
from imserver.features.bots.wire import AppendAnswer, CloseAnswer, OpenAnswer
from imserver.plugin.errors import ReplyCode, StorageUnavailable
from imserver.plugin.identity import Buckets, Logins, Relations, Reviews, SenderRates, TooManyRequests
from imserver.plugin.messages import (
    Appended,
    Draft,
    Messaging,
    RefusedView,
    Rejected,
    RejectReason,
    Signals,
    code_of,
)
from imserver.plugin.services import (
    AppendedPiece,
    AppendStatus,
    ChannelRefused,
    ClosedStream,
    OpenStream,
    Piece,
    Position,
    StreamedMessages,
    StreamTarget,
    ToFollowers,
    check_draft,
)
from imserver.plugin.storage import Store
from imserver.plugin.wire import (
    ChannelPart,
    CommandRow,
    CommandTable,
    Connection,
    Event,
    Reply,
    Signal,
    app_and_user,
    id_of,
)

MOST_STREAMS: Final = 100
"""Open streams of one bot on a node."""
_MOST_OWNERS: Final = 10_000
_USER: Final = "user:"
_GROUP: Final = "group:"
_INCOMPLETE: Final = b'{"incomplete":true}'


class ConversationStreams(StreamTarget):
    """Streamed messages in conversations. The name of one says where it is: ``user:`` and the receiver, or
    ``group:`` and its number."""

    name = "answers: "
    together = 1
    of_users = True

    def __init__(self, messaging: Messaging, signals: Signals, store: Store, relations: Relations) -> None:
        self._messaging = messaging
        self._signals = signals
        self._store = store
        self._relations = relations
        self.streams = messaging.streams

    def limit(self, app: str, channel: str) -> int:
        return 0

    def check(self, stream: OpenStream) -> None:
        check_draft(_draft_of(stream.end(True)))

    def may_continue(self, stream: OpenStream) -> bool:
        sender = stream.head.sender
        to, group = _receiver_of(stream.channel)
        try:
            if to:
                return self._relations.may_write(stream.app, sender, to)
            own = self._store.log().conversations.member(stream.app, group, sender)
        except StorageUnavailable:
            return True  # until the next look
        return own is not None and own.muted_until <= time()

    def publish(self, app: str, events: Sequence[Event]) -> None:
        for event in events:
            self._signals.send(_to_followers(app, event))

    def publish_end(self, app: str, channel: str, event: Event) -> Position | Rejected:
        stored = self._messaging.store(app, _draft_of(event), by_user=False)
        if not isinstance(stored, Appended | Rejected):
            raise ChannelRefused("unavailable")
        # Clients know the end by the stored message. Without one, they drop the text.
        gone = isinstance(stored, Rejected)
        part = event.channel
        assert part is not None
        assert part.stream is not None
        stream = msgspec.structs.replace(part.stream, done=True, whole=gone)
        end = msgspec.structs.replace(event, text="", channel=msgspec.structs.replace(part, stream=stream))
        self.publish(app, [_signal(end)])
        return stored if isinstance(stored, Rejected) else Position("", stored.entry.id)

    def deliver(self, app: str, event: Event) -> None:
        self._signals.deliver(_to_followers(app, event))

    def deliver_so_far(self, app: str, event: Event) -> None:
        message, part = _to_followers(app, event), event.channel
        assert part is not None
        assert part.stream is not None
        readers = self._signals.readers_of(message)
        if readers and self.streams.accept(app, part, part.stream, message.signal):
            self._messaging.deliverer.send_stream(self.streams.of(app, part.name)[part.stream.id], readers)

    def has_receivers(self, stream: OpenStream) -> bool:
        return self._signals.has_receivers(_to_followers(stream.app, stream.event("")))

    def history(self, app: str, channel: str) -> str:
        return "log"


def _receiver_of(name: str) -> tuple[str, int]:
    """The receiver, or the number of the group."""
    return (name.removeprefix(_USER), 0) if name.startswith(_USER) else ("", int(name.removeprefix(_GROUP)))


def _draft_of(end: Event) -> Draft:
    """The message that stores the end of a stream."""
    part = end.channel
    assert part is not None
    assert part.stream is not None
    to, conversation = _receiver_of(part.name)
    return Draft(
        sender=end.sender,
        type=end.type,
        body=end.text.encode(),
        client_msg_id=part.stream.id,
        time_ms=int(time() * 1000),
        meta=_INCOMPLETE if part.stream.incomplete else b"",
        to_user=to,
        conversation=conversation,
    )


def _to_followers(app: str, event: Event) -> ToFollowers:
    signal = event if isinstance(event, Signal) else _signal(event)  # other nodes send plain events
    users = (signal.to, signal.sender) if signal.to else ()
    return ToFollowers(app, users, signal.conversation, signal)


def _signal(event: Event) -> Signal:
    part = event.channel
    assert part is not None
    to, group = _receiver_of(part.name)
    return Signal("piece", event.sender, event.text, type=event.type, channel=part, to=to, conversation=group)


class StreamedAnswers:
    """Lets bots stream answers. Every method may switch and raise StorageUnavailable."""

    def __init__(
        self,
        streams: StreamedMessages,
        store: Store,
        bots: BotStore,
        logins: Logins,
        accounts: Accounts,
        relations: Relations,
        rates: SenderRates,
        reviews: Reviews,
    ) -> None:
        self._streams = streams
        self._store = store
        self._bots = bots
        self._logins = logins
        self._accounts = accounts
        self._relations = relations
        self._rates = rates
        self._reviews = reviews
        self._pieces = Buckets(BOT_PIECES, PIECES_PER_SECOND)
        self._owners: dict[tuple[str, str], str] = {}
        """App and bot → who pays for its streams: its owner, without one the bot itself."""

    def open(
        self,
        app: str,
        user: str,
        to: str,
        conversation: int,
        text: str = "",
        type: str = "text",
        is_back_end: bool = False,
    ) -> str | Rejected:
        """Open a stream to a user or in a conversation, and return its id.

        Unless a back end opens it, it counts as a message of the bot, which has at most :data:`MOST_STREAMS`,
        and it is refused in an app whose back end reviews messages: pieces cannot be reviewed.
        Raises TooManyRequests, and ChannelRefused: ``full`` or ``limit``.
        """
        if to == user or bool(to) == bool(conversation):
            return Rejected(
                RejectReason.INVALID, "`to`, `conversation`: expected one of them, not the sender"
            )
        owner = self._owner_of(app, user)
        if not owner:
            return Rejected(RejectReason.NOT_BOT, "only bots stream answers")
        if not is_back_end and app in self._reviews.apps:
            return Rejected(
                RejectReason.REJECTED, "messages are reviewed here, so only a back end streams them"
            )
        found = self._peer(app, user, conversation) if conversation else to
        if isinstance(found, Rejected):
            return found
        if found and not self._relations.may_write(app, user, found):
            return Rejected(RejectReason.BLOCKED)
        if to and self._is_refused_as_first(app, user, to):
            return Rejected(RejectReason.UNKNOWN_ACCOUNT)
        if not is_back_end:
            if self._streams.count_of(app, user) >= MOST_STREAMS:
                raise ChannelRefused("full", f"the bot has {MOST_STREAMS} open streams on this node")
            if not self._rates.take(app, user):
                raise TooManyRequests(1)
        part = ChannelPart(f"{_USER}{found}" if found else f"{_GROUP}{conversation}")
        head = _signal(Event("piece", user, "", type=type, channel=part))
        return self._streams.open(app, head, text, owner)

    def _owner_of(self, app: str, bot: str) -> str:
        """Who pays for the streams of a bot (``""``: it is no bot). It never changes, and is remembered."""
        rows = self._bots.get(app, [id_of(bot)])
        owner = (str(rows[0].owner) if rows[0].owner else bot) if rows else ""
        if len(self._owners) >= _MOST_OWNERS:
            del self._owners[next(iter(self._owners))]
        self._owners[app, bot] = owner
        return owner

    def _is_refused_as_first(self, app: str, user: str, to: str) -> bool:
        """Whether a message would be refused as the first one to somebody who is no account."""
        if app not in self._logins.account_apps or self._accounts.those_of(app, [to]):
            return False
        return self._store.log().conversations.between(app, user, to) is None

    def _peer(self, app: str, user: str, conversation: int) -> str | Rejected:
        """The other user of a conversation; ``""``: it is a group."""
        log = self._store.log()
        found, own = (
            log.conversations.get(app, conversation),
            log.conversations.member(app, conversation, user),
        )
        if found is None or own is None:
            return Rejected(RejectReason.UNKNOWN_CONVERSATION)
        if own.muted_until > time():
            return Rejected(RejectReason.MUTED)
        return next((each for each in found.members if each != user), "")

    def append(
        self, app: str, user: str, pieces: Sequence[Piece], is_back_end: bool = False
    ) -> list[AppendedPiece]:
        """Append pieces to streams of a bot, in their order. Unless a back end does, the owner pays.

        Raises TooManyRequests.
        """
        if not is_back_end:
            owner = self._owners.get((app, user))
            owner = self._owner_of(app, user) if owner is None else owner
            self._pieces.require_one((app, owner or user), len(pieces))
        return self._streams.append(app, pieces, user)

    def close(self, app: str, user: str, stream: str, incomplete: bool = False) -> ClosedStream | Rejected:
        """Close a stream of a bot. The ``offset`` of the result is the id of the stored message.

        Rejected: the stream is closed, but its message is not stored.
        """
        closed = self._streams.close(app, stream, incomplete, user)
        return closed.rejected or closed


# --- commands of clients ------------------------------------------------------------------------------------


class OpenedView(msgspec.Struct):
    """The id of the new stream. Its first piece has the number 1."""

    stream: str


class PieceView(msgspec.Struct):
    """The result for one piece."""

    stream: str
    piece: int
    status: str


class PiecesView(msgspec.Struct):
    """The results, in the order of the pieces."""

    results: list[PieceView]


class ClosedView(msgspec.Struct, omit_defaults=True):
    """The result for a message, and its id."""

    stream: str
    status: str
    id: int = 0


_REFUSED: Final = {"full": ReplyCode.NOT_STORED}
_TOO_MANY: Final[dict[type[Exception], int]] = {TooManyRequests: ReplyCode.NOT_STORED}


_UNAVAILABLE: Final = Reply(ReplyCode.NOT_STORED, RefusedView("unavailable"))


class AnswerCommands:
    """Carries out the commands of bots on streamed answers. Everything may switch."""

    def __init__(self, answers: StreamedAnswers) -> None:
        self._answers = answers

    def rows(self) -> CommandTable:
        """The commands that this service runs."""
        return {
            OpenAnswer: CommandRow(self.open, refusals=_TOO_MANY),
            AppendAnswer: CommandRow(self.append, refusals=_TOO_MANY),
            CloseAnswer: CommandRow(self.close),
        }

    def open(self, connection: Connection, command: OpenAnswer) -> Reply:
        """Open a stream."""
        app, user = app_and_user(connection)
        where = command.to, command.conversation
        try:
            found = self._answers.open(app, user, *where, command.text, command.type)
        except ChannelRefused as refused:
            code = _REFUSED.get(refused.reason, ReplyCode.BAD_PARAMETER)
            return Reply(code, RefusedView(refused.reason))
        if isinstance(found, Rejected):
            return Reply(code_of(found), RefusedView(found.reason))
        return Reply(ReplyCode.OK, OpenedView(found))

    def append(self, connection: Connection, command: AppendAnswer) -> Reply:
        """Append pieces."""
        app, user = app_and_user(connection)
        pieces = [Piece(*each) for each in command.pieces]
        found = self._answers.append(app, user, pieces)
        if all(each.status is AppendStatus.FAILED for each in found):
            return _UNAVAILABLE
        results = [
            PieceView(piece.stream, each.piece, each.status)
            for piece, each in zip(pieces, found, strict=True)
        ]
        return Reply(ReplyCode.OK, PiecesView(results))

    def close(self, connection: Connection, command: CloseAnswer) -> Reply:
        """Close a stream."""
        app, user = app_and_user(connection)
        closed = self._answers.close(app, user, command.stream, command.incomplete)
        if isinstance(closed, Rejected):
            return Reply(code_of(closed), RefusedView(closed.reason))
        if closed.status == "failed":
            return _UNAVAILABLE
        return Reply(ReplyCode.OK, ClosedView(command.stream, closed.status, closed.offset))
