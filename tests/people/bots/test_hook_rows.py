"""Webhooks of bots and incoming webhooks, as each kind of database stores them."""

from msgspec.structs import replace

from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.people.accounts.contract import Account
from imserver.people.accounts.rows import AccountStore
from imserver.people.bots.rows import BotHook, BotStore, HookStore, IncomingHook
from tests.stores import OpenStore

HASH = "0f" * 32


def test_without_a_database_there_are_no_webhooks(open_store: OpenStore) -> None:
    store = open_store()
    rows = HookStore(store)
    assert (rows.of_bots(), rows.incoming_to("shop", 1)) == ([], [])
    assert rows.incoming_with(HASH) is None
    assert not rows.set_url("shop", 1, "https://a.example/", "s")
    assert not store.has_database


def test_webhooks_end_with_the_account_of_their_bot(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    rows, accounts = HookStore(store), AccountStore(store)
    result = BotStore(store).add(Account(0, "shop", "", "x", ""), 0, HASH, 1, None)
    id = result.account.id
    one = IncomingHook(id, "shop", 7, 1000)
    rows.add_incoming(one, HASH)
    assert (rows.incoming_with(HASH), rows.incoming_with(HASH.upper())) == (one, None)
    assert (rows.incoming("shop", id), rows.incoming("other", id)) == (one, None)
    assert (rows.incoming_to("shop", 7), rows.incoming_to("shop", 8)) == ([one], [])
    store.part(MessageLog).writer.append("shop", [Draft(sender="ann", to_user="bob", body=b"before")])
    assert not rows.set_url("other", id, "https://a.example/", "s1")
    assert rows.set_url("shop", id, "https://a.example/", "s1")
    first = BotHook(app="shop", user=str(id), url="https://a.example/", secret="s1", position=1)
    assert rows.of_bots() == [first], "it begins behind what is stored"
    rows.advance(first, 5)
    assert rows.of_bots() == [replace(first, position=5)]
    assert rows.set_url("shop", id, "https://a.example/", "s2")
    rows.advance(first, 9)
    assert rows.of_bots() == [replace(first, secret="s2")], "the position of the earlier one is not stored"
    assert accounts.remove("shop", id)
    assert (rows.of_bots(), rows.incoming_with(HASH)) == ([], None)


def test_no_bot_is_made_after_the_deletion_of_its_owner(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    accounts, bots = AccountStore(store), BotStore(store)
    owner = accounts.add(Account(0, "shop", "138"), "a hash")
    assert bots.add(Account(0, "shop", "", "x", ""), owner.id, HASH, 2, None)
    assert accounts.remove("shop", owner.id)
    assert bots.add(Account(0, "shop", "", "y", ""), owner.id, HASH, 2, None) is None
