"""What can go wrong for a client."""

from __future__ import annotations

from imserver.errors import CLOSE, ImserverError


class ClientError(ImserverError):
    """Base of what the client raises."""


class NotConnected(ClientError):
    """There is no connection, or it was lost before the answer came; :class:`Client` is trying again."""


class LoginRefused(ClientError):
    """The server will not have this user; ``code`` is its reply code. No further try is made."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"login refused: {code} {text}")
        self.code = code


class Closed(ClientError):
    """The connection is over for good: closed by us, or by the server with a code that says to stay away."""

    def __init__(self, code: int, reason: str = "") -> None:
        row = CLOSE.get(code)
        super().__init__(f"closed: {code} {reason or (row.name if row else '')}".rstrip())
        self.code = code


class CommandRefused(ClientError):
    """The server refused a command; ``code`` is the reply code (docs/reference/protocol.md)."""

    def __init__(self, cmd: str, code: int, text: str) -> None:
        super().__init__(f"{cmd} refused: {code} {text}")
        self.cmd = cmd
        self.code = code


class RequestRefused(ClientError):
    """The API refused a request: ``status`` of HTTP, ``code`` and message of the problem.

    ``temporary``: the same request may succeed later, after ``retry_after_seconds`` if the server says so.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        temporary: bool = False,
        request_id: str = "",
        retry_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.temporary = temporary
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
