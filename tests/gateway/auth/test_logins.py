"""Whether a login may happen: apps, dialects, origins, tokens, limits; and what
holds afterwards."""

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import jwt
import pytest
from msgspec.structs import replace

from imserver.gateway.auth.questions import LoginAnswer
from imserver.gateway.config.settings import (
    BackEndSettings,
    JwtSettings,
    TenantSettings,
    WebhookSettings,
)
from imserver.gateway.errors import StartError
from tests.gateway.auth.test_issuers import ROW, jwk, signed, web
from tests.gateway.core.login_harness import ASK, JWT, SECRET, LoginHarness, token_for
from tests.gateway.transport.harness import until
from tests.integration.raw import text
from tests.support import Clock

PLAIN = TenantSettings()
OTHER_SECRET = "another secret, which is as long as that"

JWTS = TenantSettings(jwt=JWT)
STREAM = SimpleNamespace(peer="127.0.0.1:1", origin="")
OK = (200, 0, False)
UNKNOWN = (1003, 4505, False)
BAD_TOKEN = (1003, 4504, False)
WRONG_DIALECT = (1003, 4507, True)
BAD_ORIGIN = (1003, 4505, True)
FULL = (1009, 4005, True)
UNDECIDED = (1004, 1011, False)


def codes(decision: Any) -> tuple[int, int, bool]:
    """Reply code, close code, and whether the connection is to be closed at
    once."""
    return decision.code, decision.close, decision.final


def attempt(
    harness: LoginHarness,
    token: str = "",
    *,
    user: str = "ann",
    app: str = "101",
    origin: str = "",
) -> tuple[int, int, bool]:
    return codes(harness.begin(harness.login_request(origin), user, app, token))


# --- apps, tokens, dialects and origins ---------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected", "denials"),
    [
        (
            PLAIN,
            {
                "": OK,
                "whatever the original took": OK,
                "page.101.ann": OK,
                "page.101.bob": BAD_TOKEN,
            },
            1,
        ),
        # 7 is another name of the app
        (JWTS, {token_for("ann"): OK, token_for("ann", "7"): OK}, 0),
        (
            JWTS,
            dict.fromkeys(
                [
                    "",
                    "page.101.ann",
                    token_for("bob"),
                    token_for("ann", "102"),
                    token_for(""),
                    token_for("ann", seconds=-1),
                    token_for("ann", key=OTHER_SECRET),
                    token_for("a\0b"),
                    token_for("ann", channel="news"),
                ],
                BAD_TOKEN,
            ),
            9,
        ),
    ],
)
def test_an_app_takes_the_tokens_of_its_user(
    settings: TenantSettings, expected: dict[str, tuple[int, int, bool]], denials: int
) -> None:
    with LoginHarness(
        {"101": settings, "102": settings, "7": TenantSettings(same_as="101")}
    ) as harness:
        assert {token: attempt(harness, token) for token in expected} == expected
        assert harness.metrics.snapshot()["denials"] == (
            {"token": denials} if denials else {}
        )
        assert attempt(harness, app="9") == UNKNOWN


def test_a_token_names_its_user_also_to_a_page() -> None:
    with LoginHarness({"101": JWTS}) as harness:
        decision = harness.logins.check("101", "", token_for("ann"), "sse", STREAM)
        assert (decision.ok, decision.user) == (True, "ann")
        assert not harness.logins.check("101", "", token_for(""), "sse", STREAM).ok
    with LoginHarness({"101": JWTS, "102": PLAIN}) as harness:
        holder = harness.logins.session_of(token_for("ann"))
        assert (holder.app, holder.user) == ("101", "ann")
        for stranger in (
            "",
            "x",
            "a.b.c",
            token_for("ann", "102"),
            token_for("ann", key=OTHER_SECRET),
        ):
            assert harness.logins.session_of(stranger) is None
        states = ("wants_tokens", "is_open", "is_closed")
        found = {
            app: [getattr(harness.logins, each)(app) for each in states]
            for app in ("101", "102", "9")
        }
        assert found == {
            "101": [True, False, False],
            "102": [False, True, False],
            "9": [False, False, True],
        }


@pytest.mark.parametrize(
    ("audience", "app"),
    [("shop", "301"), ("mail", "302"), ("both", None), ("none", None)],
)
def test_a_token_of_an_issuer_is_for_the_app_that_lists_its_audience(
    audience: str, app: str | None
) -> None:
    rows = {"301": ("shop", "both"), "302": ("mail", "both")}
    apps = {
        name: TenantSettings(
            jwt=tuple(replace(ROW, audience=each) for each in audiences)
        )
        for name, audiences in rows.items()
    }
    with LoginHarness(
        {**apps, "303": TenantSettings(jwt=(replace(ROW, issuer="https://x.org"),))}
    ) as harness:
        harness.back_end.get = web(jwk("EdDSA", "1")).get  # type: ignore[attr-defined]
        holder = harness.logins.session_of(signed(aud=audience, exp=time.time() + 60))
        assert (holder and holder.app) == app


def test_a_session_ends_with_its_token_which_a_new_one_renews(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LoginHarness({"101": JWTS}) as harness:
        renewed = harness.login_request()
        connection, client = harness.connect()
        for each, seconds in ((connection, 60), (renewed, 60), (renewed, 600)):
            assert harness.begin(
                each, "ann", token=token_for("ann", seconds=seconds)
            ).ok
            assert harness.logins.holds_token(each)
        harness.logins.expire()
        assert connection.is_open
        monkeypatch.setattr(
            "imserver.gateway.auth.login.time", lambda: time.time() + 61
        )
        harness.logins.expire()
        assert client.close_code() == 4504
        assert renewed.is_open
        assert [harness.logins.holds_token(each) for each in (connection, renewed)] == [
            False,
            True,
        ]
        renewed.lost()
        assert not harness.logins.holds_token(renewed)


def test_a_dialect_that_the_app_does_not_name_is_refused() -> None:
    with LoginHarness({"101": TenantSettings(dialects=("sse", "client"))}) as harness:
        assert attempt(harness) == WRONG_DIALECT
        assert (
            codes(harness.logins.admit("101", "cmd", harness.login_request()))
            == WRONG_DIALECT
        )
        assert harness.logins.check("101", "ann", "", "sse", harness.login_request()).ok


@pytest.mark.parametrize(
    ("settings", "any_origin", "welcome", "unwelcome"),
    [
        (PLAIN, False, ["", "friend.example"], ["shop.example", "null"]),
        (
            TenantSettings(origins=("https://shop.example:8443",)),
            False,
            ["", "shop.example"],
            ["friend.example"],
        ),
        (
            TenantSettings(origin_policy="any"),
            False,
            ["", "friend.example", "shop.example", "null"],
            [],
        ),
        (
            TenantSettings(origin_policy="same_host"),
            False,
            [""],
            ["friend.example", "shop.example"],
        ),
        (
            TenantSettings(origins=("shop.example",)),
            True,
            ["shop.example"],
            ["evil.example"],
        ),
    ],
)
def test_an_app_says_whose_pages_may_log_in_to_it_alone(
    settings: TenantSettings, any_origin: bool, welcome: list[str], unwelcome: list[str]
) -> None:
    with LoginHarness({"101": settings, "102": PLAIN}, any_origin) as harness:
        for origin in welcome:
            assert attempt(harness, origin=origin) == OK, origin
            assert harness.origins.passes(origin, False), (
                "the gate lets in whom the app does"
            )
        for origin in unwelcome:
            assert attempt(harness, origin=origin) == BAD_ORIGIN, origin
        other = attempt(harness, origin="shop.example", app="102")
        assert other == (OK if any_origin else BAD_ORIGIN)
        harness.change("101", PLAIN)
        assert harness.origins.passes("shop.example", False) is any_origin


def test_a_full_app_refuses_logins_until_a_connection_has_left() -> None:
    """Its limit may come after its connections, and logs in again who is in."""
    with LoginHarness({"101": PLAIN, "102": PLAIN}) as harness:
        first, second, *others = (harness.login_request() for _ in range(4))
        for connection in (first, second):
            assert harness.begin(connection, "ann").ok
        for other in others:
            assert harness.begin(other, "ann", "102").ok
        harness.change("101", TenantSettings(max_connections=2))
        harness.change("101", TenantSettings(max_connections=2, messages_per_second=9))
        assert attempt(harness, user="bob") == FULL
        assert (
            codes(harness.logins.admit("101", "cmd", harness.login_request())) == FULL
        )
        assert attempt(harness, user="bob", app="102") == OK
        assert harness.begin(second, "eve").ok, "who is in may log in anew"
        first.close(1000)
        assert attempt(harness, user="bob") == OK
        assert attempt(harness, user="bob") == FULL
        assert harness.begin(second, "ann", "102").ok, "it moves to another app"
        assert [attempt(harness), attempt(harness)] == [OK, FULL]
        assert harness.metrics.snapshot()["denials"] == {"limit": 4}
    with LoginHarness({"101": TenantSettings(max_connections=2)}) as harness:
        verdicts = [
            harness.logins.check("101", "ann", "", "cmd", harness.login_request())
            for _ in range(5)
        ]
        assert [decision.ok for decision in verdicts] == [
            True,
            True,
            False,
            False,
            False,
        ]


def test_a_connection_above_the_rate_of_its_app_is_closed_with_4003(
    clock: Clock,
) -> None:
    served = []
    with LoginHarness(
        {"101": TenantSettings(messages_per_second=3), "102": PLAIN}
    ) as harness:
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


# --- keys that come and go ----------------------------------------------------


def test_a_key_that_cannot_be_used_ends_the_start() -> None:
    with pytest.raises(StartError, match=r"apps\.101\.jwt: .*32 bytes"):
        LoginHarness({"101": TenantSettings(jwt=(JwtSettings("HS256", "short"),))})


def test_an_app_whose_new_key_is_none_keeps_the_old_or_refuses_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LoginHarness({"101": JWTS}) as harness, caplog.at_level(logging.ERROR):
        harness.change("101", TenantSettings(jwt=(JwtSettings("HS256", "short"),)))
        assert [attempt(harness, token_for("ann")), attempt(harness)] == [OK, BAD_TOKEN]
        harness.change(
            "8", TenantSettings(jwt=(JwtSettings("HS256", key_file="/does/not/exist"),))
        )
        assert {
            attempt(harness, token, app="8") for token in ("", token_for("ann", "8"))
        } == {UNDECIDED}
        assert all(name in caplog.text for name in ("apps.101.jwt", "apps.8.jwt"))
        assert SECRET not in caplog.text


def test_files_of_keys_and_apps_count_after_the_settings_were_read_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "secret"
    other = token_for("ann", key=OTHER_SECRET)
    file.write_text(SECRET)
    app = TenantSettings(jwt=(JwtSettings("HS256", key_file=str(file)),))
    with LoginHarness({"101": app, "102": PLAIN}) as harness:
        assert [attempt(harness, token) for token in (token_for("ann"), other)] == [
            OK,
            BAD_TOKEN,
        ]
        file.write_text(OTHER_SECRET)
        del harness.apps.tenants["102"]
        assert attempt(harness, token_for("ann")) == OK
        harness.logins.reload()
        assert [attempt(harness, token) for token in (token_for("ann"), other)] == [
            BAD_TOKEN,
            OK,
        ]
        assert attempt(harness, app="102") == UNKNOWN
        harness.apps.put("103", TenantSettings(account_tokens="required"))
        assert attempt(harness, app="103") == BAD_TOKEN, (
            "an app that this node did not know yet"
        )
        assert not harness.logins.account_apps
        harness.demo = False
        harness.logins.reload()
        assert harness.logins.account_apps == {"103"}
        harness.logins.deleted("103")
        assert not harness.logins.account_apps


# --- what is logged and asked -------------------------------------------------


@pytest.mark.parametrize(
    ("kid", "tokens", "lines"),
    [
        ("", ["", "", "eyJ.eyJ.x", ""], 2),
        (
            "1",
            [
                jwt.encode({"sub": "ann"}, "y" * 32, headers={"kid": f"k{n}"})
                for n in range(150)
            ],
            100,
        ),
    ],
    ids=["once per cause and minute", "bounded"],
)
def test_refused_tokens_are_logged(
    kid: str, tokens: list[str], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="imserver.gateway.auth.login")
    with LoginHarness(
        {"101": TenantSettings(jwt=(JwtSettings(key="x" * 32, kid=kid),))}
    ) as harness:
        assert {attempt(harness, token) for token in tokens} == {BAD_TOKEN}
    assert caplog.text.count("login of 'ann' in 101 refused: token (") == lines


def test_a_refused_login_is_counted_and_logged_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
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
        assert not harness.begin(
            harness.login_request(), "ann", "102", token="eyJ.eyJ.x"
        ).ok
        assert not harness.begin(harness.login_request(), "ann", "103").ok
        assert not harness.begin(harness.login_request(), "ann", faked).ok
        assert harness.metrics.denials == {
            "dialect": {"101": 1},
            "token": {"102": 1},
            "closed": {"103": 1},
            "app": {"other": 1},
        }
        assert harness.metrics.logins_refused == {
            "101": 1,
            "102": 1,
            "103": 1,
            "other": 1,
        }
    assert {each.levelname for each in caplog.records} == {"INFO"}
    lines = [each.getMessage().partition(" (")[0] for each in caplog.records]
    reasons = [
        ("101", "dialect"),
        ("102", "token"),
        ("103", "closed"),
        (repr(faked), "app"),
    ]
    assert lines == [
        f"login of 'ann' in {app} refused: {reason}" for app, reason in reasons
    ]
    assert "eyJ" not in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        TenantSettings(webhook=ASK),
        TenantSettings(jwt=JWT, webhook=ASK),
        TenantSettings(
            open=True,
            webhook=WebhookSettings(secret="s" * 16, review_url="http://back.end/"),
        ),
        TenantSettings(
            open=True,
            webhook=ASK,
            back_ends=BackEndSettings(publish="http://back.end/"),
        ),
    ],
)
def test_where_nobody_asks_back_ends_an_app_that_has_one_admits_nobody(
    settings: TenantSettings,
) -> None:
    with LoginHarness({"101": settings}) as harness:
        assert attempt(harness, token_for("ann")) == UNDECIDED
        assert harness.metrics.denials["key"].total == 1


@pytest.mark.parametrize(
    ("answer", "expected", "user"),
    [
        (LoginAnswer(True, 5, "zoe"), OK, "zoe"),
        (LoginAnswer(), UNKNOWN, ""),
        (None, UNDECIDED, ""),
    ],
)
def test_the_answer_of_a_back_end_decides(
    answer: LoginAnswer | None, expected: tuple[int, int, bool], user: str
) -> None:
    with LoginHarness(
        {"101": TenantSettings(webhook=ASK, max_connections=1)}
    ) as harness:
        harness.logins.back_ends = Mock(
            is_ready=lambda _app: True, authorise=lambda *_: answer
        )
        decision = harness.logins.check("101", "", "", "cmd", harness.login_request())
        assert (codes(decision), decision.user, decision.expires_at) == (
            expected,
            user,
            5 if user else 0,
        )
        assert attempt(harness) == (FULL if user else expected)
