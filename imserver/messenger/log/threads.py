"""Threads: replies that clients show beside their conversation.

A reply is a message of its conversation. Its ``meta`` has the first message of
the thread, and whether the conversation shows the reply, too. The ``meta`` of
the first message has the totals, so that a page of messages needs no query for
them. ``thread_reply`` has a row for each reply. ``thread_reader`` has the users
who follow a thread, with their read positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.cluster.history import count_fitting
from imserver.gateway.config.declared import about
from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Row, Statements, text_objection, text_of
from imserver.messenger.log.contract import (
    Draft,
    Entry,
    Rejected,
    RejectReason,
    page_size,
)
from imserver.messenger.log.meta import (
    THREAD_KEY,
    MessageMeta,
    ThreadTotals,
    with_keys,
)
from imserver.messenger.log.read import fetch, last_before, page_of, readable_sizes
from imserver.messenger.log.rows import (
    NUMBERS,
    ConversationState,
    LogHead,
    in_log,
    members_among,
)
from imserver.plugin.runtime import Service
from imserver.plugin.storage import Store

MOST_FACES: Final = 5
"""The most users that the totals of a thread name. The users who replied last
are named."""
MOST_UNREAD_REPLIES: Final = 100
"""Limit up to which the unread replies of a thread are counted."""
MOST_LISTED: Final = 1000
"""A list of threads reads this number of the user's newest threads. There is a
limit because each thread needs a look-up."""
MOST_ON_PAGE: Final = 50
"""The most threads on one page. The limit is low because the unread replies of
each thread are counted."""

_READER_COLUMNS: Final = "log, member, root, conversation, read_id, follows"
_READERS: Final = (
    f"SELECT {_READER_COLUMNS} FROM thread_reader "
    "WHERE log = %s AND member = %s ORDER BY root DESC LIMIT %s"
)
_LAST_REPLY: Final = (
    "SELECT max(t.id) FROM thread_reply t WHERE t.log = r.log AND t.root = r.root"
)
_THREADS_OF_USER: Final = (
    "SELECT q.root, q.conversation, q.read_id, q.last "
    "FROM (SELECT r.root, r.conversation, "
    f"r.read_id, ({_LAST_REPLY}) AS last "
    f"FROM ({_READERS}) r JOIN membership s ON s.log = r.log "
    "AND s.member = r.member AND s.conversation = r.conversation AND s.left_id IS NULL "
    "WHERE r.follows = 1) q "
    "WHERE q.last < %s AND q.last > %s ORDER BY q.last DESC LIMIT %s"
)
"""Selects the threads that a user follows, in conversations that the user is a
member of, from the newest threads. Threads with the newest replies come
first."""


def beside(log: str, conversation: str, id: str) -> str:
    """Return the SQL condition that only a thread shows a message.

    In this case, the conversation itself does not show the message. The
    parameters are the SQL expressions for the columns of the message:
    ``beside("m.log", "m.conversation", "m.id")``.
    """
    return (
        "EXISTS (SELECT 1 FROM thread_reply t "
        f"WHERE t.log = {log} AND t.conversation = {conversation} "
        f"AND t.id = {id} AND t.also = 0)"
    )


def is_beside(sql: Statements, log: int, conversation: int, id: int) -> bool:
    """Tell whether only a thread shows a message, not its conversation.

    The message must be of an earlier transaction.
    """
    statement = (
        "SELECT also FROM thread_reply WHERE log = %s AND conversation = %s AND id = %s"
    )
    rows = sql.query(statement, (log, conversation, id))
    return bool(rows) and rows[0][0] == 0


class ThreadIds(Struct, frozen=True):
    """The ids of the first message of a thread, and of its conversation."""

    thread: Annotated[int, about("The first message of the thread.")]
    conversation: Annotated[int, about("The conversation. A group has the same id.")]


class ThreadState(ThreadIds, frozen=True, kw_only=True):
    """A thread as one user sees it, without messages. ``unread``: the number of
    unread replies, at most :data:`MOST_UNREAD_REPLIES`."""

    last: Annotated[int, about("The last reply; 0: no reply.")]
    read: Annotated[int, about("The last reply that the user has read.")]
    unread: Annotated[
        int, about("The number of unread replies of other users, at most 100.")
    ]
    follows: Annotated[bool, about("Whether the user is notified of replies.")]


class Thread(ThreadState, frozen=True, kw_only=True):
    """A thread as one user sees it. ``message``: the first message. It is None
    if the user may not read it, or if it has expired."""

    message: Entry | None


class ThreadWriter(Service):
    """Writes the replies of one transaction.

    The object writes the rows of the replies, the totals of their threads, and
    the users who follow the threads. ``head`` is the head of the log, and
    ``before`` the last id before the transaction. ``entries`` are the entries
    of the transaction. The transaction adds entries to this list.
    """

    _sql: Statements
    _head: LogHead
    _before: int
    _entries: Sequence[Entry]
    _is_past: bool = False
    """Whether the transaction is an import."""
    _replies: dict[int, list[Entry]] = field(default_factory=dict)
    """First message of a thread → its new replies."""

    def complete(
        self, state: ConversationState, draft: Draft, is_past: bool = False
    ) -> Draft | Rejected:
        """Add the data of the thread to the draft of a reply, and return the
        draft.

        A reply to a reply is in the same thread. A draft without ``about`` is
        about the first message, so that clients without threads show the draft
        as a reply to that message. Returns Rejected if the thread is in another
        conversation, or the sender may not read the message.

        ``is_past``: whether the transaction is an import. If so, no rights are
        checked, and no reply is unread.
        """
        self._is_past = is_past
        root = self._root_of(state, draft.thread)
        # An empty sender is the server, which may reply to everything.
        is_reader = (
            is_past
            or not draft.sender
            or readable_sizes(self._sql, self._head, draft.sender, [draft.thread])
        )
        if root is None or not is_reader:
            return Rejected(RejectReason.UNKNOWN_MESSAGE)

        in_thread = MessageMeta(thread=root, also=draft.also)
        meta = with_keys(draft.meta, in_thread)
        return replace(draft, thread=root, about=draft.about or root, meta=meta)

    def add(self, root: int, reply: Entry) -> None:
        """Remember a reply that was added to the transaction, for
        :meth:`write`."""
        self._replies.setdefault(root, []).append(reply)

    def write(self) -> None:
        """Write the rows of the replies, the totals, and the new followers.

        Called once, at the end of the transaction.
        """
        log = self._head.number
        self._write_replies()
        # The first message of each thread has the totals in its `meta`.
        statement = "SELECT id, sender, meta FROM message WHERE log = %s AND id IN {}"
        roots = self._sql.query_in(statement, (log,), list(self._replies))
        for root, sender, column in roots:
            replies = self._replies[root]
            stored = bytes(column)
            meta = MessageMeta.of(stored)
            self._follow(root, replies, text_of(sender), mentions_in(meta))
            totals = MessageMeta(replies=_totals(meta.replies, replies))
            self._sql.execute(
                "UPDATE message SET meta = %s WHERE log = %s AND id = %s",
                (with_keys(stored, totals), log, root),
            )
        self._replies = {}

    def _write_replies(self) -> None:
        """Write a row for each reply, by which the reply is found from its
        thread."""
        rows = []
        for root, replies in self._replies.items():
            for reply in replies:
                also = int(not reply.is_beside)
                row = (self._head.number, reply.conversation, reply.id, root, also)
                rows.append(row)
        self._sql.execute_many(
            "INSERT INTO thread_reply (log, conversation, id, root, also) "
            "VALUES (%s, %s, %s, %s, %s)",
            rows,
        )

    def _root_of(self, state: ConversationState, id: int) -> int | None:
        """Return the first message of the thread that a message belongs to.

        A message that is not a reply begins its own thread. Returns None if the
        conversation has no such message, or the thread has expired.
        """
        index = id - self._before - 1
        if 0 <= index < len(self._entries):  # an entry of this transaction
            entry = self._entries[index]
            conversation = entry.conversation
            kind = NUMBERS[entry.kind]
            about = entry.about
            meta = entry.meta
        elif id <= self._head.floor:
            return None
        else:
            statement = (
                "SELECT conversation, kind, about, meta FROM message "
                "WHERE log = %s AND id = %s"
            )
            rows = self._sql.query(statement, (self._head.number, id))
            if not rows:
                return None
            conversation, kind, about, meta = rows[0]

        # The thread of a recalled message goes on.
        is_recalled = kind == NUMBERS["recall"] and about == id
        if conversation != state.id:
            return None
        if kind != NUMBERS["message"] and not is_recalled:
            return None
        root = thread_in(bytes(meta))
        if root and root <= self._head.floor:
            return None  # only the last replies of the thread have not expired
        return root or id

    def _follow(
        self, root: int, replies: Sequence[Entry], author: str, mentioned: Iterable[str]
    ) -> None:
        """Let users follow a thread, so that they are notified of replies.

        These are the writers and the mentioned users, unless they already
        follow the thread or have muted it. ``author`` is the writer of the
        first message. ``mentioned`` are the users whom the first message
        mentions.
        """
        log = self._head.number
        group = replies[0].conversation
        last = replies[-1].id
        # User → read position in the thread. Imported replies count as read.
        if self._is_past:
            users = self._past_followers(replies, author, mentioned)
            reads = dict.fromkeys(users, last)
        else:
            reads = self._new_followers(replies, author, mentioned)

        readers = [
            (log, user, root, group, read, 1) for user, read in sorted(reads.items())
        ]
        # A user who follows or has muted the thread already has a row, which
        # stays.
        if readers:
            self._sql.insert_new("thread_reader", _READER_COLUMNS, readers)
        if self._is_past:
            self._sql.execute(
                "UPDATE thread_reader SET read_id = %s WHERE log = %s AND root = %s",
                (last, log, root),
            )

    def _new_followers(
        self, replies: Sequence[Entry], author: str, mentioned: Iterable[str]
    ) -> dict[str, int]:
        """Return the members who now follow a thread, with their read positions
        in it.

        These are the writers, the author of the first message, and the
        mentioned users. The read position of a writer is the writer's first
        reply. The read position of a mentioned user is right before the first
        reply that mentions the user.
        """
        first = replies[0].id
        reads_of_mentioned = dict.fromkeys(mentioned, first - 1)
        reads_of_writers = {author: first - 1}
        for reply in replies:
            reads_of_writers.setdefault(reply.sender, reply.id)
            for user in mentions_in(reply.message_meta()):
                reads_of_mentioned.setdefault(user, reply.id - 1)
        # If a reply mentions its own writer, the position of the writer counts.
        reads = {**reads_of_mentioned, **reads_of_writers}
        group = replies[0].conversation
        members = members_among(self._sql, self._head.number, group, list(reads))
        return {user: read for user, read in reads.items() if user in members}

    def _past_followers(
        self, replies: Sequence[Entry], author: str, mentioned: Iterable[str]
    ) -> set[str]:
        """Return the followers of a thread with imported replies.

        These are the users who were members when they wrote or were mentioned.
        The author of the first message, and the users whom it mentions, need to
        have been members at one of the replies.

        An import may store a reply in the same transaction as the leave of its
        sender, or in another transaction. So the members at the end of the
        transaction are not a reliable answer.
        """
        replies_of_user = _replies_by_user(replies, {author, *mentioned})
        statement = (
            "SELECT member, joined_id, left_id FROM membership "
            "WHERE log = %s AND conversation = %s AND member IN {}"
        )
        memberships = self._sql.query_in(
            statement,
            (self._head.number, replies[0].conversation),
            list(replies_of_user),
            many=True,
        )
        return _members_at(memberships, replies_of_user)


def _members_at(
    memberships: Iterable[Row], replies_of_user: Mapping[str, Sequence[int]]
) -> set[str]:
    """Return the users who were members at one of their replies.

    A user may have several memberships (user, joined_id, left_id), each with
    its range of ids.
    """
    members = set()
    for member, joined_id, left_id in memberships:
        user = text_of(member)
        until = Limit.ID if left_id is None else left_id
        if any(joined_id < id <= until for id in replies_of_user.get(user, ())):
            members.add(user)
    return members


def _replies_by_user(
    replies: Sequence[Entry], users_of_root: set[str]
) -> dict[str, list[int]]:
    """Return user → the replies by which the user could become a follower.

    These are the user's own replies, and replies that mention the user. For
    the users of the first message, these are all replies.
    """
    replies_of_user: dict[str, list[int]] = {}
    for reply in replies:
        users_of_reply = {reply.sender, *mentions_in(reply.message_meta())}
        for user in users_of_root | users_of_reply:
            replies_of_user.setdefault(user, []).append(reply.id)
    return replies_of_user


def thread_in(meta: bytes) -> int:
    """Return the first message of the thread of a reply with this ``meta``.

    Returns 0 if the message is not a reply in a thread.
    """
    if THREAD_KEY not in meta:
        return 0
    # Senders write `meta`, so the number is checked.
    root = MessageMeta.of(meta).thread
    if 0 < root <= Limit.ID:
        return root
    return 0


def _totals(before: ThreadTotals | None, replies: Sequence[Entry]) -> ThreadTotals:
    """Return the totals of a thread with new replies.

    ``before`` are the totals until now, or None if these are the first replies.
    The totals name the users who replied last.
    """
    # The newest writer comes first, before the users named until now.
    writers = [reply.sender for reply in reversed(replies)]
    count = len(replies)
    if before is not None:
        writers += before.users
        count += before.count
    users = [user for user in dict.fromkeys(writers) if user]
    last = replies[-1]
    return ThreadTotals(
        count=count,
        last=last.id,
        time=last.time_ms,
        users=tuple(users[:MOST_FACES]),
    )


def mentions_in(meta: MessageMeta) -> list[str]:
    """Return the users whom a message with this ``meta`` mentions, each once.

    Texts that cannot be the id of a user are left out.
    """
    users = dict.fromkeys(meta.mentions)
    return [user for user in users if user and not text_objection(user, MAX_USER_BYTES)]


# --- reading ------------------------------------------------------------------


class ThreadStore(Store.Rows):
    """Threads as their readers see them. Users who were never in the
    conversation get nothing."""

    @in_log()
    def get(
        self, sql: Statements, head: LogHead, user: str, root: int
    ) -> Thread | None:
        """Return the thread that a message begins, even if it has no replies.

        Returns None if the user cannot read the thread.
        """
        return _thread(sql, head, user, root)

    @in_log()
    def replies(
        self,
        sql: Statements,
        head: LogHead,
        user: str,
        root: int,
        before: int,
        limit: int,
    ) -> tuple[list[Entry], int] | None:
        """Return a page of the last replies of a thread, ordered by id.

        The replies have ids below ``before``; 0 means the end of the thread.
        Replies that the user may not read or has hidden are left out. The
        second value is the ``before`` of the next page, or 0 if there are no
        earlier replies. Returns None if the user cannot read the thread.
        """
        if _conversation_of(sql, head, user, root) is None:
            return None

        ids = _last_replies(sql, head, root, before, limit + 1)
        sizes = readable_sizes(sql, head, user, ids[:limit])
        newest_first = sorted(sizes.items(), reverse=True)
        entries, is_cut = page_of(sql, head, newest_first, limit, user)

        if is_cut:  # the page has no room for all readable replies
            return entries[::-1], entries[-1].id
        if len(ids) > limit:
            # Continue before all replies that were looked at, because the last
            # of them may not be readable.
            return entries[::-1], ids[limit - 1]
        return entries[::-1], 0

    @in_log(lambda: ([], False))
    def of_user(
        self, sql: Statements, head: LogHead, user: str, before: int, limit: int
    ) -> tuple[list[Thread], bool]:
        """Return a page of the threads that a user follows, and whether there
        are more.

        Threads with the newest replies come first. ``before`` selects threads
        whose last reply has a smaller id; 0 selects all. A page has at most
        :data:`MOST_ON_PAGE` threads. Only the newest :data:`MOST_LISTED`
        threads that the user follows or has muted are read.
        """
        limit = min(limit, MOST_ON_PAGE)
        values = (
            head.number,
            user,
            MOST_LISTED,
            before or Limit.ID,
            head.floor,
            limit + 1,
        )
        # One more row is read, to know whether there are more threads.
        rows = sql.query(_THREADS_OF_USER, values)

        roots = [row[0] for row in rows[:limit]]
        messages, count = _fitting_messages(sql, head, user, roots)
        threads = [
            Thread(
                thread=root,
                conversation=conversation,
                message=messages.get(root),
                last=newest,
                read=read,
                unread=_count_unread(sql, head, user, root, read),
                follows=True,
            )
            for root, conversation, read, newest in rows[:count]
        ]
        return threads, len(rows) > count

    @in_log(writes=True)
    def follow(
        self, sql: Statements, head: LogHead, user: str, root: int, follows: bool
    ) -> Thread | None:
        """Follow a thread, or mute it if ``follows`` is False.

        Returns the thread, or None if the user cannot read the thread. A new
        follower has read all replies until now.
        """
        conversation = _conversation_of(sql, head, user, root)
        if conversation is None:
            return None
        last = _last(sql, head, root)
        row = (head.number, user, root, conversation, last, int(follows))
        # An existing row keeps its read position.
        sql.insert_new("thread_reader", _READER_COLUMNS, [row])
        sql.execute(
            "UPDATE thread_reader SET follows = %s "
            "WHERE log = %s AND member = %s AND root = %s",
            (int(follows), head.number, user, root),
        )
        return _thread(sql, head, user, root)

    @in_log(writes=True)
    def read(
        self, sql: Statements, head: LogHead, user: str, root: int, id: int
    ) -> Thread | None:
        """Advance the read position of a user in a thread. The position never
        goes back.

        Nothing is stored for a thread that the user has never followed. Returns
        the thread, or None if the user cannot read the thread.
        """
        if _conversation_of(sql, head, user, root) is None:
            return None
        # A client may name an id that does not exist yet.
        upto = min(id, _last(sql, head, root))
        sql.execute(
            "UPDATE thread_reader SET read_id = %s "
            "WHERE log = %s AND member = %s AND root = %s AND read_id < %s",
            (upto, head.number, user, root, upto),
        )
        return _thread(sql, head, user, root)


def _last_replies(
    sql: Statements, head: LogHead, root: int, before: int, limit: int
) -> list[int]:
    """Return the ids of the last replies of a thread, the newest first.

    There are at most ``limit`` ids, all below ``before``. If ``before`` is 0,
    the page begins at the end of the thread.
    """
    statement = (
        "SELECT id FROM thread_reply "
        "WHERE log = %s AND root = %s AND id > %s AND id <= %s "
        "ORDER BY id DESC LIMIT %s"
    )
    values = (head.number, root, head.floor, last_before(head, before), limit)
    return [row[0] for row in sql.query(statement, values)]


def _fitting_messages(
    sql: Statements, head: LogHead, user: str, roots: Sequence[int]
) -> tuple[dict[int, Entry], int]:
    """Fetch the first messages of threads, for a page with limited space.

    Returns root → message, and how many of the threads fit on the page.
    Messages that the user may not read need no space.
    """
    # Messages that cannot fit are not fetched.
    stored_sizes = readable_sizes(sql, head, user, roots)
    roots = roots[: count_fitting(stored_sizes.get(root, 0) for root in roots)]
    entries = fetch(sql, head.number, stored_sizes.keys() & roots, user)
    # An entry takes more bytes on a page than in the database.
    page_sizes = {entry.id: page_size(entry) for entry in entries}
    count = count_fitting(page_sizes.get(root, 0) for root in roots)
    return {entry.id: entry for entry in entries}, count


def _thread(sql: Statements, head: LogHead, user: str, root: int) -> Thread | None:
    """Return the thread that a message begins, as a user sees it.

    A thread may have no replies. Returns None if the user cannot read the
    thread.
    """
    conversation = _conversation_of(sql, head, user, root)
    if conversation is None:
        return None

    read, follows = _reader_row(sql, head.number, user, root)
    messages = fetch(sql, head.number, readable_sizes(sql, head, user, [root]), user)
    last = _last(sql, head, root)
    unread = 0
    if follows:
        unread = _count_unread(sql, head, user, root, read)

    return Thread(
        thread=root,
        conversation=conversation,
        message=next(iter(messages), None),
        last=last,
        read=read,
        unread=unread,
        follows=follows,
    )


def _reader_row(sql: Statements, log: int, user: str, root: int) -> tuple[int, bool]:
    """Return the read position of a user in a thread, and whether the user
    follows the thread."""
    statement = (
        "SELECT read_id, follows FROM thread_reader "
        "WHERE log = %s AND member = %s AND root = %s"
    )
    for read, follows in sql.query(statement, (log, user, root)):
        return read, bool(follows)
    # Without a row, the user has never followed the thread.
    return 0, False


def _conversation_of(
    sql: Statements, head: LogHead, user: str, root: int
) -> int | None:
    """Return the conversation of a thread, or None if the user cannot read the
    thread.

    The user must be able to read its first message or its last reply.
    """
    # If the first message has expired, or the user joined after it, the last
    # reply decides.
    by_reply = (
        "SELECT id, conversation FROM thread_reply WHERE log = %s AND root = %s "
        "ORDER BY id DESC LIMIT 1"
    )
    by_root = "SELECT id, conversation FROM message WHERE log = %s AND id = %s"
    for statement in (by_root, by_reply):
        for id, conversation in sql.query(statement, (head.number, root)):
            if readable_sizes(sql, head, user, [id]):
                return int(conversation)
    return None


def _last(sql: Statements, head: LogHead, root: int) -> int:
    """Return the id of the last reply of a thread, or 0 if there is no
    reply."""
    statement = (
        "SELECT id FROM thread_reply WHERE log = %s AND root = %s "
        "ORDER BY id DESC LIMIT 1"
    )
    rows = sql.query(statement, (head.number, root))
    if not rows:
        return 0
    return int(rows[0][0])


def _count_unread(
    sql: Statements, head: LogHead, user: str, root: int, read: int
) -> int:
    """Count the replies of others that a user has not read.

    Only the newest :data:`MOST_UNREAD_REPLIES` replies are counted. Recalled
    replies do not count.
    """
    newest = (
        "SELECT id FROM thread_reply WHERE log = %s AND root = %s AND id > %s "
        "ORDER BY id DESC LIMIT %s"
    )
    # Expired replies are not counted.
    after = max(read, head.floor)
    rows = sql.query(newest, (head.number, root, after, MOST_UNREAD_REPLIES))
    ids = [row[0] for row in rows]
    statement = "SELECT m.sender, m.kind FROM message m WHERE m.log = %s AND m.id IN {}"
    count = 0
    for sender, kind in sql.query_in(statement, (head.number,), ids):
        if kind == NUMBERS["message"] and text_of(sender) != user:
            count += 1
    return count


class Replies(Struct, frozen=True):
    """Some messages of a conversation that only a thread shows."""

    roots: Mapping[int, int] = {}
    """Message → the first message of its thread."""
    followers: Mapping[int, Mapping[str, int]] = {}
    """First message → the followers of the thread, with their read
    positions."""

    def is_silent(self, user: str, id: int) -> bool:
        """Tell whether a user is not notified of this message.

        A reply is silent if the user does not follow its thread, or has already
        read it. Messages outside threads are never silent.
        """
        root = self.roots.get(id)
        if root is None:
            return False
        read = self.followers.get(root, {}).get(user)
        return read is None or id <= read


NO_REPLIES: Final = Replies()


def replies_beside(
    sql: Statements, head: LogHead, conversation: int, ids: Sequence[int]
) -> Replies:
    """Return the messages with these ids that only a thread shows.

    The result also has the followers of their threads. ``ids`` are messages of
    one conversation, in order, and at least one.
    """
    statement = (
        "SELECT id, root FROM thread_reply "
        "WHERE log = %s AND conversation = %s AND id >= %s AND id <= %s "
        "AND also = 0"
    )
    rows = sql.query(statement, (head.number, conversation, ids[0], ids[-1]))
    if not rows:
        return NO_REPLIES
    # The query reads a range of ids, so replies that were not asked for are
    # left out here.
    messages = set(ids)
    roots = {id: root for id, root in rows if id in messages}
    threads = list(dict.fromkeys(roots.values()))
    return Replies(roots, followers=_followers_of(sql, head.number, threads))


def _followers_of(
    sql: Statements, log: int, roots: Sequence[int]
) -> dict[int, dict[str, int]]:
    """Return the first message of a thread → its followers, with their read
    positions."""
    statement = (
        "SELECT root, member, read_id FROM thread_reader "
        "WHERE log = %s AND follows = 1 AND root IN {}"
    )
    followers: dict[int, dict[str, int]] = {}
    for root, member, read in sql.query_in(statement, (log,), roots, many=True):
        followers.setdefault(root, {})[text_of(member)] = read
    return followers
