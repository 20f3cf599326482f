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
    """Return the groups of a node."""
    return core.service(Groups)


def build(core: Core) -> Parts:
    """Build the parts of groups for one node.

    These are the service :class:`Groups` and the commands of clients. A
    greenlet lets new accounts join the *groups of everybody*: groups whose
    members are all accounts of the app.
    """
    limits = settings_of(core.config, GroupLimits)
    # The number of groups that a user creates and joins is limited, and so is
    # the time of the user's searches.
    creations = core.buckets.make(
        NEW_GROUPS,
        limits.groups_per_user,
        core.config.accounts.rate_seconds,
        core.attempt,
    )
    searches = core.buckets.make(SEARCH_TIME, SEARCH_MILLISECONDS, _SEARCH_SECONDS)
    groups = Groups(
        store=core.store,
        limit=limits.group_members,
        creations=creations,
        searches=searches,
        accounts=core.accounts,
        relations=core.relations,
        tenants=core.tenants,
    )

    join_new_accounts = every(
        EverybodysGroups.LOOK_SECONDS,
        EverybodysGroups(groups).look,
        "accounts could not join the groups of everybody",
    )
    commands = GroupCommands(groups, core.mutes.mute_of).commands()
    return Parts((groups,), commands, run=(join_new_accounts,))
