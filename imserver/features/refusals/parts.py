"""The parts of refusals on one node."""

from __future__ import annotations

from typing import Final

from imserver.features.refusals.limits import PeopleHooks, Refusals
from imserver.features.refusals.log import RefusalLog
from imserver.plugin import Answers, FeatureParts
from imserver.plugin.identity import Principal
from imserver.plugin.services import Core, Foundation
from imserver.plugin.storage import Erasure

_NODE: Final = Principal("node")
"""Unlocks accounts. Who may lift was decided before."""


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
    from imserver.features.accounts.parts import accounts_of

    accounts, people = accounts_of(core).accounts, accounts_of(core).people

    def find(app: str, login: str) -> str:
        account = accounts.with_login(app, login)
        return "" if account is None else account.user

    def unlock(app: str, user: str) -> None:
        people.unlock(_NODE, app, user)

    return PeopleHooks(find, people.locked, unlock)
