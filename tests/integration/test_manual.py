"""The manual of the settings, as a file and as ``imserver check-config
--defaults`` prints it."""

import itertools
import os
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from msgspec import Struct

from imserver.gateway import assets
from imserver.gateway.config.declared import about
from imserver.gateway.config.settings import Config
from imserver.gateway.config.values import Declarations
from imserver.gateway.node.feature_list import (
    FEATURES,
    declarations_of,
    load_config,
    load_features,
)
from imserver.offline.manual import manual_of
from tests.rows import DECLARED

DEFAULTS = load_config(os.devnull, {})


def test_the_manual_shows_the_defaults_of_the_code() -> None:
    manual = load_config(
        str(assets.DEFAULT_CONFIG), {}, {"server.data_dir": DEFAULTS.server.data_dir}
    )
    assert manual == DEFAULTS


def written_in(document: dict[str, Any]) -> list[str]:
    return [
        name
        for section, content in document.items()
        for name in (
            [section]
            if section in ("features", "apps")
            else [f"{section}.{key}" for key in content]
        )
    ]


def test_the_manual_has_every_setting_in_the_order_of_the_code_and_no_other() -> None:
    document = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))
    assert written_in(document) == list(DECLARED.rows)


@pytest.mark.parametrize(
    "names",
    [(), *((each.rpartition(".")[2],) for each in FEATURES)],
    ids=lambda names: names[0] if names else "none",
)
def test_the_manual_of_some_features_has_their_settings_and_no_other(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    if names == ("oauth",):
        names = ("pages", "oauth")
    features = load_features(Config(features=names))
    declared = declarations_of(features)
    text = manual_of(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"), declared)
    assert written_in(yaml.safe_load(text)) == list(declared.rows)
    file = tmp_path / "my.yaml"
    file.write_text(
        text.replace("\nfeatures:", f"\nfeatures: [{', '.join(names)}]"),
        encoding="utf-8",
    )
    assert load_config(str(file), {}).features == names
    entries = DECLARED.app_hints.keys() - declared.app_hints.keys()
    assert not [
        line
        for line in text.splitlines()
        if line.startswith("#   ") and line.split()[1] in entries
    ]


def test_the_manual_of_all_features_is_the_manual() -> None:
    text = assets.DEFAULT_CONFIG.read_text(encoding="utf-8")
    assert manual_of(text, DECLARED) == text


def test_the_manual_has_the_settings_of_a_feature_of_another_distribution() -> None:
    class LampSettings(Struct, frozen=True):
        """The lamps.

        More about them.
        """

        watts: Annotated[int, about("How bright they are.")] = 60
        colours: tuple[str, ...] = ("red",)

    class MoreLimits(Struct, frozen=True):
        lamps: int = 3

    class LampsOfApp(Struct, frozen=True):
        lit: Annotated[bool, about("Whether its lamps are on.")] = False

    sections = [*DECLARED.sections, ("limits", MoreLimits), ("lamps", LampSettings)]
    declared = Declarations(sections, [*DECLARED.app_kinds, LampsOfApp])
    text = manual_of(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"), declared)
    lamps = "# The lamps.\nlamps:\n  # How bright they are.\n  watts: 60\n  colours:\n  - red\n"
    assert text.endswith(f"\n\n{lamps}")
    assert "\n#   lit: Whether its lamps are on.\napps:\n" in text
    assert written_in(yaml.safe_load(text)) == list(declared.rows)


def test_the_manual_explains_every_setting() -> None:
    lines = assets.DEFAULT_CONFIG.read_text(encoding="utf-8").splitlines()
    # The second of a pair, and what its name says by itself.
    without = {"websocket_url", "password", "min_idle_conns", "queue_bytes"}
    for before, line in itertools.pairwise(lines):
        key, colon, _ = line.strip().partition(":")
        if (
            colon
            and line.startswith("  ")
            and not line.startswith("   ")
            and not key.startswith(("#", '"'))
        ):
            assert before.strip().startswith("#") or key in without, (
                f"{key} is not explained"
            )
