"""Groups: create, invite, join, leave, remove, rename, roles, silence, lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import time
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.form import cursor as cursor_of
from imserver.api.reply import ApiProblem
from imserver.api.v1 import field
from imserver.api.v1.field import Acting, ActingPage
from imserver.api.v1.operation import ACTOR_PROBLEMS, Operation
from imserver.api.v1.wire import after, reply
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
from imserver.transport.exchange import HttpResponse

_MAX_NAMED = 1000

GroupId = Annotated[
    str, Meta(pattern="^[1-9][0-9]{0,18}$", description="The id of the group: that of its conversation.")
]
GroupName = Annotated[
    str,
    Meta(min_length=1, max_length=50, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", description="What it is called."),
]
MemberId = Annotated[str, Meta(min_length=1, max_length=255, description="A user of the app.")]
MemberIds = Annotated[
    list[MemberId],
    Meta(max_length=_MAX_NAMED, description="Users. With a user's token, they have to be accounts."),
]
Role = Annotated[Literal["owner", "admin", "member"], Meta(description="What the user is in the group.")]
OwnRole = Annotated[
    Literal["owner", "admin", "member", ""],
    Meta(description="The role of the acting user; empty for a back end that names no user."),
]
Until = Annotated[
    int,
    Meta(ge=0, le=2**53, description="Until when nothing can be said, in Unix seconds; 0: silence is over."),
]


class GroupCreate(Acting, kw_only=True):
    """A new group. The acting user becomes its owner."""

    name: GroupName
    members: MemberIds = msgspec.field(default_factory=list)


class GroupChange(Acting, kw_only=True):
    """Which group. A back end that names no `user` acts for itself, and may everything."""

    group: GroupId


class GroupOpen(GroupChange, kw_only=True):
    """Which group, and whether anybody may join it."""

    open: Annotated[bool, Meta(description="Whether anybody who knows its id may join.")]


class GroupMembers(GroupChange, kw_only=True):
    """Which group, and which users."""

    members: MemberIds


class GroupRename(GroupChange, kw_only=True):
    """Which group, and its name."""

    name: GroupName


class GroupRole(GroupChange, kw_only=True):
    """Which member, and the role."""

    member: MemberId
    role: Role


class GroupMute(GroupChange, kw_only=True):
    """Which member, and for how long."""

    member: MemberId
    until: Until


class GroupQuery(Acting, kw_only=True):
    """Which group."""

    group: GroupId


class GroupMembersQuery(ActingPage, kw_only=True):
    """Which group, and which page of its members."""

    group: GroupId


class GroupShown(Struct):
    """A group."""

    group: GroupId
    name: str
    created: Annotated[int, Meta(description="When it was made, in Unix seconds.")]
    role: OwnRole
    muted_until: Annotated[
        int, Meta(description="Until when the acting user is silenced, in Unix seconds; 0: not silenced.")
    ]
    open: Annotated[bool, Meta(description="Whether anybody who knows its id may join.")] = False


class GroupsAnswer(Struct):
    """Groups of a user, in the order of ids."""

    count: Annotated[int, Meta(description="How many there are, on all pages together.")]
    groups: list[GroupShown]
    next: field.Next


class GroupMemberShown(Struct):
    """A member of a group."""

    user: MemberId
    role: Role
    muted_until: Annotated[int, Meta(description="Until when the member is silenced; 0: is not.")]


class GroupMembersAnswer(Struct):
    """Members of a group, in the order of their ids."""

    members: list[GroupMemberShown]
    next: field.Next


class GroupAnswer(Struct):
    """The users whose membership has changed."""

    group: GroupId
    users: list[MemberId]


_NAMED_UNKNOWN: Final = 10
"""Users that a refusal names."""


@contextmanager
def refusing() -> Iterator[None]:
    """What the service refuses, as problems."""
    try:
        yield
    except BadGroup as bad:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except UnknownGroup:
        raise ApiProblem(errors.HTTP_UNKNOWN_GROUP) from None
    except NotAllowed as not_allowed:
        raise ApiProblem(errors.HTTP_ROLE_TOO_LOW, str(not_allowed)) from None
    except NoMember:
        raise ApiProblem(errors.HTTP_UNKNOWN_MEMBER) from None
    except TooManyMembers:
        raise ApiProblem(errors.HTTP_TOO_MANY_MEMBERS) from None


def _check_members(api: Api, call: Call, users: Sequence[str]) -> None:
    """Check that users may become members of a group. Raises :class:`ApiProblem`.

    In an app with accounts they have to exist. They must not have blocked the user who asks.
    """
    tenant = api.services.tenants.get(call.app)
    if not call.is_back_end or (tenant is not None and tenant.wants_accounts(call.app)):
        known = {account.user for account in api.services.accounts.those_of(call.app, users)}
        if unknown := [user for user in dict.fromkeys(users) if user not in known and user != call.user]:
            named = ", ".join(f"`{user}`" for user in unknown[:_NAMED_UNKNOWN])
            raise ApiProblem(errors.HTTP_UNKNOWN_ACCOUNT, f"`members`: there is no account {named}")
    if call.user and (blocked := api.services.friends.blocked_by(call.app, call.user, users)):
        named = ", ".join(f"`{user}`" for user in blocked[:_NAMED_UNKNOWN])
        raise ApiProblem(errors.HTTP_NOT_ALLOWED, f"`members`: not allowed for {named}")


def create(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/create``."""
    asked: GroupCreate = call.asked
    _check_members(api, call, asked.members)
    with refusing():
        made = api.services.groups.create(call.app, call.user, asked.name, asked.members)
    return reply(call, shown_group(made), status=201)


def groups(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/groups``."""
    asked: ActingPage = call.asked
    behind = account_id(after(asked.cursor) or "")
    total, page = api.services.groups.page(call.app, call.user, behind, asked.limit)
    following = cursor_of(str(page[-1].id)) if len(page) == asked.limit else ""
    return reply(call, GroupsAnswer(total, [shown_group(each) for each in page], following))


def show(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/groups/show``."""
    asked: GroupQuery = call.asked
    with refusing():
        return reply(
            call, shown_group(api.services.groups.show(call.app, account_id(asked.group), call.user))
        )


def members(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/groups/members``."""
    asked: GroupMembersQuery = call.asked
    group, behind = account_id(asked.group), after(asked.cursor) or ""
    with refusing():
        page = api.services.groups.members(call.app, group, call.user, behind, asked.limit)
    following = cursor_of(page[-1].user) if len(page) == asked.limit else ""
    now = time()
    shown = [
        GroupMemberShown(row.user, row.role, row.muted_until if row.muted_until > now else 0)  # type: ignore[arg-type]
        for row in page
    ]
    return reply(call, GroupMembersAnswer(shown, following))


def invite(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/invite``."""
    asked: GroupMembers = call.asked
    _check_members(api, call, asked.members)
    with refusing():
        new = api.services.groups.invite(call.app, account_id(asked.group), call.user, asked.members)
    return reply(call, GroupAnswer(asked.group, list(new)))


def leave(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/leave``."""
    asked: GroupChange = call.asked
    with refusing():
        api.services.groups.leave(call.app, account_id(asked.group), call.user)
    return reply(call, GroupAnswer(asked.group, [call.user]))


def remove(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/remove``."""
    asked: GroupMembers = call.asked
    with refusing():
        gone = api.services.groups.remove(call.app, account_id(asked.group), call.user, asked.members)
    return reply(call, GroupAnswer(asked.group, list(gone)))


def rename(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/rename``."""
    asked: GroupRename = call.asked
    with refusing():
        group = api.services.groups.rename(call.app, account_id(asked.group), call.user, asked.name)
    return reply(call, shown_group(group))


def set_role(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/role``."""
    asked: GroupRole = call.asked
    with refusing():
        group = account_id(asked.group)
        api.services.groups.set_role(call.app, group, call.user, asked.member, asked.role)
    return reply(call, GroupAnswer(asked.group, [asked.member]))


def mute(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/mute``."""
    asked: GroupMute = call.asked
    with refusing():
        api.services.groups.mute(call.app, account_id(asked.group), call.user, asked.member, asked.until)
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


def _query(path: str, function: Callable[[Api, Call], HttpResponse], summary: str, **more: Any) -> Operation:
    return Operation("GET", path, ADMIN_OR_ACCOUNT, function, "groups", summary, hot=False, **more)


def _row(
    word: str, function: Callable[[Api, Call], HttpResponse], summary: str, description: str = "", **more: Any
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


def set_open(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/open``."""
    asked: GroupOpen = call.asked
    with refusing():
        changed = api.services.groups.set_open(call.app, account_id(asked.group), call.user, asked.open)
    return reply(call, shown_group(changed))


def join(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/groups/join``."""
    asked: GroupChange = call.asked
    with refusing():
        return reply(
            call, shown_group(api.services.groups.join(call.app, account_id(asked.group), call.user))
        )


OPERATIONS: Final = (
    _query(
        "/api/v1/groups",
        groups,
        "The groups of a user, page by page",
        query=ActingPage,
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
        user="optional",
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
        user="optional",
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
        user="optional",
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
        user="optional",
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
        user="optional",
    ),
    _row(
        "role",
        set_role,
        "Give a member a role",
        "For the owner. An owner who appoints another owner becomes an admin.",
        body=GroupRole,
        problems=(errors.HTTP_ROLE_TOO_LOW, errors.HTTP_UNKNOWN_MEMBER),
        example_body={"user": "1", "group": "1", "member": "2", "role": "admin"},
        user="optional",
    ),
    _row(
        "mute",
        mute,
        "Silence a member for a time",
        "Admins silence members, the owner anybody.",
        body=GroupMute,
        problems=(errors.HTTP_ROLE_TOO_LOW, errors.HTTP_UNKNOWN_MEMBER),
        example_body={"user": "1", "group": "1", "member": "2", "until": 1795159400},
        user="optional",
    ),
    Operation(
        "POST",
        "/api/v1/groups/open",
        ADMIN_OR_ACCOUNT,
        set_open,
        "groups",
        "Let anybody join a group, or not any more",
        "For the owner and admins. Current members stay members.",
        body=GroupOpen,
        answer=GroupShown,
        problems=(*GROUP_PROBLEMS, errors.HTTP_ROLE_TOO_LOW),
        example_body={"user": "1", "group": "1", "open": True},
        example_answer={**GROUP, "open": True},
        hot=False,
        user="optional",
    ),
    Operation(
        "POST",
        "/api/v1/groups/join",
        ADMIN_OR_ACCOUNT,
        join,
        "groups",
        "Join an open group",
        "A group that is not open is as unknown as one that does not exist.",
        body=GroupChange,
        answer=GroupShown,
        problems=(*GROUP_PROBLEMS, errors.HTTP_TOO_MANY_MEMBERS),
        example_body={"user": "3", "group": "1"},
        example_answer={**GROUP, "role": "member", "open": True},
        hot=False,
    ),
)
