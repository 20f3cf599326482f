"""Reads the settings: command line over environment over the given file over the defaults.

Keys are compared without underscores, dashes and letter case, so the original server's ``httpPort`` or
``minIDleConns`` are accepted as they are.
"""

import difflib
import ipaddress
import os
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import yaml
from msgspec import inspect

from imserver.errors import StartError
from imserver.settings import Config

__all__ = ["Config", "ConfigError", "load", "rows"]

ENVIRONMENT_PREFIX: Final = "IMSERVER_"
#: names the configuration file where there is no command line (under gunicorn)
ENVIRONMENT_FILE: Final = "IMSERVER_CONFIG"

_RESERVED_PATHS: Final = ("/acc", "/ws", "/health", "/ready")


class ConfigError(StartError):
    """A setting is unknown, of a wrong type or out of range. The text is one line that names where."""


class Row(NamedTuple):
    """One setting: its canonical name (``section.key``), and its type as msgspec describes it."""

    name: str
    type: inspect.Type


def _fold(name: object) -> str:
    return str(name).replace("_", "").replace("-", "").lower()


def _declared_rows() -> Iterator[Row]:
    described = inspect.type_info(Config)
    assert isinstance(described, inspect.StructType)
    for section in described.fields:
        if isinstance(section.type, inspect.StructType):
            for field in section.type.fields:
                yield Row(f"{section.name}.{field.name}", field.type)
        elif section.name != "warnings":
            yield Row(section.name, section.type)


_ROWS: Final = {row.name: row for row in _declared_rows()}
_BY_FOLDED: Final = {_fold(name): row for name, row in _ROWS.items()}
_SECTIONS: Final = {_fold(name.partition(".")[0]): name.partition(".")[0] for name in _ROWS}


def rows() -> tuple[Row, ...]:
    """Every setting, in the order of the manual."""
    return tuple(_ROWS.values())


def load(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Read and check all settings.

    ``path`` is a YAML file (none: the file that IMSERVER_CONFIG names, if any), ``environ`` the environment
    (none: the process's), ``overrides`` the command line as ``{"app.http_port": 8080}``.
    Raises :class:`ConfigError` with one clear line.
    """
    environ = os.environ if environ is None else environ
    path = path or environ.get(ENVIRONMENT_FILE) or None
    values: dict[str, Any] = {}
    warnings: list[str] = []
    if path is not None:
        values.update(_from_file(path))
    values.update(_from_environment(environ, warnings))
    for name, value in (overrides or {}).items():
        values[name] = _convert(_ROWS[name], value, "command line")
    config = _build(values, tuple(warnings))
    _check(config, path or "configuration")
    return config


# --- the file -----------------------------------------------------------------------------------------------


class _Mapping(dict[Hashable, Any]):
    """A YAML mapping that remembers the line of each key, for messages."""

    lines: dict[Hashable, int]


class _Loader(yaml.SafeLoader):
    """YAML's safe types; a key given twice is an error instead of a silent choice."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> _Mapping:
    loader.flatten_mapping(node)
    mapping = _Mapping()
    mapping.lines = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise ConfigError(f"line {line}: a key must be a plain word")
        if key in mapping:
            raise ConfigError(f"line {line}: the key {key!r} was already given in line {mapping.lines[key]}")
        mapping[key] = loader.construct_object(value_node, deep=True)
        mapping.lines[key] = line
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from None
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{where}, {error}") from None


def _from_file(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    document = _read_yaml(text, path)
    if document is None:
        return {}
    if not isinstance(document, _Mapping):
        raise ConfigError(f"{path}: must hold sections (app:, server:, …), not a {type(document).__name__}")
    values: dict[str, Any] = {}
    for written, content in document.items():
        _from_section(values, document, written, content, path)
    return values


def _from_section(
    values: dict[str, Any], document: _Mapping, written: Hashable, content: Any, path: str
) -> None:
    where = f"{path}, line {document.lines[written]}"
    section = _SECTIONS.get(_fold(written))
    if section is None:
        raise ConfigError(
            f"{where}: unknown key {str(written)!r}; the nearest known key is {_nearest(written)!r}"
        )
    if section in _ROWS:
        _set(values, _ROWS[section], content, where)
    elif content is None:
        return
    elif not isinstance(content, _Mapping):
        raise ConfigError(f"{where}: {section}: expected a mapping of settings, got {type(content).__name__}")
    else:
        for key, value in content.items():
            where = f"{path}, line {content.lines[key]}"
            name = f"{written}.{key}"
            row = _BY_FOLDED.get(_fold(name))
            if row is None:
                raise ConfigError(
                    f"{where}: unknown key {name!r}; the nearest known key is {_nearest(name)!r}"
                )
            _set(values, row, value, where)


def _set(values: dict[str, Any], row: Row, value: Any, where: str) -> None:
    if row.name in values:
        raise ConfigError(f"{where}: {row.name} is given twice, in two spellings")
    values[row.name] = _convert(row, value, where)


def _nearest(written: object) -> str:
    """The known key that looks most like what was written."""
    folded = _fold(written)
    names = {_fold(name): name for name in (*_ROWS, *_SECTIONS.values())}
    if "." not in folded:
        names = {**names, **{key.partition(".")[2]: name for key, name in names.items() if "." in key}}
    return max(names.items(), key=lambda item: difflib.SequenceMatcher(None, folded, item[0]).ratio())[1]


# --- the environment ----------------------------------------------------------------------------------------


def _from_environment(environ: Mapping[str, str], warnings: list[str]) -> dict[str, Any]:
    by_variable = {folded.replace(".", ""): row for folded, row in _BY_FOLDED.items()}
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == ENVIRONMENT_FILE:
            continue
        row = by_variable.get(_fold(variable.removeprefix(ENVIRONMENT_PREFIX)))
        if row is None:
            warnings.append(f"environment: {variable} is no setting and has no effect")
        else:
            _set(values, row, _from_text(row, environ[variable], variable), variable)
    return values


def _from_text(row: Row, text: str, variable: str) -> Any:
    """A variable's text as its setting's type: text as it is, lists and mappings as YAML."""
    kind = row.type
    if isinstance(kind, inspect.StrType | inspect.LiteralType):
        return text
    if isinstance(kind, inspect.VarTupleType | inspect.DictType):
        return _read_yaml(text, variable)
    wanted: type = {inspect.IntType: int, inspect.FloatType: float, inspect.BoolType: bool}[type(kind)]
    try:
        return msgspec.convert(text.strip(), wanted, strict=False)
    except msgspec.ValidationError:
        raise ConfigError(f"{variable}: {row.name}: expected {wanted.__name__}, got {text!r}") from None


# --- values -------------------------------------------------------------------------------------------------


def _convert(row: Row, value: Any, where: str) -> Any:
    """The value as its setting's type, or a ConfigError that names ``where`` and the setting."""
    shaped = _shape(row.type, value, row.name, where)
    section, _, key = row.name.partition(".")
    try:
        partial = msgspec.convert({section: {key: shaped} if key else shaped}, Config)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).replace("`", "").partition(" - at $.")
        raise ConfigError(f"{where}: {path or row.name}: {_explain(value, problem)}") from None
    return getattr(getattr(partial, section), key) if key else getattr(partial, section)


def _explain(value: Any, problem: str) -> str:
    if isinstance(value, str | int | float):
        problem = f"{problem.partition(', got')[0]}, got {value!r}"
    return problem[:1].lower() + problem[1:]


def _shape(kind: inspect.Type, value: Any, name: str, where: str) -> Any:
    """Bring keys to their canonical spelling and numbers that name apps to text."""
    if isinstance(kind, inspect.LiteralType) and value not in kind.values:
        choices = ", ".join(str(choice) or "(empty)" for choice in kind.values)
        raise ConfigError(f"{where}: {name}: expected one of {choices}; got {value!r}")
    if isinstance(kind, inspect.Metadata):
        names_an_app = bool(kind.extra and kind.extra.get("number"))
        if names_an_app and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return _shape(kind.type, value, name, where)
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        return [_shape(kind.item_type, item, f"{name}[{i}]", where) for i, item in enumerate(value)]
    if isinstance(kind, inspect.DictType) and isinstance(value, dict):
        return {
            _shape(kind.key_type, key, name, where): _shape(kind.value_type, item, f"{name}.{key}", where)
            for key, item in value.items()
        }
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        return _shape_struct(kind, value, name, where)
    return value


def _shape_struct(kind: inspect.StructType, value: dict[Any, Any], name: str, where: str) -> dict[str, Any]:
    fields = {_fold(field.name): field for field in kind.fields}
    shaped: dict[str, Any] = {}
    for key, item in value.items():
        field = fields.get(_fold(key))
        if field is None:
            known = difflib.get_close_matches(_fold(key), fields, n=1, cutoff=0)[0]
            nearest = fields[known].name
            raise ConfigError(
                f"{where}: unknown key '{name}.{key}'; the nearest known key is '{name}.{nearest}'"
            )
        if field.name in shaped:
            raise ConfigError(f"{where}: {name}.{field.name} is given twice, in two spellings")
        shaped[field.name] = _shape(field.type, item, f"{name}.{field.name}", where)
    return shaped


def _build(values: Mapping[str, Any], warnings: tuple[str, ...]) -> Config:
    sections: dict[str, Any] = {"warnings": warnings}
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key:
            by_section.setdefault(section, {})[key] = value
        else:
            sections[section] = value
    defaults = Config()
    for section, given in by_section.items():
        sections[section] = msgspec.structs.replace(getattr(defaults, section), **given)
    return Config(**sections)


def _check(config: Config, where: str) -> None:
    """What no single setting's type can say."""
    app, echo_path = config.app, config.debug.echo_path
    if app.http_port and app.http_port == app.websocket_port:
        raise ConfigError(f"{where}: app.http_port and app.websocket_port are both {app.http_port}")
    if echo_path and (not echo_path.startswith("/") or echo_path in _RESERVED_PATHS):
        raise ConfigError(f"{where}: debug.echo_path: expected a free path such as /echo, got {echo_path!r}")
    for network in config.server.trusted_proxies:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise ConfigError(
                f"{where}: server.trusted_proxies: expected networks such as 10.0.0.0/8, got {network!r}"
            ) from None
    keys = [key.key for key in config.api.keys]
    if len(set(keys)) != len(keys):
        raise ConfigError(f"{where}: api.keys: one key is given twice")
