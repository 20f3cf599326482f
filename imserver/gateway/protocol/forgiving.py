"""A JSON parser that accepts what the original servers accept: keys in any
letter case, null as missing.

The standard library's parser is ten times slower than msgspec's typed decoders.
So it is used only for frames that the typed decoders reject, and for the data
of rare commands.

This server supports only a part of some protocols of other servers. An object
of such a protocol (:class:`Partial`) is refused if it has an unsupported field
that changes its meaning.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any, ClassVar, Final, NoReturn

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import force_setattr

from imserver.gateway import errors
from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import Limit


class Refused(Exception):
    """The data of a command is invalid. ``code`` is the reply code."""

    def __init__(self, code: int) -> None:
        """Take the reply code, whose text is the text of the error."""
        super().__init__(errors.reply_text(code))
        self.code = code


def refuse_constant(name: str) -> NoReturn:
    """Refuse ``NaN`` and ``Infinity``, which the standard library reads."""
    raise ValueError(f"{name} is no JSON")


def _fold(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object with keys in folded letter case, without nulls.

    If two keys are equal in folded case, the last one is used.
    """
    return {key.casefold(): value for key, value in pairs if value is not None}


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_fold, parse_constant=refuse_constant
).decode


def parse(payload: bytes) -> Any:
    """Parse JSON text as the original servers do.

    Raises ValueError or RecursionError.
    """
    return _decode(payload.decode())


_NO_VALUES: Final = bytes(set(range(256)) - set(b",:[{"))
"""All bytes except commas, colons and opening brackets."""


def values_in(document: bytes) -> int:
    """Return an upper bound of the number of values in JSON.

    It counts commas, colons and opening brackets, including those in texts. It
    makes no objects, so it can be called before a document is decoded.
    """
    return len(document.translate(None, _NO_VALUES))


SMALL_JSON_BYTES: Final = 65536
"""JSON up to this size is decoded in less than a millisecond, into objects of
at most two megabytes."""
_skip: Final = msgspec.json.Decoder(Raw).decode
_DIGITS: Final = bytes.maketrans(b"123456789E", b"000000000e")
"""Replaces each digit by 0, and E by e. Then one search finds any long
number."""
_LARGE_EXPONENTS: Final = (b"0e000", b"0e+000")
_LONG_NUMBER: Final = b"0" * 200
"""A number that is out of range has an exponent of three digits, or 210 digits
before the point."""


def check_json(document: bytes) -> None:
    """Raise ValueError or RecursionError if clients could not read a document.

    The server passes such a document on without reading it. A large document is
    checked without making objects. But only decoding shows whether a number is
    out of range. So a document with a piece that looks like such a number is
    decoded.
    """
    if len(document) > SMALL_JSON_BYTES:
        _skip(document)
        document.decode()  # skipped texts are not checked
        if not _may_have_huge_number(document):
            return
    msgspec.json.decode(document)


def _may_have_huge_number(document: bytes) -> bool:
    """Tell whether a piece of a document looks like a number that is out of
    range."""
    plain = document.translate(_DIGITS)
    if _LONG_NUMBER in plain:
        return True
    return any(exponent in plain for exponent in _LARGE_EXPONENTS)


CONTENT: Final = frozenset({"text", "data", "message"})
"""Keys of message content, which is stored as bytes and may contain
anything."""

MOST_VALUES_WITH_NUL: Final = 60_000
"""The most values of a document with an escaped U+0000. A push to 10,000
devices has 50,000."""
BACKSLASH: Final = ord("\\")
"""A document without a backslash has no U+0000. Callers look for a backslash
first, because that takes a third of the time of :func:`has_nul`."""
_WITH_TEXTS: Final = (str, list, tuple)
"""The types of decoded values that are or contain texts."""


def has_nul(document: bytes) -> bool:
    """Tell whether a text in JSON contains U+0000, which PostgreSQL cannot
    store.

    Message content may contain U+0000, so the search leaves it out. The result
    is also True for a document with an escaped U+0000 that is not valid JSON,
    or that has so many values that a search would block the loop.
    """
    if document.find(b"\\u0000") < 0:  # takes 0.06 µs less than "in"
        return False
    return _has_nul_in_texts(document)


def _has_nul_in_texts(document: bytes) -> bool:
    """Search a document with an escaped U+0000, see :func:`has_nul`.

    The escape may be in message content, or may itself be escaped.
    """
    # A value takes at least one byte, so the values of a short document need
    # not be counted.
    is_long = len(document) > MOST_VALUES_WITH_NUL
    if is_long and values_in(document) > MOST_VALUES_WITH_NUL:
        return True
    try:
        # Objects are parsed as pairs, because a key may occur twice. Then both
        # values are checked.
        pending: list[Any] = [json.loads(document, object_pairs_hook=tuple)]
    except (ValueError, RecursionError):
        return True

    # The search uses no recursion, because a document may be deep. A tuple
    # stands for an object: it has pairs of key and value.
    while pending:
        value = pending.pop()
        if isinstance(value, tuple):
            for key, member in value:
                if "\0" in key:
                    return True
                if isinstance(member, _WITH_TEXTS) and key.casefold() not in CONTENT:
                    pending.append(member)
        elif isinstance(value, list):
            pending += [member for member in value if isinstance(member, _WITH_TEXTS)]
        elif isinstance(value, str) and "\0" in value:
            return True
    return False


_ANY_JSON: Final = frozenset({"data", "info", "meta"})
"""Fields of Centrifugo whose value may be any JSON, also null."""
MOST_FIELDS: Final = 10_000
"""Limit of the fields of one object in which the server looks for nulls. The
channels of a connection are such fields."""


def without_nulls(document: bytes, depth: int) -> bytes:
    """Remove the fields of a JSON object that are null.

    ``depth`` is the number of levels of objects in which fields are removed.
    Clients and back ends of Centrifugo may write null for a field that they
    leave out. A field whose value may be any JSON stays as it is. Raises
    ValueError or RecursionError.
    """
    if b"null" not in document:
        return document
    # The values stay undecoded, so they keep every digit.
    fields = msgspec.json.decode(document, type=dict[str, Raw])
    if len(fields) > MOST_FIELDS:
        raise ValueError(f"an object has more than {MOST_FIELDS} fields")

    remaining: dict[str, Raw] = {}
    for name, value in fields.items():
        content = bytes(value)
        if name not in _ANY_JSON and depth > 1 and content.startswith(b"{"):
            remaining[name] = Raw(without_nulls(content, depth - 1))
        elif name in _ANY_JSON or content != b"null":
            remaining[name] = value
    return msgspec.json.encode(remaining)


def well_formed(text: str) -> str:
    """Replace lone surrogates in a text by U+FFFD, so that it can be encoded
    again.

    A surrogate is a half of a character in UTF-16, which JavaScript can cut
    off.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_USUAL_PAGE: Final = 50
"""The size of a page if a client names none."""


class Fields(Struct, frozen=True, gc=False):
    """The fields of a command, as the original servers accept them.

    Keys may be in any letter case, and null counts as missing. ``values`` has
    all fields, by their keys in folded letter case. Methods that read one field
    raise :class:`Refused` 1001 if its value does not fit.
    """

    values: dict[str, Any]

    @classmethod
    def of(cls, data: bytes) -> Fields:
        """Read the fields of the object in a command's ``data``.

        If ``data`` is null, there are no fields. Raises :class:`Refused` 1001
        if ``data`` is neither an object nor null.
        """
        try:
            fields = parse(data)
        except (ValueError, RecursionError):
            raise Refused(errors.ReplyCode.BAD_PARAMETER) from None
        if fields is None:
            return cls({})
        if not isinstance(fields, dict):
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return cls(fields)

    @classmethod
    def verbatim(cls, data: bytes) -> Fields:
        """Read the fields of a JSON object, but keep its field ``data`` as it
        is.

        The value of ``data`` is content for other clients. So its keys keep
        their case, and its nulls stay.
        """
        fields = cls.of(data)
        if "data" in fields.values:
            whole: dict[str, Any] = json.loads(data)
            # If keys are equal in folded case, the last one is used.
            for key, value in whole.items():
                if key.casefold() == "data" and value is not None:
                    fields.values["data"] = value
        return fields

    @staticmethod
    def frame(payload: bytes, name_key: str) -> tuple[str, str, bytes]:
        """Read a request such as ``{"seq": "1", "cmd": "login", "data": {}}``.

        ``name_key`` is the key of the command's name, here ``cmd``. Returns the
        ``seq``, the name, and the data as JSON. Raises ValueError or
        RecursionError if ``payload`` is not a JSON object, or if ``seq`` or the
        name is not a string.
        """
        frame = parse(payload)
        if not isinstance(frame, dict):
            raise ValueError("no object")
        seq = frame.get("seq", "")
        name = frame.get(name_key, "")
        if not isinstance(seq, str) or not isinstance(name, str):
            raise ValueError("no string")
        # The reader of the command parses the data again.
        data = json.dumps(frame.get("data")).encode()
        return well_formed(seq), well_formed(name), data

    def text(self, key: str) -> str:
        """Return the text of a field, ``""`` if the field is missing."""
        value = self.values.get(key, "")
        if not isinstance(value, str):
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        if value.isascii():
            return value
        return well_formed(value)

    def short_text(self, key: str, most_bytes: int) -> str:
        """Return the text of a field, ``""`` if the field is missing.

        Refuses a text that is longer than ``most_bytes``, or that contains
        U+0000.
        """
        text = self.text(key)
        # has_nul() skips a field `text`, because it usually is the content of a
        # message. Here the field is a search text, so it is checked for U+0000.
        if len(text.encode()) > most_bytes or "\0" in text:
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return text

    def number(self, key: str) -> int:
        """Return the unsigned 32-bit number in a field, 0 if the field is
        missing."""
        value = self.values.get(key, 0)
        if type(value) is not int or not 0 <= value <= Limit.NUMBER:
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return value

    def id(self, key: str) -> int:
        """Return the id in a field, 0 if the field is missing."""
        value = self.values.get(key, 0)
        if type(value) is not int or not 0 <= value <= Limit.ID:
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return value

    def needed_id(self, key: str) -> int:
        """Return the id in a field, which may not be missing or 0."""
        value = self.id(key)
        if not value:
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return value

    def limit(self) -> int:
        """Return the size of a page, from the field ``limit``.

        It is 50 if the field is missing or 0, and at most the size of the
        largest page.
        """
        return min(self.id("limit") or _USUAL_PAGE, Limit.PAGE)

    def flag(self, key: str) -> bool:
        """Return the flag in a field, False if the field is missing."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return value

    def receiver(self) -> tuple[str, int]:
        """Return the fields ``to`` and ``conversation``.

        A request must have exactly one of these fields. In the result, a
        missing ``to`` is ``""``, and a missing ``conversation`` is 0.
        """
        to = self.short_text("to", MAX_USER_BYTES)
        conversation = self.id("conversation")
        if bool(to) == bool(conversation):
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return to, conversation

    def content(self) -> tuple[str, bytes]:
        """Return the type and the bytes of a message content.

        The content is the field ``text``, or any JSON in the field ``data``.
        """
        kind = self.short_text("type", Limit.TYPE_BYTES)
        if "data" not in self.values:
            return kind or "text", self.text("text").encode()

        kind = kind or "custom"
        # The request has two contents, or JSON whose type claims to be a text.
        if "text" in self.values or kind == "text":
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        value = self.values["data"]
        try:
            return kind, msgspec.json.encode(value)
        # The value has a half of a surrogate pair, which escapes in JSON can
        # express.
        except UnicodeEncodeError:
            document = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            return kind, well_formed(document).encode()


_NOTHING: Final = frozenset((b"", b"null", b"false", b"0", b'""', b"[]", b"{}"))
"""Values that mean that a field is not set. Libraries also send fields that
nobody has set."""


class Partial(Struct, frozen=True):
    """An object of another server's protocol, which we support in part.

    ``not_supported`` are fields that this server does not support.
    ``in_base64`` are fields with JSON that may also be given in base64, in a
    second field. The name of the second field is ``b64`` and the name of the
    first field. The decoder checks the object, unless ``late`` is set. If
    ``late`` is set, the caller of the decoder must call :meth:`check`.
    """

    not_supported: ClassVar[tuple[str, ...]] = ()
    in_base64: ClassVar[tuple[str, ...]] = ()
    late: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the object, unless its caller does so later."""
        if not self.late:
            self.check()

    def check(self) -> None:
        """Refuse fields that are not supported, and decode fields in base64.

        Raises ValueError, whose text names the field.
        """
        for name in self.not_supported:
            value = getattr(self, name)
            if value is not UNSET and bytes(value) not in _NOTHING:
                raise ValueError(f"{name} is not supported")

        for name in self.in_base64:
            encoded = getattr(self, f"b64{name}")
            if not encoded:
                continue
            try:
                content = b64decode(encoded, validate=True)
                check_json(content)
            except (ValueError, RecursionError):
                raise ValueError(f"b64{name} is not JSON in base64") from None
            # The struct is frozen, but nobody else has it yet.
            force_setattr(self, name, Raw(content))
