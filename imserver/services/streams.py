"""Event streams: who gets one, and what it brings."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from imserver import errors
from imserver.errors import ImserverError
from imserver.model import Login
from imserver.protocol import sse
from imserver.protocol.sse import SseDialect
from imserver.services.connections import Connections
from imserver.services.rooms import RoomRefused, Rooms
from imserver.services.sessions import Sessions
from imserver.services.verdict import Admits
from imserver.transport.connection import OPEN
from imserver.transport.stream import Stream, StreamEncoding

_RETRY_MILLISECONDS: Final = (1000, 5000)
"""After how long a client comes back: another pause for each, so that they do not come all at once."""
_CLOSE_OF: Final = {
    errors.REPLY_UNAUTHORIZED: errors.CLOSE_NOT_ALLOWED,
    errors.REPLY_FAILED: errors.CLOSE_REFUSED,
}
"""Reply code of a login → the close code of who cannot be answered."""


class Nobody(ImserverError):
    """Neither the request nor its token says who it is that wants a stream."""


class Wish(Struct, frozen=True):
    """What is asked for. ``user`` ``""``: whom the token names. ``named``: tell the connection's id."""

    app: str
    user: str = ""
    token: str = ""
    device: str = ""
    rooms: tuple[str, ...] = ()
    named: bool = False


class EventStreams:
    """Owner of the encodings, one for each app that ever had a stream here."""

    def __init__(self, sessions: Sessions, logins: Admits, rooms: Rooms, connections: Connections) -> None:
        self._sessions = sessions
        self._logins = logins
        self._rooms = rooms
        self._connections = connections
        self._encodings: dict[str, StreamEncoding] = {}

    def open(self, stream: Stream, wish: Wish, head: Callable[[], bytes]) -> None:
        """Log in, answer with ``head``, join the rooms, and say that the stream is ready; or close it.

        It may switch. Raises :class:`Nobody`.
        """
        verdict = self._logins.check(wish.app, wish.user, wish.token, sse.NAME, stream, wish.device)
        if not verdict.ok:
            _close(stream, verdict.close)
            return
        user = wish.user or verdict.user
        if not user:
            raise Nobody
        if stream.state != OPEN:
            return
        login = Login(wish.app, user, wish.token, wish.device)
        code = self._sessions.login(stream, login, verdict=verdict)
        if code != errors.REPLY_OK:
            _close(stream, _CLOSE_OF.get(code, errors.CLOSE_INTERNAL_ERROR))
            return
        # From the login to here nothing switches: no event can stand before the head.
        stream.begin(self._encoding(wish.app), head())
        try:
            for room in wish.rooms:
                self._rooms.join(wish.app, room, stream)
        except RoomRefused as refused:
            stream.close(errors.CLOSE_NOT_ALLOWED, str(refused))
        if stream.state == OPEN:
            stream.send(sse.ready(self._about(stream, wish), random.randint(*_RETRY_MILLISECONDS)))

    def _about(self, stream: Stream, wish: Wish) -> dict[str, object]:
        about: dict[str, object] = {
            "event": "ready",
            "app": stream.app,
            "user": stream.user,
            "device": stream.device,
            "rooms": wish.rooms,
            "resumed": False,
        }
        if wish.named:
            about["connection"] = self._connections.id_of(stream)
        return about

    def _encoding(self, app: str) -> StreamEncoding:
        encoding = self._encodings.get(app)
        if encoding is None:
            encoding = self._encodings[app] = StreamEncoding(SseDialect(app))
        return encoding


def _close(stream: Stream, code: int) -> None:
    stream.close(code, errors.CLOSE[code].name)
