"""What the HTTP API answers: the envelope ``{"code","msg","data"}``, and the headers on every answer.

Answers of one kind only are made once, here, and shared: a push is answered without encoding anything.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver import errors
from imserver.transport.problems import CORS

HEADER_LIST: Final = (
    ("Content-Type", "application/json; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
    *CORS,
)
"""The headers of every answer of the API but Content-Length."""

HEADERS: Final = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in HEADER_LIST)
"""The same as one block for the front, each line ended by CRLF."""

_encode = msgspec.json.Encoder().encode


class Answer(Struct, frozen=True):
    """A finished answer: HTTP status and body. Its headers are :data:`HEADERS`, and ``headers``.

    ``content_type`` is given where the body is no JSON.
    """

    status: int
    body: bytes
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()


_OTHER_HEADERS = HEADERS.partition(b"\r\n")[2]


def header_block(answer: Answer) -> bytes:
    """The header lines of an answer, each ended by CRLF; Content-Length is not among them."""
    if not answer.content_type and not answer.headers:
        return HEADERS
    if len(answer.headers) == 1 and not answer.content_type:  # a push
        name, value = answer.headers[0]
        return HEADERS + f"{name}: {value}\r\n".encode("latin-1")
    lines = "".join(f"{name}: {value}\r\n" for name, value in answer.headers).encode("latin-1")
    if not answer.content_type:
        return HEADERS + lines
    return b"Content-Type: %b\r\n%b%b" % (answer.content_type.encode("latin-1"), _OTHER_HEADERS, lines)


class Refused(Exception):
    """The request gets this answer and nothing else."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body)
        self.answer = answer


def refusal(code: int) -> Answer:
    """The envelope of a reply code (``errors.REPLY_…``) without data."""
    return Answer(200, b'{"code":%d,"msg":%b,"data":{}}' % (code, _encode(errors.reply_text(code))))


def success(data: Any) -> Answer:
    """The envelope around ``data``: a dict with its keys in the order of the wire, or a msgspec Struct."""
    return Answer(200, b'{"code":200,"msg":"Success","data":%b}' % _encode(data))


BAD_PARAMETER: Final = refusal(errors.REPLY_BAD_PARAMETER)
"""The body cannot be read or is over the limit, or a value has a wrong type."""
UNAUTHORIZED: Final = refusal(errors.REPLY_UNAUTHORIZED)
SYSTEM_ERROR: Final = refusal(errors.REPLY_SYSTEM)
PREFLIGHT: Final = Answer(204, b"")
"""What a browser gets that asks whether it may call from another origin."""

SENT: Final = success({"sendResults": True})
NOT_SENT: Final = success({"sendResults": False})
FAILED: Final = success({"sendResults": False, "sendResultsErr": "the node of the user does not answer"})
"""The user is on another node, which is known not to have got it."""
PARTLY: Final = success(
    {"sendResults": True, "sendResultsErr": "a node does not answer; its users did not get it"}
)
REPEATED: Final = success({})
"""The ``msgID`` was accepted before: nothing is delivered again."""
