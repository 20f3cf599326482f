"""The setting ``features``, settings of absent ones, and features that would
answer in place of others."""

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from imserver.gateway.api.v1.table import operations_of
from imserver.gateway.auth.principal import Needs
from imserver.gateway.config import load as reading
from imserver.gateway.config.settings import Config, HubSettings, settings_of
from imserver.gateway.config.values import CORE, ConfigError
from imserver.gateway.core.core import Parts
from imserver.gateway.errors import StartError
from imserver.gateway.feature import FeatureRow, SettingsRow
from imserver.gateway.http.call import Route
from imserver.gateway.node import feature_list
from imserver.gateway.node.feature_list import (
    declarations_of,
    load_core,
    load_features,
    load_with_locations,
)
from imserver.gateway.node.http_servers import refuse_shared
from imserver.gateway.protocol.dialect import Dialect

FEATURE_OF = {feature.name: feature for feature in load_features(Config())}
NAMES = list(FEATURE_OF)


def check(tmp_path: Path, text: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    feature_list.check(*load_with_locations(str(file), {}))


@pytest.mark.parametrize(
    ("wanted", "loaded"),
    [(None, NAMES), (("all",), NAMES), ((), []), (tuple(NAMES[3:1:-1]), NAMES[2:4])],
)
def test_nodes_have_named_features_in_their_order(
    wanted: tuple[str, ...] | None, loaded: list[str]
) -> None:
    assert [
        feature.name for feature in load_features(Config(features=wanted))
    ] == loaded


def offer(folder: Path, distribution: str, value: str, feature: str = "lamp") -> None:
    """Install a distribution that offers a feature."""
    about = folder / f"{distribution}-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
    )
    (about / "entry_points.txt").write_text(
        f"[imserver.features]\n{feature} = {value}\n"
    )


HISTORY = "features: []\napps: {shop: {channels: {news: {history: log}}}}\n"


@pytest.mark.parametrize(
    ("text", "offers", "output"),
    [
        (
            "push",
            {},
            f"line 1: features: there is no feature 'push'; there are {', '.join(NAMES)}, and",
        ),
        (
            "storage",
            {},
            "line 1: features: there is no feature 'storage'; a section of the core's",
        ),
        (
            HISTORY,
            {},
            "line 2: apps.shop.channels: a stored history needs the feature messages",
        ),
        ("lamp", {}, "line 1: features: there is no feature 'lamp'; there are "),
        (
            "lamp",
            {"one": "json:dumps", "two": "json:dumps"},
            "is offered by several distributions: one, two",
        ),
        (
            "lamp",
            {"one": "no_such_module:FEATURE"},
            "of one cannot be loaded: ModuleNotFoundError(",
        ),
        ("lamp", {"one": "leaving:FEATURE"}, "of one cannot be loaded: SystemExit("),
        (
            "lamp",
            {"one": "json:dumps"},
            "of one: json:dumps is no FeatureRow of this name",
        ),
        (
            "lamp",
            {"one": "imserver.gateway.dialects.sse:FEATURE"},
            "is no FeatureRow of this name",
        ),
    ],
)
def test_unknown_features_settings_of_absent_ones_and_features_that_cannot_be_used_end_the_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    offers: dict[str, str],
    output: str,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "leaving.py").write_text("raise SystemExit(1)\n")
    for distribution, value in offers.items():
        offer(tmp_path, distribution, value)
    with pytest.raises(StartError, match=re.escape(output)):
        check(tmp_path, text if "\n" in text else f"features: [{text}]\n")


def test_a_feature_of_another_distribution_is_loaded_once_and_its_tables_begin_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "bulbs.py").write_text(
        "from imserver.plugin import FeatureRow\n"
        "from imserver.plugin.storage import Table\n"
        "FEATURE = FeatureRow('lamp', lambda parts: None)\n"
        "TABLES = (Table(name='bulb', types='app name500*, watts int out'),)\n"
        "BAD = FeatureRow('lamp', lambda parts: None, tables=TABLES)\n"
    )
    offer(tmp_path, "one", "bulbs:FEATURE")
    assert [each.name for each in load_features(Config(features=("lamp", "lamp")))] == [
        "lamp"
    ]
    offer(tmp_path, "one", "bulbs:BAD")
    with pytest.raises(
        StartError, match=r"the table bulb must have a name .* begins with lamp_$"
    ):
        load_features(Config(features=("lamp",)))


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
        (
            SettingsRow({"apps.*": LampOfApp}),
            r"the setting apps\.\*\.max_channels is declared twice",
        ),
        (
            SettingsRow({"apps.*": LampOfAppWithoutDefault}),
            "settings of an app have defaults",
        ),
        (
            SettingsRow({"hub": HubSettings}),
            r"the setting hub\.notice_members is declared twice",
        ),
    ],
)
def test_a_feature_declares_nothing_that_is_declared(
    settings: SettingsRow, output: str
) -> None:
    with pytest.raises(StartError, match=output):
        declarations_of((lamp(settings=settings),))


def test_the_section_of_a_feature_of_another_distribution(tmp_path: Path) -> None:
    declared = declarations_of((lamp(settings=SettingsRow({"lamp": Lamp})),))

    def load(text: str, **environment: str) -> Config:
        file = tmp_path / "my.yaml"
        file.write_text(text)
        return reading.load_with_locations(
            str(file), environment, None, lambda _names: declared
        )[0]

    secrets = "bulb_password: p4ss, tokens: [p4ss], codes: {key: p4ss}"
    config = load(f"lamp: {{room: hall, {secrets}}}", IMSERVER_LAMP_BRIGHTNESS="7")
    assert settings_of(config, Lamp).brightness == 7
    shown = reading.dump(config, declared)
    assert "p4ss" not in shown
    assert "token_seconds: 60" in shown
    with pytest.raises(ConfigError, match=r"lamp: room is missing$"):
        load("lamp: {brightness: 1}")
    with pytest.raises(ConfigError, match=r"line 2: unknown key 'lamp\.letters'"):
        load("lamp: {room: hall,\n letters: 3}")


def of_dialect(**attributes: str) -> dict[str, Any]:
    return {
        "dialects": (
            type(
                "Copied", (Dialect,), {"name": "lamp", "path": "/lamp", **attributes}
            )(),
        )
    }


@pytest.mark.parametrize(
    ("row", "output"),
    [
        (of_dialect(name="cmd"), "cmd has the dialect cmd"),
        (of_dialect(path="/acc"), "cmd has the WebSocket path /acc"),
        (
            of_dialect(path="/bell", chosen_by="of"),
            "bell has the WebSocket path /bell with the parameter of",
        ),
        (
            {"wire": {"cmd": {"ring": id}}},
            "bell has the command ring of the dialect cmd",
        ),
        (
            {"wire": {"protobuf": {"64": id}}},
            "bell has the command 64 of the dialect protobuf",
        ),
        (
            {"routes": (Route("POST", "/api/v1/push", Needs.ANYONE, None),)},
            "the core has POST /api/v1/push",
        ),
        (
            {"routes": (Route("GET", "/api/v1/events", Needs.ANYONE, None),)},
            "sse has GET /api/v1/events",
        ),
    ],
)
def test_a_feature_does_not_answer_in_place_of_another(
    row: dict[str, Any], output: str
) -> None:
    own = {"wire": {"cmd": {"ring": id}, "protobuf": {"64": id}}}
    dialect = of_dialect(name="bell", path="/bell", chosen_by="of")
    bell = FeatureRow("bell", lambda parts: Parts(), **own, **dialect)
    lamp = FeatureRow("lamp", lambda parts: Parts(), **row)
    with pytest.raises(StartError, match=f"^the feature 'lamp': {output} already$"):
        refuse_shared((*load_core(), bell, lamp), operations_of(CORE))
