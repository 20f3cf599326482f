"""Tables of bots: their accounts, and incoming webhooks."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

_WITH_ACCOUNT: Final = Reason("the deletion of the account of the bot erases it, in one transaction")

TABLES: Final = (
    Table(
        name="incoming_hook",
        key=("id",),
        of_user="id = %s",
        user_as="account",
        erase_user=_WITH_ACCOUNT,
        columns=("id", "conversation", "created"),
        imported=Reason("the address of a webhook is its secret: its owner makes a new one"),
    ),
    Table(
        name="bot",
        key=("id",),
        of_user="owner = %s",
        user_as="account",
        erase_user=_WITH_ACCOUNT,
        # Not the address of its webhook: some have a secret in it.
        columns=("id", "owner", "commands", "description", "listed"),
        imported=(("token_hash", ""), ("hook_url", ""), ("hook_secret", "")),
        parents=("id", "owner"),
    ),
)
"""In the order of their deletion."""
