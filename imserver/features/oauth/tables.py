"""The table of links between accounts and identities at login providers."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

TABLES: Final = (
    Table(
        name="oauth_link",
        key=("app", "provider", "subject"),
        of_user="account = %s",
        user_as="account",
        erase_user=Reason("the deletion of the account erases it, in one transaction"),
        columns=("provider", "subject", "account", "since"),
        parents=("account",),
    ),
)
