"""Invitations in the database. Each method is one transaction, may switch, and raises StorageUnavailable."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Struct

from imserver.plugin.http import about
from imserver.plugin.storage import PooledStatements, Row, RowsOf, Statements, Store, marks_of
from imserver.plugin.wire import id_of

_ENDED: Final = "((expires_at > 0 AND expires_at <= %s) OR (max_uses > 0 AND uses >= max_uses))"

Code = Annotated[str, about("The code of the invitation. Put it into a link.", pattern="^[A-Za-z0-9_-]{22}$")]
"""Random. It is the only proof needed."""
OfGroup = Annotated[
    str, about("The id of a group; empty: an invitation to be a friend.", pattern="^([1-9][0-9]{0,18})?$")
]
Maker = Annotated[str, about("The user who made it; empty: a back end.")]
ForGuests = Annotated[
    bool, about("Whether people without an account may come into the group, as guests with a name only.")
]
Ends = Annotated[int, about("When it ends, in Unix seconds; 0: never.")]


class InvitationShown(Struct, frozen=True):
    """An invitation."""

    code: Code
    group: OfGroup
    user: Maker
    created: Annotated[int, about("When it was created, in Unix seconds.")]
    expires_at: Ends
    uses: Annotated[int, about("How often it was accepted.")]
    max_uses: Annotated[int, about("How often it may be accepted; 0: any number.")]
    guests: ForGuests


_ROWS: Final = RowsOf(InvitationShown, "invitation", group="conversation", user="member")


class InvitationStore(Store.Rows):
    """The invitations in a store. Without a database there are none."""

    @Store.writing
    def add(self, sql: PooledStatements, app: str, new: InvitationShown, most: int, account: int = 0) -> bool:
        """Store an invitation; False if its maker has ``most``. Those that have ended are deleted first.

        ``account``: that of the maker, whose invitations are counted one at a time; 0: none. Invitations of a
        back end count by group.
        """
        if account:
            sql.query(f"SELECT id FROM account WHERE id = %s{sql.for_update}", (account,))
        whose = "app = %s AND member = %s"
        values: Row = (app, new.user)
        if not new.user:
            whose, values = f"{whose} AND conversation = %s", (*values, id_of(new.group))
        sql.execute(f"DELETE FROM invitation WHERE {whose} AND {_ENDED}", (*values, new.created))
        if sql.query(f"SELECT count(*) FROM invitation WHERE {whose}", values)[0][0] >= most:
            return False
        code, group, *row = _ROWS.values(new)
        statement = f"INSERT INTO invitation ({_ROWS.columns}, app) VALUES {marks_of(9)}"
        sql.execute(statement, (code, id_of(group), *row, app))
        return True

    def get(self, app: str, code: str) -> InvitationShown | None:
        """The invitation with this code, ended or not."""
        return _ROWS.first(self._store.rows, "WHERE app = %s AND code = %s", app, code)

    def page(
        self, app: str, user: str | None, group: int | None, now: int, after: str, limit: int
    ) -> list[InvitationShown]:
        """Invitations that have not ended, ordered by code, after the code ``after``. ``user``: their maker;
        ``group``: to this group. None: of all."""
        where, values = f"NOT {_ENDED} AND code > %s", [app, now, after]
        for column, value in (("member", user), ("conversation", group)):
            if value is not None:
                where, values = f"{where} AND {column} = %s", [*values, value]
        rest = f"WHERE app = %s AND {where} ORDER BY code LIMIT %s"
        return _ROWS.find(self._store.rows, rest, *values, limit)

    def remove(self, app: str, code: str) -> None:
        """Delete an invitation."""
        self._store.execute("DELETE FROM invitation WHERE app = %s AND code = %s", (app, code))


def use(sql: Statements, app: str, code: str, now: int) -> bool:
    """Count one use; False if the invitation does not exist or has ended."""
    statement = f"UPDATE invitation SET uses = uses + 1 WHERE app = %s AND code = %s AND NOT {_ENDED}"
    return sql.execute(statement, (app, code, now)) == 1
