"""Reads what many users have not read of a conversation, in few queries.

The list of a user's conversations (:meth:`ConversationReader.page`) counts the same, for one user.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence

from imserver.storage.log.contract import MOST_UNREAD
from imserver.storage.log.rows import ANNOTATIONS, NUMBERS, SQLITE_BY_CONVERSATION, LogHead
from imserver.storage.statements import Statements, text_of

_MESSAGE = NUMBERS["message"]


class UnreadMessages:
    """The newest messages of a conversation, at most :data:`MOST_UNREAD` entries, and how far users have read
    it.

    ``reads``: user → position; without users who are no members, and without bots. ``ids``: of the messages,
    in order, with their ``senders`` and ``times`` (Unix milliseconds).
    """

    def __init__(
        self,
        reads: dict[str, int],
        messages: Sequence[tuple[int, str, int]],
        mentions: Collection[tuple[str, int]] = (),
        hidden: Collection[tuple[str, int]] = (),
    ) -> None:
        self.reads = reads
        self.ids = [id for id, _, _ in messages]
        self.senders = [sender for _, sender, _ in messages]
        self.times = [time for _, _, time in messages]
        self._hidden = frozenset(hidden)
        self._by_sender: dict[str, list[int]] = {}
        for id, sender, _ in messages:
            self._by_sender.setdefault(sender, []).append(id)
        self._indexes = {id: index for index, id in enumerate(self.ids)}
        self._mentions: dict[str, list[int]] = {}
        """User (``""``: everybody) → indexes of the messages that mention them."""
        for user, id in sorted(mentions):
            if id in self._indexes:
                self._mentions.setdefault(user, []).append(self._indexes[id])

    def count(self, user: str) -> int:
        """The number of messages of others that a user has not read."""
        after = self.reads[user]
        own = self._by_sender.get(user, ())
        return len(self.ids) - bisect_right(self.ids, after) - len(own) + bisect_right(own, after)

    def is_unread(self, user: str, id: int) -> bool:
        """Whether this is a message that a user has not read or hidden."""
        return id > self.reads[user] and id in self._indexes and (user, id) not in self._hidden

    def among(
        self, user: str, after: int, mentions: bool = False, newest_first: bool = False
    ) -> Iterator[int]:
        """The indexes of the messages of others behind ``after`` that a user has not read or hidden, in
        order. ``mentions``: only of those that mention the user or everybody."""
        first = bisect_right(self.ids, max(after, self.reads[user]))
        indexes: Sequence[int] = range(first, len(self.ids))
        if mentions:
            named = {*self._mentions.get(user, ()), *self._mentions.get("", ())}
            indexes = sorted(index for index in named if index >= first)
        for index in reversed(indexes) if newest_first else indexes:
            if self.senders[index] != user and (user, self.ids[index]) not in self._hidden:
                yield index


def read_unread(
    sql: Statements, head: LogHead, conversations: Mapping[int, Sequence[str]]
) -> dict[int, UnreadMessages]:
    """Conversation → its messages that one of its users has not read. See :class:`UnreadMessages`."""
    return {id: _unread(sql, head, id, users) for id, users in conversations.items()}


def read_positions(
    sql: Statements, head: LogHead, conversations: Mapping[int, Sequence[str]]
) -> dict[tuple[str, int], int]:
    """(user, conversation) → read position of the members; without bots. What was written before a user has
    joined counts as read."""
    return {
        (user, id): read
        for id, users in conversations.items()
        for user, read in _positions(sql, head, id, users).items()
    }


def _positions(sql: Statements, head: LogHead, conversation: int, users: Sequence[str]) -> dict[str, int]:
    statement = (
        "SELECT s.member, s.joined_id, coalesce(r.read_id, 0), s.bot FROM membership s "
        "LEFT JOIN read_position r ON r.log = s.log AND r.member = s.member "
        "AND r.conversation = s.conversation "
        "WHERE s.log = %s AND s.conversation = %s AND s.left_id IS NULL AND s.member IN {}"
    )
    rows = sql.query_in(statement, (head.number, conversation), list(dict.fromkeys(users)))
    return {text_of(user): max(joined, read) for user, joined, read, bot in rows if not bot}


def _unread(sql: Statements, head: LogHead, conversation: int, users: Sequence[str]) -> UnreadMessages:
    reads = _positions(sql, head, conversation, users)
    if not reads:
        return UnreadMessages({}, ())
    hint = sql.on_sqlite(SQLITE_BY_CONVERSATION)
    newest = (
        f"SELECT m.id, m.sender, m.time_ms, m.kind FROM message m {hint} WHERE m.log = %s "
        f"AND m.conversation = %s AND m.id > %s AND m.kind NOT IN {ANNOTATIONS} ORDER BY m.id DESC LIMIT %s"
    )
    after = max(head.floor, min(reads.values()))
    found = sql.query(newest, (head.number, conversation, after, MOST_UNREAD))
    messages = [(id, text_of(sender), time) for id, sender, time, kind in reversed(found) if kind == _MESSAGE]
    if not messages:
        return UnreadMessages(reads, ())
    ids = [id for id, _, _ in messages]
    mentions = sql.query_in(
        "SELECT n.member, n.id FROM mention n WHERE n.log = %s AND n.id IN {}", (head.number,), ids, many=True
    )
    hidden = sql.query_in(
        "SELECT h.member, h.id FROM hidden h WHERE h.log = %s AND h.id >= %s AND h.member IN {}",
        (head.number, ids[0]),
        list(reads),
        many=True,
    )
    return UnreadMessages(
        reads,
        messages,
        [(text_of(user), id) for user, id in mentions],
        [(text_of(user), id) for user, id in hidden],
    )
