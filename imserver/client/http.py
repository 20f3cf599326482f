"""One HTTP request of the API and what came of it: kept-alive connections, errors, careful repeats."""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import urllib3
from msgspec import Struct

from imserver.client.backoff import Backoff
from imserver.client.errors import NotConnected, RequestRefused

PREFIX: Final = "/api/v1/"
_CONNECTIONS: Final = 16


class _Problem(Struct):
    code: str = ""
    message: str = ""
    temporary: bool = False
    request_id: str = ""


class Http:
    """Kept-alive connections to one server; may be used by many threads at once.

    ``timeout_seconds`` is for one try. A request that may be repeated is tried ``tries`` times while it fails
    for a reason that may pass, with pauses that grow.
    """

    def __init__(self, url: str, key: str, timeout_seconds: float, tries: int) -> None:
        self._url = url.rstrip("/")
        self._tries = max(1, tries)
        self._pool = urllib3.PoolManager(
            _CONNECTIONS,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=urllib3.Timeout(timeout_seconds),
            retries=False,
        )

    def close(self) -> None:
        """End the connections."""
        self._pool.clear()

    def send(
        self, method: str, path: str, query: dict[str, Any] | None, body: Any, repeat_id: str | None
    ) -> bytes:
        """The body of the answer to a request of ``/api/v1/``.

        ``repeat_id``: it may be sent again without harm, under this idempotency key (``""``: needs none);
        None: it may not. Raises :class:`RequestRefused` or :class:`NotConnected`.
        """
        url = f"{self._url}{PREFIX}{path}"
        if query:
            url += "?" + urlencode({name: value for name, value in query.items() if value not in ("", None)})
        headers = {**self._pool.headers, "Accept-Encoding": "gzip"}
        if repeat_id:
            headers["Idempotency-Key"] = repeat_id
        content = None
        if body is not None:
            content, headers["Content-Type"] = msgspec.json.encode(body), "application/json"
        backoff = Backoff()
        tries = self._tries if repeat_id is not None else 1
        while True:
            tries -= 1
            try:
                return self._once(method, url, content, headers)
            except (NotConnected, RequestRefused) as error:
                refused = isinstance(error, RequestRefused)
                if not tries or (refused and not error.temporary):  # type: ignore[union-attr]
                    raise
                wait = error.retry_after_seconds if isinstance(error, RequestRefused) else 0.0
                time.sleep(wait or backoff.pause())

    def _once(self, method: str, url: str, content: bytes | None, headers: dict[str, str]) -> bytes:
        try:
            answer = self._pool.request(method, url, body=content, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise NotConnected(f"{url} does not answer: {error}") from error
        if answer.status < 400:
            return answer.data
        try:
            problem = msgspec.json.decode(answer.data, type=_Problem)
        except msgspec.DecodeError:
            problem = _Problem("", answer.data[:200].decode("utf-8", "replace"), answer.status >= 500)
        wait = answer.headers.get("Retry-After", "")
        raise RequestRefused(
            answer.status,
            problem.code,
            problem.message,
            problem.temporary,
            problem.request_id,
            float(wait) if wait.isdecimal() else 0.0,
        )
