"""The common part of the thread shell and the asyncio shell of a session."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Generic, TypeVar

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidHandshake, InvalidURI

from imserver_client.errors import CLOSE_LOST, NotConnected
from imserver_client.session import ANSWER_SECONDS, OnState, SessionCore, State

log = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_SECONDS: Final = 2.0
"""How long to wait for the other side when a connection ends; it may be
gone."""
CONNECT_OPTIONS: Final[dict[str, Any]] = {
    "compression": None,
    "open_timeout": ANSWER_SECONDS,
    "close_timeout": CLOSE_SECONDS,
    "max_size": None,
    # The core sends heartbeats instead, and expects no answer while the queue
    # is full.
    "ping_interval": None,
}
CONNECT_ERRORS: Final = (OSError, TimeoutError, InvalidHandshake, EOFError, InvalidURI)
"""The exceptions that an attempt to connect may raise."""


async def close_in_time(connection: ClientConnection, seconds: float) -> None:
    """Close a connection of asyncio within ``seconds``.

    If the server does not read, the connection is cut instead.
    """
    try:
        async with asyncio.timeout(seconds):
            await connection.close()
    except TimeoutError:
        connection.transport.abort()


class SessionShell(Generic[T]):
    """The common part of the shells around a session core.

    A *shell* does the I/O of a session: it connects to ``url``, and sends and
    reads frames. It does so in threads or in asyncio.
    """

    def __init__(self, core: SessionCore[T], url: str, on_state: OnState) -> None:
        """Begin without a connection. ``on_state`` is called with each new
        state."""
        self._core = core
        self._url = url
        self._on_state = on_state

    @property
    def state(self) -> State:
        """``idle``, ``connecting``, ``online``, ``waiting`` (for the next try)
        or ``ended``."""
        return self._core.state

    def _not_connected(self, error: Exception) -> int:
        """Note why no connection could be made, and return the close code for
        it.

        A malformed URL ends the session. After any other error it tries again.
        """
        self._core.failure = str(error) or type(error).__name__
        if isinstance(error, InvalidURI):
            self._core.error = NotConnected(str(error))
        else:
            log.debug("%s: %s", self._url, error)
        return CLOSE_LOST

    def _no_token(self, error: Exception) -> int:
        """Note that the program could not make a token, and return the close
        code for it. The session tries again."""
        log.warning("there is no token, trying again: %r", error)
        self._core.failure = f"the token function failed: {error!r}"
        return CLOSE_LOST

    def _report(self, before: State, after: State) -> None:
        """Call ``on_state`` if the state has changed. An error of it is only
        logged."""
        if after is before or self._on_state is None:
            return
        try:
            self._on_state(after)
        except Exception:
            log.exception("on_state failed for the state %s", after)
