"""Entries that the database has lost. This happens if a replica takes over
without the newest commits of its primary, or if a crash loses commits that were
not on the disk.

Clients have seen the ids of these entries. If a node knows a greater id than
the head of a log, it lets all logs continue far beyond that id, like ``imserver
restore``. So no id is given twice. The head stores the range of ids that have
no entries. A client whose cursor is in this range has entries that the log does
not have, and starts again.
"""

from collections.abc import Mapping, Sequence
from time import time
from typing import Any, Final

from msgspec import Struct

from imserver.gateway.storage.numbers import beyond, far_number, move_keys_on, raise_all
from imserver.gateway.storage.statements import Row, Statements, text_of

_MOST_RANGES: Final = 20
"""The most lost ranges that a head stores. If there are more, the oldest are
merged."""


class EntriesLost(Exception):
    """The head of a log is before an entry that is known to be stored. Nothing
    may be written."""


class LostRange(Struct, frozen=True):
    """A range of ids, from ``first`` to ``last``, that has no entries.
    ``found``: when the loss was found, in Unix seconds."""

    first: int
    last: int
    found: int


def ranges_of(column: Any) -> tuple[LostRange, ...]:
    """Read the lost ranges from the column ``log.lost``, in order.

    The column has the text ``first:last:found`` for each range, with commas
    between them. Example: ``41:1040:1700000000`` gives one range. An empty
    column gives none.
    """
    if not column:
        return ()
    ranges = []
    for text in text_of(column).split(","):
        first, last, found = map(int, text.split(":"))
        ranges.append(LostRange(first, last, found))
    return tuple(ranges)


def _column_of(ranges: list[LostRange]) -> str:
    """Return the value of the column ``log.lost`` for these ranges.

    Too many ranges are merged, the oldest first. :func:`ranges_of` shows the
    format.
    """
    while len(ranges) > _MOST_RANGES:
        # The two oldest ranges become one, with the ids between them.
        oldest, second, *rest = ranges
        ranges = [LostRange(oldest.first, second.last, second.found), *rest]
    return ",".join([f"{lost.first}:{lost.last}:{lost.found}" for lost in ranges])


def next_after_loss(column: Any) -> int:
    """Return the number at which seqs and versions continue after a loss.

    Earlier numbers may have been lost. The result is 0 if nothing was lost.
    """
    ranges = ranges_of(column)
    if not ranges:
        return 0
    return ranges[-1].last + 1


def move_on(known: Mapping[str, int], sql: Statements) -> dict[str, LostRange]:
    """Let all logs continue beyond entries that the database has lost.

    ``known`` has app → an id that is known to be stored. If no log ends before
    this id, nothing is done, because another node was quicker.

    Returns app → its lost range, for all apps, or an empty dict. The ids of
    events and accounts continue at greater numbers, too. Seqs and versions of
    marks continue at greater numbers when they are next used.
    """
    far = far_number()
    # This comes first, because on MySQL this statement commits the transaction.
    move_keys_on("account", sql, far)
    rows = _locked_heads(sql, sorted(known))
    if not any(last_id < known.get(text_of(app), 0) for app, _, last_id, _, _ in rows):
        return {}

    # If one log has lost entries, other logs may have lost entries of which no
    # node knows. So all logs are moved on.
    ranges: dict[str, LostRange] = {}
    for name, *columns in rows:
        app = text_of(name)
        ranges[app] = _move_log_on(sql, columns, known.get(app, 0), far)
    raise_all(sql, far, "event_feed", "last_id")
    return ranges


def _locked_heads(sql: Statements, apps: Sequence[str]) -> list[Row]:
    """Lock the heads of all logs, and return them. This stops other writers.

    If one of these apps has no head, it is created. A head is (app, number,
    last_id, last_conversation, lost).
    """
    for app in apps:
        sql.insert_new(
            "log", "app, part, last_id, last_conversation, floor", [(app, 0, 0, 0, 0)]
        )
    return sql.query(
        "SELECT app, number, last_id, last_conversation, lost FROM log WHERE part = 0 "
        f"ORDER BY app{sql.for_update}"
    )


def _move_log_on(
    sql: Statements, columns: Sequence[Any], known_id: int, far: int
) -> LostRange:
    """Let one log continue beyond ``known_id``, and return its lost range.

    ``columns`` are the number, the last id, the last conversation and the lost
    ranges of the log until now. ``far`` is a number far beyond all others.
    """
    number, last_id, last_conversation, lost = columns
    head = beyond(max(last_id, known_id), far)
    conversation = beyond(last_conversation, far)
    # No entry will ever have an id of this range.
    new_range = LostRange(first=last_id + 1, last=head - 1, found=int(time()))
    column = _column_of([*ranges_of(lost), new_range])
    sql.execute(
        "UPDATE log SET last_id = %s, last_conversation = %s, lost = %s "
        "WHERE number = %s",
        (head, conversation, column, number),
    )
    return new_range
