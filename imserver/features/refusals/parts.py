"""The parts of refusals on one node."""

from __future__ import annotations

from time import time

from imserver.features.refusals.limits import PeopleHooks, Refusals
from imserver.features.refusals.log import RefusalLog
from imserver.plugin import Answers, FeatureParts
from imserver.plugin.identity import Principal
from imserver.plugin.services import Core, Foundation
from imserver.plugin.storage import Erasure


def answers(base: Foundation) -> Answers:
    """Build what hears of refusals."""
    return Answers(observer=RefusalLog(lambda app: app != "" and base.tenants.get(app) is not None))


def build(core: Core) -> FeatureParts:
    """Build the rest."""
    log = core.service(RefusalLog)
    refusals = Refusals(core, log, _people(core))
    core.identity.tenants.on_delete.append(log.forget)
    return FeatureParts(refusals, erasure=Erasure(frozenset(), refusals.forget, log.forget))


def _people(core: Core) -> PeopleHooks:
    if "accounts" not in core.features:
        return PeopleHooks()
    # Imported here: a node may have no accounts.
    from imserver.features.accounts.accounts import UnknownAccount
    from imserver.features.accounts.contract import FOR_GOOD
    from imserver.features.accounts.parts import accounts_of
    from imserver.features.accounts.people import NotBelow

    parts = accounts_of(core)
    accounts, people = parts.accounts, parts.people

    def find(app: str, login: str) -> str:
        account = accounts.with_login(app, login)
        return "" if account is None else account.user

    def locked(app: str, user: str) -> tuple[float, str] | None:
        account = accounts.get(app, user)
        if account is None or not account.is_locked(time()):
            return None
        return 0 if account.locked_until == FOR_GOOD else account.locked_until, account.lock_reason

    def unlock(by: Principal, app: str, user: str) -> bool:
        try:
            people.unlock(by, app, user)
        except (NotBelow, UnknownAccount):
            return False
        return True

    return PeopleHooks(find, locked, unlock)
