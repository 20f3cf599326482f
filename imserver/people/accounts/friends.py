"""Friends: requests, friendships and blocks between accounts of one app."""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

from imserver.people.accounts.contract import Contact, ListName
from imserver.people.accounts.declared import HTTP_TOO_MANY_FRIENDS
from imserver.people.accounts.rows import AccountStore, Relating, States
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.messages import ToFollowers
from imserver.plugin.storage import Condition
from imserver.plugin.wire import Signal, id_of

REQUESTED: Final = "asked"
FRIEND: Final = "friend"
BLOCKED: Final = "blocked"
STRANGERS: Final[States] = ("", "")
Relation = Literal["", "self", "friend", "incoming", "outgoing", "blocked"]
"""The relation of another account to a user; ``incoming``: the account has sent
a friend request."""


class FriendResult(StrEnum):
    """The result of a change."""

    FRIENDS = "friends"
    """The two are friends now."""
    REQUESTED = "asked"
    """The request is stored. The other account may have blocked the user."""
    DONE = "done"
    ALREADY = "already"
    """Nothing had to be changed."""
    ABSENT = "absent"
    """There was nothing to accept, decline or remove."""
    AWAY = "away"
    """One of the two has blocked the other."""


class UnknownFriend(ServiceRefused, problem=Problems.UNKNOWN_ACCOUNT):
    """There is no such account in the app."""


class Oneself(
    ServiceRefused,
    problem=Problems.INVALID_REQUEST,
    detail="`friend` is the acting user",
):
    """A user cannot be their own friend."""


class Friends(Struct, frozen=True):
    """Changes the relation between two accounts. Every method may switch
    greenlets and raise StorageUnavailable.

    A user without an account in the app has no lists. ``send`` signals changes
    to the connections of both users that follow the log, if they may see the
    change.
    """

    accounts: AccountStore
    limit: int
    send: Callable[[ToFollowers], object]

    def change(
        self,
        app: str,
        user: str,
        other: str,
        becoming: Relating,
        condition: Condition | None = None,
    ) -> FriendResult:
        """Change the relation between two accounts; ``becoming`` is one of the
        functions below.

        Raises Oneself, UnknownFriend (also if a change does not meet the
        condition), and ServiceRefused for too many friends.
        """
        mine = id_of(user)
        theirs = id_of(other)
        if not (mine and theirs):
            raise UnknownFriend(other)
        if mine == theirs:
            raise Oneself(user)
        states: tuple[States, States] = (STRANGERS, STRANGERS)

        def change(before: States) -> tuple[States, str]:
            nonlocal states
            after, result = becoming(before)
            states = before, after
            return after, result

        word = self.accounts.relate(app, mine, theirs, self.limit, change, condition)
        if word == "unknown":
            raise UnknownFriend(other)
        if word == "full":
            raise ServiceRefused(problem=HTTP_TOO_MANY_FRIENDS)
        before, after = states
        if relation_of(before) != relation_of(after):
            self._changed(app, str(mine), str(theirs))
        if relation_of(before[::-1]) != relation_of(after[::-1]):
            self._changed(app, str(theirs), str(mine))
        return FriendResult(word)

    def _changed(self, app: str, user: str, other: str) -> None:
        """Send a user the signal that the relation to another one has
        changed."""
        self.send(ToFollowers(app, (user,), 0, Signal("contact", other, "", to=user)))

    def listed(
        self, name: ListName, user: str, after: str, limit: int
    ) -> tuple[int, list[Contact]]:
        """The length of a list of an account, and a page of it after the user
        ``after``."""
        id = id_of(user)
        if id:
            return self.accounts.contacts(name, id, id_of(after), limit)
        return (0, [])


def relation_of(states: States) -> Relation:
    """The relation of the other account to the user. ``states``: the state of
    the user towards the account, and of the account towards the user."""
    mine, theirs = states
    if mine == FRIEND:
        return "friend"
    if mine == BLOCKED:
        return "blocked"
    if mine == REQUESTED:
        return "outgoing"
    if theirs == REQUESTED:
        return "incoming"
    return ""


# Changes: a function from (relation of the user to the other, relation of the
# other to the user) to the new pair and the result.


def add(before: States) -> tuple[States, str]:
    """Make two accounts friends without a request, as GoChat does."""
    if FRIEND in before:
        return before, FriendResult.ALREADY
    if BLOCKED in before:
        return (before, FriendResult.AWAY)
    return ((FRIEND, FRIEND), FriendResult.FRIENDS)


def ask(before: States) -> tuple[States, str]:
    """Send a friend request. If the other has sent one before, both are friends
    at once. A user who has blocked the sender is not notified, and the result
    does not reveal that."""
    mine, theirs = before
    if FRIEND in before or mine == REQUESTED:
        return before, FriendResult.ALREADY
    if mine == BLOCKED:
        return before, FriendResult.AWAY
    if theirs == REQUESTED:
        return ((FRIEND, FRIEND), FriendResult.FRIENDS)
    return ((REQUESTED, theirs), FriendResult.REQUESTED)


def accept(before: States) -> tuple[States, str]:
    """Accept the request of a user."""
    mine, theirs = before
    if FRIEND in before:
        return before, FriendResult.ALREADY
    if theirs != REQUESTED or mine == BLOCKED:
        return before, FriendResult.ABSENT
    return (FRIEND, FRIEND), FriendResult.FRIENDS


def decline(before: States) -> tuple[States, str]:
    """Decline a request."""
    mine, theirs = before
    if theirs == REQUESTED:
        return ((mine, ""), FriendResult.DONE)
    return (before, FriendResult.ABSENT)


def remove(before: States) -> tuple[States, str]:
    """End a friendship, or take back a request."""
    mine, theirs = before
    if FRIEND in before:
        return ("", ""), FriendResult.DONE
    if mine == REQUESTED:
        return (("", theirs), FriendResult.DONE)
    return (before, FriendResult.ABSENT)


def block(before: States) -> tuple[States, str]:
    """Block a user. This ends a friendship and prevents a new one."""
    mine, theirs = before
    if mine == BLOCKED:
        return before, FriendResult.ALREADY
    if theirs == BLOCKED:
        return (BLOCKED, BLOCKED), FriendResult.DONE
    return (BLOCKED, ""), FriendResult.DONE


def unblock(before: States) -> tuple[States, str]:
    """Unblock a user."""
    mine, theirs = before
    if mine == BLOCKED:
        return (("", theirs), FriendResult.DONE)
    return (before, FriendResult.ABSENT)
