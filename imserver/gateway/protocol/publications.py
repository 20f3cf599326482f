"""Publications in the form for clients. It is JSON in all dialects except the
dialects of other servers' clients, or the delta from the previous publication.

Deltas have the format of Fossil
(https://fossil-scm.org/home/doc/trunk/www/delta_format.wiki). A delta has the
size of the result, copies from the previous text, new text, and a checksum of
the result.
"""

from functools import lru_cache
from struct import unpack
from typing import Final

import msgspec
from msgspec import Raw, Struct

from imserver.gateway.model import Compressed, Event, StreamPart

_LINE_END, _RETURN = b"\n\r"
_BLANKS: Final = bytes.maketrans(b"\r\n", b"  ")


class StreamView(Struct, omit_defaults=True):
    """An event of a streamed message as clients see it
    (:class:`imserver.gateway.model.StreamPart`).

    ``channel`` is empty if the dialect names the channel elsewhere. ``sender``,
    ``type`` and ``tags`` are given only together with the whole text.
    """

    stream: str
    piece: int
    text: str
    whole: bool = False
    done: bool = False
    incomplete: bool = False
    channel: str = ""
    sender: str = msgspec.field(default="", name="from")
    type: str = ""
    tags: Raw | None = None


def stream_view(event: Event, stream: StreamPart, channel: str = "") -> StreamView:
    """Make the view of an event of a streamed message.

    ``stream`` is the part of the message that the event has. ``channel`` is
    empty if the dialect names the channel elsewhere.
    """
    view = StreamView(
        stream.id,
        stream.piece,
        event.text,
        stream.whole,
        stream.done,
        stream.incomplete,
        channel,
    )
    if stream.whole and event.channel is not None:
        view.sender = event.sender
        view.type = event.type
        view.tags = raw_or_none(event.channel.tags)
    return view


def payload_of(event: Event) -> bytes:
    """Encode the payload of a publication as one JSON document.

    A streamed message has its :class:`StreamView`.
    """
    part = event.channel
    if part is not None and part.stream is not None:
        return msgspec.json.encode(stream_view(event, part.stream))
    return event.data or msgspec.json.encode(event.text)


def on_one_line(line: bytes) -> bytes:
    """Remove line ends from JSON, because they would end an event or a frame.

    In a text of JSON, line ends are escaped. Outside of texts, a line end means
    no more than a blank.
    """
    if _LINE_END in line or _RETURN in line:  # 8 times as fast as b"\n" in line
        return line.translate(_BLANKS)
    return line


def raw_or_none(document: bytes) -> Raw | None:
    """Return JSON to be put into a frame as it is.

    Returns None if the document is ``b""``. Then the frame has no such field.
    """
    if document:
        return Raw(document)
    return None


MAX_BYTES: Final = 32768
"""Longer texts get no delta, because making one may take more than 10 ms."""
_DIGITS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
"""The digits of numbers in a delta, in base 64."""
_DIGIT_BITS: Final = 6
_DIGIT_MASK: Final = 2**_DIGIT_BITS - 1
_BLOCK: Final = 16
"""Number of equal bytes by which an equal part of both texts is found."""
_STEP: Final = 64
"""Bytes that are compared together after an equal block."""
_LEAST_COPY_BYTES: Final = 8
"""A shorter copy is not shorter than its text."""
_REMEMBERED_DELTAS: Final = 64
_WORD_BYTES: Final = 4
_CHECKSUM_MASK: Final = 0xFFFF_FFFF
_FIRST_TWO_BITS: Final = 0b1100_0000
_CONTINUES: Final = 0b1000_0000
"""The first two bits of each byte of a character in UTF-8 but its first."""


@lru_cache(_REMEMBERED_DELTAS)
def make_delta(before: bytes, after: bytes) -> bytes | None:
    """Make the delta: the instructions that make ``after`` from ``before``.

    Returns None if the delta would not be shorter than ``after``, or if the
    texts are too long. A delta begins with the size of ``after`` and a line
    end. Then each part is either ``length@origin,`` (a copy from ``before``) or
    ``length:text`` (new text). ``checksum;`` ends the delta. Both texts are
    UTF-8. The delta splits no character, so it is UTF-8, too. Never switches
    greenlets.
    """
    if max(len(before), len(after)) > MAX_BYTES:
        return None

    parts = [_number(len(after)), b"\n"]
    position = 0
    for start, end, origin in _copies(before, after):
        # The text between two copies is new.
        if start > position:
            parts += (_number(start - position), b":", after[position:start])
        parts += (_number(end - start), b"@", _number(origin), b",")
        position = end
    if position < len(after):
        parts += (_number(len(after) - position), b":", after[position:])
    parts += (_number(_checksum(after)), b";")

    delta = b"".join(parts)
    if len(delta) < len(after):
        return delta
    return None


def _checksum(text: bytes) -> int:
    """Add up the words of 32 bits of a text, in big-endian order.

    The last word is filled with zeros.
    """
    filled = text + bytes(-len(text) % _WORD_BYTES)
    words: tuple[int, ...] = unpack(f">{len(filled) // _WORD_BYTES}I", filled)
    return sum(words) & _CHECKSUM_MASK


def _copies(before: bytes, after: bytes) -> list[tuple[int, int, int]]:
    """Find the parts of ``after`` that are also in ``before``, in order.

    The result has three numbers for each part: its start and its end in
    ``after``, and its start in ``before`` (``origin``).
    """
    size = len(after)
    prefix_size = _equal(before, after)
    # The prefix and the suffix must not overlap.
    most_suffix_size = min(len(before), size) - prefix_size
    suffix_size = min(_equal(before[::-1], after[::-1]), most_suffix_size)
    copies: list[tuple[int, int, int]] = []
    _add(copies, after, 0, prefix_size, 0)

    # Between the equal ends, search each position of ``after`` for a block of
    # ``before``. A block that is found is extended to both sides.
    position = prefix_size
    stop = size - suffix_size
    origin_of_block: dict[bytes, int] = {}
    if stop - position >= _BLOCK:
        # The dict is filled from the end of ``before``. So the first one of
        # several equal blocks counts.
        origin_of_block = {
            before[origin : origin + _BLOCK]: origin
            for origin in range(len(before) - _BLOCK, -1, -_BLOCK)
        }
    while origin_of_block and position + _BLOCK <= stop:
        origin = origin_of_block.get(after[position : position + _BLOCK])
        if origin is None:
            position += 1
            continue
        start = position
        least_start = copies[-1][1] if copies else 0  # the end of the last copy
        while start > least_start and origin and after[start - 1] == before[origin - 1]:
            start = start - 1
            origin = origin - 1
        end = _end_of_copy(before, after, position + _BLOCK, stop, origin - start)
        _add(copies, after, start, end, origin)
        position = end

    _add(copies, after, stop, size, len(before) - suffix_size)
    return copies


def _end_of_copy(before: bytes, after: bytes, end: int, stop: int, gap: int) -> int:
    """Extend a copy beyond its present end as far as the texts are equal.

    The new end is at most ``stop``. Returns the new end. ``gap`` is the
    position of the copy in ``before`` minus its position in ``after``.
    """
    # The first loop goes in large steps, and the second one byte by byte.
    while True:
        next_end = end + _STEP
        if next_end > stop or after[end:next_end] != before[end + gap : next_end + gap]:
            break
        end = next_end
    while end < stop and end + gap < len(before) and after[end] == before[end + gap]:
        end += 1
    return end


def _add(
    copies: list[tuple[int, int, int]], after: bytes, start: int, end: int, origin: int
) -> None:
    """Add a copy, if it is long enough.

    The copy is shortened first, so that it splits no character.
    """
    while start < end and after[start] & _FIRST_TWO_BITS == _CONTINUES:
        start = start + 1
        origin = origin + 1
    while start < end < len(after) and after[end] & _FIRST_TWO_BITS == _CONTINUES:
        end -= 1
    if end - start >= _LEAST_COPY_BYTES:
        copies.append((start, end, origin))


def _equal(one: bytes, other: bytes) -> int:
    """Count how many first bytes of two texts are equal.

    It uses a binary search, because a comparison of slices is fast.
    """
    low = 0
    high = min(len(one), len(other)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _number(value: int) -> bytes:
    """Write a number in base 64, the highest digit first."""
    digits = bytearray()
    while True:
        digits.append(_DIGITS[value & _DIGIT_MASK])
        value >>= _DIGIT_BITS
        if not value:
            return bytes(digits[::-1])


def compressed(event: Event, before: Event | None) -> Compressed:
    """Make a publication for a subscriber that reads deltas.

    The publication has a delta if the delta is shorter than the whole payload.
    ``before`` is the last publication that the subscriber has received. None
    means that the subscriber needs the whole payload. Never switches greenlets.
    """
    payload = payload_of(event)
    if before is None:
        delta = None
    else:
        delta = make_delta(payload_of(before), payload)
    return Compressed(
        "msg",
        event.sender,
        "",
        data=payload if delta is None else delta,
        channel=event.channel,
        delta=delta is not None,
    )
