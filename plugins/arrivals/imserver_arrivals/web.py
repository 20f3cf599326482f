"""Requests to servers of theirs that run: bounded in bytes and time, and patient where they ask for it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import msgspec
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from .live import LiveError

ANSWER_BYTES: Final = 16 << 20
"""Longest answer that is no file."""
LONGEST_PAUSE: Final = 120
"""Seconds that a server may let us wait (``Retry-After``). If it wants more, the request has failed."""
_SAFE: Final = re.compile(r"(https|wss)://[^/]|(http|ws)://(localhost|127\.0\.0\.1|\[::1\])([:/]|$)")
_NO_HEADERS: Final[Mapping[str, str]] = {}


def check_address(address: str, what: str) -> None:
    """Raises LiveError if a token would travel to the address for others to read."""
    if not _SAFE.match(address):
        raise LiveError(f"{what}: the address has to begin with https:// or wss://", is_final=True)


class Web:
    """The connections to servers of theirs.

    ``what`` names a request in errors, because addresses may be secrets. Every method raises LiveError, also
    for statuses other than 2xx; 401 and 403 are final. Redirections are not followed.
    """

    def __init__(self) -> None:
        self._pool = PoolManager(4, retries=False)

    def ask(
        self,
        method: str,
        url: str,
        what: str,
        headers: Mapping[str, str] = _NO_HEADERS,
        body: bytes | None = None,
        kind: Any = Any,
        seconds: float = 30.0,
    ) -> Any:
        """Send a request, and return the JSON of its answer as a ``kind`` of msgspec. The answer comes within
        so many ``seconds``. If the server says that there are too many requests, it waits and asks again."""
        content = bytearray()
        self._exchange(method, url, what, headers, body, seconds, ANSWER_BYTES, content.extend)
        try:
            return msgspec.json.decode(content, type=kind)
        except (ValueError, RecursionError) as error:
            raise LiveError(f"{what}: the answer cannot be read: {error}") from None

    def save(
        self, url: str, path: Path, most: int, what: str, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        """Save a file of at most so many bytes. If it fails, there is none."""
        try:
            with path.open("wb") as file:
                self._exchange("GET", url, what, headers, None, 600.0, most, file.write)
        except LiveError:
            path.unlink()
            raise

    def close(self) -> None:
        """End the connections."""
        self._pool.clear()

    def _exchange(
        self,
        method: str,
        url: str,
        what: str,
        headers: Mapping[str, str],
        body: bytes | None,
        seconds: float,
        most: int,
        take: Callable[[bytes], object],
    ) -> None:
        check_address(url, what)
        timeout = Timeout(connect=10.0, read=min(seconds, 60.0))
        for attempt in range(4):
            end, size = monotonic() + seconds, 0
            try:
                answer: Any = self._pool.urlopen(
                    method,
                    url,
                    body=body,
                    headers=headers,
                    redirect=False,
                    preload_content=False,
                    timeout=timeout,
                )
                try:
                    status, pause = answer.status, answer.headers.get("Retry-After", "")
                    if status == 429 and attempt < 3 and _seconds_of(pause) <= LONGEST_PAUSE:
                        sleep(_seconds_of(pause))
                        continue
                    if not 200 <= status < 300:
                        text = "".join(filter(str.isprintable, answer.read1(200).decode("utf-8", "replace")))
                        raise LiveError(f"{what}: status {status} {text}".rstrip(), status in (401, 403))
                    while piece := answer.read1(1 << 16, decode_content=False):
                        size += len(piece)
                        if size > most or monotonic() > end:
                            raise LiveError(f"{what}: more than {most} bytes, or {seconds:g} s, of an answer")
                        take(piece)
                    return
                finally:
                    answer.close()
            except (HTTPError, OSError) as error:
                raise LiveError(f"{what}: {type(error).__name__}") from None


def _seconds_of(pause: str) -> float:
    """The seconds of ``Retry-After``, or 5 if it names none."""
    return float(pause) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", pause) else 5.0
