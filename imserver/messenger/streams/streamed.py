"""Streamed messages in conversations. They are stored when their last piece has
come.

Connections that receive the stored messages of the conversation also receive
the pieces, as signals. The end is an ordinary stored message, whose
``client_msg_id`` is the id of the stream.
"""

from collections.abc import Sequence
from time import time
from typing import Final

from msgspec.structs import replace

from imserver.gateway.auth.questions import Relations
from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.cluster.history import Position
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.model import ChannelPart, Event, Signal
from imserver.gateway.storage.store import Store
from imserver.messenger.delivery.messaging import Messaging
from imserver.messenger.delivery.open_streams import OpenStream, parts_of
from imserver.messenger.delivery.receipts import Signals, ToFollowers
from imserver.messenger.log.contract import (
    SECOND_MS,
    Appended,
    Draft,
    Rejected,
    RejectReason,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.meta import MessageMeta
from imserver.messenger.streams.streamed_messages import (
    StreamedMessages,
    StreamTarget,
    check_draft,
)

_USER: Final = "user:"
_GROUP: Final = "group:"


class ConversationStreams(StreamTarget):
    """The target of streamed messages in conversations.

    The name of a conversation is ``user:`` and the receiver, or ``group:`` and
    the number of the group.
    """

    name = "answers: "
    together = 1
    of_users = True

    def __init__(
        self, messaging: Messaging, signals: Signals, store: Store, relations: Relations
    ) -> None:
        """Take the services that store and deliver messages."""
        self._messaging = messaging
        self._signals = signals
        self._store = store
        self._relations = relations
        self.streams = messaging.streams

    def limit(self, app: str, channel: str) -> int:
        """Return 0, because a message in a conversation has the usual limit."""
        return 0

    def check(self, stream: OpenStream) -> None:
        """Raise :class:`ChannelRefused` if the log could not store the
        message."""
        check_draft(_draft_of(stream.end(incomplete=True)))

    def may_continue(self, stream: OpenStream) -> bool:
        """Tell whether the sender may still write to the conversation. May
        switch greenlets.

        If the database does not answer, the sender may write until the next
        check.
        """
        sender = stream.head.sender
        to, group = _receiver_of(stream.channel)
        try:
            if to:
                return self._relations.may_write(stream.app, sender, to)
            return self._may_write_in(group, stream)
        except StorageUnavailable:
            return True  # until the next check

    def _may_write_in(self, group: int, stream: OpenStream) -> bool:
        """Tell whether the sender of a stream may write in a group.

        Switches greenlets. Raises StorageUnavailable.
        """
        conversations = self._store.part(MessageLog).conversations
        conversation = conversations.get(stream.app, group)
        role = self._role(stream.app, group, stream.head.sender)
        if conversation is None or not role:
            return False
        # In a thread, the group's option `reply` counts.
        part = stream.head.channel
        in_thread = part is not None and part.thread > 0
        return conversation.may_write(role, in_thread)

    def may_stop(self, stream: OpenStream, user: str) -> bool:
        """Tell whether a user may stop a stream. May switch greenlets.

        If the stream has no list of users who may stop it, all receivers of the
        message may.
        """
        if stream.stoppers is not None:
            return user in stream.stoppers
        to, group = _receiver_of(stream.channel)
        if to:
            return to == user
        return self._role(stream.app, group, user) != ""

    def _role(self, app: str, group: int, user: str) -> str:
        """Return the role of a member who may write.

        Returns ``""`` if the user is not a member, or is muted.
        """
        member = self._store.part(MessageLog).conversations.member(app, group, user)
        if member is None or member.muted_until > time():
            return ""
        return member.role

    def publish(self, app: str, events: Sequence[Event]) -> None:
        """Send pieces to the receivers on all nodes, as signals."""
        for event in events:
            self._signals.send(_to_followers(app, event))

    def publish_end(self, app: str, channel: str, event: Event) -> Position | Rejected:
        """Store the whole message, which delivers it. Switches greenlets.

        This also tells the receivers of the pieces that no more pieces follow.
        Returns the id of the stored message as the offset of a position, or
        Rejected if the log has refused it. Raises ChannelRefused
        (``unavailable``).
        """
        result = self._messaging.store(app, _draft_of(event), by_user=False)
        # If ``until`` is set, the app has no quota left, so another try would
        # fail.
        if isinstance(result, StorageUnavailable) and result.until:
            result = Rejected(RejectReason.REJECTED, str(result), result.until)
        if not isinstance(result, Appended | Rejected):
            raise ChannelRefused("unavailable")

        # The stored message tells clients the end. If there is no stored
        # message, clients must drop the text.
        is_rejected = isinstance(result, Rejected)
        part, stream = parts_of(event)
        end = replace(stream, done=True, whole=is_rejected)
        part = replace(part, stream=end)
        self.publish(app, [_signal(replace(event, text="", channel=part))])

        if isinstance(result, Rejected):
            return result
        return Position("", result.entry.id)

    def deliver(self, app: str, event: Event) -> None:
        """Send a piece to the receivers of this node. Never switches
        greenlets."""
        self._signals.deliver(_to_followers(app, event))

    def deliver_so_far(self, app: str, event: Event) -> None:
        """Take the text so far of a stream, and send it to the receivers of
        this node."""
        message = _to_followers(app, event)
        part, stream = parts_of(event)
        readers = self._signals.readers_of(message)
        if readers and self.streams.accept(app, message.signal):
            open_stream = self.streams.of(app, part.name)[stream.id]
            self._messaging.deliverer.send_stream(open_stream, readers)

    def has_receivers(self, stream: OpenStream) -> bool:
        """Tell whether a stream has receivers on this node."""
        message = _to_followers(stream.app, stream.event(""))
        return bool(self._signals.readers_of(message))

    def history(self, app: str, channel: str) -> str:
        """Return the name of the history. It is ``log``, because all
        conversations are in the log."""
        return "log"


def _receiver_of(name: str) -> tuple[str, int]:
    """Return the receiver and the group in the name of a conversation.

    ``user:ann`` gives ``("ann", 0)``, and ``group:7`` gives ``("", 7)``.
    """
    if name.startswith(_USER):
        return (name.removeprefix(_USER), 0)
    return ("", int(name.removeprefix(_GROUP)))


def _draft_of(end: Event) -> Draft:
    """Return the message that stores the end of a stream.

    Its ``client_msg_id`` is the id of the stream, so the message is stored only
    once.
    """
    part, stream = parts_of(end)
    to, conversation = _receiver_of(part.name)
    meta = b""
    # The ``meta`` shows readers that the text is not complete.
    if stream.incomplete:
        meta = MessageMeta(incomplete=True, stopped=stream.stopped).to_bytes()
    return Draft(
        sender=end.sender,
        type=end.type,
        body=end.text.encode(),
        client_msg_id=stream.id,
        time_ms=int(time() * SECOND_MS),
        meta=meta,
        to_user=to,
        conversation=conversation,
        thread=part.thread,
    )


def _to_followers(app: str, event: Event) -> ToFollowers:
    """Return the node message that delivers an event of a stream.

    The event goes to the connections that receive the conversation of the
    stream.
    """
    # An event from another node is a plain event.
    if isinstance(event, Signal):
        signal = event
    else:
        signal = _signal(event)
    # If there is no single receiver, the members of the group receive the
    # event.
    users = (signal.to, signal.sender) if signal.to else ()
    return ToFollowers(app, users, group=signal.conversation, signal=signal)


def _signal(event: Event) -> Signal:
    """Return the signal for an event of a stream."""
    part = event.channel
    assert part is not None
    to, group = _receiver_of(part.name)
    return Signal(
        "piece",
        event.sender,
        event.text,
        type=event.type,
        channel=part,
        to=to,
        conversation=group,
    )


class StreamedTexts(StreamedMessages):
    """Opens, extends and closes streamed messages in conversations."""

    def open_text(
        self,
        app: str,
        sender: str,
        to: str,
        conversation: int,
        text: str = "",
        type: str = "text",
        owner: str = "",
        thread: int = 0,
        stoppers: Sequence[str] | None = None,
    ) -> str:
        """Open a stream to the user ``to``, or in a group, and return its id.

        If ``to`` is empty, the stream is opened in the group ``conversation``.
        The right of the sender to write there is not checked.

        - ``owner``: the user who is charged for the bytes, in addition to the
          app. ``""`` means that only the app is charged.
        - ``thread``: the first message of the thread in which the message is a
          reply; 0 means no thread.
        - ``stoppers``: the readers who may stop the stream. None means all
          readers.

        May switch greenlets. Raises :class:`ChannelRefused` with the reason
        ``full`` or ``limit``.
        """
        name = f"{_USER}{to}" if to else f"{_GROUP}{conversation}"
        part = ChannelPart(name, thread=thread)
        head = _signal(Event("piece", sender, "", type=type, channel=part))
        return self.open(app, head, text, owner, stoppers)

    def close_text(
        self, app: str, stream: str, incomplete: bool = False, sender: str = ""
    ) -> tuple[str, int] | Rejected:
        """Close a stream. Returns the status, and the id of the stored message.

        The id is 0 if no message is stored. Returns the refusal if the stream
        is closed, but the log has refused its message. ``sender``: only a
        stream of this sender is closed; ``""`` means any sender. May switch
        greenlets. Raises :class:`ChannelRefused` (``unavailable``) if the node
        of the stream or the log does not answer.
        """
        closed = self.close(app, stream, incomplete, sender)
        if closed.rejected:
            return closed.rejected
        return closed.status, closed.offset
