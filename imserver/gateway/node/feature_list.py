"""The features and foreign dialects of this server, in the order in which a
node builds them."""

import itertools
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import cache, partial
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import fields

from imserver import FEATURES
from imserver.gateway.auth import rules
from imserver.gateway.auth.tenants import AppObjection
from imserver.gateway.cluster.features import FIRST_RELEASE, NodeFeatures
from imserver.gateway.command_rows import CommandOf
from imserver.gateway.config import load
from imserver.gateway.config.settings import Config, TenantSettings
from imserver.gateway.config.values import CORE as CORE_SETTINGS
from imserver.gateway.config.values import Declarations, Locations, fold
from imserver.gateway.core.core import Core, Parts
from imserver.gateway.errors import HTTP_PROBLEMS, HttpProblem, StartError
from imserver.gateway.feature import VERSION, FeatureRow, SettingsRow
from imserver.gateway.storage.numbers import GivenNumbers
from imserver.gateway.storage.tables import CORE_TABLES, StoreTables, Table

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

CORE: Final = ("imserver.gateway.dialects.cmd", "imserver.gateway.dialects.sse")
"""Packages of the core's own dialects, which every node has."""

_DIALECTS: Final = "imserver.dialects."
"""The beginning of the names of packages of foreign dialects."""
ALL: Final = "all"
"""This word in the setting ``features`` stands for all features of this
server."""
GROUP: Final = "imserver.features"
"""The entry points of features of other distributions: name of the feature →
its ``FEATURE``."""


def load_core() -> tuple[FeatureRow, ...]:
    """Import the rows of the core's own dialects."""
    return tuple(import_module(package).FEATURE for package in CORE)


def with_core(features: Sequence[FeatureRow]) -> tuple[FeatureRow, ...]:
    """Return the features of a node together with the core's own dialects.

    The features are in the order in which a node builds them. Features that the
    dialects use come before the dialects.
    """
    core = load_core()
    uses = itertools.chain.from_iterable(row.uses for row in core)
    used = {
        name.removesuffix("?") for name in uses
    }  # "?" means: only if the node has it
    before = [feature for feature in features if feature.name in used]
    after = [feature for feature in features if feature.name not in used]
    return (*before, *core, *after)


def load_features(config: Config) -> tuple[FeatureRow, ...]:
    """Import the features that the setting ``features`` names.

    Features of this server come first, in their order, then features of other
    distributions. Raises StartError.
    """
    return _load_named(config.features)


def problems_of(features: Iterable[FeatureRow]) -> list[HttpProblem]:
    """Return the HTTP problems of the core and of features, sorted by status."""
    problems = dict.fromkeys(HTTP_PROBLEMS.values())  # each once, in order
    for feature in features:
        for row in feature.operations:
            problems |= dict.fromkeys((*row.shared_problems, *row.problems))
    return sorted(problems, key=attrgetter("status"))


def _load_named(wanted: tuple[str, ...] | None) -> tuple[FeatureRow, ...]:
    """Import the features that the setting ``features`` names.

    ``wanted`` is the value of the setting; None means all features of this
    server. Raises StartError.
    """
    has_all = wanted is None or ALL in wanted
    names = dict.fromkeys(wanted or ())
    features: list[FeatureRow] = [
        import_module(package).FEATURE
        for package in FEATURES
        if has_all or _feature_name(package) in names
    ]
    # All other names are features of installed distributions.
    own_names = {ALL, *map(_feature_name, FEATURES)}
    features += [_load_of_distribution(name) for name in names if name not in own_names]
    return tuple(features)


def _load_of_distribution(name: str) -> FeatureRow:
    """Import a feature that an installed distribution offers by an entry point.

    Raises StartError if there is no such feature, or if it cannot be used.
    """
    entry, offers = _find_entry(name)
    feature = _import_feature(entry, name, offers)
    # The distribution may have been made for another release.
    if not isinstance(feature, FeatureRow) or feature.name != name:
        raise StartError(
            f"the feature {name!r} of {offers}: {entry.value} is no FeatureRow of "
            "this name"
        )
    if feature.tables:
        _require_own_tables(feature, offers)
    return feature


def _import_feature(entry: "EntryPoint", name: str, offers: str) -> Any:
    """Import what an entry point names. Raises StartError if that fails."""
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise StartError(
            f"the feature {name!r} of {offers} cannot be loaded: {error!r}"
            f" (imserver.plugin has version {VERSION})"
        ) from error


def _find_entry(name: str) -> "tuple[EntryPoint, str]":
    """Return the entry point of a feature, and the name of its distribution.

    Raises StartError unless exactly one distribution offers the feature.
    """
    from importlib.metadata import entry_points  # only these features need it

    entries = entry_points(group=GROUP, name=name)
    _refuse_section_of_core(name)
    if not entries:
        raise _no_feature(name)
    distributions = [entry.dist.name for entry in entries if entry.dist is not None]
    offers = ", ".join(sorted(distributions))
    if len(entries) > 1:
        raise StartError(
            f"the feature {name!r} is offered by several distributions: {offers}"
        )
    (entry,) = entries
    return entry, offers


def _refuse_section_of_core(name: str) -> None:
    """Raise StartError if the core has a section of settings with this name.

    The settings of such a feature would be mixed up with the settings of the
    core.
    """
    if fold(name) in CORE_SETTINGS.names:
        raise StartError(
            f"there is no feature {name!r}; a section of the core's settings has "
            "this name"
        )


def _no_feature(name: str) -> StartError:
    """Return the error for the name of a feature that no distribution
    offers."""
    names = ", ".join(map(_feature_name, FEATURES))
    return StartError(
        f"there is no feature {name!r}; there are {names}, and those that "
        "installed distributions offer"
    )


def _require_own_tables(feature: FeatureRow, offers: str) -> None:
    """Raise StartError if a table of a foreign feature could have the same name
    as a table of the server.

    ``offers`` names the distribution of the feature.
    """
    names = {table.name for table in tables_of_server()}
    # A later release of the server may use any table name without this prefix.
    prefix = f"{feature.name.replace('-', '_')}_"
    for table in feature.stored.tables:
        if table.name in names or not table.name.startswith(prefix):
            raise StartError(
                f"the feature {feature.name!r} of {offers}: the table {table.name} "
                f"must have a name of its own that begins with {prefix}"
            )


def offered_rows() -> Iterator[CommandOf | Exception]:
    """List the rows of commands of the features of this server, then of
    distributions.

    If a distribution cannot be loaded, the list has the exception in place of
    its rows. The setting ``features`` does not matter, because commands run
    without a node.
    """
    from importlib.metadata import entry_points  # as in _find_entry()

    for package in FEATURES:
        yield from import_module(package).FEATURE.commands
    for name in sorted({entry.name for entry in entry_points(group=GROUP)}):
        try:
            yield from _load_of_distribution(name).commands
        except (StartError, ImportError) as error:
            yield error


@cache
def declarations_of(features: tuple[FeatureRow, ...]) -> Declarations:
    """Return all settings of a node with these features.

    Forked nodes share the object of their supervisor.
    """
    sections = _sections_of(features)
    present = {feature.name for feature in features}
    return Declarations(
        sections.of_node,
        sections.of_apps,
        sections.core_keys,
        absent=partial(_absent_keys, present),
        dialects=_dialect_names(features),
    )


class _Sections(NamedTuple):
    """The sections of settings that features declare.

    - ``of_node``: sections of the node, each with its name.
    - ``of_apps``: sections of each app.
    - ``core_keys``: settings of the core that features read.
    """

    of_node: list[tuple[str, type[Struct]]]
    of_apps: list[type[Struct]]
    core_keys: set[str]


def _sections_of(features: Sequence[FeatureRow]) -> _Sections:
    """Sort the sections of settings of all features by their kind."""
    sections = _Sections(of_node=[], of_apps=[], core_keys=set())
    for feature in features:
        for name, kind in feature.settings.sections.items():
            if kind is None:
                # The feature only reads a setting that the core declares.
                sections.core_keys.add(name.removeprefix("apps.*."))
            elif name == "apps.*":
                _require_defaults(feature, kind)
                sections.of_apps.append(kind)
            else:
                sections.of_node.append((name, kind))
    return sections


def _dialect_names(features: Sequence[FeatureRow]) -> list[str]:
    """Return the names of the dialects of the core and of these features."""
    rows = (*load_core(), *features)
    dialects = itertools.chain.from_iterable(row.dialects for row in rows)
    return [dialect.name for dialect in dialects]


def _require_defaults(feature: FeatureRow, kind: type[Struct]) -> None:
    """Raise StartError if a setting of an app has no default.

    Apps that were made before the feature was installed would lack this
    setting.
    """
    if any(field.required for field in fields(kind)):
        raise StartError(
            f"the feature {feature.name!r}: settings of an app have defaults"
        )


def _absent_keys(present: Container[str]) -> list[str]:
    """Return the settings of features of this server that a node does not have.

    ``present`` has the names of its features.
    """
    keys: list[str] = []
    for package in FEATURES:
        if _feature_name(package) not in present:
            keys += _keys_of(package)
    return keys


@cache
def _keys_of(package: str) -> tuple[str, ...]:
    """Return the settings of a feature of this server that the node does not
    have."""
    settings: SettingsRow = getattr(
        _load_declarations(package), "SETTINGS", SettingsRow()
    )
    return tuple(settings.keys)


def _load_declarations(package: str, name: str = "declared") -> ModuleType | None:
    """Load the declarations of a feature of this server that the node does not
    have.

    ``name`` is the name of their module in the package. The module is loaded
    without its package, and is not stored in ``sys.modules``. So the node saves
    the memory of the other modules of the feature. The result is None if the
    feature has no such module.
    """
    try:
        folder = find_spec(package)
    except ImportError:
        return None  # the folder does not exist
    if folder is None or folder.submodule_search_locations is None:
        return None
    spec = PathFinder.find_spec(f"{package}.{name}", folder.submodule_search_locations)
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_with_locations(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    parse: Callable[[str, str], Any] | None = None,
) -> tuple[Config, Locations]:
    """Read the settings of the core and of the features that they name.

    See :func:`imserver.gateway.config.load.load_with_locations`.
    """

    def others() -> dict[str, load.ReadOther]:
        """Return the readers of settings files in other formats, by suffix."""
        # Files of a dialect are read even if the node does not have the
        # dialect.
        modules = (_load_declarations(package, "settings_file") for package in FEATURES)
        return {each.SUFFIX: each.read for each in modules if each is not None}

    def declare(wanted: tuple[str, ...] | None) -> Declarations:
        return declarations_of(_load_named(wanted))

    return load.load_with_locations(path, environ, overrides, declare, others, parse)


def load_config(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Read the settings, as :func:`load_with_locations` does."""
    return load_with_locations(path, environ, overrides)[0]


def build_parts(feature: FeatureRow, core: Core) -> Parts:
    """Build the parts of a feature: its services and functions on this node.

    Raises StartError. A feature of another distribution must also begin the
    names of its node messages and queries with its own name, because another
    feature may have the same names.
    """
    names_before = _node_names(core)
    parts = feature.build(core)
    if feature.name in map(_feature_name, (*CORE, *FEATURES)):
        return parts

    # This feature is from another distribution.
    prefix = f"{feature.name}."
    for name in _node_names(core) - names_before:
        if not name.startswith(prefix):
            raise StartError(
                f"the feature {feature.name!r}: the node message or query {name} "
                f"must have a name that begins with {prefix}"
            )
    return parts


def _node_names(core: Core) -> set[str]:
    """Return the names of the node messages and node queries that this node
    handles."""
    names = {*core.queries.names}
    if core.node_messages is not None:
        names.update(core.node_messages.names)
    return names


def tables_of(features: Sequence[FeatureRow]) -> StoreTables:
    """Return the tables of a node with these features."""
    own_names = set(map(_feature_name, FEATURES))
    others = (
        feature.stored
        for feature in features
        if feature.name not in own_names and feature.tables
    )
    return StoreTables(partial(tables_of_server, tuple(features)), tuple(others))


@cache
def tables_of_server(features: tuple[FeatureRow, ...] = ()) -> tuple[Table, ...]:
    """Return the tables of the core and of all features of this server.

    The tables are in the order in which they are deleted: the tables of a
    feature come before the tables of the features that it uses. Features that
    this node does not have are included, because a node also erases their rows.
    """
    present = {feature.name: feature.stored.tables for feature in features}
    tables: list[Table] = []
    for package in reversed(FEATURES):
        name = _feature_name(package)
        # If the node does not have the feature, only the list of its tables is
        # loaded, and not its package.
        if name in present:
            tables += present[name]
        else:
            tables += getattr(_load_declarations(package), "TABLES", ())
    return (*tables, *CORE_TABLES)


def features_for_cluster(features: Sequence[FeatureRow]) -> NodeFeatures:
    """Return the features of a node, as the other nodes of its cluster see
    them."""
    names = {feature.name for feature in features}
    of_server = set(map(_feature_name, FEATURES))
    # Nodes of release 1.0 compare this list with their own list. So it has only
    # features that release 1.0 knows.
    for_older = {
        name for name in names if name in FIRST_RELEASE or name not in of_server
    }
    return NodeFeatures(
        names=" ".join(["core", *sorted(names)]),
        left_out=" ".join(sorted(_left_out_features(names))),
        for_older=" ".join(["core", *sorted(for_older)]),
    )


def _left_out_features(names: Collection[str]) -> set[str]:
    """Return the features of this server that a node with the features
    ``names`` has left out by its settings."""
    absent = [package for package in FEATURES if _feature_name(package) not in names]
    return {_feature_name(package) for package in absent if _is_required(package)}


def _is_required(package: str) -> bool:
    """Whether the nodes of a cluster must agree on this feature of this server.

    If so, either all nodes have the feature or no node has it; see
    :mod:`imserver.gateway.cluster.features`. The package of the feature is not
    loaded.
    """
    if package.startswith(_DIALECTS):
        return True
    return bool(getattr(_load_declarations(package), "TABLES", ()))


def numbers_of_server() -> tuple[GivenNumbers, ...]:
    """Return the numbers of features that a restored database does not give
    again.

    The numbers are ``NUMBERS`` in the module ``declared`` of each feature.
    Features of this server that the node does not have are included.
    """
    numbers: list[GivenNumbers] = []
    for module in map(_load_declarations, FEATURES):
        numbers += getattr(module, "NUMBERS", ())
    return tuple(numbers)


def objection_of(features: Sequence[FeatureRow]) -> AppObjection:
    """Return a function that checks the settings of an app, for the core and
    ``features``.

    The function returns the error text, or ``""`` if the settings are valid. It
    reads key files.
    """
    checks: list[AppObjection] = [rules.objection]
    for feature in features:
        if feature.settings.objection is not None:
            checks.append(feature.settings.objection)
    # Stored channels have their history in the message log.
    has_log = any(feature.name == "messages" for feature in features)
    return partial(_objection, checks, has_log)


def _objection(
    checks: Sequence[AppObjection],
    has_log: bool,
    name: str,
    settings: TenantSettings,
) -> str:
    """Return the first objection to the settings of the app ``name``, or ``""``
    if there is no objection.

    ``checks`` are the checks of the core and of features. ``has_log`` tells
    whether the node has a message log.
    """
    for check in checks:
        text = check(name, settings)
        if text:
            return text
    needs_log = any(row.history for row in settings.channels.values())
    if needs_log and not has_log:
        return "channels: a stored history needs the feature messages"
    return ""


def check(config: Config, locations: Locations) -> None:
    """Check the setting ``features``, and the conditions of features on other
    settings.

    Raises StartError, with the location of the setting.
    """
    features = load_features(config)
    _check_uses(features, locations)
    _check_mounts(config, features, locations)
    rules.check_apps(config, locations, objection_of(features))
    for feature in features:
        # A check may be a generator of advice, which only the doctor shows. A
        # generator runs only if its results are read, which tuple() does.
        tuple(feature.settings.check(config, locations) or ())


def _check_uses(features: Sequence[FeatureRow], locations: Locations) -> None:
    """Raise StartError unless each feature comes after the features that it
    uses."""
    names = [feature.name for feature in features]
    for position, feature in enumerate(features):
        for used in feature.uses:
            # "groups?" means: only if the node has the feature groups.
            name = used.removesuffix("?")
            if name not in names and name == used:
                raise locations.wrong("features", f"{feature.name} needs {name}")
            if name in names[position:]:
                raise locations.wrong(
                    "features", f"{feature.name} uses {name}: name {name} before it"
                )


def _check_mounts(
    config: Config, features: Sequence[FeatureRow], locations: Locations
) -> None:
    """Raise StartError if an address has a path under which nothing is served.

    The addresses come from the settings ``server.extra_listen`` and
    ``server.extra_hosts``.
    """
    prefixes = _served_prefixes(features)
    server = config.server
    # The server removes this path from the paths of requests to this address.
    mounts = {
        "server.extra_listen": [row.path for row in server.extra_listen],
        "server.extra_hosts": [row.path for row in server.extra_hosts],
    }
    for setting, paths_of_rows in mounts.items():
        for number, path in enumerate(paths_of_rows):
            if path not in prefixes:
                raise locations.wrong(
                    f"{setting}[{number}].path",
                    f"no feature serves anything under {path}",
                )


def _served_prefixes(features: Sequence[FeatureRow]) -> set[str]:
    """Return the first segments of all paths that are served, such as ``/api``.

    The result also has ``""``, which stands for all paths.
    """
    prefixes = {""}
    for row in (*load_core(), *features):
        paths = [route.path for route in row.routes]
        paths += [dialect.path for dialect in row.dialects if dialect.path]
        # "/api/v1/users" gives "/api".
        prefixes.update(f"/{path.split('/')[1]}" for path in paths)
    return prefixes


def _feature_name(package: str) -> str:
    """Return the name of the feature in a package: the last part of its name."""
    return package.rpartition(".")[2]
