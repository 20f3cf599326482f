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
from imserver.people.accounts.identifiers import (
    SEPARATORS,
    Identifier,
    candidates,
)
from imserver.people.accounts.rows import (
    IS_NO_GUEST,
    SHORT_STEP_SECONDS,
    STEP_GROWTH,
    AccountStore,
    accounts_where,
    record_change,
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
_CONDITION_OF_LOCK: Final = {True: "locked_until > %s", False: "locked_until <= %s"}
"""Whether an account is locked at a time → the condition for that."""
_CONDITION_OF_KIND: Final[dict[Kind, str]] = {
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
    """Which accounts of an app are listed.

    An account must meet each condition. A condition that is None or ``""`` is
    not given: all accounts meet it.

    ``text`` is an id, or a part of the nickname or the user name. With
    ``contacts``, the text may also be a part of the e-mail address or the phone
    number. ``locked`` says whether the accounts are locked now.
    """

    app: str
    text: str = ""
    contacts: bool = False
    role: StoredRole | None = None
    kind: Kind | None = None
    locked: bool | None = None


class LockChange(Struct, frozen=True):
    """An account that was locked or unlocked.

    ``users`` are the user ids of the account and its bots. ``end`` is the later
    of the ends of its old and its new lock, in Unix seconds. Bans that end
    later do not come from a lock, and stay.
    """

    account: Account
    users: list[str]
    end: int

    def bans_end(self, now: float) -> int:
        """The latest end of bans by its locks, in Unix seconds."""
        return min(self.end, int(now) + CENTURY) + _CLOCKS_SECONDS


def end_of(account: Account) -> int:
    """When the lock of an account ends or has ended, in Unix seconds. 0 means
    that the lock has no end, or that the account has no lock."""
    if account.locked_until == FOR_GOOD:
        return 0
    return account.locked_until


class PeopleStore(Store.Rows):
    """The accounts in a store, for moderators, owners and operators.

    Many methods take ``may_act_on``, which decides whether the principal may
    act on an account with its role. ``record`` stores an event about the
    account; None means that nobody wants it. Each method is one transaction,
    may switch greenlets, and raises StorageUnavailable.
    """

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
        may_act_on: Callable[[Account], bool],
        record: RecordEvent | None,
    ) -> Account | None:
        """Give an account a role, if ``may_act_on`` permits it.

        Returns the changed account, or None if it does not exist. If it loses
        the role of an owner, the API keys that it has made end. Raises NotBelow
        and NoRole.
        """
        changed = self._set_role(app, id, role, may_act_on, record)
        if changed is not None and role != "owner":
            # This node refuses the keys at once. Other nodes notice it later.
            self._store.try_refresh()
        return changed

    @Store.writing_or(None)
    def _set_role(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        role: StoredRole,
        may_act_on: Callable[[Account], bool],
        record: RecordEvent | None,
    ) -> Account | None:
        """Give an account a role, in one transaction, as :meth:`set_role`
        describes."""
        before = _lock_row(sql, app, id, may_act_on)
        if before is None:
            return None
        if role and (before.guest or before.bot):
            raise NoRole(before.user)
        sql.execute("UPDATE account SET role = %s WHERE id = %s", (role, id))
        # Only owners may make API keys, so all others lose theirs.
        if role != "owner":
            Store.end_keys_of(sql, id)
        return record_change(sql, record, "role", app, id)

    @Store.writing_or(None)
    def lock(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        until: int,
        reason: str,
        may_act_on: Callable[[Account], bool],
        record: RecordEvent | None,
    ) -> LockChange | None:
        """Lock an account and its bots until a Unix second; 0 unlocks them.

        Returns None if the account does not exist. Raises NotBelow if
        ``may_act_on`` does not permit it.
        """
        before = _lock_row(sql, app, id, may_act_on)
        if before is None:
            return None
        bots = sql.query("SELECT id FROM bot WHERE owner = %s", (id,))
        ids = [id, *(bot_id for (bot_id,) in bots)]
        _lock_accounts(sql, ids, until, reason)
        # The event is about the account, not about its bots.
        act = "locked" if until else "unlocked"
        account = record_change(sql, record, act, app, id)
        if account is None:
            return None
        users = list(map(str, ids))
        return LockChange(account, users=users, end=max(before.locked_until, until))

    def banned_after(self, app: str, users: Sequence[str], until: int) -> set[str]:
        """The users among ``users`` whose ban ends after this Unix second."""
        statement = (
            "SELECT member FROM ban WHERE app = %s AND until > %s AND member IN {}"
        )
        until_ms = until * 1000
        names = [user.encode() for user in users]
        rows = self._store.rows_in(statement, (app, until_ms), names)
        return {bytes(row[0]).decode() for row in rows}


def _lock_row(
    sql: PooledStatements, app: str, id: int, may_act_on: Callable[[Account], bool]
) -> Account | None:
    """Lock the row of an account until the end of the transaction.

    Returns the account, or None if it does not exist. Raises NotBelow if
    ``may_act_on`` does not permit a change.
    """
    condition = f"id = %s AND app = %s{sql.for_update}"
    accounts = accounts_where(sql, condition, (id, app))
    if not accounts:
        return None
    (account,) = accounts
    if not may_act_on(account):
        raise NotBelow(account.role)
    return account


def _lock_accounts(
    sql: PooledStatements, ids: Sequence[int], until: int, reason: str
) -> None:
    """Lock accounts until a Unix second; 0 unlocks them."""
    sql.execute_many(
        "UPDATE account SET locked_until = %s, lock_reason = %s WHERE id = %s",
        [(until, reason or None, id) for id in ids],
    )


def _conditions(
    wanted: PeopleFilter, now: int, sql: Statements
) -> tuple[list[str], list[object]]:
    """The conditions of a filter besides its app, and the values of their
    placeholders."""
    conditions: list[str] = []
    values: list[object] = []
    if wanted.role is not None:
        conditions.append("role = %s")
        values.append(wanted.role)
    if wanted.kind is not None:
        condition = _CONDITION_OF_KIND[wanted.kind]
        # The form of this condition depends on the engine.
        conditions.append(condition.format(is_no_guest=IS_NO_GUEST[sql.engine]))
    if wanted.locked is not None:
        conditions.append(_CONDITION_OF_LOCK[wanted.locked])
        values.append(now)
    text = wanted.text.strip()
    if text:
        alternatives, values_of_text = _conditions_of_text(text, wanted.contacts, sql)
        conditions.append(f"({' OR '.join(alternatives)})")
        values += values_of_text
    return conditions, values


def _conditions_of_text(
    text: str, contacts: bool, sql: Statements
) -> tuple[list[str], list[object]]:
    """Alternative conditions for accounts with this text, and their values.

    An account needs to meet one of them. With ``contacts``, also search the
    e-mail address and the phone number.
    """
    contains = sql.contains
    conditions, values = _conditions_of_names(text, sql)
    words = Statements.words(text)
    if words:
        has_all = " AND ".join([contains("folded")] * len(words))
        conditions.append(f"({has_all})")
        values += words
    id = id_of(text)
    if id:
        conditions.append("id = %s")
        values.append(id)
    if contacts:
        conditions.append(contains("email"))
        # Accounts without a number have an invented value there.
        conditions.append(f"(phone > %s AND {contains('phone')})")
        number = text.translate(SEPARATORS) or text
        values += (text.lower(), _ABOVE_NO_PHONE, number)
    return conditions, values


def _conditions_of_names(text: str, sql: Statements) -> tuple[list[str], list[object]]:
    """Alternative conditions for nicknames and user names with this text."""
    # SQL folds only the case of ASCII letters.
    spellings = Statements.spellings(text)
    conditions = [sql.contains("lower(nickname)")] * len(spellings)
    values: list[object] = list(spellings)
    conditions.append(sql.contains("name"))
    values.append(text.lower())
    return conditions, values


class People(Struct, frozen=True):
    """Lists accounts, gives them roles, and locks them.

    Every method may switch greenlets and raise StorageUnavailable. It raises
    NotBelow if the role of the principal may not act on the account.
    """

    finds: ClassVar = "account"
    """The kind of the results of :meth:`find`."""
    rows: PeopleStore
    all_rows: AccountStore
    accounts: Accounts
    sessions: Sessions
    presence: Presence

    def find(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[tuple[str, str, str, str]]:
        """Search accounts for the administration.

        The accounts that the text names exactly come first, then the accounts
        whose names contain the text. Each result has a user id, an app, a
        label, and a line of details. Moderators see no e-mail addresses and no
        phone numbers, and find nobody by them.
        """
        sees_contacts = principal.may(Needs.OPERATE)
        words = Statements.words(text)
        id = id_of(text.lstrip("0"))
        logins = _logins_in(text, with_contacts=sees_contacts)
        accounts = self.all_rows.find_in_apps(apps, id, logins)
        if words:
            self._add_by_names(accounts, words, apps, limit)
        for account in accounts:
            label, details = _described(account, sees_contacts)
            yield account.user, account.app, label, details

    def _add_by_names(
        self,
        accounts: list[Account],
        words: Sequence[str],
        apps: Sequence[str],
        limit: int,
    ) -> None:
        """Add accounts whose names contain these words, until there are enough."""
        last_id = self.all_rows.last_id()
        now = int(time())
        # In each app, accounts come first if words of their names begin with
        # the words.
        for app, at_word_starts in product(apps[:_MOST_SEARCHED_APPS], (True, False)):
            if len(accounts) >= limit:
                return
            named, _ = self.all_rows.search_page(
                app,
                words,
                at_word_starts,
                after=last_id - _SEARCHED,
                upto=last_id,
                limit=limit,
                now=now,
            )
            accounts += named

    def named(self, app: str, text: str) -> Account | None:
        """The account with this id or identifier. Raises NoAccounts."""
        self.accounts.rules_of(app)
        return self.accounts.named(app, text)

    def page(
        self, wanted: PeopleFilter, before: int, limit: int
    ) -> tuple[list[Account], int]:
        """A page of the wanted accounts, the newest first, with ids below
        ``before``.

        0 means from the newest account on. Returns also the ``before`` of the
        next page, or 0 if this is the last page.

        The search goes in steps from greater ids to smaller ones, for about
        :data:`SEARCH_SECONDS`. As long as the steps are fast, each reads more
        ids than the one before. So a page may have few accounts, or be empty.
        Raises NoAccounts.
        """
        self.accounts.rules_of(wanted.app)
        accounts: list[Account] = []
        # The ids below ``end`` are not searched yet.
        end = before or self.all_rows.last_id() + 1
        step_ids = _FIRST_STEP
        started_at = monotonic()
        now = int(time())
        while end > 1 and len(accounts) < limit:
            after = max(end - 1 - step_ids, 0)
            step_started_at = monotonic()
            if step_started_at - started_at > SEARCH_SECONDS:
                break
            found, end = self._search_step(
                wanted, after, end, limit=limit - len(accounts), now=now
            )
            accounts += found
            if monotonic() - step_started_at < SHORT_STEP_SECONDS:
                step_ids *= STEP_GROWTH

        is_last_page = end <= 1
        if is_last_page:
            return accounts, 0
        return accounts, end

    def _search_step(
        self, wanted: PeopleFilter, after: int, before: int, limit: int, now: int
    ) -> tuple[list[Account], int]:
        """Search the accounts with ``after < id < before``.

        Returns at most ``limit`` of them, and the ``before`` of the next step.
        """
        found = self.rows.page(wanted, after=after, before=before, limit=limit, now=now)
        if len(found) == limit:
            # Smaller ids of this step may belong to wanted accounts, too.
            return found, found[-1].id
        return found, after + 1

    def set_role(
        self, principal: Principal, app: str, user: str, role: StoredRole
    ) -> Account:
        """Give an account a role. All nodes follow at once.

        Raises NoAccounts, UnknownAccount, NotBelow and NoRole.
        """

        def may_act_on(account: Account) -> bool:
            """Whether the principal has a higher role than the account."""
            return principal.may_act_on(account.role)

        record = self.accounts.recorder(app)
        account = self.rows.set_role(app, id_of(user), role, may_act_on, record)
        if account is None:
            raise self.accounts.unknown(app, user)
        return account

    def lock(
        self, principal: Principal, app: str, user: str, seconds: int, reason: str
    ) -> tuple[Account, list[str]]:
        """Lock an account and its bots for ``seconds``, and end their sessions.

        0 means without an end. Returns the account, and the names of the nodes
        that did not answer, which end the sessions a little later. Raises
        NoAccounts, UnknownAccount and NotBelow.
        """
        until = FOR_GOOD
        if seconds:
            until = int(time()) + seconds
        change = self._store_lock(principal, app, user, until, reason)

        closed = self.sessions.close(
            app,
            self._users_to_ban(app, change),
            ban_seconds=seconds or CENTURY,
            reason=reason,
        )
        return change.account, list(closed.missing)

    def _users_to_ban(self, app: str, change: LockChange) -> list[str]:
        """The users of a lock whose bans are replaced by the ban of the lock.

        Bans that end later do not come from a lock, and stay.
        """
        ban_seconds = self._ban_seconds(app)
        now = time()
        lock_seconds = change.bans_end(now) - now
        return [
            user for user in change.users if ban_seconds.get(user, 0) <= lock_seconds
        ]

    def unlock(
        self, principal: Principal, app: str, user: str
    ) -> tuple[Account, list[str]]:
        """Lift the lock of an account, and its ban unless the ban ends later.

        Returns the account, and the nodes that did not answer, which follow a
        little later. Raises NoAccounts, UnknownAccount and NotBelow.
        """
        change = self._store_lock(principal, app, user, until=0, reason="")

        # Bans that end later do not come from a lock, and stay.
        ban_seconds = self._ban_seconds(app)
        now = time()
        lock_seconds = change.bans_end(now) - now
        users = [
            user
            for user in change.users
            if 0 < ban_seconds.get(user, 0) <= lock_seconds
        ]
        if not users:
            return change.account, []
        return change.account, list(self.sessions.unban(app, users))

    def locked(self, app: str, user: str) -> tuple[int, str] | None:
        """The end of the lock of an account, and its reason.

        The end is in Unix seconds; 0 means no end. Returns None if the account
        is not locked or does not exist.
        """
        account = self.accounts.get(app, user)
        if account is None or not account.is_locked(time()):
            return None
        return end_of(account), account.lock_reason

    def _ban_seconds(self, app: str) -> dict[str, float]:
        """User → seconds until the ban of the user ends."""
        return {user: ban.seconds for user, ban in self.sessions.bans(app).items()}

    def _store_lock(
        self, principal: Principal, app: str, user: str, until: int, reason: str
    ) -> LockChange:
        """Store that an account and its bots are locked until a Unix second.

        0 unlocks them. Raises NoAccounts, UnknownAccount and NotBelow.
        """

        def may_act_on(account: Account) -> bool:
            """Whether the principal has a higher role than the account."""
            return principal.may_act_on(account.role)

        change = self.rows.lock(
            app,
            id_of(user),
            until,
            reason,
            may_act_on,
            record=self.accounts.recorder(app),
        )
        if change is None:
            raise self.accounts.unknown(app, user)
        return change


def _logins_in(text: str, with_contacts: bool) -> list[tuple[Identifier, str]]:
    """The identifiers that a text may be.

    Only with ``with_contacts`` these are also e-mail addresses and phone
    numbers.
    """
    return [
        (kind, login)
        for kind, login in candidates(text)
        if with_contacts or kind == "name"
    ]


def _described(account: Account, sees_contacts: bool) -> tuple[str, str]:
    """The label of an account in the results of a search, and a line of
    details.

    The line has its identifiers and its role. ``sees_contacts`` says whether
    the reader may see the e-mail address and the phone number.
    """
    texts = [account.name]
    if sees_contacts:
        texts += [account.email, account.phone]
    names = [text for text in texts if text]
    label = account.nickname or next(iter(names), account.user)
    if account.role:
        names.append(account.role)
    return label, " · ".join(names)
