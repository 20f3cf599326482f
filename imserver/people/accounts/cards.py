"""Cards of people: the data that one account sees of others. Finds accounts by
their identifiers and names."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic, time
from typing import Final

import gevent
from msgspec import Struct, field

from imserver.people.accounts.accounts import Accounts, UnknownAccount
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import (
    FINDS,
    FINDS_OF_ADDRESS,
    SEARCHES,
    AccountSettings,
    AppAccountSettings,
    MakeBuckets,
)
from imserver.people.accounts.friends import BLOCKED, STRANGERS, Relation, relation_of
from imserver.people.accounts.identifiers import LOGIN_CHARACTERS, candidates, fits
from imserver.people.accounts.relations import AccountRelations
from imserver.people.accounts.rows import (
    SHORT_STEP_SECONDS,
    STEP_GROWTH,
    AccountStore,
    States,
)
from imserver.plugin.errors import Problems, ServiceRefused, StorageUnavailable
from imserver.plugin.identity import by_address
from imserver.plugin.runtime import Service, until_beat
from imserver.plugin.services import Presence
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Statements
from imserver.plugin.wire import Connection, id_of

log: Final = logging.getLogger(__name__)

CARDS: Final = 100
"""The most cards of one request."""
MOST_FOUND: Final = 20
"""The most accounts on a page of a search."""
SEARCH_SECONDS: Final = 0.3
"""Time after which a search begins no further step."""
FIRST_STEP: Final = 16384
"""Ids that the first step of a search reads, in one transaction."""
_MOST_ONLINE: Final = 500
"""The most users who are online that are read. Some of them hide their
presence."""
_MOST_STORED: Final = 1000
"""Times that one transaction stores."""
MOST_LISTED: Final = 200
"""The most accounts on a page of the directory, and in its list of users who
are online."""
MOST_SEEN: Final = 100_000
"""Limit of the collected accounts. Further ones are not stored."""


class NoFinding(
    ServiceRefused,
    problem=Problems.NOT_ALLOWED,
    detail="Accounts of this app do not find each other",
):
    """Accounts of the app do not find each other (``apps.<app>.accounts.find``,
    ``search``)."""


class Card(Struct, frozen=True):
    """An account as the viewer sees it, who is another account or a back
    end."""

    account: Account
    name: str
    """The user name. ``""`` means that there is no user name, or that the name
    is hidden."""
    relation: Relation
    """The relation to the viewer. ``incoming`` means that the account has sent
    the viewer a friend request."""
    online: bool | None
    """Whether the user is online. None means that this is hidden from the
    viewer."""
    status: tuple[str, bool, int] = ("", False, 0)
    """The status, whether the user is away, and when both end, in Unix seconds
    (0 means never)."""
    email: str = ""
    """The confirmed e-mail address. ``""`` means that there is no address, or
    that the address is hidden."""

    @property
    def last_seen(self) -> int:
        """When the user was last online, in Unix seconds. 0 means that the time
        is hidden or unknown, or that the user is online."""
        if self.online is False:
            return self.account.last_seen
        return 0


class Cards(Service, dict=True):
    """Shows accounts to each other: a *card* has what a viewer may see of an
    account.

    An account sees the presence and user names of friends and of members of
    common conversations, unless they hide these or have blocked the account. A
    back end (user ``""``) always sees them. Every method may switch greenlets
    and raise StorageUnavailable.
    """

    config: Config
    accounts: Accounts
    rows: AccountStore
    relations: AccountRelations
    presence: Presence
    buckets: MakeBuckets

    def __post_init__(self) -> None:
        """Make the rates of searches, by account and by address."""
        settings = settings_of(self.config, AccountSettings)
        seconds = self.config.accounts.rate_seconds
        self._by_account = self.buckets(FINDS, settings.finds_per_account, seconds)
        self._searches = self.buckets(SEARCHES, settings.searches_per_account, seconds)
        self.addresses = self.buckets(
            FINDS_OF_ADDRESS, settings.finds_per_address, seconds
        )
        """Requests per app and network that reveal whether an account
        exists."""

    def find(self, app: str, viewer: str, text: str, address: str) -> Card:
        """The findable account with this identifier.

        ``viewer`` ``""`` is a back end. Raises NoAccounts, NoFinding,
        UnknownAccount (also if the account has blocked ``viewer``) and
        TooManyRequests (never for a back end).
        """
        rules = self.accounts.rules_of(app)
        if viewer:
            if not rules.find:
                raise NoFinding(app)
            self.addresses.require(by_address(app, address))
            self._by_account.require((app, viewer))

        account = self._account_with(app, text)
        if not self._may_find(app, viewer, account):
            raise UnknownAccount(text)
        (card,) = self._cards(app, viewer, [account], found=True)
        return card

    def _may_find(self, app: str, viewer: str, account: Account) -> bool:
        """Whether ``viewer`` may find an account by its identifier.

        Users who are not findable still find themselves, and back ends find
        everybody.
        """
        if viewer not in ("", account.user) and not account.findable:
            return False
        return self.relations.may_reach(app, viewer, account.user)

    def _account_with(self, app: str, identifier: str) -> Account:
        """The account with this identifier. Raises UnknownAccount."""
        row = None
        if fits(identifier, 1, LOGIN_CHARACTERS):
            row = self.rows.by_login(app, *candidates(identifier))
        if row is None:
            raise UnknownAccount(identifier)
        account, _ = row
        return account

    def search(
        self, app: str, viewer: str, text: str, after: str = ""
    ) -> tuple[list[Card], str]:
        """Search people by their names; returns a page, and where the next
        begins.

        Found are members whose nickname and user name contain all words of the
        text. Members come first if words of their names begin with these words.
        Guests, locked accounts, ``viewer``, and accounts with a block between
        them and ``viewer`` are not found. Bots are found only by their whole
        user name, if the app lets accounts find each other by user names.

        ``after`` is the second result of the page before; ``""`` means the
        start, and as a result the end. It is the number of a part and the
        greatest id that is not searched yet, as ``1.4096``. ``viewer`` ``""``
        is a back end, which is not limited. A search that takes long returns a
        page that is not full. Raises NoAccounts, NoFinding and TooManyRequests.
        """
        rules = self._charge_search(app, viewer)
        words = Statements.words(text)
        if not words:
            return [], ""
        part, upto = self._position_in(after)
        accounts: list[Account] = []
        if rules.find and not after:
            accounts = self._find_bot(app, viewer, text)

        next_page = self._add_found(accounts, app, viewer, words, (part, upto))
        return self._cards(app, viewer, accounts, found=True), next_page

    def _add_found(
        self,
        accounts: list[Account],
        app: str,
        viewer: str,
        words: Sequence[str],
        position: tuple[int, int],
    ) -> str:
        """Search from a position on, until a page is full or the time is over.

        The accounts are added to ``accounts``. Returns where the next page
        begins, such as ``1.4096``; ``""`` means that this was the last page.
        """
        part, upto = position
        started_at = monotonic()
        while len(accounts) < MOST_FOUND and monotonic() - started_at < SEARCH_SECONDS:
            missing = MOST_FOUND - len(accounts)
            matching, upto = self._search_part(
                app,
                viewer,
                words,
                at_word_starts=part == 0,
                upto=upto,
                limit=missing,
                started_at=started_at,
            )
            matching.sort(key=lambda account: (account.nickname.casefold(), account.id))
            accounts += matching
            if upto:
                continue
            if part == 1:
                return ""
            # All ids of part 0 were searched. Part 1 begins at the newest
            # account.
            part = 1
            upto = self.rows.last_id()
        return f"{part}.{upto}"

    def _position_in(self, after: str) -> tuple[int, int]:
        """Read where a page of a search begins, such as ``1.4096``.

        Returns the part and the greatest id that is not searched yet. In part
        0, words of the names begin with the words. Part 1 has all other
        accounts whose names contain the words. ``""`` is the start.
        """
        if not after:
            return 0, self.rows.last_id()
        part, upto = after.split(".")
        return int(part), int(upto)

    def directory(
        self, app: str, viewer: str, after: tuple[str, int], limit: int
    ) -> tuple[list[Card], tuple[str, int] | None]:
        """A page of the people whom ``viewer`` can find by :meth:`search`, by
        name.

        ``after`` is the folded name and the id after which this page begins;
        ``("", 0)`` means the start. Returns also the ``after`` of the next
        page, or None if this is the last page. Counts as a search. Raises
        NoAccounts, NoFinding and TooManyRequests.
        """
        self._charge_search(app, viewer)
        accounts, next_page = self.rows.directory_page(
            app, after, limit, now=int(time()), by=id_of(viewer)
        )
        return self._cards(app, viewer, accounts, found=True), next_page

    def online(self, app: str, viewer: str) -> list[Card]:
        """The people of the directory whom ``viewer`` sees online, by name.

        At most :data:`MOST_LISTED` are returned. If very many users are online,
        only some of them are looked at. Counts as a search, and raises what
        :meth:`directory` raises.
        """
        self._charge_search(app, viewer)
        users = self.presence.page(app, None, _MOST_ONLINE).users
        accounts = self.accounts.tokens.those_of(app, users)
        people = [account for account in accounts if _may_be_listed(account)]
        findable = self._findable(viewer, people)
        cards = self._cards(app, viewer, findable, found=True)
        # The card of a user who hides the presence is not online.
        online = [card for card in cards if card.online]
        online.sort(key=lambda card: card.account.nickname.casefold())
        return online[:MOST_LISTED]

    def _charge_search(self, app: str, viewer: str) -> AppAccountSettings:
        """Count a search of ``viewer``, and return the rules of the app.

        A back end (``viewer`` ``""``) may always search. Raises NoAccounts,
        NoFinding and TooManyRequests.
        """
        rules = self.accounts.rules_of(app)
        if viewer:
            if not rules.search:
                raise NoFinding(app)
            self._searches.require((app, viewer))
        return rules

    def _findable(self, viewer: str, accounts: Sequence[Account]) -> list[Account]:
        """The accounts that ``viewer`` may find.

        The account of ``viewer`` is left out, and so are accounts with a block
        between them and ``viewer``.
        """
        others = [account for account in accounts if account.user != viewer]
        states = self.relations.states(viewer, others)
        return [
            account
            for account in others
            if BLOCKED not in states.get(account.id, STRANGERS)
        ]

    def _find_bot(self, app: str, viewer: str, text: str) -> list[Account]:
        """The findable bot with exactly this user name, if ``viewer`` may reach
        it.

        The list is empty if there is no such bot.
        """
        names = [(kind, name) for kind, name in candidates(text) if kind == "name"]
        row = self.rows.by_login(app, *names)
        if row is None:
            return []
        account, _ = row
        if not (account.bot and account.findable) or account.is_locked(time()):
            return []
        if not self.relations.may_reach(app, viewer, account.user):
            return []
        return [account]

    def _search_part(
        self,
        app: str,
        viewer: str,
        words: Sequence[str],
        at_word_starts: bool,
        upto: int,
        limit: int,
        started_at: float,
    ) -> tuple[list[Account], int]:
        """Search the newest accounts with ids up to ``upto``, for some time.

        Returns the accounts whom ``viewer`` may find, and the ``upto`` of the
        next page; 0 if all ids were searched. ``at_word_starts`` has the
        meaning that it has in :meth:`AccountStore.search_page`.

        The search goes in steps from greater ids to smaller ones, until
        :data:`SEARCH_SECONDS` after ``started_at``. As long as the steps are
        fast, each reads more ids than the one before.
        """
        accounts: list[Account] = []
        step_ids = FIRST_STEP
        while upto > 0 and len(accounts) < limit:
            step_started_at = monotonic()
            if step_started_at - started_at >= SEARCH_SECONDS:
                break
            after = max(upto - step_ids, 0)
            missing = limit - len(accounts)
            matching, upto = self.rows.search_page(
                app,
                words,
                at_word_starts,
                after=after,
                upto=upto,
                limit=missing,
                now=int(time()),
            )
            accounts += self._findable(viewer, matching)
            if monotonic() - step_started_at < SHORT_STEP_SECONDS:
                step_ids *= STEP_GROWTH
        return accounts, upto

    def show(self, app: str, viewer: str, users: Sequence[str]) -> list[Card]:
        """The cards of the users who have accounts, in the order of their ids.

        Raises NoAccounts.
        """
        accounts = self.accounts.tokens.those_of(app, users)
        if not accounts:
            # Raises NoAccounts if the app has no accounts.
            self.accounts.rules_of(app)
        return self._cards(app, viewer, accounts)

    def _cards(
        self, app: str, viewer: str, accounts: Sequence[Account], found: bool = False
    ) -> list[Card]:
        """The cards of accounts, as ``viewer`` sees them.

        ``found`` means that the viewer has found them by an identifier or a
        name, which shows their user names, too.
        """
        viewer_id = id_of(viewer)
        others = [account for account in accounts if account.id != viewer_id]
        states = self.relations.states(viewer, others)
        known_users = self.relations.known(app, viewer, others, states)

        seen_whole = _users_seen_whole(accounts, viewer, known_users)
        shows_emails = self.accounts.rules_of(app).show_emails
        view = _View(
            viewer_id=viewer_id,
            seen_whole=seen_whole,
            known_users=known_users,
            seen_with_name=_visible_names(accounts, known_users, found),
            states=states,
            online=self._visible_presence(app, accounts, seen_whole, known_users),
            # Guests see no addresses.
            shows_emails=shows_emails and not self.rows.is_guest(app, viewer_id),
            now=time(),
        )
        return [view.card(account) for account in accounts]

    def _visible_presence(
        self,
        app: str,
        accounts: Sequence[Account],
        seen_whole: Collection[str],
        known_users: Collection[str],
    ) -> dict[str, bool]:
        """User → whether the user is online, for users whose presence the
        viewer may see.

        These are the users in ``seen_whole``, and the users in ``known_users``
        who do not hide their presence.
        """
        visible = []
        for account in accounts:
            is_shown = account.user in known_users and account.show_presence
            if is_shown or account.user in seen_whole:
                visible.append(account.user)
        are_online = self.presence.are_online(app, visible)
        return dict(zip(visible, are_online, strict=True))


def _may_be_listed(account: Account) -> bool:
    """Whether lists of people may have the account: a findable member."""
    return account.findable and not (account.bot or account.guest)


def _users_seen_whole(
    accounts: Sequence[Account], viewer: str, known_users: Collection[str]
) -> Collection[str]:
    """The users whose data ``viewer`` sees completely.

    Users see themselves whole. A back end (``viewer`` ``""``) sees the same
    data of each user as the user. It knows all users.
    """
    if not viewer:
        return known_users
    viewer_id = id_of(viewer)
    return {account.user for account in accounts if account.id == viewer_id}


def _visible_names(
    accounts: Sequence[Account], known_users: Collection[str], found: bool
) -> set[str]:
    """The users whose user names the viewer sees.

    These are findable users whom the viewer has ``found``, or knows.
    """
    return {
        account.user
        for account in accounts
        if account.findable and (found or account.user in known_users)
    }


class _View(Struct, frozen=True):
    """The details of accounts that a viewer may see: an account or a back end."""

    viewer_id: int
    """The id of the viewer. 0 means that the viewer is a back end."""
    seen_whole: Collection[str]
    """The users whose data the viewer sees completely."""
    known_users: Collection[str]
    """The users whom the viewer knows; see :meth:`AccountRelations.known`."""
    seen_with_name: Collection[str]
    """The users whose user names the viewer sees."""
    states: Mapping[int, States]
    """Account id → the states of the viewer and the account towards each
    other."""
    online: Mapping[str, bool]
    """User → whether the user is online. Users who hide their presence are left
    out."""
    shows_emails: bool
    """Whether the viewer may see confirmed e-mail addresses."""
    now: float
    """Unix seconds."""

    def card(self, account: Account) -> Card:
        """The card of an account."""
        user = account.user
        status = ("", False, 0)
        if user in self.seen_whole or user in self.known_users:
            status = account.status_at(self.now)
        return Card(
            account,
            name=self._visible_name(account),
            relation=self._relation(account),
            online=self.online.get(user),
            status=status,
            email=self._visible_email(account),
        )

    def _visible_name(self, account: Account) -> str:
        """The user name of an account, or ``""`` if the viewer does not see
        it.

        Anybody sees the user names of bots.
        """
        user = account.user
        if account.bot or user in self.seen_whole or user in self.seen_with_name:
            return account.name
        return ""

    def _relation(self, account: Account) -> Relation:
        """The relation of the viewer to an account, for example ``friend``."""
        if account.id == self.viewer_id:
            return "self"
        return relation_of(self.states.get(account.id, STRANGERS))

    def _visible_email(self, account: Account) -> str:
        """The e-mail address of an account, or ``""`` if the viewer does not
        see it."""
        is_seen_with_name = account.user in self.seen_with_name
        if self.shows_emails and account.email_confirmed and is_seen_with_name:
            return account.email
        return ""


class LastSeen(Service):
    """Stores when the last connection of an account has ended.

    The times are stored once a second for all accounts. A node that is killed
    loses the times of the last second.
    """

    rows: AccountStore
    wanted_in: Callable[[str], bool]
    _seen: dict[tuple[str, int], int] = field(default_factory=dict)
    """(app, account id) → the Unix second at which the last connection of the
    account ended. The time is kept here until it is stored."""
    _running: bool = False

    def ended(self, connection: Connection, _code: int) -> None:
        """Note that a connection has ended. Never switches greenlets."""
        app = connection.app
        user = connection.user
        if not (app and user):
            return
        id = id_of(user)
        if not id or not self.wanted_in(app):
            return  # the user has no account
        # If the database fails for long, the times of further users are lost.
        if len(self._seen) < MOST_SEEN:
            self._seen[app, id] = int(time())
        if not self._running:
            self._running = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        """The function of a greenlet: store the collected times, until no time
        is left."""
        try:
            while self._seen:
                gevent.sleep(until_beat())
                self.flush()
        finally:
            self._running = False

    def flush(self) -> None:
        """Store the collected times.

        May switch greenlets. After an error they are lost.
        """
        while self._seen:
            # Removed before the transaction, which may switch greenlets: a
            # later time of the same account must not be lost.
            last_seen = list(self._seen.items())[:_MOST_STORED]
            for key, _ in last_seen:
                del self._seen[key]
            rows = [(app, id, seconds) for (app, id), seconds in last_seen]
            try:
                self.rows.store_last_seen(rows)
            except StorageUnavailable as error:
                log.warning(
                    "%d last-seen times were not stored: %s", len(last_seen), error
                )
