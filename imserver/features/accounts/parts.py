"""The parts of accounts on one node."""

from __future__ import annotations

from urllib.parse import urlsplit

from msgspec import Struct

from imserver.features.accounts.accounts import Accounts
from imserver.features.accounts.cards import Cards, LastSeen
from imserver.features.accounts.confirmations import Confirmations
from imserver.features.accounts.friends import Friends
from imserver.features.accounts.guests import Guests
from imserver.features.accounts.link_mails import LinkMails
from imserver.features.accounts.relations import AccountRelations
from imserver.features.accounts.resets import Resets
from imserver.features.accounts.rows import AccountStore
from imserver.features.accounts.settings import AccountSettings, SmtpSettings
from imserver.features.accounts.tokens import AccountTokens
from imserver.plugin import FeatureParts
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


class AccountParts(Struct, frozen=True):
    """The services for routes and other features."""

    rows: AccountStore
    tokens: AccountTokens
    accounts: Accounts
    friends: Friends
    guests: Guests
    cards: Cards
    link_mails: LinkMails
    resets: Resets
    confirmations: Confirmations
    last_seen: LastSeen


def accounts_of(core: Core) -> AccountParts:
    """The parts of accounts on a node."""
    parts: AccountParts = core.features["accounts"].service
    return parts


def build_tokens(core: Core) -> AccountTokens:
    """Build what answers the core who holds a token."""
    return AccountTokens(
        core.config,
        core.key_for("account tokens"),
        AccountStore(core.store),
        core.sender_rates,
        core.tenants,
        lambda: core.keys.demo,
    )


def build_relations(core: Core) -> AccountRelations:
    """Build what answers the core whom a user may reach and see."""
    tokens = _tokens_of(core)
    return AccountRelations(
        AccountStore(core.store),
        core.store,
        tokens.wanted_in,
        lambda app: tokens.rules_of(app).ask_strangers,
    )


def _tokens_of(core: Core) -> AccountTokens:
    tokens = core.accounts
    assert isinstance(tokens, AccountTokens)
    return tokens


def build(core: Core) -> FeatureParts:
    """Build the rest, and join it to the core."""
    config, rows, tokens, relations = core.config, AccountStore(core.store), _tokens_of(core), core.relations
    assert isinstance(relations, AccountRelations)
    attempt = core.attempt
    accounts = Accounts(
        config,
        tokens,
        rows,
        core.sessions.close,
        lambda: core.keys.demo,
        attempt,
        core.erase_user,
        core.observer,
        core.logins.refused,
    )
    friends = Friends(rows, settings_of(config, AccountSettings).friends, core.signals.send)
    cards = Cards(config, accounts, rows, relations, core.presence, attempt)
    guests = Guests(config, accounts, rows, core.presence, attempt)
    smtp, server = settings_of(config, SmtpSettings), config.app.http_url.rstrip("/")
    mails = LinkMails(smtp, config.accounts.rate_seconds, attempt)
    resets = Resets(accounts, rows, mails, lambda: core.chat_page)
    key = core.key_for("e-mail confirmations")
    confirmations = Confirmations(key, accounts, rows, mails, server, urlsplit(server).netloc)
    last_seen = LastSeen(rows, tokens.wanted_in)

    def stop() -> None:
        last_seen.flush()
        mails.stop()
        accounts.close()

    return FeatureParts(
        AccountParts(rows, tokens, accounts, friends, guests, cards, mails, resets, confirmations, last_seen),
        ended=(last_seen.ended,),
        run=(guests.run,),
        stop=stop,
    )
