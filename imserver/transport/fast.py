"""Fast routes: HTTP requests that are answered in the reader greenlet, without the application."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import getrandbits

from msgspec import Struct

from imserver.errors import HTTP_BODY_TOO_LARGE
from imserver.logs import request_id
from imserver.transport import problems
from imserver.transport.head import ParsedHead


class FastRequest(Struct):
    """One request, whichever door it came by. ``query`` and ``body`` are raw bytes; ``headers`` have
    lower-case names.

    ``host`` is the address of the client, as the trusted proxies tell it. With ``too_large`` the body was
    over the limit and has not been read.
    """

    method: str
    path: str
    query: bytes
    body: bytes
    headers: Mapping[str, str]
    host: str
    too_large: bool = False
    given_id: str = ""
    """The id that stands in the log already; ``""``: the client's, or one that is made when it is needed."""

    @property
    def id(self) -> str:
        """The id by which log and answers name this request."""
        if not self.given_id:
            given = self.headers.get("x-request-id", "")
            self.given_id = (given and request_id(given)) or f"{getrandbits(64):016x}"
        return self.given_id


class FastResponse(Struct):
    """What a fast route answers; ``head`` holds whole header lines, each ended by CRLF."""

    status: int
    head: bytes
    body: bytes


FastRoutes = Mapping[tuple[str, str], Callable[[FastRequest], FastResponse]]
"""(method, path) → the function that answers. It may switch to other greenlets."""


def refuse_too_large(routes: FastRoutes, parsed: ParsedHead, host: str) -> bytes:
    """The whole response to a request whose body is over the limit: in its route's own style, else 413."""
    path, _, query = parsed.url.partition(b"?")
    target = path.decode("latin-1")
    route = routes.get((parsed.method, target))
    if route is None:
        return problems.response(HTTP_BODY_TOO_LARGE)
    answer = route(FastRequest(parsed.method, target, query, b"", parsed.headers, host, too_large=True))
    return problems.head(answer.status, answer.head, len(answer.body), False) + answer.body
