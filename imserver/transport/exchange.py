"""HTTP requests and responses for both servers, and errors that are answered before the application."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from random import getrandbits
from typing import Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.errors import HttpProblem
from imserver.logging import request_id

Headers = tuple[tuple[str, str], ...]

CORS: Headers = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE,UPDATE"),
    (
        "Access-Control-Allow-Headers",
        "Authorization, Content-Type, Content-Length, X-CSRF-Token, Token, session, Accept, Origin, Host, "
        "Connection, Accept-Encoding, Accept-Language, DNT, X-CustomHeader, Keep-Alive, User-Agent, "
        "X-Requested-With, X_Requested_With, If-Modified-Since, Cache-Control, Pragma, Idempotency-Key, "
        "X-Request-Id, "
        "Last-Event-ID",
    ),
    (
        "Access-Control-Expose-Headers",
        "Content-Length, Content-Type, Cache-Control, Content-Language, Expires, Last-Modified, Pragma, "
        "Idempotent-Replayed, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, "
        "X-Request-Id",
    ),
    ("Access-Control-Max-Age", "172800"),
)
"""CORS headers that let pages of other origins read answers of the API."""


def challenged(problem: HttpProblem, headers: Headers = ()) -> Headers:
    """Headers of an error response. A 401 also names the accepted scheme."""
    return (*headers, ("WWW-Authenticate", "Bearer")) if problem.status == 401 else headers


def phrase_of(status: int) -> str:
    """The reason phrase of a status."""
    # Not a standard one: tus has it.
    return "Checksum Mismatch" if status == 460 else HTTPStatus(status).phrase


@lru_cache(256)
def status_line(status: int) -> bytes:
    """The first line of a response, with its CRLF."""
    return f"HTTP/1.1 {status} {phrase_of(status)}\r\n".encode()


def response_head(status: int, lines: bytes, length: int, keep_alive: bool, version: str = "1.1") -> bytes:
    """A whole response head. ``lines``: header lines, each ended by CRLF."""
    end = b"Connection: close\r\n"
    if keep_alive:
        end = b"Connection: keep-alive\r\n" if version == "1.0" else b""
    return b"%b%bContent-Length: %d\r\n%b\r\n" % (status_line(status), lines, length, end)


def problem_body(problem: HttpProblem, id: str = "", detail: str = "") -> bytes:
    """The JSON body of an error: ``{code, message, temporary, request_id}``.

    ``id``: of the request; ``""``: a new one. ``detail`` replaces the usual message.
    """
    return msgspec.json.encode(
        {
            "code": problem.code,
            "message": detail or problem.message,
            "temporary": problem.temporary,
            "request_id": id or request_id(""),
        }
    )


def problem_response(problem: HttpProblem, headers: Headers = ()) -> bytes:
    """A whole error response, after which the connection ends."""
    content = problem_body(problem)
    lines = "".join(f"{name}: {value}\r\n" for name, value in challenged(problem, headers))
    lines += "Content-Type: application/json; charset=utf-8\r\n"
    return response_head(problem.status, lines.encode("latin-1"), len(content), False) + content


class HttpRequest(Struct, gc=False):
    """A request, from either server. ``query`` and ``body`` are raw bytes; header names are in lower case.

    ``host``: address of the client, as trusted proxies report it. ``too_large``: the body exceeds its limit
    and was not read.
    """

    method: str
    path: str
    query: bytes
    body: bytes
    headers: Mapping[str, str]
    host: str
    too_large: bool = False
    given_id: str = ""
    """The id that was already logged; ``""``: the client's id, or a new one made on first use."""
    by: str = ""
    """The label of its principal, for the log; ``""``: unknown."""

    @property
    def id(self) -> str:
        """The id of this request in the log and in answers."""
        if not self.given_id:
            header = self.headers.get("x-request-id", "")
            self.given_id = request_id(header) if header else f"{getrandbits(64):016x}"
        return self.given_id


HEADER_LIST: Final = (
    ("Content-Type", "application/json; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
    *CORS,
)
"""Headers of every API response except Content-Length."""

HEADERS: Final = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in HEADER_LIST)
"""The same headers as one block, each line ended by CRLF."""
_OTHER_HEADERS: Final = HEADERS.partition(b"\r\n")[2]


class HttpResponse(Struct, frozen=True):
    """A finished response with :data:`HEADERS` and its own ``headers``.

    ``content_type``: set if the body is not JSON. ``page``: a page of ours. It has only its own headers, so
    pages of other origins cannot read it. ``whole``: see :func:`constant`.
    """

    status: int
    body: bytes
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    page: bool = False
    whole: bytes = b""

    def with_headers(self, headers: tuple[tuple[str, str], ...]) -> HttpResponse:
        """The same response with these headers, too."""
        return replace(self, headers=self.headers + headers, whole=b"")


def header_block(response: HttpResponse) -> bytes:
    """The header lines of a response, each ended by CRLF, without Content-Length."""
    if not response.content_type and not response.headers:
        return HEADERS
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers).encode("latin-1")
    if not response.content_type:
        return HEADERS + lines
    others = b"" if response.page else _OTHER_HEADERS
    return b"Content-Type: %b\r\n%b%b" % (response.content_type.encode("latin-1"), others, lines)


@lru_cache(1024)
def _length_line(length: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % length


def keep_alive_response(response: HttpResponse) -> bytes:
    """A whole HTTP/1.1 response that keeps the connection open."""
    body = response.body
    if len(response.headers) == 1 and not response.content_type:  # a push: as header_block(), without a call
        ((name, value),) = response.headers
        lines = HEADERS + f"{name}: {value}\r\n".encode("latin-1")
    else:
        lines = header_block(response)
    return b"".join((status_line(response.status), lines, _length_line(len(body)), body))


def constant(response: HttpResponse) -> HttpResponse:
    """The same response with its bytes on a connection that stays open, for answers that are sent often."""
    return replace(response, whole=keep_alive_response(response))


HttpRoutes = Mapping[tuple[str, str], Callable[[HttpRequest], HttpResponse]]
"""(method, path) → the function that answers. It may switch."""
_Found = TypeVar("_Found")


def pattern_of(path: str) -> str:
    """The pattern that covers a path with names in it: each second segment from the second one on is ``*``.

    ``/app/1f2e`` → ``/app/*``, ``/apps/7/channels/news/users`` → ``/apps/*/channels/*/users``.
    """
    segments = path.split("/")
    segments[2::2] = ["*" if each else "" for each in segments[2::2]]
    return "/".join(segments)


def patterns_of(path: str) -> tuple[str, str]:
    """The patterns that routes may have for a path: :func:`pattern_of`, and one ``*`` for all that follows
    the second segment.

    ``/hooks/in/7/news`` → ``/hooks/*/7/*``, ``/hooks/in/*``.
    """
    return pattern_of(path), "/".join((*path.split("/", 3)[:3], "*"))


def row_of(rows: Mapping[tuple[str, str], _Found], method: str, path: str) -> _Found | None:
    """The row of a path, or of one of its patterns."""
    keys = ((method, each) for each in (path, *patterns_of(path)))
    return next((rows[key] for key in keys if key in rows), None)
