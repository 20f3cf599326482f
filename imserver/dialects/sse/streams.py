"""Event streams: their logins, and the delivery of events on them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from imserver import errors
from imserver.auth.login import Logins
from imserver.channels.channels import Channels
from imserver.channels.connections import Connections
from imserver.channels.members import ChannelRefused
from imserver.dialects.sse import wire as sse
from imserver.dialects.sse.wire import SseDialect
from imserver.errors import ImserverError, StorageUnavailable
from imserver.messages.catch_up import PAGE
from imserver.messages.deliverer import oldest_page
from imserver.messages.log.contract import Entry
from imserver.messages.log.message_log import MessageLog
from imserver.messages.messaging import Messaging
from imserver.model import Login, LogSubscription
from imserver.sessions.sessions import Sessions
from imserver.storage.store import Store
from imserver.transport.stream import Stream, StreamEncoding

log = logging.getLogger(__name__)

RESUMED: Final = 1000
"""Limit of the missed entries that a stream delivers after a reconnect. A client that missed more must query
them.
"""
_RETRY_MILLISECONDS: Final = (1000, 5000)
"""Time after which a client reconnects. It differs from client to client, so that they do not all come at
once.
"""
_CLOSE_OF: Final = {
    errors.ReplyCode.UNAUTHORIZED: errors.CloseCode.NOT_ALLOWED,
    errors.ReplyCode.FAILED: errors.CloseCode.REFUSED,
}
"""Reply code of a login → the close code of the stream."""


class BadUser(ImserverError):
    """The request and its token name no user, or one with too long an id. The text is for the client."""


class StreamRequest(Struct, frozen=True):
    """A request for a stream. ``user`` ``""``: the user is named by the token. ``named``: the answer contains
    the id of the connection. ``cursor``: the id of the last stored message that the client has; None:
    messages from now on.
    """

    app: str
    user: str = ""
    token: str = ""
    device: str = ""
    channels: tuple[str, ...] = ()
    named: bool = False
    cursor: int | None = None


class _Start(Struct, frozen=True):
    """The id after which a stream delivers stored messages (None: it delivers none), and whether that is
    complete. ``first``: the first missed entries.
    """

    cursor: int | None
    resumed: bool
    first: Sequence[Entry] = ()


class EventStreams:
    """Owner of the encodings, one for each app that has had a stream here."""

    def __init__(
        self,
        sessions: Sessions,
        logins: Logins,
        channels: Channels,
        connections: Connections,
        messaging: Messaging,
        store: Store,
    ) -> None:
        self._sessions = sessions
        self._logins = logins
        self._channels = channels
        self._connections = connections
        self._catch_up = messaging.catch_up
        self._deliverer = messaging.deliverer
        self._store = store
        self._encodings: dict[str, StreamEncoding] = {}

    def open(self, stream: Stream, request: StreamRequest, head: Callable[[], bytes]) -> None:
        """Log in, answer with ``head``, subscribe to the channels, and send ``ready``; or close the stream.

        May switch. Raises :class:`BadUser` and StorageUnavailable.
        """
        kicks = self._sessions.kicks.count
        decision = self._logins.check(
            request.app, request.user, request.token, sse.NAME, stream, request.device
        )
        if not decision.ok:
            stream.close(decision.close)
            return
        user = request.user or decision.user
        if not (user and self._sessions.takes_user(request.app, user)):
            self._logins.refused("user", request.app, user, stream.peer)
        if not user:
            raise BadUser("`user`: name the user")
        if not self._sessions.takes_user(request.app, user):
            raise BadUser("`user` is longer than this app allows (`max_user_bytes`)")
        start = self._start(request, user)
        if not stream.is_open:
            return
        login = Login(request.app, user, request.token, request.device)
        code = self._sessions.login(stream, login, decision=decision, kicks=kicks)
        if code != errors.ReplyCode.OK:
            stream.close(_CLOSE_OF.get(code, errors.CloseCode.INTERNAL_ERROR))
            return
        # Nothing switches between the login and here, so no event can precede the head.
        stream.begin(self._encoding(request.app), head())
        try:
            for channel in request.channels:
                self._channels.subscriptions.join(request.app, channel, stream)
        except ChannelRefused as refused:
            stream.close(errors.CloseCode.NOT_ALLOWED, str(refused))
        if not stream.is_open:
            return
        about = self._about(stream, request, start.resumed)
        stream.send(sse.ready(about, random.randint(*_RETRY_MILLISECONDS), start.cursor))
        if start.cursor is not None:
            self._send_stored(stream, start.cursor, start.first)

    # --- what is stored -------------------------------------------------------------------------------------

    def _start(self, request: StreamRequest, user: str) -> _Start:
        """The position at which a stream begins. Read before the stream begins, so that ``ready`` is its
        first event.

        Raises StorageUnavailable if the client sent a cursor. Other clients are served without stored
        messages.
        """
        stored, cursor = self._store.part(MessageLog), request.cursor
        try:
            extent = stored.entries.extent(request.app)
            if cursor is None:
                return _Start(extent.head, False)
            if extent.continues(cursor):
                first, more = oldest_page(*self._catch_up.page(request.app, user, cursor, PAGE))
                is_all = not more or self._is_all(request.app, user, first)
                # The pages may lack what expires while they are read, so the extent is read again.
                if is_all and stored.entries.extent(request.app).continues(cursor):
                    return _Start(cursor, True, first)
            return _Start(extent.head, False)
        except StorageUnavailable:
            if cursor is not None:
                raise
            log.warning(
                "a stream of %s begins without stored messages: the database does not answer", request.app
            )
            return _Start(None, False)

    def _is_all(self, app: str, user: str, first: Sequence[Entry]) -> bool:
        """Whether a stream may deliver all that a user has missed. ``first``: the first missed entries."""
        count, more = len(first), True
        after = first[-1].id
        while more and count < RESUMED:
            some, more = self._catch_up.page(app, user, after, min(PAGE, RESUMED - count))
            count += len(some)
            after = some[-1].id if some else after
        return not more

    def _send_stored(self, stream: Stream, cursor: int, first: Sequence[Entry]) -> None:
        """Deliver the entries after the id ``cursor``, and then all new ones. ``first``: the first of these
        entries. May switch.
        """
        if first:
            self._deliverer.send(stream, first)
        try:
            self._catch_up.subscribe(stream, LogSubscription(), live=False)
            if first:
                stream.wait_until_sent()
            self._catch_up.send_missed(stream, first[-1].id if first else cursor)
        except StorageUnavailable:
            # The client reconnects with the last id that it has.
            stream.close(errors.CloseCode.INTERNAL_ERROR)

    def _about(self, stream: Stream, request: StreamRequest, resumed: bool) -> dict[str, object]:
        about: dict[str, object] = {
            "event": "ready",
            "app": stream.app,
            "user": stream.user,
            "device": stream.device,
            "channels": request.channels,
            "resumed": resumed,
        }
        if request.named:
            about["connection"] = self._connections.id_of(stream)
        return about

    def _encoding(self, app: str) -> StreamEncoding:
        encoding = self._encodings.get(app)
        if encoding is None:
            encoding = self._encodings[app] = StreamEncoding(SseDialect(app))
        return encoding
