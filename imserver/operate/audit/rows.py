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
    """An act to store, with the names of people and things in it.

    ``done_at`` is the monotonic time at which it was done.
    """

    entry: Entry
    names: tuple[Name, ...]
    done_at: float


class ActBatch(Struct):
    """Acts that one transaction stores.

    :func:`append` writes the number and hash of the first row here. If the
    answer of the database is lost, nobody knows whether the transaction was
    committed. The next attempt then looks for a row with this number and hash.
    """

    acts: Sequence[NewAct]
    number: int = 0
    hash: str = ""


class ChainHead(Struct, frozen=True):
    """The end of the chain: ``number``, ``time`` and ``hash`` of its last row.

    Old rows are removed. ``anchor`` and ``anchor_hash`` are the number and hash
    of the last removed row; ``anchor`` is 0 if no row was removed.
    """

    number: int
    time: int
    hash: str
    anchor: int
    anchor_hash: str


_HEADS: Final = RowsOf(ChainHead, "audit_head")


def head(sql: PooledStatements, lock: bool = False) -> ChainHead | None:
    """The row about the end of the chain.

    None if somebody has removed it, or if it is unreadable. With ``lock``,
    other writers wait until this transaction ends.
    """
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
    """Append acts to the chain: number them, hash them, and move the head.

    An attempt whose answer was lost can be repeated with the same batch. If the
    first attempt was committed, the second one appends nothing. Raises
    ImserverError if the head is missing or unreadable.
    """
    # The lock lets one transaction at a time append.
    end = head(sql, lock=True)
    if end is None:
        raise ImserverError("audit_head has no row that can be read")
    if _is_stored(batch, sql):
        return

    acts = _chained(batch.acts, end, sql.clock_ms())
    batch.number = acts[0].number
    batch.hash = acts[0].hash
    _insert_acts(acts, batch.acts, sql)
    statement = "UPDATE audit_head SET number = %s, time = %s, hash = %s WHERE one = 1"
    last = acts[-1]
    sql.execute(statement, (last.number, last.time, last.hash))


def _row_of(act: AuditRow) -> Row:
    """The row of an act, with the values of :data:`_COLUMNS`."""
    chain_values = (act.number, act.time, act.previous, act.hash)
    return (*chain_values, *_OF_ACTS.values(act.entry))


def _insert_acts(
    acts: Sequence[AuditRow], new_acts: Sequence[NewAct], sql: PooledStatements
) -> None:
    """Insert the rows of acts, and the rows of the names in them.

    The names have a table of their own, so that they can be erased alone.
    """
    rows = []
    names: list[Row] = []
    for act, new in zip(acts, new_acts, strict=True):
        rows.append(_row_of(act))
        for name in new.names:
            names.append((*_OF_NAMES.values(name), name.text.encode(), act.number))
    sql.execute_many(_insert("audit", _COLUMNS), rows)
    sql.execute_many(_insert("audit_name", f"{_OF_NAMES.columns}, text, number"), names)


def _chained(new_acts: Sequence[NewAct], end: ChainHead, now_ms: int) -> list[AuditRow]:
    """The rows of new acts, which follow the end of the chain.

    ``now_ms`` is the time of the database. Acts of several nodes are not stored
    in the order in which they were done. In the chain, times never go back.
    """
    read_at = monotonic()
    number = end.number
    time = end.time
    previous = end.hash
    acts = []
    for act in new_acts:
        number += 1
        waited_ms = int((read_at - act.done_at) * _SECOND_MS)
        time = max(time, now_ms - waited_ms)
        digest = hash_of(number, time, act.entry, previous)
        acts.append(
            AuditRow(
                number=number,
                time=time,
                entry=act.entry,
                previous=previous,
                hash=digest,
            )
        )
        # The next row contains the hash of this one: that makes the chain.
        previous = digest
    return acts


def _is_stored(batch: ActBatch, sql: PooledStatements) -> bool:
    """Whether an earlier attempt to store this batch was committed.

    Another node may have stored an act with the number since then. So the hash
    is compared, too.
    """
    if not batch.number:  # this is the first attempt
        return False
    rows = sql.query("SELECT hash FROM audit WHERE number = %s", (batch.number,))
    return bool(rows) and text_of(rows[0][0]) == batch.hash


def _insert(table: str, columns: str) -> str:
    """The statement that inserts rows with these columns."""
    return f"INSERT INTO {table} ({columns}) VALUES {marks_of(columns.count(',') + 1)}"


def store_act(store: Store, act: Act) -> None:
    """Append the act of a command in a transaction of its own.

    Raises StorageUnavailable.
    """
    batch = ActBatch([NewAct(*entry_of(act), done_at=monotonic())])
    store.write(lambda sql: append(batch, sql))


def remove_before(age_ms: int, sql: PooledStatements) -> int:
    """Remove the oldest acts if they are older than ``age_ms``.

    One call removes at most :data:`_MOST_REMOVED` acts, and returns how many.
    The last_number removed act becomes the anchor of the chain: its hash stays
    in the head, so that the first remaining row can still be verified.
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
    too_old = [(number, digest) for number, time, digest in oldest if time < limit]
    if not too_old:
        return 0

    last_number, digest = too_old[-1]
    _move_anchor(sql, last_number, _as_text(digest))
    return len(too_old)


def _move_anchor(sql: PooledStatements, number: int, digest: str) -> None:
    """Make an act the anchor of the chain, and delete all acts up to it.

    Rows are deleted in the order of their numbers, so the remaining rows are
    one chain.
    """
    sql.execute("DELETE FROM audit_name WHERE number <= %s", (number,))
    sql.execute("DELETE FROM audit WHERE number <= %s", (number,))
    sql.execute(
        "UPDATE audit_head SET anchor = %s, anchor_hash = %s WHERE one = 1",
        (number, digest),
    )


# --- reading ------------------------------------------------------------------

Acts = list[tuple[AuditRow, list[Name]]]
NO_ACTS: Final[Acts] = []
"""The acts of a node without a database."""


def after(number: int, most: int, sql: PooledStatements) -> Acts:
    """The next acts after this number in the order of the chain, with their
    names.

    Returns at most ``most`` acts. -1 begins with the first row of the table.
    """
    # In SQLite, somebody may have written a text or a blob as a number. It
    # would come after all numbers, so such rows are left out.
    return _find(
        sql,
        "number > %s AND round(number) = number ORDER BY number LIMIT %s",
        number,
        most,
    )


def one(number: int, sql: PooledStatements) -> Acts:
    """The act with this number and its names, in a list.

    The list is empty if no act has this number.
    """
    return _find(sql, "number = %s", number)


def _find(sql: PooledStatements, where: str, *values: int) -> Acts:
    """The acts that meet a condition, with their names."""
    columns = _readable(sql, _COLUMNS)
    rows = sql.query(f"SELECT {columns} FROM audit WHERE {where}", values)
    return _with_names(sql, list(map(_row, rows)))


def _name_rows(sql: PooledStatements, numbers: Sequence[int]) -> Sequence[Row]:
    """The rows of the names in these acts; the last column is the act."""
    columns = _readable(sql, f"{_OF_NAMES.columns}, text, number")
    # ``query_in`` puts the placeholders of the numbers in the place of ``{}``.
    statement = f"SELECT {columns} FROM audit_name WHERE number IN {{}}"
    return sql.query_in(statement, (), numbers, many=True)


def _with_names(sql: PooledStatements, acts: Sequence[AuditRow]) -> Acts:
    """Add to each act its names that were not erased."""
    names_by_act: dict[int, list[Name]] = {act.number: [] for act in acts}
    for row in _name_rows(sql, list(names_by_act)):
        number = row[-1]
        names_by_act[number].append(_name(row))
    return [(act, names_by_act[act.number]) for act in acts]


# SQLite stores values of any type in any column, and texts that are not UTF-8.
# A row that somebody else has written must not hide other rows.
_NOT_READ: Final = (ValueError, TypeError, OverflowError)
_UNREADABLE: Final = "unreadable"
_BYTES: Final = (
    r"CASE typeof(\g<0>) WHEN 'text' THEN CAST(\g<0> AS BLOB) ELSE \g<0> END"
)


def _readable(sql: PooledStatements, columns: str) -> str:
    """The columns of a query, written so that the query never fails.

    In SQLite, somebody may have written bytes that are not UTF-8 into a column
    of texts, and reading it as text would fail. There a text is read as bytes.
    """
    if sql.engine == "sqlite":
        return re.sub(r"[\w.]+", _BYTES, columns)
    return columns


def _as_text(value: object) -> str:
    """A value of a row as text, whatever somebody has written there."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def _row(row: Row) -> AuditRow:
    """The act in a row with :data:`_COLUMNS`.

    If the row is unreadable, the act has a content that does not fit its hash,
    so that a verification finds it.
    """
    number, _, previous, digest, *fields, names = row
    try:
        entry = _OF_ACTS.read((*fields, memoryview(names).tobytes()))
        act = _IN_CHAIN.read(row, entry=entry)
        msgspec.json.decode(entry.names, type=dict[str, str])  # may raise ValueError
        if 0 <= act.time < _YEAR_10000_MS:
            return act
    except _NOT_READ:
        pass

    return _unreadable(number, _as_text(previous), _as_text(digest))


def _unreadable(number: int, previous: str, digest: str) -> AuditRow:
    """The act in the place of an unreadable row, with its hashes.

    The entry has another hash than the row, so the row counts as changed.
    """
    entry = Entry(_UNREADABLE, kind="", app="", request="", names=b"{}")
    return AuditRow(number=number, time=0, entry=entry, previous=previous, hash=digest)


def _name(row: Row) -> Name:
    """The name in a row of ``audit_name``.

    If the row is unreadable, its commitment differs from the commitment in the
    act, so that a verification finds it.
    """
    part, app, member, salt, text, _ = row
    try:
        text = memoryview(text).tobytes().decode(errors="replace")
        return _OF_NAMES.read(
            (part, app, member, memoryview(salt).tobytes()), text=text
        )
    except _NOT_READ:
        return Name(
            part=_as_text(part),
            app=_as_text(app),
            member=_as_text(member),
            text=_UNREADABLE,
            salt=b"",
        )


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
_JOIN: Final = {
    "sqlite": "SELECT {columns} FROM (SELECT{span} %s) n CROSS JOIN audit a "
    "WHERE a.number = n.number{wanted} ORDER BY a.number DESC LIMIT %s",
    "mysql": "SELECT {columns} FROM (SELECT{span} %s) n STRAIGHT_JOIN audit a "
    "WHERE a.number = n.number{wanted} ORDER BY a.number DESC LIMIT %s",
    "postgresql": "SELECT x.* FROM (SELECT{span} %s) n CROSS JOIN LATERAL "
    "(SELECT {columns} FROM audit a WHERE a.number = n.number{wanted} LIMIT 1) x "
    "ORDER BY x.number DESC LIMIT %s",
}
"""Engine → the query for wanted acts. ``span`` selects the numbers of some
acts, the newest first, and ``wanted`` has the conditions of a wanted act. The
form of the join makes the engine look up each number in this order. Without it,
an engine that has no statistics would read the whole table."""

_Time = Annotated[int, about("The time in Unix milliseconds; 0: no limit.", ge=0)]


class AuditQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """The wanted acts. An empty field does not restrict them."""

    app: Annotated[str, about("The app; empty: all that the key reaches.")] = ""
    user: Annotated[
        str,
        about(
            "Only acts by or about this user of the app.",
            max_length=255,
        ),
    ] = ""
    by: Annotated[
        str,
        about(
            "Only acts by this principal: a kind such as `key`, or a kind with an id "
            "such as `key:1f2e` or `staff:APP/USER`.",
            max_length=800,
        ),
    ] = ""
    about: Annotated[
        str,
        about(
            "Only acts about this message, key or group, such as `message:7`, "
            "`key:1f2e` or `group:12`.",
            max_length=255,
        ),
    ] = ""
    name: Annotated[
        str,
        about("Only acts with this name, such as `accounts.login`.", max_length=100),
    ] = ""
    request: Annotated[str, about("The id of a request.", max_length=64)] = ""
    since: _Time = 0
    until: _Time = 0
    after: Annotated[
        int,
        about(
            "Only acts that are older than the act with this number.", ge=0, le=2**53
        ),
    ] = 0
    limit: Annotated[int, about("The maximum number of acts.", ge=1, le=1000)] = 100
    check: Annotated[
        bool, about("Whether to verify the newest 1,000 acts of all apps, too.")
    ] = False


def page_of(store: Store, query: AuditQuery) -> tuple[Acts, int]:
    """One page of the wanted acts, and the number after which the next begins.

    The number is 0 if no more acts follow. A moderator may remove all messages
    of a user in a time; such an act does not name the messages. A search for a
    message therefore also finds these acts of its sender. Switches greenlets.
    Raises StorageUnavailable.
    """
    acts, following = store.read_or((NO_ACTS, 0), partial(search, query))
    message = _message_in(query)
    if message is None or query.name not in ("", _CLEAR):
        return acts, following

    removals, following_removals = _removals_of(store, query, message)
    # Acts have descending numbers. One of the searches may have ended early;
    # only down to the higher number have all of them looked at the acts.
    following = max(following, following_removals)
    return _merged_page([*acts, *removals], following, query.limit)


def _merged_page(acts: Acts, following: int, limit: int) -> tuple[Acts, int]:
    """The newest of these acts down to the number ``following``.

    Returns at most ``limit`` of them, and the number after which the next page
    begins.
    """
    newest_first = sorted(acts, key=lambda act: -act[0].number)
    page = [act for act in newest_first if act[0].number >= following]
    if len(page) > limit:
        del page[limit:]
        last, _ = page[-1]
        following = last.number
    return page, following


def _message_in(query: AuditQuery) -> int | None:
    """The id of the message for which a query searches; None if it does not."""
    kind, _, id = query.about.partition(":")
    if kind == "message" and id.isdecimal() and len(id) <= _ID_DIGITS:
        return int(id)
    return None


def _removals_of(store: Store, query: AuditQuery, message: int) -> tuple[Acts, int]:
    """The acts that have removed all messages of a user, this message included.

    Such an act names the user and a span of time. Returns the acts, and the
    number after which more may follow; 0 if no more do. ``query.user`` is a
    further person whom the act must name.
    """
    # Imported here, because few searches are about a message.
    from imserver.plugin.messages import MessageLog

    entries = store.part(MessageLog).entries
    apps: Iterable[str] = [query.app]
    if not query.app:
        apps = entries.apps()
    found: Acts = []
    following = 0
    for app in apps:
        for entry in entries.find(app, [message]):
            of_sender = replace(query, app=app, user=entry.sender)
            removals, last = _removals_since(store, of_sender, entry.time_ms)
            following = max(following, last)
            found += [
                removal
                for removal in removals
                if _has_removed(removal, entry.time_ms, query.user)
            ]
    return found, following


def _removals_since(store: Store, query: AuditQuery, time_ms: int) -> tuple[Acts, int]:
    """The removals of all messages of a user that were done after this time.

    Returns them as :func:`search` does.
    """
    # The clocks of a database and of nodes may differ by a second.
    since = max(query.since, time_ms - _SECOND_MS)
    of_removals = replace(query, about="", name=_CLEAR, since=since)
    return store.read_or((NO_ACTS, 0), partial(search, of_removals))


def _has_removed(act: tuple[AuditRow, list[Name]], time_ms: int, user: str) -> bool:
    """Whether an act has removed the messages of this time, and names this
    user.

    An empty ``user`` allows any act. The facts ``since`` and ``until`` of the
    act are in Unix seconds; an act without ``until`` has no end.
    """
    row, names = act
    if user:
        people = {(name.app, name.member) for name in names}
        if (row.entry.app, user) not in people:
            return False
    facts = shown(row, names).facts or {}
    first_ms = facts.get("since", 0) * _SECOND_MS
    end_ms = facts.get("until", 0) * _SECOND_MS
    return bool(first_ms <= time_ms < (end_ms or inf))


def search(query: AuditQuery, sql: PooledStatements) -> tuple[Acts, int]:
    """The newest wanted acts, and the number after which a further search
    continues.

    The number is 0 if there are no more acts. A search that has read
    :data:`MOST_LOOKED` acts ends early, also with fewer acts than its limit.
    """
    rows, following = _search_rows(query, sql)
    return _with_names(sql, rows), following


def _search_rows(
    query: AuditQuery, sql: PooledStatements
) -> tuple[list[AuditRow], int]:
    """Search as :func:`search` does, without names.

    The first step reads few candidates, because most searches end there. Each
    further step reads more than the step before.
    """
    search = _search_of(query, sql)
    low, high = _bounds(query, sql)
    acts: list[AuditRow] = []
    budget = MOST_LOOKED
    # One act more than the limit shows that there are further acts.
    step = query.limit + 1
    while True:
        between = (*search.source_values, low, high)
        missing = query.limit + 1 - len(acts)
        values = (*between, step, *search.wanted_values, missing)
        acts += map(_row, sql.query(search.statement, values))
        if len(acts) > query.limit:
            del acts[query.limit :]
            return acts, acts[-1].number

        # The next step begins below the last candidate of this one.
        last = sql.query(search.last_candidate, (*between, step - 1))
        if not last:  # there were fewer candidates than the step
            return acts, 0
        high = last[0][0]
        budget -= step
        if budget <= 0:
            return acts, high
        step = min(_STEP_GROWTH * step, budget)


class _Search(Struct, frozen=True):
    """The statements of a search.

    An index leads to the numbers of *candidates*, the newest first: acts that
    meet the condition of the index. ``statement`` reads the wanted acts among
    some candidates. The database decides which are wanted, so other acts cost
    this process nothing. ``last_candidate`` reads the number of the last of
    these candidates.
    """

    statement: str
    last_candidate: str
    source_values: tuple[str, ...]
    wanted_values: tuple[str, ...]


def _search_of(query: AuditQuery, sql: PooledStatements) -> _Search:
    """The statements of the search for a query.

    They are written once, and run at each step with other values.
    """
    by = _label(query.by)
    source, source_values = _source(query, by)
    span = f"{source} number > %s AND number < %s ORDER BY number DESC LIMIT"
    wanted, wanted_values = _wanted(query, by)
    return _Search(
        statement=_JOIN[sql.engine].format(
            span=span, wanted=wanted, columns=_readable(sql, _LOOKED_UP)
        ),
        last_candidate=f"SELECT{span} 1 OFFSET %s",
        source_values=source_values,
        wanted_values=wanted_values,
    )


def _bounds(query: AuditQuery, sql: PooledStatements) -> tuple[int, int]:
    """Two numbers between which the numbers of all wanted acts lie.

    Neither of the two numbers belongs to a wanted act. The times of acts never
    go back in the chain, so a limit in time becomes a limit of numbers.
    """
    low = 0
    high = query.after or _BEYOND_ALL
    if query.since:
        first = _first_since(query.since, sql)
        if first is None:
            low = high  # all acts are older, so no act is wanted
        else:
            low = first - 1
    if query.until:
        first = _first_since(query.until + 1, sql)
        if first is not None:
            high = min(high, first)
    return low, high


def _first_since(time_ms: int, sql: PooledStatements) -> int | None:
    """The number of the first act at or after this time.

    None if all acts are older.
    """
    statement = (
        "SELECT number FROM audit WHERE time >= %s ORDER BY time, number LIMIT 1"
    )
    for (number,) in sql.query(statement, (time_ms,)):
        return int(number)
    return None


Label = tuple[str, str, str]
"""Who has done an act: kind, app and id. App and id may be empty."""


def _label(by: str) -> Label:
    """Split a label: ``staff:shop/ann`` is (staff, shop, ann), and ``key:1f``
    is (key, empty, 1f)."""
    kind, _, id = by.partition(":")
    if kind not in PERSONS:
        return kind, "", id
    app, _, user = id.partition("/")
    return kind, app, user


def _source(query: AuditQuery, by: Label) -> tuple[str, tuple[str, ...]]:
    """The start of a query for the numbers of acts, and its values.

    The text has no ``SELECT``. For the acts in an app, the result is ``("
    number FROM audit WHERE app = %s AND", ("shop",))``. Each query uses one
    index. The given fields decide which index is used, so that as few acts as
    possible are read.
    """
    _, app, member = by
    # Numbers of acts that name somebody or something.
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
    """The conditions of a wanted act, each behind an AND, and their values.

    The condition by which :func:`_source` finds the acts in ``audit_name`` is
    not repeated.
    """
    kind, _, _ = by
    columns = {
        "app": query.app,
        "name": query.name,
        "request": query.request,
        "kind": kind,
    }
    given = {column: value for column, value in columns.items() if value}
    text = "".join(f" AND a.{column} = %s" for column in given)
    text_of_names, values_of_names = _wanted_names(query, by)
    return text + text_of_names, (*given.values(), *values_of_names)


def _wanted_names(query: AuditQuery, by: Label) -> tuple[str, tuple[str, ...]]:
    """The conditions for the names in a wanted act, and their values.

    The conditions are in the order in which ``_source`` prefers them. A
    condition is necessary only if ``_source`` has used an earlier condition.
    """
    _, app, member = by
    text = ""
    values: tuple[str, ...] = ()
    is_found_otherwise = bool(query.request or query.about)
    if query.request and query.about:
        text += _NAMES_ONE.format("")
        values += ("", query.about)
    if query.user and is_found_otherwise:
        text += _NAMES_ONE.format("")
        values += (query.app, query.user)
    if member and (query.user or is_found_otherwise):
        text += _NAMES_ONE.format(" AND m.part = 'by'")
        values += (app, member)
    return text, values


_LAST_ACTS: Final = 5
"""How many acts :func:`last_maker` reads, because the user may have done the
last ones to others."""


def last_maker(store: Store, app: str, user: str, names: Sequence[str]) -> str:
    """Who has done the newest of these acts on a user, such as ``key:1f2e``.

    A maker with an account is written with the app: ``staff:shop/7``. ``names``
    are names of acts, such as ``moderation.ban``. Returns ``""`` if no such act
    is in the log, or if its maker was erased. Switches greenlets. Raises
    StorageUnavailable.
    """
    maker = ActMaker(kind="", id="", app="")  # nobody
    newest = 0
    for name in names:
        query = AuditQuery(app=app, user=user, name=name, limit=_LAST_ACTS)
        acts, _ = store.read_or((NO_ACTS, 0), partial(search, query))
        for row, names_in_act in acts:
            act = shown(row, names_in_act)
            # The search also finds acts that the user has done to other users.
            if act.number > newest and _is_target(user, act):
                newest = act.number
                maker = act.by
    return _maker_label(maker)


def _is_target(user: str, act: ActShown) -> bool:
    """Whether an act was done to a user."""
    return user in (act.user, *(act.facts or {}).get("users", ()))


def _maker_label(maker: ActMaker) -> str:
    """A maker as text: ``kind``, ``kind:id`` or ``kind:app/id``.

    ``""`` if the maker was erased.
    """
    if maker.id is None:  # erased
        return ""
    if not maker.id:  # a kind without ids
        return maker.kind
    if maker.app:
        return f"{maker.kind}:{maker.app}/{maker.id}"
    return f"{maker.kind}:{maker.id}"


def lines_of(store: Store, app: str, user: str) -> Iterator[bytes]:
    """Acts as lines of JSON for an export, the newest first.

    If ``user`` is empty, these are all acts in the app. Otherwise they are the
    acts that the user has done, or that concern the user, and other people are
    left out of them.
    """
    wanted = AuditQuery(app=app, user=user, limit=_EXPORTED_ACTS)
    following = 0  # begins with the newest act
    while True:
        query = replace(wanted, after=following)
        acts, following = store.read_or((NO_ACTS, 0), partial(search, query))
        for row, names in acts:
            act = shown(row, names)
            if user:
                act = _for_user(act, user)
            yield msgspec.json.encode(act) + b"\n"
        if not following:
            return


def _for_user(act: ActShown, user: str) -> ActShown:
    """An act as this user may see it.

    If somebody else has done it, the user does not learn who it was, from which
    address, and who else was concerned.
    """
    facts = {
        name: value for name, value in (act.facts or {}).items() if name != "users"
    }
    if act.by.kind in PERSONS and act.by.id == user:
        return replace(act, facts=facts)
    return replace(
        act,
        by=ActMaker(act.by.kind, id="", app=""),
        address="",
        user=act.user and user,  # stays empty, or null if it was erased
        facts=facts,
    )
