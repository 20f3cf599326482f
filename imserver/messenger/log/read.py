"""Reads entries: the log, histories, and catch-up after a cursor.

All statements of a page see the same state of the log, and no entries after its
head. At login, every client asks for the entries after its cursor. The ids of
these entries are read from an index, with a query for each engine. The entries
are read afterwards.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Literal

from msgspec.structs import replace

from imserver.gateway.cluster.history import count_fitting
from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Row, Statements, text_of
from imserver.messenger.log.commands import SearchFilter
from imserver.messenger.log.contract import (
    NO_LOG,
    SECOND_MS,
    Entry,
    LogExtent,
    PublicationPage,
    page_size,
)
from imserver.messenger.log.lost import ranges_of
from imserver.messenger.log.meta import LATER_KEYS, MessageMeta, without_later
from imserver.messenger.log.polls import with_own_votes
from imserver.messenger.log.rows import (
    ENTRY_COLUMNS,
    FROM_MESSAGES,
    NUMBERS,
    SQLITE_BY_CONVERSATION,
    LogHead,
    entry_of,
    in_log,
    pair_of_room,
    read_log,
    resend_of,
    room_of,
    users_of,
)
from imserver.plugin.storage import Store

EntryPage = tuple[list[Entry], bool]
"""Entries ordered by id, and whether there are more."""

_STEP: Final = 5000
"""The number of entries that one query of :meth:`EntryReader.stored_before`
reads."""
_CLOCKS_SECONDS: Final = 600
"""The greatest difference between the clocks of nodes and of a sender."""
_READ_AT_ONCE: Final = 500
"""The number of entries that one query of :meth:`EntryReader.readers` reads."""
_SQLITE_WINDOW: Final = 5000
_SQLITE_WINDOW_GROWTH: Final = 16
"""The number of ids in which SQLite first looks for the next page, and the
factor by which the number grows in each further query."""
_MOST_UNIONS: Final = 500
"""The most conversations in one statement. If there are more, MySQL scans the
log."""
_SIZE: Final = "length(m.body) + length(m.meta)"
_ENTRIES: Final = f"SELECT {ENTRY_COLUMNS} {FROM_MESSAGES}"


def reads(member: str) -> str:
    """Return the SQL condition that a member may read the message ``m``.

    ``member`` is the alias of the membership. Bots may read only some messages
    of a group.
    """
    return (
        f"({member}.bot = 0 OR EXISTS (SELECT 1 FROM bot_entry b WHERE b.log = m.log "
        f"AND b.member = {member}.member AND b.conversation = m.conversation "
        "AND b.id = m.id))"
    )


VISIBLE: Final = (
    "m.log = s.log AND m.conversation = s.conversation "
    "AND m.id > coalesce(s.readable_after, s.joined_id) "
    f"AND m.id <= coalesce(s.left_id, {Limit.ID}) AND {reads('s')}"
)
"""The SQL condition that a membership ``s`` allows its user to read the message
``m``."""


class EntryReader(Store.Rows):
    """Reads entries."""

    def apps(self) -> list[str]:
        """Return the apps that have entries which have not expired, sorted by
        name."""
        statement = (
            "SELECT app FROM log WHERE part = 0 AND last_id > floor ORDER BY app"
        )
        return [text_of(row[0]) for row in self._store.rows(statement)]

    @in_log(int)
    def head(self, sql: Statements, head: LogHead) -> int:
        """Return the greatest id of the log, or 0 if the log is empty."""
        return head.last_id

    def heads(self, apps: Sequence[str]) -> dict[str, int]:
        """Return app → the id of its newest entry, for the apps that have
        entries."""
        statement = "SELECT app, last_id FROM log WHERE part = 0 AND app IN {}"
        rows = self._store.rows_in(statement, (), apps)
        return {text_of(app): last_id for app, last_id in rows}

    @in_log(lambda: NO_LOG)
    def extent(self, sql: Statements, head: LogHead) -> LogExtent:
        """Return the range of entries in the log. If the log does not continue
        at the cursor of a client, the client must start again."""
        return _extent_of(head)

    @in_log(list)
    def read(
        self, sql: Statements, head: LogHead, after: int, limit: int
    ) -> list[Entry]:
        """Return the first entries after an id, of all conversations."""
        statement = f"{_ENTRIES} m.id > %s AND m.id <= %s ORDER BY m.id LIMIT %s"
        values = (head.number, max(after, head.floor), head.last_id, limit)
        return list(map(entry_of, sql.query(statement, values)))

    def readers(self, app: str, after: int, last: int) -> set[str]:
        """Return the users and bots who have new entries after an id, up to
        ``last``. For an entry of a group, only the bots that read the entry,
        and the users whose membership it changes, are returned."""
        names: set[str] = set()
        while after < last:
            page = self.read(app, after, _READ_AT_ONCE)
            if not page:
                break
            for entry in page:
                # An entry of a conversation of two names the two users. An
                # entry of a group names the bots that read it.
                names.update(entry.members or entry.bots)
                if entry.kind in ("join", "leave"):
                    names.update(users_of(entry))
            after = page[-1].id
        return names

    def find(self, app: str, ids: Sequence[int]) -> list[Entry]:
        """Return the existing entries with these ids, ordered by id. If there
        are no ids, no query is made."""
        if not ids:
            return []

        def read(sql: Statements, head: LogHead) -> list[Entry]:
            return fetch(sql, head.number, ids)

        return read_log(self._store, app, read, nothing=[])

    @in_log()
    def sent(
        self, sql: Statements, head: LogHead, sender: str, client_msg_id: str
    ) -> Entry | None:
        """Return the entry that a user has sent with this ``client_msg_id``, or
        None."""
        resend = resend_of(sender, client_msg_id)
        rows = sql.query(f"{_ENTRIES} m.resend = %s", (head.number, resend))
        if not rows:
            return None
        return entry_of(rows[0])

    def sync(self, app: str, user: str, after: int, limit: int) -> EntryPage:
        """Return the first entries after an id that the user may read, as many
        as fit on a page."""
        return self.catch_up(app, user, after, limit, rooms={"": after})

    @in_log(lambda: ([], False))
    def catch_up(
        self,
        sql: Statements,
        head: LogHead,
        user: str,
        after: int,
        limit: int,
        rooms: Mapping[str, int],
    ) -> EntryPage:
        """Return the first entries after an id that the user may read, with the
        messages of rooms. As many are returned as fit on a page.

        ``rooms``: room → the id after which the messages of the room are
        wanted. The key ``""`` has the id for all other entries. Example: ``{"":
        40, "lobby": 37}``.
        """
        if after >= head.last_id:
            return [], False
        # Entries up to the floor have expired.
        start = max(after, head.floor)
        count = limit + 1  # one more entry shows that there is a next page
        # First only ids and sizes are read, because the bodies may be large.
        # `page_of` then fetches the entries that fit.
        sizes_of_user = _SIZES_OF_USER[sql.engine]
        sizes: dict[int, int] = dict(
            sizes_of_user(sql, head, user, max(start, rooms[""]), count)
        )
        for conversation, room_start in _rooms_with_news(sql, head, rooms, start):
            sizes.update(
                _sizes_of_room(sql, head, conversation, room_start, head.last_id, count)
            )
        return page_of(sql, head, sorted(sizes.items()), limit, user)

    @in_log(int)
    def count_missed(
        self, sql: Statements, head: LogHead, user: str, after: int, limit: int
    ) -> int:
        """Return how many entries after an id the user may read. At most
        ``limit`` are counted."""
        sizes_of_user = _SIZES_OF_USER[sql.engine]
        return len(sizes_of_user(sql, head, user, max(after, head.floor), limit))

    @in_log(lambda: ([], False))
    def history(
        self,
        sql: Statements,
        head: LogHead,
        user: str,
        conversation: int,
        before: int,
        limit: int,
        after: int | None = None,
    ) -> EntryPage:
        """Return a page of the history of a conversation: entries that the user
        may read and has not hidden, ordered by id. Without ``after``, the page
        has the newest entries before the id ``before`` (0: before the end). The
        second value then says whether there are earlier entries. With
        ``after``, the page has the oldest entries after the id ``after``. The
        second value then says whether there are later entries before
        ``before``.

        Reactions and presses of buttons are left out. Instead, each message has
        the totals of its reactions.
        """
        # Set the range of ids, and the end from which the page is filled.
        if after is None:
            first = head.floor
            order: Literal["ASC", "DESC"] = "DESC"
        else:
            first = max(after, head.floor)
            order = "ASC"
        values = (
            head.number,
            user,
            conversation,
            first,
            last_before(head, before),
            user,
            limit + 1,
        )

        rows = sql.query(_history_of(sql, order), values)
        entries, has_more = page_of(sql, head, rows, limit, user)
        if after is None:  # the query had the newest entries first
            entries.reverse()
        return entries, has_more

    @in_log(list)
    def readable(
        self, sql: Statements, head: LogHead, user: str, ids: Sequence[int]
    ) -> list[Entry]:
        """Return the entries with these ids that the user may read and has not
        hidden, ordered by id."""
        return fetch(sql, head.number, readable_sizes(sql, head, user, ids), user)

    @in_log(lambda: ([], 0))
    def pins(
        self,
        sql: Statements,
        head: LogHead,
        user: str,
        conversation: int,
        before: int = 0,
    ) -> tuple[list[Entry], int]:
        """Return a page of the pinned messages of a conversation that the user
        may read and has not hidden. The message that was pinned last comes
        first. ``before``: only messages whose pins have a smaller id (0: all).
        The second value is the ``before`` of the next page, or 0 if this is the
        last page."""
        statement = (
            "SELECT message, id FROM pin WHERE log = %s AND conversation = %s "
            "AND id < %s ORDER BY id DESC"
        )
        # Message → the id of its pin.
        pins: dict[int, int] = dict(
            sql.query(statement, (head.number, conversation, before or Limit.ID))
        )
        # A conversation has at most a hundred pins, so all are checked at once.
        sizes = readable_sizes(sql, head, user, list(pins))
        rows = [(id, sizes[id]) for id in pins if id in sizes]
        page, has_more = page_of(sql, head, rows, len(rows), user)
        if not has_more:
            return page, 0
        return page, pins[page[-1].id]

    @in_log(lambda: PublicationPage([], more=False, last=0, extent=NO_LOG))
    def channel_page(
        self,
        sql: Statements,
        head: LogHead,
        channel: str,
        since: int | None,
        limit: int,
        reverse: bool = False,
        revisions: bool = False,
    ) -> PublicationPage:
        """Return a page of the messages of a channel: at most ``limit``, and as
        many as fit into :data:`PAGE_BYTES`. The page has the oldest messages
        after the id ``since`` (None: from the beginning). With ``reverse``, the
        page has the newest messages before ``since`` (None: from the end), and
        the newest comes first. ``revisions``: whether to include the entries of
        recalls and edits."""
        statement = "SELECT id, last_id FROM conversation WHERE log = %s AND pair = %s"
        rows = sql.query(statement, (head.number, pair_of_room(channel)))
        if not rows:
            return PublicationPage([], more=False, last=0, extent=_extent_of(head))
        conversation, last = rows[0]
        after, upto = _range_of_page(head, since, reverse)
        # Nothing is read if the range has no entry of the channel.
        ids: Sequence[Row] = ()
        if limit and after < min(upto, last):
            ids = _sizes_of_room(
                sql, head, conversation, after, upto, limit + 1, reverse, revisions
            )
        entries, has_more = page_of(sql, head, ids, limit)
        return PublicationPage(entries, has_more, last, _extent_of(head))

    @in_log(int)
    def stored_before(self, sql: Statements, head: LogHead, time: int) -> int:
        """Return the greatest id that was stored before this Unix second and
        has not expired. If there is no such entry, the result is the id of the
        last expired entry, or 0."""
        statement = (
            "SELECT id, stored_at FROM message WHERE log = %s AND id <= %s AND id > %s "
            "ORDER BY id DESC LIMIT %s"
        )
        upto = head.last_id
        # Search step by step from the end, because the wanted entry is mostly
        # near the end.
        while rows := sql.query(statement, (head.number, upto, head.floor, _STEP)):
            for id, stored_at in rows:
                if stored_at < time:
                    return int(id)
            upto = rows[-1][0] - 1
        return head.floor

    @in_log(dict)
    def stored_at(
        self, sql: Statements, head: LogHead, ids: Sequence[int]
    ) -> dict[int, int]:
        """Return id → when the entry was stored, in Unix seconds, for the
        existing entries."""
        statement = "SELECT id, stored_at FROM message WHERE log = %s AND id IN {}"
        return {row[0]: row[1] for row in sql.query_in(statement, (head.number,), ids)}


def _history_of(sql: Statements, order: Literal["ASC", "DESC"]) -> str:
    """Return the statement for a page of the history of a conversation.

    The statement selects (id, size) of the entries. A user who has left and
    joined again has several memberships.
    """
    hint = sql.on_sqlite(SQLITE_BY_CONVERSATION)
    return (
        f"SELECT m.id, {_SIZE} FROM membership s, message m {hint} "
        "WHERE s.log = %s AND s.member = %s AND s.conversation = %s "
        f"AND {VISIBLE} AND m.id > %s AND m.id <= %s "
        f"AND m.kind NOT IN ({NUMBERS['reaction']}, {NUMBERS['press']}) "
        "AND NOT EXISTS (SELECT 1 FROM hidden h "
        "WHERE h.log = m.log AND h.member = %s AND h.id = m.id) "
        f"ORDER BY m.id {order} LIMIT %s"
    )


def _range_of_page(head: LogHead, since: int | None, reverse: bool) -> tuple[int, int]:
    """Return the range of ids of a page: ``after < id <= upto``.

    The page begins at the id ``since``. None means the beginning of the log, or
    its end if ``reverse``. If ``reverse``, the page is filled from the newest
    id.
    """
    if since is None:
        return head.floor, head.last_id
    if reverse:
        return head.floor, min(head.last_id, since - 1)
    return max(head.floor, since), head.last_id


def fetch(
    sql: Statements, log: int, ids: Iterable[int], reader: str = ""
) -> list[Entry]:
    """Return the existing entries of a log with these ids, ordered by id.

    If a ``reader`` is given, the entries are as this user sees them. The
    reader's own votes and reactions are marked. If the reader has left a group,
    later changes of the group's messages are removed. Without a ``reader``, the
    entries are as they are stored.
    """
    rows = sql.query_in(f"{_ENTRIES} m.id IN {{}}", (log,), list(dict.fromkeys(ids)))
    entries = sorted(map(entry_of, rows), key=lambda entry: entry.id)
    # The following changes depend on who reads.
    if not reader:
        return entries
    entries = _without_later(sql, log, reader, entries)
    entries = with_own_votes(sql, log, reader, entries)
    return _with_own_reactions(sql, log, reader, entries)


def page_of(
    sql: Statements, head: LogHead, rows: Sequence[Row], limit: int, reader: str = ""
) -> EntryPage:
    """Fetch the entries of a page, as many as fit on the page.

    ``rows`` are the pairs (id, size) of candidates, in the order of the page.
    At most ``limit`` entries are returned. Returns the entries, and whether
    rows are left for a next page. ``reader`` is explained at :func:`fetch`.

    Entries that cannot fit are not fetched, because 500 entries may have 500
    MB.
    """
    count = count_fitting(size for _, size in rows[:limit])
    ids = [id for id, _ in rows[:count]]
    by_id = {entry.id: entry for entry in fetch(sql, head.number, ids, reader)}
    # Some entries may have expired meanwhile.
    entries = [by_id[id] for id in ids if id in by_id]
    # An entry takes more bytes on a page than in the database.
    fitting = count_fitting(map(page_size, entries))
    has_more = fitting < len(entries) or count < len(rows)
    return entries[:fitting], has_more


def _without_later(
    sql: Statements, log: int, user: str, entries: list[Entry]
) -> list[Entry]:
    """Return the entries without changes that a former member may not see.

    If the user has left a group, its entries are shown as they were when the
    user left. A message that was edited later looks like a recalled message,
    because its old text is gone. Other messages lose later reactions, answers
    and totals of threads.

    If no entry of a group can have such changes, no query is made.
    """
    groups = {entry.conversation for entry in entries if _may_have_later(entry)}
    if not groups:
        return entries

    left_ids = _left_ids(sql, log, user, list(groups))
    if not left_ids:
        return entries

    # An edit has the content of the message's last edit. The edited message
    # says whether its last edit came after the user left.
    edited_messages = [
        entry.about
        for entry in entries
        if entry.kind == "edit" and entry.conversation in left_ids
    ]
    last_edits = _last_edits(sql, log, edited_messages)
    as_left = list(entries)
    for index, entry in enumerate(entries):
        left_id = left_ids.get(entry.conversation)
        if left_id is not None:
            as_left[index] = _as_of(entry, left_id, last_edits)
    return as_left


def _last_edits(sql: Statements, log: int, ids: Sequence[int]) -> dict[int, int]:
    """Return message → the id of its last edit, or 0 if it was never edited."""
    statement = "SELECT id, meta FROM message WHERE log = %s AND id IN {}"
    metas = sql.query_in(statement, (log,), ids)
    return {id: MessageMeta.of(bytes(meta)).edited for id, meta in metas}


def _left_ids(
    sql: Statements, log: int, user: str, groups: Sequence[int]
) -> dict[int, int]:
    """Return group → the last entry that a user may read, for the groups that
    the user has left.

    Groups that the user is in now are left out.
    """
    statement = (
        f"SELECT conversation, max(coalesce(left_id, {Limit.ID})) FROM membership "
        "WHERE log = %s AND member = %s AND conversation IN {} GROUP BY conversation"
    )
    rows = sql.query_in(statement, (log, user), groups)
    return {conversation: last for conversation, last in rows if last < Limit.ID}


def _may_have_later(entry: Entry) -> bool:
    """Tell whether an entry of a group may show changes that came after the
    entry.

    Conversations of two and rooms have no former members.
    """
    if entry.members or entry.room:
        return False
    if entry.kind == "message":
        return any(key in entry.meta for key in LATER_KEYS)
    return entry.kind == "edit"


def _as_of(entry: Entry, last: int, last_edits: Mapping[int, int]) -> Entry:
    """Return an entry without the changes that happened after the id ``last``.

    If the message was edited later, its earlier content is lost, and the
    message is shown as recalled. ``last_edits`` has message → the id of its
    last edit, for the messages to which edits belong.
    """
    if entry.kind not in ("message", "edit"):
        return entry
    meta = entry.message_meta()
    if entry.kind == "edit":
        message = entry.about
        last_edit = last_edits.get(message, 0)
    else:
        message = entry.id
        last_edit = meta.edited

    if last_edit > last:
        return replace(
            entry,
            kind="recall",
            type="",
            body=b"",
            meta=b"",
            about=message,
            reactions=(),
        )

    # The earlier counts of reactions are no longer known.
    if meta.reacted > last:
        entry = replace(entry, reactions=())
    return replace(entry, meta=without_later(entry.meta, last))


def _with_own_reactions(
    sql: Statements, log: int, user: str, entries: list[Entry]
) -> list[Entry]:
    """Set ``mine`` in the reactions of the reader, and return the entries.

    ``entries`` must be ordered by id; the list itself is changed. A total names
    at most ten of its users. A query is made only if some total does not name
    all its users.
    """
    reacted = [entry for entry in entries if entry.reactions]
    if not reacted:
        return entries

    own_reactions = _unnamed_reactions(sql, log, user, reacted)
    for index, entry in enumerate(entries):
        if not entry.reactions:
            continue
        reactions = []
        for reaction in entry.reactions:
            if user in reaction.users or (entry.id, reaction.emoji) in own_reactions:
                reaction = replace(reaction, mine=True)
            reactions.append(reaction)
        entries[index] = replace(entry, reactions=tuple(reactions))
    return entries


def _unnamed_reactions(
    sql: Statements, log: int, user: str, entries: Sequence[Entry]
) -> set[tuple[int, str]]:
    """Return (message, emoji) of a user's reactions to these entries.

    If all totals of reactions name all their users, no query is needed, and the
    result is empty. The entries are ordered by id.
    """
    all_reactions = chain.from_iterable(entry.reactions for entry in entries)
    if not any(reaction.count > len(reaction.users) for reaction in all_reactions):
        return set()
    statement = (
        "SELECT message, emoji FROM reaction "
        "WHERE log = %s AND member = %s AND message >= %s AND message <= %s"
    )
    rows = sql.query(statement, (log, user, entries[0].id, entries[-1].id))
    return {(row[0], text_of(row[1])) for row in rows}


def readable_sizes(
    sql: Statements, head: LogHead, user: str, ids: Sequence[int]
) -> dict[int, int]:
    """Return id → size in bytes, for the entries that the user may read.

    Entries that the user has hidden, and ids without an entry, are left out.
    """
    statement = (
        f"SELECT m.id, {_SIZE} FROM message m "
        f"WHERE EXISTS (SELECT 1 FROM membership s WHERE s.member = %s AND {VISIBLE}) "
        "AND NOT EXISTS (SELECT 1 FROM hidden h "
        "WHERE h.log = m.log AND h.member = %s AND h.id = m.id) "
        "AND m.log = %s AND m.id IN {}"
    )
    return dict(sql.query_in(statement, (user, user, head.number), ids))


def last_before(head: LogHead, before: int) -> int:
    """Return the greatest id before ``before``; 0 stands for the end of the
    log."""
    if before > 0:
        return min(before - 1, head.last_id)
    return head.last_id


def end_of_look(sql: Statements, log: int, after: int, last: int, many: int) -> int:
    """Return the id up to which one query of a long scan reads.

    A scan reads the log in pieces of ``many`` ids, so that no query takes long.
    The piece begins at the first entry after ``after``, and ends at ``last`` at
    the latest. After a restore, the ids have a gap that is wider than all
    entries. The piece begins at an entry in order to skip this gap.
    """
    next_entry = "SELECT id FROM message WHERE log = %s AND id > %s ORDER BY id LIMIT 1"
    rows = sql.query(next_entry, (log, after))
    if not rows:
        return last
    first: int = rows[0][0]
    return min(first + many - 1, last)


def time_window(
    head: LogHead, upto: int, filter: SearchFilter, sql: Statements
) -> tuple[int, int]:
    """Return the range of ids in which a filter of time can match.

    The range has the ids after the first number of the result, up to the second
    number. The second number is at most ``upto``. ``stored_at`` grows with the
    ids, apart from differences between the clocks of nodes. So the range is a
    little wider than the times of the filter.
    """
    after = head.floor
    # `stored_at` is in seconds, the filter in milliseconds.
    if filter.since:
        earliest = filter.since // SECOND_MS - _CLOCKS_SECONDS
        after = _first_since(sql, head, earliest) - 1
    if filter.until:
        latest = filter.until // SECOND_MS + _CLOCKS_SECONDS
        upto = min(upto, _first_since(sql, head, latest) - 1)
    return after, upto


def _first_since(sql: Statements, head: LogHead, second: int) -> int:
    """Return the first id that was stored at this Unix second or later.

    If there is no such id, the result is the last id plus 1. This is a binary
    search, because there is no index by time.
    """
    statement = (
        "SELECT stored_at FROM message WHERE log = %s AND id >= %s ORDER BY id LIMIT 1"
    )
    low = head.floor + 1
    high = head.last_id + 1
    while low < high:
        middle = (low + high) // 2
        # If there is no entry with this id, the next existing entry decides.
        rows = sql.query(statement, (head.number, middle))
        if rows and rows[0][0] < second:
            low = middle + 1
        else:
            high = middle
    return low


# --- catch-up -----------------------------------------------------------------


_ACTIVE: Final = (
    "membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
    "AND c.last_id > %s "
    "WHERE s.log = %s AND s.member = %s AND (s.left_id IS NULL OR s.left_id > %s)"
)
"""A user's memberships with entries after a cursor. Parameters: (after, log,
user, after)."""


def _rooms_with_news(
    sql: Statements, head: LogHead, after_by_room: Mapping[str, int], after: int
) -> list[tuple[int, int]]:
    """Return the rooms with entries that the reader wants.

    Each result is (id of the conversation, id after which its entries are
    wanted). ``after_by_room`` has room → the id after which the reader wants
    entries. Entries up to ``after`` are not wanted from any room.
    """
    # SQLite uses this name for the index `conversation_by_pair`. Without this
    # hint, SQLite scans all conversations.
    hint = sql.on_sqlite("INDEXED BY sqlite_autoindex_conversation_2")
    statement = (
        f"SELECT id, pair, last_id FROM conversation {hint} "
        "WHERE log = %s AND last_id > %s AND pair IN {}"
    )
    pairs = [pair_of_room(room) for room in after_by_room if room]
    rows = sql.query_in(statement, (head.number, after), pairs)
    rooms = []
    for conversation, pair, last_id in rows:
        room_start = max(after, after_by_room[room_of(pair)])
        if room_start < last_id:
            rooms.append((conversation, room_start))
    return rooms


def _sizes_of_room(
    sql: Statements,
    head: LogHead,
    conversation: int,
    after: int,
    upto: int,
    count: int,
    reverse: bool = False,
    revisions: bool = True,
) -> Sequence[Row]:
    """Return (id, size) of the first entries of a room in a range of ids.

    The range is ``after < id <= upto``, and there are at most ``count``
    results. With ``reverse``, these are the last entries, the newest first.
    Without ``revisions``, edits and recalls are left out.
    """
    index = ""
    # Without this hint, MySQL would scan the primary key.
    if sql.engine == "mysql":
        index = "FORCE INDEX (message_by_conversation) "
    kinds = ""
    if not revisions:
        kinds = f"AND kind = {NUMBERS['message']} "
    order = "DESC" if reverse else "ASC"
    statement = (
        f"SELECT m.id, {_SIZE} FROM message m {index}"
        f"WHERE log = %s AND conversation = %s {kinds}AND id > %s AND id <= %s "
        f"ORDER BY id {order} LIMIT %s"
    )
    return sql.query(statement, (head.number, conversation, after, upto, count))


def _sizes(
    sql: Statements, head: LogHead, statement: str, values: Sequence[Any]
) -> Sequence[Row]:
    """Return (id, size) of the entries whose ids a statement selects.

    The rows are ordered by id. The sizes are read only for these entries, after
    the statement has sorted and limited the ids.
    """
    size = f"SELECT {_SIZE} FROM message m WHERE m.log = %s AND m.id = f.id"
    return sql.query(
        f"SELECT f.id, ({size}) FROM ({statement}) f ORDER BY f.id",
        (head.number, *values),
    )


def _sizes_on_sqlite(
    sql: Statements, head: LogHead, user: str, after: int, count: int
) -> Sequence[Row]:
    """Return (id, size) of the first entries after an id that a user may read.

    There are at most ``count`` results. The query looks at a window of ids,
    which grows until there are enough entries. Without a window, SQLite would
    sort all entries after an old cursor for each page.
    """
    statement = (
        "SELECT m.id "
        "FROM membership s CROSS JOIN conversation c CROSS JOIN message m "
        "WHERE s.log = %s AND s.member = %s "
        "AND c.log = s.log AND c.id = s.conversation AND c.last_id > %s "
        "AND m.log = s.log AND m.conversation = s.conversation "
        "AND m.id > max(s.joined_id, %s) AND m.id <= min(ifnull(s.left_id, %s), %s) "
        f"AND {reads('s')} ORDER BY m.id LIMIT %s"
    )
    window = _SQLITE_WINDOW
    while True:
        upto = min(head.last_id, after + window)
        values = (head.number, user, after, after, Limit.ID, upto, count)
        rows = _sizes(sql, head, statement, values)
        # Stop if there are enough entries, or at the end of the log.
        if len(rows) >= count or upto == head.last_id:
            return rows
        window *= _SQLITE_WINDOW_GROWTH


def _sizes_on_postgresql(
    sql: Statements, head: LogHead, user: str, after: int, count: int
) -> Sequence[Row]:
    """Return (id, size) of the first entries after an id that a user may read.

    There are at most ``count`` results. The query takes the first ``count``
    entries of each conversation of the user, then the first ``count`` of all
    these.
    """
    statement = (
        "SELECT f.id FROM membership s "
        "JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
        "CROSS JOIN LATERAL (SELECT m.id FROM message m "
        "WHERE m.log = s.log AND m.conversation = s.conversation "
        "AND m.id > greatest(s.joined_id, %s) AND m.id <= least(s.left_id, %s) "
        f"AND {reads('s')} ORDER BY m.id LIMIT %s) f "
        "WHERE s.log = %s AND s.member = %s AND c.last_id > %s "
        "ORDER BY f.id LIMIT %s"
    )
    values = (after, head.last_id, count, head.number, user, after, count)
    return _sizes(sql, head, statement, values)


def _sizes_on_mysql(
    sql: Statements, head: LogHead, user: str, after: int, count: int
) -> Sequence[Row]:
    """Return (id, size) of the first entries after an id that a user may read.

    There are at most ``count`` results. One statement unites the first
    ``count`` entries of each conversation that has new entries. MySQL has no
    fast way to do this with a join.
    """
    active = sql.query(
        f"SELECT s.conversation, s.joined_id, s.left_id, s.bot FROM {_ACTIVE}",
        (after, head.number, user, after),
    )
    if not active:
        return []
    if len(active) > _MOST_UNIONS:
        return _sizes_by_scan(sql, head, user, after, count)

    parts: list[str] = []
    values: list[Any] = []
    # Add a part to the union for each membership. A bot reads only the entries
    # that are listed for the bot.
    for conversation, joined_id, left_id, is_bot in active:
        last = head.last_id
        if left_id is not None:
            last = min(left_id, last)
        values.append(head.number)
        if is_bot:
            parts.append(_PART_OF_BOT)
            values.append(user)
        else:
            parts.append(_PART_OF_CONVERSATION)
        values += (conversation, max(joined_id, after), last, count)
    statement = f"{' UNION ALL '.join(parts)} ORDER BY id LIMIT %s"
    return _sizes(sql, head, statement, (*values, count))


_PART_OF_CONVERSATION: Final = (
    "(SELECT id FROM message FORCE INDEX (message_by_conversation) "
    "WHERE log = %s AND conversation = %s "
    "AND id > %s AND id <= %s ORDER BY id LIMIT %s)"
)
_PART_OF_BOT: Final = (
    "(SELECT id FROM bot_entry "
    "WHERE log = %s AND member = %s AND conversation = %s "
    "AND id > %s AND id <= %s ORDER BY id LIMIT %s)"
)
"""The parts of a union: one for a conversation of a user, one for a group of a
bot."""


def _sizes_by_scan(
    sql: Statements, head: LogHead, user: str, after: int, count: int
) -> Sequence[Row]:
    """Return (id, size) of the first entries after an id that a user may read.

    This is for MySQL, and for a user with very many active conversations. The
    statement reads the log in order, and checks for each entry whether the user
    may read it.
    """
    statement = (
        "SELECT m.id FROM message m FORCE INDEX (PRIMARY) "
        "WHERE m.log = %s AND m.id > %s AND m.id <= %s "
        "AND EXISTS (SELECT 1 FROM membership s WHERE s.log = m.log AND s.member = %s "
        "AND s.conversation = m.conversation AND s.joined_id < m.id "
        f"AND (s.left_id IS NULL OR s.left_id >= m.id) AND {reads('s')}) "
        "ORDER BY m.id LIMIT %s"
    )
    return _sizes(sql, head, statement, (head.number, after, head.last_id, user, count))


_SIZES_OF_USER: Final[
    dict[str, Callable[[Statements, LogHead, str, int, int], Sequence[Row]]]
] = {
    "sqlite": _sizes_on_sqlite,
    "postgresql": _sizes_on_postgresql,
    "mysql": _sizes_on_mysql,
}
"""Engine → a function (statements, head, user, after, count) that reads the ids
and sizes of the first entries after an id that a user may read."""


def _extent_of(head: LogHead) -> LogExtent:
    """Return the range of ids that the log has, with its gaps."""
    lost = tuple((lost.first, lost.last) for lost in ranges_of(head.lost))
    return LogExtent(head.floor, head.last_id, lost)
