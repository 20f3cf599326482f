"""Links between accounts and identities, and codes that reset passwords, in each kind of database."""

import pytest

from imserver.people.accounts.contract import Account, Device, Taken
from imserver.people.accounts.rows import AccountStore
from imserver.people.oauth.oauth import AccountLink, LinkStore
from tests.stores import OpenStore

NEW = Account(0, "shop", "", "Ann")


def test_an_identity_has_one_account_and_an_account_keeps_a_way_to_log_in(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    accounts, links = AccountStore(store), LinkStore(store)
    assert accounts.linked("shop", ["github"], ["7"]) is None
    ann = accounts.add_linked(NEW, "github", "7")
    with pytest.raises(Taken):
        accounts.add_linked(NEW, "github", "7")
    assert [each.id for each in accounts.by_ids("shop", range(99))] == [ann.id], "of the second nothing"
    assert accounts.linked("shop", ["wechat", "github"], ["0", "7"]) == (ann, "github")
    assert accounts.linked("tea", ["github"], ["7"]) is None
    logins = [Device(number, "", number, 100) for number in (1, 2, 3)]
    for login in logins:
        assert accounts.log_in_linked("shop", ["wechat", "github"], ["0", "7"], login, 2) == (ann, "github")
    assert accounts.log_in_linked("tea", ["github"], ["7"], Device(4, "", 4, 100), 2) is None
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
    assert [links.remove(ann.id, "github", True), links.remove(bob.id, "oidc", False)] == ["last", "last"]
    assert [links.remove(bob.id, "oidc", True) for _ in range(2)] == ["done", "absent"]
    assert accounts.remove("shop", ann.id)
    assert accounts.linked("shop", ["github"], ["7"]) is None
    assert links.of(ann.id) == []


def test_a_code_resets_a_password_once(url: str, open_store: OpenStore) -> None:
    accounts = AccountStore(open_store(url))
    ann = accounts.add(Account(0, "shop", "138", email="ann@example.com"), "old")
    assert accounts.add_reset(ann.id, "ann@example.com", "first", 10, 100)
    assert accounts.add_reset(ann.id, "ann@example.com", "second", 20, 100)
    assert not accounts.add_reset(ann.id, "ann@example.org", "third", 20, 100)
    assert not accounts.add_reset(10**9, "", "third", 20, 100)
    found = [accounts.reset_of(app, code, now) for app, code, now in _CODES]
    assert found == [0, ann.id, 0, 0]
    assert not accounts.use_reset("shop", "second", 100, "new")
    assert [accounts.use_reset("shop", "second", 30, hashed) for hashed in ("new", "newer")] == [True, False]
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
        assert accounts.reset_of("shop", "third", 20) == 0


_CODES = (("shop", "first", 30), ("shop", "second", 30), ("tea", "second", 30), ("shop", "second", 100))
