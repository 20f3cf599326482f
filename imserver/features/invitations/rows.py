"""Invitations in the database. Each method is one transaction, may switch, and raises StorageUnavailable."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin.storage import PooledStatements, Row, Statements, Store, marks_of, text_of

_COLUMNS: Final = "code, app, member, conversation, created, expires_at, uses, max_uses, guests"
_INVITATIONS: Final = f"SELECT {_COLUMNS} FROM invitation WHERE app = %s AND "
_ENDED: Final = "((expires_at > 0 AND expires_at <= %s) OR (max_uses > 0 AND uses >= max_uses))"


class Invitation(Struct, frozen=True):
    """An invitation link: whoever knows the code may join a group, or become a friend of the maker."""

    code: str
    """Random. It is the only proof needed."""
    app: str
    user: str
    """The maker; ``""``: a back end."""
    group: int
    """0: to become a friend of the maker."""
    created: int
    """Unix seconds."""
    expires_at: int = 0
    """Unix seconds; 0: never."""
    uses: int = 0
    max_uses: int = 0
    """0: no limit."""
    guests: bool = False
    """Whether people without an account may come in, as guests."""


class InvitationStore:
    """The invitations in a store. Without a database there are none."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @Store.writing
    def add(self, sql: PooledStatements, new: Invitation, most: int, account: int = 0) -> bool:
        """Store an invitation; False if its maker has ``most``. Those that have ended are deleted first.

        ``account``: that of the maker, whose invitations are counted one at a time; 0: none. Invitations of a
        back end count by group.
        """
        if account:
            sql.query(f"SELECT id FROM account WHERE id = %s{sql.for_update}", (account,))
        whose = "app = %s AND member = %s"
        values: Row = (new.app, new.user)
        if not new.user:
            whose, values = f"{whose} AND conversation = %s", (*values, new.group)
        sql.execute(f"DELETE FROM invitation WHERE {whose} AND {_ENDED}", (*values, new.created))
        if sql.query(f"SELECT count(*) FROM invitation WHERE {whose}", values)[0][0] >= most:
            return False
        ends = new.expires_at, new.uses, new.max_uses
        row = new.code, new.app, new.user, new.group, new.created, *ends, int(new.guests)
        sql.execute(f"INSERT INTO invitation ({_COLUMNS}) VALUES {marks_of(9)}", row)
        return True

    def get(self, app: str, code: str) -> Invitation | None:
        """The invitation with this code, ended or not."""
        rows = self._store.rows(f"{_INVITATIONS} code = %s", (app, code))
        return _invitation(rows[0]) if rows else None

    def page(
        self, app: str, user: str | None, group: int | None, now: int, after: str, limit: int
    ) -> list[Invitation]:
        """Invitations that have not ended, ordered by code, after the code ``after``. ``user``: their maker;
        ``group``: to this group. None: of all."""
        where, values = f"NOT {_ENDED} AND code > %s", [app, now, after]
        for column, value in (("member", user), ("conversation", group)):
            if value is not None:
                where, values = f"{where} AND {column} = %s", [*values, value]
        statement = f"{_INVITATIONS} {where} ORDER BY code LIMIT %s"
        rows = self._store.rows(statement, (*values, limit))
        return list(map(_invitation, rows))

    def remove(self, app: str, code: str) -> None:
        """Delete an invitation."""
        statement = "DELETE FROM invitation WHERE app = %s AND code = %s"
        self._store.execute(statement, (app, code))


def use(sql: Statements, app: str, code: str, now: int) -> bool:
    """Count one use; False if the invitation does not exist or has ended."""
    statement = f"UPDATE invitation SET uses = uses + 1 WHERE app = %s AND code = %s AND NOT {_ENDED}"
    return sql.execute(statement, (app, code, now)) == 1


def _invitation(row: Row) -> Invitation:
    code, app, user, group, created, expires_at, uses, max_uses, guests = row
    names = text_of(code), text_of(app), text_of(user)
    return Invitation(*names, group, created, expires_at, uses, max_uses, bool(guests))
