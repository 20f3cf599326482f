"""HTTP requests to the outside: signed ones to back ends, and documents of issuers and providers."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import gevent

from imserver import __version__
from imserver.errors import ImserverError

if TYPE_CHECKING:
    from urllib3 import PoolManager

ANSWER_BYTES: Final = 65536
"""Longest answer that is read; a longer one counts as no answer."""
USER_AGENT: Final = f"imserver/{__version__}"
NO_HEADERS: Final[Mapping[str, str]] = {}
_LONG_HOST: Final = re.compile("[^/]*//[^/?#]{321}")
"""No name with a user and a port is so long. Issuers and providers name URLs, too."""


class Unreachable(ImserverError):
    """There was no complete answer in time; the text says why.

    ``is_refused``: the connection was refused, so no program listens at the address.
    """

    def __init__(self, text: str, is_refused: bool = False) -> None:
        super().__init__(text)
        self.is_refused = is_refused


def signature(secret: bytes, body: bytes, timestamp: int) -> str:
    """The header ``Imserver-Signature`` for a body that is sent at this Unix second.

    HMAC-SHA256 of ``<timestamp>.<body>``: the receiver can check that the server wrote it, and when.
    """
    signed = hmac.digest(secret, b"%d.%b" % (timestamp, body), hashlib.sha256)
    return f"t={timestamp},v1={signed.hex()}"


class Outgoing:
    """Owner of the connections to other servers, which are reused. One per node."""

    def __init__(self) -> None:
        self._connections: PoolManager | None = None

    def post(
        self,
        url: str,
        secret: bytes,
        body: bytes,
        timestamp: int,
        delivery: str,
        seconds: float,
        answer_bytes: int = ANSWER_BYTES,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> tuple[int, bytes]:
        """Send signed JSON with ``headers``, and wait at most ``seconds`` for the answer: status and body.

        Switches. Redirections are not followed. Raises :class:`Unreachable`.
        """
        own = {"Imserver-Signature": signature(secret, body, timestamp), "Imserver-Delivery": delivery}
        return self.send(url, {**headers, **own}, body, seconds, answer_bytes)

    def send(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        answer_bytes: int = ANSWER_BYTES,
    ) -> tuple[int, bytes]:
        """Send JSON with these ``headers``. Waits and raises like :meth:`post`."""
        headers = {"Content-Type": "application/json", **headers}
        return self.exchange("POST", url, body, headers, seconds, answer_bytes)[:2]

    def get(self, url: str, seconds: float, headers: Mapping[str, str] = NO_HEADERS) -> tuple[int, bytes]:
        """Read a document: status and body. Waits and raises like :meth:`post`."""
        headers = {"Accept": "application/json", **headers}
        return self.exchange("GET", url, None, headers, seconds)[:2]

    def exchange(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        seconds: float,
        answer_bytes: int = ANSWER_BYTES,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a request with these ``headers``, and that of the sender: status, body and headers of the
        answer.

        Waits and raises like :meth:`post`. Headers of the answer are read by names in small letters.
        """
        if _LONG_HOST.match(url):
            raise Unreachable("the name of the host is too long")
        timeout = gevent.Timeout(seconds)
        try:
            with timeout:
                return self._request(method, url, body, {"User-Agent": USER_AGENT, **headers}, answer_bytes)
        except gevent.Timeout as over:
            if over is not timeout:
                raise
            raise Unreachable(f"no answer within {seconds:g} s") from None

    def _request(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str], answer_bytes: int
    ) -> tuple[int, bytes, Mapping[str, str]]:
        # Loaded here to save memory in nodes that send no requests.
        from urllib3 import PoolManager
        from urllib3.exceptions import HTTPError

        if self._connections is None:
            self._connections = PoolManager(
                64, maxsize=64, retries=False
            )  # idle ones to so many hosts, to each
        try:
            answer = self._connections.urlopen(
                method, url, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                content = answer.read(answer_bytes + 1, decode_content=False)
                if len(content) > answer_bytes:
                    raise Unreachable(f"the answer has more than {answer_bytes} bytes")
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except (HTTPError, OSError, ValueError) as error:
            is_refused = isinstance(error.__cause__, ConnectionRefusedError)
            raise Unreachable(f"{type(error).__name__}: {error}", is_refused) from None
        return answer.status, content, answer.headers

    def close(self) -> None:
        """End the idle connections."""
        if self._connections is not None:
            self._connections.clear()
