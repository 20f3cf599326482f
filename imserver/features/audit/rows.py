"""The statements of the audit log."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from time import monotonic
from typing import Final

from msgspec import Struct

from imserver.features.audit.chain import AuditRow, Entry, Name, entry_of, hash_of
from imserver.plugin.errors import ImserverError
from imserver.plugin.identity import Act
from imserver.plugin.storage import PooledStatements, Row, Store, text_of

_COLUMNS: Final = "number, time, name, kind, app, request, names, previous, hash"
_ROWS: Final = f"SELECT {_COLUMNS} FROM audit"
_NAMES: Final = "SELECT number, part, app, member, text, salt FROM audit_name"
_AT_ONCE: Final = 1000
"""Rows that one transaction removes, so that writers never wait for long."""


class NewAct(Struct, frozen=True):
    """An act to be stored. ``at``: monotonic time at which it was done."""

    entry: Entry
    names: tuple[Name, ...]
    at: float


class ActBatch(Struct):
    """Acts that are stored in one transaction. ``number`` and ``hash``: of the first row in the last attempt,
    by which the next one finds out whether that was committed."""

    acts: Sequence[NewAct]
    number: int = 0
    hash: str = ""


class ChainHead(Struct, frozen=True):
    """The end of the chain, and its ``anchor``: the last row that was removed for its age."""

    number: int
    time: int
    hash: str
    anchor: int
    anchor_hash: str


def head(sql: PooledStatements, lock: bool = False) -> ChainHead | None:
    """The head of the chain. None: somebody has removed it."""
    suffix = sql.for_update if lock else ""
    rows = sql.query(f"SELECT number, time, hash, anchor, anchor_hash FROM audit_head WHERE one = 1{suffix}")
    if not rows:
        return None
    number, time, digest, anchor, anchor_hash = rows[0]
    return ChainHead(number, time, text_of(digest), anchor, text_of(anchor_hash))


class NoHead(ImserverError):
    """The table of the head is empty, so nothing can be appended."""


def append(batch: ActBatch, sql: PooledStatements) -> None:
    """Append acts to the chain, once. Raises NoHead."""
    end = head(sql, lock=True)  # other writers wait until this transaction ends
    if end is None:
        raise NoHead("audit_head has no row")
    if batch.number and _hash_at(sql, batch.number) == batch.hash:
        return
    now, read_at = int(sql.query(f"SELECT {sql.clock}")[0][0] * 1000), monotonic()
    number, time, previous = end.number, end.time, end.hash
    rows: list[Row] = []
    names: list[Row] = []
    for act in batch.acts:
        number += 1
        time = max(time, now - int((read_at - act.at) * 1000))
        entry = act.entry
        digest = hash_of(number, time, entry, previous)
        if not rows:
            batch.number, batch.hash = number, digest
        who = entry.name, entry.kind, entry.app, entry.request
        rows.append((number, time, *who, entry.names, previous, digest))
        names += [
            (number, name.part, name.app, name.member, name.text.encode(), name.salt) for name in act.names
        ]
        previous = digest
    marks = ", ".join(["%s"] * 9)
    sql.execute_many(f"INSERT INTO audit ({_COLUMNS}) VALUES ({marks})", rows)
    sql.execute_many(
        "INSERT INTO audit_name (number, part, app, member, text, salt) VALUES (%s, %s, %s, %s, %s, %s)",
        names,
    )
    statement = "UPDATE audit_head SET number = %s, time = %s, hash = %s WHERE one = 1"
    sql.execute(statement, (number, time, previous))


def store_act(store: Store, act: Act) -> None:
    """Append the act of a command. Raises StorageUnavailable."""
    batch = ActBatch([NewAct(*entry_of(act), monotonic())])
    store.write(lambda sql: append(batch, sql))


def _hash_at(sql: PooledStatements, number: int) -> str:
    rows = sql.query("SELECT hash FROM audit WHERE number = %s", (number,))
    return text_of(rows[0][0]) if rows else ""


def remove_before(age_ms: int, sql: PooledStatements) -> int:
    """Remove the oldest acts if they are older; the last of them becomes the anchor. How many were removed:
    with 1,000 there may be more."""
    end = head(sql, lock=True)
    if end is None:
        return 0
    limit = int(sql.query(f"SELECT {sql.clock}")[0][0] * 1000) - age_ms
    statement = "SELECT number, time, hash FROM audit WHERE number > %s ORDER BY number LIMIT %s"
    old = [row for row in sql.query(statement, (end.anchor, _AT_ONCE)) if row[1] < limit]
    if not old:
        return 0
    last, _, digest = old[-1]
    sql.execute("DELETE FROM audit_name WHERE number <= %s", (last,))
    sql.execute("DELETE FROM audit WHERE number <= %s", (last,))
    sql.execute("UPDATE audit_head SET anchor = %s, anchor_hash = %s WHERE one = 1", (last, digest))
    return len(old)


# --- reading ------------------------------------------------------------------------------------------------

Acts = list[tuple[AuditRow, list[Name]]]
NO_ACTS: Final[Acts] = []
"""The acts of a node without a database."""


def after(number: int, most: int, sql: PooledStatements) -> Acts:
    """The next acts in the order of the chain, with their names."""
    statement = f"{_ROWS} WHERE number > %s ORDER BY number LIMIT %s"
    return _with_names(sql, list(map(_row, sql.query(statement, (number, most)))))


def one(number: int, sql: PooledStatements) -> Acts:
    """One act; none: there is none of this number."""
    return _with_names(sql, list(map(_row, sql.query(f"{_ROWS} WHERE number = %s", (number,)))))


def _with_names(sql: PooledStatements, rows: Sequence[AuditRow]) -> Acts:
    names: dict[int, list[Name]] = {row.number: [] for row in rows}
    for number, name in _names(sql, names):
        names[number].append(name)
    return [(row, names[row.number]) for row in rows]


def _names(sql: PooledStatements, numbers: Collection[int]) -> Iterator[tuple[int, Name]]:
    for number, part, app, member, text, salt in sql.query_in(
        f"{_NAMES} WHERE number IN {{}}", (), list(numbers), many=True
    ):
        content = text_of(part), text_of(app), text_of(member), bytes(text).decode(errors="replace")
        yield number, Name(*content, bytes(salt))


def _row(row: Row) -> AuditRow:
    number, time, name, kind, app, request, names, previous, digest = row
    entry = Entry(text_of(name), text_of(kind), text_of(app), text_of(request), bytes(names))
    return AuditRow(number, time, entry, text_of(previous), text_of(digest))


# --- searching ----------------------------------------------------------------------------------------------

PERSONS: Final = frozenset({"session", "account", "guest", "bot", "page", "staff"})
"""Kinds of principals whose ids are those of users of an app."""
MOST_LOOKED: Final = 10_000
"""Through so many acts a search looks. Then it returns what it has, and where to go on."""
_STEP: Final = 1000


class ActSearch(Struct, frozen=True):
    """Which acts are wanted; ``""`` and 0: all.

    ``user``: who has done something or is concerned by it. ``by``: the kind of a principal, or its label.
    ``since`` and ``until``: Unix milliseconds. ``after``: older acts than that of this number.
    """

    app: str = ""
    user: str = ""
    by: str = ""
    name: str = ""
    request: str = ""
    since: int = 0
    until: int = 0
    after: int = 0
    limit: int = 100


def search(query: ActSearch, sql: PooledStatements) -> tuple[Acts, int]:
    """The newest acts that are wanted, and the number after which more follow; 0: no more.

    One index leads to the acts, at most :data:`_STEP` at a time; what else is wanted of them is looked up by
    number.
    """
    low, position = _bounds(query, sql)
    kind, app, member = _label(query.by)
    acts: list[AuditRow] = []
    looked = following = 0
    step = query.limit + 1
    while position > low:
        numbers = _numbers(query, (app, member), low, position, step, sql)
        rows = sorted(_wanted(query, kind, numbers, sql), key=lambda row: -row.number)
        if query.user and query.request:
            rows = _naming(rows, query.app, query.user, "", sql)
        if member and (query.user or query.request):
            rows = _naming(rows, app, member, " AND part = 'by'", sql)
        acts += rows
        if len(acts) > query.limit:
            del acts[query.limit :]
            following = acts[-1].number
            break
        looked += len(numbers)
        if len(numbers) < step:
            break
        position, step = numbers[-1], min(4 * step, _STEP)
        if looked >= MOST_LOOKED:
            following = position
            break
    return _with_names(sql, acts), following


def _bounds(query: ActSearch, sql: PooledStatements) -> tuple[int, int]:
    """The numbers of the acts lie above the first, and below the second. Times never go back."""
    first = "SELECT number FROM audit WHERE time >= %s ORDER BY time, number LIMIT 1"
    low, high = 0, query.after or 2**62
    if query.since:
        rows = sql.query(first, (query.since,))
        low = rows[0][0] - 1 if rows else high
    if query.until and (rows := sql.query(first, (query.until + 1,))):
        high = min(high, rows[0][0])
    return low, high


def _label(by: str) -> tuple[str, str, str]:
    """Kind, app and id of a label. ``staff:shop/ann`` → staff, shop, ann; ``key:1f`` → key, nothing, 1f."""
    kind, _, id = by.partition(":")
    if kind not in PERSONS:
        return kind, "", id
    app, _, user = id.partition("/")
    return kind, app, user


def _numbers(
    query: ActSearch, by: tuple[str, str], low: int, high: int, most: int, sql: PooledStatements
) -> list[int]:
    """The newest numbers between these that one index leads to, in falling order."""
    where: str
    values: tuple[str, ...]
    table, where, values = "audit", "", ()
    if query.request:
        where, values = "request = %s AND ", (query.request,)
    elif query.user:
        table, where, values = "audit_name", "app = %s AND member = %s AND ", (query.app, query.user)
    elif by[1]:
        table, where, values = "audit_name", "app = %s AND member = %s AND part = 'by' AND ", by
    elif query.app and query.name:
        where, values = "app = %s AND name = %s AND ", (query.app, query.name)
    elif query.app:
        where, values = "app = %s AND ", (query.app,)
    elif query.name:
        where, values = "name = %s AND ", (query.name,)
    distinct = "DISTINCT " if query.user and not query.request else ""
    statement = (
        f"SELECT {distinct}number FROM {table} WHERE {where}number > %s AND number < %s "
        "ORDER BY number DESC LIMIT %s"
    )
    return [row[0] for row in sql.query(statement, (*values, low, high, most))]


def _wanted(query: ActSearch, kind: str, numbers: Sequence[int], sql: PooledStatements) -> Iterator[AuditRow]:
    """Those of the acts that are wanted. The database looks: a row costs more to read here than there."""
    wanted = {"app": query.app, "name": query.name, "request": query.request, "kind": kind}
    where = "".join(f"{column} = %s AND " for column, value in wanted.items() if value)
    values = tuple(filter(None, wanted.values()))
    return map(_row, sql.query_in(f"{_ROWS} WHERE {where}number IN {{}}", values, numbers))


def _naming(rows: list[AuditRow], app: str, member: str, parts: str, sql: PooledStatements) -> list[AuditRow]:
    """Those of the acts that name this person or id. ``parts``: a condition of their parts."""
    statement = f"SELECT number FROM audit_name WHERE app = %s AND member = %s{parts} AND number IN {{}}"
    numbers = [row.number for row in rows]
    naming = {row[0] for row in sql.query_in(statement, (app, member), numbers, many=True)}
    return [row for row in rows if row.number in naming]
