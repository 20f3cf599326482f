"""``imserver check-config --production``: each check by itself, and the command
as people call it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from imserver.cli import main
from imserver.gateway.config.settings import (
    ApiSettings,
    BackEndSettings,
    ClusterSettings,
    Config,
    DebugSettings,
    JwtSettings,
    KeySettings,
    LimitSettings,
    ListenSettings,
    RedisSettings,
    ServerSettings,
    StorageSettings,
    TenantSettings,
    WebhookSettings,
)
from imserver.offline.production import CHECKS, Deployment, findings
from imserver.people.oauth.declared import OAuthOfApp, ProviderSettings
from tests.rows import sections
from tests.support import run_cli

KEY = KeySettings("a-key-that-is-long-enough", ("admin",))
CLOSED = Config(
    server=ServerSettings(data_dir="/nonexistent/data"),
    apps={"101": TenantSettings(jwt=(JwtSettings(),))},
    api=ApiSettings(keys=(KEY,), requests_per_second=100),
    limits=LimitSettings(
        max_connections_per_address=100, messages_per_second=10, login_seconds=10
    ),
)
"""Settings of which nothing is open."""
GITHUB = ProviderSettings("github", "id", "secret")
TLS = "rediss://:password@10.0.0.9:6379/0"
REMOTE = {"redis": RedisSettings(url="rediss://:password@10.0.0.9:6379/0")}
SHARED = {
    "storage": StorageSettings(
        url="postgresql://im:password@10.0.0.9/im?sslmode=verify-full"
    ),
    "uploads": {"directory": "/srv/uploads"},
    "server": {"secret_file": "/nonexistent/secret"},
}


def changed(changes: Mapping[str, Any]) -> Config:
    """:data:`CLOSED` with other values: whole sections, or some of their settings."""

    def replaced_in(settings: Any, value: Mapping[str, Any]) -> Any:
        # others are of features
        own = {key: each for key, each in value.items() if hasattr(settings, key)}
        return msgspec.structs.replace(settings, **own)

    replaced = {
        section: replaced_in(getattr(CLOSED, section), value)
        if isinstance(value, dict) and section != "apps"
        else value
        for section, value in changes.items()
        if hasattr(CLOSED, section)
    }
    replaced["of_features"] = sections(
        **{name: each for name, each in changes.items() if isinstance(each, dict)}
    )
    return msgspec.structs.replace(CLOSED, **replaced)


def open_settings(config: Config, **facts: Any) -> list[str]:
    return [
        setting
        for setting, _ in findings(Deployment(config, apps=config.apps, **facts))
    ]


def app(**settings: Any) -> dict[str, TenantSettings]:
    return {"101": TenantSettings(**settings)}


def test_nothing_of_careful_settings_is_open() -> None:
    assert open_settings(CLOSED) == []
    assert open_settings(changed({**REMOTE, **SHARED})) == []
    demo = changed({"api": {"keys": ()}, "apps": {}})
    assert open_settings(demo, keyed=True) == [], "a key in the database ends demo mode"


CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("access", {"api": {"keys": ()}, "apps": {}}, ["api.keys"]),
    ("access", {"jwt": {"sign_key": "s" * 31}}, ["jwt.sign_key"]),
    ("access", {"jwt": {"sign_key": "s" * 32}}, []),
    ("access", {"server": {"insecure": True}}, ["server.insecure"]),
    ("access", {"apps": app(open=True)}, ["apps.101.open"]),
    ("features", {"accounts": {"registration": True}}, ["accounts.registration"]),
    ("encryption", {"server": {"host": "10.0.0.5"}}, ["server.trusted_proxies"]),
    ("encryption", {"server": {"host": "0.0.0.0"}}, ["server.trusted_proxies"]),
    (
        "encryption",
        {"server": {"host": "10.0.0.5", "trusted_proxies": ("10.0.0.2",)}},
        [],
    ),
    (
        "encryption",
        {"server": {"extra_listen": (ListenSettings(7800, "192.0.2.1"),)}},
        ["server.trusted_proxies"],
    ),
    ("encryption", {"server": {"trusted_proxies": ()}}, ["server.trusted_proxies"]),
    (
        "encryption",
        {"server": {"public_ws_url": "ws://im.example.org/acc"}},
        ["server.public_ws_url"],
    ),
    ("encryption", {"server": {"public_ws_url": "wss://im.example.org/acc"}}, []),
    (
        "wide_networks",
        {"server": {"trusted_proxies": ("10.0.0.0/8",)}},
        ["server.trusted_proxies"],
    ),
    (
        "wide_networks",
        {"server": {"trusted_proxies": ("::/0",)}},
        ["server.trusted_proxies"],
    ),
    (
        "wide_networks",
        {"apps": app(api_allow_from=("10.0.0.0/16",))},
        ["apps.101.api_allow_from"],
    ),
    (
        "wide_networks",
        {"apps": app(api_allow_from=("127.0.0.0/8",))},
        ["apps.101.api_allow_from"],
    ),
    ("wide_networks", {"apps": app(api_allow_from=("10.0.0.7", "fd00::/64"))}, []),
    ("any_origin", {"server": {"origin_policy": "any"}}, ["server.origin_policy"]),
    ("any_origin", {"apps": app(origin_policy="any")}, ["apps.101.origin_policy"]),
    ("limits", {"api": {"page_token_seconds": 86401}}, ["api.page_token_seconds"]),
    (
        "limits",
        {"limits": LimitSettings(), "api": {"requests_per_second": 0}},
        [
            "limits.max_connections_per_address",
            "limits.messages_per_second",
            "limits.login_seconds",
            "api.requests_per_second",
        ],
    ),
    (
        "features",
        {"accounts": {"registrations_per_address": 0, "logins_per_address": 0}},
        ["accounts.registrations_per_address", "accounts.logins_per_address"],
    ),
    ("cluster", {**REMOTE, **SHARED, "storage": {"url": ""}}, ["storage.url"]),
    (
        "cluster",
        {**REMOTE, **SHARED, "server": {"secret_file": ""}},
        ["server.secret_file"],
    ),
    ("cluster", {"redis": RedisSettings(addr="127.0.0.1:6379")}, []),
    (
        "cluster",
        {"redis": RedisSettings(url="rediss://10.0.0.9/0"), **SHARED},
        ["redis.password"],
    ),
    (
        "cluster",
        {"redis": RedisSettings(addr="10.0.0.9:6379", password="x"), **SHARED},
        ["redis.url"],
    ),
    ("cluster", {"redis": RedisSettings(url="unix:///run/redis.sock")}, []),
    (
        "cluster",
        {"redis": RedisSettings(url=f"{TLS}?ssl_cert_reqs=none"), **SHARED},
        ["redis.url"],
    ),
    (
        "cluster",
        {"redis": RedisSettings(url=f"{TLS}?ssl_cert_reqs=optional"), **SHARED},
        ["redis.url"],
    ),
    (
        "cluster",
        {"redis": RedisSettings(url=f"{TLS}?ssl_check_hostname=false"), **SHARED},
        ["redis.url"],
    ),
    (
        "cluster",
        {"redis": RedisSettings(url=f"{TLS}?ssl_cert_reqs=required"), **SHARED},
        [],
    ),
    ("database", {"storage": {"url": "postgresql://im@10.0.0.9/im"}}, ["storage.url"]),
    (
        "database",
        {"storage": {"url": "postgresql://im@10.0.0.9/im?sslmode=require"}},
        ["storage.url"],
    ),
    (
        "database",
        {"storage": {"url": "postgresql://im@10.0.0.9/im?sslmode=verify-full"}},
        [],
    ),
    ("database", {"storage": {"url": "mysql://im@db.example.org/im"}}, ["storage.url"]),
    (
        "database",
        {"storage": {"url": "mysql://im@db.example.org/im?ssl_ca=/etc/ca.pem"}},
        [],
    ),
    ("database", {"storage": {"url": "postgresql://im@127.0.0.1/im"}}, []),
    ("database", {"storage": {"url": "postgresql:///im?host=/run/postgresql"}}, []),
    (
        "database",
        {"storage": {"url": "mysql://im@localhost/im?unix_socket=/run/mysql.sock"}},
        [],
    ),
    ("cluster", {**REMOTE, **SHARED, "cluster": {"bind": "0.0.0.0"}}, ["cluster.bind"]),
    ("cluster", {**REMOTE, **SHARED, "cluster": {"bind": "8.8.8.8"}}, ["cluster.bind"]),
    ("cluster", {**REMOTE, **SHARED, "cluster": {"bind": "10.0.0.5"}}, []),
    (
        "webhooks",
        {
            "apps": app(
                webhook=WebhookSettings("http://shop.example.org/hook", "secret")
            )
        },
        ["apps.101.webhook.url"],
    ),
    (
        "webhooks",
        {
            "apps": app(
                webhook=WebhookSettings(
                    authorise_url="http://shop.example.org/", secret="secret"
                )
            )
        },
        ["apps.101.webhook.authorise_url"],
    ),
    (
        "webhooks",
        {
            "apps": app(
                webhook=WebhookSettings(
                    review_url="http://shop.example.org/", secret="secret"
                )
            )
        },
        ["apps.101.webhook.review_url"],
    ),
    (
        "webhooks",
        {"apps": app(webhook=WebhookSettings("http://127.0.0.1:9/hook", "secret"))},
        [],
    ),
    (
        "webhooks",
        {
            "apps": app(
                back_ends=BackEndSettings(publish="http://shop.example.org/publish")
            )
        },
        ["apps.101.back_ends.publish"],
    ),
    ("access", {"api": {"keys": ()}, "apps": app(jwt=(JwtSettings(),))}, []),
    ("debugging", {"debug": DebugSettings(echo_path="/echo")}, ["debug.echo_path"]),
    ("features", {"bots": {"allow_loopback": True}}, ["bots.allow_loopback"]),
    ("cluster", {"cluster": ClusterSettings(bind="0.0.0.0")}, []),
]


@pytest.mark.parametrize(("check", "changes", "settings"), CASES)
def test_a_check_finds_what_is_open(
    check: str, changes: dict[str, Any], settings: list[str]
) -> None:
    assert open_settings(changed(changes)) == settings


def test_every_check_has_a_case_here() -> None:
    assert {check.__name__ for check in CHECKS} - {case[0] for case in CASES} == {
        "readable_files"
    }


def test_files_that_everybody_may_read_are_found(tmp_path: Path) -> None:
    names = ("data", "secret", "my.yaml", "im.db", "hook", "jwt")
    files = {name: tmp_path / name for name in names}
    for name, file in files.items():
        file.mkdir() if name == "data" else file.touch()
        file.chmod(0o755 if name == "data" else 0o644)
    config = changed(
        {
            "server": {
                "data_dir": str(files["data"]),
                "secret_file": str(files["secret"]),
            },
            "storage": {"url": f"sqlite:///{files['im.db']}"},
            "apps": app(
                jwt=(
                    JwtSettings(key_file=str(files["jwt"])),
                    JwtSettings("EdDSA", key_file=str(files["hook"]), kid="public"),
                ),
                webhook=WebhookSettings(
                    "https://e.org/", secret_file=str(files["hook"])
                ),
            ),
        }
    )
    assert open_settings(config, file=str(files["my.yaml"])) == [
        "server.data_dir",
        "server.secret_file",
        "configuration file",
        "storage.url",
        "apps.101.jwt[0].key_file",
        "apps.101.webhook.secret_file",
    ]
    for file in files.values():
        file.chmod(0o700 if file.is_dir() else 0o640)
    assert open_settings(config, file=str(files["my.yaml"])) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"smtp": {"password": "secret"}},
        {
            "app": {"http_url": "https://im.example.com"},
            "apps": app(
                open=False,
                account_tokens="required",
                of_features=(OAuthOfApp({"github": GITHUB}),),
            ),
        },
    ],
    ids=["mail", "provider"],
)
def test_a_file_with_any_secret_is_found(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    file = tmp_path / "my.yaml"
    file.touch(0o644)
    config = changed(
        {"api": {"keys": ()}, "app": {"http_url": "https://im.example.org"}, **changes}
    )
    assert "configuration file" in open_settings(config, file=str(file))
    assert "configuration file" not in open_settings(
        changed({"api": {"keys": ()}}), file=str(file)
    )


# --- the command --------------------------------------------------------------


def test_the_command_names_what_is_open_and_ends_with_1(tmp_path: Path) -> None:
    done = run_cli(
        "check-config", "--production", IMSERVER_SERVER_DATA_DIR=str(tmp_path / "data")
    )
    assert (done.returncode, "has no database of a server" in done.stderr) == (1, True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("api.keys: demo mode: anybody may log in and push; ")
    assert all(": " in line for line in lines)
    assert not (tmp_path / "data").exists(), "a look makes nothing"


def test_the_command_finds_the_file_that_is_read_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("imserver.yaml")
    file.write_text(
        f"api: {{keys: [{{key: {KEY.key}, scopes: [admin]}}]}}\n", encoding="utf-8"
    )
    file.chmod(0o644)
    done = CliRunner().invoke(main, ["check-config", "--production"])
    assert "configuration file: imserver.yaml is readable by every user" in done.output


def test_the_command_says_that_nothing_is_open(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        f"server: {{data_dir: {tmp_path / 'data'}}}\n"
        "limits: {max_connections_per_address: 100, messages_per_second: 20, login_seconds: 10}\n"
        "api: {requests_per_second: 100}\n"
        "accounts: {registration: false}\n",
        encoding="utf-8",
    )
    assert run_cli("key", "create", "--scope", "push", "-c", str(file)).returncode == 0
    done = run_cli("check-config", "--production", "-c", str(file))
    assert (done.returncode, done.stdout) == (0, "no insecure settings\n"), done
    run_cli("app", "create", "105", "open=true", "-c", str(file))
    done = run_cli("check-config", "--production", "-c", str(file))
    assert done.returncode == 1
    assert done.stdout.startswith("apps.105.open: anybody may log in as any user; ")
