"""Bots, their webhooks and incoming webhooks in the database.

Each method is one transaction, may switch greenlets, and raises
StorageUnavailable.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from imserver.backends.webhooks.log_window import LogHook
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import accounts_in, add_account
from imserver.plugin.storage import (
    PooledStatements,
    RecordEvent,
    Row,
    RowsOf,
    Statements,
    Store,
    marks_of,
    text_of,
)


class BotCommand(Struct, frozen=True):
    """A slash command: users write ``/name`` to the bot."""

    name: str
    description: str


class Bot(Struct, frozen=True):
    """A bot: the account of a program. It logs in with its token, without a
    password.

    ``owner`` is the account that manages it; 0 means the back end. ``hook_url``
    receives the entries that the bot receives; ``""`` means no webhook.
    ``description`` is its purpose. ``listed`` says that the app offers it to
    all its accounts.
    """

    account: Account
    owner: int
    commands: tuple[BotCommand, ...] = ()
    hook_url: str = ""
    description: str = ""
    listed: bool = False


class IncomingHook(Struct, frozen=True):
    """A URL whose requests become messages in a group.

    ``id`` is the account of the bot that sends them. ``created`` is in Unix
    seconds.
    """

    id: int
    app: str
    group: int
    created: int


class BotHook(LogHook, frozen=True):
    """The webhook of a bot."""

    url: str
    secret: str


_ROWS: Final = RowsOf(Bot, "bot", account="")
_BOTS: Final = f"SELECT {_ROWS.columns}, id FROM bot WHERE"
"""The beginning of a statement. The last value of each row is the id."""
_HOOK_ROWS: Final = RowsOf(IncomingHook, "incoming_hook", group="conversation")
_OF_BOTS: Final = RowsOf(
    BotHook,
    "bot",
    user="id",
    url="hook_url",
    secret="hook_secret",
    position="hook_entry",
)


class BotStore(Store.Rows):
    """The bots in a store. Empty without a database."""

    @Store.writing
    def add(
        self,
        sql: PooledStatements,
        new: Account,
        owner: int,
        token_hash: str,
        most: int,
        record: RecordEvent | None,
    ) -> Bot | None:
        """Store a bot with its account. Raises Taken.

        ``owner`` 0 means a back end, which may have any number of bots. Returns
        None, and stores nothing, if the owner already has ``most`` bots or does
        not exist any more.
        """
        row = replace(new, bot=True)
        if owner and not _may_have_another(sql, row.app, owner, most):
            return None
        no_password = ""  # no password has this hash
        account = add_account(sql, row, no_password, record)
        values = (account.id, account.app, owner, token_hash, b"[]", "", "")
        sql.execute(
            "INSERT INTO bot (id, app, owner, token_hash, commands, hook_url, "
            f"hook_secret) VALUES {marks_of(len(values))}",
            values,
        )
        return Bot(account, owner)

    @Store.reading_or(None)
    def holder(self, sql: PooledStatements, id: int, token_hash: str) -> Account | None:
        """The account of a bot, if its token has this hash, else None."""
        rows = sql.query(
            "SELECT app FROM bot WHERE id = %s AND token_hash = %s", (id, token_hash)
        )
        if not rows:
            return None
        accounts = accounts_in(sql, text_of(rows[0][0]), [id])
        if accounts:
            return accounts[0]
        return None

    @Store.reading_or([])
    def get(self, sql: PooledStatements, app: str, ids: Sequence[int]) -> list[Bot]:
        """The bots among these accounts, ordered by id."""
        rows = sql.query_in(f"{_BOTS} app = %s AND id IN {{}}", (app,), ids)
        return _bots(sql, app, rows)

    @Store.reading_or([])
    def page(
        self, sql: PooledStatements, app: str, owner: int | None, after: int, limit: int
    ) -> list[Bot]:
        """A page of the bots of an owner, ordered by id, after the id
        ``after``.

        ``owner`` 0 means the back end; None means all owners.
        """
        if owner is None:
            statement = f"{_BOTS} app = %s AND id > %s ORDER BY id LIMIT %s"
            rows = sql.query(statement, (app, after, limit))
        else:
            statement = (
                f"{_BOTS} app = %s AND id > %s AND owner = %s ORDER BY id LIMIT %s"
            )
            rows = sql.query(statement, (app, after, owner, limit))
        return _bots(sql, app, rows)

    @Store.reading_or([])
    def listed(
        self, sql: PooledStatements, app: str, after: int, limit: int
    ) -> list[Bot]:
        """A page of the bots that the app offers to all its accounts.

        They are ordered by id, and begin after the id ``after``.
        """
        statement = f"{_BOTS} app = %s AND listed = 1 AND id > %s ORDER BY id LIMIT %s"
        return _bots(sql, app, sql.query(statement, (app, after, limit)))

    @Store.writing
    def set_listed(self, sql: PooledStatements, app: str, id: int, most: int) -> bool:
        """Offer a bot to all accounts of its app.

        Returns False, and changes nothing, if the bot does not exist, or if its
        owner already offers ``most`` other bots. A back end may offer any
        number.
        """
        rows = sql.query("SELECT owner FROM bot WHERE id = %s AND app = %s", (id, app))
        if not rows:
            return False
        owner = rows[0][0]
        if owner:
            # The row of the owner is locked, so that two requests at the same
            # time cannot exceed the limit.
            sql.query(f"SELECT id FROM account WHERE id = %s{sql.for_update}", (owner,))
            count = (
                "SELECT count(*) FROM bot WHERE app = %s AND owner = %s AND listed = 1 "
                "AND id <> %s"
            )
            if sql.query(count, (app, owner, id))[0][0] >= most:
                return False
        sql.execute("UPDATE bot SET listed = 1 WHERE id = %s AND app = %s", (id, app))
        return True

    @Store.writing_or(False)
    def set(
        self,
        sql: PooledStatements,
        app: str,
        id: int,
        column: Literal["listed", "description", "token_hash", "commands"],
        value: Any,
    ) -> bool:
        """Set one column of a bot. Returns False if the bot does not exist."""
        # MySQL counts only rows that have changed, so the update does not tell
        # whether the bot exists.
        rows = sql.query(
            f"SELECT id FROM bot WHERE id = %s AND app = %s{sql.for_update}", (id, app)
        )
        sql.execute(
            f"UPDATE bot SET {column} = %s WHERE id = %s AND app = %s", (value, id, app)
        )
        return bool(rows)


class HookStore(Store.Rows):
    """The webhooks in a store. Empty without a database."""

    # --- incoming -------------------------------------------------------------

    @Store.writing
    def add_incoming(
        self, sql: PooledStatements, new: IncomingHook, token_hash: str
    ) -> None:
        """Store an incoming webhook."""
        values = (*_HOOK_ROWS.values(new), token_hash)
        marks = marks_of(len(values))
        statement = (
            f"INSERT INTO incoming_hook ({_HOOK_ROWS.columns}, token_hash) "
            f"VALUES {marks}"
        )
        sql.execute(statement, values)

    def incoming_with(self, token_hash: str) -> IncomingHook | None:
        """The incoming webhook with this token."""
        return _HOOK_ROWS.first(self._store.rows, "WHERE token_hash = %s", token_hash)

    def incoming(self, app: str, id: int) -> IncomingHook | None:
        """One incoming webhook."""
        return _HOOK_ROWS.first(self._store.rows, "WHERE app = %s AND id = %s", app, id)

    def incoming_to(self, app: str, group: int) -> list[IncomingHook]:
        """The incoming webhooks of a group, ordered by id."""
        clauses = "WHERE app = %s AND conversation = %s ORDER BY id"
        return _HOOK_ROWS.find(self._store.rows, clauses, app, group)

    # --- of bots --------------------------------------------------------------

    @Store.writing_or(False)
    def set_url(
        self, sql: Statements, app: str, bot: int, url: str, secret: str
    ) -> bool:
        """Set the URL of the webhook of a bot, and the secret that signs its
        requests.

        ``""`` removes the webhook. It begins with the next entry of the log.
        Returns False if the app has no such bot.
        """
        row = f"SELECT id FROM bot WHERE id = %s AND app = %s{sql.for_update}"
        if not sql.query(row, (bot, app)):
            return False
        last_entry = 0
        rows = sql.query("SELECT last_id FROM log WHERE app = %s AND part = 0", (app,))
        if rows:
            last_entry = rows[0][0]
        sql.execute(
            "UPDATE bot SET hook_url = %s, hook_secret = %s, hook_entry = %s "
            "WHERE id = %s",
            (url, secret, last_entry, bot),
        )
        return True

    def of_bots(self) -> list[BotHook]:
        """The webhooks of all bots of all apps."""
        return _OF_BOTS.find(self._store.rows, "WHERE hook_url <> ''")

    def advance(self, hook: BotHook, position: int) -> None:
        """Store the position up to which a webhook has got the log.

        Does nothing if the webhook was set again.
        """
        # A webhook that was set again has another secret.
        statement = "UPDATE bot SET hook_entry = %s WHERE id = %s AND hook_secret = %s"
        self._store.execute(statement, (position, int(hook.user), hook.secret))


def _bots(sql: PooledStatements, app: str, rows: Sequence[Row]) -> list[Bot]:
    """The bots from rows of :data:`_BOTS`, with their accounts, ordered by id."""
    if not rows:
        return []
    row_by_id = {row[-1]: row for row in rows}
    accounts = accounts_in(sql, app, list(row_by_id))
    return [_ROWS.read(row_by_id[account.id], account=account) for account in accounts]


def _may_have_another(sql: PooledStatements, app: str, owner: int, most: int) -> bool:
    """Whether an account exists, and has fewer than ``most`` bots.

    The row of the account is locked. If the owner were deleted at the same
    time, nobody would delete the bot.
    """
    account_row = f"SELECT id FROM account WHERE id = %s{sql.for_update}"
    if not sql.query(account_row, (owner,)):
        return False
    count = "SELECT count(*) FROM bot WHERE app = %s AND owner = %s"
    return bool(sql.query(count, (app, owner))[0][0] < most)
