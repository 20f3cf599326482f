"""Tables of accounts: their devices, relations, and codes that reset passwords."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

_WITH_ACCOUNT: Final = Reason("the deletion of the account erases it, in one transaction")
_SECRET: Final = Reason("codes that reset a password")
_FACTOR: Final = Reason("secrets of a second factor")

TABLES: Final = (
    Table(
        name="account_device",
        key=("account", "id"),
        of_app=Table.OF_ACCOUNTS,
        of_user="account = %s",
        user_as="account",
        erase_user=_WITH_ACCOUNT,
        columns=("account", "id", "name", "since", "expires_at"),
        imported=Reason("a device logs in again: its token is signed by the server that it came from"),
    ),
    Table(
        name="password_reset",
        key=("code",),
        of_app=Table.OF_ACCOUNTS,
        of_user=_SECRET,
        erase_user=_WITH_ACCOUNT,
        columns=_SECRET,
    ),
    Table(
        name="account_factor",
        key=("account",),
        of_app=Table.OF_ACCOUNTS,
        of_user=_FACTOR,
        erase_user=_WITH_ACCOUNT,
        columns=_FACTOR,
    ),
    Table(
        name="recovery_code",
        key=("account", "code"),
        of_app=Table.OF_ACCOUNTS,
        of_user=_FACTOR,
        erase_user=_WITH_ACCOUNT,
        columns=_FACTOR,
    ),
    Table(
        name="relation",
        key=("account", "other"),
        of_app=Table.OF_ACCOUNTS,
        of_user="account = %s",
        user_as="account",
        erase_user=_WITH_ACCOUNT,
        columns=("account", "other", "state", "since"),
        parents=("account", "other"),
    ),
    Table(
        name="account",
        key=("id",),
        of_user="id = %s",
        user_as="account",
        erase_user=_WITH_ACCOUNT,
        columns=(
            *("id", "phone", "email", "confirmed_email", "name", "nickname", "avatar", "created"),
            *("last_seen", "findable", "show_presence", "bot", "guest"),
            *("role", "locked_until", "lock_reason", "factor_since", "status", "away", "status_until"),
        ),
        # Nobody knows this password: people set one by a link.
        imported=(("password", ""), ("version", 0)),
    ),
)
"""In the order of their deletion: accounts last, because the others are found by them."""
