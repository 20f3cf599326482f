"""Reads conversations, memberships, and the list of a user's conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from imserver.cluster.history import count_fitting
from imserver.messages.log.contract import (
    MOST_UNREAD,
    UNREAD_ENTRIES,
    Conversation,
    ConversationSummary,
    Entry,
    Membership,
    page_size,
)
from imserver.messages.log.read import fetch, reads
from imserver.messages.log.rows import (
    ANNOTATIONS,
    CONVERSATION_KINDS,
    NUMBERS,
    SQLITE_BY_CONVERSATION,
    SQLITE_BY_GROUP,
    LogHead,
    LogPart,
    conversation_of,
    count_members,
    in_log,
    pair_of,
    read_log,
)
from imserver.messages.log.threads import beside, has_threads
from imserver.messages.log.unread import UnreadMessages, read_positions, read_unread
from imserver.model import Limit
from imserver.storage.statements import Statements, text_of

_COLUMNS: Final = (
    "c.id, c.kind, c.name, c.pair, c.last_id, c.last_seq, c.created, c.open, c.options, c.bots, c.avatar, "
    "c.description"
)
_CONVERSATIONS: Final = f"SELECT {_COLUMNS} FROM conversation c WHERE c.log = %s AND "
_MEMBERS: Final = (
    "SELECT s.member, s.conversation, s.joined_id, s.left_id, s.role, s.muted_until, c.kind, s.bot "
    "FROM membership s {} JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
    "WHERE s.log = %s AND "
)
"""``{}``: place of an index hint."""
_SEARCHED: Final = 20_000
"""Conversations among which groups are searched: the newest."""


class ConversationReader(LogPart):
    """Reads conversations and memberships."""

    def get(self, app: str, conversation: int) -> Conversation | None:
        """One conversation."""
        return self._conversation(app, "c.id = %s", conversation)

    @in_log(list)
    def find(self, sql: Statements, head: LogHead, ids: Sequence[int]) -> list[Conversation]:
        """The conversations with these ids that exist, ordered by id."""
        rows = sql.query_in(f"{_CONVERSATIONS} c.id IN {{}}", (head.number,), ids)
        return sorted(map(conversation_of, rows), key=lambda one: one.id)

    def between(self, app: str, user: str, other: str) -> Conversation | None:
        """The conversation of two users, None if they have none."""
        return self._conversation(app, "c.pair = %s", pair_of(user, other))

    @in_log(list)
    def groups_named(self, sql: Statements, head: LogHead, text: str, limit: int) -> list[Conversation]:
        """The newest groups whose name contains a text, among the newest conversations."""
        spellings = sql.spellings(text)
        has_text = " OR ".join([sql.contains("lower(c.name)")] * len(spellings))
        where = f"c.id > %s AND c.kind = {CONVERSATION_KINDS.index('group')} AND ({has_text})"
        first = head.last_conversation - _SEARCHED
        rows = sql.query(
            f"{_CONVERSATIONS} {where} ORDER BY c.id DESC LIMIT %s", (head.number, first, *spellings, limit)
        )
        return list(map(conversation_of, rows))

    @in_log()
    def _conversation(self, sql: Statements, head: LogHead, where: str, value: Any) -> Conversation | None:
        rows = sql.query(f"{_CONVERSATIONS} {where}", (head.number, value))
        return conversation_of(rows[0]) if rows else None

    def memberships(self, app: str, user: str) -> list[Membership]:
        """All memberships of a user, including ended ones."""
        return self._members(app, "s.member = %s ORDER BY s.conversation, s.joined_id", (user,))

    def members(self, app: str, conversation: int, after: str, limit: int) -> list[Membership]:
        """Members with an id after ``after``, ordered by id."""
        where = "s.conversation = %s AND s.left_id IS NULL AND s.member > %s ORDER BY s.member LIMIT %s"
        return self._members(app, where, (conversation, after, limit), SQLITE_BY_GROUP)

    @in_log(int)
    def count_members(self, sql: Statements, head: LogHead, conversation: int) -> int:
        """The number of members."""
        return count_members(sql, head.number, conversation)

    def member(self, app: str, conversation: int, user: str, *, or_left: bool = False) -> Membership | None:
        """The current membership of a user. ``or_left``: it may have ended."""
        where = f"s.conversation = %s AND s.member = %s{'' if or_left else ' AND s.left_id IS NULL'}"
        return next(iter(self._members(app, where, (conversation, user))), None)

    @in_log(set)
    def sharing(self, sql: Statements, head: LogHead, user: str, others: Sequence[str]) -> set[str]:
        """The users among ``others`` who are in a conversation with a user, at present."""
        return _sharing(sql, head, user, others)

    @in_log(set)
    def acquainted(self, sql: Statements, head: LogHead, user: str, others: Sequence[str]) -> set[str]:
        """The users among ``others`` who are in a group with a user, at present, or have written to them."""
        in_groups = _sharing(sql, head, user, others, f"AND c.kind = {CONVERSATION_KINDS.index('group')} ")
        pairs = {pair_of(user, other): other for other in others if other not in in_groups}
        # Each conversation is read up to the first message of the other.
        statement = (
            "SELECT c.pair FROM conversation c WHERE c.log = %s AND EXISTS (SELECT 1 FROM message m "
            f"{sql.on_sqlite(SQLITE_BY_CONVERSATION)} WHERE m.log = c.log AND m.conversation = c.id "
            f"AND m.sender <> %s AND m.kind = {NUMBERS['message']}) AND c.pair IN {{}}"
        )
        rows = sql.query_in(statement, (head.number, user), list(pairs))
        return in_groups | {pairs[bytes(row[0])] for row in rows}

    def _members(self, app: str, where: str, values: Sequence[Any], hint: str = "") -> list[Membership]:
        """Memberships of an app. ``hint`` is the index that SQLite uses."""

        def work(sql: Statements, head: LogHead) -> list[Membership]:
            statement = _MEMBERS.format(sql.on_sqlite(hint)) + where
            return [_membership(app, row) for row in sql.query(statement, (head.number, *values))]

        return read_log(self._store, app, work, [])

    @in_log(lambda: ([], False))
    def page(
        self, sql: Statements, head: LogHead, user: str, before: int, limit: int
    ) -> tuple[list[ConversationSummary], bool]:
        """A user's conversations whose newest id is below ``before`` (0: all), newest first: as many as fit
        on a page; and whether there are more.
        """
        values = (user, user, user, head.number, user, user, before or Limit.ID, limit + 1)
        lists = _LISTS if has_threads(sql, head) else _LISTS_WITHOUT_THREADS
        rows = sql.query(lists[sql.engine], values)
        ids = [row[-3] for row in rows if row[-3] is not None]
        last = {entry.id: entry for entry in fetch(sql, head.number, ids, user)}
        summaries = [_summary(row, last) for row in rows[:limit]]
        count = count_fitting(page_size(each.last) if each.last else 0 for each in summaries)
        return summaries[:count], len(rows) > count

    @in_log(dict)
    def unread(
        self,
        sql: Statements,
        head: LogHead,
        users: Mapping[int, Sequence[str]],
        mentioned: Mapping[int, Sequence[str]],
    ) -> dict[int, UnreadMessages]:
        """What these users of each conversation have not read. ``mentioned``: conversation → those of them
        whose mentions are wanted. The number of queries does not grow with them, up to some dozens."""
        return {id: read_unread(sql, head, id, some, mentioned.get(id, ())) for id, some in users.items()}

    @in_log(dict)
    def read_positions(
        self, sql: Statements, head: LogHead, users: Mapping[int, Sequence[str]]
    ) -> dict[tuple[str, int], int]:
        """(user, conversation) → read position, of these users of each conversation who are its members."""
        return {
            (user, id): read
            for id, some in users.items()
            for user, read in read_positions(sql, head, id, some).items()
        }


def _sharing(
    sql: Statements, head: LogHead, user: str, others: Sequence[str], condition: str = ""
) -> set[str]:
    statement = (
        "SELECT o.member FROM membership o WHERE o.log = %s AND o.left_id IS NULL AND EXISTS "
        "(SELECT 1 FROM membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
        "WHERE s.log = o.log AND s.member = %s AND s.conversation = o.conversation AND s.left_id IS NULL "
        f"{condition}) AND o.member IN {{}}"
    )
    rows = sql.query_in(statement, (head.number, user), list(dict.fromkeys(others)))
    return {text_of(row[0]) for row in rows}


# A user who rejoined a group has several memberships; the last one counts. The messages are read only for the
# conversations of the page.
_PAGE: Final = (
    f"SELECT {_COLUMNS}, s.role, coalesce(r.read_id, 0) AS read_id, "
    f"coalesce(s.left_id, c.last_id) AS place, s.joined_id, coalesce(s.left_id, {Limit.ID}) AS upto, s.log, "
    "s.member, s.bot "
    "FROM membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
    "LEFT JOIN read_position r ON r.log = s.log AND r.member = s.member AND r.conversation = s.conversation "
    "WHERE s.log = %s AND s.member = %s AND s.joined_id = (SELECT max(o.joined_id) FROM membership o "
    "WHERE o.log = s.log AND o.member = %s AND o.conversation = s.conversation) "
    "AND coalesce(s.left_id, c.last_id) < %s ORDER BY coalesce(s.left_id, c.last_id) DESC LIMIT %s"
)


_IN_CONVERSATION: Final = f" AND NOT {beside('m.log', 'm.conversation', 'm.id')}"
"""Condition: the conversation shows the message ``m``, not its thread alone."""


def _list(page: str, unread: str, mentions: str, hint: str = "") -> str:
    """``hint`` names the index to use. Without it the engine may scan the log."""
    seen = (
        f"FROM message m {hint} WHERE m.log = p.log AND m.conversation = p.id AND m.id > p.joined_id "
        f"AND {reads('p')}"
    )
    last = (
        f"SELECT m.id {seen} AND m.id <= p.upto AND m.kind NOT IN {ANNOTATIONS}"
        f"{_IN_CONVERSATION} AND NOT EXISTS (SELECT 1 FROM hidden h "
        "WHERE h.log = m.log AND h.member = %s AND h.id = m.id) ORDER BY m.id DESC LIMIT 1"
    )
    columns = _COLUMNS.replace("c.", "p.")
    return (
        f"SELECT {columns}, p.role, p.read_id, p.place, ({last}), ({unread.replace('{seen}', seen)}), "
        f"({mentions}) "
        f"FROM ({page}) p ORDER BY p.place DESC"
    )


_OF_OTHERS: Final = f"m.kind = {NUMBERS['message']} AND m.sender <> p.member"
_UNREAD: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM (SELECT m.log, m.conversation, m.id, m.kind, m.sender {seen} "
    f"AND m.id > p.read_id AND m.id <= p.upto ORDER BY m.id DESC LIMIT {UNREAD_ENTRIES}) m "
    f"WHERE {_OF_OTHERS}{_IN_CONVERSATION} LIMIT {MOST_UNREAD}) u"
)
_MENTIONING: Final = (
    "FROM mention n JOIN message m ON m.log = n.log AND m.id = n.id WHERE n.log = p.log "
    "AND n.member IN ('', %s) AND n.conversation = p.id AND n.id > p.joined_id AND n.id <= p.upto "
    f"AND m.sender <> %s{_IN_CONVERSATION}"
)
_MENTIONS: Final = f"SELECT count(*) FROM (SELECT 1 {_MENTIONING} AND n.id > p.read_id LIMIT {MOST_UNREAD}) c"
# MariaDB: derived tables cannot refer to outer columns, and without a limit they are merged into the query.
_BY_CONVERSATION: Final = "FORCE INDEX (message_by_conversation)"


def _with_oldest(page: str, first: str, condition: str, entries: int, name: str) -> str:
    """The page with one more column: the id of the last of so many entries from the newest down to ``first``,
    or, if there are fewer, ``first``."""
    return (
        f"SELECT q.*, coalesce((SELECT m.id FROM message m {_BY_CONVERSATION} WHERE m.log = q.log "
        f"AND m.conversation = q.id AND m.id <= q.upto AND m.id >= {first} {condition} "
        f"ORDER BY m.id DESC LIMIT 1 OFFSET {entries - 1}), {first}) AS {name} FROM ({page}) q "
        f"LIMIT {Limit.ID}"
    )


_LISTS: Final = {
    "sqlite": _list(_PAGE, _UNREAD, _MENTIONS, SQLITE_BY_CONVERSATION),
    "postgresql": _list(_PAGE, _UNREAD, _MENTIONS),
    "mysql": _list(
        _with_oldest(
            _with_oldest(_PAGE, "q.read_id + 1", "", UNREAD_ENTRIES, "counted"),
            "q.counted",
            f"AND m.kind = {NUMBERS['message']} AND m.sender <> q.member{_IN_CONVERSATION}",
            MOST_UNREAD,
            "oldest",
        ),
        "SELECT count(*) {seen} AND m.id >= p.oldest AND m.id <= p.upto "
        f"AND {_OF_OTHERS}{_IN_CONVERSATION}",
        f"SELECT count(*) {_MENTIONING} AND n.id >= p.oldest",
        _BY_CONVERSATION,
    ),
}
_LISTS_WITHOUT_THREADS: Final = {
    engine: statement.replace(_IN_CONVERSATION, "") for engine, statement in _LISTS.items()
}
"""For a log without threads: the look-up of each unread message costs a third
(docs/decisions/0031-threads.md)."""


def _summary(row: Sequence[Any], last: dict[int, Entry]) -> ConversationSummary:
    role, read, position, last_id, unread, mentions = row[12:]
    return ConversationSummary(
        conversation_of(row), last.get(last_id), unread, read, text_of(role), position, mentions
    )


def _membership(app: str, row: Sequence[Any]) -> Membership:
    return Membership(
        app=app,
        user=text_of(row[0]),
        conversation=row[1],
        joined_id=row[2],
        left_id=row[3],
        role=text_of(row[4]),
        muted_until=row[5],
        kind_of_conversation=CONVERSATION_KINDS[row[6]],
        bot=bool(row[7]),
    )
