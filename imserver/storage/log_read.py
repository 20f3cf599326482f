"""Questions about the log: each function gets a connection in a transaction that changes nothing.

Whoever pages by ids reads the head first, and nothing beyond it: what is committed between two statements
is for the next page, or an id in between would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from imserver.storage.log_contract import Conversation, Entry
from imserver.storage.log_pen import chunks, each, padded
from imserver.storage.log_row import ENTRY_COLUMNS, Head, conversation_of, entry_of, pair_of, text_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

CONVERSATION_COLUMNS: Final = "c.id, c.kind, c.name, c.pair, c.last_id, c.last_seq, c.created, c.open"
_ENTRIES: Final = (
    f"SELECT {ENTRY_COLUMNS} FROM message m JOIN conversation c ON c.log = m.log AND c.id = m.conversation "
    "WHERE m.log = %s AND "
)


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


def head_of(connection: Connection, app: str, lock: bool = False) -> Head | None:
    """The head of an app's log; None: nothing was ever stored. ``lock``: nobody else writes from here on."""
    statement = "SELECT number, last_id, last_conversation, floor FROM log WHERE app = %s AND part = 0"
    if lock and connection.dialect.name != "sqlite":  # whose transaction has locked all
        statement += " FOR UPDATE"
    rows = ask(connection, statement, (app,))
    return Head(*rows[0]) if rows else None


def head(connection: Connection, app: str) -> int:
    """The greatest id."""
    found = head_of(connection, app)
    return found.last_id if found else 0


def heads(connection: Connection, apps: Sequence[str]) -> dict[str, int]:
    """App → the greatest id, of those of which something was stored."""
    found: dict[str, int] = {}
    for some in chunks(apps):
        some = padded(some)
        statement = f"SELECT app, last_id FROM log WHERE part = 0 AND app IN {marks_of(len(some))}"
        found |= {text_of(app): last_id for app, last_id in ask(connection, statement, some)}
    return found


def floor(connection: Connection, app: str) -> int:
    """Up to which id entries have expired."""
    found = head_of(connection, app)
    return found.floor if found else 0


def read(connection: Connection, app: str, after: int, limit: int) -> list[Entry]:
    """The whole log behind an id."""
    found = head_of(connection, app)
    if found is None:
        return []
    statement = f"{_ENTRIES} m.id > %s AND m.id <= %s ORDER BY m.id LIMIT %s"
    values = (found.number, max(after, found.floor), found.last_id, limit)
    return [entry_of(row) for row in ask(connection, statement, values)]


def entries(connection: Connection, app: str, ids: Sequence[int]) -> list[Entry]:
    """Those of these that exist, in order."""
    found = head_of(connection, app)
    return fetch(connection, found.number, ids) if found else []


def fetch(connection: Connection, log: int, ids: Sequence[int]) -> list[Entry]:
    """The entries of a log with these ids, as far as there are such, in order."""
    rows = ask_in(connection, f"{_ENTRIES} m.id IN {{}}", (log,), list(dict.fromkeys(ids)))
    return sorted(map(entry_of, rows), key=lambda entry: entry.id)


def conversation(connection: Connection, app: str, conversation: int) -> Conversation | None:
    """One conversation."""
    found = head_of(connection, app)
    return _conversation(connection, found, "c.id = %s", conversation) if found else None


def conversations(connection: Connection, app: str, ids: Sequence[int]) -> list[Conversation]:
    """Those of these conversations that exist, in the order of their ids."""
    found = head_of(connection, app)
    if found is None:
        return []
    statement = f"SELECT {CONVERSATION_COLUMNS} FROM conversation c WHERE c.log = %s AND c.id IN {{}}"
    rows = ask_in(connection, statement, (found.number,), ids)
    return sorted(map(conversation_of, rows), key=lambda one: one.id)


def between(connection: Connection, app: str, user: str, other: str) -> Conversation | None:
    """The conversation of two users."""
    found = head_of(connection, app)
    return _conversation(connection, found, "c.pair = %s", pair_of(user, other)) if found else None


def _conversation(connection: Connection, of: Head, where: str, value: Any) -> Conversation | None:
    statement = f"SELECT {CONVERSATION_COLUMNS} FROM conversation c WHERE c.log = %s AND {where}"
    rows = ask(connection, statement, (of.number, value))
    return conversation_of(rows[0]) if rows else None
