"""Features that a node of this server does not have, what others need of them,
and their settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imserver.gateway import assets
from imserver.gateway.config.settings import Config, settings_of
from imserver.gateway.config.values import ConfigError, Locations
from imserver.gateway.errors import StartError
from imserver.gateway.node import feature_list
from imserver.gateway.node.feature_list import (
    declarations_of,
    load_features,
    load_with_locations,
)
from imserver.messenger.groups.declared import GroupLimits
from tests.gateway.node.test_feature_list import FEATURE_OF, NAMES, check
from tests.support import ROOT


def test_the_manual_names_all_features() -> None:
    manual = assets.DEFAULT_CONFIG.read_text(encoding="utf-8").replace("\n# ", " ")
    assert f"a list out of {', '.join(NAMES)};" in manual


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("features: [oauth]\n", "line 1: features: oauth needs pages"),
        ("features: [pusher]\n", "line 1: features: pusher needs webhooks"),
        (
            "features: [webhooks, accounts, groups, bots]\n",
            "line 1: features: accounts needs messages",
        ),
        (
            "features: [action]\napps:\n  shop:\n    webhook: {url: 'http://x/', secret: s}\n",
            "line 4: apps.shop.webhook: the setting features leaves this feature out",
        ),
        (
            "features: [action]\napps:\n  shop:\n    pusher: {app_id: a, key: k, secret: ssssssssssssssss}\n",
            "line 4: apps.shop.pusher: the setting features leaves this feature out",
        ),
        (
            "features: []\napps:\n  shop: {account_tokens: required}\n",
            "line 3: apps.shop.account_tokens: the setting features leaves this feature out",
        ),
        (
            "features: []\naccounts: {friends: 7}\n",
            "line 2: accounts.friends: the setting features leaves this feature out",
        ),
        (
            "features: [action]\nuploads: {max_bytes: 1}\n",
            "line 2: uploads: the setting features leaves",
        ),
        (
            "features: []\nwebsocket:\n  protobuf_silent_seconds: 1\n",
            "line 3: websocket.protobuf_silent",
        ),
        (
            "features: []\napps: {a: {dialects: [cmd, pusher]}}\n",
            "line 2: apps.a.dialects[1]: expected one",
        ),
    ],
)
def test_what_absent_features_are_needed_for_is_refused(
    tmp_path: Path, text: str, output: str
) -> None:
    with pytest.raises(StartError) as caught:
        check(tmp_path, text)
    assert output in str(caught.value)


def test_groups_without_accounts_have_their_limits(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        "features: [groups]\naccounts: {group_members: 7, rate_seconds: 60}\n"
    )
    config, _ = load_with_locations(str(file), {})
    assert settings_of(config, GroupLimits) == GroupLimits(group_members=7)
    assert config.accounts.rate_seconds == 60
    with pytest.raises(
        ConfigError, match=r"accounts\.devices: the setting features leaves"
    ):
        load_with_locations(str(file), {"IMSERVER_ACCOUNTS_DEVICES": "3"})


def test_an_app_made_at_run_time_has_no_settings_of_absent_features() -> None:
    given = {"pusher": {"app_id": "7", "key": "k", "secret": "s" * 16}}
    absent, present = (
        declarations_of(load_features(Config(features=each))) for each in ((), None)
    )
    assert present.given_fields(given, Locations("app shop"))["pusher"]["key"] == "k"
    with pytest.raises(ConfigError, match=r"^app shop: pusher: the setting features "):
        absent.given_fields(given, Locations("app shop"))


def test_what_a_node_refuses_follows_from_the_settings_of_absent_features() -> None:
    """The names come from the modules ``declared`` alone."""
    code = (
        "import sys; from imserver.gateway.config.settings import Config; "
        "import imserver.gateway.node.feature_list as own;"
        "declared = own.declarations_of(own.load_features(Config(features=())));"
        "print(declared.is_absent('bots'), declared.is_absent('accounts.bots'), declared.is_absent('lamp'));"
        "print([name for name in sys.modules if name in own.FEATURES])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines() == ["True True False", "[]"]


@pytest.mark.parametrize(
    ("variable", "output"),
    [
        (
            "IMSERVER_UPLOADS_MAX_BYTES",
            "uploads: the setting features leaves this feature out",
        ),
        (
            "IMSERVER_ACCOUNTS_BOTS",
            "accounts.bots: the setting features leaves this feature out",
        ),
    ],
)
def test_a_variable_of_an_absent_feature_is_refused(variable: str, output: str) -> None:
    environment = {"IMSERVER_FEATURES": "[action]", variable: "1"}
    with pytest.raises(ConfigError) as caught:
        load_with_locations(os.devnull, environment)
    assert str(caught.value) == f"{variable}: {output}"
    config, _ = load_with_locations(os.devnull, {variable: "1"})
    assert dict(config.of_features)["uploads"].max_bytes in (1, 104857600)


@pytest.mark.parametrize(
    "name", [name for name, row in FEATURE_OF.items() if "messages?" in row.uses]
)
def test_what_can_do_without_stored_messages_does_not_import_them(name: str) -> None:
    (package,) = (each for each in feature_list.FEATURES if each.endswith(f".{name}"))
    code = f"import sys, {package}; print('imserver.plugin.messages' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_of_a_feature_are_refused_without_it(name: str) -> None:
    keys = [*FEATURE_OF[name].settings.keys]
    without = declarations_of(
        load_features(Config(features=tuple(each for each in NAMES if each != name)))
    )
    assert [key for key in keys if not without.is_absent(key)] == []
    assert [key for key in keys if key in without.rows] == []
    assert without.app_hints.keys().isdisjoint(
        key.removeprefix("apps.*.") for key in keys
    )
