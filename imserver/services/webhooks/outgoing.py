"""Requests that the server makes itself: to the back ends that its apps name, signed and within a time."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

import gevent

from imserver import __version__
from imserver.errors import ImserverError

if TYPE_CHECKING:
    from urllib3 import PoolManager

SIGNATURE_HEADER: Final = "Imserver-Signature"
DELIVERY_HEADER: Final = "Imserver-Delivery"
ANSWER_BYTES: Final = 65536
"""What is read of an answer; a longer one is none."""
_HOSTS: Final = 64
_CONNECTIONS: Final = 64
"""Connections to one host that are kept when they are idle."""


class Unreachable(ImserverError):
    """There was no whole answer within the time; the text says why."""


def signature(secret: bytes, body: bytes, timestamp: int) -> str:
    """What the header ``Imserver-Signature`` says of a body that is sent at this Unix second.

    HMAC-SHA256 of ``<timestamp>.<body>``: who knows the secret can tell that the server wrote it, and when.
    """
    signed = hmac.digest(secret, b"%d.%b" % (timestamp, body), hashlib.sha256)
    return f"t={timestamp},v1={signed.hex()}"


class Outgoing:
    """Owner of the connections to back ends, which are kept for the next request. One a node."""

    def __init__(self) -> None:
        self._connections: PoolManager | None = None

    def post(
        self, url: str, secret: bytes, body: bytes, timestamp: int, delivery: str, seconds: float
    ) -> tuple[int, bytes]:
        """Send JSON, signed, and wait for the answer: status and body.

        Waits, for all of it together, at most ``seconds``; switches to other greenlets. Redirections are not
        followed. Raises :class:`Unreachable`.
        """
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"imserver/{__version__}",
            SIGNATURE_HEADER: signature(secret, body, timestamp),
            DELIVERY_HEADER: delivery,
        }
        timeout = gevent.Timeout(seconds)
        try:
            with timeout:
                return self._exchange(url, body, headers)
        except gevent.Timeout as over:
            if over is not timeout:
                raise
            raise Unreachable(f"no answer within {seconds:g} s") from None

    def _exchange(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        # Loaded here because a node without webhooks need not pay for it.
        from urllib3 import PoolManager
        from urllib3.exceptions import HTTPError

        if self._connections is None:
            self._connections = PoolManager(_HOSTS, maxsize=_CONNECTIONS, retries=False)
        try:
            answer = self._connections.request(
                "POST", url, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                content = answer.read(ANSWER_BYTES + 1, decode_content=False)
                if len(content) > ANSWER_BYTES:
                    raise Unreachable(f"the answer has more than {ANSWER_BYTES} bytes")
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from None
        return answer.status, content

    def close(self) -> None:
        """End the idle connections."""
        if self._connections is not None:
            self._connections.clear()
