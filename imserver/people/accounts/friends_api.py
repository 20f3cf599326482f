"""Friends: ask, accept, decline, remove, block, unblock, and the lists of
them."""

from typing import Annotated, Final, Literal

from msgspec import Struct

from imserver.people.accounts import friends as changes
from imserver.people.accounts.api import Avatar, Nickname, UserId
from imserver.people.accounts.contract import ListName
from imserver.people.accounts.declared import HTTP_TOO_MANY_FRIENDS
from imserver.people.accounts.parts import AccountParts, accounts_of
from imserver.people.accounts.rows import StateChange
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    Acting,
    ActingPage,
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


class FriendChange(Acting, kw_only=True):
    """The acting user and another account."""

    friend: Annotated[str, about("The other account.", min_length=1, max_length=255)]


class FriendAnswer(Struct):
    """The result."""

    status: Annotated[
        Literal["friends", "asked", "done", "already", "absent", "away"],
        about(
            "`friends`: the two are friends now. `asked`: the request was sent. "
            "`done`: the change was made. `already`: nothing has changed. `absent`: "
            "there was nothing to change. `away`: you have blocked the other user."
        ),
    ]


class FriendShown(Struct):
    """A user on a list."""

    user: UserId
    nickname: Nickname
    avatar: Avatar
    since: Annotated[
        int, about("When the user was added to the list, in Unix seconds.")
    ]


class FriendsAnswer(Struct):
    """A page of a list, ordered by id."""

    count: Annotated[int, about("The number of entries, on all pages together.")]
    friends: list[FriendShown]
    next: NextCursor


_NOT_CHANGED: Final = (Problems.UNKNOWN_ACCOUNT, HTTP_TOO_MANY_FRIENDS)


routes = Resource(
    "friends",
    service=lambda core, _: accounts_of(core),
    base=ActingPage,
    chapter="Friends, friend requests, blocks.",
    hot=False,
)


@routes.get("/friends", Needs.ADMIN_OR_PERSON, problems=(Problems.UNKNOWN_ACCOUNT,))
def friends(
    api: AccountParts,
    call: Call,
    cursor: str,
    limit: int,
    list: Annotated[
        ListName,
        about("Friends, incoming requests, outgoing requests, or blocked users."),
    ] = "friends",
) -> FriendsAnswer:
    """List friends and friend requests, page by page."""
    api.accounts.known(call.app, call.user)
    after = _last_listed(cursor)
    # One more row tells whether there is a next page.
    total, rows = api.friends.listed(list, call.user, after, limit=limit + 1)
    page, next_cursor = page_and_cursor(rows, limit, lambda contact: str(contact.id))
    shown = [view(FriendShown, each, user=str(each.id)) for each in page]
    return FriendsAnswer(total, shown, next_cursor)


def _last_listed(cursor: str) -> str:
    """The last user of the previous page, or ``""`` for the first page.

    A cursor that is not the id of an account means the first page, too.
    """
    after = read_cursor(cursor) or ""
    if not id_of(after):
        return ""
    return after


# ``act=""``: users change their friends all day, so the audit log has no entry.
@routes.post("/friends/request", Needs.ADMIN_OR_ACCOUNT, act="", problems=_NOT_CHANGED)
def request(api: AccountParts, call: Call, request: FriendChange) -> FriendAnswer:
    """Send a friend request.

    Two users who send each other a request become friends. Blocked users do not
    learn that they are blocked.
    """
    return _change(api, call, request, changes.ask)


@routes.post("/friends/accept", Needs.ADMIN_OR_ACCOUNT, act="", problems=_NOT_CHANGED)
def accept(api: AccountParts, call: Call, request: FriendChange) -> FriendAnswer:
    """Accept a friend request."""
    return _change(api, call, request, changes.accept)


@routes.post("/friends/decline", Needs.ADMIN_OR_ACCOUNT, act="", problems=_NOT_CHANGED)
def decline(api: AccountParts, call: Call, request: FriendChange) -> FriendAnswer:
    """Decline a friend request."""
    return _change(api, call, request, changes.decline)


@routes.post("/friends/remove", Needs.ADMIN_OR_ACCOUNT, act="", problems=_NOT_CHANGED)
def remove(api: AccountParts, call: Call, request: FriendChange) -> FriendAnswer:
    """Remove a friend or withdraw a friend request."""
    return _change(api, call, request, changes.remove)


@routes.post("/friends/block", Needs.ADMIN_OR_PERSON, act="", problems=_NOT_CHANGED)
def block(api: AccountParts, call: Call, request: FriendChange) -> FriendAnswer:
    """Block a user.

    This ends a friendship. A blocked user cannot become a friend.
    """
    return _change(api, call, request, changes.block)


@routes.post("/friends/unblock", Needs.ADMIN_OR_PERSON, act="", problems=_NOT_CHANGED)
def unblock(api: AccountParts, call: Call, request: FriendChange) -> FriendAnswer:
    """Unblock a user."""
    return _change(api, call, request, changes.unblock)


def _change(
    api: AccountParts, call: Call, request: FriendChange, change_states: StateChange
) -> FriendAnswer:
    """Change the relation of the acting user to another user, as
    ``change_states`` decides."""
    api.accounts.rules_of(call.app)  # raises NoAccounts
    result = api.friends.change(call.app, call.user, request.friend, change_states)
    return FriendAnswer(result.value)
