"""Reads the settings. The command line overrides the environment. The
environment overrides the file, and the file overrides the defaults.

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
None means all features. Raises StartError."""

ReadOther = Callable[
    [Any, str], tuple[dict[str, Any], Callable[[Config], Iterable[str]]] | None
]
"""Reads the settings of another server.

The first argument is the text of a file of that server, or a YAML document. The
function takes the keys of that server out of a document. The second argument is
the name of the file, for messages. The function returns the settings under our
names, and a function that lists the entries without effect. It returns None if
the document has no keys of the other server. Both functions may raise
:class:`ConfigError`."""


def _declare_core(_: tuple[str, ...] | None) -> Declarations:
    """Return the declarations of the core alone, for a node without
    features."""
    return CORE


def load_with_locations(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    declare: Declare = _declare_core,
    others: Callable[[], Mapping[str, ReadOther]] = dict,
    parse: Callable[[str, str], Any] | None = None,
) -> tuple[Config, Locations]:
    """Read and check all settings.

    Returns the settings, and the locations of the settings from the file.
    Raises :class:`ConfigError` with a one-line message.

    - ``path``: a YAML file with the keys of this server or of an original's
      ``app.yaml``, or ``conf/app.ini`` of the client dialect's original. None
      means the file of :func:`settings_file`, if there is one.
    - ``environ``: the environment. None means the environment of the process.
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

    # The settings of the file come first. The file may be a file of another
    # server that ours replaces. Then "original" has the settings of that
    # server, as _parse() returns them.
    document: Any = {}
    original: Any = None
    if path is not None:
        text = _text_of(path)
        document, original = _parse(text, path, others(), parse or read_value)
    declared = _declare(document, environ, locations, declare)
    values = _read_document(document, locations, declared)
    if original is not None:
        _add_original(values, original, declared, locations)

    # The environment overrides the file, and the command line overrides both.
    overriding = _from_environment(environ, warnings, declared)
    overriding |= _from_command_line(overrides or {}, declared)
    _override(values, overriding, locations)
    warnings += locations.warnings
    if DATA_DIR not in overriding and path is not None:
        values[DATA_DIR] = _data_dir_of_file(path, values, warnings)

    config = _build(values, tuple(warnings), declared, locations)
    check_config(config, locations)
    more_warnings = _warnings_about(config, original, locations)
    return _with_warnings(config, more_warnings), locations


def _override(
    values: dict[str, Any], overriding: Mapping[str, Any], locations: Locations
) -> None:
    """Replace settings of the file by others of the same names."""
    for name in overriding:
        # An error about this setting must not name a line of the file.
        locations.forget(name)
    values |= overriding


def _with_warnings(config: Config, warnings: Iterable[str]) -> Config:
    """Add warnings to the ones that the settings have already."""
    all_warnings = (*config.warnings, *warnings)
    return msgspec.structs.replace(config, warnings=all_warnings)


def _warnings_about(config: Config, original: Any, locations: Locations) -> list[str]:
    """List warnings that only the complete settings show.

    The warnings are about a short ``jwt.sign_key``, and about entries of the
    file of another server that have no effect here. ``original`` is None if the
    file is our own.
    """
    warnings = []
    weakness = short_sign_key(config)
    if weakness:
        warnings.append(f"{locations.of('jwt.sign_key')}: {weakness}")
    if original is not None:
        _, entries_without_effect = original
        warnings += entries_without_effect(config)
    return warnings


def _add_original(
    values: dict[str, Any],
    original: Any,
    declared: Declarations,
    locations: Locations,
) -> None:
    """Add the settings that were read from a file of another server.

    ``original`` is the result of a :data:`ReadOther`. A file may have keys of
    both servers. If a setting has our own key, too, the value of our own key is
    used. Raises ConfigError.
    """
    original_settings, _ = original
    for name, value in original_settings.items():
        row = declared.rows.get(name)
        if row is None:
            # The setting belongs to a feature that this node does not have.
            continue
        # A value that is not used is converted, too. If the value is invalid,
        # the operator gets an error.
        converted = declared.convert(row, value, locations)
        values.setdefault(name, converted)


def _declare(
    document: Any, environ: Mapping[str, str], locations: Locations, declare: Declare
) -> Declarations:
    """Return the declarations of the core and of the features of this node.

    The setting ``features`` names the features. It is read before all other
    settings, because features declare settings. The environment overrides the
    file. Raises ConfigError.
    """
    row = CORE.rows["features"]
    features = _features_in_file(row, document, locations)
    # The environment overrides the file.
    variable = f"{ENVIRONMENT_PREFIX}{row.name.upper()}"
    if variable in environ:
        locations.forget(row.name)
        value = _from_text(row, environ[variable], variable)
        features = CORE.convert(row, value, Locations(variable))
    try:
        return declare(features)
    except StartError as error:
        # A feature is unknown, or cannot be loaded.
        raise locations.wrong(row.name, str(error)) from None


def _features_in_file(
    row: Row, document: Any, locations: Locations
) -> tuple[str, ...] | None:
    """Read the setting ``features`` of a file.

    ``row`` describes the setting.

    Remembers where the setting was found. None means all features. Raises
    ConfigError.
    """
    features: tuple[str, ...] | None = None
    for written, content in document.items():
        if fold(written) == row.name:
            locations.note(row.name, document, written)
            features = CORE.convert(row, content, locations)
    return features


def settings_file(environ: Mapping[str, str]) -> str | None:
    """Find the settings file if the command line names none.

    The result is the file that the variable IMSERVER_CONFIG names, or else
    :data:`DEFAULT_FILE` in the current directory. None means that there is no
    such file.
    """
    path = environ.get(ENVIRONMENT_FILE)
    if path:
        return path
    if Path(DEFAULT_FILE).is_file():
        return DEFAULT_FILE
    return None


def _data_dir_of_file(path: str, values: Mapping[str, Any], warnings: list[str]) -> str:
    """Return the path of the data folder that a settings file means.

    ``values`` are the settings of the file. If they do not name a data folder,
    the default counts as if the file had it. A warning may be added to
    ``warnings``.
    """
    data_dir = values.get(DATA_DIR, Config().server.data_dir)
    return _beside(path, data_dir, warnings)


def _beside(path: str, data_dir: str, warnings: list[str]) -> str:
    """Return the path of the data folder, as seen from the current folder.

    In a settings file, ``server.data_dir`` is relative to the folder of the
    file. A warning is added to ``warnings`` if the current folder has a data
    folder of a server, but the folder of the settings file has none yet.
    """
    beside = Path(path).parent / data_dir
    # A pipe has no folder of its own, so the path does not change. The path
    # does not change either if both paths name the same folder.
    if not Path(path).is_file() or beside.absolute() == Path(data_dir).absolute():
        return data_dir
    # A file "lock" shows that a server has used a folder for its data.
    if Path(data_dir, "lock").is_file() and not beside.exists():
        warnings.append(_unused_folder(path, beside, Path(data_dir)))
    return str(beside)


def _unused_folder(path: str, beside: Path, used: Path) -> str:
    """Make the warning that the folder ``used`` has data, but is not used.

    ``beside`` is the folder that the file at ``path`` means.
    """
    return (
        f"{path}: {DATA_DIR} is relative to this file, so it is "
        f"{beside.absolute()}; the folder {used.absolute()} has the data of a server, "
        "too, and is not used: if they are this server's, stop it and move the folder "
        "there"
    )


def dump(settings: Config | TenantSettings, declared: Declarations) -> str:
    """Format the settings of a server or of an app as YAML, as in a file.

    Secrets are hidden, even in URLs. Settings that no feature of this node
    reads are left out.
    """
    from imserver.gateway.config.yaml import write_yaml

    written = plain(settings, hide=True)
    # The settings of a single app have no key "apps": they are the app.
    apps = written.get("apps", {"": written})
    for app in apps.values():
        # Settings that no feature of the node reads are left out.
        for name in app.keys() - declared.app_hints.keys():
            del app[name]
    return hide_secrets(write_yaml(written))


def read_value(text: str, where: str) -> Any:
    """Parse a text as YAML, as in the configuration file.

    ``where`` names the text in errors. Raises ConfigError.
    """
    from imserver.gateway.config.yaml import read_yaml

    return read_yaml(text, where)


# --- file ---------------------------------------------------------------------


def _text_of(path: str) -> str:
    """Read a settings file. Raises ConfigError if it cannot be read."""
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
    """Parse a settings file, which may be a file of another server.

    Returns the sections of our own settings, and the result of
    :data:`ReadOther`: the settings of the other server. A file of another
    server has no sections of ours. The second value is None if no other server
    knows the file. Raises ConfigError.
    """
    # The suffix may show which server the file is from.
    for suffix, read in others.items():
        if suffix and path.lower().endswith(suffix):
            return {}, read(text, path)

    document = _parse_yaml(text, path, parse)
    if document is None:
        # The file is empty, or has only comments.
        return {}, None
    if "" not in others:
        return document, None
    # The reader of YAML files takes the keys of the other server out of it.
    return document, others[""](document, path)


def _parse_yaml(text: str, path: str, parse: Callable[[str, str], Any]) -> Any:
    """Parse the sections of a YAML file.

    The result is a WrittenMapping, which has the lines of the keys. It is None
    if the file has no content. Raises ConfigError.
    """
    document: Any = parse(text, path)
    if document is not None and not isinstance(document, dict):
        raise ConfigError(
            f"{path}: expected sections (app:, server:, …), got "
            f"{type(document).__name__}"
        )
    return document


def _read_document(
    document: Any, locations: Locations, declared: Declarations
) -> dict[str, Any]:
    """Convert the settings of a YAML file: canonical name → value.

    Remembers the line of each setting in ``locations``. Raises ConfigError for
    unknown keys and wrong values.
    """
    values: dict[str, Any] = {}
    for written in document:
        _read_key(values, document, written, locations, declared)
    return values


def _read_key(
    values: dict[str, Any],
    document: Any,
    written: object,
    locations: Locations,
    declared: Declarations,
) -> None:
    """Add the settings of one key of a YAML file to ``values``.

    The key is the name of a section, or of a setting without a section, such as
    "features". ``written`` is the key as it was written. Raises ConfigError.
    """
    content = document[written]
    location = f"{locations.source}, line {document.lines[written]}"
    section = _section_of(written, location, declared)
    if section in declared.rows:
        locations.note(section, document, written)
        _set(values, declared, declared.rows[section], content, locations)
    elif isinstance(content, dict | None):
        _read_section(values, written, content or {}, locations, declared)
    else:
        raise ConfigError(
            f"{location}: {section}: expected settings, got {type(content).__name__}"
        )


def _section_of(written: object, location: str, declared: Declarations) -> str:
    """Return the name of the section that a file spells ``written``.

    The result may also be a setting without a section. Raises ConfigError.
    """
    section = declared.names.get(fold(written))
    if section is None:
        raise _unknown(str(written), location, declared)
    return section


def _read_section(
    values: dict[str, Any],
    section: object,
    keys: Any,
    locations: Locations,
    declared: Declarations,
) -> None:
    """Add the settings of one section of a YAML file to ``values``.

    ``section`` is the name of the section as it was written. Raises
    ConfigError.
    """
    for key, value in keys.items():
        name = f"{section}.{key}"
        row = declared.by_folded.get(fold(name))
        if row is None:
            # The message names the line of the key, not of the section.
            location = f"{locations.source}, line {keys.lines[key]}"
            raise _unknown(name, location, declared)
        locations.note(row.name, keys, key)
        locations.note_old(row.name, name)
        _set(values, declared, row, value, locations)


def _unknown(written: str, location: str, declared: Declarations) -> ConfigError:
    """Make the error about a key that nothing declares.

    If the key belongs to a feature that this node does not have, the error says
    so. Otherwise the error proposes the most similar key.
    """
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
    """Convert a setting, and put it among ``values``.

    Raises ConfigError if the value is wrong or the setting is given twice.
    """
    if row.name in values:
        raise ConfigError(f"{locations.of(row.name)} is given twice, in two spellings")
    values[row.name] = declared.convert(row, value, locations)


# --- environment --------------------------------------------------------------


def _from_environment(
    environ: Mapping[str, str], warnings: list[str], declared: Declarations
) -> dict[str, Any]:
    """Convert the settings of the environment: canonical name → value.

    The variable of ``app.http_port`` is ``IMSERVER_APP_HTTP_PORT``. A variable
    with the prefix that is no setting only makes a warning, because containers
    may set other variables. Raises ConfigError for wrong values.
    """
    by_variable = _rows_by_variable(declared)
    values: dict[str, Any] = {}
    for variable in _our_variables(environ):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        row = by_variable.get(fold(name))
        if row is None:
            warnings.append(_no_setting(variable, declared))
            continue

        if _is_old_name(name, row):
            warnings.append(f"{variable}: {OLD_NAME.format(row.name)}")
        value = _from_text(row, environ[variable], variable)
        warnings += _set_from(variable, values, declared, row, value)
    return values


def _rows_by_variable(declared: Declarations) -> dict[str, Row]:
    """Index the settings by the folded names of their variables.

    The variables have no prefix here, and no dot after the section.
    """
    return {folded.replace(".", ""): row for folded, row in declared.by_folded.items()}


def _is_old_name(name: str, row: Row) -> bool:
    """Tell whether a variable, without its prefix, has an old name of a
    setting."""
    # Only the spelling of an old name differs from the canonical name.
    return fold(name) != fold(row.name).replace(".", "")


def _our_variables(environ: Mapping[str, str]) -> list[str]:
    """List the variables that may be settings, in the order of their names.

    Two variables with the prefix are left out: they name the settings file, and
    the API key for commands.
    """
    no_settings = (ENVIRONMENT_FILE, ENVIRONMENT_KEY)
    return [
        variable
        for variable in sorted(environ)
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in no_settings
    ]


def _set_from(
    variable: str,
    values: dict[str, Any],
    declared: Declarations,
    row: Row,
    value: Any,
) -> list[str]:
    """Set one setting from a variable, and return the warnings about it.

    ``values`` gets the converted value. Raises ConfigError.
    """
    locations = Locations(variable)
    _set(values, declared, row, value, locations)
    return locations.warnings


def _no_setting(variable: str, declared: Declarations) -> str:
    """Make the warning about a variable that is no setting of this node.

    Raises ConfigError if the variable is a setting of a feature that the node
    does not have.
    """
    absent = declared.absent_variable(variable.removeprefix(ENVIRONMENT_PREFIX))
    if absent:
        raise ConfigError(f"{variable}: {absent}: {NO_FEATURE}")
    return f"environment: {variable} is not a setting and has no effect"


_SCALARS: Final[dict[type[inspect.Type], type[int | float]]] = {
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.BoolType: bool,
}
"""msgspec's description of a type of numbers or flags → the type."""


def _from_command_line(
    overrides: Mapping[str, Any], declared: Declarations
) -> dict[str, Any]:
    """Convert the settings of the command line: canonical name → value.

    Raises ConfigError for wrong values.
    """
    command_line = Locations("command line")
    return {
        name: declared.convert(declared.rows[name], value, command_line)
        for name, value in overrides.items()
    }


def _from_text(row: Row, text: str, variable: str) -> Any:
    """Convert the text of an environment variable to a plain value.

    Lists, mappings and sections are written as YAML, as in
    ``IMSERVER_APPS='{shop: {}}'``. An empty text is None if the setting may be
    None. Raises ConfigError.
    """
    kind = row.type
    if isinstance(kind, inspect.Metadata):
        kind = kind.type  # the type in Annotated[…]
    if isinstance(kind, inspect.StrType | inspect.LiteralType):
        return text
    if isinstance(kind, inspect.UnionType):  # a type or None
        if not text.strip():
            return None
        kind = _type_beside_none(kind)
    scalar = _SCALARS.get(type(kind))
    if scalar is None:
        return read_value(text, variable)
    if text.strip() == AUTO:
        return AUTO  # the setting decides whether it has this value
    return _scalar_of(text, scalar, f"{variable}: {row.name}")


def _type_beside_none(union: inspect.UnionType) -> inspect.Type:
    """Return the type of a value that may also be None."""
    return next(each for each in union.types if not isinstance(each, inspect.NoneType))


def _scalar_of(text: str, scalar: type, where: str) -> Any:
    """Convert a text to a number or a flag.

    ``scalar`` is the type of the result. The error begins with ``where``.
    Raises ConfigError.
    """
    try:
        # The conversion is not strict: the text "1" is the number 1, and "true"
        # is a flag.
        return msgspec.convert(text.strip(), scalar, strict=False)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{where}: expected {scalar.__name__}, got {text!r}"
        ) from None


# --- complete settings --------------------------------------------------------


def _fields_of(kind: type[msgspec.Struct], given: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the given settings that a struct declares."""
    return {
        name: value for name, value in given.items() if name in kind.__struct_fields__
    }


def _build(
    values: Mapping[str, Any],
    warnings: tuple[str, ...],
    declared: Declarations,
    locations: Locations,
) -> Config:
    """Make the settings of a node from the given values and the defaults.

    ``values`` is canonical name → converted value. Raises ConfigError if a
    required setting is missing.
    """
    sections = _by_section(values)
    parts: dict[str, Any] = {"warnings": warnings}
    # Settings without a section, such as "features".
    parts |= {name: value for name, value in values.items() if "." not in name}
    parts["of_features"] = _settings_of_features(sections, declared, locations)
    parts |= _settings_of_core(sections)
    if "apps" not in parts:
        parts["apps"] = _default_apps(declared)
    return Config(**parts)


def _by_section(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group settings by their section: section → key → value.

    Settings without a section are left out.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key:
            sections.setdefault(section, {})[key] = value
    return sections


def _settings_of_core(sections: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Make the sections of the core: name of a section → its settings.

    The other sections belong to features alone.
    """
    defaults = Config()
    parts = {}
    for section, given in sections.items():
        if section in hints_of(Config):
            settings = getattr(defaults, section)
            core_fields = _fields_of(type(settings), given)
            parts[section] = msgspec.structs.replace(settings, **core_fields)
    return parts


def _default_apps(declared: Declarations) -> dict[str, TenantSettings]:
    """Make the apps of a node whose settings name none.

    These apps have the defaults of the features of this node, too.
    """
    of_features = declared.app_of({}).of_features
    return {
        name: msgspec.structs.replace(tenant, of_features=of_features)
        for name, tenant in Config().apps.items()
    }


def _settings_of_features(
    sections: Mapping[str, Mapping[str, Any]],
    declared: Declarations,
    locations: Locations,
) -> tuple[tuple[str, msgspec.Struct], ...]:
    """Make the structs of settings that features declare, with their sections.

    ``sections`` is name of a section → its given settings. Raises ConfigError
    if a required setting is missing.
    """
    settings: list[tuple[str, msgspec.Struct]] = []
    for section, kind in declared.sections:
        # Several features may have keys in one section.
        given = sections.get(section, {})
        for row in msgspec.structs.fields(kind):
            if row.required and row.name not in given:
                raise locations.wrong(section, f"{row.name} is missing")
        settings.append((section, kind(**_fields_of(kind, given))))
    return tuple(settings)
