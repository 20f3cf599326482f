"""Incoming webhooks: make, list and revoke them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from imserver.features.accounts.api import Avatar, Nickname
from imserver.features.bots.api import CHAPTER
from imserver.features.bots.bots import IncomingHooks
from imserver.features.bots.declared import HTTP_TOO_MANY_BOTS, HTTP_UNKNOWN_HOOK
from imserver.features.bots.incoming import PATH
from imserver.features.bots.parts import bots_of
from imserver.features.groups.api import GroupChange, GroupId
from imserver.features.groups.declared import HTTP_TOO_MANY_MEMBERS, HTTP_UNKNOWN_GROUP
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    Acting,
    Call,
    Resource,
    about,
)
from imserver.plugin.identity import Needs
from imserver.plugin.wire import id_of

HookId = Annotated[
    str,
    about("The id of the webhook, which is the account of its bot.", pattern="^[1-9][0-9]{0,18}$"),
]


class HookCreated(Struct):
    """The new webhook."""

    id: HookId
    url: Annotated[
        str,
        about("Its URL on this server, relative to the server's address. It is shown only here, so save it."),
    ]


class HookShown(Struct):
    """A webhook."""

    id: HookId
    group: GroupId
    nickname: Nickname
    avatar: Avatar
    created: Annotated[int, about("When it was created, in Unix seconds.")]


class HooksAnswer(Struct):
    """The webhooks of a group, ordered by id."""

    hooks: list[HookShown]


class HookRevoked(Struct):
    """The webhook and its bot are deleted."""

    id: HookId


routes = Resource(
    "bots",
    service=lambda core, _: bots_of(core).incoming,
    base=GroupChange,
    chapter=CHAPTER,
    hot=False,
)


@routes.post(
    "/hooks",
    Needs.ADMIN_OR_ACCOUNT,
    schema=("HookCreate", "A group, and how the sender of the messages is shown."),
    voice=True,
    act="hooks.create",
    status=201,
    problems=(
        HTTP_UNKNOWN_GROUP,
        Problems.UNKNOWN_ACCOUNT,
        Problems.ROLE_TOO_LOW,
        HTTP_TOO_MANY_BOTS,
        HTTP_TOO_MANY_MEMBERS,
        Problems.MEDIA_UNAVAILABLE,
    ),
    user="optional",
)
def create(
    incoming: IncomingHooks,
    call: Call,
    group: str,
    nickname: Annotated[Nickname, about("The nickname of the sender.", min_length=1)],
    avatar: Avatar = "",
) -> HookCreated:
    """Make an incoming webhook.

    For the owner and admins of a group. Each `POST` to its URL becomes a message in the group. The sender is
    a bot of the acting user, which is made with the webhook and joins the group.
    """
    hook, token = incoming.create(call.app, call.user, id_of(group), nickname, avatar)
    return HookCreated(str(hook.id), PATH + token)


@routes.get(
    "/hooks",
    Needs.ADMIN_OR_ACCOUNT,
    problems=(HTTP_UNKNOWN_GROUP, Problems.ROLE_TOO_LOW),
    user="optional",
)
def hooks(incoming: IncomingHooks, call: Call, began: GroupChange) -> HooksAnswer:
    """List the incoming webhooks of a group.

    For the owner and admins.
    """
    found = incoming.of_group(call.app, call.user, id_of(began.group))
    return HooksAnswer(
        [
            HookShown(account.user, str(each.group), account.nickname, account.avatar, each.created)
            for each, account in found
        ]
    )


@routes.post(
    "/hooks/revoke",
    Needs.ADMIN_OR_ACCOUNT,
    schema=("HookRevoke", "A webhook."),
    base=Acting,
    problems=(HTTP_UNKNOWN_HOOK, Problems.ROLE_TOO_LOW, Problems.MEDIA_UNAVAILABLE),
    user="optional",
)
def revoke(incoming: IncomingHooks, call: Call, hook: HookId) -> HookRevoked:
    """Revoke an incoming webhook.

    For the owner and admins of its group. Its bot is deleted; the messages stay.
    """
    incoming.revoke(call.app, call.user, id_of(hook))
    return HookRevoked(hook)
