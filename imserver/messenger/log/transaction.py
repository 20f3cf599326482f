"""A group commit, and the part of it that belongs to one app. This part assigns
ids and seqs under the lock of the log's head."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from secrets import randbits
from time import time
from typing import Any, Final, Literal

from msgspec import Struct

from imserver.gateway.storage.numbers import beyond
from imserver.gateway.storage.statements import (
    CommitGuard,
    DirectStatements,
    Row,
    Statements,
    chunks,
    marks_of,
    padded,
    text_of,
)
from imserver.messenger.log.bots import (
    BotReaders,
    accounts_among,
    are_friends,
    hooks_among,
    owners_among,
    with_command,
)
from imserver.messenger.log.contract import (
    OPTIONS,
    SECOND_MS,
    Appended,
    AppendRequest,
    Change,
    Commit,
    Draft,
    Entry,
    Rejected,
    RejectReason,
    StorageUnsure,
    Stored,
    may_write,
)
from imserver.messenger.log.handles import with_handles
from imserver.messenger.log.lost import EntriesLost, next_after_loss
from imserver.messenger.log.meta import BUTTONS_KEY, HANDLE_SIGN
from imserver.messenger.log.revisions import (
    FIXED,
    MOST_EDITS,
    count_edits,
    fixed_among,
    recalled_among,
    revise,
)
from imserver.messenger.log.rows import (
    ENTRY_COLUMNS,
    FROM_MESSAGES,
    GROUP,
    LAST_SESSION,
    NUMBERS,
    ROOM,
    SELECT_STATE,
    USER,
    ConversationState,
    LogHead,
    ask_head,
    conversation_state_of,
    entry_of,
    head_of,
    members_among,
    pair_of,
    pair_of_room,
)
from imserver.messenger.log.threads import ThreadWriter, is_beside

_UNKNOWN: Final = Rejected(RejectReason.UNKNOWN_CONVERSATION)
_BLOCKED: Final = Rejected(RejectReason.BLOCKED)

_WITH_CONTENT: Final = ("message", "edit")
"""The kinds of entries in which the sender writes content for others."""
_NO_VALUES: Final[dict[str, int]] = {}

MESSAGE_COLUMNS: Final = (
    "log, id, conversation, seq, sender, kind, type, client_msg_id, resend, time_ms, about, stored_at, "
    "batch, meta, body"
)
_MESSAGE_TYPES: Final = (
    "int4",
    "int8",
    "int8",
    "int8",
    "varchar",
    "int2",
    "varchar",
    "varchar",
    "bytea",
    "int8",
    "int8",
    "int8",
    "int8",
    "bytea",
    "bytea",
)
"""The types of these columns on PostgreSQL."""
UPDATE_HEAD: Final = (
    "UPDATE log SET last_id = %s, last_conversation = %s WHERE number = %s"
)
_REPEATS: Final = f"SELECT m.resend, {ENTRY_COLUMNS} {FROM_MESSAGES}m.resend IN {{}}"
_FEW_CONVERSATIONS: Final = {"sqlite": 1 << 30, "postgresql": 16, "mysql": 4}
"""Up to this number of conversations, one statement per conversation is faster
than one statement for all pairs of users and conversations. On SQLite a
statement is very cheap."""
_SESSIONS: Final = "SELECT session FROM uplink_session WHERE log = %s AND member IN {}"
_FEW_ROWS: Final = 8
"""Up to this number of messages, their INSERT is sent together with the other
statements. COPY takes two more round trips, but 8 µs a row instead of 21 µs.
From 5 rows on, COPY takes less CPU."""
_MUTES_AT_ONCE: Final = 64
"""The most mutes that one statement asks for. Each mute is a query of its own
in the statement."""
_ACCOUNTS_END: Final = 2**63
"""The id of an account has 63 bits."""
_BATCH_BITS: Final = 62
"""The size of the random number of a transaction, in bits."""
_MOST_REMEMBERED: Final = 10_000
"""The most users for whom a writer remembers uplink sessions."""
_INSERT_MESSAGE: Final = (
    f"INSERT INTO message ({MESSAGE_COLUMNS}) VALUES {marks_of(len(_MESSAGE_TYPES))}"
)
_BLOCKS_ON_SQLITE: Final = (
    "WITH w(account, other) AS (VALUES {}) SELECT r.account, r.other "
    "FROM w CROSS JOIN relation r ON r.account = w.account AND r.other = w.other "
    "CROSS JOIN account a ON a.id = r.account WHERE r.state = 'blocked' AND a.app = %s"
)

Key = int | bytes
"""The key of a conversation: its id, or the bytes for its pair of users or its
room."""
Outcome = Stored | Change
"""The result of a request."""


class ChangeRequest(Struct):
    """A change that is not a draft, mostly of a group. ``apply`` makes the
    change in the transaction. ``done`` gets the result, which may be a
    StorageUnsure. It must not switch greenlets.

    The fields ``rejected``, ``owner`` and ``size`` exist because the writer
    reads them from all requests.
    """

    app: str
    apply: Callable[[AppTransaction], Change | Rejected]
    done: Callable[[Outcome], object]
    outcome: Outcome | None = None
    unsure: StorageUnsure | None = None
    rejected: None = None
    owner: None = None
    size: int = 0


Request = AppendRequest | ChangeRequest


class _Facts(Struct, frozen=True):
    """The facts that decide about the drafts of a transaction."""

    states: dict[int | bytes, ConversationState]
    """Key → the conversation. Conversations that the transaction makes are
    added."""
    mutes: dict[tuple[str, int], int]
    """(user, conversation) → end of the mute."""
    blocks: set[tuple[str, str]]
    """(receiver, sender) of messages and edits whose receiver has blocked the
    sender."""
    strangers: set[str]
    """Receivers of first messages who need an account, but do not have an
    account."""
    unwelcome: set[tuple[str, str]]
    """(receiver, sender) of first messages that the receiver does not want: the
    sender is a guest, or a bot whose owner the receiver has blocked."""
    sessions: Collection[int]
    """The newest uplink sessions of senders. A draft that names a session is
    stored only if it names one of these."""
    roles: dict[int, dict[str, str]]
    """Group in which not all members may write → the roles of senders there."""


class _Lookups(Struct, frozen=True):
    """Queries about drafts that do not depend on each other. Each function
    reads the answer to its query; :class:`_Facts` describes the answers."""

    repeats: Callable[[], list[Row]]
    """Stored entries with the same ``client_msg_id`` as one of the drafts."""
    states: Callable[[], dict[int | bytes, ConversationState]]
    mutes: Callable[[], dict[tuple[str, int], int]]
    blocks: Callable[[], set[tuple[str, str]]]
    sessions: Callable[[], Collection[int]]


class AppTransaction:
    """Makes the changes of one group commit in the log of one app.

    A *log* is the numbered sequence of all entries of an app. Its *head* is the
    row with the last number given. The transaction locks the head first, so two
    writers never give the same number. New rows are collected here, and
    :meth:`write` writes them at the end.

    ``batch`` is the random number of the whole transaction, and ``now`` its
    time in Unix seconds. ``drafts`` are the messages that will be appended
    first. Queries about them are sent together with the query for the head,
    which saves a round trip.
    """

    def __init__(
        self,
        sql: DirectStatements,
        app: str,
        batch: int,
        now: int,
        memory: WriterMemory,
        drafts: Sequence[AppendRequest] = (),
    ) -> None:
        """Lock the head of the log, and prepare the lists of changes.

        The class explains the arguments. ``memory`` has the facts that this
        node remembers from earlier transactions. Waits for the database.
        """
        self.sql = sql
        self.app = app
        self.batch = batch
        self.now = now
        self.stored_at = now
        """The time of storage of the next entries, in Unix seconds. Only
        imports set an earlier time."""
        self.uplink_sessions: dict[str, int] = {}
        """User → the uplink session that begins in this transaction. It
        supersedes the user's older session, also for the drafts of this
        transaction."""
        self._memory = memory
        self.log = memory.logs.get(app, 0)
        """The number of the log. Until the head is read, this is the remembered
        number, or 0 if no number is remembered."""

        # Queries for the remembered number of the log are sent together with
        # the query for the head. Their answers count only if the log still has
        # this number.
        read_head = ask_head(sql, app, lock=True)
        lookups: _Lookups | None = None
        if self.log and drafts:
            lookups = self._ask(drafts)
        self.head = read_head() or _new_head(sql, app)
        if self.log != self.head.number:
            lookups = None
        self._lookups = lookups
        self.log = self.head.number
        memory.logs[app] = self.log
        self.before = self.head.last_id
        """The last id before this transaction."""

        self.entries: list[Entry] = []
        self.is_unseen = False
        """Whether something was stored without an entry. A client can repeat
        such a request without harm."""
        self._rows: list[tuple[Any, ...]] = []
        """New rows of the table ``message``, see :data:`MESSAGE_COLUMNS`."""
        self._moved: dict[int, ConversationState] = {}
        """Conversations with new entries, whose last seq and id are not yet
        written."""
        self._created: list[tuple[ConversationState, bytes | None, str, int, int]] = []
        """Conversations that are not yet written, each with its pair, name,
        Unix second of creation and options."""
        self._joined: list[tuple[str, int, int, str, int | None, int, int]] = []
        """Memberships that are not yet written: (member, conversation,
        joined_id, role, readable_after, bot, muted_until)."""

        self._bots: BotReaders | None = None
        """None until the transaction has an entry of a group with bots."""
        self._threads: ThreadWriter | None = None
        """None until the transaction has a reply in a thread."""
        self._regrouped: dict[int, ConversationState] = {}
        """Groups whose lists of bots are not yet written."""

        self._recalled: set[int] = set()
        """Recalled messages among the messages that drafts edit."""
        self._fixed: set[int] = set()
        """Questions with a fixed text among the messages that drafts edit."""
        self._edits: dict[int, int] = {}
        """Message that a draft edits → how often it was edited."""
        self._after_loss = 0
        """The number at which the seqs of existing conversations continue after
        the database has lost entries. 0 means that no entry was lost."""
        if self.head.lost:
            self._after_loss = next_after_loss(self.head.lost)

        self._revises = False
        """Whether an entry recalls, edits or has a ``meta``, for example with
        mentions."""

    # --- conversations --------------------------------------------------------

    def make_conversation(
        self, kind: int, members: tuple[str, ...], name: str = "", options: int = 0
    ) -> ConversationState:
        """Add a conversation to the log, and return its state.

        ``kind`` is GROUP, USER (a pair of users) or ROOM. ``members`` are the
        two users of a pair, and empty for the other kinds. ``name`` is for
        groups and rooms; ``options`` are the bits of a group's options. The
        users of a pair become members here. For the members of a group, call
        :meth:`admit`. The row is written later, by :meth:`write_conversations`.
        """
        self.head.last_conversation += 1
        # The pair is the key by which a draft finds its conversation. A group
        # has no such key: drafts name the group by its id.
        room = ""
        if kind == USER:
            pair = pair_of(*members)
        elif kind == ROOM:
            pair = pair_of_room(name)
            room = name
        else:
            pair = None
        state = ConversationState(
            self.head.last_conversation,
            kind,
            members,
            last_seq=0,
            last_id=0,
            room=room,
            options=options,
        )

        self._created.append((state, pair, name, self.stored_at, options))
        if kind == USER:
            # If the conversation is of one user with themselves, the user
            # becomes a member once. The server (``""``) does not become a
            # member.
            users = [user for user in dict.fromkeys(members) if user]
            self.admit(state, users, "member")
        return state

    def admit(
        self,
        state: ConversationState,
        users: Iterable[str],
        role: str,
        readable_after: Mapping[str, int] = _NO_VALUES,
        bots: Collection[str] = (),
        mutes: Mapping[str, int] = _NO_VALUES,
    ) -> None:
        """Make users members of a conversation from the next entry on.

        - ``readable_after``: user → the id after which the user may read older
          entries. A user without an id reads only new entries.
        - ``bots``: the users who are bots, if the conversation is a group.
        - ``mutes``: user → the Unix second at which the user's mute ends.
        """
        joined_id = self.head.last_id
        self._joined += [
            (
                user,
                state.id,
                joined_id,
                role,
                readable_after.get(user),
                int(user in bots),
                mutes.get(user, 0),
            )
            for user in users
        ]

    def set_bots(self, state: ConversationState, bots: tuple[str, ...]) -> None:
        """Change which members of a group are bots, from the next entry on.

        The row of the group is written later, by :meth:`write_conversations`.
        """
        state.bots = bots
        self._regrouped[state.id] = state

    def set_group(
        self,
        conversation: int,
        column: Literal[
            "name", "avatar", "description", "handle", "open", "options", "bots"
        ],
        value: str | int | None,
    ) -> None:
        """Write one column of a group to the database at once.

        If the id belongs to another kind of conversation, nothing is written.
        """
        self.sql.execute(
            f"UPDATE conversation SET {column} = %s "
            "WHERE log = %s AND id = %s AND kind = %s",
            (value, self.log, conversation, GROUP),
        )

    def enter(
        self, state: ConversationState, draft: Draft, resend: bytes | None = None
    ) -> Entry:
        """Add the entry of a checked draft to its conversation, and return it.

        The entry gets the next ``id`` of the log and the next ``seq`` of the
        conversation. Its row is written at the end, by :meth:`write`.
        ``resend`` is the digest by which a repeated draft is found. It is None
        if the draft has no ``client_msg_id``.
        """
        # A bot reads only some entries of a group. The entry lists the bots
        # that read it.
        if state.bots:
            if self._bots is None:
                self._bots = BotReaders(self.sql, self.head, self.before, self.entries)
            draft = self._bots.draft_with_readers(state, draft)

        self.head.last_id += 1
        # The database may have lost later entries of this conversation. The
        # seqs of these entries are not given again.
        if state.last_id < self._after_loss and state.last_seq:
            state.last_seq = beyond(state.last_seq, self._after_loss)
        state.last_seq += 1
        state.last_id = self.head.last_id

        entry = Entry(
            id=state.last_id,
            conversation=state.id,
            seq=state.last_seq,
            sender=draft.sender,
            kind=draft.kind,
            type=draft.type,
            body=draft.body,
            client_msg_id=draft.client_msg_id,
            time_ms=draft.time_ms or self.now * SECOND_MS,
            about=draft.about,
            meta=draft.meta,
            members=state.members,
            room=state.room,
        )

        # Remember what has to be written later for this entry.
        self._moved[state.id] = state
        self._revises = (
            self._revises or draft.meta != b"" or draft.kind in ("edit", "recall")
        )
        # The values have the order of MESSAGE_COLUMNS.
        self._rows.append(
            (
                self.log,
                entry.id,
                entry.conversation,
                entry.seq,
                entry.sender,
                NUMBERS[entry.kind],
                entry.type,
                entry.client_msg_id,
                resend,
                entry.time_ms,
                entry.about,
                self.stored_at,
                self.batch,
                entry.meta,
                entry.body,
            )
        )

        self.entries.append(entry)
        if draft.thread:
            self._thread_writer().add(draft.thread, entry)
        return entry

    def in_thread(
        self, state: ConversationState, draft: Draft, is_past: bool = False
    ) -> Draft | Rejected:
        """Add the data of the thread to the draft of a reply.

        A *thread* is the replies to one message. The result is for
        :meth:`enter`. Returns Rejected if the thread cannot have this reply.
        ``is_past`` is True if an import adds a reply that was sent elsewhere.
        """
        return self._thread_writer().complete(state, draft, is_past)

    def _thread_writer(self) -> ThreadWriter:
        """Return the writer of replies. Most transactions need no such writer,
        so it is made for the first reply."""
        if self._threads is None:
            self._threads = ThreadWriter(self.sql, self.head, self.before, self.entries)
        return self._threads

    def write_conversations(self) -> None:
        """Write the conversations and memberships that have changed.

        Later statements of the transaction then find them. Entries are written
        only at the end, by :meth:`write`. A second call writes only the changes
        since the first call.
        """
        sql = self.sql
        log = self.log
        if self._created:
            sql.execute_many(
                "INSERT INTO conversation (log, id, kind, pair, name, last_seq, last_id, created, options) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (
                        log,
                        state.id,
                        state.kind,
                        pair,
                        name,
                        state.last_seq,
                        state.last_id,
                        created,
                        options,
                    )
                    for state, pair, name, created, options in self._created
                ],
            )
            # The new rows of these conversations already have the last seq and
            # id.
            for state, *_ in self._created:
                self._moved.pop(state.id, None)
            self._created = []

        if self._joined:
            sql.execute_many(
                "INSERT INTO membership "
                "(log, member, conversation, joined_id, role, readable_after, bot, muted_until) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                [(log, *row) for row in self._joined],
            )
            self._joined = []

        if self._moved:
            _move_conversations(sql, log, list(self._moved.values()))
            self._moved = {}

        for state in self._regrouped.values():
            self.set_group(state.id, "bots", ",".join(state.bots) or None)
        self._regrouped.clear()

    def write(self) -> None:
        """Write all changes of this app to the database. Called once, at the
        end.

        These are the conversations, the memberships, the entries with the rows
        that depend on them, the head of the log, and the uplink sessions. An
        *uplink session* is a login of a user; no other session may send for
        this user.
        """
        self.write_conversations()
        sql = self.sql
        log = self.log
        head = self.head

        if self._rows:
            # Few rows are cheaper as an INSERT, many rows as a bulk copy.
            if len(self._rows) <= _FEW_ROWS:
                sql.execute_many(_INSERT_MESSAGE, self._rows)
            else:
                sql.insert_rows("message", MESSAGE_COLUMNS, _MESSAGE_TYPES, self._rows)
            if self._bots is not None:
                self._bots.write()
            if self._revises:
                revise(sql, log, self.entries)
            if self._threads is not None:
                self._threads.write()
            sql.execute_many(
                UPDATE_HEAD, [(head.last_id, head.last_conversation, head.number)]
            )

        if self.uplink_sessions:
            # The row `LAST_SESSION` shows other writers that a session has
            # begun, so that they do not trust what they remember.
            newest = list(self.uplink_sessions.values())[-1]
            sessions = {**self.uplink_sessions, LAST_SESSION: newest}
            if sql.engine == "mysql":
                conflict = "ON DUPLICATE KEY UPDATE session = VALUES(session)"
            else:
                conflict = (
                    "ON CONFLICT (log, member) DO UPDATE SET session = excluded.session"
                )
            sql.execute_many(
                "INSERT INTO uplink_session (log, member, session) VALUES (%s, %s, %s) "
                + conflict,
                [(log, user, session) for user, session in sessions.items()],
            )

    # --- look-ups -------------------------------------------------------------

    def conversations(
        self, keys: Iterable[Key]
    ) -> Callable[[], dict[Key, ConversationState]]:
        """Ask for the existing conversations with these keys.

        A key is the id of a conversation, or the bytes that stand for a pair of
        users or a room. The query is only sent. The returned function waits for
        the answer, and returns key → conversation.

        A conversation that was found under two keys has one state object under
        both, so that its seqs are counted once.
        """
        ids: list[int] = []
        pairs: list[bytes] = []
        for key in keys:
            if isinstance(key, int):
                ids.append(key)
            else:
                pairs.append(key)
        read_by_id = self.sql.ask_in(f"{SELECT_STATE}id IN {{}}", (self.log,), ids)
        read_by_pair = self.sql.ask_in(
            f"{SELECT_STATE}pair IN {{}}", (self.log,), pairs
        )

        def read_answer() -> dict[Key, ConversationState]:
            """Wait for both queries, and join their rows."""
            states: dict[Key, ConversationState] = {
                row[0]: conversation_state_of(row) for row in read_by_id()
            }
            # `row` begins with the id, the kind and the pair.
            for row in read_by_pair():
                states[bytes(row[2])] = states.get(row[0]) or conversation_state_of(row)
            return states

        return read_answer

    def mutes(
        self, wanted: Collection[tuple[str, int]]
    ) -> Callable[[], dict[tuple[str, int], int]]:
        """Ask until when users are muted in conversations.

        ``wanted`` has pairs (user, conversation). The queries are only sent.
        The returned function waits for the answers, and returns (user,
        conversation) → the Unix second at which the mute ends. A second in the
        past means that the user is not muted. Users who are not members are
        missing.
        """
        users_by_conversation: dict[int, list[str]] = {}
        for user, conversation in wanted:
            users_by_conversation.setdefault(conversation, []).append(user)
        # For a few conversations, one statement for each is the cheapest way.
        # For many, one statement looks up all pairs.
        if len(users_by_conversation) > _FEW_CONVERSATIONS[self.sql.engine]:
            reads = self._mutes_of_each(list(wanted))
        else:
            statement = (
                "SELECT member, conversation, muted_until FROM membership "
                "WHERE log = %s AND conversation = %s AND left_id IS NULL "
                "AND member IN {}"
            )
            reads = [
                self.sql.ask_in(statement, (self.log, conversation), users)
                for conversation, users in users_by_conversation.items()
            ]

        def read_answers() -> dict[tuple[str, int], int]:
            """Wait for the queries, and join their rows."""
            mutes: dict[tuple[str, int], int] = {}
            for read in reads:
                for user, conversation, muted_until in read():
                    mutes[text_of(user), conversation] = muted_until
            return mutes

        return read_answers

    def _mutes_of_each(
        self, wanted: Sequence[tuple[str, int]]
    ) -> list[Callable[[], list[Row]]]:
        """Ask for the mutes of many pairs (user, conversation), in few
        statements.

        Each returned function waits for one statement, and returns its rows:
        (user, conversation, end of the mute). Every pair is looked up on its
        own, because a join could read all members of a large group.
        """
        if self.sql.engine == "postgresql":
            users = [user for user, _ in wanted]
            conversations = [conversation for _, conversation in wanted]
            statement = (
                "SELECT x.* FROM unnest(%s::text[], %s::bigint[]) AS w(member, conversation) "
                "CROSS JOIN LATERAL (SELECT s.member, s.conversation, s.muted_until "
                "FROM membership s "
                "WHERE s.log = %s AND s.member = w.member "
                "AND s.conversation = w.conversation "
                "AND s.left_id IS NULL LIMIT 1) x"
            )
            return [self.sql.ask(statement, (users, conversations, self.log))]

        # MySQL has no arrays. One UNION joins a look-up for each pair.
        reads = []
        select_one = (
            "SELECT member, conversation, muted_until FROM membership "
            "WHERE log = %s AND member = %s AND conversation = %s AND left_id IS NULL"
        )
        for chunk in chunks(wanted, _MUTES_AT_ONCE):
            # The pairs are padded to a few lengths, so that there are few
            # different statements.
            pairs = padded(chunk, chunk[-1])
            values: list[Any] = []
            for user, conversation in pairs:
                values += (self.log, user, conversation)
            statement = " UNION ALL ".join([select_one] * len(pairs))
            reads.append(self.sql.ask(statement, values))
        return reads

    def blocks(
        self, pairs: Collection[tuple[str, str]]
    ) -> Callable[[], set[tuple[str, str]]]:
        """Ask which of these pairs of users are blocked.

        A pair is blocked if the first user has blocked the second. The queries
        are only sent. The returned function waits for the answers, and returns
        the blocked pairs. Only accounts can block, and the ids of accounts are
        numbers. So pairs with other ids are left out.
        """
        wanted = [
            (int(one), int(other))
            for one, other in pairs
            if one.isdecimal()
            and one.isascii()
            and other.isdecimal()
            and other.isascii()
        ]
        wanted = [pair for pair in wanted if max(pair) < _ACCOUNTS_END]
        reads = []
        for chunk in chunks(wanted):
            accounts = padded(chunk, chunk[-1])
            if self.sql.engine == "sqlite":
                # If the statement had two lists, SQLite would combine each user
                # of one list with each user of the other list.
                marks = ", ".join(["(%s, %s)"] * len(accounts))
                statement = _BLOCKS_ON_SQLITE.format(marks)
                values = (*chain.from_iterable(accounts), self.app)
            else:
                marks = marks_of(len(accounts))
                statement = (
                    "SELECT r.account, r.other "
                    "FROM relation r JOIN account a ON a.id = r.account WHERE "
                    f"a.app = %s AND r.state = 'blocked' AND r.account IN {marks} "
                    f"AND r.other IN {marks}"
                )
                values = (
                    self.app,
                    *(one for one, _ in accounts),
                    *(other for _, other in accounts),
                )
            reads.append(self.sql.ask(statement, values))

        def read_answers() -> set[tuple[str, str]]:
            """Wait for the queries, and join their rows. The numbers of
            accounts become texts again."""
            blocks: set[tuple[str, str]] = set()
            for read in reads:
                for one, other in read():
                    blocks.add((str(one), str(other)))
            return blocks

        return read_answers

    def members(
        self, conversation: int, users: Sequence[str]
    ) -> dict[str, tuple[int, str]]:
        """Return user → (joined_id, role), for the users who are members.

        ``joined_id`` is the last id of the log before the user joined.
        """
        return members_among(self.sql, self.log, conversation, users)

    # --- drafts ---------------------------------------------------------------

    def append(self, ready: Sequence[AppendRequest]) -> list[Appended | Rejected]:
        """Check drafts and add their entries, in order. Returns the result of
        each draft.

        A client that got no answer sends its draft again, with the same
        ``client_msg_id``. Such a repeat gets the entry of the first draft, and
        nothing is added. The *resend* of a draft is the digest of this id.
        """
        lookups = self._lookups or self._ask(ready)
        self._lookups = None
        # Digest of a `client_msg_id` → the outcome of the first draft with this
        # id.
        outcomes: dict[bytes, Appended | Rejected] = {
            bytes(row[0]): Appended(entry_of(row[1:]), repeated=True)
            for row in lookups.repeats()
        }
        keys = [_key_of(request.draft) for request in ready]
        fresh = [
            (request, key)
            for request, key in zip(ready, keys, strict=True)
            if request.resend not in outcomes
        ]
        facts = self._look_up(lookups, fresh)

        # The drafts are checked in order, because a draft may depend on the
        # draft before it.
        answers: list[Appended | Rejected] = []
        for request, key in zip(ready, keys, strict=True):
            answer = None
            if request.resend is not None:
                answer = outcomes.get(request.resend)
            session = request.draft.uplink_session
            if answer is None and session and session not in facts.sessions:
                # Repeats do not get this outcome, because the newest session
                # may send the same message.
                answer = Rejected(RejectReason.SUPERSEDED)
            elif answer is None:
                answer = self._check_and_enter(request, key, facts)
                if request.resend is not None:
                    # A later draft of this transaction may repeat this draft.
                    repeat = answer
                    if isinstance(answer, Appended):
                        repeat = Appended(answer.entry, repeated=True)
                    outcomes[request.resend] = repeat
            answers.append(answer)
        return answers

    def _ask(self, ready: Sequence[AppendRequest]) -> _Lookups:
        """Ask for the facts that decide about drafts, with one query for each
        table.

        The queries are only sent; :meth:`_look_up` reads the answers. All keys
        that are looked up are in the drafts themselves, so no query waits for
        another query.
        """
        drafts = [request.draft for request in ready]
        senders = {draft.sender for draft in drafts if draft.uplink_session}
        pairs = {
            (draft.to_user, draft.sender)
            for draft in drafts
            if draft.to_user and draft.kind in _WITH_CONTENT
        }
        grouped = [draft for draft in drafts if draft.conversation and draft.sender]
        resends = {request.resend for request in ready if request.resend is not None}

        return _Lookups(
            self.sql.ask_in(_REPEATS, (self.log,), list(resends)),
            self.conversations({_key_of(draft) for draft in drafts}),
            self.mutes({(draft.sender, draft.conversation) for draft in grouped}),
            self.blocks(pairs),
            self._memory.ask_sessions(
                self.sql, self.log, senders, self.uplink_sessions
            ),
        )

    def _look_up(
        self, lookups: _Lookups, fresh: Sequence[tuple[AppendRequest, int | bytes]]
    ) -> _Facts:
        """Read the facts that decide whether drafts may be stored.

        These are the answers to ``lookups``, and the answers to further
        queries, which depend on them. ``fresh`` has the drafts that do not
        repeat a stored message, each with the key of its conversation. Facts
        about edited messages are put into fields of the transaction, because
        edits and recalls in this transaction change them.
        """
        states = lookups.states()
        blocks = lookups.blocks()

        pairs: set[tuple[str, str]] = set()
        """(receiver, sender) of drafts that name the conversation, but not the
        receiver."""
        first_messages: set[tuple[str, str]] = set()
        """(receiver, sender) of the first messages of conversations."""
        strangers: set[str] = set()
        """Receivers of first messages who need an account. Receivers who have
        an account are removed below."""
        edited: set[int] = set()
        """Ids of messages that drafts edit."""
        senders_in_limited: dict[int, list[str]] = {}
        """Group in which not all members may write → senders."""

        # Collect what the second round of queries has to look up.
        for request, key in fresh:
            draft = request.draft
            state = states.get(key)
            if state is None:
                if draft.to_user:
                    first_messages.add((draft.to_user, draft.sender))
                    if request.to_account:
                        strangers.add(draft.to_user)
            elif draft.kind in _WITH_CONTENT:
                peer = ""
                if draft.conversation:
                    peer = _peer(state, draft.sender)
                if peer:
                    pairs.add((peer, draft.sender))
                elif state.options & OPTIONS["write"][0]:
                    senders_in_limited.setdefault(state.id, []).append(draft.sender)
            if draft.kind == "edit":
                edited.add(draft.about)

        # The second round. Most transactions need none of these queries.
        if edited:
            self._recalled = recalled_among(self.sql, self.log, edited)
            self._fixed = fixed_among(self.sql, self.log, edited)
            self._edits = {
                about: count_edits(self.sql, self.log, about, MOST_EDITS)
                for about in edited
            }

        mutes = lookups.mutes()
        if pairs:
            blocks = blocks | self.blocks(pairs)()
        if strangers:
            accounts = accounts_among(self.sql, self.app, strangers)
            strangers = strangers.difference(accounts)
        unwelcome = first_messages  # empty, or replaced
        if first_messages:
            unwelcome = self._find_unwelcome(first_messages)
        sessions = lookups.sessions()
        roles = {
            group: self._roles_of_senders(states[group], senders)
            for group, senders in senders_in_limited.items()
        }
        return _Facts(states, mutes, blocks, strangers, unwelcome, sessions, roles)

    def _check_and_enter(
        self, request: AppendRequest, key: int | bytes, facts: _Facts
    ) -> Appended | Rejected:
        """Check a draft, and add its entry if all checks pass.

        Returns the entry as Appended, or the first reason against the draft as
        Rejected. The order of the checks decides which reason a sender gets.
        """
        draft = request.draft
        refusal = self._edit_refusal(draft)
        if refusal is None:
            refusal = self._sender_refusal(draft, facts)
        if refusal is not None:
            return refusal

        state = self._find_or_make_conversation(request, key, facts)
        if isinstance(state, Rejected):
            return state
        refusal = self._member_refusal(state, draft, facts)
        if refusal is not None:
            return refusal

        complete = self._complete(state, draft)
        if isinstance(complete, Rejected):
            return complete
        # Later drafts of this transaction may edit the same message.
        if complete.kind == "recall":
            self._recalled.add(complete.about)
        elif complete.kind == "edit":
            self._edits[complete.about] += 1
        return Appended(self.enter(state, complete, request.resend))

    def _edit_refusal(self, draft: Draft) -> Rejected | None:
        """Return why a message may not be edited.

        Returns None if the message may be edited, or if the draft is not an
        edit. A recalled message, a question with a fixed text, and a message
        with too many edits stay as they are.
        """
        if draft.kind != "edit":
            return None
        if draft.about in self._recalled:
            return Rejected(RejectReason.RECALLED)
        if draft.about in self._fixed:
            return FIXED
        if self._edits[draft.about] >= MOST_EDITS:
            return Rejected(
                RejectReason.FULL, f"at most {MOST_EDITS} edits of a message"
            )
        return None

    def _sender_refusal(self, draft: Draft, facts: _Facts) -> Rejected | None:
        """Return why the sender may not send this draft to any conversation.

        Returns None if the sender may send the draft. Only bots send buttons,
        except in rooms, and nobody sends content to a user who has blocked
        them.
        """
        # Buttons are rare, so the account is looked up only for them.
        if (
            BUTTONS_KEY in draft.meta
            and not draft.room
            and not accounts_among(self.sql, self.app, [draft.sender], "AND bot = 1")
        ):
            return Rejected(RejectReason.NOT_BOT, "only bots send buttons")
        if (
            facts.blocks
            and draft.kind in _WITH_CONTENT
            and (_receiver(draft, facts.states), draft.sender) in facts.blocks
        ):
            return _BLOCKED
        return None

    def _find_or_make_conversation(
        self, request: AppendRequest, key: int | bytes, facts: _Facts
    ) -> ConversationState | Rejected:
        """Return the conversation of a draft.

        The first draft to a room or a user creates the conversation, and adds
        it to ``facts``. Returns Rejected if the draft may not begin a
        conversation, or names a conversation that does not exist.
        """
        draft = request.draft
        state = facts.states.get(key)
        if state is not None:
            if draft.group and state.kind != GROUP:
                return _UNKNOWN
            return state

        # A draft in a thread cannot begin a conversation, because a new
        # conversation has no message to which the thread could belong.
        if draft.thread:
            return Rejected(RejectReason.UNKNOWN_MESSAGE)
        if draft.room:
            state = self.make_conversation(ROOM, (), draft.room)
        elif request.to_account and draft.to_user in facts.strangers:
            return Rejected(RejectReason.UNKNOWN_ACCOUNT)
        elif (draft.to_user, draft.sender) in facts.unwelcome:
            return _BLOCKED
        elif draft.to_user:
            state = self.make_conversation(USER, tuple(sorted(_pair_of(draft))))
        else:
            return _UNKNOWN
        facts.states[key] = state
        return state

    def _member_refusal(
        self, state: ConversationState, draft: Draft, facts: _Facts
    ) -> Rejected | None:
        """Return why the sender may not write to a conversation of members.

        Returns None if the sender may write. The sender must be a member
        without a mute, and have the role that the group demands for writing.
        """
        # An empty sender means the server, which may send to every
        # conversation. A draft without the id of a conversation names a room or
        # a user, so the sender needs no membership.
        if not (draft.conversation and draft.sender):
            return None
        muted_until = facts.mutes.get((draft.sender, state.id))
        if muted_until is None:  # only members have a value
            return Rejected(RejectReason.NOT_MEMBER)
        if muted_until > self.now and draft.kind in _WITH_CONTENT:
            return Rejected(RejectReason.MUTED)
        if state.id in facts.roles:
            roles = facts.roles[state.id]
            if not self._may_send_content(state, draft, roles):
                return Rejected(
                    RejectReason.READ_ONLY,
                    "only the owner and admins write in this group",
                )
        return None

    def _complete(self, state: ConversationState, draft: Draft) -> Draft | Rejected:
        """Add to a draft what only the log knows, and return the new draft.

        The method adds the users whom the draft's handles mention, its thread,
        and the bot of its slash command. A *handle* is the name of a group, by
        which a message mentions its members. Returns Rejected if the draft
        mentions too many users, or if its thread cannot have this reply.
        """
        # The bytes are tested first, because most messages have no handle. Then
        # their `meta` need not be decoded.
        if (
            HANDLE_SIGN in draft.meta
            and state.kind == GROUP
            and draft.kind in _WITH_CONTENT
        ):
            named = with_handles(self.sql, self.app, self.log, state, draft)
            if isinstance(named, Rejected):
                return named
            draft = named
        if draft.thread:
            reply = self.in_thread(state, draft)
            if isinstance(reply, Rejected):
                return reply
            draft = reply
        if (
            draft.kind == "message"
            and draft.body[:1] == b"/"
            and draft.type == "text"
            and not draft.room
        ):
            draft = with_command(self.sql, self.app, state, draft)
        return draft

    def _roles_of_senders(
        self, state: ConversationState, senders: Sequence[str]
    ) -> dict[str, str]:
        """Return sender → role, for the senders who are members of a group.

        Incoming webhooks count as admins, because admins have made them.
        """
        members = self.members(state.id, list(dict.fromkeys(senders)))
        roles = {user: role for user, (_, role) in members.items()}
        hooks = hooks_among(self.sql, self.app, state, roles)
        return roles | dict.fromkeys(hooks, "admin")

    def _may_send_content(
        self, state: ConversationState, draft: Draft, roles: Mapping[str, str]
    ) -> bool:
        """Tell whether a member may send a draft to a group with limited
        writing.

        In such a group, not all members may write. An option of the group may
        still let plain members reply in threads. ``roles`` has the roles of
        senders. A sender without a role is a plain member. Drafts without
        content, such as recalls, are always allowed.
        """
        if draft.kind not in _WITH_CONTENT:
            return True
        role = roles.get(draft.sender, "member")
        in_thread = draft.thread > 0 and not draft.also  # in the thread alone
        # An edit counts as a message in the thread if the edited message is
        # shown only in the thread.
        if draft.kind == "edit" and role == "member":
            in_thread = is_beside(self.sql, self.log, state.id, draft.about)
        return may_write(state.options, role, in_thread)

    def _find_unwelcome(
        self, first_messages: set[tuple[str, str]]
    ) -> set[tuple[str, str]]:
        """Return the first messages that their receivers do not want.

        A message is a pair (receiver, sender). It is unwelcome if the sender is
        a guest who is no friend, or a bot whose owner the receiver has blocked.
        A *first message* would create the conversation of the two users.
        """
        senders = {sender for _, sender in first_messages}
        guests = accounts_among(self.sql, self.app, senders, "AND guest = 1")
        of_guests = {
            (user, guest)
            for user, guest in first_messages
            if guest in guests
            and user != guest
            and not are_friends(self.sql, user, guest)
        }
        return of_guests | self._of_blocked_owners(first_messages, senders)

    def _of_blocked_owners(
        self, first_messages: set[tuple[str, str]], senders: set[str]
    ) -> set[tuple[str, str]]:
        """Return the first messages of bots whose owners are blocked.

        A user who has blocked a person does not want the bots of that person.
        """
        owners = owners_among(self.sql, self.app, senders)
        pairs = {(user, owners[bot]) for user, bot in first_messages if bot in owners}
        blocks = self.blocks(pairs)()
        return {
            (user, bot)
            for user, bot in first_messages
            if (user, owners.get(bot)) in blocks
        }


def _key_of(draft: Draft) -> int | bytes:
    """Return the key by which the conversation of a draft is looked up.

    The key is the id if the draft names the conversation. Otherwise it is the
    bytes for its pair of users or its room.
    """
    if draft.to_user:
        return pair_of(*_pair_of(draft))
    if draft.room:
        return pair_of_room(draft.room)
    return draft.conversation


def _pair_of(draft: Draft) -> tuple[str, str]:
    """Return the two users of a draft that names its receiver.

    Saved messages are in the receiver's conversation with themselves, so both
    users are then the receiver.
    """
    if draft.saved:
        return draft.to_user, draft.to_user
    return draft.sender, draft.to_user


def _receiver(draft: Draft, states: dict[int | bytes, ConversationState]) -> str:
    """Return the one user who receives a draft; ``""`` for a group or a
    room."""
    if draft.to_user or draft.room:
        return draft.to_user
    state = states.get(draft.conversation)
    if state is None:
        return ""
    return _peer(state, draft.sender)


def _peer(state: ConversationState, sender: str) -> str:
    """Return the other user of a conversation of two.

    Returns ``""`` for a group or a room, and for a user's conversation with
    themselves.
    """
    return next((user for user in state.members if user != sender), "")


def lock_head(sql: Statements, app: str) -> LogHead:
    """Lock the head of an app's log until the transaction ends, and return it.

    The *head* is the row with the last id of the log. A log that does not exist
    is created.
    """
    return head_of(sql, app, lock=True) or _new_head(sql, app)


def _new_head(sql: Statements, app: str) -> LogHead:
    """Create the log of an app, and lock its head.

    Another writer may create the log at the same time. In this case nothing is
    inserted here, and the row of the other writer is locked.
    """
    sql.insert_new(
        "log", "app, part, last_id, last_conversation, floor", [(app, 0, 0, 0, 0)]
    )
    head = head_of(sql, app, lock=True)
    assert head is not None
    return head


def batch_of(sql: Statements, log: int, id: int) -> int | None:
    """Return the number of the transaction that stored an entry.

    Returns None if the entry does not exist.
    """
    rows = sql.query("SELECT batch FROM message WHERE log = %s AND id = %s", (log, id))
    if not rows:
        return None
    return int(rows[0][0])


def _move_conversations(
    sql: Statements, log: int, states: Sequence[ConversationState]
) -> None:
    """Write the last seq and the last id of existing conversations.

    Each engine gets its cheapest statement for different values per row.
    """
    if sql.engine == "postgresql":
        ids = [state.id for state in states]
        seqs = [state.last_seq for state in states]
        last_ids = [state.last_id for state in states]
        sql.execute_many(
            "UPDATE conversation c SET last_seq = w.seq, last_id = w.last "
            "FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(id, seq, last) "
            "WHERE c.log = %s AND c.id = w.id",
            [(ids, seqs, last_ids, log)],
        )
    elif sql.engine == "mysql":
        # The rows exist. An upsert is the only statement of MySQL that can set
        # different values per row.
        sql.execute_many(
            "INSERT INTO conversation (log, id, kind, name, last_seq, last_id, created) "
            "VALUES (%s, %s, %s, '', %s, %s, 0) "
            "ON DUPLICATE KEY UPDATE last_seq = VALUES(last_seq), last_id = VALUES(last_id)",
            [
                (log, state.id, state.kind, state.last_seq, state.last_id)
                for state in states
            ],
        )
    else:
        sql.execute_many(
            "UPDATE conversation SET last_seq = %s, last_id = %s "
            "WHERE log = %s AND id = %s",
            [(state.last_seq, state.last_id, log, state.id) for state in states],
        )


class WriteTransaction:
    """One transaction of the log writer, with its requests by app.

    The transaction can be run again from the start on another connection.
    ``known`` has app → the greatest id that the log is known to have. If the
    log in the database ends before this id, entries were lost, and the
    transaction raises EntriesLost.
    """

    def __init__(
        self,
        apps: Mapping[str, list[Request]],
        memory: WriterMemory,
        known: Mapping[str, int],
    ) -> None:
        """Prepare the transaction without a database.

        ``batch`` is a random number that is stored with each entry. The number
        shows later whether this transaction was committed. It is never 0.
        """
        self.batch = randbits(_BATCH_BITS) + 1
        self.guard = CommitGuard()
        self.given_up = False
        """True if the requests of the transaction were answered before its end,
        because it took too long."""
        self.apps = {app: apps[app] for app in sorted(apps)}
        """Sorted by name, so that two writers never deadlock."""
        self.requests = list(chain.from_iterable(self.apps.values()))
        self.commits: dict[str, Commit] = {}
        """App → the entries that were stored in its log, for apps with new
        entries."""
        self.is_unseen = False
        """Whether something was stored without an entry: an uplink session or a
        vote. The log has no row that shows whether such a change was
        committed."""
        self._now = int(time())
        self._memory = memory
        self._known = known

    @property
    def is_undecided(self) -> bool:
        """Whether a request has no outcome yet, so that the database is
        needed."""
        return any(request.outcome is None for request in self.requests)

    def __call__(self, sql: DirectStatements) -> None:
        """Make the changes and append the drafts of all apps, without the
        COMMIT.

        Each outcome is stored in the field ``outcome`` of its request.
        ``commits`` gets the new entries of each app. Raises EntriesLost if the
        database lacks entries that this node knows.
        """
        # Begin anew, because an earlier run may have failed half-way.
        self.commits = {}
        for app, requests in self.apps.items():
            changes = [one for one in requests if isinstance(one, ChangeRequest)]
            drafts = [
                one
                for one in requests
                if isinstance(one, AppendRequest) and one.rejected is None
            ]
            sources = [(one, one.source) for one in drafts if one.source is not None]
            # A change may alter the facts that decide about drafts, so the
            # facts are then read after the changes.
            drafts_first: Sequence[AppendRequest] = drafts
            if changes:
                drafts_first = ()
            part = AppTransaction(
                sql, app, self.batch, self._now, self._memory, drafts_first
            )
            # `_known` includes ids that were learned since the transaction
            # began.
            if part.before < self._known.get(app, 0):
                raise EntriesLost(app)

            # Changes come first, because the drafts must see their effects.
            for change in changes:
                change.outcome = change.apply(part)
            # A *source* is the row that decides about a draft, for example a
            # scheduled message. If the row is gone, the draft is not stored.
            for request, source in sources:
                if not source.holds(sql):  # the row was deleted or changed
                    request.outcome = Rejected(RejectReason.WITHDRAWN)
                    drafts.remove(request)
            for request, outcome in zip(drafts, part.append(drafts), strict=True):
                request.outcome = outcome
            for request, source in sources:
                if isinstance(request.outcome, Appended):
                    source.stored(sql, request.outcome.entry)

            part.write()
            self.is_unseen |= part.is_unseen or bool(part.uplink_sessions)
            if part.entries:
                self.commits[app] = Commit(
                    app, part.before + 1, part.head.last_id, part.entries
                )


# --- memory of the writer -----------------------------------------------------


class WriterMemory:
    """The facts that a writer remembers from earlier transactions: the numbers
    of logs, and the newest uplink sessions in one log."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.logs: dict[str, int] = {}
        """App → the number of its log. The number may have changed since. The
        head has the current number."""
        self._known: tuple[int, list[Row]] = (0, [])
        """A log and its last uplink session. The next two fields are valid only
        for them: if the log has another last session now, the fields are
        forgotten."""
        self._users: frozenset[str] = frozenset()
        """The users who were looked up, with or without a session. Their newest
        sessions are in :attr:`_sessions`."""
        self._sessions: frozenset[int] = frozenset()

    def ask_sessions(
        self, sql: Statements, log: int, users: set[str], begun: Mapping[str, int]
    ) -> Callable[[], Collection[int]]:
        """Ask for the newest uplink sessions of these users.

        An *uplink session* is a login of a user; no other session may send for
        this user. The returned function reads the answer, which may also have
        sessions of other users.

        The memory looks up each user once. It forgets all users when a session
        of any user of the log begins on any node, or is deleted. ``begun`` has
        user → the session that begins in this transaction.
        """
        if not users:
            return frozenset
        # The sessions that begin in this transaction are newer than any answer.
        if begun:

            def with_begun() -> set[int]:
                without_new = list(users - begun.keys())
                return stored_sessions(sql, log, without_new).union(begun.values())

            return with_begun
        # The row `LAST_SESSION` changes with each new session of any user. It
        # shows whether the memory is still valid.
        read_last = sql.ask(_SESSIONS.format("(%s)"), (log, LAST_SESSION))
        unknown = users - self._users
        read_unknown = _ask_sessions(sql, log, list(unknown))

        def read_answer() -> frozenset[int]:
            """Wait for the queries, and update the memory."""
            current = (log, read_last())
            sessions = read_unknown()
            is_full = len(self._users) > _MOST_REMEMBERED
            if not read_last() or current != self._known or is_full:
                self._known = current
                self._users = frozenset()
                self._sessions = frozenset()
                # The memory is no longer valid, so the remembered users are
                # looked up again.
                sessions |= stored_sessions(sql, log, list(users - unknown))
            # Most transactions have only known users. Then the memory stays as
            # it is.
            if sessions or unknown:
                self._sessions |= sessions
                self._users |= users
            return self._sessions

        return read_answer


def _ask_sessions(
    sql: Statements, log: int, users: Sequence[str]
) -> Callable[[], set[int]]:
    """Ask for the newest uplink sessions of these users.

    The returned function waits for the answer, and returns the sessions.
    """
    rows = sql.ask_in(_SESSIONS, (log,), users)

    def read_answer() -> set[int]:
        return {row[0] for row in rows()}

    return read_answer


def stored_sessions(sql: Statements, log: int, users: Sequence[str]) -> set[int]:
    """Return the newest uplink session of each of these users.

    Only this session may send drafts that name a session.
    """
    return _ask_sessions(sql, log, users)()
