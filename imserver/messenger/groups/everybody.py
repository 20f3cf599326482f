"""Adds the accounts of apps to their groups of everybody."""

from collections.abc import Sequence
from time import monotonic
from typing import ClassVar, Final

import gevent

from imserver.messenger.groups.groups import Groups, RemovedMembers
from imserver.messenger.log.contract import Everybody, GroupState
from imserver.plugin.messages import MessageLog, Rejected, RejectReason
from imserver.plugin.storage import Statements, Store, text_of

WHOLE_SECONDS: Final = 60.0
"""The time between two counts of accounts and members. If a count has changed,
all accounts are checked. This finds accounts that were imported, that were
guests, or that were stored later than accounts with greater ids."""
MOST_JOINING: Final = 200
"""The most accounts that join in one transaction. One entry names them all, and
all members who are online receive this entry."""
_ID_STEP: Final = 20_000
"""The number of ids of accounts that one query reads. Only a few of these
accounts may belong to the app."""
_PAUSE_SECONDS: Final = 0.05
"""The pause after accounts have joined. In this time, other messages are
stored."""
_ACCOUNT_CONDITIONS: Final[dict[Everybody, str]] = {
    "members": "AND bot = 0 AND guest = 0",
    "all": "AND bot = 0",
}
"""The accounts that belong to a group, as a condition of SQL."""
_Key = tuple[str, int, Everybody]
"""(app, group, which users are members without joining)."""


class EverybodysGroups(Store.Rows):
    """Adds new accounts to groups of everybody.

    A *group of everybody* has all accounts of its app as members. For each
    group, this object remembers the last account that was checked. All nodes do
    this work. The log decides under its lock which users are new, so nobody
    joins twice. If a node ends, the other nodes add the remaining accounts.
    """

    LOOK_SECONDS: ClassVar = 5.0
    """The time between two calls of :meth:`look`."""

    def __init__(self, groups: Groups, whole_seconds: float = WHOLE_SECONDS) -> None:
        """Begin with the first account of each group. Nothing is read."""
        super().__init__(groups.store)
        self._log = groups.store.part(MessageLog)
        self._removals = RemovedMembers(groups.store)
        self._positions: dict[_Key, int] = {}
        """Group → the greatest id of an account that was checked."""
        self._counts: dict[_Key, tuple[int, int]] = {}
        """Group → the last numbers of accounts and members, see
        :meth:`_count`."""
        self._whole_seconds = whole_seconds
        self._whole_at = 0.0
        """When the accounts and members are counted next, by the monotonic
        clock."""

    def look(self) -> int:
        """Let new accounts join the groups of everybody.

        Returns how many accounts have joined. Switches greenlets. Raises
        StorageUnavailable.
        """
        if not self._store.has_database:
            return 0
        groups = self._log.conversations.of_everybody()
        if not groups:
            return 0

        if monotonic() >= self._whole_at:
            self._count_again(groups)

        # Accounts that are created later are checked in the next call.
        def newest(sql: Statements) -> int:
            return int(sql.query("SELECT max(id) FROM account")[0][0] or 0)

        last = self._store.read_or(0, newest)
        return sum(self._admit(app, group, whose, last) for app, group, whose in groups)

    def _count_again(self, groups: Sequence[_Key]) -> None:
        """Count the accounts and members of all groups.

        If the counts of a group have changed, its accounts are checked again
        from the first. So accounts that were missed, for example because of an
        import, are found.
        """
        counts = {key: self._count(*key) for key in groups}
        # A group that is no longer a group of everybody is forgotten, too.
        self._positions = {
            key: last
            for key, last in self._positions.items()
            if key in counts and self._counts.get(key) == counts[key]
        }
        self._counts = counts
        self._whole_at = monotonic() + self._whole_seconds

    def _admit(self, app: str, group: int, whose: Everybody, last: int) -> int:
        """Let accounts join a group that were not checked yet.

        Accounts with ids up to ``last`` are checked. Returns how many accounts
        have joined.
        """
        key = (app, group, whose)
        count = 0
        after = self._positions.get(key, 0)
        while after < last:
            end = min(after + _ID_STEP, last)
            users, after = self._accounts(app, whose, after, end)
            new = self._missing(app, group, users)
            # After accounts have joined, there is a pause, so that other
            # messages can be stored.
            if new:
                count += self._join(app, group, whose, new)
                gevent.sleep(_PAUSE_SECONDS)
        self._positions[key] = after
        return count

    def _missing(self, app: str, group: int, users: list[str]) -> list[str]:
        """Return the users who should join a group.

        These are users who are not members, were not removed from the group,
        and are not being erased.
        """
        if not users:
            return []
        members = self._log.conversations.members_among(app, group, users)
        new = [user for user in users if user not in members]
        if not new:
            return []
        # These two queries are needed only if there are new users.
        excluded = self._removals.among(app, group, new) | self._leaving(app)
        return [user for user in new if user not in excluded]

    def _join(self, app: str, group: int, whose: Everybody, users: list[str]) -> int:
        """Let users join a group, and return how many have joined.

        The result is 0 if meanwhile other users are members of the group
        without joining.
        """

        # The log runs this check under its lock, so the group cannot change
        # meanwhile.
        def right(state: GroupState) -> Rejected | None:
            """Refuse the change if meanwhile other users are members without
            joining."""
            if state.everybody == whose:
                return None
            return Rejected(RejectReason.NOT_ALLOWED)

        change = self._log.groups.join(app, group, users, right=right, everybody=True)
        if isinstance(change, Rejected):
            return 0
        return len(change.users)

    def _leaving(self, app: str) -> set[str]:
        """Return the users whose erasure is under way.

        An erasure ends the memberships before it deletes the account. So these
        users still have accounts, but must not join again.
        """
        statement = "SELECT member FROM erasure WHERE ended = 0 AND app = %s"
        return {text_of(row[0]) for row in self._store.rows(statement, (app,))}

    def _count(self, app: str, group: int, whose: Everybody) -> tuple[int, int]:
        """Count the accounts that belong to a group, and its members."""
        statement = (
            f"SELECT count(*) FROM account WHERE app = %s {_ACCOUNT_CONDITIONS[whose]}"
        )
        ((accounts,),) = self._store.rows(statement, (app,))
        return accounts, self._log.conversations.count_members(app, group)

    def _accounts(
        self, app: str, whose: Everybody, after: int, last: int
    ) -> tuple[list[str], int]:
        """Return the next accounts that belong to a group, ordered by id.

        There are at most :data:`MOST_JOINING` accounts, with ids after
        ``after`` and up to ``last``. The second value is the id up to which the
        list is complete.
        """

        def read(sql: Statements) -> list[int]:
            where = (
                f"WHERE id > %s AND id <= %s AND app = %s {_ACCOUNT_CONDITIONS[whose]} "
                "ORDER BY id "
                "LIMIT %s"
            )
            rows = sql.query(
                f"SELECT id FROM account {where}", (after, last, app, MOST_JOINING)
            )
            return [row[0] for row in rows]

        ids = self._store.read(read)
        # If the list is full, the query has left out accounts with greater ids.
        if len(ids) == MOST_JOINING:
            last = ids[-1]
        return list(map(str, ids)), last
