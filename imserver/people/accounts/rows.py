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
"""The states of two accounts towards each other: ``asked``, ``friend``,
``blocked`` or ``""``."""
Relating = Callable[[States], tuple[States, str]]

_NO_PHONE: Final = "\x01"
"""First character of ``phone`` in the row of an account without a phone number.
The column is unique and not NULL; a random text follows."""
_NO_PHONE_BYTES: Final = 8
_NICKNAME_CHARACTERS: Final = 200
"""The most characters of a folded nickname. Folding makes a few nicknames
longer."""
_STORED: Final = (
    "app, phone, nickname, avatar, password, version, created, email, name, bot, "
    "guest, confirmed_email, folded"
)
_STORED_COLUMNS: Final = len(_STORED.split(", "))
_ROWS: Final = RowsOf(
    Account,
    "account",
    email_confirmed="email = confirmed_email",
    # an unknown one is that of a member
    role="CASE WHEN role IN ('owner', 'moderator') THEN role END",
    factor="factor_since > 0",
)
_ACCOUNTS: Final = f"SELECT {_ROWS.columns}, folded, password FROM account"
_LINKED: Final = (
    f"{_ACCOUNTS} WHERE id = (SELECT account FROM oauth_link WHERE app = %s "
    "AND provider = %s AND subject = %s) AND app = %s"
)
_BLOCKERS: Final = (
    "SELECT r.account FROM relation r JOIN account a ON a.id = r.account "
    "WHERE a.app = %s AND r.state = 'blocked' AND r.other IN (%s, "
    "coalesce((SELECT owner FROM bot WHERE id = %s), 0))"
)
"""Selects the accounts that have blocked an account or its owner."""
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
_NO_BLOCK: Final = (
    "AND NOT EXISTS (SELECT 1 FROM relation r "
    "WHERE r.account = account.id AND r.other = %s AND r.state = 'blocked') "
    "AND NOT EXISTS (SELECT 1 FROM relation r "
    "WHERE r.account = %s AND r.other = account.id AND r.state = 'blocked')"
)
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
_RESET: Final = (
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
    """The accounts in a store. All methods may switch greenlets, and raise
    StorageUnavailable."""

    # --- accounts -------------------------------------------------------------

    @Store.writing
    def add(
        self,
        sql: PooledStatements,
        new: Account,
        password: str,
        record: RecordEvent | None = None,
    ) -> Account:
        """Store an account, with the hash of its password. Raises Taken.
        ``record``, here and below: stores an event about the account in the
        same transaction."""
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
        Raises Taken."""
        added = add_account(sql, new, "", record)
        add_link(sql, added.app, added.id, provider, subject, added.created)
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
        provider of the link. If several match, the first provider and the first
        subject win."""
        return _linked(sql, app, providers, subjects)

    @Store.reading_or(None)
    def by_login(
        self, sql: PooledStatements, app: str, *logins: tuple[Identifier, str]
    ) -> tuple[Account, str] | None:
        """The account with one of these identifiers, and its password hash. The
        first identifier that exists wins. All are looked up, so the time does
        not reveal which of them exist."""
        rows: list[Row] = []
        for kind, text in logins:
            statement = f"{_ACCOUNTS} WHERE app = %s AND {kind} = %s"
            rows += sql.query(statement, (app, text))
        return _found(rows)

    def by_id_or_login(self, app: str, text: str) -> tuple[Account, str] | None:
        """The account with this id or identifier, and its password hash. For
        operators."""
        return self.by_id(app, id_of(text)) or self.by_login(app, *candidates(text))

    @Store.reading_or([])
    def anywhere(
        self,
        sql: PooledStatements,
        apps: Sequence[str],
        id: int,
        logins: Sequence[tuple[Identifier, str]],
    ) -> list[Account]:
        """The accounts of these apps with this id (0: no id), or with one of
        these identifiers."""
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
        """The accounts with these ids whose visible names contain all of these
        words, ordered by id. A user name that others may not find does not
        count."""

        def work(sql: PooledStatements) -> list[Row]:
            has_all = " AND ".join([sql.contains("folded")] * len(words))
            # Nodes of the release before, and imports of apps, do not fold
            # names.
            statement = (
                f"{_ACCOUNTS} WHERE app = %s AND (folded IS NULL OR ({has_all})) "
                f"AND id IN {{}}"
            )
            return sql.query_in(statement, (app, *words), ids)

        matching = []
        rows: list[Row] = self._store.read_or([], work)
        for account in map(_account, rows):
            visible = account
            if not account.findable:
                visible = replace(account, name="")
            if _contains_all(visible, words):
                matching.append(account)
        return sorted(matching, key=lambda account: account.id)

    @Store.reading_or(0)
    def last_id(self, sql: PooledStatements) -> int:
        """The id of the newest account of any app; 0: no account exists."""
        return sql.query("SELECT max(id) FROM account")[0][0] or 0

    def named(
        self,
        app: str,
        words: Sequence[str],
        begin: bool,
        after: int,
        upto: int,
        limit: int,
        now: int,
    ) -> tuple[list[Account], int]:
        """The newest accounts with ``after < id <= upto`` that others may find
        and whose names contain all of these words. Bots, guests and accounts
        that are locked now are left out. Returns also the id at which the next
        page begins.

        ``words``: from
        :meth:`imserver.gateway.storage.statements.Statements.words`. ``begin``:
        only accounts with names in which words begin with these words; False:
        only the other accounts.
        """

        def work(sql: PooledStatements) -> list[Row]:
            has_all = " AND ".join([sql.contains("folded")] * len(words))
            condition = has_all
            needles = [f" {word}" for word in words]
            if not begin:
                # Nodes of the release before, and imports of apps, do not fold
                # names.
                condition = f"(folded IS NULL OR ({has_all} AND NOT ({has_all})))"
                needles = [*words, *needles]
            statement = (
                f"{_ACCOUNTS} WHERE app = %s AND id > %s AND id <= %s AND findable = 1 "
                f"AND bot = 0 AND {IS_NO_GUEST[sql.engine]} AND locked_until <= %s "
                f"AND {condition} ORDER BY id DESC LIMIT %s"
            )
            return sql.query(statement, (app, after, upto, now, *needles, limit))

        def fold(sql: PooledStatements) -> None:
            _fold(sql, unfolded)

        rows: list[Row] = self._store.read_or([], work)
        accounts = list(map(_account, rows))
        unfolded = [
            each for row, each in zip(rows, accounts, strict=True) if row[-2] is None
        ]
        if unfolded:
            self._store.write_or(None, fold)
            left_out = {each.id for each in unfolded if not _contains_all(each, words)}
            accounts = [each for each in accounts if each.id not in left_out]
        if len(rows) < limit:
            return accounts, after
        return accounts, rows[-1][0] - 1

    def listed(
        self, app: str, after: tuple[str, int], limit: int, now: int, by: int = 0
    ) -> tuple[list[Account], tuple[str, int] | None]:
        """A page of the accounts that ``by`` (0: a back end) may find, in the
        order of their folded names. Bots, guests, accounts that are locked now,
        and accounts with a block between them and ``by`` are left out. Returns
        also where the next page begins; None: this is the last page.

        All conditions are in the statement. So a page begins after an account
        that the previous page has shown, and its cursor names nobody whom the
        reader must not find. ``after``: the folded name and the id of the last
        account of the previous page; ``("", 0)``: the first page.
        """

        def work(sql: PooledStatements) -> list[Row]:
            index = ""
            if sql.engine == "mysql":
                # Without the hint the engine would sort all accounts of the
                # app.
                index = "FORCE INDEX (account_by_folded)"
            statement = (
                f"{_ACCOUNTS} {index} WHERE {_IN_DIRECTORY} AND folded >= %s "
                "AND (folded > %s OR id > %s) AND locked_until <= %s "
                f"AND id <> %s {_NO_BLOCK} ORDER BY folded, id LIMIT %s"
            )
            return sql.query(statement, (app, after[0], *after, now, by, by, by, limit))

        if after == ("", 0):
            self._fold_rest(app)
        rows: list[Row] = self._store.read_or([], work)
        accounts = list(map(_account, rows))
        if len(rows) < limit:
            return accounts, None
        last = rows[-1]
        return accounts, (text_of(last[-2]), last[0])

    def _fold_rest(self, app: str) -> None:
        """Fold the names of accounts that nodes of the previous release, or
        imports of apps, have made."""
        condition = f"{_IN_DIRECTORY} AND folded IS NULL LIMIT 1000"

        def read(sql: PooledStatements) -> list[Account]:
            return accounts_where(sql, condition, (app,))

        def fold(sql: PooledStatements) -> None:
            _fold(sql, unfolded)

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
        """Change the given fields of an account; None: it does not exist.
        ``""`` removes an identifier. Raises Taken."""
        for name in _CHANGEABLE:
            if name not in fields:
                continue
            value = fields[name]
            if name in IDENTIFIERS:
                value = _identifier(name, value)
            elif isinstance(value, bool):
                value = int(value)
            statement = f"UPDATE account SET {name} = %s WHERE id = %s AND app = %s"
            with _taken():
                sql.execute(statement, (value, id, app))

        if "nickname" in fields or "name" in fields:
            _fold(sql, accounts_in(sql, app, (id,)))
        if fields.get("email_confirmed"):
            sql.execute(
                "UPDATE account SET confirmed_email = email WHERE id = %s AND app = %s",
                (id, app),
            )
        if "email" in fields:
            # A code in the mailbox of the old address becomes invalid.
            forget(sql, id, "password_reset")
        return reported(sql, record, "changed", app, id)

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
        """Replace the password hash ``before``; False if the hash has changed
        meanwhile."""
        # Whoever has a password is no guest.
        statement = (
            "UPDATE account SET password = %s, guest = 0, version = version + %s "
            "WHERE id = %s AND password = %s"
        )
        count = sql.execute(statement, (password, int(ends_sessions), id, before))
        if count != 1:
            return False
        if ends_sessions:
            forget(sql, id, "account_device", "password_reset")
        reported(sql, record, "password", None, id)
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
        """Store the hash of a code that resets the password of an account, in
        place of earlier codes. ``email``: the address to which the code is
        sent. False: it is not the address of the account any more."""
        rows = sql.query(
            f"SELECT email FROM account WHERE id = %s{sql.for_update}", (id,)
        )
        if not rows or text_of(rows[0][0] or "") != email:
            return False
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
        """The account whose password the code with this hash may reset now."""
        rows = self._store.rows(_RESET, (code, now, app))
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
        """Replace the password hash of the account of a code, and invalidate
        its tokens and codes. False: no such code is valid now."""
        rows = sql.query(_RESET, (code, now, app))
        if not rows:
            return False
        # Only one of two simultaneous requests deletes the row.
        deleted = sql.execute("DELETE FROM password_reset WHERE code = %s", (code,))
        if deleted != 1:
            return False
        id = rows[0][0]
        # The code was in a mail to this address, or the operator has made the
        # code.
        sql.execute(
            "UPDATE account SET password = %s, guest = 0, version = version + 1, "
            "confirmed_email = email WHERE id = %s",
            (password, id),
        )
        forget(sql, id, "account_device", "password_reset")
        reported(sql, record, "password", None, id)
        return True

    @Store.writing_or(None)
    def confirm_email(
        self, sql: PooledStatements, id: int, is_meant: Callable[[Account], bool]
    ) -> Account | None:
        """Store that the e-mail address of an account is confirmed, and return
        the account as it was before. None: the account does not exist, or
        ``is_meant`` returns that its address is another one."""
        row = _found(sql.query(f"{_ACCOUNTS} WHERE id = %s{sql.for_update}", (id,)))
        if row is None:
            return None
        account, _ = row
        if not account.email or not is_meant(account):
            return None
        sql.execute("UPDATE account SET confirmed_email = email WHERE id = %s", (id,))
        return account

    @Store.writing_or(False)
    def note_question(self, sql: PooledStatements, id: int) -> bool:
        """Store that the server has asked an account to confirm its e-mail
        address, without a request of the user. False: it has asked before."""
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
        """Invalidate all tokens of an account. False: it does not exist."""
        statement = (
            "UPDATE account SET version = version + 1 WHERE id = %s AND app = %s"
        )
        ended = sql.execute(statement, (id, app)) == 1
        if ended:
            forget(sql, id, "account_device")
            reported(sql, record, "logged_out", app, id)
        return ended

    def remove(self, app: str, id: int, record: RecordEvent | None = None) -> bool:
        """Delete an account and its relations. False: it does not exist. The
        API keys that it has made end, at once on this node."""
        is_removed: bool = self._remove(app, id, record)
        if is_removed:
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
        if record is not None and _by_id(sql, app, id) is not None:
            # The event does not contain the names of the erased account.
            _report(sql, record, "removed", Account(id, app, ""))
        statement = "DELETE FROM account WHERE id = %s AND app = %s"
        if sql.execute(statement, (id, app)) != 1:
            return False
        Store.end_keys_of(sql, id)
        sql.execute("DELETE FROM relation WHERE account = %s OR other = %s", (id, id))
        sql.execute("DELETE FROM bot WHERE id = %s", (id,))
        sql.execute("DELETE FROM incoming_hook WHERE id = %s", (id,))
        identifiers = (
            "oauth_link",
            "account_factor",
            "recovery_code",
            "account_device",
            "password_reset",
        )
        forget(sql, id, *identifiers)
        return True

    def programs_of(self, app: str, *users: str) -> list[str]:
        """The bots that belong to the accounts of users."""
        statement = "SELECT id FROM bot WHERE app = %s AND owner IN {}"
        owners = [id for id in map(id_of, users) if id]
        rows = self._store.rows_in(statement, (app,), owners, many=True)
        return [str(id) for id in sorted(row[0] for row in rows)]

    def saw(self, rows: Sequence[tuple[str, int, int]]) -> None:
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
        """Whether this account exists, and is that of a guest."""
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
        """Turn a guest into a member, and end its earlier login. None: the
        account is no guest any more. Raises Taken."""
        if not sql.query(f"{_GUEST}{sql.for_update}", (id, app)):
            return None
        fields: dict[str, Any] = {
            kind: _identifier(kind, text) for kind, text in identifiers.items()
        }
        fields["password"] = password
        fields["guest"] = 0
        changes = ", ".join(f"{name} = %s" for name in fields)
        statement = f"UPDATE account SET {changes}, version = version + 1 WHERE id = %s"
        with _taken():
            sql.execute(statement, (*fields.values(), id))
        forget(sql, id, "account_device")
        _fold(sql, accounts_in(sql, app, (id,)))
        return reported(sql, record, "changed", app, id)

    @Store.writing_or(None)
    def admit_guest(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        name: str,
        record: RecordEvent | None = None,
    ) -> Account | None:
        """Turn a guest into a member, who stays logged in. None: the account is
        no guest any more. Raises Taken."""
        if not sql.query(f"{_GUEST}{sql.for_update}", (id, app)):
            return None
        with _taken():
            sql.execute(
                "UPDATE account SET name = %s, guest = 0 WHERE id = %s", (name, id)
            )
        _fold(sql, accounts_in(sql, app, (id,)))
        return reported(sql, record, "changed", app, id)

    def unused_guests(self, before: int) -> Iterator[list[Account]]:
        """The guests of all apps who were created, and last seen, before a Unix
        second, in pages."""
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
        """The account with this id, and its login ``device`` that has not
        ended."""
        account_row = _by_id(sql, None, id)
        row = _device(sql, id, device)
        if account_row is None or row is None:
            return None
        return (account_row[0], row)

    @Store.writing
    def add_device(
        self, sql: PooledStatements, id: int, version: int, new: Device, most: int
    ) -> bool:
        """Store a login of an account that has this version. False: the account
        has another version now, or was deleted. If the account has more than
        ``most`` logins, the oldest ones end."""
        versions = sql.query(
            f"SELECT version FROM account WHERE id = %s{sql.for_update}", (id,)
        )
        if not versions or versions[0][0] != version:
            return False
        _add_device(sql, id, new, most)
        return True

    @Store.writing_or(None)
    def log_in_linked(
        self,
        sql: PooledStatements,
        app: str,
        providers: Sequence[str],
        subjects: Sequence[str],
        new: Device,
        most: int,
    ) -> tuple[Account, str] | None:
        """Find an account as :meth:`linked` does, and store a login as
        :meth:`add_device` does, unless the account is locked."""
        row = _linked(sql, app, providers, subjects, sql.for_update)
        if row is None:
            return None
        account, _ = row
        if not account.is_locked(new.since):
            _add_device(sql, account.id, new, most)
        return row

    def devices(self, id: int, now: int) -> list[Device]:
        """The logins that have not ended, newest first."""
        rest = "WHERE account = %s AND expires_at > %s ORDER BY since DESC, id"
        return _LOGINS.find(self._store.rows, rest, id, now)

    @Store.writing_or(None)
    def remove_device(
        self, sql: PooledStatements, id: int, device: int
    ) -> Device | None:
        """End a login and return it; None if it does not exist."""
        login = _device(sql, id, device)
        sql.execute(
            "DELETE FROM account_device WHERE account = %s AND id = %s", (id, device)
        )
        return login

    # --- import ---------------------------------------------------------------

    @Store.reading_or([])
    def there(
        self, sql: PooledStatements, app: str, imported: Sequence[Imported]
    ) -> list[Account]:
        """The accounts that have the same id as one of ``imported``, or in its
        app the same identifier."""
        ids = [each.account.id for each in imported]
        rows = sql.query_in(f"{_ACCOUNTS} WHERE id IN {{}}", (), ids)
        for kind in IDENTIFIERS:
            texts = [getattr(each.account, kind) for each in imported]
            statement = f"{_ACCOUNTS} WHERE app = %s AND {kind} IN {{}}"
            rows += sql.query_in(statement, (app,), [text for text in texts if text])
        return list({row[0]: _account(row) for row in rows}.values())

    @Store.writing
    def put(self, sql: PooledStatements, imported: Sequence[Imported]) -> None:
        """Store accounts with given ids. Later new accounts get greater ids.
        Raises Taken."""
        marks = marks_of(1 + _STORED_COLUMNS)
        statement = f"INSERT INTO account (id, {_STORED}) VALUES {marks}"
        rows = [
            (each.account.id, *_row(each.account, each.password)) for each in imported
        ]
        with _taken():
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
        becoming: Relating,
        condition: Condition | None = None,
    ) -> str:
        """Change the states of two accounts towards each other, as ``becoming``
        decides.

        ``becoming`` receives the state of the first towards the second, and of
        the second towards the first. It returns the new states and a result.
        This method returns that result. It returns ``"unknown"`` if one of the
        accounts does not exist, or if a change does not meet the condition. It
        returns ``"full"`` if an account would have relations to more than
        ``limit`` others.
        """
        # Both rows are locked, in this order, so that concurrent requests run
        # one after the other.
        both = (
            "SELECT id FROM account WHERE id IN (%s, %s) AND app = %s "
            f"ORDER BY id{sql.for_update}"
        )
        if len(sql.query(both, (one, two, app))) != 2:
            return "unknown"

        before = (_state(sql, one, two), _state(sql, two, one))
        after, word = becoming(before)
        pairs = ((one, two, before[0], after[0]), (two, one, before[1], after[1]))
        count = "SELECT count(*) FROM relation WHERE account = %s"
        for mine, _, old, new in pairs:
            if old or not new:
                continue
            if sql.query(count, (mine,))[0][0] >= limit:
                return "full"

        if after != before and condition is not None and not condition(sql):
            return "unknown"
        now = int(time())
        for mine, other, old, new in pairs:
            if old == new:
                continue
            if old:
                sql.execute(f"DELETE FROM relation {_PAIR}", (mine, other))
            if new:
                statement = (
                    "INSERT INTO relation (account, other, state, since) VALUES (%s, "
                    "%s, %s, %s)"
                )
                sql.execute(statement, (mine, other, new, now))
        return word

    def blocked_by(
        self, app: str, one: int, others: Sequence[int], with_owner: bool = True
    ) -> set[int]:
        """The ids in ``others`` of accounts that have blocked an account.
        ``with_owner``: if the account is a bot, also accounts that have blocked
        its owner."""
        statement = f"{_BLOCKERS} AND r.account IN {{}}"
        bot = one if with_owner else 0
        rows = self._store.rows_in(statement, (app, one, bot), others)
        return {row[0] for row in rows}

    def blockers(self, app: str, one: int, limit: int) -> list[int]:
        """Ids of accounts that have blocked an account or, if it is a bot, its
        owner; at most ``limit``."""
        rows = self._store.rows(f"{_BLOCKERS} LIMIT %s", (app, one, one, limit))
        return [row[0] for row in rows]

    @Store.reading_or({})
    def relations(
        self, sql: PooledStatements, one: int, others: Sequence[int]
    ) -> dict[int, States]:
        """Other account → the states of the two towards each other, as in
        :data:`Relating`. An account that has blocked the owner of a bot has
        blocked the bot."""
        ids = list(dict.fromkeys(others))
        mine = "SELECT other, state FROM relation WHERE account = %s AND other IN {}"
        theirs = (
            "SELECT account, state FROM relation WHERE other = %s AND account IN {}"
        )
        states: dict[int, str] = dict(sql.query_in(mine, (one,), ids))
        states_back: dict[int, str] = dict(sql.query_in(theirs, (one,), ids))
        owner = sql.query("SELECT owner FROM bot WHERE id = %s AND owner > 0", (one,))
        if owner:
            for other, state in sql.query_in(theirs, (owner[0][0],), ids):
                if state == "blocked":
                    states_back[other] = state
        return {id: (states.get(id, ""), states_back.get(id, "")) for id in ids}

    @Store.reading_or((0, []))
    def contacts(
        self, sql: PooledStatements, name: ListName, one: int, after: int, limit: int
    ) -> tuple[int, list[Contact]]:
        """The length of a list of an account, and a page of it with ids after
        ``after``."""
        listed = _LISTED[name]
        whose = "r.account" if name == "incoming" else "r.other"
        ((count,),) = sql.query(
            f"SELECT count(*) FROM relation r WHERE {listed}", (one,)
        )
        statement = (
            "SELECT a.id, a.nickname, a.avatar, r.since FROM relation r JOIN account a "
            f"ON a.id = {whose} WHERE {listed} AND {whose} > %s ORDER BY {whose} "
            "LIMIT %s"
        )
        rows = sql.query(statement, (one, after, limit))
        return count, [Contact(*row) for row in rows]


def add_account(
    sql: PooledStatements, new: Account, password: str, record: RecordEvent | None
) -> Account:
    """Store an account, and return it with its id. Raises Taken."""
    new = replace(new, created=int(time()))
    statement = f"INSERT INTO account ({_STORED}) VALUES {marks_of(_STORED_COLUMNS)}"
    with _taken():
        id = sql.insert(statement, _row(new, password))
    added = replace(new, id=id)
    _report(sql, record, "registered", added)
    return added


def accounts_in(sql: PooledStatements, app: str, ids: Sequence[int]) -> list[Account]:
    """The existing accounts with these ids, ordered by id."""
    statement = f"{_ACCOUNTS} WHERE app = %s AND id IN {{}}"
    rows = sql.query_in(statement, (app,), list(dict.fromkeys(ids)))
    return sorted(map(_account, rows), key=lambda account: account.id)


def accounts_where(
    sql: PooledStatements, condition: str, values: Sequence[Any]
) -> list[Account]:
    """The accounts that meet a condition, in its order."""
    return list(map(_account, sql.query(f"{_ACCOUNTS} WHERE {condition}", values)))


def _account(row: Row) -> Account:
    account = _ROWS.read(row)
    if account.phone.startswith(_NO_PHONE):
        return replace(account, phone="")
    return account


def _identifier(kind: str, text: str) -> str | None:
    """An identifier in its stored form; ``""``: no identifier."""
    if text:
        return text
    if kind == "phone":
        return _NO_PHONE + token_hex(_NO_PHONE_BYTES)
    return None


def _found(rows: Sequence[Row]) -> tuple[Account, str] | None:
    """The account in the first of these rows, and its password hash."""
    if rows:
        return (_account(rows[0]), rows[0][-1])
    return None


def _by_id(
    sql: PooledStatements, app: str | None, id: int
) -> tuple[Account, str] | None:
    """``app`` None: any app."""
    if app is None:
        return _found(sql.query(f"{_ACCOUNTS} WHERE id = %s", (id,)))
    return _found(sql.query(f"{_ACCOUNTS} WHERE id = %s AND app = %s", (id, app)))


def _linked(
    sql: PooledStatements,
    app: str,
    providers: Sequence[str],
    subjects: Sequence[str],
    suffix: str = "",
) -> tuple[Account, str] | None:
    for provider in providers:
        for subject in subjects:
            row = _found(sql.query(f"{_LINKED}{suffix}", (app, provider, subject, app)))
            if row is not None:
                return row[0], provider
    return None


def _report(
    sql: PooledStatements, record: RecordEvent | None, change: str, account: Account
) -> None:
    if record is not None:
        facts = {
            "user": account.user,
            "change": change,
            "nickname": account.nickname,
            "avatar": account.avatar,
        }
        record(sql, account.app, account.user, facts)


def reported(
    sql: PooledStatements,
    record: RecordEvent | None,
    change: str,
    app: str | None,
    id: int,
) -> Account | None:
    """Store the event about a changed account, and return the account; None: it
    does not exist. ``app`` None: any app."""
    row = _by_id(sql, app, id)
    if row is None:
        return None
    _report(sql, record, change, row[0])
    return row[0]


def _row(new: Account, password: str) -> Row:
    """The values of :data:`_STORED`."""
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
        _folded(new),
    )


def _folded(account: Account) -> str:
    """The names of an account in the form that a search compares, with a space
    before each word."""
    nickname = " ".join(Statements.words(account.nickname))
    name = " ".join(Statements.words(account.name))
    if nickname:
        return f" {nickname[:_NICKNAME_CHARACTERS]} {name}"
    return f" {name}"


def _fold(sql: PooledStatements, accounts: Sequence[Account]) -> None:
    rows = [(_folded(each), each.id) for each in accounts]
    sql.execute_many("UPDATE account SET folded = %s WHERE id = %s", rows)


def _contains_all(account: Account, words: Sequence[str]) -> bool:
    folded = _folded(account)
    return all(word in folded for word in words)


@contextmanager
def _taken(what: str = "identifier") -> Iterator[None]:
    """Raise Taken instead of an IntegrityError."""
    from sqlalchemy.exc import IntegrityError

    try:
        yield
    except IntegrityError:
        raise Taken(what) from None


def _device(sql: PooledStatements, account: int, id: int) -> Device | None:
    return _LOGINS.first(sql.query, "WHERE account = %s AND id = %s", account, id)


def _add_device(sql: PooledStatements, id: int, new: Device, most: int) -> None:
    """Store a login of an account whose row is locked. If the account has more
    than ``most`` logins, the oldest ones end."""
    newest = _LOGINS.find(sql.query, "WHERE account = %s ORDER BY since DESC, id", id)
    valid = [each for each in newest if each.expires_at > new.since]
    valid_ids = {each.id for each in valid[: max(most - 1, 0)]}
    ended = [(id, each.id) for each in newest if each.id not in valid_ids]
    sql.execute_many("DELETE FROM account_device WHERE account = %s AND id = %s", ended)
    sql.execute(
        f"INSERT INTO account_device (account, {_LOGINS.columns}) VALUES {marks_of(5)}",
        (id, *_LOGINS.values(new)),
    )


def forget(sql: PooledStatements, account: int, *tables: str) -> None:
    """Delete the rows of an account from these tables."""
    for table in tables:
        sql.execute(f"DELETE FROM {table} WHERE account = %s", (account,))


def _state(sql: PooledStatements, one: int, two: int) -> str:
    """The state of the first account towards the second; ``""``: no
    relation."""
    rows = sql.query(f"SELECT state FROM relation {_PAIR}", (one, two))
    if rows:
        return str(rows[0][0])
    return ""


def add_link(
    sql: PooledStatements, app: str, account: int, provider: str, subject: str, now: int
) -> None:
    """Link an account in a transaction. Raises Taken if the identity is linked
    already."""
    statement = (
        "INSERT INTO oauth_link (app, provider, subject, account, since) "
        f"VALUES {marks_of(5)}"
    )
    with _taken("link"):
        sql.execute(statement, (app, provider, subject, account, now))
