"""Event streams: who gets one, and what it brings."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from imserver import errors
from imserver.auth.login import Logins
from imserver.errors import ImserverError, StorageUnavailable
from imserver.model import Login, Message
from imserver.protocol import sse
from imserver.protocol.sse import SseDialect
from imserver.services.messages import page_bounds
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.readers import Reader
from imserver.services.rooms.connections import Connections
from imserver.services.rooms.rooms import RoomRefused, Rooms
from imserver.services.sessions.sessions import Sessions
from imserver.storage.log.contract import Entry, message_of
from imserver.transport.connection import OPEN
from imserver.transport.stream import Stream, StreamEncoding

log = logging.getLogger(__name__)

RESUMED: Final = 1000
"""Most entries that a stream is given that comes back; whoever missed more has to ask for them."""
_PAGE: Final = 200
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
    """What is asked for. ``user`` ``""``: whom the token names. ``named``: tell the connection's id.
    ``cursor``: the id of the last stored message that the client has; None: it wants what is stored from now
    on."""

    app: str
    user: str = ""
    token: str = ""
    device: str = ""
    rooms: tuple[str, ...] = ()
    named: bool = False
    cursor: int | None = None


class Ends(Protocol):
    """What of the log is needed here."""

    def head(self, app: str) -> int:
        """The greatest id."""

    def floor(self, app: str) -> int:
        """What has an id up to this one has expired."""


class _Start(Struct, frozen=True):
    """From which id a stream is told what is stored (None: it is not), and whether it misses nothing;
    ``first``: the first of what it has missed."""

    cursor: int | None
    resumed: bool
    first: Sequence[Entry] = ()


class EventStreams:
    """Owner of the encodings, one for each app that ever had a stream here.

    ``kept`` gives the log, or None while nothing was ever stored.
    """

    def __init__(
        self,
        sessions: Sessions,
        logins: Logins,
        rooms: Rooms,
        connections: Connections,
        messaging: Messaging,
        kept: Callable[[], Ends | None],
    ) -> None:
        self._sessions = sessions
        self._logins = logins
        self._rooms = rooms
        self._connections = connections
        self._messaging = messaging
        self._kept = kept
        self._encodings: dict[str, StreamEncoding] = {}

    def open(self, stream: Stream, wish: Wish, head: Callable[[], bytes]) -> None:
        """Log in, answer with ``head``, join the rooms, and say that the stream is ready; or close it.

        It may switch. Raises :class:`Nobody`.
        """
        kicks = self._sessions.kicks.count
        decision = self._logins.check(wish.app, wish.user, wish.token, sse.NAME, stream, wish.device)
        if not decision.ok:
            _close(stream, decision.close)
            return
        user = wish.user or decision.user
        if not user:
            raise Nobody
        start = self._start(wish, user)
        if stream.state != OPEN:
            return
        login = Login(wish.app, user, wish.token, wish.device)
        code = self._sessions.login(stream, login, decision=decision, kicks=kicks)
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
        if stream.state != OPEN:
            return
        about = self._about(stream, wish, start.resumed)
        stream.send(sse.ready(about, random.randint(*_RETRY_MILLISECONDS), start.cursor))
        if start.cursor is not None:
            self._tell_stored(stream, start.cursor, start.first)

    # --- what is stored -------------------------------------------------------------------------------------

    def _start(self, wish: Wish, user: str) -> _Start:
        """Where a stream begins: read before it is one, so that it is ready before it is told anything.

        Raises StorageUnavailable where the client says what it has; others are served without what is stored.
        """
        kept, cursor = self._kept(), wish.cursor
        if kept is None:
            return _Start(0, cursor == 0)
        try:
            head = kept.head(wish.app)
            if cursor is None:
                return _Start(head, False)
            if kept.floor(wish.app) <= cursor <= head:
                first, more = page_bounds.oldest(*self._messaging.page(wish.app, user, cursor, _PAGE))
                if not more or self._is_all(wish.app, user, first):
                    return _Start(cursor, True, first)
            return _Start(head, False)
        except StorageUnavailable:
            if cursor is not None:
                raise
            log.warning("a stream of %s begins without what is stored: the database is away", wish.app)
            return _Start(None, False)

    def _is_all(self, app: str, user: str, first: Sequence[Entry]) -> bool:
        """Whether what a user has missed, which begins with these, is no more than a stream is given."""
        count, more = len(first), True
        after = first[-1].id
        while more and count < RESUMED:
            some, more = self._messaging.page(app, user, after, min(_PAGE, RESUMED - count))
            count += len(some)
            after = some[-1].id if some else after
        return not more

    def _tell_stored(self, stream: Stream, cursor: int, first: Sequence[Entry]) -> None:
        """Tell a stream what is stored behind an id, of which ``first`` comes first, and everything from then
        on. It may switch."""
        if first:
            self._messaging.give(stream, [message_of(entry) for entry in first])
        after: int | None = first[-1].id if first else cursor

        def answer(messages: list[Message], more: bool) -> bool:
            nonlocal after
            self._messaging.give(stream, messages)
            after = messages[-1].id if more and messages else None
            return after is None

        try:
            self._messaging.follow(stream, Reader(), live=False)
            while after is not None and isinstance(stream.about, Reader):
                if after != cursor:
                    page_bounds.let_leave(stream)
                self._messaging.sync(stream, after, _PAGE, answer)
        except StorageUnavailable:
            # It comes back with the last id that it has.
            _close(stream, errors.CLOSE_INTERNAL_ERROR)

    def _about(self, stream: Stream, wish: Wish, resumed: bool) -> dict[str, object]:
        about: dict[str, object] = {
            "event": "ready",
            "app": stream.app,
            "user": stream.user,
            "device": stream.device,
            "rooms": wish.rooms,
            "resumed": resumed,
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
