"""The action dialect: a user sends messages to one other user, or to a room.

If an app stores these messages (:mod:`imserver.dialects.action.stored`), absent
users receive them at their next login. The module
:mod:`imserver.dialects.action.acks` serves clients that acknowledge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from time import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from imserver.dialects.action.acks import ActionAcks, acked_state
from imserver.dialects.action.wire import AckNumber, ActionDialect, ActionLogin, Say
from imserver.plugin.errors import ReplyCode
from imserver.plugin.services import ChannelRefused, Core
from imserver.plugin.wire import (
    AckedState,
    CommandRow,
    CommandTable,
    Connection,
    Event,
    Head,
    Outcome,
    Reply,
    app_and_user,
)

if TYPE_CHECKING:
    from imserver.dialects.action.stored import ActionMessages

log = logging.getLogger(__name__)

LEFT_TEXT: Final = "用户已经离开"


class ActionState(AckedState, gc=False):
    """The receiver of a connection's messages, set by its latest login: the
    user ``peer``, or the ``room``. If both are empty, messages go to nobody.

    The connection may not have joined the room yet. Stored messages of rooms
    come from the log.
    """

    peer: str = ""
    room: str = ""


_NOT_STORED: Final = Reply(ReplyCode.NOT_STORED)


class ActionService:
    """The commands of the action dialect: logins, and messages to the receiver
    that the login has named.

    All sessions of a stored member are in the member's rooms, even if they send
    to another receiver. A room with more than ``notice_members`` members gets
    no notice when a member leaves. ``messages`` is None on a node without
    stored messages.
    """

    def __init__(
        self, core: Core, messages: ActionMessages | None, acks: ActionAcks
    ) -> None:
        """Take the services of the core, and register for members that leave a
        room."""
        self._sessions = core.sessions
        self._channels = core.channels
        self._tenants = core.tenants
        # A notice to a large room would be one push for each of its members.
        self._notice_members = core.fanout.notice_members
        self._messages = messages
        self._reviews = core.reviews
        self._mutes = core.mutes
        self._report = core.observer.message
        self._acks = acks
        self._relations = core.relations
        self._channels.members.report_to(left=self.left)

    def commands(self) -> CommandTable:
        """The commands that this service carries out."""
        return {
            ActionLogin: CommandRow(self.login, needs_session=False),
            Say: CommandRow(self.send, answers=True),
            AckNumber: CommandRow(self._acks.ack),
        }

    def opened(self, connection: Connection, _head: Head) -> None:
        """Greet a new connection: clients of this dialect expect a first
        message."""
        dialect = connection.encoding.dialect
        assert isinstance(dialect, ActionDialect)
        connection.send(dialect.greet())

    def login(self, connection: Connection, command: ActionLogin) -> Reply:
        """Begin a session and enter the room. A connection may log in again.

        After the reply 200, messages to the user and to the room reach this
        connection. A login that fails leaves an earlier session as it was. May
        switch greenlets.
        """
        has_acked = acked_state(connection).unacked is not None
        will_ack = command.acks and self._acks.available
        # Numbers are turned on before the session begins, because the first
        # message can arrive as soon as it has begun.
        if will_ack:
            self._acks.turn_on(connection)
        code = self._sessions.login(connection, command, again=True)
        if code != ReplyCode.OK:
            # An earlier login stays in force. If it has no numbers, they are
            # turned off again.
            if not has_acked:
                self._acks.turn_off(connection)
            return Reply(code)
        if not will_ack:
            self._acks.turn_off(connection)

        app, user = app_and_user(connection)
        messages = self._stored_in(app)
        stored_rooms = self._rooms_of_member(app, user)
        peer = ""
        # An app may have shorter ids than this dialect allows. Nobody has an id
        # that is too long, so the messages of such a login go to nobody.
        if not command.room and self._sessions.takes_user(app, command.peer):
            peer = command.peer
        connection.dialect_state = ActionState(
            unacked=acked_state(connection).unacked,
            channels_from_log=messages is not None,
            peer=peer,
            room=command.room,
        )

        # A stored member is in all rooms of the member, even if the login names
        # another receiver.
        if command.room:
            rooms = [command.room, *stored_rooms]
        else:
            rooms = stored_rooms
        try:
            self._enter(connection, dict.fromkeys(rooms))
        except ChannelRefused as refused:
            return self._end_refused(connection, command.user, refused)
        if messages is not None:
            messages.begin(connection, command.room, stored_rooms)
        if not will_ack:
            return Reply.OK
        self._acks.begin(connection)
        return Reply(ReplyCode.OK, {"acks": True})

    def _end_refused(
        self, connection: Connection, user: str, refused: ChannelRefused
    ) -> Reply:
        """End a session that may not enter its room."""
        log.info(
            "%s cannot enter the room: %s",
            user,
            refused,
            extra={"connection": connection.peer},
        )
        self._sessions.leave(connection)
        return Reply(ReplyCode.FAILED)

    def _rooms_of_member(self, app: str, user: str) -> list[str]:
        """The rooms that have a user as a stored member, by the settings of the
        app."""
        tenant = self._tenants.get(app)
        if tenant is None:
            return []
        return [name for name, users in tenant.room_members.items() if user in users]

    def _enter(self, connection: Connection, rooms: Iterable[str]) -> None:
        """Subscribe a connection to these rooms.

        The client may log in again meanwhile on the same connection, which
        gives it another session. Then this login enters no more rooms. May
        switch greenlets. Raises ChannelRefused.
        """
        app, _ = app_and_user(connection)
        for name in rooms:
            if not connection.is_addressed:
                return
            self._channels.subscriptions.join(app, name, connection)
        if not connection.is_addressed:
            # A later login came while this login queried the registry.
            self._channels.members.leave_all(connection)

    def _stored_in(self, app: str) -> ActionMessages | None:
        """The service of stored messages, or None if the app does not store the
        messages of its users."""
        if self._channels.options.stores_conversations(app):
            return self._messages
        return None

    def send(
        self, connection: Connection, command: Say, answer: Callable[[Reply], None]
    ) -> Reply | None:
        """Send a message to the receiver that the login has named.

        The reply does not say whether anybody has received it. If the app
        stores messages, all messages are stored except messages to oneself.
        Then the reply follows the commit. Messages to stored channels are
        stored in any app. An unstored message is first reviewed by the back
        end, if the app has reviews. Returns None if ``answer`` sends the reply.
        May switch greenlets.
        """
        app, user = app_and_user(connection)
        state = connection.dialect_state
        peer = ""
        room = ""
        if isinstance(state, ActionState):
            peer = state.peer
            room = state.room

        # If the message is stored, the log checks who may write, and lets the
        # back end review the message.
        messages = self._stored_in(app)
        if messages is None and room and self._channels.options.is_stored(app, room):
            messages = self._messages
        if messages is not None and (room or peer not in ("", user)):
            messages.send(connection, command, answer, to=peer, room=room)
            return None

        # For an unstored message, make the same checks, in the same order as
        # the log.
        if peer and not self._relations.may_reach(app, user, peer):
            return Reply(ReplyCode.UNAUTHORIZED)
        mute = self._mutes.mute_of(app, user)
        if mute is not None:
            return Reply(
                ReplyCode.UNAUTHORIZED, {"reason": mute.text, "until": mute.until}
            )
        self._channels.publishing.here.metrics.pushes.require(app)

        if room:
            receiver = {"room": room}
        else:
            receiver = {"to": peer}
        reviewed = self._review(app, user, receiver, command)
        if isinstance(reviewed, Reply):
            return reviewed

        kind = reviewed.type
        text = reviewed.text
        event = Event("msg", user, text, command.id, kind, time=int(time()))
        if room:
            if self._channels.publishing.publish(app, room, event) is Outcome.FAILED:
                return _NOT_STORED
        elif peer:
            self._acks.reach(app, peer, event)
        self._report(app, user, {**receiver, "type": kind, "text": text})
        return Reply.OK

    def _review(
        self, app: str, user: str, receiver: dict[str, str], command: Say
    ) -> Say | Reply:
        """Let the back end review an unstored message, if the app has reviews.

        ``receiver`` is ``{"to": user}`` or ``{"room": room}``, as the back end
        gets it. Returns the message to send, which the back end may have
        changed. If no message is sent, returns the error reply. May switch
        greenlets.
        """
        if app not in self._reviews.apps:
            return command
        facts = {
            "kind": "message",
            "sender": user,
            **receiver,
            "type": command.type,
            "text": command.text,
        }
        decision = self._reviews.decide(app, facts)
        if decision.action == "reject":
            return Reply(ReplyCode.UNAUTHORIZED, {"reason": decision.reason})
        # The back end did not answer, and the app wants no unreviewed messages.
        if decision.action == "undecided":
            return _NOT_STORED
        if decision.action == "replace":
            return replace(command, type=decision.type, text=decision.body.decode())
        return command

    def left(self, connection: Connection, rooms: Sequence[str]) -> None:
        """Tell a room that the user of an ended connection has left.

        ``rooms``: the channels that the connection has left. If a connection
        only changes its room, and stays open, the room gets no such notice. May
        switch greenlets.
        """
        state = connection.dialect_state
        if not isinstance(state, ActionState) or state.room not in rooms:
            return
        if connection.is_open:
            return
        app, user = app_and_user(connection)
        if self._messages is not None:
            # The last messages of the user come before the notice.
            self._messages.finish(connection)
        event = Event("left", user, LEFT_TEXT, time=int(time()))
        members = self._notice_members
        self._channels.publishing.publish(
            app, state.room, event, except_users=(user,), at_most=members
        )
