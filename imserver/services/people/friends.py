"""Friends: who asked whom, who is one, who is kept away. Everything here is between accounts of one app."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from imserver.errors import ImserverError
from imserver.services.people.accounts import account_id
from imserver.storage.accounts import AccountStore, Relating, States
from imserver.storage.contract import Contact, ListName

ASKED: Final = "asked"
FRIEND: Final = "friend"
BLOCKED: Final = "blocked"


class Said(StrEnum):
    """What came of a change."""

    FRIENDS = "friends"
    """They are friends now."""
    ASKED = "asked"
    """The other has been asked, whether they hear of it or not."""
    DONE = "done"
    ALREADY = "already"
    """It was so before."""
    ABSENT = "absent"
    """There was nothing to accept, to decline, to remove."""
    AWAY = "away"
    """One of the two keeps the other away."""


class UnknownFriend(ImserverError):
    """There is no such account in the app."""


class Oneself(ImserverError):
    """Nobody is their own friend."""


class TooManyFriends(ImserverError):
    """One of the two has ``accounts.friends`` already."""


class Friends:
    """Changes what two accounts are to each other. Everything may switch and raise StorageUnavailable.

    What changes something raises Oneself, UnknownFriend and TooManyFriends. A user who is no account
    of the app has no lists.
    """

    def __init__(self, kept: AccountStore, limit: int) -> None:
        self._kept = kept
        self._limit = limit

    def add(self, app: str, user: str, other: str) -> Said:
        """Make two accounts friends without asking, as GoChat does."""
        return self._change(app, user, other, _add)

    def ask(self, app: str, user: str, other: str) -> Said:
        """Ask to be a friend. Whoever was asked by the other already is one at once.

        Whoever is kept away by the other asks in vain, and does not learn why.
        """
        return self._change(app, user, other, _ask)

    def accept(self, app: str, user: str, other: str) -> Said:
        """Become a friend of somebody who has asked."""
        return self._change(app, user, other, _accept)

    def decline(self, app: str, user: str, other: str) -> Said:
        """Do not become one."""
        return self._change(app, user, other, _decline)

    def remove(self, app: str, user: str, other: str) -> Said:
        """Be friends no longer, or take back what was asked."""
        return self._change(app, user, other, _remove)

    def block(self, app: str, user: str, other: str) -> Said:
        """Keep somebody away, who is no friend any more and cannot become one."""
        return self._change(app, user, other, _block)

    def unblock(self, app: str, user: str, other: str) -> Said:
        """Keep somebody away no longer."""
        return self._change(app, user, other, _unblock)

    def blocked_by(self, app: str, user: str, others: Iterable[str]) -> list[str]:
        """Those of ``others`` who have blocked a user, in the order of their ids."""
        id, ids = account_id(user), {account_id(other) for other in others} - {0}
        return (
            [str(each) for each in sorted(self._kept.blocked_by(app, id, sorted(ids)))] if id and ids else []
        )

    def listed(self, name: ListName, user: str, after: str, limit: int) -> tuple[int, list[Contact]]:
        """How many are on a list of an account, and a page of it behind a user."""
        id = account_id(user)
        return self._kept.contacts(name, id, account_id(after), limit) if id else (0, [])

    def _change(self, app: str, user: str, other: str, becoming: Relating) -> Said:
        mine, theirs = account_id(user), account_id(other)
        if not (mine and theirs):
            raise UnknownFriend(other)
        if mine == theirs:
            raise Oneself(user)
        word = self._kept.relate(app, mine, theirs, self._limit, becoming)
        if word == "unknown":
            raise UnknownFriend(other)
        if word == "full":
            raise TooManyFriends(f"accounts.friends {self._limit}")
        return Said(word)


# Each of these gets what the one is to the other and the other to the one, and says the same as it is to be.


def _add(before: States) -> tuple[States, str]:
    if FRIEND in before:
        return before, Said.ALREADY
    return (before, Said.AWAY) if BLOCKED in before else ((FRIEND, FRIEND), Said.FRIENDS)


def _ask(before: States) -> tuple[States, str]:
    mine, theirs = before
    if FRIEND in before or mine == ASKED:
        return before, Said.ALREADY
    if mine == BLOCKED:
        return before, Said.AWAY
    return ((FRIEND, FRIEND), Said.FRIENDS) if theirs == ASKED else ((ASKED, theirs), Said.ASKED)


def _accept(before: States) -> tuple[States, str]:
    mine, theirs = before
    if FRIEND in before:
        return before, Said.ALREADY
    if theirs != ASKED or mine == BLOCKED:
        return before, Said.ABSENT
    return (FRIEND, FRIEND), Said.FRIENDS


def _decline(before: States) -> tuple[States, str]:
    mine, theirs = before
    return ((mine, ""), Said.DONE) if theirs == ASKED else (before, Said.ABSENT)


def _remove(before: States) -> tuple[States, str]:
    mine, theirs = before
    if FRIEND in before:
        return ("", ""), Said.DONE
    return (("", theirs), Said.DONE) if mine == ASKED else (before, Said.ABSENT)


def _block(before: States) -> tuple[States, str]:
    mine, theirs = before
    if mine == BLOCKED:
        return before, Said.ALREADY
    return (BLOCKED, theirs if theirs == BLOCKED else ""), Said.DONE


def _unblock(before: States) -> tuple[States, str]:
    mine, theirs = before
    return (("", theirs), Said.DONE) if mine == BLOCKED else (before, Said.ABSENT)
