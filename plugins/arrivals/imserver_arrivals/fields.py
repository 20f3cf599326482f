"""Reads JSON values that may have any type. Each result has the type that the
field should have."""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from types import NoneType
from typing import Annotated, Any, Final, Generic, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import FieldInfo, fields

from imserver.plugin.wire import well_formed

Json = dict[str, Any]
Note = Callable[[str], object]
"""A function that gets the name of a field that is left out, such as
``pins[].created``."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""Bytes with which some editors, and tools of Windows, begin a file in
UTF-8."""
_Record = TypeVar("_Record")
_MOST_WHOLE: Final = 1 << 53
"""Limit below which a float is exactly the whole number that it shows."""


def at(value: object, *keys: str) -> Any:
    """Return the value under these nested keys. None if it is missing.

    ``at({"a": {"b": 1}}, "a", "b")`` is 1.
    """
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text_at(value: object, *keys: str) -> str:
    """Return the text under these nested keys. ``""`` if it is missing or no
    text."""
    text = at(value, *keys)
    if isinstance(text, str):
        return text
    return ""


def list_at(value: object, *keys: str) -> list[Any]:
    """Return the array under these nested keys. Empty if it is missing or no
    array."""
    rows = at(value, *keys)
    if isinstance(rows, list):
        return rows
    return []


def number_at(value: object, *keys: str) -> int | None:
    """Return the whole number under these nested keys. None if it is missing.

    A text of digits is a number, too, because old servers accepted it.
    """
    number = at(value, *keys)
    if isinstance(number, str) and re.fullmatch(r"-?\d{1,9}", number, re.ASCII):
        return int(number)
    # A boolean is an int for Python.
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    return None


# --- records whose fields may have wrong types --------------------------------


class RecordReader(Generic[_Record]):
    """Reads records of one struct from JSON whose fields may have wrong types.

    Servers, their versions and tools disagree about types. Therefore a wrong
    type costs only the field, not its record.

    The strict decoder of msgspec goes first: it is fast, and most records are
    correct. A record that it refuses is read again, field by field. A number in
    quotes is a number. A field of another wrong type gets its default and is
    noted. An element of a wrong type is left out of its array. A required field
    has no default, so a record without it is broken.
    """

    def __init__(self, kind: type[_Record]) -> None:
        """Prepare to read records of this struct."""
        self._kind = kind
        self._decode: Callable[[bytes | Raw], _Record] = msgspec.json.Decoder(
            kind
        ).decode

    def decode(self, raw: bytes | Raw, note: Note) -> _Record:
        """Return the record of a piece of JSON. ``note`` gets the fields that
        are left out.

        Raises ValueError and RecursionError if it is broken.
        """
        try:
            return self._decode(raw)
        except ValueError:
            return self.convert(any_value(bytes(raw)), note)

    def convert(self, value: object, note: Note) -> _Record:
        """Return the record of a decoded value. Raises as :meth:`decode`
        does."""
        try:
            return msgspec.convert(value, self._kind)
        except (ValueError, TypeError):
            record: _Record = _struct(self._kind, value, "", note)
            return record


def any_value(raw: bytes) -> Any:
    r"""Decode a piece of JSON, even if its text has bytes that are not
    characters.

    The text may also have escapes of half a character, such as ``\ud800``.
    Both are replaced. Raises ValueError and RecursionError.
    """
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    try:
        return msgspec.json.decode(raw)
    except ValueError:
        return _without_surrogates(json.loads(raw.decode(errors="replace")))


def _without_surrogates(value: Any) -> Any:
    """Return a value without lone halves of surrogate pairs, which no storage
    accepts."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_without_surrogates(each) for each in value]
    if isinstance(value, dict):
        return {
            well_formed(key): _without_surrogates(each) for key, each in value.items()
        }
    return value


@cache
def _fields_of(kind: Any) -> Sequence[FieldInfo]:
    """Return the fields of a struct. They are cached, because many rows need
    them."""
    return fields(kind)


def _struct(kind: Any, value: object, path: str, note: Note) -> Any:
    """Convert a value to a struct, field by field.

    A field whose type is wrong gets its default, and is noted. ``path``: the
    field in which the value is, such as ``pins[]``; ``""`` for a whole record.
    Raises ValueError if a required field is missing or wrong.
    """
    if value == []:
        value = {}  # PHP writes an empty object so
    if not isinstance(value, dict):
        raise _wrong_type(value, path)
    fields = {}
    for field in _fields_of(kind):
        inside = _path_of_field(path, field.encode_name)
        if field.encode_name not in value:
            if field.required:
                raise msgspec.ValidationError(f"it has no {inside}")
            continue
        content = value[field.encode_name]
        try:
            fields[field.name] = _typed(field.type, content, inside, note)
        except ValueError:
            if field.required:
                raise
            # Many servers write null for a missing field.
            if content is not None:
                note(inside)
    return kind(**fields)


def _typed(kind: Any, value: object, path: str, note: Note) -> Any:
    """Convert a value to a type, such as ``list[str] | None``.

    ``path``: the field in which the value is. ``note`` gets the parts that are
    left out. Raises ValueError if the value cannot have this type.
    """
    try:
        # It also accepts a number in quotes.
        return msgspec.convert(value, kind, strict=False)
    except (ValueError, TypeError):
        # Only a part of the value may be wrong, or the type may be Raw, to
        # which msgspec cannot convert.
        pass
    return _typed_in_parts(kind, value, path, note)


def _typed_in_parts(kind: Any, value: object, path: str, note: Note) -> Any:
    """Convert a value of which only a part may have the type.

    See :func:`_typed` for the arguments and errors.
    """
    origin = get_origin(kind)
    choices = get_args(kind)
    if origin is Annotated:
        # The value has the type, but not the form or range that it must have.
        raise _wrong_type(value, path)
    if kind is Raw:
        return Raw(msgspec.json.encode(value))
    if kind in (str, int):
        return _scalar(kind, value, path)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _struct(kind, value, path, note)
    if origin is list:
        return _typed_list(choices[0], value, path, note)
    if origin is dict:
        return _typed_dict(choices[1], value, path, note)
    return _first_accepting(choices, value, path, note)


def _scalar(kind: Any, value: object, path: str) -> Any:
    """Convert a number to a text, or a float to a whole number.

    ``7`` becomes ``"7"``, and ``7.0`` becomes ``7``. Raises ValueError for
    other values.
    """
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if kind is int and isinstance(value, float) and abs(value) < _MOST_WHOLE:
        return int(value)
    raise _wrong_type(value, path)


def _typed_list(kind: Any, value: object, path: str, note: Note) -> list[Any]:
    """Convert a value to a list of values of one type.

    Elements that cannot have the type are left out, and noted. Raises
    ValueError if the value is no list.
    """
    if isinstance(value, dict) and all(map(str.isdecimal, value)):
        value = list(value.values())  # PHP writes an array with gaps so
    if not isinstance(value, list):
        raise _wrong_type(value, path)
    rows = []
    for row in value:
        try:
            rows.append(_typed(kind, row, f"{path}[]", note))
        except ValueError:
            note(f"{path}[]")
    return rows


def _typed_dict(kind: Any, value: object, path: str, note: Note) -> Json:
    """Convert a value to a dict whose values have one type.

    Values that cannot have the type are left out, and noted. Raises ValueError
    if the value is no dict.
    """
    if value == []:  # PHP writes an empty object so
        return {}
    if not isinstance(value, dict):
        raise _wrong_type(value, path)
    fields = {}
    for key, content in value.items():
        try:
            fields[key] = _typed(kind, content, f"{path}.*", note)
        except ValueError:
            note(f"{path}.*")
    return fields


def _first_accepting(
    choices: Sequence[Any], value: object, path: str, note: Note
) -> Any:
    """Convert a value to the first of these types that accepts it.

    They are the choices of a union such as ``str | list[str] | None``. Raises
    ValueError if none accepts it.
    """
    for choice in choices:
        if choice is NoneType:
            continue
        # A type that does not accept the value leaves no notes.
        notes: list[str] = []
        try:
            content = _typed(choice, value, path, notes.append)
        except ValueError:
            continue
        for text in notes:
            note(text)
        return content
    raise _wrong_type(value, path)


def _path_of_field(path: str, name: str) -> str:
    """Return the path of a field in a record, such as ``profile.email``."""
    if path:
        return f"{path}.{name}"
    return name


def _wrong_type(value: object, path: str) -> msgspec.ValidationError:
    """Return the error for a value that cannot have its type."""
    subject = "it is"
    if path:
        subject = f"{path} is"
    return msgspec.ValidationError(f"{subject} of a wrong type: {type(value).__name__}")
