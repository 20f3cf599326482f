"""Parsers for requests: queries, urlencoded and multipart forms, JSON objects,
ids of apps, page cursors."""

import json
import re
from binascii import a2b_qp
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

import msgspec

from imserver.gateway import base64url
from imserver.gateway.auth.tenants import Tenants
from imserver.gateway.errors import Problems, ServiceRefused
from imserver.gateway.model import ACTION_PREFIX
from imserver.gateway.protocol.forgiving import (
    has_nul,
    refuse_constant,
    values_in,
    well_formed,
)

FORM: Final = "application/x-www-form-urlencoded"

MAX_FIELDS = 20_000
"""Limit of the fields of a form. Parsing more would block the loop."""

MAX_FORM_BYTES = 2 << 20
"""Longest form that is not plain ASCII. The longest message takes 1.5 MiB if
every character is escaped."""
MAX_VALUES = 140_000
"""Limit of commas, colons and brackets in JSON. Each of them may stand for an
object of 64 bytes. No message has more of them."""
_PERCENT, _PLUS, _NUL = b"%+\0"
_SHORT_CHARACTERS: Final = 16_384
"""The longest text whose escapes are replaced with a regular expression."""
_MAX_SLOW_BYTES: Final = 1 << 20
"""Size of the longest JSON that the slow parser gets."""
_APP_NUMBERS: Final = 2**32
"""The ids of apps in JSON are below this number: they have 32 bits."""

_escapes = re.compile("(?:%[0-9A-Fa-f]{2})+")
_broken_escapes = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class BadBody(ServiceRefused, ValueError, problem=Problems.BAD_REQUEST):
    """The body of a request does not match its content type."""


def _decode_escapes(run: re.Match[str]) -> str:
    """Decode a run of escapes, such as ``%C3%A4`` for ``ä``.

    Several escapes together may be one character, so a run is decoded as a
    whole.
    """
    encoded = bytes.fromhex(run[0].replace("%", ""))
    return encoded.decode("utf-8", "replace")


def _unescape(text: str) -> str:
    """Decode a name or a value of a form: ``a+b%21`` becomes ``a b!``.

    Raises BadBody if a long text has very many broken escapes.
    """
    text = text.replace("+", " ")
    if "%" not in text:
        return text
    if len(text) < _SHORT_CHARACTERS:
        return _escapes.sub(_decode_escapes, text)

    # A long text goes through the decoder of quoted-printable, which is written
    # in C: 2 MiB of `%41b` take 10 ms instead of 180. Quoted-printable writes
    # "=41" for "%41". A broken escape stays as it is, so its % is escaped
    # first.
    encoded, _ = _broken_escapes.subn(b"%25", text.encode(), MAX_FIELDS)
    if _broken_escapes.search(encoded) is not None:
        raise BadBody("too many broken escapes")
    quoted_printable = encoded.replace(b"=", b"=3D").replace(b"%", b"=")
    return a2b_qp(quoted_printable).decode("utf-8", "replace")


def _split(encoded: bytes) -> list[str]:
    """Split a form into fields, which still have their escapes.

    Raises BadBody if the form has U+0000, which databases refuse, or if
    decoding it would block other clients for too long.
    """
    if b"\0" in encoded or b"%00" in encoded:
        raise BadBody("a field contains U+0000")
    if len(encoded) > MAX_FORM_BYTES and (b"%" in encoded or not encoded.isascii()):
        raise BadBody("too large for a form")
    text = encoded.decode("utf-8", "replace")
    if text.count("&") >= MAX_FIELDS:
        raise BadBody("too many fields")
    return text.split("&")


def parse_pairs(encoded: bytes) -> list[tuple[str, str]]:
    """Parse an urlencoded form into all its fields, in order.

    For example, ``user=ann&User=bob`` becomes two pairs. Names keep their case.
    Raises :class:`BadBody`.
    """
    pairs = []
    for field in _split(encoded):
        if field:
            name, _, value = field.partition("=")
            pairs.append((_unescape(name), _unescape(value)))
    return pairs


def parse_form(encoded: bytes) -> dict[str, str]:
    """Parse an urlencoded form or a query: name in lower case → value.

    If a name is given several times, the first field counts. Bytes that are not
    UTF-8 become U+FFFD, and an invalid escape stays. Raises :class:`BadBody`.
    """
    params: dict[str, str] = {}
    # Most pushes have no escapes. For them, the loop below is written out
    # without decoding, which takes 1.1 µs less. Python finds a number in bytes
    # eight times as fast as a text of bytes. Fields are read backwards, so that
    # the first field of a name counts.
    plain = _PERCENT not in encoded and _PLUS not in encoded and _NUL not in encoded
    if plain and len(encoded) < MAX_FIELDS:
        for field in encoded.decode("utf-8", "replace").split("&")[::-1]:
            name, _, value = field.partition("=")
            params[name.lower()] = value
        return params

    for field in reversed(_split(encoded)):
        name, _, value = field.partition("=")
        params[_unescape(name).lower()] = _unescape(value)
    return params


# --- JSON ---------------------------------------------------------------------


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a JSON object: key in lower case → value, without nulls.

    Raises :class:`BadBody`.
    """
    if len(body) > MAX_VALUES and values_in(body) > MAX_VALUES:
        raise BadBody("too many values")
    try:
        document = msgspec.json.decode(body)
    # The fast parser refuses lone surrogates, which JavaScript may write.
    except (ValueError, RecursionError):
        document = _parse_json_slowly(body)
    if not isinstance(document, dict):
        raise BadBody("no JSON object")
    return fold(document)


def fold(document: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its keys in lower case, and without nulls.

    A null counts as missing.
    """
    return {
        name.lower(): value for name, value in document.items() if value is not None
    }


def _parse_json_slowly(body: bytes) -> Any:
    """Parse JSON that the fast parser has refused.

    This parser accepts lone surrogates, which JavaScript may write, and reads
    them as U+FFFD. Raises :class:`BadBody`.
    """
    if len(body) > _MAX_SLOW_BYTES:
        raise BadBody("no JSON")
    try:
        return json.loads(
            body.decode(),
            object_pairs_hook=_well_formed_object,
            parse_constant=refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise BadBody(str(error)) from None


def _well_formed_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the dict of a JSON object, without lone surrogates."""
    return {_well_formed(name): _well_formed(value) for name, value in pairs}


def _well_formed(value: Any) -> Any:
    """Replace the lone surrogates in a value of JSON.

    Objects inside it are well-formed already: the parser made them first.
    """
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_well_formed(item) for item in value]
    return value


MAX_PARTS = 1000
"""Limit of the parts of a multipart form."""
MAX_HEAD_BYTES = 128 << 10
"""Limit of the bytes of all parts' headers together, with :data:`_OPTION_BYTES`
more for each semicolon. werkzeug takes 0.2 ms per KiB of them."""
_OPTION_BYTES: Final = 40
"""The bytes that an option such as ``; name="a"`` counts for. werkzeug takes 8
µs for it, as for this many bytes."""

_end_of_head = re.compile(rb"\r\n\r\n|\r\r|\n\n").search


class _Nowhere(BytesIO):
    """A file object that discards uploaded files."""

    def write(self, data: Any, /) -> int:
        """Discard the bytes, and say that all were written."""
        return len(data)


def _discard(*_: Any, **__: Any) -> _Nowhere:
    """Make the file into which werkzeug writes an upload."""
    return _Nowhere()


def read_multipart(body: bytes, content_type: str) -> list[tuple[str, str]]:
    """Read the text fields of a multipart form, in order. Files are left out.

    Raises :class:`BadBody`.
    """
    # Imported on first use: few clients send multipart forms, and werkzeug is
    # large.
    from werkzeug.formparser import FormDataParser
    from werkzeug.http import parse_options_header

    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "").encode("latin-1", "replace")
    if len(body) > MAX_FORM_BYTES or not boundary:
        raise BadBody("too large for a form")
    # The headers are counted before the library gets the body, because the
    # library is slow if there are many headers.
    if _head_bytes(body, boundary) > MAX_HEAD_BYTES:
        raise BadBody("too large for a form")

    parser = FormDataParser(
        _discard,
        max_form_memory_size=MAX_FORM_BYTES,
        max_form_parts=MAX_PARTS,
        silent=False,
    )
    try:
        _, form, _ = parser.parse(BytesIO(body), kind, len(body), options)
    # The parser raises errors of several kinds, for example HTTP errors.
    except Exception as error:
        raise BadBody(str(error)) from None

    pairs = list(form.items(multi=True))
    if any(name is None for name, _ in pairs):
        raise BadBody("a field has no name")
    if any("\0" in name or "\0" in value for name, value in pairs):
        raise BadBody("a field contains U+0000")
    return pairs


def _head_bytes(body: bytes, boundary: bytes) -> int:
    """Count the bytes that are slow to parse: the headers of all parts.

    The text before the first part counts, too. :data:`MAX_HEAD_BYTES` says how
    the bytes are counted. Raises :class:`BadBody` if there are too many parts.
    """
    mark = b"--" + boundary
    total = 0
    start = 0
    # Each round counts the headers from `start` to the blank line after them.
    # The first round counts the preamble: the text before the first part.
    for _ in range(MAX_PARTS + 1):
        next_mark = body.find(mark, start)
        is_last = next_mark < 0
        if is_last:
            end = len(body)
        else:
            end = next_mark
        blank_line = _end_of_head(body, start, end)
        if blank_line:
            end = blank_line.start()
        options = body.count(b";", start, end)
        total += end - start + _OPTION_BYTES * options
        if is_last:
            return total
        start = next_mark + len(mark)
    raise BadBody("too many parts")


# --- bodies of several types --------------------------------------------------

Pairs = list[tuple[str, str]]


def parse_body(
    content_type: str, body: bytes
) -> tuple[dict[str, str], dict[str, Any] | None, Pairs | None]:
    """Parse the body of a request to a route of the original servers.

    It may be JSON, a multipart form or an urlencoded form. Returns three
    values: the parameters as texts, by name in lower case; the object of a JSON
    body, or None; the fields of a multipart form, or None. Raises
    :class:`BadBody`.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("json"):
        if has_nul(body):
            raise BadBody("a text contains U+0000")
        fields = parse_json(body)
        # The routes of the original servers take all parameters as texts.
        params = {}
        for name, value in fields.items():
            if name in ("userid", "msgid", "message", "cursor"):
                if not isinstance(value, str):
                    raise BadBody(f"{name}: expected a text")
                params[name] = value
            # Routes read the number from a text, as in a form.
            elif name == "banseconds":
                if type(value) not in (int, float):
                    raise BadBody(f"{name}: expected a number")
                params[name] = str(value)
        return params, fields, None
    if kind == "multipart/form-data":
        pairs = read_multipart(body, content_type)
        # The fields are read backwards, so that the first field of a name
        # counts.
        params = {name.lower(): value for name, value in reversed(pairs)}
        return params, None, pairs
    if kind and kind != FORM and body:
        raise BadBody("neither a form nor JSON")
    return parse_form(body), None, None


# --- ids of apps --------------------------------------------------------------


_is_number: Final = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII).fullmatch
"""Matches the number of an app. The expression is compiled once, because each
push in the form of the original server has such a number."""


def app_number(text: str) -> str:
    """Return the number of an app without sign and leading zeros.

    For example, ``+07`` becomes ``7``. Returns ``""`` if the text is no number.
    """
    if not _is_number(text):
        return ""
    return str(int(text))


def app_named(tenants: Tenants, app_id: str) -> str:
    """Find the app that an ``appID`` names: by its number, or by its name.

    Returns ``""`` if the number is 0 or the text is invalid. Names with a
    colon, such as ``system:…`` and ``action:…``, are invalid here.
    """
    tenant = tenants.by_name.get(app_id)
    if tenant is not None and ":" not in app_id:
        return tenant.same_as or app_id  # an alias stands for its target
    name = app_number(app_id)
    if name == "0":
        return ""
    return tenants.resolve(name)


def app_from_json(tenants: Tenants, app_id: object) -> str:
    """Find the app of an ``appID`` in JSON.

    ``app_id`` is a number of 32 bits, or a text as for :func:`app_named`.
    Raises BadBody.
    """
    if isinstance(app_id, str):
        return app_named(tenants, app_id)
    if type(app_id) is not int or not 0 <= app_id < _APP_NUMBERS:
        raise BadBody("appid: expected a number of 32 bits, or a text")
    return app_named(tenants, str(app_id))


class NumberedRooms:
    """The names of rooms in the routes of the original server.

    The clients of the original server use numbers as ids. Apps of the action
    dialect are for these clients.
    """

    @staticmethod
    def id_of(name: str) -> int | str:
        """Return the id of a room, or of a user in a room, as clients expect
        it.

        A name that is a plain decimal becomes a number: ``"17"`` becomes 17,
        but ``"017"`` stays a text.
        """
        if name and app_number(name) == name:
            return int(name)
        return name

    @staticmethod
    def app_of(tenants: Tenants, params: Mapping[str, str]) -> str:
        """Find the app whose rooms a request lists.

        Returns ``""`` if its ``appId`` is not a number.
        """
        number = app_number(params.get("appid", ""))
        if number:
            return tenants.resolve(f"{ACTION_PREFIX}{number}")
        return ""


# --- page cursors -------------------------------------------------------------


def cursor_of(name: str) -> str:
    """Make the cursor of the page that comes after the entry with this name.

    Clients send the cursor back without reading it, so it is base64.
    """
    return base64url.encode(name.encode())


def read_cursor(cursor: str, errors: str = "replace") -> str | None:
    """Decode a cursor: the name of the last entry of the page before.

    Returns None if the cursor is empty, which means the first page. Raises
    ValueError if the cursor is invalid. ``errors`` is as in
    :meth:`bytes.decode`: with ``"replace"`` every valid base64 text gives some
    name.
    """
    if not cursor:
        return None
    content = base64url.decode(cursor)
    # No name contains U+0000, which PostgreSQL would refuse.
    return content.decode(errors=errors).replace("\0", "")
