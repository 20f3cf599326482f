"""The declarations of the feature: settings, problems and tables."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.errors import HttpProblem
from imserver.plugin.http import about
from imserver.plugin.identity import Buckets, Rate
from imserver.plugin.settings import (
    HTTP_URL,
    Amount,
    Config,
    Count,
    Duration,
    Locations,
    Secret,
    TenantSettings,
    app_settings_of,
    settings_of,
)
from imserver.plugin.storage import Reason, Table

_AN_HOUR: Final = "within accounts.rate_seconds"
_FAILING: Final = "within accounts.failure_seconds"
MakeBuckets = Callable[[Rate, float, float], Buckets]
"""(rate, number, seconds) → buckets that all nodes share."""

BOT_MESSAGES: Final = Rate(
    "bot_messages",
    "messages",
    "bot",
    "limits.bot_rate per second",
    "1008, over HTTP 429",
    burst=5,
)
GUEST_MESSAGES: Final = Rate(
    "guest_messages",
    "messages",
    "guest",
    "limits.guest_rate per second",
    "1008, over HTTP 429",
    burst=5,
)
REGISTRATIONS: Final = Rate(
    "register",
    "registrations",
    "address",
    f"accounts.registrations_per_address {_AN_HOUR}",
)
LOGINS: Final = Rate(
    "login", "logins", "address", f"accounts.logins_per_address {_AN_HOUR}"
)
PROVIDER_LOGINS: Final = Rate(
    "provider",
    "logins with a provider",
    "address",
    f"accounts.logins_per_address {_AN_HOUR}",
)
FAILURES: Final = Rate(
    "pair", "wrong passwords", "account and address", f"accounts.failures {_FAILING}"
)
FAILURES_OF_ACCOUNT: Final = Rate(
    "account", "wrong passwords", "account", f"accounts.failures_per_account {_FAILING}"
)
FAILURES_OF_ADDRESS: Final = Rate(
    "network", "wrong passwords", "address", f"accounts.failures_per_address {_FAILING}"
)
FAILURES_OF_DEVICE: Final = Rate(
    "device", "wrong passwords", "device", f"accounts.failures {_FAILING}"
)
FACTOR_CODES: Final = Rate(
    "factor",
    "wrong codes of a second factor",
    "account or known device",
    "20 within a day",
)
GUESTS: Final = Rate(
    "guest", "guests", "address", f"accounts.guests_per_address {_AN_HOUR}"
)
FINDS: Final = Rate(
    "find",
    "searches for an account",
    "account",
    f"accounts.finds_per_account {_AN_HOUR}",
)
FINDS_OF_ADDRESS: Final = Rate(
    "find_network",
    "searches for an account, previews of invitations",
    "address",
    f"accounts.finds_per_address {_AN_HOUR}",
)
SEARCHES: Final = Rate(
    "search",
    "searches for people",
    "account",
    f"accounts.searches_per_account {_AN_HOUR}",
)
RESET_MAILS: Final = Rate(
    "reset", "mails for a forgotten password", "account", f"3 {_AN_HOUR}", "no mail"
)
CONFIRM_MAILS: Final = Rate(
    "confirm", "mails that confirm an e-mail address", "account", f"3 {_AN_HOUR}"
)
ADDRESS_MAILS: Final = Rate(
    "mail_address",
    "mails of these kinds, and invitations",
    "e-mail address",
    f"3 {_AN_HOUR}",
    "429; for a forgotten password no mail, for an invitation often",
)


class AccountSettings(Struct, frozen=True):
    """Keys of section ``accounts``: registration and limits of accounts.

    If ``registration`` is None, it is open while there is no API key. After
    ``guest_days``, the account of an unused guest is deleted.
    """

    registration: bool | None = None
    failures: Amount = 10
    failures_per_account: Amount = 100
    failures_per_address: Amount = 100
    failure_seconds: Duration = 900.0
    registrations_per_address: Count = 100
    logins_per_address: Count = 1000
    guests_per_address: Count = 250
    guest_days: Annotated[float, Meta(ge=0, le=1_000_000_000)] = 30.0
    finds_per_account: Amount = 100
    finds_per_address: Count = 1000
    searches_per_account: Amount = 1000
    devices: Amount = 100
    friends: Amount = 5000


class SenderLimits(Struct, frozen=True):
    """Keys of section ``limits``: messages per second of a bot, and of a guest,
    on one node."""

    bot_rate: Annotated[float, Meta(ge=0, le=1_000_000_000)] = 20.0
    guest_rate: Annotated[float, Meta(ge=0, le=1_000_000_000)] = 1.0


class SmtpSettings(Struct, frozen=True):
    """Section ``smtp``: the server that takes mail to users.

    Without a ``host`` no mail is sent.
    """

    host: Annotated[str, Meta(extra={"host": True})] = ""
    port: Annotated[int, Meta(ge=1, le=65535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: Secret = ""
    sender: str = ""


class AppAccountSettings(Struct, frozen=True):
    """The account rules of an app.

    ``passwords`` False: accounts log in with a provider only.
    """

    identifiers: Annotated[
        tuple[Literal["phone", "email", "name"], ...],
        about(
            "The kinds of identifiers. An account has at least one of them.",
            api={"min_length": 1},
        ),
    ] = ("phone", "email", "name")
    find: Annotated[
        bool, about("Whether accounts can find each other by their identifiers.")
    ] = True
    search: Annotated[
        bool,
        about(
            "Whether accounts can find each other by parts of their nickname and user "
            "name."
        ),
    ] = False
    show_emails: Annotated[
        bool,
        about(
            "Whether accounts that see a user name also see the confirmed e-mail "
            "address."
        ),
    ] = False
    passwords: Annotated[bool, about("Whether accounts log in with a password.")] = True
    factor_for: Annotated[
        tuple[Literal["owner", "moderator"], ...],
        about(
            "Roles that an account may use only if it has a second factor.", by_key=True
        ),
    ] = ()
    guests: Annotated[
        bool,
        about("Whether members can make invitations for people without an account."),
    ] = False
    ask_strangers: Annotated[
        bool,
        about(
            "Whether users can add to groups only friends, members of common groups, "
            "and people who have written to them. All others join by an invitation."
        ),
    ] = False
    reset_url: Annotated[
        str,
        about(
            "The page to which the mail for a forgotten password links. Empty: no "
            "page; in `gochat` the messages page.",
            api={"pattern": "^(https?://.+)?$", "max_length": 1000},
        ),
    ] = ""


class AccountsOfApp(Struct, frozen=True):
    """The keys of an app."""

    accounts: AppAccountSettings = AppAccountSettings()


def rules_of(tenant: TenantSettings) -> AppAccountSettings:
    """The account rules of an app."""
    return app_settings_of(tenant, AccountsOfApp).accounts


def objection(_name: str, settings: TenantSettings) -> str:
    """The error in the account settings of an app; ``""`` if they are valid."""
    rules = rules_of(settings)
    if not rules.identifiers:
        return "accounts: expected at least one of phone, email and name"
    if rules.reset_url and not HTTP_URL.match(rules.reset_url):
        return "accounts.reset_url: expected an http:// or https:// address"
    return ""


def check(config: Config, locations: Locations) -> Iterator[tuple[str, str]]:
    """Check the settings that mails need.

    Raises ConfigError. Yields the names of settings that a careful operator
    would change, each with a reason.
    """
    smtp = settings_of(config, SmtpSettings)
    if smtp.host and not re.fullmatch(r"[^\s@<>]+@[^\s@<>]+", smtp.sender):
        raise locations.wrong(
            "smtp.sender", "expected the e-mail address of the sender"
        )
    if smtp.host and not HTTP_URL.match(config.app.http_url):
        # A link made from the Host of a request could lead to an attacker.
        needs = "app.http_url with http:// or https://: links in mails begin with it"
        raise locations.lacks("smtp.host", needs)
    yield from _warnings(settings_of(config, AccountSettings))


def _warnings(accounts: AccountSettings) -> Iterator[tuple[str, str]]:
    """The settings that a careful operator would change, each with a reason."""
    if accounts.registration:
        yield (
            "accounts.registration",
            "anybody may register an account; set false if back ends do it",
        )
    if not accounts.registrations_per_address:
        yield "accounts.registrations_per_address", "0 means no limit; set one"
    if not accounts.logins_per_address:
        yield "accounts.logins_per_address", "0 means no limit; set one"


SETTINGS: Final = SettingsRow(
    {
        "accounts": AccountSettings,
        "limits": SenderLimits,
        "smtp": SmtpSettings,
        "apps.*": AccountsOfApp,
        "apps.*.account_tokens": None,
    },
    objection,
    check,
)


HTTP_UNKNOWN_DEVICE: Final = HttpProblem(
    404, "unknown_device", "The account has no such device, or its login has ended."
)
HTTP_UNKNOWN_RESET: Final = HttpProblem(
    404,
    "unknown_reset",
    "No such code to reset a password, or it has expired or was used.",
)
HTTP_NO_GUEST: Final = HttpProblem(
    409, "no_guest", "The account does not belong to a guest."
)
HTTP_TOO_MANY_FRIENDS: Final = HttpProblem(
    409,
    "too_many_friends",
    "One of the two users would have more friends than accounts.friends.",
)

_WITH_ACCOUNT: Final = Reason(
    "the deletion of the account erases it, in one transaction"
)
_FACTOR: Final = Reason("secrets of a second factor")

TABLES: Final = (
    Table(
        name="account_device",
        types=(
            "account big* out user, id big* out, name name255 out, since big out, "
            "expires_at big out"
        ),
        of_app=Table.OF_ACCOUNTS,
        erase_user=_WITH_ACCOUNT,
        imported=Reason(
            "a device logs in again: its token is signed by the server that it came "
            "from"
        ),
    ),
    Table(
        name="password_reset",
        types="code name64*, account big, expires_at big",
        of_app=Table.OF_ACCOUNTS,
        of_user=Reason("codes that reset a password"),
        erase_user=_WITH_ACCOUNT,
    ),
    Table(
        name="account_factor",
        types="account big*, secret name64, step big",
        of_app=Table.OF_ACCOUNTS,
        of_user=_FACTOR,
        erase_user=_WITH_ACCOUNT,
    ),
    Table(
        name="recovery_code",
        types="account big*, code name64*",
        of_app=Table.OF_ACCOUNTS,
        of_user=_FACTOR,
        erase_user=_WITH_ACCOUNT,
    ),
    Table(
        name="relation",
        types="account big* out user, other big* out, state string8 out, since big out",
        of_app=Table.OF_ACCOUNTS,
        erase_user=_WITH_ACCOUNT,
        parents=("account", "other"),
    ),
    Table(
        name="account",
        types="""id bigserial out user, app name500, phone name500 out, password string255 empty,
            version big empty, email name254? out, confirmed_email name254? out, name name32? out,
            nickname string64 out, avatar string1000 out, created big out, last_seen big=0 out,
            findable small=1 out, show_presence small=1 out, bot small=0 out, guest small=0 out,
            role name16='' out, locked_until big=0 out, lock_reason string200? out, factor_since big=0 out,
            folded name1000?, status string80? out, away small=0 out, status_until big=0 out,
            title string64? out""",
        erase_user=_WITH_ACCOUNT,
        # Nobody knows this password: people set one by a link.
    ),
)
"""The tables in the order of their deletion. Accounts come last, because rows
of the other tables are found by them."""
