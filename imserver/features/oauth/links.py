"""Links between accounts and their identities at login providers.

Each method is one transaction, may switch, and raises StorageUnavailable.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from imserver.features.accounts.contract import Taken
from imserver.features.accounts.rows import add_link
from imserver.plugin.storage import PooledStatements, RowsOf, Store, text_of


class AccountLink(Struct, frozen=True):
    """A link between an account and an identity: ``subject``, its id at the provider."""

    provider: str
    subject: str
    since: int
    """Unix seconds."""


_LINKS: Final = RowsOf(AccountLink, "oauth_link")


class LinkStore:
    """The links in a store. Without a database there are none."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @Store.writing
    def add(
        self, sql: PooledStatements, app: str, account: int, provider: str, subject: str, now: int
    ) -> None:
        """Link an account, or do nothing if exactly this link exists. ``now``: Unix seconds.

        Raises Taken if the identity belongs to another account, or the account has another identity at the
        provider.
        """
        own = "SELECT subject FROM oauth_link WHERE account = %s AND provider = %s"
        rows = sql.query(own, (account, provider))
        if not rows and sql.query(f"SELECT 1 FROM account WHERE id = %s{sql.for_update}", (account,)):
            add_link(sql, app, account, provider, subject, now)
        elif not rows or text_of(rows[0][0]) != subject:
            raise Taken("link")

    def of(self, account: int) -> list[AccountLink]:
        """The links of an account, ordered by provider."""
        return _LINKS.find(self._store.rows, "WHERE account = %s ORDER BY provider", account)

    @Store.writing_or("absent")
    def remove(
        self, sql: PooledStatements, account: int, provider: str, with_password: bool
    ) -> Literal["done", "absent", "last"]:
        """Delete a link. ``last``: the account could not log in without it.

        ``with_password``: whether a password of the account counts as a way to log in.
        """
        # Of two requests at once, the second sees what the first has deleted.
        own = sql.query(f"SELECT password FROM account WHERE id = %s{sql.for_update}", (account,))
        rows = sql.query("SELECT provider FROM oauth_link WHERE account = %s", (account,))
        if provider not in {text_of(row[0]) for row in rows}:
            return "absent"
        if len(rows) == 1 and not (with_password and own and own[0][0]):
            return "last"
        sql.execute("DELETE FROM oauth_link WHERE account = %s AND provider = %s", (account, provider))
        return "done"
