"""JSON read the way the original servers read it: keys in any letter case, null counts as missing.

The standard library's parser is ten times slower than msgspec's typed decoders, so a dialect comes here only
with frames that those did not take, and for the data of rare commands.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from imserver import errors


class Refused(Exception):
    """The data of a command cannot be taken; ``code`` is the reply code."""

    def __init__(self, code: int) -> None:
        super().__init__(errors.reply_text(code))
        self.code = code


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _fold(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with its keys' letter case folded; null counts as missing, the last of equals wins."""
    return {key.casefold(): value for key, value in pairs if value is not None}


def parse(payload: bytes) -> Any:
    """Parse JSON text. Raises ValueError or RecursionError."""
    return json.loads(payload.decode(), object_pairs_hook=_fold, parse_constant=_refuse_constant)


CONTENT: Final = frozenset({"text", "data", "message"})
"""Keys of message content, which is stored as bytes and may contain anything."""


def has_nul(document: bytes) -> bool:
    """Whether a text in JSON contains U+0000, which PostgreSQL cannot store. Message content may.

    True as well if ``document`` names U+0000 and is no JSON.
    """
    if b"\\u0000" not in document:
        return False
    try:
        # As pairs, so that of a key given twice both are seen.
        pending: list[Any] = [json.loads(document, object_pairs_hook=tuple)]
    except (ValueError, RecursionError):
        return True
    while pending:
        value = pending.pop()
        if isinstance(value, tuple):
            pending += [key for key, _ in value]
            pending += [each for key, each in value if key.casefold() not in CONTENT]
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str) and "\0" in value:
            return True
    return False


def parse_frame(payload: bytes, name_key: str) -> tuple[str, str, bytes]:
    """A request's ``seq``, its name under ``name_key``, and its data as JSON.

    Raises ValueError or RecursionError if it is no JSON object, or one of the two is no string.
    """
    frame = parse(payload)
    if not isinstance(frame, dict):
        raise ValueError("no object")
    seq, name = frame.get("seq", ""), frame.get(name_key, "")
    if not isinstance(seq, str) or not isinstance(name, str):
        raise ValueError("no string")
    return well_formed(seq), well_formed(name), json.dumps(frame.get("data")).encode()


def well_formed(text: str) -> str:
    """``text`` with lone surrogates replaced by U+FFFD, so that it can be encoded again."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def fields_of(data: bytes) -> dict[str, Any]:
    """The object in a command's ``data`` with folded keys. Raises :class:`Refused` 1001 if it is no
    object."""
    try:
        fields = parse(data)
    except (ValueError, RecursionError):
        raise Refused(errors.REPLY_BAD_PARAMETER) from None
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return fields


def text_in(fields: dict[str, Any], key: str) -> str:
    """The text of a field, ``""`` if it is missing. Raises :class:`Refused` 1001 if it is no text."""
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return value if value.isascii() else well_formed(value)


MAX_NUMBER = 2**32 - 1


def number_in(fields: dict[str, Any], key: str) -> int:
    """The unsigned number of 32 bits in a field, 0 if it is missing. Raises :class:`Refused` 1001."""
    value = fields.get(key, 0)
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return value
