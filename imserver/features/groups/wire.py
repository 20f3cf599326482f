"""What clients say about groups: commands, and how they are read."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import ReplyCode
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import (
    Command,
    Fields,
    Readers,
    Refused,
)

MAX_NAMED: Final = 1000
"""The most users that one command names."""


class CreateGroup(Command, frozen=True, gc=False):
    """Create a group of the user, its owner, and others."""

    name: str
    members: tuple[str, ...]


class AskGroups(Command, frozen=True, gc=False):
    """Request the user's groups with ids after ``after``."""

    after: int
    limit: int


class AskGroupMembers(Command, frozen=True, gc=False):
    """Request the members of a group with ids after ``after``."""

    group: int
    after: str
    limit: int


class UpdateGroup(Command, frozen=True, gc=False):
    """Change texts of a group; None: unchanged. ``avatar``: URL of its picture."""

    group: int
    name: str | None = None
    avatar: str | None = None
    description: str | None = None


class InviteToGroup(Command, frozen=True, gc=False):
    """Add members to a group."""

    group: int
    members: tuple[str, ...]


class JoinGroup(Command, frozen=True, gc=False):
    """Join an open group."""

    group: int


class LeaveGroup(Command, frozen=True, gc=False):
    """Leave a group."""

    group: int


def _group_members(data: bytes) -> tuple[str, ...]:
    users = Fields.of(data).values.get("members", [])
    if not isinstance(users, list) or len(users) > MAX_NAMED:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return tuple([Fields({"user": user}).short_text("user", MAX_USER_BYTES) for user in users])


def _group(data: bytes) -> int:
    return Fields.of(data).needed_id("group")


def _ask_groups(data: bytes) -> Command:
    fields = Fields.of(data)
    return AskGroups(fields.id("after"), fields.limit())


def _ask_group_members(data: bytes) -> Command:
    fields = Fields.of(data)
    return AskGroupMembers(_group(data), fields.short_text("after", MAX_USER_BYTES), fields.limit())


def _update_group(data: bytes) -> Command:
    fields = Fields.of(data)
    texts = ("name", "avatar", "description")
    return UpdateGroup(
        _group(data), *(fields.text(each) if each in fields.values else None for each in texts)
    )


METHODS: Final[Readers] = {
    "createGroup": lambda data: CreateGroup(Fields.of(data).text("name"), _group_members(data)),
    "groups": _ask_groups,
    "groupMembers": _ask_group_members,
    "updateGroup": _update_group,
    "inviteToGroup": lambda data: InviteToGroup(_group(data), _group_members(data)),
    "joinGroup": lambda data: JoinGroup(_group(data)),
    "leaveGroup": lambda data: LeaveGroup(_group(data)),
}
