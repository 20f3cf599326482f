"""The accounts of an app for those who answer for it: list and search, roles,
locks.

A lock refuses each login of an account and of its bots, and their tokens, until
it ends. It is also a ban of these users, which ends their sessions on all
nodes: nodes learn of bans, also of those that a command has made. When a lock
is lifted, a ban that ends later stays.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from time import monotonic, time
from typing import ClassVar, Final, Literal

from msgspec import Struct

from imserver.people.accounts.accounts import Accounts
from imserver.people.accounts.contract import FOR_GOOD, Account, StoredRole
from imserver.people.accounts.identifiers import SEPARATORS, candidates
from imserver.people.accounts.rows import (
    IS_NO_GUEST,
    AccountStore,
    accounts_where,
    reported,
)
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.identity import Needs, Principal
from imserver.plugin.services import Presence, Sessions
from imserver.plugin.storage import PooledStatements, RecordEvent, Statements, Store
from imserver.plugin.wire import id_of

REASON_CHARACTERS: Final = 200
SEARCH_SECONDS: Final = 0.12
"""Time after which a search begins no further step. Its next page continues."""
_SEARCHED: Final = 50_000
"""Accounts of an app whose names :meth:`People.find` searches: the newest."""
CENTURY: Final = 36525 * 86400
"""The ban of a lock that does not end by itself, in seconds."""

Kind = Literal["person", "guest", "bot"]
_OF_KIND: Final[dict[Kind, str]] = {
    "person": "{is_no_guest} AND bot = 0",
    "guest": "guest = 1",
    "bot": "bot = 1",
}


class NotBelow(
    ServiceRefused,
    problem=Problems.NOT_ALLOWED,
    detail="Your role acts on accounts with fewer rights only: use an API key or `imserver account`",
):
    """The role of who asks does not permit to act on this account."""


class NoRole(
    ServiceRefused,
    problem=Problems.INVALID_REQUEST,
    detail="Guests and bots have no role",
):
    """The account is that of a guest or a bot, which have no roles."""


class PeopleFilter(Struct, frozen=True):
    """Which accounts of an app to list: all, or those that meet each condition
    that is given.

    ``text``: an id, or a part of the nickname or the user name; with
    ``contacts`` also of the e-mail address or the phone number. ``locked``:
    whether they are locked now.
    """

    app: str
    text: str = ""
    contacts: bool = False
    role: StoredRole | None = None
    kind: Kind | None = None
    locked: bool | None = None


class LockChange(Struct, frozen=True):
    """An account that was locked or unlocked. ``users``: it and its bots.
    ``end``: when its old and its new lock have ended, in Unix seconds. Bans
    that end later are not by a lock, and stay."""

    account: Account
    users: list[str]
    end: int

    def bans_end(self, now: float) -> int:
        """When bans by its locks have ended at the latest, in Unix seconds."""
        # the clocks of a node and its database may differ
        return min(self.end, int(now) + CENTURY) + 5


def end_of(account: Account) -> int:
    """When the lock of an account ends or has ended, in Unix seconds; 0: not by
    itself, or it has none."""
    if account.locked_until == FOR_GOOD:
        return 0
    return account.locked_until


class PeopleStore(Store.Rows):
    """The accounts in a store, for those who answer for an app. Each method is
    one transaction, may switch, and raises StorageUnavailable."""

    @Store.reading_or([])
    def page(
        self,
        sql: PooledStatements,
        wanted: PeopleFilter,
        after: int,
        before: int,
        limit: int,
        now: int,
    ) -> list[Account]:
        """The newest of these accounts with ``after < id < before``."""
        conditions, values = _conditions(wanted, now, sql)
        condition = " AND ".join(("app = %s", "id > %s", "id < %s", *conditions))
        values = [wanted.app, after, before, *values, limit]
        return accounts_where(sql, f"{condition} ORDER BY id DESC LIMIT %s", values)

    def set_role(
        self,
        app: str,
        id: int,
        role: StoredRole,
        may: Callable[[Account], bool],
        record: RecordEvent | None,
    ) -> Account | None:
        """Give an account a role, if ``may`` permits it. None: it does not
        exist. With the role of an owner the keys end that the account has made,
        at once on this node. Raises NotBelow and NoRole."""
        changed = self._set_role(app, id, role, may, record)
        if changed is not None and role != "owner":
            self._store.try_refresh()
        return changed

    @Store.writing_or(None)
    def _set_role(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        role: StoredRole,
        may: Callable[[Account], bool],
        record: RecordEvent | None,
    ) -> Account | None:
        before = _permitted(sql, app, id, may)
        if before is None:
            return None
        if role and (before.guest or before.bot):
            raise NoRole(before.user)
        sql.execute("UPDATE account SET role = %s WHERE id = %s", (role, id))
        if role != "owner":
            Store.end_keys_of(sql, id)
        return reported(sql, record, "role", app, id)

    @Store.writing_or(None)
    def lock(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        until: int,
        reason: str,
        may: Callable[[Account], bool],
        record: RecordEvent | None,
    ) -> LockChange | None:
        """Lock an account and its bots until a Unix second; 0: unlock them.
        None: it does not exist. Raises NotBelow."""
        before = _permitted(sql, app, id, may)
        if before is None:
            return None
        ids = [
            id,
            *(
                row[0]
                for row in sql.query("SELECT id FROM bot WHERE owner = %s", (id,))
            ),
        ]
        sql.execute_many(
            "UPDATE account SET locked_until = %s, lock_reason = %s WHERE id = %s",
            [(until, reason or None, each) for each in ids],
        )
        account = reported(sql, record, "locked" if until else "unlocked", app, id)
        if account is None:
            return None
        return LockChange(account, list(map(str, ids)), max(before.locked_until, until))

    def banned_after(self, app: str, users: Sequence[str], until: int) -> set[str]:
        """The ones of these users whose ban ends after this Unix second."""
        statement = (
            "SELECT member FROM ban WHERE app = %s AND until > %s AND member IN {}"
        )
        rows = self._store.rows_in(
            statement, (app, until * 1000), [user.encode() for user in users]
        )
        return {bytes(row[0]).decode() for row in rows}


def _permitted(
    sql: PooledStatements, app: str, id: int, may: Callable[[Account], bool]
) -> Account | None:
    """The account, whose row is locked. None: it does not exist. Raises
    NotBelow."""
    rows = accounts_where(sql, f"id = %s AND app = %s{sql.for_update}", (id, app))
    if not rows:
        return None
    if not may(rows[0]):
        raise NotBelow(rows[0].role)
    return rows[0]


def _conditions(
    wanted: PeopleFilter, now: int, sql: Statements
) -> tuple[list[str], list[object]]:
    """The conditions of a filter besides its app, and their values."""
    conditions: list[str] = []
    values: list[object] = []
    if wanted.role is not None:
        conditions.append("role = %s")
        values.append(wanted.role)
    if wanted.kind is not None:
        conditions.append(
            _OF_KIND[wanted.kind].format(is_no_guest=IS_NO_GUEST[sql.engine])
        )
    if wanted.locked is not None:
        conditions.append(
            "locked_until > %s" if wanted.locked else "locked_until <= %s"
        )
        values.append(now)
    text = wanted.text.strip()
    if text:
        contains = sql.contains
        either = [contains("lower(nickname)")] * len(
            words := Statements.spellings(text)
        )
        columns = ("name", "email") if wanted.contacts else ("name",)
        either += map(contains, columns)
        values += [*words, *[text.lower()] * len(columns)]
        folded = Statements.words(text)
        if folded:
            either.append(f"({' AND '.join([contains('folded')] * len(folded))})")
            values += folded
        if wanted.contacts:
            # An account without a phone number has a random text there, which
            # begins with U+0001.
            either.append(f"(phone > %s AND {contains('phone')})")
            values += ["\x02", text.translate(SEPARATORS) or text]
        id = id_of(text)
        if id:
            either.append("id = %s")
            values.append(id)
        conditions.append(f"({' OR '.join(either)})")
    return conditions, values


class People(Struct, frozen=True):
    """Lists accounts, gives them roles, and locks them. Every method may switch
    and raise StorageUnavailable, and NotBelow if the principal acts by a role that may
    not act on the account."""

    finds: ClassVar = "account"
    rows: PeopleStore
    all_rows: AccountStore
    accounts: Accounts
    sessions: Sessions
    presence: Presence

    def find(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[tuple[str, str, str, str]]:
        """The accounts that the text names exactly, then those whose name has
        it. Moderators see no e-mail addresses and no phone numbers, and find
        nobody by them."""
        sees_contacts = principal.may(Needs.OPERATE)
        words = Statements.words(text)
        logins = [
            each for each in candidates(text) if sees_contacts or each[0] == "name"
        ]
        accounts = self.all_rows.anywhere(apps, id_of(text.lstrip("0")), logins)
        last = self.all_rows.last_id()
        now = int(time())
        for app, begin in product(apps[:20], (True, False)):
            if words and len(accounts) < limit:
                accounts += self.all_rows.named(
                    app, words, begin, last - _SEARCHED, last, limit, now
                )[0]
        for account in accounts:
            contacts = (account.email, account.phone) if sees_contacts else ()
            names = [each for each in (account.name, *contacts) if each]
            label = account.nickname or next(iter(names), account.user)
            role = [account.role] if account.role else []
            yield account.user, account.app, label, " · ".join([*names, *role])

    def named(self, app: str, text: str) -> Account | None:
        """The account with this id or identifier. Raises NoAccounts."""
        self.accounts.rules_of(app)
        return self.accounts.named(app, text)

    def page(
        self, wanted: PeopleFilter, before: int, limit: int
    ) -> tuple[list[Account], int]:
        """The newest of these accounts with an id below ``before`` (0: all),
        and the id below which the next page begins; 0: there is none.

        A search looks at more and more ids at a time, as long as that is fast, for about
        :data:`SEARCH_SECONDS`. A page may so have few accounts, or none. Raises NoAccounts.
        """
        self.accounts.rules_of(wanted.app)
        accounts: list[Account] = []
        upto = before or self.all_rows.last_id() + 1
        step = 4096
        began = monotonic()
        now = int(time())
        while upto > 1 and len(accounts) < limit:
            after = max(upto - 1 - step, 0)
            step_began = monotonic()
            if step_began - began > SEARCH_SECONDS:
                break
            missing = limit - len(accounts)
            some = self.rows.page(wanted, after, upto, missing, now)
            accounts += some
            upto = some[-1].id if len(some) == missing else after + 1
            # Four times as many after a short step, so that none takes much
            # longer than 40 ms.
            if monotonic() - step_began < 0.01:
                step *= 4
        return accounts, upto if upto > 1 else 0

    def set_role(
        self, principal: Principal, app: str, user: str, role: StoredRole
    ) -> Account:
        """Give an account a role. All nodes follow at once. Raises NoAccounts,
        UnknownAccount, NotBelow and NoRole."""
        record = self.accounts.recorder(app)
        changed = self.rows.set_role(
            app, id_of(user), role, lambda each: principal.may_act_on(each.role), record
        )
        if changed is None:
            raise self.accounts.unknown(app, user)
        return changed

    def lock(
        self, principal: Principal, app: str, user: str, seconds: int, reason: str
    ) -> tuple[Account, list[str]]:
        """Lock an account for ``seconds``; 0: for good. Returns it, and the
        nodes that did not answer: they end its sessions a little later. Raises
        NoAccounts, UnknownAccount and NotBelow."""
        change = self._store_lock(
            principal, app, user, int(time()) + seconds if seconds else FOR_GOOD, reason
        )
        left, end = self._bans(app), change.bans_end(now := time()) - now
        users = [each for each in change.users if left.get(each, 0) <= end]
        closed = self.sessions.close(app, users, None, seconds or CENTURY, reason)
        return change.account, list(closed.missing)

    def unlock(
        self, principal: Principal, app: str, user: str
    ) -> tuple[Account, list[str]]:
        """Lift the lock of an account, and its ban if that ends no later.
        Returns it, and the nodes that did not answer: they follow a little
        later. Raises NoAccounts, UnknownAccount and NotBelow."""
        change = self._store_lock(principal, app, user, 0, "")
        left, end = self._bans(app), change.bans_end(now := time()) - now
        users = [each for each in change.users if 0 < left.get(each, 0) <= end]
        return change.account, list(self.sessions.unban(app, users)) if users else []

    def locked(self, app: str, user: str) -> tuple[int, str] | None:
        """Until when an account is locked, in Unix seconds (0: not by itself),
        and why. None: it is not, or there is no such account."""
        account = self.accounts.get(app, user)
        if account is None or not account.is_locked(time()):
            return None
        return end_of(account), account.lock_reason

    def _bans(self, app: str) -> dict[str, float]:
        """User → seconds until the ban of the user ends."""
        return {user: ban.seconds for user, ban in self.sessions.bans(app).items()}

    def _store_lock(
        self, principal: Principal, app: str, user: str, until: int, reason: str
    ) -> LockChange:
        def may(account: Account) -> bool:
            return principal.may_act_on(account.role)

        change = self.rows.lock(
            app, id_of(user), until, reason, may, self.accounts.recorder(app)
        )
        if change is None:
            raise self.accounts.unknown(app, user)
        return change
