"""One request and one response, for both servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import getrandbits
from typing import Final

from msgspec import Struct

from imserver.errors import HTTP_BODY_TOO_LARGE
from imserver.logging import request_id
from imserver.transport import problems
from imserver.transport.head import ParsedHead


class HttpRequest(Struct):
    """One request, whichever server read it. ``query`` and ``body`` are raw bytes; ``headers`` have
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


HEADER_LIST: Final = (
    ("Content-Type", "application/json; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
    *problems.CORS,
)
"""The headers of every response of the API but Content-Length."""

HEADERS: Final = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in HEADER_LIST)
"""The same as one block, each line ended by CRLF."""
_OTHER_HEADERS: Final = HEADERS.partition(b"\r\n")[2]


class HttpResponse(Struct, frozen=True):
    """A finished response. Its headers are :data:`HEADERS`, and ``headers``.

    ``content_type`` is given where the body is not JSON.
    """

    status: int
    body: bytes
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def header_block(response: HttpResponse) -> bytes:
    """The header lines of a response, each ended by CRLF, without Content-Length."""
    if not response.content_type and not response.headers:
        return HEADERS
    if len(response.headers) == 1 and not response.content_type:  # a push
        name, value = response.headers[0]
        return HEADERS + f"{name}: {value}\r\n".encode("latin-1")
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers).encode("latin-1")
    if not response.content_type:
        return HEADERS + lines
    return b"Content-Type: %b\r\n%b%b" % (response.content_type.encode("latin-1"), _OTHER_HEADERS, lines)


HttpRoutes = Mapping[tuple[str, str], Callable[[HttpRequest], HttpResponse]]
"""(method, path) → the function that answers. It may switch to other greenlets."""


def refuse_too_large(routes: HttpRoutes, parsed: ParsedHead, host: str) -> bytes:
    """The whole response to a request whose body is over the limit: in its route's own style, else 413."""
    path, _, query = parsed.url.partition(b"?")
    target = path.decode("latin-1")
    route = routes.get((parsed.method, target))
    if route is None:
        return problems.response(HTTP_BODY_TOO_LARGE)
    response = route(HttpRequest(parsed.method, target, query, b"", parsed.headers, host, too_large=True))
    return problems.head(response.status, header_block(response), len(response.body), False) + response.body
