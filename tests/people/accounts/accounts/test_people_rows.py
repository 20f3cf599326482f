"""Listing, roles and locks of accounts, as each kind of database keeps them."""

from typing import Any

import pytest
from msgspec.structs import replace

from imserver.gateway.storage.contract import KeyRow
from imserver.gateway.storage.store import Store
from imserver.people.accounts.contract import FOR_GOOD, Account
from imserver.people.accounts.people import NoRole, NotBelow, PeopleFilter, PeopleStore
from imserver.people.accounts.rows import AccountStore
from imserver.people.bots.rows import BotStore
from tests.stores import OpenStore

NOW = 1_800_000_000


def anybody(_account: Account) -> bool:
    return True


def names(store: Store, **wanted: Any) -> list[str]:
    found = PeopleStore(store).page(PeopleFilter("gochat", **wanted), 0, 2**53, 100, NOW)
    return [account.nickname for account in found]


@pytest.fixture
def people(url: str, open_store: OpenStore) -> Store:
    store: Store = open_store(url)
    rows = AccountStore(store)
    for account in (
        Account(0, "gochat", "13800000001", "Ann Li", name="ann", email="ann@example.com"),
        Account(0, "gochat", "", "王小伟", name="wei"),
        Account(0, "gochat", "", "100%", guest=True),
        Account(0, "other", "13800000001", "Ann elsewhere"),
    ):
        rows.add(account, "a hash")
    return store


def test_the_newest_account_comes_first(people: Store) -> None:
    assert names(people) == ["100%", "王小伟", "Ann Li"]
    first, second = PeopleStore(people).page(PeopleFilter("gochat"), 0, 2**53, 2, NOW)
    rest = PeopleStore(people).page(PeopleFilter("gochat"), 0, second.id, 2, NOW)
    assert [account.nickname for account in rest] == ["Ann Li"]
    assert first.id > second.id


@pytest.mark.parametrize(
    ("text", "contacts", "expected"),
    [
        ("ANN", False, ["Ann Li"]),
        ("小", False, ["王小伟"]),
        ("li án", False, ["Ann Li"]),
        ("%", False, ["100%"]),
        ("example", True, ["Ann Li"]),
        ("example", False, []),
        ("138-0000", True, ["Ann Li"]),
        ("138", False, []),
        ("\x01", True, []),
    ],
)
def test_a_text_is_searched_where_it_may_be(
    people: Store, text: str, contacts: bool, expected: list[str]
) -> None:
    assert names(people, text=text, contacts=contacts) == expected


def test_an_account_is_found_by_its_id(people: Store) -> None:
    ann = AccountStore(people).by_login("gochat", ("name", "ann"))
    assert names(people, text=ann[0].user)[-1] == "Ann Li"
    assert names(people, kind="guest") == ["100%"]
    assert names(people, kind="person") == ["王小伟", "Ann Li"]


def test_a_role_is_given_to_people_only(people: Store) -> None:
    store = PeopleStore(people)
    guest, _, ann = store.page(PeopleFilter("gochat"), 0, 2**53, 3, NOW)
    changed = store.set_role("gochat", ann.id, "owner", anybody, None)
    assert changed.role == "owner"
    assert names(people, role="owner") == ["Ann Li"]
    assert names(people, role="") == ["100%", "王小伟"]
    assert store.set_role("other", ann.id, "", anybody, None) is None
    with pytest.raises(NoRole):
        store.set_role("gochat", guest.id, "moderator", anybody, None)
    with pytest.raises(NotBelow):
        store.set_role("gochat", ann.id, "", lambda account: account.role != "owner", None)
    assert names(people, role="owner") == ["Ann Li"]


@pytest.mark.parametrize("way", ["role", "deletion"])
def test_keys_of_an_owner_are_revoked_for_every_node(people: Store, way: str) -> None:
    *_, ann = PeopleStore(people).page(PeopleFilter("gochat"), 0, 2**53, 3, NOW)
    PeopleStore(people).set_role("gochat", ann.id, "owner", anybody, None)
    own, other, later = (replace(KeyRow.make()[0], maker=id) for id in (ann.id, 0, 0))
    for row in (own, other):
        people.add_key(row)
    heard: list[KeyRow] = []
    people.on_changes.append(lambda changes: heard.extend(changes.keys))
    if way == "role":
        PeopleStore(people).set_role("gochat", ann.id, "owner", anybody, None)
        assert [row.revoked for row in heard] == [], "an owner keeps them"
        PeopleStore(people).set_role("gochat", ann.id, "moderator", anybody, None)
    else:
        AccountStore(people).remove("gochat", ann.id)
    people.refresh()
    assert [(row.id, row.revoked > 0, row.maker) for row in heard] == [(own.id, True, 0)]
    # On a node that has not heard of it.
    assert people.add_key(later, own.id) is None
    assert people.rotate_key(other.id, later, 60, own.id) is None
    assert people.add_key(replace(later, maker=ann.id)) is None
    stored = people.keys()
    assert {row.id for row in stored} == {own.id, other.id}


def test_a_lock_is_that_of_the_bots_of_an_account_too(people: Store) -> None:
    store, rows = PeopleStore(people), AccountStore(people)
    ann = rows.by_login("gochat", ("name", "ann"))
    bot = BotStore(people).add(Account(0, "gochat", "", "Bot"), ann[0].id, "hash", 10, None)
    locked = store.lock("gochat", ann[0].id, FOR_GOOD, "lost phone", anybody, None)
    assert (locked.account.locked_until, locked.account.lock_reason) == (FOR_GOOD, "lost phone")
    assert locked.users == [ann[0].user, bot.account.user]
    assert names(people, locked=True) == ["Bot", "Ann Li"]
    assert names(people, locked=False) == ["100%", "王小伟"]
    unlocked = store.lock("gochat", ann[0].id, 0, "", anybody, None)
    assert unlocked.account == ann[0]
    assert names(people, locked=True) == []
    with pytest.raises(NotBelow):
        store.lock("gochat", ann[0].id, FOR_GOOD, "", lambda _: False, None)
