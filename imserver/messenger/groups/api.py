"""Groups: create, invite, join, leave, remove, rename, roles, mute, lists."""

from collections.abc import Sequence
from time import time
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from imserver.messenger.groups.groups import (
    MOST_NAMED,
    OPTIONS,
    TEXT_CHARACTERS,
    Group,
    GroupMemberShown,
    Groups,
    HandleTaken,
    MemberId,
    MentionedGroup,
    NewGroup,
    NoMember,
    Role,
    TooManyMembers,
    UnknownGroup,
)
from imserver.messenger.groups.parts import groups_of
from imserver.messenger.groups.wire import MAX_NAMED
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    Acting,
    ActingPage,
    ApiProblem,
    Call,
    NextCursor,
    Resource,
    about,
    page_and_cursor,
    read_cursor,
    view,
)
from imserver.plugin.identity import Needs
from imserver.plugin.wire import id_of

GroupId = Annotated[
    str,
    about(
        "The id of the group. Its conversation has the same id.",
        pattern="^[1-9][0-9]{0,18}$",
    ),
]
_ONE_LINE: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
GroupName = Annotated[
    str, about("The name of the group.", min_length=1, max_length=50, pattern=_ONE_LINE)
]
GroupAvatar = Annotated[
    str,
    about(
        "The URL of the picture of a group; empty: no picture.",
        max_length=1000,
        pattern=_ONE_LINE,
    ),
]
GroupDescription = Annotated[
    str,
    about(
        "The purpose of the group, in one or several lines.",
        max_length=500,
        pattern=r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$",
    ),
]
GroupHandle = Annotated[
    str,
    about(
        "The name that mentions the members of the group when it follows an `@` in a "
        "message to any group; empty: no handle. It has at least 2 letters, digits, "
        "`_`, `.` and `-`. The server changes capital letters to small ones.",
        max_length=32,
        pattern=_ONE_LINE,
    ),
]
MemberIds = Annotated[
    list[MemberId],
    about(
        "The ids of users. If you use a user's token, the users must have accounts.",
        max_length=MAX_NAMED,
    ),
]
Invited = Annotated[
    list[MemberId],
    about(
        "Users who received an invitation, because they are strangers and the app has "
        "`accounts.ask_strangers`."
    ),
]
LowestRole = Literal["member", "admin"]
History = Annotated[
    Literal["since_joining", "all"],
    about(
        "Whether new members may read only messages since they joined, or all "
        "messages of the group."
    ),
]
Invite = Annotated[LowestRole, about("The lowest role that may invite users.")]
Rename = Annotated[
    LowestRole,
    about(
        "The lowest role that may change the name, picture and description of the "
        "group."
    ),
]
Pin = Annotated[LowestRole, about("The lowest role that may pin messages.")]
Bots = Annotated[
    Literal["mentions", "all"],
    about(
        "The messages that bots of the group receive from now on: all messages, or "
        "only messages that mention the bot, reply to it or have one of its commands."
    ),
]
Write = Annotated[
    LowestRole,
    about(
        "The lowest role that may write. With `admin`, the group has announcements "
        "that other members only read."
    ),
]
Reply = Annotated[
    LowestRole,
    about(
        "The lowest role that may reply in threads. Members who may write may also "
        "reply."
    ),
]
WhoseGroup = Annotated[
    Literal["", "members", "all"],
    about(
        "Accounts that are members without joining: all accounts of the app except "
        "guests (`members`), or all accounts with guests (`all`). Empty: only users "
        "who were added or have joined are members."
    ),
]
Until = Annotated[
    int,
    about(
        "The end of the mute, in Unix seconds; 0: the mute ends now.", ge=0, le=2**53
    ),
]


class GroupCreate(Acting, kw_only=True):
    """A new group. The acting user becomes its owner."""

    name: GroupName
    members: MemberIds = msgspec.field(default_factory=list)
    description: GroupDescription = ""
    open: Annotated[
        bool, about("Whether other users can find the group and join it.")
    ] = False
    everybody: WhoseGroup = ""
    history: History = "since_joining"
    write: Write = "member"
    reply: Reply = "member"


class GroupChange(Acting, kw_only=True):
    """A group. A back end that names no `user` acts for itself and may do
    everything."""

    group: GroupId


class GroupOptions(GroupChange, kw_only=True):
    """Options of a group. Fields that you leave out do not change."""

    history: History | UnsetType = UNSET
    invite: Invite | UnsetType = UNSET
    rename: Rename | UnsetType = UNSET
    pin: Pin | UnsetType = UNSET
    bots: Bots | UnsetType = UNSET
    write: Write | UnsetType = UNSET
    reply: Reply | UnsetType = UNSET


class GroupMembers(GroupChange, kw_only=True):
    """A group and users."""

    members: MemberIds


class GroupUpdate(GroupChange, kw_only=True):
    """Changes to the name, picture, description and handle of a group. Fields
    that you leave out do not change."""

    name: GroupName | UnsetType = UNSET
    avatar: GroupAvatar | UnsetType = UNSET
    description: GroupDescription | UnsetType = UNSET
    handle: GroupHandle | UnsetType = UNSET


class GroupShown(Struct):
    """A group."""

    group: GroupId
    name: str
    created: Annotated[int, about("The time of creation, in Unix seconds.")]
    role: Annotated[
        Literal["owner", "admin", "member", ""],
        about("The role of the acting user; empty for a back end that names no user."),
    ]
    muted_until: Annotated[
        int, about("The end of the acting user's mute, in Unix seconds; 0: not muted.")
    ]
    open: Annotated[
        bool, about("Whether other users can find the group and join it.")
    ] = False
    history: History = "since_joining"
    invite: Invite = "member"
    rename: Rename = "admin"
    pin: Pin = "admin"
    bots: Bots = "mentions"
    avatar: GroupAvatar = ""
    description: GroupDescription = ""
    everybody: WhoseGroup = ""
    write: Write = "member"
    reply: Reply = "member"
    handle: GroupHandle = ""


class GroupDetail(GroupShown):
    """A group, and the number of its members."""

    members: Annotated[int, about("The number of members.")] = 0


class GroupsAnswer(Struct):
    """A page of a user's groups, ordered by id."""

    count: Annotated[int, about("The number of entries, on all pages together.")]
    groups: list[GroupShown]
    next: NextCursor


class OpenGroupsAnswer(Struct):
    """A page of groups that anybody may join, the newest first. `role` is empty
    if the acting user is not a member."""

    groups: list[GroupDetail]
    next: NextCursor


class MentionedGroups(Struct):
    """Groups that a message may mention, in the order of their handles."""

    groups: list[MentionedGroup]
    more: Annotated[
        bool, about("Whether there may be more groups. Search them by `text`.")
    ]


class GroupMembersAnswer(Struct):
    """A page of the members of a group, ordered by id."""

    count: Annotated[int, about("The number of members.")]
    members: list[GroupMemberShown]
    next: NextCursor


class GroupAnswer(Struct):
    """The users whose membership has changed."""

    group: GroupId
    users: list[MemberId]


class GroupCreated(GroupShown):
    """A new group, with its members other than the owner, and the users who
    were invited."""

    users: Annotated[list[MemberId], about("The members other than the owner.")] = []
    invited: Invited = []


class GroupInvited(GroupAnswer):
    """The new members, and the users who were invited."""

    invited: Invited = []


class DeletedGroup(Struct):
    """The deleted group."""

    group: GroupId
    members: Annotated[int, about("The number of removed members.")]


_NOT_CREATED: Final = (
    TooManyMembers.problem,
    Problems.UNKNOWN_ACCOUNT,
)
_UNKNOWN: Final = (UnknownGroup.problem,)
_NOT_PERMITTED: Final = (*_UNKNOWN, Problems.ROLE_TOO_LOW)
_NO_MEMBER: Final = (*_NOT_PERMITTED, NoMember.problem)


routes = Resource(
    "groups",
    service=lambda core, _: groups_of(core),
    base=GroupChange,
    chapter="Groups have stored lists of members and stored messages.",
    hot=False,
    need=Needs.ADMIN_OR_MEMBER,
    user="optional",
)


def _check_members(groups: Groups, call: Call, users: Sequence[str]) -> set[str]:
    """Check that users may become members of a group.

    Returns the users whom the acting user can only invite. In an app with
    accounts, all of them must have accounts. They must not have blocked the
    acting user. Raises :class:`ApiProblem` and ServiceRefused.
    """
    tenant = groups.tenants.get(call.app)
    if not call.is_back_end or (tenant is not None and tenant.wants_accounts(call.app)):
        _check_accounts(groups, call, users)

    if call.user and users:
        blocked = groups.relations.blocked_by(call.app, call.user, users)
        if blocked:
            raise ApiProblem(
                Problems.NOT_ALLOWED, f"`members`: not allowed for {_named(blocked)}"
            )
    # A back end adds everybody directly.
    if call.is_back_end:
        return set()
    return groups.strangers_among(call.app, call.user, users)


def _check_accounts(groups: Groups, call: Call, users: Sequence[str]) -> None:
    """Raise :class:`ApiProblem` if one of these users has no account.

    A back end may name any acting user, so the acting user is checked, too. A
    user who acts with a token of their own needs no check.
    """
    to_check = list(dict.fromkeys(users))
    if call.is_back_end and call.user and call.user not in to_check:
        to_check.append(call.user)
    accounts = groups.accounts_among(call.app, to_check)
    unknown = [
        user
        for user in to_check
        if user not in accounts and user != call.principal.user
    ]
    if unknown:
        raise ApiProblem(
            Problems.UNKNOWN_ACCOUNT, f"There is no account {_named(unknown)}"
        )


def _named(users: Sequence[str]) -> str:
    """Return the first users as a text for an error. The other users are left
    out."""
    return ", ".join(f"`{user}`" for user in users[:MOST_NAMED])


@routes.post(
    "/groups/create",
    voice=True,
    status=201,
    problems=_NOT_CREATED,
    user="required",
)
def create(groups: Groups, call: Call, request: GroupCreate) -> GroupCreated:
    """Create a group.

    If the app has `accounts.ask_strangers`, strangers are not added, but each
    receives an invitation as a message. A user must be an owner of the app to
    create a group with `everybody`. Accounts become members of such a group
    within seconds, and nobody can leave it.
    """
    strangers = _check_members(groups, call, request.members)
    options = {name: getattr(request, name) for name in ("history", "write", "reply")}
    kind = NewGroup(request.description, request.open, request.everybody, options)
    group, added = groups.create(
        call.app,
        call.user,
        request.name,
        request.members,
        strangers,
        by_user=not call.is_back_end,
        kind=kind,
    )
    return view(GroupCreated, _shown(group), users=added.users, invited=added.invited)


@routes.get("/groups", base=ActingPage, user="required")
def groups(
    groups: Groups,
    call: Call,
    cursor: str,
    limit: int,
    member: Annotated[
        str,
        about(
            "List only groups of which this user is also a member; empty: all groups.",
            max_length=255,
        ),
    ] = "",
) -> GroupsAnswer:
    """List the groups of a user, or the common groups of two users, page by
    page."""
    after = id_of(read_cursor(cursor) or "")
    total, rows = groups.page(call.app, call.user, after, limit + 1, member)
    page, next_cursor = page_and_cursor(rows, limit, lambda group: str(group.id))
    return GroupsAnswer(total, [_shown(each) for each in page], next_cursor)


@routes.get(
    "/groups/open",
    base=ActingPage,
    problems=(Problems.ROLE_TOO_LOW,),
)
def open_groups(
    groups: Groups,
    call: Call,
    cursor: str,
    limit: int,
    text: Annotated[
        str,
        about(
            "List only groups whose names and descriptions contain all words of this "
            "text, in any order, without accents; empty: all groups.",
            max_length=64,
        ),
    ] = "",
) -> OpenGroupsAnswer:
    """List the groups that anybody may join, page by page, or search them.

    Guests cannot use this request. A page has at most 50 groups. A search that
    takes long answers with the groups found so far, and `next` continues it.
    The time for the searches of a user is limited.
    """
    below = id_of(read_cursor(cursor) or "")
    rows, next_below = groups.open_groups(call.app, call.user, text, below, limit)
    page, next_cursor = page_and_cursor(
        rows, limit, lambda each: str(each.group.id), str(next_below or "")
    )
    details = [
        view(GroupDetail, _shown(each.group), members=each.members) for each in page
    ]
    return OpenGroupsAnswer(details, next_cursor)


@routes.get("/groups/mentions", problems=_UNKNOWN)
def mentioned(
    groups: Groups,
    call: Call,
    group: GroupId,
    text: Annotated[
        str,
        about(
            "List only groups whose handles and names contain all words of this text, "
            "in any order, without accents; empty: all groups.",
            max_length=64,
        ),
    ] = "",
) -> MentionedGroups:
    """List the groups that messages to a group may mention by their handles.

    The answer has at most 50 groups. Each of them mentions 1 to 100 other
    members of the given group. Guests mention only groups of which they are
    members. The time for the searches of a user is limited.
    """
    mentionable, has_more = groups.find_mentionable(
        call.app, id_of(group), call.user, text
    )
    return MentionedGroups(mentionable, has_more)


@routes.get("/groups/show", problems=_UNKNOWN)
def show(groups: Groups, call: Call, request: GroupChange) -> GroupDetail:
    """Show a group, the acting user's role in it, and the number of members."""
    group = groups.show(call.app, id_of(request.group), call.user)
    return view(GroupDetail, _shown(group), members=groups.count(call.app, group.id))


@routes.get("/groups/members", base=ActingPage, problems=_UNKNOWN)
def members(
    groups: Groups,
    call: Call,
    cursor: str,
    limit: int,
    group: GroupId,
    text: Annotated[
        str,
        about(
            "List only members whose names contain all words of this text, in any "
            "order, without accents; empty: all members.",
            max_length=64,
        ),
    ] = "",
) -> GroupMembersAnswer:
    """List the members of a group, page by page, or search them by their names.

    A search that takes long answers with the members found so far, and `next`
    continues it. The time for the searches of a user is limited.
    """
    number = id_of(group)
    after = read_cursor(cursor) or ""
    if text:
        rows, next_after = groups.members_named(
            call.app, number, call.user, text, after, limit
        )
    else:
        # One more row is read, to know whether there is a next page.
        rows = groups.members(call.app, number, call.user, after, limit + 1)
        next_after = ""
    page, next_cursor = page_and_cursor(rows, limit, lambda row: row.user, next_after)
    return GroupMembersAnswer(groups.count(call.app, number), list(page), next_cursor)


@routes.post("/groups/invite", problems=(*_NOT_PERMITTED, *_NOT_CREATED))
def invite(groups: Groups, call: Call, request: GroupMembers) -> GroupInvited:
    """Add users to a group.

    Members may add users, unless the group lets only admins invite. New members
    can read earlier messages only if the option `history` of the group is
    `all`. If the app has `accounts.ask_strangers`, strangers are not added, but
    each receives an invitation as a message.
    """
    strangers = _check_members(groups, call, request.members)
    added = groups.add(
        call.app, id_of(request.group), call.user, request.members, strangers
    )
    return GroupInvited(request.group, list(added.users), list(added.invited))


@routes.post("/groups/leave", problems=_UNKNOWN, user="required")
def leave(groups: Groups, call: Call, request: GroupChange) -> GroupAnswer:
    """Leave a group.

    If the owner leaves, an admin becomes the owner. If the group has no admin,
    a member becomes the owner.
    """
    groups.leave(call.app, id_of(request.group), call.user)
    return GroupAnswer(request.group, [call.user])


@routes.post("/groups/remove", problems=_NO_MEMBER)
def remove(groups: Groups, call: Call, request: GroupMembers) -> GroupAnswer:
    """Remove members from a group.

    Admins may remove members. The owner may remove anybody.
    """
    gone = groups.remove(call.app, id_of(request.group), call.user, request.members)
    return GroupAnswer(request.group, list(gone))


@routes.post("/groups/delete", problems=_NOT_PERMITTED)
def delete(groups: Groups, call: Call, request: GroupChange) -> DeletedGroup:
    """Delete a group: remove all members.

    Only the owner may delete a group. Links to the group expire. Former members
    can still read the messages that they could read before, as if they had
    left. If you receive an error, repeat the request.
    """
    count = groups.delete(call.app, id_of(request.group), call.user)
    return DeletedGroup(request.group, count)


@routes.post(
    "/groups/rename",
    schema=("GroupRename", "A group and its new name."),
    voice=True,
    problems=_NOT_PERMITTED,
)
def rename(groups: Groups, call: Call, group: GroupId, name: GroupName) -> GroupShown:
    """Rename a group.

    The owner and admins may rename a group, and members if the group allows it.
    """
    return _shown(groups.describe(call.app, id_of(group), call.user, {"name": name}))


@routes.post(
    "/groups/update", voice=True, problems=(*_NOT_PERMITTED, HandleTaken.problem)
)
def update(groups: Groups, call: Call, request: GroupUpdate) -> GroupShown:
    """Change the name, picture, description and handle of a group.

    The owner and admins may change these fields, and members if the option
    `rename` allows it. Only the owner and admins may change the handle. Upload
    the picture first. Members see each change as an entry of the kind `group`.
    """
    fields: dict[str, str] = {}
    for text in TEXT_CHARACTERS:
        value = getattr(request, text)
        if value is not UNSET:
            fields[text] = value
    return _shown(groups.describe(call.app, id_of(request.group), call.user, fields))


@routes.post(
    "/groups/role",
    schema=("GroupRole", "A member and their new role."),
    problems=_NO_MEMBER,
)
def set_role(
    groups: Groups, call: Call, group: GroupId, member: MemberId, role: Role
) -> GroupAnswer:
    """Change the role of a member.

    Only the owner may change roles. An owner who makes another member the owner
    becomes an admin.
    """
    groups.set_role(call.app, id_of(group), call.user, member, role)
    return GroupAnswer(group, [member])


@routes.post(
    "/groups/mute",
    schema=("GroupMute", "A member, and the end of the mute."),
    problems=_NO_MEMBER,
)
def mute(
    groups: Groups, call: Call, group: GroupId, member: MemberId, until: Until
) -> GroupAnswer:
    """Mute a member for a time.

    Admins may mute members. The owner may mute anybody.
    """
    groups.mute(call.app, id_of(group), call.user, member, until)
    return GroupAnswer(group, [member])


def _shown(group: Group) -> GroupShown:
    """Return a group as it is shown to the caller.

    A mute that has ended is shown as 0.
    """
    muted_until = 0
    if group.muted_until > time():
        muted_until = group.muted_until
    return view(
        GroupShown, group, group=str(group.id), muted_until=muted_until, **group.options
    )


@routes.post(
    "/groups/open",
    schema=("GroupOpen", "A group, and whether to open it."),
    problems=_NOT_PERMITTED,
)
def set_open(
    groups: Groups,
    call: Call,
    group: GroupId,
    open: Annotated[bool, about("Whether other users can find the group and join it.")],
) -> GroupShown:
    """Open a group, so that others can find and join it, or close it.

    Only the owner and admins may open or close a group. Current members stay
    members.
    """
    return _shown(groups.set_open(call.app, id_of(group), call.user, open))


@routes.post(
    "/groups/everybody",
    schema=(
        "GroupEverybody",
        "A group, and the accounts that are members without joining.",
    ),
    problems=_NOT_PERMITTED,
)
def set_everybody(
    groups: Groups, call: Call, group: GroupId, everybody: WhoseGroup
) -> GroupShown:
    """Make everybody a member of a group, or only users who were added or join.

    The user must be an owner of the app and lead the group. All accounts become
    members within seconds, and new accounts, too. Nobody can leave the group.
    Current members stay members.
    """
    return _shown(groups.set_everybody(call.app, id_of(group), call.user, everybody))


@routes.post("/groups/options", problems=_NOT_PERMITTED)
def set_options(groups: Groups, call: Call, request: GroupOptions) -> GroupShown:
    """Change the options of a group.

    Only the owner and admins may change the options.
    """
    options: dict[str, str] = {}
    for name in OPTIONS:
        value = getattr(request, name)
        if value is not UNSET:
            options[name] = value
    group = groups.set_options(call.app, id_of(request.group), call.user, options)
    return _shown(group)


@routes.post(
    "/groups/join",
    problems=(*_UNKNOWN, Problems.UNKNOWN_ACCOUNT, TooManyMembers.problem),
    user="required",
)
def join(groups: Groups, call: Call, request: GroupChange) -> GroupShown:
    """Join an open group.

    If the group is not open, the server answers that it is unknown.
    """
    _check_members(groups, call, ())
    group = groups.join(
        call.app, id_of(request.group), call.user, by_user=not call.is_back_end
    )
    return _shown(group)
