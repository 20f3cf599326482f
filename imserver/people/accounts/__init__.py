"""Accounts: users who register and log in, their friends, cards and forgotten
passwords."""

from typing import Any

from imserver.people.accounts import (
    api,
    cards_api,
    factors_api,
    friends_api,
    mails_api,
    parts,
    people_api,
)
from imserver.people.accounts.contract import NICKNAME_CHARACTERS, Account
from imserver.people.accounts.declared import SETTINGS, TABLES, SmtpSettings, rules_of
from imserver.people.accounts.identifiers import Identifier, checked
from imserver.people.accounts.mailing import Mail, NotSent, send
from imserver.people.accounts.rows import AccountStore
from imserver.people.accounts.tokens import secret_hash
from imserver.plugin import FeatureRow

__all__ = [
    "FEATURE",
    "NICKNAME_CHARACTERS",
    "Account",
    "AccountStore",
    "Identifier",
    "Mail",
    "NotSent",
    "SmtpSettings",
    "checked",
    "rules_of",
    "secret_hash",
    "send",
]


def _commands() -> dict[str, Any]:
    from imserver.people.accounts.command import account

    return {"account": account}


FEATURE = FeatureRow(
    "accounts",
    parts.build,
    offline=parts.offline,
    routes=(
        *api.routes.rows,
        *factors_api.routes.rows,
        *people_api.routes.rows,
        *api.guest_routes.rows,
        *people_api.guest_routes.rows,
        *mails_api.reset_routes.rows,
        *mails_api.routes.rows,
        *cards_api.routes.rows,
        *friends_api.routes.rows,
    ),
    commands=_commands,
    answers=parts.answers,
    uses=("messages",),
    settings=SETTINGS,
    tables=TABLES,
)
