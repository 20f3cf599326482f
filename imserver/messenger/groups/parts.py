"""The parts of groups on one node."""

from typing import Final

from imserver.messenger.groups.declared import (
    NEW_GROUPS,
    SEARCH_MILLISECONDS,
    SEARCH_TIME,
    GroupLimits,
)
from imserver.messenger.groups.everybody import EverybodysGroups
from imserver.messenger.groups.groups import GroupCommands, Groups
from imserver.plugin import Parts
from imserver.plugin.runtime import every
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of

_SEARCH_SECONDS: Final = 60.0
"""The period of the limit :data:`SEARCH_MILLISECONDS` for the searches of a
user."""


def groups_of(core: Core) -> Groups:
    """The groups of a node."""
    return core.service(Groups)


def build(core: Core) -> Parts:
    """Build the parts of groups."""
    config = core.config
    limits = settings_of(config, GroupLimits)
    seconds = config.accounts.rate_seconds
    creations = core.buckets.make(
        NEW_GROUPS, limits.groups_per_user, seconds, core.attempt
    )
    searches = core.buckets.make(SEARCH_TIME, SEARCH_MILLISECONDS, _SEARCH_SECONDS)
    questions = core.accounts, core.relations, core.tenants
    groups = Groups(core.store, limits.group_members, creations, searches, *questions)
    admit = every(
        EverybodysGroups.LOOK_SECONDS,
        EverybodysGroups(groups).look,
        "accounts could not join the groups of everybody",
    )
    commands = GroupCommands(groups, core.mutes.mute_of).commands()
    return Parts((groups,), commands, run=(admit,))
