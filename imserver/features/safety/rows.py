"""Rows of mutes and removals. Each method is one transaction, may switch, and raises StorageUnavailable.

All times are of the clock of the database, because the clocks of nodes differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.storage import PooledStatements, RowsOf, Statements, Store

UNDER_WAY: Final = 0
"""Messages are being removed."""
DONE: Final = 1
"""They are removed, and may come back."""
UNDOING: Final = 2
"""They are coming back."""
ENDING: Final = 3
"""Their copies are being erased."""


class Removal(Struct, frozen=True):
    """Messages that are removed together. ``user``: who sent them; ``""``: several. ``since``, ``until``: of
    the messages, in Unix milliseconds. ``reached``, ``last``: the ids between which they are still looked
    for. ``ends``: Unix seconds until which it may be undone; 0: until somebody decides."""

    app: str
    id: str
    user: str
    state: int
    since: int
    until: int
    reached: int
    last: int
    created: int = 0
    ends: int = 0


class Muted(Struct, frozen=True, array_like=True, tag="safety.muted"):
    """The mute of a user in a whole app, also as a node message. It ends at ``until`` (Unix seconds)."""

    app: str
    user: str
    until: int
    reason: str


_ROWS: Final = RowsOf(Removal, "removal", user="member")
_MUTES: Final = RowsOf(Muted, "mute", user="member")


class SafetyRows:
    """The rows in a store. Without a database there are none."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # --- removals -------------------------------------------------------------------------------------------

    def add(self, new: Removal, undo_seconds: int) -> Removal:
        """Store a new removal, which is final after so many seconds; 0: when somebody decides."""

        def work(sql: PooledStatements) -> Removal:
            now = _now(sql)
            removal = replace(new, created=now, ends=now + undo_seconds if undo_seconds else 0)
            row = (*_ROWS.values(removal), now, 0)
            sql.insert_new("removal", f"{_ROWS.columns}, leased, messages", [row])
            return removal

        return self.store.write(work)

    def get(self, app: str, id: str) -> Removal | None:
        """A removal; None: there is no such one, or it is final."""
        return _ROWS.first(self.store.rows, "WHERE app = %s AND id = %s", app, id)

    def change_state(self, removal: Removal, to: int, among: Sequence[int]) -> bool:
        """Set the state of a removal that has one of these; False: it has another. A removal that is to be
        undone must not have ended, one whose end begins must have."""
        states = f"state IN ({', '.join(map(str, among))})"

        def work(sql: PooledStatements) -> bool:
            in_time = {
                UNDOING: f" AND (ends = 0 OR ends > {sql.now})",
                ENDING: f" AND (state = {ENDING} OR (ends > 0 AND ends <= {sql.now}))",
            }.get(to, "")
            statement = f"UPDATE removal SET state = %s WHERE app = %s AND id = %s AND {states}{in_time}"
            return sql.execute(statement, (to, removal.app, removal.id)) > 0

        return self.store.write(work)

    # --- mutes ----------------------------------------------------------------------------------------------

    def mute(self, app: str, user: str, seconds: int, reason: str) -> Muted:
        """Store a mute in place of an earlier one; 0 seconds: one that has ended."""

        def work(sql: PooledStatements) -> Muted:
            now = _now(sql)
            until = now + seconds if seconds > 0 else now - 1
            sql.execute("DELETE FROM mute WHERE app = %s AND member = %s", (app, user))
            row = (app, user, until, now, reason)
            sql.insert_new("mute", "app, member, until, changed, reason", [row])
            return Muted(app, user, until, reason)

        return self.store.write(work)

    def mutes(self, since: int) -> tuple[list[Muted], int]:
        """The mutes that were changed at this Unix second or later, 0: all; and the second of the reading."""

        def work(sql: PooledStatements) -> tuple[list[Muted], int]:
            now = _now(sql)
            return _MUTES.find(sql.query, "WHERE changed >= %s", since), now

        nothing: tuple[list[Muted], int] = ([], 0)
        return self.store.read_or(nothing, work)

    def forget_mutes(self, seconds: int = 86_400) -> None:
        """Delete mutes that ended so many seconds ago."""

        def work(sql: PooledStatements) -> int:
            return sql.execute(f"DELETE FROM mute WHERE until < {sql.now} - %s", (seconds,))

        self.store.write_or(0, work)


def _now(sql: Statements) -> int:
    return int(sql.query(f"SELECT {sql.now}")[0][0])


def is_under_way(sql: Statements, app: str, id: str) -> bool:
    """Whether messages are being removed, in the transaction of the log."""
    statement = f"SELECT state FROM removal WHERE app = %s AND id = %s{sql.for_update}"
    rows = sql.query(statement, (app, id))
    return bool(rows) and rows[0][0] == UNDER_WAY
