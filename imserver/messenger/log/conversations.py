"""Reads conversations, memberships, and the list of a user's conversations."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from imserver.gateway.cluster.history import count_fitting
from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import (
    Row,
    Statements,
    chunks,
    marks_of,
    padded,
    text_of,
)
from imserver.messenger.log.contract import (
    MOST_UNREAD,
    OPENNESS,
    UNREAD_ENTRIES,
    Conversation,
    ConversationSummary,
    Entry,
    Everybody,
    Membership,
    page_size,
)
from imserver.messenger.log.handles import MOST_HANDLES, reached
from imserver.messenger.log.read import fetch, reads
from imserver.messenger.log.rows import (
    ANNOTATIONS,
    CONVERSATION_KINDS,
    NUMBERS,
    SQLITE_BY_CONVERSATION,
    SQLITE_BY_GROUP,
    LogHead,
    conversation_of,
    count_members,
    in_log,
    members_among,
    pair_of,
)
from imserver.messenger.log.threads import (
    NO_REPLIES,
    Replies,
    beside,
    replies_beside,
)
from imserver.plugin.storage import Store

_COLUMNS: Final = (
    "c.id, c.kind, c.name, c.pair, c.last_id, c.last_seq, c.created, c.open, c.options, c.bots, c.avatar, "
    "c.description, c.handle"
)
_CONVERSATIONS: Final = f"SELECT {_COLUMNS} FROM conversation c WHERE c.log = %s AND "
_MEMBERS: Final = (
    "SELECT s.member, s.conversation, s.joined_id, s.left_id, s.role, s.muted_until, c.kind, s.bot "
    "FROM membership s {} "
    "JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
    "WHERE s.log = %s AND "
)
"""Selects memberships. ``{}`` is the place of an index hint."""
MOST_MENTIONS: Final = 100
"""The most messages with mentions of a user, or of everybody, that are read.
The newest are read."""
_USERS_AT_ONCE: Final = 32
"""The most users in one query for hidden messages. There is a limit because
each user may have hidden all messages."""
_SEARCHED: Final = 20_000
"""A search for groups reads this number of the newest conversations."""
_COLUMN_COUNT: Final = len(_COLUMNS.split(","))
_LAST_ID_COLUMN: Final = -3
"""The index of a column in the rows of :func:`_list`: the last entry that the
user may read."""
UsersOf = Mapping[int, Sequence[str]]
"""Conversation → some users."""


class ConversationReader(Store.Rows):
    """Reads conversations and memberships."""

    def get(self, app: str, conversation: int) -> Conversation | None:
        """Return a conversation, or None if the id is unknown."""
        return self._conversation(app, "c.id = %s", conversation)

    @in_log(list)
    def find(
        self, sql: Statements, head: LogHead, ids: Sequence[int]
    ) -> list[Conversation]:
        """Return the existing conversations with these ids, ordered by id."""
        rows = sql.query_in(f"{_CONVERSATIONS} c.id IN {{}}", (head.number,), ids)
        return sorted(map(conversation_of, rows), key=attrgetter("id"))

    def between(self, app: str, user: str, other: str) -> Conversation | None:
        """Return the conversation of two users, or None if they have not
        written to each other."""
        return self._conversation(app, "c.pair = %s", pair_of(user, other))

    @in_log(list)
    def groups_named(
        self, sql: Statements, head: LogHead, text: str, limit: int
    ) -> list[Conversation]:
        """Return the newest groups whose name contains a text. Only the newest
        conversations are searched."""
        # The name is stored as it was written, so several spellings are tried.
        spellings = sql.spellings(text)
        has_text = " OR ".join([sql.contains("lower(c.name)")] * len(spellings))
        where = (
            f"c.id > %s AND c.kind = {CONVERSATION_KINDS.index('group')} "
            f"AND ({has_text})"
        )
        after = head.last_conversation - _SEARCHED
        rows = sql.query(
            f"{_CONVERSATIONS} {where} ORDER BY c.id DESC LIMIT %s",
            (head.number, after, *spellings, limit),
        )
        return list(map(conversation_of, rows))

    @in_log(list)
    def open_groups(
        self, sql: Statements, head: LogHead, below: int, limit: int
    ) -> list[Conversation]:
        """Return the groups that anybody may join, the newest first. Only
        groups with an id below ``below`` are returned."""
        rows = sql.query(
            f"{_CONVERSATIONS} c.open = 1 AND c.id < %s ORDER BY c.id DESC LIMIT %s",
            (head.number, below, limit),
        )
        return list(map(conversation_of, rows))

    @in_log(list)
    def with_handles(self, sql: Statements, head: LogHead) -> list[Conversation]:
        """Return the groups that have a handle, ordered by handle."""
        rows = sql.query(
            f"{_CONVERSATIONS} c.handle > '' ORDER BY c.handle LIMIT %s",
            (head.number, MOST_HANDLES),
        )
        return list(map(conversation_of, rows))

    @in_log()
    def reached(
        self, sql: Statements, head: LogHead, group: int, conversation: int
    ) -> Sequence[str] | None:
        """Return the members of a group whom its handle mentions in a
        conversation. Returns None if the handle would mention too many
        members."""
        return reached(sql, head.number, group, conversation)

    def of_everybody(self) -> list[tuple[str, int, Everybody]]:
        """Return the groups of everybody in all apps. Each item is (app, id of
        the group, which users are members without joining)."""
        # 2 and 3 are the values of `OPENNESS` for groups of everybody.
        rows = self._store.rows(
            "SELECT l.app, c.id, c.open FROM conversation c "
            "JOIN log l ON l.number = c.log WHERE c.open IN (2, 3)"
        )
        return [(text_of(app), id, OPENNESS[openness][1]) for app, id, openness in rows]

    @in_log(dict)
    def sizes(
        self, sql: Statements, head: LogHead, groups: Sequence[int]
    ) -> dict[int, int]:
        """Return group → the number of its members."""
        return {group: count_members(sql, head.number, group) for group in groups}

    @in_log(set)
    def members_among(
        self, sql: Statements, head: LogHead, conversation: int, users: Sequence[str]
    ) -> set[str]:
        """Return the given users who are members of a conversation."""
        return set(members_among(sql, head.number, conversation, users))

    @in_log()
    def _conversation(
        self, sql: Statements, head: LogHead, where: str, value: Any
    ) -> Conversation | None:
        """Return the conversation that meets a condition with one value."""
        rows = sql.query(f"{_CONVERSATIONS} {where}", (head.number, value))
        if not rows:
            return None
        return conversation_of(rows[0])

    def memberships(self, app: str, user: str) -> list[Membership]:
        """Return all memberships of a user, including memberships that have
        ended."""
        return self._members(
            app, "s.member = %s ORDER BY s.conversation, s.joined_id", (user,)
        )

    def members(
        self, app: str, conversation: int, after: str, limit: int
    ) -> list[Membership]:
        """Return the members with an id after ``after``, ordered by id."""
        where = (
            "s.conversation = %s AND s.left_id IS NULL AND s.member > %s "
            "ORDER BY s.member LIMIT %s"
        )
        return self._members(app, where, (conversation, after, limit), SQLITE_BY_GROUP)

    @in_log(int)
    def count_members(self, sql: Statements, head: LogHead, conversation: int) -> int:
        """Return the number of members of a conversation."""
        return count_members(sql, head.number, conversation)

    def member(
        self, app: str, conversation: int, user: str, *, or_left: bool = False
    ) -> Membership | None:
        """Return the current membership of a user, or None. If ``or_left``, a
        membership that has ended counts, too."""
        where = "s.conversation = %s AND s.member = %s"
        if not or_left:
            where += " AND s.left_id IS NULL"
        memberships = self._members(app, where, (conversation, user))
        return next(iter(memberships), None)

    @in_log(set)
    def sharing(
        self, sql: Statements, head: LogHead, user: str, others: Sequence[str]
    ) -> set[str]:
        """Return the users among ``others`` who are at present in a
        conversation with a user."""
        return _sharing(sql, head, user, others)

    @in_log(set)
    def acquainted(
        self, sql: Statements, head: LogHead, user: str, others: Sequence[str]
    ) -> set[str]:
        """Return the users among ``others`` who are at present in a group with
        a user, or have written to the user."""
        is_group = f"AND c.kind = {CONVERSATION_KINDS.index('group')} "
        in_groups = _sharing(sql, head, user, others, is_group)
        # Only users without a common group need the slower query for messages.
        pairs = {
            pair_of(user, other): other for other in others if other not in in_groups
        }
        answered = _pairs_with_message(sql, head.number, user, list(pairs))
        have_written = {pairs[pair] for pair in answered}
        return in_groups | have_written

    @in_log(list)
    def _members(
        self,
        sql: Statements,
        head: LogHead,
        where: str,
        values: Sequence[Any],
        hint: str = "",
    ) -> list[Membership]:
        """Return memberships in the log of an app.

        ``where`` is the condition and the order, with placeholders for
        ``values``. ``hint`` is the index that SQLite uses. If it is ``""``,
        SQLite chooses.
        """
        statement = _MEMBERS.format(sql.on_sqlite(hint)) + where
        rows = sql.query(statement, (head.number, *values))
        return [
            Membership(
                user=text_of(user),
                conversation=conversation,
                joined_id=joined,
                left_id=left,
                role=text_of(role),
                muted_until=muted_until,
                kind_of_conversation=CONVERSATION_KINDS[kind],
                bot=bool(bot),
            )
            for user, conversation, joined, left, role, muted_until, kind, bot in rows
        ]

    @in_log(lambda: ([], False))
    def page(
        self, sql: Statements, head: LogHead, user: str, before: int, limit: int
    ) -> tuple[list[ConversationSummary], bool]:
        """Return a page of a user's conversations, and whether there are more.
        Conversations with the newest entries come first. ``before``: only
        conversations whose newest entry has a smaller id; 0 means all
        conversations."""
        # The values have the order of the placeholders: the user's hidden
        # messages, the mentions of the user, the senders of mentions, then
        # `_PAGE`.
        values = (
            user,
            user,
            user,
            head.number,
            user,
            user,
            before or Limit.ID,
            limit + 1,
        )
        # Most logs have no thread, and their query is quicker.
        threads = sql.query(
            "SELECT 1 FROM thread_reply WHERE log = %s LIMIT 1", (head.number,)
        )
        lists = _LISTS if threads else _LISTS_WITHOUT_THREADS
        rows = sql.query(lists[sql.engine], values)
        summaries = _summaries_of(sql, head, user, rows)[:limit]
        # A summary has its last message, so a page may be cut by size.
        count = count_fitting(
            page_size(each.last) if each.last else 0 for each in summaries
        )
        return summaries[:count], len(rows) > count

    @in_log(dict)
    def unread(
        self, sql: Statements, head: LogHead, users: UsersOf, mentioned: UsersOf
    ) -> dict[int, UnreadMessages]:
        """Return conversation → its messages that one of these users has not
        read. ``users``: conversation → users. ``mentioned``: conversation → the
        users whose mentions are wanted. Each conversation takes a few
        queries."""
        return {
            id: read_unread(sql, head, id, names, mentioned.get(id, ()))
            for id, names in users.items()
        }

    @in_log(dict)
    def read_positions(
        self, sql: Statements, head: LogHead, users: UsersOf
    ) -> dict[tuple[str, int], int]:
        """Return (user, conversation) → read position. ``users``: conversation
        → users. Only users who are members are in the result."""
        positions: dict[tuple[str, int], int] = {}
        for id, names in users.items():
            for user, read in read_positions(sql, head, id, names).items():
                positions[user, id] = read
        return positions


def _summaries_of(
    sql: Statements, head: LogHead, user: str, rows: Sequence[Row]
) -> list[ConversationSummary]:
    """Return the conversations of these rows of :func:`_list`, with their last
    messages."""
    last_ids = [row[_LAST_ID_COLUMN] for row in rows]
    # A conversation may have no message that the user may read.
    ids = [id for id in last_ids if id is not None]
    last_entries = {entry.id: entry for entry in fetch(sql, head.number, ids, user)}
    return [
        _summary_of(row, last_entries.get(row[_LAST_ID_COLUMN]), user) for row in rows
    ]


def _summary_of(row: Row, last: Entry | None, user: str) -> ConversationSummary:
    """Return a conversation as it is in the list of a user.

    ``row`` is a row of the query :func:`_list`: the columns of the
    conversation, then the columns of the user. ``last`` is the newest entry
    that the user may read, or None if there is no such entry.
    """
    columns_of_user = row[_COLUMN_COUNT:]
    role, read, position, joined_later, _last_id, unread, mentions = columns_of_user
    # A group is not new to a user who has made it or written in it.
    is_new = bool(joined_later) and text_of(role) != "owner"
    if last is not None and last.sender == user:
        is_new = False
    return ConversationSummary(
        conversation_of(row),
        last,
        min(unread, MOST_UNREAD),
        read,
        text_of(role),
        position,
        min(mentions, MOST_UNREAD),
        is_new=is_new,
        unread_more=unread > MOST_UNREAD,
    )


def _sharing(
    sql: Statements,
    head: LogHead,
    user: str,
    others: Sequence[str],
    condition: str = "",
) -> set[str]:
    """Return the users among ``others`` who share a conversation with a user
    now.

    ``condition`` is a further SQL condition for the conversation ``c``, which
    begins with AND.
    """
    statement = (
        "SELECT o.member FROM membership o WHERE o.log = %s AND o.left_id IS NULL "
        "AND EXISTS (SELECT 1 FROM membership s "
        "JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
        "WHERE s.log = o.log AND s.member = %s AND s.conversation = o.conversation "
        f"AND s.left_id IS NULL {condition}) AND o.member IN {{}}"
    )
    rows = sql.query_in(statement, (head.number, user), list(dict.fromkeys(others)))
    return {text_of(row[0]) for row in rows}


# A user who rejoined a group has several memberships. The last membership
# counts. The messages are read only for the conversations of the page.
_PAGE: Final = (
    f"SELECT {_COLUMNS}, s.role, coalesce(r.read_id, 0) AS read_id, "
    "coalesce(s.left_id, c.last_id) AS place, s.joined_id, "
    f"coalesce(s.left_id, {Limit.ID}) AS upto, s.log, s.member, s.bot "
    "FROM membership s "
    "JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
    "LEFT JOIN read_position r "
    "ON r.log = s.log AND r.member = s.member AND r.conversation = s.conversation "
    "WHERE s.log = %s AND s.member = %s "
    "AND s.joined_id = (SELECT max(o.joined_id) FROM membership o "
    "WHERE o.log = s.log AND o.member = %s AND o.conversation = s.conversation) "
    "AND coalesce(s.left_id, c.last_id) < %s "
    "ORDER BY coalesce(s.left_id, c.last_id) DESC LIMIT %s"
)
"""Selects a page of a user's conversations, without their messages. Values:
(log, user, user, before, limit)."""


_IS_NEW: Final = (
    f"CASE WHEN p.kind = {CONVERSATION_KINDS.index('group')} "
    "AND p.joined_id >= p.read_id "
    f"AND p.upto = {Limit.ID} THEN 1 ELSE 0 END"
)
_IN_CONVERSATION: Final = f" AND NOT {beside('m.log', 'm.conversation', 'm.id')}"
"""The SQL condition that the conversation shows the message ``m``, so that not
only a thread shows it."""


def _list(page: str, unread: str, mentions: str, hint: str = "") -> str:
    """Return the SQL query for a list of a user's conversations.

    Each row has the conversation, its last message, and the numbers of unread
    messages and mentions. ``page`` is the query for the conversations, without
    messages. ``unread`` and ``mentions`` are the queries for one conversation.
    In ``unread``, ``{seen}`` stands for the messages that the user may read.
    ``hint`` names the index to use. Without a hint the engine may scan the log.
    """
    seen = (
        f"FROM message m {hint} WHERE m.log = p.log AND m.conversation = p.id "
        f"AND m.id > p.joined_id AND {reads('p')}"
    )
    last = (
        f"SELECT m.id {seen} AND m.id <= p.upto AND m.kind NOT IN {ANNOTATIONS}"
        f"{_IN_CONVERSATION} AND NOT EXISTS (SELECT 1 FROM hidden h "
        "WHERE h.log = m.log AND h.member = %s AND h.id = m.id) "
        "ORDER BY m.id DESC LIMIT 1"
    )
    # In the outer query, the page is the table `p`.
    columns = _COLUMNS.replace("c.", "p.")
    return (
        f"SELECT {columns}, p.role, p.read_id, p.place, {_IS_NEW}, "
        f"({last}), ({unread.replace('{seen}', seen)}), "
        f"({mentions}) "
        f"FROM ({page}) p ORDER BY p.place DESC"
    )


_OF_OTHERS: Final = f"m.kind = {NUMBERS['message']} AND m.sender <> p.member"
_UNREAD: Final = (
    "SELECT count(*) FROM (SELECT 1 "
    "FROM (SELECT m.log, m.conversation, m.id, m.kind, m.sender {seen} "
    "AND m.id > p.read_id AND m.id <= p.upto "
    f"ORDER BY m.id DESC LIMIT {UNREAD_ENTRIES}) m "
    f"WHERE {_OF_OTHERS}{_IN_CONVERSATION} LIMIT {MOST_UNREAD + 1}) u"
)
_MENTIONING: Final = (
    "FROM mention n JOIN message m ON m.log = n.log AND m.id = n.id "
    "WHERE n.log = p.log "
    "AND n.member IN ('', %s) AND n.conversation = p.id AND n.id > p.joined_id "
    "AND n.id <= p.upto "
    f"AND m.sender <> %s{_IN_CONVERSATION}"
)
_MENTIONS: Final = (
    "SELECT count(*) "
    f"FROM (SELECT 1 {_MENTIONING} AND n.id > p.read_id LIMIT {MOST_UNREAD}) c"
)
# In MariaDB, derived tables cannot refer to outer columns. Without a limit they
# are merged into the query.
_BY_CONVERSATION: Final = "FORCE INDEX (message_by_conversation)"


def _with_oldest(page: str, first: str, condition: str, entries: int, name: str) -> str:
    """Return the query ``page`` with one more column: the id at which counting
    begins.

    Counting begins at the oldest of the newest ``entries`` entries, but not
    before ``first``. If there are fewer entries after ``first``, the id is
    ``first``. ``name`` is the name of the column, and ``condition`` a further
    condition for the entries.
    """
    return (
        f"SELECT q.*, coalesce((SELECT m.id FROM message m {_BY_CONVERSATION} "
        "WHERE m.log = q.log "
        f"AND m.conversation = q.id AND m.id <= q.upto AND m.id >= {first} {condition} "
        f"ORDER BY m.id DESC LIMIT 1 OFFSET {entries - 1}), {first}) AS {name} "
        f"FROM ({page}) q "
        f"LIMIT {Limit.ID}"
    )


_LISTS: Final = {
    "sqlite": _list(_PAGE, _UNREAD, _MENTIONS, SQLITE_BY_CONVERSATION),
    "postgresql": _list(_PAGE, _UNREAD, _MENTIONS),
    "mysql": _list(
        _with_oldest(
            _with_oldest(
                _PAGE,
                first="q.read_id + 1",
                condition="",
                entries=UNREAD_ENTRIES,
                name="counted",
            ),
            first="q.counted",
            condition=f"AND m.kind = {NUMBERS['message']} AND m.sender <> q.member{_IN_CONVERSATION}",
            entries=MOST_UNREAD + 1,
            name="oldest",
        ),
        "SELECT count(*) {seen} AND m.id >= p.oldest AND m.id <= p.upto "
        f"AND {_OF_OTHERS}{_IN_CONVERSATION}",
        f"SELECT count(*) {_MENTIONING} AND n.id >= p.oldest",
        _BY_CONVERSATION,
    ),
}
_LISTS_WITHOUT_THREADS: Final = {
    engine: statement.replace(_IN_CONVERSATION, "")
    for engine, statement in _LISTS.items()
}
"""The query for a log without threads. It does not look up the thread of each
unread message, which saves a third of the time
(docs/decisions/0031-threads.md)."""


# --- unread messages of many users --------------------------------------------


class UnreadMessages:
    """The newest messages of a conversation, at most :data:`MOST_UNREAD`
    entries, and how far users have read it.

    ``reads``: user → read position, for members who are not bots. ``messages``:
    (id, sender, Unix milliseconds), in order; the attributes ``ids``,
    ``senders`` and ``times`` have the same index for a message. ``mentions``:
    (user, message); the user ``""`` stands for everybody. ``hidden``: (user,
    message). ``is_cut``: whether there may be older messages. ``replies``: the
    messages that only a thread shows. They count only for users who follow the
    thread.
    """

    def __init__(
        self,
        reads: dict[str, int],
        messages: Sequence[tuple[int, str, int]],
        mentions: Collection[tuple[str, int]] = (),
        hidden: Iterable[tuple[str, int]] = (),
        is_cut: bool = False,
        replies: Replies = NO_REPLIES,
    ) -> None:
        """Sort the messages by sender and by user, as later calls need them.
        The class explains the arguments."""
        self.reads = reads
        self.ids = [id for id, _, _ in messages]
        self.senders = [sender for _, sender, _ in messages]
        self.times = [time for _, _, time in messages]
        self._is_cut = is_cut
        self._replies = replies
        # When the unread messages of a user are counted, the user's own
        # messages are subtracted.
        self._by_sender: dict[str, list[int]] = {}
        """Sender → the ids of their messages, in order."""
        for id, sender, _ in messages:
            self._by_sender.setdefault(sender, []).append(id)
        self._indexes = {id: index for index, id in enumerate(self.ids)}

        self._hidden = {
            user: set(indexes)
            for user, indexes in self._indexes_by_user(hidden).items()
        }
        """User → indexes of the messages that they have hidden."""
        self._mentions = self._indexes_by_user(sorted(mentions))
        """User → indexes of the messages that mention them. The user ``""``
        stands for everybody."""

    def _indexes_by_user(
        self, pairs: Iterable[tuple[str, int]]
    ) -> dict[str, list[int]]:
        """Return user → indexes, from pairs (user, message).

        Messages that are too old to be among these messages are left out.
        """
        indexes: dict[str, list[int]] = {}
        for user, id in pairs:
            if id in self._indexes:
                indexes.setdefault(user, []).append(self._indexes[id])
        return indexes

    def mention(self, user: str, ids: Iterable[int]) -> None:
        """Count these messages as mentions of a user, in addition to other
        mentions."""
        indexes = {self._indexes[id] for id in ids if id in self._indexes}
        indexes.update(self._mentions.get(user, ()))
        self._mentions[user] = sorted(indexes)

    def has_older(self, user: str, mentions: bool = False) -> bool:
        """Tell whether there may be unread messages before the first message
        that :meth:`among` returns. If ``mentions``, only messages that mention
        the user or everybody count."""
        if self._is_cut or not mentions:
            return self._is_cut
        # The number of mentions has a limit of its own.
        of_user = self._mentions.get(user, ())
        of_everybody = self._mentions.get("", ())
        return max(len(of_user), len(of_everybody)) >= MOST_MENTIONS

    def count(self, user: str) -> int:
        """Return the number of messages of others that a user has not read.
        Replies in threads that the user does not follow do not count."""
        read = self.reads[user]
        own_ids = self._by_sender.get(user, ())
        unread = len(self.ids) - bisect_right(self.ids, read)
        own_unread = len(own_ids) - bisect_right(own_ids, read)
        count = unread - own_unread
        # Subtract the replies that were counted, but are silent for the user.
        # The user's own replies were already subtracted.
        for id in self._replies.roots:
            if id <= read or not self._replies.is_silent(user, id):
                continue
            if self.senders[self._indexes[id]] != user:
                count -= 1
        return count

    def is_unread(self, user: str, id: int) -> bool:
        """Tell whether this is a message that a user has neither read nor
        hidden."""
        index = self._indexes.get(id)
        if index is None or id <= self.reads[user] or self._replies.is_silent(user, id):
            return False
        return index not in self._hidden.get(user, ())

    def among(
        self, user: str, after: int, mentions: bool = False, newest_first: bool = False
    ) -> Iterator[int]:
        """Yield the indexes of the messages of others after the id ``after``,
        in order. Messages that the user has read or hidden are left out. If
        ``mentions``, only messages that mention the user or everybody are
        included."""
        first = bisect_right(self.ids, max(after, self.reads[user]))
        indexes: Sequence[int] = range(first, len(self.ids))
        if mentions:
            of_user = self._mentions.get(user, ())
            of_everybody = self._mentions.get("", ())
            mentioning = {*of_user, *of_everybody}
            indexes = sorted(index for index in mentioning if index >= first)
        if newest_first:
            indexes = indexes[::-1]
        hidden = self._hidden.get(user, ())
        for index in indexes:
            if self.senders[index] == user or index in hidden:
                continue
            if not self._replies.is_silent(user, self.ids[index]):
                yield index


def _pairs_with_message(
    sql: Statements, log: int, user: str, pairs: Sequence[bytes]
) -> list[bytes]:
    """Return the pairs with a message that the other user has sent.

    A pair is the key of a conversation of two.
    """
    # Each conversation is read up to the first message of the other user.
    hint = sql.on_sqlite(SQLITE_BY_CONVERSATION)
    statement = (
        "SELECT c.pair FROM conversation c WHERE c.log = %s "
        f"AND EXISTS (SELECT 1 FROM message m {hint} "
        "WHERE m.log = c.log AND m.conversation = c.id "
        f"AND m.sender <> %s AND m.kind = {NUMBERS['message']}) "
        "AND c.pair IN {}"
    )
    return [bytes(row[0]) for row in sql.query_in(statement, (log, user), pairs)]


def read_positions(
    sql: Statements, head: LogHead, conversation: int, users: Sequence[str]
) -> dict[str, int]:
    """Return user → read position, for the given users who are members.

    Bots are left out. Entries before a user has joined count as read.
    """
    statement = (
        "SELECT s.member, s.joined_id, coalesce(r.read_id, 0), s.bot FROM membership s "
        "LEFT JOIN read_position r ON r.log = s.log AND r.member = s.member "
        "AND r.conversation = s.conversation "
        "WHERE s.log = %s AND s.conversation = %s AND s.left_id IS NULL "
        "AND s.member IN {}"
    )
    rows = sql.query_in(
        statement, (head.number, conversation), list(dict.fromkeys(users))
    )
    return {
        text_of(user): max(joined, read) for user, joined, read, bot in rows if not bot
    }


def read_unread(
    sql: Statements,
    head: LogHead,
    conversation: int,
    users: Sequence[str],
    mentioned: Sequence[str],
) -> UnreadMessages:
    """Read the messages of a conversation that one of these users has not read.

    ``mentioned`` are the users whose mentions are wanted in addition.
    """
    reads = read_positions(sql, head, conversation, users)
    if not reads:
        return UnreadMessages({}, ())
    # Begin after the position of the user who has read least.
    after = max(head.floor, min(reads.values()))
    messages, is_cut = _newest_messages(sql, head, conversation, after)
    if not messages:
        return UnreadMessages(reads, ())

    ids = [id for id, _, _ in messages]
    mentions: Sequence[tuple[str, int]] = ()
    if mentioned:
        mentions = _mentions(sql, head, conversation, ids[0], mentioned)
    return UnreadMessages(
        reads,
        messages,
        mentions,
        hidden=_hidden(sql, head, conversation, ids[0], ids[-1], list(reads)),
        is_cut=is_cut,
        replies=replies_beside(sql, head, conversation, ids),
    )


def _newest_messages(
    sql: Statements, head: LogHead, conversation: int, after: int
) -> tuple[list[tuple[int, str, int]], bool]:
    """Read the newest messages of a conversation after an id, in order.

    A message is (id, sender, Unix milliseconds). Among the newest
    :data:`MOST_UNREAD` entries, recalls and edits are left out. Returns also
    whether there may be older messages.
    """
    hint = sql.on_sqlite(SQLITE_BY_CONVERSATION)
    newest = (
        f"SELECT m.id, m.sender, m.time_ms, m.kind FROM message m {hint} "
        "WHERE m.log = %s AND m.conversation = %s AND m.id > %s "
        f"AND m.kind NOT IN {ANNOTATIONS} ORDER BY m.id DESC LIMIT %s"
    )
    # The newest entries come first, so the order is reversed below.
    rows = sql.query(newest, (head.number, conversation, after, MOST_UNREAD))
    messages = [
        (id, text_of(sender), time)
        for id, sender, time, kind in reversed(rows)
        if kind == NUMBERS["message"]
    ]
    return messages, len(rows) == MOST_UNREAD


def _mentions(
    sql: Statements, head: LogHead, conversation: int, first: int, users: Sequence[str]
) -> list[tuple[str, int]]:
    """Return (user, message) for the newest messages that mention these users.

    Mentions of everybody are returned with the user ``""``. Only messages from
    the id ``first`` on count, and at most :data:`MOST_MENTIONS` for each user.
    """
    mentions = (
        "FROM mention n WHERE n.log = %s AND n.conversation = %s AND n.id >= %s "
        "AND n.member IN {}"
    )
    names = ["", *dict.fromkeys(users)]  # "" stands for everybody
    values = (head.number, conversation, first)

    if sql.engine == "postgresql":
        # On this engine `query_in` runs the query for each name, each with a
        # limit of its own.
        newest = (
            f"SELECT n.member, n.id {mentions} ORDER BY n.id DESC LIMIT {MOST_MENTIONS}"
        )
        rows = sql.query_in(newest, values, names, many=True)
    else:
        # The other engines number the mentions of each user in the query.
        numbered = "row_number() OVER (PARTITION BY n.member ORDER BY n.id DESC) AS k"
        newest = (
            "SELECT q.member, q.id "
            f"FROM (SELECT n.member, n.id, {numbered} {mentions}) q WHERE q.k <= %s"
        )
        rows = []
        for chunk in chunks(names):
            members = padded(chunk, filler="")
            statement = newest.replace("{}", marks_of(len(members)))
            rows += sql.query(statement, (*values, *members, MOST_MENTIONS))

    return [(text_of(user), id) for user, id in rows]


def _hidden(
    sql: Statements,
    head: LogHead,
    conversation: int,
    first: int,
    last: int,
    users: Sequence[str],
) -> Iterator[tuple[str, int]]:
    """Yield (user, message) for the messages that these users have hidden.

    Only messages of one conversation count, with ids from ``first`` to
    ``last``.
    """
    # SQLite and MySQL keep the order of a CROSS JOIN, so the few rows of
    # `hidden` are read first.
    statement = (
        "SELECT h.member, h.id FROM hidden h CROSS JOIN message m "
        "WHERE h.log = %s AND h.id >= %s AND h.id <= %s "
        "AND m.log = h.log AND m.id = h.id AND m.conversation = %s AND h.member IN {}"
    )
    values = (head.number, first, last, conversation)
    for members in chunks(users, _USERS_AT_ONCE):
        for user, id in sql.query_in(statement, values, members, many=True):
            yield text_of(user), id
