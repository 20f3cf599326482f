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
    mails = InvitationMails(core)
    groups = groups_of(core)
    messaging = core.service(MessageServices).messaging
    invitations = Invitations(core, accounts_of(core), groups, messaging)
    groups.ask(invitations.send)

    def forget() -> None:
        mails.forget(int(time()))

    forget_old = every(_FORGET_SECONDS, forget, "old addresses could not go")
    return Parts(
        (invitations, mails),
        run=(*mails.run, forget_old),
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
            "Make a chat for people; print links to it.",
        ),
    ),
    tables=TABLES,
)
