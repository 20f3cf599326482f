"""The features and foreign dialects of this server, in the order in which a node builds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Final

from imserver.auth import rules
from imserver.auth.rules import AppObjection
from imserver.config.settings import Config, TenantSettings
from imserver.config.values import SECTIONS, Places, fold
from imserver.errors import StartError
from imserver.feature import Feature, settings_of

CORE: Final = ("imserver.dialects.cmd", "imserver.dialects.sse")
"""Packages of the core's own dialects, which every node has."""

FEATURES: Final = (
    "imserver.features.webhooks",
    "imserver.features.accounts",
    "imserver.features.groups",
    "imserver.features.invitations",
    "imserver.dialects.client",
    "imserver.dialects.action",
    "imserver.dialects.protobuf",
    "imserver.dialects.centrifuge",
    "imserver.dialects.pusher",
    "imserver.features.pages",
    "imserver.features.bots",
    "imserver.features.oauth",
    "imserver.features.uploads",
)
"""Packages. Each has its row in ``FEATURE``. Nothing else of the server names them. The first of the dialects
whose parameter (``chosen_by``) a client names serves it."""

GROUP: Final = "imserver.features"
"""The entry points of features of other distributions: name of the feature → its ``FEATURE``."""
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "webhooks": ("webhook", "back_ends"),
    "accounts": ("accounts", "account_tokens", "smtp"),
}
"""Name of a feature → its keys in the settings, if there are others than its name."""
_NO_FEATURE: Final = "the setting features leaves this feature out"


def load_core() -> tuple[Feature, ...]:
    """Import the rows of the core's own dialects."""
    return tuple(import_module(package).FEATURE for package in CORE)


def load_features(config: Config) -> tuple[Feature, ...]:
    """Import the features that a node with this configuration has (setting ``features``): those of this
    server in their order, then those of other distributions. Raises StartError."""
    wanted = config.features
    own = [package for package in FEATURES if wanted is None or _name(package) in wanted]
    names = set(map(_name, FEATURES))
    return (
        *(import_module(package).FEATURE for package in own),
        *(_load_other(name) for name in dict.fromkeys(wanted or ()) if name not in names),
    )


def _load_other(name: str) -> Feature:
    """Import a feature of another distribution. Raises StartError."""
    from importlib.metadata import entry_points  # for these features only

    found = entry_points(group=GROUP, name=name)
    if fold(name) in SECTIONS:
        raise StartError(f"there is no feature {name!r}; a section of the core's settings has this name")
    offers = ", ".join(sorted(entry.dist.name for entry in found if entry.dist is not None))
    if not found:
        known = ", ".join(map(_name, FEATURES))
        raise StartError(
            f"there is no feature {name!r}; there are {known}, and those that installed distributions offer"
        )
    if len(found) > 1:
        raise StartError(f"the feature {name!r} is offered by several distributions: {offers}")
    (entry,) = found
    try:
        feature = entry.load()
    except (Exception, SystemExit) as error:
        raise StartError(f"the feature {name!r} of {offers} cannot be loaded: {error!r}") from error
    if not isinstance(feature, Feature) or feature.name != name:
        raise StartError(f"the feature {name!r} of {offers}: {entry.value} is no Feature of this name")
    return feature


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


def objection_for(config: Config) -> AppObjection:
    """The check of the core and the features of a configuration, imported when an app is first checked."""

    def objection(name: str, settings: TenantSettings) -> str:
        return objection_of(load_features(config))(name, settings)

    return objection


def check(config: Config, places: Places) -> None:
    """Check the setting ``features``, and all apps in the configuration.

    Raises StartError, with the place of the setting, also for settings of features that are absent.
    """
    try:
        features = load_features(config)
    except StartError as error:
        raise places.wrong("features", str(error)) from None
    present = {each.name for each in features}
    for feature in features:
        for used in feature.uses:
            if used not in present:
                raise places.wrong("features", f"{feature.name} needs {used}")
        if feature.settings is not None:
            settings_of(config, feature.name, feature.settings, places)
        elif feature.name in config.of_features:
            raise places.wrong(feature.name, "this feature has no settings")
    for absent in _absent(config, Config(), present):
        raise places.wrong(absent, _NO_FEATURE)
    rules.check_apps(config, places, objection_of(features))


def _absent(
    settings: Config | TenantSettings, defaults: Config | TenantSettings, present: set[str]
) -> Iterator[str]:
    """The keys of absent features that are given."""
    for name in map(_name, FEATURES):
        if name not in present:
            for key in _KEYS.get(name, (name,)):
                if getattr(settings, key, None) != getattr(defaults, key, None):
                    yield key


def _name(package: str) -> str:
    return package.rpartition(".")[2]
