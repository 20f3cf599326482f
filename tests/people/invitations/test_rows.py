"""Invitations, as each kind of database keeps them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from msgspec.structs import replace

from imserver.gateway.storage.store import Store
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import AccountStore
from imserver.people.invitations.rows import InvitationShown, InvitationStore, use
from tests.stores import OpenStore

NOW = 1_000
ONE = InvitationShown("a" * 22, "7", "ann", NOW, 0, 0, 0, False)


@pytest.fixture
def rows(url: str, open_store: OpenStore) -> InvitationStore:
    return InvitationStore(open_store(url))


def codes(found: list[InvitationShown]) -> str:
    return "".join(each.code[0] for each in found)


def test_without_a_database_there_are_no_invitations(open_store: OpenStore) -> None:
    store = open_store()
    rows = InvitationStore(store)
    assert rows.get("shop", ONE.code) is None
    assert rows.page("shop", "ann", None, NOW, "", 10) == []
    rows.remove("shop", ONE.code)
    assert not store.has_database


def test_an_invitation_is_found_in_its_app_only(rows: InvitationStore) -> None:
    assert rows.add("shop", ONE, 10)
    assert rows.get("shop", ONE.code) == ONE
    for_guests = replace(ONE, code="g" * 22, guests=True)
    assert rows.add("shop", for_guests, 10)
    assert rows.get("shop", for_guests.code) == for_guests
    assert rows.get("other", ONE.code) is None
    assert rows.get("shop", ONE.code.upper()) is None
    rows.remove("other", ONE.code)
    assert rows.get("shop", ONE.code) == ONE
    rows.remove("shop", ONE.code)
    assert rows.get("shop", ONE.code) is None


def test_the_invitations_of_a_user_are_erased(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    rows = InvitationStore(store)
    for letter, user, app in (("a", "ann", "shop"), ("b", "bob", "shop"), ("c", "ann", "other")):
        assert rows.add(app, replace(ONE, code=letter * 22, user=user), 10)
    store.delete_rows_of_user("shop", "ann")
    found = [rows.get(app, letter * 22) for letter, app in (("a", "shop"), ("b", "shop"), ("c", "other"))]
    assert [each is None for each in found] == [True, False, False]


def test_lists_show_what_has_not_ended(rows: InvitationStore) -> None:
    for letter, change in {
        "a": {},
        "b": {"group": ""},
        "c": {"user": "bob"},
        "d": {"expires_at": NOW},
        "e": {"expires_at": NOW + 1},
        "f": {"uses": 2, "max_uses": 2},
        "g": {"user": "", "group": "7"},
    }.items():
        assert rows.add("shop", replace(ONE, code=letter * 22, **change), 10)  # type: ignore[arg-type]
    assert rows.add("other", replace(ONE, code="h" * 22), 10)
    assert codes(rows.page("shop", "ann", None, NOW, "", 10)) == "abe"
    assert codes(rows.page("shop", None, 7, NOW, "", 10)) == "aceg"
    assert codes(rows.page("shop", "ann", 7, NOW, "", 10)) == "ae"
    assert codes(rows.page("shop", None, 7, NOW, "a" * 22, 2)) == "ce"


def test_those_that_have_ended_do_not_count(rows: InvitationStore) -> None:
    assert rows.add("shop", replace(ONE, expires_at=NOW + 5), 2)
    assert rows.add("shop", replace(ONE, code="b" * 22), 2)
    assert not rows.add("shop", replace(ONE, code="c" * 22), 2)
    assert rows.add("shop", replace(ONE, code="d" * 22, created=NOW + 5), 2)
    assert rows.get("shop", ONE.code) is None
    backend = replace(ONE, user="")
    assert rows.add("shop", replace(backend, code="e" * 22), 1)
    assert not rows.add("shop", replace(backend, code="f" * 22), 1)
    assert rows.add("shop", replace(backend, code="g" * 22, group="8"), 1), "some for each group"


def test_invitations_that_are_made_at_once_do_not_exceed_the_limit(url: str, open_store: OpenStore) -> None:
    accounts = AccountStore(open_store(url))
    makers = [accounts.add(Account(0, "shop", str(number)), "a hash") for number in range(20)]
    together = Barrier(3)

    def make(letter: str, rows: InvitationStore) -> list[bool]:
        added = []
        for maker in makers:
            together.wait(60)
            new = replace(ONE, user=maker.user, code=f"{letter}{maker.id}".ljust(22, "-"))
            added.append(rows.add("shop", new, 1, maker.id))
        return added

    with ThreadPoolExecutor(3) as pool:
        results = pool.map(make, "abc", [InvitationStore(open_store(url)) for _ in range(3)])
    assert [sum(each) for each in zip(*results, strict=True)] == [1] * len(makers)


def test_an_invitation_is_used_as_often_as_it_says_until_it_ends(url: str, open_store: OpenStore) -> None:
    stores = [open_store(url) for _ in range(4)]
    rows = InvitationStore(stores[0])
    rows.add("shop", replace(ONE, max_uses=3), 10)

    def use_two(store: Store) -> list[bool]:
        return [store.write(lambda sql: use(sql, "shop", ONE.code, NOW)) for _ in range(2)]

    with ThreadPoolExecutor(4) as pool:
        used = [one for some in pool.map(use_two, stores) for one in some]
    assert sorted(used) == [False] * 5 + [True] * 3
    rows.add("shop", replace(ONE, code="b" * 22, expires_at=NOW + 1), 10)
    for at, is_used in ((NOW, True), (NOW + 1, False)):
        assert stores[0].write(lambda sql, at=at: use(sql, "shop", "b" * 22, at)) is is_used  # type: ignore[misc]
