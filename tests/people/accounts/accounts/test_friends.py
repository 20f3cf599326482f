"""Friends: what two accounts are to each other after each change, whatever they were before."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import ServiceRefused
from imserver.gateway.storage.store import Store
from imserver.people.accounts import friends
from imserver.people.accounts.contract import Account
from imserver.people.accounts.friends import FriendResult, Friends, Oneself, UnknownFriend
from imserver.people.accounts.rows import AccountStore

APP = "gochat"
STATES = ("", "asked", "friend", "blocked")
BEFORE = [
    pair
    for pair in product(STATES, STATES)
    if ("friend" in pair) == (pair == ("friend", "friend")) and pair not in (("asked", "asked"),)
]
"""What two can be to each other: friends are so both ways, and of two who ask each other both are friends."""

# What the one does → (before → (after, word)); before and after: what the one is to the other, and the other
# to the one.
CHANGES = {
    "add": {
        ("", ""): (("friend", "friend"), "friends"),
        ("asked", ""): (("friend", "friend"), "friends"),
        ("", "asked"): (("friend", "friend"), "friends"),
        ("friend", "friend"): (("friend", "friend"), "already"),
        ("blocked", ""): (("blocked", ""), "away"),
        ("", "blocked"): (("", "blocked"), "away"),
        ("blocked", "blocked"): (("blocked", "blocked"), "away"),
        ("asked", "blocked"): (("asked", "blocked"), "away"),
        ("blocked", "asked"): (("blocked", "asked"), "away"),
    },
    "ask": {
        ("", ""): (("asked", ""), "asked"),
        ("asked", ""): (("asked", ""), "already"),
        ("", "asked"): (("friend", "friend"), "friends"),
        ("friend", "friend"): (("friend", "friend"), "already"),
        ("blocked", ""): (("blocked", ""), "away"),
        ("", "blocked"): (("asked", "blocked"), "asked"),
        ("blocked", "blocked"): (("blocked", "blocked"), "away"),
        ("asked", "blocked"): (("asked", "blocked"), "already"),
        ("blocked", "asked"): (("blocked", "asked"), "away"),
    },
    "accept": {
        ("", ""): (("", ""), "absent"),
        ("asked", ""): (("asked", ""), "absent"),
        ("", "asked"): (("friend", "friend"), "friends"),
        ("friend", "friend"): (("friend", "friend"), "already"),
        ("blocked", ""): (("blocked", ""), "absent"),
        ("", "blocked"): (("", "blocked"), "absent"),
        ("blocked", "blocked"): (("blocked", "blocked"), "absent"),
        ("asked", "blocked"): (("asked", "blocked"), "absent"),
        ("blocked", "asked"): (("blocked", "asked"), "absent"),
    },
    "decline": {
        ("", ""): (("", ""), "absent"),
        ("asked", ""): (("asked", ""), "absent"),
        ("", "asked"): (("", ""), "done"),
        ("friend", "friend"): (("friend", "friend"), "absent"),
        ("blocked", ""): (("blocked", ""), "absent"),
        ("", "blocked"): (("", "blocked"), "absent"),
        ("blocked", "blocked"): (("blocked", "blocked"), "absent"),
        ("asked", "blocked"): (("asked", "blocked"), "absent"),
        ("blocked", "asked"): (("blocked", ""), "done"),
    },
    "remove": {
        ("", ""): (("", ""), "absent"),
        ("asked", ""): (("", ""), "done"),
        ("", "asked"): (("", "asked"), "absent"),
        ("friend", "friend"): (("", ""), "done"),
        ("blocked", ""): (("blocked", ""), "absent"),
        ("", "blocked"): (("", "blocked"), "absent"),
        ("blocked", "blocked"): (("blocked", "blocked"), "absent"),
        ("asked", "blocked"): (("", "blocked"), "done"),
        ("blocked", "asked"): (("blocked", "asked"), "absent"),
    },
    "block": {
        ("", ""): (("blocked", ""), "done"),
        ("asked", ""): (("blocked", ""), "done"),
        ("", "asked"): (("blocked", ""), "done"),
        ("friend", "friend"): (("blocked", ""), "done"),
        ("blocked", ""): (("blocked", ""), "already"),
        ("", "blocked"): (("blocked", "blocked"), "done"),
        ("blocked", "blocked"): (("blocked", "blocked"), "already"),
        ("asked", "blocked"): (("blocked", "blocked"), "done"),
        ("blocked", "asked"): (("blocked", "asked"), "already"),
    },
    "unblock": {
        ("", ""): (("", ""), "absent"),
        ("asked", ""): (("asked", ""), "absent"),
        ("", "asked"): (("", "asked"), "absent"),
        ("friend", "friend"): (("friend", "friend"), "absent"),
        ("blocked", ""): (("", ""), "done"),
        ("", "blocked"): (("", "blocked"), "absent"),
        ("blocked", "blocked"): (("", "blocked"), "done"),
        ("asked", "blocked"): (("asked", "blocked"), "absent"),
        ("blocked", "asked"): (("", "asked"), "done"),
    },
}


class Harness:
    """Two accounts, and what they are to each other."""

    def __init__(self, folder: Path, limit: int = 10) -> None:
        self.store = Store(StorageSettings(f"sqlite:///{folder}/some.db"), "", threaded=False)
        self.store.start()
        self.accounts = AccountStore(self.store)
        self.friends = Friends(self.accounts, limit, lambda _: None)
        self.one, self.two = self.account("1"), self.account("2")

    def account(self, phone: str) -> str:
        return self.accounts.add(Account(0, APP, phone), "a hash").user

    def become(self, states: tuple[str, str]) -> None:
        self.accounts.relate(APP, int(self.one), int(self.two), 10, lambda _before: (states, ""))

    def states(self) -> tuple[str, str]:
        seen: list[tuple[str, str]] = []
        self.accounts.relate(
            APP, int(self.one), int(self.two), 10, lambda before: (before, seen.append(before) or "")
        )
        return seen[0]

    def listed(self, name: str, user: str) -> list[str]:
        total, page = self.friends.listed(name, user, "", 10)  # type: ignore[arg-type]
        assert total == len(page)
        return [str(contact.id) for contact in page]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    result = Harness(tmp_path)
    yield result
    result.store.close()


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_has_its_result_from_every_state(harness: Harness, change: str) -> None:
    assert set(CHANGES[change]) == set(BEFORE)
    for before, (after, word) in CHANGES[change].items():
        harness.become(before)
        result = harness.friends.change(APP, harness.one, harness.two, getattr(friends, change))
        assert (before, result, harness.states()) == (before, word, after)


def test_everybody_sees_their_own_lists(harness: Harness) -> None:
    third = harness.account("3")
    harness.friends.change(APP, harness.one, harness.two, friends.add)
    harness.friends.change(APP, third, harness.one, friends.ask)
    assert harness.listed("friends", harness.one) == [harness.two]
    assert harness.listed("friends", harness.two) == [harness.one]
    assert harness.listed("incoming", harness.one) == [third]
    assert harness.listed("outgoing", third) == [harness.one]
    harness.friends.change(APP, harness.two, harness.one, friends.block)
    assert harness.listed("friends", harness.one) == []
    assert harness.listed("blocked", harness.two) == [harness.one]


def test_a_request_of_a_blocked_user_has_no_effect_and_does_not_show_it(harness: Harness) -> None:
    harness.friends.change(APP, harness.two, harness.one, friends.block)
    assert harness.friends.change(APP, harness.one, harness.two, friends.ask) is FriendResult.REQUESTED
    assert harness.listed("outgoing", harness.one) == [harness.two]
    assert harness.listed("incoming", harness.two) == []
    harness.friends.change(APP, harness.two, harness.one, friends.unblock)
    assert harness.listed("incoming", harness.two) == [harness.one]


def test_a_user_cannot_be_their_own_friend(harness: Harness) -> None:
    with pytest.raises(Oneself):
        harness.friends.change(APP, harness.one, harness.one, friends.add)


@pytest.mark.parametrize("other", ["", "0", "-1", "x", "²", "9" * 19, "9" * 30, "999"])
def test_an_unknown_account_cannot_be_a_friend(harness: Harness, other: str) -> None:
    with pytest.raises(UnknownFriend):
        harness.friends.change(APP, harness.one, other, friends.add)


def test_accounts_of_another_app_are_not_there(harness: Harness) -> None:
    elsewhere = harness.accounts.add(Account(0, "shop", "1"), "a hash").user
    with pytest.raises(UnknownFriend):
        harness.friends.change(APP, harness.one, elsewhere, friends.add)


def test_friends_have_a_limit(tmp_path: Path) -> None:
    harness = Harness(tmp_path, limit=1)
    harness.friends.change(APP, harness.one, harness.two, friends.add)
    with pytest.raises(ServiceRefused):
        harness.friends.change(APP, harness.one, harness.account("3"), friends.add)
    harness.store.close()
