"""The words of texts, in the form that a search compares, and the rows of the
index of words.

A text is a list of *units*. A unit is a word, or a *run*: characters of a
script that does not put spaces between words. A search may look for any part of
a run. Case, accents and the width of characters make no difference. The index
has *terms*. The term of a word is the word, cut to :data:`TERM_LENGTH`. The
terms of a run are each two consecutive characters, and the last character. A
row has the terms of a bucket of a segment, as MessagePack, with the offsets of
their messages.
"""

import re
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from operator import add
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.gateway.storage.statements import Row, Statements, marks_of
from imserver.messenger.log.changes import SEGMENT

TEXT_TYPE: Final = "text"
WORD_FIELDS: Final = frozenset(("name", "title", "text", "caption"))
"""The fields of JSON content, at any depth, in which words are found: names and
titles of files, pictures and links."""
TERM_LENGTH: Final = 16
"""The number of characters of the longest term. Longer words with the same
beginning share a term."""
SEARCHED: Final = 32_768
"""The number of characters of a text in which words are found."""
MOST_TERMS: Final = 8
"""The most terms that one search looks up. The texts of the hits are compared
with all terms."""

_OF_RUNS: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30fa\u30fc-\u312f\u31f0-\u31ff"  # kana, Bopomofo
    # Han, Hangul
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_PICTURES: Final = (
    "\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001f3fa\U0001f400-\U0001faff"
)
_INDIC: Final = "\u0900-\u0963\u0966-\u0dff"
"""Scripts whose vowels are marks. A regular expression does not count marks as
letters."""
_units: Final = re.compile(
    f"[{_OF_RUNS}]+|[{_PICTURES}]|(?:[^\\W_{_OF_RUNS}{_PICTURES}]|[{_INDIC}])+"
).findall
_ascii_units: Final = re.compile("[a-z0-9]+").findall
_ascii_terms: Final = re.compile(f"[a-z0-9]{{1,{TERM_LENGTH}}}").findall
_is_run: Final = re.compile(f"[{_OF_RUNS}]").match
_parts: Final = re.compile(r'"([^"]*)("?)|([^\s"]+)').finditer
_QUOTES: Final = str.maketrans("“”„«»＂", '""""""')


def units_of(text: str) -> list[str]:
    """Return the units of a text, in order.

    A *unit* is a word, or a run of characters without spaces. ``"Müller's 日本"``
    has ``muller``, ``s`` and ``日本``. Only the first :data:`SEARCHED` characters
    count.
    """
    text = text[:SEARCHED]
    if text.isascii():
        return _ascii_units(text.lower())
    return _units(Statements.folded(text))


def terms_of(text: str) -> set[str]:
    """Return the terms of a text, by which the index finds it.

    A long ASCII word is split into several terms. Of other long words only the
    beginning is a term. A run without spaces has a term for each two
    characters.
    """
    if text.isascii():
        # This takes half the time of the code below.
        return set(_ascii_terms(text[:SEARCHED].lower()))
    terms: set[str] = set()
    for unit in units_of(text):
        if _is_run(unit):
            # Add each two consecutive characters, and the last character.
            terms.update(map(add, unit, unit[1:]))
            terms.add(unit[-1])
        else:
            terms.add(unit[:TERM_LENGTH])
    return terms


MOST_SEARCHED_COMMAS: Final = 30_000
"""JSON with more values is not searched, because that would block the loop."""


def searched_text(type: str, body: bytes) -> str:
    """Return the text of a message in which a search looks.

    This is the text that a reader sees. In JSON, it is the texts of the fields
    :data:`WORD_FIELDS`, at any depth.
    """
    if type == TEXT_TYPE:
        return body.decode(errors="replace")
    if body.count(b",") > MOST_SEARCHED_COMMAS:
        return ""

    with suppress(ValueError, RecursionError):
        return "\n".join(_texts_in(msgspec.json.decode(body)))
    return ""


def _texts_in(content: Any) -> list[str]:
    """Return the texts of the searched fields of decoded JSON.

    JSON that is only a text counts as the field ``text``.
    """
    texts: list[str] = []
    # (name of the field, value).
    waiting: list[tuple[str, Any]] = [("text", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += ((name, item) for item in value)
        elif isinstance(value, str) and name in WORD_FIELDS:
            texts.append(value)
    return texts


class Term(Struct, frozen=True):
    """A term that a search looks up, or a prefix: the common beginning of
    several terms."""

    text: str
    is_prefix: bool = False


class WordQuery:
    """The words and phrases that a text must contain.

    Words may come in any order. Phrases are in quotes. The last word may be
    unfinished. A part without spaces that has several units, such as an
    address, is a phrase, too.
    """

    def __init__(self, text: str) -> None:
        """Divide the text of a search into phrases, units and terms."""
        phrases, is_open = _phrases_of(text)
        self.units = list(dict.fromkeys(chain.from_iterable(phrases)))
        """The units, each once. The last unit may be the beginning of a longer
        unit."""

        self._needles: list[str] = []
        """The result of :func:`_needle_of` for each phrase."""
        terms: dict[Term, None] = {}  # a dict, because it keeps the order
        # A word outside quotes is a phrase of one unit.
        for number, units in enumerate(phrases, 1):
            ends_open = is_open and number == len(phrases)
            self._needles.append(_needle_of(units, ends_open))
            terms.update(dict.fromkeys(_terms_of_phrase(units, ends_open)))
        self.terms = sorted(terms, key=_rarity)[:MOST_TERMS]
        """The terms to look up in the index, the rarest first."""

    def is_in(self, text: str) -> bool:
        """Tell whether a text contains all words and phrases."""
        units = f" {' '.join(units_of(text))} "
        return all(needle in units for needle in self._needles)


def _phrases_of(text: str) -> tuple[list[list[str]], bool]:
    """Return the words and phrases of a search, each as a list of units.

    The second value says whether the last word or phrase may be unfinished,
    because no quote ends it. The text ``ann "good morn`` has ``[["ann"],
    ["good", "morn"]]``, and is unfinished.
    """
    phrases: list[list[str]] = []
    is_open = False
    for match in _parts(text.translate(_QUOTES)):
        quoted, closing_quote, plain = match.groups()
        units = units_of(plain or quoted or "")
        if units:
            phrases.append(units)
            is_open = not closing_quote
    return phrases, is_open


def _needle_of(units: list[str], ends_open: bool) -> str:
    """Return the string that the joined units of a text contain.

    If a text has this phrase, its joined units contain the string. ``["good",
    "morn"]`` gives ``" good morn "``. Words have spaces around them, except an
    unfinished last word. Runs may be parts of longer runs.
    """
    needle = " ".join(units)
    if not _is_run(units[0]):
        needle = f" {needle}"
    if not ends_open and not _is_run(units[-1]):
        needle = f"{needle} "
    return needle


def _rarity(term: Term) -> tuple[bool, int]:
    """Return a number for sorting that is smaller for rarer terms.

    Long terms are usually rarer than short ones. The beginning of a term stands
    for many terms, so it comes last.
    """
    return term.is_prefix, -len(term.text)


def _terms_of_phrase(units: Sequence[str], ends_open: bool) -> Iterator[Term]:
    """Yield the terms to look up for a phrase.

    ``ends_open``: whether the last unit may be the beginning of a longer word.
    """
    for unit in units[:-1]:
        yield from _terms_of_unit(unit, is_open=False)
    yield from _terms_of_unit(units[-1], ends_open)


def _terms_of_unit(unit: str, is_open: bool) -> Iterator[Term]:
    """Yield the terms to look up for a unit of a search.

    ``is_open``: whether the unit may be the beginning of a longer word.
    """
    # A term that already has the length of the longest terms cannot be longer.
    if not _is_run(unit):
        yield Term(unit[:TERM_LENGTH], is_open and len(unit) < TERM_LENGTH)
    elif len(unit) == 1:
        yield Term(unit, is_prefix=True)
    else:
        yield from map(Term, map(add, unit, unit[1:]))


# --- rows ---------------------------------------------------------------------


_GROUPS: Final = 32
_PARTS: Final = 8
CONVERSATIONS: Final = _GROUPS * _PARTS
"""The bucket with the conversations of a segment."""
LONG: Final = CONVERSATIONS + 1
"""The bucket with the long messages of a segment, if there are any."""
LONG_MESSAGE: Final = struct.Struct("<Hq")
"""The format of a long message: its offset and its conversation."""
_CONVERSATION_BYTES: Final = 8
_NUMBER_BYTES: Final = 2
"""The size of a number in the bucket with the conversations, in bytes. This
bucket has the number of conversations, the conversations, and for each message
the index of its conversation."""
decode_terms: Final = msgspec.msgpack.Decoder(dict[str, int | list[int]]).decode
encode_terms: Final = msgspec.msgpack.Encoder().encode

Terms = dict[str, int | list[int]]
"""Term → the offsets of its messages. Most terms have a single offset, which is
stored without a list. That takes less memory, and gives the garbage collector
nothing to do."""


def merged_terms(terms: Terms, gone: set[int], more: Terms) -> Terms:
    """Return the terms of a bucket after an update.

    The messages with the offsets ``gone`` are removed, and the terms ``more``
    are added. A list that needs no change is not copied.
    """
    merged = _terms_without(terms, gone)
    for term, offsets in more.items():
        if term in merged:
            offsets = sorted({*listed(merged[term]), *listed(offsets)})
        merged[term] = offsets
    return merged


def _terms_without(terms: Terms, gone: set[int]) -> Terms:
    """Return the terms of a bucket without the terms of some messages.

    ``gone`` has the offsets of these messages.
    """
    remaining_terms: Terms = {}
    for term, offsets in terms.items():
        # Most terms are in one message, without a list.
        if isinstance(offsets, int):
            if offsets not in gone:
                remaining_terms[term] = offsets
        elif gone.isdisjoint(offsets):
            remaining_terms[term] = offsets
        else:
            remaining = [offset for offset in offsets if offset not in gone]
            if len(remaining) > 1:
                remaining_terms[term] = remaining
            elif remaining:
                remaining_terms[term] = remaining[0]
    return remaining_terms


def listed(offsets: int | list[int]) -> Sequence[int]:
    """Return the offsets of a term as a sequence, even if there is only one."""
    if isinstance(offsets, int):
        return (offsets,)
    return offsets


def bucket_of(term: str) -> int:
    """Return the bucket of a term.

    The first two characters decide. The buckets of terms with the same first
    character are consecutive.
    """
    first_of_group = ord(term[0]) % _GROUPS * _PARTS
    if len(term) == 1:
        return first_of_group
    return first_of_group + ord(term[1]) % _PARTS


def buckets_of(term: Term) -> range:
    """Return the buckets in which a search finds a term."""
    first = bucket_of(term.text)
    if term.is_prefix and len(term.text) == 1:  # any second character
        return range(first, first + _PARTS)
    return range(first, first + 1)


def long_in(row: bytes) -> list[tuple[int, int]]:
    """Return the long messages of a segment: (offset, conversation).

    ``row`` is the row in the bucket :data:`LONG`.
    """
    return list(LONG_MESSAGE.iter_unpack(row))


def conversation_at(row: bytes, offset: int) -> int:
    """Return the conversation of the message with this offset.

    ``row`` is the row of its segment in the bucket :data:`CONVERSATIONS`. It
    has the number of conversations, the conversations, and for each message the
    index of its conversation.
    """
    (count,) = struct.unpack_from("<H", row)
    # The numbers of the messages follow the conversations.
    numbers_at = _NUMBER_BYTES + _CONVERSATION_BYTES * count
    (number,) = struct.unpack_from("<H", row, numbers_at + _NUMBER_BYTES * offset)
    conversation_at = _NUMBER_BYTES + _CONVERSATION_BYTES * number
    (conversation,) = struct.unpack_from("<q", row, conversation_at)
    return int(conversation)


# --- look-ups -----------------------------------------------------------------


class IndexPart(Struct, frozen=True):
    """Segments of the index that a search reads.

    ``others``: (message, conversation) of changed and long messages. The texts
    of these messages must always be compared. ``rows``: the rows in which some
    terms may be, as :func:`rows_of` returns them.
    """

    segments: range
    others: Sequence[Row]
    rows: Sequence[Row]


def indexed_before(sql: Statements, log: int) -> int:
    """Return the id before which all messages are in the index."""
    rows = sql.query("SELECT segment FROM word_position WHERE log = %s", (log,))
    if rows:
        return int(rows[0][0]) * SEGMENT
    return 0


_INDEX_POSITION: Final = (
    "SELECT p.segment, (SELECT max(w.segment) FROM word w "
    "WHERE w.log = p.log AND w.segment <= %s) "
    "FROM word_position p WHERE p.log = %s"
)
"""Selects the segment before which the index is filled, and its newest segment
up to a given segment."""
_CHANGED_MESSAGES: Final = (
    "SELECT DISTINCT id, conversation FROM word_change "
    "WHERE log = %s AND id >= %s AND id < %s "
    "ORDER BY id DESC LIMIT %s"
)
"""Selects the messages whose changes are not in the index yet, the newest
first."""


def newest_part(
    sql: Statements, log: int, after: int, upto: int, most: int, terms: Sequence[Term]
) -> tuple[int, IndexPart | None]:
    """Read the newest segments of the index with ids up to ``upto``.

    There are at most ``most`` segments, with the rows of these terms. Segments
    without messages are skipped, because ids have a gap after a restore.

    Returns the id before which all messages are in the index, and the segments.
    The second value is None if there are no segments after the id ``after``. A
    changed message is either among ``others``, or in rows that are read later.
    """
    positions = sql.query(_INDEX_POSITION, (upto // SEGMENT, log))
    if not positions:
        return 0, None
    indexed, newest = positions[0]
    if newest is None or (newest + 1) * SEGMENT <= after:
        return indexed * SEGMENT, None

    begin = max(newest - most + 1, after // SEGMENT, 0)
    part = _part_with(sql, log, range(begin, newest + 1), terms)
    return indexed * SEGMENT, part


def _part_with(
    sql: Statements, log: int, segments: range, terms: Sequence[Term]
) -> IndexPart:
    """Read segments of the index, with the rows of some terms.

    If too many of their messages have changed, there are fewer segments.
    """
    segments, others = _with_changed(sql, log, segments)
    rows = []
    # Long messages are compared, too, like changed messages.
    for row in rows_of(sql, log, buckets_with(terms) | {LONG}, segments):
        segment, bucket, content = row
        if bucket == LONG:
            first = segment * SEGMENT
            others += [
                (first + offset, conversation)
                for offset, conversation in long_in(content)
            ]
        else:
            rows.append(row)
    return IndexPart(segments, others, rows)


def _with_changed(
    sql: Statements, log: int, segments: range
) -> tuple[range, list[Row]]:
    """Return the changed messages of these segments: (message, conversation).

    If there are very many changed messages, only the newest segments are
    returned, with all their changed messages.
    """
    values = (log, segments.start * SEGMENT, segments.stop * SEGMENT, SEGMENT + 1)
    changed = sql.query(_CHANGED_MESSAGES, values)
    if len(changed) <= SEGMENT:
        return segments, changed
    # The query has left out older messages. So the segment of the last message
    # may be incomplete, and a later step reads it.
    begin = changed[-1][0] // SEGMENT + 1
    complete = [row for row in changed if row[0] >= begin * SEGMENT]
    return range(begin, segments.stop), complete


def buckets_with(terms: Iterable[Term]) -> set[int]:
    """Return the buckets in which these terms may be."""
    return set(chain.from_iterable(map(buckets_of, terms)))


def rows_of(
    sql: Statements, log: int, buckets: Collection[int], segments: Sequence[int]
) -> list[Row]:
    """Return the rows of these buckets of some segments: (segment, bucket,
    terms)."""
    statement = (
        "SELECT b.segment, b.bucket, b.terms FROM word b WHERE b.log = %s "
        f"AND b.bucket IN {marks_of(len(buckets))} AND b.segment IN {{}}"
    )
    return sql.query_in(statement, (log, *buckets), segments, many=True)


def offsets_with(terms: bytes, term: Term) -> set[int]:
    """Return the offsets of the messages with a term.

    ``terms`` is the row of its bucket. A few offsets may be wrong, so the texts
    of the messages must be compared.
    """
    hits: set[int] = set()
    if term.is_prefix:
        return _offsets_with_prefix(terms, term.text)
    # The bytes are searched, because decoding the row would take six times as
    # long. The same bytes may also be the end of a longer term, which makes
    # wrong hits.
    key = encode_terms(term.text)
    at = terms.find(key)
    while at >= 0:
        hits.update(_offsets_at(terms, at + len(key)))
        at = terms.find(key, at + 1)
    return hits


def _offsets_with_prefix(terms: bytes, prefix: str) -> set[int]:
    """Return the offsets of the messages that have a term with this
    beginning."""
    hits: set[int] = set()
    # Most rows do not have such a term, and need not be decoded.
    if prefix.encode() not in terms:
        return hits
    for text, offsets in decode_terms(terms).items():
        if text.startswith(prefix):
            hits.update(listed(offsets))
    return hits


# The first bytes of the values of MessagePack in a row.
_SHORT_LIST: Final = 0x90
_SHORT_LIST_MASK: Final = 0xF0
_SHORT_LIST_COUNT: Final = 0x0F
_LIST: Final = 0xDC
"""The head of a list. Two bytes with the number of items follow."""
_LIST_HEAD_BYTES: Final = 3
_NUMBER_IN_HEAD_END: Final = 0x80
"""A head below this value is itself the number."""
_BYTE: Final = 0xCC
_TWO_BYTES: Final = 0xCD
_TWO_BYTES_SIZE: Final = 3


def _offsets_at(row: bytes, at: int) -> list[int]:
    """Decode a number of MessagePack, or a list of numbers, at an index of a
    row.

    ``b"\xcd\x01\x00"`` gives ``[256]``. If other bytes are there, the result
    may be wrong or short.
    """
    offsets: list[int] = []
    with suppress(IndexError):
        count = 1
        head = row[at]
        if head & _SHORT_LIST_MASK == _SHORT_LIST:
            count = head & _SHORT_LIST_COUNT
            at += 1
        elif head == _LIST:
            count = row[at + 1] << 8 | row[at + 2]
            at += _LIST_HEAD_BYTES
        while len(offsets) < count:
            head = row[at]
            if head == _TWO_BYTES:
                # The modulo is needed because the bytes may be something else.
                offsets.append((row[at + 1] << 8 | row[at + 2]) % SEGMENT)
                at += _TWO_BYTES_SIZE
            elif head < _NUMBER_IN_HEAD_END:
                offsets.append(head)
                at += 1
            elif head == _BYTE:
                offsets.append(row[at + 1])
                at += 2
            else:
                break
    return offsets


def in_conversations(
    row: bytes, offsets: Iterable[int], conversations: Collection[int]
) -> set[int]:
    """Return the offsets of messages that are in these conversations.

    ``row`` is the row of their segment in the bucket :data:`CONVERSATIONS`.
    :func:`conversation_at` describes its bytes.
    """
    (count,) = struct.unpack_from("<H", row)
    of_segment = struct.unpack_from(f"<{count}q", row, _NUMBER_BYTES)
    # The row has each conversation once, and for each message the number of its
    # conversation.
    wanted = {
        number
        for number, conversation in enumerate(of_segment)
        if conversation in conversations
    }
    if not wanted:
        return set()
    numbers_at = _NUMBER_BYTES + _CONVERSATION_BYTES * count
    numbers = struct.unpack_from(f"<{SEGMENT}H", row, numbers_at)
    return {offset for offset in offsets if numbers[offset] in wanted}
