"""Friends: what two accounts are to each other after each change, whatever they
were before."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.questions import Relations
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import ServiceRefused
from imserver.gateway.storage.store import Store
from imserver.people.accounts import friends
from imserver.people.accounts.contract import Account
from imserver.people.accounts.friends import (
    FriendResult,
    Friends,
    Oneself,
    UnknownFriend,
)
from imserver.people.accounts.parts import accounts_of
from imserver.people.accounts.relations import AccountRelations
from imserver.people.accounts.rows import AccountStore
from tests.security.node_harness import Harness, config

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
"""What the one does: the result from each state, and the state afterwards if it
is another. Two letters: what the one is to the other, and the other to the one.
Friends are so both ways, as are two who ask each other."""


def both(letters: str) -> tuple[str, str]:
    return STATES[letters[0]], STATES[letters[1]]


class Pair:
    """Two accounts, and what they are to each other."""

    def __init__(self, folder: Path, limit: int = 10) -> None:
        self.store = Store(
            StorageSettings(f"sqlite:///{folder}/some.db"), "", threaded=False
        )
        self.store.start()
        self.accounts = AccountStore(self.store)
        self.friends = Friends(self.accounts, limit, lambda _: None)
        self.one, self.two = self.account("1"), self.account("2")

    def account(self, phone: str) -> str:
        return self.accounts.add(Account(0, APP, phone), "a hash").user

    def become(self, states: tuple[str, str]) -> None:
        self.accounts.relate(
            APP, int(self.one), int(self.two), 10, lambda _before: (states, "")
        )

    def states(self) -> tuple[str, str]:
        seen: list[tuple[str, str]] = []
        self.accounts.relate(
            APP,
            int(self.one),
            int(self.two),
            10,
            lambda before: (before, seen.append(before) or ""),
        )
        return seen[0]

    def listed(self, name: str, user: str) -> list[str]:
        total, page = self.friends.listed(name, user, "", 10)  # type: ignore[arg-type]
        assert total == len(page)
        return [str(contact.id) for contact in page]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Pair]:
    result = Pair(tmp_path)
    yield result
    result.store.close()


def test_each_change_has_its_result_from_every_state(harness: Pair) -> None:
    (_, *changes), *rows = (
        [cell.strip() for cell in line.split("|")] for line in TABLE.splitlines()
    )
    for letters, *results in rows:
        for change, cell in zip(changes, results, strict=True):
            word, _, after = cell.partition(" ")
            harness.become(both(letters))
            result = harness.friends.change(
                APP, harness.one, harness.two, getattr(friends, change)
            )
            assert (letters, change, result, harness.states()) == (
                letters,
                change,
                word,
                both(after or letters),
            )


def test_everybody_sees_their_own_lists(harness: Pair) -> None:
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


def test_a_request_of_a_blocked_user_has_no_effect_and_does_not_show_it(
    harness: Pair,
) -> None:
    harness.friends.change(APP, harness.two, harness.one, friends.block)
    assert (
        harness.friends.change(APP, harness.one, harness.two, friends.ask)
        is FriendResult.REQUESTED
    )
    assert harness.listed("outgoing", harness.one) == [harness.two]
    assert harness.listed("incoming", harness.two) == []
    harness.friends.change(APP, harness.two, harness.one, friends.unblock)
    assert harness.listed("incoming", harness.two) == [harness.one]


def test_a_user_cannot_be_their_own_friend(harness: Pair) -> None:
    with pytest.raises(Oneself):
        harness.friends.change(APP, harness.one, harness.one, friends.add)


@pytest.mark.parametrize("other", ["", "0", "-1", "x", "²", "9" * 19, "9" * 30, "999"])
def test_an_unknown_account_cannot_be_a_friend(harness: Pair, other: str) -> None:
    elsewhere = harness.accounts.add(Account(0, "shop", "1"), "a hash").user
    for unknown in (other, elsewhere):
        with pytest.raises(UnknownFriend):
            harness.friends.change(APP, harness.one, unknown, friends.add)


def test_friends_have_a_limit(tmp_path: Path) -> None:
    harness = Pair(tmp_path, limit=1)
    harness.friends.change(APP, harness.one, harness.two, friends.add)
    with pytest.raises(ServiceRefused):
        harness.friends.change(APP, harness.one, harness.account("3"), friends.add)
    harness.store.close()


# --- a node without accounts --------------------------------------------------

LISTED = "/api/v1/conversations"


def test_no_token_is_an_accounts(tmp_path: Path) -> None:
    first = Harness(config(tmp_path))
    token = first.account("201")
    session = first.session("201")
    app = {"app": "201"}
    assert first.call("GET", LISTED, None, token, query=app)[0] == 200
    user = accounts_of(first.node.core).tokens.holder(token).account.user
    first.close()
    node = Harness(config(tmp_path, features=("messages",)))
    parts = node.node.core
    assert node.call("GET", LISTED, None, token, query=app)[0] == 401
    assert parts.logins.session_of(session) is not None
    with pytest.raises(BadToken):
        parts.accounts.holder(token)
    assert parts.accounts.those_of("201", [user]) == []
    assert isinstance(parts.relations, Relations)
    node.close()


# --- where nobody can hide or block, nobody is asked --------------------------

NOWHERE: Any = cast(Any, None)
"""In place of a database: a look-up fails."""


def tokens(has_accounts: bool) -> Any:
    return SimpleNamespace(wanted_in=lambda _app: has_accounts)


@pytest.mark.parametrize(
    "relations", [Relations(), AccountRelations(NOWHERE, NOWHERE, tokens(False))]
)
def test_without_accounts_nobody_is_limited_or_looked_up(relations: Relations) -> None:
    assert not relations.limits("101", "1")
    assert relations.may_gather("101", "1")
    assert relations.blocked_by("101", "1", ["2"]) == []
    assert relations.blockers("101", "1", 10) == ()
    assert relations.may_reach("101", "1", "2")
    assert relations.may_write("101", "1", "2")
    assert relations.may_see_presence("101", "1", "2")
    assert relations.visible("101", "1", ["2", "ann"]) == {"2", "ann"}


def test_users_without_an_account_are_not_looked_up() -> None:
    relations = AccountRelations(NOWHERE, NOWHERE, tokens(True))
    assert not relations.limits("201", ""), "nor is a back end"
    assert relations.may_reach("201", "", "2")
    assert relations.visible("201", "", ["2", "ann"]) == {"2", "ann"}
    assert relations.may_reach("201", "ann", "2"), (
        "nobody can block a user who is no account"
    )
    assert relations.visible("201", "2", ["ann", "bob", "2", "007", "0"]) == {
        "ann",
        "bob",
        "2",
        "007",
        "0",
    }
