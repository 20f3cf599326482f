"""Mapping of entries, conversations and drafts to rows, and access to the head
of an app's log."""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from hashlib import blake2b
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, get_args

from msgspec import Struct
from msgspec.structs import replace

from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import Limit
from imserver.gateway.storage.statements import Statements, text_objection, text_of
from imserver.messenger.log.contract import (
    Conversation,
    ConversationKind,
    Draft,
    Entry,
    openness_of,
)
from imserver.messenger.log.meta import REACTIONS_KEY, take_reactions
from imserver.messenger.log.model import EntryKind, Reaction
from imserver.plugin.storage import Store

T = TypeVar("T")
P = ParamSpec("P")
Part = TypeVar("Part", bound=Store.Rows)

_MAX_ID: Final = Limit.ID
_MAX_TYPE_BYTES: Final = Limit.TYPE_BYTES
KINDS: Final[tuple[EntryKind, ...]] = get_args(EntryKind)
"""The kinds of entries. A kind is stored as its index in this tuple."""
NUMBERS: Final[dict[str, int]] = {kind: number for number, kind in enumerate(KINDS)}
_SENT: Final = frozenset({"message", "recall", "edit", "press"})
"""The kinds of drafts. The log itself makes the entries of all other kinds."""
ANNOTATIONS: Final = f"({NUMBERS['reaction']}, {NUMBERS['pin']}, {NUMBERS['press']})"
"""The kinds that do not count as unread, and are never the last entry of a
conversation. The text is for ``kind IN``."""
CONVERSATION_KINDS: Final[tuple[ConversationKind, ...]] = get_args(ConversationKind)
USER: Final = 0
GROUP: Final = 1
ROOM: Final = 2

LAST_SESSION: Final = ""
"""The row with this user has the newest uplink session of all users. If this
row is missing, no session has begun, or sessions were deleted since."""
MOST_BYTES: Final = 1 << 20
"""The most bytes of a body, and of ``meta``. The limits for clients are far
lower."""
SQLITE_BY_CONVERSATION: Final = "INDEXED BY sqlite_autoindex_message_2"
"""The hint for the index ``message_by_conversation``, by SQLite's name for it.
Without this hint a query that reads ``kind`` scans the log."""
SQLITE_BY_GROUP: Final = "INDEXED BY sqlite_autoindex_membership_2"
"""The hint for the index ``membership_by_conversation``, the second constraint
of the table, by SQLite's name for it. Without this hint SQLite scans the
members of all groups."""
_RESEND_BYTES: Final = 16
_NUL: Final = "\0"
"""Separates the two names of a key. No id of a user has this character."""
_ROOM: Final = b"\0\0"
"""The beginning of the key of a room."""

ENTRY_COLUMNS: Final = (
    "m.id, m.conversation, m.seq, m.sender, m.kind, m.type, m.body, m.client_msg_id, m.time_ms, m.about, "
    "m.meta, c.kind, c.pair"
)
"""The order that :func:`entry_of` expects, of a message ``m`` and its
conversation ``c``."""


SELECT_HEAD: Final = (
    "SELECT number, last_id, last_conversation, floor, lost FROM log "
    "WHERE app = %s AND part = 0"
)
"""Selects the fields of :class:`LogHead`."""

SELECT_STATE: Final = (
    "SELECT id, kind, pair, last_seq, last_id, options, bots FROM conversation "
    "WHERE log = %s AND "
)
"""Selects the columns that :func:`conversation_state_of` expects."""

FROM_MESSAGES: Final = (
    "FROM message m JOIN conversation c ON c.log = m.log AND c.id = m.conversation "
    "WHERE m.log = %s AND "
)


class LogHead(Struct):
    """The row of a log, locked until the transaction ends."""

    number: int
    """The number by which other tables name the log."""
    last_id: int
    """The id of the newest entry, or 0 if the log is empty."""
    last_conversation: int
    """The id of the newest conversation."""
    floor: int
    """The id of the last expired entry, or 0 if no entry has expired."""
    lost: Any = None
    """The ranges of lost entries as text: see
    :func:`imserver.messenger.log.lost.ranges_of`."""


class ConversationState(Struct):
    """The row of a conversation, cached during a transaction. Each append
    updates it."""

    id: int
    kind: int
    """USER, GROUP or ROOM."""
    members: tuple[str, ...]
    """The two users of a pair, or ``()`` for a group or a room."""
    last_seq: int
    last_id: int
    """The id of the newest entry of the conversation."""
    room: str = ""
    """The name of a room."""
    options: int = 0
    """The options of a group, as bits."""
    bots: tuple[str, ...] = ()
    """The members of a group that are bots."""


def resend_of(sender: str, client_msg_id: str) -> bytes:
    """Return the digest of sender and ``client_msg_id``, by which a repeated
    draft is found. It has 16 bytes, so that one query can look up the digests
    of a whole batch."""
    named = f"{sender}{_NUL}{client_msg_id}".encode()
    return blake2b(named, digest_size=_RESEND_BYTES).digest()


def pair_of(one: str, other: str) -> bytes:
    """Return the key of the conversation of two users: their ids in order.

    The key does not depend on which user writes first.
    """
    if one < other:
        return f"{one}{_NUL}{other}".encode()
    return f"{other}{_NUL}{one}".encode()


def pair_of_room(room: str) -> bytes:
    """Return the key of the conversation of a room, in the column for pairs.

    This key cannot equal the key of two users, because at most one of two users
    has an empty id.
    """
    return _ROOM + room.encode()


def members_of(pair: Any) -> tuple[str, ...]:
    """Return the two users of a pair, or ``()`` for a group (NULL) and for a
    room."""
    if pair is None:
        return ()
    key = bytes(pair)
    if key.startswith(_ROOM):
        return ()
    return tuple(key.decode().split(_NUL))


def room_of(pair: Any) -> str:
    """Return the name of a room, or ``""`` for other conversations."""
    if pair is None:
        return ""
    key = bytes(pair)
    if not key.startswith(_ROOM):
        return ""
    return key.removeprefix(_ROOM).decode()


def entry_of(row: Any) -> Entry:
    """Make an entry from a row with the columns :data:`ENTRY_COLUMNS`.

    The totals of reactions are in the column ``meta``, but readers get them in
    the field ``reactions``.
    """
    (
        id,
        conversation,
        seq,
        sender,
        kind,
        type,
        body,
        client_msg_id,
        time_ms,
        about,
        meta,
        conversation_kind,
        pair,
    ) = row

    room = ""
    if conversation_kind == ROOM:
        room = room_of(pair)
    entry = Entry(
        id=id,
        conversation=conversation,
        seq=seq,
        sender=text_of(sender),
        kind=KINDS[kind],
        type=text_of(type),
        body=bytes(body),
        client_msg_id=text_of(client_msg_id),
        time_ms=time_ms,
        about=about,
        meta=bytes(meta),
        members=members_of(pair),
        room=room,
    )

    if entry.kind != "message" or REACTIONS_KEY not in entry.meta:
        return entry
    # In the database the totals are part of ``meta``. The stored totals do not
    # say which reactions are the reader's.
    meta_without, totals = take_reactions(entry.meta)
    reactions = tuple(
        Reaction(total.emoji, total.count, total.users, mine=False) for total in totals
    )
    return replace(entry, meta=meta_without, reactions=reactions)


def users_of(entry: Entry) -> list[str]:
    """Return the users whose membership an entry changes."""
    return list(entry.group_meta().users or ())


def conversation_state_of(row: Any) -> ConversationState:
    """Make the state of a conversation from the columns of
    :data:`SELECT_STATE`.

    Other columns may follow.
    """
    id, kind, pair, last_seq, last_id, options, bots, *_ = row
    room = ""
    if kind == ROOM:
        room = room_of(pair)
    return ConversationState(
        id, kind, members_of(pair), last_seq, last_id, room, options, bots_from(bots)
    )


def conversation_of(row: Any) -> Conversation:
    """Make a conversation from a row of the database.

    The columns are ``id, kind, name, pair, last_id, last_seq, created, open,
    options, bots, avatar, description, handle``. Other columns may follow.
    """
    (
        id,
        kind,
        name,
        pair,
        last_id,
        last_seq,
        created,
        openness,
        options,
        bots,
        avatar,
        description,
        handle,
        *_,
    ) = row
    # The column `open` has two facts as one number.
    is_open, everybody = openness_of(openness)
    return Conversation(
        id=id,
        kind=CONVERSATION_KINDS[kind],
        name=text_of(name),
        members=members_of(pair),
        last_id=last_id,
        last_seq=last_seq,
        created=created,
        open=is_open,
        everybody=everybody,
        options=options,
        bots=bots_from(bots),
        avatar=text_of(avatar or ""),
        description=text_of(description or ""),
        handle=text_of(handle or ""),
    )


def bots_from(column: Any) -> tuple[str, ...]:
    """Return the bots of a group from its column ``bots``.

    ``"7,12"`` gives ``("7", "12")``; NULL gives ``()``.
    """
    if column is None:
        return ()
    return tuple(text_of(column).split(","))


def members_among(
    sql: Statements, log: int, conversation: int, users: Sequence[str]
) -> dict[str, tuple[int, str]]:
    """Return user → (joined_id, role), for the users who are members.

    ``joined_id`` is the last id of the log before the user joined the
    conversation.
    """
    statement = (
        "SELECT member, joined_id, role FROM membership "
        "WHERE log = %s AND conversation = %s AND left_id IS NULL AND member IN {}"
    )
    rows = sql.query_in(statement, (log, conversation), users)
    return {text_of(user): (joined, text_of(role)) for user, joined, role in rows}


def count_members(sql: Statements, log: int, conversation: int) -> int:
    """Return the number of members of a conversation."""
    statement = (
        f"SELECT count(*) FROM membership {sql.on_sqlite(SQLITE_BY_GROUP)} "
        "WHERE log = %s AND conversation = %s AND left_id IS NULL"
    )
    return int(sql.query(statement, (log, conversation))[0][0])


# --- validation ---------------------------------------------------------------


def objection(draft: Draft) -> str:
    """Return why a draft cannot be stored, or ``""`` if it can be stored.

    Without this check, one invalid draft would make all drafts of its batch
    fail.
    """
    if bool(draft.to_user) + bool(draft.conversation) + bool(draft.room) != 1:
        return "exactly one of to_user, conversation and room is required"
    names = f"{draft.sender}{draft.to_user}{draft.room}{draft.type}"
    # In most drafts, all names together are not longer than one name may be,
    # and are plain ASCII. Then the single names need no check.
    if (
        len(names) > _MAX_TYPE_BYTES
        or draft.client_msg_id
        or not names.isascii()
        or "\0" in names
    ):
        for name, text, most in (
            ("sender", draft.sender, MAX_USER_BYTES),
            ("to_user", draft.to_user, MAX_USER_BYTES),
            ("room", draft.room, Limit.ROOM_BYTES),
            ("type", draft.type, _MAX_TYPE_BYTES),
            ("client_msg_id", draft.client_msg_id, Limit.CLIENT_MSG_ID_BYTES),
        ):
            if not text:
                continue
            wrong = text_objection(text, most)
            if wrong:
                return f"{name}: {wrong}"

    if draft.kind not in _SENT:
        return "kind: a draft is a message, recall, edit or press; other entries have methods of the log"
    if len(draft.body) > MOST_BYTES or len(draft.meta) > MOST_BYTES:
        return f"at most {MOST_BYTES} bytes"
    if not Limit.MIN_TIME_MS <= draft.time_ms <= Limit.TIME_MS:
        return "time_ms: not in the years 1 to 9999"
    if not 0 <= draft.about <= _MAX_ID:
        return "about: not a 64-bit number"
    if draft.thread and (
        draft.kind != "message" or draft.room or not 0 < draft.thread <= _MAX_ID
    ):
        return "thread: a message replies to a message of its conversation"
    if 0 <= draft.conversation <= _MAX_ID:
        return ""
    return "conversation: not a 64-bit number"


# --- one log ------------------------------------------------------------------


def head_of(sql: Statements, app: str, lock: bool = False) -> LogHead | None:
    """Return the head of an app's log, or None if the app has no log.

    If ``lock``, the row is locked, so that other writers wait.
    """
    return ask_head(sql, app, lock)()


def ask_head(
    sql: Statements, app: str, lock: bool = False
) -> Callable[[], LogHead | None]:
    """Ask for the head of an app's log, and with ``lock``, lock it.

    The query is only sent. The returned function waits for the answer. It
    returns None if the app has no log. Statements that are asked later run
    under the lock.
    """
    statement = SELECT_HEAD
    if lock:
        statement += sql.for_update
    rows = sql.ask(statement, (app,))

    def read_answer() -> LogHead | None:
        if not rows():
            return None
        return LogHead(*rows()[0])

    return read_answer


def read_log(
    store: Store, app: str, work: Callable[[Statements, LogHead], T], nothing: T
) -> T:
    """Run ``work`` with the head of an app's log, in a transaction that reads.

    The transaction sees one state of the database. Returns ``nothing`` if the
    app has no log. May switch greenlets and raise StorageUnavailable, which is
    temporary.
    """
    return store.read_or(nothing, partial(_with_head, app, work, nothing))


def change_log(
    store: Store, app: str, work: Callable[[Statements, LogHead], T], nothing: T
) -> T:
    """Run ``work`` with the head of an app's log, in a transaction that writes.

    The head is not locked. Otherwise the function is like :func:`read_log`.
    """
    return store.write_or(nothing, partial(_with_head, app, work, nothing))


def _with_head(
    app: str, work: Callable[[Statements, LogHead], T], nothing: T, sql: Statements
) -> T:
    """Run ``work`` with the head of an app's log, or return ``nothing``."""
    head = head_of(sql, app)
    if head is None:
        return nothing
    return work(sql, head)


def in_log(
    nothing: Callable[[], Any] = lambda: None, *, writes: bool = False
) -> Callable[
    [Callable[Concatenate[Part, Statements, LogHead, P], T]],
    Callable[Concatenate[Part, str, P], T],
]:
    """Turn a method that takes statements into a method that runs in a
    transaction.

    The decorated method gets the statements and the head of the log as its
    first arguments. Callers pass the name of the app instead. If the app has no
    log, the result is ``nothing()``. If ``writes``, the transaction may write.
    The new method may switch greenlets and raise StorageUnavailable.
    """
    run = change_log if writes else read_log

    def decorate(
        work: Callable[Concatenate[Part, Statements, LogHead, P], T],
    ) -> Callable[Concatenate[Part, str, P], T]:
        """Turn the method that takes statements into the method for callers."""

        @wraps(work)
        def method(part: Part, app: str, /, *args: P.args, **values: P.kwargs) -> T:
            def in_transaction(sql: Statements, head: LogHead) -> T:
                return work(part, sql, head, *args, **values)

            default: T = nothing()
            return run(part._store, app, in_transaction, default)

        return method

    return decorate
