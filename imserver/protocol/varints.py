"""The wire format of protocol buffers, as far as one dialect needs it: numbers, and bytes with their length.

A *tag* is what stands before a field: its number times eight, and its wire type (0: varint, 1 and 5: 8 and 4
fixed bytes, 2: a length and so many bytes, 3 and 4: begin and end of a group).
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import Final

Fields = dict[int, int | bytes]
"""Tag → value. Varints are unsigned, 64 bits; later values have replaced earlier ones."""

_MAX_TAG: Final = 2**32 - 1
_BITS: Final = 2**64 - 1
_SMALL: Final = tuple(bytes((number,)) for number in range(128))


class Broken(ValueError):
    """These bytes are no message."""


def varint(number: int) -> bytes:
    """A number of at most 64 bits; negative ones as two's complement."""
    if 0 <= number < 128:
        return _SMALL[number]
    number &= _BITS
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def lengthy(tag: int, data: bytes) -> bytes:
    """A field of bytes. ``tag`` below 128."""
    return b"%c%b%b" % (tag, varint(len(data)), data)


def signed32(number: int) -> int:
    """The low 32 bits as a signed number: what enums and ``int32`` are."""
    number &= 0xFFFFFFFF
    return number - 2**32 if number >= 2**31 else number


def signed64(number: int) -> int:
    """All 64 bits as a signed number: what ``int64`` is."""
    return number - 2**64 if number >= 2**63 else number


def read_fields(data: bytes, merged: int = 0) -> Fields:
    """The fields of one message. Raises :class:`Broken`.

    Of a field that comes twice the last counts; those of tag ``merged``, which are messages themselves, are
    joined, which is how messages merge. Groups are skipped.
    """
    fields: Fields = {}
    groups: list[int] = []
    parts: list[bytes] = []
    at, size = 0, len(data)
    while at < size:
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = _read_varint(data, at - 1)
        number, kind = tag >> 3, tag & 7
        if number == 0 or tag > _MAX_TAG:
            raise Broken
        value: int | bytes
        if kind == 0:
            value, at = _read_varint(data, at)
        elif kind == 2:
            length, at = _read_varint(data, at)
            end = at + length
            if end > size:
                raise Broken
            value, at = data[at:end], end
            if tag == merged and not groups:
                parts.append(value)
        else:
            at += _skip(number, kind, groups)
            continue
        if not groups:
            fields[tag] = value
    if at > size or groups:
        raise Broken
    if len(parts) > 1:
        fields[merged] = b"".join(parts)
    return fields


def read_numbers(data: bytes, most: int) -> tuple[int, ...]:
    """Varints that follow each other: a packed field. Raises :class:`Broken`, also for more than ``most``."""
    found: list[int] = []
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        found.append(value)
        if len(found) > most:
            raise Broken
    return tuple(found)


def _skip(number: int, kind: int, groups: list[int]) -> int:
    """How many bytes a field without meaning here has; keeps the stack of open groups."""
    if kind == 1:
        return 8
    if kind == 5:
        return 4
    if kind == 3:
        groups.append(number)
    elif kind != 4 or not groups or groups.pop() != number:
        raise Broken
    return 0


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends."""
    found = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        found |= (byte & 127) << shift
        if byte < 128:
            if found > _BITS:
                break
            return found, at
        shift += 7
    raise Broken
