"""Parts of requests and answers of ``/api/v1``: queries, compressed bodies,
pages of lists."""

import zlib
from bisect import bisect_right
from collections.abc import Sequence, Sized
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from imserver.gateway.auth.principal import Principal
from imserver.gateway.auth.tenants import Tenants
from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.errors import Problems
from imserver.gateway.http.form import BadBody, cursor_of, parse_pairs, read_cursor
from imserver.gateway.http.limits import Limits
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.transport.http1 import Headers, HttpRequest

T = TypeVar("T")

GZIP_BYTES: Final = 1024
"""Larger answers are compressed if the client accepts gzip."""
GZIP: Final = 31
"""``wbits`` of zlib: the header of gzip and the widest window."""
_MAX_WHOLE_BYTES: Final = 256 << 10
"""Size of the longest body in which ``1.0`` may stand for 1. Each number costs
0.15 µs."""
_WHOLE_FLOATS: Final = 2**53
"""Up to this number every whole number has an exact float."""


def decode_whole(decoder: msgspec.json.Decoder[T], body: bytes, error: Exception) -> T:
    """Decode JSON again, because whole numbers may be written as ``1.0``.

    JSON Schema counts ``1.0`` as an integer, but the decoder refuses it.
    ``error`` is the refusal of the decoder. Raises :class:`ApiProblem` if the
    body is too long for this, or has another mistake.
    """
    if "got `float`" in str(error) and len(body) <= _MAX_WHOLE_BYTES:
        try:
            document = msgspec.json.Decoder(float_hook=_whole).decode(body)
            return decoder.decode(msgspec.json.encode(document))
        except (ValueError, RecursionError) as again:
            error = again
    raise ApiProblem.invalid(str(error))


def _whole(text: str) -> int | float:
    """Convert a number of JSON. A whole number becomes an integer."""
    number = float(text)
    if number.is_integer() and abs(number) < _WHOLE_FLOATS:
        return int(number)
    return number


class _Nothing(Struct, gc=False):
    """An object that ignores all its fields. It takes a sixth of the memory of
    a dict."""


class _Counted(Struct):
    """A batch whose commands are only counted."""

    commands: list[_Nothing] | None = None


class _Commands(Struct, forbid_unknown_fields=True):
    """A batch whose commands are decoded one by one."""

    commands: Annotated[list[Raw], Meta(min_length=1)]


_count_commands: Final = msgspec.json.Decoder(_Counted).decode
_decode_commands: Final = msgspec.json.Decoder(_Commands)
_decode_command: Final = msgspec.json.Decoder(
    Annotated[dict[str, Raw], Meta(min_length=1, max_length=1)]
).decode
UNCOUNTED_BYTES: Final = 65536
"""A batch up to this size has few commands, so they are decoded without
counting them first."""
MOST_BRACKETS: Final = 400_000
"""Limit of the brackets of a batch. If all brackets are nested, so many
brackets block the loop for 10 ms."""


def require_few_commands(body: bytes, most: int) -> None:
    """Refuse a batch with more than ``most`` commands.

    The function counts the commands without making objects of them, because a
    million objects would block all other clients. Raises :class:`ApiProblem`.
    """
    if len(body) <= UNCOUNTED_BYTES:
        return
    if body.count(b"[") + body.count(b"{") > MOST_BRACKETS:
        raise ApiProblem(
            Problems.BODY_TOO_LARGE, f"The body has more than {MOST_BRACKETS} brackets"
        )
    # The commands are counted without their contents.
    try:
        commands = _count_commands(body).commands
    except (ValueError, RecursionError) as error:
        raise ApiProblem.invalid(str(error)) from None
    if commands and len(commands) > most:
        raise ApiProblem(Problems.TOO_MANY_TARGETS)


def read_commands(body: bytes, most: int) -> list[dict[str, Raw]]:
    """Decode the ``commands`` of a batch. Each is an object with one field.

    An example of a command is ``{"push": {…}}``. The value of the field stays
    undecoded. The loop serves others meanwhile. Raises :class:`ApiProblem` if
    the batch is invalid, or if there are more than ``most`` commands.
    """
    require_few_commands(body, most)
    if is_long_turn():
        serve_others()
    try:
        contents = _decode_commands.decode(body).commands
    except (ValueError, RecursionError) as error:
        raise ApiProblem.invalid(str(error)) from None
    commands: list[dict[str, Raw]] = []
    # A short batch was not counted before.
    if len(contents) > most:
        raise ApiProblem(Problems.TOO_MANY_TARGETS)

    for content in contents:
        if is_long_turn():
            serve_others()
        try:
            commands.append(_decode_command(content))
        except (ValueError, RecursionError) as error:
            path = f"$.commands[{len(commands)}]"
            raise ApiProblem.invalid(f"{error} - at `{path}`") from None
    return commands


def inflate(body: bytes, limit: int) -> bytes:
    """Decompress a gzip body.

    Raises :class:`ApiProblem` if the body is broken, or if its content is
    larger than ``limit`` bytes.
    """
    inflater = zlib.decompressobj(GZIP)
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise ApiProblem.invalid("The body is not gzip") from None
    if len(content) > limit:
        raise ApiProblem(Problems.BODY_TOO_LARGE)
    # The gzip data are cut off, or other bytes follow them.
    if not inflater.eof or inflater.unused_data:
        raise ApiProblem.invalid("The body is not gzip")
    return content


def compressed(body: bytes, accepted: str) -> tuple[bytes, Headers]:
    """Compress a large body with gzip, if the client accepts it.

    ``accepted`` is the header Accept-Encoding. Returns the body and its
    headers.
    """
    headers: Headers = (("Vary", "Accept-Encoding"),)
    if not takes_gzip(accepted):
        return body, headers
    return zlib.compress(body, 1, GZIP), (*headers, ("Content-Encoding", "gzip"))


def takes_gzip(accepted: str) -> bool:
    """Tell whether an Accept-Encoding header accepts gzip.

    A weight of 0, as in ``gzip;q=0``, means no (RFC 9110 section 12.5.3).
    """
    for entry in accepted.lower().split(","):
        name, _, weight = entry.partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False


Q = TypeVar("Q", bound=msgspec.Struct)


def read_query(request: HttpRequest, kind: type[Q]) -> Q:
    """Convert the query of a request to a Struct.

    Raises :class:`ApiProblem`, which names the wrong parameter.
    """
    params: dict[str, Any] = {}
    try:
        pairs = parse_pairs(request.query)
    except BadBody as bad:
        raise ApiProblem.invalid(f"The query: {bad}") from None
    for name, value in pairs:
        if name in params:
            raise ApiProblem.invalid(f"The parameter `{name}` is given twice")
        # All values are texts here. The conversion below accepts "1" for a
        # number.
        params[name] = value
    try:
        return msgspec.convert(params, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ApiProblem.invalid(str(error)) from None


def page_of(names: Sequence[str], cursor: str, limit: int) -> tuple[list[str], str]:
    """Return a page of sorted names, and the cursor of the next page.

    The cursor is ``""`` on the last page.
    """
    # The entry that the cursor names may have been removed since. Then the page
    # begins at the place where that entry would be.
    start = bisect_right(names, read_cursor(cursor) or "")
    end = start + limit
    page = list(names[start:end])
    if end < len(names):
        next_cursor = cursor_of(page[-1])
    else:
        next_cursor = ""
    return page, next_cursor


def reached(tenants: Tenants, principal: Principal) -> list[str]:
    """List the apps that a principal reaches, ordered by name, without
    aliases."""
    return [
        name
        for name in tenants.names()
        if principal.reaches(name) and tenants.resolve(name) == name
    ]


def require_few(limits: Limits, *named: Sized) -> None:
    """Refuse a request with more targets than ``limits.batch_targets``.

    Each of ``named`` is a list of targets. Raises :class:`ApiProblem`.
    """
    if sum(len(each) for each in named) > limits.batch_targets:
        raise ApiProblem(Problems.TOO_MANY_TARGETS)
