"""Searches of messages: by their words, sender, type, links and time.

A search goes backwards through the messages that a user may read, in short
steps. Words are looked up in the index
(:mod:`imserver.messenger.search.words`). Messages that are not in the index yet
are scanned. If the search has no words, all messages are scanned.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.storage.statements import Row, Statements, chunks, marks_of
from imserver.messenger.log.changes import SEGMENT
from imserver.messenger.log.commands import Search
from imserver.messenger.log.contract import Entry
from imserver.messenger.log.read import VISIBLE, fetch, last_before, time_window
from imserver.messenger.log.rows import NUMBERS, LogHead, read_log
from imserver.messenger.search.words import (
    CONVERSATIONS,
    TEXT_TYPE,
    IndexPart,
    Term,
    WordQuery,
    buckets_of,
    buckets_with,
    in_conversations,
    indexed_before,
    newest_part,
    offsets_with,
    rows_of,
    searched_text,
)
from imserver.plugin.runtime import Service
from imserver.plugin.storage import Store

SEARCH_SECONDS: Final = 0.5
"""The time after which a search returns. The caller may continue the search."""
FIRST_STRETCH: Final = 4096
"""The number of ids that the first step scans, in one transaction."""
_SHORT_SECONDS: Final = 0.005
"""If a step was shorter, the next step scans four times as many ids. If a step
took more than four times this time, the next step scans half as many. So
writers wait only briefly."""
STRETCH_GROWTH: Final = 4
_FIRST_SEGMENTS: Final = 8
"""The number of segments in which the first step looks up the words, and the
factor by which each next step takes more."""
_ROWS_AT_ONCE: Final = 256
"""The number of rows of the index that one query reads. They have at most 16
MB."""
_CHECKED_AT_ONCE: Final = 64
"""The number of messages with the words that one query reads."""
_MANY_HITS: Final = 2048
"""If more messages have the words, their conversations are read from the index,
where one row has the conversations of a segment."""
_SHORTEST_STRETCH: Final = 256
_MOST_UNITS: Final = 8
"""The most words that a scan looks for in SQL. The texts of the hits are
compared with all words."""
_LINKS: Final = ("http://", "https://", "www.")
_LINK: Final = re.compile("https?://|www\\.", re.IGNORECASE | re.ASCII)

_IS_FOUND: Final = (
    f"m.kind = {NUMBERS['message']} AND NOT EXISTS (SELECT 1 FROM hidden h "
    "WHERE h.log = m.log "
    "AND h.id = m.id AND h.member IN ('', %s))"
)
"""The SQL condition that the user has not hidden a message. Recalled entries
and edits are hidden from the user ``''``."""


class EntrySearch(Store.Rows):
    """Searches the messages of users.

    Most messages are found by an *index*: words → messages. The newest messages
    are not in the index yet, so they are scanned. A store has one such part:
    ``store.part(EntrySearch)``.
    """

    def close(self) -> None:
        """Do nothing, because no search is waiting."""

    def find(self, app: str, user: str, search: Search) -> tuple[list[Entry], int]:
        """Search the messages of a user backwards, the newest first.

        The search has a text, a filter, or both. It begins before an id (0: at
        the end of the log). It covers one conversation or, if this is 0, all
        conversations. Without text, only the filter decides. Its default types
        are ``text``, or all types if the search has neither text nor links.
        :class:`imserver.messenger.search.words.WordQuery` describes how texts
        are found.

        Returns the entries in order, and the id from which to continue, or 0 if
        the search is complete. Only messages that the user may read are found,
        without hidden and recalled messages. After half a second, the method
        returns the result so far, which may be empty. Each step is a
        transaction of its own.
        """
        conditions = _Conditions(user, search)
        start = read_log(self._store, app, _start, nothing=None)
        if start is None or conditions.match_nothing:
            return [], 0

        head, indexed = start
        floor, upto = self._range_of(search, head)
        # The index has only words, and only messages before `indexed`. Other
        # messages are scanned.
        scan_begin = indexed if search.text else 0
        scan = _Scan(self._store, head.number, conditions, scan_begin, FIRST_STRETCH)
        look_up = _LookUp(self._store, head.number, conditions, scan)
        return _newest_page(scan, look_up, floor, upto, search.limit)

    def _range_of(self, search: Search, head: LogHead) -> tuple[int, int]:
        """Return the range of ids in which messages can match a search.

        The range has the ids after the first number, up to the second number. A
        filter of time makes the range smaller.
        """
        filter = search.filter
        upto = last_before(head, search.before)
        if not (filter.since or filter.until):
            return head.floor, upto
        return self._store.read_or(
            (head.floor, upto), partial(time_window, head, upto, filter)
        )


def _newest_page(
    scan: "_Scan", look_up: "_LookUp", floor: int, upto: int, limit: int
) -> tuple[list[Entry], int]:
    """Search from the id ``upto`` back to ``floor``, until a page is full.

    A page has at most ``limit`` entries. Returns the page, and the id from
    which to continue, or 0 if the search is complete. If the time is over, the
    page may not be full.
    """
    found: list[Entry] = []
    deadline = monotonic() + SEARCH_SECONDS
    while upto > floor:
        method = scan if upto >= scan.begin else look_up
        # One more entry than fits is searched, to know whether another page
        # follows.
        entries, upto = method.step(floor, upto, limit + 1 - len(found))
        found = entries + found
        if len(found) > limit:
            return found[-limit:], found[-limit].id
        if monotonic() > deadline and upto > floor:
            return found, upto + 1
    return found, 0


def _start(sql: Statements, head: LogHead) -> tuple[LogHead, int]:
    """Return the head of a log, and the id before which the index is
    complete."""
    return head, indexed_before(sql, head.number)


class _Conditions:
    """The conditions of a search: as SQL, and as a check of the results.

    Engines compare texts differently, so the results of SQL are checked again.
    """

    def __init__(self, user: str, search: Search) -> None:
        """Divide the text of the search into words."""
        self.user = user
        self.conversation = search.conversation
        self.words = WordQuery(search.text)
        self.match_nothing = bool(search.text) and not self.words.units
        """Whether there is a text, but it has no word, so that no message can
        match."""
        self._filter = search.filter
        self._types = search.filter.types
        if not self._types and (search.text or search.filter.link):
            self._types = (TEXT_TYPE,)

    def sql(self, engine: str, with_words: bool) -> tuple[str, list[Any]]:
        """Return the SQL condition for the message ``m``, and its values.

        Example: ``("m.sender = %s AND m.time_ms >= %s", ["7",
        1700000000000])``. If ``with_words``, the condition also leaves out most
        messages without the words.
        """
        parts, values = self._sql_of_filter()
        if with_words:
            word_parts, words = self._sql_of_words(engine)
            parts += word_parts
            values += words
        if self._filter.link:
            contains, _ = _MATCHES[engine]
            has_link = " OR ".join([contains] * len(_LINKS))
            parts.append(f"({has_link})")
            values += _LINKS
        return " AND ".join(parts) or "1 = 1", values

    def _sql_of_filter(self) -> tuple[list[str], list[Any]]:
        """Return conditions for the sender, the time and the type, and their
        values."""
        parts: list[str] = []
        values: list[Any] = []
        if self._filter.sender:
            parts.append("m.sender = %s")
            values.append(self._filter.sender)
        if self._filter.since:
            parts.append("m.time_ms >= %s")
            values.append(self._filter.since)
        if self._filter.until:
            parts.append("m.time_ms < %s")
            values.append(self._filter.until)
        if self._types:
            parts.append(f"m.type IN {marks_of(len(self._types))}")
            values += self._types
        return parts, values

    def _sql_of_words(self, engine: str) -> tuple[list[str], list[str]]:
        """Return a condition for each word, and the values.

        A message may meet the conditions without having the words, because a
        body in other letters has many spellings, and JSON may have escapes.
        Such bodies are checked later.
        """
        contains, is_not_plain = _MATCHES[engine]
        parts: list[str] = []
        values: list[str] = []
        for unit in self.words.units[:_MOST_UNITS]:
            if unit.isascii():
                parts.append(f"({contains} OR {is_not_plain})")
                values.append(unit)
            else:
                parts.append(is_not_plain)
        return parts, values

    def matching(self, entries: list[Entry]) -> list[Entry]:
        """Return the given entries that meet the conditions.

        Long texts take time, so other greenlets may run meanwhile.
        """
        hits = []
        for entry in entries:
            if self._match(entry):
                hits.append(entry)
            if is_long_turn():
                serve_others()
        return hits

    def _match(self, entry: Entry) -> bool:
        """Tell whether the words and the links of an entry match.

        The database has already checked the other conditions.
        """
        if entry.kind == "recall":
            # The message was edited after the user had left the group.
            return False
        if not (self.words.units or self._filter.link):
            return True
        text = searched_text(entry.type, entry.body)
        if not self.words.is_in(text):
            return False
        return not self._filter.link or _LINK.search(text) is not None


class _Scan(Service):
    """Searches the newest messages, which are not in the index yet."""

    _store: Store
    _log: int
    _conditions: _Conditions
    begin: int
    """The id from which on messages are scanned. Older messages are in the
    index."""
    _stretch: int
    """The number of ids that the next step scans."""

    def step(self, floor: int, upto: int, count: int) -> tuple[list[Entry], int]:
        """Scan the next stretch of ids, from ``upto`` backwards, at most to
        ``floor``.

        Returns at most ``count`` of the newest hits, and the id from which the
        search goes on. The length of the next stretch depends on the time that
        this stretch took.
        """
        began_at = monotonic()
        after = max(upto - self._stretch, floor, self.begin - 1)
        entries: list[Entry] = self._store.read_or(
            [], partial(self._read, after, upto, count)
        )
        next_upto = after
        if len(entries) == count:  # older entries of the stretch were not read
            next_upto = entries[0].id - 1
        hits = self._conditions.matching(entries)
        self._adapt_stretch(monotonic() - began_at)
        return hits, next_upto

    def _adapt_stretch(self, seconds: float) -> None:
        """Choose how many ids the next step scans.

        ``seconds`` is the time of the last step. A step must be short, because
        a transaction makes writers wait.
        """
        if seconds < _SHORT_SECONDS:
            self._stretch *= STRETCH_GROWTH
        elif seconds > STRETCH_GROWTH * _SHORT_SECONDS:
            self._stretch = max(self._stretch // 2, _SHORTEST_STRETCH)

    def _read(self, after: int, upto: int, count: int, sql: Statements) -> list[Entry]:
        """Read the newest entries with ``after < id <= upto`` that may match.

        At most ``count`` entries are returned, ordered by id. Some of them may
        not match, because SQL compares texts only roughly.
        """
        user = self._conditions.user
        condition, values = self._conditions.sql(sql.engine, with_words=True)
        rows = sql.query(
            self._statement(condition),
            (self._log, user, after, upto, user, *values, count),
        )
        if rows:
            return fetch(sql, self._log, [row[0] for row in rows], user)
        return []

    def _statement(self, condition: str) -> str:
        """Return the statement that selects the ids of messages of the user.

        ``condition`` leaves out most messages that do not match the search.
        """
        in_conversation = ""
        if self._conditions.conversation:
            number = int(self._conditions.conversation)
            in_conversation = f"AND s.conversation = {number} "
        return (
            "SELECT m.id FROM membership s, message m "
            f"WHERE s.log = %s AND s.member = %s {in_conversation}"
            f"AND {VISIBLE} AND m.id > %s AND m.id <= %s "
            f"AND {_IS_FOUND} AND {condition} ORDER BY m.id DESC LIMIT %s"
        )


class _LookUp:
    """Looks up the words in the index, segment by segment, the newest first.

    A *segment* is a range of ids that are indexed together. The index has
    *terms*: words, or parts of words. For each segment and term it has the
    *offsets* of the messages in the segment.
    """

    def __init__(
        self, store: Store, log: int, conditions: _Conditions, scan: _Scan
    ) -> None:
        """Begin without results. Nothing is read yet."""
        self._store = store
        self._log = log
        self._conditions = conditions
        self._scan = scan
        self._terms = list(conditions.words.terms)
        self._hit_counts = dict.fromkeys(self._terms, 0)
        """Term → the number of messages in which it was found until now."""
        self._segments_read = 0
        """The number of segments that were read until now."""
        self._conversations: set[int] | None = None
        """The conversations of the user. None means that they were not read
        yet."""
        self._segments_at_once = _FIRST_SEGMENTS
        """The number of segments in which the next step looks."""
        self._unchecked: list[int] = []
        """The messages, in order, that have the words according to the index,
        but were not checked yet."""
        self._before_unchecked = 0
        """The last id before the segments of the unchecked messages."""

    def step(self, floor: int, upto: int, count: int) -> tuple[list[Entry], int]:
        """Check the next messages with the words, from ``upto`` backwards.

        The search goes at most to the id ``floor``. Returns at most
        :data:`_CHECKED_AT_ONCE` hits, and the id from which the search goes on.
        The caller leaves out hits beyond ``count``.
        """
        if not self._unchecked:
            terms = self._terms_together()
            indexed, part = self._next_part(floor, upto, terms)
            if indexed <= upto:
                # The index was erased, and is being filled anew. So the
                # messages are scanned instead.
                self._scan.begin = indexed
                return [], upto
            if part is None:
                return [], floor
            self._segments_at_once *= _FIRST_SEGMENTS
            ids = self._ids_in(part, terms)
            self._unchecked = sorted(id for id in ids if floor < id <= upto)
            self._before_unchecked = max(part.segments[0] * SEGMENT - 1, floor)
        return self._check_some()

    def _check_some(self) -> tuple[list[Entry], int]:
        """Check the newest of the unchecked messages.

        Returns the hits, and the id from which the search goes on. The messages
        must be checked, because the index may be wrong, and does not know which
        users may read a message.
        """
        ids_to_check = self._unchecked[-_CHECKED_AT_ONCE:]
        self._unchecked = self._unchecked[:-_CHECKED_AT_ONCE]
        hits: list[Entry] = []
        if ids_to_check:
            read_entries = partial(self._readable, ids_to_check)
            readable = self._store.read_or(list[Entry](), read_entries)
            hits = self._conditions.matching(readable)
        if self._unchecked:
            return hits, ids_to_check[0] - 1
        return hits, self._before_unchecked

    def _next_part(
        self, floor: int, upto: int, terms: Sequence[Term]
    ) -> tuple[int, IndexPart | None]:
        """Read the next segments of the index, with the rows of these terms.

        The first value is the id before which the index is complete. The second
        value, the part, is None if there are no segments between ``floor`` and
        ``upto``.
        """
        segments = min(
            self._segments_at_once, _ROWS_AT_ONCE // len(buckets_with(terms))
        )
        nothing: tuple[int, IndexPart | None] = (0, None)
        read_part = partial(
            newest_part,
            log=self._log,
            after=floor,
            upto=upto,
            most=segments,
            terms=terms,
        )
        return self._store.read_or(nothing, read_part)

    def _terms_together(self) -> list[Term]:
        """Return the terms whose rows the next query reads together.

        These are the rarest term, and further terms as long as most segments
        have all earlier terms.
        """
        self._terms.sort(key=self._hit_counts.__getitem__)
        terms = []
        for term in self._terms:
            terms.append(term)
            # If there are fewer hits than segments, some segments do not have
            # the term. The rows of the next terms are then read only for the
            # segments that have it.
            if self._hit_counts[term] < self._segments_read:
                break
        return terms

    def _ids_in(self, part: IndexPart, terms_read: Sequence[Term]) -> set[int]:
        """Return the messages of these segments that may have all terms.

        Some of them may be in conversations of other users. ``terms_read`` are
        the terms whose rows ``part`` has.
        """
        ids: set[int] = set()
        # Changed and long messages are always checked, because the index does
        # not have all their words.
        if part.others:
            mine = self._own_conversations()
            ids = {id for id, conversation in part.others if conversation in mine}
        ids.update(self._ids_by_index(part, terms_read))
        return ids

    def _ids_by_index(
        self, part: IndexPart, terms_read: Sequence[Term]
    ) -> Iterable[int]:
        """Return the messages of these segments that have all terms according
        to the index.

        A few of them may be in conversations of other users. They are checked
        later. ``terms_read`` are the terms whose rows ``part`` has.
        """
        self._segments_read += len(part.segments)
        offsets_of = self._offsets_with_all(part, terms_read)
        count = sum(map(len, offsets_of.values()))
        if count > _MANY_HITS:
            self._remove_foreign(offsets_of)
        ids = _ids_of(offsets_of)
        # If there are fewer messages, a single query checks all of them anyway.
        if _CHECKED_AT_ONCE < count <= _MANY_HITS:
            return self._own_among(ids)
        return ids

    def _offsets_with_all(
        self, part: IndexPart, terms_read: Sequence[Term]
    ) -> dict[int, set[int]]:
        """Return segment → the offsets of its messages with all terms.

        The terms are looked up one after another, the rarest first, so that few
        segments are left for the other terms. Segments without such messages
        are left out.
        """
        # Segment → the offsets of its messages with all terms until now.
        offsets_of: dict[int, set[int]] = {}
        for number, term in enumerate(self._terms):
            # The part has the rows of the first terms.
            pages: Iterable[Sequence[Row]] = [part.rows]
            if term not in terms_read:
                pages = self._rows_with(term, list(offsets_of))
            # For all terms after the rarest, only segments with all earlier
            # terms count.
            within = offsets_of if number else None
            offsets = _look_up(term, pages, within)
            self._hit_counts[term] += sum(map(len, offsets.values()))
            if number:
                for segment in offsets:
                    offsets[segment] &= offsets_of[segment]
            offsets_of = _without_empty(offsets)
        return offsets_of

    def _remove_foreign(self, offsets_of: dict[int, set[int]]) -> None:
        """Remove the messages that are not in conversations of the user.

        ``offsets_of`` has segment → offsets, and is changed. The index has a
        row with the conversations of each segment.
        """
        mine = self._own_conversations()
        read_rows = partial(
            rows_of,
            log=self._log,
            buckets=[CONVERSATIONS],
            segments=list(offsets_of),
        )
        rows = self._store.read_or(list[Row](), read_rows)
        # A long row takes time to decode.
        for segment, _, row in rows:
            offsets_of[segment] = in_conversations(row, offsets_of[segment], mine)
            if is_long_turn():
                serve_others()

    def _own_among(self, ids: Sequence[int]) -> list[int]:
        """Return the messages with these ids that are in conversations of the
        user."""
        mine = self._own_conversations()
        statement = (
            "SELECT m.id, m.conversation FROM message m WHERE m.log = %s AND m.id IN {}"
        )
        pairs = self._store.rows_in(statement, (self._log,), ids)
        return [id for id, conversation in pairs if conversation in mine]

    def _rows_with(self, term: Term, segments: Sequence[int]) -> Iterator[list[Row]]:
        """Yield the rows of the index in which a term may be, page by page."""
        buckets = buckets_with([term])
        for page in chunks(segments, _ROWS_AT_ONCE // len(buckets)):
            read_rows = partial(rows_of, log=self._log, buckets=buckets, segments=page)
            yield self._store.read_or([], read_rows)

    def _own_conversations(self) -> set[int]:
        """Return the conversations whose messages can match.

        This is the conversation of the search, or all conversations in which
        the user is or was a member.
        """
        if self._conditions.conversation:
            return {self._conditions.conversation}
        # The conversations are read only once for the whole search.
        if self._conversations is None:
            statement = (
                "SELECT DISTINCT conversation FROM membership "
                "WHERE log = %s AND member = %s"
            )
            values = (self._log, self._conditions.user)
            rows = self._store.rows(statement, values)
            self._conversations = {row[0] for row in rows}
        return self._conversations

    def _readable(self, ids: Sequence[int], sql: Statements) -> list[Entry]:
        """Return the messages with these ids that the user may read, and that
        match the filter."""
        user = self._conditions.user
        condition, values = self._conditions.sql(sql.engine, with_words=False)
        statement = (
            "SELECT m.id FROM message m WHERE EXISTS "
            f"(SELECT 1 FROM membership s WHERE s.member = %s AND {VISIBLE}) "
            f"AND {_IS_FOUND} AND {condition} AND m.log = %s AND m.id IN {{}}"
        )
        rows = sql.query_in(statement, (user, user, *values, self._log), ids)
        if rows:
            return fetch(sql, self._log, [row[0] for row in rows], user)
        return []


def _look_up(
    term: Term, pages: Iterable[Sequence[Row]], within: Container[int] | None
) -> dict[int, set[int]]:
    """Return segment → the offsets of its messages with a term.

    ``pages`` are rows of the index: (segment, bucket, terms). Only the segments
    in ``within`` count. None means all segments.
    """
    buckets = buckets_of(term)
    offsets_of: dict[int, set[int]] = {}
    for rows in pages:
        for segment, bucket, terms in rows:
            if bucket not in buckets:
                continue
            if within is not None and segment not in within:
                continue
            # A prefix may be in several buckets.
            offsets = offsets_with(terms, term)
            if offsets:
                offsets_of.setdefault(segment, set()).update(offsets)
            if is_long_turn():
                serve_others()
    return offsets_of


def _without_empty(offsets_of: Mapping[int, set[int]]) -> dict[int, set[int]]:
    """Leave out the segments in which no message is left."""
    return {segment: offsets for segment, offsets in offsets_of.items() if offsets}


def _ids_of(offsets_of: Mapping[int, Iterable[int]]) -> list[int]:
    """Return the ids of messages from their offsets.

    ``offsets_of`` has segment → offsets. An id is the first id of the segment
    plus the offset.
    """
    ids: list[int] = []
    for segment, offsets in offsets_of.items():
        first = segment * SEGMENT
        ids += [first + offset for offset in offsets]
    return ids


_MATCHES: Final[dict[str, tuple[str, str]]] = {
    "sqlite": (
        "instr(lower(CAST(m.body AS TEXT)), %s) > 0",
        "(length(m.body) <> length(CAST(m.body AS TEXT)) OR instr(m.body, X'5C') > 0)",
    ),
    "postgresql": (
        "position(%s in lower(encode(m.body, 'escape'))) > 0",
        "position(chr(92) in encode(m.body, 'escape')) > 0",
    ),
    "mysql": (
        "LOCATE(CONVERT(%s USING utf8mb4), CONVERT(m.body USING utf8mb4)) > 0",
        "(LENGTH(m.body) <> CHAR_LENGTH(CONVERT(m.body USING utf8mb4)) OR LOCATE(CHAR(92), m.body) > 0)",
    ),
}
"""Engine → (condition for a body that contains a word in ASCII, in small
letters; condition for a body with other characters, or a backslash). Wrong hits
are removed afterwards."""
