from typing import Any

from msgspec import UNSET, Struct, UnsetType

from imserver.messenger.groups.wire import InviteToGroup, UpdateGroup
from imserver.operate.audit.acts import MOST_USERS, facts_of, user_in


class Settings(Struct):
    origins: list[str] | UnsetType = UNSET
    secret: str | UnsetType = UNSET


class Request(Struct):
    app: str
    user: str = ""
    group: str = ""
    members: list[str] = []
    seconds: int = 60
    reason: str = ""
    password: str = ""
    nickname: str | UnsetType = UNSET
    settings: Settings | UnsetType = UNSET


class Account(Struct):
    user: str


class Session(Struct):
    token: str
    account: Account


def test_an_act_has_ids_and_reasons_but_no_texts_and_secrets() -> None:
    request = Request(
        "7", "ann", "3", ["ann", "bob"], 5, "spam", "correct horse", "Ann", Settings(secret="s")
    )
    assert facts_of(request, user="ann") == {
        "group": "3",
        "seconds": 5,
        "reason": "spam",
        "fields": ["nickname"],
        "settings": ["secret"],
        "users": ["bob"],
    }


def test_what_was_not_given_is_no_fact() -> None:
    assert facts_of(Request("7")) == {}
    assert facts_of({"userid": "ann", "seconds": "7"}) == {"seconds": "7"}
    assert facts_of(None) == {}


def test_an_act_is_bounded() -> None:
    users = [str(number) for number in range(2 * MOST_USERS)]
    facts = facts_of(Request("7", members=users, reason="x" * 10_000))
    assert facts["users"] == users[:MOST_USERS]
    assert len(facts["reason"]) == 200


def test_commands_of_clients_have_facts_too() -> None:
    assert facts_of(InviteToGroup(3, ("bob",))) == {"group": 3, "users": ["bob"]}
    assert facts_of(UpdateGroup(3, "tea")) == {"group": 3, "fields": ["name"]}


def test_a_login_names_the_account_in_its_answer() -> None:
    answers: list[tuple[Any, str]] = [
        (Session("t", Account("ann")), "ann"),
        (Account("bob"), "bob"),
        (None, ""),
        (Settings(), ""),
    ]
    for answer, user in answers:
        assert user_in(answer) == user
