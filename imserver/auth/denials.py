"""Tells the observers what was refused: connections, commands, requests, and sessions that a limit ends.

Logins are told by :meth:`imserver.auth.login.Logins.refused`. Nothing here switches.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Final

from imserver import errors
from imserver.auth.observer import Denial, Observer
from imserver.auth.principal import Principal
from imserver.auth.rates import MESSAGES, TooManyRequests
from imserver.model import Reply, Request
from imserver.transport.connection import Connection
from imserver.transport.gate import host_of

if TYPE_CHECKING:
    from imserver.transport.http1 import HttpRequest

_DETAIL: Final = 200
_NAME: Final = 64
_REPLIES: Final = {
    code: name.lower()
    for name, code in vars(errors.ReplyCode).items()
    if isinstance(code, int) and code != errors.ReplyCode.OK
}
"""Reply code → its name."""
_LIMITS: Final = {
    errors.CloseCode.RATE_LIMIT: MESSAGES.name,
    errors.CloseCode.SLOW_READER: "limits.outbox_bytes, limits.outbox_seconds",
    errors.CloseCode.TOO_BIG: "limits.message_bytes",
    errors.CloseCode.BANNED: "",
    errors.CloseCode.TOKEN_INVALID: "",
}
"""Close codes that end a session because something was refused → the limit."""
CLOSES: Final = {code: errors.close_reason(code) for code in _LIMITS}
"""The same → the reason."""


def _limit_of(error: Exception | None) -> tuple[str, float]:
    """The rate that refuses something, and the Unix second until which it does; 0: unknown."""
    if not isinstance(error, TooManyRequests):
        return "", 0.0
    return error.limit, time() + error.seconds if error.seconds else 0.0


class Denials:
    """Makes a :class:`Denial` of each refusal. ``banned_until``: when a ban ends, in Unix seconds."""

    def __init__(self, observer: Observer, banned_until: Callable[[str, str], float]) -> None:
        self._observer = observer
        self._banned_until = banned_until

    def connection(self, limit: str, peer: str, detail: str = "") -> None:
        """The gate has refused a connection."""
        reason = "limit" if limit.startswith("limits.") else "origin"
        self._observer.refused(
            Denial("login", reason, address=host_of(peer), limit=limit, detail=detail[:_DETAIL], request=peer)
        )

    def command(
        self, connection: Connection, request: Request, reply: Reply, error: Exception | None = None
    ) -> None:
        """A command was answered with a reply that refuses it, because of this ``error`` if there is one."""
        app = connection.app
        if app is None:  # refused logins were told, and others have done nothing yet
            return
        about = getattr(request.command, "channel", "")
        reason = reply.why or _REPLIES.get(reply.code, f"code {reply.code}")
        limit, until = _limit_of(error)
        self._of(connection, app, reason, limit, until, f"{request.name} {about}".rstrip()[:_DETAIL])

    def ended(self, connection: Connection, code: int) -> None:
        """A connection is over. If a limit has ended its session, that is told."""
        app = connection.app
        if code not in CLOSES or app is None:
            return
        until = 0.0
        if code == errors.CloseCode.BANNED:
            until = self._banned_until(app, connection.user or "")
        self._of(connection, app, CLOSES[code], _LIMITS[code], until)

    def _of(
        self, connection: Connection, app: str, reason: str, limit: str, until: float, detail: str = ""
    ) -> None:
        """A command of a connection, or its session, was refused."""
        self._observer.refused(
            Denial(
                "command",
                reason,
                app,
                connection.user or "",
                address=host_of(connection.peer),
                limit=limit,
                until=until,
                detail=detail,
                request=connection.peer,
            )
        )

    def request(
        self,
        request: HttpRequest,
        problem: errors.HttpProblem,
        principal: Principal,
        app: str = "",
        user: str = "",
        detail: str = "",
        rate: TooManyRequests | None = None,
    ) -> None:
        """A request was refused with a problem. ``app``, ``user``: those that it names, if they were read.
        ``rate``: what refuses it, if a rate does."""
        app = app or principal.app
        user = principal.user or principal.staff or user
        limit, until = _limit_of(rate)
        if problem is errors.Problems.BANNED:
            until = self._banned_until(app, user)
        self._observer.refused(
            Denial(
                "request",
                problem.code,
                app,
                user[:_NAME],
                address=request.host,
                limit=limit,
                until=until,
                detail=f"{request.method} {request.path}: {detail or problem.message}"[:_DETAIL],
                request=request.id,
            )
        )
