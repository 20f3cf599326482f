"""The accounts that are kept, and whom they know: each method is one transaction.

Nothing that speaks to databases is imported before the first of them is called, and where nothing was ever
kept, nothing is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from imserver.storage.contract import Account, Contact, Device, Imported, ListName
from imserver.storage.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection

States = tuple[str, str]
"""What one account is to another, and the other to the one: ``asked``, ``friend``, ``blocked`` or ``""``."""
Relating = Callable[[States], tuple[States, str]]


class AccountStore:
    """The accounts in a store. All methods may switch, and raise StorageUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- accounts -------------------------------------------------------------------------------------------

    def add(self, new: Account, password: str) -> Account:
        """Keep an account; the same with its id. ``password`` is a hash. Raises Taken."""
        from imserver.storage import account_rows as rows

        return self._store.write(lambda connection: rows.add(connection, new, password))

    def by_phone(self, app: str, phone: str) -> tuple[Account, str] | None:
        """The account with this phone number, and the hash of its password."""
        if not self._store.keeps:
            return None
        from imserver.storage import account_rows as rows

        return self._store.read(lambda connection: rows.by_phone(connection, app, phone))

    def by_id(self, app: str, id: int) -> tuple[Account, str] | None:
        """The account with this id, and the hash of its password."""
        if not self._store.keeps:
            return None
        from imserver.storage import account_rows as rows

        return self._store.read(lambda connection: rows.by_id(connection, app, id))

    def by_ids(self, app: str, ids: Sequence[int]) -> list[Account]:
        """Those of these accounts that exist, in the order of their ids."""
        if not self._store.keeps or not ids:
            return []
        from imserver.storage import account_rows as rows

        return self._store.read(lambda connection: rows.by_ids(connection, app, ids))

    def page(self, app: str, after: int, limit: int) -> list[Account]:
        """Accounts of an app in the order of their ids, behind one."""
        if not self._store.keeps:
            return []
        from imserver.storage import account_rows as rows

        return self._store.read(lambda connection: rows.page(connection, app, after, limit))

    def change(self, app: str, id: int, fields: dict[str, Any]) -> Account | None:
        """Change ``nickname`` and ``avatar``, those that are given; None if there is no such account."""
        if not self._store.keeps:
            return None
        from imserver.storage import account_rows as rows

        return self._store.write(lambda connection: rows.change(connection, app, id, fields))

    def set_password(self, id: int, before: str, password: str, ends_sessions: bool = False) -> bool:
        """Put another hash in the place of ``before``; False if that is not there any more."""
        from imserver.storage import account_rows as rows

        return self._store.write(
            lambda connection: rows.set_password(connection, id, before, password, ends_sessions)
        )

    def end_sessions(self, app: str, id: int) -> bool:
        """Make all tokens of an account void; False if there is no such account."""
        if not self._store.keeps:
            return False
        from imserver.storage import account_rows as rows

        return self._store.write(lambda connection: rows.end_sessions(connection, app, id))

    def remove(self, app: str, id: int) -> bool:
        """Delete an account, and whom it knows; False if there is none."""
        if not self._store.keeps:
            return False
        from imserver.storage import account_rows as rows

        return self._store.write(lambda connection: rows.remove(connection, app, id))

    # --- devices --------------------------------------------------------------------------------------------

    def by_device(self, app: str | None, id: int, device: int) -> tuple[Account, Device] | None:
        """The account with this id, and the login of it that has not ended. ``app`` None: of any app."""
        if not self._store.keeps:
            return None
        from imserver.storage import account_rows as rows

        def work(connection: Connection) -> tuple[Account, Device] | None:
            found, row = rows.by_id(connection, app, id), rows.device(connection, id, device)
            return None if found is None or row is None else (found[0], row)

        return self._store.read(work)

    def add_device(self, id: int, version: int, new: Device, most: int) -> bool:
        """Remember a login of a version of an account; of more than ``most`` the oldest end.

        False if the account has another version by now, or is gone.
        """
        from imserver.storage import account_rows as rows

        return self._store.write(lambda connection: rows.add_device(connection, id, version, new, most))

    def devices(self, id: int, now: int) -> list[Device]:
        """The logins that have not ended, the newest first."""
        if not self._store.keeps:
            return []
        from imserver.storage import account_rows as rows

        return self._store.read(lambda connection: rows.devices(connection, id, now))

    def remove_device(self, id: int, device: int) -> Device | None:
        """End a login; which it was, None if there is none."""
        if not self._store.keeps:
            return None
        from imserver.storage import account_rows as rows

        return self._store.write(lambda connection: rows.remove_device(connection, id, device))

    # --- accounts from elsewhere ----------------------------------------------------------------------------

    def there(self, app: str, some: Sequence[Imported]) -> list[Account]:
        """The accounts that have the id, or in the app the phone number, of one of these."""
        if not self._store.keeps:
            return []
        from imserver.storage import account_rows as rows

        return self._store.read(lambda connection: rows.there(connection, app, some))

    def put(self, some: Sequence[Imported]) -> None:
        """Keep accounts under the ids that they have. Raises Taken if one of them is there."""
        from imserver.storage import account_rows as rows

        self._store.write(lambda connection: rows.put(connection, some))

    # --- who knows whom -------------------------------------------------------------------------------------

    def relate(self, app: str, one: int, two: int, limit: int, becoming: Relating) -> str:
        """Change what two accounts are to each other; what ``becoming`` says of it.

        It is given what the first is to the second, and the second to the first, and returns the same as it
        is to be, and a word. ``"unknown"`` if the two are not both there, ``"full"`` if one of them would be
        something to more than ``limit`` others.
        """
        if not self._store.keeps:
            return "unknown"
        from imserver.storage import account_rows as rows

        def work(connection: Connection) -> str:
            if not rows.lock_both(connection, app, one, two):
                return "unknown"
            before = rows.relations(connection, one, two)
            after, word = becoming(before)
            pairs = ((one, two, before[0], after[0]), (two, one, before[1], after[1]))
            if any(
                new and not old and rows.count_relations(connection, mine) >= limit
                for mine, _, old, new in pairs
            ):
                return "full"
            for mine, other, old, new in pairs:
                if old != new:
                    rows.set_relation(connection, mine, other, new)
            return word

        return self._store.write(work)

    def blocked_by(self, app: str, one: int, others: Sequence[int]) -> list[int]:
        """Those of ``others`` who have blocked an account."""
        if not self._store.keeps or not others:
            return []
        from imserver.storage import account_rows as rows

        return self._store.read(lambda connection: rows.blocked_by(connection, app, one, others))

    def contacts(self, name: ListName, one: int, after: int, limit: int) -> tuple[int, list[Contact]]:
        """How many there are on a list of an account, and a page of it behind an id."""
        if not self._store.keeps:
            return 0, []
        from imserver.storage import account_rows as rows

        return self._store.read(
            lambda connection: (
                rows.count_contacts(connection, name, one),
                rows.contacts(connection, name, one, after, limit),
            )
        )
