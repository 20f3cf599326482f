"""How entries and conversations map to rows, and how statements are run and shaped for each engine.

Statements are written with ``%s``; the functions here adapt them to the engine of a SQLAlchemy connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from imserver.storage.log.contract import (
    CLIENT_MSG_ID_BYTES,
    ROOM_BYTES,
    TYPE_BYTES,
    USER_BYTES,
    Conversation,
    ConversationKind,
    Draft,
    Entry,
    EntryKind,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

KINDS: Final[tuple[EntryKind, ...]] = ("message", "recall", "edit", "join", "leave", "group")
"""A kind is stored as its index here, so new ones are only added at the end."""
NUMBERS: Final[dict[str, int]] = {kind: number for number, kind in enumerate(KINDS)}
CONVERSATION_KINDS: Final[tuple[ConversationKind, ...]] = ("user", "group", "room")
USER: Final = 0
GROUP: Final = 1
ROOM: Final = 2

MOST_BYTES: Final = 1 << 20
"""Limit of a body, and of ``meta``. The limits for clients are far lower."""
GREATEST: Final = (1 << 63) - 1
SQLITE_BY_GROUP: Final = "INDEXED BY sqlite_autoindex_membership_2"
"""SQLite's name of ``membership_by_conversation``, the second constraint of the table. Without it SQLite
scans the members of all groups."""
_NUL: Final = "\0"
_ROOM: Final = b"\0\0"

MESSAGE_COLUMNS: Final = (
    "log, id, conversation, seq, sender, kind, type, client_msg_id, resend, time_ms, about, stored_at, "
    "batch, meta, body"
)
"""The order of the values of :func:`row_of`."""

ENTRY_COLUMNS: Final = (
    "m.id, m.conversation, m.seq, m.sender, m.kind, m.type, m.body, m.client_msg_id, m.time_ms, m.about, "
    "m.meta, c.kind, c.pair"
)
"""The order that :func:`entry_of` expects, of a message ``m`` and its conversation ``c``."""


SELECT_HEAD: Final = "SELECT number, last_id, last_conversation, floor FROM log WHERE app = %s AND part = 0"
"""Selects the fields of :class:`LogHead`."""

SELECT_STATE: Final = "SELECT id, kind, pair, last_seq, last_id FROM conversation WHERE log = %s AND "
"""Selects the columns that :func:`conversation_state_of` expects."""

FROM_MESSAGES: Final = (
    "FROM message m JOIN conversation c ON c.log = m.log AND c.id = m.conversation WHERE m.log = %s AND "
)


class LogHead(Struct):
    """The row of a log, locked until its transaction ends."""

    number: int
    last_id: int
    last_conversation: int
    floor: int


class ConversationState(Struct):
    """The row of a conversation, cached during a transaction; each append updates it."""

    id: int
    kind: int
    members: tuple[str, ...]
    last_seq: int
    last_id: int
    room: str = ""


def resend_of(sender: str, client_msg_id: str) -> bytes:
    """Digest of a sender and ``client_msg_id`` in 16 bytes, short enough to look up a whole batch at once."""
    return blake2b(f"{sender}{_NUL}{client_msg_id}".encode(), digest_size=16).digest()


def pair_of(one: str, other: str) -> bytes:
    """Key of the conversation of two users."""
    return _NUL.join(sorted((one, other))).encode()


def pair_of_room(room: str) -> bytes:
    """Key of the conversation of a room, in the column that holds the pair of two users. It cannot be a pair:
    at most one of two users has an empty id."""
    return _ROOM + room.encode()


def members_of(pair: Any) -> tuple[str, ...]:
    """The two users of a pair; none for a group's NULL, and for a room."""
    if pair is None or (named := bytes(pair)).startswith(_ROOM):
        return ()
    return tuple(named.decode().split(_NUL))


def room_of(pair: Any) -> str:
    """The name of a room; ``""`` for all else."""
    if pair is None or not (named := bytes(pair)).startswith(_ROOM):
        return ""
    return named.removeprefix(_ROOM).decode()


def text_of(value: Any) -> str:
    """A name as it came from a driver: MySQL's are bytes."""
    return value if type(value) is str else bytes(value).decode()


def entry_of(row: Any) -> Entry:
    """An entry from :data:`ENTRY_COLUMNS`."""
    return Entry(
        id=row[0],
        conversation=row[1],
        seq=row[2],
        sender=text_of(row[3]),
        kind=KINDS[row[4]],
        type=text_of(row[5]),
        body=bytes(row[6]),
        client_msg_id=text_of(row[7]),
        time_ms=row[8],
        about=row[9],
        meta=bytes(row[10]),
        kind_of_conversation=CONVERSATION_KINDS[row[11]],
        members=members_of(row[12]),
        room=room_of(row[12]) if row[11] == ROOM else "",
    )


def conversation_state_of(row: Any) -> ConversationState:
    """A conversation from ``id, kind, pair, last_seq, last_id``."""
    return ConversationState(
        row[0], row[1], members_of(row[2]), row[3], row[4], room_of(row[2]) if row[1] == ROOM else ""
    )


def conversation_of(row: Any) -> Conversation:
    """A conversation from ``id, kind, name, pair, last_id, last_seq, created, open``."""
    return Conversation(
        id=row[0],
        kind=CONVERSATION_KINDS[row[1]],
        name=text_of(row[2]),
        members=members_of(row[3]),
        last_id=row[4],
        last_seq=row[5],
        created=row[6],
        open=bool(row[7]),
    )


def row_of(log: int, entry: Entry, resend: bytes | None, stored_at: int, batch: int) -> tuple[Any, ...]:
    """The values of :data:`MESSAGE_COLUMNS`."""
    return (
        log,
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
        stored_at,
        batch,
        entry.meta,
        entry.body,
    )


# --- what can be stored -------------------------------------------------------------------------------------


def objection(draft: Draft) -> str:
    """Why a draft cannot be stored; ``""``: it can. So that no draft makes the others of its batch fail."""
    if bool(draft.to_user) + bool(draft.conversation) + bool(draft.room) != 1:
        return "it goes to a user, to a conversation or to a room"
    for name, text, most in (
        ("sender", draft.sender, USER_BYTES),
        ("to_user", draft.to_user, USER_BYTES),
        ("room", draft.room, ROOM_BYTES),
        ("type", draft.type, TYPE_BYTES),
        ("client_msg_id", draft.client_msg_id, CLIENT_MSG_ID_BYTES),
    ):
        if text and (wrong := text_objection(text, most)):
            return f"{name}: {wrong}"
    if draft.kind not in NUMBERS:
        return "kind: there is none of this name"
    if len(draft.body) > MOST_BYTES or len(draft.meta) > MOST_BYTES:
        return f"at most {MOST_BYTES} bytes"
    if not (-GREATEST <= draft.time_ms <= GREATEST and 0 <= draft.about <= GREATEST):
        return "time_ms, about: no number of 64 bits"
    return "" if 0 <= draft.conversation <= GREATEST else "conversation: no number of 64 bits"


def text_objection(text: str, most: int) -> str:
    """Why a text cannot be a name; ``""``: it can."""
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return "it is no text"
    if size > most:
        return f"at most {most} bytes"
    return "NUL" if _NUL in text else ""


# --- running statements -------------------------------------------------------------------------------------

_CHUNK: Final = 512
"""Values in one list; a power of two, see :func:`padded`."""


def chunks(values: Sequence[T], size: int = _CHUNK) -> Iterator[Sequence[T]]:
    """Parts of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def padded(values: Sequence[T]) -> Sequence[T]:
    """The values, the last one repeated up to a power of two: so there are few different statements."""
    size = 1 << (len(values) - 1).bit_length()
    return [*values, *[values[-1]] * (size - len(values))]


def each(statement: str, values: Sequence[Any]) -> str:
    """For PostgreSQL: a statement that ends with ``IN {}``, as a look-up for each value, which come first.

    Before it knows its tables by statistics it takes a list of values for a reason to read all of a log.
    """
    kind = _ARRAYS[type(values[0])]
    one = statement.replace("IN {}", "= w.v")
    return f"SELECT x.* FROM unnest(%s::{kind}[]) AS w(v) CROSS JOIN LATERAL ({one} LIMIT 1) x"


_ARRAYS: Final[dict[type, str]] = {bytes: "bytea", int: "bigint", str: "text"}


def ask(connection: Connection, statement: str, values: Sequence[Any]) -> list[Any]:
    """All rows of an answer, of a statement that is written with ``%s``."""
    return list(_execute(connection, statement, values).fetchall())


def ask_in(connection: Connection, statement: str, first: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """The answers about these values, which stand at the statement's end as ``IN {}``, behind the others."""
    rows: list[Any] = []
    for some in chunks(values):
        if connection.dialect.name == "postgresql":
            rows += ask(connection, each(statement, some), (list(some), *first))
        else:
            some = padded(some)
            rows += ask(connection, statement.replace("{}", marks_of(len(some))), (*first, *some))
    return rows


def change(connection: Connection, statement: str, values: Sequence[Any]) -> int:
    """Change something; how many rows."""
    return int(_execute(connection, statement, values).rowcount)


def change_many(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Do the same for many rows."""
    for row in rows:
        _execute(connection, statement, row)


def _execute(connection: Connection, statement: str, values: Sequence[Any]) -> Any:
    name = connection.dialect.name
    if name == "sqlite":
        statement = statement.replace("%s", "?")
    elif name != "postgresql":  # MySQL's names are bytes
        values = [value.encode() if type(value) is str else value for value in values]
    return connection.exec_driver_sql(statement, tuple(values))


def marks_of(count: int) -> str:
    """A list of so many values."""
    return f"({', '.join(['%s'] * count)})"


def head_of(connection: Connection, app: str, lock: bool = False) -> LogHead | None:
    """The head of an app's log; None: nothing was ever stored. ``lock``: nobody else writes from here on."""
    statement = SELECT_HEAD
    if lock and connection.dialect.name != "sqlite":  # whose transaction has locked all
        statement += " FOR UPDATE"
    rows = ask(connection, statement, (app,))
    return LogHead(*rows[0]) if rows else None
