"""``imserver from-centrifugo``: what becomes of the settings of Centrifugo 5
and 6."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from imserver.dialects.centrifuge.migration import Migration
from imserver.dialects.centrifuge.migration_options import (
    NAMESPACE_NO_EQUIVALENT,
    NO_EQUIVALENT,
    BadSettings,
)
from tests.support import ROOT, run_cli

GUIDE = ROOT / "docs/guides/from-centrifugo.md"
SECRET = "bbe7d157-a253-4094-9759-06a8236543f9"
KEY = "d7627bb6-2292-4911-82e1-615c0ed3eebb"

FLAT, NESTED = (
    json.loads(
        (ROOT / f"tests/vectors/centrifugo-{version}.json").read_text(encoding="utf-8")
    )
    for version in (5, 6)
)
"""The same settings for Centrifugo 5 and 6."""
SETTINGS = (ROOT / "tests/vectors/centrifugo-settings.yaml").read_text(encoding="utf-8")
"""What the command prints for those of Centrifugo 6: what has no equivalent,
and the settings."""


def notes_of(output: str) -> set[str]:
    """What the comments on top say has no equivalent."""
    return {
        line.removeprefix("# - ")
        for line in output.splitlines()
        if line.startswith("# - ")
    }


def _toml(document: dict[str, Any]) -> Iterator[str]:
    for name, value in document.items():
        if name != "namespaces":
            yield f"{name} = {json.dumps(value)}"
    for row in document["namespaces"]:
        yield "[[namespaces]]"
        yield from _toml({**row, "namespaces": []})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", json.dumps(NESTED, indent="\t")),
        ("config.yaml", yaml.safe_dump(NESTED)),
        ("config.json", json.dumps(FLAT)),
        ("config.toml", "\n".join(_toml(FLAT))),
    ],
    ids=["6", "6 as yaml", "5", "5 as toml"],
)
def test_the_command_prints_settings_with_which_a_server_starts(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    done = run_cli(
        "from-centrifugo", "--app", "shop", "--secrets", str(tmp_path / name)
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == yaml.safe_load(SETTINGS)
    static = {note for note in notes_of(SETTINGS) if "static_headers" in note}
    notes = notes_of(SETTINGS) - (
        static if request.node.callspec.id.startswith("5") else set()
    )
    assert notes_of(done.stdout) == notes
    assert {*done.stderr.splitlines()} >= {f"imserver: {note}" for note in notes}
    written = done.stdout.replace(
        "replace-me: openssl rand -hex 32", "a secret of the test, 0123456789"
    )
    settings = tmp_path / "imserver.yaml"
    settings.write_text(written.replace("of redis", "of-redis"))
    checked = run_cli("check-config", "--config", str(settings))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("document", [NESTED, FLAT], ids=["6", "5"])
def test_without_being_wanted_no_secret_is_printed(
    tmp_path: Path, document: dict[str, Any]
) -> None:
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
    """The row of a namespace with these options, without those of its
    history."""
    migration = Migration(
        {"channel": {"namespaces": [{"name": "x", **options}]}}, "shop"
    )
    found: dict[str, Any] = migration.settings["apps"]["shop"]["channels"]["x"]
    return found


def allow(whom: str, *what: str) -> dict[str, Any]:
    """Options that allow something to clients, anonymous ones or
    subscribers."""
    return {f"allow_{each}_for_{whom}": True for each in what}


NAMED = {"anonymous": False}
HISTORY = {"history_size": 5, "history_ttl": "60s"}
CLOSED = {"history_size": 5, "history_seconds": 60, "read_history": "nobody"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        (allow("client", "subscribe"), {"subscribe": "anybody", **NAMED}),
        (
            allow("client", "subscribe") | allow("anonymous", "subscribe"),
            {"subscribe": "anybody"},
        ),
        (allow("anonymous", "subscribe"), {}),
        (allow("client", "publish"), {"publish": "anybody", **NAMED}),
        (
            allow("client", "subscribe", "publish") | allow("anonymous", "publish"),
            {"subscribe": "anybody", "publish": "anybody", **NAMED},
        ),
        ({"presence": True}, {"presence": True, "read_presence": "nobody"}),
        (
            {
                "presence": True,
                **allow("client", "presence"),
                **allow("anonymous", "presence"),
            },
            {"presence": True, "read_presence": "anybody"},
        ),
        (HISTORY, CLOSED),
        (HISTORY | {"allow_recovery": True}, {**CLOSED, "recovery": True}),
        (HISTORY | {"force_positioning": True}, CLOSED),
        (
            HISTORY | allow("subscriber", "history"),
            {**CLOSED, "read_history": "subscribers", **NAMED},
        ),
        ({"history_size": 5, "force_recovery": True}, {}),
        ({"subscribe_proxy_enabled": True}, {}),  # it has no address
        ({"allow_user_limited_channels": True}, {"user_limited": True}),
        (
            HISTORY | {"force_recovery": True, "force_recovery_mode": "cache"},
            {**CLOSED, "recovery": True, "recovery_mode": "cache"},
        ),
        (
            {"history_size": 5, "history_ttl": "1h30m"},
            {**CLOSED, "history_seconds": 5400},
        ),
    ],
)
def test_what_centrifugo_does_not_allow_is_closed(
    options: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert row(**options) == {"subscribe": "token", **expected}


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
            {
                "name": "b",
                "subscribe_proxy_name": "two",
                "publish_proxy_name": "stream",
            },
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
        "namespace b.publish_proxy_enabled: gRPC is not supported",
    ]


@pytest.mark.parametrize(
    ("token", "rows", "note_of"),
    [
        (
            {
                "jwks_public_endpoint": "https://id/keys",
                "issuer": "https://id",
                "audience": "shop",
            },
            [
                {
                    "issuer": "https://id",
                    "audience": "shop",
                    "jwks_url": "https://id/keys",
                }
            ],
            "",
        ),
        (
            {"jwks_public_endpoint": "https://id/keys"},
            None,
            "client.token.jwks_public_endpoint",
        ),
        (
            {"hmac_secret_key": "short"},
            [{"algorithm": "HS256", "key": "short"}],
            "hmac_secret_key: choose",
        ),
        (
            {"ecdsa_public_key": "x", "issuer": "x"},
            [{"algorithm": "ES256", "key": "x"}],
            "token: issuer",
        ),
    ],
)
def test_keys_of_tokens(
    token: dict[str, str], rows: list[dict[str, str]] | None, note_of: str
) -> None:
    migration = Migration({"client": {"token": token}}, "shop", with_secrets=True)
    assert migration.settings["apps"]["shop"].get("jwt") == rows
    assert any(note_of in note for note in migration.notes) is bool(note_of)


@pytest.mark.parametrize("namespace", ["", "own"])
def test_channels_of_users_have_the_options_of_their_namespace(namespace: str) -> None:
    personal = {
        "user_subscribe_to_personal": True,
        "user_personal_channel_namespace": namespace,
    }
    options = {
        "force_recovery": True,
        **allow("client", "subscribe"),
        **allow("subscriber", "publish"),
    }
    options |= HISTORY
    rows = {} if namespace else options
    migration = Migration(
        {**personal, **rows, "namespaces": [{"name": "own", **options}]}, "shop"
    )
    app = migration.settings["apps"]["shop"]
    assert app["subscribe_to_own_channel"] is True
    assert app["channels"]["user"] == {
        **CLOSED,
        "recovery": True,
        "publish": "subscribers",
    }
    assert any(
        "personal_channel_namespace" in note for note in migration.notes
    ) is bool(namespace)


def test_a_namespace_of_users_is_not_carried_over() -> None:
    migration = Migration({"namespaces": [{"name": "user", "presence": True}]}, "shop")
    assert migration.settings["apps"]["shop"]["channels"] == {
        "": {"subscribe": "token"}
    }
    assert migration.notes == [
        "namespace user: user:<id> is the channel of a user; rename the namespace"
    ]


@pytest.mark.parametrize("disallowed", [False, True])
def test_tokens_without_a_user_are_carried_over(disallowed: bool) -> None:
    client = {
        "disallow_anonymous_connection_tokens": disallowed,
        "token": {"hmac_secret_key": SECRET},
    }
    migration = Migration({"client": client}, "shop")
    assert ("anonymous_tokens" in migration.settings["apps"]["shop"]) is not disallowed
    assert not any("disallow" in note for note in migration.notes)


def test_an_app_with_keys_is_not_opened() -> None:
    client: dict[str, Any] = {"allow_anonymous_connect_without_token": True}
    assert (
        Migration({"client": client}, "shop").settings["apps"]["shop"]["open"] is True
    )
    migration = Migration(
        {"client": client | {"token": {"hmac_secret_key": SECRET}}}, "shop"
    )
    assert "open" not in migration.settings["apps"]["shop"]
    assert any(
        note.startswith("client.allow_anonymous_connect") for note in migration.notes
    )


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (
            {"client": {"token": {"hmac_secret_key": 7}}},
            "client.token.hmac_secret_key: expected",
        ),
        (
            {"channel": {"namespaces": [{"presence": True}]}},
            "channel.namespaces: expected",
        ),
        (
            {"channel": {"namespaces": [{"name": "x", "history_ttl": "soon"}]}},
            "history_ttl: expected a duration",
        ),
        (
            {"channel": {"namespaces": [{"name": "x", "presence": "yes"}]}},
            "presence: expected",
        ),
        ({"http_server": {"port": "http"}}, "http_server.port: expected"),
        ({"namespaces": "x"}, "channel.namespaces: expected"),
    ],
)
def test_what_cannot_be_read_is_an_error(
    document: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadSettings, match=re.escape(problem)):
        Migration(document, "shop")


@pytest.mark.parametrize("text", ["[1]", "{", "a: [", "\tx"])
def test_a_file_that_is_no_configuration_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    done = run_cli("from-centrifugo", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("imserver: ")


# --- the guide ----------------------------------------------------------------


def options_of_the_guide() -> set[str]:
    """The options in the left columns of its tables."""
    found = set()
    text = (
        GUIDE.read_text()
        .partition("## What becomes of your settings")[2]
        .partition("## Proxies")[0]
    )
    for line in text.splitlines():
        if not line.startswith("| ") or line.startswith(
            ("| Centrifugo", "| ---", "| of ", "| a ")
        ):
            continue
        before = ""
        for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
            option = before.rpartition(".")[0] + name if name.startswith(".") else name
            before = option
            found.add(option)
    return found


def test_the_guide_has_a_row_for_each_option_without_an_equivalent() -> None:
    unlisted = {"channel.proxy", "client.proxy", "proxies", "websocket"}
    unlisted |= {"http_server.internal_address", "http_server.internal_port"}
    listed = tuple(f"{each}." for each in options_of_the_guide())
    known = {*NO_EQUIVALENT, *NAMESPACE_NO_EQUIVALENT}
    assert {each for each in known if not f"{each}.".startswith(listed)} <= unlisted


def test_the_command_knows_each_option_of_the_guide() -> None:
    unknown = set()
    for option in options_of_the_guide():
        sections = option.split(".")
        if len(sections) == 1 and option not in NO_EQUIVALENT:
            if option in ("graphite", "prometheus"):
                continue
            sections = ["channel", "without_namespace", option]
        unknown.add(option)
        for value in (
            True,
            "x",
            "5s",
            7,
            ["fossil"],
            {"enabled": True},
            {"presence": True},
            [{"name": "x"}],
        ):
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
