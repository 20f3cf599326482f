"""The features and foreign dialects of this server, in the order in which a node builds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Final

from imserver.auth import rules
from imserver.auth.rules import AppObjection
from imserver.config.settings import Config, TenantSettings
from imserver.config.values import Places
from imserver.feature import Feature

FEATURES: Final = (
    "imserver.dialects.client",
    "imserver.dialects.action",
    "imserver.dialects.protobuf",
    "imserver.dialects.pusher",
    "imserver.features.bots",
    "imserver.features.oauth",
    "imserver.features.uploads",
)
"""Packages. Each has its row in ``FEATURE``. Nothing else of the server names them. The first of the dialects
whose parameter (``chosen_by``) a client names serves it."""

_NO_FEATURE: Final = "the setting features leaves this feature out"


def load_features(config: Config) -> tuple[Feature, ...]:
    """Import the features that a node with this configuration has (setting ``features``)."""
    wanted = config.features
    return tuple(
        import_module(package).FEATURE for package in FEATURES if wanted is None or _name(package) in wanted
    )


def objection_of(features: Iterable[Feature]) -> AppObjection:
    """A function that checks the settings of an app for the core and ``features``.

    It refuses settings of features that are absent, and reads files of keys.
    """
    features = tuple(features)
    present = {feature.name for feature in features}
    checks = [rules.objection, *(each.objection for each in features if each.objection)]

    def objection(name: str, settings: TenantSettings) -> str:
        for absent in _absent(settings, TenantSettings(), present):
            return f"{absent}: {_NO_FEATURE}"
        return next(filter(None, (check(name, settings) for check in checks)), "")

    return objection


def check(config: Config, places: Places) -> None:
    """Check the setting ``features``, and all apps in the configuration.

    Raises StartError, with the place of the setting, also for settings of features that are absent.
    """
    names = [_name(package) for package in FEATURES]
    for wanted in config.features or ():
        if wanted not in names:
            raise places.wrong("features", f"there is no feature {wanted!r}; there are {', '.join(names)}")
    features = load_features(config)
    for absent in _absent(config, Config(), {each.name for each in features}):
        raise places.wrong(absent, _NO_FEATURE)
    rules.check_apps(config, places, objection_of(features))


def _absent(
    settings: Config | TenantSettings, defaults: Config | TenantSettings, present: set[str]
) -> Iterator[str]:
    """Names of absent features whose settings, under the key of that name, are given."""
    for name in map(_name, FEATURES):
        if name not in present and getattr(settings, name, None) != getattr(defaults, name, None):
            yield name


def _name(package: str) -> str:
    return package.rpartition(".")[2]
