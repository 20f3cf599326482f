"""Readers of kept talks: what stands at the connections of the action dialect that are told from the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from msgspec import Struct

from imserver.services.messages.acks import Acknowledger
from imserver.transport.connection import Connection

Places = dict[str, int]
"""Room → up to which id somebody has everything that was said there; ``""``: all else that they may read."""


class Newcomer(Struct, gc=False):
    """``Connection.about`` of a session whose talks are kept, until it is told. ``to``: whom it talks to, as
    else stands there."""

    to: object = None


class TalkReader(Acknowledger, gc=False):
    """``Connection.about`` of a session whose talks are kept. ``to``: whom it talks to, as else stands there.
    ``number``: no other reader here has it; a connection may log in anew while a pong is under way.
    ``places``: where its user stood at the login, in the rooms to which this session belongs, too."""

    newcomer: Newcomer | None = None
    to: object = None
    number: int = 0
    places: Mapping[str, int] = {}
    by_pong: ClassVar[bool] = True
    hears_rooms: ClassVar[bool] = True
    by_cursor: ClassVar[bool] = False

    def may_take_over(self, about: object) -> bool:
        """A later login of the connection has a reader of its own."""
        return about is self.newcomer

    def take_over(self, about: object) -> None:
        """Whom it talks to stays."""
        assert isinstance(about, Newcomer)
        self.to, self.newcomer = about.to, None

    @property
    def rest(self) -> object:
        """Whom it talks to stays when it follows no longer."""
        return self.to


_TOLD: Final = frozenset({TalkReader, Newcomer})


def hears_log(connection: Connection) -> bool:
    """Whether a session is told from the log what is said in its rooms and kept, or will be."""
    return type(connection.about) in _TOLD  # asked for each member; isinstance() takes three times as long
