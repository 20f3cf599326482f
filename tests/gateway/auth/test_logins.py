"""Whether a login may happen: apps, dialects, origins, tokens, limits; and what holds afterwards."""

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from imserver.gateway.auth.rules import UNDECIDED
from imserver.gateway.config.settings import BackEndSettings, JwtSettings, TenantSettings, WebhookSettings
from imserver.gateway.errors import StartError
from tests.gateway.core.login_harness import ASK, JWT, SECRET, LoginHarness, token_for
from tests.gateway.transport.harness import until
from tests.integration.raw import text

PLAIN = TenantSettings()
OTHER_SECRET = "another secret, which is as long as that"

STREAM = SimpleNamespace(peer="127.0.0.1:1", origin="")


def codes(decision: Any) -> tuple[int, int, bool]:
    """Reply code, close code, and whether the connection is to be closed at once."""
    return decision.code, decision.close, decision.final


# --- apps and tokens ----------------------------------------------------------------------------------------


def test_an_unknown_app_refuses_all_logins() -> None:
    with LoginHarness({"101": PLAIN}) as harness:
        assert codes(harness.begin(harness.login_request(), "ann", "9")) == (1003, 4505, False)


def test_an_app_without_demands_lets_everybody_in_but_with_a_wrong_page_token() -> None:
    with LoginHarness({"101": PLAIN}) as harness:
        assert harness.begin(harness.login_request(), "ann").ok
        assert harness.begin(harness.login_request(), "ann", token="whatever the original took").ok
        assert harness.begin(harness.login_request(), "ann", token="page.101.ann").ok
        assert codes(harness.begin(harness.login_request(), "bob", token="page.101.ann")) == (
            1003,
            4504,
            False,
        )
        assert harness.metrics.snapshot()["denials"] == {"token": 1}


def test_an_app_with_keys_accepts_only_the_user_of_the_token() -> None:
    with LoginHarness({"101": TenantSettings(jwt=JWT), "102": TenantSettings(jwt=JWT)}) as harness:
        assert harness.begin(harness.login_request(), "ann", token=token_for("ann")).ok
        wrong = (
            "",
            "page.101.ann",
            token_for("bob"),
            token_for("ann", "102"),
            token_for("ann", seconds=-1),
            token_for("ann", key=OTHER_SECRET),
            token_for(""),
        )
        for token in wrong:
            assert codes(harness.begin(harness.login_request(), "ann", token=token)) == (1003, 4504, False), (
                token
            )
        assert harness.metrics.snapshot()["denials"] == {"token": len(wrong)}


def test_a_login_without_a_user_uses_the_user_of_the_token() -> None:
    with LoginHarness({"101": TenantSettings(jwt=JWT)}) as harness:
        decision = harness.logins.check("101", "", token_for("ann"), "sse", STREAM)
        assert decision.ok
        assert decision.user == "ann"
        assert not harness.logins.check("101", "", token_for(""), "sse", STREAM).ok


def test_a_token_may_name_an_app_by_its_other_name() -> None:
    with LoginHarness({"101": TenantSettings(jwt=JWT), "7": TenantSettings(same_as="101")}) as harness:
        assert harness.begin(harness.login_request(), "ann", token=token_for("ann", "7")).ok


def test_a_page_may_ask_in_whose_name_it_would_be() -> None:
    with LoginHarness({"101": TenantSettings(jwt=JWT), "102": PLAIN}) as harness:
        holder = harness.logins.session_of(token_for("ann"))
        assert holder is not None
        assert (holder.app, holder.user) == ("101", "ann")
        for stranger in ("", "x", "a.b.c", token_for("ann", "102"), token_for("ann", key=OTHER_SECRET)):
            assert harness.logins.session_of(stranger) is None
        assert harness.logins.wants_tokens("101")
        assert not harness.logins.wants_tokens("102")
        assert not harness.logins.wants_tokens("9")


# --- the end of a token -------------------------------------------------------------------------------------


def test_a_session_ends_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with LoginHarness({"101": TenantSettings(jwt=JWT)}) as harness:
        connection, client = harness.connect()
        assert harness.begin(connection, "ann", token=token_for("ann", seconds=60)).ok
        assert harness.logins.holds_token(connection)
        harness.logins.expire()
        assert connection.is_open
        monkeypatch.setattr("imserver.gateway.auth.login.time", lambda: time.time() + 61)
        harness.logins.expire()
        assert client.close_code() == 4504
        assert not harness.logins.holds_token(connection)


def test_a_new_token_renews_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with LoginHarness({"101": TenantSettings(jwt=JWT)}) as harness:
        connection = harness.login_request()
        harness.begin(connection, "ann", token=token_for("ann", seconds=60))
        harness.begin(connection, "ann", token=token_for("ann", seconds=600))
        monkeypatch.setattr("imserver.gateway.auth.login.time", lambda: time.time() + 61)
        harness.logins.expire()
        assert connection.is_open


# --- dialects and origins -----------------------------------------------------------------------------------


def test_a_dialect_that_the_app_does_not_name_is_refused() -> None:
    with LoginHarness({"101": TenantSettings(dialects=("sse", "client"))}) as harness:
        assert codes(harness.begin(harness.login_request(), "ann")) == (1003, 4507, True), "no unknown app"
        assert codes(harness.logins.admit("101", "cmd", harness.login_request())) == (1003, 4507, True)
        assert harness.logins.check("101", "ann", "", "sse", harness.login_request()).ok


@pytest.mark.parametrize(
    ("settings", "welcome", "unwelcome"),
    [
        (PLAIN, ["", "friend.example"], ["shop.example", "null"]),
        (TenantSettings(origins=("https://shop.example:8443",)), ["", "shop.example"], ["friend.example"]),
        (TenantSettings(origin_policy="any"), ["", "friend.example", "shop.example", "null"], []),
        (TenantSettings(origin_policy="same_host"), [""], ["friend.example", "shop.example"]),
    ],
)
def test_an_app_says_whose_pages_may_log_in(
    settings: TenantSettings, welcome: list[str], unwelcome: list[str]
) -> None:
    with LoginHarness({"101": settings, "102": PLAIN}) as harness:
        for origin in welcome:
            assert harness.begin(harness.login_request(origin), "ann").ok, origin
            assert harness.origins.passes(origin, False), "the gate lets in whom the app does"
        for origin in unwelcome:
            assert codes(harness.begin(harness.login_request(origin), "ann")) == (1003, 4505, True), origin


def test_an_app_may_be_stricter_than_a_node_that_takes_everybody() -> None:
    with LoginHarness(
        {"101": TenantSettings(origins=("shop.example",)), "102": PLAIN}, any_origin=True
    ) as harness:
        assert not harness.begin(harness.login_request("evil.example"), "ann").ok
        assert harness.begin(harness.login_request("evil.example"), "ann", "102").ok


def test_a_permission_of_one_app_does_not_count_in_another() -> None:
    with LoginHarness({"101": TenantSettings(origin_policy="any"), "102": PLAIN}) as harness:
        assert harness.origins.passes("evil.example", False)
        assert codes(harness.begin(harness.login_request("evil.example"), "ann", "102")) == (1003, 4505, True)
        harness.change("101", PLAIN)
        assert not harness.origins.passes("evil.example", False)


# --- limits -------------------------------------------------------------------------------------------------


def test_a_full_app_refuses_logins_until_a_connection_has_left() -> None:
    with LoginHarness({"101": TenantSettings(max_connections=2), "102": PLAIN}) as harness:
        first, second = harness.login_request(), harness.login_request()
        assert harness.begin(first, "ann").ok
        assert harness.begin(second, "ann").ok
        assert codes(harness.begin(harness.login_request(), "bob")) == (1009, 4005, True)
        assert harness.begin(harness.login_request(), "bob", "102").ok
        assert harness.begin(second, "eve").ok, "who is in may log in anew"
        first.close(1000)
        assert harness.begin(harness.login_request(), "bob").ok
        assert not harness.begin(harness.login_request(), "bob").ok
        assert harness.metrics.snapshot()["denials"] == {"limit": 2}


def test_a_crowd_that_comes_at_once_does_not_slip_through() -> None:
    """Between the check and the session a login may wait, for the registry of a cluster."""
    with LoginHarness({"101": TenantSettings(max_connections=2)}) as harness:
        verdicts = [harness.logins.check("101", "ann", "", "cmd", harness.login_request()) for _ in range(5)]
        assert [decision.ok for decision in verdicts] == [True, True, False, False, False]


def test_a_connection_that_moves_to_another_app_frees_its_quota() -> None:
    one = TenantSettings(max_connections=1)
    with LoginHarness({"101": one, "102": one}) as harness:
        connection = harness.login_request()
        assert harness.begin(connection, "ann", "101").ok
        assert harness.begin(connection, "ann", "102").ok
        assert harness.begin(harness.login_request(), "bob", "101").ok
        assert not harness.begin(harness.login_request(), "bob", "102").ok


def test_a_later_limit_counts_existing_connections() -> None:
    with LoginHarness({"101": PLAIN}) as harness:
        connections = [harness.login_request() for _ in range(3)]
        for connection in connections:
            harness.begin(connection, "ann")
        harness.change("101", TenantSettings(max_connections=3))
        assert not harness.begin(harness.login_request(), "bob").ok
        connections[0].close(1000)
        assert harness.begin(harness.login_request(), "bob").ok


def test_a_connection_above_the_rate_of_its_app_is_closed_with_4003(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imserver.gateway.auth.rates.monotonic_ns", lambda: 1)
    served = []
    with LoginHarness({"101": TenantSettings(messages_per_second=3), "102": PLAIN}) as harness:
        encoding = harness.encoding(
            lambda connection, payload, _text: served.append((connection.app, payload))
        )
        limited, client = harness.connect(encoding)
        free, other = harness.connect(encoding)
        harness.begin(limited, "ann", "101")
        harness.begin(free, "ann", "102")
        for number in range(6):
            client.send(text(str(number)))
            other.send(text(str(number)))
        assert client.close_code() == 4003
        until(lambda: len([app for app, _ in served if app == "102"]) == 6)
        assert len([app for app, _ in served if app == "101"]) == 3
        assert free.encoding is encoding, "who has no limit pays nothing"


def test_connections_of_one_app_share_an_encoding_and_lose_it_with_the_limit() -> None:
    with LoginHarness({"101": TenantSettings(messages_per_second=3)}) as harness:
        first, second = harness.login_request(), harness.login_request()
        plain = first.encoding
        harness.begin(first, "ann")
        harness.begin(second, "bob")
        assert first.encoding is second.encoding is not plain
        harness.change("101", TenantSettings(max_connections=9))
        harness.begin(first, "ann")
        assert first.encoding is plain


def test_who_moves_to_an_app_without_a_rate_has_none() -> None:
    with LoginHarness({"101": TenantSettings(messages_per_second=3), "102": PLAIN}) as harness:
        connection = harness.login_request()
        plain = connection.encoding
        harness.begin(connection, "ann", "101")
        harness.begin(connection, "ann", "102")
        assert connection.encoding is plain


# --- keys that come and go ----------------------------------------------------------------------------------


def test_a_key_that_cannot_be_used_ends_the_start() -> None:
    with pytest.raises(StartError, match=r"apps\.101\.jwt: .*32 bytes"):
        LoginHarness({"101": TenantSettings(jwt=(JwtSettings("HS256", "short"),))})


def test_an_app_whose_new_key_cannot_be_used_keeps_the_old(caplog: pytest.LogCaptureFixture) -> None:
    with LoginHarness({"101": TenantSettings(jwt=JWT)}) as harness, caplog.at_level(logging.ERROR):
        harness.change("101", TenantSettings(jwt=(JwtSettings("HS256", "short"),)))
        assert harness.begin(harness.login_request(), "ann", token=token_for("ann")).ok
        assert not harness.begin(harness.login_request(), "ann").ok
        assert "apps.101.jwt" in caplog.text
        assert SECRET not in caplog.text


def test_a_new_app_with_an_unusable_key_refuses_all_logins(caplog: pytest.LogCaptureFixture) -> None:
    with LoginHarness({"101": PLAIN}) as harness, caplog.at_level(logging.ERROR):
        harness.change("7", TenantSettings(jwt=(JwtSettings("HS256", key_file="/does/not/exist"),)))
        assert codes(harness.begin(harness.login_request(), "ann", "7")) == (1004, 1011, False)
        assert codes(harness.begin(harness.login_request(), "ann", "7", token=token_for("ann", "7"))) == (
            1004,
            1011,
            False,
        )
        assert "apps.7.jwt" in caplog.text


def test_the_file_of_a_key_is_read_again_when_the_settings_are(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    with LoginHarness({"101": TenantSettings(jwt=(JwtSettings("HS256", key_file=str(file)),))}) as harness:
        assert harness.begin(harness.login_request(), "ann", token=token_for("ann")).ok
        file.write_text(OTHER_SECRET)
        assert harness.begin(harness.login_request(), "ann", token=token_for("ann")).ok
        harness.logins.reload()
        assert not harness.begin(harness.login_request(), "ann", token=token_for("ann")).ok
        assert harness.begin(harness.login_request(), "ann", token=token_for("ann", key=OTHER_SECRET)).ok


def test_an_app_that_is_gone_after_the_settings_were_read_again_lets_nobody_in() -> None:
    with LoginHarness({"101": PLAIN, "102": PLAIN}) as harness:
        del harness.apps.tenants["102"]
        harness.logins.reload()
        assert not harness.begin(harness.login_request(), "ann", "102").ok
        assert harness.begin(harness.login_request(), "ann", "101").ok


def test_ended_connections_leave_no_state() -> None:
    settings = TenantSettings(jwt=JWT, max_connections=50)
    with LoginHarness({"101": settings}) as harness:
        for _ in range(60):
            connection = harness.login_request()
            assert harness.begin(connection, "ann", token=token_for("ann")).ok
            connection.lost()
        assert not harness.logins._quota.taken
        assert not harness.logins._quota._counts
        assert not harness.logins._ends


def refusals(caplog: pytest.LogCaptureFixture, kid: str, tokens: list[str]) -> list[str]:
    """The log lines of logins of ann with these tokens, in an app with a key of this ``kid``."""
    caplog.set_level("INFO", logger="imserver.gateway.auth.login")
    with LoginHarness({"101": TenantSettings(jwt=(JwtSettings(key="x" * 32, kid=kid),))}) as harness:
        for token in tokens:
            assert not harness.begin(harness.login_request(), "ann", token=token).ok
    return [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]


def test_refused_tokens_are_logged_once_per_cause_and_minute(caplog: pytest.LogCaptureFixture) -> None:
    lines = refusals(caplog, "", ["", "", "eyJ.eyJ.x", ""])
    assert len(lines) == 2
    assert lines[0].startswith("login of 'ann' in 101 refused: token (there is no token")


@pytest.mark.parametrize(
    ("settings", "setting"),
    [(PLAIN, "server.origins"), (TenantSettings(origins=("shop.example",)), "origins of app 101")],
)
def test_a_refused_page_is_logged_once_per_minute(
    settings: TenantSettings, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="imserver.gateway.transport.gate")
    with LoginHarness({"101": settings}) as harness:
        assert not harness.begin(harness.login_request("localhost"), "ann").ok
        assert not harness.begin(harness.login_request("localhost"), "bob").ok
        assert not harness.logins.admit("101", "cmd", harness.login_request("null")).ok
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert [record.getMessage() for record in caplog.records] == [
        f"login to 101 refused: the page is of host localhost; to allow it, add the host to {setting}",
        "login to 101 refused: the page has no host (a file, a sandbox, or embedded by another site); "
        "it cannot be allowed safely",
    ]


def test_a_refused_login_is_counted_and_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="imserver.gateway.auth.login")
    apps = {
        "101": TenantSettings(jwt=JWT, dialects=["sse"]),
        "102": TenantSettings(jwt=JWT),
        "103": TenantSettings(),
    }
    faked = "104 refused: policy\nlogin of 'eve'"
    with LoginHarness(apps) as harness:
        harness.demo = False
        harness.logins.reload()
        assert not harness.begin(harness.login_request(), "ann").ok
        assert not harness.begin(harness.login_request(), "ann", "102", token="eyJ.eyJ.x").ok
        assert not harness.begin(harness.login_request(), "ann", "103").ok
        assert not harness.begin(harness.login_request(), "ann", faked).ok
        assert harness.metrics.denials == {
            "dialect": {"101": 1},
            "token": {"102": 1},
            "closed": {"103": 1},
            "app": {"other": 1},
        }
        assert harness.metrics.logins_refused == {"101": 1, "102": 1, "103": 1, "other": 1}
    assert {each.levelname for each in caplog.records} == {"INFO"}
    lines = [each.getMessage().partition(" (")[0] for each in caplog.records]
    reasons = [("101", "dialect"), ("102", "token"), ("103", "closed"), (repr(faked), "app")]
    assert lines == [f"login of 'ann' in {app} refused: {reason}" for app, reason in reasons]
    assert "eyJ" not in caplog.text


def test_strangers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    tokens = [jwt.encode({"sub": "ann"}, "y" * 32, headers={"kid": f"k{number}"}) for number in range(150)]
    assert len(refusals(caplog, "1", tokens)) == 100


@pytest.mark.parametrize(
    "settings",
    [
        TenantSettings(webhook=ASK),
        TenantSettings(jwt=JWT, webhook=ASK),
        TenantSettings(open=True, webhook=WebhookSettings(secret="s" * 16, review_url="http://back.end/")),
        TenantSettings(open=True, webhook=ASK, back_ends=BackEndSettings(publish="http://back.end/")),
    ],
)
def test_where_nobody_asks_back_ends_an_app_that_has_one_admits_nobody(settings: TenantSettings) -> None:
    with LoginHarness({"101": settings}) as harness:
        decision = harness.logins.check("101", "ann", token_for("ann"), "cmd", harness.login_request())
        assert decision == UNDECIDED
        assert harness.metrics.denials["key"].total == 1
