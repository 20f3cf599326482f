"""Reads the settings. The command line overrides the environment, which overrides the file and the defaults.

Keys are compared without underscores, dashes and letter case, so the original server's ``httpPort`` or
``minIDleConns`` are accepted unchanged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect

from imserver.config.settings import Config, TenantSettings
from imserver.config.values import (
    AUTO,
    BY_FOLDED,
    HIDDEN,
    ROWS,
    SECTIONS,
    ConfigError,
    Places,
    Row,
    check_config,
    convert,
    fold,
    hide_secrets,
    nearest,
    short_sign_key,
)

if TYPE_CHECKING:
    from imserver.config.originals import AppIni, GochatYaml

ENVIRONMENT_PREFIX: Final = "IMSERVER_"
#: path of the configuration file if there is no command line (under gunicorn)
ENVIRONMENT_FILE: Final = "IMSERVER_CONFIG"
#: settings file in the current directory, as ``imserver init`` writes it
DEFAULT_FILE: Final = "imserver.yaml"
#: API key for the command line's requests to a server
ENVIRONMENT_KEY: Final = "IMSERVER_KEY"

_SECRET: Final = re.compile("key|secret|password|token", re.IGNORECASE)

#: suffix of the original configuration file of the client dialect, which is not YAML
INI_SUFFIX: Final = ".ini"


def load_config(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Read and check all settings.

    ``path``: a YAML file with this server's keys or those of an original's ``app.yaml``, or ``conf/app.ini``
    of the client dialect's original (None: see :func:`settings_file`). ``environ``: the environment (None:
    the process's). ``overrides``: the command line as ``{"app.http_port": 8080}``. Raises
    :class:`ConfigError` with a one-line message.
    """
    return load_with_places(path, environ, overrides)[0]


def load_with_places(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Config, Places]:
    """The settings, and where those of the file were written; see :func:`load_config`."""
    environ = os.environ if environ is None else environ
    path = path or settings_file(environ)
    places = Places(path or "configuration")
    warnings: list[str] = []
    original: AppIni | GochatYaml | None = None
    values: dict[str, Any] = {}
    others: dict[str, Any] = {}
    if path is not None and path.lower().endswith(INI_SUFFIX):
        from imserver.config.originals import read_app_ini

        original = read_app_ini(_text_of(path), path)
        values = {name: convert(ROWS[name], value, places) for name, value in original.values().items()}
    elif path is not None:
        values, original = _parse(_text_of(path), places, others)
    given = _from_environment(environ, warnings)
    line = Places("command line")
    given |= {name: convert(ROWS[name], value, line) for name, value in (overrides or {}).items()}
    for name in given:
        places.forget(name)
    values |= given
    for name in others:
        if name not in (values.get("features") or ()):
            where, _, _ = places.of(name).rpartition(":")
            raise _unknown(name, where)
    config = _build(values, tuple(warnings), others)
    check_config(config, places)
    if weak := short_sign_key(config):
        weak = f"{places.of('jwt.sign_key')}: {weak}"
        config = msgspec.structs.replace(config, warnings=(*config.warnings, weak))
    if original is not None:
        warned = (*config.warnings, *original.warnings(config))
        config = msgspec.structs.replace(config, warnings=warned)
    return config, places


def settings_file(environ: Mapping[str, str]) -> str | None:
    """The settings file if the command line names none: that of IMSERVER_CONFIG, else :data:`DEFAULT_FILE` if
    the current directory has it, else None."""
    return environ.get(ENVIRONMENT_FILE) or (DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else None)


def dump_config(config: Config) -> str:
    """Format the settings as YAML for :func:`load_config`. Keys and passwords are hidden."""
    document = msgspec.to_builtins(config, builtin_types=())
    del document["warnings"]
    document |= _without_secrets(document.pop("of_features"))
    _hide(_secrets(document))
    from imserver.config import yaml

    return hide_secrets(yaml.write(document))


def _without_secrets(value: Any) -> Any:
    """The settings of features from other distributions: whatever its name calls a secret is hidden."""
    if not isinstance(value, dict):
        return value
    return {
        name: HIDDEN if each and _SECRET.search(str(name)) else _without_secrets(each)
        for name, each in value.items()
    }


def has_secrets(config: Config) -> bool:
    """Whether the settings themselves have a secret; the files that they name do not count."""
    document = msgspec.to_builtins(config, builtin_types=())
    urls = config.storage.url + config.redis.url
    return "@" in urls or any(mapping[name] for mapping, name in _secrets(document))


def dump_app(settings: TenantSettings) -> str:
    """Format the settings of an app as YAML. Keys and secrets are hidden."""
    plain = msgspec.to_builtins(settings, builtin_types=())
    document = {name: plain[name] for name in TenantSettings.__struct_fields__}
    _hide(_secrets_of(document))
    from imserver.config import yaml

    return hide_secrets(yaml.write(document))


def _secrets(document: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The places of secrets in all settings: mapping and key."""
    return [
        *((row, "key") for row in document["api"]["keys"]),
        (document["jwt"], "sign_key"),
        (document["uploads"], "s3_secret_key"),
        (document["redis"], "password"),
        (document["smtp"], "password"),
        *(place for app in document["apps"].values() for place in _secrets_of(app)),
    ]


def _secrets_of(app: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The places of secrets in the settings of an app: mapping and key."""
    return [
        *((row, "key") for row in app["jwt"]),
        *((row, "client_secret") for row in app["oauth"].values()),
        (app["webhook"], "secret"),
        (app["pusher"], "secret"),
    ]


def _hide(places: list[tuple[dict[str, Any], str]]) -> None:
    for mapping, name in places:
        if mapping[name]:
            mapping[name] = HIDDEN


def read_value(text: str, where: str) -> Any:
    """Parse a value as in the configuration file. Raises ConfigError."""
    from imserver.config import yaml

    return yaml.read(text, where)


# --- file ---------------------------------------------------------------------------------------------------


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def _is_mapping(value: Any) -> bool:
    """Whether a value is a :class:`imserver.config.yaml.Mapping`, which has the lines of its keys."""
    return isinstance(value, dict)


def _parse(text: str, places: Places, others: dict[str, Any]) -> tuple[dict[str, Any], GochatYaml | None]:
    """The settings of a file, and its content in the form of another server. ``others``: gets the sections
    that the core does not know."""
    path = places.source
    document: Any = read_value(text, path)
    if document is None:
        return {}, None
    if not _is_mapping(document):
        raise ConfigError(f"{path}: expected sections (app:, server:, …), got {type(document).__name__}")
    from imserver.config.originals import take_gochat

    original = take_gochat(document, path)
    values = _read_document(document, places, others)
    if original is not None:
        made = {name: convert(ROWS[name], value, places) for name, value in original.values.items()}
        values = made | values
    return values, original


def _read_document(document: Any, places: Places, others: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for written, content in document.items():
        where = f"{places.source}, line {document.lines[written]}"
        section = SECTIONS.get(fold(written))
        if section is None:
            places.note(str(written), document, written)
            others[str(written)] = content
            continue
        if section in ROWS:
            places.note(section, document, written)
            _set(values, ROWS[section], content, places)
        elif _is_mapping(content):
            _read_section(values, str(written), content, places)
        elif content is not None:
            raise ConfigError(f"{where}: {section}: expected settings, got {type(content).__name__}")
    return values


def _read_section(values: dict[str, Any], written: str, content: Any, places: Places) -> None:
    for key, value in content.items():
        row = BY_FOLDED.get(fold(f"{written}.{key}"))
        if row is None:
            raise _unknown(f"{written}.{key}", f"{places.source}, line {content.lines[key]}")
        places.note(row.name, content, key)
        _set(values, row, value, places)


def _unknown(written: Hashable, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: unknown key {str(written)!r}; the nearest known key is {nearest(written)!r}"
    )


def _set(values: dict[str, Any], row: Row, value: Any, places: Places) -> None:
    if row.name in values:
        raise ConfigError(f"{places.of(row.name)} is given twice, in two spellings")
    values[row.name] = convert(row, value, places)


# --- environment --------------------------------------------------------------------------------------------


def _from_environment(environ: Mapping[str, str], warnings: list[str]) -> dict[str, Any]:
    by_variable = {folded.replace(".", ""): row for folded, row in BY_FOLDED.items()}
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in (ENVIRONMENT_FILE, ENVIRONMENT_KEY):
            continue
        row = by_variable.get(fold(variable.removeprefix(ENVIRONMENT_PREFIX)))
        if row is None:
            warnings.append(f"environment: {variable} is not a setting and has no effect")
        else:
            _set(values, row, _from_text(row, environ[variable], variable), Places(variable))
    return values


def _from_text(row: Row, text: str, variable: str) -> Any:
    """Convert a variable's text to its setting's type. Lists and mappings are YAML."""
    kind = row.type.type if isinstance(row.type, inspect.Metadata) else row.type
    if isinstance(kind, inspect.StrType | inspect.LiteralType):
        return text
    if isinstance(kind, inspect.UnionType):  # an optional type; None is the empty text
        if not text.strip():
            return None
        kind = next(each for each in kind.types if not isinstance(each, inspect.NoneType))
    if isinstance(kind, inspect.VarTupleType | inspect.DictType):
        return read_value(text, variable)
    if text.strip() == AUTO:
        return AUTO  # the setting decides whether it has this value
    wanted: type = {inspect.IntType: int, inspect.FloatType: float, inspect.BoolType: bool}[type(kind)]
    try:
        return msgspec.convert(text.strip(), wanted, strict=False)
    except msgspec.ValidationError:
        raise ConfigError(f"{variable}: {row.name}: expected {wanted.__name__}, got {text!r}") from None


# --- complete settings --------------------------------------------------------------------------------------


def _build(values: Mapping[str, Any], warnings: tuple[str, ...], others: dict[str, Any]) -> Config:
    parts: dict[str, Any] = {"warnings": warnings, "of_features": others}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key:
            sections.setdefault(section, {})[key] = value
        else:
            parts[section] = value
    defaults = Config()
    for section, given in sections.items():
        parts[section] = msgspec.structs.replace(getattr(defaults, section), **given)
    return Config(**parts)
