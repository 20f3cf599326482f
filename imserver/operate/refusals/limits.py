"""The limits that refuse somebody now: bans, mutes, locks of accounts, rates.
One act lifts all except mutes, on all nodes."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from time import time
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from imserver.operate.refusals.log import RefusalLog, RefusalRow, Wanted, merged
from imserver.plugin import Parts
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.http import about
from imserver.plugin.identity import Needs, Principal, Rate
from imserver.plugin.runtime import Service, network_of
from imserver.plugin.services import Core
from imserver.plugin.storage import Erasure

_LIST: Final = "refusals.list"
_RATES: Final = "refusals.rates"
_FORGET: Final = "refusals.forget"
_LONG_NUMBER: Final = 20
"""Number of digits from which on a number is not an id."""


class Hold(Struct, array_like=True):
    """A limit that refuses somebody now.

    ``name`` is the name of a rate, ``group`` for a mute in one group, and else
    the kind. ``who`` is whom it refuses. ``until`` is in Unix seconds; 0 means
    until somebody lifts it.
    """

    kind: Annotated[
        Literal["ban", "lock", "rate", "erasure", "mute"],
        about(
            "A ban, the lock of an account, a rate, a scheduled erasure, or a mute. "
            "`limits/lift` ends no erasure: use `users/erase/undo`. It ends no mute: "
            "use `moderation/unmute`, or in one group `groups/mute`."
        ),
    ]
    name: Annotated[
        str,
        about(
            "The name of the rate. `group` for a mute in one group. In all other cases "
            "the same as the kind."
        ),
    ]
    who: Annotated[
        str,
        about("The refused user, account or network, or several of them."),
    ]
    until: Annotated[
        float,
        about(
            "When the refusal ends, or the erasure begins, in Unix seconds; 0: when "
            "somebody lifts it."
        ),
    ]
    detail: Annotated[
        str,
        about(
            "The counted thing and the setting of a rate; the id of the group; or the "
            "reason."
        ),
    ]


def _find_nobody(app: str, login: str) -> str:
    """The function ``find`` of a node without accounts."""
    return ""


def _is_not_locked(app: str, user: str) -> tuple[float, str] | None:
    """The function ``locked`` of a node without accounts."""
    return None


def _unlock_nobody(by: Principal, app: str, user: str) -> bool:
    """The function ``unlock`` of a node without accounts."""
    return False


class PeopleHooks(Struct, frozen=True):
    """Functions of accounts, which are features of their own.

    The defaults fit a node without accounts. All may switch greenlets.

    ``find(app, login)`` returns the user id of the account with this phone
    number, e-mail address or name; ``""`` if there is no such account.
    ``locked(app, user)`` returns the end of the account's lock (0 if it never
    ends) and the reason; None if it is not locked. ``unlock(principal, app,
    user)`` ends the lock, and returns False if the principal may not do that.
    """

    find: Callable[[str, str], str] = _find_nobody
    locked: Callable[[str, str], tuple[float, str] | None] = _is_not_locked
    unlock: Callable[[Principal, str, str], bool] = _unlock_nobody


class RatesQuery(Struct, frozen=True, array_like=True):
    """The query to nodes for the rates that refuse somebody.

    ``names`` are ids of the user, and the id of the account as a number.
    ``networks`` are networks of the user's addresses. ``everywhere`` asks also
    for rates that belong to no app. ``lift`` ends the refusals of the rates
    that are found.
    """

    app: str
    names: tuple[str | int, ...]
    networks: tuple[str, ...]
    everywhere: bool
    lift: bool = False


class ForgetQuery(Struct, frozen=True, array_like=True):
    """The query to forget the refusals of a deleted user."""

    app: str
    names: tuple[str, ...]


class Refusals(Service, dict=True):
    """The refusals and limits of all nodes.

    A *hold* is a limit that refuses somebody now: a ban, mute, lock, rate or
    planned erasure. Methods may switch greenlets.
    """

    finds: ClassVar = "request"
    """The type of things that :meth:`find` finds."""
    core: Core
    log: RefusalLog
    people: PeopleHooks

    def __post_init__(self) -> None:
        """Answer queries of other nodes for refusals and rates."""
        queries = self.core.queries
        queries.add(_LIST, Wanted, self.log.select)
        queries.add(_RATES, RatesQuery, self._rates_here)
        queries.add(_FORGET, ForgetQuery, self._forget_here)

    def names_of(self, app: str, user: str) -> frozenset[str]:
        """The ids by which somebody may be refused.

        They are the text that an operator has typed, and the id of the account
        with this login.
        """
        names = {user}
        if app and user:
            names.add(self.people.find(app, user))
        return frozenset(names - {""})

    def user_of(self, app: str, user: str) -> str:
        """The id of a user, from the id or the login that an operator has
        typed.

        Raises ServiceRefused if all users of the app must have accounts, and no
        account has this id or login.
        """
        if not user or "accounts" not in self.core.features:
            return user
        tenant = self.core.tenants.get(app)
        if tenant is None or not tenant.wants_accounts(app):
            return user
        id = self.people.find(app, user)
        if not id:
            raise ServiceRefused(problem=Problems.UNKNOWN_ACCOUNT)
        return id

    def select(self, wanted: Wanted) -> tuple[list[RefusalRow], list[str]]:
        """The refusals of all nodes, the latest first, and the nodes that did
        not answer."""
        lists, missing = self.core.ask_others(_LIST, wanted, list[RefusalRow])
        return merged([self.log.select(wanted), *lists.values()]), missing

    def find(
        self, principal: Principal, text: str, apps: Collection[str], _limit: int
    ) -> Iterator[tuple[str, str, str, str]]:
        """The refusals of requests with this id, for the search of operators.

        Each is a tuple: id of the request, app, label (the id again), and the
        reason as detail. ``apps`` are the apps that the principal reaches.
        """
        if not principal.may(Needs.OPERATE):
            return
        # None means all apps, and refusals that belong to no app.
        reached = None
        if principal.apps is not None:
            reached = frozenset(apps)
        rows, _ = self.select(Wanted(reached, request=text))
        for row in rows:
            yield text, row.app, text, row.reason

    def holds(
        self,
        app: str,
        names: Collection[str],
        address: str,
        everywhere: bool,
        rows: Collection[RefusalRow],
    ) -> tuple[list[Hold], list[str]]:
        """The holds on somebody, and the nodes that did not answer.

        ``names`` are the ids of the user. ``rows`` are refusals of the user;
        rates of the addresses in these rows are found, too. With
        ``everywhere``, limits that belong to no app are found, too.
        """
        query = self._query(app, names, address, everywhere, rows)
        rates, missing = self._rates(query)
        return [*self._holds_of(app, names), *rates], missing

    def lift(
        self,
        principal: Principal,
        app: str,
        names: Collection[str],
        address: str,
        rows: Collection[RefusalRow],
    ) -> tuple[list[Hold], list[str]]:
        """Lift all limits of somebody except mutes and erasures.

        Returns the lifted limits, and the nodes that did not answer. A limit
        that ``principal`` may not lift stays. ``names``, ``address`` and
        ``rows`` have the meaning that they have in :meth:`holds`.
        """
        reaches_all = principal.apps is None
        query = self._query(app, names, address, reaches_all, rows)
        lifted = self._unlock(principal, app, self._holds_of(app, names))
        banned = [hold.who for hold in lifted if hold.kind == "ban"]
        if banned:
            self.core.sessions.unban(app, self.core.authority.unlocked(app, banned))
        # This also ends the refusals of the rates that it finds.
        rates, missing = self._rates(replace(query, lift=True))
        return [*lifted, *rates], missing

    def _unlock(
        self, principal: Principal, app: str, holds: Sequence[Hold]
    ) -> list[Hold]:
        """End the locks among these holds. Returns the bans and locks that may
        be lifted.

        A lock makes a ban of its account. A principal who may not end the lock
        does not lift the ban.
        """
        locked = [hold.who for hold in holds if hold.kind == "lock"]
        still_locked = {
            who for who in locked if not self.people.unlock(principal, app, who)
        }
        return [
            hold
            for hold in holds
            if hold.kind not in ("erasure", "mute") and hold.who not in still_locked
        ]

    def forget(self, app: str, user: str, _name: str) -> None:
        """Forget the refusals of a deleted user, on all nodes that answer."""
        query = ForgetQuery(app, (user,))
        self._forget_here(query)
        self.core.ask_others(_FORGET, query, bool)

    def _forget_here(self, query: ForgetQuery) -> bool:
        """Forget the refusals of a deleted user on this node.

        Returns True, as the answer to a query of another node.
        """
        self.log.forget(query.app, query.names)
        return True

    def _holds_of(self, app: str, names: Collection[str]) -> list[Hold]:
        """The erasures, bans, locks and mutes of users with these ids."""
        holds: list[Hold] = []
        for name in sorted(names):
            erasure = self.core.sessions.holds.get((app, name))
            if erasure is None:
                holds += self._holds_on(app, name)
            else:
                # Nothing else matters, because the user stays locked out until
                # the erasure begins. 0 means that it has begun.
                begins = erasure.until or 0
                holds.append(
                    Hold("erasure", name="erasure", who=name, until=begins, detail="")
                )
        return holds

    def _holds_on(self, app: str, user: str) -> Iterator[Hold]:
        """The ban, lock and mutes of a user who will not be erased."""
        ban = self.core.sessions.ban_of(app, user)
        if ban is not None:
            # None and 0 mean that the ban has no end.
            yield Hold("ban", "ban", who=user, until=ban.until or 0, detail=ban.reason)
        lock = self.people.locked(app, user)
        if lock is not None:
            ends, reason = lock
            yield Hold("lock", "lock", who=user, until=ends, detail=reason)
        mute = self.core.mutes.mute_of(app, user)
        if mute is not None:
            yield Hold("mute", "mute", who=user, until=mute.until, detail=mute.reason)
        yield from self._mutes_in_groups(app, user)

    def _mutes_in_groups(self, app: str, user: str) -> Iterator[Hold]:
        """The mutes of a user in single groups, with the group as detail.

        Groups that the user has left do not count.
        """
        if "groups" not in self.core.features:
            return
        from imserver.plugin.messages import MessageLog  # a node may have none

        conversations = self.core.store.part(MessageLog).conversations
        for row in conversations.memberships(app, user):
            if row.muted_until > time() and row.left_id is None:
                group = str(row.conversation)
                yield Hold(
                    "mute", "group", who=user, until=row.muted_until, detail=group
                )

    def _query(
        self,
        app: str,
        names: Collection[str],
        address: str,
        everywhere: bool,
        rows: Collection[RefusalRow],
    ) -> RatesQuery:
        """Make the query for the rates of somebody, from the arguments of
        :meth:`holds`.

        Some rates count by user, some by account, and some by network. The
        networks of a user are those from which the user was refused by a rate.
        """
        account_ids = [int(name) for name in names if _is_number(name)]
        networks = set()
        if names:
            networks = {
                network_of(row.address) for row in rows if row.limit and row.address
            }
        if address:
            networks.add(network_of(address))
        payers: tuple[str | int, ...] = (*sorted(names), *account_ids)
        return RatesQuery(
            app, names=payers, networks=tuple(sorted(networks)), everywhere=everywhere
        )

    def _rates(self, query: RatesQuery) -> tuple[list[Hold], list[str]]:
        """The rates that refuse somebody on any node, and the nodes that did
        not answer.

        If several nodes refuse the same payer by one rate, the latest end is
        returned.
        """
        if not (query.names or query.networks):
            return [], []
        # Without a name or network, the query would be for everybody.
        lists, missing = self.core.ask_others(_RATES, query, list[Hold])
        holds = chain(*lists.values(), self._rates_here(query, likely=True))
        return _latest(holds), missing

    def _rates_here(self, query: RatesQuery, likely: bool = False) -> list[Hold]:
        """The rates that refuse somebody on this node.

        A rate has a *bucket* of tokens for each payer; it refuses while the
        bucket is empty. If the query says so, forget the buckets, so that the
        next request finds a full bucket. ``likely`` also looks at buckets that
        only other nodes may have counted.
        """
        now = time()
        rows = self.core.buckets.find(
            query.app,
            query.names,
            query.networks,
            everywhere=query.everywhere,
            likely=likely,
        )
        holds = []
        for buckets, payer in list(rows):  # a copy: ``forget`` changes the buckets
            wait_seconds = buckets.wait(payer)
            if query.lift:
                buckets.forget(payer)
            if not wait_seconds:  # it does not refuse
                continue
            holds.append(_hold_of_rate(buckets.rate, payer, now + wait_seconds))
        return holds


def _latest(holds: Iterable[Hold]) -> list[Hold]:
    """The hold of each rate and payer that ends last."""
    latest: dict[tuple[str, str], Hold] = {}
    for hold in holds:
        before = latest.get((hold.name, hold.who))
        if before is None or before.until < hold.until:
            latest[hold.name, hold.who] = hold
    return list(latest.values())


def _hold_of_rate(rate: Rate, payer: object, until: float) -> Hold:
    """The hold of a rate that refuses a payer until this Unix time."""
    return Hold(
        "rate",
        name=rate.name,
        who=_payer_as_text(payer),
        until=until,
        detail=f"{rate.counted} of one {rate.payer}: {rate.limit}",
    )


def _payer_as_text(payer: object) -> str:
    """A payer as operators read it: an id, an address or a network.

    Most payers are tuples of an app, and a user or network in it. Everybody
    knows the app, so it is left out.
    """
    if isinstance(payer, tuple):
        _app, *others = payer
        return ", ".join(map(str, others))
    return str(payer)


def _is_number(name: str) -> bool:
    """Whether a name is the id of an account, which rates know as a number."""
    return name.isascii() and name.isdecimal() and len(name) < _LONG_NUMBER


def answers(base: Core) -> tuple[object, ...]:
    """Build the log of refusals, which observes them."""

    def is_app(name: str) -> bool:
        return name != "" and base.tenants.get(name) is not None

    return (RefusalLog(is_app),)


def build(core: Core) -> Parts:
    """Build the service for refusals and limits on a node.

    The log of refusals exists already, because logins are refused before this.
    """
    log = core.service(RefusalLog)
    refusals = Refusals(core, log, _people(core))
    core.tenants.report_to(log.forget)
    return Parts((refusals, Erasure(frozenset(), refusals.forget, log.forget)))


def _people(core: Core) -> PeopleHooks:
    """Make the functions of accounts.

    On a node without accounts they find nobody.
    """
    if "accounts" not in core.features:
        return PeopleHooks()
    # Imported here: a node may have no accounts.
    from imserver.people.accounts.accounts import UnknownAccount
    from imserver.people.accounts.parts import accounts_of
    from imserver.people.accounts.people import NotBelow

    parts = accounts_of(core)
    accounts = parts.accounts
    people = parts.people

    def find(app: str, login: str) -> str:
        """The user id of the account with this login; ``""`` if there is no
        such account."""
        account = accounts.named(app, login)
        if account is None:
            return ""
        return account.user

    def unlock(principal: Principal, app: str, user: str) -> bool:
        """End a lock. Returns False if the principal may not end the lock."""
        try:
            people.unlock(principal, app, user)
        except (NotBelow, UnknownAccount):
            return False
        return True

    return PeopleHooks(find=find, locked=people.locked, unlock=unlock)
