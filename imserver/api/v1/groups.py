"""Routes of groups: make one, invite, leave, remove, rename, roles, silence, lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import time
from typing import Any, Final

import msgspec

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.cursor import cursor as cursor_of
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.actor import ACTOR_PROBLEMS, Actor, Page, actor
from imserver.api.v1.group import (
    GroupAnswer,
    GroupChange,
    GroupCreate,
    GroupMembers,
    GroupMembersAnswer,
    GroupMemberShown,
    GroupMembersQuery,
    GroupMute,
    GroupQuery,
    GroupRename,
    GroupRole,
    GroupsAnswer,
    GroupShown,
)
from imserver.api.v1.operation import Operation
from imserver.api.v1.query import after, read_query
from imserver.api.v1.wire import read, reply
from imserver.auth.principal import ADMIN_OR_ACCOUNT
from imserver.services.people.accounts import account_id
from imserver.services.people.groups import (
    BadGroup,
    Group,
    NoMember,
    NotAllowed,
    TooManyMembers,
    UnknownGroup,
)

_NAMED_UNKNOWN: Final = 10
"""Users that a refusal names."""
_read_create: Final = msgspec.json.Decoder(GroupCreate)
_read_change: Final = msgspec.json.Decoder(GroupChange)
_read_members: Final = msgspec.json.Decoder(GroupMembers)
_read_rename: Final = msgspec.json.Decoder(GroupRename)
_read_role: Final = msgspec.json.Decoder(GroupRole)
_read_mute: Final = msgspec.json.Decoder(GroupMute)


@contextmanager
def refusing() -> Iterator[None]:
    """What the service refuses, as problems."""
    try:
        yield
    except BadGroup as bad:
        raise Problem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except UnknownGroup:
        raise Problem(errors.HTTP_UNKNOWN_GROUP) from None
    except NotAllowed as not_allowed:
        raise Problem(errors.HTTP_ROLE_TOO_LOW, str(not_allowed)) from None
    except NoMember:
        raise Problem(errors.HTTP_UNKNOWN_MEMBER) from None
    except TooManyMembers:
        raise Problem(errors.HTTP_TOO_MANY_MEMBERS) from None


def _check_members(api: Api, who: Actor, users: Sequence[str]) -> None:
    """Check that users may become members of a group. Raises :class:`Problem`.

    In an app with accounts they have to exist. They must not have blocked the user who asks.
    """
    tenant = api.services.tenants.get(who.app)
    if not who.is_back_end or (tenant is not None and tenant.wants_accounts(who.app)):
        known = {account.user for account in api.services.accounts.those_of(who.app, users)}
        if unknown := [user for user in dict.fromkeys(users) if user not in known and user != who.user]:
            named = ", ".join(f"`{user}`" for user in unknown[:_NAMED_UNKNOWN])
            raise Problem(errors.HTTP_UNKNOWN_ACCOUNT, f"`members`: there is no account {named}")
    if who.user and (blocked := api.services.friends.blocked_by(who.app, who.user, users)):
        named = ", ".join(f"`{user}`" for user in blocked[:_NAMED_UNKNOWN])
        raise Problem(errors.HTTP_NOT_ALLOWED, f"`members`: not allowed for {named}")


def create(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/create``."""
    asked = read(api, call, _read_create)
    who = actor(api, call, asked)
    _check_members(api, who, asked.members)
    with refusing():
        made = api.services.groups.create(who.app, who.user, asked.name, asked.members)
    return reply(call, shown_group(made), status=201)


def groups(api: Api, call: Call) -> Answer:
    """``GET /api/v1/groups``."""
    asked = read_query(call, Page)
    who = actor(api, call, asked)
    behind = account_id(after(asked.cursor) or "")
    total, page = api.services.groups.page(who.app, who.user, behind, asked.limit)
    following = cursor_of(str(page[-1].id)) if len(page) == asked.limit else ""
    return reply(call, GroupsAnswer(total, [shown_group(each) for each in page], following))


def show(api: Api, call: Call) -> Answer:
    """``GET /api/v1/groups/show``."""
    asked = read_query(call, GroupQuery)
    who = actor(api, call, asked, needs_user=False)
    with refusing():
        return reply(call, shown_group(api.services.groups.show(who.app, account_id(asked.group), who.user)))


def members(api: Api, call: Call) -> Answer:
    """``GET /api/v1/groups/members``."""
    asked = read_query(call, GroupMembersQuery)
    who = actor(api, call, asked, needs_user=False)
    group, behind = account_id(asked.group), after(asked.cursor) or ""
    with refusing():
        page = api.services.groups.members(who.app, group, who.user, behind, asked.limit)
    following = cursor_of(page[-1].user) if len(page) == asked.limit else ""
    now = time()
    shown = [
        GroupMemberShown(row.user, row.role, row.muted_until if row.muted_until > now else 0)  # type: ignore[arg-type]
        for row in page
    ]
    return reply(call, GroupMembersAnswer(shown, following))


def invite(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/invite``."""
    asked = read(api, call, _read_members)
    who = actor(api, call, asked, needs_user=False)
    _check_members(api, who, asked.members)
    with refusing():
        new = api.services.groups.invite(who.app, account_id(asked.group), who.user, asked.members)
    return reply(call, GroupAnswer(asked.group, list(new)))


def leave(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/leave``."""
    asked = read(api, call, _read_change)
    who = actor(api, call, asked)
    with refusing():
        api.services.groups.leave(who.app, account_id(asked.group), who.user)
    return reply(call, GroupAnswer(asked.group, [who.user]))


def remove(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/remove``."""
    asked = read(api, call, _read_members)
    who = actor(api, call, asked, needs_user=False)
    with refusing():
        gone = api.services.groups.remove(who.app, account_id(asked.group), who.user, asked.members)
    return reply(call, GroupAnswer(asked.group, list(gone)))


def rename(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/rename``."""
    asked = read(api, call, _read_rename)
    who = actor(api, call, asked, needs_user=False)
    with refusing():
        group = api.services.groups.rename(who.app, account_id(asked.group), who.user, asked.name)
    return reply(call, shown_group(group))


def set_role(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/role``."""
    asked = read(api, call, _read_role)
    who = actor(api, call, asked, needs_user=False)
    with refusing():
        group = account_id(asked.group)
        api.services.groups.set_role(who.app, group, who.user, asked.member, asked.role)
    return reply(call, GroupAnswer(asked.group, [asked.member]))


def mute(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/mute``."""
    asked = read(api, call, _read_mute)
    who = actor(api, call, asked, needs_user=False)
    with refusing():
        api.services.groups.mute(who.app, account_id(asked.group), who.user, asked.member, asked.until)
    return reply(call, GroupAnswer(asked.group, [asked.member]))


def shown_group(group: Group) -> GroupShown:
    muted = group.muted_until if group.muted_until > time() else 0
    return GroupShown(str(group.id), group.name, group.created, group.role, muted, group.open)  # type: ignore[arg-type]


GROUP: Final = {
    "group": "1",
    "name": "tea",
    "created": 1795155803,
    "role": "owner",
    "muted_until": 0,
    "open": False,
}
GROUP_PROBLEMS: Final = (*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_GROUP)


def _query(path: str, function: Callable[[Api, Call], Answer], summary: str, **more: Any) -> Operation:
    return Operation("GET", path, ADMIN_OR_ACCOUNT, function, "groups", summary, hot=False, **more)


def _row(
    word: str, function: Callable[[Api, Call], Answer], summary: str, description: str = "", **more: Any
) -> Operation:
    """A route that changes a group."""
    more.setdefault("answer", GroupAnswer)
    more.setdefault("example_answer", {"group": "1", "users": ["2"]})
    problems = (*GROUP_PROBLEMS, *more.pop("problems", ()))
    path = f"/api/v1/groups/{word}"
    return Operation(
        "POST",
        path,
        ADMIN_OR_ACCOUNT,
        function,
        "groups",
        summary,
        description,
        problems=problems,
        hot=False,
        **more,
    )


_MEMBERS: Final = (errors.HTTP_TOO_MANY_MEMBERS, errors.HTTP_UNKNOWN_ACCOUNT, errors.HTTP_NOT_ALLOWED)
_NAMED: Final = {"user": "1", "group": "1", "members": ["2"]}

OPERATIONS: Final = (
    _query(
        "/api/v1/groups",
        groups,
        "The groups of a user, page by page",
        query=Page,
        answer=GroupsAnswer,
        problems=ACTOR_PROBLEMS,
        example_query={"user": "1"},
        example_answer={"count": 1, "groups": [GROUP], "next": ""},
    ),
    _query(
        "/api/v1/groups/show",
        show,
        "What a group is called, and what one is in it",
        query=GroupQuery,
        answer=GroupShown,
        problems=GROUP_PROBLEMS,
        example_query={"user": "1", "group": "1"},
        example_answer=GROUP,
    ),
    _query(
        "/api/v1/groups/members",
        members,
        "The members of a group, page by page",
        query=GroupMembersQuery,
        answer=GroupMembersAnswer,
        problems=GROUP_PROBLEMS,
        example_query={"user": "1", "group": "1"},
        example_answer={"members": [{"user": "1", "role": "owner", "muted_until": 0}], "next": ""},
    ),
    _row(
        "create",
        create,
        "A new group",
        body=GroupCreate,
        answer=GroupShown,
        status=201,
        problems=_MEMBERS,
        example_body={"user": "1", "name": "tea", "members": ["2"]},
        example_answer=GROUP,
    ),
    _row(
        "invite",
        invite,
        "Make users members of a group",
        "Any member may. Nobody reads what was said before they came.",
        body=GroupMembers,
        problems=_MEMBERS,
        example_body=_NAMED,
    ),
    _row(
        "leave",
        leave,
        "Leave a group",
        "The group of an owner who leaves goes to an admin, else to a member.",
        body=GroupChange,
        example_body={"user": "2", "group": "1"},
    ),
    _row(
        "remove",
        remove,
        "Take members out of a group",
        "Admins remove members, the owner removes anybody.",
        body=GroupMembers,
        problems=(errors.HTTP_ROLE_TOO_LOW, errors.HTTP_UNKNOWN_MEMBER),
        example_body=_NAMED,
    ),
    _row(
        "rename",
        rename,
        "Give a group another name",
        "The owner and admins may.",
        body=GroupRename,
        answer=GroupShown,
        problems=(errors.HTTP_ROLE_TOO_LOW,),
        example_body={"user": "1", "group": "1", "name": "tea"},
        example_answer=GROUP,
    ),
    _row(
        "role",
        set_role,
        "Give a member a role",
        "The owner may. Whoever makes another the owner is an admin afterwards.",
        body=GroupRole,
        problems=(errors.HTTP_ROLE_TOO_LOW, errors.HTTP_UNKNOWN_MEMBER),
        example_body={"user": "1", "group": "1", "member": "2", "role": "admin"},
    ),
    _row(
        "mute",
        mute,
        "Silence a member for a time",
        "Admins silence members, the owner anybody.",
        body=GroupMute,
        problems=(errors.HTTP_ROLE_TOO_LOW, errors.HTTP_UNKNOWN_MEMBER),
        example_body={"user": "1", "group": "1", "member": "2", "until": 1795159400},
    ),
)
