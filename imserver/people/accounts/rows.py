"""Accounts, their logins and relations. Each method is one transaction.

Without a database, nothing is read and nothing is created.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from secrets import token_hex
from time import time
from typing import Any, Final

from msgspec.structs import replace

from imserver.people.accounts.contract import (
    Account,
    Contact,
    Device,
    Imported,
    ListName,
    Taken,
)
from imserver.people.accounts.identifiers import IDENTIFIERS, Identifier, candidates
from imserver.plugin.storage import (
    Condition,
    PooledStatements,
    RecordEvent,
    Row,
    RowsOf,
    Statements,
    Store,
    marks_of,
    text_of,
)
from imserver.plugin.wire import id_of

States = tuple[str, str]
"""The state of a first account towards a second one, and of the second towards
the first: ``asked`` (has sent a friend request), ``friend``, ``blocked`` (has
blocked the other), or ``""`` (no relation)."""
StateChange = Callable[[States], tuple[States, str]]
"""A function that decides how a relation changes: states before → states
afterwards, and a word for the result."""

_NO_PHONE: Final = "\x01"
"""First character of ``phone`` in the row of an account without a phone number.
The column is unique and not NULL; a random text follows."""
_NO_PHONE_BYTES: Final = 8
_NICKNAME_CHARACTERS: Final = 200
"""The most characters of a folded nickname. Folding makes a few nicknames
longer."""
_STORED: Final = (  # in the order of _row
    "app, phone, nickname, avatar, password, version, created, email, name, bot, "
    "guest, confirmed_email, folded"
)
_STORED_COLUMNS: Final = len(_STORED.split(", "))
_ROWS: Final = RowsOf(
    Account,
    "account",
    email_confirmed="email = confirmed_email",
    # An account with an unknown role counts as a member.
    role="CASE WHEN role IN ('owner', 'moderator') THEN role END",
    factor="factor_since > 0",
)
_ACCOUNTS: Final = f"SELECT {_ROWS.columns}, folded, password FROM account"
# The columns of _ROWS come first. So the last two values of a row are the
# folded names and the hash of the password.
_LINKED: Final = (
    f"{_ACCOUNTS} WHERE id = (SELECT account FROM oauth_link WHERE app = %s "
    "AND provider = %s AND subject = %s) AND app = %s"
)
_BLOCKERS: Final = (
    "SELECT r.account FROM relation r JOIN account a ON a.id = r.account "
    "WHERE a.app = %s AND r.state = 'blocked' AND r.other IN (%s, "
    "coalesce((SELECT owner FROM bot WHERE id = %s), 0))"
)
"""Selects the accounts that have blocked an account or its owner. Values: the
app, the account, and the account again, or 0 to ignore its owner."""
IS_NO_GUEST: Final = {
    "sqlite": "guest = 0",
    "postgresql": "guest = 0",
    "mysql": "guest + 0 = 0",
}
"""Engine → condition: not the account of a guest. Without this form, MySQL
would read nearly all accounts by the index of guests, even for a few ids."""
SHORT_STEP_SECONDS: Final = 0.01
"""If a step of a search takes less time than this, the next step reads more
ids."""
STEP_GROWTH: Final = 4
"""The factor by which the next step reads more ids. So no step takes much
longer than 40 ms."""
_IN_DIRECTORY: Final = "app = %s AND guest = 0 AND bot = 0 AND findable = 1"
"""Condition: an account is in the directory. It uses the first columns of the
index of the directory, so a page costs the same however many guests an app
has."""
_NO_BLOCK_BETWEEN: Final = (
    "AND NOT EXISTS (SELECT 1 FROM relation r "
    "WHERE r.account = account.id AND r.other = %s AND r.state = 'blocked') "
    "AND NOT EXISTS (SELECT 1 FROM relation r "
    "WHERE r.account = %s AND r.other = account.id AND r.state = 'blocked')"
)
"""Condition: neither the account nor another one has blocked the other. Values:
the id of the other account, twice."""
_CHANGEABLE: Final = (
    "nickname",
    "avatar",
    "findable",
    "show_presence",
    "status",
    "away",
    "status_until",
    "title",
    *IDENTIFIERS,
)
"""The columns that :meth:`AccountStore.change` sets."""
_LOGINS: Final = RowsOf(Device, "account_device")
_ACCOUNT_OF_RESET: Final = (
    "SELECT r.account FROM password_reset r JOIN account a ON a.id = r.account "
    "WHERE r.code = %s AND r.expires_at > %s AND a.app = %s"
)
_GUEST: Final = "SELECT id FROM account WHERE id = %s AND app = %s AND guest = 1"
_PAIR: Final = "WHERE account = %s AND other = %s"
_LISTED: Final = {
    "friends": "r.account = %s AND r.state = 'friend'",
    "outgoing": "r.account = %s AND r.state = 'asked'",
    "blocked": "r.account = %s AND r.state = 'blocked'",
    # Requests of blocked users are not listed.
    "incoming": "r.other = %s AND r.state = 'asked' AND NOT EXISTS (SELECT 1 FROM relation o "
    "WHERE o.account = r.other AND o.other = r.account AND o.state = 'blocked')",
}
"""List of an account → condition for its rows in ``relation``."""


class AccountStore(Store.Rows):
    """The accounts in a store.

    Many methods take ``record``: a function that stores an event about the
    account in the same transaction, for the webhook of the app. None means that
    nobody wants the event. All methods may switch greenlets, and raise
    StorageUnavailable.
    """

    # --- accounts -------------------------------------------------------------

    @Store.writing
    def add(
        self,
        sql: PooledStatements,
        new: Account,
        password: str,
        record: RecordEvent | None = None,
    ) -> Account:
        """Store an account, with the hash of its password. Raises Taken."""
        return add_account(sql, new, password, record)

    @Store.writing
    def add_linked(
        self,
        sql: PooledStatements,
        new: Account,
        provider: str,
        subject: str,
        record: RecordEvent | None = None,
    ) -> Account:
        """Store an account without a password that is linked with an identity.

        Raises Taken.
        """
        added = add_account(sql, new, password="", record=record)
        add_link(sql, added.app, added.id, provider, subject, now=added.created)
        return added

    @Store.reading_or(None)
    def linked(
        self,
        sql: PooledStatements,
        app: str,
        providers: Sequence[str],
        subjects: Sequence[str],
    ) -> tuple[Account, str] | None:
        """The account that is linked with one of these identities, and the
        provider.

        An identity is a provider, such as ``github``, and a subject, which is
        an id of the user at the provider. If several identities match, the
        first provider wins, then the first subject. Returns None if no account
        is linked with them.
        """
        return _linked(sql, app, providers, subjects)

    @Store.reading_or(None)
    def by_login(
        self, sql: PooledStatements, app: str, *logins: tuple[Identifier, str]
    ) -> tuple[Account, str] | None:
        """The account with one of these identifiers, and its password hash.

        Returns None if there is no such account.

        The first identifier that exists wins. All of them are looked up, so the
        time does not reveal which ones exist.
        """
        # All logins are looked up, in the order in which they win.
        rows: list[Row] = []
        for kind, text in logins:
            statement = f"{_ACCOUNTS} WHERE app = %s AND {kind} = %s"
            rows += sql.query(statement, (app, text))
        return _first_account(rows)

    def by_id_or_login(self, app: str, text: str) -> tuple[Account, str] | None:
        """The account with this id or identifier, and its password hash.

        This is for operators, who type either. Returns None if there is no such
        account.
        """
        return self.by_id(app, id_of(text)) or self.by_login(app, *candidates(text))

    @Store.reading_or([])
    def find_in_apps(
        self,
        sql: PooledStatements,
        apps: Sequence[str],
        id: int,
        logins: Sequence[tuple[Identifier, str]],
    ) -> list[Account]:
        """Find accounts in several apps, by their id or by their identifiers.

        ``id`` 0 means that no account is found by its id.
        """
        # ``query_in`` puts the placeholders of the apps in the place of ``{}``.
        rows: list[Row] = []
        if id:
            statement = f"{_ACCOUNTS} WHERE id = %s AND app IN {{}}"
            rows += sql.query_in(statement, (id,), apps)
        for kind, text in logins:
            statement = f"{_ACCOUNTS} WHERE {kind} = %s AND app IN {{}}"
            rows += sql.query_in(statement, (text,), apps)
        accounts = {account.id: account for account in map(_account, rows)}
        return list(accounts.values())

    @Store.reading_or(None)
    def by_id(
        self, sql: PooledStatements, app: str, id: int
    ) -> tuple[Account, str] | None:
        """The account with this id, and its password hash."""
        return _by_id(sql, app, id)

    def by_ids(self, app: str, ids: Sequence[int]) -> list[Account]:
        """The existing accounts with these ids, ordered by id."""
        if not ids:
            return []

        def work(sql: PooledStatements) -> list[Account]:
            return accounts_in(sql, app, ids)

        return self._store.read_or([], work)

    def by_ids_named(
        self, app: str, ids: Sequence[int], words: Sequence[str]
    ) -> list[Account]:
        """The accounts with these ids whose visible names contain all these
        words.

        They are ordered by id. A user name that others may not find does not
        count.
        """

        rows = self._rows_named(app, ids, words)
        matching = [
            account
            for account in map(_account, rows)
            if _contains_all(_as_others_see(account), words)
        ]
        return sorted(matching, key=lambda account: account.id)

    @Store.reading_or([])
    def _rows_named(
        self, sql: PooledStatements, app: str, ids: Sequence[int], words: Sequence[str]
    ) -> list[Row]:
        """The rows of accounts with these words in their stored names.

        Nodes of the release before, and imports of apps, do not fold names.
        Such accounts are selected, too.
        """
        has_all = " AND ".join([sql.contains("folded")] * len(words))
        statement = (
            f"{_ACCOUNTS} WHERE app = %s "
            f"AND (folded IS NULL OR ({has_all})) "
            f"AND id IN {{}}"
        )
        return sql.query_in(statement, (app, *words), ids)

    @Store.reading_or(0)
    def last_id(self, sql: PooledStatements) -> int:
        """The id of the newest account of any app. The result is 0 if no
        account exists."""
        return sql.query("SELECT max(id) FROM account")[0][0] or 0

    def search_page(
        self,
        app: str,
        words: Sequence[str],
        at_word_starts: bool,
        after: int,
        upto: int,
        limit: int,
        now: int,
    ) -> tuple[list[Account], int]:
        """Search the accounts with ``after < id <= upto``, the newest first.

        Their names contain all of these words, which come from
        :meth:`Statements.words`. With ``at_word_starts``, each of the words is
        the beginning of a word of a name. Without it, only the other accounts
        that contain the words are returned. Bots, guests, accounts that are
        locked now, and accounts that others may not find are left out.

        Returns also the ``upto`` of the next page. It is ``after`` if all of
        these ids were searched.
        """

        def read(sql: PooledStatements) -> list[Row]:
            """Read the rows of this page."""
            condition, needles = _contains_words(sql, words, at_word_starts)
            statement = _search_statement(sql.engine, condition)
            return sql.query(statement, (app, after, upto, now, *needles, limit))

        rows: list[Row] = self._store.read_or([], read)
        accounts = self._fold_found(rows, words)
        if len(rows) < limit:
            return accounts, after
        last_id = rows[-1][0]
        return accounts, last_id - 1

    def _fold_found(self, rows: Sequence[Row], words: Sequence[str]) -> list[Account]:
        """The accounts in rows of a search that really match.

        Accounts whose names are not folded yet were selected without a look at
        their names. They are checked, and their folded names are stored for the
        next search.
        """

        def fold(sql: PooledStatements) -> None:
            _store_folded_names(sql, unfolded)

        accounts = list(map(_account, rows))
        unfolded = [
            account
            for (*_, folded, _password), account in zip(rows, accounts, strict=True)
            if folded is None
        ]
        if not unfolded:
            return accounts
        self._store.write_or(None, fold)
        left_out = {each.id for each in unfolded if not _contains_all(each, words)}
        return [account for account in accounts if account.id not in left_out]

    def directory_page(
        self, app: str, after: tuple[str, int], limit: int, now: int, by: int = 0
    ) -> tuple[list[Account], tuple[str, int] | None]:
        """A page of the directory of an app, in the order of the folded names.

        It has the accounts that the account ``by`` may find; 0 means a back
        end, which has no blocks. Bots, guests, accounts that are locked now,
        and accounts with a block between them and ``by`` are left out.

        ``after`` is the folded name and the id of the last account of the
        previous page; ``("", 0)`` means the first page. Returns also the
        ``after`` of the next page, or None if this is the last page.
        """

        is_first_page = after == ("", 0)
        if is_first_page:
            self._fold_unfolded_names(app)
        rows = self._rows_in_directory(app, after, limit, now, by)
        accounts = list(map(_account, rows))
        if len(rows) < limit:
            return accounts, None
        last_id, *_, last_folded, _password = rows[-1]
        return accounts, (text_of(last_folded), last_id)

    @Store.reading_or([])
    def _rows_in_directory(
        self,
        sql: PooledStatements,
        app: str,
        after: tuple[str, int],
        limit: int,
        now: int,
        by: int,
    ) -> list[Row]:
        """The rows of a page of the directory."""
        name, id = after
        values = (app, name, name, id, now, by, by, by, limit)
        return sql.query(_directory_statement(sql.engine), values)

    def _fold_unfolded_names(self, app: str) -> None:
        """Store the folded names of accounts without them.

        A node of the previous release, or an import of the app, has made such
        accounts. The order of the directory needs the folded names.
        """
        condition = f"{_IN_DIRECTORY} AND folded IS NULL LIMIT 1000"

        def read(sql: PooledStatements) -> list[Account]:
            return accounts_where(sql, condition, (app,))

        def fold(sql: PooledStatements) -> None:
            _store_folded_names(sql, unfolded)

        unfolded: list[Account] = self._store.read_or([], read)
        if unfolded:
            self._store.write_or(None, fold)

    @Store.writing_or(None)
    def change(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        fields: Mapping[Any, Any],
        record: RecordEvent | None = None,
    ) -> Account | None:
        """Change the given fields of an account, and return the changed
        account.

        ``fields`` are columns of :data:`_CHANGEABLE` with their new values, and
        ``email_confirmed`` if the e-mail address is confirmed now. An
        identifier with the value ``""`` is removed. Returns None if the account
        does not exist. Raises Taken.
        """
        for name in _CHANGEABLE:
            if name in fields:
                _set_field(sql, app, id, name, fields[name])
        if "nickname" in fields or "name" in fields:
            _store_folded_names(sql, accounts_in(sql, app, (id,)))
        if fields.get("email_confirmed"):
            sql.execute(
                "UPDATE account SET confirmed_email = email WHERE id = %s AND app = %s",
                (id, app),
            )
        if "email" in fields:
            # A code in the mailbox of the old address becomes invalid.
            delete_rows_of(sql, id, "password_reset")
        return record_change(sql, record, "changed", app, id)

    @Store.writing
    def set_password(
        self,
        sql: PooledStatements,
        id: int,
        before: str,
        password: str,
        ends_sessions: bool = False,
        record: RecordEvent | None = None,
    ) -> bool:
        """Replace the password hash ``before`` of an account by the hash
        ``password``.

        With ``ends_sessions``, invalidate all tokens of the account. Returns
        False, and does nothing, if the account has another hash meanwhile:
        somebody else has changed the password.
        """
        # A guest who gets a password becomes a member.
        statement = (
            "UPDATE account SET password = %s, guest = 0, version = version + %s "
            "WHERE id = %s AND password = %s"
        )
        values = (password, int(ends_sessions), id, before)
        if sql.execute(statement, values) != 1:
            return False
        if ends_sessions:
            delete_rows_of(sql, id, "account_device", "password_reset")
        record_change(sql, record, "password", None, id)
        return True

    @Store.writing
    def add_reset(
        self,
        sql: PooledStatements,
        id: int,
        email: str,
        code: str,
        now: int,
        expires_at: int,
    ) -> bool:
        """Store the hash of a code that resets a password, in place of earlier
        codes.

        ``email`` is the address to which the code is sent. Returns False, and
        stores nothing, if the account has another address now or does not
        exist. ``now`` and ``expires_at`` are Unix seconds.
        """
        rows = sql.query(
            f"SELECT email FROM account WHERE id = %s{sql.for_update}", (id,)
        )
        if not rows or text_of(rows[0][0] or "") != email:
            return False
        # Expired codes of all accounts are deleted, too.
        sql.execute(
            "DELETE FROM password_reset WHERE account = %s OR expires_at <= %s",
            (id, now),
        )
        sql.execute(
            "INSERT INTO password_reset (code, account, expires_at) VALUES (%s, %s, "
            "%s)",
            (code, id, expires_at),
        )
        return True

    def reset_of(self, app: str, code: str, now: int) -> Account | None:
        """The account whose password the code with this hash may reset now.

        Returns None if no such code is valid.
        """
        rows = self._store.rows(_ACCOUNT_OF_RESET, (code, now, app))
        accounts = self.by_ids(app, [row[0] for row in rows])
        if accounts:
            return accounts[0]
        return None

    @Store.writing_or(False)
    def use_reset(
        self,
        sql: PooledStatements,
        app: str,
        code: str,
        now: int,
        password: str,
        record: RecordEvent | None = None,
    ) -> bool:
        """Use up a code that resets a password, and replace the password hash.

        Also invalidate the tokens and codes of the account. ``code`` is the
        hash of the code. Returns False if the code is not valid now.
        """
        rows = sql.query(_ACCOUNT_OF_RESET, (code, now, app))
        if not rows:
            return False
        # Only one of two simultaneous requests deletes the row.
        deleted = sql.execute("DELETE FROM password_reset WHERE code = %s", (code,))
        if deleted != 1:
            return False
        id = rows[0][0]
        # The e-mail address counts as confirmed: the code was in a mail to this
        # address, or the operator has made the code.
        sql.execute(
            "UPDATE account SET password = %s, guest = 0, version = version + 1, "
            "confirmed_email = email WHERE id = %s",
            (password, id),
        )
        delete_rows_of(sql, id, "account_device", "password_reset")
        record_change(sql, record, "password", None, id)
        return True

    @Store.writing_or(None)
    def confirm_email(
        self, sql: PooledStatements, id: int, is_expected: Callable[[Account], bool]
    ) -> Account | None:
        """Store that the e-mail address of an account is confirmed.

        ``is_expected`` decides whether the address of the account is still the
        confirmed address. Returns the account as it was before. Returns None,
        and stores nothing, if the account has another address now, or if the
        account or its address does not exist.
        """
        row = _first_account(
            sql.query(f"{_ACCOUNTS} WHERE id = %s{sql.for_update}", (id,))
        )
        if row is None:
            return None
        account, _ = row
        if not account.email or not is_expected(account):
            return None
        sql.execute("UPDATE account SET confirmed_email = email WHERE id = %s", (id,))
        return account

    @Store.writing_or(False)
    def note_confirmation_request(self, sql: PooledStatements, id: int) -> bool:
        """Note that the server asks an account to confirm its address by
        itself.

        Nobody has asked for this mail, so it is sent once. Returns False if the
        server has asked before, or an address was confirmed before.
        """
        # NULL means that the server has never asked, and no address was ever
        # confirmed. An empty text means that the server has asked.
        statement = (
            "UPDATE account SET confirmed_email = '' WHERE id = %s "
            "AND confirmed_email IS NULL"
        )
        return sql.execute(statement, (id,)) == 1

    @Store.writing_or(False)
    def end_sessions(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        record: RecordEvent | None = None,
    ) -> bool:
        """Invalidate all tokens of an account.

        Returns False if the account does not exist.
        """
        statement = (
            "UPDATE account SET version = version + 1 WHERE id = %s AND app = %s"
        )
        ended = sql.execute(statement, (id, app)) == 1
        if ended:
            delete_rows_of(sql, id, "account_device")
            record_change(sql, record, "logged_out", app, id)
        return ended

    def remove(self, app: str, id: int, record: RecordEvent | None = None) -> bool:
        """Delete an account and its relations.

        The API keys that it has made end. Returns False if it does not exist.
        """
        is_removed: bool = self._remove(app, id, record)
        if is_removed:
            # This node refuses the keys at once. Other nodes notice it later.
            self._store.try_refresh()
        return is_removed

    @Store.writing_or(False)
    def _remove(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        record: RecordEvent | None = None,
    ) -> bool:
        """Delete the rows of an account. Returns False if it does not exist."""
        if record is not None and _by_id(sql, app, id) is not None:
            # The event does not contain the names of the erased account.
            _record_event(sql, record, "removed", Account(id, app, phone=""))
        statement = "DELETE FROM account WHERE id = %s AND app = %s"
        if sql.execute(statement, (id, app)) != 1:
            return False
        _delete_rows_with(sql, id)
        return True

    def programs_of(self, app: str, *users: str) -> list[str]:
        """The bots that belong to the accounts of users."""
        statement = "SELECT id FROM bot WHERE app = %s AND owner IN {}"
        owners = [id for id in map(id_of, users) if id]
        rows = self._store.rows_in(statement, (app,), owners, many=True)
        return [str(id) for id in sorted(row[0] for row in rows)]

    def store_last_seen(self, rows: Sequence[tuple[str, int, int]]) -> None:
        """Store when accounts were last seen: (app, id, Unix seconds)."""
        # In the order of the ids, so that two nodes never deadlock.
        ordered = sorted(rows, key=lambda row: row[1])
        values = [(seen, id, app, seen) for app, id, seen in ordered]
        statement = (
            "UPDATE account SET last_seen = %s WHERE id = %s AND app = %s "
            "AND last_seen < %s"
        )

        def work(sql: PooledStatements) -> None:
            sql.execute_many(statement, values)

        self._store.write_or(None, work)

    # --- guests ---------------------------------------------------------------

    def is_guest(self, app: str, id: int) -> bool:
        """Whether this account exists and belongs to a guest."""
        return bool(self._store.rows(_GUEST, (id, app)))

    @Store.writing_or(None)
    def promote_guest(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        identifiers: Mapping[Identifier, str],
        password: str,
        record: RecordEvent | None = None,
    ) -> Account | None:
        """Turn a guest into a member with these identifiers and this password
        hash.

        Its earlier logins end. Returns the member, or None if the account is no
        guest any more. Raises Taken.
        """
        if not sql.query(f"{_GUEST}{sql.for_update}", (id, app)):
            return None
        _change_to_member(sql, id, identifiers, password)
        delete_rows_of(sql, id, "account_device")
        _store_folded_names(sql, accounts_in(sql, app, (id,)))
        return record_change(sql, record, "changed", app, id)

    @Store.writing_or(None)
    def admit_guest(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        name: str,
        record: RecordEvent | None = None,
    ) -> Account | None:
        """Turn a guest into a member with this user name, who stays logged in.

        Returns the member, or None if the account is no guest any more. Raises
        Taken.
        """
        if not sql.query(f"{_GUEST}{sql.for_update}", (id, app)):
            return None
        with _raising_taken():
            sql.execute(
                "UPDATE account SET name = %s, guest = 0 WHERE id = %s", (name, id)
            )
        _store_folded_names(sql, accounts_in(sql, app, (id,)))
        return record_change(sql, record, "changed", app, id)

    def unused_guests(self, before: int) -> Iterator[list[Account]]:
        """The guests of all apps who were created and last seen before a Unix
        second.

        They come in pages.
        """
        condition = "guest = 1 AND created < %s AND last_seen < %s"
        for rows in self._store.pages(
            "account", "id", _ROWS.columns, condition, (before, before)
        ):
            yield list(map(_account, rows))

    # --- devices --------------------------------------------------------------

    @Store.reading_or(None)
    def by_device(
        self, sql: PooledStatements, id: int, device: int
    ) -> tuple[Account, Device] | None:
        """The account with this id, and its login with the id ``device``.

        Returns None if the account does not exist or the login has ended.
        """
        account_row = _by_id(sql, None, id)
        row = _device(sql, id, device)
        if account_row is None or row is None:
            return None
        account, _ = account_row
        return account, row

    @Store.writing
    def add_device(
        self, sql: PooledStatements, id: int, version: int, new: Device, max_logins: int
    ) -> bool:
        """Store a login of an account.

        If the account then has more than ``max_logins`` logins, the oldest ones
        end. Returns False, and stores nothing, if the version of the account is
        not ``version`` any more, or the account was deleted. In these cases,
        the sessions of the account have ended while the login was checked.
        """
        versions = sql.query(
            f"SELECT version FROM account WHERE id = %s{sql.for_update}", (id,)
        )
        if not versions or versions[0][0] != version:
            return False
        _add_device(sql, id, new, max_logins)
        return True

    @Store.writing_or(None)
    def log_in_linked(
        self,
        sql: PooledStatements,
        app: str,
        providers: Sequence[str],
        subjects: Sequence[str],
        new: Device,
        max_logins: int,
    ) -> tuple[Account, str] | None:
        """Log in with an identity: find the account, and store a login.

        The account is found as :meth:`linked` does. If it is locked, it is
        returned, but no login is stored. Returns None if no account is linked.
        """
        row = _linked(sql, app, providers, subjects, sql.for_update)
        if row is None:
            return None
        account, _ = row
        if not account.is_locked(new.since):
            _add_device(sql, account.id, new, max_logins)
        return row

    def devices(self, id: int, now: int) -> list[Device]:
        """The logins that have not ended, newest first."""
        clauses = "WHERE account = %s AND expires_at > %s ORDER BY since DESC, id"
        return _LOGINS.find(self._store.rows, clauses, id, now)

    @Store.writing_or(None)
    def remove_device(
        self, sql: PooledStatements, id: int, device: int
    ) -> Device | None:
        """End a login and return it. Returns None if it does not exist."""
        login = _device(sql, id, device)
        sql.execute(
            "DELETE FROM account_device WHERE account = %s AND id = %s", (id, device)
        )
        return login

    # --- import ---------------------------------------------------------------

    @Store.reading_or([])
    def find_existing(
        self, sql: PooledStatements, app: str, imported: Sequence[Imported]
    ) -> list[Account]:
        """The stored accounts with which accounts to import would collide.

        They have the same id as an imported account, in any app, or the same
        identifier in the app ``app``.
        """
        ids = [each.account.id for each in imported]
        rows = sql.query_in(f"{_ACCOUNTS} WHERE id IN {{}}", (), ids)
        for kind in IDENTIFIERS:
            texts = [getattr(each.account, kind) for each in imported]
            rows += _rows_with(sql, app, kind, texts)
        # An account that collides in several ways is returned once.
        accounts = {account.id: account for account in map(_account, rows)}
        return list(accounts.values())

    @Store.writing
    def insert_imported(
        self, sql: PooledStatements, imported: Sequence[Imported]
    ) -> None:
        """Store accounts with given ids. Raises Taken.

        Later new accounts get greater ids.
        """
        marks = marks_of(1 + _STORED_COLUMNS)
        statement = f"INSERT INTO account (id, {_STORED}) VALUES {marks}"
        rows = [
            (each.account.id, *_row(each.account, each.password)) for each in imported
        ]
        with _raising_taken():
            sql.execute_many(statement, rows)
        if sql.engine == "postgresql":
            # The other engines automatically continue after the greatest id.
            sequence = "pg_get_serial_sequence('account', 'id')"
            sql.query(
                f"SELECT setval({sequence}, GREATEST((SELECT max(id) FROM account), "
                f"nextval({sequence})))"
            )

    # --- relations ------------------------------------------------------------

    @Store.writing_or("unknown")
    def relate(
        self,
        sql: PooledStatements,
        app: str,
        one: int,
        two: int,
        limit: int,
        change_states: StateChange,
        condition: Condition | None = None,
    ) -> str:
        """Change the states of two accounts towards each other.

        ``change_states`` receives the state of ``one`` towards ``two``, and of
        ``two`` towards ``one``. It returns the new states and a word for the
        result, which this method returns.

        Instead this method returns ``"full"`` if an account would have
        relations to more than ``limit`` others. It returns ``"unknown"`` if one
        of the accounts does not exist, or if the states change and
        ``condition`` is not met.
        """
        if not _lock_pair(sql, app, one, two):
            return "unknown"

        before = (_state(sql, one, two), _state(sql, two, one))
        after, result = change_states(before)
        if _exceeds_limit(sql, (one, two), before, after, limit):
            return "full"

        if after != before and condition is not None and not condition(sql):
            return "unknown"
        _replace_state(sql, one, two, before=before[0], after=after[0])
        _replace_state(sql, two, one, before=before[1], after=after[1])
        return result

    def blocked_by(
        self, app: str, one: int, others: Sequence[int], with_owner: bool = True
    ) -> set[int]:
        """The ids among ``others`` of accounts that have blocked the account
        ``one``.

        With ``with_owner``, if ``one`` is a bot, accounts that have blocked its
        owner are included.
        """
        statement = f"{_BLOCKERS} AND r.account IN {{}}"
        # No bot has the id 0, so no owner is found.
        bot = one if with_owner else 0
        rows = self._store.rows_in(statement, (app, one, bot), others)
        return {row[0] for row in rows}

    def blockers(self, app: str, one: int, limit: int) -> list[int]:
        """Ids of at most ``limit`` accounts that have blocked an account.

        If it is a bot, accounts that have blocked its owner are included.
        """
        rows = self._store.rows(f"{_BLOCKERS} LIMIT %s", (app, one, one, limit))
        return [row[0] for row in rows]

    @Store.reading_or({})
    def relations(
        self, sql: PooledStatements, one: int, others: Sequence[int]
    ) -> dict[int, States]:
        """Id → the states of the account ``one`` and of that account towards
        each other.

        If ``one`` is a bot, an account that has blocked its owner has also
        blocked the bot.
        """
        ids = list(dict.fromkeys(others))
        towards = "SELECT other, state FROM relation WHERE account = %s AND other IN {}"
        states: dict[int, str] = dict(sql.query_in(towards, (one,), ids))
        states_back = _states_towards(sql, one, ids)

        # A bot acts for its owner.
        owner = sql.query("SELECT owner FROM bot WHERE id = %s AND owner > 0", (one,))
        if owner:
            ((owner_id,),) = owner
            for other, state in _states_towards(sql, owner_id, ids).items():
                if state == "blocked":
                    states_back[other] = state
        return {id: (states.get(id, ""), states_back.get(id, "")) for id in ids}

    @Store.reading_or((0, []))
    def contacts(
        self, sql: PooledStatements, name: ListName, one: int, after: int, limit: int
    ) -> tuple[int, list[Contact]]:
        """A list of the account ``one``, such as its friends: its length, and a
        page of it.

        The page has at most ``limit`` entries whose ids are above ``after``.
        """
        condition = _LISTED[name]
        # Incoming requests are rows of the other account, with ``one`` as the
        # target.
        contact = "r.account" if name == "incoming" else "r.other"
        ((count,),) = sql.query(
            f"SELECT count(*) FROM relation r WHERE {condition}", (one,)
        )
        statement = (
            "SELECT a.id, a.nickname, a.avatar, r.since "
            f"FROM relation r JOIN account a ON a.id = {contact} "
            f"WHERE {condition} AND {contact} > %s "
            f"ORDER BY {contact} LIMIT %s"
        )
        rows = sql.query(statement, (one, after, limit))
        return count, [Contact(*row) for row in rows]


def add_account(
    sql: PooledStatements, new: Account, password: str, record: RecordEvent | None
) -> Account:
    """Store an account, and return it with its id. Raises Taken."""
    new = replace(new, created=int(time()))
    statement = f"INSERT INTO account ({_STORED}) VALUES {marks_of(_STORED_COLUMNS)}"
    with _raising_taken():
        id = sql.insert(statement, _row(new, password))
    added = replace(new, id=id)
    _record_event(sql, record, "registered", added)
    return added


def accounts_in(sql: PooledStatements, app: str, ids: Sequence[int]) -> list[Account]:
    """The existing accounts with these ids, ordered by id."""
    statement = f"{_ACCOUNTS} WHERE app = %s AND id IN {{}}"
    rows = sql.query_in(statement, (app,), list(dict.fromkeys(ids)))
    return sorted(map(_account, rows), key=lambda account: account.id)


def accounts_where(
    sql: PooledStatements, condition: str, values: Sequence[Any]
) -> list[Account]:
    """The accounts that meet a condition.

    ``condition`` is the part of a statement after ``WHERE``, so it may also
    have an order, a limit, or ``FOR UPDATE``.
    """
    return list(map(_account, sql.query(f"{_ACCOUNTS} WHERE {condition}", values)))


def _account(row: Row) -> Account:
    """The account in a row. The invented phone number of :func:`_identifier` is
    left out."""
    account = _ROWS.read(row)
    if account.phone.startswith(_NO_PHONE):
        return replace(account, phone="")
    return account


def _identifier(kind: str, text: str) -> str | None:
    """The value of the column of an identifier; ``text`` ``""`` means no
    identifier.

    The column of phone numbers is unique and not NULL. So an account without a
    number gets an invented value there.
    """
    if text:
        return text
    if kind == "phone":
        return _NO_PHONE + token_hex(_NO_PHONE_BYTES)
    return None


def _first_account(rows: Sequence[Row]) -> tuple[Account, str] | None:
    """The account in the first of these rows, and its password hash.

    Returns None if there is no row.
    """
    if not rows:
        return None
    password = rows[0][-1]
    return (_account(rows[0]), password)


def _set_field(sql: PooledStatements, app: str, id: int, name: str, value: Any) -> None:
    """Change one column of an account. Raises Taken."""
    if name in IDENTIFIERS:
        value = _identifier(name, value)
    elif isinstance(value, bool):
        value = int(value)
    statement = f"UPDATE account SET {name} = %s WHERE id = %s AND app = %s"
    with _raising_taken():
        sql.execute(statement, (value, id, app))


def _by_id(
    sql: PooledStatements, app: str | None, id: int
) -> tuple[Account, str] | None:
    """The account with this id, and its password hash. ``app`` None means any
    app."""
    if app is None:
        return _first_account(sql.query(f"{_ACCOUNTS} WHERE id = %s", (id,)))
    return _first_account(
        sql.query(f"{_ACCOUNTS} WHERE id = %s AND app = %s", (id, app))
    )


def _linked(
    sql: PooledStatements,
    app: str,
    providers: Sequence[str],
    subjects: Sequence[str],
    suffix: str = "",
) -> tuple[Account, str] | None:
    """Find an account as :meth:`AccountStore.linked` describes.

    ``suffix`` is the end of the statement, which may lock the row.
    """
    for provider in providers:
        for subject in subjects:
            row = _first_account(
                sql.query(f"{_LINKED}{suffix}", (app, provider, subject, app))
            )
            if row is not None:
                return row[0], provider
    return None


def _record_event(
    sql: PooledStatements, record: RecordEvent | None, change: str, account: Account
) -> None:
    """Store an event about an account in this transaction.

    ``record`` is None if nobody wants the event. ``change`` is a word such as
    ``registered``.
    """
    if record is None:
        return
    facts = {
        "user": account.user,
        "change": change,
        "nickname": account.nickname,
        "avatar": account.avatar,
    }
    record(sql, account.app, account.user, facts)


def record_change(
    sql: PooledStatements,
    record: RecordEvent | None,
    change: str,
    app: str | None,
    id: int,
) -> Account | None:
    """Store the event about an account that this transaction has changed.

    Returns the account in its new state, or None if the account does not exist.
    If ``app`` is None, the account may be in any app. If ``record`` is None, no
    event is stored.
    """
    row = _by_id(sql, app, id)
    if row is None:
        return None
    _record_event(sql, record, change, row[0])
    return row[0]


def _row(new: Account, password: str) -> Row:
    """The values of a new account for the columns :data:`_STORED`.

    ``password`` is a hash.
    """
    phone, email, name = (_identifier(kind, getattr(new, kind)) for kind in IDENTIFIERS)
    confirmed_email = None
    if new.email_confirmed:
        confirmed_email = email
    return (
        new.app,
        phone,
        new.nickname,
        new.avatar,
        password,
        new.version,
        new.created,
        email,
        name,
        int(new.bot),
        int(new.guest),
        confirmed_email,
        _folded_names(new),
    )


def _folded_names(account: Account) -> str:
    """The names of an account in the form that a search compares: ``" ann lee
    ann7"``.

    Folding removes case and accents. There is a space before each word, so that
    a search can look for the beginnings of words.
    """
    nickname = " ".join(Statements.words(account.nickname))
    name = " ".join(Statements.words(account.name))
    if nickname:
        return f" {nickname[:_NICKNAME_CHARACTERS]} {name}"
    return f" {name}"


def _store_folded_names(sql: PooledStatements, accounts: Sequence[Account]) -> None:
    """Store the folded names of accounts."""
    rows = [(_folded_names(each), each.id) for each in accounts]
    sql.execute_many("UPDATE account SET folded = %s WHERE id = %s", rows)


def _directory_statement(engine: str) -> str:
    """The statement that reads a page of the directory.

    It has all conditions. So a page begins after an account that the previous
    page has shown, and its cursor names nobody whom the reader must not find.
    """
    index = ""
    if engine == "mysql":
        # Without the hint the engine would sort all accounts of the app.
        index = "FORCE INDEX (account_by_folded)"
    return (
        f"{_ACCOUNTS} {index} WHERE {_IN_DIRECTORY} "
        "AND folded >= %s "
        "AND (folded > %s OR id > %s) "
        "AND locked_until <= %s "
        f"AND id <> %s {_NO_BLOCK_BETWEEN} "
        "ORDER BY folded, id LIMIT %s"
    )


def _search_statement(engine: str, condition: str) -> str:
    """The statement that reads a page of a search.

    ``condition`` selects the accounts by their names.
    """
    return (
        f"{_ACCOUNTS} WHERE app = %s AND id > %s AND id <= %s "
        f"AND findable = 1 AND bot = 0 AND {IS_NO_GUEST[engine]} "
        f"AND locked_until <= %s "
        f"AND {condition} "
        "ORDER BY id DESC LIMIT %s"
    )


def _rows_with(
    sql: PooledStatements, app: str, kind: Identifier, texts: Sequence[str]
) -> list[Row]:
    """The rows of accounts of an app with one of these identifiers."""
    given = [text for text in texts if text]
    statement = f"{_ACCOUNTS} WHERE app = %s AND {kind} IN {{}}"
    return list(sql.query_in(statement, (app,), given))


def _contains_words(
    sql: PooledStatements, words: Sequence[str], at_word_starts: bool
) -> tuple[str, list[str]]:
    """The condition that selects accounts with these words in their names.

    Returns also the values of its marks. With ``at_word_starts``, each word is
    the beginning of a word of a name. Without it, only the other accounts are
    selected, and all whose names are not folded.
    """
    has_all = " AND ".join([sql.contains("folded")] * len(words))
    # Folded names have a space before each word.
    starts = [f" {word}" for word in words]
    if at_word_starts:
        return has_all, starts
    # Nodes of the release before, and imports of apps, do not fold names.
    # Whoever uses the condition checks such accounts.
    condition = f"(folded IS NULL OR ({has_all} AND NOT ({has_all})))"
    return condition, [*words, *starts]


def _as_others_see(account: Account) -> Account:
    """An account, without a user name that others may not find."""
    if account.findable:
        return account
    return replace(account, name="")


def _contains_all(account: Account, words: Sequence[str]) -> bool:
    """Whether the names of an account contain all these folded words."""
    folded = _folded_names(account)
    return all(word in folded for word in words)


@contextmanager
def _raising_taken(taken: str = "identifier") -> Iterator[None]:
    """Raise Taken if a statement in this block violates a unique index.

    Another row has the value already. ``taken`` is the text of the error.
    """
    from sqlalchemy.exc import IntegrityError

    try:
        yield
    except IntegrityError:
        raise Taken(taken) from None


def _device(sql: PooledStatements, account: int, id: int) -> Device | None:
    """A login of an account, or None if it has ended."""
    return _LOGINS.first(sql.query, "WHERE account = %s AND id = %s", account, id)


def _add_device(sql: PooledStatements, id: int, new: Device, max_logins: int) -> None:
    """Store a login of an account whose row is locked.

    Logins that have expired are deleted. If the account then has more than
    ``max_logins`` logins, the oldest ones end.
    """
    # The new login is one of the logins that the account may have.
    _delete_old_logins(sql, id, most=max(max_logins - 1, 0), now=new.since)
    sql.execute(
        f"INSERT INTO account_device (account, {_LOGINS.columns}) VALUES {marks_of(5)}",
        (id, *_LOGINS.values(new)),
    )


def _delete_old_logins(sql: PooledStatements, id: int, most: int, now: int) -> None:
    """Delete all logins of an account but the ``most`` newest valid ones."""
    newest_first = _LOGINS.find(
        sql.query, "WHERE account = %s ORDER BY since DESC, id", id
    )
    valid = [login for login in newest_first if login.expires_at > now]
    remaining_ids = {login.id for login in valid[:most]}
    ended = [(id, login.id) for login in newest_first if login.id not in remaining_ids]
    sql.execute_many("DELETE FROM account_device WHERE account = %s AND id = %s", ended)


def delete_rows_of(sql: PooledStatements, account: int, *tables: str) -> None:
    """Delete the rows of an account from these tables."""
    for table in tables:
        sql.execute(f"DELETE FROM {table} WHERE account = %s", (account,))


def _change_to_member(
    sql: PooledStatements, id: int, identifiers: Mapping[Identifier, str], password: str
) -> None:
    """Give a guest identifiers and a password hash. Raises Taken.

    The new version of the account makes the tokens of the guest invalid.
    """
    fields: dict[str, Any] = {
        kind: _identifier(kind, text) for kind, text in identifiers.items()
    }
    fields["password"] = password
    fields["guest"] = 0
    changes = ", ".join(f"{name} = %s" for name in fields)
    statement = f"UPDATE account SET {changes}, version = version + 1 WHERE id = %s"
    with _raising_taken():
        sql.execute(statement, (*fields.values(), id))


def _delete_rows_with(sql: PooledStatements, account: int) -> None:
    """Delete the rows of a deleted account in all tables of people."""
    Store.end_keys_of(sql, account)
    both = "DELETE FROM relation WHERE account = %s OR other = %s"
    sql.execute(both, (account, account))
    # The account may be a bot, which has rows under its own id.
    sql.execute("DELETE FROM bot WHERE id = %s", (account,))
    sql.execute("DELETE FROM incoming_hook WHERE id = %s", (account,))
    tables = (
        "oauth_link",
        "account_factor",
        "recovery_code",
        "account_device",
        "password_reset",
    )
    delete_rows_of(sql, account, *tables)


def _lock_pair(sql: PooledStatements, app: str, one: int, two: int) -> bool:
    """Lock the rows of two accounts. Returns False if one is missing.

    The rows are locked in the order of the ids, so that concurrent requests run
    one after the other.
    """
    both = (
        "SELECT id FROM account WHERE id IN (%s, %s) AND app = %s "
        f"ORDER BY id{sql.for_update}"
    )
    return len(sql.query(both, (one, two, app))) == 2


def _state(sql: PooledStatements, one: int, two: int) -> str:
    """The state of the first account towards the second; ``""`` means no
    relation."""
    rows = sql.query(f"SELECT state FROM relation {_PAIR}", (one, two))
    if rows:
        return str(rows[0][0])
    return ""


def _states_towards(
    sql: PooledStatements, account: int, others: Sequence[int]
) -> dict[int, str]:
    """The states of other accounts towards this account: id → state."""
    statement = "SELECT account, state FROM relation WHERE other = %s AND account IN {}"
    return dict(sql.query_in(statement, (account,), others))


def _count_relations(sql: PooledStatements, account: int) -> int:
    """To how many other accounts an account has a relation."""
    rows = sql.query("SELECT count(*) FROM relation WHERE account = %s", (account,))
    return int(rows[0][0])


def _exceeds_limit(
    sql: PooledStatements,
    accounts: tuple[int, int],
    before: States,
    after: States,
    limit: int,
) -> bool:
    """Whether a change of states gives one of two accounts too many relations."""
    for account, old_state, new_state in zip(accounts, before, after, strict=True):
        is_added = new_state and not old_state
        if is_added and _count_relations(sql, account) >= limit:
            return True
    return False


def _replace_state(
    sql: PooledStatements, account: int, other: int, before: str, after: str
) -> None:
    """Replace the state of an account towards another account; ``""`` means no
    row."""
    if before == after:
        return
    if before:
        sql.execute(f"DELETE FROM relation {_PAIR}", (account, other))
    if after:
        statement = (
            "INSERT INTO relation (account, other, state, since) "
            "VALUES (%s, %s, %s, %s)"
        )
        sql.execute(statement, (account, other, after, int(time())))


def add_link(
    sql: PooledStatements, app: str, account: int, provider: str, subject: str, now: int
) -> None:
    """Link an account with the identity ``subject`` at a provider, in a
    transaction.

    ``now`` is in Unix seconds. Raises Taken if the identity is linked already.
    """
    statement = (
        "INSERT INTO oauth_link (app, provider, subject, account, since) "
        f"VALUES {marks_of(5)}"
    )
    with _raising_taken("link"):
        sql.execute(statement, (app, provider, subject, account, now))
