"""The parts of invitations on one node."""

from __future__ import annotations

from imserver.features.accounts.parts import accounts_of
from imserver.features.groups.parts import groups_of
from imserver.features.invitations.declared import InvitationLimits
from imserver.features.invitations.invitations import Invitations
from imserver.features.invitations.rows import InvitationStore
from imserver.plugin import FeatureParts
from imserver.plugin.messages import MessageServices
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


def invitations_of(core: Core) -> Invitations:
    """The invitations of a node."""
    return core.service(Invitations)


def build(core: Core) -> FeatureParts:
    """Build them, and join them to groups."""
    people, groups = accounts_of(core), groups_of(core)
    invitations = Invitations(
        settings_of(core.config, InvitationLimits),
        InvitationStore(core.storage.store),
        people.accounts,
        people.friends,
        people.guests,
        core.identity.relations,
        groups,
        people.cards.addresses,
        core.storage.store,
        core.service(MessageServices).messaging,
    )
    groups.invite_strangers = invitations.send
    return FeatureParts(invitations)
