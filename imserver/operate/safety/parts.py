"""The parts of safety on one node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import ClassVar, Final

from msgspec import Struct

from imserver.operate.safety.moderation import Moderation
from imserver.operate.safety.mutes import Mutes
from imserver.operate.safety.removals import Removals
from imserver.operate.safety.reports import Reports, commands_of
from imserver.plugin import Parts
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.runtime import every
from imserver.plugin.services import Core
from imserver.plugin.wire import Limit

_MOST_OWNERS: Final = 20
Remove = Callable[[str, int, str], None]
"""App, group and user: removes a member. Raises ServiceRefused for no member."""


class SafetyParts(Struct, frozen=True):
    """The services that the routes use. ``remove``: removes a user from a group; None on a node without
    groups."""

    page_folder: ClassVar = Path(__file__).parent / "page"
    moderation: Moderation
    removals: Removals
    reports: Reports
    remove: Remove | None


def build(core: Core) -> Parts:
    """Build them."""
    mutes, removals = Mutes(core), Removals(core.store)
    reports = Reports(core, _owners_of(core))
    parts = SafetyParts(Moderation(core, mutes, removals), removals, reports, _remover(core))
    return Parts(
        (parts,),
        commands_of(reports),
        configure=lambda config: mutes.load(),
        run=(
            every(5.0, mutes.load, "mutes could not be read"),
            every(86_400.0, mutes.rows.forget, "old mutes could not be deleted"),
            every(3600.0, lambda: reports.expire(int(time())), "reports could not be expired"),
            removals.runner.run,
        ),
        stop=removals.runner.stop,
    )


def _owners_of(core: Core) -> Callable[[str], list[str]]:
    """What finds the owners of an app."""
    if "accounts" not in core.features:
        return lambda app: []
    from imserver.people.accounts.people import PeopleFilter, PeopleStore

    store, every = PeopleStore(core.store), (0, Limit.ID, _MOST_OWNERS, 0)
    return lambda app: [each.user for each in store.page(PeopleFilter(app, role="owner"), *every)]


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
