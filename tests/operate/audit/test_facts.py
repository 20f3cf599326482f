import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from imserver.messenger.groups.wire import InviteToGroup, UpdateGroup
from imserver.operate.audit.acts import MOST_USERS, facts_of, user_in
from tests.support import run_cli


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


def test_each_change_of_an_account_is_an_act(tmp_path: Path) -> None:
    table, data = tmp_path / "user.json", ("--data-dir", str(tmp_path / "data"))
    table.write_text(json.dumps([{"id": 7, "phone": "1", "password": "0" * 32}]))
    run_cli("account", "import", *data, str(table))
    with closing(sqlite3.connect(tmp_path / "data" / "imserver.db")) as sql, sql:
        sql.execute("UPDATE account SET factor_since = 1")
    changes = {"role": ("owner",), "lock": (), "unlock": (), "password": (), "remove-factor": ()}
    for command, more in changes.items():
        done = run_cli("account", command, *data, "gochat/7", *more, stdin="correct horse\n")
        assert done.returncode == 0, done
    assert run_cli("audit", "list", *data, "--user", "7", "--app", "gochat").stdout.count(" accounts.") == 5
