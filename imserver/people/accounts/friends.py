"""Friends: requests, friendships and blocks between accounts of one app."""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

from imserver.people.accounts.contract import Contact, ListName
from imserver.people.accounts.declared import HTTP_TOO_MANY_FRIENDS
from imserver.people.accounts.rows import AccountStore, StateChange, States
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
    """Changes the relation between two accounts.

    A user without an account in the app has no lists. ``send`` signals changes
    to the connections of both users that follow the log, if they may see the
    change. Every method may switch greenlets and raise StorageUnavailable.
    """

    accounts: AccountStore
    limit: int
    send: Callable[[ToFollowers], object]

    def change(
        self,
        app: str,
        user: str,
        other: str,
        change_states: StateChange,
        condition: Condition | None = None,
    ) -> FriendResult:
        """Change the relation between two accounts, as ``change_states``
        decides.

        ``change_states`` is one of the functions below, such as :func:`ask`.
        With ``condition``, the transaction stores the change only if the
        condition is met. Raises Oneself, UnknownFriend (also if a change does
        not meet the condition), and ServiceRefused for too many friends.
        """
        user_id, other_id = _ids_of(user, other)
        before: States = STRANGERS
        after: States = STRANGERS

        def change_and_note(states: States) -> tuple[States, str]:
            """Decide, and note the states before and after for the signals."""
            nonlocal before, after
            before = states
            after, result = change_states(states)
            return after, result

        result = self.accounts.relate(
            app,
            one=user_id,
            two=other_id,
            limit=self.limit,
            change_states=change_and_note,
            condition=condition,
        )
        if result == "unknown":
            raise UnknownFriend(other)
        if result == "full":
            raise ServiceRefused(problem=HTTP_TOO_MANY_FRIENDS)
        self._signal_if_seen(app, user_id, other_id, before, after)
        # For the other account, the two states are exchanged.
        self._signal_if_seen(app, other_id, user_id, before[::-1], after[::-1])
        return FriendResult(result)

    def _signal_if_seen(
        self, app: str, user: int, other: int, before: States, after: States
    ) -> None:
        """Signal a change to one of two accounts, if it may see the change.

        ``before`` and ``after`` are the states of ``user`` towards ``other``,
        and of ``other`` towards ``user``.
        """
        if relation_of(before) != relation_of(after):
            self._signal_change(app, str(user), str(other))

    def _signal_change(self, app: str, user: str, other: str) -> None:
        """Send a user the signal that the relation to another user has
        changed."""
        signal = Signal("contact", other, "", to=user)
        self.send(ToFollowers(app, (user,), group=0, signal=signal))

    def listed(
        self, name: ListName, user: str, after: str, limit: int
    ) -> tuple[int, list[Contact]]:
        """A list of an account, such as its friends: its length, and a page of
        it.

        The page has at most ``limit`` entries after the user ``after``; ``""``
        means the first page.
        """
        id = id_of(user)
        if id:
            return self.accounts.contacts(name, id, id_of(after), limit)
        return (0, [])


def _ids_of(user: str, other: str) -> tuple[int, int]:
    """The ids of two different accounts. Raises UnknownFriend and Oneself."""
    user_id = id_of(user)
    other_id = id_of(other)
    if not (user_id and other_id):
        raise UnknownFriend(other)
    if user_id == other_id:
        raise Oneself(user)
    return user_id, other_id


def relation_of(states: States) -> Relation:
    """The relation of the other account to the user, from the states of both.

    ``states`` are the state of the user towards the account, and of the account
    towards the user. A block by the other account is hidden, so it looks like
    no relation.
    """
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


# Changes of a relation (StateChange). Each function gets the state of the
# acting user towards the other, and of the other towards the acting user
# (``mine`` and ``theirs``). It returns both new states, and a FriendResult.


def add(before: States) -> tuple[States, str]:
    """Make two accounts friends without a request, as GoChat does."""
    if FRIEND in before:
        return before, FriendResult.ALREADY
    if BLOCKED in before:
        return (before, FriendResult.AWAY)
    return ((FRIEND, FRIEND), FriendResult.FRIENDS)


def ask(before: States) -> tuple[States, str]:
    """Send a friend request.

    If the other account has sent a request before, both are friends at once. A
    user who has blocked the sender is not notified, and the result does not
    reveal that.
    """
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
    """Block a user. This ends a friendship, and prevents a new friendship."""
    mine, theirs = before
    if mine == BLOCKED:
        return before, FriendResult.ALREADY
    # If the other account has blocked this one, the block stays. All other
    # relations end.
    if theirs == BLOCKED:
        return (BLOCKED, BLOCKED), FriendResult.DONE
    return (BLOCKED, ""), FriendResult.DONE


def unblock(before: States) -> tuple[States, str]:
    """Unblock a user."""
    mine, theirs = before
    if mine == BLOCKED:
        return (("", theirs), FriendResult.DONE)
    return (before, FriendResult.ABSENT)
