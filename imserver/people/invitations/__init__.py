"""Invitation links: a code with which others join a group, or become a friend
of its maker."""

from time import time

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


def _build(core: Core) -> Parts:
    mails = InvitationMails(core)
    groups = groups_of(core)
    messaging = core.service(MessageServices).messaging
    invitations = Invitations(core, accounts_of(core), groups, messaging)
    groups.ask(invitations.send)
    return Parts(
        (invitations, mails),
        run=(
            *mails.run,
            every(
                3600.0, lambda: mails.forget(int(time())), "old addresses could not go"
            ),
        ),
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
