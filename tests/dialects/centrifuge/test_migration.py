"""``imserver from-centrifugo``: what becomes of the settings of Centrifugo 5 and 6."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from imserver.dialects.centrifuge.migration import Migration
from imserver.dialects.centrifuge.migration_options import NAMESPACE_NO_EQUIVALENT, NO_EQUIVALENT, BadSettings
from tests.support import ROOT, run_cli

GUIDE = ROOT / "docs/guides/from-centrifugo.md"
SECRET, KEY = "bbe7d157-a253-4094-9759-06a8236543f9", "d7627bb6-2292-4911-82e1-615c0ed3eebb"

FLAT, NESTED = (
    json.loads((ROOT / f"tests/vectors/centrifugo-{version}.json").read_text(encoding="utf-8"))
    for version in (5, 6)
)
"""The same settings for Centrifugo 5 and 6."""
EXPECTED = {
    "centrifuge": {"app": "shop"},
    "server": {"extra_listen": [{"port": 8000, "host": "0.0.0.0"}]},
    "limits": {"outbox_bytes": 2097152},
    "websocket": {"client_ping_seconds": 20},
    "redis": {"url": "redis://:of redis@redis:6379/0"},
    "apps": {
        "shop": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "origins": ["https://shop.example.org"],
            "anonymous_tokens": True,
            "known_channels_only": True,
            "subscribe_to_own_channel": False,
            "channels": {
                "": {"subscribe": "token"},
                "chat": {
                    "subscribe": "back_end",
                    "publish": "subscribers",
                    "presence": True,
                    "read_presence": "subscribers",
                    "join_leave": True,
                    "history_size": 50,
                    "history_seconds": 300,
                    "read_history": "nobody",
                    "recovery": True,
                    "anonymous": False,
                },
                "news": {
                    "subscribe": "anybody",
                    "history_size": 1,
                    "history_seconds": 86400,
                    "read_history": "nobody",
                    "delta": True,
                },
            },
            "webhook": {"secret": "replace-me: openssl rand -hex 32"},
            "back_ends": {
                "connect": "http://shop:3000/connect",
                "rpc": "http://shop:3000/rpc",
                "subscribe": "http://shop:3000/subscribe",
                "headers": ["Cookie"],
                "seconds": 1.5,
            },
        }
    },
    "api": {"keys": [{"key": KEY, "scopes": ["admin"], "apps": ["shop"]}]},
}
NOTES = {
    "client.token: if your back end signs with 384 or 512 bits, add an entry for that algorithm",
    "namespace chat.channel_regex: no equivalent",
    "back_ends.headers: those that an SDK sets belong in emulated_headers",
    "back_ends.rpc: methods of this server, such as send, have the prefix imserver:",
    "webhook.secret: choose a secret; it signs the requests to your back end",
    "http_server.tls: TLS belongs to the proxy in front (docs/guides/deploy.md)",
    "engine.redis.prefix: see section redis",
    "admin: there is no admin page; see `imserver doctor` and /metrics",
}


@pytest.mark.parametrize("document", [NESTED, FLAT], ids=["6", "5"])
def test_a_configuration_of_either_version_has_the_same_meaning(document: dict[str, Any]) -> None:
    before = json.dumps(document)
    migration = Migration(document, "shop", with_secrets=True)
    assert migration.settings == EXPECTED
    static = "client.proxy.connect.http.static_headers.x-from: "
    static += "of proxies only addresses, timeouts and http_headers are carried over"
    assert {*migration.notes} == NOTES | ({static} if document is NESTED else set())
    assert json.dumps(document) == before


def test_the_command_prints_settings_with_which_a_server_starts(tmp_path: Path) -> None:
    files = {
        "config.json": json.dumps(NESTED, indent="\t"),
        "config.yaml": yaml.safe_dump(NESTED),
        "config.toml": "\n".join(_toml(FLAT)),
    }
    outputs = {}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        done = run_cli("from-centrifugo", "--app", "shop", "--secrets", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        outputs[name] = {line for line in done.stdout.splitlines() if not line.startswith("# ")}
        assert {*done.stderr.splitlines()} >= {f"imserver: {note}" for note in NOTES}
        assert {*done.stdout.splitlines()} >= {f"# - {note}" for note in NOTES}
        settings = tmp_path / "imserver.yaml"
        written = done.stdout.replace("replace-me: openssl rand -hex 32", "a secret of the test, 0123456789")
        settings.write_text(written.replace("of redis", "of-redis"))
        checked = run_cli("check-config", "--config", str(settings))
        assert checked.returncode == 0, checked.stderr
    assert len({*map(frozenset, outputs.values())}) == 1


def _toml(document: dict[str, Any]) -> Iterator[str]:
    for name, value in document.items():
        if name != "namespaces":
            yield f"{name} = {json.dumps(value)}"
    for row in document["namespaces"]:
        yield "[[namespaces]]"
        yield from _toml({**row, "namespaces": []})


@pytest.mark.parametrize("document", [NESTED, FLAT], ids=["6", "5"])
def test_without_being_wanted_no_secret_is_printed(tmp_path: Path, document: dict[str, Any]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(document))
    done = run_cli("from-centrifugo", str(file))
    for secret in (SECRET, KEY, "of redis", "of admin"):
        assert secret not in done.stdout + done.stderr
    (tmp_path / "imserver.yaml").write_text(done.stdout)
    refused = run_cli("check-config", "--config", str(tmp_path / "imserver.yaml"))
    assert refused.returncode != 0
    assert "placeholder" in refused.stderr


def row(**options: Any) -> dict[str, Any]:
    """The row of a namespace with these options, without those of its history."""
    migration = Migration({"channel": {"namespaces": [{"name": "x", **options}]}}, "shop")
    found: dict[str, Any] = migration.settings["apps"]["shop"]["channels"]["x"]
    return found


HISTORY = {"history_size": 5, "history_ttl": "60s"}
CLOSED = {"history_size": 5, "history_seconds": 60, "read_history": "nobody"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"subscribe": "token"}),
        ({"allow_subscribe_for_client": True}, {"subscribe": "anybody", "anonymous": False}),
        (
            {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True},
            {"subscribe": "anybody"},
        ),
        ({"allow_subscribe_for_anonymous": True}, {"subscribe": "token"}),
        (
            {"allow_publish_for_client": True},
            {"subscribe": "token", "publish": "anybody", "anonymous": False},
        ),
        ({"presence": True}, {"subscribe": "token", "presence": True, "read_presence": "nobody"}),
        (
            {"presence": True, "allow_presence_for_client": True, "allow_presence_for_anonymous": True},
            {"subscribe": "token", "presence": True, "read_presence": "anybody"},
        ),
        (HISTORY, {"subscribe": "token", **CLOSED}),
        (HISTORY | {"allow_recovery": True}, {"subscribe": "token", **CLOSED, "recovery": True}),
        (HISTORY | {"force_positioning": True}, {"subscribe": "token", **CLOSED}),
        (
            HISTORY | {"allow_history_for_subscriber": True},
            {"subscribe": "token", **CLOSED, "read_history": "subscribers", "anonymous": False},
        ),
        ({"history_size": 5, "force_recovery": True}, {"subscribe": "token"}),
        ({"subscribe_proxy_enabled": True}, {"subscribe": "token"}),  # it has no address
        ({"allow_user_limited_channels": True}, {"subscribe": "token", "user_limited": True}),
        (
            HISTORY | {"force_recovery": True, "force_recovery_mode": "cache"},
            {"subscribe": "token", **CLOSED, "recovery": True, "recovery_mode": "cache"},
        ),
        (
            {"history_size": 5, "history_ttl": "1h30m"},
            {"subscribe": "token", **CLOSED, "history_seconds": 5400},
        ),
        (
            {
                "allow_subscribe_for_client": True,
                "allow_publish_for_client": True,
                "allow_publish_for_anonymous": True,
            },
            {"subscribe": "anybody", "publish": "anybody", "anonymous": False},
        ),
    ],
)
def test_what_centrifugo_does_not_allow_is_closed(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert row(**options) == expected


def test_in_granular_mode_proxies_have_names() -> None:
    document = {
        "granular_proxy_mode": True,
        "proxies": [
            {"name": "one", "endpoint": "https://shop/one", "timeout": "3s"},
            {"name": "two", "endpoint": "https://shop/two"},
            {"name": "stream", "endpoint": "grpc://shop:9000"},
        ],
        "connect_proxy_name": "one",
        "rpc_proxy_name": "two",
        "publish_proxy_name": "two",
        "namespaces": [
            {"name": "a", "subscribe_proxy_name": "one"},
            {"name": "b", "subscribe_proxy_name": "two", "publish_proxy_name": "stream"},
        ],
    }
    migration = Migration(document, "shop")
    app = migration.settings["apps"]["shop"]
    assert app["back_ends"] == {
        "connect": "https://shop/one",
        "rpc": "https://shop/two",
        "publish": "https://shop/two",
        "subscribe": "https://shop/one",
        "seconds": 3,
    }
    assert app["channels"] == {
        "": {"subscribe": "token", "publish": "back_end"},
        "a": {"subscribe": "back_end"},
        "b": {"subscribe": "back_end"},
    }
    assert [note for note in migration.notes if note.startswith("namespace")] == [
        "namespace b.subscribe_proxy_enabled: all namespaces have the first address of back_ends.subscribe",
        "namespace b.publish_proxy_enabled: there is no gRPC",
    ]


@pytest.mark.parametrize(
    ("token", "rows", "note_of"),
    [
        (
            {"jwks_public_endpoint": "https://id/keys", "issuer": "https://id", "audience": "shop"},
            [{"issuer": "https://id", "audience": "shop", "jwks_url": "https://id/keys"}],
            "",
        ),
        ({"jwks_public_endpoint": "https://id/keys"}, None, "client.token.jwks_public_endpoint"),
        ({"hmac_secret_key": "short"}, [{"algorithm": "HS256", "key": "short"}], "hmac_secret_key: choose"),
        (
            {"ecdsa_public_key": "PEM", "issuer": "x"},
            [{"algorithm": "ES256", "key": "PEM"}],
            "client.token: issuer",
        ),
    ],
)
def test_keys_of_tokens(token: dict[str, str], rows: list[dict[str, str]] | None, note_of: str) -> None:
    migration = Migration({"client": {"token": token}}, "shop", with_secrets=True)
    assert migration.settings["apps"]["shop"].get("jwt") == rows
    assert any(note_of in note for note in migration.notes) is bool(note_of)


@pytest.mark.parametrize("namespace", ["", "own"])
def test_channels_of_users_have_the_options_of_their_namespace(namespace: str) -> None:
    personal = {"user_subscribe_to_personal": True, "user_personal_channel_namespace": namespace}
    allowed = {"allow_subscribe_for_client": True, "allow_publish_for_subscriber": True}
    options = {**HISTORY, "force_recovery": True, **allowed}
    rows = {} if namespace else options
    migration = Migration({**personal, **rows, "namespaces": [{"name": "own", **options}]}, "shop")
    app = migration.settings["apps"]["shop"]
    assert app["subscribe_to_own_channel"] is True
    assert app["channels"]["user"] == {**CLOSED, "recovery": True, "publish": "subscribers"}
    assert any("personal_channel_namespace" in note for note in migration.notes) is bool(namespace)


def test_a_namespace_of_users_is_not_carried_over() -> None:
    migration = Migration({"namespaces": [{"name": "user", "presence": True}]}, "shop")
    assert migration.settings["apps"]["shop"]["channels"] == {"": {"subscribe": "token"}}
    assert migration.notes == ["namespace user: user:<id> is the channel of a user; rename the namespace"]


@pytest.mark.parametrize("disallowed", [False, True])
def test_tokens_without_a_user_are_carried_over(disallowed: bool) -> None:
    client = {"disallow_anonymous_connection_tokens": disallowed, "token": {"hmac_secret_key": SECRET}}
    migration = Migration({"client": client}, "shop")
    assert ("anonymous_tokens" in migration.settings["apps"]["shop"]) is not disallowed
    assert not any("disallow" in note for note in migration.notes)


def test_an_app_with_keys_is_not_opened() -> None:
    client: dict[str, Any] = {"allow_anonymous_connect_without_token": True}
    assert Migration({"client": client}, "shop").settings["apps"]["shop"]["open"] is True
    migration = Migration({"client": client | {"token": {"hmac_secret_key": SECRET}}}, "shop")
    assert "open" not in migration.settings["apps"]["shop"]
    assert any(note.startswith("client.allow_anonymous_connect") for note in migration.notes)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"client": {"token": {"hmac_secret_key": 7}}}, "client.token.hmac_secret_key: expected"),
        ({"channel": {"namespaces": [{"presence": True}]}}, "channel.namespaces: expected"),
        (
            {"channel": {"namespaces": [{"name": "x", "history_ttl": "soon"}]}},
            "history_ttl: expected a duration",
        ),
        ({"channel": {"namespaces": [{"name": "x", "presence": "yes"}]}}, "presence: expected"),
        ({"http_server": {"port": "http"}}, "http_server.port: expected"),
        ({"namespaces": "x"}, "channel.namespaces: expected"),
    ],
)
def test_what_cannot_be_read_is_an_error(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadSettings, match=re.escape(problem)):
        Migration(document, "shop")


@pytest.mark.parametrize("text", ["[1]", "{", "a: [", "\tx"])
def test_a_file_that_is_no_configuration_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    done = run_cli("from-centrifugo", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("imserver: ")


# --- the guide ----------------------------------------------------------------------------------------------


def options_of_the_guide() -> set[str]:
    """The options in the left columns of its tables."""
    found = set()
    text = GUIDE.read_text().partition("## What becomes of your settings")[2].partition("## Proxies")[0]
    for line in text.splitlines():
        if not line.startswith("| ") or line.startswith(("| Centrifugo", "| ---", "| of ", "| a ")):
            continue
        before = ""
        for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
            option = before.rpartition(".")[0] + name if name.startswith(".") else name
            before = option
            found.add(option)
    return found


def test_the_guide_has_a_row_for_each_option_without_an_equivalent() -> None:
    known = {*NO_EQUIVALENT, *NAMESPACE_NO_EQUIVALENT} - {
        "channel.proxy",
        "client.proxy",
        "proxies",
        "websocket",
    }
    missing = {
        option
        for option in known
        if not any(each == option or option.startswith(f"{each}.") for each in options_of_the_guide())
    }
    assert missing - {"http_server.internal_address", "http_server.internal_port"} == set()


def test_the_command_knows_each_option_of_the_guide() -> None:
    unknown = set()
    for option in options_of_the_guide():
        sections = option.split(".")
        if len(sections) == 1 and option not in NO_EQUIVALENT:
            if option in ("graphite", "prometheus"):
                continue
            sections = ["channel", "without_namespace", option]
        unknown.add(option)
        for value in (True, "x", "5s", 7, ["fossil"], {"enabled": True}, {"presence": True}, [{"name": "x"}]):
            document: Any = value
            for section in reversed(sections):
                document = {section: document}
            try:
                notes = Migration(document, "shop").notes
            except BadSettings:
                continue
            if not any("unknown option" in note for note in notes):
                unknown.discard(option)
    assert unknown == set()
