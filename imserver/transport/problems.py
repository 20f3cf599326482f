"""HTTP heads and problem bodies for what is answered below the application."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from secrets import token_hex

import msgspec

from imserver.errors import HttpProblem

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
"""What lets pages of other origins read an answer of the API."""


def challenged(problem: HttpProblem, headers: Headers = ()) -> Headers:
    """The headers of a refusal: of a 401 also what would have been accepted."""
    return (*headers, ("WWW-Authenticate", "Bearer")) if problem.status == 401 else headers


@lru_cache(1024)
def _length_line(length: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % length


def kept_alive(status: int, lines: bytes, content: bytes) -> bytes:
    """A whole response of HTTP/1.1 after which the connection goes on; ``lines`` as :func:`head` has them."""
    return b"".join((status_line(status), lines, _length_line(len(content)), content))


@lru_cache(256)
def status_line(status: int) -> bytes:
    """The first line of a response, with its CRLF."""
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()


def head(status: int, lines: bytes, length: int, keep: bool, version: str = "1.1") -> bytes:
    """A whole response head; ``lines`` are header lines, each ended by CRLF."""
    if not keep:
        return b"%b%bContent-Length: %d\r\nConnection: close\r\n\r\n" % (status_line(status), lines, length)
    if version == "1.0":
        return b"%b%bContent-Length: %d\r\nConnection: keep-alive\r\n\r\n" % (
            status_line(status),
            lines,
            length,
        )
    return b"%b%bContent-Length: %d\r\n\r\n" % (status_line(status), lines, length)


def body(problem: HttpProblem) -> bytes:
    """A problem body: ``{code, message, temporary, request_id}``."""
    return msgspec.json.encode(
        {
            "code": problem.code,
            "message": problem.message,
            "temporary": problem.temporary,
            "request_id": token_hex(8),
        }
    )


def response(problem: HttpProblem, headers: Headers = ()) -> bytes:
    """A whole response with a problem body; the connection ends after it."""
    content = body(problem)
    lines = "".join(f"{name}: {value}\r\n" for name, value in challenged(problem, headers))
    lines += "Content-Type: application/json; charset=utf-8\r\n"
    return head(problem.status, lines.encode("latin-1"), len(content), False) + content
