"""Invitation links: with the code of an invitation, others join a group, or
become a friend of its maker."""

from time import time
from typing import Final

from imserver.messenger.groups.parts import groups_of
from imserver.people.accounts.parts import accounts_of
from imserver.people.invitations import api
from imserver.people.invitations.declared import SETTINGS, TABLES
from imserver.people.invitations.invitations import Invitations
from imserver.people.invitations.mails import InvitationMails
from imserver.plugin import CommandOf, FeatureRow, Parts
from imserver.plugin.messages import MessageServices
from imserver.plugin.runtime import every
from imserver.plugin.services import Core

_FORGET_SECONDS: Final = 3600.0
"""How often the node looks for old addresses."""


def _build(core: Core) -> Parts:
    """Build the services of invitations on a node.

    Groups use them to invite users who may not be added directly.
    """
    mails = InvitationMails(core)
    groups = groups_of(core)
    messaging = core.service(MessageServices).messaging
    invitations = Invitations(core, accounts_of(core), groups, messaging)
    groups.ask(invitations.send)

    def forget_old_addresses() -> None:
        mails.forget(int(time()))

    run_forgetting = every(
        _FORGET_SECONDS, forget_old_addresses, "old addresses could not go"
    )
    return Parts(
        (invitations, mails),
        run=(*mails.run, run_forgetting),
        stop=mails.runner.stop,
    )


FEATURE = FeatureRow(
    "invitations",
    _build,
    routes=(*api.routes.rows, *api.staff_routes.rows, *api.mail_routes.rows),
    uses=("messages", "accounts", "groups", "pages?"),
    settings=SETTINGS,
    commands=(
        CommandOf(
            "chat",
            "imserver.people.invitations.command:chat",
            "Create a chat for people, and print links to it.",
        ),
    ),
    tables=TABLES,
)
