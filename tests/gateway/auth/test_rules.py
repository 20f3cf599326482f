"""What an app's settings come to, and which cannot be."""

import gc
import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import UNSET

from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.quotas import Expiry, LimitedEncoding
from imserver.gateway.auth.rules import Rule, load_app_keys, objection
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.auth.tokens import BadKey, make_token, read_token
from imserver.gateway.channels.subscriptions import Subscribed
from imserver.gateway.config.settings import (
    ChannelSettings,
    JwtSettings,
    TenantSettings,
)
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers, CmdDialect
from imserver.gateway.hub.hub import App, LocalChannel
from imserver.gateway.model import Subscribe
from imserver.gateway.node.feature_list import load_config
from imserver.gateway.process import Secret
from imserver.gateway.transport.connection import Encoding
from tests.gateway.core.login_harness import ASK, HOOK, JWT
from tests.gateway.transport.harness import SocketHarness
from tests.support import run_cli

PLACEHOLDER = "replace-me: openssl rand -hex 32"


def rule(**settings: Any) -> Rule:
    tenant = Tenant(name="101", **settings)
    keys = load_app_keys("101", tenant, Secret(b"server"))
    return Rule(tenant, keys, demo=True, is_observed=bool(tenant.webhook.url))


@pytest.mark.parametrize(
    ("settings", "plain", "quiet"),
    [
        ({}, True, True),
        ({"webhook": HOOK}, True, False),  # it only wants events
        *(
            ({name: rule}, False, False)
            for name, rule in (("jwt", JWT), ("dialects", ("cmd",)))
        ),
        *(
            ({name: 1}, False, False)
            for name in ("max_connections", "messages_per_second")
        ),
        ({"webhook": ASK}, False, False),
    ],
)
def test_an_app_that_demands_nothing_is_plain(
    settings: dict[str, Any], plain: bool, quiet: bool
) -> None:
    one = rule(**settings)
    assert (one.plain, one.quiet, one.origins) == (plain, quiet, None)
    assert one.by_back_end is one.asks_back_end is (settings.get("webhook") is ASK)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (TenantSettings(), ""),
        (TenantSettings(jwt=JWT, webhook=HOOK), ""),
        (TenantSettings(jwt=(JwtSettings(),)), ""),
        (TenantSettings(jwt=(JwtSettings("HS256", "short"),)), "jwt: "),
        (
            TenantSettings(jwt=(JwtSettings("HS256", PLACEHOLDER),)),
            "jwt: this secret is a placeholder",
        ),
    ],
)
def test_what_cannot_be_is_reported(settings: TenantSettings, why: str) -> None:
    found = objection("101", settings)
    assert found.startswith(why)
    assert bool(found) == bool(why)
    if why:
        with pytest.raises(BadKey):
            load_app_keys("101", settings, Secret(b"server"))
    stored = TenantSettings(channels={"news": ChannelSettings(history="log")})
    assert objection("system:shop", stored).startswith(
        "channels: an app of the client dialect has no message log"
    )
    assert not objection("shop", stored)


@pytest.mark.parametrize("names", [("", ""), ("", "new"), ("old", "new")])
def test_a_key_is_replaced_while_tokens_of_both_are_accepted(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    """The steps of docs/guides/session-tokens.md, whether or not the keys have
    a ``kid``."""
    file = tmp_path / "my.yaml"
    old, new = (
        JwtSettings(key=text * 32, kid=kid)
        for text, kid in zip("ab", names, strict=True)
    )
    tokens = [make_token("ann", "101", 2**40, row, row.key) for row in (old, new)]
    for rows, accepted in (
        ([old], [True, False]),
        ([old, new], [True, True]),
        ([new], [False, True]),
    ):
        listed = [
            {"key": row.key, **({"kid": row.kid} if row.kid else {})} for row in rows
        ]
        file.write_text(json.dumps({"apps": {"101": {"jwt": listed}}}))
        keys = load_app_keys(
            "101", load_config(str(file), environ={}).apps["101"], Secret(b"server")
        )
        for token, is_accepted in zip(tokens, accepted, strict=True):
            if is_accepted:
                assert read_token(token, keys, 0).user == "ann"
            else:
                with pytest.raises(BadToken):
                    read_token(token, keys, 0)


def test_check_config_tries_the_keys_and_shows_no_secret(tmp_path: Path) -> None:
    check_secret(tmp_path, "jwt: [{key: the secret of the tokens and more}]")
    wrong = "apps.101.jwt: a secret of HS256 needs at least 32 bytes"
    check_secret(tmp_path, "jwt: [{key: the secret}]", wrong)


def check_secret(tmp_path: Path, settings: str, wrong: str = "") -> None:
    """``settings`` are those of an app, among them a secret that begins with
    ``the secret``."""
    file = tmp_path / "my.yaml"
    file.write_text(f'apps: {{"101": {{{settings}}}}}')
    done = run_cli("check-config", "--config", str(file))
    assert (done.returncode, wrong in done.stderr) == (int(bool(wrong)), True), done
    assert "the secret" not in done.stdout + done.stderr


def test_no_encoding_of_former_rules_stays() -> None:
    def subscribe_under_new_rules() -> None:
        connection: Any = SimpleNamespace(encoding=plain, dialect_state=None)
        rule(messages_per_second=5.0).limit(connection)
        answers.subscribed(connection, Subscribe("news"), found, UNSET, 0)
        assert isinstance(connection.encoding, LimitedEncoding)
        assert connection.encoding.with_dialect(plain.dialect).plain is plain

    def encodings() -> int:
        gc.collect()
        return sum(isinstance(each, Encoding) for each in gc.get_objects())

    found = Subscribed(LocalChannel(App("101", "multi"), "news"), ChannelSettings())
    answers = CmdAnswers(ChannelCmdDialect())
    plain = Encoding(CmdDialect(), lambda *_: None, 65536, 0)
    subscribe_under_new_rules()
    before = encodings()
    for _ in range(5):
        subscribe_under_new_rules()
    assert encodings() == before


NOW = 1_800_000_000.25
YEAR = 365 * 86400


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([("a", 10), ("b", 11), (9.5, 0), (10, 1)], "b"),
        ([("a", 10), ("a", 100), (50, 0), (100, 1)], ""),  # a new token moves the end
        # a login without an end takes it away
        ([("a", 10), ("a", None), (100, 0)], ""),
        ([(5, 0), ("a", 0), (6, 1)], ""),  # it has expired already
        ([("a", 1), ("b", 10), ("c", 2 * YEAR), (YEAR, 2)], "c"),  # a clock that leaps
        # one that is set back
        ([("a", 10), (-3600, 0), ("b", -3000), (9, 1), (10, 1)], ""),
    ],
)
def test_each_session_is_closed_with_4504_in_its_second(
    steps: list[tuple[str, int | None] | tuple[float, int]], left: str
) -> None:
    with SocketHarness() as harness:
        connections = {name: harness.connect() for name in "abc"}
        expiry = Expiry(NOW)
        for what, number in steps:
            if isinstance(what, str):
                expiry.end_at(
                    connections[what][0], 0 if number is None else int(NOW) + number
                )
            else:
                open_before = sum(
                    connection.is_open for connection, _ in connections.values()
                )
                assert expiry.expire(NOW + what) == number
                closed = [each for each in connections.values() if not each[0].is_open]
                assert len(connections) - open_before + (number or 0) == len(closed)
                assert {client.close_code() for _, client in closed} <= {4504}
        assert [
            name
            for name, (connection, _) in connections.items()
            if connection in expiry
        ] == [*left]
        assert len(expiry) == len(left)


def test_ended_connections_leave_no_state() -> None:
    with SocketHarness() as harness:
        expiry = Expiry(NOW)
        connection, _ = harness.connect()
        expiry.end_at(connection, int(NOW) + 10**6)
        connection.lost()
        harness.ended.clear()
        expiry.forget(connection)
        assert len(expiry) == 0
        remembered = weakref.ref(connection)
        del connection
        gc.collect()
        assert remembered() is None
    with SocketHarness() as harness:
        stays = harness.connect()[0]
        comes = harness.connect()[0]
        expiry = Expiry(NOW)
        end = int(NOW) + 10
        expiry.end_at(stays, end)
        for _ in range(100):
            expiry.end_at(comes, end)
            expiry.end_at(stays, end)
            expiry.forget(comes)
            assert len(expiry._due[end].listed) <= 2 * len(expiry)
        expiry.end_at(comes, end)
        assert expiry.expire(NOW + 10) == 2
        assert len(expiry) == 0
