"""What an app's settings come to, and which cannot be."""

import gc
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import UNSET

from imserver.gateway.auth.quotas import LimitedEncoding
from imserver.gateway.auth.rules import Rule, load_app_keys, objection
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.auth.tokens import BadKey, BadToken, make_token, read_token
from imserver.gateway.channels.subscriptions import Subscribed
from imserver.gateway.config.settings import ChannelSettings, JwtSettings, TenantSettings
from imserver.gateway.config.values import ConfigError
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers, CmdDialect
from imserver.gateway.hub.hub import App, LocalChannel
from imserver.gateway.model import Subscribe
from imserver.gateway.node.feature_list import load_config
from imserver.gateway.process import Secret
from imserver.gateway.transport.connection import Encoding
from tests.gateway.core.login_harness import ASK, HOOK, JWT
from tests.support import run_cli

PLACEHOLDER = "replace-me: openssl rand -hex 32"


def rule(**settings: Any) -> Rule:
    tenant = Tenant(name="101", **settings)
    keys = load_app_keys("101", tenant, Secret(b"server"))
    return Rule(tenant, keys, demo=True, is_observed=bool(tenant.webhook.url))


def test_an_app_that_demands_nothing_is_plain_and_quiet() -> None:
    one = rule()
    assert one.plain
    assert one.quiet
    assert one.origins is None
    assert not one.by_back_end
    assert not one.asks_back_end


@pytest.mark.parametrize(
    "settings",
    [
        {"jwt": JWT},
        {"dialects": ("cmd",)},
        {"max_connections": 1},
        {"messages_per_second": 0.5},
        {"webhook": ASK},
    ],
)
def test_an_app_that_demands_something_is_neither(settings: dict[str, Any]) -> None:
    one = rule(**settings)
    assert not one.plain
    assert not one.quiet


def test_an_app_that_only_wants_events_is_plain() -> None:
    one = rule(webhook=HOOK)
    assert one.plain
    assert not one.quiet


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (TenantSettings(), ""),
        (TenantSettings(jwt=JWT, webhook=HOOK), ""),
        (TenantSettings(jwt=(JwtSettings(),)), ""),
        (TenantSettings(jwt=(JwtSettings("HS256", "short"),)), "jwt: "),
        (TenantSettings(jwt=(JwtSettings("HS256", PLACEHOLDER),)), "jwt: this secret is a placeholder"),
    ],
)
def test_what_cannot_be_is_reported(settings: TenantSettings, why: str) -> None:
    found = objection("101", settings)
    assert found.startswith(why)
    assert bool(found) == bool(why)
    if why:
        with pytest.raises(BadKey):
            load_app_keys("101", settings, Secret(b"server"))


def test_an_app_of_the_client_dialect_has_no_stored_history() -> None:
    stored = TenantSettings(channels={"news": ChannelSettings(history="log")})
    assert objection("system:shop", stored).startswith(
        "channels: an app of the client dialect has no message log"
    )
    assert not objection("shop", stored)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            "{channels: {a: {history: log, history_size: 1, history_seconds: 1}}}",
            "either history or history_size",
        ),
        ("{channels: {a: {history: disk}}}", "history"),
        ("{jwt: [{algorithm: RS256}]}", "needs a public key"),
        ("{jwt: [{key: a, key_file: b}]}", "not both"),
        ("{jwt: [{algorithm: none}]}", "expected one of ES256, ES384, ES512, EdDSA, HS256"),
        ("{jwt: [{key: a, kid: x}, {key: b, kid: x}]}", "the same kid"),
        ("{api_allow_from: [10.0.0.0/33]}", "networks"),
        ("{dialects: [tcp]}", "dialects"),
        ("{max_connections: -1}", "max_connections"),
    ],
)
def test_the_configuration_says_what_is_wrong_and_where(tmp_path: Path, settings: str, why: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(f'apps:\n  "101": {settings}\n')
    with pytest.raises(ConfigError, match=why) as found:
        load_config(str(file), environ={})
    assert str(found.value).startswith(f"{file}")
    assert "apps" in str(found.value)


@pytest.mark.parametrize("names", [("", ""), ("", "new"), ("old", "new")])
def test_a_key_is_replaced_while_tokens_of_both_are_accepted(tmp_path: Path, names: tuple[str, str]) -> None:
    """The steps of docs/guides/session-tokens.md, whether or not the keys have a ``kid``."""
    file = tmp_path / "my.yaml"
    old, new = (JwtSettings(key=text * 32, kid=kid) for text, kid in zip("ab", names, strict=True))
    tokens = [make_token("ann", "101", 2**40, row, row.key) for row in (old, new)]
    for rows, accepted in (([old], [True, False]), ([old, new], [True, True]), ([new], [False, True])):
        listed = [{"key": row.key, **({"kid": row.kid} if row.kid else {})} for row in rows]
        file.write_text(json.dumps({"apps": {"101": {"jwt": listed}}}))
        keys = load_app_keys("101", load_config(str(file), environ={}).apps["101"], Secret(b"server"))
        for token, is_accepted in zip(tokens, accepted, strict=True):
            if is_accepted:
                assert read_token(token, keys, 0).user == "ann"
            else:
                with pytest.raises(BadToken):
                    read_token(token, keys, 0)


def test_check_config_tries_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text('apps: {"101": {jwt: [{key: short}]}}')
    done = run_cli("check-config", "--config", str(file))
    assert done.returncode == 1
    assert "apps.101.jwt: a secret of HS256 needs at least 32 bytes" in done.stderr


def test_check_config_shows_no_secret(tmp_path: Path) -> None:
    check_secret(tmp_path, "jwt: [{key: the secret of the tokens and more}]")


def check_secret(tmp_path: Path, settings: str) -> None:
    """``settings`` are those of an app, among them a secret that begins with ``the secret``."""
    file = tmp_path / "my.yaml"
    file.write_text(f'apps: {{"101": {{{settings}}}}}')
    done = run_cli("check-config", "--config", str(file))
    assert done.returncode == 0, done
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
    answers, plain = CmdAnswers(ChannelCmdDialect()), Encoding(CmdDialect(), lambda *_: None, 65536, 0)
    subscribe_under_new_rules()
    before = encodings()
    for _ in range(5):
        subscribe_under_new_rules()
    assert encodings() == before
