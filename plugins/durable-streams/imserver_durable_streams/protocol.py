"""The contents of requests, offsets, and the contents of entries
(https://github.com/durable-streams/durable-streams)."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from random import randint
from time import time
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from imserver.plugin.errors import HttpProblem
from imserver.plugin.http import PROBLEM, ApiProblem, Call, HttpRequest, HttpResponse
from imserver.plugin.messages import Draft, Entry

NEXT = "Stream-Next-Offset"
CLOSED = "Stream-Closed"
UP_TO_DATE = "Stream-Up-To-Date"
CURSOR = "Stream-Cursor"
ENCODING = "Stream-SSE-Data-Encoding"
JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
END: Final = "closed"
"""The type of the entry that closes a stream and has no content."""
CURSOR_SECONDS: Final = 20
CURSOR_BEGIN: Final = 1_728_432_000
"""The first interval of cursors, in Unix seconds: 2024-10-09."""
_MOST_JITTER_SECONDS: Final = 3600
"""How much later than the request's cursor the new cursor is at most, if the
request's cursor is not in the past. The protocol wants a random number of
seconds up to this."""
_MOST_INTEGER: Final = 2**53 - 1
"""The largest integer that all JSON readers read exactly."""
_MOST_SHORT_CHARACTERS: Final = 255
_MOST_QUERY_FIELDS: Final = 64

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_EXPOSED: Final = (
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    (
        "Access-Control-Expose-Headers",
        f"{NEXT}, {CLOSED}, {UP_TO_DATE}, {CURSOR}, {ENCODING}, Producer-Epoch, Producer-Seq, "
        "Producer-Expected-Seq, Producer-Received-Seq, ETag, Location",
    ),
)

Offset = tuple[int, int]
"""A position in a stream, after the entry whose id is the first number. The
second number counts bytes (in JSON: values) of the next entry that are before
the position, too. ``(7, 0)`` is behind entry 7, and ``(7, 3)`` is behind the
first three bytes of entry 8. ``(-1, 0)`` is the beginning."""
Headers = tuple[tuple[str, str], ...]


def text_of_offset(offset: Offset) -> str:
    """Return the text of an offset, such as
    ``0000000000000007_0000000000000003``.

    Texts sort as their offsets do.
    """
    return f"{offset[0]:016d}_{offset[1]:016d}"


def read_offset(text: str) -> Offset:
    """Return the offset that a text names. Raises ApiProblem."""
    match = re.fullmatch(r"([0-9]{16})_([0-9]{16})", text)
    if match is None:
        raise refusal(400, "the offset is none of this server")
    return int(match[1]), int(match[2])


def refusal(status: int, text: str, *headers: tuple[str, str]) -> ApiProblem:
    """Return an error that is answered with this status, text and headers."""
    return ApiProblem(HttpProblem(status, "durable_stream", text), headers=headers)


def respond(
    status: int, *headers: tuple[str, str], body: bytes = b"", kind: str = ""
) -> HttpResponse:
    """Return a response. ``kind``: its content type; ``""`` means plain
    text."""
    return HttpResponse(status, body, kind or "text/plain", (*headers, *_EXPOSED))


def _refuse(
    problem: HttpProblem, request: HttpRequest, detail: str = ""
) -> HttpResponse:
    """Refuse a request as the API does, with the headers that browsers need.

    The answer to HEAD has no body.
    """
    answer = PROBLEM.refuse(problem, request, detail).with_headers(_EXPOSED)
    if request.method == "HEAD":
        return replace(answer, body=b"")
    return answer


STYLE: Final = replace(
    PROBLEM,
    refuse=_refuse,
    options=HttpResponse(
        204, b"", headers=(("Access-Control-Allow-Headers", "*, Authorization"),)
    ),
)


def plain_type(content_type: str) -> str:
    """Return a content type without its parameters, for comparisons.

    ``Text/Plain; charset=utf-8`` becomes ``text/plain``.
    """
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether a stream consists of JSON values."""
    return plain_type(content_type) == JSON


def is_text(content_type: str) -> bool:
    """Whether a stream is shown as text, and not in base64."""
    return is_json(content_type) or plain_type(content_type).startswith("text/")


# --- requests -----------------------------------------------------------------


class Producer(Struct, frozen=True):
    """The source of an append that may be repeated, and is stored once.

    It numbers its appends. If it starts anew, it begins another *epoch*, so
    that late appends of its earlier life are refused.
    """

    id: str
    epoch: int
    seq: int
    """The number of the append in the epoch."""


def number_in(headers: Mapping[str, str], name: str, default: int = -1) -> int:
    """Return the number in a header; ``default`` if the header is missing.

    Raises ApiProblem if it is not a number.
    """
    text = headers.get(name.lower())
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or int(text) > _MOST_INTEGER:
        raise refusal(400, f"{name}: expected a number")
    return int(text)


def short_text_in(headers: Mapping[str, str], name: str) -> str:
    """Return the text in a header; ``""`` if the header is missing.

    Raises ApiProblem if it is too long.
    """
    text = headers.get(name.lower(), "")
    if len(text) > _MOST_SHORT_CHARACTERS or "\0" in text:
        raise refusal(400, f"{name}: at most {_MOST_SHORT_CHARACTERS} characters")
    return text


def read_producer(headers: Mapping[str, str]) -> Producer | None:
    """Return the producer of an append. None if the append does not name one.

    Raises ApiProblem if one of its three headers is missing or wrong.
    """
    names = "Producer-Id", "Producer-Epoch", "Producer-Seq"
    present = [name for name in names if name.lower() in headers]
    if not present:
        return None
    if len(present) < len(names) or not headers["producer-id"]:
        raise refusal(400, f"{', '.join(names)}: all of them, and none of them empty")

    return Producer(
        id=short_text_in(headers, names[0]),
        epoch=number_in(headers, names[1]),
        seq=number_in(headers, names[2]),
    )


def read_type(headers: Mapping[str, str], default: str) -> str:
    """Return the content type of a new stream; ``default`` if the request has
    no valid one.

    Raises ApiProblem if it is too long.
    """
    text = short_text_in(headers, "Content-Type")
    if re.fullmatch(r"[\w-]+/[\w-]+.*", text):
        return text
    return default


def closes(headers: Mapping[str, str]) -> bool:
    """Whether a request closes its stream."""
    return headers.get(CLOSED.lower(), "").lower() == "true"


class Wish(Struct, frozen=True):
    """The query of a reader."""

    offset: Offset | None
    """Where to begin; None means the end of the stream."""
    offset_text: str
    """The offset as the reader has written it."""
    live: str
    """``long-poll``, ``sse``, or ``""`` for a read that does not wait."""
    cursor: str
    """The cursor of the last answer, which only makes addresses differ."""

    @classmethod
    def read(cls, query: str) -> Wish:
        """Read a query such as ``offset=-1&live=sse``. Raises ApiProblem."""
        pairs = _pairs_in(query)
        values = dict(pairs)
        live = values.get("live", "")
        if sum(name == "offset" for name, _ in pairs) > 1:
            raise refusal(400, "there is more than one offset")
        if live not in ("", "long-poll", "sse"):
            raise refusal(400, "live: long-poll or sse")
        if live and "offset" not in values:
            raise refusal(400, f"{live} needs an offset")

        text = values.get("offset", "-1")
        return cls(
            offset=_offset_in_query(text),
            offset_text=text,
            live=live,
            cursor=values.get("cursor", ""),
        )

    def next_cursor(self) -> str:
        """Return the cursor of an answer, which is later than the request's.

        The reader puts it into the next request. Therefore that request has
        another address, and no cache answers it.
        """
        now = int(time() - CURSOR_BEGIN) // CURSOR_SECONDS
        if not _NUMBER.fullmatch(self.cursor):
            return str(now)
        last = int(self.cursor)
        if last < now:
            return str(now)

        # The clock has not moved on since, so the cursor is made later.
        jitter = randint(1, _MOST_JITTER_SECONDS) // CURSOR_SECONDS
        return str(last + max(1, jitter))


def _offset_in_query(text: str) -> Offset | None:
    """Return an offset of a query; None for ``now``, the end of the stream.

    Raises ApiProblem.
    """
    if text == "now":
        return None
    if text == "-1":
        return (-1, 0)
    return read_offset(text)


# --- content ------------------------------------------------------------------


class Content(Struct, frozen=True):
    """The body of an append in the form of the log.

    ``meta`` has facts about the body, and ``type`` is the type of its entry.
    """

    body: bytes
    meta: bytes
    type: str


_read_values: Final = msgspec.json.Decoder(list[Raw]).decode
_read_tags: Final = msgspec.json.Decoder(dict[str, str]).decode
_VALUES: Final = "values"
"""The tag of an entry whose body is an array, with its number of values."""


MOST_VALUES: Final = 100_000
"""The most commas, colons and brackets in an array whose values become objects.
An append of one value may have more."""
AROUND_BYTES: Final = 1024
"""Room in a body for the brackets around the one value of an array."""
_BEGIN_OF_ARRAY: Final = re.compile(rb"\s*\[")


def content_of(body: bytes, content_type: str, is_new: bool = False) -> Content | None:
    """Return the content of an append to a stream with this content type.

    None if the body is an empty array of JSON. It may create a stream
    (``is_new``), but it must not be appended. Raises ApiProblem.
    """
    if is_json(content_type):
        return _json_content(body, is_new)
    if is_text(content_type) and _is_utf8(body):
        return _content(body)
    # Subscribers of the channel get the body as base64, because their frames
    # are text.
    tags = _tags("encoding", "base64")
    return _content(body, base64=True, tags=tags)


def _pairs_in(query: str) -> list[tuple[str, str]]:
    """Return the fields of a query, such as ``[("offset", "-1")]``.

    Raises ApiProblem if there are too many.
    """
    try:
        return parse_qsl(
            query, keep_blank_values=True, max_num_fields=_MOST_QUERY_FIELDS
        )
    except ValueError:
        raise refusal(400, "the query has too many fields") from None


def _json_content(body: bytes, is_new: bool) -> Content | None:
    """Return the content of an append to a stream of JSON.

    An array stands for its values: one value is stored alone, several as an
    array with their number. Returns None for an empty array, which may only
    create a stream (``is_new``). Raises ApiProblem.
    """
    is_array = _BEGIN_OF_ARRAY.match(body) is not None
    if is_array:
        # Each value becomes an object, which needs far more memory.
        Call.require_few_values(body, MOST_VALUES)
    values = None
    try:
        Call.check_json(body)
        if is_array:
            values = _read_values(body)
    except (ValueError, RecursionError) as error:
        raise refusal(400, f"the body is no JSON: {error}") from None

    if values is None:
        return _content(body.strip(), json=True)
    if len(values) == 1:
        return _content(bytes(values[0]), json=True)
    if values:
        array = b"[%b]" % b",".join(map(bytes, values))
        tags = _tags(_VALUES, str(len(values)))
        return _content(array, json=True, tags=tags)
    if is_new:
        return None
    raise refusal(400, "the array is empty")


def _content(body: bytes, **extras: Any) -> Content:
    """Return a body with the facts about it in ``meta``.

    Its type is ``custom`` if it has such facts.
    """
    meta = Draft.RoomMeta(**extras).to_bytes()
    if meta:
        return Content(body, meta, "custom")
    return Content(body, meta, "text")


def _tags(name: str, value: str) -> Raw:
    """Return one tag of an entry as JSON."""
    return Raw(msgspec.json.encode({name: value}))


def _has_values(tags: Raw | UnsetType) -> bool:
    """Whether the body of an entry is an array of several values."""
    try:
        return tags is not UNSET and _VALUES in _read_tags(tags)
    except ValueError:
        return False


def _is_utf8(body: bytes) -> bool:
    """Whether the bytes are a text in UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def parts_of(entry: Entry, as_json: bool) -> bytes | list[bytes]:
    """Return the bytes of an entry, or a list of its JSON values.

    Another publisher may have stored the entry as a text, which is a JSON
    string then.
    """
    if not as_json:
        return entry.body
    meta = entry.publication_meta()
    if not meta.json:
        return [msgspec.json.encode(entry.body.decode("utf-8", "replace"))]
    if _has_values(meta.tags):
        return list(map(bytes, _read_values(entry.body)))
    return [entry.body]


def joined(chunks: Sequence[bytes], content_type: str) -> bytes:
    """Return the body of an answer: the bytes of its chunks, or an array of
    JSON."""
    if is_json(content_type):
        return b"[%b]" % b",".join(chunks)
    return b"".join(chunks)


def event(name: str, data: bytes) -> bytes:
    r"""Return an event of Server-Sent Events.

    ``event("data", b"a\\nb")`` is ``event: data``, ``data:a``, ``data:b`` and
    an empty line. So line ends in the data do not end the event.
    """
    lines = [
        # A line that begins with a space gets one more, because clients drop
        # one.
        b"data:%b%b\n" % (b" " * line.startswith(b" "), line)
        for line in _LINE_END.split(data)
    ]
    return b"event: %b\n%b\n" % (name.encode(), b"".join(lines))


def data_event(chunk: bytes, content_type: str) -> bytes:
    """Return the event with the content of one append.

    Content that is no text is sent as base64, and JSON as an array.
    """
    if not is_text(content_type):
        return event("data", b64encode(chunk))
    if is_json(content_type):
        return event("data", b"[%b]" % chunk)
    return event("data", chunk.decode("utf-8", "replace").encode())
