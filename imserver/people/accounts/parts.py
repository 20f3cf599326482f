"""The parts of accounts on one node."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import time
from urllib.parse import urlsplit

from msgspec import Struct

from imserver.people.accounts.accounts import Accounts
from imserver.people.accounts.cards import Cards, LastSeen
from imserver.people.accounts.confirmations import Confirmations
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import (
    CONFIRM_MAILS,
    RESET_MAILS,
    AccountSettings,
    SmtpSettings,
)
from imserver.people.accounts.factors import Factors, FactorStore
from imserver.people.accounts.friends import Friends
from imserver.people.accounts.guests import Guests
from imserver.people.accounts.link_mails import LinkMails
from imserver.people.accounts.people import People, PeopleStore
from imserver.people.accounts.relations import AccountRelations
from imserver.people.accounts.resets import Resets
from imserver.people.accounts.rows import AccountStore
from imserver.people.accounts.tokens import AccountTokens
from imserver.plugin import Parts
from imserver.plugin.identity import Act, Principal
from imserver.plugin.messages import Draft, MessageServices, ToFollowers
from imserver.plugin.runtime import every
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Erasure, Store
from imserver.plugin.wire import Signal, id_of


class AccountParts(Struct, frozen=True):
    """The services for routes and other features."""

    rows: AccountStore
    tokens: AccountTokens
    accounts: Accounts
    friends: Friends
    people: People
    guests: Guests
    cards: Cards
    resets: Resets
    confirmations: Confirmations
    last_seen: LastSeen


def accounts_of(core: Core) -> AccountParts:
    """The parts of accounts on a node."""
    return core.service(AccountParts)


def chat_page_of(core: Core) -> str:
    """The address of this server's own page for chats; ``""``: the node has
    none."""
    return f"{core.config.address}/home/messages" if "pages" in core.features else ""


def answers(base: Core) -> tuple[object, ...]:
    """Build what answers the core who holds a token, and whom a user may reach
    and see."""
    rows = AccountStore(base.store)
    tokens = AccountTokens(base, rows)
    return tokens, AccountRelations(rows, base.store, tokens)


@contextmanager
def offline(
    _config: Config, store: Store, _tenants: object
) -> Iterator[tuple[Erasure]]:
    """The erasure of accounts in a command."""
    rows = AccountStore(store)

    def erase_user(app: str, user: str, _name: str) -> None:
        rows.remove(app, id_of(user))

    yield (Erasure(frozenset(), erase_user, lambda _: None, rows.programs_of),)


def build(core: Core) -> Parts:
    """Build the rest, and join it to the core."""
    config, rows = core.config, AccountStore(core.store)
    tokens, relations = core.service(AccountTokens), core.service(AccountRelations)
    buckets = partial(core.buckets.make, shared=core.attempt)
    factors = Factors(
        FactorStore(core.store),
        buckets,
        urlsplit(config.app.http_url).hostname or "imserver",
    )
    accounts = Accounts(
        config=config,
        tokens=tokens,
        rows=rows,
        sessions=core.sessions,
        is_demo=lambda: core.keys.demo,
        buckets=buckets,
        erase_user=core.erase_user,
        recorder_of=core.observer.recorder,
        refused=core.logins.refused,
        factors=factors,
    )
    friends = Friends(
        rows,
        settings_of(config, AccountSettings).friends,
        core.service(MessageServices).signals.send,
    )
    people = People(
        PeopleStore(core.store), rows, accounts, core.sessions, core.presence
    )
    cards = Cards(config, accounts, rows, relations, core.presence, buckets)

    def guest_deleted(guest: Account) -> None:
        by = Principal("node", key=core.node_name)
        act = Act(
            "accounts.delete",
            by,
            guest.app,
            guest.user,
            facts={"reason": "unused"},
            gone=True,
        )
        core.observer.acted(act)

    messages = core.service(MessageServices)

    def guest_admitted(member: Account) -> None:
        """Tell them, on all their devices, and have the page read the card
        anew."""
        how = "To log in on other devices, set a password in your profile, with the current one left empty."
        text = f"You are a member now. Your user name is {member.name}. {how}"
        draft = Draft(
            sender="",
            body=text.encode(),
            time_ms=int(time() * 1000),
            to_user=member.user,
        )
        messages.messaging.store(member.app, draft, by_user=False)
        signal = Signal("contact", member.user, "", to=member.user)
        messages.signals.send(ToFollowers(member.app, (member.user,), 0, signal))

    guests = Guests(
        config, accounts, rows, core.presence, buckets, guest_deleted, guest_admitted
    )
    smtp, server = settings_of(config, SmtpSettings), config.address
    mails = LinkMails(smtp, config.accounts.rate_seconds, buckets)
    resets = Resets(
        accounts, rows, mails, mails.buckets(RESET_MAILS), lambda: chat_page_of(core)
    )
    keys = core.node.keys_for("e-mail confirmations")
    site, of_account = urlsplit(server).netloc, mails.buckets(CONFIRM_MAILS)
    confirmations = Confirmations(keys, accounts, rows, mails, server, site, of_account)
    last_seen = LastSeen(rows, tokens.wanted_in)

    def stop() -> None:
        last_seen.flush()
        mails.stop()
        accounts.close()

    parts = AccountParts(
        rows,
        tokens,
        accounts,
        friends,
        people,
        guests,
        cards,
        resets,
        confirmations,
        last_seen,
    )
    return Parts(
        (
            parts,
            people,
            Erasure(frozenset(), accounts.erase, lambda _: None, rows.programs_of),
        ),
        ended=(last_seen.ended,),
        run=(
            every(
                3600.0,
                lambda: guests.expire(int(time())),
                "unused guests could not be deleted",
            ),
        )
        if guests.unused_seconds
        else (),
        stop=stop,
    )
