"""The parts of safety on one node."""

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import ClassVar, Final

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

_MOST_OF_ROLE: Final = 20
Remove = Callable[[str, int, str], None]
"""App, group and user: removes a member. Raises ServiceRefused for no
member."""


class Proof(Struct, frozen=True):
    """What somebody shows who asks to lift a ban: their token, or an identifier
    and the password."""

    token: str
    login: str
    password: str
    address: str


Banned = Callable[[str, Proof], str]
"""App and proof: the user, who is banned or locked. Raises ServiceRefused if
they are not, or the proof is wrong."""


class SafetyParts(Struct, frozen=True):
    """The services that the routes use. ``remove``: removes a user from a
    group; None on a node without groups. ``banned``: who somebody is who is
    banned; None on a node without accounts."""

    page_folder: ClassVar = Path(__file__).parent / "page"
    moderation: Moderation
    removals: Removals
    reports: Reports
    remove: Remove | None
    banned: Banned | None
    house_rules: HouseRules


def build(core: Core) -> Parts:
    """Build them."""
    mutes = Mutes(core)
    removals = Removals(core.store)
    messages = core.service(MessageServices)
    reports = Reports(core, _staff_of(core), messages)
    moderation = Moderation(
        core, mutes, removals, _maker(core), messages.messaging.store
    )
    rules = HouseRules(core.store, lambda app: core.tenants.get(app) is not None)
    others = _remover(core), _banned(core), rules
    parts = SafetyParts(moderation, removals, reports, *others)
    return Parts(
        (parts,),
        commands_of(reports),
        configure=lambda config: mutes.load(),
        run=(
            every(5.0, mutes.load, "mutes could not be read"),
            every(86_400.0, mutes.rows.forget, "old mutes could not be deleted"),
            every(
                3600.0,
                lambda: reports.expire(int(time())),
                "reports could not be expired",
            ),
            removals.runner.run,
        ),
        stop=removals.runner.stop,
    )


def _staff_of(core: Core) -> Callable[[str, StaffRole], list[str]]:
    """What finds the accounts of an app with a role."""
    if "accounts" not in core.features:
        return lambda app, role: []
    from imserver.people.accounts.people import PeopleFilter, PeopleStore

    store = PeopleStore(core.store)
    every = (0, Limit.ID, _MOST_OF_ROLE, 0)
    return lambda app, role: [
        each.user for each in store.page(PeopleFilter(app, role=role), *every)
    ]


def _banned(core: Core) -> Banned | None:
    if "accounts" not in core.features:
        return None
    # Imported here: a node may do without them.
    from imserver.people.accounts.accounts import AccountLocked
    from imserver.people.accounts.parts import accounts_of

    accounts = accounts_of(core).accounts

    def banned(app: str, proof: Proof) -> str:
        try:
            if proof.login:
                account = accounts.login(
                    app, proof.login, proof.password, proof.address, proof.token
                )
            else:
                account = accounts.tokens.holder(proof.token).account
        except AccountLocked as refused:
            return refused.user
        except BadToken:  # that of an account that is locked is not valid either
            device = accounts.tokens.device_of(proof.token)
            if device is None:
                locked = None
            else:
                locked = accounts.get(app, str(device.account))
            if locked is not None and locked.is_locked(time()):
                return locked.user
            raise ServiceRefused(problem=Problems.TOKEN_INVALID) from None
        if (
            core.tenants.resolve(account.app) != app
            or core.sessions.ban_of(app, account.user) is None
        ):
            raise ServiceRefused(problem=HTTP_NOT_BANNED)
        return account.user

    return banned


def _remover(core: Core) -> Remove | None:
    if "groups" not in core.features:
        return None
    # Imported here: a node may do without them.
    from imserver.messenger.groups.groups import BadGroup, UnknownGroup
    from imserver.messenger.groups.parts import groups_of

    groups = groups_of(core)

    def remove(app: str, group: int, user: str) -> None:
        try:
            gone = groups.remove(app, group, "", [user])
        except (BadGroup, UnknownGroup):
            gone = ()
        if not gone:
            raise ServiceRefused(problem=Problems.UNKNOWN_CONVERSATION)

    return remove


def _maker(core: Core) -> Maker:
    if "audit" not in core.features:
        return lambda app, user, names: ""
    # Imported here: a node may do without it.
    from imserver.operate.audit.rows import last_maker

    return lambda app, user, names: last_maker(core.store, app, user, names)
