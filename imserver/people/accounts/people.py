"""The accounts of an app for its moderators, owners and operators: lists and
searches them, sets roles, locks.

A lock refuses each login of an account and of its bots, and their tokens, until
it ends. It also bans these users, which ends their sessions on all nodes: nodes
learn of each ban, even if a command has made it. When a lock is lifted, a ban
that ends later stays.
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
    SHORT_STEP_SECONDS,
    STEP_GROWTH,
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
"""The number of the newest accounts of an app whose names :meth:`People.find`
searches."""
_FIRST_STEP: Final = 4096
"""Ids that the first step of a page reads."""
_MOST_SEARCHED_APPS: Final = 20
"""Apps in which one search of the administration looks for accounts."""
_CLOCKS_SECONDS: Final = 5
"""The greatest difference between the clocks of a node and its database."""
_ABOVE_NO_PHONE: Final = "\x02"
"""A text above the stored phone of accounts without a phone number: theirs is a
random text that begins with U+0001."""
CENTURY: Final = 36525 * 86400
"""The length of the ban for a lock without an end, in seconds."""

Kind = Literal["person", "guest", "bot"]
_OF_KIND: Final[dict[Kind, str]] = {
    "person": "{is_no_guest} AND bot = 0",
    "guest": "guest = 1",
    "bot": "bot = 1",
}


class NotBelow(
    ServiceRefused,
    problem=Problems.NOT_ALLOWED,
    detail=(
        "Your role acts on accounts with fewer rights only: use an API key or "
        "`imserver account`"
    ),
):
    """The role of the principal does not permit acts on this account."""


class NoRole(
    ServiceRefused,
    problem=Problems.INVALID_REQUEST,
    detail="Guests and bots have no role",
):
    """The account belongs to a guest or a bot, which have no roles."""


class PeopleFilter(Struct, frozen=True):
    """The conditions for listing accounts of an app. An account must meet each
    given condition; without conditions all accounts are listed.

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
    """An account that was locked or unlocked. ``users``: the account and its
    bots. ``end``: when both its old and its new lock have ended, in Unix
    seconds. Bans that end later do not come from a lock, and stay."""

    account: Account
    users: list[str]
    end: int

    def bans_end(self, now: float) -> int:
        """The latest end of bans by its locks, in Unix seconds."""
        return min(self.end, int(now) + CENTURY) + _CLOCKS_SECONDS


def end_of(account: Account) -> int:
    """When the lock of an account ends or has ended, in Unix seconds; 0: it has
    no end, or the account has no lock."""
    if account.locked_until == FOR_GOOD:
        return 0
    return account.locked_until


class PeopleStore(Store.Rows):
    """The accounts in a store, for moderators, owners and operators. Each
    method is one transaction, may switch greenlets, and raises
    StorageUnavailable."""

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
        """Give an account a role, if ``may`` permits it. None: the account does
        not exist. If it loses the role of an owner, the API keys that it has
        made end, at once on this node. Raises NotBelow and NoRole."""
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
        None: the account does not exist. Raises NotBelow."""
        before = _permitted(sql, app, id, may)
        if before is None:
            return None
        bots = sql.query("SELECT id FROM bot WHERE owner = %s", (id,))
        ids = [id, *[row[0] for row in bots]]
        sql.execute_many(
            "UPDATE account SET locked_until = %s, lock_reason = %s WHERE id = %s",
            [(until, reason or None, each) for each in ids],
        )
        act = "locked" if until else "unlocked"
        account = reported(sql, record, act, app, id)
        if account is None:
            return None
        users = [str(each) for each in ids]
        return LockChange(account, users, max(before.locked_until, until))

    def banned_after(self, app: str, users: Sequence[str], until: int) -> set[str]:
        """The users among ``users`` whose ban ends after this Unix second."""
        statement = (
            "SELECT member FROM ban WHERE app = %s AND until > %s AND member IN {}"
        )
        until_ms = until * 1000
        names = [user.encode() for user in users]
        rows = self._store.rows_in(statement, (app, until_ms), names)
        return {bytes(row[0]).decode() for row in rows}


def _permitted(
    sql: PooledStatements, app: str, id: int, may: Callable[[Account], bool]
) -> Account | None:
    """Lock the row of an account, and return the account. None: it does not
    exist. Raises NotBelow."""
    condition = f"id = %s AND app = %s{sql.for_update}"
    accounts = accounts_where(sql, condition, (id, app))
    if not accounts:
        return None
    (account,) = accounts
    if not may(account):
        raise NotBelow(account.role)
    return account


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
        condition = _OF_KIND[wanted.kind]
        conditions.append(condition.format(is_no_guest=IS_NO_GUEST[sql.engine]))
    if wanted.locked is not None:
        if wanted.locked:
            conditions.append("locked_until > %s")
        else:
            conditions.append("locked_until <= %s")
        values.append(now)
    text = wanted.text.strip()
    if text:
        either, values_of_text = _conditions_of_text(text, wanted.contacts, sql)
        conditions.append(f"({' OR '.join(either)})")
        values += values_of_text
    return conditions, values


def _conditions_of_text(
    text: str, contacts: bool, sql: Statements
) -> tuple[list[str], list[object]]:
    """Alternative conditions for accounts with this text, and their values. An
    account needs to meet one. ``contacts``: also match the e-mail address and
    the phone number."""
    contains = sql.contains
    spellings = Statements.spellings(text)
    conditions = [contains("lower(nickname)")] * len(spellings)
    values: list[object] = [*spellings]
    conditions.append(contains("name"))
    values.append(text.lower())
    if contacts:
        conditions.append(contains("email"))
        values.append(text.lower())
    words = Statements.words(text)
    if words:
        has_all = " AND ".join([contains("folded")] * len(words))
        conditions.append(f"({has_all})")
        values += words
    if contacts:
        conditions.append(f"(phone > %s AND {contains('phone')})")
        values.append(_ABOVE_NO_PHONE)
        values.append(text.translate(SEPARATORS) or text)
    id = id_of(text)
    if id:
        conditions.append("id = %s")
        values.append(id)
    return conditions, values


class People(Struct, frozen=True):
    """Lists accounts, gives them roles, and locks them. Every method may switch
    greenlets and raise StorageUnavailable. It raises NotBelow if the role of
    the principal may not act on the account."""

    finds: ClassVar = "account"
    rows: PeopleStore
    all_rows: AccountStore
    accounts: Accounts
    sessions: Sessions
    presence: Presence

    def find(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[tuple[str, str, str, str]]:
        """The accounts that the text names exactly, then the accounts whose
        names contain the text. Moderators see no e-mail addresses and no phone
        numbers, and find nobody by them."""
        sees_contacts = principal.may(Needs.OPERATE)
        words = Statements.words(text)
        logins = [
            each for each in candidates(text) if sees_contacts or each[0] == "name"
        ]
        accounts = self.all_rows.anywhere(apps, id_of(text.lstrip("0")), logins)
        last = self.all_rows.last_id()
        now = int(time())
        # Accounts come first if words of their names begin with the words.
        for app, begin in product(apps[:_MOST_SEARCHED_APPS], (True, False)):
            if words and len(accounts) < limit:
                named, _ = self.all_rows.named(
                    app, words, begin, last - _SEARCHED, last, limit, now
                )
                accounts += named

        for account in accounts:
            texts = [account.name]
            if sees_contacts:
                texts += [account.email, account.phone]
            names = [text for text in texts if text]
            label = account.nickname or next(iter(names), account.user)
            if account.role:
                names.append(account.role)
            yield account.user, account.app, label, " · ".join(names)

    def named(self, app: str, text: str) -> Account | None:
        """The account with this id or identifier. Raises NoAccounts."""
        self.accounts.rules_of(app)
        return self.accounts.named(app, text)

    def page(
        self, wanted: PeopleFilter, before: int, limit: int
    ) -> tuple[list[Account], int]:
        """The newest of these accounts with an id below ``before`` (0: all),
        and the ``before`` of the next page; 0: this is the last page.

        Each step of a search reads more ids than the one before, as long as
        that is fast, for about :data:`SEARCH_SECONDS`. So a page may have few
        accounts, or be empty. Raises NoAccounts.
        """
        self.accounts.rules_of(wanted.app)
        accounts: list[Account] = []
        upto = before or self.all_rows.last_id() + 1
        step = _FIRST_STEP
        began = monotonic()
        now = int(time())
        while upto > 1 and len(accounts) < limit:
            after = max(upto - 1 - step, 0)
            step_began = monotonic()
            if step_began - began > SEARCH_SECONDS:
                break
            missing = limit - len(accounts)
            page = self.rows.page(wanted, after, upto, missing, now)
            accounts += page
            if len(page) == missing:
                upto = page[-1].id
            else:
                upto = after + 1
            if monotonic() - step_began < SHORT_STEP_SECONDS:
                step *= STEP_GROWTH
        if upto <= 1:
            return accounts, 0
        return accounts, upto

    def set_role(
        self, principal: Principal, app: str, user: str, role: StoredRole
    ) -> Account:
        """Give an account a role. All nodes follow at once. Raises NoAccounts,
        UnknownAccount, NotBelow and NoRole."""

        def may(account: Account) -> bool:
            return principal.may_act_on(account.role)

        record = self.accounts.recorder(app)
        account = self.rows.set_role(app, id_of(user), role, may, record)
        if account is None:
            raise self.accounts.unknown(app, user)
        return account

    def lock(
        self, principal: Principal, app: str, user: str, seconds: int, reason: str
    ) -> tuple[Account, list[str]]:
        """Lock an account for ``seconds``; 0: without an end. Returns the
        account, and the nodes that did not answer, which end its sessions a
        little later. Raises NoAccounts, UnknownAccount and NotBelow."""
        until = FOR_GOOD
        if seconds:
            until = int(time()) + seconds
        change = self._store_lock(principal, app, user, until, reason)

        # Bans that end later are not by a lock, and stay.
        left = self._bans(app)
        now = time()
        end = change.bans_end(now) - now
        users = [each for each in change.users if left.get(each, 0) <= end]
        closed = self.sessions.close(app, users, None, seconds or CENTURY, reason)
        return change.account, list(closed.missing)

    def unlock(
        self, principal: Principal, app: str, user: str
    ) -> tuple[Account, list[str]]:
        """Lift the lock of an account, and its ban unless the ban ends later.
        Returns the account, and the nodes that did not answer, which follow a
        little later. Raises NoAccounts, UnknownAccount and NotBelow."""
        change = self._store_lock(principal, app, user, 0, "")

        # Bans that end later are not by a lock, and stay.
        left = self._bans(app)
        now = time()
        end = change.bans_end(now) - now
        users = [each for each in change.users if 0 < left.get(each, 0) <= end]
        if not users:
            return change.account, []
        return change.account, list(self.sessions.unban(app, users))

    def locked(self, app: str, user: str) -> tuple[int, str] | None:
        """The end of the lock of an account, in Unix seconds (0: no end), and
        its reason. None: not locked, or no such account."""
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
