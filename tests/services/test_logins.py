"""Whether a login may happen: apps, dialects, origins, tokens, limits; and what holds afterwards."""

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imserver.config.settings import JwtSettings, TenantSettings
from imserver.errors import StartError
from imserver.transport.connection import OPEN
from tests.integration.raw import text
from tests.services.login_rig import JWT, SECRET, LoginRig, token_for
from tests.transport.rig import until

PLAIN = TenantSettings()
OTHER_SECRET = "another secret, which is as long as that"

STREAM = SimpleNamespace(peer="127.0.0.1:1", origin="")


def codes(verdict: Any) -> tuple[int, int, bool]:
    """Reply code, close code, and whether the connection is to be closed at once."""
    return verdict.code, verdict.close, verdict.final


# --- apps and tokens ----------------------------------------------------------------------------------------


def test_an_app_that_nobody_knows_lets_nobody_in() -> None:
    with LoginRig({"101": PLAIN}) as rig:
        assert codes(rig.begin(rig.comer(), "ann", "9")) == (1003, 4505, False)


def test_an_app_without_demands_lets_everybody_in_but_with_a_wrong_page_token() -> None:
    with LoginRig({"101": PLAIN}) as rig:
        assert rig.begin(rig.comer(), "ann").ok
        assert rig.begin(rig.comer(), "ann", token="whatever the original took").ok
        assert rig.begin(rig.comer(), "ann", token="page.101.ann").ok
        assert codes(rig.begin(rig.comer(), "bob", token="page.101.ann")) == (1003, 4504, False)
        assert rig.metrics.denials == {"token": 1}


def test_an_app_with_keys_lets_in_whom_a_token_names_and_nobody_else() -> None:
    with LoginRig({"101": TenantSettings(jwt=JWT), "102": TenantSettings(jwt=JWT)}) as rig:
        assert rig.begin(rig.comer(), "ann", token=token_for("ann")).ok
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
            assert codes(rig.begin(rig.comer(), "ann", token=token)) == (1003, 4504, False), token
        assert rig.metrics.denials == {"token": len(wrong)}


def test_who_names_nobody_is_whom_the_token_names() -> None:
    with LoginRig({"101": TenantSettings(jwt=JWT)}) as rig:
        verdict = rig.logins.check("101", "", token_for("ann"), "sse", STREAM)
        assert verdict.ok
        assert verdict.user == "ann"
        assert not rig.logins.check("101", "", token_for(""), "sse", STREAM).ok


def test_a_token_may_name_an_app_by_its_other_name() -> None:
    with LoginRig({"101": TenantSettings(jwt=JWT), "7": TenantSettings(same_as="101")}) as rig:
        assert rig.begin(rig.comer(), "ann", token=token_for("ann", "7")).ok


def test_a_page_may_ask_in_whose_name_it_would_be() -> None:
    with LoginRig({"101": TenantSettings(jwt=JWT), "102": PLAIN}) as rig:
        holder = rig.logins.session_of(token_for("ann"))
        assert holder is not None
        assert (holder.app, holder.user) == ("101", "ann")
        for stranger in ("", "x", "a.b.c", token_for("ann", "102"), token_for("ann", key=OTHER_SECRET)):
            assert rig.logins.session_of(stranger) is None
        assert rig.logins.wants_tokens("101")
        assert not rig.logins.wants_tokens("102")
        assert not rig.logins.wants_tokens("9")


# --- the end of a token -------------------------------------------------------------------------------------


def test_a_session_ends_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with LoginRig({"101": TenantSettings(jwt=JWT)}) as rig:
        connection, client = rig.connect()
        assert rig.begin(connection, "ann", token=token_for("ann", seconds=1.1)).ok
        assert rig.logins.holds_token(connection)
        rig.logins.expire()
        assert connection.state == OPEN
        until(lambda: rig.logins.expire() or connection.state != OPEN, 5)
        assert client.close_code() == 4504
        assert not rig.logins.holds_token(connection)


def test_a_new_token_renews_the_session() -> None:
    with LoginRig({"101": TenantSettings(jwt=JWT)}) as rig:
        connection = rig.comer()
        rig.begin(connection, "ann", token=token_for("ann", seconds=0.9))
        rig.begin(connection, "ann", token=token_for("ann", seconds=60))
        deadline = time.monotonic() + 1.5
        until(lambda: rig.logins.expire() or time.monotonic() > deadline)
        assert connection.state == OPEN


# --- dialects and origins -----------------------------------------------------------------------------------


def test_a_dialect_that_the_app_does_not_name_is_refused() -> None:
    with LoginRig({"101": TenantSettings(dialects=("sse", "client"))}) as rig:
        assert codes(rig.begin(rig.comer(), "ann")) == (1003, 4505, False)
        assert rig.logins.check("101", "ann", "", "sse", rig.comer()).ok


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
    with LoginRig({"101": settings, "102": PLAIN}) as rig:
        for origin in welcome:
            assert rig.begin(rig.comer(origin), "ann").ok, origin
            assert rig.origins.passes(origin, False), "the gate lets in whom the app does"
        for origin in unwelcome:
            assert codes(rig.begin(rig.comer(origin), "ann")) == (1003, 4505, True), origin


def test_an_app_may_be_stricter_than_a_node_that_takes_everybody() -> None:
    with LoginRig({"101": TenantSettings(origins=("shop.example",)), "102": PLAIN}, any_origin=True) as rig:
        assert not rig.begin(rig.comer("evil.example"), "ann").ok
        assert rig.begin(rig.comer("evil.example"), "ann", "102").ok


def test_what_one_app_allows_opens_no_other() -> None:
    with LoginRig({"101": TenantSettings(origin_policy="any"), "102": PLAIN}) as rig:
        assert rig.origins.passes("evil.example", False)
        assert codes(rig.begin(rig.comer("evil.example"), "ann", "102")) == (1003, 4505, True)
        rig.change("101", PLAIN)
        assert not rig.origins.passes("evil.example", False)


# --- limits -------------------------------------------------------------------------------------------------


def test_an_app_that_is_full_takes_nobody_until_somebody_has_left() -> None:
    with LoginRig({"101": TenantSettings(max_connections=2), "102": PLAIN}) as rig:
        first, second = rig.comer(), rig.comer()
        assert rig.begin(first, "ann").ok
        assert rig.begin(second, "ann").ok
        assert codes(rig.begin(rig.comer(), "bob")) == (1009, 4005, True)
        assert rig.begin(rig.comer(), "bob", "102").ok
        assert rig.begin(second, "eve").ok, "who is in may log in anew"
        first.close(1000)
        assert rig.begin(rig.comer(), "bob").ok
        assert not rig.begin(rig.comer(), "bob").ok
        assert rig.metrics.denials == {"limit": 2}


def test_a_crowd_that_comes_at_once_does_not_slip_through() -> None:
    """Between the check and the session a login may wait, for the registry of a cluster."""
    with LoginRig({"101": TenantSettings(max_connections=2)}) as rig:
        verdicts = [rig.logins.check("101", "ann", "", "cmd", rig.comer()) for _ in range(5)]
        assert [verdict.ok for verdict in verdicts] == [True, True, False, False, False]


def test_who_moves_to_another_app_makes_room() -> None:
    one = TenantSettings(max_connections=1)
    with LoginRig({"101": one, "102": one}) as rig:
        connection = rig.comer()
        assert rig.begin(connection, "ann", "101").ok
        assert rig.begin(connection, "ann", "102").ok
        assert rig.begin(rig.comer(), "bob", "101").ok
        assert not rig.begin(rig.comer(), "bob", "102").ok


def test_a_limit_that_comes_later_counts_who_is_there() -> None:
    with LoginRig({"101": PLAIN}) as rig:
        connections = [rig.comer() for _ in range(3)]
        for connection in connections:
            rig.begin(connection, "ann")
        rig.change("101", TenantSettings(max_connections=3))
        assert not rig.begin(rig.comer(), "bob").ok
        connections[0].close(1000)
        assert rig.begin(rig.comer(), "bob").ok


def test_a_connection_above_the_rate_of_its_app_is_closed_with_4003() -> None:
    served = []
    with LoginRig({"101": TenantSettings(messages_per_second=3), "102": PLAIN}) as rig:
        encoding = rig.encoding(lambda connection, payload, _text: served.append((connection.app, payload)))
        limited, client = rig.connect(encoding)
        free, other = rig.connect(encoding)
        rig.begin(limited, "ann", "101")
        rig.begin(free, "ann", "102")
        for number in range(6):
            client.send(text(str(number)))
            other.send(text(str(number)))
        assert client.close_code() == 4003
        until(lambda: len([app for app, _ in served if app == "102"]) == 6)
        assert len([app for app, _ in served if app == "101"]) == 3
        assert free.encoding is encoding, "who has no limit pays nothing"


def test_connections_of_one_app_share_an_encoding_and_lose_it_with_the_limit() -> None:
    with LoginRig({"101": TenantSettings(messages_per_second=3)}) as rig:
        first, second = rig.comer(), rig.comer()
        plain = first.encoding
        rig.begin(first, "ann")
        rig.begin(second, "bob")
        assert first.encoding is second.encoding is not plain
        rig.change("101", TenantSettings(max_connections=9))
        rig.begin(first, "ann")
        assert first.encoding is plain


def test_who_moves_to_an_app_without_a_rate_has_none() -> None:
    with LoginRig({"101": TenantSettings(messages_per_second=3), "102": PLAIN}) as rig:
        connection = rig.comer()
        plain = connection.encoding
        rig.begin(connection, "ann", "101")
        rig.begin(connection, "ann", "102")
        assert connection.encoding is plain


# --- keys that come and go ----------------------------------------------------------------------------------


def test_a_key_that_cannot_be_used_ends_the_start() -> None:
    with pytest.raises(StartError, match=r"apps\.101\.jwt: .*32 bytes"):
        LoginRig({"101": TenantSettings(jwt=(JwtSettings("HS256", "short"),))})


def test_an_app_whose_new_key_cannot_be_used_keeps_the_old(caplog: pytest.LogCaptureFixture) -> None:
    with LoginRig({"101": TenantSettings(jwt=JWT)}) as rig, caplog.at_level(logging.ERROR):
        rig.change("101", TenantSettings(jwt=(JwtSettings("HS256", "short"),)))
        assert rig.begin(rig.comer(), "ann", token=token_for("ann")).ok
        assert not rig.begin(rig.comer(), "ann").ok
        assert "apps.101.jwt" in caplog.text
        assert SECRET not in caplog.text


def test_a_new_app_whose_key_cannot_be_used_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    with LoginRig({"101": PLAIN}) as rig, caplog.at_level(logging.ERROR):
        rig.change("7", TenantSettings(jwt=(JwtSettings("HS256", key_file="/does/not/exist"),)))
        assert codes(rig.begin(rig.comer(), "ann", "7")) == (1004, 1011, False)
        assert codes(rig.begin(rig.comer(), "ann", "7", token=token_for("ann", "7"))) == (1004, 1011, False)
        assert "apps.7.jwt" in caplog.text


def test_the_file_of_a_key_is_read_again_when_the_settings_are(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    with LoginRig({"101": TenantSettings(jwt=(JwtSettings("HS256", key_file=str(file)),))}) as rig:
        assert rig.begin(rig.comer(), "ann", token=token_for("ann")).ok
        file.write_text(OTHER_SECRET)
        assert rig.begin(rig.comer(), "ann", token=token_for("ann")).ok
        rig.logins.reload()
        assert not rig.begin(rig.comer(), "ann", token=token_for("ann")).ok
        assert rig.begin(rig.comer(), "ann", token=token_for("ann", key=OTHER_SECRET)).ok


def test_an_app_that_is_gone_after_the_settings_were_read_again_lets_nobody_in() -> None:
    with LoginRig({"101": PLAIN, "102": PLAIN}) as rig:
        del rig.apps.tenants["102"]
        rig.logins.reload()
        assert not rig.begin(rig.comer(), "ann", "102").ok
        assert rig.begin(rig.comer(), "ann", "101").ok


def test_nothing_is_kept_of_connections_that_have_ended() -> None:
    settings = TenantSettings(jwt=JWT, max_connections=50)
    with LoginRig({"101": settings}) as rig:
        for _ in range(60):
            connection = rig.comer()
            assert rig.begin(connection, "ann", token=token_for("ann")).ok
            connection.lost()
        assert not rig.logins._quota.taken
        assert not rig.logins._quota._counts
        assert not rig.logins._ends
