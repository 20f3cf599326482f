"""The commands of clients on groups, and their decoders."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from imserver.plugin.errors import ReplyCode
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import Command, Fields, Readers, Refused

MAX_NAMED: Final = 1000
"""The most users that one command names."""


class CreateGroup(Command, frozen=True, gc=False):
    """Create a group with the user as its owner, and other members."""

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
    """Change texts of a group. A text that is None stays as it is. ``avatar``
    is the URL of the picture."""

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


def _members(fields: Fields) -> tuple[str, ...]:
    """Return the users whom a command names.

    Raises Refused if they are not a list of at most :data:`MAX_NAMED` short
    texts.
    """
    users = fields.values.get("members", [])
    if not isinstance(users, list) or len(users) > MAX_NAMED:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return tuple(
        [Fields({"user": user}).short_text("user", MAX_USER_BYTES) for user in users]
    )


def _update_group(fields: Fields) -> UpdateGroup:
    """Read the new texts of a group. Missing texts stay as they are."""
    group = fields.needed_id("group")
    texts = {
        name: fields.text(name)
        for name in ("name", "avatar", "description")
        if name in fields.values
    }
    return UpdateGroup(group, **texts)


def _create_group(fields: Fields) -> CreateGroup:
    """Read the name and the members of a new group."""
    return CreateGroup(fields.text("name"), _members(fields))


def _ask_groups(fields: Fields) -> AskGroups:
    """Read the request for a page of the user's groups."""
    return AskGroups(fields.id("after"), fields.limit())


def _ask_members(fields: Fields) -> AskGroupMembers:
    """Read the request for a page of the members of a group."""
    group = fields.needed_id("group")
    after = fields.short_text("after", MAX_USER_BYTES)
    return AskGroupMembers(group, after, fields.limit())


def _invite(fields: Fields) -> InviteToGroup:
    """Read the users, and the group to which they are added."""
    return InviteToGroup(fields.needed_id("group"), _members(fields))


def _join(fields: Fields) -> JoinGroup:
    """Read which group the user joins."""
    return JoinGroup(fields.needed_id("group"))


def _leave(fields: Fields) -> LeaveGroup:
    """Read which group the user leaves."""
    return LeaveGroup(fields.needed_id("group"))


def _read(make: Callable[[Fields], Command], data: bytes) -> Command:
    """Read a command from JSON. ``make`` makes it from its fields."""
    return make(Fields.of(data))


_MAKERS: Final[Mapping[str, Callable[[Fields], Command]]] = {
    "createGroup": _create_group,
    "groups": _ask_groups,
    "groupMembers": _ask_members,
    "updateGroup": _update_group,
    "inviteToGroup": _invite,
    "joinGroup": _join,
    "leaveGroup": _leave,
}
METHODS: Final[Readers] = {name: partial(_read, make) for name, make in _MAKERS.items()}
