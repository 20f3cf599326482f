"""Groups, as requests and answers of ``/api/v1`` have them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from imserver.api.v1 import field
from imserver.api.v1.actor import Acting, Page

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
    Meta(max_length=_MAX_NAMED, description="Users; those who ask with a token name accounts."),
]
Role = Annotated[Literal["owner", "admin", "member"], Meta(description="What the user is in the group.")]
OwnRole = Annotated[
    Literal["owner", "admin", "member", ""],
    Meta(description="What whoever asks is in it; empty for a back end that names nobody."),
]
Until = Annotated[
    int,
    Meta(ge=0, le=2**53, description="Until when nothing can be said, in Unix seconds; 0: silence is over."),
]


class GroupCreate(Acting, kw_only=True):
    """A new group; whoever asks is its owner."""

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


class GroupMembersQuery(Page, kw_only=True):
    """Which group, and which page of its members."""

    group: GroupId


class GroupShown(Struct):
    """A group."""

    group: GroupId
    name: str
    created: Annotated[int, Meta(description="When it was made, in Unix seconds.")]
    role: OwnRole
    muted_until: Annotated[int, Meta(description="Until when whoever asks is silenced; 0: is not.")]
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
    """It is done; whose membership has changed."""

    group: GroupId
    users: list[MemberId]
