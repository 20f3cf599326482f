"""Signals: who is typing, who has read or received what. Told at once to those who follow, on whatever node,
and kept nowhere: whoever is not there has no use for the first, and asks for the others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import monotonic
from typing import TYPE_CHECKING, Final

from imserver import errors
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import Reply, Signal, Typing
from imserver.services.messages.readers import GroupRooms, Reader
from imserver.storage.log.contract import Conversation
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

TYPING_SECONDS: Final = 1.0
"""Between two notices that the same user is typing at the same place; those in between are told nobody."""
GROUP_SECONDS: Final = 0.2
"""Between two notices in a group, whoever is typing."""
_MOST_REMEMBERED: Final = 10_000
"""Places where somebody typed last; beyond, those of more than a moment ago are forgotten."""

_OK: Final = Reply(errors.REPLY_OK)
_REFUSED: Final = Reply(errors.REPLY_UNAUTHORIZED)

Forward = Callable[[str, Collection[str], int, Signal], object]
"""(app, users, group, signal): has the other nodes tell their followers. Must not switch."""


class Signals:
    """Owner of when who was last told to be typing. ``rooms`` are the groups' followers on this node;
    ``kept`` gives the log, or None while nothing was ever stored.
    """

    def __init__(
        self, hub: Hub, fanout: Fanout, rooms: GroupRooms, kept: Callable[[], MessageLog | None]
    ) -> None:
        self._hub = hub
        self._fanout = fanout
        self._rooms = rooms
        self._kept = kept
        self._typed: dict[tuple[str, str, str | int], float] = {}
        self.forward: Forward = lambda _app, _users, _group, _signal: None

    # --- telling --------------------------------------------------------------------------------------------

    def tell_users(
        self, app: str, users: Collection[str], signal: Signal, besides: Connection | None = None
    ) -> None:
        """Tell what these users follow with, but for one connection. Never switches."""
        if users:
            self._tell(app, users, 0, signal, besides)
            self.forward(app, users, 0, signal)

    def tell_group(self, app: str, conversation: int, signal: Signal) -> None:
        """Tell the members of a group. Never switches."""
        self._tell(app, (), conversation, signal)
        self.forward(app, (), conversation, signal)

    def heard(self, app: str, users: Collection[str], group: int, signal: Signal) -> None:
        """Another node has a signal to be told here. Never switches."""
        self._tell(app, users, group, signal)

    def _tell(
        self, app: str, users: Collection[str], group: int, signal: Signal, besides: Connection | None = None
    ) -> None:
        known = self._hub.apps.get(app)
        if known is None:
            return
        followers: Collection[Connection]
        if group:
            followers = self._rooms.members(app, group)
        else:
            followers = [each for user in users for each in known.sessions_of(user)]
        typing = signal.kind == "typing"
        told = [
            each
            for each in followers
            if each is not besides
            and isinstance(each.about, Reader)
            # Who has still to catch up would show somebody typing ahead of what was said.
            and not (typing and (each.user == signal.sender or not each.about.live))
        ]
        if told:
            self._fanout.signal(known, told, signal)

    # --- typing ---------------------------------------------------------------------------------------------

    def typing(self, connection: Connection, command: Typing) -> Reply:
        """Tell that a connection's user is typing. Switches only where the connection does not follow."""
        app, user = connection.app, connection.user
        assert app is not None
        assert user is not None
        if command.to == user:
            return Reply(errors.REPLY_BAD_PARAMETER)
        if command.to:
            self._typing_to(app, user, command.to, 0)
            return _OK
        group = command.conversation
        if not (isinstance(connection.about, Reader) and group in connection.about.groups):
            found = self._place(app, user, group)
            if found is None:
                return _REFUSED
            if found.members:
                self._typing_to(app, user, next(each for each in found.members if each != user), group)
                return _OK
        if self._may(app, user, group, TYPING_SECONDS) and self._may(app, "", group, GROUP_SECONDS):
            self.tell_group(app, group, Signal("typing", user, "", conversation=group))
        return _OK

    def _typing_to(self, app: str, user: str, to: str, conversation: int) -> None:
        if self._may(app, user, to, TYPING_SECONDS):
            self.tell_users(app, (to,), Signal("typing", user, "", to=to, conversation=conversation))

    def _place(self, app: str, user: str, conversation: int) -> Conversation | None:
        """A conversation of which the user is a member."""
        log = self._kept()
        if log is None or log.member(app, conversation, user) is None:
            return None
        return log.conversation(app, conversation)

    def _may(self, app: str, user: str, place: str | int, seconds: float) -> bool:
        """Whether the last notice of this kind is ``seconds`` ago."""
        now, key = monotonic(), (app, user, place)
        if now - self._typed.get(key, -seconds) < seconds:
            return False
        if len(self._typed) >= _MOST_REMEMBERED:
            self._typed = {each: at for each, at in self._typed.items() if now - at < TYPING_SECONDS}
        self._typed[key] = now
        return True
