"""The setting ``features``: which features a node has, and what it says of the settings of others."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from imserver.gateway import assets
from imserver.gateway.config import load as reading
from imserver.gateway.config.settings import Config, HubSettings, settings_of
from imserver.gateway.config.values import ConfigError, Locations
from imserver.gateway.core.core import Parts
from imserver.gateway.errors import StartError
from imserver.gateway.feature import FeatureRow, SettingsRow
from imserver.gateway.node import feature_list
from imserver.gateway.node.feature_list import declarations_of, load_features, load_with_locations
from imserver.messenger.groups.declared import GroupLimits
from tests.support import ROOT

FEATURE_OF = {feature.name: feature for feature in load_features(Config())}
NAMES = list(FEATURE_OF)


def check(tmp_path: Path, text: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    feature_list.check(*load_with_locations(str(file), {}))


@pytest.mark.parametrize(
    ("wanted", "loaded"), [(None, NAMES), ((), []), (("pusher", "action"), ["action", "pusher"])]
)
def test_a_node_has_the_named_features_in_the_order_of_the_list(
    wanted: tuple[str, ...] | None, loaded: list[str]
) -> None:
    assert [feature.name for feature in load_features(Config(features=wanted))] == loaded


def test_the_manual_names_all_features() -> None:
    manual = assets.DEFAULT_CONFIG.read_text(encoding="utf-8").replace("\n# ", " ")
    assert f"a list out of {', '.join(NAMES)};" in manual


@pytest.mark.parametrize(
    ("text", "output"),
    [
        (
            "features: [push]\n",
            "line 1: features: there is no feature 'push'; there are messages, webhooks, ",
        ),
        ("features: [storage]\n", "line 1: features: there is no feature 'storage'; a section of the core's"),
        ("features: [oauth]\n", "line 1: features: oauth needs pages"),
        ("features: [pusher]\n", "line 1: features: pusher needs webhooks"),
        ("features: [webhooks, accounts, groups, bots]\n", "line 1: features: accounts needs messages"),
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
            "features: []\napps: {shop: {channels: {news: {history: log}}}}\n",
            "line 2: apps.shop.channels: a stored history needs the feature messages",
        ),
    ],
)
def test_unknown_features_and_settings_of_absent_ones_are_refused(
    tmp_path: Path, text: str, output: str
) -> None:
    with pytest.raises(StartError) as caught:
        check(tmp_path, text)
    assert output in str(caught.value)


def test_groups_without_accounts_have_their_limits(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("features: [groups]\naccounts: {group_members: 7, rate_seconds: 60}\n")
    config, _ = load_with_locations(str(file), {})
    assert settings_of(config, GroupLimits) == GroupLimits(group_members=7)
    assert config.accounts.rate_seconds == 60
    with pytest.raises(ConfigError, match=r"accounts\.devices: the setting features leaves"):
        load_with_locations(str(file), {"IMSERVER_ACCOUNTS_DEVICES": "3"})


def offer(folder: Path, distribution: str, value: str) -> None:
    """Install a distribution that offers the feature ``lamp``."""
    about = folder / f"{distribution}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[imserver.features]\nlamp = {value}\n")


@pytest.mark.parametrize(
    ("offers", "output"),
    [
        ({}, "line 1: features: there is no feature 'lamp'; there are messages, webhooks, accounts, "),
        ({"one": "json:dumps", "two": "json:dumps"}, "is offered by several distributions: one, two"),
        ({"one": "no_such_module:FEATURE"}, "of one cannot be loaded: ModuleNotFoundError("),
        ({"one": "leaving:FEATURE"}, "of one cannot be loaded: SystemExit("),
        ({"one": "json:dumps"}, "of one: json:dumps is no FeatureRow of this name"),
        ({"one": "imserver.dialects.pusher:FEATURE"}, "is no FeatureRow of this name"),
    ],
)
def test_a_feature_of_another_distribution_that_cannot_be_used_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offers: dict[str, str], output: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "leaving.py").write_text("raise SystemExit(1)\n")
    for distribution, value in offers.items():
        offer(tmp_path, distribution, value)
    with pytest.raises(StartError) as caught:
        check(tmp_path, "features: [lamp]\n")
    assert output in str(caught.value)


def test_a_feature_that_is_named_twice_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lamps.py").write_text(
        "from imserver.plugin import FeatureRow\nFEATURE = FeatureRow('lamp', lambda parts: None)\n"
    )
    offer(tmp_path, "one", "lamps:FEATURE")
    assert [each.name for each in load_features(Config(features=("lamp", "lamp")))] == ["lamp"]


def test_a_table_of_another_distribution_begins_with_the_name_of_its_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "bulbs.py").write_text(
        "from imserver.messenger.inbox.declared import TABLES\n"
        "from imserver.plugin import FeatureRow\n"
        "FEATURE = FeatureRow('lamp', lambda parts: None, tables=TABLES)\n"
    )
    offer(tmp_path, "one", "bulbs:FEATURE")
    with pytest.raises(StartError, match=r"the table arrangement must have a name .* begins with lamp_$"):
        load_features(Config(features=("lamp",)))


def test_an_app_made_at_run_time_has_no_settings_of_absent_features() -> None:
    given = {"pusher": {"app_id": "7", "key": "k", "secret": "s" * 16}}
    absent, present = (declarations_of(load_features(Config(features=each))) for each in ((), None))
    assert present.given_fields(given, Locations("app shop"))["pusher"]["key"] == "k"
    with pytest.raises(ConfigError, match=r"^app shop: pusher: the setting features "):
        absent.given_fields(given, Locations("app shop"))


def test_what_a_node_refuses_follows_from_the_settings_of_absent_features() -> None:
    """The names come from the modules ``settings`` alone."""
    code = (
        "import sys; from imserver.gateway.config.settings import Config; "
        "import imserver.gateway.node.feature_list as own;"
        "declared = own.declarations_of(own.load_features(Config(features=())));"
        "print(declared.is_absent('bots'), declared.is_absent('accounts.bots'), declared.is_absent('lamp'));"
        "print([name for name in sys.modules if name.startswith('imserver.features.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["True True False", "[]"]


def test_the_features_of_a_node_load_neither_flask_nor_the_table_of_metrics() -> None:
    """They load with the first request that needs them: 7 MB of a node's memory."""
    code = (
        "import sys; from imserver.gateway.config.settings import Config; "
        "import imserver.gateway.node.feature_list as own;"
        "own.load_features(Config());"
        "print([name for name in ('flask', 'imserver.gateway.metric_table') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", [name for name, row in FEATURE_OF.items() if "messages?" in row.uses])
def test_what_can_do_without_stored_messages_does_not_import_them(name: str) -> None:
    (package,) = (each for each in feature_list.FEATURES if each.endswith(f".{name}"))
    code = f"import sys, {package}; print('imserver.plugin.messages' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_of_a_feature_are_refused_without_it(name: str) -> None:
    keys = [*FEATURE_OF[name].settings.keys]
    without = declarations_of(load_features(Config(features=tuple(each for each in NAMES if each != name))))
    assert [key for key in keys if not without.is_absent(key)] == []
    assert [key for key in keys if key in without.rows] == []
    assert without.app_hints.keys().isdisjoint(key.removeprefix("apps.*.") for key in keys)


@pytest.mark.parametrize(
    ("variable", "output"),
    [
        ("IMSERVER_UPLOADS_MAX_BYTES", "uploads: the setting features leaves this feature out"),
        ("IMSERVER_ACCOUNTS_BOTS", "accounts.bots: the setting features leaves this feature out"),
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
    ("text", "output"),
    [
        ("features: [action]\nuploads: {max_bytes: 1}\n", "line 2: uploads: the setting features leaves"),
        ("features: []\nwebsocket:\n  protobuf_silent_seconds: 1\n", "line 3: websocket.protobuf_silent"),
        ("features: []\napps: {a: {dialects: [cmd, pusher]}}\n", "line 2: apps.a.dialects[1]: expected one"),
    ],
)
def test_sections_keys_and_dialects_of_absent_features_are_refused(
    tmp_path: Path, text: str, output: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, text)
    assert output in str(caught.value)


class Lamp(Struct, frozen=True):
    """A section of a feature of another distribution."""

    room: str
    brightness: int = 3
    bulb_password: str = ""
    tokens: tuple[str, ...] = ()
    token_seconds: int = 60
    codes: dict[str, str] = {}


class LampOfApp(Struct, frozen=True):
    """Its settings of an app."""

    max_channels: int = 1


class LampOfAppWithoutDefault(Struct, frozen=True):
    """Settings of an app that every app would need."""

    colour: str


def lamp(**fields: Any) -> FeatureRow:
    return FeatureRow("lamp", lambda _parts: Parts(), **fields)


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        (SettingsRow({"apps.*": LampOfApp}), "the setting apps.*.max_channels is declared twice"),
        (SettingsRow({"apps.*": LampOfAppWithoutDefault}), "settings of an app have defaults"),
        (SettingsRow({"hub": HubSettings}), "the setting hub.notice_members is declared twice"),
    ],
)
def test_a_feature_declares_nothing_that_is_declared(settings: SettingsRow, output: str) -> None:
    with pytest.raises(StartError) as caught:
        declarations_of((lamp(settings=settings),))
    assert output in str(caught.value)


def test_the_section_of_a_feature_of_another_distribution(tmp_path: Path) -> None:
    def load(text: str, **environment: str) -> Config:
        file = tmp_path / "my.yaml"
        file.write_text(text)
        declared = declarations_of((lamp(settings=SettingsRow({"lamp": Lamp})),))
        return reading.load_with_locations(str(file), environment, None, lambda _names: declared)[0]

    secrets = "bulb_password: p4ss, tokens: [p4ss], codes: {key: p4ss}"
    config = load(f"lamp: {{room: hall, {secrets}}}", IMSERVER_LAMP_BRIGHTNESS="7")
    assert settings_of(config, Lamp).brightness == 7
    shown = reading.dump(config)
    assert "p4ss" not in shown
    assert "token_seconds: 60" in shown
    with pytest.raises(ConfigError, match=r"lamp: room is missing$"):
        load("lamp: {brightness: 1}")
    with pytest.raises(ConfigError, match=r"line 2: unknown key 'lamp\.letters'"):
        load("lamp: {room: hall,\n letters: 3}")
