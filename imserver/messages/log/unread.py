"""Reads what many users have not read of a conversation, in few queries.

The list of a user's conversations (:meth:`ConversationReader.page`) counts the same, for one user.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from imserver.messages.log.contract import MOST_UNREAD
from imserver.messages.log.rows import ANNOTATIONS, NUMBERS, SQLITE_BY_CONVERSATION, LogHead
from imserver.messages.log.threads import NO_REPLIES, Replies, replies_beside
from imserver.storage.statements import Statements, chunks, marks_of, padded, text_of

MOST_MENTIONS: Final = 100
"""The newest messages that mention a user, or everybody, and are looked at."""
_MESSAGE: Final = NUMBERS["message"]
_USERS_AT_ONCE: Final = 32
"""Users in one query for hidden messages, who may have hidden all."""


class UnreadMessages:
    """The newest messages of a conversation, at most :data:`MOST_UNREAD` entries, and how far users have read
    it.

    ``reads``: user → position; without users who are no members, and without bots. ``ids``: of the messages,
    in order, with their ``senders`` and ``times`` (Unix milliseconds). ``mentions``: (user, message), the
    user is ``""`` for everybody. ``is_cut``: there may be older messages. ``replies``: those among the
    messages that only a thread shows. They are messages for those who follow the thread.
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
        self.reads = reads
        self.ids = [id for id, _, _ in messages]
        self.senders = [sender for _, sender, _ in messages]
        self.times = [time for _, _, time in messages]
        self._is_cut = is_cut
        self._replies = replies
        self._by_sender: dict[str, list[int]] = {}
        for id, sender, _ in messages:
            self._by_sender.setdefault(sender, []).append(id)
        self._indexes = {id: index for index, id in enumerate(self.ids)}
        self._hidden: dict[str, set[int]] = {}
        """User → indexes of the messages that they have hidden."""
        for user, id in hidden:
            if id in self._indexes:
                self._hidden.setdefault(user, set()).add(self._indexes[id])
        self._mentions: dict[str, list[int]] = {}
        """User (``""``: everybody) → indexes of the messages that mention them."""
        for user, id in sorted(mentions):
            if id in self._indexes:
                self._mentions.setdefault(user, []).append(self._indexes[id])

    def has_older(self, user: str, mentions: bool = False) -> bool:
        """Whether there may be messages before the first of :meth:`among`."""
        named = (self._mentions.get(each, ()) for each in (user, "")) if mentions else ()
        return self._is_cut or any(len(each) >= MOST_MENTIONS for each in named)

    def count(self, user: str) -> int:
        """The number of messages of others that a user has not read."""
        after = self.reads[user]
        own = self._by_sender.get(user, ())
        count = len(self.ids) - bisect_right(self.ids, after) - len(own) + bisect_right(own, after)
        for id in self._replies.roots:
            if id > after and self._replies.is_silent(user, id) and self.senders[self._indexes[id]] != user:
                count -= 1
        return count

    def is_unread(self, user: str, id: int) -> bool:
        """Whether this is a message that a user has not read or hidden."""
        index = self._indexes.get(id)
        if index is None or id <= self.reads[user] or self._replies.is_silent(user, id):
            return False
        return index not in self._hidden.get(user, ())

    def among(
        self, user: str, after: int, mentions: bool = False, newest_first: bool = False
    ) -> Iterator[int]:
        """The indexes of the messages of others behind ``after`` that a user has not read or hidden, in
        order. ``mentions``: only of those that mention the user or everybody."""
        first = bisect_right(self.ids, max(after, self.reads[user]))
        indexes: Sequence[int] = range(first, len(self.ids))
        hidden = self._hidden.get(user, ())
        if mentions:
            named = {*self._mentions.get(user, ()), *self._mentions.get("", ())}
            indexes = sorted(index for index in named if index >= first)
        for index in reversed(indexes) if newest_first else indexes:
            if self.senders[index] == user or index in hidden:
                continue
            if not self._replies.is_silent(user, self.ids[index]):
                yield index


def read_positions(sql: Statements, head: LogHead, conversation: int, users: Sequence[str]) -> dict[str, int]:
    """User → read position, for the members among these users; without bots. What was written before a user
    has joined counts as read."""
    statement = (
        "SELECT s.member, s.joined_id, coalesce(r.read_id, 0), s.bot FROM membership s "
        "LEFT JOIN read_position r ON r.log = s.log AND r.member = s.member "
        "AND r.conversation = s.conversation "
        "WHERE s.log = %s AND s.conversation = %s AND s.left_id IS NULL AND s.member IN {}"
    )
    rows = sql.query_in(statement, (head.number, conversation), list(dict.fromkeys(users)))
    return {text_of(user): max(joined, read) for user, joined, read, bot in rows if not bot}


def read_unread(
    sql: Statements, head: LogHead, conversation: int, users: Sequence[str], mentioned: Sequence[str]
) -> UnreadMessages:
    """The messages of a conversation that one of these users has not read. ``mentioned``: the users whose
    mentions are wanted."""
    reads = read_positions(sql, head, conversation, users)
    if not reads:
        return UnreadMessages({}, ())
    hint = sql.on_sqlite(SQLITE_BY_CONVERSATION)
    newest = (
        f"SELECT m.id, m.sender, m.time_ms, m.kind FROM message m {hint} WHERE m.log = %s "
        f"AND m.conversation = %s AND m.id > %s AND m.kind NOT IN {ANNOTATIONS} ORDER BY m.id DESC LIMIT %s"
    )
    after = max(head.floor, min(reads.values()))
    rows = sql.query(newest, (head.number, conversation, after, MOST_UNREAD))
    messages = [(id, text_of(sender), time) for id, sender, time, kind in reversed(rows) if kind == _MESSAGE]
    if not messages:
        return UnreadMessages(reads, ())
    first, last = messages[0][0], messages[-1][0]
    return UnreadMessages(
        reads,
        messages,
        _mentions(sql, head, conversation, first, mentioned) if mentioned else (),
        _hidden(sql, head, conversation, first, last, list(reads)),
        len(rows) == MOST_UNREAD,
        replies_beside(sql, head, conversation, [id for id, _, _ in messages]),
    )


def _mentions(
    sql: Statements, head: LogHead, conversation: int, first: int, users: Sequence[str]
) -> list[tuple[str, int]]:
    """(user, message) of the newest messages from ``first`` on that mention these users, or everybody."""
    mentions = "FROM mention n WHERE n.log = %s AND n.conversation = %s AND n.id >= %s AND n.member IN {}"
    names, which = ["", *dict.fromkeys(users)], (head.number, conversation, first)
    if sql.engine == "postgresql":  # it has a limit for each user
        newest = f"SELECT n.member, n.id {mentions} ORDER BY n.id DESC LIMIT {MOST_MENTIONS}"
        rows = sql.query_in(newest, which, names, many=True)
    else:
        numbered = "row_number() OVER (PARTITION BY n.member ORDER BY n.id DESC) AS k"
        newest = (
            f"SELECT q.member, q.id FROM (SELECT n.member, n.id, {numbered} {mentions}) q WHERE q.k <= %s"
        )
        rows = [
            row
            for some in map(partial(padded, filler=""), chunks(names))
            for row in sql.query(newest.replace("{}", marks_of(len(some))), (*which, *some, MOST_MENTIONS))
        ]
    return [(text_of(user), id) for user, id in rows]


def _hidden(
    sql: Statements, head: LogHead, conversation: int, first: int, last: int, users: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """(user, message) of the messages that these users have hidden."""
    statement = (
        "SELECT h.member, h.id FROM hidden h CROSS JOIN message m WHERE h.log = %s AND h.id >= %s "
        "AND h.id <= %s AND m.log = h.log AND m.id = h.id AND m.conversation = %s AND h.member IN {}"
    )
    for some in chunks(users, _USERS_AT_ONCE):
        for user, id in sql.query_in(statement, (head.number, first, last, conversation), some, many=True):
            yield text_of(user), id
