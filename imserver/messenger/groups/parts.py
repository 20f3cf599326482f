"""The parts of groups on one node."""

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


def groups_of(core: Core) -> Groups:
    """The groups of a node."""
    return core.service(Groups)


def build(core: Core) -> Parts:
    """Build them."""
    config = core.config
    limits = settings_of(config, GroupLimits)
    seconds = config.accounts.rate_seconds
    creations = core.buckets.make(
        NEW_GROUPS, limits.groups_per_user, seconds, core.attempt
    )
    searches = core.buckets.make(SEARCH_TIME, SEARCH_MILLISECONDS, 60.0)
    questions = core.accounts, core.relations, core.tenants
    groups = Groups(core.store, limits.group_members, creations, searches, *questions)
    look = EverybodysGroups(groups).look
    run = (
        every(
            EverybodysGroups.LOOK_SECONDS,
            look,
            "accounts could not join the groups of everybody",
        ),
    )
    return Parts(
        (groups,), GroupCommands(groups, core.mutes.mute_of).commands(), run=run
    )
