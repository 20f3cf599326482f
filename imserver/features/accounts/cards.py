"""Cards of people: what one account sees of others, and finding an account by its identifiers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Final

import gevent
from msgspec import Struct

from imserver.features.accounts.accounts import Accounts, UnknownAccount
from imserver.features.accounts.contract import NICKNAME_CHARACTERS
from imserver.features.accounts.friends import STRANGERS, Relation, relation_of
from imserver.features.accounts.identifiers import LOGIN_CHARACTERS, candidates, fits
from imserver.features.accounts.relations import AccountRelations
from imserver.features.accounts.rows import AccountStore
from imserver.features.accounts.settings import (
    FINDS,
    FINDS_OF_ADDRESS,
    SEARCHES,
    AccountSettings,
    MakeBuckets,
)
from imserver.plugin.errors import ImserverError, StorageUnavailable
from imserver.plugin.identity import by_address
from imserver.plugin.runtime import until_beat
from imserver.plugin.services import SessionServices
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Account, Statements
from imserver.plugin.wire import Connection, id_of

log: Final = logging.getLogger(__name__)

CARDS: Final = 100
"""The most cards of one request."""
MOST_FOUND: Final = 20
"""The most accounts that a search shows."""
SEARCH_SECONDS: Final = 0.3
"""Time after which a search begins no further step."""
_CANDIDATES: Final = 200
"""Accounts with the text among which a search chooses."""
_FIRST_STEP: Final = 4096
"""Ids that the first step of a search looks at, in one transaction."""
_SHORT_SECONDS: Final = 0.005
"""After a shorter step the next one is twice as long."""
MOST_SEEN: Final = 100_000
"""Limit of the collected accounts. Beyond it further ones are not stored."""
_SEEN_AT_ONCE: Final = 1000


class NoFinding(ImserverError):
    """Accounts of the app do not find each other (``apps.<app>.accounts.find``, ``search``)."""


class Card(Struct, frozen=True):
    """An account as another one, or a back end, sees it."""

    account: Account
    name: str
    """The user name; ``""``: none, or hidden."""
    relation: Relation
    """To the one who asks; ``incoming``: it has asked to be a friend."""
    online: bool | None
    """None: hidden."""

    @property
    def last_seen(self) -> int:
        """Unix seconds; 0: hidden, unknown, or online."""
        return self.account.last_seen if self.online is False else 0


class Cards:
    """Shows accounts to each other. Every method may switch and raise StorageUnavailable.

    An account sees the presence and user names of friends and of members of common conversations, unless they
    hide them or have blocked the account. A back end (user ``""``) sees them always.
    """

    def __init__(
        self,
        config: Config,
        accounts: Accounts,
        rows: AccountStore,
        relations: AccountRelations,
        sessions: SessionServices,
        buckets: MakeBuckets,
    ) -> None:
        settings, seconds = settings_of(config, AccountSettings), config.accounts.rate_seconds
        self._accounts = accounts
        self._rows = rows
        self._relations = relations
        self._presence = sessions.presence
        self._by_account = buckets(FINDS, settings.finds_per_account, seconds)
        self._searches = buckets(SEARCHES, settings.searches_per_account, seconds)
        self.addresses = buckets(FINDS_OF_ADDRESS, settings.finds_per_address, seconds)
        """Requests per app and network that tell whether something exists."""

    def find(self, app: str, by: str, text: str, address: str) -> Card:
        """The findable account with this identifier. ``by`` ``""``: a back end, which is not limited.

        Raises NoAccounts, NoFinding, UnknownAccount (also if the account has blocked ``by``) and
        TooManyRequests.
        """
        rules = self._accounts.rules_of(app)
        if by:
            if not rules.find:
                raise NoFinding(app)
            self.addresses.require(by_address(app, address))
            self._by_account.require((app, by))
        found = self._rows.by_login(app, *candidates(text)) if fits(text, 1, LOGIN_CHARACTERS) else None
        account = None if found is None else found[0]
        if account is None or (by not in ("", account.user) and not account.findable):
            raise UnknownAccount(text)
        if not self._relations.may_reach(app, by, account.user):
            raise UnknownAccount(text)
        return self._cards(app, by, [account], found=True)[0]

    def search(self, app: str, by: str, text: str) -> tuple[list[Card], bool]:
        """The findable members whose nickname or user name contains a text, at most :data:`MOST_FOUND`, and
        whether there may be more. Names that begin with it come first.

        Bots, guests, ``by`` and those who have blocked ``by`` are not found. ``by`` ``""``: a back end, which
        is not limited. Raises NoAccounts, NoFinding and TooManyRequests.
        """
        rules, text = self._accounts.rules_of(app), text.strip()
        if by:
            if not rules.search:
                raise NoFinding(app)
            self._searches.require((app, by))
        if not fits(text, 1, NICKNAME_CHARACTERS):
            return [], False
        found, more = self._named(app, by, text)
        folded = text.casefold()
        found.sort(key=lambda each: (not _begins(each, folded), each.nickname.casefold(), each.id))
        return self._cards(app, by, found[:MOST_FOUND], found=True), more or len(found) > MOST_FOUND

    def _named(self, app: str, by: str, text: str) -> tuple[list[Account], bool]:
        """The newest accounts with this text, and whether there may be more. Looks at more and more ids at a
        time, as long as that is fast, for at most :data:`SEARCH_SECONDS`."""
        words, folded = Statements.spellings(text), text.casefold()
        found: list[Account] = []
        upto, step, began = self._rows.last_id(), _FIRST_STEP, monotonic()
        while upto > 0 and len(found) < _CANDIDATES:
            if monotonic() - began > SEARCH_SECONDS:
                return found, True
            after, step_began = max(upto - step, 0), monotonic()
            some = self._rows.named(app, words, after, upto, _CANDIDATES)
            others = [each for each in some if each.user != by and _has(each, folded)]
            away = set(self._relations.blocked_by(app, by, [each.user for each in others])) if by else ()
            found += [each for each in others if each.user not in away]
            upto = some[-1].id - 1 if len(some) == _CANDIDATES else after
            if monotonic() - step_began < _SHORT_SECONDS:
                step *= 2
        return found, upto > 0

    def show(self, app: str, by: str, users: Sequence[str]) -> list[Card]:
        """The cards of the users who have accounts, in the order of their ids. Raises NoAccounts."""
        found = self._accounts.those_of(app, users)
        if not found:
            self._accounts.rules_of(app)
        return self._cards(app, by, found)

    def _cards(self, app: str, by: str, accounts: Sequence[Account], found: bool = False) -> list[Card]:
        """``found``: by an identifier, which shows user names, too."""
        mine = id_of(by)
        others = [account for account in accounts if account.id != mine]
        states = self._relations.states(by, others)
        known = self._relations.known(app, by, others, states)
        own = {account.user for account in accounts if account.id == mine} if by else known
        named = {
            account.user for account in accounts if account.findable and (found or account.user in known)
        }
        visible = [
            account.user
            for account in accounts
            if account.user in own or (account.user in known and account.show_presence)
        ]
        online = dict(zip(visible, self._presence.are_online(app, visible), strict=True))
        return [
            Card(
                account,
                account.name if account.user in own | named else "",
                "self" if account.id == mine else relation_of(states.get(account.id, STRANGERS)),
                online.get(account.user),
            )
            for account in accounts
        ]


def _has(account: Account, folded: str) -> bool:
    return folded in account.nickname.casefold() or folded in account.name


def _begins(account: Account, folded: str) -> bool:
    return account.nickname.casefold().startswith(folded) or account.name.startswith(folded)


class LastSeen:
    """Stores when the last connection of an account has ended, once a second for all of them.

    A node that is killed loses those of the last second. ``wanted_in``: whether an app has accounts.
    """

    def __init__(self, rows: AccountStore, wanted_in: Callable[[str], bool]) -> None:
        self._rows = rows
        self._wanted_in = wanted_in
        self._seen: dict[tuple[str, int], int] = {}
        self._running = False

    def ended(self, connection: Connection, _code: int) -> None:
        """A connection has ended. Never switches."""
        app, user = connection.app, connection.user
        if not (app and user):
            return
        id = id_of(user)
        if not id or not self._wanted_in(app):
            return
        if len(self._seen) < MOST_SEEN:
            self._seen[app, id] = int(time())
        if not self._running:
            self._running = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        """Greenlet: store, as long as there is anything to store."""
        try:
            while self._seen:
                gevent.sleep(until_beat())
                self.flush()
        finally:
            self._running = False

    def flush(self) -> None:
        """Store what was collected. May switch. What cannot be stored is lost."""
        while self._seen:
            some = list(self._seen.items())[:_SEEN_AT_ONCE]
            for key, _ in some:
                del self._seen[key]
            try:
                self._rows.saw([(app, id, seen) for (app, id), seen in some])
            except StorageUnavailable as error:
                log.warning("%d last-seen times were not stored: %s", len(some), error)
