"""How a route of ``/api/v1`` reads what came and writes what it answers: JSON, compressed where asked."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.protocol.forgiving import has_nul

T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]

GZIP_BYTES: Final = 1024
"""An answer above so many bytes leaves compressed if its receiver takes that."""
_GZIP_LEVEL: Final = 1
_GZIP_WINDOW: Final = 31  # of zlib: gzip's own header, and the widest window

_A_FLOAT: Final = "got `float`"
_WHOLE_BYTES: Final = 256 << 10
"""Longest body in which ``1.0`` may stand for 1: each number in it costs 0.15 µs."""
_EXACT: Final = 2**53  # up to here every whole number is a float of its own

_encode = msgspec.json.Encoder().encode


def read(api: Api, call: Call, decoder: msgspec.json.Decoder[T]) -> T:
    """The body of a request as what ``decoder`` makes of it.

    It may be compressed, but not by strangers. Raises :class:`Problem` with a text that says where the body
    is wrong.
    """
    body = call.body
    encoding = "" if call.request is None else call.request.headers.get("content-encoding", "")
    if encoding and encoding.lower() != "identity":
        if encoding.lower() not in ("gzip", "x-gzip") or call.principal.kind == "nobody":
            raise Problem(errors.HTTP_UNKNOWN_ENCODING)
        body = inflate(body, api.body_bytes)
    return decode(decoder, body)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """JSON as what ``decoder`` makes of it. Raises :class:`Problem`."""
    if has_nul(body):
        raise Problem(errors.HTTP_INVALID_REQUEST, "A text contains U+0000")
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, or of another shape
        text = str(error)
    if _A_FLOAT in text and len(body) <= _WHOLE_BYTES:
        # Some languages write 1.0 for 1, and for JSON Schema it is an integer.
        try:
            return decoder.decode(_encode(_decode_whole(body)))
        except (ValueError, RecursionError) as error:
            text = str(error)
    raise Problem(errors.HTTP_INVALID_REQUEST, text)


def _whole(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


_decode_whole = msgspec.json.Decoder(float_hook=_whole).decode


def inflate(body: bytes, limit: int) -> bytes:
    """A body that came compressed by gzip. Raises :class:`Problem` if it is broken or too large."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise Problem(errors.HTTP_INVALID_REQUEST, "the body is no gzip") from None
    if len(content) > limit:
        raise Problem(errors.HTTP_BODY_TOO_LARGE)
    if not inflater.eof or inflater.unused_data:
        raise Problem(errors.HTTP_INVALID_REQUEST, "the body is no gzip")
    return content


def reply(call: Call, value: Any, headers: Headers = (), status: int = 200) -> Answer:
    """An answer: ``value`` as JSON (bytes are JSON already)."""
    body = value if isinstance(value, bytes) else _encode(value)
    request = call.request
    if request is None or len(body) > GZIP_BYTES:
        return reply_as(call, body, "", headers, status)
    return Answer(status, body, "", (("X-Request-Id", request.id), *headers))


def reply_as(call: Call, body: bytes, content_type: str, headers: Headers = (), status: int = 200) -> Answer:
    """An answer of any content type (``""``: JSON), compressed if it is worth it and its receiver agrees."""
    request = call.request
    if request is None:
        return Answer(status, body, content_type, headers)
    headers = (("X-Request-Id", request.id), *headers)
    if len(body) > GZIP_BYTES:
        headers += (("Vary", "Accept-Encoding"),)
        if takes_gzip(request.headers.get("accept-encoding", "")):
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            headers += (("Content-Encoding", "gzip"),)
    return Answer(status, body, content_type, headers)


def takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header takes gzip (RFC 9110 section 12.5.3)."""
    for entry in accepted.lower().split(","):
        name, _, weight = entry.partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False


def app_of(api: Api, call: Call, name: str) -> str:
    """The app that a request names: the one that stands for it. May switch.

    Raises :class:`Problem` if the caller's key is not for it, or nobody knows it.
    """
    services = api.services
    app: str = services.tenants.resolve(name)
    if not call.principal.reaches(app):
        raise Problem(errors.HTTP_FORBIDDEN)
    if app not in services.hub.apps and services.tenants.find(app) is None:
        raise Problem(errors.HTTP_UNKNOWN_APP)
    return app


def one_of(problem: errors.HttpProblem, given: Sequence[object], text: str) -> None:
    """Refuse unless exactly one of ``given`` is there."""
    if sum(value is not None for value in given) != 1:
        raise Problem(problem, text)
