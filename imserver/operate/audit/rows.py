"""The statements of the audit log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import Annotated, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.operate.audit.acts import entry_of
from imserver.operate.audit.chain import (
    ActMaker,
    ActShown,
    AuditRow,
    Entry,
    Name,
    hash_of,
    shown,
)
from imserver.plugin.errors import ImserverError
from imserver.plugin.http import about
from imserver.plugin.identity import Act
from imserver.plugin.storage import (
    PooledStatements,
    Row,
    RowsOf,
    Store,
    marks_of,
    text_of,
)

_OF_ACTS: Final = RowsOf(Entry, "audit")
_IN_CHAIN: Final = RowsOf(AuditRow, "audit", entry="")
_COLUMNS: Final = f"{_IN_CHAIN.columns}, {_OF_ACTS.columns}"
_OF_NAMES: Final = RowsOf(Name, "audit_name", text="")
_SECOND_MS: Final = 1000
_YEAR_10000_MS: Final = 253_402_300_800_000
_MOST_REMOVED: Final = 1000
"""How many old acts one transaction removes."""
_EXPORTED_ACTS: Final = 500
"""How many acts an export reads at once."""


class NewAct(Struct, frozen=True):
    """An act to store. ``at``: the monotonic time at which it was done."""

    entry: Entry
    names: tuple[Name, ...]
    at: float


class ActBatch(Struct):
    """Acts that one transaction stores. ``number`` and ``hash`` belong to the
    first row in the last attempt. By them the next attempt finds out whether
    that was committed."""

    acts: Sequence[NewAct]
    number: int = 0
    hash: str = ""


class ChainHead(Struct, frozen=True):
    """The end of the chain, and its ``anchor``: the last row that was removed
    because of its age."""

    number: int
    time: int
    hash: str
    anchor: int
    anchor_hash: str


_HEADS: Final = RowsOf(ChainHead, "audit_head")


def head(sql: PooledStatements, lock: bool = False) -> ChainHead | None:
    """The head of the chain. None if somebody has removed it, or if it is
    unreadable."""
    columns = _readable(sql, _HEADS.columns)
    statement = f"SELECT {columns} FROM audit_head WHERE one = 1"
    if lock:
        statement += sql.for_update
    rows = sql.query(statement)
    if not rows:
        return None
    try:
        return _HEADS.read(rows[0])
    except _NOT_READ:
        return None


def append(batch: ActBatch, sql: PooledStatements) -> None:
    """Append acts to the chain, once. Raises ImserverError if the head is
    missing or unreadable."""
    end = head(sql, lock=True)  # other writers wait until this transaction ends
    if end is None:
        raise ImserverError("audit_head has no row that can be read")
    if batch.number:
        stored = sql.query("SELECT hash FROM audit WHERE number = %s", (batch.number,))
        if stored and text_of(stored[0][0]) == batch.hash:
            return

    now = sql.clock_ms()
    read_at = monotonic()
    number = end.number
    time = end.time
    previous = end.hash
    rows: list[Row] = []
    names: list[Row] = []
    for act in batch.acts:
        number += 1
        waited_ms = int((read_at - act.at) * _SECOND_MS)
        time = max(time, now - waited_ms)
        entry = act.entry
        digest = hash_of(number, time, entry, previous)
        if not rows:
            batch.number = number
            batch.hash = digest
        rows.append((number, time, previous, digest, *_OF_ACTS.values(entry)))
        for name in act.names:
            names.append((*_OF_NAMES.values(name), name.text.encode(), number))
        previous = digest

    sql.execute_many(_insert("audit", _COLUMNS), rows)
    sql.execute_many(_insert("audit_name", f"{_OF_NAMES.columns}, text, number"), names)
    statement = "UPDATE audit_head SET number = %s, time = %s, hash = %s WHERE one = 1"
    sql.execute(statement, (number, time, previous))


def _insert(table: str, columns: str) -> str:
    """The statement that inserts rows with these columns."""
    return f"INSERT INTO {table} ({columns}) VALUES {marks_of(columns.count(',') + 1)}"


def store_act(store: Store, act: Act) -> None:
    """Append the act of a command. Raises StorageUnavailable."""
    batch = ActBatch([NewAct(*entry_of(act), monotonic())])
    store.write(lambda sql: append(batch, sql))


def remove_before(age_ms: int, sql: PooledStatements) -> int:
    """Remove the oldest acts if they are older than ``age_ms``. The last of
    them becomes the anchor.

    Returns how many were removed. If the result is :data:`_MOST_REMOVED`, there
    may be more.
    """
    end = head(sql, lock=True)
    if end is None:
        return 0

    limit = sql.clock_ms() - age_ms
    columns = _readable(sql, "number, time, hash")
    statement = (
        f"SELECT {columns} FROM audit WHERE number > %s ORDER BY number LIMIT %s"
    )
    oldest = sql.query(statement, (end.anchor, _MOST_REMOVED))
    old = [row for row in oldest if row[1] < limit]
    if not old:
        return 0

    last, _, digest = old[-1]
    sql.execute("DELETE FROM audit_name WHERE number <= %s", (last,))
    sql.execute("DELETE FROM audit WHERE number <= %s", (last,))
    sql.execute(
        "UPDATE audit_head SET anchor = %s, anchor_hash = %s WHERE one = 1",
        (last, _as_text(digest)),
    )
    return len(old)


# --- reading ------------------------------------------------------------------

Acts = list[tuple[AuditRow, list[Name]]]
NO_ACTS: Final[Acts] = []
"""The acts of a node without a database."""


def after(number: int, most: int, sql: PooledStatements) -> Acts:
    """The next acts in the order of the chain, with their names."""
    # In SQLite, somebody may have written a number that is not one. It would
    # come after every other.
    return _find(
        sql,
        "number > %s AND round(number) = number ORDER BY number LIMIT %s",
        number,
        most,
    )


def one(number: int, sql: PooledStatements) -> Acts:
    """One act. Empty if no act has this number."""
    return _find(sql, "number = %s", number)


def _find(sql: PooledStatements, where: str, *values: int) -> Acts:
    columns = _readable(sql, _COLUMNS)
    rows = sql.query(f"SELECT {columns} FROM audit WHERE {where}", values)
    return _with_names(sql, list(map(_row, rows)))


def _with_names(sql: PooledStatements, acts: Sequence[AuditRow]) -> Acts:
    names: dict[int, list[Name]] = {act.number: [] for act in acts}
    columns = _readable(sql, f"{_OF_NAMES.columns}, text, number")
    statement = f"SELECT {columns} FROM audit_name WHERE number IN {{}}"
    for row in sql.query_in(statement, (), list(names), many=True):
        names[row[-1]].append(_name(row))
    return [(act, names[act.number]) for act in acts]


# SQLite stores values of any type in any column, and texts that are not UTF-8.
# A row that somebody else has written must not hide other rows.
_NOT_READ: Final = (ValueError, TypeError, OverflowError)
_UNREADABLE: Final = "unreadable"
_BYTES: Final = (
    r"CASE typeof(\g<0>) WHEN 'text' THEN CAST(\g<0> AS BLOB) ELSE \g<0> END"
)


def _readable(sql: PooledStatements, columns: str) -> str:
    """Columns of a query. Texts are bytes in SQLite, so that no text makes the
    query fail."""
    if sql.engine == "sqlite":
        return re.sub(r"[\w.]+", _BYTES, columns)
    return columns


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def _row(row: Row) -> AuditRow:
    """The act in a row. An unreadable row gets a content that does not fit its
    hash."""
    try:
        content = memoryview(row[8]).tobytes()
        act = _IN_CHAIN.read(row, entry=_OF_ACTS.read((*row[4:8], content)))
        msgspec.json.decode(act.entry.names, type=dict[str, str])
        if 0 <= act.time < _YEAR_10000_MS:
            return act
    except _NOT_READ:
        pass
    unreadable = Entry(_UNREADABLE, "", "", "", b"{}")
    return AuditRow(row[0], 0, unreadable, _as_text(row[2]), _as_text(row[3]))


def _name(row: Row) -> Name:
    """The name in a row. An unreadable row gets a commitment that differs from
    the act's."""
    part, app, member, salt, text, _ = row
    try:
        text = memoryview(text).tobytes().decode(errors="replace")
        return _OF_NAMES.read(
            (part, app, member, memoryview(salt).tobytes()), text=text
        )
    except _NOT_READ:
        return Name(_as_text(part), _as_text(app), _as_text(member), _UNREADABLE, b"")


# --- searching ----------------------------------------------------------------

PERSONS: Final = frozenset({"session", "account", "guest", "bot", "page", "staff"})
"""Kinds of principals that are users of an app, and have its ids."""
_CLEAR: Final = "moderation.clear"
MOST_LOOKED: Final = 10_000
"""The most acts that one search reads. Then it returns the acts that it has,
and where to continue."""
_STEP_GROWTH: Final = 4
"""How many times more acts each step of a search reads than the step before."""
_BEYOND_ALL: Final = 2**62
"""A number above the numbers of all acts."""
_ID_DIGITS: Final = 18
"""The most digits of the id of a message. No database would take a longer one
as a number."""
_LOOKED_UP: Final = ", ".join(f"a.{column}" for column in _COLUMNS.split(", "))
_NAMES_ONE: Final = " AND EXISTS (SELECT 1 FROM audit_name m WHERE m.number = a.number AND m.app = %s AND m.member = %s{})"
# Each engine reads the numbers in falling order, and looks up each row.
# without statistics it would read the whole table.
_JOIN: Final = {
    "sqlite": "SELECT {columns} FROM (SELECT{span} %s) n CROSS JOIN audit a "
    "WHERE a.number = n.number{wanted} ORDER BY a.number DESC LIMIT %s",
    "mysql": "SELECT {columns} FROM (SELECT{span} %s) n STRAIGHT_JOIN audit a "
    "WHERE a.number = n.number{wanted} ORDER BY a.number DESC LIMIT %s",
    "postgresql": "SELECT x.* FROM (SELECT{span} %s) n CROSS JOIN LATERAL "
    "(SELECT {columns} FROM audit a WHERE a.number = n.number{wanted} LIMIT 1) x "
    "ORDER BY x.number DESC LIMIT %s",
}

_Time = Annotated[int, about("Unix milliseconds; 0: no limit.", ge=0)]


class AuditQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """The wanted acts. An empty field does not restrict them."""

    app: Annotated[str, about("The app; empty: all that the key reaches.")] = ""
    user: Annotated[
        str,
        about(
            "A user of the app who has done something, or is concerned by it.",
            max_length=255,
        ),
    ] = ""
    by: Annotated[
        str,
        about(
            "Who has done it: a kind as `key`, or a kind with an id as `key:1f2e`, `staff:APP/USER`.",
            max_length=800,
        ),
    ] = ""
    about: Annotated[
        str,
        about(
            "A message, a key or a group that it concerns, as `message:7`, `key:1f2e`, `group:12`.",
            max_length=255,
        ),
    ] = ""
    name: Annotated[
        str, about("What was done, as `accounts.login`.", max_length=100)
    ] = ""
    request: Annotated[str, about("The id of a request.", max_length=64)] = ""
    since: _Time = 0
    until: _Time = 0
    after: Annotated[
        int, about("Only older acts than that of this number.", ge=0, le=2**53)
    ] = 0
    limit: Annotated[int, about("The most acts.", ge=1, le=1000)] = 100
    check: Annotated[
        bool, about("Also verify the newest 1,000 acts, of whatever app.")
    ] = False


def page_of(store: Store, query: AuditQuery) -> tuple[Acts, int]:
    """Search as :func:`search` does. Acts about a message also include removals
    of all messages of a user in a time, if the message is among them. They do
    not name the message. Switches greenlets. Raises StorageUnavailable."""
    acts, following = store.read_or((NO_ACTS, 0), partial(search, query))
    kind, _, id = query.about.partition(":")
    is_message = kind == "message" and id.isdecimal() and len(id) <= _ID_DIGITS
    if not is_message or query.name not in ("", _CLEAR):
        return acts, following
    # Imported here, because few searches are about a message.
    from imserver.plugin.messages import MessageLog

    entries = store.part(MessageLog).entries
    if query.app:
        apps: Iterable[str] = [query.app]
    else:
        apps = entries.apps()
    clearing: Acts = []
    for app in apps:
        for entry in entries.find(app, [int(id)]):
            # The clocks of a database and of nodes may differ by a second.
            since = max(query.since, entry.time_ms - _SECOND_MS)
            of_sender = replace(
                query, app=app, user=entry.sender, about="", name=_CLEAR, since=since
            )
            removals, last = store.read_or((NO_ACTS, 0), partial(search, of_sender))
            following = max(following, last)
            for removal in removals:
                if _has_cleared(removal, entry.time_ms, query.user):
                    clearing.append(removal)

    all_acts = sorted((*acts, *clearing), key=lambda act: -act[0].number)
    rest = [act for act in all_acts if act[0].number >= following]
    if len(rest) > query.limit:
        del rest[query.limit :]
        following = rest[-1][0].number
    return rest, following


def _has_cleared(act: tuple[AuditRow, list[Name]], time_ms: int, user: str) -> bool:
    """Whether an act about this user, or by them, has removed messages of this
    time."""
    row, names = act
    if user and not any(
        (name.app, name.member) == (row.entry.app, user) for name in names
    ):
        return False
    facts = shown(row, names).facts or {}
    first_ms = facts.get("since", 0) * _SECOND_MS
    end_ms = facts.get("until", 0) * _SECOND_MS
    return bool(first_ms <= time_ms < (end_ms or inf))


def search(query: AuditQuery, sql: PooledStatements) -> tuple[Acts, int]:
    """The newest wanted acts, and the number after which more follow; 0 if no
    more do.

    One index leads to the acts, and to more at each step. The database decides
    whether they are wanted, so unwanted acts cost the loop nothing.
    """
    low, high = _bounds(query, sql)
    by = _label(query.by)
    source, values = _source(query, by)
    span = f"{source} number > %s AND number < %s ORDER BY number DESC LIMIT"
    wanted, sought = _wanted(query, by)
    statement = _JOIN[sql.engine].format(
        span=span, wanted=wanted, columns=_readable(sql, _LOOKED_UP)
    )
    last_looked = f"SELECT{span} 1 OFFSET %s"

    acts: list[AuditRow] = []
    left = MOST_LOOKED
    step = query.limit + 1
    following = 0
    while True:
        between = (*values, low, high)
        missing = query.limit + 1 - len(acts)
        acts += map(_row, sql.query(statement, (*between, step, *sought, missing)))
        if len(acts) > query.limit:
            del acts[query.limit :]
            following = acts[-1].number
            break
        last = sql.query(last_looked, (*between, step - 1))
        if not last:
            break
        high = last[0][0]
        left = left - step
        if left <= 0:
            following = high
            break
        step = min(_STEP_GROWTH * step, left)
    return _with_names(sql, acts), following


def _bounds(query: AuditQuery, sql: PooledStatements) -> tuple[int, int]:
    """Numbers around the acts: they are above the first, and below the second.
    Times never go back."""
    low = 0
    high = query.after or _BEYOND_ALL
    if query.since:
        first = _first_since(query.since, sql)
        if first is None:
            low = high  # All are older.
        else:
            low = first - 1
    if query.until:
        first = _first_since(query.until + 1, sql)
        if first is not None:
            high = min(high, first)
    return low, high


def _first_since(time_ms: int, sql: PooledStatements) -> int | None:
    """The number of the first act at or after this time."""
    statement = (
        "SELECT number FROM audit WHERE time >= %s ORDER BY time, number LIMIT 1"
    )
    for (number,) in sql.query(statement, (time_ms,)):
        return int(number)
    return None


Label = tuple[str, str, str]


def _label(by: str) -> Label:
    """Kind, app and id of a label. ``staff:shop/ann`` is (staff, shop, ann);
    ``key:1f`` is (key, empty, 1f)."""
    kind, _, id = by.partition(":")
    if kind not in PERSONS:
        return kind, "", id
    app, _, user = id.partition("/")
    return kind, app, user


def _source(query: AuditQuery, by: Label) -> tuple[str, tuple[str, ...]]:
    """The start of a query for the numbers of acts: the conditions of one
    index, and their values. The index that leads to the fewest acts is chosen.
    """
    _, app, member = by
    of_names = " number FROM audit_name WHERE app = %s AND member = %s AND"
    if query.request:
        return " number FROM audit WHERE request = %s AND", (query.request,)
    if query.about:
        return of_names, ("", query.about)
    if query.user:
        return f" DISTINCT{of_names}", (query.app, query.user)
    if member:
        return f"{of_names} part = 'by' AND", (app, member)
    if query.app and query.name:
        names = (query.app, query.name)
        return " number FROM audit WHERE app = %s AND name = %s AND", names
    if query.app:
        return " number FROM audit WHERE app = %s AND", (query.app,)
    if query.name:
        return " number FROM audit WHERE name = %s AND", (query.name,)
    return " number FROM audit WHERE", ()


def _wanted(query: AuditQuery, by: Label) -> tuple[str, tuple[str, ...]]:
    """The conditions of a wanted act, each behind an AND, with their values."""
    kind, app, member = by
    columns = {
        "app": query.app,
        "name": query.name,
        "request": query.request,
        "kind": kind,
    }
    given = {column: value for column, value in columns.items() if value}
    text = "".join(f" AND a.{column} = %s" for column in given)
    values = tuple(given.values())

    # Everything except the condition of the index of :func:`_source`.
    is_led = bool(query.request or query.about)
    if query.request and query.about:
        text += _NAMES_ONE.format("")
        values += ("", query.about)
    if query.user and is_led:
        text += _NAMES_ONE.format("")
        values += (query.app, query.user)
    if member and (query.user or is_led):
        text += _NAMES_ONE.format(" AND m.part = 'by'")
        values += (app, member)
    return text, values


_LAST_ACTS: Final = 5
"""How many acts :func:`last_maker` reads, because the user may have done the
last ones to others."""


def last_maker(store: Store, app: str, user: str, names: Sequence[str]) -> str:
    """The last maker of one of these acts on a user, such as ``key:1f2e`` or
    ``staff:shop/7``. ``""`` if the act is too long ago, or if its maker was
    erased. Switches greenlets. Raises StorageUnavailable."""
    maker = ActMaker("", "", "")
    number = 0
    for name in names:
        query = AuditQuery(app=app, user=user, name=name, limit=_LAST_ACTS)
        acts, _ = store.read_or((NO_ACTS, 0), partial(search, query))
        for row, others in acts:
            act = shown(row, others)
            concerned = (act.user, *(act.facts or {}).get("users", ()))
            if act.number > number and user in concerned:
                number = act.number
                maker = act.by
    if maker.id is None:
        return ""
    if not maker.id:
        return maker.kind
    if maker.app:
        return f"{maker.kind}:{maker.app}/{maker.id}"
    return f"{maker.kind}:{maker.id}"


def lines_of(store: Store, app: str, user: str) -> Iterator[bytes]:
    """Acts as lines, the newest first: acts in an app, or acts that a user has
    done or that concern the user. A user does not learn who else has done
    something, from where, and to whom besides."""
    wanted = AuditQuery(app=app, user=user, limit=_EXPORTED_ACTS)
    last = -1
    while last:
        query = replace(wanted, after=max(last, 0))
        acts, last = store.read_or((NO_ACTS, 0), partial(search, query))
        for row, names in acts:
            act = shown(row, names)
            if user:
                act = _for_user(act, user)
            yield msgspec.json.encode(act) + b"\n"


def _for_user(act: ActShown, user: str) -> ActShown:
    facts = {
        name: value for name, value in (act.facts or {}).items() if name != "users"
    }
    if act.by.kind in PERSONS and act.by.id == user:
        return replace(act, facts=facts)
    return replace(
        act,
        by=ActMaker(act.by.kind, "", ""),
        address="",
        user=act.user and user,
        facts=facts,
    )
