"""Accounts, relations, links, roles and locks, as each kind of database keeps
them."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from imserver.gateway.storage.contract import KeyRow
from imserver.gateway.storage.statements import Statements, text_of
from imserver.gateway.storage.store import Store
from imserver.people.accounts.contract import FOR_GOOD, Account, Device, Imported, Taken
from imserver.people.accounts.people import NoRole, NotBelow, PeopleFilter, PeopleStore
from imserver.people.accounts.rows import AccountStore, States
from imserver.people.bots.rows import BotStore
from imserver.people.oauth.oauth import AccountLink, LinkStore
from tests.gateway.storage.test_migrations import at_step, connected
from tests.messenger.log.test_snapshot import torn_reads
from tests.stores import OpenStore


@pytest.fixture
def accounts(url: str, open_store: OpenStore) -> AccountStore:
    return AccountStore(open_store(url))


def new(accounts: AccountStore, phone: str, app: str = "gochat") -> Account:
    return accounts.add(Account(0, app, phone, f"the one of {phone}"), "a hash")


def befriend(_before: States) -> tuple[States, str]:
    return ("friend", "friend"), "friends"


def test_where_nothing_is_stored_nobody_is_looked_for_and_nothing_is_made(
    open_store: OpenStore,
) -> None:
    store = open_store()
    accounts = AccountStore(store)
    assert accounts.by_login("gochat", ("phone", "1")) is None
    assert accounts.by_ids("gochat", [1]) == []
    assert accounts.contacts("friends", 1, 0, 10) == (0, [])
    assert accounts.relate("gochat", 1, 2, 10, befriend) == "unknown"
    assert not store.has_database


def test_an_account_is_found_in_its_app_only_changed_and_removed(
    accounts: AccountStore,
) -> None:
    one = new(accounts, "13800000001")
    assert one.id > 0
    assert accounts.by_login("gochat", ("phone", "13800000001")) == (one, "a hash")
    assert accounts.by_id("gochat", one.id) == (one, "a hash")
    assert accounts.by_login("other", ("phone", "13800000001")) is None
    assert accounts.by_id("other", one.id) is None
    assert accounts.set_password(one.id, "a hash", "another")
    assert not accounts.set_password(one.id, "a hash", "a third"), "it is replaced once"
    assert accounts.by_id("gochat", one.id) == (one, "another")
    assert accounts.end_sessions("gochat", one.id)
    assert not accounts.end_sessions("other", one.id)
    assert accounts.by_id("gochat", one.id)[0].version == one.version + 1
    assert accounts.remove("gochat", one.id)
    assert not accounts.remove("gochat", one.id)
    assert new(accounts, "13800000001").id > one.id, "no id is given twice"


def test_some_accounts_are_compared_with_words(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    accounts = AccountStore(store)
    jose, wei, hidden, old = (
        accounts.add(Account(0, "gochat", "", nickname, name=name), "a hash")
        for nickname, name in (
            ("José Pérez", "jp"),
            ("王小伟", "perez"),
            ("Eve", "perezhidden"),
            ("Perez", ""),
        )
    )
    accounts.change("gochat", hidden.id, {"findable": 0})
    store.write(
        lambda sql: sql.execute(
            "UPDATE account SET folded = NULL WHERE id = %s", (old.id,)
        )
    )
    ids = [each.id for each in (jose, wei, hidden)]

    def found(text: str, among: list[int]) -> list[int]:
        return [
            each.id
            for each in accounts.by_ids_named("gochat", among, Statements.words(text))
        ]

    assert found("perez", [*ids, old.id]) == sorted([jose.id, wei.id, old.id])
    assert found("PÉREZ jos", ids) == [jose.id]
    assert found("小", ids) == [wei.id]
    assert found("hid", ids) == []
    assert found("perez", [wei.id]) == [wei.id]


@pytest.mark.parametrize(
    ("text", "begin", "inside"),
    [
        ("jose", ["José Pérez"], []),
        ("PÉREZ jos", ["José Pérez"], []),
        ("é", [], ["Jürgen Weiß-Ode", "Grace", "Ada Lovelace", "احمد", "José Pérez"]),
        ("ode", ["Jürgen Weiß-Ode"], []),
        ("weiss", ["Jürgen Weiß-Ode"], []),
        ("小伟", [], ["王小伟"]),
        ("王", ["王小伟"], []),
        ("ann_lee", ["احمد"], []),
        ("أحمد", ["احمد"], []),
        ("e.z", [], ["José Pérez"]),
        ("eze", [], []),
        ("los", ["Jan Łoś"], []),
        ("LOVE", ["Ada Lovelace"], []),
        ("ada", ["Grace", "Ada Lovelace"], []),
        ("100%", ["100%_\\"], []),
        ("a'; -- x", [], []),
    ],
)
def test_names_are_searched_word_by_word_without_accents(
    accounts: AccountStore, text: str, begin: list[str], inside: list[str]
) -> None:
    names = (
        ("José Pérez", ""),
        ("王小伟", ""),
        ("احمد", "ann_lee"),
        ("", "x"),
        ("Jan Łoś", ""),
    )
    names += ("Ada Lovelace", ""), ("Grace", "adalbert"), ("100%_\\", "")
    for nickname, name in names:
        accounts.add(Account(0, "gochat", "", nickname, name=name), "a hash")
    renamed = accounts.add(Account(0, "gochat", "", "Nobody"), "a hash")
    accounts.change("gochat", renamed.id, {"nickname": "Jürgen Weiß-Ode"})
    for one in (
        Account(0, "gochat", "", f"Bot {text}", bot=True),
        Account(0, "gochat", "", text, guest=True),
        Account(0, "shop", "", text),
    ):
        accounts.add(one, "")
    hidden = accounts.add(Account(0, "gochat", "", text), "")
    accounts.change("gochat", hidden.id, {"findable": 0})
    last = accounts.last_id()

    def nicknames(begin: bool) -> list[str]:
        words = Statements.words(text)
        some, rest = accounts.search_page("gochat", words, begin, 0, last, 10, 0)
        assert rest == 0
        assert accounts.search_page("gochat", words, begin, last, last, 10, 0) == (
            [],
            last,
        )
        return [each.nickname for each in some]

    assert (nicknames(True), nicknames(False)) == (begin, inside)


def test_names_that_another_release_has_stored_are_found_too(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    accounts = AccountStore(store)
    for nickname in ("José", "Bob"):
        accounts.add(Account(0, "gochat", "", nickname), "a hash")
    store.write(lambda sql: sql.execute("UPDATE account SET folded = NULL"))
    for begin, expected in (
        (True, []),
        (False, ["José"]),
        (True, ["José"]),
        (False, []),
    ):
        some, _ = accounts.search_page(
            "gochat", ["jos"], begin, 0, accounts.last_id(), 10, 0
        )
        assert [each.nickname for each in some] == expected


@pytest.mark.parametrize("other", ["Ann", "ann ", "änn", "ann\u0301"])
def test_phones_are_compared_byte_by_byte(accounts: AccountStore, other: str) -> None:
    ids = {new(accounts, phone).id for phone in ("ann", other)}
    assert len(ids) == 2
    with pytest.raises(Taken):
        new(accounts, other)
    assert new(accounts, "ann", app="shop").app == "shop"


def test_of_many_who_register_one_phone_at_once_one_gets_it(
    url: str, open_store: OpenStore
) -> None:
    def register(accounts: AccountStore) -> bool:
        try:
            new(accounts, "1")
        except Taken:
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        assert (
            sum(pool.map(register, [AccountStore(open_store(url)) for _ in range(5)]))
            == 1
        )


def test_lists_are_paged_by_id(accounts: AccountStore) -> None:
    ids = [new(accounts, str(number)).id for number in range(5)]
    for other in ids[1:]:
        assert accounts.relate("gochat", ids[0], other, 10, befriend) == "friends"
    total, page = accounts.contacts("friends", ids[0], ids[1], 2)
    assert (total, [each.id for each in page]) == (4, ids[2:4])
    assert page[0].nickname == "the one of 2"
    assert accounts.contacts("friends", ids[3], 0, 10)[1][0].id == ids[0]
    accounts.remove("gochat", ids[0])
    assert accounts.contacts("friends", ids[3], 0, 10) == (0, []), (
        "whoever is deleted is on no list"
    )


def test_a_list_and_its_length_are_of_one_state(
    accounts: AccountStore,
    url: str,
    open_store: OpenStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = new(accounts, "1").id
    phones = count(2)

    def commit() -> None:
        accounts.relate(
            "gochat", one, new(accounts, f"{next(phones)}").id, 1000, befriend
        )

    def read(store: Store) -> object:
        return AccountStore(store).contacts("friends", one, 0, 1000)

    assert torn_reads(commit, open_store(url), {"contacts": read}, monkeypatch) == []


def test_nobody_is_something_to_more_than_the_limit(accounts: AccountStore) -> None:
    ids = [new(accounts, str(number)).id for number in range(3)]
    assert accounts.relate("gochat", ids[0], ids[1], 1, befriend) == "friends"
    assert accounts.relate("gochat", ids[0], ids[2], 1, befriend) == "full"
    assert accounts.relate("gochat", ids[2], ids[0], 1, befriend) == "full"
    assert accounts.relate("gochat", ids[0], ids[1], 1, befriend) == "friends"


def test_two_who_ask_each_other_at_once_do_it_one_after_the_other(
    accounts: AccountStore, url: str, open_store: OpenStore
) -> None:
    ids = [new(accounts, str(number)).id for number in range(2)]
    seen: list[States] = []

    def once(before: States) -> tuple[States, str]:
        seen.append(before)
        return befriend(before)

    def ask(asks: AccountStore, one: int, other: int) -> str:
        return asks.relate("gochat", one, other, 10, once)

    with ThreadPoolExecutor(2) as pool:
        asking = [AccountStore(open_store(url)) for _ in ids]
        assert list(pool.map(ask, asking, ids, ids[::-1])) == ["friends", "friends"]
    assert seen == [("", ""), ("friend", "friend")]


def test_logins_are_listed_and_ended_one_by_one(accounts: AccountStore) -> None:
    one = new(accounts, "1")
    two = new(accounts, "2")
    phone = Device(2**53 - 1, "phone", 100, 900)
    pad = Device(7, "平板", 200, 900)
    for device in (phone, pad):
        accounts.add_device(one.id, 0, device, 10)
    accounts.add_device(two.id, 0, Device(7, "other", 100, 900), 10)
    assert accounts.devices(one.id, 300) == [pad, phone]
    assert accounts.by_device(one.id, phone.id) == (one, phone)
    assert accounts.remove_device(one.id, phone.id) == phone
    assert accounts.remove_device(one.id, phone.id) is None
    assert accounts.by_device(one.id, phone.id) is None
    assert accounts.devices(two.id, 300) == [Device(7, "other", 100, 900)]
    # a new login ends the oldest ones, and those whose time is over
    accounts.remove_device(one.id, pad.id)
    for number in range(1, 6):
        accounts.add_device(one.id, 0, Device(number, "", number, 1000), 3)
    assert [device.id for device in accounts.devices(one.id, 5)] == [5, 4, 3]
    accounts.add_device(one.id, 0, Device(6, "", 1000, 2000), 3)
    assert [device.id for device in accounts.devices(one.id, 0)] == [6]


def test_the_end_of_all_sessions_and_of_an_account_ends_its_logins(
    accounts: AccountStore,
) -> None:
    one = new(accounts, "1")
    ends = (
        lambda: accounts.end_sessions("gochat", one.id),
        lambda: accounts.set_password(one.id, "a hash", "another", ends_sessions=True),
        lambda: accounts.remove("gochat", one.id),
    )
    for number, (version, end) in enumerate(zip(range(3), ends, strict=True), 1):
        assert accounts.add_device(one.id, version, Device(number, "", 1, 1000), 3)
        assert not accounts.add_device(
            one.id, version + 1, Device(number + 10, "", 1, 1000), 3
        )
        assert end()
        assert accounts.devices(one.id, 0) == []
        # Whoever has looked at the password before comes too late.
        assert not accounts.add_device(one.id, version, Device(number, "", 1, 1000), 3)
        assert accounts.devices(one.id, 0) == []


def test_accounts_from_elsewhere_keep_their_ids_and_new_ones_come_behind(
    accounts: AccountStore,
) -> None:
    first = new(accounts, "1")
    some = [
        Imported(Account(500 + n, "gochat", f"5{n}", created=9), "f" * 32)
        for n in range(3)
    ]
    accounts.insert_imported(some)
    assert accounts.by_login("gochat", ("phone", "51")) == (some[1].account, "f" * 32)
    assert new(accounts, "2").id > 502
    same = [
        Imported(Account(first.id, "gochat", "9"), ""),
        Imported(Account(99, "gochat", "52"), ""),
    ]
    assert {account.id for account in accounts.find_existing("gochat", same)} == {
        first.id,
        502,
    }
    assert accounts.find_existing("other", [same[1]]) == []


def test_an_account_that_is_there_is_not_imported_again(accounts: AccountStore) -> None:
    one = new(accounts, "1")
    for account in (
        Account(one.id, "gochat", "9"),
        Account(one.id + 50, "gochat", "1"),
    ):
        with pytest.raises(Taken):
            accounts.insert_imported(
                [
                    Imported(Account(one.id + 9, "gochat", "8"), "h"),
                    Imported(account, "h"),
                ]
            )
    assert accounts.by_ids("gochat", range(99)) == [one]


def test_identifiers_are_unique_in_their_app_and_several_accounts_have_none(
    accounts: AccountStore,
) -> None:
    ann = accounts.add(Account(0, "gochat", "", email="ann@example.com"), "h")
    bob = accounts.add(Account(0, "gochat", "", name="bob"), "h")
    assert (ann.phone, bob.phone) == ("", "")
    assert accounts.by_ids("gochat", range(99)) == [ann, bob]
    assert accounts.by_login(
        "gochat", ("phone", "x"), ("email", "ann@example.com")
    ) == (ann, "h")
    assert (
        accounts.by_login("shop", ("email", "ann@example.com"), ("name", "bob")) is None
    )
    for same in (
        Account(0, "gochat", "", name="bob"),
        Account(0, "gochat", "1", email="ann@example.com"),
    ):
        with pytest.raises(Taken):
            accounts.add(same, "h")
    assert accounts.add(Account(0, "shop", "", name="bob"), "h").id > bob.id
    with pytest.raises(Taken):
        accounts.change("gochat", bob.id, {"email": "ann@example.com", "nickname": "B"})
    changed = accounts.change(
        "gochat", bob.id, {"name": "", "phone": "138", "findable": False}
    )
    assert changed == replace(bob, name="", phone="138", findable=False)
    assert accounts.by_id("gochat", bob.id) == (changed, "h")
    given = [Imported(Account(99, "gochat", "", email="ann@example.com"), "h")]
    assert accounts.find_existing("gochat", given) == [ann]


def test_the_latest_last_sight_counts(accounts: AccountStore) -> None:
    ann = new(accounts, "1")
    bob = new(accounts, "2", "shop")
    accounts.store_last_seen(
        [
            ("gochat", ann.id, 20),
            ("shop", bob.id, 5),
            ("shop", ann.id, 90),
            ("gochat", 9999, 1),
        ]
    )
    accounts.store_last_seen([("gochat", ann.id, 10)])
    assert [one.last_seen for one in accounts.by_ids("gochat", [ann.id])] == [20]
    assert [one.last_seen for one in accounts.by_ids("shop", [bob.id])] == [5]


def test_relations_to_many_are_read_at_once(accounts: AccountStore) -> None:
    ann, bob, cid, dan = (new(accounts, phone) for phone in "1234")
    accounts.relate("gochat", ann.id, bob.id, 10, befriend)
    accounts.relate("gochat", cid.id, ann.id, 10, lambda _: (("asked", ""), ""))
    ids = [bob.id, cid.id, dan.id, bob.id]
    assert accounts.relations(ann.id, ids) == {
        bob.id: ("friend", "friend"),
        cid.id: ("", "asked"),
        dan.id: ("", ""),
    }


def test_who_has_blocked_the_owner_has_blocked_the_bot(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    accounts = AccountStore(store)
    ann, bob, cid = (new(accounts, phone) for phone in "123")
    stranger = new(accounts, "1", "shop")
    bot = BotStore(store).add(Account(0, "gochat", "4"), bob.id, "a hash", 1, None)
    of_all = BotStore(store).add(Account(0, "gochat", "5"), 0, "a hash", 1, None)
    for one, other in ((ann, bob), (cid, bot.account)):
        accounts.relate("gochat", one.id, other.id, 10, lambda _: (("blocked", ""), ""))
    everybody = [ann.id, bob.id, cid.id, stranger.id]
    assert accounts.blocked_by("gochat", bot.account.id, everybody) == {ann.id, cid.id}
    assert accounts.blocked_by(
        "gochat", bot.account.id, everybody, with_owner=False
    ) == {cid.id}
    assert accounts.blocked_by("gochat", bob.id, everybody) == {ann.id}
    assert accounts.blocked_by("gochat", of_all.account.id, everybody) == set()
    assert accounts.blocked_by("shop", bot.account.id, everybody) == set()
    assert sorted(accounts.blockers("gochat", bot.account.id, 10)) == [ann.id, cid.id]
    assert len(accounts.blockers("gochat", bot.account.id, 1)) == 1
    assert accounts.relations(bot.account.id, [ann.id, cid.id, bob.id]) == {
        ann.id: ("", "blocked"),
        cid.id: ("", "blocked"),
        bob.id: ("", ""),
    }


def guest(
    accounts: AccountStore, nickname: str = "Gil", app: str = "gochat"
) -> Account:
    return accounts.add(Account(0, app, "", nickname, guest=True), "")


def test_a_guest_becomes_a_member_once_and_its_logins_end(
    accounts: AccountStore,
) -> None:
    one = guest(accounts)
    member = new(accounts, "1")
    assert [accounts.is_guest("gochat", each) for each in (one.id, member.id, 99)] == [
        True,
        False,
        False,
    ]
    assert not accounts.is_guest("shop", one.id)
    assert accounts.add_device(one.id, one.version, Device(7, "phone", 1, 2**40), 10)
    with pytest.raises(Taken):
        accounts.promote_guest("gochat", one.id, {"phone": "1"}, "a hash")
    assert accounts.promote_guest("shop", one.id, {"name": "gil"}, "a hash") is None
    found = accounts.promote_guest(
        "gochat", one.id, {"name": "gil", "phone": ""}, "a hash"
    )
    assert found == replace(one, name="gil", guest=False, version=1)
    assert accounts.by_login("gochat", ("name", "gil")) == (found, "a hash")
    assert accounts.by_device(one.id, 7) is None
    assert (
        accounts.promote_guest("gochat", one.id, {"name": "gilbert"}, "a hash") is None
    )
    assert (
        accounts.promote_guest("gochat", member.id, {"name": "ann"}, "a hash") is None
    )


def test_whoever_gets_a_password_is_no_guest(accounts: AccountStore) -> None:
    one = guest(accounts)
    other = guest(accounts)
    assert accounts.set_password(one.id, "", "a hash")
    assert accounts.add_reset(other.id, "", "code", 1, 9)
    assert accounts.use_reset("gochat", "code", 2, "a hash")
    assert not any(each.guest for each in accounts.by_ids("gochat", [one.id, other.id]))


def test_guests_who_were_not_here_for_long_are_found_in_all_apps(
    accounts: AccountStore,
) -> None:
    one = guest(accounts)
    other = guest(accounts, app="shop")
    here = guest(accounts)
    _ = new(accounts, "1")
    accounts.store_last_seen([("gochat", here.id, other.created + 5)])
    assert [*accounts.unused_guests(one.created)] == []
    assert [*accounts.unused_guests(other.created + 5)] == [[one, other]]


def test_an_address_is_confirmed_until_it_changes(accounts: AccountStore) -> None:
    ann = accounts.add(Account(0, "gochat", "", email="ann@example.com"), "hash")
    assert not ann.email_confirmed
    assert [accounts.note_confirmation_request(ann.id) for _ in range(2)] == [
        True,
        False,
    ]
    assert not accounts.confirm_email(ann.id, lambda _: False)
    assert not accounts.confirm_email(ann.id + 1, lambda _: True)
    assert accounts.confirm_email(
        ann.id, lambda account: account.email == "ann@example.com"
    )
    assert not accounts.note_confirmation_request(ann.id)
    assert [each.email_confirmed for each in accounts.by_ids("gochat", [ann.id])] == [
        True
    ]
    changed = accounts.change("gochat", ann.id, {"email": "other@example.com"})
    assert not changed.email_confirmed
    changed = accounts.change(
        "gochat", ann.id, {"email": "third@example.com", "email_confirmed": True}
    )
    assert changed.email_confirmed


# --- links to identities, and codes that reset passwords ----------------------


def test_an_identity_has_one_account_and_an_account_keeps_a_way_to_log_in(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    account = Account(0, "shop", "", "Ann")
    accounts = AccountStore(store)
    links = LinkStore(store)
    assert accounts.linked("shop", ["github"], ["7"]) is None
    ann = accounts.add_linked(account, "github", "7")
    with pytest.raises(Taken):
        accounts.add_linked(account, "github", "7")
    assert [each.id for each in accounts.by_ids("shop", range(99))] == [ann.id], (
        "of the second nothing"
    )
    assert accounts.linked("shop", ["wechat", "github"], ["0", "7"]) == (ann, "github")
    assert accounts.linked("tea", ["github"], ["7"]) is None
    logins = [Device(number, "", number, 100) for number in (1, 2, 3)]
    for login in logins:
        assert accounts.log_in_linked(
            "shop", ["wechat", "github"], ["0", "7"], login, 2
        ) == (ann, "github")
    assert (
        accounts.log_in_linked("tea", ["github"], ["7"], Device(4, "", 4, 100), 2)
        is None
    )
    assert accounts.devices(ann.id, 5) == logins[:0:-1], "the oldest has ended"
    bob = accounts.add(Account(0, "shop", "139"), "a hash")
    for account, provider, subject in (
        (bob.id, "github", "7"),
        (ann.id, "github", "8"),
        (10**9, "oidc", "1"),
    ):
        with pytest.raises(Taken):
            links.add("shop", account, provider, subject, 1)
    links.add("shop", bob.id, "oidc", "Bob", 1)
    links.add("shop", bob.id, "oidc", "Bob", 2)
    assert links.of(bob.id) == [AccountLink("oidc", "Bob", 1)]
    assert accounts.linked("shop", ["oidc"], ["bob"]) is None, "the case counts"
    assert [
        links.remove(ann.id, "github", True),
        links.remove(bob.id, "oidc", False),
    ] == ["last", "last"]
    assert [links.remove(bob.id, "oidc", True) for _ in range(2)] == ["done", "absent"]
    assert accounts.remove("shop", ann.id)
    assert accounts.linked("shop", ["github"], ["7"]) is None
    assert links.of(ann.id) == []


def test_a_code_resets_a_password_once(accounts: AccountStore) -> None:
    ann = accounts.add(Account(0, "shop", "138", email="ann@example.com"), "old")
    assert accounts.add_reset(ann.id, "ann@example.com", "first", 10, 100)
    assert accounts.add_reset(ann.id, "ann@example.com", "second", 20, 100)
    assert not accounts.add_reset(ann.id, "ann@example.org", "third", 20, 100)
    assert not accounts.add_reset(10**9, "", "third", 20, 100)
    codes = (
        ("shop", "first", 30),
        ("shop", "second", 30),
        ("tea", "second", 30),
        ("shop", "second", 100),
    )
    assert [accounts.reset_of(*code) for code in codes] == [None, ann, None, None]
    assert not accounts.use_reset("shop", "second", 100, "new")
    assert [
        accounts.use_reset("shop", "second", 30, hashed) for hashed in ("new", "newer")
    ] == [True, False]
    known = accounts.by_id("shop", ann.id)
    assert (known[1], known[0].version) == ("new", ann.version + 1)
    for change in (
        lambda: accounts.change("shop", ann.id, {"email": "ann@example.net"}),
        lambda: accounts.set_password(ann.id, "new", "newest", ends_sessions=True),
        lambda: accounts.remove("shop", ann.id),
    ):
        now = accounts.by_id("shop", ann.id)
        assert accounts.add_reset(ann.id, now[0].email, "third", 10, 100)
        assert change()
        assert accounts.reset_of("shop", "third", 20) is None


# --- listing, roles and locks -------------------------------------------------

NOW = 1_800_000_000


def anybody(_account: Account) -> bool:
    return True


def names(store: Store, **wanted: Any) -> list[str]:
    found = PeopleStore(store).page(
        PeopleFilter("gochat", **wanted), 0, 2**53, 100, NOW
    )
    return [account.nickname for account in found]


@pytest.fixture
def people(url: str, open_store: OpenStore) -> Store:
    store: Store = open_store(url)
    rows = AccountStore(store)
    for account in (
        Account(
            0, "gochat", "13800000001", "Ann Li", name="ann", email="ann@example.com"
        ),
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
    bot = BotStore(people).add(
        Account(0, "gochat", "", "Bot"), ann.id, "hash", 10, None
    )
    for each in (guest, bot.account):
        with pytest.raises(NoRole):
            store.set_role("gochat", each.id, "moderator", anybody, None)
    with pytest.raises(NotBelow):
        store.set_role(
            "gochat", ann.id, "", lambda account: account.role != "owner", None
        )
    assert names(people, role="owner") == ["Ann Li"]


@pytest.mark.parametrize("way", ["role", "deletion"])
def test_keys_of_an_owner_are_revoked_for_every_node(people: Store, way: str) -> None:
    *_, ann = PeopleStore(people).page(PeopleFilter("gochat"), 0, 2**53, 3, NOW)
    PeopleStore(people).set_role("gochat", ann.id, "owner", anybody, None)
    own, other, later = (replace(KeyRow.make()[0], maker=id) for id in (ann.id, 0, 0))
    for row in (own, other):
        people.add_key(row)
    heard: list[KeyRow] = []
    people.report_to(lambda changes: heard.extend(changes.keys))
    if way == "role":
        PeopleStore(people).set_role("gochat", ann.id, "owner", anybody, None)
        assert [row.revoked for row in heard] == [], "an owner keeps them"
        PeopleStore(people).set_role("gochat", ann.id, "moderator", anybody, None)
    else:
        AccountStore(people).remove("gochat", ann.id)
    people.refresh()
    assert [(row.id, row.revoked > 0, row.maker) for row in heard] == [
        (own.id, True, 0)
    ]
    # On a node that has not heard of it.
    assert people.add_key(later, own.id) is None
    assert people.rotate_key(other.id, later, 60, own.id) is None
    assert people.add_key(replace(later, maker=ann.id)) is None
    stored = people.keys()
    assert {row.id for row in stored} == {own.id, other.id}


def test_a_lock_is_that_of_the_bots_of_an_account_too(people: Store) -> None:
    store = PeopleStore(people)
    rows = AccountStore(people)
    ann = rows.by_login("gochat", ("name", "ann"))
    bot = BotStore(people).add(
        Account(0, "gochat", "", "Bot"), ann[0].id, "hash", 10, None
    )
    locked = store.lock("gochat", ann[0].id, FOR_GOOD, "lost phone", anybody, None)
    assert (locked.account.locked_until, locked.account.lock_reason) == (
        FOR_GOOD,
        "lost phone",
    )
    assert locked.users == [ann[0].user, bot.account.user]
    assert names(people, locked=True) == ["Bot", "Ann Li"]
    assert names(people, locked=False) == ["100%", "王小伟"]
    unlocked = store.lock("gochat", ann[0].id, 0, "", anybody, None)
    assert unlocked.account == ann[0]
    assert names(people, locked=True) == []
    with pytest.raises(NotBelow):
        store.lock("gochat", ann[0].id, FOR_GOOD, "", lambda _: False, None)


# --- databases of earlier releases --------------------------------------------


def test_accounts_of_the_release_before_stay_and_its_nodes_add_more(
    empty_url: str, open_store: OpenStore
) -> None:
    insert = (
        "INSERT INTO account (app, phone, nickname, avatar, password, version, created) "
        "VALUES ('gochat', '{}', 'Ánn', '', 'h', 0, 1)"
    )
    with at_step(empty_url, 20) as connection:
        connection.exec_driver_sql(insert.format("138"))
    accounts = AccountStore(open_store(empty_url))
    with connected(empty_url) as connection:
        connection.exec_driver_sql(insert.format("139"))
    both = [
        Account(id, "gochat", phone, "Ánn", created=1)
        for id, phone in ((1, "138"), (2, "139"))
    ]
    assert accounts.by_ids("gochat", range(99)) == both
    with connected(empty_url) as connection:
        rows = connection.exec_driver_sql(
            "SELECT folded FROM account ORDER BY id"
        ).all()
    assert [row[0] and text_of(row[0]).strip() for row in rows] == ["ann", None]


def test_the_directory_goes_on_where_a_page_has_ended(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    accounts = AccountStore(store)
    nicknames = ("Dan", "ann", "Ann", "Émile", "", "Bob")
    people = [
        accounts.add(Account(0, "gochat", "", each, name="cyd" * (not each)), "")
        for each in nicknames
    ]
    for other in (
        Account(0, "gochat", "", "Bot", bot=True),
        Account(0, "gochat", "", "Gil", guest=True),
        Account(0, "shop", "", "Ann"),
    ):
        accounts.add(other, "")
    hidden = accounts.add(Account(0, "gochat", "", "Hid"), "")
    accounts.change("gochat", hidden.id, {"findable": False})
    locked = accounts.add(Account(0, "gochat", "", "Cat"), "")
    # As a node of the release before makes them.
    statement = "UPDATE account SET folded = NULL WHERE id = %s"
    store.write(lambda sql: sql.execute(statement, (people[0].id,)))
    store.write(
        lambda sql: sql.execute(
            "UPDATE account SET locked_until = 20 WHERE id = %s", (locked.id,)
        )
    )
    pages = []
    after = ("", 0)
    while after is not None:
        page, after = accounts.directory_page("gochat", after, 2, 10)
        pages.append([each.nickname or each.name for each in page])
    assert pages == [["ann", "Ann"], ["Bob", "cyd"], ["Dan", "Émile"], []]
    assert [
        each.nickname for each in accounts.directory_page("gochat", ("", 0), 9, 30)[0]
    ][3] == "Cat"


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("owner", "ann"), ["owner", ""]),
        (("ann", "owner"), ["", ""]),
        (("owner", "moderator:ann", "owner:bob"), ["", "moderator", "owner"]),
    ],
)
def test_the_owner_of_a_chat_without_roles_becomes_one(
    empty_url: str, open_store: OpenStore, names: tuple[str, ...], roles: list[str]
) -> None:
    with at_step(empty_url, 38) as connection:
        for app in ("gochat", "shop"):
            for each in names:
                role, _, name = each.rpartition(":")
                connection.exec_driver_sql(
                    "INSERT INTO account "
                    "(app, phone, name, nickname, avatar, password, version, created, role) "
                    f"VALUES ('{app}', '{name}', '{name}', '', '', 'h', 0, 1, '{role}')"
                )
    accounts = AccountStore(open_store(empty_url))
    assert [each.role for each in accounts.by_ids("gochat", range(99))] == roles
    others = [each.rpartition(":")[0] for each in names]
    assert [each.role for each in accounts.by_ids("shop", range(99))] == others


def test_names_that_were_folded_with_letters_of_their_own_are_found_by_plain_ones(
    empty_url: str, open_store: OpenStore
) -> None:
    insert = (
        "INSERT INTO account (app, phone, nickname, avatar, password, version, created, folded) "
        "VALUES ('gochat', '{}', '{}', '', 'h', 0, 1, '{}')"
    )
    with at_step(empty_url, 37) as connection:
        for number, name in enumerate(("Łoś", "Ánn")):
            connection.exec_driver_sql(insert.format(number, name, f" {name.lower()} "))
    accounts = AccountStore(open_store(empty_url))
    search = accounts.search_page("gochat", ["los"], False, 0, 9, 9, 9)[0]
    assert [each.nickname for each in search] == ["Łoś"]
    with connected(empty_url) as connection:
        rows = connection.exec_driver_sql(
            "SELECT folded FROM account ORDER BY id"
        ).all()
    assert [text_of(row[0]).strip() for row in rows] == ["los", "ánn"], (
        "others stay as they are"
    )
