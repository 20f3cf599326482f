"""From what was written to a setting's own type, with errors that name place, setting and remedy."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from imserver.config.settings import Config
from imserver.errors import StartError

T = TypeVar("T", bound=msgspec.Struct)


class ConfigError(StartError):
    """A setting is unknown, of a wrong type or out of range. The text is one line that names where."""


class Row(NamedTuple):
    """One setting: its canonical name (``section.key``) and its type as msgspec describes it."""

    name: str
    type: inspect.Type


def fold(name: object) -> str:
    """The form in which names are compared: no underscores, no dashes, lower case."""
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


#: canonical name -> setting, in the order of the manual
ROWS: Final[dict[str, Row]] = {row.name: row for row in _declared_rows()}
#: folded ``section.key`` -> setting
BY_FOLDED: Final[dict[str, Row]] = {fold(name): row for name, row in ROWS.items()}
#: folded name of a section -> its name
SECTIONS: Final[dict[str, str]] = {fold(name.partition(".")[0]): name.partition(".")[0] for name in ROWS}


def nearest(written: object) -> str:
    """The known section or setting whose name looks most like what was written."""
    folded = fold(written)
    names = {fold(name): name for name in (*ROWS, *SECTIONS.values())}
    if "." not in folded:
        names |= {key.partition(".")[2]: name for key, name in names.items() if "." in key}
    return names[_closest(folded, names)]


def _closest(folded: str, known: dict[str, Any]) -> str:
    import difflib  # for messages only

    return max(known, key=lambda name: difflib.SequenceMatcher(None, folded, name).ratio())


def convert(row: Row, value: Any, where: str) -> Any:
    """The value as its setting's type. Raises ConfigError, which names ``where`` and the setting."""
    shaped = _shape(row.type, value, row.name, where)
    section, _, key = row.name.partition(".")
    try:
        config = msgspec.convert({section: {key: shaped} if key else shaped}, Config)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).replace("`", "").partition(" - at $.")
        if isinstance(value, str | int | float):
            problem = f"{problem.partition(', got')[0]}, got {value!r}"
        raise ConfigError(f"{where}: {path or row.name}: {problem[:1].lower()}{problem[1:]}") from None
    return getattr(getattr(config, section), key) if key else getattr(config, section)


def _shape(kind: inspect.Type, value: Any, name: str, where: str) -> Any:
    """Bring keys to their canonical spelling, and numbers that name apps to text."""
    if isinstance(kind, inspect.Metadata):
        if kind.extra and kind.extra.get("number") and type(value) is int:
            return str(value)
        return _shape(kind.type, value, name, where)
    if isinstance(kind, inspect.LiteralType) and value not in kind.values:
        choices = ", ".join(str(choice) or "(empty)" for choice in kind.values)
        raise ConfigError(f"{where}: {name}: expected one of {choices}; got {value!r}")
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
    fields = {fold(field.name): field for field in kind.fields}
    shaped: dict[str, Any] = {}
    above = f"{name}." if name else ""
    for key, item in value.items():
        field = fields.get(fold(key))
        if field is None:
            closest = fields[_closest(fold(key), fields)].name
            raise ConfigError(
                f"{where}: unknown key '{above}{key}'; the nearest known key is '{above}{closest}'"
            )
        if field.name in shaped:
            raise ConfigError(f"{where}: {above}{field.name} is given twice, in two spellings")
        shaped[field.name] = _shape(field.type, item, f"{above}{field.name}", where)
    return shaped


def given_fields(kind: type[T], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a settings struct that were given: under their own names, checked, as plain values.

    Raises ConfigError, which names ``where`` and the field.
    """
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    shaped = _shape_struct(described, dict(given), "", where)
    try:
        settings = msgspec.convert(shaped, kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).replace("`", "").partition(" - at $.")
        raise ConfigError(f"{where}: {path}: {problem[:1].lower()}{problem[1:]}") from None
    plain = msgspec.to_builtins(settings)
    return {name: plain[name] for name in shaped}
