"""The parts of safety on one node."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, ClassVar, Final

from msgspec import Struct

from imserver.operate.safety.declared import HTTP_NOT_BANNED
from imserver.operate.safety.house_rules import HouseRules
from imserver.operate.safety.moderation import Maker, Moderation
from imserver.operate.safety.mutes import Mutes
from imserver.operate.safety.removals import Removals
from imserver.operate.safety.reports import Reports, StaffRole, commands_of
from imserver.plugin import Parts
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.identity import BadToken
from imserver.plugin.messages import MessageServices
from imserver.plugin.runtime import every
from imserver.plugin.services import Core
from imserver.plugin.wire import Limit

if TYPE_CHECKING:
    from imserver.people.accounts.accounts import Accounts
    from imserver.people.accounts.contract import Account
_MOST_OF_ROLE: Final = 20
_LOAD_SECONDS: Final = 5.0
_DAY_SECONDS: Final = 86_400.0
_HOUR_SECONDS: Final = 3600.0
Remove = Callable[[str, int, str], None]
"""A function that removes a member: app, group and user. Raises ServiceRefused
if the user is not a member."""


class Proof(Struct, frozen=True):
    """The proof of somebody who appeals a ban.

    It is their token, or the login of an account with its password. Missing
    values are ``""``. ``address`` is the address of the client.
    """

    token: str
    login: str
    password: str
    address: str


Banned = Callable[[str, Proof], str]
"""A function that identifies a banned or locked user. Its arguments are the app
and the proof, and the result is the user. Raises ServiceRefused if the user is
neither banned nor locked, or if the proof is wrong."""


class SafetyParts(Struct, frozen=True):
    """The services that the routes use.

    ``remove`` removes a user from a group; None on a node without groups.
    ``banned`` identifies a banned user; None on a node without accounts.
    """

    page_folder: ClassVar = Path(__file__).parent / "page"
    moderation: Moderation
    removals: Removals
    reports: Reports
    remove: Remove | None
    banned: Banned | None
    house_rules: HouseRules


def build(core: Core) -> Parts:
    """Build the services of this feature on a node, and their periodic work.

    The periodic work reads mutes of other nodes, deletes old rows, and
    continues removals of messages.
    """
    mutes = Mutes(core)
    removals = Removals(core.store)
    messages = core.service(MessageServices)
    reports = Reports(core, _staff_of(core), messages)

    def exists(app: str) -> bool:
        return core.tenants.get(app) is not None

    def load(_config: object) -> None:
        mutes.load()

    def expire() -> None:
        reports.expire(int(time()))

    moderation = Moderation(
        core,
        mutes,
        removals,
        maker=_maker(core),
        store_message=messages.messaging.store,
    )
    parts = SafetyParts(
        moderation=moderation,
        removals=removals,
        reports=reports,
        remove=_remover(core),
        banned=_banned(core),
        house_rules=HouseRules(core.store, exists),
    )
    return Parts(
        (parts,),
        commands_of(reports),
        # The mutes are read before the node serves its first client.
        configure=load,
        run=(
            every(_LOAD_SECONDS, mutes.load, "mutes could not be read"),
            every(_DAY_SECONDS, mutes.rows.forget, "old mutes could not be deleted"),
            every(_HOUR_SECONDS, expire, "reports could not be expired"),
            removals.runner.run,
        ),
        stop=removals.runner.stop,
    )


def _staff_of(core: Core) -> Callable[[str, StaffRole], list[str]]:
    """Make the function that finds the accounts of an app with a role.

    On a node without accounts it finds nobody.
    """
    if "accounts" not in core.features:
        return _nobody
    from imserver.people.accounts.people import PeopleFilter, PeopleStore

    store = PeopleStore(core.store)

    def staff(app: str, role: StaffRole) -> list[str]:
        """The ids of at most :data:`_MOST_OF_ROLE` accounts with this role."""
        wanted = PeopleFilter(app, role=role)
        # One page of all accounts: from the lowest id to the highest.
        accounts = store.page(
            wanted, after=0, before=Limit.ID, limit=_MOST_OF_ROLE, now=0
        )
        return [each.user for each in accounts]

    return staff


def _nobody(app: str, role: StaffRole) -> list[str]:
    """A function of :func:`_staff_of` that finds no account."""
    return []


def _prove(accounts: "Accounts", app: str, proof: Proof) -> "Account":
    """The account of a user who proves who they are.

    The proof is a login with a password, or a token. A banned user with the
    right password gets UserBanned, which is an AccountLocked. Raises these,
    BadToken and ServiceRefused.
    """
    if not proof.login:
        return accounts.tokens.holder(proof.token).account
    return accounts.login(
        app,
        proof.login,
        proof.password,
        address=proof.address,
        earlier=proof.token,
    )


def _banned(core: Core) -> Banned | None:
    """Make the function that identifies a banned user.

    None on a node without accounts: there the server does not know who a client
    is that may not log in.
    """
    if "accounts" not in core.features:
        return None
    # Imported here: a node may do without them.
    from imserver.people.accounts.accounts import AccountLocked
    from imserver.people.accounts.parts import accounts_of

    accounts = accounts_of(core).accounts

    def banned(app: str, proof: Proof) -> str:
        """The user who proves who they are, if they are banned or locked.

        Raises ServiceRefused if the user is neither, or if the proof is wrong.
        """
        try:
            account = _prove(accounts, app, proof)
        except AccountLocked as refused:
            return refused.user
        except BadToken:  # the account of a valid token may be locked
            return _locked_by_token(accounts, app, proof.token)
        is_of_app = core.tenants.resolve(account.app) == app
        if not is_of_app or core.sessions.ban_of(app, account.user) is None:
            raise ServiceRefused(problem=HTTP_NOT_BANNED)
        return account.user

    return banned


def _locked_by_token(accounts: "Accounts", app: str, token: str) -> str:
    """The user of a token that is invalid because the account is locked.

    Raises ServiceRefused if the token is invalid for another reason.
    """
    device = accounts.tokens.device_of(token)
    if device is not None:
        account = accounts.get(app, str(device.account))
        if account is not None and account.is_locked(time()):
            return account.user
    raise ServiceRefused(problem=Problems.TOKEN_INVALID) from None


def _remover(core: Core) -> Remove | None:
    """Make the function that removes a user from a group.

    None on a node without groups.
    """
    if "groups" not in core.features:
        return None
    # Imported here: a node may do without them.
    from imserver.messenger.groups.groups import BadGroup, UnknownGroup
    from imserver.messenger.groups.parts import groups_of

    groups = groups_of(core)

    def remove(app: str, group: int, user: str) -> None:
        """Remove a member from a group.

        Raises ServiceRefused if the user is not a member.
        """
        by = ""  # not a member, but the server
        try:
            removed = groups.remove(app, group, by, [user])
        except (BadGroup, UnknownGroup):
            removed = ()
        if not removed:
            raise ServiceRefused(problem=Problems.UNKNOWN_CONVERSATION)

    return remove


def _maker(core: Core) -> Maker:
    """Make the function that tells who has banned or muted a user.

    On a node without an audit log nobody knows it.
    """
    if "audit" not in core.features:
        return _unknown
    # Imported here: a node may do without it.
    from imserver.operate.audit.rows import last_maker

    return partial(last_maker, core.store)


def _unknown(app: str, user: str, names: Sequence[str]) -> str:
    """A function of :func:`_maker` that knows nobody."""
    return ""
