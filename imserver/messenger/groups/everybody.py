"""Keeps the accounts of apps in the groups that are everybody's."""

from __future__ import annotations

from time import monotonic
from typing import ClassVar, Final

import gevent

from imserver.messenger.groups.groups import Groups, RemovedMembers
from imserver.messenger.messages.log.contract import Everybody
from imserver.plugin.messages import GroupState, MessageLog, Rejected, RejectReason
from imserver.plugin.storage import PooledStatements, Statements, Store

WHOLE_SECONDS: Final = 60.0
"""Between two looks at all accounts: for those that were stored later than others with greater ids, came from
another server, or whose guests have become members."""
MOST_JOINING: Final = 200
"""Accounts that join in one transaction. Its entry names them, and all members who are online get it."""
_PAUSE_SECONDS: Final = 0.05
"""Between two of these transactions: messages are stored meanwhile."""
_IDS: Final = 20_000
"""Ids of accounts among which one query looks."""


class EverybodysGroups(Store.Rows):
    """Owner of the greatest id of an account that was looked at, for each group.

    All nodes look. The log decides under its lock who is new, so nobody joins twice, and whoever a node that
    ended has left joins by another one.
    """

    LOOK_SECONDS: ClassVar = 5.0
    """Between two calls of :meth:`look`."""

    def __init__(self, groups: Groups) -> None:
        super().__init__(groups.store)
        self._log = groups.store.part(MessageLog)
        self._removals = RemovedMembers(groups.store)
        self._positions: dict[tuple[str, int, str], int] = {}
        self._whole_at = 0.0

    def look(self) -> int:
        """Let accounts join their groups. Returns how many have. Switches. Raises StorageUnavailable."""
        groups = self._log.conversations.of_everybody() if self._store.has_database else []
        if not groups:
            return 0
        if monotonic() >= self._whole_at:
            self._whole_at = monotonic() + WHOLE_SECONDS
            self._positions.clear()
        last = self._last_account()
        return sum(self._admit(app, group, whose, last) for app, group, whose in groups)

    def _admit(self, app: str, group: int, whose: Everybody, last: int) -> int:
        """Let the accounts up to an id join a group that are not in it."""
        key, count = (app, group, whose), 0
        after = self._positions.get(key, 0)
        while after < last:
            users, after = self._accounts(app, whose, after, min(after + _IDS, last))
            here = self._log.conversations.members_among(app, group, users) if users else set()
            if new := [user for user in users if user not in here]:
                removed = self._removals.among(app, group, new)
                new = [user for user in new if user not in removed]
            if new:
                count += self._join(app, group, whose, new)
                gevent.sleep(_PAUSE_SECONDS)
        self._positions[key] = after
        return count

    def _join(self, app: str, group: int, whose: Everybody, users: list[str]) -> int:
        def right(state: GroupState) -> Rejected | None:
            return None if state.everybody == whose else Rejected(RejectReason.NOT_ALLOWED)

        change = self._log.groups.join(app, group, users, right=right, everybody=True)
        return 0 if isinstance(change, Rejected) else len(change.users)

    @Store.reading_or(0)
    def _last_account(self, sql: PooledStatements) -> int:
        return int(sql.query("SELECT max(id) FROM account")[0][0] or 0)

    def _accounts(self, app: str, whose: Everybody, after: int, last: int) -> tuple[list[str], int]:
        """Users of an app with ids after one, up to ``last``, at most :data:`MOST_JOINING`; and the id up to
        which they are all."""

        def read(sql: Statements) -> list[int]:
            statement = (
                "SELECT id FROM account WHERE id > %s AND id <= %s AND app = %s AND bot = 0 "
                f"{'AND guest = 0 ' if whose == 'members' else ''}ORDER BY id LIMIT %s"
            )
            return [row[0] for row in sql.query(statement, (after, last, app, MOST_JOINING))]

        ids = self._store.read(read)
        return list(map(str, ids)), ids[-1] if len(ids) == MOST_JOINING else last
