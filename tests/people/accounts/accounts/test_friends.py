"""Friends: what two accounts are to each other after each change, whatever they were before."""

from collections.abc import Iterator
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
STATES = {"-": "", "a": "asked", "f": "friend", "b": "blocked"}
TABLE = """\
.. | add        | ask        | accept     | decline | remove  | block   | unblock
-- | friends ff | asked a-   | absent     | absent  | absent  | done b- | absent
a- | friends ff | already    | absent     | absent  | done -- | done b- | absent
-a | friends ff | friends ff | friends ff | done -- | absent  | done b- | absent
ff | already    | already    | already    | absent  | done -- | done b- | absent
b- | away       | away       | absent     | absent  | absent  | already | done --
-b | away       | asked ab   | absent     | absent  | absent  | done bb | absent
bb | away       | away       | absent     | absent  | absent  | already | done -b
ab | away       | already    | absent     | absent  | done -b | done bb | absent
ba | away       | away       | absent     | done b- | absent  | already | done -a
"""
"""What the one does: the result from each state, and the state afterwards if it is another. Two letters: what
the one is to the other, and the other to the one. Friends are so both ways, as are two who ask each other."""


def both(letters: str) -> tuple[str, str]:
    return STATES[letters[0]], STATES[letters[1]]


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


def test_each_change_has_its_result_from_every_state(harness: Harness) -> None:
    (_, *changes), *rows = ([cell.strip() for cell in line.split("|")] for line in TABLE.splitlines())
    for letters, *results in rows:
        for change, cell in zip(changes, results, strict=True):
            word, _, after = cell.partition(" ")
            harness.become(both(letters))
            result = harness.friends.change(APP, harness.one, harness.two, getattr(friends, change))
            assert (letters, change, result, harness.states()) == (
                letters,
                change,
                word,
                both(after or letters),
            )


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
    elsewhere = harness.accounts.add(Account(0, "shop", "1"), "a hash").user
    for unknown in (other, elsewhere):
        with pytest.raises(UnknownFriend):
            harness.friends.change(APP, harness.one, unknown, friends.add)


def test_friends_have_a_limit(tmp_path: Path) -> None:
    harness = Harness(tmp_path, limit=1)
    harness.friends.change(APP, harness.one, harness.two, friends.add)
    with pytest.raises(ServiceRefused):
        harness.friends.change(APP, harness.one, harness.account("3"), friends.add)
    harness.store.close()
