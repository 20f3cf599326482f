"""Reads the settings. The command line overrides the environment, which
overrides the file and the defaults.

Keys are compared without underscores, dashes and letter case, so the original
server's ``httpPort`` or ``minIDleConns`` are accepted unchanged.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from imserver.gateway.config.declared import hints_of, plain
from imserver.gateway.config.settings import Config, TenantSettings
from imserver.gateway.config.values import (
    AUTO,
    CORE,
    NO_FEATURE,
    OLD_NAME,
    ConfigError,
    Declarations,
    Locations,
    Row,
    check_config,
    fold,
    hide_secrets,
    short_sign_key,
)
from imserver.gateway.errors import StartError

ENVIRONMENT_PREFIX: Final = "IMSERVER_"
#: path of the configuration file if there is no command line (under gunicorn)
ENVIRONMENT_FILE: Final = "IMSERVER_CONFIG"
#: the setting whose value in a file is relative to the folder of the file
DATA_DIR: Final = "server.data_dir"
#: settings file in the current directory, as ``imserver init`` writes it
DEFAULT_FILE: Final = "imserver.yaml"
#: API key for the command line's requests to a server
ENVIRONMENT_KEY: Final = "IMSERVER_KEY"

Declare = Callable[[tuple[str, ...] | None], Declarations]
"""Returns the declarations of the core and of the features with these names;
None: of all features. Raises StartError."""

ReadOther = Callable[
    [Any, str], tuple[dict[str, Any], Callable[[Config], Iterable[str]]] | None
]
"""Reads the settings of another server: from the text of its file, or from a
YAML document, out of which it takes the keys of such files.

Its second argument is the name of the file, for messages. It returns the
settings under our names, and a function that lists the entries without effect;
None if the document has no keys of the other server. Both functions may raise
:class:`ConfigError`."""


def _declare_core(_: tuple[str, ...] | None) -> Declarations:
    """The declarations of the core alone."""
    return CORE


def load_with_locations(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    declare: Declare = _declare_core,
    others: Callable[[], Mapping[str, ReadOther]] = dict,
    parse: Callable[[str, str], Any] | None = None,
) -> tuple[Config, Locations]:
    """Read and check all settings. Returns them, and the locations of the
    settings from the file. Raises :class:`ConfigError` with a one-line message.

    - ``path``: a YAML file with the keys of this server or of an original's
      ``app.yaml``, or ``conf/app.ini`` of the client dialect's original. None:
      the file of :func:`settings_file`, if there is one.
    - ``environ``: the environment; None: the environment of the process.
    - ``overrides``: the command line, such as ``{"app.http_port": 8080}``.
    - ``declare``: returns the settings that the named features declare.
    - ``others``: returns suffix of the files of another server → the function
      that reads them. The suffix ``""`` stands for YAML files.
    - ``parse``: used in place of :func:`read_value`.
    """
    if environ is None:
        environ = os.environ
    path = path or settings_file(environ)
    locations = Locations(path or "configuration")
    warnings: list[str] = []

    # The settings of the file.
    document: Any = {}
    original: Any = None  # see _parse()
    if path is not None:
        text = _text_of(path)
        document, original = _parse(text, path, others(), parse or read_value)
    declared = _declare(document, environ, locations, declare)
    values = _read_document(document, locations, declared)
    if original is not None:
        original_settings, _ = original
        _add_original(values, original_settings, declared, locations)

    # The environment and the command line override them.
    overriding = _from_environment(environ, warnings, declared)
    command_line = Locations("command line")
    for name, value in (overrides or {}).items():
        overriding[name] = declared.convert(declared.rows[name], value, command_line)
    for name in overriding:
        locations.forget(name)
    values |= overriding
    warnings += locations.warnings
    if DATA_DIR not in overriding and path is not None:
        data_dir = values.get(DATA_DIR, Config().server.data_dir)
        values[DATA_DIR] = _beside(path, data_dir, warnings)

    config = _build(values, tuple(warnings), declared, locations)
    check_config(config, locations)
    more_warnings = []
    weakness = short_sign_key(config)
    if weakness:
        more_warnings.append(f"{locations.of('jwt.sign_key')}: {weakness}")
    if original is not None:
        _, entries_without_effect = original
        more_warnings += entries_without_effect(config)
    all_warnings = (*config.warnings, *more_warnings)
    return msgspec.structs.replace(config, warnings=all_warnings), locations


def _add_original(
    values: dict[str, Any],
    original_settings: Mapping[str, Any],
    declared: Declarations,
    locations: Locations,
) -> None:
    """Add the settings of another server to ``values``, except where our own
    key is given. Raises ConfigError."""
    for name, value in original_settings.items():
        row = declared.rows.get(name)
        if row is None:  # the feature of the setting is absent
            continue
        # It is converted even if it is not used, so that an invalid value is
        # reported.
        converted = declared.convert(row, value, locations)
        values.setdefault(name, converted)


def _declare(
    document: Any, environ: Mapping[str, str], locations: Locations, declare: Declare
) -> Declarations:
    """The declarations of the core and of the features that the setting
    ``features`` names. It is read before all others, because features declare
    settings. The environment overrides the file. Raises ConfigError."""
    row = CORE.rows["features"]
    features: tuple[str, ...] | None = None
    for written, content in document.items():
        if fold(written) == row.name:
            locations.note(row.name, document, written)
            features = CORE.convert(row, content, locations)
    variable = f"{ENVIRONMENT_PREFIX}{row.name.upper()}"
    if variable in environ:
        locations.forget(row.name)
        value = _from_text(row, environ[variable], variable)
        features = CORE.convert(row, value, Locations(variable))
    try:
        return declare(features)
    except StartError as error:
        raise locations.wrong(row.name, str(error)) from None


def settings_file(environ: Mapping[str, str]) -> str | None:
    """The settings file if the command line names none: the file that
    IMSERVER_CONFIG names, else :data:`DEFAULT_FILE` if the current directory
    has it, else None."""
    path = environ.get(ENVIRONMENT_FILE)
    if path:
        return path
    if Path(DEFAULT_FILE).is_file():
        return DEFAULT_FILE
    return None


def _beside(path: str, data_dir: str, warnings: list[str]) -> str:
    """The path of the data folder, which is relative to the folder of the
    settings file, as seen from the current folder. ``warnings``: gets a text if
    the current folder has such a data folder, too."""
    beside = Path(path).parent / data_dir
    # A pipe, or another file that is not regular, is in no folder.
    if not Path(path).is_file() or beside.absolute() == Path(data_dir).absolute():
        return data_dir
    if Path(data_dir, "lock").is_file() and not beside.exists():
        warnings.append(
            f"{path}: {DATA_DIR} is relative to this file, so it is "
            f"{beside.absolute()}; the folder {Path(data_dir).absolute()} has the "
            "data of a server, too, and is not used: if they are this server's, "
            "stop it and move the folder there"
        )
    return str(beside)


def dump(settings: Config | TenantSettings, declared: Declarations) -> str:
    """Format the settings of a server or of an app as YAML, as a file has them.
    Secrets are hidden."""
    from imserver.gateway.config.yaml import write_yaml

    written = plain(settings, hide=True)
    # The settings of a single app have no key "apps": they are the app.
    apps = written.get("apps", {"": written})
    for app in apps.values():
        # Without the settings that no feature of the node reads.
        for name in app.keys() - declared.app_hints.keys():
            del app[name]
    return hide_secrets(write_yaml(written))


def read_value(text: str, where: str) -> Any:
    """Parse a value as in the configuration file. Raises ConfigError."""
    from imserver.gateway.config.yaml import read_yaml

    return read_yaml(text, where)


# --- file ---------------------------------------------------------------------


def _text_of(path: str) -> str:
    """The text of a settings file. Raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def _parse(
    text: str,
    path: str,
    others: Mapping[str, ReadOther],
    parse: Callable[[str, str], Any] = read_value,
) -> tuple[Any, Any]:
    """The sections of a settings file, and the settings of another server in
    it, as :data:`ReadOther` returns them. A file of another server has no
    sections; in a file without settings of another server, the second value is
    None."""
    for suffix, read in others.items():
        if suffix and path.lower().endswith(suffix):
            return {}, read(text, path)
    document: Any = parse(text, path)
    if document is None:
        return {}, None
    # If it is a dict, it is a WrittenMapping, which has the lines of its keys.
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path}: expected sections (app:, server:, …), got "
            f"{type(document).__name__}"
        )
    if "" not in others:
        return document, None
    return document, others[""](document, path)


def _read_document(
    document: Any, locations: Locations, declared: Declarations
) -> dict[str, Any]:
    """The settings of a file by canonical name. Raises ConfigError."""
    values: dict[str, Any] = {}
    for written, content in document.items():
        location = f"{locations.source}, line {document.lines[written]}"
        section = declared.names.get(fold(written))
        if section is None:
            raise _unknown(str(written), location, declared)
        if section in declared.rows:
            # It is a setting without a section, such as "features".
            locations.note(section, document, written)
            _set(values, declared, declared.rows[section], content, locations)
            continue
        if not isinstance(content, dict | None):
            raise ConfigError(
                f"{location}: {section}: expected settings, got "
                f"{type(content).__name__}"
            )

        keys: Any = content or {}
        for key, value in keys.items():
            name = f"{written}.{key}"
            row = declared.by_folded.get(fold(name))
            if row is None:
                location = f"{locations.source}, line {keys.lines[key]}"
                raise _unknown(name, location, declared)
            locations.note(row.name, keys, key)
            locations.note_old(row.name, name)
            _set(values, declared, row, value, locations)
    return values


def _unknown(written: str, location: str, declared: Declarations) -> ConfigError:
    """The error about a key that nothing declares."""
    if declared.is_absent(written):
        return ConfigError(f"{location}: {written}: {NO_FEATURE}")
    return ConfigError(
        f"{location}: unknown key {written!r}; the nearest known key is "
        f"{declared.nearest(written)!r}"
    )


def _set(
    values: dict[str, Any],
    declared: Declarations,
    row: Row,
    value: Any,
    locations: Locations,
) -> None:
    """Put a setting among ``values``. Raises ConfigError."""
    if row.name in values:
        raise ConfigError(f"{locations.of(row.name)} is given twice, in two spellings")
    values[row.name] = declared.convert(row, value, locations)


# --- environment --------------------------------------------------------------


def _from_environment(
    environ: Mapping[str, str], warnings: list[str], declared: Declarations
) -> dict[str, Any]:
    """The settings of the environment by canonical name. Raises ConfigError."""
    by_variable = {
        folded.replace(".", ""): row for folded, row in declared.by_folded.items()
    }
    others = (ENVIRONMENT_FILE, ENVIRONMENT_KEY)
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in others:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        row = by_variable.get(fold(name))
        if row is None:
            absent = declared.absent_variable(name)
            if absent:
                raise ConfigError(f"{variable}: {absent}: {NO_FEATURE}")
            warnings.append(
                f"environment: {variable} is not a setting and has no effect"
            )
            continue

        # Only the spelling of an old name differs from the canonical name.
        if fold(name) != fold(row.name).replace(".", ""):
            warnings.append(f"{variable}: {OLD_NAME.format(row.name)}")
        locations = Locations(variable)
        value = _from_text(row, environ[variable], variable)
        _set(values, declared, row, value, locations)
        warnings += locations.warnings
    return values


_SCALARS: Final[dict[type[inspect.Type], type[int | float]]] = {
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.BoolType: bool,
}
"""msgspec's description of a type of numbers or flags → the type."""


def _from_text(row: Row, text: str, variable: str) -> Any:
    """Convert the text of a variable to a value of its setting. Lists, mappings
    and groups are YAML. An empty text is None if the setting may be None.
    Raises ConfigError."""
    kind = row.type
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.StrType | inspect.LiteralType):
        return text
    if isinstance(kind, inspect.UnionType):  # a type or None
        if not text.strip():
            return None
        kind = next(
            each for each in kind.types if not isinstance(each, inspect.NoneType)
        )

    scalar = _SCALARS.get(type(kind))
    if scalar is None:
        return read_value(text, variable)
    if text.strip() == AUTO:
        return AUTO  # the setting decides whether it has this value
    try:
        return msgspec.convert(text.strip(), scalar, strict=False)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{variable}: {row.name}: expected {scalar.__name__}, got {text!r}"
        ) from None


# --- complete settings --------------------------------------------------------


def _fields_of(kind: type[msgspec.Struct], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings that a struct declares."""
    return {
        name: value for name, value in given.items() if name in kind.__struct_fields__
    }


def _build(
    values: Mapping[str, Any],
    warnings: tuple[str, ...],
    declared: Declarations,
    locations: Locations,
) -> Config:
    """All settings of a node: the given ones, and the defaults of the others.
    ``values``: canonical name → converted value. Raises ConfigError if a
    required setting is missing."""
    parts: dict[str, Any] = {"warnings": warnings}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key:
            sections.setdefault(section, {})[key] = value
        else:
            parts[section] = value

    # The settings that features declare.
    settings_of_features: list[tuple[str, msgspec.Struct]] = []
    for section, kind in declared.sections:
        given = sections.get(section, {})
        for row in msgspec.structs.fields(kind):
            if row.required and row.name not in given:
                raise locations.wrong(section, f"{row.name} is missing")
        settings_of_features.append((section, kind(**_fields_of(kind, given))))
    parts["of_features"] = tuple(settings_of_features)

    # The settings of the core. The other sections belong to features alone.
    defaults = Config()
    for section, given in sections.items():
        if section in hints_of(Config):
            settings = getattr(defaults, section)
            core_fields = _fields_of(type(settings), given)
            parts[section] = msgspec.structs.replace(settings, **core_fields)
    if "apps" not in parts:
        # The default apps have the defaults of features, too.
        of_features = declared.app_of({}).of_features
        parts["apps"] = {
            name: msgspec.structs.replace(tenant, of_features=of_features)
            for name, tenant in defaults.apps.items()
        }
    return Config(**parts)
