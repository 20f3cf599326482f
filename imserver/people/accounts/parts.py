"""The parts of accounts on one node."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import time
from typing import Final
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
    MakeBuckets,
    SmtpSettings,
)
from imserver.people.accounts.factors import Factors, FactorStore
from imserver.people.accounts.friends import Friends
from imserver.people.accounts.guests import Guests, MemberGreeting
from imserver.people.accounts.link_mails import LinkMails
from imserver.people.accounts.people import People, PeopleStore
from imserver.people.accounts.relations import AccountRelations
from imserver.people.accounts.resets import Resets
from imserver.people.accounts.rows import AccountStore
from imserver.people.accounts.tokens import AccountTokens
from imserver.plugin import Parts
from imserver.plugin.identity import Act, Principal
from imserver.plugin.messages import MessageServices
from imserver.plugin.runtime import every
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Erasure, Store
from imserver.plugin.wire import id_of

EXPIRE_SECONDS: Final = 3600.0
"""How often unused guests are looked for."""


class AccountParts(Struct, frozen=True):
    """The services of accounts on one node, for routes and other features."""

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
    """The address of this server's own page for chats.

    ``""`` means that the node has no such page.
    """
    if "pages" in core.features:
        return f"{core.config.address}/home/messages"
    return ""


def answers(base: Core) -> tuple[object, ...]:
    """Build the objects that answer questions of the core about accounts.

    They tell to whom a token belongs, and whom a user may reach and see.
    """
    rows = AccountStore(base.store)
    tokens = AccountTokens(base, rows)
    return tokens, AccountRelations(rows, base.store, tokens)


@contextmanager
def offline(
    _config: Config, store: Store, _tenants: object
) -> Iterator[tuple[Erasure]]:
    """The erasure of accounts, for a command that runs without a server."""
    rows = AccountStore(store)

    def erase_user(app: str, user: str, _name: str) -> None:
        """Delete the account of a user."""
        rows.remove(app, id_of(user))

    yield (Erasure(frozenset(), erase_user, _erase_app, rows.programs_of),)


def _erase_app(_app: str) -> None:
    """Do nothing: the store deletes the rows of the tables."""


def build(core: Core) -> Parts:
    """Build the services of accounts on a node, and join them to the core.

    The services that the core itself asks were built before (:func:`answers`).
    """
    parts = _make_parts(core)
    accounts = parts.accounts
    guests = parts.guests

    def stop() -> None:
        parts.last_seen.flush()
        parts.resets.mails.stop()
        accounts.close()

    def expire_guests() -> None:
        guests.expire(int(time()))

    run: list[Callable[[], None]] = []
    if guests.unused_seconds:
        run.append(
            every(EXPIRE_SECONDS, expire_guests, "unused guests could not be deleted")
        )
    # No tables are named: the store deletes the rows of a deleted app.
    erasure = Erasure(frozenset(), accounts.erase, _erase_app, parts.rows.programs_of)
    return Parts(
        (parts, parts.people, erasure),
        ended=(parts.last_seen.ended,),
        run=tuple(run),
        stop=stop,
    )


def _make_resets(
    core: Core, accounts: Accounts, rows: AccountStore, mails: LinkMails
) -> Resets:
    """Build the resets of passwords by mail, with their rate of an account."""
    return Resets(
        accounts,
        rows,
        mails,
        of_account=mails.buckets(RESET_MAILS),
        own_page=partial(chat_page_of, core),
    )


def _make_parts(core: Core) -> AccountParts:
    """Build the services of accounts for routes and other features."""
    config = core.config
    settings = settings_of(config, AccountSettings)
    rows = AccountStore(core.store)
    tokens = core.service(AccountTokens)
    relations = core.service(AccountRelations)
    messages = core.service(MessageServices)
    # The attempts at all nodes count together.
    buckets = partial(core.buckets.make, shared=core.attempt)

    accounts = _make_accounts(core, rows, tokens, buckets)
    people = PeopleStore(core.store)
    mails = LinkMails(
        settings_of(config, SmtpSettings), config.accounts.rate_seconds, buckets
    )
    return AccountParts(
        rows=rows,
        tokens=tokens,
        accounts=accounts,
        friends=Friends(rows, limit=settings.friends, send=messages.signals.send),
        people=People(people, rows, accounts, core.sessions, core.presence),
        guests=_make_guests(core, accounts, messages),
        cards=Cards(config, accounts, rows, relations, core.presence, buckets),
        resets=_make_resets(core, accounts, rows, mails),
        confirmations=_make_confirmations(core, accounts, mails),
        last_seen=LastSeen(rows, tokens.wanted_in),
    )


def _make_accounts(
    core: Core, rows: AccountStore, tokens: AccountTokens, buckets: MakeBuckets
) -> Accounts:
    """Build the service that registers accounts and checks logins."""

    def is_demo() -> bool:
        """Whether the server is in demo mode now. It ends with the first key."""
        return core.keys.demo

    app = core.config.app
    host = urlsplit(app.http_url).hostname or "imserver"
    return Accounts(
        config=core.config,
        tokens=tokens,
        rows=rows,
        sessions=core.sessions,
        is_demo=is_demo,
        buckets=buckets,
        erase_user=core.erase_user,
        recorder_of=core.observer.recorder,
        refused=core.logins.refused,
        factors=Factors(FactorStore(core.store), buckets, issuer=host),
    )


def _make_guests(core: Core, accounts: Accounts, messages: MessageServices) -> Guests:
    """Build the service that makes guests, and turns them into members."""

    def report_deleted(guest: Account) -> None:
        """Store in the audit log that this node has deleted an unused guest."""
        node = Principal("node", key=core.node_name)
        facts = {"reason": "unused"}
        act = Act(
            "accounts.delete", node, guest.app, guest.user, facts=facts, gone=True
        )
        core.observer.acted(act)

    return Guests(
        config=core.config,
        accounts=accounts,
        rows=accounts.rows,
        presence=core.presence,
        buckets=accounts.buckets,
        deleted=report_deleted,
        admitted=MemberGreeting(messages).send,
    )


def _make_confirmations(
    core: Core, accounts: Accounts, mails: LinkMails
) -> Confirmations:
    """Build the service by which users confirm their e-mail addresses."""
    server = core.config.address
    return Confirmations(
        keys=core.node.keys_for("e-mail confirmations"),
        accounts=accounts,
        rows=accounts.rows,
        mails=mails,
        server=server,
        site=urlsplit(server).netloc,
        of_account=mails.buckets(CONFIRM_MAILS),
    )
