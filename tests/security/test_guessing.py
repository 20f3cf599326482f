"""Passwords cannot be guessed on one node after the other, and strangers lock
nobody out."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from imserver.gateway.auth.rates import TooManyRequests
from imserver.gateway.config.settings import (
    PUBLIC_SIGN_KEY,
    AccountTokenSettings,
    ApiSettings,
    TenantSettings,
)
from imserver.people.accounts.accounts import Accounts, NoAccounts, WrongLogin
from imserver.people.accounts.contract import Taken
from imserver.people.accounts.declared import AccountSettings
from imserver.people.accounts.passwords import MAX_WAITING, Overloaded
from tests.conftest import StartServer
from tests.gateway.cluster.redis_server import RedisServer
from tests.integration.gochat import code_and_message, form, fresh_phone
from tests.integration.v1 import call, good
from tests.rows import sections

from .node_harness import Harness, config

PASSWORD = "correct horse"


def guess(accounts: Accounts, address: str, earlier: str = "") -> None:
    with pytest.raises(WrongLogin):
        accounts.login("gochat", "1", "a wrong one", address, earlier)


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    """The accounts of a node in demo mode: one of each app has the phone 1."""
    limits = {
        "failures": 3,
        "failures_per_account": 6,
        "failures_per_address": 12,
        "logins_per_address": 40,
    }
    apps = {
        name: TenantSettings(account_tokens="required") for name in ("gochat", "shop")
    }
    settings = config(
        tmp_path, api=ApiSettings(), apps=apps, of_features=sections(accounts=limits)
    )
    node = Harness(settings)
    one = node.people.accounts
    for app in apps:
        one.register(app, {"phone": "1"}, PASSWORD)
    yield one
    node.close()


def test_many_strangers_lock_out_all_but_known_devices(accounts: Accounts) -> None:
    earlier = accounts.token(accounts.login("gochat", "1", PASSWORD, "192.0.2.1")).token
    other = accounts.token(accounts.register("gochat", {"phone": "2"}, PASSWORD)).token
    for number in range(6):
        guess(accounts, f"198.51.100.{number}")
    for wrong in ("", other, earlier[:-2] + "xx"):
        with pytest.raises(TooManyRequests):
            accounts.login("gochat", "1", PASSWORD, "192.0.2.1", wrong)
    assert accounts.login("gochat", "1", PASSWORD, "192.0.2.1", earlier).phone == "1"
    for _ in range(3):
        guess(accounts, "192.0.2.7", earlier)
    with pytest.raises(TooManyRequests):
        accounts.login("gochat", "1", PASSWORD, "192.0.2.7", earlier)


def fail_from(accounts: Accounts, address: str, app: str = "gochat") -> None:
    """Log in wrongly from an address until nobody there may log in any more."""
    for number in range(200):
        with pytest.raises((WrongLogin, TooManyRequests)):
            accounts.login(app, f"no one {number}", "a wrong one", address)
    with pytest.raises(TooManyRequests):
        accounts.login(app, "1", PASSWORD, address)


def test_failures_at_an_address_lock_neither_another_app_nor_a_known_device_out(
    accounts: Accounts,
) -> None:
    one = accounts.login("gochat", "1", PASSWORD, "192.0.2.1")
    earlier = accounts.token(one).token
    for _ in range(3):
        guess(accounts, "192.0.2.1")
    fail_from(accounts, "192.0.2.1")
    assert accounts.login("shop", "1", PASSWORD, "192.0.2.1").app == "shop"
    assert accounts.login("gochat", "1", PASSWORD, "192.0.2.1", earlier).phone == "1"
    assert accounts.confirmed("gochat", one.user, PASSWORD, "192.0.2.1", earlier) == one
    accounts.tokens.settings = AccountTokenSettings(PUBLIC_SIGN_KEY)
    forged = accounts.token(one).token
    with pytest.raises(TooManyRequests):  # anybody can sign it: it proves no device
        accounts.login("gochat", "1", PASSWORD, "192.0.2.1", forged)


def test_failures_of_a_known_device_count_for_it_wherever_it_is(
    accounts: Accounts,
) -> None:
    one = accounts.login("gochat", "1", PASSWORD, "192.0.2.1")
    stolen = accounts.token(one).token
    other = accounts.token(one).token
    for number in range(3):
        guess(accounts, f"198.51.100.{number}", stolen)
    with pytest.raises(TooManyRequests):
        accounts.login("gochat", "1", PASSWORD, "198.51.100.9", stolen)
    for earlier in (other, ""):
        assert (
            accounts.login("gochat", "1", PASSWORD, "198.51.100.0", earlier).phone
            == "1"
        )


def test_a_known_device_may_try_no_more_logins_than_an_address(
    accounts: Accounts,
) -> None:
    earlier = accounts.token(accounts.login("gochat", "1", PASSWORD, "192.0.2.1")).token
    for _ in range(40):
        accounts.login("gochat", "1", PASSWORD, "192.0.2.1", earlier)
    with pytest.raises(TooManyRequests):
        accounts.login("gochat", "1", PASSWORD, "192.0.2.1", earlier)


def test_a_token_of_one_account_opens_no_other_and_is_counted_by_address(
    accounts: Accounts,
) -> None:
    mine = accounts.token(accounts.register("gochat", {"phone": "2"}, PASSWORD)).token
    for _ in range(3):
        guess(accounts, "192.0.2.1", mine)
    for earlier in (mine, ""):
        with pytest.raises(TooManyRequests):
            accounts.login("gochat", "1", PASSWORD, "192.0.2.1", earlier)


def test_a_flood_of_logins_locks_nobody_out(accounts: Accounts) -> None:
    waiting = accounts.passwords.waiting
    accounts.passwords.waiting = MAX_WAITING
    for number in range(12):
        with pytest.raises(Overloaded):
            accounts.login("gochat", "1", PASSWORD, f"192.0.2.{number % 2}")
    accounts.passwords.waiting = waiting
    assert accounts.login("gochat", "1", PASSWORD, "192.0.2.1").phone == "1"
    for _ in range(3):
        guess(accounts, "192.0.2.2")
    accounts.passwords.waiting = MAX_WAITING
    with pytest.raises(TooManyRequests):
        accounts.login("gochat", "1", PASSWORD, "192.0.2.2")


def test_every_route_that_takes_a_password_knows_a_device_by_its_token(
    start_server: StartServer,
) -> None:
    """Whoever shares the address of the account (here all do) cannot lock its
    devices out."""
    accounts = {"failures": 3, "registration": True}
    server = start_server(config={"accounts": accounts}).http
    body = {"phone": fresh_phone(), "password": PASSWORD}
    token = good(server, "accounts/register", body)["token"]
    typed = {"phone_number": body["phone"], "password": PASSWORD}
    for _ in range(3):
        assert (
            call(server, "accounts/login", {**body, "password": "a wrong one"}).status
            == 401
        )
    assert call(server, "accounts/login", body).status == 429
    assert code_and_message(form(server, "/login", typed))[0] == -1
    assert call(server, "accounts/login", body, key=token).status == 200
    assert form(server, "/login", typed, token).json["code"] == 200
    given = {"name": "ann", "password": PASSWORD}
    assert call(server, "accounts/identifiers", given, key=token).status == 200
    again = {"password": "battery staple", "old_password": PASSWORD}
    assert call(server, "accounts/password", again, key=token).status == 200
    body["password"] = "battery staple"
    token = good(server, "accounts/login", body, key=token)["token"]
    assert (
        call(
            server, "accounts/delete", {"password": "battery staple"}, key=token
        ).status
        == 200
    )


@pytest.mark.full("processes")
def test_nodes_count_together(
    start_server: StartServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    config = {
        "redis": {"addr": f"127.0.0.1:{redis_server.port}"},
        "app": {"rpc_port": 0},
        "cluster": {"advertise": "127.0.0.1"},
        "server": {"data_dir": str(tmp_path / "data")},
    }
    nodes = [start_server(config=config) for _ in range(3)]
    body = {"phone": fresh_phone(), "password": PASSWORD}
    good(nodes[0].http, "accounts/register", body)
    answers = [
        call(
            nodes[turn % 3].http, "accounts/login", {**body, "password": "a wrong one"}
        ).status
        for turn in range(15)
    ]
    assert answers == [401] * 10 + [429] * 5


def test_a_login_with_a_password_that_is_refused_is_reported_with_its_reason(
    accounts: Accounts,
) -> None:
    reported = Mock()
    accounts.refused = reported
    for _ in range(3):
        guess(accounts, "192.0.2.1")
    with pytest.raises(TooManyRequests):
        accounts.login("gochat", "1", PASSWORD, "192.0.2.1")
    accounts.login("gochat", "1", PASSWORD, "192.0.2.2")
    with pytest.raises(NoAccounts):
        accounts.login("nowhere", "1", PASSWORD, "192.0.2.2")
    reasons = ["password"] * 3 + ["attempts", "closed"]
    assert [each.args[0] for each in reported.call_args_list] == reasons
    assert "1" not in reported.call_args_list[0].args, "identifiers are personal"


def test_a_stranger_cannot_lock_a_user_out_nor_probe_for_phone_numbers(
    accounts: Accounts,
) -> None:
    rate = AccountSettings().registrations_per_address
    for _ in range(rate):
        with pytest.raises(Taken):
            accounts.register(
                "gochat", {"phone": "1"}, PASSWORD, address="198.51.100.1"
            )
    with pytest.raises(TooManyRequests):
        accounts.register("gochat", {"phone": "1"}, PASSWORD, address="198.51.100.1")
    with pytest.raises(Taken):
        accounts.register("gochat", {"phone": "1"}, PASSWORD, address="192.0.2.1")
    for _ in range(3):
        guess(accounts, "198.51.100.1")
    with pytest.raises(TooManyRequests):
        accounts.login("gochat", "1", PASSWORD, "198.51.100.1")
    assert accounts.login("gochat", "1", PASSWORD, "192.0.2.1").phone == "1"
