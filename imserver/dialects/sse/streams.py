"""Event streams: their logins, and the delivery of events on them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imserver import errors
from imserver.auth.login import Logins
from imserver.channels.channels import Channels
from imserver.channels.connections import Connections
from imserver.channels.members import ChannelRefused
from imserver.dialects.sse import wire as sse
from imserver.dialects.sse.wire import SseDialect
from imserver.errors import ImserverError
from imserver.model import Login
from imserver.sessions.sessions import Sessions
from imserver.transport.stream import Stream, StreamEncoding

if TYPE_CHECKING:
    from imserver.plugin.messages import MessageServices

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


class EventStreams:
    """Owner of the encodings, one for each app that has had a stream here. ``messenger``: None on a node
    without stored messages, whose streams only deliver what happens while they are open."""

    def __init__(
        self,
        sessions: Sessions,
        logins: Logins,
        channels: Channels,
        connections: Connections,
        messenger: MessageServices | None,
    ) -> None:
        self._sessions = sessions
        self._logins = logins
        self._channels = channels
        self._connections = connections
        self._starts = None if messenger is None else messenger.stream_starts
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
        start = None if self._starts is None else self._starts.start(request.app, user, request.cursor)
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
        about = self._about(stream, request, start is not None and start.resumed)
        cursor = None if start is None else start.cursor
        stream.send(sse.ready(about, random.randint(*_RETRY_MILLISECONDS), cursor))
        if self._starts is not None and start is not None:
            self._starts.send(stream, start)

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
