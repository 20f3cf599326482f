"""The settings of accounts, and of the mails to their owners."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from imserver.config.declared import Secret, about
from imserver.config.settings import (
    Amount,
    Config,
    Count,
    Duration,
    Finding,
    TenantSettings,
    app_settings_of,
    settings_of,
)
from imserver.config.values import HTTP_URL, ConfigError, Places


class AccountSettings(Struct, frozen=True):
    """Keys of section ``accounts``: registration and limits of accounts. ``registration`` None: open while
    there is no API key."""

    registration: bool | None = None
    failures: Amount = 10
    failures_per_account: Amount = 100
    failures_per_address: Amount = 100
    failure_seconds: Duration = 900.0
    registrations_per_address: Count = 100
    logins_per_address: Count = 1000
    finds_per_account: Amount = 100
    finds_per_address: Count = 1000
    devices: Amount = 100
    friends: Amount = 5000


class SmtpSettings(Struct, frozen=True):
    """Section ``smtp``: the server that takes mail to users. Without a ``host`` no mail is sent."""

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
        about("Kinds of identifiers; an account has at least one of them.", api={"min_length": 1}),
    ] = ("phone", "email", "name")
    find: Annotated[bool, about("Whether accounts find each other by their identifiers.")] = True
    passwords: Annotated[bool, about("Whether accounts log in with a password.")] = True
    reset_url: Annotated[
        str,
        about(
            "The page that the mail for a forgotten password links to. Empty: no page; in `gochat` the "
            "messages page.",
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
    """The error in the account settings of an app; ``""``: none."""
    rules = rules_of(settings)
    if not rules.identifiers:
        return "accounts: expected at least one of phone, email and name"
    if rules.reset_url and not HTTP_URL.match(rules.reset_url):
        return "accounts.reset_url: expected an http:// or https:// address"
    return ""


def check(config: Config, places: Places) -> None:
    """Check what mails need. Raises ConfigError."""
    smtp = settings_of(config, SmtpSettings)
    if not smtp.host:
        return
    if not re.fullmatch(r"[^\s@<>]+@[^\s@<>]+", smtp.sender):
        raise places.wrong("smtp.sender", "expected the e-mail address of the sender")
    if not HTTP_URL.match(config.app.http_url):
        # A link made of the Host of a request could lead to an attacker.
        raise ConfigError(
            f"{places.of('smtp.host')} needs app.http_url with http:// or https://: links in mails begin "
            "with it"
        )


def findings(config: Config, _shared: bool) -> Iterator[Finding]:
    """The settings that a careful operator would change."""
    accounts = settings_of(config, AccountSettings)
    if accounts.registration:
        yield "accounts.registration", "anybody may register an account; set false if back ends do it"
    if not accounts.registrations_per_address:
        yield "accounts.registrations_per_address", "0 means no limit; set one"
    if not accounts.logins_per_address:
        yield "accounts.logins_per_address", "0 means no limit; set one"
