"""Streamed answers: a bot opens a message in a conversation, appends pieces to
it, and closes it."""

from collections.abc import Callable, Sequence
from time import time
from typing import Any, Final

import msgspec

from imserver.people.bots.declared import BOT_PIECES, PIECES_PER_SECOND
from imserver.people.bots.rows import BotStore
from imserver.people.bots.wire import AppendAnswer, CloseAnswer, OpenAnswer, StopAnswer
from imserver.plugin.errors import ReplyCode
from imserver.plugin.identity import Buckets, TooManyRequests
from imserver.plugin.messages import (
    MessageLog,
    MessageServices,
    RefusedView,
    Rejected,
    RejectReason,
)
from imserver.plugin.runtime import Service
from imserver.plugin.services import ChannelRefused, Core
from imserver.plugin.wire import (
    CommandRow,
    CommandTable,
    Connection,
    Reply,
    app_and_user,
    id_of,
)

MOST_STREAMS: Final = 100
"""Open streams of one bot on a node."""
_MOST_OWNERS: Final = 10_000
"""The most bots whose owners are remembered. With more, the oldest are
forgotten."""


class StreamedAnswers(Service, dict=True):
    """Lets bots stream answers: messages whose text comes in pieces.

    Every method may switch greenlets and raise StorageUnavailable.
    """

    core: Core
    bots: BotStore
    messages: MessageServices

    def __post_init__(self) -> None:
        """Make the rate of pieces, which counts for the owners of bots."""
        self.texts = self.messages.streams
        """The service of streamed messages, which also closes and stops
        them."""
        self._pieces = Buckets(BOT_PIECES, PIECES_PER_SECOND)
        self._owners: dict[tuple[str, str], str] = {}
        """(app, bot) → the user who is charged for its streams: its owner, or,
        without an owner, the bot."""

    def open(
        self, app: str, user: str, command: OpenAnswer, is_back_end: bool = False
    ) -> str | Rejected:
        """Open a stream of the bot ``user``, to a user or in a conversation.

        Returns the id of the stream, or the reason why it is refused.

        Unless a back end opens it, it counts as a message of the bot, and the
        bot has at most :data:`MOST_STREAMS`. It is refused in an app whose back
        end reviews messages, because pieces cannot be reviewed. Raises
        TooManyRequests, and ChannelRefused: ``full`` or ``limit``.
        """
        if not _names_receiver(command, user):
            return Rejected(
                RejectReason.INVALID,
                "`to`, `conversation`: expected one of them, not the sender",
            )
        owner = self._owner_of(app, user)
        if not owner:
            return Rejected(RejectReason.NOT_BOT, "only bots stream answers")

        if not is_back_end:
            refusal = self._refuses_sender(app, user)
            if refusal is not None:
                return refusal
        peer = self._reachable_peer(app, user, command, is_back_end)
        if isinstance(peer, Rejected):
            return peer

        if not is_back_end:
            self._count_as_message(app, user)
        self.core.metrics.stored.require(app)
        return self.texts.open_text(
            app,
            user,
            peer,
            command.conversation,
            command.text,
            command.type,
            owner,
            command.thread,
            command.stoppers,
        )

    def _refuses_sender(self, app: str, user: str) -> Rejected | None:
        """The reason why the bot may not send now to any receiver.

        Returns None if it may.
        """
        mute = self.core.mutes.mute_of(app, user)
        if mute is not None:
            return Rejected(RejectReason.MUTED, mute.text, mute.until)
        if app in self.core.reviews.apps:
            return Rejected(
                RejectReason.REJECTED,
                "messages are reviewed here, so only a back end streams them",
            )
        return None

    def _may_begin(self, app: str, user: str, to: str, is_back_end: bool) -> bool:
        """Whether the bot may write to a user who may be unknown.

        The receiver has an account, if the app demands one, or already has a
        conversation with the bot.
        """
        if not self.core.logins.wants_account(app, not is_back_end):
            return True
        if self.core.accounts.those_of(app, [to]):
            return True
        conversations = self.core.store.part(MessageLog).conversations
        return conversations.between(app, user, to) is not None

    def _count_as_message(self, app: str, user: str) -> None:
        """Count a stream as a message of the bot.

        Raises ChannelRefused and TooManyRequests.
        """
        if self.texts.count_of(app, user) >= MOST_STREAMS:
            raise ChannelRefused(
                "full", f"the bot has {MOST_STREAMS} open streams on this node"
            )
        if not self.core.sender_rates.take(app, user):
            raise TooManyRequests(1)

    def _owner_of(self, app: str, bot: str) -> str:
        """The user who is charged for the streams of a bot.

        It is the owner, or, if a back end owns the bot, the bot. Returns ``""``
        if the user ``bot`` is no bot. The owner of a bot never changes, so the
        result is remembered.
        """
        rows = self.bots.get(app, [id_of(bot)])
        owner = ""
        if rows:
            owner = bot
            if rows[0].owner:
                owner = str(rows[0].owner)
        if len(self._owners) >= _MOST_OWNERS:
            oldest = next(iter(self._owners))
            del self._owners[oldest]
        self._owners[app, bot] = owner
        return owner

    def _reachable_peer(
        self, app: str, user: str, command: OpenAnswer, is_back_end: bool
    ) -> str | Rejected:
        """The other user of a conversation of two; ``""`` for a group.

        Returns the reason if the bot ``user`` may not write to them.
        """
        to = command.to
        peer: str | Rejected = to
        if command.conversation:
            peer = self._peer_in(
                app, user, command.conversation, in_thread=command.thread > 0
            )
        if isinstance(peer, Rejected):
            return peer
        if peer and not self.core.relations.may_write(app, user, peer):
            return Rejected(RejectReason.BLOCKED)
        if to and not self._may_begin(app, user, to, is_back_end):
            return Rejected(RejectReason.UNKNOWN_ACCOUNT)
        return peer

    def _peer_in(
        self, app: str, user: str, conversation: int, in_thread: bool
    ) -> str | Rejected:
        """The other user of a conversation in which a bot may write; ``""`` for
        a group.

        Returns the reason if the bot may not write there. ``in_thread`` says
        that the message is a reply in a thread.
        """
        conversations = self.core.store.part(MessageLog).conversations
        row = conversations.get(app, conversation)
        membership = conversations.member(app, conversation, user)
        if row is None or membership is None:
            return Rejected(RejectReason.UNKNOWN_CONVERSATION)
        if membership.muted_until > time():
            return Rejected(RejectReason.MUTED)
        if not row.may_write(membership.role, in_thread):
            return Rejected(RejectReason.READ_ONLY)
        for member in row.members:
            if member != user:
                return member
        return ""

    def append(
        self,
        app: str,
        user: str,
        pieces: Sequence[tuple[str, int, str]],
        is_back_end: bool = False,
    ) -> Sequence[tuple[str, int]]:
        """Append pieces (stream, number, text) to streams of a bot, in their
        order.

        They are charged to the owner of the bot, unless a back end appends
        them. Returns for each piece its result, and the number of the last
        piece of its stream. Raises TooManyRequests, and ChannelRefused:
        ``unavailable``.
        """
        if not is_back_end:
            owner = self._owners.get((app, user))
            if owner is None:
                owner = self._owner_of(app, user)
            self._pieces.require_one((app, owner or user), len(pieces))
        return self.texts.append(app, pieces, user)


# --- commands of clients ------------------------------------------------------


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
    """The result for a message, and the id of the stored message."""

    stream: str
    status: str
    id: int = 0


def _refusing(
    run: Callable[[Connection, Any], Reply],
) -> Callable[[Connection, Any], Reply]:
    """Decorator of commands on a stream: answer ChannelRefused with its reason."""

    def answer(connection: Connection, command: Any) -> Reply:
        """Run the command, and answer with the reason if it is refused."""
        try:
            return run(connection, command)
        except ChannelRefused as refused:
            view = RefusedView(refused.reason)
            if refused.reason in ("full", "unavailable"):
                return Reply(ReplyCode.NOT_STORED, view)
            return Reply(ReplyCode.BAD_PARAMETER, view)

    return answer


class AnswerCommands(Service):
    """Carries out the commands of bots on streamed answers.

    Everything may switch greenlets.
    """

    answers: StreamedAnswers

    def commands(self) -> CommandTable:
        """The commands that this service runs."""
        return {
            OpenAnswer: CommandRow(_refusing(self.open)),
            AppendAnswer: CommandRow(_refusing(self.append)),
            CloseAnswer: CommandRow(_refusing(self.close)),
            StopAnswer: CommandRow(_refusing(self.stop)),
        }

    def open(self, connection: Connection, command: OpenAnswer) -> Reply:
        """Open a stream; the reply has its id."""
        app, user = app_and_user(connection)
        stream = self.answers.open(app, user, command)
        if isinstance(stream, Rejected):
            return Reply(stream.reply_code, RefusedView.of(stream))
        return Reply(ReplyCode.OK, OpenedView(stream))

    def append(self, connection: Connection, command: AppendAnswer) -> Reply:
        """Append pieces to streams; the reply has the result for each piece."""
        app, user = app_and_user(connection)
        results = self.answers.append(app, user, command.pieces)
        views = []
        for piece, result in zip(command.pieces, results, strict=True):
            stream, _, _ = piece
            status, last = result
            views.append(PieceView(stream, last, status))
        return Reply(ReplyCode.OK, PiecesView(views))

    def close(self, connection: Connection, command: CloseAnswer) -> Reply:
        """Close a stream; the reply has the id of the stored message."""
        app, user = app_and_user(connection)
        closed = self.answers.texts.close_text(
            app, command.stream, command.incomplete, user
        )
        if isinstance(closed, Rejected):
            return Reply(closed.reply_code, RefusedView.of(closed))
        status, id = closed
        return Reply(ReplyCode.OK, ClosedView(command.stream, status, id))

    def stop(self, connection: Connection, command: StopAnswer) -> Reply:
        """Stop a stream that the user reads."""
        app, user = app_and_user(connection)
        status = self.answers.texts.stop(app, command.stream, user).status
        if status == "not_allowed":
            return Reply(ReplyCode.UNAUTHORIZED, RefusedView(status))
        return Reply(ReplyCode.OK, ClosedView(command.stream, status))


def _names_receiver(command: OpenAnswer, user: str) -> bool:
    """Whether a command has either a user other than the sender, or a
    conversation."""
    return command.to != user and bool(command.to) != bool(command.conversation)
