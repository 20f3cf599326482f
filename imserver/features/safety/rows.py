"""Rows of mutes and removals. Each method is one transaction, may switch, and raises StorageUnavailable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from imserver.plugin.storage import PooledStatements, Row, Statements, Store, text_of

UNDER_WAY: Final = 0
"""Messages are being removed."""
DONE: Final = 1
"""They are removed, and may come back."""
UNDOING: Final = 2
"""They are coming back."""
ENDING: Final = 3
"""Their copies are being erased."""
_COLUMNS: Final = "app, id, member, state, since, until, reached, last, created, ends, leased"


class Removal(Struct, frozen=True):
    """Messages that are removed together. ``user``: who sent them; ``""``: several. ``since``, ``until``: of
    the messages, in Unix milliseconds. ``reached``, ``last``: the ids between which they are still looked
    for. ``ends``: Unix seconds until which it may be undone; 0: until somebody decides. ``leased``: Unix
    seconds until which a node works on it."""

    app: str
    id: str
    user: str
    state: int
    since: int
    until: int
    reached: int
    last: int
    created: int
    ends: int
    leased: int


class MuteRow(Struct, frozen=True):
    """A mute in a whole app, which ends at ``until`` (Unix seconds)."""

    app: str
    user: str
    until: int
    reason: str


class SafetyRows:
    """The rows in a store. Without a database there are none."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # --- removals -------------------------------------------------------------------------------------------

    def add(self, removal: Removal) -> None:
        """Store a new removal."""
        values = (
            *(removal.app, removal.id, removal.user, removal.state, removal.since, removal.until),
            *(removal.reached, removal.last, removal.created, removal.ends, removal.leased),
        )
        self.store.write(lambda sql: sql.insert_new("removal", f"{_COLUMNS}, messages", [(*values, 0)]))

    def get(self, app: str, id: str) -> Removal | None:
        """A removal; None: there is no such one, or it is final."""
        rows = self.store.rows(f"SELECT {_COLUMNS} FROM removal WHERE app = %s AND id = %s", (app, id))
        return _removal(rows[0]) if rows else None

    def waiting(self, now: int) -> list[Removal]:
        """The removals on which a node has to work, and none does."""
        statement = (
            f"SELECT {_COLUMNS} FROM removal WHERE leased < %s "
            f"AND (state <> {DONE} OR (ends > 0 AND ends <= %s))"
        )
        return [_removal(row) for row in self.store.rows(statement, (now, now))]

    def change_state(self, removal: Removal, to: int, now: int, among: Sequence[int]) -> bool:
        """Set the state of a removal that has one of these; False: it has another. A removal that is to be
        undone must not have ended."""
        statement = (
            "UPDATE removal SET state = %s WHERE app = %s AND id = %s AND (ends = 0 OR ends > %s OR %s > 0) "
            f"AND state IN ({', '.join(map(str, among))})"
        )
        late = int(to != UNDOING)
        return self.store.write(
            lambda sql: sql.execute(statement, (to, removal.app, removal.id, now, late)) > 0
        )

    def lease(self, removal: Removal, until: int) -> bool:
        """Take over the work on a removal; False: another node has."""
        statement = "UPDATE removal SET leased = %s WHERE app = %s AND id = %s AND leased = %s"
        values = (until, removal.app, removal.id, removal.leased)
        return until == removal.leased or self.store.write(lambda sql: sql.execute(statement, values) > 0)

    def reach(self, removal: Removal, reached: int, leased: int) -> None:
        """Messages up to an id were looked at."""
        statement = "UPDATE removal SET reached = %s, leased = %s WHERE app = %s AND id = %s"
        self.store.execute(statement, (reached, leased, removal.app, removal.id))

    def forget(self, removal: Removal) -> None:
        """Delete a removal that is final or undone."""
        self.store.execute("DELETE FROM removal WHERE app = %s AND id = %s", (removal.app, removal.id))

    # --- mutes ----------------------------------------------------------------------------------------------

    def mute(self, row: MuteRow, now: int) -> None:
        """Store a mute in place of an earlier one."""

        def work(sql: PooledStatements) -> None:
            sql.execute("DELETE FROM mute WHERE app = %s AND member = %s", (row.app, row.user))
            sql.insert_new(
                "mute",
                "app, member, until, changed, reason",
                [(row.app, row.user, row.until, now, row.reason)],
            )

        self.store.write(work)

    def mutes(self, since: int) -> list[MuteRow]:
        """The mutes that were changed at this Unix second or later; 0: all."""
        rows = self.store.rows("SELECT app, member, until, reason FROM mute WHERE changed >= %s", (since,))
        return [
            MuteRow(text_of(app), text_of(user), until, text_of(reason)) for app, user, until, reason in rows
        ]

    def forget_mutes(self, before: int) -> None:
        """Delete mutes that ended before this Unix second."""
        self.store.execute("DELETE FROM mute WHERE until < %s", (before,))


def is_under_way(sql: Statements, app: str, id: str) -> bool:
    """Whether messages are being removed, in the transaction of the log."""
    statement = f"SELECT state FROM removal WHERE app = %s AND id = %s{sql.for_update}"
    rows = sql.query(statement, (app, id))
    return bool(rows) and rows[0][0] == UNDER_WAY


def _removal(row: Row) -> Removal:
    app, id, user, *numbers = row
    return Removal(text_of(app), text_of(id), text_of(user), *map(int, numbers))
