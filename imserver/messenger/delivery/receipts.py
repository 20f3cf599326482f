"""Receipts and signals: the read and received positions of users, and typing
notices.

A signal is sent at once to the subscribed connections on all nodes, and is not
stored. Clients that were away do not need typing notices, and can ask for
receipts and marks.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from itertools import chain
from time import monotonic
from typing import Annotated, Final

from msgspec import Struct

from imserver.gateway.config.declared import about
from imserver.gateway.core.services import Services
from imserver.gateway.errors import ReplyCode
from imserver.gateway.hub.hub import App
from imserver.gateway.model import Reply, Service, Signal
from imserver.gateway.storage.store import Store
from imserver.gateway.transport.connection import Connection, app_and_user
from imserver.gateway.transport.dispatch import CommandRow, CommandTable
from imserver.messenger.delivery.messaging import Messaging
from imserver.messenger.delivery.open_streams import parts_of
from imserver.messenger.log.commands import (
    AskMarks,
    AskReceipts,
    CountReceipts,
    Hide,
    Read,
    Received,
    Typing,
)
from imserver.messenger.log.contract import Conversation, MarkResult, ReceiptCount
from imserver.messenger.log.message_log import MessageLog

TYPING_SECONDS: Final = 1.0
"""The least time between two typing notices of a user in the same conversation.
Notices in between are dropped."""
GROUP_SECONDS: Final = 0.2
"""The least time between two typing notices in a group, from any members."""
MOST_REMEMBERED: Final = 10_000
"""The most pairs of a user and a conversation for which the time of the last
notice is remembered. If there are more, the oldest are forgotten."""


class ToFollowers(Struct, frozen=True, gc=False, tag="s", array_like=True):
    """Deliver a signal to the subscribed connections of the users ``users`` of
    an app, or of the members of ``group`` (0: no group):
    ``MessageServices.signals.send(message, besides=connection)``. It leaves out
    the connection ``besides``.

    ``ToFollowers(app, ("ann",), 0, Signal("moods.changed", "bob", "",
    data=b'{"text": "happy"}'))``: clients of ``cmd`` get a frame
    ``moods.changed`` with this data.
    """

    app: str
    users: tuple[str, ...]
    group: int
    signal: Signal


class Signals(Service, dict=True):
    """Sends signals: notices that are not stored, such as that a user is
    typing.

    The object remembers when the last typing notices were sent.
    """

    core: Services
    messaging: Messaging

    def __post_init__(self) -> None:
        """Take the services that deliver signals."""
        self._hub = self.core.hub
        self._fanout = self.core.fanout
        self._followers = self.messaging.log_subscriptions.followers
        self._log = self.core.store.part(MessageLog)
        self._streams = self.messaging.streams
        self._typed: OrderedDict[tuple[str, str, str | int], float] = OrderedDict()
        """(app, user, the receiver or group) → when the last typing notice was
        sent (time of the monotonic clock), the oldest first. The user ``""``
        stands for all members of the group."""

    def commands(self) -> CommandTable:
        """Return the commands of clients that this object answers."""
        return {Typing: CommandRow(self.typing)}

    # --- sending --------------------------------------------------------------

    def send(self, message: ToFollowers, besides: Connection | None = None) -> None:
        """Send a signal to the subscribed connections on all nodes.

        ``besides`` is a connection that does not get the signal. Never switches
        greenlets.
        """
        self.deliver(message, besides)
        if self.core.node_messages is not None:
            self.core.node_messages.broadcast(message)

    def deliver(self, message: ToFollowers, besides: Connection | None = None) -> None:
        """Send a signal to the subscribed connections of this node.

        ``besides`` is a connection that does not get the signal. Never switches
        greenlets.
        """
        hub_app = self._hub.apps.get(message.app)
        signal = message.signal
        if signal.kind == "piece":
            self._deliver_piece(message)
            return
        if hub_app is None:
            return
        is_typing = signal.kind == "typing"
        receivers = []
        for each in self._followers_of(hub_app, message):
            log_subscription = each.log_subscription
            if each is besides or log_subscription is None:
                continue
            # The own devices need no typing notice. A client that has not
            # caught up would show the notice before earlier messages.
            if is_typing and (each.user == signal.sender or not log_subscription.live):
                continue
            receivers.append(each)
        if receivers:
            self._fanout.to_some(hub_app, receivers, signal)

    def _followers_of(
        self, hub_app: App, message: ToFollowers
    ) -> Collection[Connection]:
        """Return the connections of the receivers of a signal.

        Some of these connections may not follow the log. The caller leaves
        these out.
        """
        if message.group:
            return self._followers.members(message.app, message.group)
        return list(chain.from_iterable(map(hub_app.sessions_of, message.users)))

    def _deliver_piece(self, message: ToFollowers) -> None:
        """Deliver a piece of a streamed message.

        A *streamed message* is sent in pieces, and is stored when it is
        complete. A piece goes to the connections that will receive the stored
        message. The end of the streamed message is delivered only if no stored
        message follows.
        """
        _, stream = parts_of(message.signal)
        receivers = self.readers_of(message)
        # Without receivers, this node needs no copy of the text, because a
        # later receiver gets the text so far from the owner of the stream. But
        # the end must be remembered.
        if not (receivers or stream.done):
            return
        accepted = self._streams.accept(message.app, message.signal)
        message_follows = stream.done and not stream.whole
        if receivers and accepted and not message_follows:
            self._fanout.to_some(self._hub.apps[message.app], receivers, message.signal)

    def readers_of(self, message: ToFollowers) -> list[Connection]:
        """Return the connections of this node that receive pieces of a message.

        These connections follow the log and have caught up. A bot in a group
        reads only messages that name it, so it gets only pieces of its own
        messages. Never switches greenlets.
        """
        hub_app = self._hub.apps.get(message.app)
        if hub_app is None:
            return []
        sender = message.signal.sender
        # In a conversation of two, a bot reads everything.
        bots: Collection[Connection] = ()
        if message.group:
            bots = self._followers.bots.get((message.app, message.group), ())
        return [
            each
            for each in self._followers_of(hub_app, message)
            if each.log_subscription is not None
            and each.log_subscription.live
            and (each not in bots or each.user == sender)
        ]

    # --- typing ---------------------------------------------------------------

    def typing(self, connection: Connection, command: Typing) -> Reply:
        """Send the notice that the user of a connection is typing. May switch
        greenlets.

        Somebody who has blocked the user does not receive the notice. Notices
        that come too soon are dropped, and the client gets no error.
        """
        app, user = app_and_user(connection)
        if command.to == user:
            return Reply(ReplyCode.BAD_PARAMETER)
        if command.to:
            self._send_typing_to(app, user, command.to, conversation=0)
            return Reply.OK
        group = command.conversation
        log_subscription = connection.log_subscription
        # If the subscription already has the group, no query is needed.
        if log_subscription is None or group not in log_subscription.groups:
            conversation = self._conversation_with(app, group, user)
            if conversation is None:
                return Reply(ReplyCode.UNAUTHORIZED)
            # The client may also name a conversation of two users by its id.
            if conversation.members:
                peer = conversation.peer(user)
                self._send_typing_to(app, user, peer, conversation=group)
                return Reply.OK

        # In a large group, the notices of all members together are limited,
        # too.
        if not self._take_turn(app, user, group, TYPING_SECONDS):
            return Reply.OK
        if self._take_turn(app, "", group, GROUP_SECONDS):
            signal = Signal("typing", user, "", conversation=group)
            self.send(ToFollowers(app, (), group, signal))
        return Reply.OK

    def _conversation_with(self, app: str, id: int, user: str) -> Conversation | None:
        """Return a conversation, or None if the user is not a member of it.

        Switches greenlets.
        """
        conversations = self._log.conversations
        if conversations.member(app, id, user) is None:
            return None
        return conversations.get(app, id)

    def _send_typing_to(self, app: str, user: str, to: str, conversation: int) -> None:
        """Send a typing notice to another user. May switch greenlets.

        Nothing is sent if a notice was just sent, or if the user may not write
        to the other user. ``conversation`` is the id of their conversation, or
        0 if the client has named the other user.
        """
        if not self._take_turn(app, user, to, TYPING_SECONDS):
            return
        if self.core.relations.may_write(app, user, to):
            signal = Signal("typing", user, "", to=to, conversation=conversation)
            self.send(ToFollowers(app, (to,), 0, signal))

    def _take_turn(self, app: str, user: str, about: str | int, seconds: float) -> bool:
        """Tell whether a user may send a typing notice now, and note its time
        if so.

        The last notice to the same receiver or group must be ``seconds`` ago.
        The user ``""`` stands for all members of the group.
        """
        now = monotonic()
        key = (app, user, about)
        if now - self._typed.get(key, -seconds) < seconds:
            return False
        self._typed[key] = now
        self._typed.move_to_end(key)
        # The dict is ordered by time, so this forgets the oldest notice.
        if len(self._typed) > MOST_REMEMBERED:
            self._typed.popitem(last=False)
        return True


class ReceiptShown(Struct):
    """The read and received positions of a member."""

    user: Annotated[str, about("Another member.")]
    read: Annotated[
        int, about("The last message that the member has read; 0: no message.")
    ]
    received: Annotated[
        int,
        about("The last message that a device of the member received; 0: no message."),
    ]


class PeerReceipt(ReceiptShown):
    """The receipt of the other user in a conversation of two."""

    conversation: Annotated[int, about("The conversation.")]


class ReadMark(Struct):
    """A read position of the user."""

    conversation: Annotated[int, about("The conversation. A group has the same id.")]
    id: Annotated[int, about("The last message that was read.")]


class MarksAnswer(Struct, omit_defaults=True):
    """The user's marks since `version`, and the receipts of the other users in
    conversations of two."""

    version: Annotated[int, about("The version up to which this answer has all marks.")]
    read: list[ReadMark]
    hidden: Annotated[list[int], about("Hidden messages.")]
    receipts: list[PeerReceipt]
    more: Annotated[
        bool,
        about("Whether there are more marks. If so, ask again with this `version`."),
    ] = False


class ReceiptPage(Struct, rename="camel"):
    """Receipts in the order of the users' ids."""

    receipts: list[ReceiptShown]
    has_more: bool


class ReceiptCounts(Struct):
    """How many members have received and read messages."""

    counts: list[ReceiptCount]


class Receipts:
    """Stores read and received positions, and sends receipts."""

    def __init__(self, signals: Signals, store: Store) -> None:
        """Take the service that sends signals, and the store of the log."""
        self._signals = signals
        self._log = store.part(MessageLog)
        self._on_read: list[Callable[[str, str, int], object]] = []

    def report_to(self, read: Callable[[str, str, int], object]) -> None:
        """Call this function when a read position has moved on this node.

        Its parameters are the app, the user and the conversation. It must not
        switch greenlets.
        """
        self._on_read.append(read)

    def commands(self) -> CommandTable:
        """Return the commands of clients that this object answers."""
        return {
            Read: CommandRow(self._note_command),
            Received: CommandRow(self._note_command),
            Hide: CommandRow(self.hide),
            AskReceipts: CommandRow(self.ask),
            CountReceipts: CommandRow(self.count),
            AskMarks: CommandRow(self.ask_marks),
        }

    # --- storing --------------------------------------------------------------

    def note(
        self,
        app: str,
        user: str,
        conversation: int,
        *,
        read: int = 0,
        received: int = 0,
        besides: Connection | None = None,
    ) -> MarkResult | None:
        """Store that a user has read, or received, a conversation up to an id.

        Give either ``read`` or ``received``. The authors of the messages, and
        the user's connections except ``besides``, get a receipt. Returns None
        if the user is not in this conversation. Switches greenlets; raises
        StorageUnavailable.
        """
        result = self._log.marks.note(
            app, user, conversation, read=read, received=received
        )
        if result is None or not result.moved:
            return result

        receipt = result.receipt
        if read:
            signal = Signal(
                "receipt", user, "", conversation=conversation, read=receipt.read
            )
        else:
            signal = Signal(
                "receipt",
                user,
                "",
                conversation=conversation,
                received=receipt.received,
            )
        # The other devices of the user show the messages as read, too.
        users = (*result.authors, user)
        self._signals.send(ToFollowers(app, users, 0, signal), besides)
        if read:
            for on_read in self._on_read:
                on_read(app, user, conversation)
        return result

    def _note_command(self, connection: Connection, command: Read | Received) -> Reply:
        """Store how far the user of a connection has read or received.

        Switches greenlets.
        """
        app, user = app_and_user(connection)
        read = 0
        received = 0
        if isinstance(command, Read):
            read = command.id
        else:
            received = command.id
        result = self.note(
            app,
            user,
            command.conversation,
            read=read,
            received=received,
            besides=connection,
        )
        if result is None:
            return Reply(ReplyCode.NO_DATA)
        return Reply.OK

    def hide(self, connection: Connection, command: Hide) -> Reply:
        """Hide entries from the user. Switches greenlets."""
        app, user = app_and_user(connection)
        self.hide_from(app, user, command.ids, connection)
        return Reply.OK

    def hide_from(
        self,
        app: str,
        user: str,
        ids: tuple[int, ...],
        besides: Connection | None = None,
    ) -> int:
        """Hide entries from a user, and return the version of the user's marks.

        The user's connections except ``besides`` are notified. Switches
        greenlets; raises StorageUnavailable.
        """
        version = self._log.marks.hide(app, user, ids)
        signal = Signal("hidden", user, "", ids=ids)
        self._signals.send(ToFollowers(app, (user,), 0, signal), besides)
        return version

    # --- queries --------------------------------------------------------------

    def ask(self, connection: Connection, command: AskReceipts) -> Reply:
        """Answer up to which message the other members of a conversation have
        read and received it.

        Switches greenlets.
        """
        app, user = app_and_user(connection)
        limit = command.limit
        # One more row is read, to know whether there are further rows.
        rows = self._log.marks.receipts(
            app, user, command.conversation, command.after, limit + 1, command.message
        )
        receipts = [
            ReceiptShown(row.user, row.read, row.received) for row in rows[:limit]
        ]
        return Reply(ReplyCode.OK, ReceiptPage(receipts, len(rows) > limit))

    def count(self, connection: Connection, command: CountReceipts) -> Reply:
        """Answer how many other members have received and read these messages.

        Switches greenlets.
        """
        app, user = app_and_user(connection)
        counts = self._log.marks.count_receipts(
            app, user, command.conversation, command.ids
        )
        return Reply(ReplyCode.OK, ReceiptCounts(counts))

    def ask_marks(self, connection: Connection, command: AskMarks) -> Reply:
        """Answer with the user's marks from all devices. Switches greenlets."""
        app, user = app_and_user(connection)
        return Reply(ReplyCode.OK, self.marks(app, user, command.version))

    def marks(self, app: str, user: str, after: int) -> MarksAnswer:
        """Return a user's marks that are newer than a version.

        *Marks* are read positions, hidden entries, and the receipts of others
        in conversations of two. Switches greenlets; raises StorageUnavailable.
        """
        marks = self._log.marks.since(app, user, after)
        reads = [
            ReadMark(conversation, id)
            for conversation, id in sorted(marks.reads.items())
        ]
        receipts = [
            PeerReceipt(row.user, row.read, row.received, row.conversation)
            for row in marks.receipts
        ]
        return MarksAnswer(
            marks.version, reads, list(marks.hidden), receipts, marks.more
        )
