"""Friends: what two accounts are to each other after each change, whatever they were before."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from imserver.config.settings import StorageSettings
from imserver.services.people.friends import Friends, Oneself, Said, TooManyFriends, UnknownFriend
from imserver.storage.accounts import AccountStore
from imserver.storage.contract import Account
from imserver.storage.store import Store

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


class World:
    """Two accounts, and what they are to each other."""

    def __init__(self, folder: Path, limit: int = 10) -> None:
        self.store = Store(StorageSettings(f"sqlite:///{folder}/some.db"), "", threaded=False)
        self.store.start()
        self.kept = AccountStore(self.store)
        self.friends = Friends(self.kept, limit)
        self.one, self.two = self.account("1"), self.account("2")

    def account(self, phone: str) -> str:
        return self.kept.add(Account(0, APP, phone), "a hash").user

    def become(self, states: tuple[str, str]) -> None:
        self.kept.relate(APP, int(self.one), int(self.two), 10, lambda _before: (states, ""))

    def states(self) -> tuple[str, str]:
        seen: list[tuple[str, str]] = []
        self.kept.relate(
            APP, int(self.one), int(self.two), 10, lambda before: (before, seen.append(before) or "")
        )
        return seen[0]

    def listed(self, name: str, user: str) -> list[str]:
        total, page = self.friends.listed(name, user, "", 10)  # type: ignore[arg-type]
        assert total == len(page)
        return [str(contact.id) for contact in page]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_comes_to_what_it_should_whatever_was_before(world: World, change: str) -> None:
    assert set(CHANGES[change]) == set(BEFORE)
    for before, (after, word) in CHANGES[change].items():
        world.become(before)
        said = getattr(world.friends, change)(APP, world.one, world.two)
        assert (before, said, world.states()) == (before, word, after)


def test_everybody_sees_their_own_lists(world: World) -> None:
    third = world.account("3")
    world.friends.add(APP, world.one, world.two)
    world.friends.ask(APP, third, world.one)
    assert world.listed("friends", world.one) == [world.two]
    assert world.listed("friends", world.two) == [world.one]
    assert world.listed("incoming", world.one) == [third]
    assert world.listed("outgoing", third) == [world.one]
    world.friends.block(APP, world.two, world.one)
    assert world.listed("friends", world.one) == []
    assert world.listed("blocked", world.two) == [world.one]


def test_whoever_is_kept_away_asks_in_vain_and_does_not_learn_why(world: World) -> None:
    world.friends.block(APP, world.two, world.one)
    assert world.friends.ask(APP, world.one, world.two) is Said.ASKED
    assert world.listed("outgoing", world.one) == [world.two]
    assert world.listed("incoming", world.two) == []
    world.friends.unblock(APP, world.two, world.one)
    assert world.listed("incoming", world.two) == [world.one]


def test_nobody_is_their_own_friend(world: World) -> None:
    with pytest.raises(Oneself):
        world.friends.add(APP, world.one, world.one)


@pytest.mark.parametrize("other", ["", "0", "-1", "x", "²", "9" * 19, "9" * 30, "999"])
def test_whoever_is_not_there_is_nobodys_friend(world: World, other: str) -> None:
    with pytest.raises(UnknownFriend):
        world.friends.add(APP, world.one, other)


def test_accounts_of_another_app_are_not_there(world: World) -> None:
    elsewhere = world.kept.add(Account(0, "shop", "1"), "a hash").user
    with pytest.raises(UnknownFriend):
        world.friends.add(APP, world.one, elsewhere)


def test_friends_have_a_limit(tmp_path: Path) -> None:
    world = World(tmp_path, limit=1)
    world.friends.add(APP, world.one, world.two)
    with pytest.raises(TooManyFriends):
        world.friends.add(APP, world.one, world.account("3"))
    world.store.close()
