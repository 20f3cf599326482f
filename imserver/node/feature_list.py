"""The features and foreign dialects of this server, in the order in which a node builds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from runpy import run_path
from typing import Any, Final

from msgspec.structs import fields

from imserver.auth import rules
from imserver.auth.rules import AppObjection
from imserver.config import load
from imserver.config.settings import Config, TenantSettings
from imserver.config.values import CORE as CORE_SETTINGS
from imserver.config.values import Declarations, Locations, fold
from imserver.errors import StartError
from imserver.plugin.feature import Feature
from imserver.storage.tables import CORE_TABLES, FeatureTables, StoreTables, Table

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
    "imserver.features.notifications",
    "imserver.features.inbox",
)
"""Packages. Each has its row in ``FEATURE``. Nothing else of the server names them. The first of the dialects
whose parameter (``chosen_by``) a client names serves it."""

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "webhooks": ("apps.*.webhook", "apps.*.back_ends"),
    "accounts": (
        "accounts.registration",
        "accounts.failures",
        "accounts.failures_per_account",
        "accounts.failures_per_address",
        "accounts.failure_seconds",
        "accounts.registrations_per_address",
        "accounts.logins_per_address",
        "accounts.guests_per_address",
        "accounts.guest_days",
        "accounts.finds_per_account",
        "accounts.finds_per_address",
        "accounts.searches_per_account",
        "accounts.devices",
        "accounts.friends",
        "smtp",
        "apps.*.accounts",
        "apps.*.account_tokens",
    ),
    "groups": ("accounts.groups_per_user", "accounts.group_members"),
    "invitations": ("accounts.invitations",),
    "protobuf": ("websocket.protobuf_silent_seconds",),
    "centrifuge": ("centrifuge", "apps.*.subscribe_to_own_channel", "apps.*.anonymous_tokens"),
    "pusher": ("apps.*.pusher",),
    "bots": ("bots", "accounts.bots"),
    "oauth": ("apps.*.oauth",),
    "uploads": ("uploads",),
    "notifications": ("notifications", "apps.*.notify"),
    "inbox": ("inbox",),
}
"""Name of a feature → its sections, its keys in sections that others have, too, its keys in the settings of
an app (``apps.*.key``). By them a node without the feature refuses its settings, and need not import it. Some
are declared by the core, whose login rules read them."""

GROUP: Final = "imserver.features"
"""The entry points of features of other distributions: name of the feature → its ``FEATURE``."""


def load_core() -> tuple[Feature, ...]:
    """Import the rows of the core's own dialects."""
    return tuple(import_module(package).FEATURE for package in CORE)


def load_features(config: Config) -> tuple[Feature, ...]:
    """Import the features that a node with this configuration has (setting ``features``): those of this
    server in their order, then those of other distributions. Raises StartError."""
    return _load(config.features)


def _load(wanted: tuple[str, ...] | None) -> tuple[Feature, ...]:
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
    if fold(name) in CORE_SETTINGS.names:
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
    taken = {table.name for table in tables_of_server()} if feature.tables else ()
    start = f"{name.replace('-', '_')}_"
    for table in feature.tables:
        if table.name in taken or not table.name.startswith(start):
            raise StartError(
                f"the feature {name!r} of {offers}: the table {table.name} must have a name of its own that "
                f"begins with {start}"
            )
    return feature


@cache
def declarations_of(features: tuple[Feature, ...]) -> Declarations:
    """All settings of a node with these features. Forked nodes share those of their supervisor."""
    for feature in features:
        kind = feature.app_settings
        if kind is not None and any(field.required for field in fields(kind)):
            raise StartError(f"the feature {feature.name!r}: settings of an app have defaults")
    sections: list[tuple[str, Any]] = []
    for feature in features:
        if feature.settings is not None:
            sections.append((feature.name, feature.settings))
        sections += feature.sections.items()
    return Declarations(
        sections,
        [feature.app_settings for feature in features if feature.app_settings is not None],
        absent_keys(feature.name for feature in features),
        [dialect.name for feature in (*load_core(), *features) for dialect in feature.dialects],
    )


def absent_keys(present: Iterable[str]) -> list[str]:
    """The settings of features of this server that are not ``present``; see :data:`KEYS`."""
    names = set(present)
    return [key for name, keys in KEYS.items() if name not in names for key in keys]


def load_with_locations(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Config, Locations]:
    """The settings of the core and of the features that they name; see
    :func:`imserver.config.load.load_config`."""
    return load.load_with_locations(path, environ, overrides, lambda wanted: declarations_of(_load(wanted)))


def load_config(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The settings of :func:`load_with_locations`."""
    return load_with_locations(path, environ, overrides)[0]


def tables_of(features: Sequence[Feature]) -> StoreTables:
    """The tables of a node with these features."""
    own = set(map(_name, FEATURES))
    others = (
        FeatureTables(feature.name, feature.tables, feature.migrations)
        for feature in features
        if feature.name not in own and (feature.tables or feature.migrations)
    )
    return StoreTables(partial(tables_of_server, tuple(features)), tuple(others))


@cache
def tables_of_server(features: tuple[Feature, ...] = ()) -> tuple[Table, ...]:
    """The tables of the core and of all features of this server, in the order of their deletion: of features
    before those that they use.

    A node erases rows of features that it does not have, too. It runs their modules ``tables`` without their
    packages, which would import all of them.
    """
    present = {feature.name: feature.tables for feature in features}
    tables: list[Table] = []
    for package in reversed(FEATURES):
        module = Path(__file__).parents[1].joinpath(*package.split(".")[1:], "tables.py")
        if (name := _name(package)) in present:
            tables += present[name]
        elif module.exists():
            tables += run_path(str(module))["TABLES"]
    return (*tables, *CORE_TABLES)


def objection_of(features: Iterable[Feature]) -> AppObjection:
    """A function that checks the settings of an app for the core and ``features``. It reads files of keys."""
    checks = [rules.objection, *(each.objection for each in features if each.objection)]

    def objection(name: str, settings: TenantSettings) -> str:
        return next(filter(None, (check(name, settings) for check in checks)), "")

    return objection


def check(config: Config, locations: Locations) -> None:
    """Check the setting ``features``, and what features demand of settings and of apps in the configuration.

    Raises StartError, with the place of the setting.
    """
    features = load_features(config)
    present = {each.name for each in features}
    for feature in features:
        for used in feature.uses:
            if used not in present:
                raise locations.wrong("features", f"{feature.name} needs {used}")
    rules.check_apps(config, locations, objection_of(features))
    for feature in features:
        if feature.check is not None:
            feature.check(config, locations)


def _name(package: str) -> str:
    return package.rpartition(".")[2]
