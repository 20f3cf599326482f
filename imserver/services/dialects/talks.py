"""Talks: what users of the action dialect say, each to one other user or to all in a room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import time
from typing import Any

import gevent
from msgspec import Struct

from imserver import errors
from imserver.hub.hub import Hub, Room
from imserver.model import Command, Event, Reply, Say, TalkLogin
from imserver.protocol.action import ActionDialect, as_said
from imserver.services.dialects.kept_talks import Answers, KeptTalks
from imserver.services.dialects.talk_readers import Newcomer, TalkReader
from imserver.services.push.push import Pushes
from imserver.services.rooms.rooms import Publication, RoomRefused, Rooms
from imserver.services.sessions.dispatch import Dispatcher, Rule
from imserver.services.sessions.sessions import Sessions
from imserver.storage.log.contract import Entry, message_of
from imserver.transport.connection import Connection
from imserver.transport.gate import Head

log = logging.getLogger(__name__)

LEFT_TEXT = "用户已经离开"

Stored = Callable[[str], Mapping[str, Sequence[str]]]
"""App → its rooms with stored members, and who these are."""
Said = Callable[[str, str, dict[str, str]], None]
"""(app, sender, what was said to whom); must not switch."""


class Audience(Struct, frozen=True):
    """Some of the users who belong to a room; ``next`` asks for those that follow (``""``: none do)."""

    users: list[str]
    next: str = ""


class Place(Struct, frozen=True, gc=False):
    """The room that a connection talks to without being in it (yet)."""

    name: str


_OK = Reply(errors.REPLY_OK)
_FAILED = Reply(errors.REPLY_FAILED)


class Talks:
    """Carries out the commands of the action dialect. Owner of ``Connection.about`` of its connections.

    There stands whom a connection talks to, as its latest login says: the :class:`Room` it is in, or a
    :class:`Place`; the peer; or None for nobody. The peer is the very text by which the peer is known here,
    so that two who talk to each other keep nothing for it; one who is not here is kept as UTF-8 (16 bytes
    smaller). Where talks are kept it stands in a :class:`TalkReader`, or a :class:`Newcomer`.

    A stored member is in their rooms with every session, whomever it talks to. Above ``notice_members``
    members a room is not told who leaves it.
    """

    def __init__(
        self,
        hub: Hub,
        sessions: Sessions,
        rooms: Rooms,
        pushes: Pushes,
        stored: Stored,
        notice_members: int,
    ) -> None:
        self._hub = hub
        self._sessions = sessions
        self._rooms = rooms
        self._pushes = pushes
        self._stored = stored
        self._notice_members = notice_members
        self.on_said: Said = lambda app, sender, said: None
        """Told of every message that is not stored."""
        self.kept: KeptTalks | None = None
        """What stores talks in apps that want it."""
        rooms.on_left.append(self.left)

    def add_to(self, dispatcher: Dispatcher) -> None:
        """Have the commands of the dialect served."""
        dispatcher.rules[TalkLogin] = Rule(self.login, needs_session=False)
        dispatcher.rules[Say] = Rule(self.say, needs_session=True, answers=True)

    def opened(self, connection: Connection, _head: Head) -> None:
        """A connection begins: the server speaks first."""
        dialect = connection.encoding.dialect
        assert isinstance(dialect, ActionDialect)
        connection.send(dialect.greet())

    def login(self, connection: Connection, command: Command) -> Reply:
        """Begin a session, a later one of the same connection too, and enter the room. It may switch.

        When it answers 200 the user is reachable here, by what is said in the room too.
        """
        assert isinstance(command, TalkLogin)
        code = self._sessions.login(connection, command, again=True)
        if code != errors.REPLY_OK:
            return Reply(code)
        kept = self._kept_in(connection.app)
        connection.about = None if kept is None else Newcomer()
        _talk_to(connection, Place(command.room) if command.room else self._peer(connection, command.peer))
        try:
            self._enter(connection, command.room)
        except RoomRefused as refused:
            log.info("no room for %s: %s", command.user, refused, extra={"connection": connection.peer})
            self._sessions.leave(connection)
            return _FAILED
        if kept is not None:
            kept.begin(connection, command.room, self._rooms_of(connection.app or "", connection.user or ""))
        return _OK

    def _kept_in(self, app: str | None) -> KeptTalks | None:
        return self.kept if self.kept is not None and self.kept.keeps(app or "") else None

    def _peer(self, connection: Connection, name: str) -> str | bytes | None:
        """What a new session keeps of the peer's name; peers who keep its own share its text from now on."""
        user = connection.user
        assert user is not None
        raw = user.encode()
        peers = self._hub.apps[connection.app or ""].sessions_of(name)
        for peer in peers:
            if isinstance(peer.encoding.dialect, ActionDialect) and peer.about in (user, raw):
                peer.about = user
        return peers[0].user if peers else name.encode() or None

    def _enter(self, connection: Connection, room: str) -> None:
        app, user = connection.app, connection.user
        assert app is not None
        assert user is not None
        for name in self._belongs_to(app, user, room):
            if not self._is_addressed(connection):
                return
            self._rooms.join(app, name, connection)
        shared = self._hub.apps[app].rooms.get(room)
        if shared is not None:
            _talk_to(connection, shared)
        if not self._is_addressed(connection):
            # A later login has come while the registry was asked.
            self._rooms.leave_all(connection)

    def _belongs_to(self, app: str, user: str, room: str) -> Iterable[str]:
        """The room that a user has logged in to, and those of which they are a stored member."""
        rooms = self._rooms_of(app, user)
        return dict.fromkeys([room, *rooms] if room else rooms)

    def _rooms_of(self, app: str, user: str) -> list[str]:
        """The rooms of which a user is a stored member."""
        return [name for name, users in self._stored(app).items() if user in users]

    def _is_addressed(self, connection: Connection) -> bool:
        known = self._hub.apps.get(connection.app or "")
        return known is not None and connection in known.sessions_of(connection.user or "")

    def say(self, connection: Connection, command: Command, answer: Answers) -> Reply | None:
        """Pass on what is said; whether anybody hears it is not told. It may switch.

        What is kept is answered when it is stored: where talks are, all but what one says to oneself.
        """
        assert isinstance(command, Say)
        app, user, about = connection.app, connection.user, _talk_of(connection)
        assert app is not None
        assert user is not None
        kept = self._kept_in(app)
        if kept is not None and isinstance(about, Room | Place):
            kept.say(connection, command, answer, room=about.name)
            return None
        if kept is not None and isinstance(about, str | bytes):
            other = about.decode() if isinstance(about, bytes) else about
            if other != user:
                kept.say(connection, command, answer, to=other)
                return None
        event = Event("msg", user, command.text, command.id, command.type, time=int(time()))
        if isinstance(about, Room | Place):
            self._rooms.publish(app, about.name, event)
            to = {"room": about.name}
        elif about is not None:
            peer = about.decode() if isinstance(about, bytes) else about
            self._pushes.reach(app, [peer], event)
            to = {"to": peer}
        else:
            to = {"to": ""}
        self.on_said(app, user, {**to, "type": command.type, "text": command.text})
        return _OK

    def stored(self, app: str, entry: Entry) -> None:
        """What a client has sent is stored: in a room it is told to those, too, whom the log does not reach.
        Never switches."""
        if entry.room:
            event = as_said(message_of(entry))
            gevent.spawn(self._rooms.publish_each, app, (Publication(entry.room, event, kept=True),))

    def left(self, connection: Connection, rooms: Sequence[str]) -> None:
        """A connection has ended that was in these rooms (the rooms' ``on_left``). It may switch."""
        app, user, about = connection.app, connection.user, _talk_of(connection)
        if not isinstance(connection.encoding.dialect, ActionDialect) or not isinstance(about, Room | Place):
            return
        if about.name not in rooms:
            return
        assert app is not None
        assert user is not None
        if self.kept is not None:
            self.kept.finish(connection)
        event = Event("left", user, LEFT_TEXT, time=int(time()))
        self._rooms.publish(app, about.name, event, except_users=(user,), at_most=self._notice_members)

    # --- being asked ----------------------------------------------------------------------------------------

    def rooms(self, app: str) -> list[str]:
        """The rooms of an app that have stored members."""
        return list(self._stored(app))

    def audience(self, app: str, room: str, after: str, limit: int) -> Audience:
        """Who belongs to a room: stored members first, then who has logged in to it, in the order of joining.

        At most ``limit`` of these, behind ``after`` (an :attr:`Audience.next`). It may switch.
        """
        stored = self._stored(app).get(room, ())
        page = self._rooms.members(app, room, after, limit)
        users = dict.fromkeys(member.user for member in page.members if member.user not in stored)
        return Audience([*(() if after else stored), *users], page.next)


def _talk_to(connection: Connection, about: Room | Place | str | bytes | None) -> None:
    if isinstance(connection.about, TalkReader | Newcomer):
        connection.about.to = about
    else:
        connection.about = about


def _talk_of(connection: Connection) -> Any:
    """Whom a connection talks to."""
    about = connection.about
    return about.to if isinstance(about, TalkReader | Newcomer) else about
