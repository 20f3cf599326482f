"""What an app's settings come to, and which cannot be."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imserver.auth.rules import Rule, load_secrets, objection
from imserver.auth.tenants import Tenant
from imserver.auth.tokens import BadKey
from imserver.cli import main
from imserver.config.load import load_config
from imserver.config.settings import JwtSettings, TenantSettings, WebhookSettings
from imserver.config.values import ConfigError
from tests.services.login_rig import ASK, HOOK, JWT

PLACEHOLDER = "replace-me: openssl rand -hex 32"


def rule(**settings: Any) -> Rule:
    tenant = Tenant(name="101", **settings)
    return Rule(tenant, load_secrets("101", tenant, b"server"), demo=True)


def test_an_app_that_demands_nothing_is_plain_and_quiet() -> None:
    one = rule()
    assert one.plain
    assert one.quiet
    assert one.origins is None
    assert one.receiver is one.asked is None


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


def test_an_app_that_only_wants_to_be_told_is_plain() -> None:
    one = rule(webhook=HOOK)
    assert one.plain
    assert not one.quiet
    assert one.receiver is not None
    assert one.receiver.events == {"connect", "disconnect", "login", "message", "absent"}


def test_secrets_may_stand_in_files(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" the secret\n")
    hook = WebhookSettings("http://x/", secret_file=str(file), authorise_url="http://y/")
    one = rule(webhook=hook)
    assert one.receiver is not None
    assert one.asked is not None
    assert one.receiver.secret == one.asked.secret == b"the secret"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (TenantSettings(), ""),
        (TenantSettings(jwt=JWT, webhook=HOOK), ""),
        (TenantSettings(jwt=(JwtSettings(),)), ""),
        (TenantSettings(jwt=(JwtSettings("HS256", "short"),)), "jwt: "),
        (TenantSettings(jwt=(JwtSettings("HS256", PLACEHOLDER),)), "jwt: this secret is a placeholder"),
        (TenantSettings(webhook=WebhookSettings("http://x/", PLACEHOLDER)), "webhook.secret: this is a"),
        (TenantSettings(webhook=WebhookSettings("http://x/")), "webhook.secret: "),
        (TenantSettings(webhook=WebhookSettings(secret_file="/no/file")), ""),
        (TenantSettings(webhook=WebhookSettings("http://x/", secret_file="/no/file")), "webhook: /no/file"),
        (TenantSettings(webhook=WebhookSettings("http://x/", "a", "b")), "webhook: "),
    ],
)
def test_what_cannot_be_is_said(settings: TenantSettings, why: str) -> None:
    found = objection("101", settings)
    assert found.startswith(why)
    assert bool(found) == bool(why)
    if why:
        with pytest.raises(BadKey):
            load_secrets("101", settings, b"server")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("{jwt: [{algorithm: RS256}]}", "needs a public key"),
        ("{jwt: [{key: a, key_file: b}]}", "not both"),
        ("{jwt: [{algorithm: none}]}", "expected one of EdDSA, HS256, RS256"),
        ("{jwt: [{key: a, kid: x}, {key: b, kid: x}]}", "different kid"),
        ("{webhook: {url: 'http://x/'}}", "secret"),
        ("{webhook: {url: 'ftp://x/', secret: s}}", "http"),
        ("{webhook: {authorise_url: 'x', secret: s}}", "http"),
        ("{webhook: {url: 'http://x/', secret: s, events: [all]}}", "events"),
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


def test_check_config_tries_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text('apps: {"101": {jwt: [{key: short}]}}')
    done = CliRunner().invoke(main, ["check-config", "--config", str(file)])
    assert done.exit_code == 1
    assert "apps.101.jwt: a secret of HS256 needs at least 32 bytes" in done.output


def test_check_config_shows_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    secrets = ("the secret of the tokens, long enough", "the secret of the webhook")
    app = f'{{jwt: [{{key: "{secrets[0]}"}}], webhook: {{url: "http://x/", secret: "{secrets[1]}"}}}}'
    file.write_text(f'apps: {{"101": {app}}}')
    done = CliRunner().invoke(main, ["check-config", "--config", str(file)])
    assert done.exit_code == 0, done.output
    assert not [secret for secret in secrets if secret in done.output]
