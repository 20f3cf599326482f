"""The rows of the index of words: their buckets, and the terms in them.

A row has the terms of a bucket of a segment, as MessagePack, with the offsets of their messages.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from imserver.messages.log.words import Term

SEGMENT: Final = 2048
"""Ids of a segment; at most 65,536."""
_GROUPS: Final = 32
_PARTS: Final = 8
CONVERSATIONS: Final = _GROUPS * _PARTS
"""The bucket with the conversations of a segment."""
LONG: Final = CONVERSATIONS + 1
"""The bucket with the long messages of a segment, if it has any."""
LONG_MESSAGE: Final = struct.Struct("<Hq")
"""Offset and conversation."""
decode_terms: Final = msgspec.msgpack.Decoder(dict[str, int | list[int]]).decode
encode_terms: Final = msgspec.msgpack.Encoder().encode

Terms = dict[str, int | list[int]]
"""Term → the offsets of its messages. Most terms have one, without a list: that takes less memory, and leaves
the garbage collector nothing to look at."""


def merged_terms(terms: Terms, gone: set[int], more: Terms) -> Terms:
    """Terms without some messages, and with others."""
    merged: Terms = {}
    for term, offsets in terms.items():
        if isinstance(offsets, int):
            if offsets not in gone:
                merged[term] = offsets
        elif gone.isdisjoint(offsets):
            merged[term] = offsets
        elif rest := [each for each in offsets if each not in gone]:
            merged[term] = rest if len(rest) > 1 else rest[0]
    for term, offsets in more.items():
        if term in merged:
            offsets = sorted({*listed(merged[term]), *listed(offsets)})
        merged[term] = offsets
    return merged


def listed(offsets: int | list[int]) -> Sequence[int]:
    return (offsets,) if isinstance(offsets, int) else offsets


def bucket_of(term: str) -> int:
    """The bucket of a term. Those of the terms with the same first character follow each other."""
    second = ord(term[1]) % _PARTS if len(term) > 1 else 0
    return ord(term[0]) % _GROUPS * _PARTS + second


def buckets_of(term: Term) -> range:
    """The buckets in which a search finds a term."""
    first = bucket_of(term.text)
    return range(first, first + (_PARTS if term.is_prefix and len(term.text) == 1 else 1))


def long_in(row: bytes) -> list[tuple[int, int]]:
    """The long messages of a segment: (offset, conversation)."""
    return list(LONG_MESSAGE.iter_unpack(row))


def conversation_at(row: bytes, offset: int) -> int:
    """The conversation of one of the messages of a segment."""
    (count,) = struct.unpack_from("<H", row)
    (number,) = struct.unpack_from("<H", row, 2 + 8 * count + 2 * offset)
    return int(struct.unpack_from("<q", row, 2 + 8 * number)[0])
