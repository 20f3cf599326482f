"""Invitation links: a code with which others join a group, or become a friend of its maker."""

from typing import Any

from imserver.people.invitations import api
from imserver.people.invitations.declared import SETTINGS, TABLES
from imserver.people.invitations.invitations import Invitations
from imserver.plugin import FeatureRow, Parts


def _commands() -> dict[str, Any]:
    from imserver.people.invitations.command import chat

    return {"chat": chat}


FEATURE = FeatureRow(
    "invitations",
    lambda core: Parts((Invitations(core),)),
    routes=(*api.routes.rows, *api.staff_routes.rows),
    uses=("messages", "accounts", "groups"),
    settings=SETTINGS,
    commands=_commands,
    tables=TABLES,
)
