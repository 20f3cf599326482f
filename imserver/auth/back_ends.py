"""Questions of the core to the back end of an app: may a client log in, subscribe, publish?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeVar

from msgspec import Struct

from imserver.errors import ClientError, ImserverError
from imserver.transport.connection import Connection

T = TypeVar("T")
BackEndCall = Literal["connect", "refresh", "subscribe", "publish", "sub_refresh", "rpc"]
"""What the back end of an app is asked about a client: its login or renewal, a channel, a call of its own."""


class LoginAnswer(Struct, frozen=True):
    """The answer of a back end. ``expires_at``: Unix second of the session's end (0: with its connection).

    ``user``: the user, if the client gave none.
    """

    allow: bool = False
    expires_at: int = 0
    user: str = ""


class BackEndUnavailable(ImserverError):
    """There is no valid answer: the client may try again."""


class BackEndRefused(ImserverError):
    """The answer is an ``error`` for the client, or that its connection ends.

    ``disconnect``: the code with which it ends, from 3000 to 4999, and the reason.
    """

    def __init__(self, error: ClientError | None, disconnect: tuple[int, str] | None = None) -> None:
        super().__init__("" if error is None else error.message)
        self.error = error
        self.disconnect = disconnect


class BackEnds(Protocol):
    """Asks the back ends of apps about their clients. The answers here are those of :class:`NoBackEnds`."""

    def is_ready(self, app: str) -> bool:
        """Whether the back end that the settings of an app name can be asked. Never switches."""
        return False

    def authorise(
        self, app: str, user: str, token: str, dialect: str, peer: str, device: str
    ) -> LoginAnswer | None:
        """Ask about a login; None: no valid answer. Waits up to two seconds."""
        return None

    def has(self, app: str, call: BackEndCall) -> bool:
        """Whether a back end of the app is asked this. Never switches."""
        return False

    def headers_of(self, app: str, given: Mapping[str, str]) -> dict[str, str] | None:
        """The headers of a new client (by names in lower case) that requests about it repeat.

        None: the app has no back end. Never switches.
        """
        return None

    def emulated_headers_of(self, app: str, given: Mapping[str, str]) -> dict[str, str]:
        """The headers set in the SDK of a client that requests about it repeat. Never switches."""
        return {}

    def ask(
        self, app: str, call: BackEndCall, connection: Connection, facts: Mapping[str, Any], kind: type[T]
    ) -> T:
        """Ask for a connection, and return the result, which is a ``kind``. Switches.

        Raises :class:`BackEndUnavailable` and :class:`BackEndRefused`.
        """
        raise BackEndUnavailable("this node asks no back ends")


class NoBackEnds(BackEnds):
    """Nobody answers: a request that needs a decision of a back end is refused. Never switches."""
