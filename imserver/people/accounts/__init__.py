"""Accounts: users who register and log in, their friends, cards and forgotten
passwords."""

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
from imserver.plugin import CommandOf, FeatureRow

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
    commands=(
        CommandOf(
            "account",
            "imserver.people.accounts.command:account",
            "List, lock and import accounts.",
        ),
    ),
    answers=parts.answers,
    uses=("messages",),
    settings=SETTINGS,
    tables=TABLES,
)
