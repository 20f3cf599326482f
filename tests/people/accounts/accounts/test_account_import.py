"""Accounts from elsewhere: what of a file is an account, and what is wrong with
the rest."""

import pytest

from imserver.people.accounts.account_import import (
    AT_ONCE,
    MOST_ERRORS,
    BadImport,
    accounts_of,
    read_rows,
    store,
)
from imserver.people.accounts.contract import Account, Imported
from imserver.people.accounts.rows import AccountStore
from tests.stores import OpenStore

HASH = "0123456789abcdef0123456789ABCDEF"
ARGON = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"


@pytest.fixture
def shelf(open_store: OpenStore) -> AccountStore:
    return AccountStore(open_store())


@pytest.mark.parametrize(
    "text",
    [
        "id,phone_number,nickname,password,create_time,update_time\r\n"
        f"7,138,Ann,{HASH},2023-01-02 03:04:05,\r\n",
        f'[{{"id":7,"phone":"138","nickname":"Ann","password":"{HASH}","created":1672628645}}]',
        f'{{"id":"7","phone_number":"138","nickname":"Ann","password":"{HASH}","create_time":'
        '"2023-01-02T04:04:05+01:00"}\n\n',
        f"id,phone,nickname,password,created\n7,138,Ann,{HASH},1672628645\n",
    ],
)
def test_a_table_of_users_is_read_as_csv_as_json_and_line_by_line(text: str) -> None:
    account = Account(7, "gochat", "138", "Ann", "", 0, 1672628645)
    assert accounts_of(read_rows(text), "gochat") == [Imported(account, HASH)]


def test_a_line_of_json_ends_with_a_line_feed_only() -> None:
    lines = [
        f'{{"id":{number},"phone":"{number}","nickname":"\u2028"}}' for number in (1, 2)
    ]
    assert [row["nickname"] for row in read_rows("\r\n".join(lines))] == ["\u2028"] * 2


@pytest.mark.parametrize(
    "text", ["[1]", "[{]", '{"id":1}\nx', 'a,b\n"x', "[" * 100_000]
)
def test_a_file_that_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(BadImport, match="neither JSON nor CSV"):
        read_rows(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": 0}, "id: "),
        ({"id": "x"}, "id: "),
        ({"id": 2**63}, "id: "),
        ({"id": True}, "id: "),
        ({"id": None}, "id: "),
        ({"phone": ""}, "phone, email or name: "),
        ({"email": "ann"}, "email: "),
        ({"name": "9ann"}, "name: "),
        ({"phone": "1" * 21}, "phone: "),
        ({"phone": 138}, "phone: expected a text"),
        ({"nickname": "n" * 65}, "nickname: "),
        ({"password": "secret"}, "password: expected a hash"),
        ({"password": None}, "password: expected a hash"),
        ({"created": "yesterday"}, "created: "),
        ({"created": [1]}, "created: "),
        ({"created": "1700000000000"}, "created: "),
        ({"created": "١٧٠٠٠٠٠٠٠٠"}, "created: "),
        ({"salt": "x"}, "unknown columns: salt"),
    ],
)
def test_a_row_that_is_no_account_is_named_with_what_is_wrong(
    change: dict[str, object], words: str
) -> None:
    row = {"id": 1, "phone": "138", "password": ARGON, **change}
    with pytest.raises(BadImport, match=f"nothing was imported:\nrow 2: {words}"):
        accounts_of([{"id": 9, "phone": "9", "password": HASH}, row], "gochat")


def test_nicknames_lose_what_nobody_sees() -> None:
    row = {"id": 1, "phone": "138", "password": ARGON, "nickname": "An\u202en\n"}
    (imported,) = accounts_of([row], "gochat")
    assert imported.account.nickname == "Ann"


def test_only_the_first_invalid_rows_are_reported() -> None:
    with pytest.raises(BadImport) as raised:
        accounts_of([{}] * (MOST_ERRORS + 5), "gochat")
    assert str(raised.value).count("row ") == MOST_ERRORS
    assert str(raised.value).endswith("and 5 more")


def test_two_rows_with_one_id_or_one_phone_are_no_two_accounts() -> None:
    rows = [
        {"id": number, "phone": phone, "password": HASH}
        for number, phone in ((1, "1"), (1, "2"), (2, "1"))
    ]
    with pytest.raises(BadImport, match=r"row 2: .*\nrow 3: "):
        accounts_of(rows, "gochat")


def test_an_account_may_have_any_identifier_and_none_is_repeated(
    shelf: AccountStore,
) -> None:
    rows = [
        {"id": 1, "email": "Ann@Example.com", "password": HASH},
        {"id": 2, "name": "Bob", "password": HASH},
        {
            "id": 3,
            "phone": "3",
            "email": "c@example.com",
            "name": "cid",
            "password": HASH,
        },
    ]
    some = accounts_of(rows, "gochat")
    assert [
        (one.account.phone, one.account.email, one.account.name) for one in some
    ] == [
        ("", "ann@example.com", ""),
        ("", "", "bob"),
        ("3", "c@example.com", "cid"),
    ]
    with pytest.raises(BadImport, match="row 4: "):
        accounts_of([*rows, {"id": 4, "name": "BOB", "password": HASH}], "gochat")
    shelf.insert_imported(some[1:2])
    assert store(shelf, "gochat", some, lambda _: None) == 2
    with pytest.raises(BadImport, match="account 4: "):
        store(shelf, "gochat", accounts_of([{**rows[2], "id": 4}], "gochat"), print)


def test_existing_accounts_are_skipped_and_progress_is_reported(
    shelf: AccountStore,
) -> None:
    rows = [
        {"id": number, "phone": str(number), "password": HASH}
        for number in range(1, 1202)
    ]
    some = accounts_of(rows, "gochat")
    received: list[int] = []
    shelf.insert_imported(some[:1])
    assert store(shelf, "gochat", some, received.append) == 1200
    assert received == [500, 1000, 1200]
    assert store(shelf, "gochat", some, received.append) == 0


@pytest.mark.parametrize(
    "there",
    [
        Account(1, "gochat", "other"),
        Account(9, "gochat", "1"),
        Account(1, "other", "1"),
    ],
)
def test_an_id_or_a_phone_number_of_another_account_ends_the_import(
    shelf: AccountStore, there: Account
) -> None:
    some = accounts_of(
        [{"id": n, "phone": str(n), "password": HASH} for n in (2, 1)], "gochat"
    )
    shelf.insert_imported([Imported(there, HASH)])
    with pytest.raises(BadImport, match="account 1: "):
        store(shelf, "gochat", some, lambda _: None)
    assert shelf.by_ids("gochat", range(99)) == [there] * (there.app == "gochat")


def test_a_registration_during_the_import_ends_it_with_a_clear_line(
    shelf: AccountStore,
) -> None:
    some = [
        Imported(Account(id, "gochat", f"13{id}"), HASH) for id in range(1, AT_ONCE + 2)
    ]

    def register(_count: int) -> None:
        shelf.add(Account(0, "gochat", some[-1].account.phone), HASH)

    with pytest.raises(
        BadImport, match=rf"^{AT_ONCE} accounts were imported; .*: import them again$"
    ):
        store(shelf, "gochat", some, register)
