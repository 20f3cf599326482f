"""The refusals of a node: equal ones are counted, old ones go, and nobody
pushes out those of others."""

from collections.abc import Iterator
from math import inf
from pathlib import Path
from time import perf_counter, time
from typing import get_args

import pytest
from msgspec.json import decode, encode

from imserver.gateway.auth.observer import CLOSES
from imserver.gateway.auth.rates import Rate
from imserver.gateway.config.settings import Config, TenantSettings
from imserver.gateway.errors import LoginRefusal
from imserver.operate.admin.page import chinese_meanings
from imserver.operate.refusals.log import (
    MAX_ROWS,
    ROWS_OF_CAUSE,
    ROWS_OF_PAYER,
    STAY_SECONDS,
    RefusalLog,
    RefusalRow,
    Wanted,
    merged,
)
from imserver.operate.refusals.reasons import COMMANDS, LOGINS, reason_of
from imserver.plugin.errors import Problems, ReplyCode
from imserver.plugin.identity import Denial
from tests.gateway.api.api_node import JSON, ApiNode
from tests.support import Clock

APPS = {"shop", "chat"}


@pytest.fixture
def rows() -> RefusalLog:
    return RefusalLog(APPS.__contains__)


def wrong_token(user: str, address: str = "192.0.2.7", app: str = "shop") -> Denial:
    return Denial("login", "token", app, user, address=address)


def of(rows: RefusalLog, *names: str, app: str = "shop") -> list[RefusalRow]:
    return rows.select(Wanted(frozenset({app}), frozenset(names)))


def test_equal_refusals_are_one_row(rows: RefusalLog) -> None:
    for number in range(3):
        rows.refused(
            Denial(
                "login",
                "attempts",
                "shop",
                account="17",
                limit="pair",
                until=float(number),
            )
        )
    (row,) = of(rows, "17")
    assert (row.count, row.limit, row.until) == (3, "pair", 2.0)
    assert row.first <= row.last


def test_an_app_that_does_not_exist_is_none(rows: RefusalLog) -> None:
    rows.refused(wrong_token("ann", app="no-such-app"))
    assert of(rows, app="no-such-app") == []
    assert [row.app for row in rows.select(Wanted())] == [""]
    assert rows.select(Wanted(frozenset(APPS))) == []


def test_a_flood_pushes_out_no_rows_of_others(rows: RefusalLog) -> None:
    rows.refused(wrong_token("ann"))
    rows.refused(wrong_token("bob", app="chat"))
    rows.refused(
        Denial("login", "password", "shop", account="17", address="203.0.113.1")
    )
    began = perf_counter()
    for number in range(100_000):
        rows.refused(wrong_token(f"user{number}", "203.0.113.1"))
    assert perf_counter() - began < 20, "far more than some microseconds each"
    assert (
        len(of(rows, "ann"))
        == len(of(rows, "17"))
        == len(of(rows, "bob", app="chat"))
        == 1
    )
    assert rows.size <= 3 + ROWS_OF_PAYER


def test_a_flood_from_many_networks_is_bounded(rows: RefusalLog) -> None:
    rows.refused(wrong_token("bob", app="chat"))
    for number in range(3 * ROWS_OF_CAUSE):
        rows.refused(wrong_token("mallory", f"10.0.{number >> 8}.{number & 255}"))
    assert rows.size <= ROWS_OF_CAUSE + 1
    assert of(rows, "bob", app="chat")


def test_all_causes_together_are_bounded() -> None:
    rows = RefusalLog(lambda app: True)
    for number in range(MAX_ROWS + 500):
        rows.refused(
            wrong_token(
                "mallory",
                f"10.0.{number % 7000 >> 8}.{number & 255}",
                f"app{number % 17}",
            )
        )
    rows.refused(wrong_token("ann"))
    assert rows.size <= MAX_ROWS
    assert len(rows.select(Wanted())) == rows.size
    assert of(rows, "ann")


def test_rows_go_after_an_hour() -> None:
    clock = Clock()
    rows = RefusalLog(APPS.__contains__, clock)
    rows.refused(wrong_token("ann"))
    clock.now += STAY_SECONDS - 1
    rows.refused(wrong_token("bob"))
    assert {row.user for row in of(rows)} == {"ann", "bob"}
    clock.now += 2
    assert {row.user for row in of(rows)} == {"bob"}
    clock.now += STAY_SECONDS
    rows.refused(wrong_token("cat"))
    assert rows.size == 1


def test_a_deleted_user_and_app_are_forgotten(rows: RefusalLog) -> None:
    long = "ann" * 60  # rows have its beginning
    for user in ("ann", "bob", long):
        rows.refused(wrong_token(user))
    rows.refused(wrong_token("ann", app="chat"))
    assert [row.user for row in of(rows, long)] == [long[:64]]
    rows.forget("shop", {"ann", long})
    assert [row.user for row in of(rows)] == ["bob"]
    rows.forget("chat")
    assert rows.size == 1


def test_rows_are_found_by_address_and_request(rows: RefusalLog) -> None:
    rows.refused(
        Denial("request", "banned", "shop", "ann", address="2001:db8::7", request="one")
    )
    assert rows.select(Wanted(address="2001:db8::"))
    assert rows.select(Wanted(request="one"))
    assert not rows.select(Wanted(request="two"))
    assert not rows.select(Wanted(address="2001:db8:0:1::"))


def test_a_limit_that_only_redis_knows_is_shown_and_lifted(tmp_path: Path) -> None:
    """The node that has counted it was restarted."""
    counted = {"pair:('shop', '17', '192.0.2.7')": 12.5}

    def shared(key: str, _number: float, _seconds: float, tokens: float) -> float:
        return counted.pop(key, 0) if tokens < 0 else counted.get(key, 0)

    node = ApiNode(
        tmp_path, Config(features=("refusals",), apps={"shop": TenantSettings()})
    )
    node.core.buckets.make(Rate("pair", "attempts", "pair", "", ""), 3, 30, shared)
    whom = {"app": "shop", "user": "17", "address": "192.0.2.7"}
    (hold,) = node.get("/api/v1/refusals", **whom)["holds"]
    assert (hold["name"], hold["who"]) == ("pair", "17, 192.0.2.7")
    for lifted in ([hold["who"]], []):
        found = node.post_json("/api/v1/limits/lift", whom)["lifted"]
        assert [each["who"] for each in found] == lifted
    node.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[ApiNode, str]]:
    """A node of an app with accounts, and the id of the account erna."""
    features = ("messages", "accounts", "groups", "audit", "refusals", "erasure")
    app = TenantSettings(account_tokens="required")
    node = ApiNode(tmp_path, Config(features=features, apps={"shop": app}))
    account = {"app": "shop", "name": "erna", "password": "correct horse"}
    assert (
        node.request(
            "POST", "/api/v1/accounts/register", encode(account), kind=JSON
        ).status
        == 201
    )
    yield node, node.get("/api/v1/accounts/list", app="shop")["accounts"][0]["user"]
    node.close()


def holds(node: ApiNode) -> list[tuple[str, str, float]]:
    listed = node.get("/api/v1/refusals", app="shop", user="erna")["holds"]
    return [(each["kind"], each["detail"], each["until"]) for each in listed]


def test_an_act_names_the_account_and_says_what_was_lifted(
    node: tuple[ApiNode, str],
) -> None:
    """A login that stood in the audit log would stay there after an erasure of
    the account."""
    one, user = node
    one.core.sessions.ban("shop", user, inf, "spam")
    assert holds(one) == [("ban", "spam", 0)]
    one.post_json("/api/v1/limits/lift", {"app": "shop", "user": "erna"})
    assert holds(one) == []
    act = one.get("/api/v1/audit", name="limits.lift")["acts"][0]
    assert (act["user"], act["facts"]) == (user, {"lifted": ["ban: spam"]})


def test_mutes_are_said_with_their_end_and_stay(node: tuple[ApiNode, str]) -> None:
    one, user = node
    until = int(time()) + 3600
    one.core.mutes.mute("shop", user, until, "Calm down.")
    account = {"app": "shop", "name": "lea", "password": "correct horse"}
    assert (
        one.request(
            "POST", "/api/v1/accounts/register", encode(account), kind=JSON
        ).status
        == 201
    )
    lea = {
        "app": "shop",
        "user": one.get("/api/v1/accounts/list", app="shop")["accounts"][0]["user"],
    }
    tea = encode({**lea, "name": "Tea", "members": [user]})
    group = decode(one.request("POST", "/api/v1/groups/create", tea, kind=JSON).body)[
        "group"
    ]
    one.post_json(
        "/api/v1/groups/mute", {**lea, "group": group, "member": user, "until": until}
    )
    mutes = [("mute", "Calm down.", until), ("mute", group, until)]
    assert holds(one) == mutes
    assert (
        one.post_json("/api/v1/limits/lift", {"app": "shop", "user": "erna"})["lifted"]
        == []
    )
    assert holds(one) == mutes


def test_nobody_of_this_name_is_no_account(node: tuple[ApiNode, str]) -> None:
    body = encode({"app": "shop", "user": "ernaa"})
    answer = node[0].request("POST", "/api/v1/limits/lift", body, kind=JSON)
    assert (answer.status, b"unknown_account" in answer.body) == (404, True)


@pytest.mark.parametrize("is_banned", [False, True])
def test_who_is_to_be_erased_stays_locked_out(
    node: tuple[ApiNode, str], is_banned: bool
) -> None:
    one, user = node
    if is_banned:
        one.core.sessions.ban("shop", user, inf, "spam")
    ends = one.post_json(
        "/api/v1/users/erase", {"app": "shop", "user": user, "seconds": 3600}
    )["ends"]
    assert holds(one) == [("erasure", "", ends)]
    assert (
        one.post_json("/api/v1/limits/lift", {"app": "shop", "user": "erna"})["lifted"]
        == []
    )
    assert one.core.sessions.is_banned("shop", user)
    one.post_json("/api/v1/users/erase/undo", {"app": "shop", "user": user})
    assert holds(one) == ([("ban", "spam", 0)] if is_banned else [])


def test_rows_of_nodes_are_joined() -> None:
    one = RefusalRow(
        "login",
        "token",
        "shop",
        "ann",
        "",
        "192.0.2.7",
        2,
        10.0,
        20.0,
        "",
        0,
        "old",
        "",
    )
    two = RefusalRow(
        "login", "token", "shop", "ann", "", "192.0.2.7", 3, 5.0, 30.0, "", 0, "new", ""
    )
    other = RefusalRow(
        "login", "token", "shop", "bob", "", "192.0.2.7", 1, 40.0, 40.0, "", 0, "", ""
    )
    merged([[one], [two, other]])
    first, second = merged([[one], [two, other]])
    assert first.user == "bob"
    assert (second.count, second.first, second.last, second.detail) == (
        5,
        5.0,
        30.0,
        "new",
    )


def test_each_reason_has_a_row() -> None:
    assert set(get_args(LoginRefusal)) <= set(LOGINS)
    replies = {
        name.lower() for name, code in vars(ReplyCode).items() if isinstance(code, int)
    } - {"ok"}
    assert replies | set(CLOSES.values()) <= set(COMMANDS)
    row, detail = reason_of(
        "request", "banned", "GET /api/v1/inbox: The user is banned for a time."
    )
    assert (row.meaning, detail) == (
        "The user is banned for a time.",
        "GET /api/v1/inbox",
    )
    meanings = {row.meaning for table in (LOGINS, COMMANDS) for row in table.values()}
    chinese = chinese_meanings()
    assert {*meanings, Problems.MUTED.message} <= chinese.keys()
    assert all(text.strip() and not text.isascii() for text in chinese.values())
