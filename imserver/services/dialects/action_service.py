"""The action dialect: users who send messages to one other user, or to a room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import time
from typing import Final

from msgspec import Struct

from imserver import errors
from imserver.hub.hub import Hub
from imserver.model import DialectState, Event, Reply, Say, TalkLogin
from imserver.protocol.action import ActionDialect
from imserver.services.dialects.action_messages import ActionMessages, Answer
from imserver.services.messages.subscriptions import app_and_user
from imserver.services.push.push import Pushes
from imserver.services.rooms.rooms import RoomRefused, Rooms
from imserver.services.sessions.sessions import Sessions
from imserver.services.webhooks.webhooks import Webhooks
from imserver.transport.connection import Connection
from imserver.transport.gate import Head

log = logging.getLogger(__name__)

LEFT_TEXT: Final = "用户已经离开"

Members = Callable[[str], Mapping[str, Sequence[str]]]
"""App → its rooms with stored members, and these members."""


class Audience(Struct, frozen=True):
    """Some of the users who belong to a room; ``next`` asks for those that follow (``""``: none do)."""

    users: list[str]
    next: str = ""


class ActionState(DialectState, gc=False):
    """The receiver of what a connection sends, by its latest login: the user ``peer``, or ``room``, in which
    it need not be yet; both empty: nobody. Where messages are stored, those of rooms come from the log."""

    peer: str = ""
    room: str = ""


_OK: Final = Reply(errors.REPLY_OK)
_FAILED: Final = Reply(errors.REPLY_FAILED)


class ActionService:
    """Carries out the commands of the action dialect. Owner of :class:`ActionState`.

    A stored member is in their rooms with every session, whoever its receiver is. The members of a room above
    ``notice_members`` get no notice when one leaves.
    """

    def __init__(
        self,
        hub: Hub,
        sessions: Sessions,
        rooms: Rooms,
        pushes: Pushes,
        members: Members,
        notice_members: int,
        messages: ActionMessages,
        webhooks: Webhooks,
    ) -> None:
        self._hub = hub
        self._sessions = sessions
        self._rooms = rooms
        self._pushes = pushes
        self._members = members
        self._notice_members = notice_members
        self._messages = messages
        self._webhooks = webhooks
        rooms.on_left.append(self.left)

    def opened(self, connection: Connection, _head: Head) -> None:
        """A connection begins: the server speaks first."""
        dialect = connection.encoding.dialect
        assert isinstance(dialect, ActionDialect)
        connection.send(dialect.greet())

    def login(self, connection: Connection, command: TalkLogin) -> Reply:
        """Begin a session, a later one of the same connection too, and enter the room. It may switch.

        When it answers 200, messages to the user and to the room reach this connection.
        """
        code = self._sessions.login(connection, command, again=True)
        if code != errors.REPLY_OK:
            return Reply(code)
        app, user = app_and_user(connection)
        storing = self._messages.is_storing(app)
        connection.dialect_state = ActionState(
            rooms_from_log=storing, peer="" if command.room else command.peer, room=command.room
        )
        try:
            self._enter(connection, command.room)
        except RoomRefused as refused:
            log.info("no room for %s: %s", command.user, refused, extra={"connection": connection.peer})
            self._sessions.leave(connection)
            return _FAILED
        if storing:
            self._messages.begin(connection, command.room, self._rooms_of(app, user))
        return _OK

    def _enter(self, connection: Connection, room: str) -> None:
        app, user = app_and_user(connection)
        for name in self._belongs_to(app, user, room):
            if not self._is_addressed(connection):
                return
            self._rooms.join(app, name, connection)
        if not self._is_addressed(connection):
            # A later login has come while the registry was asked.
            self._rooms.leave_all(connection)

    def _belongs_to(self, app: str, user: str, room: str) -> Iterable[str]:
        """The room of a login, and those of which the user is a stored member."""
        rooms = self._rooms_of(app, user)
        return dict.fromkeys([room, *rooms] if room else rooms)

    def _rooms_of(self, app: str, user: str) -> list[str]:
        """The rooms of which a user is a stored member."""
        return [name for name, users in self._members(app).items() if user in users]

    def _is_addressed(self, connection: Connection) -> bool:
        known = self._hub.apps.get(connection.app or "")
        return known is not None and connection in known.sessions_of(connection.user or "")

    def send(self, connection: Connection, command: Say, answer: Answer) -> Reply | None:
        """Send a message to the session's receiver; the answer does not say whether anybody received it. It
        may switch.

        Where messages are stored, it is answered after the commit; messages to oneself are never stored.
        """
        app, user = app_and_user(connection)
        state = connection.dialect_state
        peer, room = (state.peer, state.room) if isinstance(state, ActionState) else ("", "")
        if (room or peer not in ("", user)) and self._messages.is_storing(app):
            self._messages.send(connection, command, answer, to=peer, room=room)
            return None
        event = Event("msg", user, command.text, command.id, command.type, time=int(time()))
        if room:
            self._rooms.publish(app, room, event)
        elif peer:
            self._pushes.reach(app, [peer], event)
        to = {"room": room} if room else {"to": peer}
        self._webhooks.message(app, user, {**to, "type": command.type, "text": command.text})
        return _OK

    def left(self, connection: Connection, rooms: Sequence[str]) -> None:
        """A connection has ended that was in these rooms (the rooms' ``on_left``). It may switch."""
        app, user, state = connection.app, connection.user, connection.dialect_state
        if not isinstance(state, ActionState) or state.room not in rooms:
            return
        assert app is not None
        assert user is not None
        self._messages.finish(connection)
        event = Event("left", user, LEFT_TEXT, time=int(time()))
        self._rooms.publish(app, state.room, event, except_users=(user,), at_most=self._notice_members)

    # --- queries --------------------------------------------------------------------------------------------

    def rooms(self, app: str) -> list[str]:
        """The rooms of an app that have stored members."""
        return list(self._members(app))

    def audience(self, app: str, room: str, after: str, limit: int) -> Audience:
        """The users who belong to a room: stored members first, then those who have logged in to it, in the
        order of joining.

        At most ``limit`` of these, behind ``after`` (an :attr:`Audience.next`). It may switch.
        """
        stored = self._members(app).get(room, ())
        page = self._rooms.members(app, room, after, limit)
        users = dict.fromkeys(member.user for member in page.members if member.user not in stored)
        return Audience([*(() if after else stored), *users], page.next)
