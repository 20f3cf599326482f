"""Routes of friends: ask, accept, decline, remove, block, unblock, and the lists of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.form import cursor as cursor_of
from imserver.api.reply import ApiProblem
from imserver.api.v1.accounts import FriendAnswer, FriendChange, FriendsAnswer, FriendShown, FriendsQuery
from imserver.api.v1.operation import ACTOR_PROBLEMS, Operation
from imserver.api.v1.wire import after, reply
from imserver.auth.principal import ADMIN_OR_ACCOUNT
from imserver.services.people.accounts import account_id
from imserver.services.people.friends import Friends, Oneself, Said, TooManyFriends, UnknownFriend
from imserver.transport.exchange import HttpResponse

Change = Callable[[Friends, str, str, str], Said]


def friends(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/friends``."""
    asked: FriendsQuery = call.asked
    account = api.services.accounts.get(call.app, call.user)
    if account is None:
        raise ApiProblem(errors.HTTP_UNKNOWN_ACCOUNT)
    behind = after(asked.cursor) or ""
    # A cursor that no page has given begins anew.
    behind = behind if account_id(behind) else ""
    total, page = api.services.friends.listed(asked.list, call.user, behind, asked.limit)
    following = cursor_of(str(page[-1].id)) if len(page) == asked.limit else ""
    shown = [FriendShown(str(each.id), each.nickname, each.avatar, each.since) for each in page]
    return reply(call, FriendsAnswer(total, shown, following))


class _Changes:
    """What the routes that change something have in common."""

    def __init__(self, change: Change) -> None:
        self._change = change

    def __call__(self, api: Api, call: Call) -> HttpResponse:
        asked: FriendChange = call.asked
        try:
            said = self._change(api.services.friends, call.app, call.user, asked.friend)
        except Oneself:
            raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`friend`: nobody is their own friend") from None
        except UnknownFriend:
            raise ApiProblem(errors.HTTP_UNKNOWN_ACCOUNT) from None
        except TooManyFriends:
            raise ApiProblem(errors.HTTP_TOO_MANY_FRIENDS) from None
        return reply(call, FriendAnswer(said.value))


def _row(word: str, change: Change, status: str, summary: str, description: str = "") -> Operation:
    return Operation(
        "POST",
        f"/api/v1/friends/{word}",
        ADMIN_OR_ACCOUNT,
        _Changes(change),
        "friends",
        summary,
        description,
        body=FriendChange,
        answer=FriendAnswer,
        problems=(*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_ACCOUNT, errors.HTTP_TOO_MANY_FRIENDS),
        example_body={"user": "1", "friend": "2"},
        example_answer={"status": status},
        hot=False,
    )


OPERATIONS: Final = (
    Operation(
        "GET",
        "/api/v1/friends",
        ADMIN_OR_ACCOUNT,
        friends,
        "friends",
        "List friends and friend requests, page by page",
        query=FriendsQuery,
        answer=FriendsAnswer,
        problems=(*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_ACCOUNT),
        example_query={"user": "1"},
        example_answer={
            "count": 1,
            "friends": [{"user": "2", "nickname": "Bob", "avatar": "", "since": 1795155802}],
            "next": "",
        },
        hot=False,
    ),
    _row(
        "request",
        Friends.ask,
        "asked",
        "Ask to be a friend",
        "Two users who ask each other become friends. A blocked user does not learn that they are blocked.",
    ),
    _row("accept", Friends.accept, "friends", "Accept a friend request"),
    _row("decline", Friends.decline, "done", "Decline a friend request"),
    _row("remove", Friends.remove, "done", "Be friends no longer, or take back what was asked"),
    _row(
        "block",
        Friends.block,
        "done",
        "Keep somebody away",
        "Friends they are no more, nor can they become it.",
    ),
    _row("unblock", Friends.unblock, "done", "Keep somebody away no longer"),
)
